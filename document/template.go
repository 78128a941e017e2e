package document

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"sluice/wire"
)

// Mode says what a template's text is for, and so how values are written in it.
type Mode uint8

// The modes.
const (
	Raw      Mode = iota // as AppendText has them
	URL                  // percent-encoded: a path, a query or a part of one
	Header               // as they are; control characters are refused
	BodyJSON             // JSON: with its type where one stands alone, escaped within a text
)

// Template is a text with {path} inside, for which values are put. It never changes
// and may be used by any number of goroutines.
type Template struct {
	mode   Mode
	pieces []piece
	path   bool // mode is URL, and the text has a path
}

// piece is text, or a path where there is one.
type piece struct {
	text     string
	path     Path
	isValue  bool
	inString bool // of a template of mode BodyJSON
}

// Missing is the error of a template for which there is no value.
type Missing struct{ Path Path }

func (m *Missing) Error() string { return "expected a value for {" + m.Path.String() + "}, got none" }

const (
	mostTemplate = 64 << 10
	mostPieces   = 1000
)

// ParseTemplate compiles text, in which {path} stands for a value: {user.id},
// {"a b"[0]}, {$}. Paths lead to one value; none has a *. {{ and }} stand for braces.
//
// In mode BodyJSON text is a JSON document, once values stand in it:
//
//	{"id": {user.id}, "text": "Dear {user.name}"}
//
// Only { that is followed by neither a quote nor white space nor } begins a path outside of
// texts, so that objects need no second brace; {$."a b"} is a path that begins with
// a quote. {{ and }} are for texts alone.
//
// An error says at which byte what was expected. A template has at most 64 KiB and
// 1000 pieces.
func ParseTemplate(text string, mode Mode) (*Template, error) {
	if len(text) > mostTemplate {
		return nil, fmt.Errorf("expected a template of at most %d bytes, got %d", mostTemplate, len(text))
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("expected a template in UTF-8")
	}
	t := &Template{mode: mode}
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			t.pieces = append(t.pieces, piece{text: string(literal)})
			literal = nil
		}
	}
	inString := false
	for i := 0; i < len(text); {
		c := text[i]
		next := byte(0)
		if i+1 < len(text) {
			next = text[i+1]
		}
		bracesAreOurs := mode != BodyJSON || inString
		switch {
		case mode == BodyJSON && c == '"':
			inString = !inString
		case mode == BodyJSON && inString && c == '\\' && next != 0:
			literal = append(literal, c, next)
			i += 2
			continue
		case bracesAreOurs && (c == '{' || c == '}') && c == next:
			literal = append(literal, c)
			i += 2
			continue
		case bracesAreOurs && c == '}':
			return nil, fmt.Errorf("expected }} for a brace at byte %d of template %q", i, cut(text))
		case c == '{' && (bracesAreOurs || next != 0 && next != '"' && next != '}' && !isSpace(next)):
			end := endOfPath(text, i+1)
			if end < 0 {
				return nil, fmt.Errorf("expected } for the { at byte %d of template %q", i, cut(text))
			}
			path, err := ParsePath(text[i+1 : end])
			switch {
			case err != nil:
				return nil, fmt.Errorf("at byte %d of template %q: %w", i+1, cut(text), err)
			case end == i+1:
				return nil, fmt.Errorf("expected a path between the braces at byte %d of template %q", i, cut(text))
			case !path.One():
				return nil, fmt.Errorf("expected a path without * at byte %d of template %q", i+1, cut(text))
			}
			flush()
			t.pieces = append(t.pieces, piece{path: path, isValue: true, inString: inString})
			i = end + 1
			continue
		}
		literal = append(literal, c)
		i++
	}
	flush()
	if len(t.pieces) > mostPieces {
		return nil, fmt.Errorf("expected a template of at most %d texts and paths, got %d", mostPieces, len(t.pieces))
	}
	return t, t.check(text)
}

func cut(text string) string { return text[:min(len(text), 64)] }

// endOfPath is where the brace is that ends the path which begins at text[i].
func endOfPath(text string, i int) int {
	for i < len(text) {
		switch text[i] {
		case '}':
			return i
		case '"':
			if i = skipString([]byte(text), i); i < 0 {
				return -1
			}
		default:
			i++
		}
	}
	return -1
}

// check looks at the texts of a template, as its mode wants them.
func (t *Template) check(text string) error {
	switch t.mode {
	case Header:
		for _, p := range t.pieces {
			if !wire.IsFieldValue([]byte(p.text)) {
				return fmt.Errorf("expected a template of a header without control characters, got %q", cut(text))
			}
		}
	case URL:
		for _, p := range t.pieces {
			if strings.ContainsFunc(p.text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				return fmt.Errorf("expected a template of a URL without white space and control characters, got %q", cut(text))
			}
			if p.text != "" {
				before, _, query := strings.Cut(p.text, "?")
				t.path = t.path || strings.Contains(before, "/")
				if query {
					break
				}
			}
		}
	case BodyJSON:
		// It must be JSON whatever stands in each place: a number could be a part of
		// another, a text could be a name.
		for _, value := range []string{"0", `""`} {
			example, err := t.Append(nil, func(Path) ([]byte, bool) { return []byte(value), true })
			if err == nil {
				err = Check(example, Limits{}, true)
			}
			if err != nil {
				return fmt.Errorf("expected a template that becomes JSON, got %q: %w", cut(text), err)
			}
		}
	}
	return nil
}

// References is the names that paths of the template begin with, each once, in their
// order; "" stands for a path that does not begin with a name.
func (t *Template) References() []string {
	var names []string
	for _, p := range t.pieces {
		if !p.isValue {
			continue
		}
		if name := p.path.First(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Append appends the text with its values to dst. lookup gives the value of a path as
// raw JSON that has passed Check; Append asks for each path as often as it stands in
// the text.
//
// It fails with *Missing where lookup has no value. In mode URL it fails for a value
// that would make another path of the one that was written: an empty one, and one that
// makes a segment . or .. of it; in mode Header for one with control characters. dst
// then comes back as it was. Append itself allocates nothing when dst is large enough.
func (t *Template) Append(dst []byte, lookup func(path Path) (raw []byte, ok bool)) ([]byte, error) {
	start := len(dst)
	inQuery := false
	for i := range t.pieces {
		p := &t.pieces[i]
		if !p.isValue {
			dst = append(dst, p.text...)
			inQuery = inQuery || strings.IndexByte(p.text, '?') >= 0
			continue
		}
		raw, ok := lookup(p.path)
		if raw = trim(raw); !ok || len(raw) == 0 {
			return dst[:start], &Missing{p.path}
		}
		mark := len(dst)
		switch {
		case t.mode == BodyJSON && !p.inString:
			dst = append(dst, raw...)
		case t.mode == BodyJSON && raw[0] == '"':
			dst = append(dst, raw[1:len(raw)-1]...)
		case t.mode == BodyJSON:
			dst = appendEscaped(dst, raw)
		case t.mode == URL:
			dst = appendPercent(dst, raw)
			if t.path && !inQuery && (len(dst) == mark) {
				return dst[:start], fmt.Errorf("expected a value for {%s} that is not empty", p.path)
			}
		default:
			dst = AppendText(dst, raw)
			if t.mode == Header && !wire.IsFieldValue(dst[mark:]) {
				return dst[:start], fmt.Errorf("expected a value for {%s} without control characters", p.path)
			}
		}
	}
	if t.path && dotted(dst[start:]) {
		return dst[:start], errors.New("expected values that make no segment . or .. of a path")
	}
	return dst, nil
}

// dotted tells whether a segment of a path is . or .., which would lead elsewhere.
func dotted(url []byte) bool {
	if i := bytes.IndexAny(url, "?#"); i >= 0 {
		url = url[:i]
	}
	for len(url) > 0 {
		segment, rest, _ := bytes.Cut(url, []byte("/"))
		if string(segment) == "." || string(segment) == ".." {
			return true
		}
		url = rest
	}
	return false
}

// appendPercent appends a value as text, all but unreserved characters (RFC 3986 2.3)
// percent-encoded.
func appendPercent(dst, raw []byte) []byte {
	const hex = "0123456789ABCDEF"
	mark := len(dst)
	dst = AppendText(dst, raw)
	more := 0
	for _, c := range dst[mark:] {
		if !unreserved(c) {
			more += 2
		}
	}
	if more == 0 {
		return dst
	}
	// From the end, so that it can be done in place.
	from := len(dst)
	dst = slices.Grow(dst, more)[:from+more]
	for to := len(dst); from > mark; {
		from--
		if c := dst[from]; unreserved(c) {
			to--
			dst[to] = c
		} else {
			to -= 3
			dst[to], dst[to+1], dst[to+2] = '%', hex[c>>4], hex[c&15]
		}
	}
	return dst
}

func unreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// Paths are the paths of t, in their order; one that stands there twice is there
// twice.
func (t *Template) Paths() (list []Path) {
	for _, p := range t.pieces {
		if p.isValue {
			list = append(list, p.path)
		}
	}
	return list
}
