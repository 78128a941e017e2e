package cache

import (
	"strings"

	"sluice/setting"
)

// Config is the cache of a gateway: one for all routes.
type Config struct {
	Size            setting.Size `yaml:"size" default:"256MiB" min:"4MiB" max:"1TiB" doc:"Memory for stored answers, with their heads and keys."`
	MaxObject       setting.Size `yaml:"max_object" default:"1MiB" min:"1KiB" max:"1GiB" doc:"The largest body that is stored."`
	Name            string       `yaml:"name" default:"Sluice" doc:"The name of this cache in Cache-Status (RFC 9211); empty to send none."`
	Target          string       `yaml:"target" default:"Sluice" doc:"NAME of the field NAME-Cache-Control that speaks to this cache alone, before all others (RFC 9213); empty for none. It is not sent to clients."`
	File            string       `yaml:"file" doc:"Where stored answers are written when the process ends in order, and read when it starts. Empty: nowhere."`
	Shared          *FleetConfig `yaml:"shared" doc:"Purge together with other gateways, and share stored answers, over Redis. Short form: its name."`
	Tags            []string     `yaml:"tags" doc:"Answer fields that hold surrogate keys to purge by, parted by spaces or commas. None: Surrogate-Key and Cache-Tag."`
	ForwardTags     bool         `yaml:"forward_tags" default:"false" doc:"Let clients see these fields, such as a cache in front of this one."`
	CDNCacheControl bool         `yaml:"cdn_cache_control" default:"true" doc:"Heed CDN-Cache-Control in place of Cache-Control and Expires (RFC 9213)."`
}

// Shorthand reads the short form of a cache: its size.
func (c *Config) Shorthand(s string) {
	if size, err := setting.ParseSize(s); err == nil {
		c.Size = size
	} else {
		c.Size = -1
	}
}

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	if len(c.Tags) > mostParts {
		p.Add("tags", "expected at most %d names, got %d", mostParts, len(c.Tags))
	}
	for i, name := range c.Tags {
		if !isName(name) {
			p.Add(at("tags", i), "expected the name of a field, got %q", name)
		}
	}
	if c.Size < 0 {
		p.Add("size", "expected a size such as 256MiB")
	} else if c.MaxObject > c.Size/4 {
		p.Add("max_object", "expected at most a quarter of size, %v: a few answers would push all others out; got %v", c.Size/4, c.MaxObject)
	}
	if c.Target != "" && !isName(c.Target) {
		p.Add("target", "expected a name of letters, digits and hyphens, got %q", c.Target)
	}
	if strings.EqualFold(c.Target, "cdn") {
		p.Add("target", "expected a name of this cache's own: CDN is what cdn_cache_control is for")
	}
	if len(c.Name) > mostName || !isPrintable(c.Name) {
		p.Add("name", "expected at most %d printable ASCII characters, got %q", mostName, c.Name)
	}
}

// RouteConfig is what a route does with the cache.
type RouteConfig struct {
	TTL        setting.Duration `yaml:"ttl" default:"0" max:"8760h" doc:"How long answers with 200, 203, 204, 300, 301 and 308 are fresh. 0 leaves it to the origin."`
	Mode       string           `yaml:"mode" default:"override" enum:"override,fallback" doc:"When ttl and negative_ttl count: override, whatever max-age, s-maxage and Expires say; fallback, when the origin says nothing of freshness. no-store, private and no-cache hold in both."`
	Negative   setting.Duration `yaml:"negative_ttl" default:"0" max:"24h" doc:"The ttl of 404, 405, 410, 414 and 501, and of the error statuses in statuses."`
	SWR        setting.Duration `yaml:"stale_while_revalidate" default:"0" max:"8760h" doc:"How long a stale answer may be sent while it is fetched anew, where the origin does not say (RFC 5861)."`
	SIE        setting.Duration `yaml:"stale_if_error" default:"0" max:"8760h" doc:"How long a stale answer may be sent when the origin fails, where the origin does not say (RFC 5861)."`
	Wait       setting.Duration `yaml:"collapse_timeout" default:"5s" max:"10m" doc:"How long a request may wait for another that asks the origin for the same. 0: every one asks for itself."`
	Methods    []string         `yaml:"methods" doc:"Methods answered from the cache, of GET, HEAD and QUERY. None: GET and HEAD."`
	Statuses   []int            `yaml:"statuses" doc:"The only statuses that are stored. None: all that RFC 9111 allows, but 400, 401, 407, 408, 412, 413, 415, 416, 417, 421, 425, 426, 428, 429 and 431, which depend on more of a request than its key."`
	Key        KeyConfig        `yaml:"key" doc:"What tells one stored answer from another besides scheme, host and path."`
	Share      string           `yaml:"share" default:"origin" enum:"origin,identity,all" doc:"Who gets an answer to a request with credentials: origin, everybody who may pass, if the origin says public, s-maxage or must-revalidate, and else nobody; identity, the same caller only; all, everybody who may pass."`
	Bypass     []string         `yaml:"bypass" doc:"Requests that pass the cache by: header:NAME, cookie:NAME or query:NAME that is there, or with =VALUE has this value."`
	Ignore     []string         `yaml:"ignore" doc:"What is not heeded: no-store, private, no-cache, must-revalidate of answers; cookie, which keeps answers to requests with cookies from getting ttl."`
	SetCookie  string           `yaml:"set_cookie" default:"refuse" enum:"refuse,strip" doc:"Answers with Set-Cookie: refuse to store them, or strip the cookie and store the rest."`
	Heuristic  bool             `yaml:"heuristic" default:"false" doc:"Give answers without freshness a tenth of their age since Last-Modified (RFC 9111 4.2.2)."`
	MaxGuess   setting.Duration `yaml:"heuristic_max" default:"24h" min:"1s" max:"8760h" doc:"The most that heuristic gives."`
	Directives bool             `yaml:"request_directives" default:"true" doc:"Heed Cache-Control and Pragma of requests. no-store is heeded in any case."`
	Normalise  bool             `yaml:"normalise" default:"true" doc:"Take Accept-Encoding values that allow the same codings, and Accept-Language values that differ in case and white space, for the same."`
	Status     bool             `yaml:"status" default:"true" doc:"Say in Cache-Status what the cache did, and why."`
}

// KeyConfig is what a key is made of.
type KeyConfig struct {
	Query      string   `yaml:"query" default:"all" enum:"all,sorted,only,except,none" doc:"Parameters in the key: all, as they were sent; all, sorted by name; only those in parameters, sorted; all except those, sorted; none."`
	Parameters []string `yaml:"parameters" doc:"Names of parameters for query: only and except; utm_* is all that begin with utm_."`
	Unkeyed    bool     `yaml:"forward_unkeyed" default:"false" doc:"Let targets see the query as it was sent. Else they see what is keyed, so that nothing outside the key can change what is stored."`
	Headers    []string `yaml:"headers" doc:"Request headers whose values are keyed."`
	Cookies    []string `yaml:"cookies" doc:"Cookies whose values are keyed."`
	Claims     []string `yaml:"claims" doc:"Claims of the proven identity whose values are keyed."`
}

// Shorthand reads the short form of a route's cache: its ttl, or on for what
// the origin says.
func (c *RouteConfig) Shorthand(s string) {
	if s == "on" {
		return
	}
	ttl, err := setting.ParseDuration(s)
	if err != nil {
		ttl = -1
	}
	c.TTL = ttl
}

const (
	mostName       = 64 // bytes of this cache's name
	mostPart       = 128
	mostParts      = 16
	mostConditions = 32
)

var (
	bypassSources = []string{"header", "cookie", "query"}
	ignorable     = []string{"no-store", "private", "no-cache", "must-revalidate", "cookie"}
	cacheMethods  = []string{"GET", "HEAD", "QUERY"}
)

// Validate reports what the tags cannot say.
func (c *RouteConfig) Validate(p *setting.Problems) {
	if c.TTL < 0 {
		p.Add("", "expected a ttl such as 30s, or on")
	}
	unknown := func(path, word string, known []string) {
		if near := setting.Nearest(word, known); near != "" {
			p.Add(path, "expected one of %s, got %q; did you mean %s?", strings.Join(known, ", "), word, near)
		} else {
			p.Add(path, "expected one of %s, got %q", strings.Join(known, ", "), word)
		}
	}
	for i, m := range c.Methods {
		if !contains(cacheMethods, m) {
			unknown(at("methods", i), m, cacheMethods)
		}
	}
	for i, s := range c.Statuses {
		if s < 200 || s > 599 || s == 206 || s == 304 {
			p.Add(at("statuses", i), "expected a status from 200 to 599 but 206 and 304, got %d", s)
		}
	}
	for i, word := range c.Ignore {
		if !contains(ignorable, word) {
			unknown(at("ignore", i), word, ignorable)
		}
	}
	if contains(c.Ignore, "private") && c.Share == "all" {
		p.Add("ignore", "expected share: identity beside private: share: all would give one caller's answer to others")
	}
	if len(c.Bypass) > mostConditions {
		p.Add("bypass", "expected at most %d conditions, got %d", mostConditions, len(c.Bypass))
	}
	for i, s := range c.Bypass {
		if _, ok := parseCondition(s); !ok {
			source, _, _ := strings.Cut(s, ":")
			if !contains(bypassSources, source) {
				if near := setting.Nearest(source, bypassSources); near != "" {
					p.Add(at("bypass", i), "expected header:NAME, cookie:NAME or query:NAME, each with or without =VALUE, got %q; did you mean %s?", s, near)
					continue
				}
			}
			p.Add(at("bypass", i), "expected header:NAME, cookie:NAME or query:NAME, each with or without =VALUE, got %q", s)
		}
	}
	c.Key.validate(p.At("key"))
}

func (c *KeyConfig) validate(p *setting.Problems) {
	chooses := c.Query == "only" || c.Query == "except"
	switch {
	case chooses && len(c.Parameters) == 0:
		p.Add("parameters", "expected the names that query: %s is about", c.Query)
	case !chooses && len(c.Parameters) > 0:
		p.Add("parameters", "expected query: only or except beside it, got query: %s", c.Query)
	}
	if len(c.Parameters) > mostConditions {
		p.Add("parameters", "expected at most %d names, got %d", mostConditions, len(c.Parameters))
	}
	for i, name := range c.Parameters {
		if stem := strings.TrimSuffix(name, "*"); name == "" || len(name) > mostPart || strings.ContainsAny(stem, "*&=#") {
			p.Add(at("parameters", i), "expected the name of a parameter, or the start of one and *, got %q", name)
		}
	}
	if c.Unkeyed && (c.Query == "all" || c.Query == "sorted") {
		p.Add("forward_unkeyed", "expected query: only, except or none beside it: with query: %s nothing is left out of the key", c.Query)
	}
	names := func(path string, list []string, ok func(string) bool, fold bool) {
		if len(list) > mostParts {
			p.Add(path, "expected at most %d names, got %d", mostParts, len(list))
		}
		for i, name := range list {
			if !ok(name) {
				p.Add(at(path, i), "expected a name of at most %d characters, got %q", mostPart, name)
			}
			for _, other := range list[:i] {
				if name == other || fold && strings.EqualFold(name, other) {
					p.Add(at(path, i), "expected each name once, got %q again", name)
				}
			}
		}
	}
	names("headers", c.Headers, isName, true)
	names("cookies", c.Cookies, isName, false)
	names("claims", c.Claims, func(s string) bool { return s != "" && len(s) <= mostPart && isPrintable(s) }, false)
}

func parseCondition(s string) (condition, bool) {
	source, rest, found := strings.Cut(s, ":")
	name, value, valued := strings.Cut(rest, "=")
	if !found || !contains(bypassSources, source) || !isName(name) || len(value) > mostPart || !isPrintable(value) {
		return condition{}, false
	}
	return condition{source, []byte(name), []byte(value), valued}, true
}
