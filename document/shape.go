package document

import (
	"errors"
	"slices"

	"sluice/setting"
)

// Shape is a ShapeConfig made ready. It never changes and may be used by any
// number of goroutines.
type Shape struct {
	target     Path
	query      *query
	filter     filter
	transfers  []*transfer // moves, then appends, each in the order of their sources
	group      []byte      // quoted, with its colon
	collection []byte      // the same
}

// NewShape compiles c. It fails with the first of what Validate finds.
func NewShape(c *ShapeConfig) (*Shape, error) {
	problems := setting.NewProblems(nil)
	r := c.read(problems)
	if list := problems.List(); len(list) > 0 {
		return nil, errors.New(list[0].Path + ": " + list[0].Expected)
	}
	s := &Shape{target: r.target, query: r.query}
	for _, p := range r.pick {
		s.filter.add(rule{kind: picks, steps: p.steps})
	}
	for _, p := range r.drop {
		s.filter.add(rule{kind: drops, steps: p.steps})
	}
	for _, e := range r.rename {
		s.filter.add(rule{kind: renames, steps: e.from.steps, name: e.name})
	}
	for _, e := range r.move {
		s.transfers = append(s.transfers, newTransfer(e.from, e.to, false))
	}
	for _, e := range r.append {
		s.transfers = append(s.transfers, newTransfer(e.from, e.to, true))
	}
	if c.Group != "" {
		s.group = append(AppendString(nil, c.Group), ':')
	}
	if c.Collection != "" {
		s.collection = append(AppendString(nil, c.Collection), ':')
	}
	return s, nil
}

// None tells whether there is nothing to do, so that the document may be passed on
// untouched.
func (s *Shape) None() bool {
	return len(s.target.steps) == 0 && s.query == nil && len(s.filter.rules) == 0 && len(s.transfers) == 0 &&
		s.group == nil && s.collection == nil
}

// Apply appends doc, shaped, to dst; they must not overlap. doc must have passed
// Check.
//
// Where target leads to nothing, what is shaped is {}. A path of any other step
// that leads to nothing does nothing. lim bounds the result and what a query
// makes: its errors are *Refused, and those of a query. With an error dst comes
// back as it was.
//
// It allocates only when dst is too small, with a query, and with moves or appends
// of documents larger than those before.
func (s *Shape) Apply(dst, doc []byte, lim Limits) ([]byte, error) {
	lim = lim.filled()
	i := space(doc, 0)
	if len(s.target.steps) > 0 {
		if i = first(doc, i, s.target.steps); i < 0 {
			doc, i = []byte("{}"), 0
		}
	}
	end := skip(doc, i)
	if end < 0 {
		return dst, errBad
	}
	doc = doc[i:end]
	if s.query != nil {
		result, err := s.query.run(doc, lim)
		if err != nil {
			return dst, err
		}
		doc = result
	}
	start := len(dst)
	closing := 0
	if s.group != nil {
		dst = append(append(dst, '{'), s.group...)
		closing++
	}
	if s.collection != nil && len(s.transfers) == 0 && doc[0] == '[' {
		dst = append(append(dst, '{'), s.collection...)
		closing++
	}
	ok := true
	switch {
	case len(s.transfers) > 0:
		var array bool
		mark := len(dst)
		if dst, ok = s.transfer(dst, doc, lim.Bytes); ok {
			array = dst[mark] == '['
		}
		if s.collection != nil && array {
			dst = slices.Insert(dst, mark, append([]byte{'{'}, s.collection...)...)
			closing++
		}
	case len(s.filter.rules) > 0:
		dst, ok = s.filter.apply(dst, doc, 0)
	default:
		dst = append(dst, doc...)
	}
	for range closing {
		dst = append(dst, '}')
	}
	if len(dst)-start > lim.Bytes {
		return dst[:start], tooLong(lim.Bytes)
	}
	if !ok {
		return dst[:start], errBad
	}
	return dst, nil
}

var errBad = &Refused{Reason: "expected JSON that was checked"}

// transfer does the filter and then one transfer after the other, from one buffer
// into another.
func (s *Shape) transfer(dst, doc []byte, most int) (out []byte, ok bool) {
	r := takeRoom()
	defer r.give()
	if len(s.filter.rules) > 0 {
		if r.a, ok = s.filter.apply(r.a[:0], doc, 0); !ok {
			return dst, false
		}
		doc = r.a
	}
	for n, t := range s.transfers {
		if n == len(s.transfers)-1 {
			return t.apply(dst, doc, r)
		}
		if r.b, ok = t.apply(r.b[:0], doc, r); !ok {
			return dst, false
		}
		if r.a, r.b, doc = r.b, r.a, r.b; len(doc) > most {
			return append(dst, doc...), true // Apply sees that it is too long
		}
	}
	return dst, false
}
