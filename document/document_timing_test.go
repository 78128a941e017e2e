package document

import (
	"bytes"
	"fmt"
	"testing"

	gojson "github.com/goccy/go-json"
	"github.com/tidwall/gjson"
)

// testAnswer is about 1 KiB of JSON as an API answers, the same each time for one n.
func testAnswer(n int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"page%s":{"number":%d,"size":3},"total%s":1234567890123456789,"note":"caf\u00e9 & more","items":[`, suffix(n), n, suffix(n))
	for i := range 4 {
		fmt.Fprintf(&b, `{"id":%d,"title":"An item with a title of some length","total":%d.50,"tags":["new","red","a tag"],"owner":{"id":%d,"name":"user %d","email":"user%d@example.com"},"created":"2024-05-0%dT10:00:00Z","active":true},`,
			1000+i, i*10, i, i, i, i+1)
	}
	b.Truncate(b.Len() - 1)
	fmt.Fprintf(&b, `],"more%s":[1,2,3],"links%s":{"self":"https://api.example.com/items?page=%d","next":null}}`, suffix(n), suffix(n), n)
	return b.Bytes()
}

func suffix(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func testParts() []Part {
	return []Part{{Name: "a", Doc: testAnswer(0)}, {Name: "b", Doc: testAnswer(1)}, {Name: "c", Doc: testAnswer(2)}}
}

var benchmarkShape = ShapeConfig{
	Pick:   []string{"page", "total", "items[*].id", "items[*].title", "items[*].owner.name"},
	Rename: map[string]string{"items[*].title": "name", "total": "count"},
}

func BenchmarkCheck(b *testing.B) {
	doc := testAnswer(0)
	for _, duplicates := range []bool{true, false} {
		b.Run(fmt.Sprintf("duplicates=%v", duplicates), func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Check(doc, Limits{}, duplicates); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("gjson.Valid", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			gjson.ValidBytes(doc)
		}
	})
	b.Run("goccy.Valid", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			gojson.Valid(doc)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	doc := testAnswer(0)
	p, _ := ParsePath("items[2].owner.name")
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Get(doc)
		}
	})
	b.Run("gjson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			gjson.GetBytes(doc, "items.2.owner.name")
		}
	})
}

func BenchmarkApply(b *testing.B) {
	doc := testAnswer(0)
	s := mustShape(b, benchmarkShape)
	b.Run("splice", func(b *testing.B) {
		var dst []byte
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			dst, _ = s.Apply(dst[:0], doc, Limits{})
		}
	})
	b.Run("splice,checked", func(b *testing.B) {
		var dst []byte
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			if Check(doc, Limits{}, false) == nil {
				dst, _ = s.Apply(dst[:0], doc, Limits{})
			}
		}
	})
	b.Run("goccy", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			in := goccyDecode(b, doc)
			var items []any
			for _, item := range in["items"].([]any) {
				m := item.(map[string]any)
				items = append(items, map[string]any{"id": m["id"], "name": m["title"], "owner": map[string]any{"name": m["owner"].(map[string]any)["name"]}})
			}
			out := map[string]any{"page": in["page"], "count": in["total"], "items": items}
			if _, err := gojson.Marshal(out); err != nil {
				b.Fatal(err)
			}
		}
	})
	moves := mustShape(b, ShapeConfig{Drop: []string{"note"}, Move: map[string]string{"items[*].owner.name": "items[*].name"}, Append: map[string]string{"more": "items"}})
	b.Run("splice,move,append", func(b *testing.B) {
		var dst []byte
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			dst, _ = moves.Apply(dst[:0], doc, Limits{})
		}
	})
	query := mustShape(b, ShapeConfig{Query: "{page: page, count: total, items: items[*].{id: id, name: title, owner: {name: owner.name}}}"})
	b.Run("query", func(b *testing.B) {
		var dst []byte
		b.SetBytes(int64(len(doc)))
		b.ReportAllocs()
		for b.Loop() {
			dst, _ = query.Apply(dst[:0], doc, Limits{})
		}
	})
}

func goccyDecode(b *testing.B, doc []byte) (m map[string]any) {
	d := gojson.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		b.Fatal(err)
	}
	return m
}

func BenchmarkMerge(b *testing.B) {
	parts := testParts()
	size := 0
	for _, p := range parts {
		size += len(p.Doc)
	}
	for _, deep := range []bool{false, true} {
		b.Run(fmt.Sprintf("splice,deep=%v", deep), func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = Merge(dst[:0], parts, deep)
			}
		})
	}
	b.Run("goccy", func(b *testing.B) {
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for b.Loop() {
			out := map[string]any{}
			for _, p := range parts {
				for name, value := range goccyDecode(b, p.Doc) {
					out[name] = value
				}
			}
			if _, err := gojson.Marshal(out); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("goccy,RawMessage", func(b *testing.B) {
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for b.Loop() {
			out := map[string]gojson.RawMessage{}
			for _, p := range parts {
				if err := gojson.Unmarshal(p.Doc, &out); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := gojson.Marshal(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFormats(b *testing.B) {
	doc := testAnswer(0)
	for _, f := range []Format{NDJSON, XML, YAML} {
		body, err := FromJSON(nil, doc, f, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		var dst []byte
		b.Run("from/"+f.String(), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = ToJSON(dst[:0], body, f, Limits{})
			}
		})
		b.Run("to/"+f.String(), func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = FromJSON(dst[:0], doc, f, Limits{})
			}
		})
	}
}
