package transform

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"testing"
	"time"
	"unicode/utf8"

	"sluice/document"
)

// fuzzApply holds what every Apply must.
func fuzzApply(t *testing.T, b *Body, body []byte, typ string) {
	before := bytes.Clone(body)
	out, outType, err := b.Apply(body, []byte(typ), nil)
	if !bytes.Equal(before, body) {
		t.Fatal("the body itself was changed")
	}
	if err != nil {
		var r *Refusal
		if !errors.As(err, &r) || out != nil || outType != "" || r.Status < 400 || !utf8.ValidString(r.Detail) || len(r.Detail) > 2048 || bytes.ContainsAny([]byte(r.Detail), "\r\n") {
			t.Fatalf("%q, %q: %v", out, outType, err)
		}
		return
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return
	}
	if outType == "" {
		outType = typ
	}
	switch f := document.FormatOf([]byte(outType)); {
	case f == document.JSON:
		if err := document.Check(bytes.TrimPrefix(out, []byte("\ufeff")), document.Limits{Depth: 400}, false); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
	case f == document.XML && b.toSOAP:
		for d := xml.NewDecoder(bytes.NewReader(out)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%q: %v", out, err)
			}
		}
		again := testBody(t, BodyConfig{From: "soap", To: "json", Max: 64 << 20}, true)
		if _, _, err := again.Apply(out, []byte(outType), nil); err != nil && !bytes.Contains(out, []byte("Fault")) {
			t.Fatalf("%q: %v", out, err)
		}
	}
}

func FuzzSOAP(f *testing.F) {
	for _, seed := range []string{
		soapOf(`<m:R xmlns:m="urn:m"><m:P a="1">1.90</m:P></m:R>`), soapOf(``), soapOf(`<s:Fault><faultcode>s:Client</faultcode><faultstring>x</faultstring></s:Fault>`),
		`<Envelope xmlns="` + soapSecond + `"><Body><R xmlns="">&lt;&#10;</R></Body></Envelope>`, `<a:Envelope/>`, `{"a":[1,{"-b":"c"}]}`, `[]`, `{"#text":"]]>"}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	in := testBody(f, BodyConfig{From: "soap", To: "json"}, true)
	both := testBody(f, BodyConfig{From: "soap"}, false)
	out := testBody(f, BodyConfig{To: "soap", SOAP: &SOAPConfig{Version: "1.2", Namespace: "urn:a&b"}}, true)
	f.Fuzz(func(t *testing.T, body []byte, read bool) {
		if read {
			fuzzApply(t, in, body, "text/xml")
			fuzzApply(t, both, body, "text/xml")
		} else {
			fuzzApply(t, out, body, "application/json")
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{`{"a": {a}, "b": "x{b.c}y", "c": [{$}]}`, `{a}`, `"{{{a}}}"`, `Dear {a}`, `{"{a}":1,"x":2}`} {
		f.Add(seed, []byte(`{"a":1e999,"b":{"c":"\u00e9\"\n"}}`), `{"x":{"y":null}}`)
	}
	f.Fuzz(func(t *testing.T, template string, body []byte, static string) {
		for _, c := range []BodyConfig{{Template: template, Static: static}, {Template: template, To: "xml"}, {Template: template, To: "text"}} {
			b, err := NewBody(&c, true)
			if err != nil {
				continue
			}
			fuzzApply(t, b, body, "application/json")
		}
	})
}

func FuzzSchema(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#"}}}`, []byte(`{"a":{"a":1}}`))
	f.Add(orderSchema, []byte(`{"id":1e5,"items":[{"sku":"x"}]}`))
	f.Add(`{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"format":"regex"}],"uniqueItems":true}`, []byte(`["(",1.0,1]`))
	f.Fuzz(func(t *testing.T, text string, body []byte) {
		if !isInline(text) || len(text) > 4096 {
			return
		}
		b, err := NewBody(&BodyConfig{Schema: text}, true)
		if err != nil {
			return
		}
		fuzzApply(t, b, body, "application/json")
	})
}

func FuzzHead(f *testing.F) {
	f.Add("a=1&%61=2&b", "a", "b", "x y")
	f.Add("a=1; b=2;; Secure", "a", "c", "é;")
	f.Fuzz(func(t *testing.T, line, remove, set, text string) {
		value := func(template string, dst []byte) []byte { return append(dst, template...) }
		if q, err := NewQuery(&QueryConfig{Remove: []string{remove}, Set: map[string]string{set: text}}); err == nil {
			out := q.Append(nil, []byte(line), value)
			for _, one := range bytes.Split(bytes.TrimPrefix(out, []byte("?")), []byte("&")) {
				name, _, _ := bytes.Cut(one, []byte("="))
				if remove != set && string(decoded(make([]byte, 0, 1<<16), name)) == remove {
					t.Fatalf("%q is in %q", remove, out)
				}
			}
		}
		if k, err := NewCookies(&CookieConfig{Remove: []string{remove}, Set: map[string]string{set: text}}); err == nil {
			for _, one := range bytes.Split(k.Append(nil, []byte(line), value), []byte("; ")) {
				if name, _, _ := bytes.Cut(one, []byte("=")); string(name) == remove {
					t.Fatalf("%q is there", remove)
				}
			}
		}
		if s, err := NewSetCookie(&SetCookieConfig{Secure: "off", Domain: "example.com", Rename: map[string]string{remove: set}}); err == nil {
			s.Append(nil, []byte(line), time.Time{})
		}
	})
}
