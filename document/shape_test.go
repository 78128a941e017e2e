package document

import (
	"errors"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func mustShape(t testing.TB, c ShapeConfig) *Shape {
	t.Helper()
	s, err := NewShape(&c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return s
}

func TestShape(t *testing.T) {
	type names = map[string]string
	const post = `{"supu":42,"tupu":false,"foo":"bar","a":{"b":true,"c":42,"d":"tupu"}}`
	const list = `{"items":[{"id":1,"user":{"name":"x","mail":"m"}},{"id":2},7,[1]],"total":2}`
	for _, c := range []struct {
		name      string
		shape     ShapeConfig
		doc, want string
	}{
		{"nothing", ShapeConfig{}, ` { "a" : 1 } `, `{ "a" : 1 }`},

		// KrakenD's data manipulation, as its documents and tests have it.
		{"allow", ShapeConfig{Pick: []string{"supu", "a.b", "a.c", "foo.unknown"}}, post, `{"supu":42,"a":{"b":true,"c":42}}`},
		{"deny", ShapeConfig{Drop: []string{"supu", "a.b", "a.c", "foo.unknown"}}, post, `{"tupu":false,"foo":"bar","a":{"d":"tupu"}}`},
		{"mapping", ShapeConfig{Rename: names{"supu": "SUPU", "tupu": "TUPU", "a.b": "BOO"}}, post,
			`{"SUPU":42,"TUPU":false,"foo":"bar","a":{"BOO":true,"c":42,"d":"tupu"}}`},
		{"group", ShapeConfig{Group: "group1"}, post, `{"group1":` + post + `}`},
		{"target", ShapeConfig{Target: "a"}, post, `{"b":true,"c":42,"d":"tupu"}`},
		{"target that is not there", ShapeConfig{Target: "b"}, post, `{}`},
		{"target, allow, mapping, group", ShapeConfig{Target: "a", Pick: []string{"d"}, Rename: names{"d": "D"}, Group: "group"}, post, `{"group":{"D":"tupu"}}`},
		{"is_collection", ShapeConfig{Collection: "collection"}, `[{"id":1},{"id":2}]`, `{"collection":[{"id":1},{"id":2}]}`},
		{"is_collection of an object", ShapeConfig{Collection: "collection"}, `{"id":1}`, `{"id":1}`},
		{"is_collection, mapping, group", ShapeConfig{Collection: "posts", Group: "g", Pick: []string{"[*].id"}}, `[{"id":1,"x":2}]`, `{"g":{"posts":[{"id":1}]}}`},
		{"flatmap: move, del and append", ShapeConfig{
			Move:   names{"schools[0].students": "alumni"},
			Append: names{"teachers": "staff"},
			Drop:   []string{"schools[*].students[*].password"},
		}, `{"schools":[{"students":[{"id":1,"password":"x"}],"name":"s"}],"staff":[1],"teachers":[2,3]}`,
			`{"schools":[{"name":"s"}],"staff":[1,2,3],"alumni":[{"id":1}]}`},
		{"flatmap: rename with wildcards", ShapeConfig{Move: names{"alumni.*.PK_ID": "alumni.*.id"}},
			`{"alumni":[{"PK_ID":1,"x":0},{"PK_ID":2}]}`, `{"alumni":[{"x":0,"id":1},{"id":2}]}`},
		{"flatmap: del with wildcards", ShapeConfig{Drop: []string{"a.*.b.*.c"}},
			`{"a":[{"b":[{"c":1,"d":2}]},{"b":{"x":{"c":1}}},{"b":1}]}`, `{"a":[{"b":[{"d":2}]},{"b":{"x":{}}},{"b":1}]}`},

		{"pick in arrays", ShapeConfig{Pick: []string{"items[*].user.name"}}, list, `{"items":[{"user":{"name":"x"}},{}]}`},
		{"pick in arrays by *", ShapeConfig{Pick: []string{"items.*.id", "total"}}, list, `{"items":[{"id":1},{"id":2}],"total":2}`},
		{"pick elements", ShapeConfig{Pick: []string{"items[0].id", "items[-2]"}}, list, `{"items":[{"id":1},7]}`},
		{"pick a name of an array", ShapeConfig{Pick: []string{"items.id", "total"}}, list, `{"total":2}`},
		{"pick of an empty array", ShapeConfig{Pick: []string{"a[*].b"}}, `{"a":[],"b":1}`, `{"a":[]}`},
		{"pick nothing", ShapeConfig{Pick: []string{"z"}}, list, `{}`},
		{"pick nothing of an array", ShapeConfig{Pick: []string{"z"}}, `[1]`, `[]`},
		{"pick of a scalar", ShapeConfig{Pick: []string{"z"}}, `"x"`, `null`},
		{"pick the whole and a part", ShapeConfig{Pick: []string{"a", "a.b"}}, post, `{"a":{"b":true,"c":42,"d":"tupu"}}`},
		{"pick and drop", ShapeConfig{Pick: []string{"a"}, Drop: []string{"a.c"}}, post, `{"a":{"b":true,"d":"tupu"}}`},
		{"drop all", ShapeConfig{Drop: []string{"*"}}, post, `{}`},
		{"drop elements", ShapeConfig{Drop: []string{"[0]", "[-1]"}}, `[1, 2, 3]`, `[2]`},
		{"drop keeps what is between", ShapeConfig{Drop: []string{"c"}}, `{ "a" : 1 , "b":2, "c":3 ,"d" :4 }`, `{"a" : 1 , "b":2,"d" :4}`},
		{"names with dots and escapes", ShapeConfig{Drop: []string{`"a.b"`}, Rename: names{"c": `x"y`}}, `{"a\u002eb":1,"a":{"b":2},"\u0063":3}`, `{"a":{"b":2},"x\"y":3}`},

		{"rename what is there already", ShapeConfig{Rename: names{"a": "b"}}, `{"b":1,"a":2,"c":3}`, `{"b":2,"c":3}`},
		{"rename, and it is not there", ShapeConfig{Rename: names{"a": "b"}}, `{"b":1,"c":3}`, `{"b":1,"c":3}`},
		{"rename to each other", ShapeConfig{Rename: names{"a": "b", "b": "a"}}, `{"b":1,"a":2}`, `{"a":1,"b":2}`},
		{"rename in a row", ShapeConfig{Rename: names{"a": "b", "b": "c"}}, `{"a":1,"b":2,"c":3}`, `{"b":1,"c":2}`},
		{"rename what is dropped in one place", ShapeConfig{Rename: names{"x.*.a": "b"}, Drop: []string{"x.p.a"}}, `{"x":{"p":{"b":1,"a":2},"q":{"b":1,"a":2}}}`, `{"x":{"p":{"b":1},"q":{"b":2}}}`},
		{"rename what pick empties", ShapeConfig{Rename: names{"a": "b"}, Pick: []string{"a.x", "b"}}, `{"a":{"y":1},"b":2}`, `{"b":2}`},
		{"rename and go in", ShapeConfig{Rename: names{"a": "A", "a.b": "B"}, Drop: []string{"a.c"}}, `{"a":{"b":1,"c":2}}`, `{"A":{"B":1}}`},

		{"move into what is new", ShapeConfig{Move: names{"a": "x.y"}}, `{"a":1,"b":2}`, `{"b":2,"x":{"y":1}}`},
		{"move into what is there", ShapeConfig{Move: names{"a": "x.y"}}, `{"a":1,"x":{"y":5,"z":6}}`, `{"x":{"y":1,"z":6}}`},
		{"move into what is no object", ShapeConfig{Move: names{"a": "x.y"}}, `{"a":1,"x":[1]}`, `{"x":{"y":1}}`},
		{"move out", ShapeConfig{Move: names{"a.b": "a"}}, `{"a":{"b":{"c":1},"d":2}}`, `{"a":{"c":1}}`},
		{"move in", ShapeConfig{Move: names{"a": "a.b"}}, `{"a":1}`, `{"a":{"b":1}}`},
		{"move what is not there", ShapeConfig{Move: names{"z": "a"}}, `{"a": 1}`, `{"a": 1}`},
		{"move many", ShapeConfig{Move: names{"items[*].id": "ids"}}, list, `{"items":[{"user":{"name":"x","mail":"m"}},{},7,[1]],"total":2,"ids":[1,2]}`},
		{"move within each", ShapeConfig{Move: names{"items[*].user.name": "items[*].name"}}, `{"items":[{"user":{"name":"x"}},{"id":2},7]}`, `{"items":[{"user":{},"name":"x"},{"id":2},7]}`},
		{"move many within each", ShapeConfig{Move: names{"*.l[*].n": "*.n"}}, `{"x":{"l":[{"n":1},{"n":2}]},"y":3}`, `{"x":{"l":[{},{}],"n":[1,2]},"y":3}`},
		{"two moves", ShapeConfig{Move: names{"b": "n.b", "a": "n.a"}}, `{"b":1,"a":2}`, `{"n":{"a":2,"b":1}}`},
		{"move the renamed", ShapeConfig{Rename: names{"a": "b"}, Move: names{"b": "c"}}, `{"a":1}`, `{"c":1}`},

		{"append", ShapeConfig{Append: names{"a": "b"}}, `{"a":[1,2],"b":[3]}`, `{"b":[3,1,2]}`},
		{"append to nothing", ShapeConfig{Append: names{"a": "b"}}, `{"a":[1,2]}`, `{"b":[1,2]}`},
		{"append to null and empty", ShapeConfig{Append: names{"a": "b", "c": "d"}}, `{"a":[1],"b":null,"c":[2],"d":[ ]}`, `{"b":[1],"d":[2]}`},
		{"append nothing", ShapeConfig{Append: names{"a": "b", "c": "d"}}, `{"a":[],"b":[1],"c":[]}`, `{"b":[1],"d":[]}`},
		{"append what is no array", ShapeConfig{Append: names{"a": "b"}}, `{"a":{"x":1},"b":2}`, `{"b":[2,{"x":1}]}`},
		{"append many", ShapeConfig{Append: names{"a[*].t": "t"}}, `{"a":[{"t":[1,2]},{"t":[]},{"t":3}],"t":[0]}`, `{"a":[{},{},{}],"t":[0,1,2,3]}`},
		{"append several to one", ShapeConfig{Append: names{"b": "x", "a": "x"}}, `{"b":[2],"a":[1]}`, `{"x":[1,2]}`},
		{"move, then append", ShapeConfig{Move: names{"a.l": "l"}, Append: names{"l": "m"}, Collection: "c"}, `{"a":{"l":[1]},"m":[0]}`, `{"a":{},"m":[0,1]}`},
		{"collection after a move", ShapeConfig{Move: names{"[*].a": "[*].b"}, Collection: "c", Group: "g"}, `[{"a":1}]`, `{"g":{"c":[{"b":1}]}}`},

		{"query", ShapeConfig{Query: "items[?id > `1`].{id: id}"}, `{"items":[{"id":1},{"id":12345678901234567891,"x":1}]}`, `[{"id":12345678901234567891}]`},
		{"query, then the rest", ShapeConfig{Target: "a", Query: "l[0]", Rename: names{"b": "c"}, Group: "g"}, `{"a":{"l":[{"b":1.10}]}}`, `{"g":{"c":1.10}}`},
	} {
		s := mustShape(t, c.shape)
		if s.None() != reflect.DeepEqual(c.shape, ShapeConfig{}) {
			t.Errorf("%s: None is %v", c.name, s.None())
		}
		got, err := s.Apply([]byte("before"), []byte(c.doc), Limits{})
		if err != nil || string(got) != "before"+c.want {
			t.Errorf("%s: %s, %v\n\twant %s", c.name, strings.TrimPrefix(string(got), "before"), err, c.want)
		}
	}
}

// Numbers and escapes come out as they went in, whatever is done around them.
func TestShapeKeepsBytes(t *testing.T) {
	for _, number := range append(oddNumbers, `"\u00e9\/"`, "[ 1,\t2 ]") {
		doc := `{"a":{"keep":` + number + `,"drop":1},"b":[` + number + `],"m":` + number + `}`
		s := mustShape(t, ShapeConfig{Drop: []string{"a.drop"}, Rename: map[string]string{"a.keep": "kept"}, Move: map[string]string{"m": "n"}, Append: map[string]string{"b": "c"}})
		got, err := s.Apply(nil, []byte(doc), Limits{})
		if want := `{"a":{"kept":` + number + `},"n":` + number + `,"c":[` + number + `]}`; err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

func TestShapeLimits(t *testing.T) {
	s := mustShape(t, ShapeConfig{Group: "group"})
	got, err := s.Apply([]byte("kept"), []byte(`"123456789"`), Limits{Bytes: 15})
	var r *Refused
	if string(got) != "kept" || !errors.As(err, &r) || !r.TooLarge {
		t.Errorf("%s, %v", got, err)
	}
	long := strings.Repeat("n", 200)
	s = mustShape(t, ShapeConfig{Move: map[string]string{"a[*].b": "a[*]." + long, "c": "d"}})
	got, err = s.Apply([]byte("kept"), []byte(`{"a":[`+strings.Repeat(`{"b":1},`, 99)+`{"b":1}],"c":1}`), Limits{Bytes: 1000})
	if string(got) != "kept" || !errors.As(err, &r) || !r.TooLarge {
		t.Errorf("%.20s, %v", got, err)
	}
	if got, err := s.Apply([]byte("kept"), []byte(`{"a":`), Limits{}); string(got) != "kept" || err == nil {
		t.Errorf("%s, %v", got, err)
	}
}

// A random shape does by splicing what it does by decoding.
func TestShapeAgainstDecoding(t *testing.T) {
	r := rand.New(rand.NewSource(7))
	done, changed := 0, 0
	for range 60_000 {
		c := randomShape(r)
		if len(problemsOf(&c)) > 0 {
			continue
		}
		doc := randomDocument(r, 4)
		s := mustShape(t, c)
		if slices.ContainsFunc(s.transfers, func(t *transfer) bool {
			return slices.ContainsFunc(t.from, func(s step) bool { return s.kind == everyChild })
		}) {
			continue // decoded members have no order
		}
		got, err := s.Apply(nil, doc, Limits{})
		if err != nil {
			t.Fatalf("%+v of %s: %v", c, doc, err)
		}
		if err := Check(got, Limits{}, false); err != nil {
			t.Fatalf("%+v of %s gives %s: %v", c, doc, got, err)
		}
		before := decoded(t, doc)
		want := slowly(s, decoded(t, doc))
		if after := decoded(t, got); !reflect.DeepEqual(after, want) {
			t.Fatalf("%+v of %s\ngives %s\n want %s", c, doc, got, encoded(t, want))
		} else if !reflect.DeepEqual(before, after) {
			changed++
		}
		done++
	}
	if done < 2000 || changed < 1000 {
		t.Errorf("%d documents shaped, %d changed", done, changed)
	}
}

func randomShape(r *rand.Rand) (c ShapeConfig) {
	paths := func() (list []string) {
		for range r.Intn(3) {
			list = append(list, randomPath(r, true).String())
		}
		return list
	}
	pairs := func(to func() string) map[string]string {
		m := map[string]string{}
		for range r.Intn(3) {
			m[randomPath(r, true).String()] = to()
		}
		return m
	}
	name := func() string { return []string{"a", "b", "c", "n"}[r.Intn(4)] }
	if r.Intn(2) == 0 {
		c.Pick = paths()
	}
	if r.Intn(2) == 0 {
		c.Drop = paths()
	}
	if r.Intn(2) == 0 {
		c.Rename = pairs(name)
	}
	if r.Intn(3) == 0 {
		c.Move = pairs(func() string { return randomPath(r, true).String() })
	}
	if r.Intn(3) == 0 {
		c.Append = pairs(func() string { return randomPath(r, false).String() })
	}
	if r.Intn(4) == 0 {
		c.Group, c.Collection = name(), name()
	}
	return c
}

// slowly is Apply on decoded documents, written for clarity.
func slowly(s *Shape, v any) any {
	if len(s.filter.rules) > 0 {
		filtered, left := slowFilter(&s.filter, v, nil)
		switch v.(type) {
		case map[string]any:
			if !left {
				filtered = map[string]any{}
			}
		case []any:
			if !left {
				filtered = []any{}
			}
		default:
			if !left {
				filtered = nil
			}
		}
		v = filtered
	}
	for _, t := range s.transfers {
		v = slowTransfer(t, v, t.at)
	}
	if list, ok := v.([]any); ok && s.collection != nil {
		v = map[string]any{unquoted(s.collection): list}
	}
	if s.group != nil {
		v = map[string]any{unquoted(s.group): v}
	}
	return v
}

func unquoted(name []byte) string { return string(AppendText(nil, name[:len(name)-1])) }

// place is one step down in a document: a name, or an index and the number of
// elements.
type place struct {
	name     string
	index, n int
}

func (p place) fits(s step) bool {
	switch s.kind {
	case byName:
		return p.n == 0 && p.name == s.name
	case byIndex:
		return p.n > 0 && (s.index == p.index || s.index == p.index-p.n)
	case everyElement:
		return p.n > 0
	}
	return true
}

func fits(steps []step, places []place) bool {
	if len(steps) != len(places) {
		return false
	}
	for i := range steps {
		if !places[i].fits(steps[i]) {
			return false
		}
	}
	return true
}

// slowFilter does pick, drop and rename to the value at places.
func slowFilter(f *filter, v any, places []place) (any, bool) {
	ruleOf := func(kind ruleKind, places []place) *rule {
		for i := range f.rules {
			if f.rules[i].kind == kind && fits(f.rules[i].steps, places) {
				return &f.rules[i]
			}
		}
		return nil
	}
	whole := f.picks.empty()
	for n := 1; n <= len(places); n++ {
		whole = whole || ruleOf(picks, places[:n]) != nil
	}
	leads := func(places []place) bool { // some pick goes on from here
		for i := range f.rules {
			r := &f.rules[i]
			if r.kind == picks && len(r.steps) > len(places) && fits(r.steps[:len(places)], places) {
				return true
			}
		}
		return false
	}
	child := func(v any, p place) (any, bool) {
		at := append(slices.Clone(places), p)
		if ruleOf(drops, at) != nil {
			return nil, false
		}
		if !whole && ruleOf(picks, at) == nil && !leads(at) {
			return nil, false
		}
		out, left := slowFilter(f, v, at)
		if _, object := v.(map[string]any); !left && object && p.n > 0 {
			return map[string]any{}, true
		}
		return out, left
	}
	switch v := v.(type) {
	case map[string]any:
		out, renamed := map[string]any{}, map[string]any{}
		for name, value := range v {
			kept, left := child(value, place{name: name})
			if !left {
				continue
			}
			if r := ruleOf(renames, append(slices.Clone(places), place{name: name})); r != nil {
				renamed[r.name] = kept
			} else {
				out[name] = kept
			}
		}
		for name, value := range renamed {
			out[name] = value
		}
		return out, whole || len(out) > 0
	case []any:
		out := []any{}
		for i, value := range v {
			if kept, left := child(value, place{index: i, n: len(v)}); left {
				out = append(out, kept)
			}
		}
		enters := whole
		for i := range f.rules {
			r := &f.rules[i]
			enters = enters || r.kind == picks && len(r.steps) > len(places) && fits(r.steps[:len(places)], places) && r.steps[len(places)].kind != byName
		}
		return out, enters
	}
	return v, whole
}

func slowTransfer(t *transfer, v any, steps []step) any {
	if len(steps) > 0 {
		switch v := v.(type) {
		case map[string]any:
			for name := range v {
				if (place{name: name}).fits(steps[0]) {
					v[name] = slowTransfer(t, v[name], steps[1:])
				}
			}
		case []any:
			for i := range v {
				if (place{index: i, n: len(v)}).fits(steps[0]) {
					v[i] = slowTransfer(t, v[i], steps[1:])
				}
			}
		}
		return v
	}
	found := matches(v, t.from)
	if len(found) == 0 {
		return v
	}
	var values []any
	for _, f := range found {
		if list, ok := f.([]any); ok && t.appends {
			values = append(values, list...)
		} else {
			values = append(values, f)
		}
	}
	v, _ = slowFilter(&t.out, v, nil)
	return slowPut(t, v, t.to, values)
}

func slowPut(t *transfer, v any, steps []step, values []any) any {
	if len(steps) > 0 {
		m, ok := v.(map[string]any)
		if !ok {
			m = map[string]any{}
		}
		m[steps[0].name] = slowPut(t, m[steps[0].name], steps[1:], values)
		return m
	}
	switch {
	case t.appends:
		old, ok := v.([]any)
		if !ok && v != nil {
			old = []any{v}
		}
		return append(append([]any{}, old...), values...)
	case t.many:
		return append([]any{}, values...)
	}
	return values[0]
}
