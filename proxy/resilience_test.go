package proxy_test

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/fault"
	"sluice/gateway"
	"sluice/listen"
	"sluice/observe"
	"sluice/pool"
)

// What a play does with a request instead of answering it.
const (
	hung    = "hang"    // until the other end closes
	reset   = "reset"   // the connection
	closed  = "close"   // the connection, in order
	garbage = "garbage" // for an answer
)

// play is a backend of several targets that counts the requests over all of
// them in the order of their arrival, from 1, and does to each what its script
// says.
type play struct {
	t       testing.TB
	origins []*origin
	script  func(n, target int, head, body string) string

	mu    sync.Mutex
	heads []string
	took  []int // which target took each
	ended chan int
}

// startPlay runs n targets. script returns an answer, or one of the words.
func startPlay(t testing.TB, n int, script func(n, target int, head, body string) string) *play {
	p := &play{t: t, script: script, ended: make(chan int, 10000)}
	for i := range n {
		p.origins = append(p.origins, startOrigin(t, func(w *wireEnd) { p.serve(w, i) }))
	}
	return p
}

func (p *play) serve(w *wireEnd, target int) {
	for {
		head, err := w.tryHead()
		if err != nil {
			return
		}
		body, err := w.requestBody(head)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.heads, p.took = append(p.heads, head), append(p.took, target)
		n := len(p.heads)
		p.mu.Unlock()
		switch text := p.script(n, target, head, body); text {
		case hung:
			_, _ = w.in.ReadByte()
			p.ended <- n
			return
		case reset:
			_ = w.Conn.(*net.TCPConn).SetLinger(0)
			return
		case closed:
			return
		case garbage:
			_, _ = io.WriteString(w.Conn, "SSH-2.0-OpenSSH_9.2\r\n\r\n")
			_, _ = w.in.ReadByte()
			return
		default:
			if _, err := io.WriteString(w.Conn, crlf(text)); err != nil {
				return
			}
		}
	}
}

// targets is the value of an upstream's targets.
func (p *play) targets() string {
	var urls []string
	for _, o := range p.origins {
		urls = append(urls, strconv.Quote(o.url()))
	}
	return "[" + strings.Join(urls, ", ") + "]"
}

// seen are the heads of the requests so far, and the targets that took them.
func (p *play) seen() ([]string, []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.heads...), append([]int(nil), p.took...)
}

// wantSeen checks how many requests there have been.
func (p *play) wantSeen(n int) {
	p.t.Helper()
	if heads, _ := p.seen(); len(heads) != n {
		p.t.Errorf("the targets saw %d requests, want %d", len(heads), n)
	}
}

// guarded is the configuration of one upstream, main, and one route to it;
// both texts go on from there.
func (p *play) guarded(upstream, route string, more ...string) string {
	return "upstreams:\n  main: { targets: " + p.targets() + comma(upstream) + " }\n" +
		strings.Join(more, "\n") + "\nroutes: [ { name: all, upstream: main" + comma(route) + " } ]\n"
}

func comma(text string) string {
	if text == "" {
		return ""
	}
	return ", " + text
}

// status is an answer of this status with a body, and more header lines.
func status(code int, body string, fields ...string) string {
	return fmt.Sprintf("HTTP/1.1 %d Word\nContent-Length: %d\n%s\n%s", code, len(body), join(fields), body)
}

// wantProblem checks that a is the gateway's own word about a fault.
func wantProblem(t testing.TB, a *answer, f fault.Kind) {
	t.Helper()
	if a.StatusCode != f.Status() || !strings.Contains(a.body, `"`+f.Type()+`"`) {
		t.Errorf("got %d %q, want the problem %d %s", a.StatusCode, a.body, f.Status(), f)
		return
	}
	if got := len(fieldLines(a.head, "Retry-After")) > 0; got != (f.RetryAfter() || f == fault.RateLimited || f == fault.TooManyFailures) {
		t.Errorf("%s: Retry-After is there: %v", f, got)
	}
}

// wantBody checks an answer that a target or a fallback gave.
func wantBody(t testing.TB, a *answer, code int, body string) {
	t.Helper()
	if a.StatusCode != code || a.body != body {
		t.Errorf("got %d %q, want %d %q", a.StatusCode, a.body, code, body)
	}
}

// startMeasuredEdge is startEdge with the metrics to look at.
func startMeasuredEdge(t testing.TB, text string) (*edge, *observe.Metrics) {
	e := &edge{t: t, logFile: t.TempDir() + "/access.log"}
	metrics := observe.NewMetrics(observe.Build{}, fault.Names())
	e.gateway = gateway.New(metrics, zerolog.New(io.Discard))
	e.doors = listen.New(listen.Options{HTTP1: e.gateway.Engine, Log: zerolog.Nop()})
	e.apply(text)
	e.addr = e.doors.Addrs()[0].String()
	t.Cleanup(e.stop)
	return e, metrics
}

// metric is the sum of the series of this name that have all these labels,
// each written name=value.
func metric(t testing.TB, m *observe.Metrics, name string, labels ...string) float64 {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, series := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range series.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			all := true
			for _, l := range labels {
				all = all && have[l]
			}
			if all {
				sum += series.GetCounter().GetValue() + series.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// guards is what the upstream of this name tells of its guards.
func (e *edge) guards(name string) pool.Guards {
	for _, u := range e.gateway.Upstreams().([]gateway.UpstreamState) {
		if u.Name == name {
			return u.Guards
		}
	}
	e.t.Fatalf("no upstream %s", name)
	panic("unreachable")
}

// target is the state of a target of main.
func (e *edge) target(i int) pool.State {
	return e.gateway.Upstreams().([]gateway.UpstreamState)[0].Targets[i]
}

// deaf is the address of a port that takes no connection and refuses none: its
// queue is full and nobody accepts.
func deaf(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// refusing is the address of a port that refuses connections.
func refusing(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// TestBudgetEndsEveryWait is one request that waits in each place where one
// can. The answer is 504 at the end of the budget, whatever it was waiting for.
func TestBudgetEndsEveryWait(t *testing.T) {
	hanging := func(_, _ int, _, _ string) string { return hung }
	one := func(t *testing.T) *play { return startPlay(t, 1, hanging) }
	for name, c := range map[string]struct {
		play            func(*testing.T) *play
		upstream, route string
		busy            bool // another request is at work already
		method          string
		saw             int
	}{
		"head":           {one, "", "", false, "GET", 1},
		"head, upload":   {one, "", "", false, "POST", 1},
		"connection":     {one, "connections: { max: 1, queue: 10, queue_timeout: 1m }", "", true, "GET", 1},
		"upstream place": {one, "concurrency: { max: 1, queue: 10, queue_timeout: 1m }", "", true, "GET", 1},
		"route place":    {one, "", "concurrency: { max: 1, queue: 10, queue_timeout: 1m }", true, "GET", 1},
		"hedge": {func(t *testing.T) *play { return startPlay(t, 2, hanging) }, "",
			"hedge: 10ms", false, "GET", 2},
		"per-try, then the rest": {one, "", "retry: { attempts: 10, on: [timeout], per_try: 100ms, backoff: 0 }", false, "GET", -1},
		"pause": {func(t *testing.T) *play {
			return startPlay(t, 1, func(n, _ int, _, _ string) string {
				if n == 1 {
					return reset
				}
				return hung
			})
		}, "", "retry: { attempts: 2, backoff: 1ms }", false, "GET", 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.play(t)
			e := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+p.guarded(c.upstream, c.route))
			if c.busy {
				e.dial().send("GET /busy HTTP/1.1\nHost: x\n\n")
				eventually(t, "the other request is at work", func() bool { h, _ := p.seen(); return len(h) == 1 })
			}
			body := ""
			if c.method == "POST" {
				body = "Transfer-Encoding: chunked\n\n3\nabc\n0\n\n"
			}
			w := e.dial()
			began := time.Now()
			w.send(c.method + " / HTTP/1.1\nHost: x\nX-Budget: 250\n" + body)
			if body == "" {
				w.send("\n")
			}
			a := w.response(c.method)
			if took := time.Since(began); took < 250*time.Millisecond {
				t.Errorf("answered after %v, which is within the budget", took)
			}
			wantProblem(t, a, fault.BudgetSpent)
			if c.saw >= 0 {
				p.wantSeen(c.saw)
			}
		})
	}
	t.Run("connect", func(t *testing.T) {
		e := startEdge(t, "upstreams: { main: \"http://"+deaf(t)+"\" }\nroutes: [ { name: all, upstream: main, budget: 250ms } ]\n")
		wantProblem(t, e.get("/"), fault.BudgetSpent)
	})
}

// TestBudgetCutsBody is an answer that begins in time and does not end: the
// client must not take the part for the whole.
func TestBudgetCutsBody(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100\n\npart", "Transfer-Encoding: chunked\n\n4\npart\n", "\npart"} {
		o := startOrigin(t, func(w *wireEnd) {
			if _, err := w.tryHead(); err != nil {
				return
			}
			w.send("HTTP/1.1 200 OK\n" + framing)
			_, _ = w.in.ReadByte()
		})
		e := startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes: [ { name: all, upstream: main, budget: 150ms } ]\n")
		if a, err := e.dial().send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET"); err == nil {
			t.Errorf("%q: got a whole answer: %q", framing, a.body)
		}
		e.stop()
		if !strings.Contains(e.log(), `"flag":"budget-spent"`) {
			t.Errorf("%q: the log says %s", framing, e.log())
		}
	}
}

// TestBudgetSparesTunnel is a WebSocket on a route with a budget: the budget is
// for the answer, which is the 101.
func TestBudgetSparesTunnel(t *testing.T) {
	over := make(chan bool)
	o := startOrigin(t, func(w *wireEnd) {
		if _, err := w.tryHead(); err != nil {
			return
		}
		w.send("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\n\n")
		<-over
		w.send("late")
		_, _ = w.in.ReadByte()
	})
	hangs := startPlay(t, 1, func(_, _ int, _, _ string) string { return hung })
	e := startEdge(t, "upstreams: { main: \""+o.url()+"\", hangs: { targets: "+hangs.targets()+" } }\n"+
		"routes: [ { name: ws, match: /ws, upstream: main, budget: 100ms }, { name: hangs, match: /hangs, upstream: hangs, budget: 200ms } ]\n")
	w := e.dial().send("GET /ws HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n\n")
	if head := w.head(); !strings.Contains(head, " 101 ") {
		t.Fatal(head)
	}
	wantProblem(t, e.get("/hangs"), fault.BudgetSpent) // by then the tunnel's is over too
	close(over)
	w.want("late")
}

// TestBudgetOfCaller is what a trusted hop has left of its own.
func TestBudgetOfCaller(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, head, _ string) string { return ok(head) })
	trusting := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+p.guarded("", "budget: 10s"))
	wary := startEdge(t, "forwarded: { budget: X-Budget }\n"+p.guarded("", "budget: 10s"))
	unlimited := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+p.guarded("", ""))

	f := func(e *edge, field, out string, low, high int) {
		t.Helper()
		a := e.get("/", field)
		if a.StatusCode != 200 {
			t.Errorf("%s: got %d %s", field, a.StatusCode, a.body)
			return
		}
		lines := fieldLines(a.body, out)
		if high < 0 {
			if len(lines) > 0 {
				t.Errorf("%s: the target got %q", field, lines)
			}
			return
		}
		n, err := strconv.Atoi(strings.TrimRight(value(t, crlfless(a.body), out), "mS"))
		if err != nil || n < low || n > high {
			t.Errorf("%s: the target got %q, want %d to %d", field, lines, low, high)
		}
	}
	f(trusting, "X-Other: 1", "X-Budget", 5000, 10000)
	f(trusting, "X-Budget: 9000", "X-Budget", 4000, 9000)
	f(trusting, "x-budget: 9000", "X-Budget", 4000, 9000)
	f(trusting, "X-Budget: 20000", "X-Budget", 5000, 10000) // the route's is less
	f(wary, "X-Budget: 1", "X-Budget", 5000, 10000)         // anyone can say that
	f(unlimited, "X-Budget: 9000", "X-Budget", 4000, 9000)
	f(unlimited, "X-Other: 1", "X-Budget", 0, -1)
	for _, bad := range []string{"", "-5", "+5", "1e3", "9000ms", "99999999999999999999", "0x10", "9000, 1"} {
		f(trusting, "X-Budget: "+bad, "X-Budget", 5000, 10000)
		f(unlimited, "X-Budget: "+bad, "X-Budget", 0, -1)
	}
	f(unlimited, "X-Budget: 9223372036854775807", "X-Budget", 1<<30, 1<<60)
	f(trusting, "grpc-timeout: 9S", "grpc-timeout", 4000, 9000)
	f(trusting, "grpc-timeout: 9S", "X-Budget", 4000, 9000)
	f(unlimited, "grpc-timeout: 99999999H", "grpc-timeout", 0, 99999999<<1)
	f(wary, "grpc-timeout: 9S", "grpc-timeout", 4000, 9000) // shorter than the route's: it stays so
	f(wary, "grpc-timeout: 99S", "grpc-timeout", 5000, 10000)

	saw, _ := p.seen()
	for _, field := range []string{"X-Budget: 0", "grpc-timeout: 0m"} {
		wantProblem(t, trusting.get("/", field), fault.BudgetSpent)
		wantProblem(t, unlimited.get("/", field), fault.BudgetSpent)
	}
	p.wantSeen(len(saw))
}

func crlfless(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

// TestBudgetIsWhatIsLeft is a request that waited for its connection: what the
// target is told does not count that time again.
func TestBudgetIsWhatIsLeft(t *testing.T) {
	free := make(chan bool)
	p := startPlay(t, 1, func(n, _ int, head, _ string) string {
		if n == 1 {
			<-free
		}
		return ok(head)
	})
	e := startEdge(t, "forwarded: { budget: X-Budget }\n"+p.guarded("connections: { max: 1, queue: 10, queue_timeout: 1m }", "budget: 20s"))
	first := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	eventually(t, "the first is at work", func() bool { h, _ := p.seen(); return len(h) == 1 })
	second := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	eventually(t, "the second waits", func() bool { return e.target(0).Waiting == 1 })
	waits := time.Now()
	eventually(t, "the second has waited", func() bool { return time.Since(waits) > 300*time.Millisecond })
	close(free)
	first.response("GET")
	left, err := strconv.Atoi(value(t, crlfless(second.response("GET").body), "X-Budget"))
	if err != nil || left > 19700 {
		t.Errorf("the target was told %d ms of 20 s are left, after more than 300", left)
	}
}

// TestBudgetTooSmallToTry is a request with less left than answers usually take:
// it is not sent.
func TestBudgetTooSmallToTry(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string {
		time.Sleep(60 * time.Millisecond) // the backend's work
		return okEmpty
	})
	e := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+
		p.guarded("", "fallback: { status: 203, body: stale }"))
	for range 12 {
		e.get("/")
	}
	eventually(t, "the median is known", func() bool { return e.target(0).MedianMS >= 60 })
	a := e.get("/", "X-Budget: 30")
	wantBody(t, a, 203, "stale")
	p.wantSeen(12)
	wantBody(t, e.get("/", "X-Budget: 20000"), 200, "")
}

// TestBudgetPhases is where the metrics say that budgets go.
func TestBudgetPhases(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string { return hung })
	e, m := startMeasuredEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+
		p.guarded("concurrency: { max: 1, queue: 10, queue_timeout: 1m }", ""))
	busy := e.dial().send("GET / HTTP/1.1\nHost: x\nX-Budget: 400\n\n")
	eventually(t, "the first is at work", func() bool { h, _ := p.seen(); return len(h) == 1 })
	wantProblem(t, e.get("/", "X-Budget: 200"), fault.BudgetSpent)
	wantProblem(t, busy.response("GET"), fault.BudgetSpent)
	phase := func(name string) float64 {
		return metric(t, m, "sluice_budget_phase_seconds_total", "route=all", "phase="+name)
	}
	eventually(t, "both are counted", func() bool { return phase("wait") > 0 && phase("queue") > 0 })
	if w, q := phase("wait"), phase("queue"); w < 0.3 || q < 0.19 {
		t.Errorf("waited %v s for answers and %v s in queues, want about 0.4 and 0.2", w, q)
	}
	if n := metric(t, m, "sluice_faults_total", "route=all", "kind=budget-spent"); n != 2 {
		t.Errorf("%v requests counted as out of budget, want 2", n)
	}
}

// TestBudgetLateness reports how late answers are against a backend that hangs
// at random. It asserts only that nobody is answered before his time is over,
// for how late the test process itself runs is the machine's business.
func TestBudgetLateness(t *testing.T) {
	var n atomic.Int64
	p := startPlay(t, 3, func(_, _ int, _, _ string) string {
		if n.Add(1)%4 == 0 {
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, p.guarded("connections: { max: 64 }", "budget: 60ms, retry: { attempts: 2, per_try: 40ms, on: [timeout, reset, connect] }"))
	var late []time.Duration
	var mu sync.Mutex
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			w := e.dial()
			for range 40 {
				began := time.Now()
				a, err := w.send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET")
				if err != nil {
					t.Error(err)
					return
				}
				if took := time.Since(began); strings.Contains(a.body, fault.BudgetSpent.Type()) {
					mu.Lock()
					late = append(late, took-60*time.Millisecond)
					mu.Unlock()
				}
			}
		})
	}
	clients.Wait()
	worst := time.Duration(0)
	for _, d := range late {
		if worst = max(worst, d); d < 0 {
			t.Errorf("told %v early that the budget is spent", -d)
		}
	}
	t.Logf("%d of 320 requests out of budget, the latest %v late by the client's clock", len(late), worst)
}

// TestBreaker is an upstream that fails until its breaker opens, and recovers.
func TestBreaker(t *testing.T) {
	var well atomic.Bool
	p := startPlay(t, 2, func(_, _ int, _, _ string) string {
		if well.Load() {
			return okEmpty
		}
		return status(500, "own")
	})
	e := startEdge(t, p.guarded("breaker: { min_requests: 5, error_rate: 50%, open: 100ms, probes: 2 }", ""))
	for range 5 {
		wantBody(t, e.get("/"), 500, "own")
	}
	eventually(t, "the breaker opens", func() bool { return e.guards("main").Opened == 1 })
	wantProblem(t, e.get("/"), fault.BreakerOpen)
	p.wantSeen(5)
	if g := e.guards("main"); g.Breaker != "open" || g.Opened != 1 || g.Refused == 0 {
		t.Errorf("guards are %+v", g)
	}
	well.Store(true)
	eventually(t, "the breaker closes", func() bool {
		e.get("/")
		return e.guards("main").Breaker == "closed"
	})
	for range 20 {
		wantBody(t, e.get("/"), 200, "")
	}
	// A breaker that opened stays so over a reload.
	well.Store(false)
	for range 60 {
		e.get("/")
	}
	e.apply(p.guarded("breaker: { min_requests: 5, error_rate: 50%, open: 100ms, probes: 2 }", "budget: 10s"))
	if g := e.guards("main"); g.Opened < 2 {
		t.Errorf("after a reload the guards are %+v", g)
	}
}

// TestBreakerProbesDoNotWaitForStreams is a breaker whose probes are answers
// without end: their heads are enough to close it.
func TestBreakerProbesDoNotWaitForStreams(t *testing.T) {
	var well atomic.Bool
	p := startPlay(t, 1, func(_, _ int, _, _ string) string {
		if well.Load() {
			return "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\ntick\n"
		}
		return status(500, "own")
	})
	e := startEdge(t, p.guarded("breaker: { min_requests: 3, open: 10ms, probes: 2 }", ""))
	for range 3 {
		e.get("/")
	}
	well.Store(true)
	eventually(t, "the breaker closes", func() bool {
		if head := e.dial().send("GET / HTTP/1.1\nHost: x\n\n").head(); !strings.Contains(head, " 200 ") && !strings.Contains(head, " 503 ") {
			t.Fatal(head)
		}
		return e.guards("main").Breaker == "closed"
	})
}

// TestBulkheads is a bound of requests at work, for an upstream and for a
// route: what does not fit waits in a bounded queue for a bounded time.
func TestBulkheads(t *testing.T) {
	for _, c := range []struct{ upstream, route string }{
		{"concurrency: { max: 2, queue: 1, queue_timeout: 100ms }", ""},
		{"", "concurrency: { max: 2, queue: 1, queue_timeout: 100ms }"},
	} {
		p := startPlay(t, 1, func(_, _ int, head, _ string) string {
			if strings.Contains(head, "GET /hold") {
				return hung
			}
			return okEmpty
		})
		e := startEdge(t, p.guarded(c.upstream, c.route))
		hold := []*wireEnd{e.dial().send("GET /hold HTTP/1.1\nHost: x\n\n"), e.dial().send("GET /hold HTTP/1.1\nHost: x\n\n")}
		eventually(t, "both are at work", func() bool { h, _ := p.seen(); return len(h) == 2 })
		wantProblem(t, e.get("/"), fault.QueueTimeout)
		// Of many at once only one may wait.
		var full atomic.Int64
		var clients sync.WaitGroup
		for range 6 {
			clients.Go(func() {
				if a := e.get("/"); strings.Contains(a.body, fault.QueueFull.Type()) {
					wantProblem(t, a, fault.QueueFull)
					full.Add(1)
				}
			})
		}
		clients.Wait()
		if full.Load() == 0 {
			t.Error("nobody was turned away")
		}
		// A reload does not forget who is at work.
		e.apply(p.guarded(c.upstream, c.route, "  spare: \"http://127.0.0.1:1\""))
		wantProblem(t, e.get("/"), fault.QueueTimeout)
		_ = hold[0].Close()
		eventually(t, "a place is free", func() bool { return e.get("/").StatusCode == 200 })
		_ = hold[1].Close()
		eventually(t, "all is free", func() bool { return e.guards("main").AtWork == 0 })
	}
}

// TestAdaptivePriority is an upstream at its adaptive limit: requests of a low
// priority are turned away first.
func TestAdaptivePriority(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, head, _ string) string {
		if strings.Contains(head, "hold") {
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, "upstreams: { main: { targets: "+p.targets()+", adaptive: { initial: 10, min: 10, max: 10 } } }\nroutes:\n"+
		"- { name: low, match: \"/low/*\", upstream: main, priority: low }\n"+
		"- { name: normal, match: \"/normal/*\", upstream: main }\n"+
		"- { name: high, match: \"/high/*\", upstream: main, priority: high }\n")
	held := 0
	hold := func(n int) {
		for ; held < n; held++ {
			e.dial().send("GET /high/hold HTTP/1.1\nHost: x\n\n")
		}
		eventually(t, "they are at work", func() bool { return e.target(0).Active == int64(n) })
	}
	f := func(path string, allowed bool) {
		t.Helper()
		a := e.get(path)
		if !allowed {
			wantProblem(t, a, fault.Overloaded)
		} else if a.StatusCode != 200 {
			t.Errorf("%s with %d at work: got %d %s", path, held, a.StatusCode, a.body)
		}
	}
	hold(6)
	f("/low/", true)
	hold(7)
	f("/low/", false)
	f("/normal/", true)
	hold(9)
	f("/normal/", false)
	f("/high/", true)
	hold(10)
	f("/high/", false)
	if g := e.guards("main"); g.Shed != 3 {
		t.Errorf("%d are counted as shed, want 3", g.Shed)
	}
}

// TestHealth is targets that fail their checks: they get no requests, over a
// reload too, and when all fail the answer is 503 at once, or in panic all are
// used.
func TestHealth(t *testing.T) {
	var sick [2]atomic.Bool
	var requests [2]atomic.Int64
	p := startPlay(t, 2, func(_, target int, head, _ string) string {
		if strings.Contains(head, "GET /healthz") {
			if sick[target].Load() {
				return status(500, "", "Connection: close")
			}
			return status(200, "", "Connection: close")
		}
		requests[target].Add(1)
		return okEmpty
	})
	const health = "slow_start: 0, health: { path: /healthz, interval: 10ms, unhealthy: 2, healthy: 2 }"
	e := startEdge(t, p.guarded(health, ""))
	down := func(i int) func() bool { return func() bool { return e.target(i).Unhealthy } }
	up := func(i int) func() bool { return func() bool { return !e.target(i).Unhealthy } }
	for range 10 {
		wantBody(t, e.get("/"), 200, "")
	}
	if requests[0].Load() == 0 || requests[1].Load() == 0 {
		t.Errorf("requests went to %d and %d", requests[0].Load(), requests[1].Load())
	}
	sick[0].Store(true)
	eventually(t, "it is found out", down(0))
	if e.target(0).Check == "" {
		t.Error("nobody says why")
	}
	f := func() {
		t.Helper()
		before := requests[0].Load()
		for range 20 {
			wantBody(t, e.get("/"), 200, "")
		}
		if n := requests[0].Load() - before; n != 0 {
			t.Errorf("%d requests went to the sick target", n)
		}
	}
	f()
	e.apply(p.guarded(health+", balance: random", "budget: 10s"))
	if !e.target(0).Unhealthy {
		t.Error("the reload forgot")
	}
	f()
	sick[1].Store(true)
	eventually(t, "that one too", down(1))
	wantProblem(t, e.get("/"), fault.NoTarget)
	e.apply(p.guarded(health+", panic: 50%", ""))
	eventually(t, "panic", func() bool { return e.guards("main").Panic })
	wantBody(t, e.get("/"), 200, "")
	sick[0].Store(false)
	sick[1].Store(false)
	eventually(t, "all is well", func() bool { return up(0)() && up(1)() && !e.guards("main").Panic })
	wantBody(t, e.get("/"), 200, "")
}

// TestOutlier is a target whose answers are bad: it is passed over, but never
// so many that nobody is left, and a reload does not let it back in.
func TestOutlier(t *testing.T) {
	var bad [3]atomic.Bool
	var requests [3]atomic.Int64
	p := startPlay(t, 3, func(_, target int, _, _ string) string {
		requests[target].Add(1)
		if bad[target].Load() {
			return status(500, "own")
		}
		return okEmpty
	})
	const outlier = "outlier: { errors: 3, eject: 1h, max_eject: 1h, max_ejected: 50% }"
	e := startEdge(t, p.guarded(outlier, ""))
	bad[0].Store(true)
	for range 12 {
		e.get("/")
	}
	eventually(t, "it is ejected", func() bool { return e.target(0).Ejected })
	// A request that came before the third failure was settled may be a fourth.
	got := requests[0].Load()
	if got < 3 || got > 4 {
		t.Errorf("a bad target got %d requests, want 3", got)
	}
	e.apply(p.guarded(outlier, "budget: 10s"))
	bad[1].Store(true)
	bad[2].Store(true)
	for range 30 {
		e.get("/")
	}
	if n := requests[0].Load(); n != got {
		t.Errorf("while it was ejected it got %d requests", n-got)
	}
	if e.target(1).Ejected || e.target(2).Ejected {
		t.Error("more than half are ejected")
	}
	if g := e.guards("main"); g.Ejections != 1 {
		t.Errorf("%d ejections", g.Ejections)
	}
	// An only target is never ejected.
	only := startPlay(t, 1, func(_, _ int, _, _ string) string { return status(500, "own") })
	e = startEdge(t, only.guarded(outlier, ""))
	for range 10 {
		wantBody(t, e.get("/"), 500, "own")
	}
}

// TestOutlierOfBudgets is callers that leave no time: the targets are not to
// blame for what was never asked of them.
func TestOutlierOfBudgets(t *testing.T) {
	p := startPlay(t, 2, func(_, _ int, _, _ string) string { return okEmpty })
	e := startEdge(t, "forwarded: { trusted: [127.0.0.1], budget: X-Budget }\n"+p.guarded("outlier: { errors: 1, eject: 1h, max_eject: 1h }", ""))
	for range 20 {
		wantProblem(t, e.get("/", "X-Budget: 0"), fault.BudgetSpent)
	}
	p.wantSeen(0)
	for i := range 2 {
		if s := e.target(i); s.Ejected || s.Down {
			t.Errorf("target %d: %+v", i, s)
		}
	}
}

// TestStreamsLeaveTheAdaptiveLimit is event streams that go on for ever: they do
// not take the places of requests.
func TestStreamsLeaveTheAdaptiveLimit(t *testing.T) {
	o := startOrigin(t, func(w *wireEnd) {
		for {
			head, err := w.tryHead()
			if err != nil {
				return
			}
			if strings.HasPrefix(head, "GET /events") {
				w.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nping\n")
				_, _ = w.in.ReadByte()
				return
			}
			w.send(okEmpty)
		}
	})
	e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], adaptive: { initial: 10, min: 5, max: 10 } } }\nroutes: [ { name: all, upstream: main } ]\n")
	for range 20 {
		e.dial().send("GET /events HTTP/1.1\nHost: x\n\n").head()
	}
	if a := e.get("/"); a.StatusCode != 200 {
		t.Errorf("a request beside 20 streams: %s", a.Status)
	}
}

// TestStalledUploadBlamesNobody is clients that use up their requests' budgets
// themselves: no target is ejected and no breaker opens for it.
func TestStalledUploadBlamesNobody(t *testing.T) {
	p := startPlay(t, 2, func(_, _ int, _, _ string) string { return okEmpty })
	e := startEdge(t, p.guarded("outlier: { errors: 2 }, breaker: { min_requests: 2 }", "budget: 60ms"))
	for range 4 {
		wantProblem(t, e.dial().send("POST / HTTP/1.1\nHost: x\nContent-Length: 100000\n\nabc").response("POST"), fault.BudgetSpent)
	}
	if e.target(0).Ejected || e.target(1).Ejected {
		t.Error("a target was ejected")
	}
	wantBody(t, e.get("/"), 200, "")
}
