package listen

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/setting"
	"sluice/wire"
)

func tlsDoor(c config.TLS) config.Listener {
	return config.Listener{Address: "127.0.0.1:0", TLS: &c}
}

func TestSNI(t *testing.T) {
	a := newAuthority(t)
	first, nFirst := a.files("first", "first.example")
	exact, nExact := a.files("exact", "www.example.com", "Upper.Example.com")
	wild, nWild := a.files("wild", "*.example.com")
	d := opened(t, tlsDoor(config.TLS{Cert: first.Cert, Key: first.Key, Certificates: []config.Certificate{wild, exact}}))
	f := func(name string, want int64) {
		t.Helper()
		if got := a.serial(d.Addrs()[0], name); got != want {
			t.Errorf("%q: certificate %d, want %d", name, got, want)
		}
	}
	f("first.example", nFirst)
	f("www.example.com", nExact)
	f("WWW.EXAMPLE.COM", nExact)
	f("upper.example.com", nExact)
	f("other.example.com", nWild)
	f("a.b.example.com", nFirst)
	f("example.com", nFirst)
	f("elsewhere.org", nFirst)
	f("", nFirst)
}

func TestTLSServes(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.files("a", "a.example")
	l := tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key})
	behind := tlsDoor(*l.TLS)
	behind.ProxyProtocol = &config.ProxyProtocol{Trusted: []string{"127.0.0.1"}, Required: true, Timeout: setting.Duration(patience)}
	d := opened(t, l, behind)

	c, err := shake(d.Addrs()[0], &tls.Config{ServerName: "a.example", RootCAs: a.pool, NextProtos: []string{"h2", "http/1.1"}})
	must(t, err)
	newClient(t, c).mustServe()
	if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("ALPN chose %q", p)
	}

	// The header and the ClientHello in one write, so that the door reads both.
	raw := dial(t, d.Addrs()[1])
	joined := &joining{Conn: raw.Conn, first: "PROXY TCP4 192.0.2.5 192.0.2.1 4444 80\r\n"}
	tc := newClient(t, tls.Client(joined, &tls.Config{ServerName: "a.example", RootCAs: a.pool}))
	if remote, peer, _, _ := tc.ask("x"); remote != "192.0.2.5:4444" || peer != raw.LocalAddr().String() {
		t.Errorf("remote %q, peer %q", remote, peer)
	}
}

// joining puts first before what is written first.
type joining struct {
	net.Conn
	first string
}

func (j *joining) Write(p []byte) (int, error) {
	n := len(j.first)
	if n == 0 {
		return j.Conn.Write(p)
	}
	m, err := j.Conn.Write(append([]byte(j.first), p...))
	j.first = ""
	return max(0, m-n), err
}

func TestMinVersion(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.files("a", "a.example")
	d := opened(t, tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key}), tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key, MinVersion: "1.3"}))
	f := func(door int, version uint16, ok bool) {
		t.Helper()
		c, err := shake(d.Addrs()[door], &tls.Config{ServerName: "a.example", RootCAs: a.pool, MinVersion: tls.VersionTLS10, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("door %d, version %x: %v", door, version, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	f(0, tls.VersionTLS11, false)
	f(0, tls.VersionTLS12, true)
	f(0, tls.VersionTLS13, true)
	f(1, tls.VersionTLS12, false)
	f(1, tls.VersionTLS13, true)
	eventually(t, func() bool { s := d.Stats(); return s.Doors[0].HandshakeErrors == 1 && s.Doors[1].HandshakeErrors == 1 })
}

func TestClientCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	cert, _ := a.files("a", "a.example")
	door := func(auth string) config.Listener {
		return tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key, ClientCA: a.caFile(), ClientAuth: auth})
	}
	d := opened(t, door("none"), door("request"), door("require"))
	none, good, bad := []tls.Certificate(nil), []tls.Certificate{a.pair()}, []tls.Certificate{stranger.pair()}
	f := func(door int, certs []tls.Certificate, ok bool) {
		t.Helper()
		conf := &tls.Config{ServerName: "a.example", RootCAs: a.pool}
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certs == nil {
				return new(tls.Certificate), nil
			}
			return &certs[0], nil
		}
		c, err := shake(d.Addrs()[door], conf)
		if err == nil {
			// In TLS 1.3 the verdict comes after the client's handshake.
			must(t, c.SetDeadline(time.Now().Add(patience)))
			defer func() { _ = c.Close() }()
			if _, err = io.WriteString(c, "x\n"); err == nil {
				_, err = c.Read(make([]byte, 1))
			}
		}
		if (err == nil) != ok {
			t.Errorf("door %d: %v", door, err)
		}
	}
	f(0, none, true)
	f(0, bad, true) // not asked for, not sent
	f(1, none, true)
	f(1, good, true)
	f(1, bad, false)
	f(2, none, false)
	f(2, good, true)
	f(2, bad, false)
}

func TestSilentHandshake(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.files("a", "a.example")
	s := server()
	s.HeaderTimeout = setting.Duration(20 * time.Millisecond)
	d := openedWith(t, s, tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key}))
	for _, start := range []string{"", "\x16\x03\x01\x02\x00"} {
		c := dial(t, d.Addrs()[0])
		c.send(start)
		if got := c.untilClosed(); got != "" {
			t.Errorf("after %q: got %q", start, got)
		}
	}
	eventually(t, func() bool { return d.Stats().Doors[0].HandshakeErrors == 2 })
}

func TestPlainOnTLS(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.files("a", "a.example")
	d := opened(t, tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key}))
	c := dial(t, d.Addrs()[0])
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := c.untilClosed(); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("got %q", got)
	}
	c = dial(t, d.Addrs()[0])
	c.send("\x00\x01\x02\x03\x04\x05\x06")
	if got := c.untilClosed(); strings.Contains(got, "HTTP") {
		t.Errorf("got %q", got)
	}
}

func TestBadCertificates(t *testing.T) {
	a := newAuthority(t)
	good, _ := a.files("good", "a.example")
	other, _ := a.files("other", "a.example")
	missing := filepath.Join(a.dir, "missing")
	junk := filepath.Join(a.dir, "junk")
	must(t, os.WriteFile(junk, []byte("junk"), 0o600))
	torn := filepath.Join(a.dir, "torn")
	must(t, os.WriteFile(torn, encode("CERTIFICATE", []byte("junk")), 0o600))
	f := func(c config.TLS, want string) {
		t.Helper()
		l := []config.Listener{{Address: "127.0.0.1:0"}, tlsDoor(c)}
		d := New(Options{HTTP1: echo{}, Log: zerolog.Nop()})
		defer d.Close()
		want = strings.ReplaceAll(want, "DIR/", a.dir+"/")
		for _, err := range []error{d.Apply(l, server()), Check(l)} {
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
	}
	f(config.TLS{}, `listen[1].tls.cert: expected a file with a certificate (PEM)`)
	f(config.TLS{Cert: good.Cert}, `listen[1].tls.key: "": expected a file (PEM)`)
	f(config.TLS{Cert: missing, Key: good.Key}, `listen[1].tls.cert: "DIR/missing": no such file or directory`)
	f(config.TLS{Cert: good.Cert, Key: missing}, `listen[1].tls.key: "DIR/missing": no such file or directory`)
	f(config.TLS{Cert: a.dir, Key: good.Key}, `listen[1].tls.cert: "`+a.dir+`": not a regular file`)
	f(config.TLS{Cert: junk, Key: good.Key}, `listen[1].tls.cert: "DIR/junk": no certificate in it (PEM expected)`)
	f(config.TLS{Cert: torn, Key: good.Key}, `listen[1].tls.cert: "DIR/torn": malformed certificate`)
	f(config.TLS{Cert: good.Cert, Key: junk}, `listen[1].tls.key: "DIR/junk": with the certificate "DIR/good.crt": failed to find any PEM data in key input`)
	f(config.TLS{Cert: good.Cert, Key: other.Key}, `listen[1].tls.key: "DIR/other.key": with the certificate "DIR/good.crt": private key does not match public key`)
	f(config.TLS{Cert: good.Cert, Key: good.Key, Certificates: []config.Certificate{other, {Cert: missing, Key: other.Key}}},
		`listen[1].tls.certificates[1].cert: "DIR/missing": no such file or directory`)
	f(config.TLS{Cert: good.Cert, Key: good.Key, ClientCA: junk}, `listen[1].tls.client_ca: "DIR/junk": no certificate in it (PEM expected)`)
	f(config.TLS{Cert: good.Cert, Key: good.Key, ClientAuth: "require"},
		`listen[1].tls.client_ca: expected a file with the CAs of client certificates (PEM), for client_auth is require`)
	f(config.TLS{Cert: missing, Key: good.Key, ClientCA: missing},
		`listen[1].tls.cert: "DIR/missing": no such file or directory`+"\n"+`listen[1].tls.client_ca: "DIR/missing": no such file or directory`)
	must(t, Check([]config.Listener{tlsDoor(config.TLS{Cert: good.Cert, Key: good.Key})}))
}

// TestTLSChangesKeepSocket: new TLS settings, TLS put on and taken off.
func TestTLSChangesKeepSocket(t *testing.T) {
	a := newAuthority(t)
	one, n1 := a.files("one", "a.example")
	two, n2 := a.files("two", "a.example")
	l := config.Listener{Address: "127.0.0.1:0"}
	d := opened(t, l)
	addr := d.Addrs()[0]
	plain := dial(t, addr)
	plain.mustServe()
	apply := func(c *config.TLS) {
		t.Helper()
		l.TLS = c
		must(t, d.Apply([]config.Listener{l}, server()))
		if got := d.Addrs()[0].String(); got != addr.String() {
			t.Fatalf("the door moved to %s", got)
		}
	}
	apply(&config.TLS{Cert: one.Cert, Key: one.Key})
	if got := a.serial(addr, "a.example"); got != n1 {
		t.Errorf("certificate %d, want %d", got, n1)
	}
	sessions := tls.NewLRUClientSessionCache(4)
	conf := &tls.Config{ServerName: "a.example", RootCAs: a.pool, ClientSessionCache: sessions}
	visit := func() (resumed bool) {
		t.Helper()
		c, err := shake(addr, conf)
		must(t, err)
		newClient(t, c).mustServe() // reads the tickets too
		return c.ConnectionState().DidResume
	}
	visit()
	apply(&config.TLS{Cert: one.Cert, Key: one.Key})
	if !visit() {
		t.Error("an unchanged door forgot its sessions")
	}
	apply(&config.TLS{Cert: two.Cert, Key: two.Key})
	if visit() {
		t.Error("a changed door resumed a session of before")
	}
	if got := a.serial(addr, "a.example"); got != n2 {
		t.Errorf("certificate %d, want %d", got, n2)
	}
	apply(nil)
	dial(t, addr).mustServe()
	plain.mustServe()
}

// TestFarewell: a connection that the engine leaves ends with TLS's own end,
// not with a torn stream.
func TestFarewell(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.files("a", "a.example")
	d := New(Options{HTTP1: engineFunc(func(*wire.Conn) error { return nil }), Log: zerolog.Nop()})
	t.Cleanup(func() { ended(t, d) })
	must(t, d.Apply([]config.Listener{tlsDoor(config.TLS{Cert: cert.Cert, Key: cert.Key})}, server()))
	c, err := shake(d.Addrs()[0], &tls.Config{ServerName: "a.example", RootCAs: a.pool})
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v, want EOF", err)
	}
}
