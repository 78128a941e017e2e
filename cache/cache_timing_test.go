package cache

import "testing"

func BenchmarkHit(b *testing.B) {
	p := testPolicy()
	e := testEntry(b, p, "200 OK\nCache-Control: max-age=60\nETag: \"a\"\nVary: Accept-Encoding\nContent-Type: a/b")
	r := testRequest(b, "GET /path?b=2&a=1 HTTP/1.1\nUser-Agent: Mozilla/5.0\nAccept: */*\nAccept-Encoding: gzip, deflate, br, zstd\nAccept-Language: en\nCookie: a=b\nX-Unknown: 1")
	var a Ask
	key, query := make([]byte, 0, 1024), make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		p.Read(&a, r, false)
		query, _ = p.AppendQuery(query[:0], r.Query, r.HasQuery)
		key = p.AppendKey(key[:0], &a, &Subject{Scheme: "https", Host: r.Host, Path: r.Path, Query: query})
		key = p.AppendVariant(key, e.Vary, &a)
		if v := Decide(&a, e, start+second); v.Use != Fresh {
			b.Fatal(v)
		}
	}
}
