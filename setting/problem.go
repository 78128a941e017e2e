package setting

import (
	"fmt"
	"strconv"
	"strings"
)

// Unexpected is the error of a value that is not what its key wants. It keeps
// both halves apart, so that a reader may leave out a value that is a secret.
type Unexpected struct {
	Want string // "a duration such as 250ms, 10s or 1h30m"
	Got  string // the value as it was written
}

func (u *Unexpected) Error() string {
	return fmt.Sprintf("expected %s, got %q", u.Want, u.Got)
}

// Problem is one mistake: the path of keys to it and what was expected there.
type Problem struct {
	Path     string // upstreams.users.targets[1].weight
	Expected string // "expected a number from 1 to 1000, got 0"
}

// Problems collects mistakes, so that a reader hears of all of them at once.
// The zero value is ready; a nil *Problems must not be used. It is for one
// goroutine.
type Problems struct {
	list   []Problem
	secret func(path string) bool
	prefix string
	parent *Problems
}

// Hidden stands for a value that is not shown.
const Hidden = "***"

// NewProblems returns a collector that writes Hidden for every text argument
// of a mistake at a path that secret is true for.
func NewProblems(secret func(path string) bool) *Problems {
	return &Problems{secret: secret}
}

// At returns a collector whose paths begin with prefix and that adds to p.
func (p *Problems) At(prefix string) *Problems {
	return &Problems{prefix: prefix, parent: p}
}

// Add records a mistake at path, relative to the collector's own path.
func (p *Problems) Add(path, format string, args ...any) {
	if p.parent != nil {
		p.parent.Add(Join(p.prefix, path), format, args...)
		return
	}
	if p.secret != nil && p.secret(path) {
		args = hide(args)
	}
	p.list = append(p.list, Problem{Path: path, Expected: fmt.Sprintf(format, args...)})
}

// hide replaces what could carry a secret. Numbers stay: they are bounds and
// counts, and a format such as %d would not take a text.
func hide(args []any) []any {
	hidden := make([]any, len(args))
	for i, a := range args {
		switch a.(type) {
		case int, int64, uint64, float64, bool:
			hidden[i] = a
		default:
			hidden[i] = Hidden
		}
	}
	return hidden
}

// List returns what was collected, in the order in which it was found.
func (p *Problems) List() []Problem {
	if p.parent != nil {
		return p.parent.List()
	}
	return p.list
}

// Join puts two key paths together; an index such as [2] takes no dot.
func Join(a, b string) string {
	if a == "" || b == "" || b[0] == '[' {
		return a + b
	}
	return a + "." + b
}

// Key writes a name of the user's choosing as one element of a path. A name
// with bytes that would break the line or the path is quoted.
func Key(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"[]`, c) >= 0 {
			return strconv.Quote(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}

// Nearest returns the word of known that word was probably meant to be, or ""
// when none is close: one letter, and one more for every three of the word, may
// differ. Letters swapped with their neighbour count as one difference.
func Nearest(word string, known []string) string {
	const longest = 64
	if len(word) > longest {
		return ""
	}
	lower := strings.ToLower(word)
	best, bestDistance := "", len(word)/3+1
	for _, k := range known {
		if len(k) > longest {
			continue
		}
		if d := distance(lower, strings.ToLower(k)); d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the optimal string alignment distance between a and b.
func distance(a, b string) int {
	before, above := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}
