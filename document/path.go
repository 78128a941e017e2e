package document

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Path is a compiled path to values of a document. The zero value is the root.
type Path struct{ steps []step }

type stepKind uint8

const (
	byName stepKind = iota
	byIndex
	everyElement // [*]
	everyChild   // .*
)

// step leads from a value to values inside it.
type step struct {
	kind  stepKind
	index int    // negative from the end
	name  string // without escapes
}

const (
	mostSteps    = 64
	mostPathText = 1024
	mostIndex    = 1 << 30
)

// ParsePath reads a path:
//
//	$ or nothing   the whole document
//	a.b.c          members by name
//	a."x.y"        any name, quoted as in JSON: "q\"q", "\u00e9"
//	a[0], a[-1]    elements, from the start and from the end
//	a[*].b         every element of an array
//	a.*.b          every member of an object, or element of an array
//
// $. and a leading [ may begin a path: $.a, [0].a. A name without quotes is made of
// anything but white space, control characters and . [ ] { } * ". A path has at
// most 1024 bytes and 64 steps. An error says at which byte what was expected.
func ParsePath(text string) (Path, error) {
	if len(text) > mostPathText {
		return Path{}, fmt.Errorf("expected a path of at most %d bytes, got %d", mostPathText, len(text))
	}
	var p Path
	fail := func(at int, want string) (Path, error) {
		got := "the end"
		if at < len(text) {
			got = strconv.Quote(text[at:min(len(text), at+16)])
		}
		return Path{}, fmt.Errorf("expected %s at byte %d of path %q, got %s", want, at, text, got)
	}
	i := 0
	if text == "" {
		return p, nil
	}
	if text[0] == '$' && (len(text) == 1 || text[1] == '.' || text[1] == '[') {
		i = 1
	}
	for first := i == 0; i < len(text); first = false {
		if len(p.steps) == mostSteps {
			return Path{}, fmt.Errorf("expected at most %d steps in path %q", mostSteps, text)
		}
		if text[i] == '[' {
			end := strings.IndexByte(text[i:], ']')
			if end < 0 {
				return fail(len(text), "]")
			}
			inside := text[i+1 : i+end]
			if inside == "*" {
				p.steps = append(p.steps, step{kind: everyElement})
			} else {
				n, err := strconv.Atoi(inside)
				if err != nil || n > mostIndex || n < -mostIndex || inside != strconv.Itoa(n) {
					return fail(i+1, "* or an index such as 0 or -1")
				}
				p.steps = append(p.steps, step{kind: byIndex, index: n})
			}
			i += end + 1
			continue
		}
		if !first {
			if text[i] != '.' {
				return fail(i, ". or [")
			}
			i++
		}
		switch {
		case i < len(text) && text[i] == '*':
			p.steps = append(p.steps, step{kind: everyChild})
			i++
		case i < len(text) && text[i] == '"':
			end := skipString([]byte(text), i)
			if end < 0 {
				return fail(len(text), "a quote")
			}
			if err := Check([]byte(text[i:end]), Limits{}, true); err != nil {
				var r *Refused
				if errors.As(err, &r) {
					return fail(i+r.Offset, strings.TrimPrefix(r.Reason[:strings.LastIndex(r.Reason, ", got")], "expected "))
				}
			}
			p.steps = append(p.steps, step{name: string(appendUnescaped(nil, []byte(text[i+1:end-1])))})
			i = end
		default:
			end := i
			for end < len(text) && isNameByte(text[end]) {
				end++
			}
			if end == i || end < len(text) && text[end] != '.' && text[end] != '[' {
				return fail(end, `a name, with quotes around it if it has anything but letters, digits and the like, or *`)
			}
			if !utf8.ValidString(text[i:end]) {
				return fail(i, "a name in UTF-8")
			}
			p.steps = append(p.steps, step{name: text[i:end]})
			i = end
		}
	}
	return p, nil
}

// isNameByte tells whether c may be in a name without quotes.
func isNameByte(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`.[]{}*"`, c) < 0
}

// String is the path as ParsePath reads it, $ for the root.
func (p Path) String() string {
	if len(p.steps) == 0 {
		return "$"
	}
	var b []byte
	for i, s := range p.steps {
		switch s.kind {
		case byIndex:
			b = append(b, '[')
			b = strconv.AppendInt(b, int64(s.index), 10)
			b = append(b, ']')
			continue
		case everyElement:
			b = append(b, "[*]"...)
			continue
		}
		if i > 0 {
			b = append(b, '.')
		}
		if s.kind == everyChild {
			b = append(b, '*')
			continue
		}
		plain := s.name != "" && (i > 0 || s.name != "$")
		for n := range len(s.name) {
			plain = plain && isNameByte(s.name[n])
		}
		if plain {
			b = append(b, s.name...)
		} else {
			b = AppendString(b, s.name)
		}
	}
	return string(b)
}

// First is the name that p begins with, empty where it does not begin with one.
func (p Path) First() string {
	if len(p.steps) == 0 || p.steps[0].kind != byName {
		return ""
	}
	return p.steps[0].name
}

// Rest is p without its first step; it shares p's memory.
func (p Path) Rest() Path {
	if len(p.steps) == 0 {
		return p
	}
	return Path{p.steps[1:]}
}

// Names is the steps of p where all are names; ok is false where one is not.
func (p Path) Names() (names []string, ok bool) {
	for _, s := range p.steps {
		if s.kind != byName {
			return nil, false
		}
		names = append(names, s.name)
	}
	return names, true
}

// One tells whether p can lead to one value at most: nothing in it is a *.
func (p Path) One() bool { return stars(p.steps) == 0 }

// stars counts the steps of p that lead to more than one value.
func stars(steps []step) (n int) {
	for i := range steps {
		if steps[i].kind >= everyElement {
			n++
		}
	}
	return n
}

// Get returns the first value that p leads to, raw, as a slice of doc. It allocates
// nothing.
func (p Path) Get(doc []byte) (value []byte, ok bool) {
	i := first(doc, space(doc, 0), p.steps)
	if end := skip(doc, i); end >= 0 {
		return doc[i:end:end], true
	}
	return nil, false
}

// Each calls f for every value that p leads to, raw and as slices of doc, in their
// order, until f returns false. It allocates nothing of its own.
func (p Path) Each(doc []byte, f func(value []byte) bool) {
	each(doc, space(doc, 0), p.steps, f)
}

// first returns where the first value begins that steps lead to from b[i], or -1.
func first(b []byte, i int, steps []step) int {
	for n := range steps {
		switch s := &steps[n]; s.kind {
		case byName:
			i = memberOf(b, i, s.name)
		case byIndex:
			i = elementOf(b, i, s.index)
		default:
			w, object, ok := opened(b, i)
			if !ok || object && s.kind == everyElement {
				return -1
			}
			for {
				value := w.child(object)
				if value < 0 {
					return -1
				}
				if found := first(b, value, steps[n+1:]); found >= 0 {
					return found
				}
				w.pass(value)
			}
		}
		if i < 0 {
			return -1
		}
	}
	return i
}

// child is where the value of the next member or element begins, or -1.
func (w *walk) child(object bool) (value int) {
	if !object {
		return w.next()
	}
	_, value = w.member()
	return value
}

// each is false once f was.
func each(b []byte, i int, steps []step, f func([]byte) bool) bool {
	for n := range steps {
		switch s := &steps[n]; s.kind {
		case byName:
			i = memberOf(b, i, s.name)
		case byIndex:
			i = elementOf(b, i, s.index)
		default:
			w, object, ok := opened(b, i)
			if !ok || object && s.kind == everyElement {
				return true
			}
			for {
				value := w.child(object)
				if value < 0 {
					return true
				}
				if !each(b, value, steps[n+1:], f) {
					return false
				}
				w.pass(value)
			}
		}
		if i < 0 {
			return true
		}
	}
	if end := skip(b, i); end >= 0 {
		return f(b[i:end:end])
	}
	return true
}
