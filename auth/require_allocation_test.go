//go:build !race

package auth

import (
	"net/netip"
	"testing"
)

// Whether a request may pass is told without an allocation; the race detector
// would make some.
func TestAuthorisingAllocatesNothing(t *testing.T) {
	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: expected no allocation, got %v", name, n)
		}
	}
	r := askedFor(t, "GET / HTTP/1.1\nHost: a")
	ann := provenBy(NewIdentity("mesh", "m", nil, 0), NewIdentity("customers", "ann", claimsOf(t, someClaims), 0))
	q, err := NewRequirement(&RequireConfig{Scope: []string{"users:read", "x|orders:read"}, Roles: []string{"none", "ops"}, Claims: map[string]string{"level": "2|3", "address.country": "*"}})
	if err != nil {
		t.Fatal(err)
	}
	f("requirement", func() { q.Check(r, ann) })
	f("requirement, refused", func() { q.Check(r, provenBy()) })

	a, err := NewAddresses(&AddressConfig{Allow: []string{"10.0.0.0/8"}, Deny: []string{"10.0.0.1"}}, nil, Env{})
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("::ffff:10.0.0.2")
	f("addresses", func() { a.Allows(addr) })

	c, err := NewCORS(&CORSConfig{
		Origins: []string{"https://a.example.com", "https://*.example.org", "~https://[a-z]+[.]example[.]net"}, Methods: []string{"PUT"},
		Headers: []string{"*", "Authorization"}, Credentials: true, Block: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 0, 1024)
	for _, origin := range []string{"https://a.example.com", "https://x.y.example.org", "https://abc.example.net", "https://other.example"} {
		head := askedFor(t, "OPTIONS / HTTP/1.1\nHost: a\nOrigin: "+origin+"\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: authorization,x-one, X-Two").Head
		f("preflight of "+origin, func() {
			from, method, headers, private, _ := PreflightFields(head)
			dst, _ = c.Preflight(dst[:0], from, method, headers, private)
		})
		put := askedFor(t, "PUT / HTTP/1.1\nHost: a\nOrigin: "+origin).Head
		f("lines of "+origin, func() {
			c.Blocks(put, "https")
			dst = c.AppendLines(dst[:0], Origin(put))
		})
	}
}
