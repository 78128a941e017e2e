package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"sluice/aggregate"
	"sluice/setting"
)

// validate reports what the tags cannot say, and brings host names into their
// one spelling. It is called once, before anybody else sees c.
func (c *Config) validate(p *setting.Problems) {
	c.validateListen(p)
	if c.Admin.Address != "" {
		if err := checkAddress(c.Admin.Address); err != nil {
			p.Add("admin.address", err.Error()+", or nothing; got %q", c.Admin.Address)
		}
	}
	checkNetworks(p, "forwarded.trusted", c.Forwarded.Trusted)
	if !isToken(c.Forwarded.Pseudonym) {
		p.Add("forwarded.pseudonym", "expected a name of letters, digits, - and _, got %q", c.Forwarded.Pseudonym)
	}
	c.Forwarded.validateRequestID(p.At("forwarded"))
	c.Forwarded.validateBudget(p.At("forwarded"))
	c.validateAuth(p)
	c.validateLimits(p)
	if s := c.Cache.Shared; s != nil {
		c.checkRedis(p, "cache.shared.redis", s.Redis)
	}
	for _, name := range c.UpstreamNames() {
		path := "upstreams." + setting.Key(name)
		upstream := c.Upstreams[name]
		if !isName(name) {
			p.Add(path, "expected a name of up to 128 letters, digits and any of . _ - / :")
		}
		if h := upstream.Hash.Header; h != "" && !isToken(h) {
			p.Add(path+".hash.header", "expected the name of a header, got %q", h)
		}
		if h := upstream.Hash.Cookie; h != "" && !isToken(h) {
			p.Add(path+".hash.cookie", "expected the name of a cookie, got %q", h)
		}
	}
	validateMachines(p, reflect.ValueOf(c).Elem())
	c.validateRoutes(p)
}

// UpstreamNames returns the names of the upstreams in alphabetical order.
func (c *Config) UpstreamNames() []string {
	names := make([]string, 0, len(c.Upstreams))
	for name := range c.Upstreams {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// validateMachines calls the Validate method of every block that has one. One that
// has none leaves it to the blocks that it embeds; one that embeds others and has its
// own answers for them.
func validateMachines(p *setting.Problems, v reflect.Value) {
	validateOwn(p, v)
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			validateMachines(p, v.Elem())
		}
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			if !f.kind().scalar() {
				validateMachines(p.At(f.key), v.FieldByIndex(f.index))
			}
		}
	case reflect.Slice:
		if kindOf(v.Type().Elem()) == kindStruct {
			for i := range v.Len() {
				validateMachines(p.At("["+strconv.Itoa(i)+"]"), v.Index(i))
			}
		}
	case reflect.Map:
		if kindOf(v.Type().Elem()) == kindStruct {
			for _, key := range sortedKeys(v) {
				value := reflect.New(v.Type().Elem()).Elem()
				value.Set(v.MapIndex(key))
				validateMachines(p.At(setting.Key(key.String())), value)
			}
		}
	}
}

func validateOwn(p *setting.Problems, v reflect.Value) {
	if v.CanAddr() && v.Addr().Type().Implements(validator) {
		v.Addr().Interface().(interface{ Validate(*setting.Problems) }).Validate(p)
		return
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		if t := v.Type().Field(i); t.Anonymous && t.IsExported() {
			validateOwn(p, v.Field(i))
		}
	}
}

func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	return keys
}

func (c *Config) validateListen(p *setting.Problems) {
	seen := map[string]string{}
	if a := c.Admin.Address; a != "" {
		seen[canonicalAddress(a)] = "admin.address"
	}
	for i := range c.Listen {
		l := &c.Listen[i]
		path := "listen[" + strconv.Itoa(i) + "]"
		if err := checkAddress(l.Address); err != nil {
			p.Add(path+".address", err.Error()+", got %q", l.Address)
		} else if other, taken := seen[canonicalAddress(l.Address)]; taken && !strings.HasSuffix(l.Address, ":0") {
			p.Add(path+".address", "expected an address of its own, got that of %s", other)
		}
		seen[canonicalAddress(l.Address)] = path
		if l.TLS != nil {
			l.TLS.validate(p.At(path + ".tls"))
		}
		if l.ProxyProtocol != nil {
			trusted := path + ".proxy_protocol.trusted"
			if len(l.ProxyProtocol.Trusted) == 0 {
				p.Add(trusted, "expected at least one address such as 10.0.0.0/8")
			}
			checkNetworks(p, trusted, l.ProxyProtocol.Trusted)
		}
	}
}

func (t *TLS) validate(p *setting.Problems) {
	if (t.Cert == "") != (t.Key == "") {
		p.Add("", "expected cert and key together")
	}
	if t.Cert == "" && t.Key == "" && len(t.Certificates) == 0 {
		p.Add("", "expected cert and key, or certificates")
	}
	for i, c := range t.Certificates {
		if c.Cert == "" || c.Key == "" {
			p.Add("certificates["+strconv.Itoa(i)+"]", "expected cert and key together")
		}
	}
	if t.ClientAuth != "none" && t.ClientCA == "" {
		p.Add("client_auth", "expected client_ca to verify client certificates with")
	}
	if t.ClientAuth == "none" && t.ClientCA != "" {
		p.Add("client_ca", "expected client_auth to be request or require, without which it is not used")
	}
}

// checkAddress checks host:port, :port and unix:/path.
func checkAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		// 108 bytes with the final NUL is what the kernel takes.
		if !strings.HasPrefix(path, "/") || len(path) > 107 || strings.ContainsRune(path, 0) {
			return fmt.Errorf("expected unix:/path of at most 107 bytes")
		}
		return nil
	}
	want := fmt.Errorf("expected host:port, :port or unix:/path")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return want
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("expected a port from 0 to 65535 after the last colon")
	}
	if host != "" && !isIP(host) && (checkHost(host) != nil || strings.Contains(host, "*")) {
		return want
	}
	return nil
}

// canonicalAddress makes the spellings of "every address" one.
func canonicalAddress(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = ""
	}
	return net.JoinHostPort(strings.ToLower(host), port)
}

func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

func checkNetworks(p *setting.Problems, path string, networks []string) {
	for i, n := range networks {
		at := path + "[" + strconv.Itoa(i) + "]"
		prefix, err := netip.ParsePrefix(n)
		switch {
		case err != nil && !isIP(n):
			p.Add(at, "expected an address or network such as 10.1.2.3, 10.0.0.0/8 or fd00::/8, got %q", n)
		case err == nil && prefix.Masked() != prefix:
			p.Add(at, "expected a network without host bits such as %s, got %q", prefix.Masked().String(), n)
		case err != nil && strings.Contains(n, "%"):
			p.Add(at, "expected an address without a zone, got %q", n)
		}
	}
}

// isName tells whether name is fit for logs, metrics and URLs of the admin.
func isName(name string) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("._-/:", c) >= 0:
		default:
			return false
		}
	}
	return name != "" && len(name) <= 128
}

func (c *Config) validateRoutes(p *setting.Problems) {
	if len(c.Routes) == 0 {
		p.Add("routes", "expected at least one route, or --upstream URL")
	}
	seen := map[string]int{}
	for i := range c.Routes {
		r := &c.Routes[i]
		path := "routes[" + strconv.Itoa(i) + "]"
		if first, taken := seen[r.Name]; r.Name == "" {
			p.Add(path+".name", "expected a name")
		} else if taken {
			p.Add(path+".name", "expected a name of its own, got %q, which is routes[%d]", r.Name, first)
		} else if seen[r.Name] = i; !isName(r.Name) {
			p.Add(path+".name", "expected a name of up to 128 letters, digits and any of . _ - / :, got %q", r.Name)
		}
		c.validateRoute(p.At(path), r)
	}
}

func (c *Config) validateRoute(p *setting.Problems, r *Route) {
	params := r.Match.validate(p.At("match"))
	c.validateAnswer(p, r, params)
	if r.Mirror != nil {
		c.checkUpstream(p, "mirror.upstream", r.Mirror.Upstream)
	}
	if r.Rewrite != nil {
		r.Rewrite.validate(p.At("rewrite"), params)
	}
	c.validateRouteAuth(p, r)
	c.validateCache(p, r)
	c.validateLimit(p, r)
	c.validateResilience(p, r)
	r.Request.Headers.validate(p.At("request.headers"), params)
	r.Response.Headers.validate(p.At("response.headers"), params)
}

// validateCache reports what a route's cache and compress ask for and the route has
// not.
func (c *Config) validateCache(p *setting.Problems, r *Route) {
	if r.Compress != nil && !r.forwards() {
		p.Add("compress", "expected upstream, split or aggregate beside it: only what targets answer is compressed")
	}
	if r.Cache == nil {
		return
	}
	if !r.forwards() {
		p.Add("cache", "expected upstream, split or aggregate beside it: what the gateway itself answers is in memory already")
	}
	if r.Auth == nil && r.Cache.Share == "identity" {
		p.Add("cache.share", "expected auth beside identity: nobody is asked who calls")
	}
	if r.Auth == nil && len(r.Cache.Key.Claims) > 0 {
		p.Add("cache.key.claims", "expected auth beside it: nobody is asked who calls")
	}
}

// forwards tells whether targets have a part in the answer.
func (r *Route) forwards() bool { return r.Upstream != "" || r.Split != nil || r.Aggregate != nil }

// validateAggregate checks the branches, and what they refer to.
func (c *Config) validateAggregate(p *setting.Problems, r *Route, params []string) {
	if r.Aggregate == nil {
		if r.Compose != nil {
			p.Add("compose", "expected aggregate beside it")
		}
		return
	}
	if r.Compose == nil {
		r.Compose = new(aggregate.Config)
		setDefaults(reflect.ValueOf(r.Compose).Elem())
	}
	for _, name := range slices.Sorted(maps.Keys(r.Aggregate)) {
		b, at := r.Aggregate[name], p.At("aggregate."+setting.Key(name))
		if !isName(name) || strings.ContainsAny(name, ":.") {
			at.Add("", "expected a name of letters, digits and any of _ - /")
		}
		c.checkUpstream(at, "upstream", b.Upstream)
		validateTries(at, b.Retry, b.Hedge, r.Budget)
	}
	aggregate.NewPlan(r.Branches(), r.Compose, params, p.At("aggregate"), p.At("compose"))
}

// Branches are the branches of an aggregation as that sees them.
func (r *Route) Branches() map[string]aggregate.Branch {
	list := make(map[string]aggregate.Branch, len(r.Aggregate))
	for name, b := range r.Aggregate {
		list[name] = aggregate.Branch{BranchConfig: b.BranchConfig, Shape: b.ShapeConfig}
	}
	return list
}

// validateAnswer checks that the route answers in exactly one way.
func (c *Config) validateAnswer(p *setting.Problems, r *Route, params []string) {
	var ways []string
	for _, way := range []struct {
		key string
		set bool
	}{{"upstream", r.Upstream != ""}, {"split", r.Split != nil}, {"aggregate", r.Aggregate != nil}, {"redirect", r.Redirect != nil}, {"respond", r.Respond != nil}} {
		if way.set {
			ways = append(ways, way.key)
		}
	}
	switch len(ways) {
	case 0:
		p.Add("", "expected one of upstream, split, aggregate, redirect and respond")
	case 1:
	default:
		p.Add(ways[1], "expected only one of upstream, split, aggregate, redirect and respond, got %s", strings.Join(ways, " and "))
	}
	if r.Upstream != "" {
		c.checkUpstream(p, "upstream", r.Upstream)
	}
	if r.Split != nil {
		c.validateSplit(p.At("split"), r.Split)
	}
	c.validateAggregate(p, r, params)
	if r.Redirect != nil {
		r.Redirect.validate(p.At("redirect"), params)
	}
	if r.Respond != nil {
		r.Respond.validate(p.At("respond"))
	}
	if len(ways) == 1 && r.Upstream == "" && r.Split == nil {
		why := "expected none with %s, which forwards nothing"
		if r.Aggregate != nil {
			why = "expected none with %s: each branch says what it asks for"
		}
		if r.Rewrite != nil {
			p.Add("rewrite", why, ways[0])
		}
		if r.Mirror != nil {
			p.Add("mirror", why, ways[0])
		}
		if !r.Request.Headers.empty() {
			p.Add("request", why, ways[0])
		}
	}
}

func (c *Config) checkUpstream(p *setting.Problems, path, name string) {
	if _, ok := c.Upstreams[name]; ok {
		return
	}
	known := c.UpstreamNames()
	switch near := setting.Nearest(name, known); {
	case near != "":
		p.Add(path, "unknown upstream %q; did you mean %q?", name, near)
	case len(known) == 0:
		p.Add(path, "unknown upstream %q; there are none", name)
	case len(known) <= 10:
		// The names go into the format, for they are no secret when name is one.
		list := strings.ReplaceAll(strings.Join(known, ", "), "%", "%%")
		p.Add(path, "unknown upstream %q; expected one of "+list, name)
	default:
		p.Add(path, "unknown upstream %q; expected one of the %d under upstreams", name, len(known))
	}
}

func (c *Config) validateSplit(p *setting.Problems, s *Split) {
	total, seen := 0, map[string]bool{}
	for i, to := range s.To {
		path := "to[" + strconv.Itoa(i) + "].upstream"
		if c.checkUpstream(p, path, to.Upstream); seen[to.Upstream] {
			p.Add(path, "expected each upstream once, got %q again", to.Upstream)
		}
		seen[to.Upstream] = true
		total += to.Weight
	}
	switch {
	case len(s.To) == 0:
		p.Add("to", "expected at least one upstream with its weight")
	case total == 0:
		p.Add("to", "expected at least one weight above 0")
	}
	if s.Cookie != "" && s.Header != "" {
		p.Add("header", "expected either cookie or header, got both")
	}
	if s.Cookie != "" && !isToken(s.Cookie) {
		p.Add("cookie", "expected the name of a cookie, got %q", s.Cookie)
	}
	if s.Header != "" && !isToken(s.Header) {
		p.Add("header", "expected the name of a header, got %q", s.Header)
	}
}

// knownMethods are those that a lower-case spelling is mistaken for.
var knownMethods = []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}

// validate returns the parameters of the path.
func (m *Match) validate(p *setting.Problems) (params []string) {
	for i, host := range m.Host {
		if err := checkHost(host); err != nil {
			p.Add("host["+strconv.Itoa(i)+"]", err.Error()+", got %q", host)
		}
		m.Host[i] = strings.ToLower(host)
	}
	params, err := pathParams(m.Path)
	if err != nil {
		p.Add("path", "%v, got %q", err, m.Path)
	}
	for i, method := range m.Methods {
		path := "methods[" + strconv.Itoa(i) + "]"
		if upper := strings.ToUpper(method); !isToken(method) {
			p.Add(path, "expected a method such as GET, got %q", method)
		} else if upper != method && contains(knownMethods, upper) {
			p.Add(path, "expected %s (methods are case-sensitive), got %q", upper, method)
		}
	}
	checkPredicates(p, "headers", m.Headers, isToken)
	checkPredicates(p, "query", m.Query, func(name string) bool { return name != "" })
	return params
}

// checkPredicates checks names, and values of the form "text", "~regex" or "*".
func checkPredicates(p *setting.Problems, block string, predicates map[string]string, isName func(string) bool) {
	for _, name := range sortedNames(predicates) {
		path := block + "." + setting.Key(name)
		if !isName(name) {
			p.Add(path, "expected a name before the colon")
		}
		if expression, ok := strings.CutPrefix(predicates[name], "~"); ok {
			if _, err := regexp.Compile(expression); err != nil {
				p.Add(path, "expected a regular expression after ~: %v", err)
			}
		}
	}
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (r *Redirect) validate(p *setting.Problems, params []string) {
	checkTemplate(p, "to", r.To, params, true)
	// What the template leaves open is filled in, so that the rest is checked.
	filled := strings.NewReplacer("{scheme}", "https", "{", "", "}", "").Replace(r.To)
	u, err := url.Parse(filled)
	if err != nil || !strings.HasPrefix(filled, "/") && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		p.Add("to", "expected a path or an http(s) URL, got %q", r.To)
	}
}

// validate checks a fixed answer.
func (r *Respond) validate(p *setting.Problems) {
	if r.Body != "" && (r.Status == 204 || r.Status == 205 || r.Status == 304) {
		p.Add("body", "expected none with status %d", r.Status)
	}
	if !isFieldValue(r.Type) {
		p.Add("type", "expected a media type such as application/json, got %q", r.Type)
	}
	for _, name := range sortedNames(r.Headers) {
		path := "headers." + setting.Key(name)
		checkHeaderName(p, path, name)
		if !isFieldValue(r.Headers[name]) {
			p.Add(path, "expected one line without control bytes and outer blanks")
		}
		if r.Type != "" && strings.EqualFold(name, "Content-Type") {
			p.Add(path, "expected it only once, got type too")
		}
	}
}

func (r *Rewrite) validate(p *setting.Problems, params []string) {
	if *r == (Rewrite{}) {
		p.Add("", "expected at least one of path, strip_prefix, add_prefix and host")
	}
	if r.Path != "" {
		if r.StripPrefix != "" || r.AddPrefix != "" {
			p.Add("path", "expected either path, or strip_prefix and add_prefix, got both")
		}
		checkPathText(p, "path", r.Path, "expected a path that begins with /")
		checkTemplate(p, "path", r.Path, params, true)
	}
	for _, prefix := range []struct{ key, text string }{{"strip_prefix", r.StripPrefix}, {"add_prefix", r.AddPrefix}} {
		if prefix.text == "" {
			continue
		}
		checkPathText(p, prefix.key, prefix.text, "expected a prefix that begins with /")
		if strings.ContainsAny(prefix.text, "?#{}*") {
			p.Add(prefix.key, "expected plain text without ? # { } and *, got %q", prefix.text)
		}
	}
	if r.Host != "" {
		checkTemplate(p, "host", r.Host, params, true)
		if strings.ContainsAny(r.Host, " \t/?#@") {
			p.Add("host", "expected a host name, got %q", r.Host)
		}
	}
}

func checkPathText(p *setting.Problems, path, text, want string) {
	if !strings.HasPrefix(text, "/") || strings.ContainsFunc(text, isBlank) {
		p.Add(path, want+" and holds no blanks, got %q", text)
	}
}

func (h *HeaderOps) empty() bool { return len(h.Set)+len(h.Add)+len(h.Remove) == 0 }

func (h *HeaderOps) validate(p *setting.Problems, params []string) {
	for _, edit := range []struct {
		key   string
		lines map[string]string
	}{{"set", h.Set}, {"add", h.Add}} {
		for _, name := range sortedNames(edit.lines) {
			path := edit.key + "." + setting.Key(name)
			checkHeaderName(p, path, name)
			if value := edit.lines[name]; !isFieldValue(value) {
				p.Add(path, "expected one line without control bytes and outer blanks")
			} else {
				checkTemplate(p, path, value, params, false)
			}
		}
	}
	for i, name := range h.Remove {
		checkHeaderName(p, "remove["+strconv.Itoa(i)+"]", name)
	}
}

// framing are the lines that say where a message ends and what a connection
// does. They are the gateway's own; an edit could smuggle requests.
var framing = []string{"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

func checkHeaderName(p *setting.Problems, path, name string) {
	switch lower := strings.ToLower(name); {
	case !isToken(name):
		p.Add(path, "expected the name of a header, got %q", name)
	case contains(framing, lower):
		p.Add(path, "expected no header that belongs to the connection, got %q", name)
	case lower == "host":
		p.Add(path, "expected rewrite.host or the upstream's host for the Host header")
	}
}
