package cache

import (
	"bytes"

	"sluice/wire"
)

// An entity tag is compared weakly everywhere (RFC 9110 8.8.3.2) but for
// If-Range. One without quotes is no entity tag but is sent by some origins: it
// is kept as an opaque word, and asked with as it was given.

// validETag tells whether b can stand in a list of entity tags.
func validETag(b []byte) bool {
	if len(b) == 0 || len(b) > mostETag {
		return false
	}
	if n, ok := tagLength(b); ok {
		return n == len(b)
	}
	for _, c := range b {
		if c == '"' || c == ',' || c <= ' ' {
			return false
		}
	}
	return string(b) != "*"
}

// tagLength is the length of the entity tag that b begins with.
func tagLength(b []byte) (int, bool) {
	i := 0
	if len(b) > 1 && b[0] == 'W' && b[1] == '/' {
		i = 2
	}
	if i >= len(b) || b[i] != '"' {
		return 0, false
	}
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, true
		case c < 0x21 || c == 0x7f:
			return 0, false
		}
	}
	return 0, false
}

// opaque is an entity tag without W/.
func opaque(b []byte) []byte {
	if len(b) > 2 && b[0] == 'W' && b[1] == '/' {
		return b[2:]
	}
	return b
}

// listsTag tells whether an If-None-Match value has a tag that is weakly equal
// to tag, or is "*".
func listsTag(list, tag []byte) bool {
	if string(list) == "*" {
		return true
	}
	for len(list) > 0 {
		switch list[0] {
		case ' ', '\t', ',':
			list = list[1:]
			continue
		}
		n, ok := tagLength(list)
		if !ok {
			if opaque(list)[0] == '"' {
				return false // a tag without an end: what follows is not known
			}
			if n = bytes.IndexByte(list, ','); n < 0 {
				n = len(list)
			}
		}
		if len(tag) > 0 && bytes.Equal(opaque(wire.TrimOWS(list[:n])), opaque(tag)) {
			return true
		}
		list = list[n:]
	}
	return false
}

// ListsTag tells whether an If-None-Match value names tag, or any (RFC 9110
// 13.1.2).
func ListsTag(list, tag []byte) bool { return listsTag(list, tag) }

// NotModified tells whether the client has what e holds already, so that it
// gets a 304 (RFC 9111 4.3.2): If-None-Match, or without it If-Modified-Since.
// now, Unix nanoseconds, is for dates with two-digit years.
func NotModified(a *Ask, e *Entry, now int64) bool {
	if e.Status != 200 && e.Status != 203 || a.Method != Get && a.Method != Head {
		return false // RFC 9110 13.2.1
	}
	if a.noneMatch > 0 {
		for i := range a.fields {
			if f := &a.fields[i]; len(f.Name) == 13 && wire.EqualFold(f.Name, "if-none-match") && listsTag(f.Value, e.ETag) {
				return true
			}
		}
		return false
	}
	if a.modifieds != 1 {
		return false
	}
	since, ok := parseDate(a.modified, now/second)
	if !ok {
		return false
	}
	if e.Modified != noDate {
		return e.Modified <= since
	}
	return e.Date <= since
}

// AppendNotModified writes those of e's field lines that a 304 has (RFC 9110
// 15.4.5), and what says nothing of the content.
func AppendNotModified(dst []byte, e *Entry) []byte {
	for head := e.Head; len(head) > 0; {
		name, _, rest := nextLine(head)
		if rest == nil {
			break
		}
		if !describes(name, len(e.ETag) > 0) {
			dst = append(dst, head[:len(head)-len(rest)]...)
		}
		head = rest
	}
	return dst
}

// describes tells whether the field is metadata of the content that a 304 need
// not have. Last-Modified helps where there is no entity tag.
func describes(name []byte, tagged bool) bool {
	switch len(name) {
	case 12:
		return wire.EqualFold(name, "content-type")
	case 13:
		return wire.EqualFold(name, "content-range") || tagged && wire.EqualFold(name, "last-modified")
	case 14:
		return wire.EqualFold(name, "content-digest")
	case 16:
		return wire.EqualFold(name, "content-encoding") || wire.EqualFold(name, "content-language")
	}
	return false
}

// AppendConditions writes the field lines that ask the origin whether e is still
// good (RFC 9111 4.3.1). The client's own If-None-Match and If-Modified-Since
// are to be left out (Own), and its Range too.
func AppendConditions(dst []byte, e *Entry) []byte {
	if len(e.ETag) > 0 {
		dst = append(append(append(dst, "If-None-Match: "...), e.ETag...), "\r\n"...)
	}
	if e.Modified != noDate {
		dst = append(appendDate(append(dst, "If-Modified-Since: "...), e.Modified), "\r\n"...)
	}
	return dst
}

// Freshen makes next from the stored e and the fields of the 304 that answered
// a validation of it (RFC 9111 3.2, 4.3.4). It is OK when next is to take e's
// place; Partial when the 304 is not about e, so that the request must be sent
// once more without conditions; else next may be sent, for it was validated, but
// not be kept: for NoStoreAsked, Authorized and CookieSent, which are about the
// request, e stays as it is, and for all others it is to be dropped. An answer whose Vary changed is OK too, but
// next belongs under another variant then. next and e must not be the same. It
// allocates.
func (p *Policy) Freshen(next, e *Entry, a *Ask, fields []wire.Field, asked, answered int64) Reason {
	var r reply
	p.readReply(&r, fields, answered)
	switch {
	case r.etags > 0 && len(r.etag) > 0 && len(e.ETag) > 0 && !bytes.Equal(opaque(r.etag), opaque(e.ETag)):
		return Partial
	case r.etags > 0 && len(r.etag) > 0 && r.etag[0] == '"' && len(e.ETag) == 0:
		return Partial
	case len(e.ETag) == 0 && r.modified != noDate && e.Modified != noDate && r.modified != e.Modified:
		return Partial
	}
	return p.update(next, e, a, fields, asked, answered)
}

// update puts the fields of a newer answer without a body over those of e.
func (p *Policy) update(next, e *Entry, a *Ask, fields []wire.Field, asked, answered int64) Reason {
	merged := make([]wire.Field, 0, len(fields)+16)
	newer := func(name []byte) bool {
		for i := range fields {
			if f := &fields[i]; !f.Drop && !f.Kind.HopByHop() && !keeps(f.Name) && bytes.EqualFold(f.Name, name) {
				return true
			}
		}
		return false
	}
	for _, f := range fieldsOf(e.Head) {
		// A 304 without Date is of now, not of when the answer was made.
		if f.Kind != wire.Date && !newer(f.Name) {
			merged = append(merged, f)
		}
	}
	for i := range fields {
		if f := &fields[i]; !f.Drop && !f.Kind.HopByHop() && !keeps(f.Name) && f.Kind != wire.SetCookie {
			merged = append(merged, *f)
		}
	}
	var r reply
	p.readReply(&r, merged, answered)
	// The stored answer had no Set-Cookie, or it was stripped; a new one is the
	// client's and is not stored.
	r.setCookie = false
	asking := *a
	asking.Method = Get
	if a.Method == Query {
		asking.Method = Query
	}
	reason := p.admit(next, &asking, &r, int(e.Status), merged, asked, answered)
	next.Length = e.Length
	if reason == OK && a.Control.has(FlagNoStore) {
		reason = NoStoreAsked
	}
	if reason != OK {
		// It is good for this one answer.
		vary, head := append(next.Vary[:0], e.Vary...), next.Head[:0]
		*next = Entry{Stored: answered, Age: initialAge(&r, asked, answered), Date: answered / second, Modified: r.modified,
			Length: e.Length, Status: e.Status, Marks: e.Marks, Vary: vary}
		if r.date != noDate {
			next.Date = r.date
		}
		next.Head = p.appendHead(head, next, &r, merged, answered)
	}
	return reason
}

// keeps tells whether a field of a 304 does not take the stored one's place:
// the stored body depends on them, and the length is the sender's (RFC 9111 3.2).
func keeps(name []byte) bool {
	switch len(name) {
	case 13:
		return wire.EqualFold(name, "content-range")
	case 14:
		return wire.EqualFold(name, "content-length")
	case 16:
		return wire.EqualFold(name, "content-encoding")
	}
	return false
}

// FreshenHead makes next from the stored e and a 200 to a HEAD that was
// forwarded (RFC 9111 4.3.5). It is OK when next is to take e's place, and
// anything else when e is no longer what the origin has: then it must be
// invalidated. It allocates.
func (p *Policy) FreshenHead(next, e *Entry, a *Ask, status int, fields []wire.Field, asked, answered int64) Reason {
	if status != 200 || e.Status != 200 {
		return StatusNot
	}
	var r reply
	p.readReply(&r, fields, answered)
	switch {
	case r.length != none && e.Length >= 0 && r.length != e.Length,
		r.etags > 0 && !bytes.Equal(r.etag, e.ETag),
		r.modified != noDate && r.modified != e.Modified:
		return Partial
	}
	return p.update(next, e, a, fields, asked, answered)
}
