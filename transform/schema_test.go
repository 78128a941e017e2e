package transform

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const orderSchema = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"required": ["id", "items"],
	"additionalProperties": false,
	"properties": {
		"id": {"type": "integer", "minimum": 1},
		"email": {"type": "string", "format": "email"},
		"state": {"enum": ["new", "paid", null]},
		"ratio": {"type": "number", "exclusiveMaximum": 1.5, "multipleOf": 0.25},
		"items": {"type": "array", "minItems": 1, "maxItems": 3, "uniqueItems": true, "items": {"$ref": "#/$defs/item"}},
		"pay": {"oneOf": [
			{"properties": {"kind": {"const": "card"}, "number": {"type": "string", "pattern": "^[0-9]{4}$"}}, "required": ["kind", "number"]},
			{"properties": {"kind": {"const": "cash"}}, "required": ["kind"]}
		]},
		"names": {"propertyNames": {"maxLength": 3}, "maxProperties": 2},
		"when": {"dependentRequired": {"from": ["to"]}},
		"tags": {"contains": {"const": "x"}, "maxContains": 1},
		"a/b~c": {"type": "boolean"},
		"never": false
	},
	"$defs": {"item": {"type": ["object", "null"], "properties": {"sku": {"type": "string", "minLength": 2, "maxLength": 4}}, "required": ["sku"]}}
}`

func TestSchema(t *testing.T) {
	b := testBody(t, BodyConfig{Schema: orderSchema}, true)
	for body, want := range map[string][]string{
		`{"id":1,"items":[{"sku":"ab"}]}`: nil,
		`{"id":1.0,"items":[{"sku":"ab"},null],"pay":{"kind":"cash"},"state":null,"ratio":1.25}`: nil,
		`{"id":123456789012345678901234567890,"items":[null]}`:                                   nil,
		`[]`:                       {" : expected object, got array"},
		`{}`:                       {"/id: expected a value, for it is required", "/items: expected a value, for it is required"},
		`{"id":0,"items":[]}`:      {"/id: expected at least 1", "/items: expected at least 1 elements, got 0"},
		`{"id":"1","items":[1,2]}`: {"/id: expected integer, got string", "/items/0: expected null or object, got number", "/items/1: expected null or object, got number"},
		`{"id":1,"items":[{"sku":"x"},{"sku":"abcde"},{}]}`:              {"/items/0/sku: expected at least 2 characters, got 1", "/items/1/sku: expected at most 4 characters, got 5", "/items/2/sku: expected a value"},
		`{"id":1,"items":[{"sku":"ab","n":1.0},{"n":10e-1,"sku":"ab"}]}`: {"/items: expected each element once, got elements 0 and 1 equal"},
		`{"id":1,"items":[null],"email":"x"}`:                            {"/email: expected the format email"},
		`{"id":1,"items":[null],"state":"old"}`:                          {`/state: expected one of "new", "paid", null`},
		`{"id":1,"items":[null],"ratio":1.5}`:                            {"/ratio: expected less than 1.5"},
		`{"id":1,"items":[null],"ratio":0.3}`:                            {"/ratio: expected a multiple of 0.25"},
		`{"id":1,"items":[null],"zzz":1,"yyy":2}`:                        {"/yyy: expected no member of this name", "/zzz: expected no member"},
		`{"id":1,"items":[null],"pay":{"kind":"card","number":"12"}}`:    {"/pay/number: expected a text that matches ^[0-9]{4}$"},
		`{"id":1,"items":[null],"pay":{"kind":"gold"}}`:                  {"/pay: expected one of the 2 forms"},
		`{"id":1,"items":[null],"names":{"abcd":1}}`:                     {`/names: expected another name than "abcd"`},
		`{"id":1,"items":[null],"names":{"a":1,"b":1,"c":1}}`:            {"/names: expected at most 2 members, got 3"},
		`{"id":1,"items":[null],"when":{"from":1}}`:                      {`/when/to: expected a value, for it is required beside "from"`},
		`{"id":1,"items":[null],"tags":["y"]}`:                           {"/tags: expected an element that the schema asks for"},
		`{"id":1,"items":[null],"tags":["x","x"]}`:                       {"/tags: expected at most 1 elements"},
		`{"id":1,"items":[null],"a/b~c":1}`:                              {"/a~1b~0c: expected boolean"},
		`{"id":1,"items":[null],"never":1}`:                              {"/never: expected nothing here"},
		`{"id":1,"items":[null,null,null,null]}`:                         {"/items: expected each element once"},
	} {
		out, _, err := b.Apply([]byte(body), []byte("application/json"), nil)
		if want == nil {
			if err != nil || string(out) != body {
				t.Errorf("%s: %v", body, err)
			}
			continue
		}
		r := refusalIn(t, err)
		ok := r.Status == 422 && len(r.Failures) == len(want)
		for i := range min(len(want), len(r.Failures)) {
			ok = ok && strings.HasPrefix(r.Failures[i].Pointer+": "+r.Failures[i].Expected, strings.TrimPrefix(want[i], " "))
		}
		if !ok {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
}

func TestSchemaRefusesTypes(t *testing.T) {
	for name, c := range map[string]struct {
		config BodyConfig
		typ    string
		body   string
		status int // 0: passes
	}{
		"json":         {BodyConfig{Schema: `{"type":"object"}`}, "application/json", `{}`, 0},
		"no type":      {BodyConfig{Schema: `{"type":"object"}`}, "", `{}`, 0},
		"no type, bad": {BodyConfig{Schema: `{"type":"object"}`}, "", `[]`, 422},
		"text":         {BodyConfig{Schema: `{"type":"object"}`}, "text/plain", `{}`, 415},
		"form":         {BodyConfig{Schema: `{"type":"object"}`}, "application/x-www-form-urlencoded", `a=1`, 415},
		"xml":          {BodyConfig{Schema: `{"required":["a"]}`}, "text/xml", `<a/>`, 0},
		"only json":    {BodyConfig{From: "json", Schema: `{"required":["a"]}`}, "text/xml", `<a/>`, 415},
		"empty":        {BodyConfig{Schema: `{"type":"object"}`}, "application/json", ``, 400},
		"soap":         {BodyConfig{From: "soap", Schema: `{"required":["R"]}`}, "text/xml", soapOf("<R/>"), 0},
		"soap, bad":    {BodyConfig{From: "soap", Schema: `{"required":["R"]}`}, "text/xml", soapOf("<Q/>"), 422},
	} {
		_, _, err := testBody(t, c.config, true).Apply([]byte(c.body), []byte(c.typ), nil)
		if c.status == 0 && err != nil || c.status != 0 && refusalIn(t, err).Status != c.status {
			t.Errorf("%s: got %v, want %d", name, err, c.status)
		}
	}
}

func TestSchemaFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("item.json", `{"type":"string"}`)
	draft7 := write("a.json", `{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"$ref":"item.json"},{"$ref":"#/definitions/n"}],"additionalItems":false,"definitions":{"n":{"type":"number"}}}`)
	yaml := write("a.yaml", "type: object\nproperties:\n  n: {type: integer}\n")
	for name, c := range map[string]struct{ schema, good, bad string }{
		"draft-07":     {draft7, `["a",1]`, `["a","b"]`},
		"draft-07 +":   {draft7, `["a"]`, `["a",1,2]`},
		"yaml":         {yaml, `{"n":1}`, `{"n":1.5}`},
		"true":         {`true`, `1`, ``},
		"dynamic":      {`{"$id":"https://e.com/t","$dynamicAnchor":"node","type":"object","properties":{"kids":{"type":"array","items":{"$dynamicRef":"#node"}}},"unevaluatedProperties":false}`, `{"kids":[{"kids":[]}]}`, `{"kids":[{"x":1}]}`},
		"recursive":    {`{"properties":{"next":{"$ref":"#"}},"additionalProperties":false}`, `{"next":{"next":{}}}`, `{"next":{"nxt":{}}}`},
		"unevaluated":  {`{"allOf":[{"properties":{"a":true}}],"unevaluatedProperties":false}`, `{"a":1}`, `{"b":1}`},
		"if":           {`{"if":{"required":["a"]},"then":{"required":["b"]},"else":{"required":["c"]}}`, `{"a":1,"b":1}`, `{"a":1}`},
		"not":          {`{"not":{"type":"array","uniqueItems":true}}`, `[1,1]`, `[1,2]`},
		"draft-07 ref": {`{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/a","definitions":{"a":{"type":"array","uniqueItems":true}}}`, `[1]`, `[1,1]`},
	} {
		b := testBody(t, BodyConfig{Schema: c.schema}, true)
		if _, _, err := b.Apply([]byte(c.good), []byte("application/json"), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.bad != "" {
			if _, _, err := b.Apply([]byte(c.bad), []byte("application/json"), nil); refusalIn(t, err).Status != 422 {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, c := range map[string]struct{ schema, want string }{
		"missing":  {filepath.Join(dir, "none.json"), "no such file"},
		"json":     {write("bad.json", `{"type":}`), "expected json"},
		"schema":   {`{"type":"objekt"}`, "JSON Schema"},
		"pattern":  {`{"pattern":"("}`, "JSON Schema"},
		"remote":   {`{"$ref":"https://example.com/x.json"}`, "not fetched"},
		"dangling": {`{"$ref":"#/$defs/x"}`, "JSON Schema"},
		"twice":    {`{"type":"object","type":"array"}`, "each name once"},
		"large":    {write("large.json", strings.Repeat(" ", mostSchema)+"{}"), "at most"},
	} {
		if _, err := NewBody(&BodyConfig{Schema: c.schema}, true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// What would take a checker gigabytes or hours is refused instead.
func TestSchemaBounds(t *testing.T) {
	exponential := `{"anyOf":[{"items":{"$ref":"#"},"minItems":1},{"items":{"$ref":"#"},"minItems":1}],"type":"array"}`
	for name, c := range map[string]struct{ schema, body, want string }{
		"exponent":    {`{"type":"integer"}`, `1e999999`, "exponents"},
		"exponent -":  {`{"maximum":1}`, `[1,-1E-999999]`, "exponents"},
		"digits":      {`{"multipleOf":3}`, strings.Repeat("1", mostDigits+1), "digits"},
		"values":      {`{"type":"array"}`, "[" + strings.Repeat("1,", 1<<16) + "1]", "at most 65536 values"},
		"exponential": {exponential, strings.Repeat("[", 100) + strings.Repeat("]", 100), "too much"},
		"not":         {strings.Replace(exponential, `"type":"array"`, `"not":{"type":"string"}`, 1), strings.Repeat("[", 100) + strings.Repeat("]", 100), "too much"},
	} {
		_, _, err := testBody(t, BodyConfig{Schema: c.schema}, true).Apply([]byte(c.body), []byte("application/json"), nil)
		if r := refusalIn(t, err); !strings.Contains(r.Detail, c.want) || r.Status != 422 && r.Status != 413 {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// Hashes of these agree in the library, which would then compare all with all.
	var list []string
	for i := range 4096 {
		var parts []string
		part := "a"
		for bit := range 12 {
			if i>>bit&1 == 1 {
				parts, part = append(parts, part), "a"
			} else {
				part += "\x04a"
			}
		}
		text, _ := json.Marshal(append(parts, part))
		list = append(list, string(text))
	}
	b := testBody(t, BodyConfig{Schema: `{"uniqueItems":true}`}, true)
	if _, _, err := b.Apply([]byte("["+strings.Join(list, ",")+"]"), []byte("application/json"), nil); err != nil {
		t.Error(err)
	}
	// There are many failures, of which few are told.
	_, _, err := testBody(t, BodyConfig{Schema: `{"items":{"type":"string"}}`}, true).Apply([]byte("["+strings.Repeat("1,", 999)+"1]"), []byte("application/json"), nil)
	if r := refusalIn(t, err); len(r.Failures) != mostFailures || r.More != 1000-mostFailures {
		t.Errorf("%d failures and %d more", len(r.Failures), r.More)
	}
	long := strings.Repeat("é", 1000)
	_, _, err = testBody(t, BodyConfig{Schema: `{"additionalProperties":false}`}, true).Apply([]byte(`{"`+long+`":1}`), []byte("application/json"), nil)
	if r := refusalIn(t, err); len(r.Failures[0].Pointer) > mostPointer || len(r.Failures[0].Expected) > mostExpected+16 {
		t.Errorf("got %+v", r.Failures[0])
	}
}

func TestSchemaConcurrently(t *testing.T) {
	b := testBody(t, BodyConfig{Schema: orderSchema}, true)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				_, _, err := b.Apply([]byte(`{"id":1,"items":[{"sku":"x"}]}`), []byte("application/json"), nil)
				var r *Refusal
				if !errors.As(err, &r) || len(r.Failures) != 1 {
					t.Errorf("got %v", err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestTwice(t *testing.T) {
	for text, want := range map[string]bool{
		`[1,1.0]`: true, `[1e2,100]`: true, `[0,-0]`: true, `[10,1]`: false, `["1",1]`: false, `[[1],[1,1]]`: false, `[["a","b"],["ab"]]`: false,
		`[{"a":1,"b":2},{"b":2,"a":1}]`: true, `[null,false,true,{},[],"",0]`: false, `[{"a":{}},{"a":[]}]`: false, `[0.10,1e-1]`: true,
	} {
		v, _, err := decode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, got := twice(v.([]any)); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
	if !slices.Equal([]string{canonicalNumber("-0.0120e3")}, []string{"-12e0"}) {
		t.Errorf("got %s", canonicalNumber("-0.0120e3"))
	}
}
