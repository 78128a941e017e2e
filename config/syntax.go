package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
)

// The bounds of a file. The YAML parser recurses for every level of nesting and
// for every key of a block mapping, and works in the square of the keys of a
// mapping and of blank lines in a row: all are counted before it sees them.
const (
	maxFileSize = 8 << 20
	maxTokens   = 1 << 19
	maxDepth    = 64
	maxKeys     = 10_000    // in one mapping; lists are bounded by maxTokens
	maxBlank    = 100       // lines in a row
	maxValues   = maxTokens // after aliases are expanded
)

// parseYAML returns the one document of text; nil for an empty one. Mistakes of
// syntax go to r, and ok is false when there is nothing to go on with.
func parseYAML(text []byte, r *report) (root ast.Node, ok bool) {
	fail := func(line, column int, format string, args ...any) (ast.Node, bool) {
		r.add(place{line: max(line, 1), column: max(column, 1)}, "", format, args...)
		return nil, false
	}
	text = []byte(strings.TrimPrefix(string(text), "\ufeff"))
	if len(text) > maxFileSize {
		return fail(1, 1, "expected a file of at most %d MiB", maxFileSize>>20)
	}
	if line, column := invalidByte(text); line > 0 {
		return fail(line, column, "expected UTF-8 text without control bytes")
	}
	if line := blankLines(text); line > 0 {
		return fail(line, 1, "expected at most %d blank lines in a row", maxBlank)
	}
	// The parser holds CRLF and LF together badly: its columns count the CR.
	text = []byte(strings.ReplaceAll(string(text), "\r\n", "\n"))
	tokens, at, why := scan(string(text))
	if why != "" {
		return fail(at.Line, at.Column, "%s", why)
	}
	file, err := parseTokens(tokens)
	if err != nil {
		var syntax *yaml.SyntaxError
		if !errors.As(err, &syntax) || syntax.Token == nil || syntax.Token.Position == nil {
			return fail(1, 1, "expected YAML: %v", err)
		}
		p := syntax.Token.Position
		return fail(p.Line, p.Column, "%s", explainSyntax(syntax.Message))
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case doc.Body.Type() == ast.DirectiveType:
		case root != nil:
			p := doc.Body.GetToken().Position
			if doc.Start != nil {
				p = doc.Start.Position
			}
			return fail(p.Line, p.Column, "expected one YAML document, got another one here")
		default:
			root = doc.Body
		}
	}
	return root, true
}

// parseTokens shields the process from a parser that panics on input it has
// not met before: a reload must not end it.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the YAML parser failed: %v", r)
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// explainSyntax adds what experience says about the parser's messages.
func explainSyntax(message string) string {
	switch {
	case strings.Contains(message, "or '}' must be specified"), strings.Contains(message, "or ']' must be specified"):
		return message + ` (inside { } and [ ], a text that holds one of { } [ ] , must be quoted: "/users/{id}")`
	case strings.Contains(message, "\t"):
		return "expected spaces for indentation, got a tab"
	case strings.Contains(message, "mapping value is not allowed"):
		return message + ` (a text that holds ": " must be quoted)`
	case strings.Contains(message, "is a reserved character"):
		return message + " (a text that begins with it must be quoted)"
	}
	return message
}

// scan cuts text into tokens and holds them to the bounds. It returns a reason
// and its position when text is beyond them.
func scan(text string) (tokens token.Tokens, at *token.Position, why string) {
	defer func() {
		if r := recover(); r != nil {
			at, why = &token.Position{Line: 1, Column: 1}, fmt.Sprintf("expected YAML: the scanner failed: %v", r)
		}
	}()
	var s scanner.Scanner
	s.Init(text)
	var n nesting
	for {
		batch, err := s.Scan()
		if errors.Is(err, io.EOF) {
			return tokens, nil, ""
		}
		for _, t := range batch {
			tokens.Add(t)
			if why := n.add(t); why != "" {
				return nil, t.Position, why
			}
			if t.Type == token.InvalidType {
				return nil, t.Position, explainSyntax(t.Error)
			}
			if len(tokens) > maxTokens {
				return nil, t.Position, fmt.Sprintf("expected a file of at most %d words", maxTokens)
			}
		}
		if err != nil {
			last := &token.Position{Line: 1, Column: 1}
			if len(tokens) > 0 {
				last = tokens[len(tokens)-1].Position
			}
			return nil, last, explainSyntax(err.Error())
		}
	}
}

// nesting counts levels of brackets and of indentation, and keys by level.
type nesting struct {
	flow  []level
	block []level
}

// level is one open mapping or list.
type level struct {
	column  int // of a block, where its keys or dashes stand
	keys    int
	mapping bool // of brackets, whether they are { }
}

func (n *nesting) add(t *token.Token) (why string) {
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
		if here.keys++; here.keys > maxKeys {
			return fmt.Sprintf("expected at most %d keys in one mapping", maxKeys)
		}
	}
	if len(n.flow)+len(n.block) > maxDepth {
		return fmt.Sprintf("expected at most %d levels of nesting", maxDepth)
	}
	return ""
}

// enter goes to the level of column and leaves those that are further right.
// Between brackets indentation means nothing.
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

// invalidByte finds the first byte that no YAML text may hold.
func invalidByte(text []byte) (line, column int) {
	line, column = 1, 1
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1,
			r < ' ' && r != '\n' && r != '\t' && r != '\r', r == 0x7f,
			r == '\r' && !bytes.HasPrefix(text, []byte("\r\n")):
			return line, column
		case r == '\n':
			line, column = line+1, 1
		default:
			column++
		}
		text = text[size:]
	}
	return 0, 0
}

// blankLines returns the line in which a run of them becomes too long, or 0.
func blankLines(text []byte) int {
	line, run := 0, 0
	for len(text) > 0 {
		var content []byte
		content, text, _ = bytes.Cut(text, []byte("\n"))
		line, run = line+1, run+1
		if len(bytes.TrimSpace(content)) > 0 {
			run = 0
		}
		if run > maxBlank {
			return line
		}
	}
	return 0
}
