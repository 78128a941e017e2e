package transform

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/setting"
	"sluice/wire"
)

// CookieConfig is what becomes of the cookies of a request, in the order keep,
// remove, rename, set. Names are compared as they are: case counts.
type CookieConfig struct {
	Keep   []string          `yaml:"keep" one:"true" doc:"The only cookies that stay. None: all."`
	Remove []string          `yaml:"remove" one:"true" doc:"Cookies that are left out."`
	Rename map[string]string `yaml:"rename" doc:"New names of cookies."`
	Set    map[string]string `yaml:"set" doc:"Values of cookies, which take the place of those that were sent. {words} of the request may be in them."`
}

// Validate reports what the tags cannot say.
func (c *CookieConfig) Validate(p *setting.Problems) {
	validatePairs(p, c.Keep, c.Remove, c.Rename, c.Set, isCookie, "the name of a cookie")
}

func isCookie(name string) bool { return wire.IsToken([]byte(name)) }

// Cookies is a CookieConfig made ready. It never changes and may be used by any
// number of goroutines.
type Cookies struct {
	keep, remove []string
	rename       []pair
	set          []pair
}

// NewCookies compiles c. It fails with the first of what Validate finds.
func NewCookies(c *CookieConfig) (*Cookies, error) {
	if err := firstProblem(c.Validate); err != nil {
		return nil, fmt.Errorf("cookies: %w", err)
	}
	return &Cookies{
		keep: slices.Clone(c.Keep), remove: slices.Clone(c.Remove),
		rename: sortedPairs(c.Rename, func(p *pair) { p.ready = []byte(p.text) }),
		set:    sortedPairs(c.Set, func(p *pair) { p.ready = []byte(p.name + "=") }),
	}, nil
}

// None tells whether there is nothing to do.
func (c *Cookies) None() bool { return len(c.keep)+len(c.remove)+len(c.rename)+len(c.set) == 0 }

// Append appends the value of a request's Cookie field as it is to be sent, or
// nothing where no cookie is left. Several fields are to be joined with "; " before.
// value appends what a template comes to; what a cookie cannot have is
// percent-encoded. What stays keeps its order and its bytes. It allocates only when
// dst is too small.
func (c *Cookies) Append(dst, cookies []byte, value func(template string, dst []byte) []byte) []byte {
	start := len(dst)
	var done uint64
	next := func() []byte {
		if len(dst) > start {
			return append(dst, "; "...)
		}
		return dst
	}
	set := func(p *pair) {
		dst = append(next(), p.ready...)
		mark := len(dst)
		dst = escapeTail(value(p.text, dst), mark, isCookieOctet)
	}
	for len(cookies) > 0 {
		one := cookies
		if i := bytes.IndexByte(cookies, ';'); i >= 0 {
			one, cookies = cookies[:i], cookies[i+1:]
		} else {
			cookies = nil
		}
		if one = wire.TrimOWS(one); len(one) == 0 {
			continue
		}
		name, rest := one, []byte(nil)
		if i := bytes.IndexByte(one, '='); i >= 0 {
			name, rest = wire.TrimOWS(one[:i]), one[i:]
		}
		if len(c.keep) > 0 && !holds(c.keep, name) || holds(c.remove, name) {
			continue
		}
		renamed := find(c.rename, name)
		if renamed >= 0 {
			name = c.rename[renamed].ready
		}
		if i := find(c.set, name); i >= 0 {
			if done&(1<<i) == 0 {
				done |= 1 << i
				set(&c.set[i])
			}
			continue
		}
		if dst = next(); renamed >= 0 {
			dst = append(append(dst, name...), rest...)
		} else {
			dst = append(dst, one...)
		}
	}
	for i := range c.set {
		if done&(1<<i) == 0 {
			set(&c.set[i])
		}
	}
	return dst
}

// isCookieOctet tells what may stand in a cookie's value (RFC 6265 4.1.1).
func isCookieOctet(c byte) bool {
	return c > ' ' && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\'
}

// SetCookieConfig is what becomes of the cookies that an answer sets, in the order
// keep, remove, rename, attributes. Attributes that are not named here stay.
type SetCookieConfig struct {
	Keep     []string          `yaml:"keep" one:"true" doc:"The only cookies that stay. None: all."`
	Remove   []string          `yaml:"remove" one:"true" doc:"Cookies that are left out."`
	Rename   map[string]string `yaml:"rename" doc:"New names of cookies."`
	Only     []string          `yaml:"only" one:"true" doc:"The cookies, by the names that they have then, whose attributes are changed. None: all."`
	Secure   string            `yaml:"secure" default:"keep" enum:"keep,on,off" doc:"Sent over TLS alone."`
	HTTPOnly string            `yaml:"http_only" default:"keep" enum:"keep,on,off" doc:"Hidden from scripts."`
	SameSite string            `yaml:"same_site" default:"keep" enum:"keep,strict,lax,none" doc:"Which requests from other sites carry it. none needs secure: on."`
	Domain   string            `yaml:"domain" doc:"Its domain; none for the answering host alone. Empty: as it is."`
	Path     string            `yaml:"path" doc:"Its path; none for that of the request. Empty: as it is."`
	MaxAge   *setting.Duration `yaml:"max_age" max:"9600h" doc:"How long it lasts, in place of Max-Age and Expires; 0 for the session of the browser. A cookie that is being deleted stays deleted."`
}

// Validate reports what the tags cannot say.
func (c *SetCookieConfig) Validate(p *setting.Problems) {
	validatePairs(p, c.Keep, c.Remove, c.Rename, nil, isCookie, "the name of a cookie")
	word := func(key, value string, known ...string) {
		if value != "" && !slices.Contains(known, value) {
			p.Add(key, "expected one of %s, got %q", strings.Join(known, ", "), value)
		}
	}
	word("secure", c.Secure, "keep", "on", "off")
	word("http_only", c.HTTPOnly, "keep", "on", "off")
	word("same_site", c.SameSite, "keep", "strict", "lax", "none")
	if c.SameSite == "none" && c.Secure != "on" {
		p.Add("same_site", "expected secure: on beside none: browsers refuse such a cookie without it")
	}
	if len(c.Only) > mostEntries {
		p.Add("only", "expected at most %d entries, got %d", mostEntries, len(c.Only))
	}
	for i, name := range c.Only {
		if !isNameOf(name, isCookie) {
			p.Add(at("only", i), "expected the name of a cookie, of at most %d bytes, got %q", mostName, name)
		}
	}
	if c.Domain != "" && (len(c.Domain) > mostName || !wire.ValidHost([]byte(strings.TrimPrefix(c.Domain, "."))) || strings.Contains(c.Domain, ":")) {
		p.Add("domain", "expected a domain such as example.com, or none, got %q", c.Domain)
	}
	if c.Path != "" && c.Path != none && (c.Path[0] != '/' || len(c.Path) > mostName || strings.ContainsFunc(c.Path, func(r rune) bool { return r < ' ' || r > '~' || r == ';' })) {
		p.Add("path", "expected a path that begins with /, or none, got %q", c.Path)
	}
	if c.MaxAge != nil && (*c.MaxAge < 0 || c.MaxAge.Std()%time.Second != 0) {
		p.Add("max_age", "expected whole seconds, got %v", *c.MaxAge)
	}
}

// none takes an attribute out.
const none = "none"

// SetCookie is a SetCookieConfig made ready. It never changes and may be used by any
// number of goroutines.
type SetCookie struct {
	keep, remove, only []string
	rename             []pair
	drop               [attributes]bool
	tail               []byte // attributes that are added, but for these
	host               []byte // domain and path, which a __Host- cookie cannot have
	age                []byte
}

type attribute uint8

const (
	otherAttribute attribute = iota
	secureAttribute
	httpOnlyAttribute
	sameSiteAttribute
	domainAttribute
	pathAttribute
	maxAgeAttribute
	expiresAttribute
	attributes
)

var attributeNames = [attributes]string{"", "secure", "httponly", "samesite", "domain", "path", "max-age", "expires"}

// NewSetCookie compiles c. It fails with the first of what Validate finds.
func NewSetCookie(c *SetCookieConfig) (*SetCookie, error) {
	if err := firstProblem(c.Validate); err != nil {
		return nil, fmt.Errorf("cookies: %w", err)
	}
	s := &SetCookie{
		keep: slices.Clone(c.Keep), remove: slices.Clone(c.Remove), only: slices.Clone(c.Only),
		rename: sortedPairs(c.Rename, func(p *pair) { p.ready = []byte(p.text) }),
	}
	flag := func(a attribute, how, text string) {
		s.drop[a] = how == "off" || how == "on"
		if how == "on" {
			s.tail = append(s.tail, text...)
		}
	}
	flag(secureAttribute, c.Secure, "; Secure")
	flag(httpOnlyAttribute, c.HTTPOnly, "; HttpOnly")
	if c.SameSite != "" && c.SameSite != "keep" {
		s.drop[sameSiteAttribute] = true
		s.tail = append(s.tail, "; SameSite="+strings.ToUpper(c.SameSite[:1])+c.SameSite[1:]...)
	}
	place := func(a attribute, value, text string) {
		s.drop[a] = value != ""
		if value != "" && value != none {
			s.host = append(append(s.host, text...), value...)
		}
	}
	place(domainAttribute, c.Domain, "; Domain=")
	place(pathAttribute, c.Path, "; Path=")
	if c.MaxAge != nil {
		s.drop[maxAgeAttribute], s.drop[expiresAttribute] = true, true
		if *c.MaxAge > 0 {
			s.age = strconv.AppendInt([]byte("; Max-Age="), int64(c.MaxAge.Std()/time.Second), 10)
		}
	}
	return s, nil
}

// Append appends the value of one Set-Cookie field of an answer as it is to be sent.
// ok is false, and dst as it was, where the cookie is left out. now tells a cookie
// that is being deleted. Domain and Path of a cookie whose name begins with __Host-,
// and Secure of one that begins with __Host- or __Secure-, stay: browsers refuse
// these otherwise. It allocates only when dst is too small, and for Expires.
func (s *SetCookie) Append(dst, field []byte, now time.Time) (out []byte, ok bool) {
	first, rest := field, []byte(nil)
	if i := bytes.IndexByte(field, ';'); i >= 0 {
		first, rest = field[:i], field[i:]
	}
	first = wire.TrimOWS(first)
	name, value := first, []byte(nil)
	if i := bytes.IndexByte(first, '='); i >= 0 {
		name, value = wire.TrimOWS(first[:i]), first[i:]
	}
	if len(s.keep) > 0 && !holds(s.keep, name) || holds(s.remove, name) {
		return dst, false
	}
	if i := find(s.rename, name); i >= 0 {
		name = s.rename[i].ready
		dst = append(append(dst, name...), value...)
	} else {
		dst = append(dst, first...)
	}
	if len(s.only) > 0 && !holds(s.only, name) {
		return append(dst, rest...), true
	}
	onHost := hasFold(name, "__host-")
	isSecure := onHost || hasFold(name, "__secure-")
	deleted := s.drop[maxAgeAttribute] && isDeleted(rest, now)
	for len(rest) > 0 {
		one := rest[1:]
		if i := bytes.IndexByte(one, ';'); i >= 0 {
			one = one[:i]
		}
		rest = rest[1+len(one):]
		a, _ := readAttribute(one)
		stays := !s.drop[a] ||
			onHost && (a == domainAttribute || a == pathAttribute) || isSecure && a == secureAttribute ||
			deleted && (a == maxAgeAttribute || a == expiresAttribute)
		if one = wire.TrimOWS(one); stays && len(one) > 0 {
			dst = append(append(dst, "; "...), one...)
		}
	}
	if !onHost {
		dst = append(dst, s.host...)
	}
	if !deleted {
		dst = append(dst, s.age...)
	}
	tail := s.tail
	if isSecure {
		tail = bytes.TrimPrefix(tail, []byte("; Secure")) // it is there already
	}
	return append(dst, tail...), true
}

func hasFold(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && bytes.EqualFold(name[:len(prefix)], []byte(prefix))
}

// readAttribute reads one attribute, whose name case does not count in.
func readAttribute(text []byte) (a attribute, value []byte) {
	name := text
	if i := bytes.IndexByte(text, '='); i >= 0 {
		name, value = text[:i], wire.TrimOWS(text[i+1:])
	}
	name = wire.TrimOWS(name)
	for a = secureAttribute; a < attributes; a++ {
		if wire.EqualFold(name, attributeNames[a]) {
			return a, value
		}
	}
	return otherAttribute, value
}

// isDeleted tells whether the attributes say that the cookie is to go: a Max-Age
// that is not positive, or without one an Expires that has passed.
func isDeleted(rest []byte, now time.Time) bool {
	expired := false
	for len(rest) > 0 {
		one := rest[1:]
		if i := bytes.IndexByte(one, ';'); i >= 0 {
			one = one[:i]
		}
		rest = rest[1+len(one):]
		switch a, value := readAttribute(one); a {
		case maxAgeAttribute:
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
				return n <= 0
			}
		case expiresAttribute:
			if t, ok := parseExpires(value); ok {
				expired = !t.After(now)
			}
		}
	}
	return expired
}

// cookieDates are the forms of Expires in use, without their day of the week.
var cookieDates = []string{"02 Jan 2006 15:04:05", "02-Jan-2006 15:04:05", "2 Jan 2006 15:04:05", "02-Jan-06 15:04:05"}

func parseExpires(value []byte) (time.Time, bool) {
	const most = 64
	text := string(value[:min(len(value), most)])
	if _, after, ok := strings.Cut(text, ", "); ok {
		text = after
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, " GMT"), " UTC")
	for _, form := range cookieDates {
		if t, err := time.Parse(form, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
