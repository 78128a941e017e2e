package document

import (
	"math/rand"
	"slices"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for text, want := range map[string]string{
		"": "$", "$": "$", "a": "a", "$.a": "a", "a.b.c": "a.b.c", "a[0]": "a[0]", "a[-1]": "a[-1]", "[0]": "[0]", "$[0][1]": "[0][1]",
		"a[*].b": "a[*].b", "a.*.b": "a.*.b", "*": "*", "[*]": "[*]", `a."x.y"`: `a."x.y"`, `"a"`: "a", `"\u0061.b"`: `"a.b"`,
		`a."q\"q"`: `a."q\"q"`, `""`: `""`, `"$"`: `"$"`, "a.$": "a.$", "$ref": "$ref", "-x": "-x", "#text": "#text", "dc:title": "dc:title",
		"é.ü": "é.ü", `"{}"`: `"{}"`, "a-b_c@d/e": "a-b_c@d/e", "0": "0",
	} {
		p, err := ParsePath(text)
		if err != nil || p.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, p, err, want)
			continue
		}
		again, err := ParsePath(p.String())
		if err != nil || !slices.Equal(again.steps, p.steps) {
			t.Errorf("%q: %q does not read back: %v", text, p, err)
		}
	}
	for text, want := range map[string]string{
		".":                            "expected a name, with quotes around it",
		"a.":                           "at byte 2 of path \"a.\", got the end",
		"a..b":                         "at byte 2",
		"a b":                          "at byte 1",
		"a[":                           "expected ] at byte 2",
		"a[x]":                         "expected * or an index such as 0 or -1 at byte 2",
		"a[01]":                        "expected * or an index",
		"a[+1]":                        "expected * or an index",
		"a[-0]":                        "expected * or an index",
		"a[99999999999]":               "expected * or an index",
		"a]":                           "at byte 1",
		"a[0]b":                        "expected . or [ at byte 4",
		`"a`:                           "expected a quote",
		`"a"b`:                         "expected . or [ at byte 3",
		`"\x"`:                         `expected an escape such as \n`,
		"a*":                           "at byte 1",
		"*a":                           "expected . or [ at byte 1",
		"a{":                           "at byte 1",
		"a\xff":                        "expected a name in UTF-8",
		"a\x00":                        "at byte 1",
		strings.Repeat("a", 1025):      "expected a path of at most 1024 bytes",
		strings.Repeat("a.", 64) + "a": "expected at most 64 steps",
	} {
		_, err := ParsePath(text)
		wantError(t, err, want)
	}
}

const shop = ` { "a" : {"b":[{"c":1},{"c":2.50,"d":null},3]}, "x.y": "dot", "q\"q": 1, "\u0061z":"esc", "e":[], "o":{"p":{"n":1},"q":{"n":2},"r":{}}, "n":123456789012345678901234567890 }`

func TestPath(t *testing.T) {
	for text, want := range map[string][]string{
		"$":         {strings.TrimSpace(shop)},
		"a.b":       {`[{"c":1},{"c":2.50,"d":null},3]`},
		"a.b[0].c":  {"1"},
		"a.b[-1]":   {"3"},
		"a.b[-3].c": {"1"},
		"a.b[3]":    nil,
		"a.b[-4]":   nil,
		"a.b[*].c":  {"1", "2.50"},
		"a.b.*.c":   {"1", "2.50"},
		"a.b[*]":    {`{"c":1}`, `{"c":2.50,"d":null}`, "3"},
		"a.b[1].d":  {"null"},
		"a.b.c":     nil,
		`"x.y"`:     {`"dot"`},
		`"q\"q"`:    {"1"},
		"az":        {`"esc"`},
		"e[0]":      nil,
		"e[*]":      nil,
		"o.*.n":     {"1", "2"},
		"o[*].n":    nil,
		"n":         {"123456789012345678901234567890"},
		"n.x":       nil,
		"*.b[0].c":  {"1"},
		"*.*.n":     {"1", "2"},
		"nothing":   nil,
		"[0]":       nil,
	} {
		p, err := ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		p.Each([]byte(shop), func(v []byte) bool { got = append(got, string(v)); return true })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		v, ok := p.Get([]byte(shop))
		if ok != (len(want) > 0) || ok && string(v) != want[0] {
			t.Errorf("%s: first %q, %v", text, v, ok)
		}
		n := 0
		p.Each([]byte(shop), func([]byte) bool { n++; return false })
		if n != min(1, len(want)) {
			t.Errorf("%s: Each went on for %d values", text, n)
		}
	}
	// The last of two, as decoders have it.
	for doc, want := range map[string]string{`{"a":1,"a":2}`: "2", `{"a":1,"\u0061":3}`: "3", `{"a\\u0062":1,"a":4}`: "4", `{"\\":1}`: ""} {
		p, _ := ParsePath("a")
		if v, _ := p.Get([]byte(doc)); string(v) != want {
			t.Errorf("%s: %q, want %q", doc, v, want)
		}
	}
	p, _ := ParsePath(`"\\"`)
	if v, ok := p.Get([]byte(`{"\\":1}`)); !ok || string(v) != "1" {
		t.Errorf("a backslash: %q, %v", v, ok)
	}
}

func TestPathParts(t *testing.T) {
	p, _ := ParsePath("users[0].name")
	if p.First() != "users" || p.Rest().String() != "[0].name" || p.Rest().First() != "" || !p.One() {
		t.Errorf("%q, %q", p.First(), p.Rest())
	}
	if names, ok := p.Names(); ok {
		t.Errorf("names %q", names)
	}
	p, _ = ParsePath(`a."b.c"`)
	if names, ok := p.Names(); !ok || !slices.Equal(names, []string{"a", "b.c"}) {
		t.Errorf("names %q, %v", names, ok)
	}
	var root Path
	if root.First() != "" || root.Rest().String() != "$" {
		t.Error("the root has a part")
	}
	if p, _ := ParsePath("a.*"); p.One() {
		t.Error("a.* leads to one")
	}
}

func TestAppendText(t *testing.T) {
	for in, want := range map[string]string{
		`"a\n\"\u00e9\ud83d\ude00\/"`: "a\n\"é😀/", ` 1e400 `: "1e400", "123456789012345678901234567890": "123456789012345678901234567890",
		"-0": "-0", "1.10": "1.10", "true": "true", "null": "null", `{"a": 1}`: `{"a": 1}`, `["x"]`: `["x"]`, `""`: "", `"\ud800"`: "\ufffd", "": "",
	} {
		if got := AppendText([]byte("> "), []byte(in)); string(got) != "> "+want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// Paths lead to what they lead to in a decoded document.
func TestPathAgainstDecoding(t *testing.T) {
	r := rand.New(rand.NewSource(5))
	found := 0
	for range 20_000 {
		doc := randomDocument(r, 4)
		p := randomPath(r, true)
		var got [][]byte
		p.Each(doc, func(v []byte) bool { got = append(got, slices.Clone(v)); return true })
		want := matches(decoded(t, doc), p.steps)
		if len(got) != len(want) {
			t.Fatalf("%s in %s: %q, want %v", p, doc, got, want)
		}
		found += len(got)
		left := slices.Clone(want)
		for _, v := range got {
			i := slices.IndexFunc(left, func(w any) bool { return same(t, v, encoded(t, w)) })
			if i < 0 {
				t.Fatalf("%s in %s: %s is not among %v", p, doc, v, want)
			}
			left = slices.Delete(left, i, i+1)
		}
	}
	if found < 1000 {
		t.Errorf("only %d values were found", found)
	}
}

func randomPath(r *rand.Rand, stars bool) Path {
	var p Path
	for range 1 + r.Intn(3) {
		s := step{kind: byName, name: []string{"a", "b", "c", "d", "x.y"}[r.Intn(5)]}
		switch n := r.Intn(8); {
		case n == 0:
			s = step{kind: byIndex, index: r.Intn(5) - 2}
		case n == 1 && stars:
			s = step{kind: everyElement}
		case n == 2 && stars:
			s = step{kind: everyChild}
		}
		p.steps = append(p.steps, s)
	}
	return p
}

func matches(v any, steps []step) (found []any) {
	if len(steps) == 0 {
		return []any{v}
	}
	switch v := v.(type) {
	case map[string]any:
		for name, child := range v {
			if steps[0].kind == everyChild || steps[0].kind == byName && steps[0].name == name {
				found = append(found, matches(child, steps[1:])...)
			}
		}
	case []any:
		for i, child := range v {
			if steps[0].kind >= everyElement || steps[0].kind == byIndex && (steps[0].index == i || steps[0].index == i-len(v)) {
				found = append(found, matches(child, steps[1:])...)
			}
		}
	}
	return found
}
