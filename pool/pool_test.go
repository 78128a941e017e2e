package pool_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/fault"
	"sluice/pool"
	"sluice/setting"
	"sluice/wire"
)

// waitLimit is how long a test waits for what must happen.
const waitLimit = 20 * time.Second

// server is a target: it answers every request with 200, and counts.
type server struct {
	t        testing.TB
	ln       net.Listener
	requests atomic.Int64
	accepted atomic.Int64
	closed   atomic.Int64
	mu       sync.Mutex
	conns    map[net.Conn]bool
	all      sync.WaitGroup
}

func newServer(t testing.TB, conf *tls.Config) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, conf)
}

func serveOn(t testing.TB, ln net.Listener, conf *tls.Config) *server {
	s := &server{t: t, ln: ln, conns: map[net.Conn]bool{}}
	s.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.all.Go(func() {
				defer s.closed.Add(1)
				defer func() { _ = c.Close() }()
				var rw net.Conn = c
				if conf != nil {
					rw = tls.Server(c, conf)
				}
				in := bufio.NewReader(rw)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if line == "\r\n" {
						s.requests.Add(1)
						if _, err := io.WriteString(rw, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
							return
						}
					}
				}
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string { return "http://" + s.ln.Addr().String() }

// drop closes every connection that there is.
func (s *server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
		delete(s.conns, c)
	}
}

func (s *server) stop() {
	_ = s.ln.Close()
	s.drop()
	s.all.Wait()
}

// testPool is a pool over one upstream, "main".
type testPool struct {
	t     testing.TB
	watch *wire.Watch
	set   *pool.Set
}

func seconds(n int) setting.Duration { return setting.Duration(time.Duration(n) * time.Second) }

// settings are those that config gives, with room for edits.
func settings(urls ...string) pool.Config {
	c := pool.Config{
		Balance:     "round_robin",
		Host:        "preserve",
		Connections: pool.ConnectionsConfig{Max: 4, MaxIdle: 4, Idle: seconds(60), Queue: 10, QueueTimeout: seconds(10)},
		Timeouts:    pool.TimeoutsConfig{Connect: seconds(5), Response: seconds(10), Idle: seconds(10), Tunnel: seconds(10)},
		Resolve:     seconds(30),
		FailTimeout: seconds(1),
	}
	for _, u := range urls {
		c.Targets = append(c.Targets, pool.TargetConfig{URL: u, Weight: 1})
	}
	return c
}

func build(t testing.TB, c pool.Config) *testPool {
	t.Helper()
	before := goleak.IgnoreCurrent()
	p := &testPool{t: t, watch: wire.NewWatch(5 * time.Millisecond)}
	set, err := pool.Build(map[string]pool.Config{"main": c}, nil, p.watch)
	if err != nil {
		t.Fatal(err)
	}
	p.set = set
	set.Start(nil)
	t.Cleanup(func() {
		p.set.Retire(nil)
		p.watch.Stop()
		goleak.VerifyNone(t, before)
	})
	return p
}

// rebuild puts c in use in the place of what is.
func (p *testPool) rebuild(c pool.Config) {
	p.t.Helper()
	next, err := pool.Build(map[string]pool.Config{"main": c}, p.set, p.watch)
	if err != nil {
		p.t.Fatal(err)
	}
	old := p.set
	p.set = next
	next.Start(old)
	old.Retire(next)
}

func (p *testPool) upstream() *pool.Upstream { return p.set.Upstream("main") }

// get takes a connection of the first target.
func (p *testPool) get() (*pool.Conn, fault.Kind) {
	now := wire.Nanotime()
	return p.upstream().Targets()[0].Get(0, false, now, now+int64(waitLimit))
}

func (p *testPool) mustGet() *pool.Conn {
	p.t.Helper()
	c, f := p.get()
	if f != fault.None {
		p.t.Fatalf("no connection: %s, %s", f, p.upstream().Targets()[0].State().Error)
	}
	return c
}

var getRequest = []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")

// use sends one request on c.
func use(t testing.TB, c *pool.Conn) pool.Outcome {
	c.Buf = make([]byte, 4096)
	var res wire.Response
	c.Arm(wire.Nanotime() + int64(waitLimit))
	return c.Send(getRequest, &res, false)
}

func mustUse(t testing.TB, c *pool.Conn) {
	t.Helper()
	if o := use(t, c); o.Fault != fault.None {
		t.Fatalf("request: %s, %v", o.Fault, o.Err)
	}
}

func release(t testing.TB, c *pool.Conn) {
	t.Helper()
	if !c.Disarm() {
		t.Fatal("the deadline passed")
	}
	c.Release(0, wire.Nanotime())
}

func (p *testPool) until(what string, f func() bool) {
	p.t.Helper()
	for end := time.Now().Add(waitLimit); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s: still not so", what)
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	s := newServer(t, nil)
	p := build(t, settings(s.url()))
	for range 10 {
		c := p.mustGet()
		mustUse(t, c)
		release(t, c)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	// Last in, first out.
	a, b := p.mustGet(), p.mustGet()
	mustUse(t, a)
	mustUse(t, b)
	release(t, a)
	release(t, b)
	if c := p.mustGet(); c != b {
		t.Error("not the connection that came back last")
	} else {
		release(t, c)
	}
}

func TestBoundOfConnections(t *testing.T) {
	s := newServer(t, nil)
	cfg := settings(s.url())
	cfg.Connections.Max, cfg.Connections.Queue = 3, 2
	p := build(t, cfg)
	var held []*pool.Conn
	for range 3 {
		held = append(held, p.mustGet())
	}
	target := p.upstream().Targets()[0]
	got := make([]chan *pool.Conn, 2)
	for i := range got {
		got[i] = make(chan *pool.Conn, 1)
		go func() {
			c, f := p.get()
			if f != fault.None {
				t.Errorf("waiter %d: %s", i, f)
			}
			got[i] <- c
		}()
		// They stand in line in the order in which they came.
		p.until("the waiter stands in line", func() bool { return target.State().Waiting == int64(i+1) })
	}
	if _, f := p.get(); f != fault.QueueFull {
		t.Errorf("the third waiter: %s", f)
	}
	release(t, held[0])
	if c := <-got[0]; c != held[0] {
		t.Error("the first waiter got another connection")
	}
	// A connection that is closed gives its place to the next, who dials.
	_ = held[1].Close()
	c := <-got[1]
	if c == nil || c == held[0] || c.Reused {
		t.Error("the second waiter did not dial")
	}
	if state := target.State(); state.Open != 3 || state.Waiting != 0 {
		t.Errorf("%+v", state)
	}
	release(t, held[0])
	release(t, held[2])
	release(t, c)
}

func TestQueueTimeout(t *testing.T) {
	s := newServer(t, nil)
	cfg := settings(s.url())
	cfg.Connections.Max = 1
	cfg.Connections.QueueTimeout = setting.Duration(30 * time.Millisecond)
	p := build(t, cfg)
	c := p.mustGet()
	if _, f := p.get(); f != fault.QueueTimeout {
		t.Errorf("got %s", f)
	}
	now := wire.Nanotime()
	if _, f := p.upstream().Targets()[0].Get(0, false, now, now+int64(time.Millisecond)); f != fault.QueueTimeout {
		t.Errorf("a request that may wait for less: %s", f)
	}
	if n := p.upstream().Targets()[0].Counters.QueueTimeouts.Load(); n != 2 {
		t.Errorf("%d counted", n)
	}
	if state := p.upstream().Targets()[0].State(); state.Waiting != 0 || state.Down {
		t.Errorf("%+v", state)
	}
	release(t, c)
	release(t, p.mustGet())
}

// TestCrowd has many more requests than connections, which come, go, fail and
// time out: no request is lost, no bound is passed.
func TestCrowd(t *testing.T) {
	s := newServer(t, nil)
	cfg := settings(s.url())
	cfg.Connections.Max, cfg.Connections.MaxIdle, cfg.Connections.Queue = 4, 2, 1000
	p := build(t, cfg)
	target := p.upstream().Targets()[0]
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	var inUse, most atomic.Int64
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for i := range rounds {
				now := wire.Nanotime()
				c, f := target.Get(uint32(worker), i%50 == 49, now, now+int64(waitLimit))
				if f != fault.None {
					t.Errorf("worker %d: %s", worker, f)
					return
				}
				if n := inUse.Add(1); n > most.Load() {
					most.Store(n)
				}
				if o := use(t, c); o.Fault != fault.None {
					t.Errorf("worker %d: %s %v", worker, o.Fault, o.Err)
				}
				inUse.Add(-1)
				if (worker+i)%7 == 0 || !c.Disarm() {
					_ = c.Close()
					continue
				}
				c.Release(uint32(worker), wire.Nanotime())
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > 4 {
		t.Errorf("%d connections in use at once", n)
	}
	if state := target.State(); state.Open > 4 || state.Idle > 2 || state.Waiting != 0 || state.Open != int64(state.Idle) {
		t.Errorf("%+v", state)
	}
	if n := s.requests.Load(); n != int64(32*rounds) {
		t.Errorf("%d requests", n)
	}
}

func TestIdleBound(t *testing.T) {
	s := newServer(t, nil)
	for _, most := range []int{0, 1, 2, 3} {
		cfg := settings(s.url())
		cfg.Connections.MaxIdle = most
		p := build(t, cfg)
		var held []*pool.Conn
		for range 4 {
			held = append(held, p.mustGet())
		}
		for i, c := range held {
			mustUse(t, c)
			if !c.Disarm() {
				t.Fatal("the deadline passed")
			}
			c.Release(uint32(i), wire.Nanotime())
		}
		if n := p.upstream().Targets()[0].State().Idle; n > most || most > 0 && n == 0 {
			t.Errorf("max_idle %d: %d idle", most, n)
		}
	}
}

func TestIdleAndLifetime(t *testing.T) {
	s := newServer(t, nil)
	cfg := settings(s.url())
	cfg.Connections.Idle = setting.Duration(10 * time.Millisecond)
	p := build(t, cfg)
	c := p.mustGet()
	mustUse(t, c)
	release(t, c)
	p.until("the idle connection is closed", func() bool { return s.closed.Load() == 1 && p.upstream().Targets()[0].State().Open == 0 })

	cfg = settings(s.url())
	cfg.Connections.Lifetime = setting.Duration(time.Nanosecond)
	p = build(t, cfg)
	for range 3 {
		c := p.mustGet()
		if c.Reused {
			t.Error("a connection is used beyond its lifetime")
		}
		mustUse(t, c)
		release(t, c)
	}
	// Nor is it handed to a request that waits.
	cfg.Connections.Max = 1
	p = build(t, cfg)
	c = p.mustGet()
	mustUse(t, c)
	got := make(chan *pool.Conn, 1)
	go func() {
		c, _ := p.get()
		got <- c
	}()
	p.until("the waiter stands in line", func() bool { return p.upstream().Targets()[0].State().Waiting == 1 })
	release(t, c)
	if c := <-got; c == nil || c.Reused {
		t.Error("a connection is handed on beyond its lifetime")
	} else {
		release(t, c)
	}
}

// TestStale checks what a send says of a connection that the target closed
// while it lay idle: not a byte was sent.
func TestStale(t *testing.T) {
	for _, secure := range []bool{false, true} {
		var conf *tls.Config
		cfg := settings()
		if secure {
			ca := newAuthority(t)
			conf = &tls.Config{Certificates: []tls.Certificate{ca.issue("localhost")}}
			cfg.TLS.CA = ca.file()
		}
		s := newServer(t, conf)
		cfg.Targets = []pool.TargetConfig{{URL: s.url(), Weight: 1}}
		if secure {
			cfg.Targets[0].URL = "https://localhost:" + s.port()
		}
		p := build(t, cfg)
		c := p.mustGet()
		mustUse(t, c)
		release(t, c)
		s.drop()
		p.until("the connection is closed at the target", func() bool { return s.closed.Load() == 1 })
		c = p.mustGet()
		if !c.Reused {
			_ = c.Close() // the janitor was faster
			continue
		}
		o := use(t, c)
		if o.Fault != fault.TargetReset || !o.Unsent || !o.Silent {
			t.Errorf("secure %v: %+v", secure, o)
		}
		_ = c.Close()
		if n := s.requests.Load(); n != 1 {
			t.Errorf("%d requests at the target", n)
		}
	}
}

func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.ln.Addr().String())
	return port
}

func TestConnectFails(t *testing.T) {
	gone := newServer(t, nil)
	gone.stop()
	s := newServer(t, nil)
	cfg := settings(gone.url(), s.url())
	p := build(t, cfg)
	if _, f := p.get(); f != fault.ConnectFailed {
		t.Fatalf("got %s", f)
	}
	target := p.upstream().Targets()[0]
	if state := target.State(); !state.Down || state.Open != 0 || !strings.Contains(state.Error, "refused") {
		t.Errorf("%+v", state)
	}
	// It is passed over, but used when there is no other.
	for range 10 {
		var tried pool.Tried
		now := wire.Nanotime()
		if got := p.upstream().Pick(0, &tried, now); got == target && target.State().Down {
			t.Error("a target that is down is picked")
		}
		p.upstream().Pick(0, &tried, now)
		if got := p.upstream().Pick(0, &tried, now); got != nil {
			t.Errorf("a third target: %v", got.URL)
		}
	}
	only := build(t, settings(gone.url()))
	for range 3 {
		var tried pool.Tried
		if got := only.upstream().Pick(0, &tried, wire.Nanotime()); got == nil {
			t.Error("the only target is not picked")
		}
		_, _ = only.get()
	}
}

// TestOutOfTimeIsNotTheTargetsFault: a request that has no time left to connect
// says nothing of the target.
func TestOutOfTimeIsNotTheTargetsFault(t *testing.T) {
	s := newServer(t, nil)
	p := build(t, settings(s.url()))
	now := wire.Nanotime()
	if _, f := p.upstream().Targets()[0].Get(0, false, now, now-1); f == fault.None {
		t.Fatal("connected in no time")
	}
	if p.upstream().Targets()[0].State().Down {
		t.Error("the target is taken for down")
	}
}

func TestReload(t *testing.T) {
	s, other := newServer(t, nil), newServer(t, nil)
	cfg := settings(s.url())
	p := build(t, cfg)
	c := p.mustGet()
	mustUse(t, c)
	release(t, c)
	first := p.upstream().Targets()[0]
	// What says nothing about the connections keeps them.
	cfg.Targets = append(cfg.Targets, pool.TargetConfig{URL: other.url(), Weight: 3})
	cfg.Balance, cfg.Host = "random", "target"
	p.rebuild(cfg)
	if p.upstream().Targets()[0] != first {
		t.Error("another target after a reload that does not touch it")
	}
	if again := p.mustGet(); again != c {
		t.Error("another connection after a reload that does not touch it")
	} else {
		mustUse(t, c)
	}
	// In use while its target goes: it ends when it comes back.
	cfg.Connections.Max = 9
	p.rebuild(cfg)
	if p.upstream().Targets()[0] == first {
		t.Error("the same target after a change of its connections")
	}
	mustUse(t, c)
	release(t, c)
	p.until("the old connection is closed", func() bool { return s.closed.Load() == 1 })
	if state := first.State(); state.Open != 0 || state.Idle != 0 {
		t.Errorf("%+v", state)
	}
	// Idle while its target goes: it ends at once.
	c = p.mustGet()
	mustUse(t, c)
	release(t, c)
	cfg.Targets = cfg.Targets[1:]
	p.rebuild(cfg)
	p.until("the idle connection is closed", func() bool { return s.closed.Load() == 2 })
}

func TestReloadIsAllOrNothing(t *testing.T) {
	s := newServer(t, nil)
	p := build(t, settings(s.url()))
	c := p.mustGet()
	mustUse(t, c)
	release(t, c)
	bad := settings("https://localhost:1")
	bad.TLS.CA = filepath.Join(t.TempDir(), "none.pem")
	_, err := pool.Build(map[string]pool.Config{"main": settings(s.url()), "bad": bad}, p.set, p.watch)
	if err == nil || !strings.Contains(err.Error(), "upstreams.bad") || !strings.Contains(err.Error(), "tls.ca") {
		t.Errorf("got %v", err)
	}
	if again := p.mustGet(); again != c {
		t.Error("a reload that failed took the connection away")
	} else {
		release(t, again)
	}
}

// TestSameTargetTwice: a target that stands in an upstream twice is one.
func TestSameTargetTwice(t *testing.T) {
	s := newServer(t, nil)
	cfg := settings(s.url(), s.url())
	cfg.Connections.Max = 1
	p := build(t, cfg)
	a := p.mustGet()
	if state := p.upstream().Targets()[1].State(); state.Open != 1 {
		t.Errorf("%+v", state)
	}
	mustUse(t, a)
	release(t, a)
}

// authority makes certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, next: 1}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	return a
}

func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	a.next++
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.next), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// file writes the authority's certificate.
func (a *authority) file() string {
	a.t.Helper()
	return writePEM(a.t, "ca.pem", "CERTIFICATE", a.cert.Raw)
}

// pair writes a certificate and its key.
func (a *authority) pair(name string) (cert, key string) {
	c := a.issue(name)
	der, _ := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	return writePEM(a.t, name+".crt", "CERTIFICATE", c.Certificate[0]), writePEM(a.t, name+".key", "PRIVATE KEY", der)
}

func writePEM(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	names := make(chan string, 1)
	serverCert := ca.issue("backend.internal")
	conf := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		select {
		case names <- h.ServerName:
		default:
		}
		return &tls.Config{Certificates: []tls.Certificate{serverCert}}, nil
	}}
	s := newServer(t, conf)
	url := "https://localhost:" + s.port()
	f := func(name string, edit func(*pool.TLSConfig), want fault.Kind, sni string) {
		t.Helper()
		cfg := settings(url)
		edit(&cfg.TLS)
		p := build(t, cfg)
		for len(names) > 0 {
			<-names
		}
		c, got := p.get()
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if got == fault.None {
			mustUse(t, c)
			release(t, c)
		} else if c != nil || !p.upstream().Targets()[0].State().Down {
			t.Errorf("%s: a target without a good certificate is in use", name)
		}
		if n := <-names; n != sni {
			t.Errorf("%s: SNI %q, want %q", name, n, sni)
		}
	}
	f("own CA and name", func(c *pool.TLSConfig) { c.CA, c.ServerName = ca.file(), "backend.internal" }, fault.None, "backend.internal")
	f("another name", func(c *pool.TLSConfig) { c.CA = ca.file() }, fault.ConnectFailed, "localhost")
	f("another CA", func(c *pool.TLSConfig) { c.CA, c.ServerName = stranger.file(), "backend.internal" }, fault.ConnectFailed, "backend.internal")
	f("the system's CAs", func(c *pool.TLSConfig) { c.ServerName = "backend.internal" }, fault.ConnectFailed, "backend.internal")
	f("no verification", func(c *pool.TLSConfig) { c.InsecureSkipVerify = true }, fault.None, "localhost")
}

func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	s := newServer(t, &tls.Config{Certificates: []tls.Certificate{ca.issue("localhost")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	cfg := settings("https://localhost:" + s.port())
	cfg.TLS.CA = ca.file()
	p := build(t, cfg)
	// With TLS 1.3 the refusal comes after the handshake.
	if c, f := p.get(); f == fault.None {
		if o := use(t, c); o.Fault == fault.None {
			t.Error("served without a certificate")
		}
		_ = c.Close()
	}
	cfg.TLS.Cert, cfg.TLS.Key = ca.pair("gateway")
	p.rebuild(cfg)
	c := p.mustGet()
	mustUse(t, c)
	release(t, c)
	// The same files with a new certificate make new connections.
	first := p.upstream().Targets()[0]
	p.rebuild(cfg)
	if p.upstream().Targets()[0] != first {
		t.Error("a reload of the same certificate made another target")
	}
	renew(t, ca, cfg.TLS.Cert, cfg.TLS.Key)
	p.rebuild(cfg)
	if p.upstream().Targets()[0] == first {
		t.Error("a new certificate is not taken up")
	}
}

func renew(t testing.TB, ca *authority, cert, key string) {
	t.Helper()
	newCert, newKey := ca.pair("gateway")
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNamesAreResolvedAgain moves a name to another address while the pool
// runs: new requests go there, and idle connections to the old one end.
func TestNamesAreResolvedAgain(t *testing.T) {
	one := newServer(t, nil)
	// The same port on another address of this machine.
	ln, err := net.Listen("tcp", "127.0.0.2:"+one.port())
	if err != nil {
		t.Skip(err)
	}
	two := serveOn(t, ln, nil)
	var address atomic.Value
	address.Store(net.IPv4(127, 0, 0, 1).To4())
	resolveBy(t, func(string) net.IP { return address.Load().(net.IP) })

	cfg := settings("http://backend.test:" + one.port())
	cfg.Resolve = setting.Duration(5 * time.Millisecond)
	p := build(t, cfg)
	p.until("the name is resolved", func() bool { return len(p.upstream().Targets()[0].State().Addresses) == 1 })
	c := p.mustGet()
	mustUse(t, c)
	release(t, c)
	if one.requests.Load() != 1 || two.requests.Load() != 0 {
		t.Fatal("the first request went elsewhere")
	}
	address.Store(net.IPv4(127, 0, 0, 2).To4())
	p.until("the name is resolved again", func() bool {
		return fmt.Sprint(p.upstream().Targets()[0].State().Addresses) == "[127.0.0.2:"+one.port()+"]"
	})
	c = p.mustGet()
	mustUse(t, c)
	release(t, c)
	if two.requests.Load() != 1 {
		t.Error("the request went to the old address")
	}
	p.until("the old connection is closed", func() bool { return one.closed.Load() == 1 })
	// No answer keeps the last good addresses.
	address.Store(net.IP(nil))
	c = p.mustGet()
	mustUse(t, c)
	release(t, c)
}

// lookup, when a test has set it, says what the process's resolver is told of
// every name.
var (
	lookupMu sync.Mutex
	lookup   func(name string) net.IP
)

func resolveBy(t *testing.T, f func(name string) net.IP) {
	lookupMu.Lock()
	lookup = f
	lookupMu.Unlock()
	t.Cleanup(func() {
		lookupMu.Lock()
		lookup = nil
		lookupMu.Unlock()
	})
}

func init() {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		lookupMu.Lock()
		own := lookup != nil
		lookupMu.Unlock()
		if own {
			return net.Dial("udp", pc.LocalAddr().String())
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerName(buf[:n]); answer != nil {
				_, _ = pc.WriteTo(answer, from)
			}
		}
	}()
}

// answerName makes the answer to one DNS question (RFC 1035 4.1).
func answerName(q []byte) []byte {
	if len(q) < 17 {
		return nil
	}
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	if end+5 > len(q) {
		return nil
	}
	kind := int(q[end+1])<<8 | int(q[end+2])
	lookupMu.Lock()
	var ip net.IP
	if lookup != nil {
		ip = lookup(string(q[12:end]))
	}
	lookupMu.Unlock()
	if ip == nil {
		return nil // as if the server were not there
	}
	a := append([]byte(nil), q[:end+5]...)
	a[2], a[3] = 0x81, 0x80
	for i := 6; i < 12; i++ {
		a[i] = 0
	}
	if kind != 1 {
		return a
	}
	a[7] = 1
	return append(append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), ip...)
}
