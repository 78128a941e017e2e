package document

import (
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"reflect"
	"strings"
	"testing"
)

func TestMerge(t *testing.T) {
	part := func(doc string) Part { return Part{Doc: []byte(doc)} }
	for _, c := range []struct {
		name       string
		parts      []Part
		want, deep string // deep is "" where it makes no difference
	}{
		{"nothing", nil, `{}`, ""},
		{"empty and null", []Part{part(``), part(` null `)}, `{}`, ""},
		{"one", []Part{part(` { "a" : 1 } `)}, `{ "a" : 1 }`, ""},
		{"two", []Part{part(`{ "a" : 1, "b":[1 ,2] }`), part(`{"c":1e400}`)}, `{"a" : 1, "b":[1 ,2],"c":1e400}`, ""},
		{"empty ones between", []Part{part(`{}`), part(`{"a":1}`), part(`{}`), part(`{"b":1}`)}, `{"a":1,"b":1}`, ""},
		{"later wins, at its place", []Part{part(`{"a":1,"b":2,"c":3}`), part(`{"b":20,"d":4}`), part(`{"b":-0}`)}, `{"a":1,"b":-0,"c":3,"d":4}`, ""},
		{"names by what they stand for", []Part{part(`{"a\u002eb":1}`), part(`{"a.b":2}`)}, `{"a\u002eb":2}`, ""},
		{"twice in one part", []Part{part(`{"a":1,"b":1,"a":2}`), part(`{"c":3}`)}, `{"a":2,"b":1,"c":3}`, ""},
		{"objects", []Part{part(`{"o":{"a":1,"b":{"x":1}}}`), part(`{"o":{"b":{"y":1.10},"c":3}}`)}, `{"o":{"b":{"y":1.10},"c":3}}`, `{"o":{"a":1,"b":{"x":1,"y":1.10},"c":3}}`},
		{"three objects", []Part{part(`{"o":{"a":1}}`), part(`{"o":{"b":1}}`), part(`{"o":{"a":2}}`)}, `{"o":{"a":2}}`, `{"o":{"a":2,"b":1}}`},
		{"objects behind one that is none", []Part{part(`{"o":{"a":1}}`), part(`{"o":7}`), part(`{"o":{"b":1}}`), part(`{"o":{"c":1}}`)}, `{"o":{"c":1}}`, `{"o":{"b":1,"c":1}}`},
		{"one that is no object behind objects", []Part{part(`{"o":{"a":1}}`), part(`{"o":[1]}`)}, `{"o":[1]}`, ""},
		{"an array", []Part{part(`{"a":1}`), part(`[1, 2]`)}, `{"a":1,"collection":[1, 2]}`, ""},
		{"an array with a name", []Part{{Doc: []byte(`[1]`), Collection: "posts"}}, `{"posts":[1]}`, ""},
		{"two arrays", []Part{part(`[1]`), part(`[2]`)}, `{"collection":[2]}`, ""},
		{"groups", []Part{{Doc: []byte(`{"a":1}`), Group: "g"}, {Doc: []byte(`[1]`), Group: "h"}, {Doc: []byte(`[1]`), Group: "i", Collection: "c"}, {Doc: []byte(`7`), Group: "j\""}, {Doc: []byte(`null`), Group: "k"}},
			`{"g":{"a":1},"h":[1],"i":{"c":[1]},"j\"":7,"k":null}`, ""},
		{"one group for two", []Part{{Doc: []byte(`{"a":1}`), Group: "g"}, {Doc: []byte(`{"b":1}`), Group: "g"}}, `{"g":{"b":1}}`, `{"g":{"a":1,"b":1}}`},
	} {
		for _, deep := range []bool{false, true} {
			want := c.want
			if deep && c.deep != "" {
				want = c.deep
			}
			got, err := Merge([]byte("before"), c.parts, deep)
			if err != nil || string(got) != "before"+want {
				t.Errorf("%s, deep %v: %s, %v; want %s", c.name, deep, got, err, want)
			}
		}
	}
}

// Parts that lie side by side in one buffer are not one.
func TestMergeOfOneBuffer(t *testing.T) {
	both := []byte(`{"a":1}{"b":2}`)
	got, err := Merge(nil, []Part{{Doc: both[:7]}, {Doc: both[7:]}}, false)
	if err != nil || string(got) != `{"a":1,"b":2}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestMergeRefuses(t *testing.T) {
	for doc, want := range map[string]string{
		`7`: "got a number", `"x"`: "got a text", `true`: "got a boolean",
	} {
		got, err := Merge([]byte("kept"), []Part{{Doc: []byte(`{"a":1}`)}, {Name: "users", Doc: []byte(doc)}}, true)
		wantError(t, err, "users: expected an object or an array to merge, "+want)
		var r *Refused
		if string(got) != "kept" || !errors.As(err, &r) || r.Path != "users" {
			t.Errorf("%s, %v", got, err)
		}
	}
	if got, err := Merge([]byte("kept"), []Part{{Doc: []byte(`{"a":1}`)}, {Doc: []byte(`{"a"`)}}, true); string(got) != "kept" || err == nil {
		t.Errorf("%s, %v", got, err)
	}
}

// Merging does by splicing what it does by decoding.
func TestMergeAgainstDecoding(t *testing.T) {
	r := rand.New(rand.NewSource(11))
	for range 20_000 {
		deep := r.Intn(2) == 0
		var parts []Part
		want := map[string]any{}
		for range r.Intn(5) {
			p := Part{Doc: randomDocument(r, 5)}
			v := decoded(t, p.Doc)
			if r.Intn(4) == 0 {
				p.Group = "abc"[r.Intn(3):][:1]
				v = map[string]any{p.Group: v}
			}
			switch x := v.(type) {
			case map[string]any:
				slowMerge(want, x, deep)
			case []any:
				slowMerge(want, map[string]any{"collection": x}, deep)
			default:
				continue
			}
			parts = append(parts, p)
		}
		got, err := Merge(nil, parts, deep)
		if err != nil || !reflect.DeepEqual(decoded(t, got), any(want)) {
			t.Fatalf("%q, deep %v: %s, %v\nwant %s", parts, deep, got, err, encoded(t, want))
		}
		if err := Check(got, Limits{}, len(parts) == 1); err != nil {
			t.Fatalf("%q: %s: %v", parts, got, err)
		}
	}
}

func slowMerge(to, from map[string]any, deep bool) {
	for name, value := range from {
		a, isObject := to[name].(map[string]any)
		b, too := value.(map[string]any)
		if deep && isObject && too {
			a = maps.Clone(a)
			slowMerge(a, b, deep)
			to[name] = a
			continue
		}
		to[name] = value
	}
}

func TestMergeManyMembers(t *testing.T) {
	var a, b strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&a, `,"n%d":%d`, i, i)
		fmt.Fprintf(&b, `,"n%d":%d`, i+10_000, -i)
	}
	got, err := Merge(nil, []Part{{Doc: []byte("{" + a.String()[1:] + "}")}, {Doc: []byte("{" + b.String()[1:] + "}")}}, true)
	if err != nil || Check(got, Limits{}, false) != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"n0": "0", "n9999": "9999", "n10000": "0", "n19999": "-9999", "n29999": "-19999"} {
		p, _ := ParsePath(path)
		if v, _ := p.Get(got); string(v) != want && string(v) != strings.Replace(want, "0", "-0", 1) {
			t.Errorf("%s is %s, want %s", path, v, want)
		}
	}
}
