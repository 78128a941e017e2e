//go:build !race

package transform

import (
	"testing"
	"time"

	"sluice/document"
)

func TestAllocatesNothing(t *testing.T) {
	body := []byte(`{"id":12345678901234567890,"user":{"name":"Ann","tags":["a","b"]},"items":[{"sku":"x","n":1},{"sku":"y","n":2}]}`)
	typ := []byte("application/json; charset=utf-8")
	free := map[string]BodyConfig{
		"nothing":      {},
		"drop nothing": {ShapeConfig: document.ShapeConfig{Drop: []string{"password", "items[*].price"}}},
		"accept":       {To: "accept"},
		"over":         {Max: 4, Over: "pass"},
	}
	fields := accepts("application/xml;q=0.1, application/json")
	for name, c := range free {
		b := testBody(t, c, false)
		if n := testing.AllocsPerRun(1000, func() {
			if out, _, err := b.Apply(body, typ, fields); err != nil || &out[0] != &body[0] {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("Apply, %s: %v allocations", name, n)
		}
	}
	b := testBody(t, BodyConfig{ShapeConfig: document.ShapeConfig{Drop: []string{"user.tags"}, Rename: map[string]string{"id": "key"}, Move: map[string]string{"items": "user.items"}}, Static: `{"v":1}`}, false)
	if n := testing.AllocsPerRun(1000, func() {
		if _, _, err := b.Apply(body, typ, nil); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("Apply, changed: %v allocations, want the body alone", n)
	}
	types := BodyConfig{From: "json", Types: []string{"application/json", "*+json", "text/*"}}
	for _, c := range []BodyConfig{{}, types} {
		b := testBody(t, c, false)
		for _, typ := range []string{"text/html", "Application/Vnd.Example+JSON; charset=utf-8", ""} {
			typ := []byte(typ)
			if n := testing.AllocsPerRun(1000, func() { b.Applies(typ, 200) }); n != 0 {
				t.Errorf("Applies %q: %v allocations", typ, n)
			}
		}
	}
	dst := make([]byte, 0, 512)
	q, _ := NewQuery(&QueryConfig{Remove: []string{"debug"}, Rename: map[string]string{"q": "query"}, Set: map[string]string{"lang": "de en"}, Add: map[string]string{"v": "1"}})
	query := []byte("q=a%20b&debug=1&page=2&lang=fr")
	if n := testing.AllocsPerRun(1000, func() { dst = q.Append(dst[:0], query, testValue) }); n != 0 {
		t.Errorf("Query: %v allocations", n)
	}
	k, _ := NewCookies(&CookieConfig{Remove: []string{"debug"}, Set: map[string]string{"lang": "de"}})
	line := []byte("debug=1; session=abc; lang=fr")
	if n := testing.AllocsPerRun(1000, func() { dst = k.Append(dst[:0], line, testValue) }); n != 0 {
		t.Errorf("Cookies: %v allocations", n)
	}
	s, _ := NewSetCookie(&SetCookieConfig{Secure: "on", SameSite: "lax", Domain: "example.com"})
	line = []byte("session=abc; Path=/; Domain=internal; HttpOnly")
	if n := testing.AllocsPerRun(1000, func() { dst, _ = s.Append(dst[:0], line, time.Time{}) }); n != 0 {
		t.Errorf("SetCookie: %v allocations", n)
	}
}
