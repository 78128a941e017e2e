package listen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/wire"
)

func TestDoorsServe(t *testing.T) {
	d := opened(t, config.Listener{Address: "127.0.0.1:0"}, config.Listener{Address: "[::1]:0"})
	for _, a := range d.Addrs() {
		c := dial(t, a)
		remote, peer, door, rest := c.ask("hello there")
		if own := c.LocalAddr().String(); remote != own || peer != own || rest != "hello there" {
			t.Errorf("got %q %q %q, expected the client's address %q twice", remote, peer, rest, own)
		}
		if !strings.HasSuffix(door, ":0") {
			t.Errorf("door %q, expected the address as configured", door)
		}
	}
}

func TestApplyKeepsChangesCloses(t *testing.T) {
	dir := t.TempDir()
	stays := config.Listener{Address: "127.0.0.1:0"}
	goes := config.Listener{Address: "unix:" + filepath.Join(dir, "a")}
	d := opened(t, stays, goes)
	before := d.Addrs()
	onStays, onGoes := dial(t, before[0]), dial(t, before[1])
	onStays.mustServe()
	onGoes.mustServe()

	stays.ProxyProtocol = &config.ProxyProtocol{Trusted: []string{"127.0.0.1"}, Required: true, Timeout: server().HeaderTimeout}
	comes := config.Listener{Address: "unix:" + filepath.Join(dir, "b")}
	must(t, d.Apply([]config.Listener{comes, stays}, server()))
	after := d.Addrs()
	if after[1].String() != before[0].String() {
		t.Errorf("the door moved from %v to %v", before[0], after[1])
	}
	if _, err := net.Dial("unix", before[1].String()); err == nil {
		t.Error("the door that went still opens")
	}
	if _, err := os.Lstat(before[1].String()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file of the door that went: %v", err)
	}
	onStays.mustServe()
	onGoes.mustServe()
	dial(t, after[0]).mustServe()
	c := dial(t, after[1])
	c.send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
	if remote, _, _, _ := c.ask("hello"); remote != "192.0.2.7:4711" {
		t.Errorf("remote %q: the new setting is not in force", remote)
	}
}

func TestApplyAllOrNothing(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = other.Close() }()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))

	d := opened(t, config.Listener{Address: "127.0.0.1:0"})
	addr := d.Addrs()[0]
	fresh := config.Listener{Address: "unix:" + filepath.Join(dir, "fresh")}
	f := func(l config.Listener, want string) {
		t.Helper()
		err := d.Apply([]config.Listener{fresh, l}, server())
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		dial(t, addr).mustServe()
		if _, err := os.Lstat(filepath.Join(dir, "fresh")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a door was left open: %v", err)
		}
	}
	at := func(address string) config.Listener { return config.Listener{Address: address} }
	f(at(other.Addr().String()), fmt.Sprintf(`listen[1].address: cannot open %q: address already in use`, other.Addr()))
	f(at("192.0.2.1:1"), `listen[1].address: cannot open "192.0.2.1:1": cannot assign requested address`)
	f(at("here"), `listen[1].address: cannot open "here": expected host:port, :port or unix:/path`)
	f(at("127.0.0.1:99999"), `listen[1].address: cannot open "127.0.0.1:99999": expected a port from 0 to 65535`)
	f(at("unix:"), `listen[1].address: cannot open "unix:": expected unix: and a path of 1 to 107 bytes`)
	f(at("unix:"+dir+"/file"), fmt.Sprintf(`listen[1].address: cannot open "unix:%s/file": the file exists and is not a socket`, dir))
	f(at("unix:"+dir+"/none/a"), fmt.Sprintf(`listen[1].address: cannot open "unix:%s/none/a": no such file or directory`, dir))
	f(at(fresh.Address), fmt.Sprintf(`listen[1].address: cannot open %q: address already in use`, fresh.Address))
	_, port, _ := net.SplitHostPort(addr.String())
	f(at(":"+port), fmt.Sprintf(`listen[1].address: cannot open ":%s": address already in use (by the door "127.0.0.1:0", which would go; change its port or restart)`, port))
	f(config.Listener{Address: "127.0.0.1:0", ProxyProtocol: &config.ProxyProtocol{Trusted: []string{"10.0.0.0/8", "10.0.0.0/33"}}},
		`listen[1].proxy_protocol.trusted[1]: expected an address or CIDR such as 10.0.0.0/8, got "10.0.0.0/33"`)
}

func TestUnixStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())

	d := opened(t, config.Listener{Address: "unix:" + path})
	dial(t, d.Addrs()[0]).mustServe()

	// Another process takes the path over; closing must leave it alone.
	must(t, os.Remove(path))
	other, err := net.Listen("unix", path)
	must(t, err)
	defer func() { _ = other.Close() }()
	d.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	}
}

func TestCloseLeavesConnections(t *testing.T) {
	d := opened(t, config.Listener{Address: "127.0.0.1:0"})
	addr := d.Addrs()[0]
	c := dial(t, addr)
	c.mustServe()
	d.Close()
	d.Close()
	if _, err := net.Dial("tcp", addr.String()); err == nil {
		t.Error("the door still opens")
	}
	c.mustServe()
	if err := d.Apply(nil, server()); err != errClosed {
		t.Errorf("Apply after Close: %v", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Wait(cancelled); err != context.Canceled {
		t.Errorf("Wait with an open connection: %v", err)
	}
}

// TestCloseTakesWhoIsConnected: a client whose connect succeeded is served,
// however soon the door closes after it.
func TestCloseTakesWhoIsConnected(t *testing.T) {
	d := opened(t, config.Listener{Address: "127.0.0.1:0"})
	var clients []*client
	for range 50 {
		clients = append(clients, dial(t, d.Addrs()[0]))
	}
	d.Close()
	for _, c := range clients {
		c.mustServe()
	}
}

// TestAcceptErrors: a door that cannot have a descriptor says so once, waits,
// and goes on.
func TestAcceptErrors(t *testing.T) {
	var log logged
	d := New(Options{HTTP1: echo{}, Log: zerolog.New(&log).Level(zerolog.InfoLevel)})
	t.Cleanup(func() { ended(t, d) })
	must(t, d.Apply([]config.Listener{{Address: "127.0.0.1:0"}}, server()))
	addr := d.Addrs()[0]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()

	failing := &failingSocket{socket: ln.(*net.TCPListener), left: 3}
	o := newDoor(d, "failing", failing)
	o.settings.Store(&settings{name: "failing"})
	d.mu.Lock()
	d.doors = append(d.doors, o)
	d.mu.Unlock()
	o.start()
	dial(t, ln.Addr()).mustServe()
	dial(t, addr).mustServe()
	if n := d.Stats().Doors[1].AcceptErrors; n != 3 {
		t.Errorf("%d accept errors, expected 3", n)
	}
	if got := log.String(); strings.Count(got, "cannot accept connections") != 1 || !strings.Contains(got, "too many open files") {
		t.Errorf("log: %s", got)
	}
}

// failingSocket fails as one does in a process without free descriptors.
type failingSocket struct {
	socket
	left int
}

func (s *failingSocket) Accept() (net.Conn, error) {
	if s.left > 0 {
		s.left--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errTooManyFiles)}
	}
	return s.socket.Accept()
}

func TestTotalLimit(t *testing.T) {
	s := server()
	s.MaxConnections = 2
	d := openedWith(t, s, config.Listener{Address: "127.0.0.1:0"}, config.Listener{Address: "127.0.0.1:0"})
	a, b := dial(t, d.Addrs()[0]), dial(t, d.Addrs()[1])
	a.mustServe()
	b.mustServe()
	if got := dial(t, d.Addrs()[1]).untilClosed(); got != "" {
		t.Errorf("got %q", got)
	}
	st := d.Stats()
	if st.Open != 2 || st.Doors[1].Refused[RefusedTotal] != 1 || st.Doors[1].Accepted != 2 {
		t.Errorf("stats %+v", st)
	}
	must(t, a.Close())
	eventually(t, func() bool { return d.Stats().Open == 1 })
	dial(t, d.Addrs()[0]).mustServe()
}

func TestPerIPLimit(t *testing.T) {
	s := server()
	s.MaxConnectionsPerIP = 1
	trusted := &config.ProxyProtocol{Trusted: []string{"127.0.0.0/8"}, Required: true, Timeout: s.HeaderTimeout}
	d := openedWith(t, s, config.Listener{Address: "127.0.0.1:0"}, config.Listener{Address: "127.0.0.1:0", ProxyProtocol: trusted})
	plain, behind := d.Addrs()[0], d.Addrs()[1]

	first := dial(t, plain)
	first.mustServe()
	second := dial(t, plain)
	second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") // unread bytes must not cost the client its answer
	got := second.untilClosed()
	for _, want := range []string{"HTTP/1.1 503 Service Unavailable\r\n", "\r\nRetry-After: 1\r\n", "\r\nConnection: close\r\n",
		"\r\nContent-Type: application/problem+json\r\n", `"type":"urn:sluice:problem:connection-limit"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if n := d.Stats().Doors[0].Refused[RefusedPerIP]; n != 1 {
		t.Errorf("%d refused", n)
	}

	// Behind the balancer each client has an address of its own, or a /64.
	from := func(address string) *client {
		c := dial(t, behind)
		family := "TCP4"
		to := "192.0.2.1"
		if strings.Contains(address, ":") {
			family, to = "TCP6", "2001:db8::1"
		}
		c.send(fmt.Sprintf("PROXY %s %s %s 1000 80\r\n", family, address, to))
		return c
	}
	served := []*client{from("192.0.2.8"), from("192.0.2.9"), from("2001:db8:0:1::1"), from("2001:db8:0:2::1")}
	for _, c := range served {
		c.mustServe()
	}
	for _, again := range []string{"192.0.2.9", "2001:db8:0:1::2", "::ffff:192.0.2.8"} {
		if got := from(again).untilClosed(); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
			t.Errorf("second connection from %s: %q", again, got)
		}
	}
	must(t, served[0].Close())
	eventually(t, func() bool { return d.Stats().Doors[1].Open == 3 })
	from("192.0.2.8").mustServe()
}

// TestPerIPLimitSetLater: connections from before count.
func TestPerIPLimitSetLater(t *testing.T) {
	l := config.Listener{Address: "127.0.0.1:0"}
	d := opened(t, l)
	dial(t, d.Addrs()[0]).mustServe()
	s := server()
	s.MaxConnectionsPerIP = 1
	must(t, d.Apply([]config.Listener{l}, s))
	if got := dial(t, d.Addrs()[0]).untilClosed(); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %q", got)
	}
}

// TestSocketOptions: accepted sockets have what the listening one was given.
func TestSocketOptions(t *testing.T) {
	seen := make(chan error, 1)
	d := New(Options{HTTP1: engineFunc(func(c *wire.Conn) error {
		seen <- checkOptions(c.Conn.(*net.TCPConn))
		return nil
	}), Log: zerolog.Nop()})
	t.Cleanup(func() { ended(t, d) })
	must(t, d.Apply([]config.Listener{{Address: "127.0.0.1:0"}}, server()))
	dial(t, d.Addrs()[0]).send("x")
	must(t, <-seen)
}

// TestEngineEndsConnection: the door closes what the engine returns from.
func TestEngineEndsConnection(t *testing.T) {
	d := New(Options{HTTP1: engineFunc(func(c *wire.Conn) error {
		_, err := bufio.NewReader(c).ReadString('\n')
		return err
	}), Log: zerolog.Nop()})
	t.Cleanup(func() { ended(t, d) })
	must(t, d.Apply([]config.Listener{{Address: "127.0.0.1:0"}}, server()))
	c := dial(t, d.Addrs()[0])
	c.send("\n")
	if got := c.untilClosed(); got != "" {
		t.Errorf("got %q", got)
	}
}

type engineFunc func(*wire.Conn) error

func (f engineFunc) ServeConn(c *wire.Conn) error { return f(c) }

// eventually waits for what another goroutine is about to do and tells nobody.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("it did not happen")
		}
	}
}
