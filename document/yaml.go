package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
)

// YAML becomes JSON by the core schema of YAML 1.2: numbers keep their digits where
// JSON has them so, and hexadecimal ones and the like become decimal; yes, no and dates
// are texts. Keys become texts. Aliases are written out wherever they stand, and count
// towards the limits each time. << merges. Infinity, NaN, keys that are no scalars,
// keys that are there twice, tags other than those of the core schema and a second
// document are refused. No document is null.
//
// JSON becomes YAML in block style, with quotes around texts that could be taken for
// something else.

// The bounds of YAML, beside Limits. The parser recurses for every level of nesting
// and for every key of a block mapping, takes some hundred bytes for each word, and
// works in the square of the keys of a mapping and of blank lines in a row. All are
// counted before it sees them.
const (
	mostYAML       = 2 << 20
	mostTokens     = 1 << 17
	mostYAMLDepth  = 64
	mostKeys       = 4096 // in one mapping
	mostBlankLines = 100
)

func inLine(p *token.Position, format string, args ...any) *Refused {
	r := &Refused{Line: 1, Reason: fmt.Sprintf(format, args...)}
	if p != nil {
		r.Line = max(p.Line, 1)
	}
	return r
}

func beyond(p *token.Position, format string, args ...any) *Refused {
	r := inLine(p, format, args...)
	r.TooLarge = true
	return r
}

func fromYAML(dst, body []byte, lim Limits) (out []byte, err error) {
	if len(body) > mostYAML {
		return nil, tooLarge(mostYAML, "expected at most %d bytes of YAML", mostYAML)
	}
	// The libraries shall not end the process by what they have not met before.
	defer func() {
		if r := recover(); r != nil {
			err = refused(0, "expected YAML: the parser failed: %v", r)
		}
	}()
	if at := invalidYAMLByte(body); at < len(body) {
		return nil, refused(at, "expected UTF-8 without control bytes, got byte 0x%02x", body[at])
	}
	if line := blankLines(body); line > 0 {
		return nil, beyond(&token.Position{Line: line}, "expected at most %d blank lines in a row", mostBlankLines)
	}
	// Positions go wrong with CRLF.
	tokens, refusal := scanYAML(strings.ReplaceAll(string(body), "\r\n", "\n"), min(lim.Depth, mostYAMLDepth))
	if refusal != nil {
		return nil, refusal
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) && syntax.Token != nil {
			return nil, inLine(syntax.Token.Position, "expected YAML: %s", syntax.Message)
		}
		return nil, inLine(nil, "expected YAML: %v", err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.DirectiveType:
		case root != nil:
			return nil, inLine(doc.Body.GetToken().Position, "expected one document, got another one here")
		default:
			root = doc.Body
		}
	}
	w := yamlAsJSON{dst: dst, most: len(dst) + lim.Bytes, lim: lim, nodes: lim.Nodes, aliases: map[*ast.AliasNode]ast.Node{}}
	if err := w.link(root, map[string]ast.Node{}); err != nil {
		return nil, err
	}
	if err := w.value(root, 0); err != nil {
		return nil, err
	}
	return w.dst, nil
}

// invalidYAMLByte returns where the first byte is that no YAML may hold.
func invalidYAMLByte(b []byte) int {
	for i, c := range b {
		if c < ' ' && c != '\n' && c != '\t' && (c != '\r' || i+1 == len(b) || b[i+1] != '\n') || c == 0x7f {
			return min(i, invalidUTF8(b, 0))
		}
	}
	return invalidUTF8(b, 0)
}

// blankLines returns the line in which a run of them becomes too long, or 0.
func blankLines(b []byte) int {
	line, run := 0, 0
	for len(b) > 0 {
		var content []byte
		content, b, _ = bytes.Cut(b, []byte("\n"))
		line, run = line+1, run+1
		if len(bytes.TrimSpace(content)) > 0 {
			run = 0
		}
		if run > mostBlankLines {
			return line
		}
	}
	return 0
}

// scanYAML cuts text into tokens and holds them to the bounds.
func scanYAML(text string, depth int) (tokens token.Tokens, refusal error) {
	var s scanner.Scanner
	s.Init(text)
	n := nesting{most: depth}
	for {
		batch, err := s.Scan()
		if errors.Is(err, io.EOF) {
			return tokens, nil
		}
		for _, t := range batch {
			tokens.Add(t)
			if r := n.add(t); r != nil {
				return nil, r
			}
			if t.Type == token.InvalidType {
				return nil, inLine(t.Position, "expected YAML: %s", t.Error)
			}
			if len(tokens) > mostTokens {
				return nil, beyond(t.Position, "expected at most %d words of YAML", mostTokens)
			}
		}
		if err != nil {
			return nil, inLine(nil, "expected YAML: %v", err)
		}
	}
}

// nesting counts levels of brackets and of indentation, and keys by level.
type nesting struct {
	most  int
	flow  []level
	block []level
}

// level is one open mapping or list.
type level struct {
	column  int // of a block, where its keys or dashes stand
	keys    int
	mapping bool // of brackets, whether they are { }
}

func (n *nesting) add(t *token.Token) error {
	var here *level
	switch t.Type {
	case token.MappingStartType, token.SequenceStartType:
		n.flow = append(n.flow, level{mapping: t.Type == token.MappingStartType})
	case token.MappingEndType, token.SequenceEndType:
		n.flow = n.flow[:max(len(n.flow)-1, 0)]
	case token.CollectEntryType:
		if len(n.flow) > 0 && n.flow[len(n.flow)-1].mapping {
			here = &n.flow[len(n.flow)-1]
		}
	case token.SequenceEntryType, token.MappingKeyType:
		n.enter(t.Position.Column)
	case token.MappingValueType:
		column := t.Position.Column
		if t.Prev != nil && t.Prev.Position.Line == t.Position.Line {
			column = t.Prev.Position.Column
		}
		here = n.enter(column)
	}
	if here != nil {
		if here.keys++; here.keys > mostKeys {
			return beyond(t.Position, "expected at most %d keys in one mapping of YAML", mostKeys)
		}
	}
	if len(n.flow)+len(n.block) > n.most {
		return beyond(t.Position, "expected at most %d levels of nesting in YAML", n.most)
	}
	return nil
}

// enter goes to the level of column and leaves those that are further right. Between
// brackets indentation means nothing.
func (n *nesting) enter(column int) *level {
	if len(n.flow) > 0 {
		return nil
	}
	for len(n.block) > 0 && n.block[len(n.block)-1].column > column {
		n.block = n.block[:len(n.block)-1]
	}
	if len(n.block) == 0 || n.block[len(n.block)-1].column < column {
		n.block = append(n.block, level{column: column})
	}
	return &n.block[len(n.block)-1]
}

type yamlAsJSON struct {
	dst     []byte
	most    int
	lim     Limits
	nodes   int // that may still be written
	aliases map[*ast.AliasNode]ast.Node
}

func position(n ast.Node) *token.Position {
	if n == nil || n.GetToken() == nil {
		return nil
	}
	return n.GetToken().Position
}

// link binds every alias to the anchor above it. An anchor can be used only after its
// end, so no alias can hold itself.
func (w *yamlAsJSON) link(n ast.Node, anchors map[string]ast.Node) error {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if err := w.link(v, anchors); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		if err := w.link(n.Key, anchors); err != nil {
			return err
		}
		return w.link(n.Value, anchors)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			if err := w.link(v, anchors); err != nil {
				return err
			}
		}
	case *ast.MappingKeyNode:
		return w.link(n.Value, anchors)
	case *ast.TagNode:
		return w.link(n.Value, anchors)
	case *ast.AnchorNode:
		if err := w.link(n.Value, anchors); err != nil {
			return err
		}
		anchors[n.Name.GetToken().Value] = n.Value
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := anchors[name]
		if !ok {
			return inLine(position(n), "expected an anchor &%s above this alias", short(name))
		}
		w.aliases[n] = target
	}
	return nil
}

// plain strips anchors and tags and follows aliases. text tells that a tag wants the
// scalar to be a text.
func (w *yamlAsJSON) plain(n ast.Node) (_ ast.Node, text bool, err error) {
	for {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			n = w.aliases[x]
		case *ast.TagNode:
			switch tag := strings.TrimSpace(x.GetToken().Value); tag {
			case "!!str", "!":
				text = true
			case "!!map", "!!seq", "!!int", "!!float", "!!bool", "!!null":
			default:
				return nil, false, inLine(position(x), "expected a tag of the core schema, got %q", short(tag))
			}
			n = x.Value
		default:
			return n, text, nil
		}
	}
}

// spend counts one value.
func (w *yamlAsJSON) spend(n ast.Node, depth int) error {
	w.nodes--
	switch {
	case w.nodes < 0:
		return beyond(position(n), "expected at most %d values, those of aliases each time", w.lim.Nodes)
	case depth > w.lim.Depth:
		return beyond(position(n), "expected at most %d levels of nesting, those of aliases too", w.lim.Depth)
	case len(w.dst) > w.most:
		return tooLong(w.lim.Bytes)
	}
	return nil
}

func (w *yamlAsJSON) value(n ast.Node, depth int) error {
	n, asText, err := w.plain(n)
	if err != nil {
		return err
	}
	if err := w.spend(n, depth); err != nil {
		return err
	}
	switch x := n.(type) {
	case nil, *ast.NullNode:
		if asText {
			w.dst = append(w.dst, `""`...)
		} else {
			w.dst = append(w.dst, "null"...)
		}
		return nil
	case *ast.SequenceNode:
		w.dst = append(w.dst, '[')
		for i, item := range x.Values {
			if i > 0 {
				w.dst = append(w.dst, ',')
			}
			if err := w.value(item, depth+1); err != nil {
				return err
			}
		}
		w.dst = append(w.dst, ']')
		return nil
	case *ast.MappingNode, *ast.MappingValueNode:
		return w.mapping(n, depth)
	}
	text, ok := scalarText(n)
	if !ok {
		return inLine(position(n), "expected a value that JSON has, got %s", n.Type())
	}
	if asText {
		w.dst = AppendString(w.dst, text)
		return nil
	}
	switch x := n.(type) {
	case *ast.BoolNode:
		w.dst = strconv.AppendBool(w.dst, x.Value)
	case *ast.IntegerNode, *ast.FloatNode:
		return w.number(n, text)
	case *ast.InfinityNode, *ast.NanNode:
		return inLine(position(n), "expected a number that JSON has, got %s", short(text))
	case *ast.StringNode:
		// The parser takes numbers for texts that do not fit into 64 bits, or have an
		// exponent and no point.
		if x.Token.Type == token.StringType && isNumber(text) {
			w.dst = append(w.dst, text...)
		} else {
			w.dst = AppendString(w.dst, text)
		}
	default:
		w.dst = AppendString(w.dst, text)
	}
	return nil
}

// isNumber tells whether text is a number as JSON has it.
func isNumber(text string) bool {
	if text == "" || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return false
	}
	c := checker{b: []byte(text)}
	return c.number(0) == len(text)
}

// number writes a number with its digits, if JSON has it so.
func (w *yamlAsJSON) number(n ast.Node, text string) error {
	if isNumber(text) {
		w.dst = append(w.dst, text...)
		return nil
	}
	switch x := n.(type) {
	case *ast.IntegerNode:
		switch v := x.Value.(type) {
		case int64:
			w.dst = strconv.AppendInt(w.dst, v, 10)
			return nil
		case uint64:
			w.dst = strconv.AppendUint(w.dst, v, 10)
			return nil
		}
	case *ast.FloatNode:
		if !math.IsInf(x.Value, 0) && !math.IsNaN(x.Value) {
			w.dst = appendFloat(w.dst, x.Value)
			return nil
		}
	}
	return inLine(position(n), "expected a number that JSON has, got %q", short(text))
}

// scalarText is the text of a scalar as it was written.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.NullNode:
		return "null", true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// yamlEntry is one key of a mapping.
type yamlEntry struct {
	key   string
	value ast.Node
}

func (w *yamlAsJSON) mapping(n ast.Node, depth int) error {
	list, err := w.entries(n, depth)
	if err != nil {
		return err
	}
	w.dst = append(w.dst, '{')
	for i, e := range list {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.dst = append(AppendString(w.dst, e.key), ':')
		if err := w.value(e.value, depth+1); err != nil {
			return err
		}
	}
	w.dst = append(w.dst, '}')
	return nil
}

// entries lists the keys of a mapping, with those that << brings behind its own.
func (w *yamlAsJSON) entries(n ast.Node, depth int) (list []yamlEntry, err error) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		return nil, inLine(position(n), "expected a mapping to merge")
	}
	seen := make(map[string]struct{}, len(values))
	var merges []ast.Node
	for _, v := range values {
		if v.Key.IsMergeKey() {
			merges = append(merges, v.Value)
			continue
		}
		key, err := w.key(v.Key)
		if err != nil {
			return nil, err
		}
		if _, twice := seen[key]; twice {
			return nil, inLine(position(v.Key), "expected each key once, got %q again", short(key))
		}
		seen[key] = struct{}{}
		list = append(list, yamlEntry{key, v.Value})
	}
	for _, m := range merges {
		if list, err = w.merge(list, seen, m, depth+1); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// merge appends the keys of m, a mapping or a list of them, that are not there.
func (w *yamlAsJSON) merge(list []yamlEntry, seen map[string]struct{}, m ast.Node, depth int) ([]yamlEntry, error) {
	m, _, err := w.plain(m)
	if err == nil {
		err = w.spend(m, depth)
	}
	if err != nil {
		return nil, err
	}
	if seq, ok := m.(*ast.SequenceNode); ok {
		for _, item := range seq.Values {
			if list, err = w.merge(list, seen, item, depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	merged, err := w.entries(m, depth)
	if err != nil {
		return nil, err
	}
	for _, e := range merged {
		if err := w.spend(e.value, depth); err != nil {
			return nil, err
		}
		if _, there := seen[e.key]; !there {
			seen[e.key] = struct{}{}
			list = append(list, e)
		}
	}
	return list, nil
}

// key is a key as a text: 404 and true are names too.
func (w *yamlAsJSON) key(key ast.MapKeyNode) (string, error) {
	n := ast.Node(key)
	if explicit, ok := n.(*ast.MappingKeyNode); ok {
		n = explicit.Value
	}
	n, _, err := w.plain(n)
	if err != nil {
		return "", err
	}
	text, ok := "", false
	if n != nil {
		text, ok = scalarText(n)
	}
	if !ok {
		return "", inLine(position(key), "expected a key that is a text or number")
	}
	return text, nil
}

func toYAML(dst, doc []byte, lim Limits) ([]byte, error) {
	w := jsonAsYAML{b: doc, dst: dst, most: len(dst) + lim.Bytes}
	w.value(0, 0, true)
	switch {
	case w.bad:
		return nil, errBad
	case len(w.dst) > w.most:
		return nil, tooLong(lim.Bytes)
	}
	return append(w.dst, '\n'), nil
}

type jsonAsYAML struct {
	b, dst []byte
	most   int
	bad    bool
	text   []byte
}

// value writes the value at b[i], and a mapping or list at an indentation. there tells
// that the line is there already up to this indentation.
func (w *jsonAsYAML) value(i, indent int, there bool) (end int) {
	v, object, ok := opened(w.b, i)
	if !ok {
		if end = skip(w.b, i); end < 0 {
			w.bad = true
			return len(w.b)
		}
		w.space(there)
		w.scalar(w.b[i:end])
		return end
	}
	some := false
	for len(w.dst) <= w.most {
		if indent > 2*mostDepth {
			w.bad = true
			break
		}
		var name []byte
		value := -1
		if object {
			name, value = v.member()
		} else {
			value = v.next()
		}
		if value < 0 {
			break
		}
		if some || !there {
			w.dst = append(w.dst, '\n')
			for range indent {
				w.dst = append(w.dst, ' ')
			}
		}
		some = true
		if object {
			w.key(name, indent)
			v.i = w.value(value, indent+2, false)
		} else {
			w.dst = append(w.dst, '-', ' ')
			v.i = w.value(value, indent+2, true)
		}
	}
	w.bad = w.bad || v.bad
	if !some {
		w.space(there)
		w.dst = append(w.dst, w.b[i])
		w.dst = append(w.dst, w.b[i]+2) // the closing bracket
	}
	return v.i
}

func (w *jsonAsYAML) space(there bool) {
	if !there {
		w.dst = append(w.dst, ' ')
	}
}

func (w *jsonAsYAML) key(raw []byte, indent int) {
	const mostImplicit = 1000 // characters of a key without a question mark: 1024
	mark := len(w.dst)
	w.text = appendUnescaped(w.text[:0], raw)
	w.scalarText(w.text)
	if len(w.dst)-mark > mostImplicit {
		w.dst = append(w.dst, "? "...)
		copy(w.dst[mark+2:], w.dst[mark:])
		copy(w.dst[mark:], "? ")
		w.dst = append(w.dst, '\n')
		for range indent {
			w.dst = append(w.dst, ' ')
		}
	}
	w.dst = append(w.dst, ':')
}

func (w *jsonAsYAML) scalar(value []byte) {
	if value[0] != '"' {
		w.dst = append(w.dst, value...)
		return
	}
	w.text = appendUnescaped(w.text[:0], value[1:len(value)-1])
	w.scalarText(w.text)
}

func (w *jsonAsYAML) scalarText(text []byte) {
	if plainYAML(text) {
		w.dst = append(w.dst, text...)
		return
	}
	w.dst = append(w.dst, '"')
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '"' || r == '\\':
			w.dst = append(w.dst, '\\', byte(r))
		case r == '\n':
			w.dst = append(w.dst, `\n`...)
		case r == '\t':
			w.dst = append(w.dst, `\t`...)
		case r == ' ' || r < 0x7f && r > ' ' || r >= 0xa0 && unicode.IsPrint(r):
			w.dst = utf8.AppendRune(w.dst, r)
		case r > 0xffff:
			w.dst = fmt.Appendf(w.dst, `\U%08x`, r)
		default:
			w.dst = fmt.Appendf(w.dst, `\u%04x`, r)
		}
		text = text[size:]
	}
	w.dst = append(w.dst, '"')
}

// plainYAML tells whether text is the same text in YAML without quotes, by any of its
// versions.
func plainYAML(text []byte) bool {
	isLetter := func(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
	const longest = 128
	if len(text) == 0 || len(text) > longest || !isLetter(text[0]) {
		return false
	}
	for i, c := range text {
		switch {
		case isLetter(c), c >= '0' && c <= '9', c == '-', c == '.', c == '/', c == '@', c == '+':
		case c == ' ' && i+1 < len(text) && isLetter(text[i+1]):
		default:
			return false
		}
	}
	switch strings.ToLower(string(text)) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return false
	}
	return true
}
