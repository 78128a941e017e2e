package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"sluice/wire"
)

// Table finds the route of a request. It is immutable.
//
// Which route it is can be predicted: of all routes whose predicates hold, the
// first by these rules, each deciding only where those before it did not:
//
//  1. an exact host, then the longest *.wildcard, then any host
//  2. the path that says more, segment by segment from the left: a literal
//     before an expression, before a parameter, before a tail
//  3. a route that names methods before one that takes any
//  4. more header predicates, then more query predicates
//  5. the order in the file
//
// fasthttp/router is the index over the patterns of a host; routes that share
// a pattern, and patterns that overlap, are told apart by an ordered list that
// is made for each pattern once. Exact paths are found in a map.
type Table struct {
	exact map[string]*site
	wild  map[string]*site // by what follows the *, with its dot
	any   *site
	hosts bool // some route names a host
	// leastBody is the smallest bound of a body that a route has, 0 for none
	leastBody int64
	cors      bool // some route answers preflights
	// hurried: some route asks who calls, and needs no body to refuse; or has
	// a budget, which the wait for a body is part of
	hurried bool
}

// mayRefuse tells whether some route may refuse a request with a body of n bytes
// before all of it has come: for its size, or for the time it takes.
func (t *Table) mayRefuse(n int64) bool { return t.hurried || t.leastBody > 0 && n > t.leastBody }

// site is the routes of one host.
type site struct {
	exact  map[string][]candidate
	all    []candidate // of every pattern that is not exact, in order
	index  *router.Router
	listed map[*Pattern][]candidate
	// expressions: some pattern has one
	expressions bool
}

// candidate is a pattern with its routes in order.
type candidate struct {
	pattern *Pattern
	routes  []*Route
	certain bool // the index has matched the pattern already
}

// ConflictError says that two routes can never be told apart.
type ConflictError struct{ A, B string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("expected routes that differ in host, path, methods, headers or query, but %q and %q match the same requests", e.A, e.B)
}

// NewTable compiles routes, in the order of the file.
func NewTable(routes []*Route) (*Table, error) {
	t := &Table{exact: map[string]*site{}, wild: map[string]*site{}}
	byHost := map[string][]*Route{}
	for i, r := range routes {
		r.order = i
		t.hurried = t.hurried || r.Budget > 0 || r.Auth != nil
		t.cors = t.cors || r.CORS != nil
		if r.MaxBody > 0 && (t.leastBody == 0 || r.MaxBody < t.leastBody) {
			t.leastBody = r.MaxBody
		}
		if err := r.compile(); err != nil {
			return nil, err
		}
		hosts := r.Hosts
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		for _, h := range hosts {
			byHost[strings.ToLower(h)] = append(byHost[strings.ToLower(h)], r)
		}
	}
	for host, list := range byHost {
		s, err := newSite(list)
		if err != nil {
			return nil, err
		}
		switch {
		case host == "*":
			t.any = s
		case strings.HasPrefix(host, "*."):
			t.wild[host[1:]], t.hosts = s, true
		default:
			t.exact[host], t.hosts = s, true
		}
	}
	return t, nil
}

func newSite(routes []*Route) (*site, error) {
	s := &site{exact: map[string][]candidate{}, listed: map[*Pattern][]candidate{}}
	byKey := map[string]*candidate{}
	for _, r := range routes {
		c := byKey[r.pattern.key]
		if c == nil {
			c = &candidate{pattern: r.pattern}
			byKey[r.pattern.key] = c
		}
		for _, other := range c.routes {
			if other != r && sameMatch(other, r) {
				return nil, &ConflictError{other.Name, r.Name}
			}
		}
		if !slices.Contains(c.routes, r) {
			c.routes = append(c.routes, r)
		}
	}
	var all []candidate
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		for _, r := range byKey[key].routes {
			all = append(all, candidate{pattern: byKey[key].pattern, routes: []*Route{r}})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(a.pattern.compare(b.pattern), moreSpecific(a.routes[0], b.routes[0]))
	})
	s.index = router.New()
	s.index.RedirectTrailingSlash, s.index.RedirectFixedPath = false, false
	for _, c := range all {
		if !c.pattern.exact {
			s.all = appendCandidate(s.all, c)
		}
	}
	for _, c := range all {
		if s.listed[c.pattern] != nil {
			continue
		}
		list := overlapping(all, c.pattern)
		s.listed[c.pattern] = list
		if c.pattern.exact {
			s.exact[c.pattern.text] = list
			continue
		}
		s.register(c.pattern)
		s.expressions = s.expressions || c.pattern.hasExpression()
		if c.pattern.tail && len(c.pattern.params) == 0 && c.pattern.routerPath() != "/{rest:*}" {
			// /static without the slash is a path of /static/* too.
			path := strings.TrimSuffix(c.pattern.routerPath(), "/{rest:*}")
			if !strings.Contains(path, "{") && s.exact[path] == nil {
				s.exact[path] = list
			}
		}
	}
	return s, nil
}

// register puts a pattern into the index. The index refuses some that differ
// only in their expressions; these are found by going through all of them.
func (s *site) register(p *Pattern) {
	defer func() { _ = recover() }()
	s.index.GET(p.routerPath(), func(ctx *fasthttp.RequestCtx) { ctx.SetUserValue(foundKey, p) })
}

type foundKeyType struct{}

var foundKey any = foundKeyType{}

// overlapping is the candidates that a path matched by p may match as well, in
// order; p itself needs no second look unless it has an expression.
func overlapping(all []candidate, p *Pattern) []candidate {
	var list []candidate
	for _, c := range all {
		if c.pattern != p && !c.pattern.overlaps(p) && !p.overlaps(c.pattern) {
			continue
		}
		c.certain = c.pattern == p && p.exact
		list = appendCandidate(list, c)
	}
	return list
}

// appendCandidate appends c, or only its routes to a last one of the same
// pattern, which then is matched once for all of them.
func appendCandidate(list []candidate, c candidate) []candidate {
	if n := len(list); n > 0 && list[n-1].pattern == c.pattern {
		last := &list[n-1]
		last.routes = append(slices.Clip(last.routes), c.routes...)
		return list
	}
	return append(list, c)
}

// sameMatch tells whether every request that one route matches the other does.
func sameMatch(a, b *Route) bool {
	methods := len(a.Methods) == 0 && len(b.Methods) == 0
	for _, m := range a.Methods {
		methods = methods || slices.Contains(b.Methods, m)
	}
	return methods && maps.Equal(lowerNames(a.Headers), lowerNames(b.Headers)) && maps.Equal(a.Query, b.Query)
}

// lowerNames is m with the names of headers in their one spelling.
func lowerNames(m map[string]string) map[string]string {
	lower := make(map[string]string, len(m))
	for name, value := range m {
		lower[strings.ToLower(name)] = value
	}
	return lower
}

func namesHead(r *Route) int {
	if slices.Contains(r.Methods, fasthttp.MethodHead) {
		return 1
	}
	return 0
}

func moreSpecific(a, b *Route) int {
	return cmp.Or(
		cmp.Compare(min(len(b.Methods), 1), min(len(a.Methods), 1)),
		namesHead(b)-namesHead(a), // before one whose GET would take HEAD too
		cmp.Compare(len(b.Headers), len(a.Headers)),
		cmp.Compare(len(b.Query), len(a.Query)),
		cmp.Compare(a.order, b.order),
	)
}

// lookup finds the route of x, whose path is normal. When there is none,
// allow collects the methods of the routes that match but for theirs.
func (t *Table) lookup(x *exchange, allow *[]string) *Route {
	if t.hosts {
		host := hostName(x.req.Host, &x.hostBuf)
		if s := t.exact[string(host)]; s != nil {
			if r := s.lookup(x, allow); r != nil {
				return r
			}
		}
		if len(t.wild) > 0 {
			for h := host; ; {
				dot := bytes.IndexByte(h, '.')
				if dot < 0 {
					break
				}
				if s := t.wild[string(h[dot:])]; s != nil && dot > 0 {
					if r := s.lookup(x, allow); r != nil {
						return r
					}
				}
				h = h[dot+1:]
			}
		}
	}
	if t.any != nil {
		return t.any.lookup(x, allow)
	}
	return nil
}

// hostName is the host without its port and final dot, in lower case.
func hostName(h []byte, buf *[]byte) []byte {
	if i := bytes.LastIndexByte(h, ':'); i >= 0 && bytes.IndexByte(h[i:], ']') < 0 {
		h = h[:i]
	}
	if n := len(h); n > 1 && h[n-1] == '.' {
		h = h[:n-1]
	}
	for _, c := range h {
		if 'A' <= c && c <= 'Z' {
			*buf = append((*buf)[:0], h...)
			for i, c := range *buf {
				if 'A' <= c && c <= 'Z' {
					(*buf)[i] = c | 0x20
				}
			}
			return *buf
		}
	}
	return h
}

func (s *site) lookup(x *exchange, allow *[]string) *Route {
	list, ok := s.exact[string(x.path)]
	if !ok {
		list = s.all
		if len(list) > 1 {
			// One pattern needs no index.
			if p := s.indexed(x); p != nil {
				list = s.listed[p]
			}
		}
	}
	for i := range list {
		c := &list[i]
		if !c.certain {
			if _, ok := c.pattern.match(x.path, nil); !ok {
				continue
			}
		}
		for _, r := range c.routes {
			if !r.predicatesHold(x) {
				continue
			}
			if r.methodHolds(x.req.Method) {
				return r
			}
			if allow != nil {
				*allow = append(*allow, r.Methods...)
			}
		}
	}
	return nil
}

// indexed asks the index. It may know nothing of a path that matches all the
// same, and then the caller goes through all patterns.
func (s *site) indexed(x *exchange) *Pattern {
	h, _ := s.index.Lookup(fasthttp.MethodGet, unsafe.String(unsafe.SliceData(x.path), len(x.path)), nil)
	if h == nil {
		return nil
	}
	h(&x.found)
	p, _ := x.found.UserValue(foundKey).(*Pattern)
	if p != nil && s.expressions {
		// The index takes an expression that matches a part of a segment for
		// one that matches it.
		if _, ok := p.match(x.path, nil); !ok {
			return nil
		}
	}
	return p
}

// predicate is one header or query predicate.
type predicate struct {
	name  []byte
	value []byte
	re    *regexp.Regexp
	any   bool
}

func (p *predicate) holds(v []byte) bool {
	switch {
	case p.any:
		return true
	case p.re != nil:
		return p.re.Match(v)
	}
	return bytes.Equal(v, p.value)
}

func newPredicates(m map[string]string) ([]predicate, error) {
	var list []predicate
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p := predicate{name: []byte(name), value: []byte(m[name])}
		if expr, ok := strings.CutPrefix(m[name], "~"); ok {
			re, err := regexp.Compile(expr)
			if err != nil {
				return nil, fmt.Errorf("expected a regular expression for %s: %w", name, err)
			}
			p.re = re
		}
		p.any = m[name] == "*"
		list = append(list, p)
	}
	return list, nil
}

func (r *Route) predicatesHold(x *exchange) bool {
	for i := range r.headers {
		if !headerHolds(&r.headers[i], x.req.Fields) {
			return false
		}
	}
	for i := range r.query {
		if !queryHolds(&r.query[i], x.req.Query) {
			return false
		}
	}
	return true
}

func headerHolds(p *predicate, fields []wire.Field) bool {
	for i := range fields {
		if len(fields[i].Name) == len(p.name) && bytes.EqualFold(fields[i].Name, p.name) && p.holds(fields[i].Value) {
			return true
		}
	}
	return false
}

func queryHolds(p *predicate, query []byte) bool {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		name, value, _ := bytes.Cut(pair, []byte{'='})
		if bytes.Equal(decodeQuery(name), p.name) && p.holds(decodeQuery(value)) {
			return true
		}
	}
	return false
}

// decodeQuery undoes percent-encoding and +; what needs none is returned as it
// is.
func decodeQuery(b []byte) []byte {
	if bytes.IndexByte(b, '%') < 0 && bytes.IndexByte(b, '+') < 0 {
		return b
	}
	s, err := url.QueryUnescape(string(b))
	if err != nil {
		return b
	}
	return []byte(s)
}

func (r *Route) methodHolds(method []byte) bool {
	if len(r.Methods) == 0 {
		return true
	}
	for _, m := range r.Methods {
		if string(method) == m || m == fasthttp.MethodGet && string(method) == fasthttp.MethodHead {
			return true
		}
	}
	return false
}
