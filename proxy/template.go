package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// Template is text with placeholders in braces: facts of the request or
// parameters of the route's path.
type Template struct {
	parts  []part
	text   string
	loose  bool // in a header; else in a path or URL
	claims bool // some part is a claim
}

type part struct {
	text  string
	fact  fact
	param int // place among the pattern's parameters, -1 when it is none
}

type fact uint8

const (
	noFact fact = iota
	factHost
	factPath
	factQuery
	factScheme
	factClientIP
	factMethod
	factRequestID
	factRoute
	factURI
	factClaim
)

var facts = map[string]fact{
	"host": factHost, "path": factPath, "query": factQuery, "scheme": factScheme,
	"client_ip": factClientIP, "method": factMethod, "request_id": factRequestID, "route": factRoute, "uri": factURI,
}

// ParseTemplate compiles text; params are the names that the route's path
// binds, which win over the facts. {claim:PATH} is a claim of the caller. When it
// is loose, braces that hold no word are text, for header values may be JSON, and
// claim:PATH alone needs no braces.
func ParseTemplate(text string, params []string, loose bool) (*Template, error) {
	t := &Template{text: text, loose: loose}
	if path, ok := strings.CutPrefix(text, claimWord); ok && loose && isClaim(path) {
		t.claims = true
		t.parts = append(t.parts, part{text: path, fact: factClaim, param: -1})
		return t, nil
	}
	for rest := text; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			t.parts = append(t.parts, part{text: rest, param: -1})
			break
		}
		if open > 0 {
			t.parts = append(t.parts, part{text: rest[:open], param: -1})
		}
		if loose && !isReference(rest[open:]) {
			t.parts = append(t.parts, part{text: "{", param: -1})
			rest = rest[open+1:]
			continue
		}
		end := strings.IndexByte(rest, '}')
		if end < open {
			return nil, fmt.Errorf("expected } for each { in %q", text)
		}
		name := rest[open+1 : end]
		p := part{param: slices.Index(params, name)}
		if path, ok := strings.CutPrefix(name, claimWord); ok && isClaim(path) {
			t.claims = true
			p.fact, p.text = factClaim, path
		} else if p.param < 0 {
			if p.fact = facts[name]; p.fact == noFact {
				return nil, fmt.Errorf("expected a parameter of the path or one of client_ip, host, method, path, query, request_id, route, scheme, uri in braces, got {%s} in %q", name, text)
			}
		}
		t.parts = append(t.parts, p)
		rest = rest[end+1:]
	}
	return t, nil
}

// isReference tells whether s begins with a word in braces.
func isReference(s string) bool {
	end := strings.IndexByte(s, '}')
	if end < 2 {
		return false
	}
	if path, ok := strings.CutPrefix(s[1:end], claimWord); ok {
		return isClaim(path)
	}
	for i, c := range []byte(s[1:end]) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

const claimWord = "claim:"

// isClaim tells whether path may name a claim: words joined by dots, or a URL as
// some providers name theirs.
func isClaim(path string) bool {
	for i := 0; i < len(path); i++ {
		if c := path[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`{}"\`, c) >= 0 {
			return false
		}
	}
	return path != "" && len(path) <= 128
}

// append renders t for x behind dst.
func (t *Template) append(dst []byte, x *exchange) []byte {
	for i := range t.parts {
		p := &t.parts[i]
		switch {
		case p.param >= 0:
			if p.param < len(x.params) {
				s := x.params[p.param]
				dst = append(dst, x.path[s.from:s.to]...)
			}
		case p.fact == noFact:
			dst = append(dst, p.text...)
		case p.fact == factClaim:
			text, _ := x.proof.Claim(p.text)
			if t.loose {
				dst = append(dst, text...)
			} else {
				dst = appendEscaped(dst, text)
			}
		default:
			dst = x.appendFact(dst, p.fact)
		}
	}
	return dst
}

// appendEscaped writes text as one segment of a path, or a part of a query: a
// claim must not choose where a request goes.
func appendEscaped(dst []byte, text string) []byte {
	const hex = "0123456789ABCDEF"
	if text == "." || text == ".." {
		return append(dst, strings.ReplaceAll(text, ".", "%2E")...)
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

func (x *exchange) appendFact(dst []byte, f fact) []byte {
	switch f {
	case factHost:
		return append(dst, x.req.Host...)
	case factPath:
		return append(dst, x.path...)
	case factQuery:
		return append(dst, x.req.Query...)
	case factScheme:
		return append(dst, x.scheme...)
	case factClientIP:
		return x.caller.WithZone("").AppendTo(dst)
	case factMethod:
		return append(dst, x.req.Method...)
	case factRequestID:
		return append(dst, x.id...)
	case factURI:
		dst = append(dst, x.path...)
		if x.req.HasQuery {
			dst = append(append(dst, '?'), x.req.Query...)
		}
		return dst
	case factRoute:
		return append(dst, x.route.Name...)
	}
	return dst
}
