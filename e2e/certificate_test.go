package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// newCertificate writes a certificate of its own making for 127.0.0.1.
func newCertificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	secret := given[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der := given[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret))
	pkcs8 := given[[]byte](t)(x509.MarshalPKCS8PrivateKey(secret))
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "edge.crt"), filepath.Join(dir, "edge.key")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

// TestCertificateReload puts a new certificate in the place of the one in use
// while clients are at work: new connections get the new one, and no request
// notices.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	cert, key := newCertificate(t, "old")
	newCert, newKey := newCertificate(t, "new")
	g, _ := serveFile(t, `
listen: [{ address: "127.0.0.1:0", tls: { cert: `+cert+`, key: `+key+` } }]
admin: { address: "127.0.0.1:0" }
log: { access: { enabled: false } }
upstreams: { a: "`+b.URL+`" }
routes: [{ name: all, upstream: a }]
`)
	// Who is spoken to is what this test looks at, not what it trusts.
	d := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	name := func() string {
		c, err := d.DialContext(bounded(t), "tcp", g.Doors[0])
		must(t, err)
		defer func() { _ = c.Close() }()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "old" {
		t.Fatalf("expected the old certificate, got %q", got)
	}
	running := load(t, rig.Load{Clients: 4, Reconnect: 2, Bodies: true, Dial: func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", g.Doors[0])
	}})
	busy(t, running, 50)
	must(t, os.Rename(newCert, cert))
	must(t, os.Rename(newKey, key))
	must(t, rig.Poll(bounded(t), "the new certificate is shown", func() bool { return name() == "new" }))
	busy(t, running, 50)
	wantClean(t, running)
}
