package document

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// XML becomes JSON like this:
//
//	<a>text</a>             {"a": "text"}          white space around it is cut
//	<a/>                    {"a": ""}
//	<a x="1"/>              {"a": {"-x": "1"}}
//	<a x="1">text</a>       {"a": {"-x": "1", "#text": "text"}}
//	<a><b>1</b><c/></a>     {"a": {"b": "1", "c": ""}}
//	<a><b>1</b><b>2</b></a> {"a": {"b": ["1", "2"]}}
//	<x:a xmlns:x="u"/>      {"x:a": {"-xmlns:x": "u"}}
//
// All values are texts: XML has no numbers. Members come in the order in which their
// names come first; #text, all text of an element together, is the last. Comments and
// processing instructions are left out. A document type is refused whatever is in it,
// so there are no entities but the five of XML and none that is outside; encodings
// are UTF-8, US-ASCII and ISO-8859-1.
//
// JSON becomes XML the other way round. An object with one member that is no array
// and could be an element is the root, all else is in <root>. Elements of an array
// that has no name are called item. null is an empty element. What a name cannot have
// becomes _, and a character that XML cannot have U+FFFD.

// element is one of XML.
type element struct {
	name     string
	attrs    []xml.Attr
	children []*element
	text     []byte
}

const (
	textName = "#text"
	itemName = "item"
	rootName = "root"
)

// readXML reads the one element at the root of body.
func readXML(body []byte, lim Limits) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.CharsetReader = charset
	var (
		root *element
		open []*element
		left = lim.Nodes
	)
	fail := func(format string, args ...any) (*element, error) {
		return nil, refused(int(d.InputOffset()), format, args...)
	}
	for {
		t, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				return fail("expected XML: %s", syntax.Msg)
			}
			return fail("expected XML: %v", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(open) == 0 && root != nil {
				return fail("expected one element at the root")
			}
			if len(open) >= lim.Depth-1 {
				return nil, tooLarge(int(d.InputOffset()), "expected at most %d elements inside each other", lim.Depth-1)
			}
			if left -= 1 + len(t.Attr); left < 0 {
				return nil, tooLarge(int(d.InputOffset()), "expected at most %d elements and attributes", lim.Nodes)
			}
			if twice := twiceNamed(t.Attr); twice != "" {
				return fail("expected each attribute once, got %q again", twice)
			}
			e := &element{name: rawName(t.Name), attrs: t.Attr}
			if len(open) == 0 {
				root = e
			} else {
				parent := open[len(open)-1]
				parent.children = append(parent.children, e)
			}
			open = append(open, e)
		case xml.EndElement:
			name := rawName(t.Name)
			if len(open) == 0 || open[len(open)-1].name != name {
				return fail("expected the end of an element that is open, got </%s>", short(name))
			}
			e := open[len(open)-1]
			e.text = bytes.TrimSpace(e.text)
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				e := open[len(open)-1]
				e.text = append(e.text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return fail("expected text within the root element")
			}
		case xml.Directive:
			return fail("expected XML without a document type")
		case xml.ProcInst:
			if t.Target != "xml" {
				break
			}
			if root != nil {
				return fail("expected the XML declaration at the start")
			}
		}
	}
	switch {
	case len(open) > 0:
		return fail("expected </%s>, got the end", short(open[len(open)-1].name))
	case root == nil:
		return fail("expected an element, got the end")
	}
	return root, nil
}

func short(name string) string { return name[:min(len(name), 64)] }

// charset reads the encodings that are a part of Unicode byte by byte.
func charset(name string, from io.Reader) (io.Reader, error) {
	switch strings.ToLower(name) {
	case "us-ascii", "ascii":
		return from, nil // what is above it is no UTF-8 either
	case "iso-8859-1", "latin1":
		return &latin1{from: from.(io.ByteReader)}, nil
	}
	return nil, fmt.Errorf("expected UTF-8, US-ASCII or ISO-8859-1, got the encoding %q", short(name))
}

// latin1 reads ISO-8859-1 as UTF-8. It does not read ahead, as the decoder has it.
type latin1 struct {
	from io.ByteReader
	half byte // of a character; 0 for none
}

func (l *latin1) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if l.half != 0 {
			p[n], l.half = l.half, 0
			n++
			continue
		}
		c, err := l.from.ReadByte()
		if err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		if c >= utf8.RuneSelf {
			l.half = 0x80 | c&0x3f
			c = 0xc0 | c>>6
		}
		p[n] = c
		n++
	}
	return n, nil
}

func rawName(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

func twiceNamed(attrs []xml.Attr) string {
	const few = 8
	if len(attrs) > few {
		seen := make(map[xml.Name]struct{}, len(attrs))
		for _, a := range attrs {
			if _, ok := seen[a.Name]; ok {
				return short(rawName(a.Name))
			}
			seen[a.Name] = struct{}{}
		}
		return ""
	}
	for i := range attrs {
		for j := range attrs[:i] {
			if attrs[i].Name == attrs[j].Name {
				return short(rawName(attrs[i].Name))
			}
		}
	}
	return ""
}

func fromXML(dst, body []byte, lim Limits) ([]byte, error) {
	root, err := readXML(body, lim)
	if err != nil {
		return nil, err
	}
	w := xmlAsJSON{dst: dst, most: len(dst) + lim.Bytes}
	w.dst = append(AppendString(append(w.dst, '{'), root.name), ':')
	w.element(root)
	if len(w.dst) > w.most {
		return nil, tooLong(lim.Bytes)
	}
	return append(w.dst, '}'), nil
}

type xmlAsJSON struct {
	dst  []byte
	most int
}

func (w *xmlAsJSON) element(e *element) {
	if len(e.attrs) == 0 && len(e.children) == 0 {
		w.dst = AppendString(w.dst, e.text)
		return
	}
	w.dst = append(w.dst, '{')
	some := false
	begin := func(name string) {
		if some {
			w.dst = append(w.dst, ',')
		}
		some = true
		w.dst = append(AppendString(w.dst, name), ':')
	}
	for _, a := range e.attrs {
		begin("-" + rawName(a.Name))
		w.dst = AppendString(w.dst, a.Value)
	}
	for _, same := range byNames(e.children) {
		if len(w.dst) > w.most {
			return
		}
		begin(same[0].name)
		if len(same) == 1 {
			w.element(same[0])
			continue
		}
		w.dst = append(w.dst, '[')
		for i, child := range same {
			if i > 0 {
				w.dst = append(w.dst, ',')
			}
			w.element(child)
		}
		w.dst = append(w.dst, ']')
	}
	if len(e.text) > 0 {
		begin(textName)
		w.dst = AppendString(w.dst, e.text)
	}
	w.dst = append(w.dst, '}')
}

// byNames puts elements of one name together, in the order in which names come first.
func byNames(children []*element) (groups [][]*element) {
	var index map[string]int
	const few = 8
	for _, c := range children {
		at := -1
		if index != nil {
			if i, ok := index[c.name]; ok {
				at = i
			}
		} else {
			for i := range groups {
				if groups[i][0].name == c.name {
					at = i
				}
			}
		}
		if at >= 0 {
			groups[at] = append(groups[at], c)
			continue
		}
		groups = append(groups, []*element{c})
		if index != nil {
			index[c.name] = len(groups) - 1
		} else if len(groups) > few {
			index = make(map[string]int, len(children))
			for i := range groups {
				index[groups[i][0].name] = i
			}
		}
	}
	return groups
}

func toXML(dst, doc []byte, lim Limits) ([]byte, error) {
	w := jsonAsXML{b: doc, dst: dst, most: len(dst) + lim.Bytes}
	w.dst = append(w.dst, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"...)
	name, value := []byte(rootName), 0
	if only, at := onlyMember(doc); at >= 0 && doc[at] != '[' && isXMLName(only) {
		name, value = only, at
	}
	w.element(name, value, 0)
	switch {
	case w.bad:
		return nil, errBad
	case len(w.dst) > w.most:
		return nil, tooLong(lim.Bytes)
	}
	return append(w.dst, '\n'), nil
}

// onlyMember is the name, without escapes, and the value of an object's only member;
// value is -1 where it has not just one.
func onlyMember(doc []byte) (name []byte, value int) {
	w, object, _ := opened(doc, 0)
	if !object {
		return nil, -1
	}
	raw, value := w.member()
	if value < 0 {
		return nil, -1
	}
	w.pass(value)
	if _, second := w.member(); second >= 0 || w.bad {
		return nil, -1
	}
	return appendUnescaped(nil, raw), value
}

// isXMLName tells whether name can be an element's as it is (XML 1.0 2.3), with one
// colon at most (Namespaces in XML).
func isXMLName(name []byte) bool {
	return len(name) > 0 && bytes.Count(name, []byte(":")) <= 1 && name[len(name)-1] != ':' && string(appendXMLName(nil, name)) == string(name) &&
		name[0] != ':'
}

// appendXMLName appends name with _ for what a name cannot have.
func appendXMLName(dst, name []byte) []byte {
	start := len(dst)
	for len(name) > 0 {
		r, size := utf8.DecodeRune(name)
		switch {
		case isNameStart(r):
		case len(dst) > start && isNameRune(r):
		case len(dst) == start && isNameRune(r):
			dst = append(dst, '_')
		default:
			r = '_'
		}
		dst = utf8.AppendRune(dst, r)
		name = name[size:]
	}
	if len(dst) == start {
		dst = append(dst, '_')
	}
	return dst
}

func isNameStart(r rune) bool {
	return r == ':' || r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' ||
		r >= 0xc0 && r <= 0x2ff && r != 0xd7 && r != 0xf7 || r >= 0x370 && r <= 0x1fff && r != 0x37e ||
		r >= 0x200c && r <= 0x200d || r >= 0x2070 && r <= 0x218f || r >= 0x2c00 && r <= 0x2fef ||
		r >= 0x3001 && r <= 0xd7ff || r >= 0xf900 && r <= 0xfdcf || r >= 0xfdf0 && r <= 0xfffc || r >= 0x10000 && r <= 0xeffff
}

func isNameRune(r rune) bool {
	return isNameStart(r) || r == '-' || r == '.' || r >= '0' && r <= '9' || r == 0xb7 ||
		r >= 0x300 && r <= 0x36f || r >= 0x203f && r <= 0x2040
}

type jsonAsXML struct {
	b, dst []byte
	most   int
	bad    bool
	text   []byte
}

// element writes the value at b[i] as an element called name, or an array as several.
func (w *jsonAsXML) element(name []byte, i, depth int) {
	if len(w.dst) > w.most || depth > mostDepth {
		w.bad = w.bad || depth > mostDepth
		return
	}
	w.dst = appendXMLName(append(w.dst, '<'), name)
	end := skip(w.b, i)
	if end < 0 {
		w.bad = true
		return
	}
	switch w.b[i] {
	case '{':
		empty := w.attributes(i)
		if empty {
			w.dst = append(w.dst, "/>"...)
			return
		}
		w.dst = append(w.dst, '>')
		w.children(i, depth)
	case '[':
		w.dst = append(w.dst, '>')
		w.elements([]byte(itemName), i, depth)
	default:
		if string(w.b[i:end]) == "null" || end-i == 2 && w.b[i] == '"' {
			w.dst = append(w.dst, "/>"...)
			return
		}
		w.dst = append(w.dst, '>')
		w.scalar(w.b[i:end], false)
	}
	w.dst = appendXMLName(append(w.dst, "</"...), name)
	w.dst = append(w.dst, '>')
}

// elements writes the elements of the array at b[i], each called name.
func (w *jsonAsXML) elements(name []byte, i, depth int) {
	v := walk{b: w.b, i: i + 1}
	for value := v.next(); value >= 0 && len(w.dst) <= w.most; value = v.next() {
		w.element(name, value, depth+1)
		v.pass(value)
	}
	w.bad = w.bad || v.bad
}

// attributes writes those of the object at b[i]: its members whose names begin with -
// and could be those of attributes, and that are neither objects nor arrays. empty
// tells that it has no others.
func (w *jsonAsXML) attributes(i int) (empty bool) {
	empty = true
	var seen map[string]struct{}
	v := walk{b: w.b, i: i + 1}
	for {
		raw, value := v.member()
		if value < 0 {
			break
		}
		end := v.pass(value)
		name, ok := w.attribute(raw, value)
		if !ok {
			empty = false
			continue
		}
		if _, again := seen[string(name)]; again {
			continue // a name that is twice, which Check may have let pass
		}
		if seen == nil {
			seen = map[string]struct{}{}
		}
		seen[string(name)] = struct{}{}
		w.dst = append(append(append(w.dst, ' '), name...), `="`...)
		if string(w.b[value:end]) != "null" {
			w.scalar(w.b[value:end], true)
		}
		w.dst = append(w.dst, '"')
	}
	w.bad = w.bad || v.bad
	return empty
}

// attribute tells whether a member is one, and its name.
func (w *jsonAsXML) attribute(raw []byte, value int) (name []byte, ok bool) {
	if len(raw) < 2 || raw[0] != '-' || value >= len(w.b) || w.b[value] == '{' || w.b[value] == '[' {
		return nil, false
	}
	w.text = appendUnescaped(w.text[:0], raw[1:])
	return w.text, isXMLName(w.text)
}

// children writes the members of the object at b[i] that are no attributes.
func (w *jsonAsXML) children(i, depth int) {
	v := walk{b: w.b, i: i + 1}
	for {
		raw, value := v.member()
		if value < 0 {
			break
		}
		end := v.pass(value)
		if _, ok := w.attribute(raw, value); ok {
			continue
		}
		switch {
		case value < len(w.b) && w.b[value] == '[':
			w.elements(appendUnescaped(nil, raw), value, depth+1)
		case nameIs(raw, textName) && value < len(w.b) && w.b[value] != '{':
			if string(w.b[value:end]) != "null" {
				w.scalar(w.b[value:end], false)
			}
		default:
			w.element(appendUnescaped(nil, raw), value, depth+1)
		}
	}
	w.bad = w.bad || v.bad
}

// scalar writes a text, number or word.
func (w *jsonAsXML) scalar(value []byte, quoted bool) {
	text := AppendText(nil, value)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '<':
			w.dst = append(w.dst, "&lt;"...)
		case r == '>':
			w.dst = append(w.dst, "&gt;"...)
		case r == '&':
			w.dst = append(w.dst, "&amp;"...)
		case r == '"' && quoted:
			w.dst = append(w.dst, "&#34;"...)
		case r == '\r', quoted && (r == '\n' || r == '\t'):
			w.dst = fmt.Appendf(w.dst, "&#%d;", r)
		case r < ' ' && r != '\n' && r != '\t', r == 0xfffe, r == 0xffff:
			w.dst = utf8.AppendRune(w.dst, utf8.RuneError)
		default:
			w.dst = utf8.AppendRune(w.dst, r)
		}
		text = text[size:]
	}
}
