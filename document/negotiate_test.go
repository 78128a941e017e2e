package document

import (
	"testing"

	"sluice/wire"
)

func acceptLines(lines ...string) (fields []wire.Field) {
	fields = append(fields, wire.Field{Name: []byte("Host"), Value: []byte("application/xml")})
	for _, l := range lines {
		fields = append(fields, wire.Field{Name: []byte("Accept"), Value: []byte(l)})
	}
	return fields
}

func TestNegotiate(t *testing.T) {
	all := []Format{JSON, XML, YAML, Text}
	for _, c := range []struct {
		lines []string
		want  Format
	}{
		{nil, JSON},
		{[]string{""}, JSON},
		{[]string{"*/*"}, JSON},
		{[]string{"application/xml"}, XML},
		{[]string{"text/xml"}, XML},
		{[]string{"Application/YAML; charset=utf-8"}, YAML},
		{[]string{"application/json;q=0.5, application/xml"}, XML},
		{[]string{"application/json;q=0.5", "application/xml;q=0.4"}, JSON},
		{[]string{"application/xml, application/json"}, JSON}, // as good: the server's order
		{[]string{"*/*;q=0.1, application/yaml;q=0.2"}, YAML},
		{[]string{"application/*;q=0.3, */*"}, Text},
		{[]string{"application/json;q=0, */*"}, XML},
		{[]string{"application/json;q=0, application/*;q=0.5, */*;q=0.6"}, Text},
		{[]string{"text/*"}, Text},
		{[]string{"text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"}, XML},
		{[]string{"application/xml;q=0.2, text/xml"}, XML},
		{[]string{`application/json;p="a,b;q=0";q=0.1, text/plain;q=0.2`}, Text},
		{[]string{"application/json; Q=0.3 , text/plain ; q=0.2"}, JSON},
		{[]string{"application/xml;q=bad, text/plain"}, Text},
		{[]string{"nonsense"}, JSON},
		{[]string{"application/xml;q=1.001"}, JSON}, // nothing that can be read
		{[]string{"text/html"}, Unknown},
		{[]string{"*/*;q=0"}, Unknown},
		{[]string{"application/json;q=0"}, Unknown},
		{[]string{"application/problem+json"}, Unknown},
	} {
		got, ok := Negotiate(acceptLines(c.lines...), all)
		if got != c.want || ok != (c.want != Unknown) {
			t.Errorf("%q: %v, %v; want %v", c.lines, got, ok, c.want)
		}
	}
	dropped := acceptLines("application/xml")
	dropped[1].Drop = true
	if f, ok := Negotiate(dropped, all); f != JSON || !ok {
		t.Errorf("a line that ends here counts: %v, %v", f, ok)
	}
	if f, ok := Negotiate(nil, nil); f != Unknown || ok {
		t.Errorf("of nothing: %v, %v", f, ok)
	}
}
