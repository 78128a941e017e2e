package cache

import (
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"sluice/wire"
)

// Policy is what one route does with the cache, ready for use. It never changes
// and may be used by many requests at once.
type Policy struct {
	Name   string // of this cache in Cache-Status; empty for none
	scope  uint64
	target []string // targeted fields, the most specific first
	own    string   // the one that is ours alone

	methods    uint8 // bits by Method
	statuses   []int
	maxObject  int64
	ttl        int64
	negative   int64
	fallback   bool
	swr, sie   int64
	heuristic  bool
	maxGuess   int64
	directives bool
	normalise  bool
	strip      bool
	share      share
	ignore     ignored
	bypass     []condition
	key        KeyConfig
	personal   bool // cookies are of account: they reach the target and are not keyed
	headers    [][]byte
	tags       []string // fields with surrogate keys, lower case
	showTags   bool
	written    []string // request fields that the gateway writes or removes, lower case
}

type share uint8

const (
	shareOrigin share = iota
	shareIdentity
	shareAll
)

type ignored uint8

const (
	ignoreNoStore ignored = 1 << iota
	ignorePrivate
	ignoreNoCache
	ignoreMustRevalidate
	ignoreCookie
)

// Place is what a policy must know of the route it belongs to.
type Place struct {
	// Route is the route's name: routes do not share entries.
	Route string
	// Written are the names of request header fields that the route sets, adds
	// or removes. An answer that varies with one of them is not kept, for what
	// the target saw is not what the client sent.
	Written []string
}

// NewPolicy compiles c, which must be valid.
func NewPolicy(c *RouteConfig, shared *Config, place Place) *Policy {
	p := &Policy{
		maxObject: int64(shared.MaxObject), ttl: int64(c.TTL), negative: int64(c.Negative), fallback: c.Mode == "fallback",
		swr: int64(c.SWR), sie: int64(c.SIE), heuristic: c.Heuristic, maxGuess: int64(c.MaxGuess),
		directives: c.Directives, normalise: c.Normalise, strip: c.SetCookie == "strip",
		statuses: slices.Clone(c.Statuses), key: c.Key, showTags: shared.ForwardTags,
	}
	for _, name := range shared.Tags {
		p.tags = append(p.tags, strings.ToLower(name))
	}
	if c.Status {
		p.Name = shared.Name
	}
	if shared.Target != "" {
		p.own = strings.ToLower(shared.Target) + "-cache-control"
		p.target = append(p.target, p.own)
	}
	if shared.CDNCacheControl {
		p.target = append(p.target, "cdn-cache-control")
	}
	methods := c.Methods
	if len(methods) == 0 {
		methods = []string{"GET", "HEAD"}
	}
	for _, m := range methods {
		p.methods |= 1 << MethodOf([]byte(m))
	}
	switch c.Share {
	case "identity":
		p.share = shareIdentity
	case "all":
		p.share = shareAll
	}
	for _, word := range c.Ignore {
		p.ignore |= 1 << slices.Index(ignorable, word)
	}
	for _, s := range c.Bypass {
		if cond, ok := parseCondition(s); ok {
			p.bypass = append(p.bypass, cond)
		}
	}
	for _, h := range c.Key.Headers {
		p.headers = append(p.headers, []byte(strings.ToLower(h)))
	}
	for _, name := range place.Written {
		p.written = append(p.written, strings.ToLower(name))
	}
	p.personal = p.ignore&ignoreCookie == 0 && len(p.key.Cookies) == 0 && p.share != shareAll && !p.writes(cookieName)
	// What a key is made of is part of the key: after a reload that changes it,
	// an old key must not be read as a new one.
	h := xxhash.New()
	for _, list := range [][]string{{place.Route, c.Key.Query, c.Share}, c.Key.Parameters, c.Key.Headers, c.Key.Cookies, c.Key.Claims} {
		_, _ = h.WriteString(strconv.Itoa(len(list)))
		for _, s := range list {
			_, _ = h.WriteString(strconv.Quote(s))
		}
	}
	p.scope = h.Sum64()
	return p
}

// ByIdentity tells whether the caller's identity is part of the key.
func (p *Policy) ByIdentity() bool { return p.share == shareIdentity }

// Common tells whether an answer to a may be for all who have its key, before
// the origin has said so: those who ask for the same may wait for each other.
func (p *Policy) Common(a *Ask) bool {
	switch p.share {
	case shareAll:
		return true
	case shareIdentity:
		if a.Identified {
			return true
		}
	}
	return !a.authorized && !a.Identified && !a.cookies && !a.Control.has(FlagNoStore)
}

// unkeyed are request fields that frameworks let change what is asked for: the
// method, the target, the host. A request with one of them passes the cache by,
// for it would put under one key what belongs under another. X-Forwarded fields
// are not here: from clients they never reach a target, from trusted hops they
// are keyed.
var unkeyed = []string{
	"x-http-method-override", "x-http-method", "x-method-override", "x-method",
	"x-original-url", "x-original-uri", "x-original-host", "x-original-method", "x-original-path",
	"x-rewrite-url", "x-rewrite-uri", "x-request-uri", "x-proxy-url", "x-url-scheme", "x-host",
	"x-http-host-override", "x-http-destinationurl", "x-envoy-original-path", "x-forwarded",
	"x-matched-path", "x-now-route-matches", "x-nextjs-data", "x-invoke-query", "x-invoke-output", "x-prerender-revalidate",
	"x-scheme", "x-proto", "x-original-query", "x-override-url", "x-http-path-override", "x-backend-host",
	"x-middleware-subrequest", "x-middleware-prefetch", "x-invoke-path", "x-invoke-status",
	"front-end-https", "request-uri", "base-url", "destination",
}

// isUnkeyed tells whether f is one of them, and reaches the target, and is not
// keyed after all.
func (p *Policy) isUnkeyed(f *wire.Field, trusted bool) bool {
	if f.Kind != wire.Other || f.Drop || len(f.Name) == 0 {
		return false
	}
	switch f.Name[0] | 0x20 {
	case 'x', 'f', 'r', 'b', 'd':
	default:
		return false
	}
	if !trusted && len(f.Name) > len(forwardedFamily) && sameName(f.Name[:len(forwardedFamily)], forwardedFamily) &&
		!wire.EqualFold(f.Name[:len(forwardedFamily)], forwardedFamily) {
		return true // X_Forwarded_Host, which forwarded.underscores lets through
	}
	for _, name := range unkeyed {
		// _ and - are one to what runs behind CGI and WSGI.
		if len(name) == len(f.Name) && sameName(f.Name, name) {
			for _, h := range p.headers {
				if sameName(f.Name, string(h)) {
					return false
				}
			}
			return !p.writes(f.Name)
		}
	}
	return false
}

func sameName(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c == '_' {
			c = '-'
		}
		if c|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// writes tells whether the route sets or removes the request field name.
func (p *Policy) writes(name []byte) bool {
	for _, w := range p.written {
		if foldEqual(name, w) {
			return true
		}
	}
	return false
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// at is the path of entry i of a list.
func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// isName tells whether s may name a header or a cookie.
func isName(s string) bool { return len(s) <= mostPart && wire.IsToken([]byte(s)) }

func isPrintable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
