//go:build !race

package auth

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// recalls are requests of each of these authenticators that memory decides.
func recalls(t testing.TB) map[string]func() Outcome {
	t.Helper()
	key := newKey()
	keys := newKeys(t, APIKeyConfig{}, keyLines("acme", key, ", expires: 2100-01-01"))
	withKey := requestOf(t, "/", "User-Agent: t", "Accept: */*", "X-API-Key: "+key)
	unknown := requestOf(t, "/", "X-API-Key: "+newKey())
	everywhere := newKeys(t, APIKeyConfig{Header: "X-Key", Query: "key", Cookie: "key", Scheme: "ApiKey"}, keyLines("acme", key, ""))
	inQuery := requestOf(t, "/?a=b&key="+key, "Cookie: a=b")

	users := newUsers(t, "alice:"+cheap(t, "wonderland"), 64)
	asAlice := requestOf(t, "/", "User-Agent: t", credential("alice", "wonderland"))
	if users.Verify(asAlice).Outcome != Identified {
		t.Fatal("not proven")
	}

	ca := newAuthority(t, "root", time.Now().Add(time.Hour))
	leaf := ca.client(t, func(c *x509.Certificate) {
		c.Subject.CommonName = "api"
		c.DNSNames = []string{"api.example.com"}
	}).Leaf
	mesh := newCertificates(t, MTLSConfig{DNS: []string{"*.example.com"}})
	withCert := requestOf(t, "/")
	withCert.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, ca.cert}}}
	if mesh.Verify(withCert).Outcome != Identified {
		t.Fatal("not proven")
	}
	return map[string]func() Outcome{
		"api_key":            func() Outcome { return keys.Recall(withKey).Outcome },
		"api_key unknown":    func() Outcome { return keys.Recall(unknown).Outcome },
		"api_key everywhere": func() Outcome { return everywhere.Recall(inQuery).Outcome },
		"basic":              func() Outcome { return users.Recall(asAlice).Outcome },
		"basic absent":       func() Outcome { return users.Recall(withKey).Outcome },
		"mtls":               func() Outcome { return mesh.Recall(withCert).Outcome },
		"mtls absent":        func() Outcome { return mesh.Recall(withKey).Outcome },
	}
}

func TestRecallOfKeysAllocatesNothing(t *testing.T) {
	for name, recall := range recalls(t) {
		if n := testing.AllocsPerRun(1000, func() { recall() }); n != 0 {
			t.Errorf("%s: expected no allocation, got %v", name, n)
		}
	}
}

func benchmarkRecall(b *testing.B, name string) {
	recall := recalls(b)[name]
	b.ReportAllocs()
	for b.Loop() {
		if recall() != Identified {
			b.Fatal("not recalled")
		}
	}
}

func BenchmarkRecallAPIKey(b *testing.B) { benchmarkRecall(b, "api_key") }
func BenchmarkRecallBasic(b *testing.B)  { benchmarkRecall(b, "basic") }
func BenchmarkRecallMTLS(b *testing.B)   { benchmarkRecall(b, "mtls") }

// BenchmarkMTLSByDER is what remembering by the certificate's bytes would cost.
func BenchmarkMTLSByDER(b *testing.B) {
	ca := newAuthority(b, "root", time.Now().Add(time.Hour))
	leaf := ca.client(b, func(c *x509.Certificate) { c.Subject.CommonName = "api"; c.DNSNames = []string{"api.example.com"} }).Leaf
	m := newMemo(1024, 1<<16)
	id := NewIdentity("mesh", "api", nil, 0)
	m.put(leaf.Raw, id, 0, 1, nil)
	b.ReportMetric(float64(len(leaf.Raw)), "bytes")
	for b.Loop() {
		if m.get(leaf.Raw, 0) != id {
			b.Fatal("not recalled")
		}
	}
}

func BenchmarkVerifyMTLS(b *testing.B) {
	ca := newAuthority(b, "root", time.Now().Add(time.Hour))
	leaf := ca.client(b, func(c *x509.Certificate) { c.Subject.CommonName = "api"; c.DNSNames = []string{"api.example.com"} }).Leaf
	mesh := newCertificates(b, MTLSConfig{DNS: []string{"*.example.com"}})
	b.ReportAllocs()
	for b.Loop() {
		if mesh.judge(leaf).identity == nil {
			b.Fatal("refused")
		}
	}
}
