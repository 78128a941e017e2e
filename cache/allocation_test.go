//go:build !race

package cache

import "testing"

// A hit is read, keyed, decided and told of without an allocation.
func TestAllocatesNothing(t *testing.T) {
	p := testPolicy(func(c *RouteConfig) {
		c.Key = KeyConfig{Query: "only", Parameters: []string{"a", "b*"}, Headers: []string{"X-Tenant"}, Cookies: []string{"s"}, Claims: []string{"tier"}}
		c.Share = "identity"
		c.Bypass = []string{"cookie:x", "header:X-Debug", "query:d"}
	})
	e := testEntry(t, p, "200 OK\nCache-Control: max-age=60\nETag: \"a\"\nVary: Accept-Encoding, Accept-Language\nContent-Type: a/b")
	r := testRequest(t, "GET /path?b1=2&a=1&z HTTP/1.1\nX-Tenant: t\nCookie: s=1; u=2\nAccept-Encoding: gzip, br;q=0.5\nAccept-Language: en\nX-Unknown: 1\nIf-None-Match: W/\"a\"\nRange: bytes=0-1\nCache-Control: max-age=100, max-stale=\"5\"")
	var a Ask
	var ranges Ranges
	claims := Claims(testClaims{"tier": "gold"})
	key, query, out, stored := make([]byte, 0, 1024), make([]byte, 0, 256), make([]byte, 0, 1024), AppendEntry(nil, e)
	var parsed Entry
	if n := testing.AllocsPerRun(1000, func() {
		p.Read(&a, r, false)
		query, _ = p.AppendQuery(query[:0], r.Query, r.HasQuery)
		key = p.AppendKey(key[:0], &a, &Subject{Scheme: "https", Host: r.Host, Path: r.Path, Query: query, Identity: r.Host, Claims: claims})
		key = p.AppendVariant(key, e.Vary, &a)
		if _, err := ParseEntry(stored, &parsed); err != nil {
			t.Fatal(err)
		}
		v := Decide(&a, &parsed, start+second)
		if v.Use != Fresh || !NotModified(&a, e, start) || Parts(&ranges, &a, e, start) != Single {
			t.Fatal(v)
		}
		out = AppendAge(AppendNotModified(out[:0], e), v)
		out = AppendStatus(out, p.Name, Status{Timed: true, TTL: v.TTL})
	}); n != 0 {
		t.Errorf("a hit: expected no allocation, got %v", n)
	}
	answer := testAnswer(t, "200 OK\nCache-Control: max-age=60\nETag: \"a\"\nVary: Accept-Encoding, Accept-Language\nContent-Type: a/b")
	var kept Entry
	if n := testing.AllocsPerRun(1000, func() {
		if reason := p.Admit(&kept, &a, 200, answer.Fields, start, start); reason != OK {
			t.Fatal(reason)
		}
	}); n != 0 {
		t.Errorf("Admit: expected no allocation, got %v", n)
	}
}
