package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// Template is text with placeholders in braces: facts of the request or
// parameters of the route's path.
type Template struct {
	parts []part
	text  string
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
)

var facts = map[string]fact{
	"host": factHost, "path": factPath, "query": factQuery, "scheme": factScheme,
	"client_ip": factClientIP, "method": factMethod, "request_id": factRequestID, "route": factRoute, "uri": factURI,
}

// ParseTemplate compiles text; params are the names that the route's path
// binds, which win over the facts. When it is loose, braces that hold no word
// are text: header values may be JSON.
func ParseTemplate(text string, params []string, loose bool) (*Template, error) {
	t := &Template{text: text}
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
		if p.param < 0 {
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
	for i, c := range []byte(s[1:end]) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return true
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
		default:
			dst = x.appendFact(dst, p.fact)
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
