package config

import (
	"fmt"
	"regexp"
	"strings"

	"sluice/setting"
)

// templateWords are the words that every template may hold between braces,
// besides the parameters of its route's path.
var templateWords = []string{"client_ip", "host", "method", "path", "query", "request_id", "route", "scheme", "uri"}

// pathParams checks a path pattern and returns the names of its parameters:
//
//	/exact   /prefix/*   /users/{id}   /users/{id:[0-9]+}   /files/{rest:*}
//
// The error says what was expected.
func pathParams(pattern string) (names []string, err error) {
	if !strings.HasPrefix(pattern, "/") {
		return nil, fmt.Errorf("expected a path that begins with /")
	}
	if strings.ContainsFunc(pattern, isBlank) {
		return nil, fmt.Errorf("expected a path without blanks and control bytes")
	}
	for _, segment := range strings.Split(pattern, "/") {
		if segment == "." || segment == ".." {
			return nil, fmt.Errorf("expected a path without %s segments, which no request has left after normalizing", segment)
		}
	}
	rest := pattern
	for rest != "" {
		open := strings.IndexByte(rest, '{')
		literal := rest
		if open >= 0 {
			literal = rest[:open]
		}
		if err := checkLiteral(literal, open < 0); err != nil {
			return nil, err
		}
		if open < 0 {
			break
		}
		size := closingBrace(rest[open:])
		if size < 0 {
			return nil, fmt.Errorf("expected braces in pairs")
		}
		name, expression, typed := strings.Cut(rest[open+1:open+size-1], ":")
		after := rest[open+size:]
		switch {
		case !isVariable(name):
			return nil, fmt.Errorf("expected {name} of letters, digits and _")
		case contains(templateWords, name):
			return nil, fmt.Errorf("expected a parameter that is not called %q, which means the request's own %s", name, name)
		case contains(names, name):
			return nil, fmt.Errorf("expected each parameter once, got {%s} twice", name)
		case strings.HasPrefix(after, "{"):
			return nil, fmt.Errorf("expected at least one character between two parameters")
		case typed && expression == "*":
			if after != "" || !strings.HasSuffix(rest[:open], "/") {
				return nil, fmt.Errorf("expected {%s:*} as the whole end of the path", name)
			}
		case typed:
			if err := checkParamExpression(name, expression); err != nil {
				return nil, err
			}
		}
		names = append(names, name)
		rest = after
	}
	return names, nil
}

func isBlank(r rune) bool { return r <= ' ' || r == 0x7f }

// checkLiteral checks the text between two parameters, or after the last.
func checkLiteral(text string, last bool) error {
	if strings.Contains(text, "}") {
		return fmt.Errorf("expected braces in pairs")
	}
	if strings.ContainsAny(text, "?#") {
		return fmt.Errorf("expected a path without ? and # (the query has a predicate of its own)")
	}
	if i := strings.IndexByte(text, '*'); i >= 0 && (!last || i != len(text)-1 || !strings.HasSuffix(text, "/*")) {
		return fmt.Errorf("expected * only as /* at the end")
	}
	return nil
}

// closingBrace returns the length of the {...} that text begins with, or -1.
// It counts like the router does, which knows no escapes.
func closingBrace(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

func checkParamExpression(name, expression string) error {
	if expression == "" {
		return fmt.Errorf("expected {%s}, {%s:*} or {%s:regex}", name, name, name)
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return fmt.Errorf("expected a regular expression for {%s}: %w", name, err)
	}
	if re.NumSubexp() > 0 {
		// The router numbers its own groups and would read the wrong one.
		return fmt.Errorf("expected (?:...) instead of (...) in the expression for {%s}", name)
	}
	return nil
}

// checkTemplate checks the {words} of a template. Where strict is set every
// brace belongs to one; elsewhere {"json": 1} is plain text.
func checkTemplate(p *setting.Problems, path, template string, params []string, strict bool) {
	if strings.ContainsAny(template, "\r\n\x00") {
		p.Add(path, "expected one line, got a line break or NUL")
		return
	}
	known := append(append([]string{}, params...), templateWords...)
	for rest := template; ; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			return
		}
		end := strings.IndexByte(rest[open:], '}')
		if end > 0 && rest[open] == '{' && isClaimWord(rest[open+1:open+end]) {
			rest = rest[open+end+1:]
			continue
		}
		if rest[open] == '}' || end < 0 || !isVariable(rest[open+1:open+end]) {
			if strict {
				p.Add(path, "expected braces only around a word such as {host}, got %q", template)
				return
			}
			rest = rest[open+1:]
			continue
		}
		word := rest[open+1 : open+end]
		if !contains(known, word) {
			if near := setting.Nearest(word, known); near != "" {
				p.Add(path, "unknown parameter {%s}; did you mean {%s}?", word, near)
			} else {
				p.Add(path, "unknown parameter {%s}; expected one of {%s}", word, strings.Join(known, "}, {"))
			}
		}
		rest = rest[open+end+1:]
	}
}

// isClaimWord tells whether word stands for a claim of the caller.
func isClaimWord(word string) bool {
	path, ok := strings.CutPrefix(word, "claim:")
	return ok && path != "" && len(path) <= 128 && !strings.ContainsFunc(path, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`{}"\`, r)
	})
}

// checkHost checks one host predicate.
func checkHost(host string) error {
	if host == "*" {
		return nil
	}
	name := strings.TrimPrefix(host, "*.")
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		if isIP(strings.TrimSuffix(inner, "]")) {
			return nil
		}
	}
	if strings.Contains(name, "*") {
		return fmt.Errorf("expected * alone or as *. at the start")
	}
	if strings.Contains(name, ":") {
		return fmt.Errorf("expected a host without a port, an IPv6 address in brackets")
	}
	if len(name) == 0 || len(name) > 253 {
		return fmt.Errorf("expected a host name of 1 to 253 bytes")
	}
	for _, label := range strings.Split(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("expected labels of 1 to 63 bytes between the dots")
		}
		for i := range len(label) {
			c := label[i]
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return fmt.Errorf("expected letters, digits, - and _ (other names in their xn-- form)")
			}
		}
	}
	return nil
}

// isToken tells whether text is a token of RFC 9110 5.6.2: a method, the name
// of a header or cookie.
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return text != ""
}

// isFieldValue tells whether text can stand in a header line (RFC 9110 5.5).
func isFieldValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(text, " \t") == text
}
