package wire

import "bytes"

// Form is the form of a request target (RFC 9112 3.2).
type Form uint8

// The forms. Authority form belongs to CONNECT, which is not spoken here.
const (
	OriginForm Form = iota
	AbsoluteForm
	AsteriskForm
)

var (
	errTarget      = malformed("request target is not of a form of RFC 9112 3.2")
	errTargetChar  = malformed("request target has a character that must be percent-encoded")
	errPercent     = malformed("% in the request target without two hex digits")
	errConnect     = &Malformed{501, "CONNECT is not spoken"}
	errAsteriskFor = malformed("* is a target for OPTIONS only")
	errTargetHost  = malformed("authority of the request target is not host[:port]")
	errUserinfo    = malformed("user information in the request target")
)

// parseTarget splits the request target into what r holds of it.
func (r *Request) parseTarget(t []byte) *Malformed {
	r.Target, r.Form, r.Scheme, r.Authority = t, OriginForm, nil, nil
	r.Path, r.Query, r.HasQuery = nil, nil, false
	switch {
	case len(t) > 0 && t[0] == '/':
	case len(t) == 1 && t[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return errAsteriskFor
		}
		r.Form, r.Path = AsteriskForm, t
		return nil
	default:
		scheme, rest, ok := bytes.Cut(t, []byte("://"))
		if !ok || !(EqualFold(scheme, "http") || EqualFold(scheme, "https")) {
			return errTarget
		}
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		r.Form, r.Authority = AbsoluteForm, rest[:end]
		r.Scheme = scheme
		if bytes.IndexByte(r.Authority, '@') >= 0 {
			return errUserinfo
		}
		if !ValidHost(r.Authority) {
			return errTargetHost
		}
		if t = rest[end:]; len(t) == 0 || t[0] == '?' {
			// An empty path is "/" (RFC 9112 3.2.1), for OPTIONS "*" (3.2.4).
			r.Path = slash
			if len(t) == 0 {
				if string(r.Method) == "OPTIONS" {
					r.Path = asterisk
				}
				return nil
			}
			return r.parseQuery(t[1:])
		}
	}
	for i := 0; i < len(t); i++ {
		c := t[i]
		if class[c]&classPath != 0 && c != '%' {
			continue
		}
		switch {
		case c == '?':
			r.Path = t[:i]
			return r.parseQuery(t[i+1:])
		case c != '%':
			return errTargetChar
		case i+2 >= len(t) || class[t[i+1]]&class[t[i+2]]&classHex == 0:
			return errPercent
		}
	}
	r.Path = t
	return nil
}

var slash, asterisk = []byte("/"), []byte("*")

func (r *Request) parseQuery(q []byte) *Malformed {
	for i := 0; i < len(q); i++ {
		c := q[i]
		switch {
		case class[c]&classQuery == 0:
			return errTargetChar
		case c == '%' && (i+2 >= len(q) || class[q[i+1]]&class[q[i+2]]&classHex == 0):
			return errPercent
		}
	}
	r.Query, r.HasQuery = q, true
	return nil
}

// maxHost is the longest host. DNS knows none above 253 bytes and a final dot.
const maxHost = 255

// ValidHost tells whether h is uri-host [ ":" port ] (RFC 9110 7.2) with a
// host that is not empty and at most maxHost bytes long.
func ValidHost(h []byte) bool {
	host := h
	if len(h) > 0 && h[0] == '[' {
		end := bytes.IndexByte(h, ']')
		if end < 2 || end >= maxHost || !all6(h[1:end]) {
			return false
		}
		host = h[end+1:]
		if len(host) == 0 {
			return true
		}
		return host[0] == ':' && validPort(host[1:])
	}
	for i, c := range h {
		if c == ':' {
			return i > 0 && i <= maxHost && validPort(h[i+1:])
		}
		if class[c]&classHost == 0 {
			return false
		}
		if c == '%' && (i+2 >= len(h) || class[h[i+1]]&class[h[i+2]]&classHex == 0) {
			return false
		}
	}
	return len(host) > 0 && len(host) <= maxHost
}

// all6 tells whether b may be an IPv6 address: hex digits, colons, dots.
func all6(b []byte) bool {
	colons := 0
	for _, c := range b {
		if c == ':' {
			colons++
		} else if c != '.' && class[c]&classHex == 0 {
			return false
		}
	}
	return colons >= 2
}

func validPort(p []byte) bool {
	n := 0
	for _, c := range p {
		if c < '0' || c > '9' {
			return false
		}
		if n = n*10 + int(c-'0'); n > 65535 {
			return false
		}
	}
	return true
}
