package proxy_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/fault"
)

// failingFirst fails its first n requests in some way and answers the others.
func failingFirst(n int, how string) func(int, int, string, string) string {
	return func(i, _ int, _, body string) string {
		if i <= n {
			return how
		}
		return status(200, "answer to "+body)
	}
}

// TestRetryConditions is one failure, and which conditions repeat a request for
// it.
func TestRetryConditions(t *testing.T) {
	bad := status(503, "busy")
	for _, c := range []struct {
		how     string
		on      string
		retried bool
		fault   fault.Kind // when it is not
	}{
		{reset, "reset", true, 0},
		{closed, "reset", true, 0},
		{garbage, "reset", true, 0},
		{hung, "timeout", true, 0},
		{bad, "503", true, 0},
		{reset, "", true, 0},
		{bad, "", true, 0},
		{hung, "", true, 0}, // per_try is set, so it is meant
		{reset, "connect, timeout, 503", false, fault.TargetReset},
		{garbage, "connect, timeout, 503", false, fault.BadAnswer},
		{hung, "connect, reset, 503, 504", false, fault.AnswerTimeout},
		{bad, "connect, reset, timeout, 500, 502, 504", false, fault.None},
		{status(500, "busy"), "", false, fault.None},
		{status(404, "busy"), "", false, fault.None},
	} {
		on := ""
		if c.on != "" {
			on = ", on: [" + c.on + "]"
		}
		p := startPlay(t, 1, failingFirst(1, c.how))
		e := startEdge(t, p.guarded("", "retry: { attempts: 2, backoff: 1ms, per_try: 150ms"+on+" }"))
		a := e.get("/")
		switch {
		case c.retried:
			wantBody(t, a, 200, "answer to ")
			p.wantSeen(2)
		case c.fault != fault.None:
			wantProblem(t, a, c.fault)
			p.wantSeen(1)
		default:
			if a.body != "busy" {
				t.Errorf("got %d %q, want the target's own answer", a.StatusCode, a.body)
			}
			p.wantSeen(1)
		}
		if t.Failed() {
			t.Fatalf("that was %q with on: [%s]", c.how, c.on)
		}
	}
}

// TestRetryConnect is a target that refuses: the next one is tried at once, at
// no attempt's cost, and when all have refused the policy decides.
func TestRetryConnect(t *testing.T) {
	gone := refusing(t)
	p := startPlay(t, 1, failingFirst(0, ""))
	e := startEdge(t, "upstreams: { main: { targets: [\"http://"+gone+"\", \"http://"+strings.Replace(gone, ".0.1:", ".1.1:", 1)+"\", \""+p.origins[0].url()+"\"] } }\n"+
		"routes: [ { name: all, upstream: main, retry: { attempts: 1 } } ]\n")
	for range 5 {
		wantBody(t, e.get("/"), 200, "answer to ")
	}
	for _, attempts := range []int{1, 3} {
		e = startEdge(t, "upstreams: { main: { targets: [\"http://"+gone+"\"] } }\n"+
			fmt.Sprintf("routes: [ { name: all, upstream: main, retry: { attempts: %d, backoff: 1ms } } ]\n", attempts))
		wantProblem(t, e.get("/"), fault.ConnectFailed)
		if s := e.target(0); s.Requests != uint64(attempts) {
			t.Errorf("a refusing target was tried %d times, want %d", s.Requests, attempts)
		}
	}
}

// TestRetryEndsWithManyTargets is an upstream with more targets than a request
// remembers, all of which refuse.
func TestRetryEndsWithManyTargets(t *testing.T) {
	gone := refusing(t)
	var urls []string
	_, port, _ := net.SplitHostPort(gone)
	for i := range 80 {
		urls = append(urls, fmt.Sprintf("\"http://127.0.1.%d:%s\"", i+1, port))
	}
	for _, retry := range []string{"", ", retry: { attempts: 2, backoff: 1ms }"} {
		e := startEdge(t, "upstreams: { main: { targets: ["+strings.Join(urls, ", ")+"] } }\n"+
			"routes: [ { name: all, upstream: main"+retry+" } ]\n")
		wantProblem(t, e.get("/"), fault.ConnectFailed)
	}
}

// TestRetryMethods is which requests may be repeated.
func TestRetryMethods(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false, "LOCK": false} {
		for _, all := range []bool{false, true} {
			p := startPlay(t, 1, func(n, _ int, _, _ string) string {
				if n == 1 {
					return "HTTP/1.1 503 Busy\nContent-Length: 0\n\n"
				}
				return okEmpty
			})
			e := startEdge(t, p.guarded("", fmt.Sprintf("retry: { attempts: 2, backoff: 1ms, non_idempotent: %v }", all)))
			a := e.ask(method, "/")
			if got := a.StatusCode == 200; got != (want || all) {
				t.Errorf("%s, non_idempotent %v: got %d", method, all, a.StatusCode)
			}
		}
	}
}

// TestRetryBodies is what becomes of a request's body when it is repeated.
func TestRetryBodies(t *testing.T) {
	f := func(name, framing string, size int, retried bool) {
		t.Helper()
		p := startPlay(t, 2, failingFirst(1, status(503, "busy")))
		e := startEdge(t, p.guarded("", "retry: { attempts: 2, backoff: 1ms, max_body: 64KiB }"))
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		w := e.dial()
		if framing == "chunked" {
			w.send(fmt.Sprintf("PUT / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n%x\n%s\n0\n\n", size, body))
		} else {
			w.send(fmt.Sprintf("PUT / HTTP/1.1\nHost: x\nContent-Length: %d\n%s\n", size, framing))
			if framing != "" {
				if head := w.head(); !strings.Contains(head, " 100 ") {
					t.Fatalf("%s: %s", name, head)
				}
			}
			// In two pieces, so that it is not there with the head.
			w.send(body[:size/2])
			w.send(body[size/2:])
		}
		a := w.response("PUT")
		switch {
		case retried:
			wantBody(t, a, 200, "answer to "+body)
			p.wantSeen(2)
			heads, took := p.seen()
			if took[0] == took[1] {
				t.Errorf("%s: tried again on the same target", name)
			}
			for _, h := range heads {
				if value(t, h, "Content-Length") != fmt.Sprint(size) {
					t.Errorf("%s: %s", name, h)
				}
			}
		default:
			wantBody(t, a, 503, "busy")
			p.wantSeen(1)
		}
		if t.Failed() {
			t.Fatal(name)
		}
		// The connection still knows where the next request begins, or ends.
		if !a.Close {
			wantBody(t, w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"), 200, "answer to ")
		}
	}
	f("small", "", 10, true)
	f("a buffer's", "", 16<<10, true)
	f("more than a buffer", "", 40<<10, true)
	f("the bound", "", 64<<10, true)
	f("above the bound", "", 64<<10+1, false)
	f("chunked", "chunked", 10, false)
	f("expect", "Expect: 100-continue\n", 10, false)
}

// TestRetryWantsWholeBody is a client that promises a body to be kept and does
// not send it all: nothing is forwarded.
func TestRetryWantsWholeBody(t *testing.T) {
	p := startPlay(t, 1, failingFirst(0, ""))
	e := startEdge(t, "server: { body_timeout: 100ms }\n"+p.guarded("", "retry: { attempts: 2 }, fallback: { body: never }"))
	w := e.dial().send("PUT / HTTP/1.1\nHost: x\nContent-Length: 40000\n\nsome")
	wantProblem(t, w.response("PUT"), fault.RequestTimeout)
	e = startEdge(t, p.guarded("", "retry: { attempts: 2 }, fallback: { body: never }"))
	_ = e.dial().send("PUT / HTTP/1.1\nHost: x\nContent-Length: 40000\n\nsome").Close()
	e = startEdge(t, p.guarded("", "budget: 200ms, retry: { attempts: 2 }, fallback: { body: never }"))
	w = e.dial().send("PUT / HTTP/1.1\nHost: x\nContent-Length: 40000\n\nsome")
	wantProblem(t, w.response("PUT"), fault.RequestTimeout) // his own time is over too
	p.wantSeen(0)
}

// TestRetryTargets is who is asked: another target while there is one, then all
// of them again, attempts in all; and the last answer is the client's.
func TestRetryTargets(t *testing.T) {
	p := startPlay(t, 3, func(n, _ int, head, _ string) string {
		return status(503, fmt.Sprint("busy ", n), "X-Of: target")
	})
	e := startEdge(t, p.guarded("", "retry: { attempts: 7, backoff: 1ms, floor: 100 }"))
	a := e.get("/", "Sluice-Try: 9")
	wantBody(t, a, 503, "busy 7")
	if value(t, a.head, "X-Of") != "target" {
		t.Error("not the target's own answer")
	}
	heads, took := p.seen()
	if len(took) != 7 {
		t.Fatalf("tried %v", took)
	}
	for _, round := range [][]int{took[:3], took[3:6]} {
		if s := slices.Sorted(slices.Values(round)); !slices.Equal(s, []int{0, 1, 2}) {
			t.Errorf("tried %v, want everyone once in a round", took)
		}
	}
	for i, h := range heads {
		lines := fieldLines(h, "Sluice-Try")
		if i == 0 && len(lines) != 0 || i > 0 && (len(lines) != 1 || lines[0] != fmt.Sprint("Sluice-Try: ", i+1)) {
			t.Errorf("try %d says %q", i+1, lines)
		}
	}
}

// TestRetryAfter is a target that says when to come back.
func TestRetryAfter(t *testing.T) {
	f := func(after, route string, retried bool) {
		t.Helper()
		p := startPlay(t, 1, failingFirst(1, status(503, "busy", "Retry-After: "+after)))
		e := startEdge(t, p.guarded("", route+"retry: { attempts: 2, backoff: 1ms }"))
		a := e.get("/")
		if retried {
			wantBody(t, a, 200, "answer to ")
		} else {
			wantBody(t, a, 503, "busy")
			p.wantSeen(1)
		}
		if t.Failed() {
			t.Fatalf("that was Retry-After: %s, %s", after, route)
		}
	}
	f("0", "", true)
	f("1", "", true)
	f("2", "", false) // too long for a request without a budget
	f("2147483648", "", false)
	f("2147483647", "budget: 1h, ", false)
	f("1", "budget: 900ms, ", false)
	f("1", "budget: 10s, ", true)
	f("-1", "", true)
	f("soon", "", false)
	f("Wed, 21 Oct 2065 07:28:00 GMT", "", false)
}

// TestRetryNeverBehindTheHead is what is never repeated: a request whose answer
// has begun to reach the client.
func TestRetryNeverBehindTheHead(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100", "Transfer-Encoding: chunked"} {
		o := startOrigin(t, func(w *wireEnd) {
			if _, err := w.tryHead(); err != nil {
				return
			}
			w.send("HTTP/1.1 200 OK\n" + framing + "\n\n4\npart\n")
		})
		e := startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes: [ { name: all, upstream: main, retry: { attempts: 5, backoff: 1ms }, fallback: { body: never } } ]\n")
		if a, err := e.dial().send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET"); err == nil {
			t.Errorf("%s: got a whole answer: %d %q", framing, a.StatusCode, a.body)
		}
		if n := o.connections(); n != 1 {
			t.Errorf("%s: tried %d times", framing, n)
		}
	}
}

// TestRetryBreaker is a failure that opens the breaker: there is no further
// try, and the answer that was passed over for it is the client's after all.
func TestRetryBreaker(t *testing.T) {
	p := startPlay(t, 2, func(n, _ int, _, _ string) string { return status(503, fmt.Sprint("busy ", n)) })
	e := startEdge(t, p.guarded("breaker: { min_requests: 3, error_rate: 50%, open: 1m }", "retry: { attempts: 9, backoff: 1ms, floor: 100 }"))
	wantBody(t, e.get("/"), 503, "busy 3")
	p.wantSeen(3)
	wantProblem(t, e.get("/"), fault.BreakerOpen)
	p.wantSeen(3)
	eventually(t, "connections are given back", func() bool { return e.target(0).Open == int64(e.target(0).Idle) })
}

// TestRetryStorm is an outage under load: tries beyond the first stay within
// the budget of them, and every client gets the target's own answer.
func TestRetryStorm(t *testing.T) {
	f := func(retry string, bound func(requests int) int) {
		t.Helper()
		var answered atomic.Int64
		p := startPlay(t, 3, func(_, _ int, _, _ string) string { return status(503, "busy") })
		e := startEdge(t, p.guarded("", "retry: { attempts: 4, backoff: 0, "+retry+" }"))
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				w := e.dial()
				for range 100 {
					if a, err := w.send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET"); err != nil || a.body != "busy" {
						t.Errorf("got %v, %v", a, err)
						return
					}
					answered.Add(1)
				}
			})
		}
		clients.Wait()
		heads, _ := p.seen()
		if extra := len(heads) - 800; extra > bound(800) || extra < bound(800)*8/10 {
			t.Errorf("%s: %d tries beyond the first for 800 requests, want about %d", retry, extra, bound(800))
		}
	}
	f("budget: 20%, floor: 0", func(n int) int { return n / 5 })
	f("budget: 5%, floor: 0", func(n int) int { return n / 20 })
	f("budget: 0%, floor: 0", func(int) int { return 0 })
	f("budget: 100%, floor: 1000000", func(n int) int { return 3 * n })
}

// TestRetryClientLeaves is a client that leaves while its request pauses.
func TestRetryClientLeaves(t *testing.T) {
	p := startPlay(t, 1, func(n, _ int, _, _ string) string { return status(503, "busy", "Retry-After: 30") })
	e := startEdge(t, p.guarded("", "budget: 10m, retry: { attempts: 2 }"))
	w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	eventually(t, "the target is asked", func() bool { h, _ := p.seen(); return len(h) == 1 })
	_ = w.Close()
	eventually(t, "the request ends", func() bool {
		connections, _ := e.gateway.Engine.Counts()
		return connections == 0
	})
	p.wantSeen(1)
	e.stop()
	if !strings.Contains(e.log(), `"flag":"client-gone"`) {
		t.Error(e.log())
	}
}

// TestRetryQueueFull is a target whose connections are all taken: one that has
// room is asked instead.
func TestRetryQueueFull(t *testing.T) {
	p := startPlay(t, 2, func(_, target int, head, _ string) string {
		if strings.Contains(head, "GET /hold") {
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, p.guarded("connections: { max: 1, queue: 0 }", ""))
	e.dial().send("GET /hold HTTP/1.1\nHost: x\n\n")
	eventually(t, "one target is taken", func() bool { h, _ := p.seen(); return len(h) == 1 })
	for range 4 {
		wantBody(t, e.get("/"), 200, "")
	}
	e.dial().send("GET /hold HTTP/1.1\nHost: x\n\n")
	eventually(t, "both are taken", func() bool { h, _ := p.seen(); return len(h) == 6 })
	wantProblem(t, e.get("/"), fault.QueueFull)
}

// TestRetryDrain is the end of the grace time while a request pauses: nothing is
// tried again, and the pause is not waited for.
func TestRetryDrain(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string { return status(503, "busy", "Retry-After: 3000") })
	e := startEdge(t, p.guarded("", "budget: 2h, retry: { attempts: 2 }"))
	e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	eventually(t, "the target is asked", func() bool { h, _ := p.seen(); return len(h) == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cut := make(chan int, 1)
	go func() { cut <- e.drain(ctx) }()
	if n := within(t, "the gateway ends", cut); n != 1 {
		t.Errorf("cut %d clients, want 1", n)
	}
	p.wantSeen(1)
}
