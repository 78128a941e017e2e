//go:build !race

package auth

import (
	"io"
	"net/http"
	"testing"
	"time"

	"sluice/setting"
)

// What is in memory is decided without an allocation.
func TestServiceRecallAllocatesNothing(t *testing.T) {
	url, _ := deciding(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"active":true,"sub":"ann"}`)
	})
	opaque := testIntrospection(t, introspectionConfig(url))
	c := forwardConfig(url)
	c.Cache.TTL = setting.Duration(time.Hour)
	sso := testForward(t, c)
	keyed := forwardConfig(url)
	keyed.Cache.TTL, keyed.Cache.By = setting.Duration(time.Hour), []string{"header:Authorization", "cookie:s", "route"}
	by := testForward(t, keyed)
	r := serviceRequest(t, "GET /a/b/c?x=1 HTTP/1.1\nHost: api.example.com\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\nCookie: a=b; s=0123456789")
	f := func(a Authenticator, head *Request, want Outcome) {
		t.Helper()
		a.Verify(head)
		var got Result
		if n := testing.AllocsPerRun(500, func() { got = a.Recall(head) }); n != 0 {
			t.Errorf("%s: %v allocations", a.Name(), n)
		}
		if got.Outcome != want {
			t.Errorf("%s: %+v", a.Name(), got)
		}
	}
	f(opaque, r, Identified)
	f(sso, r, Identified)
	f(by, r, Identified)
	none := serviceRequest(t, "GET / HTTP/1.1\nHost: h")
	f(opaque, none, Absent)
	signed := testSignature(t, signatureConfig(writeKeys(t, rfcKeys)))
	f(signed, none, Absent)
}

func BenchmarkRecallIntrospection(b *testing.B) {
	c := introspectionConfig("https://127.0.0.1:1")
	a := testIntrospection(b, c)
	r := bearer(b, "0123456789abcdef0123456789abcdef")
	a.known.put([]byte("0123456789abcdef0123456789abcdef"), &Identity{}, r.Now.Unix(), r.Now.Unix()+1000, nil)
	b.ReportAllocs()
	for b.Loop() {
		if a.Recall(r).Outcome != Identified {
			b.Fatal("not recalled")
		}
	}
}

func BenchmarkRecallForward(b *testing.B) {
	c := forwardConfig("http://127.0.0.1:1")
	c.Cache.TTL = setting.Duration(time.Hour)
	a := testForward(b, c)
	r := serviceRequest(b, "GET /a/b/c?x=1 HTTP/1.1\nHost: api.example.com\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\nCookie: a=b; s=0123456789")
	key, _ := a.key(nil, r)
	a.known.put(key, &Identity{}, r.Now.Unix(), r.Now.Unix()+1000, nil)
	b.ReportAllocs()
	for b.Loop() {
		if a.Recall(r).Outcome != Identified {
			b.Fatal("not recalled")
		}
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	a := testSignature(b, signatureConfig(writeKeys(b, signerKeys())))
	for _, s := range testSigners() {
		b.Run(s.algorithm, func(b *testing.B) {
			r := signedRequest(b, signed(b, s, "GET /a/b?c=d HTTP/1.1\nHost: api.example.com", "s", signedItems, ";created=1000"), 1000)
			b.ReportAllocs()
			for b.Loop() {
				if a.Verify(r).Outcome != Identified {
					b.Fatal("not verified")
				}
			}
		})
	}
}
