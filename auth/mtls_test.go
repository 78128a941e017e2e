package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/setting"
)

// authority is a CA made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string, until time.Time) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"Acme"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = sign(t, template, nil)
	return a
}

func sign(t testing.TB, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// client issues a certificate for a client.
func (a *authority) client(t testing.TB, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(0xabc), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	edit(template)
	cert, key := sign(t, template, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// tlsDoor accepts TLS connections and hands on what is known of them.
type tlsDoor struct {
	address string
	states  chan *tls.ConnectionState
}

func newTLSDoor(t testing.TB, ca *authority, how tls.ClientAuthType) *tlsDoor {
	t.Helper()
	server, key := sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"door"}}, ca)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: key}}, ClientAuth: how, ClientCAs: roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	d := &tlsDoor{address: l.Addr().String(), states: make(chan *tls.ConnectionState, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			if conn := c.(*tls.Conn); conn.Handshake() == nil {
				s := conn.ConnectionState()
				d.states <- &s
				_, _ = io.WriteString(c, "x") // carries the session ticket
			} else {
				d.states <- nil
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return d
}

// connect is the state that the door sees of a client with these certificates.
func (d *tlsDoor) connect(t testing.TB, ca *authority, cache tls.ClientSessionCache, certs ...tls.Certificate) *tls.ConnectionState {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	raw, err := net.Dial("tcp", d.address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	conf := &tls.Config{RootCAs: roots, ServerName: "door", ClientSessionCache: cache, MinVersion: tls.VersionTLS12}
	if len(certs) > 0 {
		// Whatever CAs the door names.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	c := tls.Client(raw, conf)
	if err := c.Handshake(); err == nil {
		_, _ = io.ReadAll(c)
	}
	s := <-d.states
	if s == nil {
		t.Fatal("the door refused the handshake")
	}
	return s
}

func newCertificates(t testing.TB, c MTLSConfig) *mtls {
	t.Helper()
	p := &setting.Problems{}
	if c.Validate(p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newMTLS("mesh", &c, Env{})
	if err != nil {
		t.Fatal(err)
	}
	return a.(*mtls)
}

func uri(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func TestMTLS(t *testing.T) {
	ca := newAuthority(t, "root", time.Now().Add(24*time.Hour))
	door := newTLSDoor(t, ca, tls.VerifyClientCertIfGiven)
	cert := ca.client(t, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "api", OrganizationalUnit: []string{"pay, ments"}, Organization: []string{"Acme"}}
		c.DNSNames, c.EmailAddresses = []string{"api.example.com", "*.wild.example.com"}, []string{"ops@Example.com"}
		c.URIs = []*url.URL{uri("spiffe://example.org/ns/prod/sa/api")}
	})
	state := door.connect(t, ca, nil, cert)
	sum := sha256.Sum256(cert.Leaf.Raw)
	fingerprint := hex.EncodeToString(sum[:])
	r := requestOf(t, "/")
	r.TLS = state
	f := func(c MTLSConfig, mismatch string) {
		t.Helper()
		a := newCertificates(t, c)
		if res := a.Recall(r); res.Outcome != Unknown {
			t.Errorf("Recall before Verify: %+v", res)
		}
		res := a.Verify(r)
		if mismatch == "" && res.Outcome != Identified || mismatch != "" && (res.Outcome != Refused || !strings.HasSuffix(res.Reason, "does not match: "+mismatch)) {
			t.Errorf("%+v: expected %q, got %+v", c, mismatch, res)
		}
		if again := a.Recall(r); !reflect.DeepEqual(again, res) {
			t.Errorf("recalled as %+v, verified as %+v", again, res)
		}
		if s := a.State(); s.Remembered != 1 || a.Challenge() != "" || a.Guessable() {
			t.Errorf("got %+v", s)
		}
	}
	one := func(s string) []string { return []string{s} }
	f(MTLSConfig{}, "")
	f(MTLSConfig{Subject: one("api")}, "")
	f(MTLSConfig{Subject: one("a*i")}, "")
	f(MTLSConfig{Subject: one("api*")}, "subject")
	f(MTLSConfig{Subject: one("API")}, "subject")
	f(MTLSConfig{Subject: one(`CN=api,OU=pay\, ments,O=Acme`)}, "")
	f(MTLSConfig{Subject: one(`cn=*, ou=*, o=Acme`)}, "")
	f(MTLSConfig{Subject: one(`2.5.4.3=api,OU=pay\2C ments,O=Acme`)}, "")
	f(MTLSConfig{Subject: one(`CN=api,O=Acme`)}, "subject")
	f(MTLSConfig{Subject: one(`CN=*`)}, "subject")
	f(MTLSConfig{Subject: one(`CN=api,OU=pay,OU=ments,O=Acme`)}, "subject")
	f(MTLSConfig{Subject: one(`O=Acme,OU=pay\, ments,CN=api`)}, "subject")
	f(MTLSConfig{Subject: []string{"x", "api"}, DNS: one("api.example.com")}, "")
	f(MTLSConfig{Subject: one("api"), DNS: one("b.example.com")}, "dns")
	f(MTLSConfig{Subject: one("b"), DNS: one("b.example.com")}, "subject, dns")
	f(MTLSConfig{DNS: one("*.example.com")}, "")
	f(MTLSConfig{DNS: one("API.Example.COM.")}, "")
	f(MTLSConfig{DNS: one("*.wild.example.com")}, "dns")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/ns/prod/sa/api")}, "")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/ns/*/sa/*")}, "")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/ns/**")}, "")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/**")}, "")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/ns/prod/sa/api/**")}, "spiffe")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org/*")}, "spiffe")
	f(MTLSConfig{SPIFFE: one("spiffe://example.org")}, "spiffe")
	f(MTLSConfig{SPIFFE: one("spiffe://other.org/ns/*/sa/*")}, "spiffe")
	f(MTLSConfig{Email: one("*@example.com")}, "")
	f(MTLSConfig{Email: one("OPS@example.com")}, "email")
	f(MTLSConfig{Fingerprint: one(fingerprint)}, "")
	f(MTLSConfig{Fingerprint: one("SHA256:" + strings.ToUpper(fingerprint))}, "")
	f(MTLSConfig{Fingerprint: one(strings.Repeat("0", 64))}, "fingerprint")
	f(MTLSConfig{Issuer: one("CN=root,O=Acme")}, "")
	f(MTLSConfig{Issuer: one("root")}, "")
	f(MTLSConfig{Issuer: one("other")}, "issuer")
	f(MTLSConfig{URI: one("https://example.org/**")}, "uri")

	id := newCertificates(t, MTLSConfig{}).Verify(r).Identity
	want := map[string]any{
		"sub": "spiffe://example.org/ns/prod/sa/api", "cn": "api", "dn": `CN=api,OU=pay\, ments,O=Acme`, "issuer": "CN=root,O=Acme",
		"dns": []any{"api.example.com", "*.wild.example.com"}, "uri": []any{"spiffe://example.org/ns/prod/sa/api"}, "email": []any{"ops@Example.com"},
		"serial": "abc", "fingerprint": fingerprint,
	}
	if !reflect.DeepEqual(id.Claims, want) || id.Subject != want["sub"] || id.Authenticator != "mesh" || id.Expires != cert.Leaf.NotAfter.Unix()+1 {
		t.Errorf("got %+v", id)
	}
}

func TestMTLSWithoutCertificate(t *testing.T) {
	ca := newAuthority(t, "root", time.Now().Add(24*time.Hour))
	other := newAuthority(t, "other", time.Now().Add(24*time.Hour))
	a := newCertificates(t, MTLSConfig{})
	f := func(s *tls.ConnectionState, want Outcome, reason string) {
		t.Helper()
		r := requestOf(t, "/")
		r.TLS = s
		for _, res := range []Result{a.Recall(r), a.Verify(r)} {
			if res.Outcome != want || !strings.Contains(res.Reason, reason) {
				t.Errorf("expected %d, got %+v", want, res)
			}
		}
	}
	f(nil, Absent, "")
	f(newTLSDoor(t, ca, tls.VerifyClientCertIfGiven).connect(t, ca, nil), Absent, "")
	// A door that takes any certificate proves nothing.
	stranger := other.client(t, func(c *x509.Certificate) { c.Subject.CommonName = "api" })
	f(newTLSDoor(t, ca, tls.RequestClientCert).connect(t, ca, nil, stranger), Refused, "has not verified")
	f(newTLSDoor(t, ca, tls.RequireAnyClientCert).connect(t, ca, nil, stranger), Refused, "has not verified")
	if c := a.Counts(); c["certificate_unverified"] != 4 {
		t.Errorf("got %v", c)
	}
}

// TestMTLSExpires lets a certificate, and then the CA that signed it, run out
// while the connection lives.
func TestMTLSExpires(t *testing.T) {
	soon := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	for _, caUntil := range []time.Time{soon, soon.Add(time.Hour)} {
		ca := newAuthority(t, "root", caUntil)
		cert := ca.client(t, func(c *x509.Certificate) {
			c.Subject.CommonName = "api"
			c.NotAfter = soon.Add(soon.Sub(caUntil) + time.Hour) // the other of the two is the one that runs out
		})
		ends := soon
		a := newCertificates(t, MTLSConfig{})
		r := requestOf(t, "/")
		r.TLS = newTLSDoor(t, ca, tls.RequireAndVerifyClientCert).connect(t, ca, nil, cert)
		f := func(at time.Time, want Outcome) {
			t.Helper()
			r.Now = at
			if res := a.Verify(r); res.Outcome != want {
				t.Errorf("at %v: expected %d, got %+v", at, want, res)
			}
			if res := a.Recall(r); res.Outcome != want {
				t.Errorf("at %v: expected %d, got %+v", at, want, res)
			}
		}
		f(time.Now(), Identified)
		f(ends, Identified)
		f(ends.Add(time.Second), Refused)
		f(time.Now().Add(-2*time.Hour), Refused)
	}
}

// A resumed session shows no certificate anew: what the door knows is from the
// first handshake, and is held to its time.
func TestMTLSResumes(t *testing.T) {
	ca := newAuthority(t, "root", time.Now().Add(24*time.Hour))
	door := newTLSDoor(t, ca, tls.RequireAndVerifyClientCert)
	cert := ca.client(t, func(c *x509.Certificate) { c.Subject.CommonName = "api" })
	cache := tls.NewLRUClientSessionCache(4)
	a := newCertificates(t, MTLSConfig{Subject: []string{"api"}})
	for i, resumed := range []bool{false, true} {
		r := requestOf(t, "/")
		if r.TLS = door.connect(t, ca, cache, cert); r.TLS.DidResume != resumed {
			t.Fatalf("connection %d: resumed is %v", i, r.TLS.DidResume)
		}
		if res := a.Verify(r); res.Outcome != Identified {
			t.Errorf("got %+v", res)
		}
		r.Now = cert.Leaf.NotAfter.Add(time.Second)
		if res := a.Recall(r); res.Outcome != Refused {
			t.Errorf("got %+v", res)
		}
	}
}

// Certificates that try to be more than they are.
func TestMTLSNames(t *testing.T) {
	ca := newAuthority(t, "root", time.Now().Add(24*time.Hour))
	f := func(c MTLSConfig, want Outcome, sub string, edit func(*x509.Certificate)) {
		t.Helper()
		cert := ca.client(t, edit)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		r := requestOf(t, "/")
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, ca.cert}}}
		res := newCertificates(t, c).Verify(r)
		if res.Outcome != want || want == Identified && res.Identity.Subject != sub {
			t.Errorf("expected %d and %q, got %+v %+v", want, sub, res, res.Identity)
		}
	}
	spiffe := MTLSConfig{SPIFFE: []string{"spiffe://td/**"}}
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, s := range list {
				c.URIs = append(c.URIs, uri(s))
			}
			c.Subject.CommonName = "cn"
		}
	}
	f(spiffe, Identified, "spiffe://td/a", uris("spiffe://td/a"))
	f(spiffe, Identified, "spiffe://td/a/B_c.d-e", uris("spiffe://td/a/B_c.d-e"))
	f(spiffe, Refused, "", uris("spiffe://td/a", "spiffe://td/b"))
	f(spiffe, Refused, "", uris("spiffe://td/a", "https://td/a"))
	f(spiffe, Refused, "", uris("https://td/a"))
	f(spiffe, Refused, "", uris("spiffe://td/a/"))
	f(spiffe, Refused, "", uris("spiffe://td//a"))
	f(spiffe, Refused, "", uris("spiffe://td/a/../b"))
	f(spiffe, Refused, "", uris("spiffe://td/%61"))
	f(spiffe, Refused, "", uris("spiffe://td/a?b"))
	f(spiffe, Refused, "", uris("spiffe://td/a#b"))
	f(spiffe, Refused, "", uris("spiffe://u@td/a"))
	f(spiffe, Refused, "", uris("spiffe://td:443/a"))
	f(spiffe, Refused, "", uris("spiffe://TD/a"))
	f(spiffe, Refused, "", uris("spiffe://td"))
	f(spiffe, Refused, "", uris("spiffe://td/"+strings.Repeat("a", mostSPIFFE)))
	f(spiffe, Refused, "", func(c *x509.Certificate) { uris("spiffe://td/a")(c); c.IsCA, c.BasicConstraintsValid = true, true })
	f(spiffe, Refused, "", func(c *x509.Certificate) { uris("spiffe://td/a")(c); c.KeyUsage |= x509.KeyUsageCertSign })
	f(MTLSConfig{}, Identified, "cn", uris("spiffe://td/a", "spiffe://td/b"))
	f(MTLSConfig{}, Identified, "CN=spiffe://td/a", func(c *x509.Certificate) { c.Subject.CommonName = "spiffe://td/a" })
	f(MTLSConfig{}, Identified, "CN=a+CN=b", func(c *x509.Certificate) {
		cn := func(s string) pkix.AttributeTypeAndValue {
			return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: s}
		}
		raw, err := asn1.Marshal(pkix.RDNSequence{{cn("a"), cn("b")}})
		if err != nil {
			t.Fatal(err)
		}
		c.RawSubject = raw
	})
	f(MTLSConfig{Subject: []string{"CN=admin,O=Acme"}}, Refused, "", func(c *x509.Certificate) { c.Subject.CommonName = "admin,O=Acme" })
	f(MTLSConfig{Subject: []string{"admin"}}, Refused, "", func(c *x509.Certificate) { c.Subject.CommonName = "admin\x00.x" })
	f(MTLSConfig{DNS: []string{"*.example.com"}}, Refused, "", func(c *x509.Certificate) { c.DNSNames = []string{"a.b.example.com", "example.com"} })
	f(MTLSConfig{Email: []string{"*@example.com"}}, Refused, "", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@evil.com", "b@example.com.evil.com"} })
	f(MTLSConfig{URI: []string{"https://id.example.com/*/a"}}, Identified, ",", func(c *x509.Certificate) {
		c.URIs, c.Subject = []*url.URL{uri("https://id.example.com/b/a")}, pkix.Name{CommonName: ","}
	})
	f(MTLSConfig{URI: []string{"https://id.example.com/*/a"}}, Refused, "", func(c *x509.Certificate) { c.URIs = []*url.URL{uri("https://id.example.com/b/c/a")} })
}

func TestMTLSConfigMistakes(t *testing.T) {
	f := func(c MTLSConfig, want string) {
		t.Helper()
		p := &setting.Problems{}
		c.Validate(p)
		if list := p.List(); len(list) != 1 || !strings.HasPrefix(list[0].Path+": "+list[0].Expected, want) {
			t.Errorf("expected %q, got %v", want, list)
		}
		if _, err := newMTLS("n", &c, Env{}); err == nil {
			t.Error("made in spite of it")
		}
	}
	one := func(s string) []string { return []string{s} }
	f(MTLSConfig{DNS: []string{}}, "dns: expected at least one pattern")
	f(MTLSConfig{Subject: one("")}, "subject[0]: expected a pattern of subject: it is empty")
	f(MTLSConfig{Subject: one("CN=")}, "subject[0]: expected a pattern of subject: an attribute has no value")
	f(MTLSConfig{Subject: one("CN=a,b")}, "subject[0]: expected a pattern of subject: an attribute is TYPE=value")
	f(MTLSConfig{Subject: one("CN=a,")}, "subject[0]: expected a pattern of subject: an attribute is TYPE=value")
	f(MTLSConfig{Subject: one(`CN=a\`)}, "subject[0]: expected a pattern of subject: it ends in a backslash")
	f(MTLSConfig{Subject: one(`CN=\*`)}, "subject[0]: expected a pattern of subject: a star cannot be escaped")
	f(MTLSConfig{Subject: one(`CN=\2a`)}, "subject[0]: expected a pattern of subject: a star cannot be escaped")
	f(MTLSConfig{Subject: one("CN=a+CN=b")}, "subject[0]: expected a pattern of subject: CN stands twice")
	f(MTLSConfig{DNS: one("a*.example.com")}, "dns[0]: expected a pattern of dns: a star can only be")
	f(MTLSConfig{DNS: one("*.com")}, "dns[0]: expected a pattern of dns: a star can only be")
	f(MTLSConfig{DNS: one("*")}, "dns[0]: expected a pattern of dns: a star can only be")
	f(MTLSConfig{URI: one("example.com")}, "uri[0]: expected a pattern of uri: a URI begins")
	f(MTLSConfig{URI: one("https://a/**/b")}, "uri[0]: expected a pattern of uri: ** can only be the last segment")
	f(MTLSConfig{URI: one("spiffe://a/b")}, "uri[0]: expected a pattern of uri: SPIFFE ids are matched by spiffe")
	f(MTLSConfig{SPIFFE: one("spiffe://*/a")}, "spiffe[0]: expected a pattern of spiffe: it begins with spiffe://")
	f(MTLSConfig{SPIFFE: one("https://a/b")}, "spiffe[0]: expected a pattern of spiffe: it begins with spiffe://")
	f(MTLSConfig{SPIFFE: one("spiffe://a/b/")}, "spiffe[0]: expected a pattern of spiffe: a segment is of")
	f(MTLSConfig{SPIFFE: one("spiffe://a/**/b")}, "spiffe[0]: expected a pattern of spiffe: a segment is of")
	f(MTLSConfig{Email: one("example.com")}, "email[0]: expected a pattern of email: it is NAME@HOST")
	f(MTLSConfig{Email: one("a@*.com")}, "email[0]: expected a pattern of email: it is NAME@HOST")
	f(MTLSConfig{Fingerprint: one("ab:cd")}, "fingerprint[0]: expected a pattern of fingerprint: it is the SHA-256")
	f(MTLSConfig{Issuer: []string{"a", "=b"}}, "issuer[1]: expected a pattern of issuer: an attribute is TYPE=value")
}

func TestGlob(t *testing.T) {
	f := func(pattern, s string, want bool) {
		t.Helper()
		if glob(pattern, s) != want {
			t.Errorf("glob(%q, %q) is not %v", pattern, s, want)
		}
	}
	f("", "", true)
	f("a", "a", true)
	f("a", "b", false)
	f("*", "", false)
	f("*", "a", true)
	f("*", "*", true)
	f("a*", "a", false)
	f("a*", "ab", true)
	f("*a", "a", false)
	f("*a", "aa", true)
	f("a*a", "aa", false)
	f("a*a", "aba", true)
	f("a*b*c", "axbxc", true)
	f("a*b*c", "abxc", false)
	f("a*b*c", "abbbc", true)
	f("a*b*c", "abbc", false) // nothing is left for the second star
	f("**", "a", false)
	f("**", "ab", true)
}

func FuzzDN(f *testing.F) {
	f.Add(`CN=a\, b\2C+UID=x, OU=\ y\ ,1.2.3=z`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDN(text)
		if err != nil || strings.Contains(text, "*") {
			return
		}
		again, err := parseDN(d.String())
		if err != nil {
			t.Fatalf("%q: %q cannot be read: %v", text, d.String(), err)
		}
		if !reflect.DeepEqual(d, again) {
			t.Errorf("%q: %v became %v by %q", text, d, again, d.String())
		}
		if !d.matches(again) {
			t.Errorf("%q does not match itself", text)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b*c", "axbxc")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 12 || len(s) > 24 {
			return
		}
		if got, want := glob(pattern, s), slowGlob(pattern, s); got != want {
			t.Errorf("glob(%q, %q) = %v", pattern, s, got)
		}
	})
}

// slowGlob tries everything.
func slowGlob(pattern, s string) bool {
	if pattern == "" {
		return s == ""
	}
	if pattern[0] != '*' {
		return s != "" && s[0] == pattern[0] && slowGlob(pattern[1:], s[1:])
	}
	for i := 1; i <= len(s); i++ {
		if slowGlob(pattern[1:], s[i:]) {
			return true
		}
	}
	return false
}
