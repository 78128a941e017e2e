package document

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestShapeConfig(t *testing.T) {
	type names = map[string]string
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprintf("f%d", i)
	}
	transfers := names{}
	for i := range 65 {
		transfers[fmt.Sprintf("f%d", i)] = fmt.Sprintf("g%d", i)
	}
	for _, c := range []struct {
		shape ShapeConfig
		want  []string
	}{
		{ShapeConfig{}, nil},
		{ShapeConfig{Target: "a.b[0]", Query: "a.b", Pick: []string{"a.b", "a.c"}, Drop: []string{"a.b.x"}, Rename: names{"a.b": "d"}, Move: names{"a.d": "e"}, Append: names{"e": "a.c"}, Group: "g"}, nil},
		{ShapeConfig{Rename: names{"a": "b", "b": "a"}, Move: names{"a": "x.a", "b": "x.b"}}, nil},
		{ShapeConfig{Move: names{"a[0].x": "first", "a[1].x": "second"}}, nil},
		{ShapeConfig{Append: names{"a": "c", "b": "c"}}, nil},
		{ShapeConfig{Pick: []string{"a", "b"}, Rename: names{"a": "c"}, Move: names{"c.d": "e"}}, nil},

		{ShapeConfig{Target: "a.*", Query: "a.[", Pick: []string{"a..b", "$", "a", "a"}}, []string{
			`target: expected a path without *, got "a.*"`, "query: expected a JMESPath expression:", `pick[0]: expected a name`,
			`pick[1]: expected a path inside the document, got "$"`, `pick[3]: expected each path once, got "a" again`,
		}},
		{ShapeConfig{Query: strings.Repeat("a", 5000)}, []string{"query: expected a JMESPath expression: expected at most 4096 bytes, got 5000"}},
		{ShapeConfig{Pick: many}, []string{"expected at most 256 entries of pick, drop and rename, got 257"}},
		{ShapeConfig{Move: transfers}, []string{"move: expected at most 64 entries, got 65"}},
		{ShapeConfig{Pick: []string{"a.b.c"}, Drop: []string{"a.*"}}, []string{"pick[0]: expected a path that stays, but drop has a.*"}},
		{ShapeConfig{Rename: names{"a": "a", "b": "", "c[0]": "d", "e.*": "f", "": "g"}}, []string{
			`rename."": expected the path of a field, whose last step is a name, got ""`, "rename.a: expected another name than it has",
			"rename.b: expected a new name", `rename."c[0]": expected the path of a field`, "rename.e.*: expected the path of a field",
		}},
		{ShapeConfig{Rename: names{"a": "c", "b": "c"}}, []string{`rename.b: expected a name that no other field of the object gets, got "c" also for rename.a`}},
		{ShapeConfig{Rename: names{"x.a": "c", "*.b": "c"}}, []string{"rename.x.a: expected a name that no other field of the object gets"}},
		{ShapeConfig{Rename: names{"x.a": "c", "*.a": "d"}}, []string{"rename.x.a: expected one new name for a field, got also rename.*.a"}},
		{ShapeConfig{Rename: names{"x.a": "c", "y.b": "c"}}, nil},
		{ShapeConfig{Rename: names{"a.b": "c"}, Drop: []string{"a"}}, []string{"rename.a.b: expected a field that stays, but drop has a"}},
		{ShapeConfig{Rename: names{"a.b": "c"}, Pick: []string{"b"}}, []string{"rename.a.b: expected a field that pick keeps"}},
		{ShapeConfig{Move: names{"a": "b", "c": "b"}}, []string{"move.c: expected a destination of its own, got that of move.a"}},
		{ShapeConfig{Move: names{"a": "b", "b": "c"}}, []string{"move.b: expected paths apart from those of move.a: which of them comes first is not said"}},
		{ShapeConfig{Move: names{"a": "x", "a.b": "y"}}, []string{"move.a.b: expected a source apart from that of move.a"}},
		{ShapeConfig{Move: names{"a": "x", "b": "x.y"}}, []string{"move.b: expected a destination apart from that of move.a"}},
		{ShapeConfig{Move: names{"a[0]": "x", "a[1]": "y"}}, []string{`move."a[1]": expected a source apart`}},
		{ShapeConfig{Append: names{"a": "b", "b": "c"}}, []string{"append.b: expected paths apart"}},
		{ShapeConfig{Move: names{"a": "b.c"}, Drop: []string{"b"}}, []string{"move.a: expected a destination that stays, but drop has b"}},
		{ShapeConfig{Move: names{"b.c": "a"}, Drop: []string{"b"}}, []string{"move.b.c: expected a source that stays, but drop has b"}},
		{ShapeConfig{Move: names{"b": "a"}, Pick: []string{"c"}}, []string{"move.b: expected a source that pick keeps"}},
		{ShapeConfig{Move: names{"a.b": "c"}, Rename: names{"a": "z"}}, []string{`move.a.b: expected the name that the field has by then, "z": rename.a comes first`}},
		{ShapeConfig{Move: names{"a": "a"}}, []string{"move.a: expected another path than it has"}},
		{ShapeConfig{Move: names{"$": "a", "a": "$"}}, []string{"move.$: expected paths inside the document", "move.a: expected paths inside the document"}},
		{ShapeConfig{Move: names{"a.*.b": "c.*.d"}}, []string{`move.a.*.b: expected a destination that begins like "a.*.b" up to its last *, got "c.*.d"`}},
		{ShapeConfig{Move: names{"a.b": "a.*"}}, []string{"move.a.b: expected a destination that begins like"}},
		{ShapeConfig{Move: names{"a": "b[0]"}}, []string{`move.a: expected a destination of names, got "b[0]"`}},
		{ShapeConfig{Group: strings.Repeat("g", 257), Collection: "\xff"}, []string{"group: expected a name of at most 256 bytes", "collection: expected a name"}},
	} {
		got := problemsOf(&c.shape)
		if len(got) != len(c.want) || !slices.EqualFunc(got, c.want, strings.HasPrefix) && !sameStarts(got, c.want) {
			t.Errorf("%+v:\n\t%q\n\twant %q", c.shape, got, c.want)
		}
		if _, err := NewShape(&c.shape); (err != nil) != (len(c.want) > 0) {
			t.Errorf("%+v: NewShape: %v", c.shape, err)
		}
	}
}

// sameStarts compares without regard to the order.
func sameStarts(got, want []string) bool {
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) || strings.HasPrefix(g, ": "+w) }) {
			return false
		}
	}
	return true
}
