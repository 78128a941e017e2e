package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/fault"
)

const hedged = "hedge: 10ms"

// TestHedgeSecondWins is a first target that hangs: the second's answer is the
// client's, and the first try is cancelled.
func TestHedgeSecondWins(t *testing.T) {
	p := startPlay(t, 2, func(n, _ int, head, _ string) string {
		if n == 1 {
			return hung
		}
		return status(200, "second")
	})
	e, m := startMeasuredEdge(t, p.guarded("", hedged))
	w := e.dial().send("GET / HTTP/1.1\nHost: x\nSluice-Try: 7\n\n")
	wantBody(t, w.response("GET"), 200, "second")
	if n := within(t, "the first try is cancelled", p.ended); n != 1 {
		t.Errorf("request %d was cancelled", n)
	}
	heads, took := p.seen()
	if len(took) != 2 || took[0] == took[1] {
		t.Fatalf("asked %v", took)
	}
	if l := fieldLines(heads[0], "Sluice-Try"); len(l) != 0 {
		t.Errorf("the first says %q", l)
	}
	if v := value(t, heads[1], "Sluice-Try"); v != "2" {
		t.Errorf("the second says %q", v)
	}
	// The connections live on, the client's and the winner's.
	wantBody(t, w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"), 200, "second")
	if n := metric(t, m, "sluice_extra_tries_total", "route=all", "kind=hedge"); n < 1 {
		t.Errorf("%v hedges are counted", n)
	}
	wantNoneInFlight(t, e, 2)
	if n := p.origins[took[1]].connections(); n > 2 {
		t.Errorf("the winner's connection was used for one request only: there were %d", n)
	}
}

// wantNoneInFlight checks that nothing is left of the requests: no try is at
// work and every connection is idle.
func wantNoneInFlight(t *testing.T, e *edge, targets int) {
	t.Helper()
	for i := range targets {
		eventually(t, "all tries have ended", func() bool {
			s := e.target(i)
			return s.Active == 0 && s.Open == int64(s.Idle) && s.Waiting == 0
		})
	}
}

// TestHedgeNotDue is a target that answers in time.
func TestHedgeNotDue(t *testing.T) {
	p := startPlay(t, 2, func(_, _ int, _, _ string) string { return okEmpty })
	e := startEdge(t, p.guarded("", "hedge: 10s"))
	for range 50 {
		wantBody(t, e.get("/"), 200, "")
	}
	p.wantSeen(50)
}

// TestHedgeFirstWins is a first target that answers while the second is at work.
func TestHedgeFirstWins(t *testing.T) {
	second := make(chan bool)
	p := startPlay(t, 2, func(n, _ int, _, _ string) string {
		if n == 1 {
			<-second
			return status(200, "first")
		}
		close(second)
		return hung
	})
	e := startEdge(t, p.guarded("", hedged))
	wantBody(t, e.get("/"), 200, "first")
	if n := within(t, "the second try is cancelled", p.ended); n != 2 {
		t.Errorf("request %d was cancelled", n)
	}
	wantNoneInFlight(t, e, 2)
}

// TestHedgeEndings is how both tries end, and what the client gets. The first
// ends when the second has begun, and the second when the first has ended
// where it says so.
func TestHedgeEndings(t *testing.T) {
	busy := status(503, "busy")
	for _, c := range []struct {
		name, route, first, second string
		code                       int
		body                       string
		fault                      fault.Kind
	}{
		{"first fails", hedged, reset, status(200, "second"), 200, "second", 0},
		{"first talks garbage", hedged, garbage, status(200, "second"), 200, "second", 0},
		{"both fail", hedged, reset, reset, 0, "", fault.TargetReset},
		{"second fails", hedged, "late", reset, 200, "late", 0},
		{"second is busy", hedged + ", retry: { attempts: 1, on: [503] }", "late", busy, 200, "late", 0},
		{"first is busy", hedged + ", retry: { attempts: 1, on: [503] }", busy, status(200, "second"), 200, "second", 0},
		{"both are busy", hedged + ", retry: { attempts: 1, on: [503] }", busy, busy, 503, "busy", 0},
		{"second is busy, no policy", hedged, "late", busy, 200, "late", 0},
		{"first is busy, no policy", hedged, busy, status(200, "second"), 200, "second", 0},
		{"not found is an answer", hedged, hung, status(404, "second"), 404, "second", 0},
		{"both hang", hedged + ", budget: 100ms", hung, hung, 0, "", fault.BudgetSpent},
		{"both hang, fallback", hedged + ", budget: 100ms, fallback: { body: static }", hung, hung, 200, "static", 0},
		{"both fail, then retried", hedged + ", retry: { attempts: 2, backoff: 1ms, floor: 10 }", reset, reset, 200, "third", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			began, over := make(chan bool), make(chan bool)
			p := startPlay(t, 2, func(n, _ int, _, _ string) string {
				switch {
				case n == 1:
					<-began
					if c.first == "late" {
						<-over
						return status(200, "late")
					}
					return c.first
				case n == 2:
					close(began)
					if c.first == "late" {
						defer close(over)
					}
					return c.second
				}
				return status(200, "third")
			})
			e := startEdge(t, p.guarded("", c.route))
			a := e.get("/")
			if c.fault != fault.None {
				wantProblem(t, a, c.fault)
			} else {
				wantBody(t, a, c.code, c.body)
			}
			wantNoneInFlight(t, e, 2)
		})
	}
}

// TestHedgeClientLeaves is a client that leaves while two tries are at work, or
// while only the second is: no try outlives it.
func TestHedgeClientLeaves(t *testing.T) {
	for _, first := range []string{hung, reset} {
		began := make(chan bool)
		p := startPlay(t, 2, func(n, _ int, _, _ string) string {
			if n == 1 {
				<-began
				return first
			}
			close(began)
			return hung
		})
		e := startEdge(t, p.guarded("", hedged))
		w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
		within(t, "the second try", began)
		_ = w.Close()
		within(t, "a try is cancelled", p.ended)
		if first == hung {
			within(t, "both tries are cancelled", p.ended)
		}
		wantNoneInFlight(t, e, 2)
		e.stop()
		if !strings.Contains(e.log(), `"flag":"client-gone"`) {
			t.Error(e.log())
		}
	}
}

// TestHedgeNobody is a second try that is due and cannot be: the first goes on,
// and a retry may still ask the target that a hedge had no leave to.
func TestHedgeNobody(t *testing.T) {
	t.Run("no other target", func(t *testing.T) {
		p := startPlay(t, 1, func(n, _ int, _, _ string) string { time.Sleep(60 * time.Millisecond); return okEmpty })
		e := startEdge(t, p.guarded("", hedged))
		wantBody(t, e.get("/"), 200, "")
		p.wantSeen(1)
	})
	t.Run("no budget", func(t *testing.T) {
		p := startPlay(t, 2, func(n, _ int, _, _ string) string { time.Sleep(60 * time.Millisecond); return okEmpty })
		e := startEdge(t, p.guarded("", hedged+", retry: { budget: 0, floor: 0 }"))
		wantBody(t, e.get("/"), 200, "")
		p.wantSeen(1)
	})
	t.Run("no budget, target gone", func(t *testing.T) {
		// The first target takes the connection late enough for the hedge to
		// be due and refused; what it would have asked is still untried.
		p := startPlay(t, 2, func(n, target int, _, _ string) string {
			if n == 1 {
				time.Sleep(60 * time.Millisecond)
				return reset
			}
			return status(200, fmt.Sprint(target))
		})
		e := startEdge(t, p.guarded("", hedged+", retry: { budget: 100%, floor: 0, backoff: 0 }"))
		a := e.get("/") // one token: the hedge takes it or the retry does
		if a.StatusCode != 200 {
			t.Errorf("got %d %s", a.StatusCode, a.body)
		}
		if _, took := p.seen(); len(took) != 2 || took[0] == took[1] {
			t.Errorf("asked %v", took)
		}
	})
	t.Run("not idempotent", func(t *testing.T) {
		p := startPlay(t, 2, func(n, _ int, _, _ string) string { time.Sleep(60 * time.Millisecond); return okEmpty })
		e := startEdge(t, p.guarded("", hedged))
		wantBody(t, e.ask("POST", "/", "Content-Length: 0"), 200, "")
		p.wantSeen(1)
	})
}

// TestHedgeByHash is consistent hashing: second tries of different callers do
// not all go to one target.
func TestHedgeByHash(t *testing.T) {
	firsts := map[string]bool{}
	var mu sync.Mutex
	p := startPlay(t, 4, func(_, _ int, head, _ string) string {
		mu.Lock()
		defer mu.Unlock()
		if k := value(t, head, "X-Key"); !firsts[k] {
			firsts[k] = true
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, p.guarded("balance: hash, hash: { header: X-Key }", hedged+", retry: { floor: 1000 }"))
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() { wantBody(t, e.get("/", fmt.Sprint("X-Key: ", i)), 200, "") })
	}
	clients.Wait()
	heads, took := p.seen()
	seconds := map[int]bool{}
	for i, h := range heads {
		if len(fieldLines(h, "Sluice-Try")) > 0 {
			seconds[took[i]] = true
		}
	}
	if len(seconds) < 2 {
		t.Errorf("every second try went to %v", seconds)
	}
}

// TestHedgePercentile is a hedge after a percentile of the live answer times:
// there is none until enough of them are known.
func TestHedgePercentile(t *testing.T) {
	var slow atomic.Bool
	p := startPlay(t, 2, func(n, _ int, head, _ string) string {
		if slow.Load() && len(fieldLines(head, "Sluice-Try")) == 0 {
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, p.guarded("", "hedge: p95"))
	for range 20 {
		e.get("/")
	}
	eventually(t, "the times are known", func() bool { return e.guards("main").P99MS > 0 })
	slow.Store(true)
	wantBody(t, e.get("/"), 200, "")
}

// TestHedgeBody is a request with a body, and answers of every framing: the
// second try sends the same body, and its answer arrives whole.
func TestHedgeBody(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 64<<10)
	for _, answer := range []string{
		status(200, big),
		fmt.Sprintf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n%x\n%s\n0\n\n", len(big), big),
	} {
		p := startPlay(t, 2, func(n, _ int, _, body string) string {
			switch {
			case len(body) != 30<<10:
				return status(400, "no body")
			case n%2 == 1:
				return hung
			}
			return answer
		})
		e := startEdge(t, p.guarded("", hedged+", retry: { floor: 100 }"))
		w := e.dial()
		for range 3 {
			w.send(fmt.Sprintf("PUT / HTTP/1.1\nHost: x\nContent-Length: %d\n\n", 30<<10)).send(big[:30<<10])
			if a := w.response("PUT"); a.StatusCode != 200 || a.body != big {
				t.Fatalf("got %d, %d bytes", a.StatusCode, len(a.body))
			}
		}
		wantNoneInFlight(t, e, 2)
	}
}

// TestHedgeNeverMixesAnswers is many clients against targets that are slow,
// busy and broken at random, with hedges, retries and a budget at once: every
// answer is the one to its own request, and nothing is left over.
func TestHedgeNeverMixesAnswers(t *testing.T) {
	filler := strings.Repeat("x", 40<<10)
	p := startPlay(t, 3, func(_, _ int, head, _ string) string {
		id := value(t, head, "X-Id")
		switch r := rand.IntN(100); {
		case r < 25:
			time.Sleep(time.Duration(rand.IntN(12)) * time.Millisecond)
		case r < 28:
			return reset
		case r < 31:
			return status(503, "busy "+id)
		case r < 32:
			return hung
		}
		return status(200, id+" "+filler[:[]int{0, 100, 20 << 10, 40 << 10}[rand.IntN(4)]])
	})
	e := startEdge(t, p.guarded("connections: { max: 40 }", "budget: 3s, hedge: 1ms, retry: { attempts: 3, on: [connect, reset, timeout, 503], per_try: 200ms, backoff: 2ms, budget: 100%, floor: 10000 }"))
	requests := 150
	if testing.Short() {
		requests = 30
	}
	var good, busy, failed atomic.Int64
	var clients sync.WaitGroup
	for c := range 16 {
		clients.Go(func() {
			w := e.dial()
			for i := range requests {
				id := fmt.Sprintf("%d-%d", c, i)
				a, err := w.send("GET /" + id + " HTTP/1.1\nHost: x\nX-Id: " + id + "\n\n").tryResponse("GET")
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				switch word, _, _ := strings.Cut(a.body, " "); {
				case a.StatusCode == 200 && word == id:
					good.Add(1)
				case a.StatusCode == 503 && a.body == "busy "+id:
					busy.Add(1)
				case slices.Contains([]int{502, 503, 504}, a.StatusCode) && strings.Contains(a.body, "urn:sluice:"):
					failed.Add(1)
				default:
					t.Errorf("%s: got %d %.60q", id, a.StatusCode, a.body)
				}
			}
		})
	}
	clients.Wait()
	wantNoneInFlight(t, e, 3)
	if all := int64(16 * requests); good.Load() < all*95/100 {
		t.Errorf("%d of %d requests were answered well, %d busy, %d failed", good.Load(), all, busy.Load(), failed.Load())
	}
	heads, _ := p.seen()
	t.Logf("%d good, %d busy, %d failed, %d tries", good.Load(), busy.Load(), failed.Load(), len(heads))
}

// TestHungTargetIsFoundOut is a target that hangs while hedges cover for it: it
// is ejected as if it had failed.
func TestHungTargetIsFoundOut(t *testing.T) {
	p := startPlay(t, 2, func(_, target int, _, _ string) string {
		if target == 0 {
			return hung
		}
		return okEmpty
	})
	e := startEdge(t, p.guarded("outlier: { errors: 3, eject: 1m }", hedged+", retry: { attempts: 1, budget: 100% }"))
	for range 12 {
		wantBody(t, e.get("/"), 200, "")
	}
	if s := e.target(0); !s.Ejected {
		t.Errorf("%d requests hung there and it is still asked", s.Requests)
	}
}
