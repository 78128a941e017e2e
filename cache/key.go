package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"sluice/wire"
)

// A key is text up to its first line feed, the URI, so that purging by URL and
// by prefix works on keys as they are; what follows tells apart answers that
// have one URI. Each part behind the URI is a tag, a length and a value, so that
// no value can pass for another part. A URI has no control characters.

// Claims gives the text of a claim of the caller's proven identity.
type Claims interface {
	Claim(path string) (text string, ok bool)
}

// Subject is what a key is made of besides the request's fields.
type Subject struct {
	Scheme   string
	Host     []byte // the host that the request is for
	Path     []byte // as it is forwarded
	Query    []byte // as AppendQuery writes it, with its "?"
	Identity []byte // who the caller is: authenticator and subject; nil for nobody
	Claims   Claims // nil for none
	Body     []byte // of a QUERY, whole
}

const (
	partScope byte = 1 + iota
	partForwarded
	partHeader
	partCookie
	partClaim
	partIdentity
	partBody
	partAbsent
)

// AppendKey writes the primary key of a request (RFC 9111 2) into dst: URI,
// route, X-Forwarded fields of a trusted hop, and the route's choice of headers,
// cookies, claims and identity. GET and HEAD have the same key. Nothing is
// allocated when dst is large enough and no claims are asked for.
func (p *Policy) AppendKey(dst []byte, a *Ask, s *Subject) []byte {
	dst = AppendURI(dst, s.Scheme, s.Host, s.Path)
	dst = append(append(dst, s.Query...), '\n', partScope)
	dst = binary.BigEndian.AppendUint64(dst, p.scope)
	if a.trusted {
		for i := range a.fields {
			if f := &a.fields[i]; isForwarded(f) {
				dst = appendPart(append(dst, partForwarded), f.Name)
				dst = appendPart(dst, f.Value)
			}
		}
	}
	for _, name := range p.headers {
		dst = appendFieldPart(append(dst, partHeader), a.fields, name, plain)
	}
	for _, name := range p.key.Cookies {
		dst = appendCookiePart(append(dst, partCookie), a.fields, name)
	}
	for _, path := range p.key.Claims {
		dst = append(dst, partClaim)
		if s.Claims != nil {
			if text, ok := s.Claims.Claim(path); ok {
				dst = append(binary.AppendUvarint(append(dst, partClaim), uint64(len(text))), text...)
				continue
			}
		}
		dst = append(dst, partAbsent)
	}
	if p.share == shareIdentity {
		if dst = append(dst, partIdentity); s.Identity == nil {
			dst = append(dst, partAbsent)
		} else {
			dst = appendPart(append(dst, partIdentity), s.Identity)
		}
	}
	if a.Method == Query {
		// RFC 10008: the content and what it is are part of the key.
		sum := sha256.Sum256(s.Body)
		dst = append(append(dst, partBody), sum[:]...)
		dst = appendFieldPart(dst, a.fields, contentType, plain)
		dst = appendFieldPart(dst, a.fields, contentEncoding, plain)
	}
	return dst
}

var contentType, contentEncoding = []byte("content-type"), []byte("content-encoding")

// AppendURI writes the URI that a key begins with: scheme, host in lower case
// without the scheme's own port, path. A purge by prefix is a prefix of it.
func AppendURI(dst []byte, scheme string, host, path []byte) []byte {
	dst = append(append(dst, scheme...), "://"...)
	switch {
	case scheme == "http" && bytes.HasSuffix(host, port80):
		host = host[:len(host)-len(port80)]
	case scheme == "https" && bytes.HasSuffix(host, port443):
		host = host[:len(host)-len(port443)]
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return append(dst, path...)
}

var port80, port443 = []byte(":80"), []byte(":443")

// URI is the part of a key that AppendURI and the query made.
func URI(key []byte) []byte {
	uri, _, _ := bytes.Cut(key, lineFeed)
	return uri
}

var lineFeed = []byte("\n")

// plainHost tells whether targets see the host in the form that is keyed. A
// target may answer EXAMPLE.com or example.com:80 otherwise than example.com:
// such a request may have what is stored, but its answer is not kept.
func plainHost(h []byte) bool {
	for _, c := range h {
		if 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return !bytes.HasSuffix(h, port80) && !bytes.HasSuffix(h, port443) && !bytes.HasSuffix(h, dot)
}

var dot = []byte(".")

// isForwarded tells whether f is an X-Forwarded field other than the client's
// address, which differs for every client and is none of the answer's business.
func isForwarded(f *wire.Field) bool {
	switch f.Kind {
	case wire.XForwardedFor:
		return false
	case wire.XForwardedHost, wire.XForwardedProto, wire.XForwardedPort:
		return true
	}
	return f.Kind == wire.Other && !f.Drop && len(f.Name) > len(forwardedFamily) && sameName(f.Name[:len(forwardedFamily)], forwardedFamily)
}

const forwardedFamily = "x-forwarded-"

func appendPart(dst, value []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(value))), value...)
}

// appendFieldPart writes the value of the field name, lines joined by commas in
// the form that how gives it, or that there is none. Lines that end at this hop
// were not seen by the target and do not count.
func appendFieldPart(dst []byte, fields []wire.Field, name []byte, how form) []byte {
	start, found := len(dst), false
	for i := range fields {
		f := &fields[i]
		if f.Drop || len(f.Name) != len(name) || !bytes.EqualFold(f.Name, name) {
			continue
		}
		if !found {
			// Room for the length, which is known when all lines are there.
			dst = append(dst, partHeader, 0, 0, 0, 0)
			found = true
		} else {
			dst = append(dst, ',')
		}
		dst = appendForm(dst, f.Value, how)
	}
	if !found {
		return append(dst, partAbsent)
	}
	value := start + 5
	if how == codings {
		dst = appendCodings(dst, value)
	}
	binary.BigEndian.PutUint32(dst[start+1:], uint32(len(dst)-value))
	return dst
}

// appendCookiePart writes the values of all cookies with the name: a target may
// take the first or the last.
func appendCookiePart(dst []byte, fields []wire.Field, name string) []byte {
	found := false
	for i := range fields {
		if fields[i].Kind != wire.Cookie {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var n, v []byte
			if n, v, rest = nextCookie(rest); string(n) == name {
				dst, found = appendPart(append(dst, partCookie), v), true
			}
		}
	}
	if !found {
		return append(dst, partAbsent)
	}
	return append(dst, 0)
}

// mostPairs bounds the parameters that are sorted or chosen from.
const mostPairs = 64

// AppendQuery writes the query of a request as it is keyed, with its "?", or
// nothing. What it writes is also what the target must see in place of query,
// unless the route has forward_unkeyed: so nothing that is not keyed can change
// an answer, whatever a target takes for a parameter. ok is false when there are
// more than 64 parameters to sort or choose from: such a request passes the
// cache by (ByQuery) and is forwarded as it is. Nothing is allocated.
func (p *Policy) AppendQuery(dst, query []byte, has bool) (out []byte, ok bool) {
	switch {
	case !has || p.key.Query == "none":
		return dst, true
	case p.key.Query == "all":
		return append(append(dst, '?'), query...), true
	}
	var pairs [mostPairs][]byte
	n := 0
	for rest := query; len(rest) > 0; {
		var pair []byte
		if pair, rest = nextPair(rest); len(pair) == 0 {
			continue
		}
		if !p.keeps(pair) {
			continue
		}
		if n == mostPairs {
			return dst, false
		}
		// Sorted by name alone and stable: the order of values that share a
		// name means something to targets.
		name, i := pairName(pair), n
		for i > 0 && bytes.Compare(name, pairName(pairs[i-1])) < 0 {
			pairs[i] = pairs[i-1]
			i--
		}
		pairs[i] = pair
		n++
	}
	for i, pair := range pairs[:n] {
		if i == 0 {
			dst = append(dst, '?')
		} else {
			dst = append(dst, '&')
		}
		dst = append(dst, pair...)
	}
	return dst, true
}

// ForwardsQuery tells whether the target must see the query that AppendQuery
// wrote rather than the client's.
func (p *Policy) ForwardsQuery() bool { return p.key.Query != "all" && !p.key.Unkeyed }

func pairName(pair []byte) []byte {
	if i := bytes.IndexByte(pair, '='); i >= 0 {
		return pair[:i]
	}
	return pair
}

// keeps tells whether a parameter is keyed. With forward_unkeyed a parameter
// that could hide another one, behind a semicolon, is keyed in any case.
func (p *Policy) keeps(pair []byte) bool {
	if p.key.Query == "sorted" || p.key.Unkeyed && bytes.IndexByte(pair, ';') >= 0 {
		return true
	}
	name := pairName(pair)
	for _, want := range p.key.Parameters {
		if stem := len(want) - 1; stem >= 0 && want[stem] == '*' {
			if prefixDecoded(name, want[:stem]) {
				return p.key.Query == "only"
			}
		} else if prefixDecoded(name, want) && equalDecoded(name, []byte(want)) {
			return p.key.Query == "only"
		}
	}
	return p.key.Query == "except"
}

// equalDecoded compares a part of a query, percent-decoded, with want.
func equalDecoded(b, want []byte) bool {
	for len(b) > 0 {
		c, n := decode(b)
		if len(want) == 0 || want[0] != c {
			return false
		}
		b, want = b[n:], want[1:]
	}
	return len(want) == 0
}

func prefixDecoded(b []byte, want string) bool {
	for len(want) > 0 {
		if len(b) == 0 {
			return false
		}
		c, n := decode(b)
		if c != want[0] {
			return false
		}
		b, want = b[n:], want[1:]
	}
	return true
}

// decode reads one byte of a query and tells how long it was written.
func decode(b []byte) (byte, int) {
	if b[0] == '%' && len(b) > 2 {
		hi, lo := unhex(b[1]), unhex(b[2])
		if hi < 16 && lo < 16 {
			return hi<<4 | lo, 3
		}
	}
	if b[0] == '+' {
		return ' ', 1
	}
	return b[0], 1
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}
