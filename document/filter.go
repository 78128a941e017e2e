package document

import "math/bits"

// mostRules bounds pick, drop and rename together.
const mostRules = 256

// ruleSet is a set of a filter's rules.
type ruleSet [mostRules / 64]uint64

func (s *ruleSet) add(n int)   { s[n/64] |= 1 << (n % 64) }
func (s *ruleSet) empty() bool { return s[0]|s[1]|s[2]|s[3] == 0 }

func (s *ruleSet) meets(t *ruleSet) bool {
	return s[0]&t[0]|s[1]&t[1]|s[2]&t[2]|s[3]&t[3] != 0
}

func (s *ruleSet) remove(t *ruleSet) {
	for i := range s {
		s[i] &^= t[i]
	}
}

type ruleKind uint8

const (
	picks ruleKind = iota
	drops
	renames
)

// rule is one path of pick, drop or rename. Those that still lead somewhere from a
// value are alive there.
type rule struct {
	kind   ruleKind
	steps  []step
	name   string // the new one
	quoted []byte // the same as it is written
}

// filter is pick, drop and rename in one go over a document. Paths are those of
// the document as it comes: no step of these three changes what a path of another
// leads to.
type filter struct {
	rules []rule
	all   ruleSet
	picks ruleSet
}

func (f *filter) add(r rule) {
	if r.kind == renames {
		r.quoted = AppendString(nil, r.name)
	}
	n := len(f.rules)
	f.rules = append(f.rules, r)
	f.all.add(n)
	if r.kind == picks {
		f.picks.add(n)
	}
}

// apply appends what f leaves of the value at b[i]. Of an object or array at the
// root that nothing is picked of, {} or [] is left, of other values null.
func (f *filter) apply(dst, b []byte, i int) (out []byte, ok bool) {
	run := filtering{filter: f, b: b, dst: dst}
	start := len(dst)
	_, left := run.value(i, 0, f.all, f.picks.empty())
	if !left {
		run.dst = run.dst[:start]
		switch {
		case i < len(b) && b[i] == '{':
			run.dst = append(run.dst, "{}"...)
		case i < len(b) && b[i] == '[':
			run.dst = append(run.dst, "[]"...)
		default:
			run.dst = append(run.dst, "null"...)
		}
	}
	return run.dst, !run.bad
}

type filtering struct {
	*filter
	b, dst []byte
	bad    bool
}

// value appends what is left of the value at b[i], at a depth to which the rules
// alive lead. whole tells that it is picked, with everything in it. left is false
// when nothing in it is picked; what was appended is then not to stay.
func (f *filtering) value(i, depth int, alive ruleSet, whole bool) (end int, left bool) {
	w, object, ok := opened(f.b, i)
	if !ok || alive.empty() {
		if end = skip(f.b, i); end < 0 {
			f.bad = true
			return len(f.b), false
		}
		if whole {
			f.dst = append(f.dst, f.b[i:end]...)
		}
		return end, whole
	}
	if object {
		left = f.object(&w, i, depth, &alive, whole)
	} else {
		left = f.array(&w, i, depth, &alive, whole)
	}
	f.bad = f.bad || w.bad
	return w.i, left
}

// verdict is what the rules say of one member or element.
type verdict struct {
	next     ruleSet // alive inside it
	whole    bool    // it is picked, with everything in it
	inside   bool    // something in it may be picked
	dropped  bool
	renamed  *rule
	displace bool // another member may get its name
}

func (v *verdict) stays() bool { return !v.dropped && (v.whole || v.inside) }

// judge asks the rules about the member called name, or about element n of total.
func (f *filter) judge(alive *ruleSet, depth int, name []byte, n, total int, whole bool) (v verdict) {
	v.whole = whole
	for word, left := range alive {
		for ; left != 0; left &= left - 1 {
			number := word*64 + bits.TrailingZeros64(left)
			r := &f.rules[number]
			last := len(r.steps) == depth+1
			switch s := &r.steps[depth]; s.kind {
			case byName:
				if n >= 0 {
					continue
				}
				if !nameIs(name, s.name) {
					v.displace = v.displace || last && r.kind == renames && nameIs(name, r.name)
					continue
				}
			case byIndex:
				if n < 0 || s.index != n && s.index != n-total {
					continue
				}
			case everyElement:
				if n < 0 {
					continue
				}
			}
			switch {
			case !last:
				v.next.add(number)
			case r.kind == picks:
				v.whole = true
			case r.kind == drops:
				v.dropped = true
			default:
				v.renamed = r
			}
		}
	}
	if v.whole {
		v.next.remove(&f.picks)
	} else {
		v.inside = v.next.meets(&f.picks)
	}
	return v
}

func (f *filtering) object(w *walk, i, depth int, alive *ruleSet, whole bool) (left bool) {
	f.dst = append(f.dst, '{')
	left = whole
	some := false
	run := -1 // where a run of members begins that stay as they are
	end := 0
	flush := func() {
		if run >= 0 {
			f.dst = append(f.dst, f.b[run:end]...)
			run = -1
		}
	}
	for {
		name, value := w.member()
		if value < 0 {
			break
		}
		start := w.start
		v := f.judge(alive, depth, name, -1, 0, whole)
		if v.displace && v.renamed == nil && v.stays() && f.displaced(i, depth, alive, whole, name) {
			v.dropped = true
		}
		if !v.stays() {
			flush()
			w.pass(value)
			continue
		}
		if v.whole && v.next.empty() && v.renamed == nil {
			after := w.pass(value)
			if after < 0 {
				break
			}
			if run < 0 {
				if some {
					f.dst = append(f.dst, ',')
				}
				run = start
			}
			end, some, left = after, true, true
			continue
		}
		flush()
		mark := len(f.dst)
		if some {
			f.dst = append(f.dst, ',')
		}
		if v.renamed != nil {
			f.dst = append(append(f.dst, v.renamed.quoted...), ':')
		} else {
			f.dst = append(f.dst, f.b[start:value]...)
		}
		var kept bool
		if w.i, kept = f.value(value, depth+1, v.next, v.whole); kept {
			some, left = true, true
		} else {
			f.dst = f.dst[:mark]
		}
	}
	flush()
	f.dst = append(f.dst, '}')
	return left
}

// displaced tells whether a member of the object at b[i] that stays gets the name
// that another one, which asks, has already.
func (f *filtering) displaced(i, depth int, alive *ruleSet, whole bool, name []byte) bool {
	for word, left := range alive {
		for ; left != 0; left &= left - 1 {
			r := &f.rules[word*64+bits.TrailingZeros64(left)]
			if r.kind != renames || len(r.steps) != depth+1 || !nameIs(name, r.name) {
				continue
			}
			value := memberOf(f.b, i, r.steps[depth].name)
			if value < 0 {
				continue
			}
			v := f.judge(alive, depth, appendEscaped(nil, r.steps[depth].name), -1, 0, whole)
			if !v.stays() {
				continue
			}
			if v.whole {
				return true
			}
			mark := len(f.dst)
			_, kept := f.value(value, depth+1, v.next, false)
			f.dst = f.dst[:mark]
			if kept {
				return true
			}
		}
	}
	return false
}

// array keeps every object in an array on the way to something picked, be it
// empty; other values without anything picked leave.
func (f *filtering) array(w *walk, i, depth int, alive *ruleSet, whole bool) (left bool) {
	f.dst = append(f.dst, '[')
	left = whole || f.entersArray(alive, depth)
	total, some := 0, false
	if f.countsBack(alive, depth) {
		total = elements(f.b, i)
	}
	for n := 0; ; n++ {
		value := w.next()
		if value < 0 {
			break
		}
		v := f.judge(alive, depth, nil, n, total, whole)
		if !v.stays() {
			w.pass(value)
			continue
		}
		mark := len(f.dst)
		if some {
			f.dst = append(f.dst, ',')
		}
		var kept bool
		w.i, kept = f.value(value, depth+1, v.next, v.whole)
		if kept || f.b[value] == '{' {
			some = true
		} else {
			f.dst = f.dst[:mark]
		}
	}
	f.dst = append(f.dst, ']')
	return left
}

// entersArray tells whether a pick leads to elements.
func (f *filter) entersArray(alive *ruleSet, depth int) bool {
	return f.anyStep(alive, depth, func(r *rule, s *step) bool { return r.kind == picks && s.kind != byName })
}

// countsBack tells whether a rule counts elements from the end.
func (f *filter) countsBack(alive *ruleSet, depth int) bool {
	return f.anyStep(alive, depth, func(_ *rule, s *step) bool { return s.kind == byIndex && s.index < 0 })
}

func (f *filter) anyStep(alive *ruleSet, depth int, is func(*rule, *step) bool) bool {
	for word, left := range alive {
		for ; left != 0; left &= left - 1 {
			r := &f.rules[word*64+bits.TrailingZeros64(left)]
			if is(r, &r.steps[depth]) {
				return true
			}
		}
	}
	return false
}
