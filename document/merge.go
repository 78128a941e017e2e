package document

import "sync"

// Part is one document of a merge.
type Part struct {
	Name       string // for errors: what it is to the caller
	Doc        []byte // must have passed Check; empty and null are nothing
	Group      string // the name that the document gets in the result; "": its members are joined
	Collection string // the name that a document that is an array gets; "": collection, but none within Group
}

// Merge appends to dst the one object that parts become, in their order. A member
// of a later part replaces one of the same name, at its place; with deep two
// objects of the same name are merged in the same way, and all else is replaced.
// Names are compared by what they stand for, whatever their escapes. Documents must
// not overlap dst.
//
// A part that is neither object nor array and has no Group is a *Refused with the
// part's name in its path; dst then comes back as it was. Merge allocates only when
// dst is too small, and for more members than before.
func Merge(dst []byte, parts []Part, deep bool) ([]byte, error) {
	m, _ := mergers.Get().(*merger)
	if m == nil {
		m = new(merger)
	}
	defer m.give()
	m.deep = deep
	for i := range parts {
		if err := m.add(&parts[i]); err != nil {
			return dst, err
		}
	}
	if len(m.objects) == 0 {
		return append(dst, "{}"...), nil
	}
	out := m.merge(dst, 0, 0)
	if m.bad {
		return dst, errBad
	}
	return out, nil
}

// mergers holds what merges work in.
var mergers sync.Pool

// mostMembers bounds what is kept: a member takes 104 bytes.
const mostMembers = 4096

type merger struct {
	deep    bool
	bad     bool
	objects [][]byte    // a stack of the objects that are to be joined
	members []mergedOne // a stack of the members of those being joined
	table   []int32     // a stack of hash tables: indices of members, from 1
	made    []byte      // names and objects that parts get
	scratch []byte
}

// mergedOne is a member of an object. Members of one name are a list, of which the
// first stands for all.
type mergedOne struct {
	hash  uint64
	name  []byte // between its quotes
	value []byte
	rest  []byte // the object from the name's opening quote on
	size  int    // of name and value in rest
	next  int32  // of the same name, or -1
	last  int32  // of the same name, in the first of them; -1 in the others
	first bool   // of its object
}

func (m *merger) give() {
	clear(m.objects[:cap(m.objects)])
	clear(m.members)
	m.objects, m.members, m.table, m.made, m.bad = m.objects[:0], m.members[:0], m.table[:0], m.made[:0], false
	if cap(m.members) <= mostMembers && cap(m.table) <= 8*mostMembers && max(cap(m.made), cap(m.scratch)) <= mostRoom {
		mergers.Put(m)
	}
}

func (m *merger) add(p *Part) error {
	doc := trim(p.Doc)
	if len(doc) == 0 || p.Group == "" && string(doc) == "null" {
		return nil
	}
	array := doc[0] == '['
	if p.Group == "" && !array && doc[0] != '{' {
		return &Refused{Path: p.Name, Reason: "expected an object or an array to merge, got " + describe(doc) + "; a group gives it a name"}
	}
	names := [2]string{p.Group, p.Collection}
	if !array {
		names[1] = ""
	} else if p.Group == "" && p.Collection == "" {
		names[1] = "collection"
	}
	if names[0] == "" && names[1] == "" {
		m.objects = append(m.objects, doc)
		return nil
	}
	// What was made before stays where it is when made grows: it is a slice of the
	// old array then.
	start, closing := len(m.made), 0
	for _, name := range names {
		if name != "" {
			m.made = append(AppendString(append(m.made, '{'), name), ':')
			closing++
		}
	}
	m.made = append(m.made, doc...)
	for range closing {
		m.made = append(m.made, '}')
	}
	m.objects = append(m.objects, m.made[start:])
	return nil
}

// describe names what a value is.
func describe(value []byte) string {
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a text"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// merge appends the object that those on the stack from mark on become.
func (m *merger) merge(dst []byte, mark, depth int) []byte {
	if len(m.objects)-mark == 1 {
		return append(dst, m.objects[mark]...)
	}
	if depth > mostDepth {
		m.bad = true
		return dst
	}
	first := len(m.members)
	for _, object := range m.objects[mark:] {
		w, begins := walk{b: object, i: 1}, true
		for {
			name, value := w.member()
			if value < 0 {
				break
			}
			start := w.start
			end := w.pass(value)
			if w.bad {
				break
			}
			var hash uint64
			hash, m.scratch = hashName(name, m.scratch)
			m.members = append(m.members, mergedOne{
				hash: hash, name: name, value: object[value:end], rest: object[start:], size: end - start,
				next: -1, last: -1, first: begins,
			})
			begins = false
		}
		m.bad = m.bad || w.bad
	}
	last := len(m.members)
	m.link(first)
	dst = append(dst, '{')
	some := false
	for i := first; i < last; i++ {
		one := &m.members[i]
		if one.last < 0 {
			continue // it has its place elsewhere
		}
		if some {
			dst = append(dst, ',')
		}
		some = true
		if int(one.last) == i {
			// Members that stand side by side stay together, with what is between them.
			size := one.size
			for i+1 < last && !m.members[i+1].first && int(m.members[i+1].last) == i+1 {
				i++
				size = len(one.rest) - len(m.members[i].rest) + m.members[i].size
			}
			dst = append(dst, one.rest[:size]...)
			continue
		}
		dst = append(append(append(dst, '"'), one.name...), '"', ':')
		dst = m.value(dst, i, depth)
	}
	dst = append(dst, '}')
	clear(m.members[first:])
	m.members = m.members[:first]
	return dst
}

// value appends what the members of one name, of which i is the first, become.
func (m *merger) value(dst []byte, i, depth int) []byte {
	last := m.members[i].last
	if !m.deep || m.members[last].value[0] != '{' {
		return append(dst, m.members[last].value...)
	}
	// Only objects behind the last that is none are merged.
	mark := len(m.objects)
	for n := int32(i); n >= 0; n = m.members[n].next {
		value := m.members[n].value
		if value[0] != '{' {
			m.objects = m.objects[:mark]
			continue
		}
		m.objects = append(m.objects, value)
	}
	dst = m.merge(dst, mark, depth+1)
	clear(m.objects[mark:])
	m.objects = m.objects[:mark]
	return dst
}

// link finds the members from first on that have the same name.
func (m *merger) link(first int) {
	count := len(m.members) - first
	size := 16
	for size < 2*count {
		size *= 2
	}
	base := len(m.table)
	for cap(m.table) < base+size {
		m.table = append(m.table[:cap(m.table)], 0)
	}
	m.table = m.table[:base+size]
	table := m.table[base:]
	clear(table)
	for i := first; i < len(m.members); i++ {
		one := &m.members[i]
		slot := int(one.hash) & (size - 1)
		for ; table[slot] != 0; slot = (slot + 1) & (size - 1) {
			other := &m.members[table[slot]-1]
			if other.hash == one.hash && sameName(other.name, one.name) {
				break
			}
		}
		if table[slot] == 0 {
			table[slot] = int32(i + 1)
			one.last = int32(i)
			continue
		}
		head := &m.members[table[slot]-1]
		m.members[head.last].next = int32(i)
		head.last = int32(i)
	}
	m.table = m.table[:base]
}
