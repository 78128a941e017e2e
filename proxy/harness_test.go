package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/config"
	"sluice/fault"
	"sluice/gateway"
	"sluice/listen"
	"sluice/observe"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The worker pool of a closed door sweeps once more, at its next tick.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// limit is how long a test waits for what must happen. No test waits for it
// when all is well.
const limit = 20 * time.Second

// edge is a gateway as main puts it together, on a port of its own.
type edge struct {
	t       testing.TB
	gateway *gateway.Gateway
	doors   *listen.Doors
	addr    string
	logFile string
	logs    string // the settings of log, instead of an access log in logFile
	drained bool
	stopped bool
}

// startEdge runs a gateway with the configuration text, which says nothing of
// listen and log.
func startEdge(t testing.TB, text string) *edge {
	t.Helper()
	return (&edge{t: t, logFile: filepath.Join(t.TempDir(), "access.log")}).start(text)
}

func (e *edge) start(text string) *edge {
	e.t.Helper()
	metrics := observe.NewMetrics(observe.Build{}, fault.Names())
	e.gateway = gateway.New(metrics, zerolog.New(io.Discard))
	e.doors = listen.New(listen.Options{HTTP1: e.gateway.Engine, Log: zerolog.Nop()})
	e.apply(text)
	e.addr = e.doors.Addrs()[0].String()
	e.t.Cleanup(e.stop)
	return e
}

// apply puts another configuration in use, as a reload does.
func (e *edge) apply(text string) {
	e.t.Helper()
	if err := e.tryApply(text); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) tryApply(text string) error {
	if e.logs == "" {
		e.logs = "{ access: { output: \"" + e.logFile + "\" }, audit: { enabled: false } }"
	}
	if !strings.HasPrefix(text, "listen:") {
		text = "listen: [\"127.0.0.1:0\"]\n" + text
	}
	text += "\nlog: " + e.logs + "\n"
	cfg, err := config.Parse("test.yaml", []byte(text), &config.Sources{})
	if err != nil {
		return err
	}
	next, err := e.gateway.Prepare(cfg)
	if err != nil {
		return err
	}
	first := e.gateway.Current() == nil
	if first {
		e.gateway.Commit(next)
	}
	if err := e.doors.Apply(cfg.Listen, cfg.Server); err != nil {
		return err
	}
	if !first {
		e.gateway.Commit(next)
	}
	return nil
}

// drain ends the gateway, giving what is in flight until ctx ends. It returns
// the number of connections that were cut.
func (e *edge) drain(ctx context.Context) int {
	e.drained = true
	e.doors.Close()
	return e.gateway.Engine.Drain(ctx)
}

// stop ends the gateway. It does nothing the second time.
func (e *edge) stop() {
	if e.stopped {
		return
	}
	e.stopped = true
	if !e.drained {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.drain(ctx)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := e.doors.Wait(ctx); err != nil {
		e.t.Errorf("client connections did not end: %v", err)
	}
	e.gateway.Close()
}

// log is the access log so far. Lines are written behind the answers; the log
// is whole after the gateway has ended.
func (e *edge) log() string {
	e.t.Helper()
	b, err := os.ReadFile(e.logFile)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(b)
}

// wireEnd is one end of a raw connection: a client's to the gateway, or the gateway's to an
// origin.
type wireEnd struct {
	net.Conn
	t  testing.TB
	in *bufio.Reader
}

func newWireEnd(t testing.TB, c net.Conn) *wireEnd {
	_ = c.SetDeadline(time.Now().Add(limit))
	return &wireEnd{Conn: c, t: t, in: bufio.NewReaderSize(c, 64<<10)}
}

// dial opens a client connection to the gateway.
func (e *edge) dial() *wireEnd {
	e.t.Helper()
	c, err := net.DialTimeout("tcp", e.addr, limit)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	return newWireEnd(e.t, c)
}

// send writes text; lines may end in a bare \n, which becomes CRLF, when crlf
// is not there already.
func (w *wireEnd) send(text string) *wireEnd {
	w.t.Helper()
	if _, err := io.WriteString(w.Conn, crlf(text)); err != nil {
		w.t.Fatalf("send %.80q: %v", text, err)
	}
	return w
}

// sendRaw writes b as it is.
func (w *wireEnd) sendRaw(b []byte) *wireEnd {
	w.t.Helper()
	if _, err := w.Conn.Write(b); err != nil {
		w.t.Fatalf("send %d bytes: %v", len(b), err)
	}
	return w
}

func crlf(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
}

// head reads a head, without its empty line. Lines end in \n.
func (w *wireEnd) head() string {
	w.t.Helper()
	text, err := w.tryHead()
	if err != nil {
		w.t.Fatalf("head: %v after %q", err, text)
	}
	return text
}

func (w *wireEnd) tryHead() (string, error) {
	var b strings.Builder
	for {
		line, err := w.in.ReadString('\n')
		if err != nil {
			return b.String() + line, err
		}
		if line == "\r\n" {
			return b.String(), nil
		}
		b.WriteString(strings.TrimSuffix(line, "\r\n") + "\n")
	}
}

// take reads n bytes.
func (w *wireEnd) take(n int) string {
	w.t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(w.in, b); err != nil {
		w.t.Fatalf("want %d bytes, got %d: %v", n, got, err)
	}
	return string(b)
}

// want reads as many bytes as text has, which must be text.
func (w *wireEnd) want(text string) *wireEnd {
	w.t.Helper()
	if got := w.take(len(text)); got != text {
		w.t.Fatalf("got %.200q, want %.200q", got, text)
	}
	return w
}

// rest reads until the other end closes; err is nil when it does so in order.
func (w *wireEnd) rest() (string, error) {
	b, err := io.ReadAll(w.in)
	return string(b), err
}

// wantEnd checks that the other end closes in order and says nothing more.
func (w *wireEnd) wantEnd() {
	w.t.Helper()
	if text, err := w.rest(); text != "" || err != nil {
		w.t.Fatalf("want an orderly end, got %.200q, %v", text, err)
	}
}

// response reads a whole response to a request with the method.
func (w *wireEnd) response(method string) *answer {
	w.t.Helper()
	a, err := w.tryResponse(method)
	if err != nil {
		w.t.Fatalf("response: %v", err)
	}
	return a
}

// answer is a response as a client sees it.
type answer struct {
	*http.Response
	head string
	body string
}

func (w *wireEnd) tryResponse(method string) (*answer, error) {
	head, err := w.tryHead()
	if err != nil {
		return &answer{head: head}, err
	}
	// net/http reads the body by rules of its own making, not by ours.
	both := io.MultiReader(strings.NewReader(crlf(head)+"\r\n"), w.in)
	br := bufio.NewReaderSize(both, 1)
	r, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		return &answer{head: head}, err
	}
	b, err := io.ReadAll(r.Body)
	// What br holds of later bytes goes back.
	if n := br.Buffered(); n > 0 {
		left, _ := br.Peek(n)
		w.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(left)), w.in), 64<<10)
	}
	return &answer{Response: r, head: head, body: string(b)}, err
}

// fieldLines returns the header lines of head with this name, as they are.
func fieldLines(head, name string) (list []string) {
	for _, line := range strings.Split(head, "\n") {
		if n, _, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			list = append(list, line)
		}
	}
	return list
}

// value is the value of the only line with this name.
func value(t testing.TB, head, name string) string {
	t.Helper()
	l := fieldLines(head, name)
	if len(l) != 1 {
		t.Fatalf("want one %s, got %q in\n%s", name, l, head)
	}
	_, v, _ := strings.Cut(l[0], ":")
	return strings.TrimSpace(v)
}

// get asks once on a connection of its own.
func (e *edge) get(path string, fields ...string) *answer {
	e.t.Helper()
	return e.ask("GET", path, fields...)
}

func (e *edge) ask(method, path string, fields ...string) *answer {
	e.t.Helper()
	w := e.dial()
	defer func() { _ = w.Close() }()
	host := "Host: test\n"
	for _, f := range fields {
		if strings.HasPrefix(strings.ToLower(f), "host:") {
			host = ""
		}
	}
	w.send(method + " " + path + " HTTP/1.1\n" + host + join(fields) + "\n")
	return w.response(method)
}

func join(fields []string) string {
	if len(fields) == 0 {
		return ""
	}
	return strings.Join(fields, "\n") + "\n"
}

// origin is a backend made of a script: talk is run for every connection.
type origin struct {
	t     testing.TB
	ln    net.Listener
	talks sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]bool
	seen  int
}

// startOrigin runs a backend whose connections are served by talk, which must
// return when the connection ends. It may be ended by t.FailNow.
func startOrigin(t testing.TB, talk func(w *wireEnd)) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{t: t, ln: ln, conns: map[net.Conn]bool{}}
	o.talks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.conns[c] = true
			o.seen++
			o.mu.Unlock()
			o.talks.Go(func() {
				defer func() {
					_ = c.Close()
					o.mu.Lock()
					delete(o.conns, c)
					o.mu.Unlock()
				}()
				talk(newWireEnd(t, c))
			})
		}
	})
	t.Cleanup(o.stop)
	return o
}

func (o *origin) url() string  { return "http://" + o.ln.Addr().String() }
func (o *origin) addr() string { return o.ln.Addr().String() }

// connections is how many connections there have been.
func (o *origin) connections() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}

// kill closes the door and every connection at once, as a crash does.
func (o *origin) kill() {
	_ = o.ln.Close()
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		_ = c.Close()
	}
}

func (o *origin) stop() {
	o.kill()
	o.talks.Wait()
}

// answering returns a talk that answers every request, whose body has a length
// or is chunked, with what reply makes of its head and body.
func answering(reply func(head, body string) string) func(*wireEnd) {
	return func(w *wireEnd) {
		for {
			head, err := w.tryHead()
			if err != nil {
				return
			}
			body, err := w.requestBody(head)
			if err != nil {
				return
			}
			if _, err := io.WriteString(w.Conn, crlf(reply(head, body))); err != nil {
				return
			}
		}
	}
}

// requestBody reads the body that head says there is.
func (w *wireEnd) requestBody(head string) (string, error) {
	if l := fieldLines(head, "Content-Length"); len(l) == 1 {
		n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(l[0], ":", 2)[1]))
		if err != nil {
			return "", err
		}
		b := make([]byte, n)
		n, err = io.ReadFull(w.in, b)
		return string(b[:n]), err
	}
	if len(fieldLines(head, "Transfer-Encoding")) == 0 {
		return "", nil
	}
	var body strings.Builder
	for {
		line, err := w.in.ReadString('\n')
		if err != nil {
			return body.String(), err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
		if err != nil {
			return body.String(), err
		}
		if n == 0 {
			_, err := w.tryHead() // the trailers
			return body.String(), err
		}
		if _, err := io.CopyN(&body, w.in, n); err != nil {
			return body.String(), err
		}
		if _, err := w.in.Discard(2); err != nil {
			return body.String(), err
		}
	}
}

const okEmpty = "HTTP/1.1 200 OK\nContent-Length: 0\n\n"

// ok is a 200 with a body, whose \n are sent as CRLF.
func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", len(crlf(body)), body)
}

// headBack answers every request with its own head as the body.
var headBack = answering(func(head, _ string) string { return ok(head) })

// forwardTo is the configuration of a gateway that sends everything to o.
func forwardTo(o *origin, more ...string) string {
	return "upstreams: { main: { targets: [\"" + o.url() + "\"] } }\nroutes: [ { name: all, upstream: main } ]\n" + strings.Join(more, "\n")
}

// eventually waits until f holds. It is for what shows in no answer, such as a
// counter; it yields between two looks.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(limit); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: still not so after %v", what, limit)
		}
	}
}

// within fails the test when ch stays silent.
func within[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("%s: did not happen in %v", what, limit)
		panic("unreachable")
	}
}
