//go:build !race

package proxy_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestHitsAllocateNothing holds the same promise for answers from memory: plain,
// with a caller, conditional, HEAD, large, compressed, and a list of variants.
func TestHitsAllocateNothing(t *testing.T) {
	answer := func(body string) []byte {
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: public, max-age=600\r\nETag: \"x\"\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	small, large := rawOrigin(t, answer(strings.Repeat("small ", 170))), rawOrigin(t, answer(strings.Repeat("large ", 11000)))
	varying := rawOrigin(t, []byte("HTTP/1.1 200 OK\r\nVary: Accept-Encoding, X-Custom\r\nCache-Control: max-age=600\r\nContent-Length: 4\r\n\r\nvary"))
	e := startEdge(t, `
auth: { tokens: { jwt: { secret: "`+sharedSecret+`" } } }
limits: { many: { rate: 1000000/s, key: "claim:sub" } }
upstreams: { small: "`+small.url()+`", large: "`+large.url()+`", varying: "`+varying.url()+`" }
routes:
  - { name: small, match: /small, upstream: small, cache: on }
  - { name: large, match: /large, upstream: large, cache: on }
  - { name: sorted, match: /sorted, upstream: small, cache: { ttl: 10m, key: { query: except, parameters: ["utm_*"], headers: [X-Custom], cookies: [a] } } }
  - { name: varying, match: /varying, upstream: varying, cache: on }
  - { name: coded, match: /coded, upstream: large, cache: on, compress: { codings: gzip } }
  - { name: caller, match: /caller, auth: tokens, limit: many, upstream: small, cache: { share: all } }
`)
	const fields = "User-Agent: raw/1.0\nAccept: */*\nAccept-Encoding: gzip, br\nCookie: a=b; c=d\nX-Custom: some value\n\n"
	for _, c := range []struct{ name, request, end string }{
		{"small", "GET /small HTTP/1.1\nHost: a\n" + fields, "small "},
		{"large", "GET /large HTTP/1.1\nHost: a\n" + fields, "large "},
		{"query", "GET /sorted?b=1&utm_source=x&a=2 HTTP/1.1\nHost: a\n" + fields, "small "},
		{"vary", "GET /varying HTTP/1.1\nHost: a\n" + fields, "vary"},
		{"compressed", "GET /coded HTTP/1.1\nHost: a\n" + fields, "\x00"},
		{"HEAD", "HEAD /small HTTP/1.1\nHost: a\n" + fields, "\r\n\r\n"},
		{"caller", "GET /caller HTTP/1.1\nHost: a\nAuthorization: Bearer " + signed(t, "ann", nil) + "\n" + fields, "small "},
	} {
		path := strings.Fields(c.request)[1]
		e.get(path, "Host: a", "Accept-Encoding: gzip, br", "X-Custom: some value", "Cookie: a=b; c=d", "Authorization: Bearer "+signed(t, "ann", nil))
		for range 12 { // until it is hot, and a large one has its file
			_ = newRawClient(t, e, c.request, c.end).conn.Close()
		}
		client := newRawClient(t, e, c.request, c.end)
		if !strings.Contains(string(client.buf[:client.size]), "Sluice; hit") {
			t.Fatalf("%s: no hit:\n%.500s", c.name, client.buf[:client.size])
		}
		if n := client.allocations(); n > stray {
			t.Errorf("%s: %.2f allocations a request", c.name, n)
		}
	}
}
