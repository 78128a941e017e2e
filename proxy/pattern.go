package proxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Pattern is the path of a route, compiled: /exact, /prefix/*, /users/{id},
// /users/{id:[0-9]+}, /v{n}/x, /files/{rest:*}.
type Pattern struct {
	text     string // as written
	key      string // equal for patterns that match the same paths
	segments []segment
	tail     bool // ends in * or {rest:*}
	exact    bool // no parameter, no tail
	params   []string
}

type segment struct {
	literal string
	param   bool           // the whole segment is one parameter
	re      *regexp.Regexp // a segment with a regular expression or with text around parameters
}

// rank orders the kinds of segments: the more it says, the earlier it is tried.
func (s segment) rank() int {
	switch {
	case s.re != nil:
		return 1
	case s.param:
		return 2
	}
	return 0
}

// ParsePattern compiles a path pattern.
func ParsePattern(text string) (*Pattern, error) {
	p := &Pattern{text: text, exact: true}
	if text == "*" {
		return &Pattern{text: text, key: text, exact: true}, nil
	}
	if !strings.HasPrefix(text, "/") {
		return nil, fmt.Errorf("expected a path that begins with /, got %q", text)
	}
	parts, err := splitSegments(text[1:])
	if err != nil {
		return nil, fmt.Errorf("%w in %q", err, text)
	}
	for i, part := range parts {
		last := i == len(parts)-1
		name, isTail := "", part == "*"
		if n, ok := strings.CutSuffix(part, ":*}"); ok && strings.HasPrefix(n, "{") {
			name, isTail = n[1:], true
		}
		if isTail {
			if !last {
				return nil, fmt.Errorf("expected %s at the end only, in %q", part, text)
			}
			p.tail, p.exact = true, false
			if name != "" {
				if err := p.param(name); err != nil {
					return nil, err
				}
			}
			break
		}
		if part == "" && !last {
			return nil, fmt.Errorf("expected a normalized path without //, got %q", text)
		}
		seg, err := p.segment(part)
		if err != nil {
			return nil, err
		}
		p.segments = append(p.segments, seg)
	}
	p.key = p.makeKey()
	return p, nil
}

func (p *Pattern) param(name string) error {
	for i, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return fmt.Errorf("expected a parameter name of letters, digits and _, got {%s} in %q", name, p.text)
		}
	}
	if name == "" {
		return fmt.Errorf("expected a name between { and } in %q", p.text)
	}
	for _, n := range p.params {
		if n == name {
			return fmt.Errorf("expected each parameter once, got {%s} twice in %q", name, p.text)
		}
	}
	p.params = append(p.params, name)
	return nil
}

// segment compiles what stands between two slashes.
func (p *Pattern) segment(part string) (segment, error) {
	if !strings.ContainsAny(part, "{}") {
		if strings.Contains(part, "*") {
			return segment{}, fmt.Errorf("expected * as a whole segment at the end, in %q", p.text)
		}
		normal, ok := normalPath([]byte("/"+part), nil)
		if bad := strings.ContainsAny(part, " ?#\"<>\\^`"); bad || !ok || string(normal) != "/"+part {
			return segment{}, fmt.Errorf("expected a normalized path, got %q", p.text)
		}
		return segment{literal: part}, nil
	}
	p.exact = false
	var expr strings.Builder
	rest, plain := part, true
	for rest != "" {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			expr.WriteString(regexp.QuoteMeta(rest))
			plain = false
			break
		}
		if open > 0 {
			expr.WriteString(regexp.QuoteMeta(rest[:open]))
			plain = false
		}
		end := closing(rest[open:])
		name, re, has := strings.Cut(rest[open+1:open+end], ":")
		if err := p.param(name); err != nil {
			return segment{}, err
		}
		if has {
			plain = false
		} else {
			re = "[^/]+"
		}
		if _, err := regexp.Compile(re); err != nil {
			return segment{}, fmt.Errorf("expected a regular expression for {%s}: %w", name, err)
		}
		if regexp.MustCompile(re).NumSubexp() > 0 {
			return segment{}, fmt.Errorf("expected (?:...) instead of (...) in the expression of {%s}", name)
		}
		expr.WriteString("(" + re + ")")
		if rest = rest[open+end+1:]; rest != "" {
			plain = false
		}
	}
	if plain {
		return segment{param: true}, nil
	}
	re, err := regexp.Compile("^(?:" + expr.String() + ")$")
	if err != nil {
		return segment{}, fmt.Errorf("expected a regular expression in %q: %w", part, err)
	}
	return segment{re: re, literal: expr.String()}, nil
}

// closing is the place of the brace that closes the one s begins with, for
// expressions such as {id:[0-9]{4}}.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// splitSegments cuts at the slashes that do not stand between braces.
func splitSegments(s string) ([]string, error) {
	var parts []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth < 0 {
				return nil, fmt.Errorf("expected { before }")
			}
		case '/':
			if depth == 0 {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("expected } for each {")
	}
	return append(parts, s[start:]), nil
}

func (p *Pattern) makeKey() string {
	var k strings.Builder
	for _, s := range p.segments {
		k.WriteByte('/')
		switch {
		case s.re != nil:
			k.WriteString("~" + s.literal)
		case s.param:
			k.WriteString("{}")
		default:
			k.WriteString(s.literal)
		}
	}
	if p.tail {
		k.WriteString("/*")
	}
	return k.String()
}

func (p *Pattern) hasExpression() bool {
	return slices.ContainsFunc(p.segments, func(s segment) bool { return s.re != nil })
}

// compare orders patterns by how much they say, from the left: a literal
// segment before one with an expression, before a parameter, before a tail.
// It is 0 for patterns that the kinds of their segments do not tell apart.
func (p *Pattern) compare(q *Pattern) int {
	for i := 0; ; i++ {
		a, b := p.rankAt(i), q.rankAt(i)
		if a != b || i >= len(p.segments) {
			return a - b
		}
	}
}

// rankAt is the rank of segment i; behind the last stands the tail or the end.
func (p *Pattern) rankAt(i int) int {
	switch {
	case i < len(p.segments):
		return p.segments[i].rank()
	case p.tail:
		return 3
	}
	return -1
}

// overlaps tells whether some path may match both; it may say so too often.
func (p *Pattern) overlaps(q *Pattern) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(p.segments):
			return p.tail || i == len(q.segments)
		case i == len(q.segments):
			return q.tail
		}
		a, b := p.segments[i], q.segments[i]
		switch {
		case a.rank() == 0 && b.rank() == 0:
			if a.literal != b.literal {
				return false
			}
		case a.rank() == 0 && b.re != nil:
			if !b.re.MatchString(a.literal) {
				return false
			}
		case b.rank() == 0 && a.re != nil:
			if !a.re.MatchString(b.literal) {
				return false
			}
		}
	}
}

// span is a part of a path.
type span struct{ from, to int }

// Match tells whether path, which is normal, matches. With values it also
// appends where each parameter stands.
func (p *Pattern) match(path []byte, values []span) ([]span, bool) {
	if p.text == "*" || len(path) == 0 || path[0] != '/' {
		// OPTIONS * asks of the whole server: it goes where everything goes.
		return values, string(path) == p.text || p.tail && len(p.segments) == 0 && string(path) == "*"
	}
	at := 1
	for i := range p.segments {
		if at > len(path) {
			return values, false
		}
		end := at
		for end < len(path) && path[end] != '/' {
			end++
		}
		s := &p.segments[i]
		switch {
		case s.re != nil:
			if values == nil {
				if !s.re.Match(path[at:end]) {
					return values, false
				}
				break
			}
			m := s.re.FindSubmatchIndex(path[at:end])
			if m == nil {
				return values, false
			}
			for j := 2; j < len(m); j += 2 {
				values = append(values, span{at + m[j], at + m[j+1]})
			}
		case s.param:
			if end == at {
				return values, false
			}
			if values != nil {
				values = append(values, span{at, end})
			}
		case string(path[at:end]) != s.literal:
			return values, false
		}
		at = end + 1
	}
	if p.tail {
		// /static/* also matches /static itself, with nothing behind it.
		if values != nil && len(p.params) > len(values) {
			values = append(values, span{min(at, len(path)), len(path)})
		}
		return values, at <= len(path)+1
	}
	return values, at == len(path)+1
}

// routerPath is the pattern in the words of fasthttp/router, with its
// parameters numbered so that equal patterns are equal.
func (p *Pattern) routerPath() string {
	var b strings.Builder
	for i, s := range p.segments {
		switch {
		case s.re != nil:
			fmt.Fprintf(&b, "/{p%d:%s}", i, s.literal)
		case s.param:
			fmt.Fprintf(&b, "/{p%d}", i)
		default:
			b.WriteString("/" + s.literal)
		}
	}
	if p.tail {
		b.WriteString("/{rest:*}")
	}
	return b.String()
}

// Params are the names that p binds, in their order.
func (p *Pattern) Params() []string { return p.params }
