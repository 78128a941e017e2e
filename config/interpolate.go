package config

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// maxSecretFile bounds what ${file:...} reads.
const maxSecretFile = 1 << 20

// expansion is a text whose ${...} have been replaced.
type expansion struct {
	text   string
	secret bool     // whether anything was replaced
	shown  string   // the text as it was written, with defaults left out
	values []string // what the ${...} stood for
	files  []string // the files that were read
	names  []string // the variables that were asked for
}

// expand replaces ${NAME}, ${NAME:-default} and ${file:/path} in text; $${ is a
// literal ${. The error says what was expected and never holds a value.
func expand(text string, lookup func(string) (string, bool)) (x expansion, err error) {
	if !strings.Contains(text, "${") {
		return expansion{text: text}, nil
	}
	var out, shown strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			break
		}
		if i > 0 && text[i-1] == '$' {
			out.WriteString(text[:i-1] + "${")
			shown.WriteString(text[:i+2])
			text = text[i+2:]
			continue
		}
		out.WriteString(text[:i])
		shown.WriteString(text[:i])
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			return x, fmt.Errorf("expected } after ${ (write $${ for the two characters themselves)")
		}
		reference := text[i+2 : i+end]
		value, display, err := x.resolve(reference, lookup)
		if err != nil {
			return x, err
		}
		x.secret = true
		x.values = append(x.values, value)
		out.WriteString(value)
		shown.WriteString(display)
		text = text[i+end+1:]
	}
	x.text, x.shown = out.String()+text, shown.String()+text
	return x, nil
}

// resolve reads one reference and returns its value and how it is shown.
func (x *expansion) resolve(reference string, lookup func(string) (string, bool)) (value, shown string, err error) {
	if path, ok := strings.CutPrefix(reference, "file:"); ok {
		x.files = append(x.files, path)
		value, err = readSecret(path)
		return value, "${" + reference + "}", err
	}
	name, fallback, hasFallback := strings.Cut(reference, ":-")
	if !isVariable(name) {
		return "", "", fmt.Errorf("expected ${NAME}, ${NAME:-default} or ${file:/path}, got %q (write $${ for a literal ${)", "${"+name+"}")
	}
	x.names = append(x.names, name)
	value, set := lookup(name)
	switch {
	case hasFallback && value == "":
		return fallback, "${" + name + "}", nil
	case !set:
		return "", "", fmt.Errorf("expected the environment variable %s to be set, or ${%s:-default}", name, name)
	}
	return value, "${" + name + "}", nil
}

// readSecret returns the text of a file without the newlines at its end.
func readSecret(path string) (string, error) {
	file, err := openRegular(path)
	if err != nil {
		return "", fmt.Errorf("expected a readable file %q: %w", path, reason(err))
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("expected a readable file %q: %w", path, reason(err))
	}
	if len(text) > maxSecretFile {
		return "", fmt.Errorf("expected a file of at most %d MiB: %q", maxSecretFile>>20, path)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// reason strips the operation and the path, which the caller names, off err.
func reason(err error) error {
	if pathError, ok := err.(*os.PathError); ok {
		return pathError.Err
	}
	return err
}

func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', i > 0 && c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return name != ""
}

// escape writes text so that expand returns it unchanged.
func escape(text string) string { return strings.ReplaceAll(text, "${", "$${") }
