package proxy

import (
	"bytes"
	"strings"

	"sluice/auth"
	"sluice/wire"
)

// credentials are the places of a request that hold one, which the target does
// not get to see.
type credentials struct {
	schemes []string
	headers nameSet
	cookies []string
	query   []string
}

func newCredentials(p auth.Places) credentials {
	return credentials{schemes: p.Schemes, headers: newNameSet(p.Headers), cookies: p.Cookies, query: p.Query}
}

// hasScheme tells whether an Authorization value is a credential for this gateway.
func (c *credentials) hasScheme(value []byte) bool {
	if c.headers.has([]byte("authorization")) {
		return true
	}
	for _, s := range c.schemes {
		if len(value) >= len(s) && wire.EqualFold(value[:len(s)], s) && (len(value) == len(s) || value[len(s)] == ' ') {
			return true
		}
	}
	return false
}

func (c *credentials) hasCookie(name []byte) bool {
	for _, n := range c.cookies {
		if prefix, ok := strings.CutSuffix(n, "*"); ok && bytes.HasPrefix(name, []byte(prefix)) || string(name) == n {
			return true
		}
	}
	return false
}

// appendCookies writes a Cookie line without the cookies that are credentials,
// and no line when none is left.
func (c *credentials) appendCookies(out []byte, f *wire.Field) []byte {
	start := len(out)
	out = append(append(out, f.Name...), ": "...)
	empty := len(out)
	for list := f.Value; len(list) > 0; {
		var pair []byte
		pair, list, _ = bytes.Cut(list, []byte{';'})
		pair = wire.TrimOWS(pair)
		name, _, _ := bytes.Cut(pair, []byte{'='})
		if len(pair) == 0 || c.hasCookie(name) {
			continue
		}
		if len(out) > empty {
			out = append(out, "; "...)
		}
		out = append(out, pair...)
	}
	if len(out) == empty {
		return out[:start]
	}
	return append(out, "\r\n"...)
}

// appendQuery writes "?" and a query without the parameters that are credentials,
// or with mark in the place of their values.
func (c *credentials) appendQuery(out, query []byte, mark string) []byte {
	separator := byte('?')
	for more := true; more; {
		var pair []byte
		pair, query, more = bytes.Cut(query, []byte{'&'})
		name, _, _ := bytes.Cut(pair, []byte{'='})
		secret := false
		for _, n := range c.query {
			secret = secret || string(name) == n
		}
		if secret && mark == "" {
			continue
		}
		out = append(out, separator)
		separator = '&'
		if secret {
			out = append(append(append(out, name...), '='), mark...)
		} else {
			out = append(out, pair...)
		}
	}
	return out
}

// logged is a URI as a log may hold it: without the values of parameters in which
// some authenticator looks for a credential, whatever the route.
func (x *exchange) logged(uri []byte) []byte {
	secrets := &x.snapshot.Settings.secrets
	if len(secrets.query) == 0 {
		return uri
	}
	path, query, has := bytes.Cut(uri, []byte{'?'})
	if !has {
		return uri
	}
	x.out = append(x.out, path...)
	start := len(x.out) - len(path)
	x.out = secrets.appendQuery(x.out, query, "***")
	return x.out[start:]
}

// nameSet is a set of header names, without regard to case. Most names that are
// asked for are not in it, and are ruled out by their length.
type nameSet struct {
	lengths [4]uint64
	names   [][]byte // in lower case
}

func newNameSet(names []string) (s nameSet) {
	for _, n := range names {
		n = strings.ReplaceAll(strings.ToLower(n), "_", "-")
		if l := len(n); l < 256 {
			s.lengths[l/64] |= 1 << (l % 64)
			s.names = append(s.names, []byte(n))
		}
	}
	return s
}

// has takes "_" for "-": a backend may (see forwarded.underscores).
func (s *nameSet) has(name []byte) bool {
	n := len(name)
	if n > 255 || s.lengths[n/64]&(1<<(n%64)) == 0 {
		return false
	}
	for _, own := range s.names {
		if len(own) == n && sameName(own, name) {
			return true
		}
	}
	return false
}

func sameName(own, name []byte) bool {
	for i, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if own[i] != c {
			return false
		}
	}
	return true
}
