package auth

import (
	"fmt"
	"sort"
	"strings"

	"sluice/setting"
)

// fileMistakes is everything that is wrong with a file of keys or passwords, in
// the order of the file. It repeats nothing that could be a credential.
type fileMistakes struct {
	File string
	List []fileMistake
	More int
}

type fileMistake struct {
	line, column int    // from 1; the column in characters
	path         string // [2].hash; "" where the position says it all
	expected     string
}

// mostMistakes bounds the report: who sees so many has handed in the wrong file.
const mostMistakes = 50

func (m *fileMistakes) add(line, column int, path, format string, args ...any) {
	if len(m.List) == mostMistakes {
		m.More++
		return
	}
	m.List = append(m.List, fileMistake{max(line, 1), max(column, 1), path, fmt.Sprintf(format, args...)})
}

// err is m, or nil when nothing is wrong.
func (m *fileMistakes) err() error {
	if len(m.List) == 0 {
		return nil
	}
	sort.SliceStable(m.List, func(i, j int) bool {
		a, b := &m.List[i], &m.List[j]
		return a.line < b.line || a.line == b.line && a.column < b.column
	})
	return m
}

// Error writes one mistake a line: file:line:column: path: what was expected.
func (m *fileMistakes) Error() string {
	var b strings.Builder
	for i, mistake := range m.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d:%d: %s", m.File, mistake.line, mistake.column, mistake.path)
		if mistake.path != "" {
			b.WriteString(": ")
		}
		b.WriteString(mistake.expected)
	}
	if m.More > 0 {
		fmt.Fprintf(&b, "\n... and %d more", m.More)
	}
	return b.String()
}

func sizeText(bytes int64) string { return setting.Size(bytes).String() }
