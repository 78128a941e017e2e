// Package document works on JSON documents as bytes: it checks them, finds values
// in them, cuts them to shape, joins them, and turns other formats into JSON and
// back. It is what aggregation and the transformation of bodies are made of.
//
//	body ──> FormatOf, ToJSON ──> one JSON document within Limits
//	                 │
//	                 ├── Path.Get, Path.Each    values in it, as slices of it
//	                 ├── Shape.Apply            pick, drop, rename, move, ...
//	                 ├── Template.Append        texts with values of it inside
//	                 └── Merge                  several become one
//	                 │
//	body <── Negotiate, FromJSON
//
// Documents are spliced, not decoded: what does not change is copied as the bytes
// that it was, so that key order, numbers of any size and white space survive.
// Only a JMESPath query decodes a document whole, and only the formats that are no
// JSON are built from trees.
//
// Check (and ToJSON, which checks) stands at the door: it alone tells good JSON
// from bad. Everything else expects documents that have passed it. Given others it
// neither panics nor reads beyond them, but what it returns is worth nothing.
//
// Where an object has one name twice, the last member counts, as with nearly every
// decoder; Check can refuse such documents, and ToJSON does.
//
// Paths, Shapes and Templates never change and may be used by any number of
// goroutines. Nothing blocks. Check, Get, Each, AppendText, Apply without a query,
// Merge and Negotiate allocate nothing when dst is large enough.
package document

import (
	"fmt"
	"math"
	"strconv"
)

// Limits bounds what a document may be. Every reader takes them. A field of zero
// stands for its default; Bytes can be at most 2 GiB, Depth at most 1000.
type Limits struct {
	Bytes int // 10 MiB
	Depth int // 200 arrays and objects inside each other
	Nodes int // 1,000,000 values: texts, numbers, words, arrays and objects
}

// mostDepth bounds Limits.Depth: what walks over documents recurses.
const mostDepth = 1000

func (l Limits) filled() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 10 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 200
	}
	if l.Nodes <= 0 {
		l.Nodes = 1_000_000
	}
	l.Bytes = min(l.Bytes, math.MaxInt32)
	l.Depth = min(l.Depth, mostDepth)
	return l
}

// Refused says why a document was not taken.
type Refused struct {
	Offset   int    // in bytes
	Line     int    // of a YAML document, from 1, in place of Offset
	Path     string // where in the document; "" at its root, and where there are no paths
	Reason   string // what was expected, and what was there
	TooLarge bool   // beyond a limit, but perhaps sound
}

func (r *Refused) Error() string {
	place := "at byte " + strconv.Itoa(r.Offset)
	if r.Line > 0 {
		place = "in line " + strconv.Itoa(r.Line)
	}
	if r.Path != "" {
		place += ", " + r.Path
	}
	return place + ": " + r.Reason
}

func refused(offset int, format string, args ...any) *Refused {
	return &Refused{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(offset int, format string, args ...any) *Refused {
	return &Refused{Offset: offset, Reason: fmt.Sprintf(format, args...), TooLarge: true}
}

func tooLong(most int) *Refused { return tooLarge(most, "expected at most %d bytes", most) }
