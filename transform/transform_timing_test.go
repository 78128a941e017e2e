package transform

import (
	"bytes"
	"fmt"
	"testing"

	"sluice/document"
)

// testOrders is about n bytes of JSON that look like an API's answer.
func testOrders(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"orders":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"customer":{"name":"user %d","email":"u%d@example.com","password":"secret"},"total":%d.50,"items":[{"sku":"ab%d","n":1}]}`, 1000+i, i, i, i, i%10)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func BenchmarkApply(b *testing.B) {
	drop := document.ShapeConfig{Drop: []string{"orders[*].customer.password"}}
	all := document.ShapeConfig{Target: "orders", Drop: []string{"[*].customer.password"}, Rename: map[string]string{"[*].id": "number"}, Move: map[string]string{"[*].customer.email": "[*].email"}}
	soap := soapOf(`<m:GetOrder xmlns:m="urn:m"><m:id>1</m:id><m:items><m:item sku="a">1</m:item><m:item sku="b">2</m:item></m:items></m:GetOrder>`)
	for _, c := range []struct {
		name   string
		config BodyConfig
		body   []byte
		typ    string
	}{
		{"check/4KiB", BodyConfig{}, testOrders(4 << 10), "application/json"},
		{"drop/1KiB", BodyConfig{ShapeConfig: drop}, testOrders(1 << 10), "application/json"},
		{"drop/64KiB", BodyConfig{ShapeConfig: drop}, testOrders(64 << 10), "application/json"},
		{"shape/4KiB", BodyConfig{ShapeConfig: all, Static: `{"v":1}`}, testOrders(4 << 10), "application/json"},
		{"query/4KiB", BodyConfig{ShapeConfig: document.ShapeConfig{Query: "orders[].id"}}, testOrders(4 << 10), "application/json"},
		{"template/4KiB", BodyConfig{Template: `{"first":{orders[0].id},"by":"{orders[0].customer.name}","all":{orders}}`}, testOrders(4 << 10), "application/json"},
		{"xml/4KiB", BodyConfig{To: "xml"}, testOrders(4 << 10), "application/json"},
		{"yaml/4KiB", BodyConfig{To: "yaml"}, testOrders(4 << 10), "application/json"},
		{"soap-in", BodyConfig{From: "soap", To: "json"}, []byte(soap), "text/xml"},
		{"soap-out", BodyConfig{To: "soap"}, []byte(`{"GetOrder":{"id":1,"items":{"item":[{"-sku":"a","#text":1},{"-sku":"b","#text":2}]}}}`), "application/json"},
		{"schema", BodyConfig{Schema: orderSchema}, []byte(`{"id":7,"items":[{"sku":"abc"},null],"state":"paid","pay":{"kind":"cash"}}`), "application/json"},
	} {
		b.Run(c.name, func(b *testing.B) {
			t := testBody(b, c.config, true)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := t.Apply(c.body, []byte(c.typ), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkQuery(b *testing.B) {
	q, _ := NewQuery(&QueryConfig{Remove: []string{"debug"}, Rename: map[string]string{"q": "query"}, Set: map[string]string{"lang": "de"}})
	query := []byte("q=a%20b&debug=1&page=2&lang=fr&sort=name")
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = q.Append(dst[:0], query, testValue)
	}
}
