package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/fault"
	"sluice/gateway"
	"sluice/observe"
	"sluice/wire"
)

// patience bounds every wait on a socket. No test waits for it when all is well.
const patience = 20 * time.Second

// recorder is a backend that keeps every byte it is sent. It reads requests
// with a framing of its own, as plain as can be, so that what it counts does
// not rest on the parser under test, and answers each whole one by its script.
type recorder struct {
	t    testing.TB
	ln   net.Listener
	open sync.WaitGroup

	// answer returns the bytes that answer the nth request (from 1) of all,
	// and whether the connection is closed behind them. nil answers 200. Probes
	// are answered besides.
	answer func(n int, r *received) (raw string, end bool)

	mu       sync.Mutex
	requests []*received
	conns    int
}

// received is one request as it arrived.
type received struct {
	conn     int    // number of the connection, from 1
	head     string // with the empty line
	raw      string // the body with its framing
	body     string
	trailers string // the lines of the trailer section
	whole    bool   // the body came to its end
}

// line is the request line without its version.
func (r *received) line() string {
	line, _, _ := strings.Cut(r.head, "\r\n")
	return strings.TrimSuffix(line, " HTTP/1.1")
}

// String says method, target and body; "..." stands for a body that broke off.
func (r *received) String() string {
	s := r.line()
	if r.body != "" {
		s += " " + r.body
	}
	if !r.whole {
		s += "..."
	}
	return s
}

func newRecorder(t testing.TB, answer func(n int, r *received) (string, bool)) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveRecorder(t, ln, answer)
}

func serveRecorder(t testing.TB, ln net.Listener, answer func(n int, r *received) (string, bool)) *recorder {
	b := &recorder{t: t, ln: ln, answer: answer}
	b.open.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			n := b.conns
			b.mu.Unlock()
			b.open.Go(func() { b.serve(c, n) })
		}
	})
	return b
}

func (b *recorder) addr() string { return b.ln.Addr().String() }

// settle waits until all that was ever sent to the backend has been recorded.
// Nobody may send any more: the gateway has ended.
func (b *recorder) settle() []*received {
	b.t.Helper()
	// Connections are accepted in order: once this one has come and gone, so
	// have all before it.
	c, err := net.Dial("tcp", b.addr())
	if err != nil {
		b.t.Fatal(err)
	}
	if conn, ok := c.(*net.TCPConn); ok {
		_ = conn.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	b.ln.Close()
	b.open.Wait()
	return b.requests
}

func (b *recorder) serve(c net.Conn, number int) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	in := bufio.NewReader(c)
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		r := &received{conn: number}
		b.mu.Lock()
		b.requests = append(b.requests, r)
		n := len(b.requests)
		b.mu.Unlock()
		got, err := readReceived(in)
		b.mu.Lock()
		got.conn = number
		*r = *got
		b.mu.Unlock()
		if err != nil {
			return
		}
		raw, end := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false
		switch {
		case got.line() == "GET /probe":
			raw = "HTTP/1.1 200 OK\r\nX-Probe: 1\r\nContent-Length: 0\r\n\r\n"
		case b.answer != nil:
			raw, end = b.answer(n, got)
		}
		if _, err := io.WriteString(c, raw); err != nil || end {
			return
		}
	}
}

// readReceived reads one request. What it got so far is returned with the error.
func readReceived(in *bufio.Reader) (*received, error) {
	r := &received{}
	length, chunked := 0, false
	for {
		line, err := in.ReadString('\n')
		r.head += line
		if err != nil {
			return r, err
		}
		if line == "\r\n" {
			break
		}
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = true
		}
	}
	take := func(n int) error {
		piece := make([]byte, n)
		m, err := io.ReadFull(in, piece)
		r.raw += string(piece[:m])
		r.body += string(piece[:m])
		return err
	}
	if !chunked {
		if err := take(length); err != nil {
			return r, err
		}
		r.whole = true
		return r, nil
	}
	for {
		line, err := in.ReadString('\n')
		r.raw += line
		if err != nil {
			return r, err
		}
		n, err := strconv.ParseUint(strings.TrimRight(line, "\r\n"), 16, 31)
		if err != nil {
			return r, err
		}
		if n == 0 {
			break
		}
		if err := take(int(n)); err != nil {
			return r, err
		}
		line, err = in.ReadString('\n')
		r.raw += line
		if err != nil || line != "\r\n" {
			return r, errors.Join(err, errors.New("chunk without CRLF"))
		}
	}
	for {
		line, err := in.ReadString('\n')
		r.raw += line
		if err != nil {
			return r, err
		}
		if line == "\r\n" {
			r.whole = true
			return r, nil
		}
		r.trailers += line
	}
}

// gate is a running gateway.
type gate struct {
	t       testing.TB
	ln      net.Listener
	gateway *gateway.Gateway
	ended   sync.Once
	accept  sync.WaitGroup
	served  sync.WaitGroup
	conns   []net.Conn // to be read after accept
}

// openGate starts a gateway whose only upstream is at url. more is YAML that
// is added to the configuration.
func openGate(t testing.TB, url, more string) *gate {
	t.Helper()
	text := `
listen: ["127.0.0.1:0"]
log: { access: { enabled: false } }
upstreams:
  app: { targets: ["` + url + `"], tls: { insecure_skip_verify: true } }
` + more
	if !strings.Contains(more, "routes:") {
		text += "routes: [{ name: all, match: { path: \"/*\" }, upstream: app }]\n"
	}
	cfg, err := config.Parse("test.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, gateway: gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.New(os.Stderr))}
	next, err := g.gateway.Prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.gateway.Commit(next)
	if g.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	g.accept.Go(func() {
		for {
			c, err := g.ln.Accept()
			if err != nil {
				return
			}
			g.conns = append(g.conns, c)
			g.served.Go(func() { _ = g.gateway.Engine.ServeConn(wire.NewConn(c, nil)) })
		}
	})
	t.Cleanup(g.end)
	return g
}

// end stops the gateway; after it no byte goes to any backend.
func (g *gate) end() {
	g.ended.Do(func() {
		g.ln.Close()
		g.accept.Wait()
		for _, c := range g.conns {
			c.Close()
		}
		g.served.Wait()
		g.gateway.Engine.Drain(context.Background())
		g.gateway.Close()
	})
}

// client is one raw connection to the gateway.
type client struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

func (g *gate) dial() *client {
	g.t.Helper()
	c, err := net.Dial("tcp", g.ln.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{Conn: c, t: g.t, in: bufio.NewReader(c)}
}

// send writes raw in pieces of step bytes. An error is no failure: the gateway
// may have closed already.
func (c *client) send(raw string, step int) {
	for len(raw) > 0 {
		n := min(step, len(raw))
		if _, err := io.WriteString(c.Conn, raw[:n]); err != nil {
			return
		}
		raw = raw[n:]
	}
}

// reply is one answer that a client got.
type reply struct {
	status  int
	body    string
	trailer http.Header
	cut     bool // the body broke off
	close   bool // it says that the connection ends
	probe   bool // it answers a probe
}

// read reads the answer to a request with this method; nil at an orderly end,
// one with status 0 when the connection was reset instead.
func (c *client) read(method string) *reply {
	c.t.Helper()
	switch _, err := c.in.Peek(1); {
	case err == io.EOF:
		return nil
	case errors.Is(err, syscall.ECONNRESET):
		return &reply{cut: true}
	case err != nil:
		c.t.Fatalf("waiting for an answer: %v", err)
	}
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("answer that net/http does not read: %v", err)
	}
	r := &reply{status: res.StatusCode, close: res.Close, probe: res.Header.Get("X-Probe") != ""}
	body, err := io.ReadAll(res.Body)
	var slow net.Error
	if errors.As(err, &slow) && slow.Timeout() {
		c.t.Fatalf("answer %d without an end", r.status)
	}
	r.body, r.trailer, r.cut = string(body), res.Trailer, err != nil
	return r
}

// ask sends raw on a connection of its own and reads one answer.
func (g *gate) ask(raw string) *reply {
	g.t.Helper()
	c := g.dial()
	defer c.Close()
	method, _, _ := strings.Cut(raw, " ")
	c.send(raw, len(raw))
	return c.read(method)
}

// probe is a request of which every answer says that the connection was kept.
const probe = "GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"

// converse sends raw and says what came back: the statuses in order, and
// whether the connection was then "kept" or "closed". Interim answers stand in
// parentheses. methods are those of the requests, GET where none is given.
func (c *client) converse(raw string, step, answers int, methods ...string) string {
	c.t.Helper()
	c.send(raw, step)
	var out []string
	method, last := "GET", (*reply)(nil)
	for i := 0; i < answers; {
		if i < len(methods) {
			method = methods[i]
		}
		r := c.read(method)
		if r == nil {
			return strings.Join(append(out, "closed"), " ")
		}
		if r.status == 0 {
			return strings.Join(append(out, "reset"), " ")
		}
		if r.status < 200 {
			out = append(out, fmt.Sprintf("(%d)", r.status))
			continue
		}
		i++
		out = append(out, strconv.Itoa(r.status))
		if r.cut {
			return strings.Join(append(out, "cut"), " ")
		}
		last, method = r, "GET"
	}
	// A connection that is kept answers one more request, and nothing else
	// comes before that. One that is not has said so.
	if last == nil || !last.close {
		c.send(probe, len(probe))
	}
	for {
		r := c.read("GET")
		switch {
		case r == nil:
			return strings.Join(append(out, "closed"), " ")
		case r.status == 200 && r.probe:
			return strings.Join(append(out, "kept"), " ")
		}
		out = append(out, strconv.Itoa(r.status))
	}
}

// lines says what arrived, without the probes.
func lines(list []*received) (out []string) {
	for _, r := range list {
		if r.line() != "GET /probe" {
			out = append(out, r.String())
		}
	}
	return out
}

// records writes each piece between "|" as a TLS record of its own.
type records struct{ net.Conn }

func (r records) Write(p []byte) (int, error) {
	n := 0
	for piece := range bytes.SplitSeq(p, []byte("|")) {
		m, err := r.Conn.Write(piece)
		if n += m; err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// corked gathers what is written to it until flushed, so that several TLS
// records leave in one segment.
type corked struct {
	net.Conn
	mu   sync.Mutex
	held bytes.Buffer
	cork bool
}

func (c *corked) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cork {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

func (c *corked) hold() {
	c.mu.Lock()
	c.cork = true
	c.mu.Unlock()
}

func (c *corked) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork = false
	_, err := c.Conn.Write(c.held.Bytes())
	c.held.Reset()
	return err
}

// tlsListener makes connections whose writes are split into records at "|",
// which all leave in one segment.
type tlsListener struct {
	net.Listener
	conf *tls.Config
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	under := &corked{Conn: c}
	return &tlsRecords{Conn: tls.Server(under, l.conf), under: under}, nil
}

type tlsRecords struct {
	*tls.Conn
	under *corked
}

func (c *tlsRecords) Write(p []byte) (int, error) {
	c.under.hold()
	_, err := records{c.Conn}.Write(p)
	return len(p), errors.Join(err, c.under.flush())
}
