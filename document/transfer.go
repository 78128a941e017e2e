package document

import "sync"

// transfer is one entry of move or append: values are taken out of one place and
// put to another.
type transfer struct {
	at      []step // up to the last * that both paths share: it is done at each of these
	from    []step // from there on
	to      []step // from there on; names alone
	many    bool   // from leads to any number of values
	appends bool
	out     filter // takes from out
}

func newTransfer(from, to Path, appends bool) *transfer {
	shared := 0
	if n := stars(to.steps); n > 0 {
		for i, s := range to.steps {
			if s.kind >= everyElement {
				shared = i + 1
			}
		}
	}
	t := &transfer{at: to.steps[:shared], from: from.steps[shared:], to: to.steps[shared:], appends: appends}
	t.many = stars(t.from) > 0
	t.out.add(rule{kind: drops, steps: t.from})
	return t
}

// transferring is one run of a transfer.
type transferring struct {
	*transfer
	b, dst []byte
	values []byte // what was taken, as elements with commas between them
	rest   []byte // what is left where it was taken
	bad    bool
}

// rooms holds what transfers and merges work in.
var rooms sync.Pool

// mostRoom bounds what is kept, in bytes of one buffer.
const mostRoom = 1 << 20

type room struct{ a, b, values, rest []byte }

func takeRoom() *room {
	if r, ok := rooms.Get().(*room); ok {
		return r
	}
	return new(room)
}

func (r *room) give() {
	if max(cap(r.a), cap(r.b), cap(r.values), cap(r.rest)) <= mostRoom {
		rooms.Put(r)
	}
}

// apply appends b with the values in their new places.
func (t *transfer) apply(dst, b []byte, r *room) (out []byte, ok bool) {
	run := transferring{transfer: t, b: b, dst: dst, values: r.values, rest: r.rest}
	run.walk(space(b, 0), t.at)
	r.values, r.rest = run.values, run.rest
	return run.dst, !run.bad
}

// walk copies the value at b[i], and does the transfer where steps lead.
func (t *transferring) walk(i int, steps []step) (end int) {
	if len(steps) == 0 {
		return t.here(i)
	}
	w, object, ok := opened(t.b, i)
	s := &steps[0]
	if !ok || object && (s.kind == everyElement || s.kind == byIndex) || !object && s.kind == byName {
		return t.copy(i)
	}
	index := s.index
	if s.kind == byIndex && index < 0 {
		index += elements(t.b, i)
	}
	from := i // what is not copied yet
	for n := 0; ; n++ {
		var name []byte
		value := -1
		if object {
			name, value = w.member()
		} else {
			value = w.next()
		}
		if value < 0 {
			break
		}
		if s.kind == byName && !nameIs(name, s.name) || s.kind == byIndex && n != index {
			w.pass(value)
			continue
		}
		t.dst = append(t.dst, t.b[from:value]...)
		w.i = t.walk(value, steps[1:])
		from = w.i
	}
	t.bad = t.bad || w.bad
	t.dst = append(t.dst, t.b[from:w.i]...)
	return w.i
}

func (t *transferring) copy(i int) (end int) {
	if end = skip(t.b, i); end < 0 {
		t.bad = true
		return len(t.b)
	}
	t.dst = append(t.dst, t.b[i:end]...)
	return end
}

// here does the transfer within the value at b[i].
func (t *transferring) here(i int) (end int) {
	if end = skip(t.b, i); end < 0 {
		t.bad = true
		return len(t.b)
	}
	t.values = t.values[:0]
	found := 0
	each(t.b, i, t.from, func(value []byte) bool {
		found++
		if t.appends && value[0] == '[' {
			if value = trim(value[1 : len(value)-1]); len(value) == 0 {
				return true
			}
		}
		if len(t.values) > 0 {
			t.values = append(t.values, ',')
		}
		t.values = append(t.values, value...)
		return true
	})
	if found == 0 {
		t.dst = append(t.dst, t.b[i:end]...)
		return end
	}
	rest, ok := t.out.apply(t.rest[:0], t.b, i)
	t.rest, t.bad = rest, t.bad || !ok
	t.put(space(rest, 0), t.to)
	return end
}

// put copies the value at rest[i], or makes an object where i is -1, with what was
// taken at the place that steps lead to from it. What stands in the way and is no
// object is replaced by one.
func (t *transferring) put(i int, steps []step) (end int) {
	b := t.rest
	if i >= 0 {
		if end = skip(b, i); end < 0 {
			t.bad = true
			return len(b)
		}
	}
	if len(steps) == 0 {
		if i >= 0 {
			t.land(b[i:end])
		} else {
			t.land(nil)
		}
		return end
	}
	t.dst = append(t.dst, '{')
	found, some := false, false
	if i >= 0 && b[i] == '{' {
		w := walk{b: b, i: i + 1}
		for {
			name, value := w.member()
			if value < 0 {
				break
			}
			if some {
				t.dst = append(t.dst, ',')
			}
			some = true
			if nameIs(name, steps[0].name) {
				found = true
				t.dst = append(t.dst, b[w.start:value]...)
				w.i = t.put(value, steps[1:])
				continue
			}
			if after := w.pass(value); after >= 0 {
				t.dst = append(t.dst, b[w.start:after]...)
			}
		}
		t.bad = t.bad || w.bad
	}
	if !found {
		if some {
			t.dst = append(t.dst, ',')
		}
		t.dst = append(AppendString(t.dst, steps[0].name), ':')
		t.put(-1, steps[1:])
	}
	t.dst = append(t.dst, '}')
	return end
}

// land writes what was taken in place of old, nil where there is nothing.
func (t *transferring) land(old []byte) {
	if !t.appends && !t.many {
		t.dst = append(t.dst, t.values...)
		return
	}
	t.dst = append(t.dst, '[')
	if t.appends && len(old) > 0 && string(old) != "null" {
		if old[0] == '[' {
			old = trim(old[1 : len(old)-1])
		}
		t.dst = append(t.dst, old...)
		if len(old) > 0 && len(t.values) > 0 {
			t.dst = append(t.dst, ',')
		}
	}
	t.dst = append(append(t.dst, t.values...), ']')
}
