package cache

import (
	"slices"

	"sluice/wire"
)

// mostETag bounds a validator that is kept.
const mostETag = 1 << 10

// reply is what the fields of an answer say to caches.
type reply struct {
	control   Control
	targeted  bool // control is from a targeted field
	age       int64
	date      int64 // seconds, noDate without a valid one
	expires   int64 // seconds, noDate when it is there but cannot be read
	expiring  bool  // there is an Expires
	modified  int64
	etag      []byte
	etags     int
	setCookie bool
	events    bool // a text/event-stream
	length    int64
}

// readReply reads fields. now is in nanoseconds.
func (p *Policy) readReply(r *reply, fields []wire.Field, now int64) {
	*r = reply{date: noDate, expires: noDate, modified: noDate, age: none, length: none}
	r.control.reset()
	sec := now / second
	modifieds := 0
	for i := range fields {
		f := &fields[i]
		switch f.Kind {
		case wire.CacheControl:
			r.control.add(f.Value)
		case wire.SetCookie:
			r.setCookie = true
		case wire.ContentType:
			r.events = len(f.Value) >= len(eventStream) && foldEqual(f.Value[:len(eventStream)], eventStream)
		case wire.ContentLength:
			if n, ok := parseDelta(f.Value); ok {
				r.length = n
			}
		case wire.Date:
			if r.date == noDate {
				r.date = readDate(f.Value, sec)
			}
		default:
			switch len(f.Name) {
			case 3:
				// Of a list the first member counts; what is no number is ignored (5.1).
				if r.age == none && wire.EqualFold(f.Name, "age") {
					first, _ := wire.NextItem(f.Value)
					if n, ok := parseDelta(first); ok {
						r.age = n
					} else {
						r.age = 0
					}
				}
			case 4:
				if wire.EqualFold(f.Name, "etag") {
					if r.etags++; r.etags == 1 && validETag(f.Value) {
						r.etag = f.Value
					} else {
						r.etag = nil
					}
				}
			case 7:
				if !r.expiring && wire.EqualFold(f.Name, "expires") {
					r.expiring, r.expires = true, readDate(f.Value, sec)
				}
			case 13:
				if wire.EqualFold(f.Name, "last-modified") {
					if modifieds++; modifieds == 1 {
						r.modified = readDate(f.Value, sec)
					} else {
						r.modified = noDate
					}
				}
			}
		}
	}
	r.age = max(r.age, 0)
	p.readTargets(r, fields)
}

const eventStream = "text/event-stream"

func readDate(b []byte, now int64) int64 {
	if t, ok := parseDate(b, now); ok {
		return t
	}
	return noDate
}

// readTargets looks for the first targeted field that is valid and not empty; it
// stands in the place of Cache-Control and Expires (RFC 9213 2.2).
func (p *Policy) readTargets(r *reply, fields []wire.Field) {
	for _, name := range p.target {
		var lines []string
		for i := range fields {
			if f := &fields[i]; f.Kind == wire.Other && wire.EqualFold(f.Name, name) {
				lines = append(lines, string(f.Value))
			}
		}
		var c Control
		if len(lines) > 0 && c.readTargeted(lines) {
			r.control, r.targeted, r.expiring, r.expires = c, true, false, noDate
			return
		}
	}
}

// known are the final statuses whose meaning for caches is implemented
// (must-understand, RFC 9111 5.2.2.3).
func known(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 414, 451, 500, 501, 502, 503, 504:
		return true
	}
	return false
}

// heuristic statuses may be kept without a word of the origin (RFC 9110 15.1).
func byDefault(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// telling statuses depend on what is no part of a key: how large the request's
// head was, what it accepted, who sent it, how often. Kept, they are the means
// to deny a page to all by one odd request.
func telling(status int) bool {
	switch status {
	case 400, 401, 407, 408, 412, 413, 415, 416, 417, 421, 425, 426, 428, 429, 431:
		return true
	}
	return false
}

// Admit decides whether the answer to a is to be kept (RFC 9111 3), and makes e
// from it: OK, or why not. fields are the origin's as they came; asked and
// answered are when the request was sent and when the answer's head was there.
// e's Vary and Head are overwritten in place; nothing of e points into fields.
//
// Whoever stores must still check that the body is whole (3.3) and not larger
// than Config.MaxObject.
func (p *Policy) Admit(e *Entry, a *Ask, status int, fields []wire.Field, asked, answered int64) Reason {
	if a.Bypass != OK {
		return a.Bypass
	}
	if a.Method == Head {
		return ByMethod // an answer without its body: see FreshenHead
	}
	if a.oddHost {
		return ByHeader
	}
	if a.Control.has(FlagNoStore) {
		return NoStoreAsked
	}
	if status == 206 || status == 304 {
		return Partial
	}
	var r reply
	p.readReply(&r, fields, answered)
	return p.admit(e, a, &r, status, fields, asked, answered)
}

func (p *Policy) admit(e *Entry, a *Ask, r *reply, status int, fields []wire.Field, asked, answered int64) Reason {
	c := &r.control
	p.pardon(c)
	switch {
	case len(p.statuses) > 0 && !slices.Contains(p.statuses, status), len(p.statuses) == 0 && telling(status), status < 200:
		return StatusNot
	case c.has(FlagMalformed):
		return Malformed
	case r.events:
		return Events
	case c.has(FlagMustUnderstand) && !known(status):
		return StatusNot
	case c.has(FlagNoStore) && !c.has(FlagMustUnderstand):
		return NoStore
	case c.has(FlagPrivate) && !(p.share == shareIdentity && a.Identified):
		return Private
	case r.setCookie && !p.strip:
		return SetsCookie
	case r.length > p.maxObject:
		return TooLarge
	case !p.mayShare(a, c):
		return Authorized
	}
	vary, reason := p.readVary(e.Vary[:0], fields)
	if reason != OK {
		return reason
	}
	head := e.Head[:0]
	*e = Entry{Stored: answered, Status: uint16(status), Vary: vary, Length: none, Modified: r.modified, Date: r.date}
	if e.Date == noDate {
		e.Date = answered / second
	}
	e.Age = initialAge(r, asked, answered)
	life, how := p.lifetime(a, r, status, e)
	if how == lifeUnfit {
		return CookieSent
	}
	e.Life = life
	p.mark(e, a, r, how)
	e.Head = p.appendHead(head, e, r, fields, answered)
	switch {
	case how == lifeNone && !byDefault(status) && !c.has(FlagPublic):
		// Nothing says that this may be kept (RFC 9111 3, the last condition).
		return StatusNot
	case (e.Life <= e.Age && e.SWR == 0 && e.SIE == 0 || e.has(MarkValidate)) && !e.Validates():
		return NoLife
	}
	return OK
}

// pardon takes out of c what the route does not heed.
func (p *Policy) pardon(c *Control) {
	if p.ignore&ignoreNoStore != 0 {
		c.Flags &^= FlagNoStore
	}
	if p.ignore&ignorePrivate != 0 {
		c.Flags &^= FlagPrivate
	}
	if p.ignore&ignoreNoCache != 0 {
		c.Flags &^= FlagNoCache
	}
	if p.ignore&ignoreMustRevalidate != 0 {
		c.Flags &^= FlagMustRevalidate | FlagProxyRevalidate
	}
}

// mayShare is the rule for requests with credentials (RFC 9111 3.5), for any
// kind of credential that an authenticator knows and not only Authorization.
func (p *Policy) mayShare(a *Ask, c *Control) bool {
	switch {
	case !a.authorized && !a.Identified, p.share == shareAll:
		return true
	case p.share == shareIdentity && a.Identified:
		return true // the key holds the identity
	}
	return c.has(FlagPublic|FlagMustRevalidate) || c.SMaxAge != none
}

// mark notes what restricts and what extends the use of e.
func (p *Policy) mark(e *Entry, a *Ask, r *reply, how life) {
	c := &r.control
	if c.has(FlagNoCache) {
		e.Marks |= MarkValidate
	}
	if c.has(FlagImmutable) {
		e.Marks |= MarkImmutable
	}
	if c.has(FlagNoTransform) {
		e.Marks |= MarkNoTransform
	}
	strict := c.has(FlagMustRevalidate | FlagProxyRevalidate)
	switch {
	case strict || c.has(FlagNoCache):
	case c.SMaxAge != none && how != lifeRoute:
		// s-maxage asks for validation as proxy-revalidate does (5.2.2.10), save
		// for what the same field allows by name.
		e.SWR, e.SIE = max(c.SWR, 0)*second, max(c.SIE, 0)*second
		strict = true
	default:
		e.SWR, e.SIE = allowance(c.SWR, p.swr), allowance(c.SIE, p.sie)
	}
	if strict {
		e.Marks |= MarkNoStale
	}
	if how == lifeRoute && !p.forAll(a, c) {
		e.Marks |= MarkAnonymous
	}
	if len(r.etag) > 0 && len(r.etag) <= mostETag && r.etag[0] == '"' {
		e.Marks |= MarkStrong
	}
	// RFC 9110 8.8.2.2: a second between the two, or it may have changed since.
	if e.Modified != noDate && r.date != noDate && e.Modified < r.date {
		e.Marks |= MarkDated
	}
}

// allowance is what the origin says, else the route.
func allowance(origin, route int64) int64 {
	if origin != none {
		return origin * second
	}
	return route
}

// appendHead writes the fields that are stored (RFC 9111 3.1), and Date where
// the origin sent no valid one (RFC 9110 6.6.1). It sets e.ETag.
func (p *Policy) appendHead(dst []byte, e *Entry, r *reply, fields []wire.Field, now int64) []byte {
	etagAt, dated := -1, false
	for i := range fields {
		f := &fields[i]
		if f.Drop || f.Kind.HopByHop() || p.unstored(f) || r.control.fieldLists > 0 && r.control.excludes(f.Name) {
			continue
		}
		switch f.Kind {
		case wire.SetCookie:
			continue // with set_cookie: refuse it does not come to this
		case wire.Date:
			if dated || r.date == noDate {
				continue
			}
			dated = true
		}
		if r.etag != nil && len(r.etag) <= mostETag && len(f.Name) == 4 && wire.EqualFold(f.Name, "etag") {
			etagAt = len(dst) + len(f.Name) + 2
		}
		dst = appendLine(dst, f.Name, f.Value)
	}
	if !dated {
		dst = append(appendDate(append(dst, "Date: "...), now/second), "\r\n"...)
	}
	if e.ETag = nil; etagAt >= 0 {
		e.ETag = dst[etagAt : etagAt+len(r.etag)]
	}
	return dst
}

// unstored fields are the framing, which is the sender's, what a cache writes
// itself, and what proxies tell each other.
func (p *Policy) unstored(f *wire.Field) bool {
	switch f.Kind {
	case wire.ContentLength, wire.Trailer:
		return true
	case wire.Other:
	default:
		return false
	}
	switch len(f.Name) {
	case 3:
		return wire.EqualFold(f.Name, "age")
	case 25:
		return wire.EqualFold(f.Name, "proxy-authentication-info")
	}
	return p.own != "" && wire.EqualFold(f.Name, p.own)
}

// AppendExcluded appends the lines of an answer that Admit left out of what is
// stored because Cache-Control says that they are for one request alone
// (no-cache="..." and private="...", RFC 9111 5.2.2).
func (p *Policy) AppendExcluded(dst []byte, fields []wire.Field) []byte {
	var c Control
	c.reset()
	for i := range fields {
		if fields[i].Kind == wire.CacheControl {
			c.add(fields[i].Value)
		}
	}
	if c.fieldLists == 0 {
		return dst
	}
	for i := range fields {
		if f := &fields[i]; !f.Drop && !f.Kind.HopByHop() && !p.unstored(f) && f.Kind != wire.SetCookie && c.excludes(f.Name) {
			dst = appendLine(dst, f.Name, f.Value)
		}
	}
	return dst
}
