package auth

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func BenchmarkRequirement(b *testing.B) {
	ann := provenBy(NewIdentity("customers", "ann", claimsOf(b, someClaims), 0))
	r := askedFor(b, "GET /users/7 HTTP/1.1\nHost: a\nX-Tenant: blue")
	f := func(name string, c RequireConfig) {
		q, err := NewRequirement(&c)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, reason, _ := q.Check(r, ann); !ok {
					b.Fatal(reason)
				}
			}
		})
	}
	f("scope", RequireConfig{Scope: []string{"users:read"}})
	f("scope,roles,claims", RequireConfig{Scope: []string{"users:read"}, Roles: []string{"ops"}, Claims: map[string]string{"level": "3"}})
	f("expr=claim", RequireConfig{Expr: `claims.level >= 3`})
	f("expr=request", RequireConfig{Expr: `request.method == "GET" and request.path startsWith "/users/" and request.header("x-tenant") == "blue"`})
	f("expr=cidr", RequireConfig{Expr: `cidr(request.ip, "10.0.0.0/8")`})
	f("expr=loop", RequireConfig{Expr: `any(claims.orgs, .id == "o2")`})
}

func BenchmarkAddresses(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	a := &Addresses{}
	lists := &addressLists{}
	addrs := make([]netip.Addr, 1024)
	any4 := func() netip.Addr {
		var x [4]byte
		n := random.Uint32()
		x[0], x[1], x[2], x[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		return netip.AddrFrom4(x)
	}
	for lists.deny.Size() < 10_000 {
		p, _ := any4().Prefix(16 + random.IntN(17))
		lists.deny.Insert(p)
	}
	for i := range addrs {
		addrs[i] = any4()
	}
	a.lists.Store(lists)
	i, n := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		if i++; a.Allows(addrs[i%len(addrs)]) {
			n++
		}
	}
	_ = n
}

func BenchmarkCORS(b *testing.B) {
	c, err := NewCORS(&CORSConfig{Origins: []string{"https://app.example.com", "https://*.example.org"}, Methods: []string{"PUT"}, Headers: []string{"Content-Type", "X-One"}, Credentials: true})
	if err != nil {
		b.Fatal(err)
	}
	head := askedFor(b, "OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://app.example.com\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: content-type,x-one").Head
	dst := make([]byte, 0, 1024)
	b.Run("preflight", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			origin, method, headers, private, _ := PreflightFields(head)
			dst, _ = c.Preflight(dst[:0], origin, method, headers, private)
		}
	})
	b.Run("lines", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = c.AppendLines(dst[:0], Origin(head))
		}
	})
}
