package listen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/config"
	"sluice/setting"
	"sluice/wire"
)

func TestMain(m *testing.M) {
	// The worker pool of a closed door sweeps once more, at its next tick.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// patience is how long a test waits for what must happen. No test waits for it
// when all is well.
const patience = 20 * time.Second

// echo answers each line with "remote peer door line".
type echo struct{}

func (echo) ServeConn(c *wire.Conn) error {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "%s %s %s %s", word(c.Remote), word(c.Peer), c.Door, line); err != nil {
			return err
		}
	}
}

// word is an address without spaces.
func word(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// logged is a log that tests read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func server() config.Server {
	return config.Server{MaxConnections: 1000, HeaderTimeout: setting.Duration(patience)}
}

// opened returns doors on listeners that close with the test.
func opened(t *testing.T, listeners ...config.Listener) *Doors {
	t.Helper()
	return openedWith(t, server(), listeners...)
}

func openedWith(t *testing.T, s config.Server, listeners ...config.Listener) *Doors {
	t.Helper()
	d := New(Options{HTTP1: echo{}, Log: zerolog.Nop()})
	t.Cleanup(func() { ended(t, d) })
	must(t, d.Apply(listeners, s))
	return d
}

// ended closes d and waits until its last connection is gone.
func ended(t *testing.T, d *Doors) {
	t.Helper()
	d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.Wait(ctx); err != nil {
		t.Errorf("connections did not end: %v, %d open", err, d.open.Load())
	}
	for i := range d.perIP.shards {
		if n := len(d.perIP.shards[i].n); n != 0 {
			t.Errorf("shard %d still counts %d addresses", i, n)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// client is one connection of a test.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func newClient(t *testing.T, c net.Conn) *client {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = c.Close() })
	return &client{Conn: c, t: t, r: bufio.NewReader(c)}
}

func dial(t *testing.T, a net.Addr) *client {
	t.Helper()
	c, err := net.DialTimeout(a.Network(), a.String(), patience)
	must(t, err)
	return newClient(t, c)
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// ask sends a line and returns what the engine says of it.
func (c *client) ask(line string) (remote, peer, door, rest string) {
	c.t.Helper()
	c.send(line + "\n")
	answer, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("no answer to %q: %v", line, err)
	}
	f := strings.SplitN(strings.TrimSuffix(answer, "\n"), " ", 4)
	if len(f) != 4 {
		c.t.Fatalf("answer %q", answer)
	}
	return f[0], f[1], f[2], f[3]
}

// mustServe checks that the connection works.
func (c *client) mustServe() {
	c.t.Helper()
	if _, _, _, got := c.ask("hello"); got != "hello" {
		c.t.Fatalf("got %q", got)
	}
}

// untilClosed returns what comes until the other end closes.
func (c *client) untilClosed() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection stays open")
	}
	return string(b)
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), next: 1}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: t.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a
}

// issue returns a certificate for names as PEM, with its key and its number.
func (a *authority) issue(names ...string) (cert, key []byte, serial int64) {
	a.t.Helper()
	a.next++
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.next), DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &k.PublicKey, a.key)
	must(a.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8), a.next
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// files writes a new certificate for names to name.crt and name.key.
func (a *authority) files(name string, names ...string) (config.Certificate, int64) {
	a.t.Helper()
	cert, key, serial := a.issue(names...)
	f := config.Certificate{Cert: filepath.Join(a.dir, name+".crt"), Key: filepath.Join(a.dir, name+".key")}
	must(a.t, os.WriteFile(f.Cert, cert, 0o600))
	must(a.t, os.WriteFile(f.Key, key, 0o600))
	return f, serial
}

// caFile writes the authority's own certificate.
func (a *authority) caFile() string {
	file := filepath.Join(a.dir, "ca.crt")
	must(a.t, os.WriteFile(file, encode("CERTIFICATE", a.cert.Raw), 0o600))
	return file
}

// pair is a certificate for a client.
func (a *authority) pair() tls.Certificate {
	cert, key, _ := a.issue("client")
	p, err := tls.X509KeyPair(cert, key)
	must(a.t, err)
	return p
}

// shake opens a TLS connection.
func shake(a net.Addr, c *tls.Config) (*tls.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: c}
	conn, err := d.Dial(a.Network(), a.String())
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// serial returns the number of the certificate that name is shown.
func (a *authority) serial(addr net.Addr, name string) int64 {
	a.t.Helper()
	c, err := shake(addr, &tls.Config{ServerName: name, RootCAs: a.pool, InsecureSkipVerify: true})
	if err != nil {
		a.t.Fatalf("name %q: %v", name, err)
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
