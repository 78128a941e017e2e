//go:build !race

package document

import (
	"testing"
)

func TestAllocatesNothing(t *testing.T) {
	doc, parts := testAnswer(0), testParts()
	room := make([]byte, 0, 16<<10)
	path, _ := ParsePath("items[*].owner.name")
	deepPath, _ := ParsePath(`items[-1]."total"`)
	pickRename := mustShape(t, benchmarkShape)
	all := mustShape(t, ShapeConfig{
		Target: "data", Drop: []string{"items[*].tags", "note"}, Rename: map[string]string{"items[*].id": "key"},
		Move: map[string]string{"items[*].owner.name": "items[*].name", "page": "meta.page"}, Append: map[string]string{"more": "items"}, Group: "g",
	})
	wrapped := append(append([]byte(`{"data":`), doc...), '}')
	text, err := ParseTemplate("/users/{items[0].owner.name}?q={page}", URL)
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(p Path) ([]byte, bool) { return p.Get(doc) }
	fields := acceptLines("application/json;q=0.5, text/xml", "*/*;q=0.1")
	formats := []Format{JSON, XML, YAML}
	typ := []byte("Application/Problem+JSON; charset=utf-8")
	fail := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for name, f := range map[string]func(){
		"Check":                  func() { fail(Check(doc, Limits{}, false)) },
		"Get":                    func() { path.Get(doc) },
		"Get from the end":       func() { deepPath.Get(doc) },
		"Each":                   func() { path.Each(doc, func([]byte) bool { return true }) },
		"AppendText":             func() { AppendText(room, []byte(`"caf\u00e9"`)) },
		"Apply: pick and rename": func() { _, err := pickRename.Apply(room, doc, Limits{}); fail(err) },
		"Apply: all but query":   func() { _, err := all.Apply(room, wrapped, Limits{}); fail(err) },
		"Merge":                  func() { _, err := Merge(room, parts, false); fail(err) },
		"Merge, deep":            func() { _, err := Merge(room, parts, true); fail(err) },
		"ToJSON of JSON":         func() { _, err := ToJSON(room, doc, JSON, Limits{}); fail(err) },
		"Template":               func() { _, err := text.Append(room, lookup); fail(err) },
		"FormatOf":               func() { FormatOf(typ) },
		"Negotiate":              func() { Negotiate(fields, formats) },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
