package transform

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
	"sync"
	"testing"

	"sluice/document"
	"sluice/wire"
)

type shape = document.ShapeConfig

func TestApply(t *testing.T) {
	const users = `[{"id":1,"name":"Ann"},{"id":2,"name":"Bo"}]`
	for name, c := range map[string]struct {
		config   BodyConfig
		body     string
		typ      string
		accept   []wire.Field
		want     string
		wantType string
	}{
		"nothing":           {BodyConfig{}, ` {"a":1} `, "application/json", nil, ` {"a":1} `, ""},
		"drop":              {BodyConfig{ShapeConfig: shape{Drop: []string{"password"}}}, `{"id":12345678901234567890,"password":"x"}`, "application/json", nil, `{"id":12345678901234567890}`, ""},
		"drop nothing":      {BodyConfig{ShapeConfig: shape{Drop: []string{"password"}}}, `{"id" : 1}`, "application/json", nil, `{"id" : 1}`, ""},
		"vendor type":       {BodyConfig{ShapeConfig: shape{Pick: []string{"a"}}}, `{"a":1,"b":2}`, "application/vnd.x+json; v=1", nil, `{"a":1}`, ""},
		"rename move group": {BodyConfig{ShapeConfig: shape{Rename: map[string]string{"a": "b"}, Move: map[string]string{"x": "y.z"}, Group: "data"}}, `{"a":1,"x":2}`, "application/json", nil, `{"data":{"b":1,"y":{"z":2}}}`, ""},
		"target":            {BodyConfig{ShapeConfig: shape{Target: "data.items"}}, `{"data":{"items":[1]}}`, "application/json", nil, `[1]`, ""},
		"collection":        {BodyConfig{ShapeConfig: shape{Collection: "users"}}, users, "application/json", nil, `{"users":` + users + `}`, ""},
		"append":            {BodyConfig{ShapeConfig: shape{Append: map[string]string{"a": "list"}}}, `{"a":2,"list":[1]}`, "application/json", nil, `{"list":[1,2]}`, ""},
		"query":             {BodyConfig{ShapeConfig: shape{Query: "[].name"}}, users, "application/json", nil, `["Ann","Bo"]`, ""},
		"query big number":  {BodyConfig{ShapeConfig: shape{Query: "a"}}, `{"a":12345678901234567890123}`, "application/json", nil, `12345678901234567890123`, ""},
		"template":          {BodyConfig{Template: `{"user": {id}, "hello": "Dear {name}", "all": {$}}`}, `{"id":1e400,"name":"A\"n"}`, "application/json", nil, `{"user": 1e400, "hello": "Dear A\"n", "all": {"id":1e400,"name":"A\"n"}}`, ""},
		"template text":     {BodyConfig{Template: "Dear {name}, {{you}}", To: "text"}, `{"name":"Ann"}`, "application/json", nil, "Dear Ann, {you}", "text/plain; charset=utf-8"},
		"static":            {BodyConfig{Static: `{"v":1,"a":0}`}, `{"a":9,"b":2}`, "application/json", nil, `{"a":0,"b":2,"v":1}`, ""},
		"static on array":   {BodyConfig{Static: `{"v":1}`}, `[1]`, "application/json", nil, `{"collection":[1],"v":1}`, ""},
		"bom":               {BodyConfig{ShapeConfig: shape{Drop: []string{"a"}}}, "\ufeff" + `{"a":1,"b":2}`, "application/json", nil, `{"b":2}`, ""},
		"empty":             {BodyConfig{Static: `{"v":1}`}, " ", "application/json", nil, " ", ""},

		"json xml":        {BodyConfig{To: "xml"}, `{"user":{"-id":7,"name":"A & B"}}`, "application/json", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<user id="7"><name>A &amp; B</name></user>` + "\n", "application/xml"},
		"json yaml":       {BodyConfig{To: "yaml"}, `{"a":[1,"no"]}`, "application/json", nil, "a:\n  - 1\n  - \"no\"\n", "application/yaml"},
		"json ndjson":     {BodyConfig{To: "ndjson"}, users, "application/json", nil, `{"id":1,"name":"Ann"}` + "\n" + `{"id":2,"name":"Bo"}` + "\n", "application/x-ndjson"},
		"json text":       {BodyConfig{ShapeConfig: shape{Target: "m"}, To: "text"}, `{"m":"hi \u00e9"}`, "application/json", nil, "hi é", "text/plain; charset=utf-8"},
		"ndjson json":     {BodyConfig{To: "json"}, "{\"a\":1}\n\n{\"a\":2}", "application/x-ndjson", nil, `[{"a":1},{"a":2}]`, "application/json"},
		"ndjson same":     {BodyConfig{ShapeConfig: shape{Drop: []string{"[*].b"}}}, "{\"a\":1,\"b\":1}\n{\"a\":2}\n", "application/x-ndjson", nil, "{\"a\":1}\n{\"a\":2}\n", ""},
		"xml json":        {BodyConfig{To: "json"}, `<u id="7"><n>A</n><n>B</n></u>`, "text/xml", nil, `{"u":{"-id":"7","n":["A","B"]}}`, "application/json"},
		"xml same":        {BodyConfig{ShapeConfig: shape{Drop: []string{"u.n"}}}, `<u id="7"><n>A</n><m/></u>`, "application/problem+xml; charset=utf-8", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<u id="7"><m/></u>` + "\n", ""},
		"xml untouched":   {BodyConfig{}, `<u  id="7"/>`, "text/xml", nil, `<u  id="7"/>`, ""},
		"xml ascii":       {BodyConfig{ShapeConfig: shape{Drop: []string{"u.n"}}}, `<u><n/><m>&#233;</m></u>`, "text/xml; charset=US-ASCII", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<u><m>é</m></u>` + "\n", "application/xml"},
		"yaml json":       {BodyConfig{To: "json"}, "a: 1\nb: [x, y]\n", "application/yaml", nil, `{"a":1,"b":["x","y"]}`, "application/json"},
		"yaml same":       {BodyConfig{ShapeConfig: shape{Drop: []string{"a"}}}, "a: 1\nb: x\n", "text/yaml", nil, "b: x\n", ""},
		"text json":       {BodyConfig{From: "text", To: "json"}, "hi \"you\"", "text/plain", nil, `{"content":"hi \"you\""}`, "application/json"},
		"text same":       {BodyConfig{From: "text", Static: `{"v":1}`}, "hi", "text/plain", nil, "hi", ""},
		"rss json":        {BodyConfig{From: "rss", To: "json", ShapeConfig: shape{Pick: []string{"title"}}}, `<rss version="2.0"><channel><title>News</title></channel></rss>`, "application/rss+xml", nil, `{"title":"News"}`, "application/json"},
		"atom json":       {BodyConfig{From: "atom", To: "json", ShapeConfig: shape{Pick: []string{"title"}}}, `<feed xmlns="http://www.w3.org/2005/Atom"><title>News</title></feed>`, "application/atom+xml", nil, `{"title":"News"}`, "application/json"},
		"feed as xml":     {BodyConfig{ShapeConfig: shape{Drop: []string{"rss.channel.ttl"}}}, `<rss version="2.0"><channel><title>N</title><ttl>1</ttl></channel></rss>`, "application/rss+xml", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<rss version="2.0"><channel><title>N</title></channel></rss>` + "\n", ""},
		"other type":      {BodyConfig{From: "json", To: "json", Types: []string{"application/octet-stream"}}, `{"a":1}`, "application/octet-stream", nil, `{"a":1}`, "application/json"},
		"accept nothing":  {BodyConfig{To: "accept"}, `<a>1</a>`, "text/xml", nil, `{"a":"1"}`, "application/json"},
		"accept any":      {BodyConfig{To: "accept"}, `{"a":1}`, "application/json", accepts("*/*"), `{"a":1}`, ""},
		"accept xml":      {BodyConfig{To: "accept"}, `{"a":1}`, "application/json", accepts("text/xml;q=0.9, application/json;q=0.1"), `<?xml version="1.0" encoding="UTF-8"?>` + "\n<a>1</a>\n", "application/xml"},
		"accept yaml":     {BodyConfig{To: "accept"}, `{"a":1}`, "application/json", accepts("application/yaml"), "a: 1\n", "application/yaml"},
		"over pass":       {BodyConfig{Max: 4, Over: "pass", Static: `{"v":1}`}, `{"a":1}`, "application/json", nil, `{"a":1}`, ""},
		"depth pass":      {BodyConfig{Over: "pass", To: "yaml"}, strings.Repeat("[", 201) + strings.Repeat("]", 201), "application/json", nil, strings.Repeat("[", 201) + strings.Repeat("]", 201), ""},
		"invalid pass":    {BodyConfig{Invalid: "pass", To: "xml"}, `{"a":1,}`, "application/json", nil, `{"a":1,}`, ""},
		"duplicate pass":  {BodyConfig{Invalid: "pass", ShapeConfig: shape{Drop: []string{"b"}}}, `{"a":1,"a":2,"b":1}`, "application/json", nil, `{"a":1,"a":2,"b":1}`, ""},
		"soap in":         {BodyConfig{From: "soap", To: "json"}, soapOf(`<m:R xmlns:m="urn:m"><m:P>1.90</m:P><x:P xmlns:x="urn:x" x:t="1" u="2">3</x:P></m:R>`), "text/xml", nil, `{"R":{"P":["1.90",{"-u":"2","#text":"3"}]}}`, "application/json"},
		"soap in empty":   {BodyConfig{From: "soap", To: "json"}, soapOf(``), "text/xml", nil, `{}`, "application/json"},
		"soap in 1.2":     {BodyConfig{From: "soap", To: "json"}, strings.Replace(soapOf(`<R/>`), soapFirst, soapSecond, 1), "application/soap+xml; action=\"x\"", nil, `{"R":""}`, "application/json"},
		"soap in default": {BodyConfig{From: "soap", To: "json"}, `<Envelope xmlns="` + soapFirst + `"><Body><R xmlns="">&lt;&amp;</R></Body></Envelope>`, "text/xml", nil, `{"R":"<&"}`, "application/json"},
		"soap out":        {BodyConfig{To: "soap"}, `{"GetPrice":{"-xmlns":"urn:shop","item":"Apples"}}`, "application/json", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<soap:Envelope xmlns:soap="` + soapFirst + `"><soap:Body><GetPrice xmlns="urn:shop"><item>Apples</item></GetPrice></soap:Body></soap:Envelope>` + "\n", "text/xml; charset=utf-8"},
		"soap out all":    {BodyConfig{To: "soap", SOAP: &SOAPConfig{Version: "1.2", Action: "urn:go", Prefix: "env", Namespace: "urn:a&b", Header: `<k xmlns="urn:k">1</k>`}}, `{"Get":null}`, "application/json", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<env:Envelope xmlns:env="` + soapSecond + `"><env:Header><k xmlns="urn:k">1</k></env:Header><env:Body><Get xmlns="urn:a&amp;b"/></env:Body></env:Envelope>` + "\n", `application/soap+xml; charset=utf-8; action="urn:go"`},
		"soap both":       {BodyConfig{From: "soap", ShapeConfig: shape{Drop: []string{"R.b"}}}, soapOf(`<R><a>1</a><b>2</b></R>`), "text/xml", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<soap:Envelope xmlns:soap="` + soapFirst + `"><soap:Body><R><a>1</a></R></soap:Body></soap:Envelope>` + "\n", "text/xml; charset=utf-8"},
		"template, soap":  {BodyConfig{To: "soap", Template: `{"Add":{"a":{x},"b":{y}}}`, SOAP: &SOAPConfig{Namespace: "http://tempuri.org/"}}, `{"x":1,"y":2}`, "application/json", nil, `<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<soap:Envelope xmlns:soap="` + soapFirst + `"><soap:Body><Add xmlns="http://tempuri.org/"><a>1</a><b>2</b></Add></soap:Body></soap:Envelope>` + "\n", "text/xml; charset=utf-8"},
	} {
		b := testBody(t, c.config, false)
		if !b.Applies([]byte(c.typ), 200) {
			t.Errorf("%s: does not apply to %q", name, c.typ)
		}
		body := []byte(c.body)
		got, gotType, err := b.Apply(body, []byte(c.typ), c.accept)
		if err != nil || string(got) != c.want || gotType != c.wantType {
			t.Errorf("%s: got %q, %q, %v; want %q, %q", name, got, gotType, err, c.want, c.wantType)
		}
		if string(body) != c.body {
			t.Errorf("%s: the body itself was changed", name)
		}
		if c.body == c.want && len(got) > 0 && &got[0] != &body[0] {
			t.Errorf("%s: nothing changes, but the body was copied", name)
		}
		if strings.HasPrefix(string(got), "<") {
			if err := xml.Unmarshal(got, new(struct{})); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	deep := strings.Repeat("[", 201) + strings.Repeat("]", 201)
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>`
	for name, c := range map[string]struct {
		config BodyConfig
		body   string
		typ    string
		accept []wire.Field
		status int    // of a request; an answer's is 502, but for 406
		want   string // part of a request's detail
	}{
		"over":             {BodyConfig{Max: 4}, `{"a":1}`, "application/json", nil, 413, "at most 4 bytes"},
		"deep":             {BodyConfig{}, deep, "application/json", nil, 413, "at most 200"},
		"invalid":          {BodyConfig{}, `{"a":tru}`, "application/json", nil, 400, "in json: at byte 8"},
		"duplicate":        {BodyConfig{}, `{"a":1,"\u0061":2}`, "application/json", nil, 400, "each name once"},
		"utf-8":            {BodyConfig{}, "{\"a\":\"\xff\"}", "application/json", nil, 400, "UTF-8"},
		"text utf-8":       {BodyConfig{From: "text", To: "json"}, "\xff", "text/plain", nil, 400, "UTF-8"},
		"charset":          {BodyConfig{}, `{}`, `application/json; Charset="utf-16"`, nil, 400, "another charset"},
		"bomb":             {BodyConfig{}, bomb, "application/xml", nil, 400, "document type"},
		"yaml bomb":        {BodyConfig{}, yamlBomb(), "application/yaml", nil, 413, "alias"},
		"soap bomb":        {BodyConfig{From: "soap"}, bomb, "text/xml", nil, 400, "document type"},
		"template":         {BodyConfig{Template: `{"x":{a}}`}, `{}`, "application/json", nil, 422, "{a}"},
		"template names":   {BodyConfig{Template: `{"{a}":1,"{b}":2}`}, `{"a":"x","b":"x"}`, "application/json", nil, 422, "each name once"},
		"query":            {BodyConfig{ShapeConfig: shape{Query: "abs(a)"}}, `{"a":"x"}`, "application/json", nil, 422, "query failed"},
		"static on scalar": {BodyConfig{Static: "{}"}, `1`, "application/json", nil, 422, ""},
		"not soap":         {BodyConfig{From: "soap"}, `<a/>`, "text/xml", nil, 400, "in soap"},
		"soap no body":     {BodyConfig{From: "soap"}, `<Envelope xmlns="` + soapFirst + `"/>`, "text/xml", nil, 400, "Body"},
		"soap wrong space": {BodyConfig{From: "soap"}, `<Envelope xmlns="urn:x"><Body/></Envelope>`, "text/xml", nil, 400, "envelope"},
		"soap two bodies":  {BodyConfig{From: "soap"}, `<Envelope xmlns="` + soapFirst + `"><Body/><Body/></Envelope>`, "text/xml", nil, 400, "each once"},
		"soap two roots":   {BodyConfig{From: "soap"}, soapOf("") + soapOf("")[len(`<?xml version="1.0"?>`):], "text/xml", nil, 400, "one element"},
		"soap open":        {BodyConfig{From: "soap"}, soapOf(`<a>`), "text/xml", nil, 400, "XML"},
		"soap text":        {BodyConfig{From: "soap"}, soapOf(`text`), "text/xml", nil, 400, "without text"},
		"soap deep":        {BodyConfig{From: "soap"}, soapOf(strings.Repeat("<a>", 300) + strings.Repeat("</a>", 300)), "text/xml", nil, 413, "inside each other"},
		"soap deep header": {BodyConfig{From: "soap"}, strings.Replace(soapOf(`<a/>`), "7", strings.Repeat("<a>", 300)+strings.Repeat("</a>", 300), 1), "text/xml", nil, 413, "inside each other"},
		"soap attributes":  {BodyConfig{From: "soap"}, soapOf(`<a b="1" b="2"/>`), "text/xml", nil, 400, "attribute once"},
	} {
		for _, request := range []bool{true, false} {
			b := testBody(t, c.config, request)
			out, typ, err := b.Apply([]byte(c.body), []byte(c.typ), c.accept)
			r := refusalIn(t, err)
			want := c.status
			if !request && want != 406 {
				want = 502
			}
			if out != nil || typ != "" || r.Status != want || request && !strings.Contains(r.Detail, c.want) || !request && !strings.Contains(r.Why, c.want) {
				t.Errorf("%s, request %v: got %q, %q, %v; want %d %q", name, request, out, typ, err, want, c.want)
			}
			if !request && strings.Contains(r.Detail, c.want) && c.want != "" {
				t.Errorf("%s: a client learns %q", name, r.Detail)
			}
		}
	}
	b := testBody(t, BodyConfig{To: "accept"}, false)
	if _, _, err := b.Apply([]byte(`{}`), []byte("application/json"), accepts("text/html")); refusalIn(t, err).Status != 406 {
		t.Errorf("accept: got %v, want 406", err)
	}
}

func yamlBomb() string {
	text := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'j'; c++ {
		text += fmt.Sprintf("%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	return text
}

func TestGrowth(t *testing.T) {
	// A template that repeats the document, and a format that is longer.
	body := `{"a":"` + strings.Repeat("x", 1000) + `"}`
	b := testBody(t, BodyConfig{Max: 1100, Template: "[" + strings.Repeat("{a},", 400) + "{a}]"}, true)
	if _, _, err := b.Apply([]byte(body), []byte("application/json"), nil); refusalIn(t, err).Status != 413 {
		t.Errorf("template: got %v", err)
	}
	b = testBody(t, BodyConfig{Max: 2000, To: "xml"}, true)
	if _, _, err := b.Apply([]byte("["+strings.Repeat("1,", 900)+"1]"), []byte("application/json"), nil); refusalIn(t, err).Status != 413 {
		t.Errorf("xml: got %v", err)
	}
}

func TestFaults(t *testing.T) {
	first := soapOf(`<s:Fault><faultcode>s:%s</faultcode><faultstring>No` + "\n\n" + `such <![CDATA[item]]>` + strings.Repeat("!", 400) + `</faultstring><detail><secret>stack trace</secret></detail></s:Fault>`)
	second := `<e:Envelope xmlns:e="` + soapSecond + `"><e:Body><e:Fault><e:Code><e:Value>e:%s</e:Value><e:Subcode><e:Value xmlns:m="urn:m">m:BadItem</e:Value></e:Subcode></e:Code><e:Reason><e:Text xml:lang="en">No such item</e:Text></e:Reason><e:Detail>stack trace</e:Detail></e:Fault></e:Body></e:Envelope>`
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
		reason string
	}{
		"1.1 client": {fmt.Sprintf(first, "Client"), 400, "Client", "No such item!!!"},
		"1.1 sub":    {fmt.Sprintf(first, "Client.Authentication"), 400, "Client.Authentication", "No such item!!!"},
		"1.1 server": {fmt.Sprintf(first, "Server"), 502, "Server", "No such item!!!"},
		"1.2 sender": {fmt.Sprintf(second, "Sender"), 400, "Sender/BadItem", "No such item"},
		"1.2 other":  {fmt.Sprintf(second, "Receiver"), 502, "Receiver/BadItem", "No such item"},
		"bare":       {soapOf(`<s:Fault/>`), 502, "", ""},
	} {
		b := testBody(t, BodyConfig{From: "soap", To: "json"}, false)
		_, _, err := b.Apply([]byte(c.body), []byte("text/xml"), nil)
		r := refusalIn(t, err)
		if r.Status != c.status || r.Code != c.code || !strings.HasPrefix(r.Reason, c.reason) || !strings.Contains(r.Detail, c.reason) || len(r.Reason) > mostReason || strings.Contains(r.Error(), "stack") || strings.Contains(r.Detail, "\n") {
			t.Errorf("%s: got %+v", name, r)
		}
		if !b.Applies([]byte("text/xml; charset=utf-8"), 500) {
			t.Errorf("%s: does not apply to the status of a fault", name)
		}
	}
}

func TestApplies(t *testing.T) {
	for name, c := range map[string]struct {
		config  BodyConfig
		request bool
		typ     string
		status  int
		want    bool
	}{
		"json":             {BodyConfig{}, true, "Application/JSON ; charset=utf-8", 0, true},
		"suffix":           {BodyConfig{}, true, "application/vnd.api+json", 0, true},
		"html":             {BodyConfig{}, true, "text/html", 0, false},
		"none":             {BodyConfig{}, true, "", 0, false},
		"text":             {BodyConfig{}, true, "text/plain", 0, false},
		"text named":       {BodyConfig{From: "text"}, true, "text/plain", 0, true},
		"feed":             {BodyConfig{}, false, "application/rss+xml", 200, true},
		"only xml":         {BodyConfig{From: "xml"}, false, "application/json", 200, false},
		"xml feed":         {BodyConfig{From: "xml"}, false, "application/atom+xml", 200, true},
		"soap json":        {BodyConfig{From: "soap"}, false, "application/json", 200, false},
		"404":              {BodyConfig{}, false, "application/json", 404, false},
		"404 named":        {BodyConfig{Statuses: []int{404}}, false, "application/json", 404, true},
		"200 not named":    {BodyConfig{Statuses: []int{404}}, false, "application/json", 200, false},
		"206":              {BodyConfig{}, false, "application/json", 206, false},
		"204":              {BodyConfig{}, false, "application/json", 204, false},
		"500 soap json":    {BodyConfig{From: "soap"}, false, "text/html", 500, false},
		"types":            {BodyConfig{Types: []string{"application/*+json"}}, false, "application/hal+json", 200, true},
		"types not":        {BodyConfig{Types: []string{"application/*+json"}}, false, "application/json", 200, false},
		"types star":       {BodyConfig{From: "json", Types: []string{"TEXT/*"}}, false, "text/x", 200, true},
		"types suffix":     {BodyConfig{Types: []string{"*+xml"}}, false, "image/svg+xml", 200, true},
		"types any, auto":  {BodyConfig{Types: []string{"*/*"}}, false, "image/png", 200, false},
		"types any, named": {BodyConfig{From: "json", Types: []string{"*/*"}}, false, "image/png", 200, true},
		"schema":           {BodyConfig{Schema: "true"}, true, "image/png", 0, true},
		"schema, types":    {BodyConfig{Schema: "true", Types: []string{"application/json"}}, true, "image/png", 0, false},
		"garbage":          {BodyConfig{}, true, strings.Repeat("a", 500), 0, false},
	} {
		if got := testBody(t, c.config, c.request).Applies([]byte(c.typ), c.status); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestBodyFacts(t *testing.T) {
	b := testBody(t, BodyConfig{To: "soap", SOAP: &SOAPConfig{Action: "urn:go"}}, true)
	if action, ok := b.SOAPAction(); !ok || action != `"urn:go"` {
		t.Errorf("action %q, %v", action, ok)
	}
	if b.Max() != 1<<20 || b.Negotiates() || b.PassesLarge() {
		t.Errorf("max %d, %v, %v", b.Max(), b.Negotiates(), b.PassesLarge())
	}
	b = testBody(t, BodyConfig{To: "soap", SOAP: &SOAPConfig{Version: "1.2"}, Max: 5, Over: "pass"}, true)
	if _, ok := b.SOAPAction(); ok || b.Max() != 5 || !b.PassesLarge() {
		t.Error("SOAP 1.2 has no SOAPAction")
	}
	if !testBody(t, BodyConfig{To: "accept"}, false).Negotiates() {
		t.Error("accept negotiates")
	}
}

// What is in a room while a body is changed must not show in another's.
func TestApplyConcurrently(t *testing.T) {
	b := testBody(t, BodyConfig{To: "json", ShapeConfig: shape{Drop: []string{"u.x"}, Move: map[string]string{"u.n": "n"}}, Static: `{"v":1}`, Template: `{"a":{$},"n":"{n}"}`}, true)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			name := strings.Repeat(string(rune('a'+g)), 10*g+1)
			want := fmt.Sprintf(`{"a":{"u":{},"n":"%s"},"n":"%[1]s","v":1}`, name)
			for range 200 {
				got, _, err := b.Apply([]byte("<u><x>1</x><n>"+name+"</n></u>"), []byte("text/xml"), nil)
				if err != nil || string(got) != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
					return
				}
			}
		})
	}
	all.Wait()
}

// A body beyond what rooms keep is given away instead of copied, and whole.
func TestApplyLarge(t *testing.T) {
	var list bytes.Buffer
	list.WriteString(`[{"id":0,"secret":1}`)
	for i := 1; list.Len() < 8<<20; i++ {
		fmt.Fprintf(&list, `,{"id":%d,"secret":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, i)
	}
	list.WriteString(`]`)
	b := testBody(t, BodyConfig{Max: 16 << 20, ShapeConfig: shape{Drop: []string{"[*].secret"}}}, false)
	for range 2 {
		got, _, err := b.Apply(list.Bytes(), []byte("application/json"), nil)
		if err != nil || bytes.Contains(got, []byte("secret")) || !json.Valid(got) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	for name, c := range map[string]struct {
		config BodyConfig
		size   int
	}{
		"over": {BodyConfig{}, 100 << 20},
		"json": {BodyConfig{Max: 256 << 20}, 8 << 20},
		"xml":  {BodyConfig{Max: 256 << 20, From: "xml"}, 8 << 20},
		"soap": {BodyConfig{Max: 256 << 20, From: "soap"}, 8 << 20},
		"yaml": {BodyConfig{Max: 256 << 20, From: "yaml"}, 8 << 20},
	} {
		out, _, err := testBody(t, c.config, false).Apply(bytes.Repeat([]byte("["), c.size), []byte("application/json"), nil)
		if out != nil || refusalIn(t, err).Status != 502 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
