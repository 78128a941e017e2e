package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// TestEventsArriveOneByOne has a backend that sends the next event only after
// the client has seen the one before.
func TestEventsArriveOneByOne(t *testing.T) {
	for name, framing := range map[string]struct{ head, event, end string }{
		"chunked":     {"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n", "%x\n%s\n", "0\n\n"},
		"until close": {"HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n", "%.0s%s", ""},
		"length":      {"HTTP/1.1 200 OK\nContent-Length: 220\n\n", "%.0s%s", ""},
		"HTTP/1.0":    {"HTTP/1.0 200 OK\n\n", "%.0s%s", ""},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan bool)
			gone := make(chan bool, 1)
			o := startOrigin(t, func(w *wireEnd) {
				if _, err := w.tryHead(); err != nil {
					return
				}
				w.send(framing.head)
				for i := range 20 {
					if _, open := <-seen; !open {
						return
					}
					event := fmt.Sprintf("data: %03d\n\n", i)
					if framing.end == "" {
						_, _ = w.Write([]byte(event))
					} else {
						w.send(fmt.Sprintf("%x\n", len(event))).sendRaw([]byte(event)).send("\n")
					}
				}
				w.send(framing.end)
				if name == "until close" || name == "HTTP/1.0" {
					_ = w.Close()
				}
				<-gone
			})
			defer func() { gone <- true }()
			defer func() {
				defer func() { _ = recover() }()
				close(seen)
			}()
			e := startEdge(t, forwardTo(o))
			w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
			head := w.head() // before there is any event
			coded := len(fieldLines(head, "Transfer-Encoding")) > 0
			if coded == (name == "length") {
				t.Errorf("head %s", head)
			}
			for i := range 20 {
				seen <- true
				event := fmt.Sprintf("data: %03d\n\n", i)
				if coded {
					event = fmt.Sprintf("%x\r\n%s\r\n", len(event), event)
				}
				w.want(event)
			}
			if coded {
				w.want("0\r\n\r\n")
			}
		})
	}
}

// TestDownloads reads bodies of every size at which something changes, under
// every framing, on one connection: raw chunk sizes never stand in a body.
func TestDownloads(t *testing.T) {
	o := startOrigin(t, func(w *wireEnd) {
		for {
			head, err := w.tryHead()
			if err != nil {
				return
			}
			var kind string
			var n int
			if _, err := fmt.Sscanf(head, "GET /%s %d", &kind, &n); err != nil {
				if _, err := fmt.Sscanf(strings.ReplaceAll(head, "/", " "), "GET %s %d", &kind, &n); err != nil {
					w.t.Errorf("%q: %v", head, err)
					return
				}
			}
			b := noise(n)
			switch kind {
			case "length":
				w.sendRaw(append([]byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)), b...))
			case "chunked":
				w.sendRaw(append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), chunked(b, 1+n/3, "")...))
			case "small":
				w.sendRaw(append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), chunked(b, 100, "")...))
			case "extended":
				w.sendRaw(append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.ReplaceAll(chunked(b, 5000, ""), []byte("1388\r\n"), []byte("001388;a=b;c=\"d;\\\"e\"\r\n"))...))
			case "close":
				w.sendRaw(append([]byte("HTTP/1.1 200 OK\r\n\r\n"), b...))
				return
			}
		}
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial()
	sizes := []int{0, 1, 100, 1 << 20}
	for _, edge := range []int{16 << 10, 20 << 10, 32 << 10, 64 << 10} {
		for _, d := range []int{-300, -1, 0, 1} {
			sizes = append(sizes, edge+d)
		}
	}
	for _, kind := range []string{"length", "chunked", "small", "extended", "close"} {
		for _, n := range sizes {
			if kind == "small" && n > 100<<10 {
				continue
			}
			w.send(fmt.Sprintf("GET /%s/%d HTTP/1.1\nHost: x\n\n", kind, n))
			a, err := w.tryResponse("GET")
			if err != nil {
				t.Fatalf("%s %d: %v", kind, n, err)
			}
			if sha256.Sum256([]byte(a.body)) != sha256.Sum256(noise(n)) {
				t.Fatalf("%s %d: got %d bytes, not those", kind, n, len(a.body))
			}
			// An HTTP/1.0 client gets the same without a coding, and then the end.
			if kind == "length" {
				continue
			}
			old := e.dial().send(fmt.Sprintf("GET /%s/%d HTTP/1.0\n\n", kind, n))
			head := old.head()
			if l := append(fieldLines(head, "Transfer-Encoding"), fieldLines(head, "Content-Length")...); len(l) > 0 {
				t.Fatalf("HTTP/1.0 %s %d: %q", kind, n, l)
			}
			if body, err := old.rest(); err != nil || sha256.Sum256([]byte(body)) != sha256.Sum256(noise(n)) {
				t.Fatalf("HTTP/1.0 %s %d: got %d bytes, %v", kind, n, len(body), err)
			}
		}
	}
}

func TestOldClients(t *testing.T) {
	e := startEdge(t, forwardTo(startOrigin(t, headBack)))
	w := e.dial().send("GET / HTTP/1.0\n\n")
	if a := w.response("GET"); a.StatusCode != 200 {
		t.Errorf("%d", a.StatusCode)
	}
	w.wantEnd()
	w = e.dial()
	for range 3 {
		w.send("GET / HTTP/1.0\nHost: x\nConnection: keep-alive\n\n")
		if a := w.response("GET"); a.StatusCode != 200 || value(t, a.head, "Connection") != "keep-alive" {
			t.Errorf("%s", a.head)
		}
	}
}

func TestResponseTrailers(t *testing.T) {
	trailers, announce := "", ""
	o := startOrigin(t, answering(func(string, string) string {
		return "HTTP/1.1 200 OK\n" + announce + "Transfer-Encoding: chunked\n\n4\nbody\n0\n" + trailers + "\n"
	}))
	e := startEdge(t, forwardTo(o, quiet))
	f := func(ann, given, want string) {
		t.Helper()
		announce, trailers = ann, given
		w := e.dial().send("GET / HTTP/1.1\nHost: x\nConnection: TE\nTE: trailers\n\n")
		head := w.head()
		if got := strings.Join(fieldLines(head, "Trailer"), "") + "\n"; ann != "" && got != ann {
			t.Errorf("announced %q", got)
		}
		w.want("4\r\nbody\r\n0\r\n")
		if got := w.head(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("", "", "")
	f("Trailer: Grpc-Status\n", "grpc-status: 0\n", "grpc-status: 0\n")
	f("", "grpc-status: 5\nGrpc-Message: a b\ngrpc-status: 6\n", "grpc-status: 5\nGrpc-Message: a b\ngrpc-status: 6\n")
	f("", "Content-Length: 5\nTransfer-Encoding: chunked\nSet-Cookie: a=b\nConnection: close\nX-Ok: 1\n", "X-Ok: 1\n")
	// An HTTP/1.0 client has no place for them.
	announce, trailers = "Trailer: X\n", "X: 1\n"
	w := e.dial().send("GET / HTTP/1.0\n\n")
	if head := w.head(); len(fieldLines(head, "Trailer")) != 0 {
		t.Errorf("HTTP/1.0: %s", head)
	}
	w.want("body").wantEnd()
}

func TestInterimAnswers(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		return "HTTP/1.1 102 Processing\n\nHTTP/1.1 103 Early Hints\nLink: </a.css>; rel=preload\nX-Hint: 1\nConnection: X-Hint\n\n" +
			"HTTP/1.1 100 Continue\n\n" + ok("done")
	}))
	e := startEdge(t, forwardTo(o, quiet))
	w := e.dial()
	for range 2 {
		w.send("GET / HTTP/1.1\nHost: x\n\n")
		if got := w.head(); got != "HTTP/1.1 102 Processing\n" {
			t.Fatalf("got %q", got)
		}
		if got := w.head(); got != "HTTP/1.1 103 Early Hints\nLink: </a.css>; rel=preload\n" {
			t.Fatalf("got %q", got)
		}
		if a := w.response("GET"); a.StatusCode != 200 || a.body != "done" {
			t.Fatalf("%d %q", a.StatusCode, a.body)
		}
	}
	// None to HTTP/1.0 (RFC 9110 15.2).
	if a := e.dial().send("GET / HTTP/1.0\n\n").response("GET"); a.StatusCode != 200 {
		t.Errorf("HTTP/1.0: %d", a.StatusCode)
	}
	flood := startOrigin(t, answering(func(string, string) string {
		return strings.Repeat("HTTP/1.1 102 Processing\n\n", 1000) + okEmpty
	}))
	w = startEdge(t, forwardTo(flood)).dial().send("GET / HTTP/1.1\nHost: x\n\n")
	status := 102
	for status == 102 {
		status = w.response("GET").StatusCode
	}
	if status != 502 {
		t.Errorf("flood: %d", status)
	}
}

func TestBodilessAnswers(t *testing.T) {
	answer := ""
	o := startOrigin(t, answering(func(string, string) string { return answer }))
	e := startEdge(t, forwardTo(o))
	f := func(method, given string) {
		t.Helper()
		answer = given
		w := e.dial()
		for range 2 {
			w.send(method + " / HTTP/1.1\nHost: x\n\n")
			head := w.head()
			if want := strings.SplitN(given, "\n", 2)[0]; strings.SplitN(head, "\n", 2)[0] != want {
				t.Fatalf("%s %q: %s", method, given, head)
			}
			if len(fieldLines(head, "Transfer-Encoding")) != 0 {
				t.Errorf("%s %q: %s", method, given, head)
			}
		}
	}
	f("HEAD", "HTTP/1.1 200 OK\nContent-Length: 1000000\n\n")
	f("HEAD", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
	f("HEAD", "HTTP/1.1 404 Not Found\nContent-Length: 9\n\n")
	f("GET", "HTTP/1.1 204 No Content\n\n")
	f("GET", "HTTP/1.1 304 Not Modified\nContent-Length: 1000\n\n")
	f("DELETE", "HTTP/1.1 204 No Content\nContent-Length: 0\n\n")
}

// TestBrokenAnswers is backends that fail in the middle of a body: the client
// must not take the part for the whole, and no text of ours may stand in it.
func TestBrokenAnswers(t *testing.T) {
	big := strings.Repeat("x", 300000)
	for name, answer := range map[string]string{
		"length, small":      "HTTP/1.1 200 OK\nContent-Length: 10\n\nhalf",
		"length, nothing":    "HTTP/1.1 200 OK\nContent-Length: 10\n\n",
		"length, large":      "HTTP/1.1 200 OK\nContent-Length: 900000\n\n" + big,
		"chunked, in data":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\na\nhalf",
		"chunked, at size":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n",
		"chunked, in size":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n1",
		"chunked, no end":    "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n0\n",
		"chunked, bad size":  "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\nzz\n",
		"chunked, bad end":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalfx\n0\n\n",
		"chunked, overrun":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\nffffffffffffffff\n",
		"chunked, large":     "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nfffff\n" + big,
		"chunked, trailer":   "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n0\nbad trailer\n\n",
		"chunked, many hops": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n" + strings.Repeat("4\nhalf\n", 5000),
	} {
		for _, version := range []string{"1.1", "1.0"} {
			t.Run(name+" "+version, func(t *testing.T) {
				o := startOrigin(t, func(w *wireEnd) {
					if _, err := w.tryHead(); err == nil {
						_, _ = io.WriteString(w.Conn, crlf(answer))
					}
				})
				e := startEdge(t, forwardTo(o))
				w := e.dial().send("GET / HTTP/" + version + "\nHost: x\n\n")
				a, err := w.tryResponse("GET")
				if a.head == "" {
					// The reset may take away what was on the way.
					if err == nil || err == io.EOF {
						t.Errorf("an empty answer ended in order: %v", err)
					}
					return
				}
				if err == nil && a.StatusCode == 502 && a.Header.Get("Content-Type") == "application/problem+json" {
					return // nothing of the answer had been sent
				}
				if err == nil {
					t.Errorf("%d bytes passed for a whole body", len(a.body))
				}
				if rest := strings.Trim(a.body, "x"); strings.Trim(rest, "half") != "" {
					t.Errorf("the body holds %q", rest)
				}
			})
		}
	}
}

// TestAbort checks that a client that leaves cancels its request at the
// backend, wherever that stands.
func TestAbort(t *testing.T) {
	for name, first := range map[string]string{
		"before the head":  "",
		"in a length body": "HTTP/1.1 200 OK\nContent-Length: 100\n\nsome",
		"in a large body":  "HTTP/1.1 200 OK\nContent-Length: 1000000\n\nsome",
		"in a chunked one": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nsome\n",
		"after an interim": "HTTP/1.1 103 Early Hints\n\n",
	} {
		for _, request := range []string{"GET / HTTP/1.1\nHost: x\n\n", "POST / HTTP/1.1\nHost: x\nContent-Length: 20000\n\n" + strings.Repeat("b", 20000)} {
			t.Run(name+" "+request[:4], func(t *testing.T) {
				asked := make(chan bool, 1)
				closed := make(chan error, 1)
				o := startOrigin(t, func(w *wireEnd) {
					head, err := w.tryHead()
					if err != nil {
						return
					}
					_, _ = w.requestBody(head)
					w.send(first)
					asked <- true
					_, err = w.in.ReadByte()
					closed <- err
				})
				e := startEdge(t, forwardTo(o))
				w := e.dial().send(request)
				within(t, "the request at the backend", asked)
				_ = w.Close()
				if err := within(t, "the end at the backend", closed); err == nil {
					t.Error("the backend got more instead of an end")
				}
			})
		}
	}
}

func TestAbortIsLogged(t *testing.T) {
	asked := make(chan bool, 1)
	o := startOrigin(t, func(w *wireEnd) {
		_, _ = w.tryHead()
		asked <- true
		_, _ = w.in.ReadByte()
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial().send("GET /left HTTP/1.1\nHost: x\n\n")
	within(t, "the request at the backend", asked)
	_ = w.Close()
	eventually(t, "the log line", func() bool { return strings.Contains(e.log(), "client-gone") })
	if log := e.log(); !strings.Contains(log, `"/left"`) || !strings.Contains(log, `499`) {
		t.Error(log)
	}
}

// TestClientDoesNotRead is a client that takes nothing: its answer ends in the
// time it may take none.
func TestClientDoesNotRead(t *testing.T) {
	for _, framing := range []string{"Content-Length: 100000000\n\n", "Transfer-Encoding: chunked\n\n5f5e100\n", "\n"} {
		closed := make(chan error, 1)
		o := startOrigin(t, func(w *wireEnd) {
			if _, err := w.tryHead(); err != nil {
				return
			}
			w.send("HTTP/1.1 200 OK\n" + framing)
			_, err := w.Write(noise(100000000))
			closed <- err
		})
		e := startEdge(t, forwardTo(o, "server: { write_timeout: 200ms }"))
		w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
		if err := within(t, "the end at the backend", closed); err == nil {
			t.Errorf("%q: the backend could send everything", framing)
		}
		if _, err := w.tryResponse("GET"); err == nil {
			t.Errorf("%q: the client got a whole answer", framing)
		}
		eventually(t, "the log line", func() bool { return strings.Contains(e.log(), "client-slow") })
	}
}

// TestSlowReaderIsNotTheTargetsFault is a client that pauses for longer than
// the target may: the target is not to blame, and the body arrives.
func TestSlowReaderIsNotTheTargetsFault(t *testing.T) {
	const size = 20 << 20
	b := noise(size)
	for _, framing := range []string{fmt.Sprintf("Content-Length: %d\n\n", size), fmt.Sprintf("Transfer-Encoding: chunked\n\n%x\n", size), "\n"} {
		full := make(chan bool, 1)
		o := startOrigin(t, func(w *wireEnd) {
			if _, err := w.tryHead(); err != nil {
				return
			}
			w.send("HTTP/1.1 200 OK\n" + framing)
			if c, ok := w.Conn.(*net.TCPConn); ok {
				_ = c.SetWriteBuffer(64 << 10)
			}
			_, _ = w.Write(b)
			if strings.Contains(framing, "chunked") {
				_, _ = w.Write([]byte("\r\n0\r\n\r\n"))
			}
			full <- true
			if framing != "\n" {
				_, _ = w.in.ReadByte()
			}
		})
		e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], timeouts: { idle: 300ms } } }\nroutes: [ { name: all, upstream: main } ]\n")
		w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
		head := w.head()
		// Longer than the target's idle time goes by, told by another request
		// that dies of just that.
		slow := startOrigin(t, func(w *wireEnd) {
			_, _ = w.tryHead()
			w.send("HTTP/1.1 200 OK\nContent-Length: 10\n\n")
			_, _ = w.in.ReadByte()
		})
		for range 3 {
			other := startEdge(t, "upstreams: { main: { targets: [\""+slow.url()+"\"], timeouts: { idle: 300ms } } }\nroutes: [ { name: all, upstream: main } ]\n")
			if _, err := other.dial().send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET"); err == nil {
				t.Fatal("a target that stands still is waited for without end")
			}
		}
		n := 0
		buf := make([]byte, 1<<20)
		for n < size {
			m, err := w.in.Read(buf)
			if n += m; err != nil {
				t.Fatalf("%q: %d bytes, then %v; head %s", framing, n, err, head)
			}
		}
	}
}

// TestTargetStandsStill is a target that stops in a body, or before its head.
func TestTargetStandsStill(t *testing.T) {
	hang := ""
	o := startOrigin(t, func(w *wireEnd) {
		if _, err := w.tryHead(); err != nil {
			return
		}
		_, _ = io.WriteString(w.Conn, crlf(hang))
		_, _ = w.in.ReadByte()
	})
	e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], timeouts: { idle: 100ms, response: 100ms } } }\n"+
		"routes: [ { name: all, upstream: main }, { name: patient, match: /patient, upstream: main, response_timeout: 150ms } ]\n")
	for _, text := range []string{"", "HTTP/1.1 200", "HTTP/1.1 103 Early Hints\n\n"} {
		hang = text
		for _, path := range []string{"/", "/patient"} {
			w := e.dial().send("GET " + path + " HTTP/1.1\nHost: x\n\n")
			a := w.response("GET")
			if a.StatusCode == 103 {
				a = w.response("GET")
			}
			if a.StatusCode != 504 || !strings.Contains(a.body, "urn:sluice:problem:answer-timeout") {
				t.Errorf("%q: %d %s", text, a.StatusCode, a.body)
			}
			// The client's connection is as good as before.
			hang = okEmpty
			if a := w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"); a.StatusCode != 200 {
				t.Errorf("%q: then %d", text, a.StatusCode)
			}
			hang = text
		}
	}
	for _, text := range []string{"HTTP/1.1 200 OK\nContent-Length: 10\n\nhalf", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n", "HTTP/1.1 200 OK\nContent-Length: 1000000\n\nhalf"} {
		hang = text
		if a, err := e.dial().send("GET / HTTP/1.1\nHost: x\n\n").tryResponse("GET"); err == nil {
			t.Errorf("%q: passed for a whole answer: %q", text, a.body)
		}
	}
}

func TestBadAnswers(t *testing.T) {
	bad := ""
	o := startOrigin(t, func(w *wireEnd) {
		if _, err := w.tryHead(); err == nil {
			_, _ = io.WriteString(w.Conn, bad)
		}
	})
	e := startEdge(t, forwardTo(o))
	f := func(answer string, problem string) {
		t.Helper()
		bad = answer
		a := e.ask("POST", "/")
		if a.StatusCode != 502 || a.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, "urn:sluice:problem:"+problem) {
			t.Errorf("%.60q: %d %s", answer, a.StatusCode, a.body)
		}
	}
	f("", "target-reset")
	f("HTTP/1.1 20", "target-reset")
	f("HTTP/1.1 200 OK\r\nContent-Le", "target-reset")
	f("garbage\r\n\r\n", "bad-answer")
	f("HTTP/2 200 OK\r\n\r\n", "bad-answer")
	f("HTTP/1.1 2000 OK\r\n\r\n", "bad-answer")
	f("HTTP/1.1 099 OK\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "bad-answer")
	f("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nbad name: a\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 100<<10)+"\r\n\r\n", "bad-answer")
	f("HTTP/1.1 200 OK\r\n"+strings.Repeat("X: a\r\n", 1000)+"\r\n", "bad-answer")
	f("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "bad-answer")
}

// TestExtraBytesBehindAnAnswer checks that what a target sends beyond its
// answer is nobody's: the connection is not used again.
func TestExtraBytesBehindAnAnswer(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		return ok("fine") + "HTTP/1.1 200 OK\nContent-Length: 4\n\nEVIL"
	}))
	e := startEdge(t, forwardTo(o))
	w := e.dial()
	for range 5 {
		if a := w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"); a.body != "fine" {
			t.Fatalf("got %q", a.body)
		}
	}
	if n := o.connections(); n != 5 {
		t.Errorf("%d connections for 5 requests", n)
	}
}

// TestStreamsCostAFixedBuffer moves far more than memory may grow.
func TestStreamsCostAFixedBuffer(t *testing.T) {
	const each, streams = 64 << 20, 4
	if testing.Short() {
		t.Skip("moves half a gigabyte")
	}
	piece := noise(64 << 10)
	frame := fmt.Appendf(nil, "%x\r\n%s\r\n", len(piece), piece)
	o := startOrigin(t, func(w *wireEnd) {
		head, err := w.tryHead()
		if err != nil {
			return
		}
		if strings.HasPrefix(head, "POST") {
			if _, err := io.CopyN(io.Discard, w.in, each); err != nil {
				w.t.Errorf("upload: %v", err)
			}
			w.send(okEmpty)
			return
		}
		w.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
		for range each / len(piece) {
			if _, err := w.Write(frame); err != nil {
				w.t.Errorf("download: %v", err)
				return
			}
		}
		w.send("0\n\n")
	})
	e := startEdge(t, forwardTo(o))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done := make(chan int64, 2*streams)
	for range streams {
		up, down := e.dial(), e.dial()
		go func() {
			up.send(fmt.Sprintf("POST / HTTP/1.1\nHost: x\nContent-Length: %d\n\n", each))
			for range each / len(piece) {
				_, _ = up.Write(piece)
			}
			a, _ := up.tryResponse("POST")
			done <- int64(a.StatusCode)
		}()
		go func() {
			_, _ = io.WriteString(down.Conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			n, _ := io.Copy(io.Discard, down.in)
			done <- n
		}()
	}
	for range 2 * streams {
		if n := within(t, "a stream", done); n != 200 && n < each {
			t.Errorf("got %d", n)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc) - int64(before.TotalAlloc); grown > 16<<20 {
		t.Errorf("moving %d MiB allocated %d MiB in all", 2*streams*each>>20, grown>>20)
	}
}

// TestDrainUnderStream checks that what is in flight is finished.
func TestDrainUnderStream(t *testing.T) {
	step := make(chan bool)
	o := startOrigin(t, func(w *wireEnd) {
		if _, err := w.tryHead(); err != nil {
			return
		}
		w.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\none \n")
		<-step
		w.send("3\ntwo\n0\n\n")
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	w.head()
	w.want("4\r\none \r\n")
	cut := make(chan int)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		cut <- e.drain(ctx)
	}()
	step <- true
	w.want("3\r\ntwo\r\n0\r\n\r\n")
	if n := within(t, "drain", cut); n != 0 {
		t.Errorf("%d cut", n)
	}
	w.wantEnd()
}
