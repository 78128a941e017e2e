package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lineBack answers with the request line and Host that it saw.
var lineBack = answering(func(head, _ string) string {
	line, _, _ := strings.Cut(head, " HTTP/1.1\n")
	return ok(line)
})

func TestRewrite(t *testing.T) {
	o := startOrigin(t, lineBack)
	f := func(path, more string, cases ...[2]string) {
		t.Helper()
		e := startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes: [ { name: r, match: \""+path+"\", upstream: main"+more+" } ]\n")
		for _, c := range cases {
			if a := e.get(c[0]); a.body != "GET "+c[1] {
				t.Errorf("%s %s: %s gave %d %q, want %q", path, more, c[0], a.StatusCode, a.body, c[1])
			}
		}
	}
	type c = [2]string
	f("/*", "", c{"/", "/"}, c{"/a?", "/a?"}, c{"/a?b=c&d=%7e/../", "/a?b=c&d=%7e/../"}, c{"/./a//b/%41%2f?x", "/a/b/A%2F?x"},
		c{"/a/%2e%2e/b", "/b"}, c{"/a;x=1", "/a;x=1"}, c{"/a?{}^`|[]\\", "/a?{}^`|[]\\"})
	f("/*", ", path_form: raw", c{"/./a//b/%41%2f?x", "/./a//b/%41%2f?x"}, c{"/a/%2e%2e/b", "/a/%2e%2e/b"})
	f("/users/{id}", ", rewrite: { path: \"/v2/users/{id}\" }", c{"/users/7", "/v2/users/7"}, c{"/users/7?a=b", "/v2/users/7?a=b"}, c{"/users/a%2fb", "/v2/users/a%2Fb"})
	f("/users/{id}", ", rewrite: { path: \"/v2?user={id}&{query}\" }", c{"/users/7?a=b", "/v2?user=7&a=b"})
	f("/f/{rest:*}", ", rewrite: { path: \"/g/{rest}\" }", c{"/f/a/b/", "/g/a/b/"}, c{"/f/", "/g/"}, c{"/f", "/g/"})
	f("/{a}/{b:[0-9]+}-{c}", ", rewrite: { path: \"/{c}/{b}/{a}\" }", c{"/x/1-y", "/y/1/x"})
	f("/api/*", ", rewrite: { strip_prefix: /api }", c{"/api/a", "/a"}, c{"/api/", "/"}, c{"/api", "/"}, c{"/api?x", "/?x"}, c{"/api/api/a", "/api/a"})
	f("/*", ", rewrite: { strip_prefix: /api }", c{"/apis/a", "/apis/a"}, c{"/other", "/other"})
	f("/*", ", rewrite: { strip_prefix: /api/ }", c{"/api/a", "/a"}, c{"/api/", "/"})
	f("/*", ", rewrite: { add_prefix: /v1 }", c{"/a", "/v1/a"}, c{"/", "/v1/"})
	f("/*", ", rewrite: { add_prefix: /v1/ }", c{"/a", "/v1/a"}, c{"/", "/v1/"})
	f("/*", ", rewrite: { strip_prefix: /api, add_prefix: /v1 }", c{"/api/a?q", "/v1/a?q"}, c{"/api", "/v1/"})
}

func TestRedirect(t *testing.T) {
	f := func(route, request, want string, status int) {
		t.Helper()
		e := startEdge(t, "routes: [ { name: r, "+route+" } ]\n")
		w := e.dial().send(request)
		a := w.response(strings.Fields(request)[0])
		if a.StatusCode != status || value(t, a.head, "Location") != want || a.body != "" {
			t.Errorf("%s: %s", route, a.head)
		}
	}
	f(`match: "/old/{id}", redirect: "/new/{id}"`, "GET /old/7 HTTP/1.1\nHost: x\n\n", "/new/7", 308)
	f(`match: "/*", redirect: { to: "https://{host}{path}?{query}", status: 301 }`, "GET /a/%41?b=c HTTP/1.1\nHost: www.x.org\n\n", "https://www.x.org/a/A?b=c", 301)
	f(`match: "/*", redirect: { to: "{scheme}://y.org{path}", status: 302 }`, "POST /a HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc", "http://y.org/a", 302)
	f(`match: "/*", redirect: "/x"`, "HEAD / HTTP/1.1\nHost: x\n\n", "/x", 308)
}

func TestRespond(t *testing.T) {
	e := startEdge(t, "routes:\n"+
		"- { name: text, match: /text, respond: \"hello\\n\" }\n"+
		"- { name: json, match: /json, respond: { status: 418, type: application/json, body: \"{}\", headers: { X-A: b, Cache-Control: no-store } } }\n"+
		"- { name: none, match: /none, respond: { status: 204 } }\n"+
		"- { name: empty, match: /empty, respond: { status: 200 } }\n")
	f := func(method, path string, status int, kind, body string) *answer {
		t.Helper()
		a := e.ask(method, path)
		if a.StatusCode != status || a.Header.Get("Content-Type") != kind || a.body != body {
			t.Errorf("%s %s: %s\n%s", method, path, a.head, a.body)
		}
		return a
	}
	f("GET", "/text", 200, "text/plain; charset=utf-8", "hello\n")
	if a := f("HEAD", "/text", 200, "text/plain; charset=utf-8", ""); a.Header.Get("Content-Length") != "6" {
		t.Errorf("HEAD: %s", a.head)
	}
	if a := f("POST", "/json", 418, "application/json", "{}"); a.Header.Get("X-A") != "b" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s", a.head)
	}
	if a := f("GET", "/none", 204, "", ""); len(fieldLines(a.head, "Content-Length")) != 0 {
		t.Errorf("204: %s", a.head)
	}
	if a := f("GET", "/empty", 200, "", ""); a.Header.Get("Content-Length") != "0" {
		t.Errorf("%s", a.head)
	}
	// Bodies that nobody wants do not disturb what follows.
	w := e.dial()
	for _, n := range []int{0, 10, 20000, 200000} {
		w.send(fmt.Sprintf("POST /text HTTP/1.1\nHost: x\nContent-Length: %d\n\n", n)).sendRaw(noise(n))
		if a := w.response("POST"); a.body != "hello\n" {
			t.Fatalf("%d: %q", n, a.body)
		}
	}
}

func TestOwnFaults(t *testing.T) {
	gone := startOrigin(t, headBack)
	gone.stop() // nobody listens there any more
	e := startEdge(t, "upstreams: { main: \""+gone.url()+"\" }\nroutes: [ { name: main, match: { path: /main, methods: [GET, PUT] }, upstream: main } ]\n")
	f := func(method, path string, status int, problem, title string) *answer {
		t.Helper()
		a := e.ask(method, path)
		id := value(t, a.head, "X-Request-Id")
		want := fmt.Sprintf("{\"type\":\"urn:sluice:problem:%s\",\"title\":\"%s\",\"status\":%d,\"request_id\":\"%s\"}\n", problem, title, status, id)
		if method == "HEAD" {
			want = ""
		}
		if a.StatusCode != status || a.Header.Get("Content-Type") != "application/problem+json" || a.body != want || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %s\n%s", method, path, a.head, a.body)
		}
		return a
	}
	f("GET", "/nowhere", 404, "not-found", "No route matches the request")
	f("HEAD", "/nowhere", 404, "not-found", "")
	if a := f("POST", "/main", 405, "method-not-allowed", "The method is not allowed here"); value(t, a.head, "Allow") != "GET, HEAD, PUT" {
		t.Errorf("%s", a.head)
	}
	f("GET", "/main", 502, "connect-failed", "The backend cannot be reached")
	f("GET", "/../x", 400, "bad-request", "The request is malformed")
}

func TestSplit(t *testing.T) {
	side := func(name string) *origin {
		return startOrigin(t, answering(func(string, string) string { return ok(name) }))
	}
	a, b, c := side("a"), side("b"), side("c")
	config := func(split string) string {
		return "upstreams: { a: \"" + a.url() + "\", b: \"" + b.url() + "\", c: \"" + c.url() + "\" }\n" +
			"routes: [ { name: s, split: { to: [ { upstream: a, weight: 3 }, { upstream: b, weight: 1 }, { upstream: c, weight: 0 } ]" + split + " } } ]\n"
	}
	t.Run("weights", func(t *testing.T) {
		e := startEdge(t, config(""))
		w := e.dial()
		n := map[string]int{}
		for range 2000 {
			n[w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET").body]++
		}
		// Four standard deviations around 1500.
		if n["a"] < 1422 || n["a"] > 1578 || n["c"] != 0 || n["a"]+n["b"] != 2000 {
			t.Errorf("%v", n)
		}
	})
	t.Run("cookie", func(t *testing.T) {
		e := startEdge(t, config(", cookie: side"))
		seen := map[string]bool{}
		for range 40 {
			first := e.get("/", "Cookie: other=1")
			set := value(t, first.head, "Set-Cookie")
			pair, _, _ := strings.Cut(set, ";")
			if pair != "side="+first.body {
				t.Fatalf("%q on side %s", set, first.body)
			}
			seen[first.body] = true
			w := e.dial()
			for range 5 {
				next := w.send("GET / HTTP/1.1\nHost: x\nCookie: x=y; " + pair + "; z=1\n\n").response("GET")
				if next.body != first.body || len(fieldLines(next.head, "Set-Cookie")) != 0 {
					t.Fatalf("with %q: %s\n%s", pair, next.body, next.head)
				}
			}
		}
		if !seen["a"] || !seen["b"] {
			t.Errorf("sides %v", seen)
		}
		// A side that is no more, or gets nothing, is not stuck to.
		for _, value := range []string{"c", "nobody", ""} {
			if r := e.get("/", "Cookie: side="+value); r.body == "c" || len(fieldLines(r.head, "Set-Cookie")) != 1 {
				t.Errorf("side=%s: %s", value, r.head)
			}
		}
	})
	t.Run("header", func(t *testing.T) {
		e := startEdge(t, config(", header: X-User"))
		w := e.dial()
		n := map[string]int{}
		for user := range 400 {
			request := fmt.Sprintf("GET / HTTP/1.1\nHost: x\nx-user: user%d\n\n", user)
			first := w.send(request).response("GET").body
			n[first]++
			if again := w.send(request).response("GET").body; again != first {
				t.Fatalf("user %d: %s, then %s", user, first, again)
			}
		}
		if n["a"] < 250 || n["a"] > 350 || n["c"] != 0 {
			t.Errorf("%v", n)
		}
	})
	t.Run("failure", func(t *testing.T) {
		dead := side("dead")
		dead.stop()
		e := startEdge(t, "upstreams: { dead: \""+dead.url()+"\" }\nroutes: [ { name: s, split: { to: [ { upstream: dead } ], cookie: side } } ]\n")
		if r := e.get("/"); r.StatusCode != 502 || len(fieldLines(r.head, "Set-Cookie")) != 0 {
			t.Errorf("kept on a side that failed: %s", r.head)
		}
	})
}

func mirrored(main, shadow string, more string) string {
	return "upstreams: { main: \"" + main + "\", shadow: \"" + shadow + "\" }\nroutes: [ { name: all, upstream: main, mirror: { upstream: shadow" + more + " } } ]\n"
}

func TestMirror(t *testing.T) {
	copies := make(chan string, 100)
	main := startOrigin(t, digesting)
	shadow := startOrigin(t, answering(func(head, body string) string {
		line, _, _ := strings.Cut(head, " HTTP")
		copies <- line + " " + body
		return "HTTP/1.1 500 No\nContent-Length: 5\n\nshade"
	}))
	e := startEdge(t, mirrored(main.url(), shadow.url(), ", max_body: 100B"))
	w := e.dial()
	for i := range 20 {
		a := w.send(fmt.Sprintf("POST /a/%d?q HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello", i)).response("POST")
		if !strings.HasPrefix(a.body, "5 ") {
			t.Fatalf("%s %q", a.head, a.body)
		}
		if got, want := within(t, "the copy", copies), fmt.Sprintf("POST /a/%d?q hello", i); got != want {
			t.Fatalf("copy %q, want %q", got, want)
		}
	}
	// What is too large, or of unknown length, is not copied.
	w.send("POST /large HTTP/1.1\nHost: x\nContent-Length: 101\n\n").sendRaw(noise(101)).response("POST")
	w.send("POST /chunked HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n").response("POST")
	w.send("GET /last HTTP/1.1\nHost: x\n\n").response("GET")
	if got := within(t, "the copy", copies); got != "GET /last " {
		t.Errorf("copied %q", got)
	}
	if n := shadow.connections(); n > 3 {
		t.Errorf("%d connections to the shadow", n)
	}
}

// TestMirrorNeverDisturbs has shadows that fail in every way. Every request is
// answered while no copy is, and the copies are bounded.
func TestMirrorNeverDisturbs(t *testing.T) {
	for name, talk := range map[string]func(*wireEnd){
		"hung":    func(w *wireEnd) { _ = w.SetDeadline(time.Time{}); _, _ = io.Copy(io.Discard, w.in) },
		"reset":   func(w *wireEnd) { _ = w.Conn.(*net.TCPConn).SetLinger(0) },
		"garbage": func(w *wireEnd) { _, _ = w.tryHead(); _, _ = io.WriteString(w.Conn, "garbage\r\n\r\n") },
		"endless": func(w *wireEnd) {
			_, _ = w.tryHead()
			_, _ = io.WriteString(w.Conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
			for b := noise(64 << 10); ; {
				if _, err := w.Conn.Write(b); err != nil {
					return
				}
			}
		},
		"switch": func(w *wireEnd) { _, _ = w.tryHead(); w.send(switching); _, _ = io.Copy(io.Discard, w.in) },
		"dead":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			main := startOrigin(t, headBack)
			shadow := startOrigin(t, talk)
			if talk == nil {
				shadow.stop()
			}
			e := startEdge(t, mirrored(main.url(), shadow.url(), ""))
			w := e.dial()
			for range 600 {
				if a := w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"); a.StatusCode != 200 {
					t.Fatalf("%d", a.StatusCode)
				}
			}
			if n := shadow.connections(); name == "hung" && n > 256 {
				t.Errorf("%d copies in flight", n)
			}
			// Nor does a copy in flight keep the process from ending.
			_ = w.Close()
			cut := make(chan int, 1)
			go func() { cut <- e.drain(context.Background()) }()
			within(t, "drain", cut)
		})
	}
}

func TestMirrorShare(t *testing.T) {
	var copies atomic.Int64
	main := startOrigin(t, headBack)
	shadow := startOrigin(t, answering(func(string, string) string { copies.Add(1); return okEmpty }))
	e := startEdge(t, mirrored(main.url(), shadow.url(), ", share: 25%"))
	w := e.dial()
	for range 1000 {
		w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET")
	}
	_ = w.Close()
	e.drain(context.Background())
	e.stop()
	// Copies may be left out, never added; six standard deviations above 250.
	if n := copies.Load(); n > 332 || n == 0 {
		t.Errorf("%d of 1000 copied", n)
	}
}

// load sends requests on keep-alive connections until it is told to stop, and
// counts what became of them. A connection that the gateway closes after an
// answer that said so is no failure.
type load struct {
	requests, failures, faults atomic.Int64
	why                        sync.Map
	stopped                    chan struct{}
	all                        sync.WaitGroup
}

// startLoad runs n clients. fault tells of an answer that is not 200 whether
// it is one that may be.
func startLoad(t testing.TB, e *edge, n int, may func(*answer) bool) *load {
	l := &load{stopped: make(chan struct{})}
	for i := range n {
		l.all.Go(func() {
			var w *wireEnd
			defer func() {
				if w != nil {
					_ = w.Close()
				}
			}()
			body := ""
			if i%2 == 1 {
				body = strings.Repeat("b", 1000*i)
			}
			for {
				select {
				case <-l.stopped:
					return
				default:
				}
				if w == nil {
					c, err := net.DialTimeout("tcp", e.addr, limit)
					if err != nil {
						l.fail("dial", err)
						return
					}
					w = newWireEnd(t, c)
				}
				_ = w.SetDeadline(time.Now().Add(limit))
				l.requests.Add(1)
				if _, err := fmt.Fprintf(w.Conn, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", i, len(body), body); err != nil {
					l.fail("send", err)
				}
				a, err := w.tryResponse("POST")
				switch {
				case err != nil:
					l.fail("answer", err)
				case a.StatusCode == 200 && strings.HasPrefix(a.body, fmt.Sprint(len(body), " ")):
				case may != nil && may(a):
					l.faults.Add(1)
				default:
					l.fail("status", fmt.Errorf("%d %s", a.StatusCode, a.body))
				}
				if err != nil || a.Close {
					_ = w.Close()
					w = nil
				}
			}
		})
	}
	return l
}

func (l *load) fail(what string, err error) {
	l.failures.Add(1)
	l.why.Store(what+": "+err.Error(), true)
}

// stop ends the load and fails the test when a request failed.
func (l *load) stop(t testing.TB) {
	t.Helper()
	close(l.stopped)
	l.all.Wait()
	if n := l.failures.Load(); n > 0 {
		l.why.Range(func(why, _ any) bool { t.Error(why); return true })
		t.Errorf("%d of %d requests failed", n, l.requests.Load())
	}
}

// runs is how many requests a test under load waits for.
func (l *load) runs(t testing.TB, n int64) {
	t.Helper()
	if testing.Short() {
		n /= 5
	}
	from := l.requests.Load()
	eventually(t, "the load", func() bool { return l.requests.Load() >= from+n || l.failures.Load() > 0 })
}

// counting answers with the length of the body.
var counting = answering(func(_, body string) string { return ok(fmt.Sprint(len(body), " bytes")) })

func TestReloadUnderLoad(t *testing.T) {
	a, b := startOrigin(t, counting), startOrigin(t, counting)
	one := "upstreams: { main: { targets: [\"" + a.url() + "\"] } }\nroutes: [ { name: all, upstream: main } ]\n"
	two := "forwarded: { via: false }\nupstreams: { other: { targets: [\"" + b.url() + "\"], balance: least_request }, main: { targets: [\"" + a.url() + "\"], host: target } }\n" +
		"routes: [ { name: all, upstream: other }, { name: one, match: \"/1\", upstream: main } ]\n"
	e := startEdge(t, one)
	l := startLoad(t, e, 8, nil)
	for i := range 60 {
		l.runs(t, 150)
		if i%2 == 0 {
			e.apply(two)
		} else {
			e.apply(one)
		}
		if err := e.tryApply("routes: [ { name: all, upstream: nobody } ]\n"); err == nil {
			t.Fatal("a bad configuration is taken")
		}
	}
	l.stop(t)
}

// TestReloadKeepsConnections checks that what a reload does not touch keeps its
// connections to the target.
func TestReloadKeepsConnections(t *testing.T) {
	o := startOrigin(t, counting)
	e := startEdge(t, forwardTo(o))
	w := e.dial()
	for range 10 {
		w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n").response("POST")
		e.apply(forwardTo(o, "forwarded: { via: false }"))
		w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n").response("POST")
		e.apply(forwardTo(o))
	}
	if n := o.connections(); n != 1 {
		t.Errorf("%d connections to the backend", n)
	}
	if err := e.tryApply(forwardTo(o, "server: { max_headr: 1 }")); err == nil {
		t.Error("a bad configuration is taken")
	}
	// A change of the target's own settings makes new ones, and ends the old.
	e.apply("upstreams: { main: { targets: [\"" + o.url() + "\"], connections: { max: 3 } } }\nroutes: [ { name: all, upstream: main } ]\n")
	w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n").response("POST")
	if n := o.connections(); n != 2 {
		t.Errorf("then %d connections to the backend", n)
	}
	eventually(t, "the old connection's end", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.conns) == 1
	})
}

func TestDrainUnderLoad(t *testing.T) {
	o := startOrigin(t, counting)
	e := startEdge(t, forwardTo(o))
	var drained atomic.Bool
	l := &load{stopped: make(chan struct{})}
	for i := range 8 {
		l.all.Go(func() {
			w := e.dial()
			for range 1 << 20 {
				began := drained.Load()
				l.requests.Add(1)
				if _, err := fmt.Fprintf(w.Conn, "POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", i); err != nil {
					l.fail("send", err)
					return
				}
				a, err := w.tryResponse("POST")
				if err != nil || a.StatusCode != 200 {
					l.fail("answer", fmt.Errorf("%v %s (drain had begun: %v)", err, a.head, began))
					return
				}
				if a.Close {
					if !drained.Load() {
						l.fail("close", fmt.Errorf("before the drain"))
					}
					_ = w.Close()
					return
				}
			}
		})
	}
	l.runs(t, 2000)
	drained.Store(true)
	if n := e.drain(context.Background()); n != 0 {
		t.Errorf("%d connections were cut", n)
	}
	l.stop(t)
	if open, _ := e.gateway.Engine.Counts(); open != 0 {
		t.Errorf("%d connections are open", open)
	}
}

// TestTargetDiesUnderLoad kills one of two targets: only what was on it may
// fail, with a 502 each, and the rest goes on.
func TestTargetDiesUnderLoad(t *testing.T) {
	a, b := startOrigin(t, counting), startOrigin(t, counting)
	e := startEdge(t, "upstreams: { main: { targets: [\""+a.url()+"\", \""+b.url()+"\"] } }\nroutes: [ { name: all, upstream: main } ]\n")
	const clients = 8
	l := startLoad(t, e, clients, func(a *answer) bool {
		return a.StatusCode == 502 && a.Header.Get("Content-Type") == "application/problem+json" && strings.Contains(a.body, "target-reset")
	})
	l.runs(t, 1000)
	a.kill()
	l.runs(t, 3000)
	l.stop(t)
	if n := l.faults.Load(); n > clients {
		t.Errorf("%d answers of 502, of %d requests that may have been on the target", n, clients)
	}
}

// TestStaleConnection has a backend that closes its idle connections, in two
// ways: seen before the next request is sent, which then costs nobody anything,
// and in answer to it, which only what is safe to repeat may survive. No POST
// reaches the backend twice, ever.
func TestStaleConnection(t *testing.T) {
	for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
		for _, body := range []string{"Content-Length: 2\n\nhi", "Transfer-Encoding: chunked\n\n2\nhi\n0\n\n"} {
			request := method + " / HTTP/1.1\nHost: x\n" + body
			idempotent := method == "GET" || method == "PUT" || method == "DELETE"
			t.Run(method+" "+body[:7], func(t *testing.T) {
				// Closed while idle.
				closing := make(chan *wireEnd, 1)
				var got atomic.Int64
				o := startOrigin(t, func(w *wireEnd) {
					head, err := w.tryHead()
					if err != nil {
						return
					}
					if _, err := w.requestBody(head); err != nil {
						return
					}
					got.Add(1)
					w.send(okEmpty)
					closing <- w
				})
				e := startEdge(t, forwardTo(o))
				client := e.dial()
				for range 3 {
					if a := client.send(request).response(method); a.StatusCode != 200 {
						t.Fatalf("%d %s", a.StatusCode, a.body)
					}
					_ = within(t, "the connection to close", closing).Close()
				}
				if n := got.Load(); n != 3 {
					t.Errorf("the backend got %d requests for 3", n)
				}

				// Closed when the second request has come.
				var first, second atomic.Int64
				o = startOrigin(t, func(w *wireEnd) {
					for n := 0; ; n++ {
						head, err := w.tryHead()
						if err != nil {
							return
						}
						if _, err := w.requestBody(head); err != nil {
							return
						}
						if n > 0 {
							second.Add(1)
							return
						}
						first.Add(1)
						w.send(okEmpty)
					}
				})
				e = startEdge(t, forwardTo(o))
				client = e.dial()
				client.send(request).response(method)
				a := client.send(request).response(method)
				repeatable := idempotent && strings.HasPrefix(body, "Content")
				if want := 502; !repeatable && a.StatusCode != want || repeatable && a.StatusCode != 200 {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				if repeatable && (first.Load() != 2 || second.Load() != 1) || !repeatable && (first.Load() != 1 || second.Load() != 1) {
					t.Errorf("the backend got %d requests on new connections, %d on old ones", first.Load(), second.Load())
				}
			})
		}
	}
}

// TestFreshConnectionIsNotRepeated: a target that takes a request on a new
// connection and closes has acted on it as far as anybody knows.
func TestFreshConnectionIsNotRepeated(t *testing.T) {
	var got atomic.Int64
	talk := func(w *wireEnd) {
		if _, err := w.tryHead(); err == nil {
			got.Add(1)
		}
	}
	a, b := startOrigin(t, talk), startOrigin(t, talk)
	e := startEdge(t, "upstreams: { main: { targets: [\""+a.url()+"\", \""+b.url()+"\"] } }\nroutes: [ { name: all, upstream: main } ]\n")
	if r := e.get("/"); r.StatusCode != 502 || !strings.Contains(r.body, "target-reset") {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if n := got.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestTargetsThatRefuse: a connection that is refused sends the request to
// another target, with its body; when there is none it is answered.
func TestTargetsThatRefuse(t *testing.T) {
	dead, dead2, live := startOrigin(t, headBack), startOrigin(t, headBack), startOrigin(t, digesting)
	dead.stop()
	dead2.stop()
	for _, balance := range []string{"round_robin", "random", "least_request", "peak_ewma", "hash"} {
		e := startEdge(t, "upstreams: { main: { targets: [\""+dead.url()+"\", \""+live.url()+"\", \""+dead2.url()+"\"], balance: "+balance+", fail_timeout: 0s } }\nroutes: [ { name: all, upstream: main } ]\n")
		w := e.dial()
		for range 10 {
			for _, body := range []string{"Content-Length: 5\n\nhello", "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n"} {
				if a := w.send("POST / HTTP/1.1\nHost: x\n" + body).response("POST"); a.StatusCode != 200 || !strings.HasPrefix(a.body, digestOf([]byte("hello"), "")) {
					t.Fatalf("%s: %d %s", balance, a.StatusCode, a.body)
				}
			}
		}
	}
	e := startEdge(t, "upstreams: { main: { targets: [\""+dead.url()+"\", \""+dead2.url()+"\"] } }\nroutes: [ { name: all, upstream: main } ]\n")
	w := e.dial()
	for range 5 {
		if a := w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello").response("POST"); a.StatusCode != 502 || !strings.Contains(a.body, "connect-failed") {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
}

// TestQueueFaults has more requests than connections.
func TestQueueFaults(t *testing.T) {
	asked := make(chan bool, 1)
	release := make(chan bool)
	o := startOrigin(t, func(w *wireEnd) {
		for {
			if _, err := w.tryHead(); err != nil {
				return
			}
			asked <- true
			<-release
			w.send(okEmpty)
		}
	})
	config := func(queue string) string {
		return "upstreams: { main: { targets: [\"" + o.url() + "\"], connections: { max: 1, " + queue + " } } }\nroutes: [ { name: all, upstream: main } ]\n"
	}
	for queue, problem := range map[string]string{"queue: 0": "queue-full", "queue: 5, queue_timeout: 20ms": "queue-timeout"} {
		e := startEdge(t, config(queue))
		first := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
		within(t, "the first request", asked)
		a := e.get("/")
		if a.StatusCode != 503 || !strings.Contains(a.body, problem) || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", queue, a.StatusCode, a.body)
		}
		release <- true
		if a := first.response("GET"); a.StatusCode != 200 {
			t.Errorf("%s: %d", queue, a.StatusCode)
		}
	}
}
