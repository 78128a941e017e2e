//go:build !race

package proxy_test

import (
	"os"
	"path/filepath"
	"testing"
)

// A caller that is remembered costs no allocation: not its credential, not what
// the route requires, not the limits by identity, not the headers that tell of
// it.
func TestKnownCallersAllocateNothing(t *testing.T) {
	o := rawOrigin(t, []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"answer\":\"yes\"}"))
	key, line := apiKey("acme", ", scopes: [read], metadata: { plan: gold }")
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	e := startEdge(t, `
auth:
  tokens: { jwt: { secret: "`+sharedSecret+`" }, headers: { X-User: sub } }
  cookies: { jwt: { secret: "`+sharedSecret+`", header: "", cookie: session, query: token } }
  keys: { api_key: { file: "`+keys+`" } }
limits:
  many: { rate: 1000000/s, key: "claim:sub|ip", plans: { gold: 500000/s }, plan_by: "claim:plan" }
  flying: { concurrent: 100, key: identity }
upstreams: { main: "`+o.url()+`" }
routes:
  - name: token
    match: /token
    auth: tokens
    require: { scope: read, roles: admin, claims: { tenant: acme } }
    limit: [many, flying]
    ip: { allow: ["127.0.0.0/8"] }
    cors: "https://app.example.com"
    request: { headers: { set: { X-Tenant: "claim:tenant" }, remove: [Cookie] } }
    upstream: main
  - { name: cookie, match: /cookie, auth: cookies, upstream: main }
  - { name: key, match: /key, auth: [tokens, keys], require: { scope: read }, limit: many, upstream: main }
`)
	token := signed(t, "ann", map[string]any{"scope": "read write", "tenant": "acme", "roles": []string{"admin"}, "plan": "gold"})
	for name, request := range map[string]string{
		"token":  "GET /token HTTP/1.1\nHost: test\nAuthorization: Bearer " + token + "\nCookie: a=b\nOrigin: https://app.example.com\n\n",
		"cookie": "GET /cookie?x=1 HTTP/1.1\nHost: test\nCookie: a=b; session=" + token + "; c=d\n\n",
		"key":    "GET /key HTTP/1.1\nHost: test\nX-API-Key: " + key + "\n\n",
	} {
		c := newRawClient(t, e, request, `{"answer":"yes"}`)
		if n := c.allocations(); n > stray {
			t.Errorf("%s: %v allocations a request", name, n)
		}
	}
}
