package cache

import (
	"bytes"

	"sluice/wire"
)

// Method is what a request's method means to a cache.
type Method uint8

// The methods. Other safe ones are OPTIONS and TRACE; what is not known to be
// safe is unsafe (RFC 9111 4.4).
const (
	Unsafe Method = iota
	Get
	Head
	Query // RFC 10008: a safe method with a body, which is part of its key
	OtherSafe
)

// MethodOf names the method m. Methods are case-sensitive.
func MethodOf(m []byte) Method {
	switch string(m) {
	case "GET":
		return Get
	case "HEAD":
		return Head
	case "QUERY":
		return Query
	case "OPTIONS", "TRACE":
		return OtherSafe
	}
	return Unsafe
}

// Ask is what one request says to caches. Policy.Read fills it; it may be used
// again for the next request. Its slices live as long as the request's head.
type Ask struct {
	Method Method
	// Identified: an authenticator has proven who the caller is. The caller of
	// Read sets it before Admit is asked.
	Identified bool
	Control    Control
	// Bypass is why the cache is passed by: neither asked nor filled. OK when it is not.
	Bypass Reason

	fields     []wire.Field
	authorized bool
	cookies    bool // some that are neither keyed nor ignored nor removed
	noneMatch  int  // If-None-Match lines
	modified   []byte
	modifieds  int
	ranges     []byte
	rangeLines int
	ifRange    []byte
	ifRanges   int
	forOrigin  bool // If-Match, If-Unmodified-Since
	pragma     bool
	directives bool // they are heeded
	trusted    bool // X-Forwarded fields reach the target, and are keyed
	oddHost    bool // not in the form that is keyed
}

// Read reads what r asks of caches on a route with this policy. trusted says
// that it came from a trusted hop, so that its X-Forwarded fields reach the
// target. It allocates nothing and keeps slices of r.
func (p *Policy) Read(a *Ask, r *wire.Request, trusted bool) {
	*a = Ask{Method: MethodOf(r.Method), fields: r.Fields, directives: p.directives, trusted: trusted, oddHost: !plainHost(r.Host)}
	a.Control.reset()
	unkeyed := false
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case wire.Authorization:
			a.authorized = true
		case wire.Cookie:
			a.cookies = p.personal
		case wire.CacheControl:
			a.Control.add(f.Value)
		case wire.Forwarded:
			unkeyed = unkeyed || trusted && (containsFold(f.Value, "host=") || containsFold(f.Value, "proto="))
		case wire.Range:
			if a.rangeLines++; a.rangeLines == 1 {
				a.ranges = f.Value
			}
		default:
			switch len(f.Name) {
			case 6:
				if wire.EqualFold(f.Name, "pragma") {
					a.pragma = a.pragma || listHas(f.Value, "no-cache")
				}
			case 8:
				switch {
				case wire.EqualFold(f.Name, "if-match"):
					a.forOrigin = true
				case wire.EqualFold(f.Name, "if-range"):
					if a.ifRanges++; a.ifRanges == 1 {
						a.ifRange = f.Value
					}
				}
			case 13:
				if wire.EqualFold(f.Name, "if-none-match") {
					a.noneMatch++
				}
			case 17:
				if wire.EqualFold(f.Name, "if-modified-since") {
					if a.modifieds++; a.modifieds == 1 {
						a.modified = f.Value
					}
				}
			case 19:
				if wire.EqualFold(f.Name, "if-unmodified-since") {
					a.forOrigin = true
				}
			}
			unkeyed = unkeyed || p.isUnkeyed(f, trusted)
		}
	}
	// RFC 9111 5.4: Pragma speaks where Cache-Control is silent.
	if a.pragma && !a.Control.Present {
		a.Control.Flags |= FlagNoCache
	}
	if a.Control.has(FlagMalformed) {
		a.Control.Flags |= FlagNoCache
	}
	a.Bypass = p.bypassed(a, r, unkeyed)
}

func (p *Policy) bypassed(a *Ask, r *wire.Request, unkeyed bool) Reason {
	switch {
	case p.methods&(1<<a.Method) == 0:
		return ByMethod
	case a.Method != Query && r.Length != 0:
		return ByBody
	case unkeyed:
		return ByHeader
	case len(r.Upgrade) > 0:
		return ByUpgrade
	case a.forOrigin:
		return ByPrecondition
	}
	for i := range p.bypass {
		if p.bypass[i].holds(r) {
			return ByCondition
		}
	}
	return OK
}

func listHas(list []byte, lower string) bool {
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		if wire.EqualFold(item, lower) {
			return true
		}
	}
	return false
}

// Conditional tells whether the client sent If-None-Match or If-Modified-Since.
// On a miss and on a validation these are not forwarded, so that the answer is a
// whole one; NotModified decides them when it is there.
func (a *Ask) Conditional() bool { return a.noneMatch > 0 || a.modifieds > 0 }

// Ranged tells whether the client asks for a part.
func (a *Ask) Ranged() bool { return a.rangeLines > 0 }

// OnlyIfCached tells whether the client wants a 504 rather than a forwarded
// request (RFC 9111 5.2.1.7).
func (a *Ask) OnlyIfCached() bool { return a.directives && a.Control.has(FlagOnlyIfCached) }

// NoTransform tells whether the client wants the content as the origin sent it.
func (a *Ask) NoTransform() bool { return a.Control.has(FlagNoTransform) }

// Own tells whether the field name is one that a cache writes itself when it
// validates: it is to be left out of the forwarded request then.
func Own(name []byte) bool {
	switch len(name) {
	case 13:
		return wire.EqualFold(name, "if-none-match")
	case 17:
		return wire.EqualFold(name, "if-modified-since")
	}
	return false
}

// containsFold tells whether b has the lower-case text in it, in any case.
func containsFold(b []byte, lower string) bool {
	for i := 0; i+len(lower) <= len(b); i++ {
		if foldEqual(b[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}

// condition is one entry of a route's bypass.
type condition struct {
	source string // header, cookie, query
	name   []byte
	value  []byte
	valued bool
}

func (c *condition) holds(r *wire.Request) bool {
	switch c.source {
	case "header":
		for i := range r.Fields {
			if f := &r.Fields[i]; bytes.EqualFold(f.Name, c.name) && (!c.valued || bytes.Equal(f.Value, c.value)) {
				return true
			}
		}
	case "cookie":
		for i := range r.Fields {
			if r.Fields[i].Kind != wire.Cookie {
				continue
			}
			for rest := r.Fields[i].Value; len(rest) > 0; {
				var name, value []byte
				name, value, rest = nextCookie(rest)
				if bytes.Equal(name, c.name) && (!c.valued || bytes.Equal(value, c.value)) {
					return true
				}
			}
		}
	case "query":
		for rest := r.Query; len(rest) > 0; {
			var pair []byte
			pair, rest = nextPair(rest)
			name, value, _ := bytes.Cut(pair, equals)
			if equalDecoded(name, c.name) && (!c.valued || equalDecoded(value, c.value)) {
				return true
			}
		}
	}
	return false
}

var equals, semicolon, ampersand = []byte("="), []byte(";"), []byte("&")

// nextCookie cuts the first pair off a Cookie value.
func nextCookie(b []byte) (name, value, rest []byte) {
	pair, rest, _ := bytes.Cut(b, semicolon)
	name, value, _ = bytes.Cut(pair, equals)
	return wire.TrimOWS(name), wire.TrimOWS(value), rest
}

// nextPair cuts the first parameter off a query.
func nextPair(q []byte) (pair, rest []byte) {
	pair, rest, _ = bytes.Cut(q, ampersand)
	return pair, rest
}
