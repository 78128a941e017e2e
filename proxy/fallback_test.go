package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"sluice/fault"
)

// TestFallbacks is how a route's upstream fails, and what the client gets of
// the route's fallbacks.
func TestFallbacks(t *testing.T) {
	const static = "{ status: 203, body: static, type: text/plain, headers: { X-Static: yes } }"
	const spare = "{ upstream: spare }"
	busy := status(503, "busy")
	for _, c := range []struct {
		name          string
		how           string // what the upstream does
		upstream      string // more of its settings
		route         string
		spare         string // what the spare one does
		code          int
		body          string
		fault         fault.Kind
		by            string // Sluice-Fallback
		saw, sawSpare int
	}{
		{"reset", reset, "", "fallback: " + static, "", 203, "static", 0, "static", 1, 0},
		{"garbage", garbage, "", "fallback: " + static, "", 203, "static", 0, "static", 1, 0},
		{"timeout", hung, "timeouts: { response: 100ms }", "fallback: " + static, "", 203, "static", 0, "static", 1, 0},
		{"budget", hung, "", "budget: 100ms, fallback: " + static, "", 203, "static", 0, "static", 1, 0},
		{"status", busy, "", "fallback: " + static, "", 203, "static", 0, "static", 1, 0},
		{"status not listed", status(500, "own"), "", "fallback: " + static, "", 500, "own", 0, "", 1, 0},
		{"statuses of one's own", status(404, "own"), "", "fallback: { on: [404], body: static }", "", 200, "static", 0, "static", 1, 0},
		{"listed no more", busy, "", "fallback: { on: [404], body: static }", "", 503, "busy", 0, "", 1, 0},
		{"body alone", reset, "", "fallback: { body: static }", "", 200, "static", 0, "static", 1, 0},
		{"upstream", reset, "", "fallback: " + spare, status(200, "spare"), 200, "spare", 0, "upstream=spare", 1, 1},
		{"upstream for a status", busy, "", "fallback: " + spare, status(200, "spare"), 200, "spare", 0, "upstream=spare", 1, 1},
		{"upstream's own status", reset, "", "fallback: " + spare, status(503, "spare"), 503, "spare", 0, "upstream=spare", 1, 1},
		{"upstream's 404", reset, "", "fallback: " + spare, status(404, "spare"), 404, "spare", 0, "upstream=spare", 1, 1},
		{"both fail", reset, "", "fallback: " + spare, reset, 0, "", fault.TargetReset, "", 1, 1},
		{"upstream, then static", reset, "", "fallback: [" + spare + ", " + static + "]", status(200, "spare"), 200, "spare", 0, "upstream=spare", 1, 1},
		{"upstream fails, then static", reset, "", "fallback: [" + spare + ", " + static + "]", reset, 203, "static", 0, "static", 1, 1},
		{"upstream is busy, then static", busy, "", "fallback: [" + spare + ", " + static + "]", busy, 203, "static", 0, "static", 1, 1},
		{"no time for the upstream", hung, "", "budget: 100ms, fallback: [" + spare + ", " + static + "]", "", 203, "static", 0, "static", 1, 0},
		{"no time for the only one", hung, "", "budget: 100ms, fallback: " + spare, "", 0, "", fault.BudgetSpent, "", 1, 0},
		{"after the tries", busy, "", "retry: { attempts: 3, backoff: 0, floor: 100 }, fallback: " + spare, status(200, "spare"), 200, "spare", 0, "upstream=spare", 3, 1},
		{"of a hedge", hung, "timeouts: { response: 100ms }", "hedge: 10ms, fallback: " + static, "", 203, "static", 0, "static", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPlay(t, 1, func(_, _ int, _, _ string) string { return c.how })
			s := startPlay(t, 1, func(_, _ int, _, _ string) string { return c.spare })
			e, m := startMeasuredEdge(t, p.guarded(c.upstream, c.route, "  spare: { targets: "+s.targets()+" }"))
			w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
			a := w.response("GET")
			if c.fault != fault.None {
				wantProblem(t, a, c.fault)
			} else {
				wantBody(t, a, c.code, c.body)
			}
			by := strings.TrimPrefix(strings.Join(fieldLines(a.head, "Sluice-Fallback"), "|"), "Sluice-Fallback: ")
			if by != c.by {
				t.Errorf("Sluice-Fallback is %q, want %q", by, c.by)
			}
			p.wantSeen(c.saw)
			s.wantSeen(c.sawSpare)
			if c.code == 203 && (value(t, a.head, "X-Static") != "yes" || value(t, a.head, "Content-Type") != "text/plain") {
				t.Error(a.head)
			}
			want := 0.0
			if c.by != "" {
				want = 1
			}
			eventually(t, "the fallback is counted", func() bool {
				return metric(t, m, "sluice_fallbacks_total", "route=all") == want
			})
			// The client's connection is good for another one.
			if a.Close {
				t.Errorf("the connection ends: %s", a.head)
			}
		})
	}
}

// TestFallbackNotForClients is what is the client's own fault, or nobody's.
func TestFallbackNotForClients(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string { return hung })
	s := startPlay(t, 1, func(_, _ int, _, _ string) string { return okEmpty })
	e := startEdge(t, p.guarded("", "max_body: 10, fallback: [ { upstream: spare }, { body: static } ]", "  spare: { targets: "+s.targets()+" }"))
	f := func(f fault.Kind, request string) {
		t.Helper()
		wantProblem(t, e.dial().send(request).response("POST"), f)
	}
	f(fault.BadRequest, "GET / HTTP/1.1\nHost: x\nContent-Length: 1, 2\n\n")
	f(fault.BodyTooLarge, "POST / HTTP/1.1\nHost: x\nContent-Length: 11\n\n01234567890")
	f(fault.BodyTooLarge, "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n14\n01234567890123456789\n0\n\n")
	f(fault.BadRequest, "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\nzz\n")
	w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	saw, _ := p.seen()
	eventually(t, "the target is asked", func() bool { h, _ := p.seen(); return len(h) > len(saw)-1 && len(h) > 0 && e.target(0).Active > 0 })
	_ = w.Close()
	eventually(t, "all clients are gone", func() bool {
		n, _ := e.gateway.Engine.Counts()
		return e.target(0).Active == 0 && n <= 4
	})
	s.wantSeen(0)
}

// TestFallbackBodies is a request with a body: a fallback upstream gets all of
// it, or is not asked.
func TestFallbackBodies(t *testing.T) {
	f := func(name, route, how string, size int, chunked bool, code int, body string) {
		t.Helper()
		p := startPlay(t, 1, func(_, _ int, _, _ string) string { return how })
		s := startPlay(t, 1, func(_, _ int, head, body string) string {
			return status(200, fmt.Sprint(value(t, head, "Content-Length"), " ", len(body), " ", body[:min(len(body), 3)]))
		})
		e := startEdge(t, p.guarded("", route+"fallback: [ { upstream: spare }, { status: 203, body: static } ]", "  spare: { targets: "+s.targets()+" }"))
		w := e.dial()
		text := strings.Repeat("abc", size/3+1)[:size]
		if chunked {
			w.send(fmt.Sprintf("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n%x\n%s\n0\n\n", size, text))
		} else {
			w.send(fmt.Sprintf("POST / HTTP/1.1\nHost: x\nContent-Length: %d\n\n", size)).send(text)
		}
		a := w.response("POST")
		wantBody(t, a, code, body)
		if t.Failed() {
			t.Fatal(name)
		}
		if !a.Close {
			wantBody(t, w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc").response("POST"), 200, "3 3 abc")
		}
	}
	busy := status(503, "busy")
	f("in the buffer", "", reset, 10, false, 200, "10 10 abc")
	f("in the buffer, status", "", busy, 10, false, 200, "10 10 abc")
	f("kept for a retry", "retry: { attempts: 1 }, ", busy, 40<<10, false, 200, "40960 40960 abc")
	f("streamed", "", busy, 40<<10, false, 203, "static")
	f("streamed, reset", "", reset, 40<<10, false, 203, "static")
	f("chunked", "", busy, 10, true, 203, "static")
	f("chunked, reset", "", reset, 10, true, 203, "static")
}

// TestFallbackMirrorsOnce is a mirrored request that falls back.
func TestFallbackMirrorsOnce(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string { return reset })
	s := startPlay(t, 1, func(_, _ int, _, _ string) string { return okEmpty })
	shadow := startPlay(t, 1, func(_, _ int, _, _ string) string { return okEmpty })
	e := startEdge(t, p.guarded("", "mirror: shadow, fallback: { upstream: spare }",
		"  spare: { targets: "+s.targets()+" }", "  shadow: { targets: "+shadow.targets()+" }"))
	for range 5 {
		wantBody(t, e.get("/"), 200, "")
	}
	eventually(t, "the copies arrive", func() bool { h, _ := shadow.seen(); return len(h) >= 5 })
	e.stop()
	shadow.wantSeen(5)
}

// TestFallbackWithinBulkhead is a route's bound on its requests at work: a
// fallback is work too, and no way around it.
func TestFallbackWithinBulkhead(t *testing.T) {
	p := startPlay(t, 1, func(_, _ int, _, _ string) string { return reset })
	s := startPlay(t, 1, func(_, _ int, _, _ string) string { return hung })
	e := startEdge(t, p.guarded("", "concurrency: { max: 1 }, fallback: [ { upstream: spare }, { status: 203, body: static } ]",
		"  spare: { targets: "+s.targets()+" }"))
	e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	eventually(t, "the fallback is at work", func() bool { h, _ := s.seen(); return len(h) == 1 })
	wantBody(t, e.get("/"), 203, "static")
	s.wantSeen(1)
	p.wantSeen(1)
}
