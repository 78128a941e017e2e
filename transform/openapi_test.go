package transform

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func testAPI(t testing.TB, text string) (*OpenAPI, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadOpenAPI(path)
}

func (api *OpenAPI) find(t testing.TB, method, path string) *Operation {
	t.Helper()
	for _, o := range api.Operations {
		if o.Method == method && o.Path == path {
			return o
		}
	}
	t.Fatalf("no %s %s", method, path)
	return nil
}

// testParams reads query:limit=5;path:id=7.
func testParams(text string) func(in, name string) (string, bool) {
	return func(in, name string) (string, bool) {
		for one := range strings.SplitSeq(text, ";") {
			if value, ok := strings.CutPrefix(one, in+":"+name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

func TestOpenAPI(t *testing.T) {
	api, err := LoadOpenAPI("testdata/shop.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if api.Title != "Shop" || api.Version != "1.2.0" || api.Base != "/v1" || len(api.Operations) != 3 {
		t.Errorf("got %+v", api)
	}
	list := api.find(t, "GET", "/orders")
	create := api.find(t, "POST", "/orders")
	put := api.find(t, "PUT", "/orders/{order_id}/items/{n}.json")
	if list.ID != "listOrders" || !create.BodyRequired || !slices.Equal(create.BodyTypes, []string{"application/json", "application/yaml"}) || put.BodyRequired {
		t.Errorf("got %+v, %+v", list, create)
	}
	const session = "cookie:session=abcd;"
	const item = "path:order_id=7d444840-9dc0-11d1-b245-5ffdce74fad2;path:n=1"
	for name, c := range map[string]struct {
		op     *Operation
		params string
		typ    string
		body   string
		status int // 0: it holds
		want   string
	}{
		"list":             {list, session, "", "", 0, ""},
		"list all":         {list, session + "query:limit=100;query:state=new;query:ids=1,2;query:tags=a|bcd;query:paid=;query:filter={\"by\":1};query:since=2024-02-29;header:X-Trace=0af", "", "", 0, ""},
		"cookie missing":   {list, "", "", "", 400, "cookie session: expected a value, for it is required"},
		"cookie short":     {list, "cookie:session=abc", "", "", 400, "cookie session: expected at least 4 characters"},
		"limit":            {list, session + "query:limit=101", "", "", 400, "query limit: expected at most 100"},
		"limit text":       {list, session + "query:limit=ten", "", "", 400, "query limit: expected integer, got string"},
		"limit large":      {list, session + "query:limit=1e99999", "", "", 400, "query limit: expected integer, got string"},
		"limit int32":      {list, session + "query:limit=3000000000", "", "", 400, "query limit: expected the format int32"},
		"state":            {list, session + "query:state=old", "", "", 400, `query state: expected one of "new", "paid"`},
		"ids":              {list, session + "query:ids=1,x,3", "", "", 400, "query ids: expected at most 2 elements, got 3; query ids/1: expected integer"},
		"tags":             {list, session + "query:tags=abcd", "", "", 400, "query tags/0: expected at most 3"},
		"paid":             {list, session + "query:paid=yes", "", "", 400, "query paid: expected boolean"},
		"filter":           {list, session + "query:filter={}", "", "", 400, "query filter/by: expected a value"},
		"filter, no json":  {list, session + "query:filter={", "", "", 400, "query filter: expected JSON"},
		"since":            {list, session + "query:since=2023-02-29", "", "", 400, "query since: expected the format date"},
		"trace":            {list, session + "header:X-Trace=xyz", "", "", 400, "header X-Trace: expected a text that matches"},
		"trace of path":    {create, "header:X-Trace=xyz", "application/json", `{"items":[{"sku":"a"}]}`, 400, "header X-Trace"},
		"create":           {create, "", "application/json; charset=utf-8", `{"items":[{"sku":"a","n":9223372036854775807}],"note":null,"total":0.01,"state":"new"}`, 0, ""},
		"create nested":    {create, "", "application/json", `{"items":[{"sku":"a"}],"parent":{"items":[{"sku":1}]}}`, 422, "/parent/items/0/sku: expected string, got number"},
		"create yaml":      {create, "", "application/yaml", "items:\n- sku: a\n", 0, ""},
		"create yaml, bad": {create, "", "application/yaml", "items: []\n", 422, "/items: expected at least 1 elements"},
		"no body":          {create, "", "application/json", " ", 400, "expected a body"},
		"no type":          {create, "", "", `{"items":[{"sku":"a"}]}`, 415, "application/json, application/yaml"},
		"other type":       {create, "", "text/plain", `{}`, 415, "application/json"},
		"exclusive":        {create, "", "application/json", `{"items":[{"sku":"a"}],"total":0}`, 422, "/total: expected more than 0"},
		"int64":            {create, "", "application/json", `{"items":[{"sku":"a","n":9223372036854775808}]}`, 422, "/items/0/n: expected the format int64"},
		"state body":       {create, "", "application/json", `{"items":[{"sku":"a"}],"state":"x"}`, 422, `/state: expected one of "new", "paid"`},
		"additional":       {create, "", "application/json", `{"items":[{"sku":"a"}],"x":1}`, 422, "/x: expected no member of this name"},
		"invalid":          {create, "", "application/json", `{"items":`, 400, "in json"},
		"duplicate":        {create, "", "application/json", `{"items":[{"sku":"a"}],"note":"","note":""}`, 400, "each name once"},
		"deep":             {create, "", "application/json", strings.Repeat("[", 300), 413, "within limits"},
		"charset":          {create, "", "application/json; charset=utf-16", `{}`, 400, "charset"},
		"put":              {put, item, "", "", 0, ""},
		"put json":         {put, item, "application/vnd.item+json", `{"sku":"a"}`, 0, ""},
		"put bad":          {put, item, "application/vnd.item+json", `{}`, 422, "/sku: expected a value"},
		"put csv":          {put, item, "text/csv", `a,b`, 0, ""},
		"put bytes":        {put, item, "application/octet-stream", `a,b`, 0, ""},
		"put image":        {put, item, "image/png", `a,b`, 415, "application/*"},
		"put path":         {put, "path:order_id=7;path:n=x", "", "", 400, "path n: expected integer, got string; path order-id: expected the format uuid"},
	} {
		err := c.op.Check(testParams(c.params), []byte(c.typ), []byte(c.body))
		if c.status == 0 {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: passes", name)
			continue
		}
		if r := refusalIn(t, err); r.Status != c.status || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want %d %q", name, err, c.status, c.want)
		}
	}
}

func TestOpenAPI31(t *testing.T) {
	api, err := testAPI(t, `{"openapi":"3.1.0","info":{"title":"T","version":"1"},"paths":{"/a":{"$ref":"#/components/pathItems/A"}},
		"components":{"pathItems":{"A":{"post":{"parameters":[{"name":"n","in":"query","schema":{"anyOf":[{"type":"integer"},{"type":"null"}]}}],
		"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/N%20ode"}}}}}}},
		"schemas":{"N ode":{"type":["object","null"],"properties":{"next":{"$ref":"#/components/schemas/N ode"},"k":{"const":1}},"unevaluatedProperties":false}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	o := api.find(t, "POST", "/a")
	for body, want := range map[string]string{`{"next":{"k":1,"next":null}}`: "", `{"next":{"x":1}}`: "/next/x: expected nothing here", `{"k":2}`: "/k: expected 1"} {
		err := o.Check(testParams("query:n=5"), []byte("application/json"), []byte(body))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v", body, err)
		}
	}
	if err := o.Check(testParams("query:n=x"), nil, nil); err == nil {
		t.Error("a text passes for a number")
	}
}

func TestOpenAPIMistakes(t *testing.T) {
	const head = "openapi: 3.0.0\ninfo: {title: T, version: '1'}\n"
	for name, c := range map[string]struct{ text, want string }{
		"version":   {"swagger: '2.0'\n", "expected openapi: 3.0.x"},
		"yaml":      {"a: [", "expected yaml"},
		"no paths":  {head, "expected paths"},
		"external":  {head + "paths: {/a: {$ref: 'b.yaml#/x'}}", "within the document"},
		"outside":   {head + "paths: {/a: {get: {requestBody: {content: {application/json: {schema: {$ref: 'file:///etc/passwd'}}}}}}}", "not fetched"},
		"dangling":  {head + "paths: {/a: {$ref: '#/x'}}", "reference leads to"},
		"circle":    {head + "paths: {/a: {$ref: '#/paths/~1b'}, /b: {$ref: '#/paths/~1a'}}", "references in a row"},
		"in":        {head + "paths: {/a: {get: {parameters: [{name: x, in: body}]}}}", "in: path, query"},
		"path":      {head + "paths: {/a: {get: {parameters: [{name: x, in: path}]}}}", "{x} in the path"},
		"pattern":   {head + "paths: {'/a/{b': {get: {}}}", "braces in pairs"},
		"collision": {head + "paths: {'/a/{b-c}/{b.c}': {get: {}}}", "each parameter once"},
		"schema":    {head + "paths: {/a: {get: {parameters: [{name: x, in: query, schema: {type: txt}}]}}}", "JSON Schema"},
		"type":      {head + "paths: {/a: {post: {requestBody: {content: {json: {}}}}}}", "media type"},
		"twice":     {head + "paths: {/a: {get: {}}, /a: {get: {}}}", ""},
	} {
		if _, err := testAPI(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := LoadOpenAPI("testdata/none.yaml"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func FuzzOpenAPI(f *testing.F) {
	api, err := LoadOpenAPI("testdata/shop.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("5", "application/json", []byte(`{"items":[{"sku":"a"}]}`))
	f.Add("1,2", "application/yaml", []byte("items: [{sku: a}]"))
	f.Fuzz(func(t *testing.T, param, typ string, body []byte) {
		for _, o := range api.Operations {
			if err := o.Check(func(string, string) (string, bool) { return param, true }, []byte(typ), body); err != nil {
				refusalIn(t, err)
			}
		}
	})
}

func BenchmarkOpenAPI(b *testing.B) {
	api, err := LoadOpenAPI("testdata/shop.yaml")
	if err != nil {
		b.Fatal(err)
	}
	o := api.find(b, "POST", "/orders")
	params, typ, body := testParams("header:X-Trace=0af"), []byte("application/json"), []byte(`{"items":[{"sku":"a","n":1},{"sku":"b","n":2}],"note":null,"total":0.01}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := o.Check(params, typ, body); err != nil {
			b.Fatal(err)
		}
	}
}
