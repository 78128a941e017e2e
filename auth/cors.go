package auth

import (
	"bytes"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/setting"
	"sluice/wire"
)

// CORS is a route's policy for pages of other origins, as the Fetch standard
// (fetch.spec.whatwg.org, "CORS protocol") has it. All that does not depend on
// the request is written when the policy is made: a preflight and the lines of
// an answer are a look-up and a copy, without an allocation (a regular expression
// for origins may make some). It never changes and may be used by many goroutines.
//
// It decides nothing about who may call: that a browser shows a page an answer is
// no permission, and a client that is no browser does not ask. A preflight is
// answered before authentication, for browsers send it without credentials.
type CORS struct {
	anyone  bool // the origin *, one answer for all
	origins map[string]struct{}
	hosts   []originPattern
	regexps []*regexp.Regexp

	credentials, private, block bool
	anyMethod                   bool
	methods                     [][]byte
	anyHeader                   bool
	headers                     map[string]struct{} // in lower case

	// Whole lines, or nil.
	allowMethods, allowHeaders, maxAge, answer []byte
}

// CORSConfig is the written form of CORS. Its short form is one origin.
type CORSConfig struct {
	Origins        []string         `yaml:"origins" one:"true" doc:"Origins whose pages may read answers: https://app.example.com, https://*.example.com for every name below it, http://localhost:* for every port, a regular expression after ~ that the whole origin must match, null, or * alone for all."`
	Methods        []string         `yaml:"methods" one:"true" doc:"Methods that pages may use beside GET, HEAD and POST, or *."`
	Headers        []string         `yaml:"headers" one:"true" doc:"Request headers that pages may set beside the harmless ones, or *; Authorization must be named even beside *."`
	Expose         []string         `yaml:"expose" one:"true" doc:"Response headers that scripts may read beside the harmless ones, or *."`
	Credentials    bool             `yaml:"credentials" default:"false" doc:"Pages may send cookies, client certificates and stored passwords, and read the answers."`
	MaxAge         setting.Duration `yaml:"max_age" default:"10m" max:"24h" doc:"How long a browser may remember a preflight; browsers have bounds of their own, Chromium 2h. 0 asks each time."`
	PrivateNetwork bool             `yaml:"private_network" default:"false" doc:"Pages from the public network may call this route on a private one."`
	Block          bool             `yaml:"block" default:"false" doc:"Answer 403 to requests from pages of other origins that may change something (all but GET, HEAD and OPTIONS) or open a WebSocket, instead of forwarding them and leaving it to the browser to hide the answer."`
}

// Shorthand reads the short form: an origin.
func (c *CORSConfig) Shorthand(s string) { c.Origins = []string{s} }

const (
	longestOrigin = 512 // bytes; longer ones are nobody's
	longestHeader = 128 // bytes of a name in Access-Control-Request-Headers
	mostHeaders   = 128 // names in it
	mostAge       = 24 * time.Hour
)

// originPattern is an origin with a host that ends in suffix, or with any port.
type originPattern struct {
	scheme  string // with "://"
	host    string // with a "." in front, when below
	below   bool   // any name below host, else host itself
	port    string // with ":" in front; "" for none
	anyPort bool
}

// NewCORS makes the policy of c. Its error holds every mistake.
func NewCORS(c *CORSConfig) (*CORS, error) {
	var p setting.Problems
	policy := c.compile(&p)
	var list []error
	for _, problem := range p.List() {
		list = append(list, errors.New(strings.TrimPrefix(problem.Path+": "+problem.Expected, ": ")))
	}
	if len(list) > 0 {
		return nil, errors.Join(list...)
	}
	return policy, nil
}

// Validate reports what the tags cannot say.
func (c *CORSConfig) Validate(p *setting.Problems) { c.compile(p) }

func (c *CORSConfig) compile(p *setting.Problems) *CORS {
	o := &CORS{origins: map[string]struct{}{}, headers: map[string]struct{}{}, credentials: c.Credentials, private: c.PrivateNetwork, block: c.Block}
	if len(c.Origins) == 0 {
		p.Add("origins", "expected at least one origin, such as https://app.example.com")
	}
	for i, s := range c.Origins {
		o.addOrigin(s, p.At(entry("origins", i)), len(c.Origins))
	}
	if c.Block && o.anyone {
		p.Add("block", "expected origins other than *: with it there is nothing to block")
	}

	var methods []string
	for i, m := range c.Methods {
		switch at := entry("methods", i); {
		case m == "*":
			o.anyMethod = true
		case !isToken(m):
			p.Add(at, "expected a method, got %q", m)
		case slices.Contains([]string{"CONNECT", "TRACE", "TRACK"}, strings.ToUpper(m)):
			p.Add(at, "expected a method that browsers send, got %q", m)
		case m != strings.ToUpper(m) && slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}, strings.ToUpper(m)):
			p.Add(at, "expected %s: methods are in capitals, got %q", strings.ToUpper(m), m)
		default:
			methods = append(methods, m)
		}
	}
	for _, m := range append([]string{"GET", "HEAD", "POST"}, methods...) {
		o.methods = append(o.methods, []byte(m))
	}
	// GET, HEAD and POST need not be told: Fetch lets them pass.
	switch {
	case o.anyMethod && !c.Credentials:
		o.allowMethods = []byte("Access-Control-Allow-Methods: *\r\n")
	case !o.anyMethod && len(methods) > 0:
		o.allowMethods = []byte("Access-Control-Allow-Methods: " + strings.Join(methods, ", ") + "\r\n")
	}

	var names []string
	if len(c.Headers) > mostHeaders {
		p.Add("headers", "expected at most %d headers, got %d", mostHeaders, len(c.Headers))
	}
	for i, h := range c.Headers {
		lower := strings.ToLower(h)
		switch {
		case h == "*":
			o.anyHeader = true
		case !isToken(h):
			p.Add(entry("headers", i), "expected the name of a header, or *, got %q", h)
			continue
		default:
			o.headers[lower] = struct{}{}
		}
		names = append(names, lower)
	}
	// With credentials * is a name like any other: what is asked for is told
	// then, see Preflight.
	if len(names) > 0 && (!o.anyHeader || !c.Credentials) {
		o.allowHeaders = []byte("Access-Control-Allow-Headers: " + strings.Join(names, ", ") + "\r\n")
	}

	for i, h := range c.Expose {
		switch at := entry("expose", i); {
		case h == "*" && c.Credentials:
			p.Add(at, "expected names beside credentials: browsers take * for a name then")
		case h != "*" && !isToken(h):
			p.Add(at, "expected the name of a header, or *, got %q", h)
		}
	}
	if c.Credentials {
		o.answer = append(o.answer, "Access-Control-Allow-Credentials: true\r\n"...)
	}
	if len(c.Expose) > 0 {
		o.answer = append(o.answer, "Access-Control-Expose-Headers: "+strings.Join(c.Expose, ", ")+"\r\n"...)
	}
	age := min(max(c.MaxAge.Std(), 0), mostAge)
	o.maxAge = []byte("Access-Control-Max-Age: " + strconv.FormatInt(int64(age/time.Second), 10) + "\r\n")
	return o
}

// addOrigin reads one entry of origins, of which there are so many.
func (o *CORS) addOrigin(s string, p *setting.Problems, many int) {
	switch {
	case s == "*":
		if many > 1 {
			p.Add("", "expected * alone: it stands for all origins")
		}
		if o.credentials {
			p.Add("", "expected origins by name beside credentials: with * any page could act as its visitor")
		}
		o.anyone = true
	case s == "null":
		// Any page can make itself null, with a sandboxed frame.
		if o.credentials {
			p.Add("", "expected origins by name beside credentials: any page can be null")
		}
		o.origins[s] = struct{}{}
	case strings.HasPrefix(s, "~"):
		re, err := regexp.Compile("^(?:" + s[1:] + ")$")
		switch {
		case err != nil:
			p.Add("", "expected a regular expression after ~: %v", err)
		case len(s) > longestOrigin:
			p.Add("", "expected a regular expression of at most %d bytes", longestOrigin)
		default:
			o.regexps = append(o.regexps, re)
		}
	default:
		pattern, why := parseOrigin(s)
		switch {
		case why != "":
			p.Add("", "%s, got %q", why, s)
		case pattern.below || pattern.anyPort:
			o.hosts = append(o.hosts, pattern)
		default:
			o.origins[s] = struct{}{}
		}
	}
}

// parseOrigin reads scheme://host[:port] as a browser writes it (RFC 6454 6.2),
// or a pattern of it.
func parseOrigin(s string) (o originPattern, why string) {
	const want = "expected an origin such as https://app.example.com or https://*.example.com"
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case !ok || !isURIScheme(scheme) || rest == "":
		return o, want
	case len(s) > longestOrigin:
		return o, "expected an origin of at most 512 bytes"
	case strings.ContainsAny(rest, "/?#"):
		return o, "expected an origin, which has no path and no / at its end"
	case strings.Contains(rest, "@"):
		return o, "expected an origin, which has no user"
	case s != strings.ToLower(s):
		return o, "expected " + strings.ToLower(s) + ", as browsers write it"
	}
	o.scheme = scheme + "://"
	o.host = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		o.host, o.port = rest[:i], rest[i:]
	}
	if o.port == ":*" {
		o.port, o.anyPort = "", true
	} else if o.port != "" {
		n, err := strconv.ParseUint(o.port[1:], 10, 16)
		if err != nil || n == 0 || o.port[1] == '0' {
			return o, "expected a port from 1 to 65535, or *"
		}
		if scheme == "https" && n == 443 || scheme == "http" && n == 80 {
			return o, "expected " + o.scheme + o.host + ": browsers leave out the scheme's own port"
		}
	}
	if below, ok := strings.CutPrefix(o.host, "*."); ok {
		o.below, o.host = true, "."+below
		// Names below a whole top-level domain belong to everybody.
		if !strings.Contains(below, ".") && below != "localhost" {
			return o, "expected a domain of its owner after *., such as https://*.example.com"
		}
		if !isDomain(below) {
			return o, want
		}
		return o, ""
	}
	if strings.HasPrefix(o.host, "[") {
		addr, err := netip.ParseAddr(strings.Trim(o.host, "[]"))
		if err != nil || "["+addr.String()+"]" != o.host {
			return o, "expected an IPv6 address in its short form, in brackets"
		}
		return o, ""
	}
	if !isDomain(o.host) {
		return o, want
	}
	return o, ""
}

func isURIScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		if letter := c >= 'a' && c <= 'z'; !letter && (i == 0 || !(s[i] >= '0' && s[i] <= '9' || s[i] == '+' || s[i] == '-' || s[i] == '.')) {
			return false
		}
	}
	return s != ""
}

// isDomain tells whether s could be a host name or an IPv4 address in lower case.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return isHostText([]byte(s))
}

func isHostText(s []byte) bool {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

// matches tells whether origin is one of o.
func (o *originPattern) matches(origin []byte) bool {
	rest, ok := bytes.CutPrefix(origin, []byte(o.scheme))
	if !ok {
		return false
	}
	if o.anyPort {
		if i := bytes.LastIndexByte(rest, ':'); i >= 0 && rest[len(rest)-1] != ']' {
			port := rest[i+1:]
			if len(port) == 0 || len(port) > 5 || bytes.ContainsFunc(port, func(r rune) bool { return r < '0' || r > '9' }) {
				return false
			}
			rest = rest[:i]
		}
	} else if rest, ok = bytes.CutSuffix(rest, []byte(o.port)); !ok {
		return false
	}
	if !o.below {
		return string(rest) == o.host
	}
	name, ok := bytes.CutSuffix(rest, []byte(o.host))
	return ok && len(name) > 0 && name[0] != '.' && name[len(name)-1] != '.' && isHostText(name)
}

// Allows tells whether pages of origin may read answers.
func (c *CORS) Allows(origin []byte) bool {
	switch {
	case len(origin) == 0 || len(origin) > longestOrigin:
		return false
	case c.anyone:
		return true
	}
	if _, ok := c.origins[string(origin)]; ok {
		return true
	}
	for i := range c.hosts {
		if c.hosts[i].matches(origin) {
			return true
		}
	}
	if len(c.regexps) > 0 && !wire.IsFieldValue(origin) {
		return false
	}
	for _, re := range c.regexps {
		if re.Match(origin) {
			return true
		}
	}
	return false
}

// IsPreflight tells whether a request asks whether another may be made, and the
// method of that one: OPTIONS with Origin and Access-Control-Request-Method.
func IsPreflight(head *wire.Request) (method []byte, ok bool) {
	_, method, _, _, ok = PreflightFields(head)
	return method, ok
}

// PreflightFields reads what Preflight wants. ok is false when head is no
// preflight, or has one of these fields twice, which no browser does.
func PreflightFields(head *wire.Request) (origin, method, headers []byte, privateNetwork, ok bool) {
	if string(head.Method) != "OPTIONS" {
		return nil, nil, nil, false, false
	}
	var origins, methods, lists int
	for i := range head.Fields {
		f := &head.Fields[i]
		switch {
		case f.Kind != wire.Other:
		case isName(f.Name, "Origin"):
			origin, origins = f.Value, origins+1
		case isName(f.Name, "Access-Control-Request-Method"):
			method, methods = f.Value, methods+1
		case isName(f.Name, "Access-Control-Request-Headers"):
			headers, lists = f.Value, lists+1
		case isName(f.Name, "Access-Control-Request-Private-Network"):
			privateNetwork = string(f.Value) == "true"
		}
	}
	if origins != 1 || methods != 1 || lists > 1 || len(origin) == 0 || len(method) == 0 {
		return nil, nil, nil, false, false
	}
	return origin, method, headers, privateNetwork, true
}

// Origin is the origin of the page that made a request, nil when there is none
// or more than one.
func Origin(head *wire.Request) []byte {
	var origin []byte
	count := 0
	for i := range head.Fields {
		if f := &head.Fields[i]; f.Kind == wire.Other && isName(f.Name, "Origin") {
			origin, count = f.Value, count+1
		}
	}
	if count != 1 {
		return nil
	}
	return origin
}

// isName compares the name of a field.
func isName(name []byte, want string) bool {
	return len(name) == len(want) && bytes.EqualFold(name, []byte(want))
}

const (
	varyOrigin    = "Vary: Origin\r\n"
	varyPreflight = "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network\r\n"
)

// Preflight appends the lines of the answer to a preflight to dst, each ended by CR LF. ok
// tells whether the request asked for may be made: the answer is 204 then and 403
// else, without a body; the target is not asked in either case. Methods are
// compared as they are, header names without regard to case. It allocates
// nothing when dst has room.
func (c *CORS) Preflight(dst, origin, method, headers []byte, privateNetwork bool) (lines []byte, ok bool) {
	dst = append(dst, varyPreflight...)
	if !c.Allows(origin) || !c.allowsMethod(method) || !c.allowsHeaders(headers) || privateNetwork && !c.private {
		return dst, false
	}
	dst = c.appendOrigin(dst, origin)
	if c.credentials {
		dst = append(dst, "Access-Control-Allow-Credentials: true\r\n"...)
	}
	if c.anyMethod && c.credentials {
		dst = append(dst, "Access-Control-Allow-Methods: "...)
		dst = append(append(dst, method...), "\r\n"...)
	} else {
		dst = append(dst, c.allowMethods...)
	}
	if c.anyHeader && c.credentials {
		dst = appendNames(dst, headers)
	} else {
		dst = append(dst, c.allowHeaders...)
	}
	if privateNetwork {
		dst = append(dst, "Access-Control-Allow-Private-Network: true\r\n"...)
	}
	return append(dst, c.maxAge...), true
}

// AppendLines appends to dst what the answer to a request from a page of origin,
// nil for none, needs, each line ended by CR LF. A page that may not read the answer
// gets no permission; the browser hides the answer from it then. Vary: Origin
// is there whenever the origin decides, also for those without one, so that no
// cache gives one page the answer for another. It allocates nothing when dst
// has room.
func (c *CORS) AppendLines(dst, origin []byte) []byte {
	if !c.anyone {
		dst = append(dst, varyOrigin...)
		if !c.Allows(origin) {
			return dst
		}
	}
	return append(c.appendOrigin(dst, origin), c.answer...)
}

func (c *CORS) appendOrigin(dst, origin []byte) []byte {
	if c.anyone {
		return append(dst, "Access-Control-Allow-Origin: *\r\n"...)
	}
	dst = append(dst, "Access-Control-Allow-Origin: "...)
	return append(append(dst, origin...), "\r\n"...)
}

func (c *CORS) allowsMethod(method []byte) bool {
	if c.anyMethod {
		return wire.IsToken(method) && len(method) <= longestHeader
	}
	for _, m := range c.methods {
		if bytes.Equal(m, method) {
			return true
		}
	}
	return false
}

func (c *CORS) allowsHeaders(list []byte) bool {
	var lower [longestHeader]byte
	for n := 0; ; n++ {
		var name []byte
		name, list = wire.NextItem(list)
		if name == nil {
			return true
		}
		if n == mostHeaders || len(name) > longestHeader || !wire.IsToken(name) {
			return false
		}
		for i, b := range name {
			if b >= 'A' && b <= 'Z' {
				b |= 0x20
			}
			lower[i] = b
		}
		if _, ok := c.headers[string(lower[:len(name)])]; ok {
			continue
		}
		// Fetch: * does not stand for Authorization.
		if !c.anyHeader || string(lower[:len(name)]) == "authorization" {
			return false
		}
	}
}

// appendNames repeats the names of list, which allowsHeaders has checked.
func appendNames(dst, list []byte) []byte {
	separator := "Access-Control-Allow-Headers: "
	for {
		var name []byte
		if name, list = wire.NextItem(list); name == nil {
			break
		}
		dst = append(append(dst, separator...), name...)
		separator = ", "
	}
	if separator == ", " {
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// Blocks tells whether the request is to be answered 403, see block: it comes
// from a page of an origin that is neither allowed nor the route's own, scheme (http
// or https, as the client sees it) and host. A request without an origin is not from a
// page that could do harm: browsers send it with every method that may
// change something.
func (c *CORS) Blocks(head *wire.Request, scheme string) bool {
	if !c.block {
		return false
	}
	switch string(head.Method) {
	case "GET", "HEAD", "OPTIONS":
		if len(head.Upgrade) == 0 {
			return false
		}
	}
	count := 0
	for i := range head.Fields {
		f := &head.Fields[i]
		if f.Kind != wire.Other || !isName(f.Name, "Origin") {
			continue
		}
		if count++; count > 1 || !c.Allows(f.Value) && !sameOrigin(f.Value, scheme, head.Host) {
			return true
		}
	}
	return false
}

func sameOrigin(origin []byte, scheme string, host []byte) bool {
	rest, ok := bytes.CutPrefix(origin, []byte(scheme))
	if !ok {
		return false
	}
	rest, ok = bytes.CutPrefix(rest, []byte("://"))
	own := ":80"
	if scheme == "https" {
		own = ":443"
	}
	host = bytes.TrimSuffix(host, []byte(own))
	return ok && len(rest) > 0 && bytes.EqualFold(rest, host)
}

// DropsFromAnswer tells whether a field of a target's answer is the policy's
// business and must not reach the client beside its own lines: a second
// Access-Control-Allow-Origin makes browsers refuse both.
func DropsFromAnswer(name []byte) bool {
	const prefix = "access-control-"
	return len(name) > len(prefix) && bytes.EqualFold(name[:len(prefix)], []byte(prefix))
}
