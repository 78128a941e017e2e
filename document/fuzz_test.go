package document

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
	"unicode/utf8"
)

var fuzzLimits = Limits{Bytes: 1 << 16, Depth: 50, Nodes: 5000}

// FuzzCheck: what we take for JSON the standard library does too, and nothing that
// works on documents panics, be they good or not.
func FuzzCheck(f *testing.F) {
	for _, doc := range []string{shop, `{"a":[1,"\ud83d\ude00"],"a":{}}`, `[[{"b":`, `"\`, `{"a"`, `{"a":}`, `[}]`, "\xff", `{"a":"\u00`} {
		f.Add([]byte(doc), "a.*.b")
	}
	shape, err := NewShape(&ShapeConfig{
		Pick: []string{"a", "b[*].c", "d", "*.d"}, Drop: []string{"a.b[-1]"}, Rename: map[string]string{"a": "z", "b[*].c": "y"},
		Move: map[string]string{"z.b[*].c": "m", "b[*].y": "b[*].n.n"}, Append: map[string]string{"d[*]": "m.l"}, Collection: "c",
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, doc []byte, path string) {
		err := Check(doc, fuzzLimits, true)
		if err == nil && !json.Valid(doc) {
			t.Fatalf("%q is no JSON", doc)
		}
		strict := Check(doc, fuzzLimits, false)
		if strict == nil && err != nil {
			t.Fatalf("%q: more is allowed, and refused: %v", doc, err)
		}
		if p, err := ParsePath(path); err == nil {
			if again, err := ParsePath(p.String()); err != nil || again.String() != p.String() {
				t.Fatalf("%q: %q: %v", path, p, err)
			}
			v, ok := p.Get(doc)
			if ok && strict == nil && Check(v, Limits{}, true) != nil {
				t.Fatalf("%s of %q is %q", p, doc, v)
			}
			p.Each(doc, func(v []byte) bool { AppendText(nil, v); return true })
		}
		out, applied := shape.Apply(nil, doc, fuzzLimits)
		if strict == nil && (applied != nil && !strings.Contains(applied.Error(), "bytes") || applied == nil && Check(out, Limits{}, false) != nil) {
			t.Fatalf("%q becomes %q, %v", doc, out, applied)
		}
		for _, format := range []Format{JSON, NDJSON, XML, YAML, Text} {
			out, err := FromJSON(nil, doc, format, fuzzLimits)
			if strict != nil || err != nil {
				continue
			}
			switch format {
			case XML:
				if err := xml.Unmarshal(out, new(struct{})); err != nil {
					t.Fatalf("%q becomes %q: %v", doc, out, err)
				}
			case YAML:
				back, err := ToJSON(nil, out, YAML, Limits{})
				if err != nil {
					if r := err.(*Refused); !r.TooLarge {
						t.Fatalf("%q becomes %q: %v", doc, out, err)
					}
				} else if !same(t, back, doc) {
					t.Fatalf("%q becomes %q, and comes back as %q", doc, out, back)
				}
			}
		}
	})
}

// FuzzMerge: good documents become a good document, that has each name once.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":2}}`), []byte(`{"\u0061":{},"b":{"c":{}}}`), []byte(`[1]`), true)
	f.Add([]byte(`{"a":{}}`), []byte(`{"a":{"b":[]}}`), []byte(`null`), false)
	f.Add([]byte(`{"a":`), []byte(`{"`), []byte(`[`), true)
	f.Fuzz(func(t *testing.T, a, b, c []byte, deep bool) {
		parts := []Part{{Doc: a}, {Doc: b, Group: "g"}, {Doc: c, Collection: "x"}}
		good := 0
		for _, p := range parts {
			if Check(p.Doc, fuzzLimits, true) == nil {
				good++
			}
		}
		out, err := Merge(nil, parts, deep)
		if good < len(parts) || err != nil {
			return
		}
		// With one object there is nothing to merge, and what is twice stays.
		if wrong := Check(out, Limits{}, true); wrong != nil {
			t.Fatalf("%q, %q, %q: %q: %v", a, b, c, out, wrong)
		}
	})
}

// FuzzToJSON: whatever a body is, what comes of it is good JSON within the limits.
func FuzzToJSON(f *testing.F) {
	for _, body := range []string{
		shop, "{\"a\":1}\n[2]\n", `<?xml version="1.0"?><a x="1">t<b/><b>&lt;</b></a>`, `<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`,
		`<rss><channel><title>T</title><item><link>l</link></item></channel></rss>`, `<feed><entry><link href="x"/></entry></feed>`,
		"a: &x [1, 0x1F]\nb: *x\nc:\n  <<: {d: .5}\n", "? a\n: - b\n", "- |\n  x\n- >-\n  y\n", "text \xff", "%YAML 1.2\n---\na: !!str 1\n", "{a: [b, {c: }]}",
	} {
		for format := JSON; format < formats; format++ {
			f.Add([]byte(body), uint8(format))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, format uint8) {
		out, err := ToJSON([]byte("kept"), body, Format(format), fuzzLimits)
		if !bytes.HasPrefix(out, []byte("kept")) {
			t.Fatalf("%q: dst is gone", out)
		}
		if err != nil {
			if _, ok := err.(*Refused); !ok || string(out) != "kept" {
				t.Fatalf("%q, %#v", out, err)
			}
			return
		}
		// Elements and attributes count, but not the objects that they become.
		if err := Check(out[4:], Limits{Bytes: fuzzLimits.Bytes, Depth: 2 * fuzzLimits.Depth, Nodes: 3 * fuzzLimits.Nodes}, false); err != nil {
			t.Fatalf("%v %q: %q: %v", Format(format), body, out[4:], err)
		}
	})
}

// FuzzTemplate: a template of JSON becomes JSON, whatever the values are; one of a URL
// has no byte that was not written in it.
func FuzzTemplate(f *testing.F) {
	for _, text := range []string{`{"a":{b.c},"d":"x{e}{{"}`, "/a/{b}?c={d[0]}", "{$}", `{"a b"."c}"}`, "{", "}}"} {
		f.Add(text, []byte(`"v\n\u00e9"`))
		f.Add(text, []byte(`{"x":[1,"\""]}`))
	}
	f.Fuzz(func(t *testing.T, text string, value []byte) {
		if Check(value, fuzzLimits, true) != nil {
			return
		}
		for mode := Raw; mode <= BodyJSON; mode++ {
			tpl, err := ParseTemplate(text, mode)
			if err != nil {
				continue
			}
			tpl.References()
			out, err := tpl.Append(nil, func(Path) ([]byte, bool) { return value, true })
			if err != nil {
				continue
			}
			switch {
			case mode == BodyJSON && Check(out, Limits{}, true) != nil:
				t.Fatalf("%q with %q becomes %q", text, value, out)
			case mode == URL && bytes.ContainsAny(out, "\n\r \x00\x7f"):
				t.Fatalf("%q with %q becomes %q", text, value, out)
			case !utf8.Valid(out):
				t.Fatalf("%q with %q becomes %q", text, value, out)
			}
		}
	})
}

// FuzzNegotiate: what is chosen is one of those offered.
func FuzzNegotiate(f *testing.F) {
	f.Add("text/*;q=0.5, application/xml;p=\"a,b\";q=1.000")
	f.Add("*/*;q=0, ;;, /, */, a/;q=")
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := Negotiate(acceptLines(line), []Format{JSON, XML})
		if ok != (got == JSON || got == XML) {
			t.Fatalf("%q: %v, %v", line, got, ok)
		}
		FormatOf([]byte(line))
	})
}
