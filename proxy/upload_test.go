package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
)

// noise is n bytes that no framing is mistaken for.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// digesting answers with the length and the digest of the request's body.
var digesting = answering(func(head, body string) string {
	framing := strings.Join(append(fieldLines(head, "Content-Length"), fieldLines(head, "Transfer-Encoding")...), "|")
	return ok(fmt.Sprintf("%d %x %s", len(body), sha256.Sum256([]byte(body)), framing))
})

func digestOf(b []byte, framing string) string {
	return fmt.Sprintf("%d %x %s", len(b), sha256.Sum256(b), framing)
}

// TestUploads sends bodies of every size at which something changes: the
// buffers of the gateway hold 16, 20 and 32 KiB.
func TestUploads(t *testing.T) {
	e := startEdge(t, forwardTo(startOrigin(t, digesting)))
	sizes := []int{0, 1, 2, 100, 4096, 16<<10 - 300}
	for _, edge := range []int{16 << 10, 20 << 10, 32 << 10, 64 << 10, 128 << 10} {
		for d := -2; d <= 2; d++ {
			sizes = append(sizes, edge+d)
		}
	}
	sizes = append(sizes, 1<<20+17, 5<<20)
	w := e.dial() // all on one connection: nothing of one body may be left for the next
	for _, n := range sizes {
		b := noise(n)
		w.send(fmt.Sprintf("POST /len HTTP/1.1\nHost: x\nContent-Length: %d\n\n", n)).sendRaw(b)
		if got, want := w.response("POST").body, digestOf(b, fmt.Sprintf("Content-Length: %d", n)); got != want {
			t.Fatalf("length %d: got %s, want %s", n, got, want)
		}
		w.send("POST /chunked HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n").sendRaw(chunked(b, 1000+n/3, ""))
		if got, want := w.response("POST").body, digestOf(b, "Transfer-Encoding: chunked"); got != want {
			t.Fatalf("chunked %d: got %s, want %s", n, got, want)
		}
	}
	// The head and the body in one write, so that both lie in one buffer.
	for _, n := range []int{16<<10 - 60, 16<<10 - 59, 16<<10 - 58, 16 << 10, 40 << 10} {
		b := noise(n)
		w.sendRaw(append([]byte(crlf(fmt.Sprintf("PUT / HTTP/1.1\nHost: x\nContent-Length: %05d\n\n", n))), b...))
		if got, want := w.response("PUT").body, digestOf(b, fmt.Sprintf("Content-Length: %05d", n)); got != want {
			t.Fatalf("one write, length %d: got %s, want %s", n, got, want)
		}
		w.sendRaw(append([]byte(crlf("PUT / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n")), chunked(b, n/2+1, "")...))
		if got, want := w.response("PUT").body, digestOf(b, "Transfer-Encoding: chunked"); got != want {
			t.Fatalf("one write, chunked %d: got %s, want %s", n, got, want)
		}
	}
}

// chunked is b in the chunked coding, with trailers.
func chunked(b []byte, size int, trailers string) []byte {
	var out bytes.Buffer
	for len(b) > 0 {
		n := min(size, len(b))
		fmt.Fprintf(&out, "%x\r\n%s\r\n", n, b[:n])
		b = b[n:]
	}
	out.WriteString("0\r\n" + crlf(trailers) + "\r\n")
	return out.Bytes()
}

func TestSlowDrip(t *testing.T) {
	e := startEdge(t, forwardTo(startOrigin(t, digesting)))
	body := noise(300)
	for _, text := range []string{
		crlf("POST / HTTP/1.1\nHost: x\nContent-Length: 300\n\n") + string(body),
		crlf("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n") + string(chunked(body, 7, "")),
	} {
		w := e.dial()
		for i := range len(text) {
			w.sendRaw([]byte{text[i]})
		}
		if got := w.response("POST").body; !strings.HasPrefix(got, digestOf(body, "")) {
			t.Errorf("got %s", got)
		}
	}
}

// TestPipelinedBodies checks that what follows a body is the next request, to
// the byte, however the two are framed.
func TestPipelinedBodies(t *testing.T) {
	e := startEdge(t, forwardTo(startOrigin(t, digesting)))
	for _, n := range []int{10, 16 << 10, 33 << 10, 100 << 10} {
		b := noise(n)
		var all bytes.Buffer
		for range 3 {
			fmt.Fprintf(&all, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", n, b)
			fmt.Fprintf(&all, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s", chunked(b, 5000, ""))
		}
		w := e.dial()
		sent := make(chan error, 1)
		go func() {
			_, err := w.Write(all.Bytes())
			sent <- err
		}()
		for i := range 6 {
			if got := w.response("POST").body; !strings.HasPrefix(got, digestOf(b, "")) {
				t.Fatalf("%d bytes, answer %d: %s", n, i, got)
			}
		}
		if err := within(t, "sent", sent); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBodyTooLarge(t *testing.T) {
	o := startOrigin(t, digesting)
	e := startEdge(t, "server: { max_body: 100KiB }\nupstreams: { main: \""+o.url()+"\" }\n"+
		"routes: [ { name: all, match: \"/*\", upstream: main }, { name: small, match: /small, upstream: main, max_body: 10 }, { name: free, match: /free, upstream: main, max_body: 0 } ]\n")
	f := func(path string, n, want int) {
		t.Helper()
		b := noise(n)
		w := e.dial().send(fmt.Sprintf("POST %s HTTP/1.1\nHost: x\nContent-Length: %d\n\n", path, n))
		go func() { _, _ = w.Write(b) }()
		if a := w.response("POST"); a.StatusCode != want {
			t.Errorf("%s, length %d: %d, want %d", path, n, a.StatusCode, want)
		}
		again := e.dial().send("POST " + path + " HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n")
		go func() { _, _ = again.Write(chunked(b, 1000, "")) }()
		a := again.response("POST")
		if a.StatusCode != want {
			t.Errorf("%s, chunked %d: %d, want %d", path, n, a.StatusCode, want)
		}
		if want == 413 && (a.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, "urn:sluice:problem:body-too-large")) {
			t.Errorf("%s %s", a.Header.Get("Content-Type"), a.body)
		}
	}
	f("/", 100<<10, 200)
	f("/", 100<<10+1, 413)
	f("/", 3<<20, 413)
	f("/small", 10, 200)
	f("/small", 11, 413)
	f("/free", 3<<20, 200)
}

func TestTooLargeByLengthIsNotForwarded(t *testing.T) {
	o := startOrigin(t, digesting)
	e := startEdge(t, forwardTo(o, "server: { max_body: 10 }"))
	// Before a byte of it was sent.
	for _, fields := range []string{"", "Expect: 100-continue\n"} {
		a := e.dial().send("POST / HTTP/1.1\nHost: x\nContent-Length: 11\n" + fields + "\n").response("POST")
		if a.StatusCode != 413 || o.connections() != 0 {
			t.Errorf("%q: %d, %d connections to the backend", fields, a.StatusCode, o.connections())
		}
	}
}

// TestEarlyAnswer has a backend that answers before it has read the body and
// stops reading. The client gets the answer, may stop sending, and then sees an
// orderly end: not a reset, which could take the answer away from it.
func TestEarlyAnswer(t *testing.T) {
	for _, framing := range []string{"Content-Length: 104857600", "Transfer-Encoding: chunked"} {
		for _, what := range []string{"backend", "respond", "limit"} {
			t.Run(what+" "+framing, func(t *testing.T) {
				o := startOrigin(t, func(w *wireEnd) {
					if _, err := w.tryHead(); err != nil {
						return
					}
					if _, err := w.in.Peek(1000); err != nil {
						return
					}
					w.send("HTTP/1.1 403 Forbidden\nContent-Length: 2\n\nno")
					_, _ = io.Copy(io.Discard, w.in) // until the gateway gives up
				})
				text := forwardTo(o)
				want := 403
				switch what {
				case "respond":
					text = "routes: [ { name: no, respond: { status: 403, body: no } } ]\n"
				case "limit":
					text, want = forwardTo(o, "server: { max_body: 1KiB }"), 413
				}
				e := startEdge(t, text)
				w := e.dial().send("POST / HTTP/1.1\nHost: x\n" + framing + "\n\n")
				sender := make(chan error, 1)
				stop := make(chan bool)
				go func() {
					piece := []byte("1000\r\n" + strings.Repeat("x", 4096) + "\r\n")
					for {
						select {
						case <-stop:
							sender <- nil
							return
						default:
						}
						if _, err := w.Write(piece); err != nil {
							sender <- err
							return
						}
					}
				}()
				a := w.response("POST")
				close(stop)
				if a.StatusCode != want {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				if a.Header.Get("Connection") != "close" && !a.Close {
					t.Error("the answer does not say that the connection ends")
				}
				_ = within(t, "the sender's end", sender)
				if text, err := w.rest(); text != "" || err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %q, %v", text, err)
				} else if err != nil && what != "limit" {
					t.Errorf("the connection was reset: %v", err)
				}
			})
		}
	}
}

// TestEarlyAnswerWhileBackendReadsOn is a backend that answers at once and
// takes the whole body all the same.
func TestEarlyAnswerWhileBackendReadsOn(t *testing.T) {
	got := make(chan int, 1)
	o := startOrigin(t, func(w *wireEnd) {
		head, err := w.tryHead()
		if err != nil {
			return
		}
		w.send("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nfirst\n")
		body, _ := w.requestBody(head)
		got <- len(body)
		w.send("4\nlast\n0\n\n")
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial().send("POST / HTTP/1.1\nHost: x\nContent-Length: 1000000\n\n")
	w.head()
	w.want("5\r\nfirst\r\n") // before a byte of the body was sent
	w.sendRaw(noise(1000000))
	if n := within(t, "the body", got); n != 1000000 {
		t.Errorf("the backend got %d bytes", n)
	}
	w.want("4\r\nlast\r\n0\r\n\r\n")
	w.wantEnd()
}

// TestResumableUpload goes through a TUS exchange: create, break off, ask how
// far it came, resume (tus.io, and traefik#11664).
func TestResumableUpload(t *testing.T) {
	const size = 200 << 10
	stored := make(chan []byte, 1)
	stored <- nil
	patching := make(chan bool, 100)
	o := startOrigin(t, func(w *wireEnd) {
		for {
			head, err := w.tryHead()
			if err != nil {
				return
			}
			method, _, _ := strings.Cut(head, " ")
			have := <-stored
			if value(w.t, head, "Tus-Resumable") != "1.0.0" {
				w.t.Errorf("head %s", head)
			}
			switch method {
			case "POST":
				w.send("HTTP/1.1 201 Created\nLocation: /files/1\nTus-Resumable: 1.0.0\nContent-Length: 0\n\n")
			case "HEAD":
				w.send(fmt.Sprintf("HTTP/1.1 200 OK\nUpload-Offset: %d\nUpload-Length: %d\nCache-Control: no-store\nTus-Resumable: 1.0.0\n\n", len(have), size))
			case "PATCH":
				patching <- true
				if want := fmt.Sprint(len(have)); value(w.t, head, "Upload-Offset") != want {
					w.t.Errorf("offset, want %s:\n%s", want, head)
				}
				body, err := w.requestBody(head)
				have = append(have, body...) // what came stays
				if err != nil {
					stored <- have
					return
				}
				w.send(fmt.Sprintf("HTTP/1.1 204 No Content\nUpload-Offset: %d\nTus-Resumable: 1.0.0\n\n", len(have)))
			}
			stored <- have
		}
	})
	e := startEdge(t, forwardTo(o))
	file := noise(size)
	const tus = "Host: x\nTus-Resumable: 1.0.0\n"
	w := e.dial()
	a := w.send("POST /files HTTP/1.1\n" + tus + "Upload-Length: 204800\nContent-Length: 0\n\n").response("POST")
	if a.StatusCode != 201 || a.Header.Get("Location") != "/files/1" {
		t.Fatal(a.head)
	}
	// The connection breaks in the middle.
	w.send(fmt.Sprintf("PATCH /files/1 HTTP/1.1\n"+tus+"Upload-Offset: 0\nContent-Type: application/offset+octet-stream\nContent-Length: %d\n\n", size)).sendRaw(file[:70000])
	within(t, "the upload at the backend", patching)
	_ = w.Close()

	w = e.dial()
	for {
		a = w.send("HEAD /files/1 HTTP/1.1\n" + tus + "\n").response("HEAD")
		var offset int
		if _, err := fmt.Sscan(a.Header.Get("Upload-Offset"), &offset); err != nil || a.Header.Get("Upload-Length") != "204800" {
			t.Fatal(a.head)
		}
		if offset == size {
			break
		}
		n := min(size-offset, 50000)
		w.send(fmt.Sprintf("PATCH /files/1 HTTP/1.1\n"+tus+"Upload-Offset: %d\nContent-Type: application/offset+octet-stream\nContent-Length: %d\n\n", offset, n)).sendRaw(file[offset : offset+n])
		a = w.response("PATCH")
		if a.StatusCode != 204 || a.Header.Get("Upload-Offset") != fmt.Sprint(offset+n) || len(fieldLines(a.head, "Content-Length")) != 0 {
			t.Fatal(a.head)
		}
	}
	if got := <-stored; !bytes.Equal(got, file) {
		t.Errorf("stored %d bytes, not the file", len(got))
	}
	stored <- nil
}

func TestRequestTrailers(t *testing.T) {
	heads := make(chan string, 2)
	o := startOrigin(t, func(w *wireEnd) {
		for {
			head, err := w.tryHead()
			if err != nil {
				return
			}
			w.want("4\r\nbody\r\n0\r\n")
			heads <- head + "--\n" + w.head()
			w.send(okEmpty)
		}
	})
	e := startEdge(t, forwardTo(o, quiet))
	f := func(announce, trailers, want string) {
		t.Helper()
		w := e.dial().send("POST / HTTP/1.1\nHost: x\n" + announce + "Transfer-Encoding: chunked\n\n4\nbody\n0\n" + trailers + "\n")
		w.response("POST")
		if got := within(t, "the request", heads); got != "POST / HTTP/1.1\nHost: x\n"+announce+"Transfer-Encoding: chunked\n--\n"+want {
			t.Errorf("got\n%s", got)
		}
	}
	f("Trailer: X-Sum\n", "x-sum: 1\n", "x-sum: 1\n")
	f("", "X-Sum: 1\nX-Sum: 2\n", "X-Sum: 1\nX-Sum: 2\n")
	f("", "", "")
	// None that have a say in framing, routing or identity.
	f("", "Content-Length: 5\nTransfer-Encoding: chunked\nHost: evil\nAuthorization: a\nX-Forwarded-For: 1.1.1.1\nConnection: close\nX-Ok: 1\n", "X-Ok: 1\n")
}

func TestExpectContinue(t *testing.T) {
	type seen struct{ head, body string }
	said := make(chan seen, 1)
	serve := func(mode string) *edge {
		return startEdge(t, forwardTo(startOrigin(t, func(w *wireEnd) {
			for {
				head, err := w.tryHead()
				if err != nil {
					return
				}
				switch mode {
				case "continue":
					w.send("HTTP/1.1 100 Continue\n\n")
				case "refuse":
					w.send("HTTP/1.1 417 Expectation Failed\nContent-Length: 0\n\n")
					said <- seen{head: head}
					_, _ = io.Copy(io.Discard, w.in)
					return
				}
				body, err := w.requestBody(head)
				if err != nil {
					return
				}
				said <- seen{head, body}
				w.send(okEmpty)
			}
		}), quiet))
	}
	ask := func(e *edge, framing string) *wireEnd {
		return e.dial().send("POST / HTTP/1.1\nHost: x\n" + framing + "\nExpect: 100-continue\n\n")
	}
	for framing, body := range map[string]string{"Content-Length: 5": "hello", "Transfer-Encoding: chunked": "5\nhello\n0\n\n"} {
		for _, mode := range []string{"continue", "ignore"} {
			e := serve(mode)
			w := ask(e, framing)
			if got := w.head(); got != "HTTP/1.1 100 Continue\n" {
				t.Errorf("%s, %s: got %q", mode, framing, got)
			}
			w.send(body)
			if a := w.response("POST"); a.StatusCode != 200 {
				t.Errorf("%s, %s: %d", mode, framing, a.StatusCode)
			}
			if got := within(t, "the request", said); got.body != "hello" || value(t, got.head, "Expect") != "100-continue" {
				t.Errorf("%s, %s: the backend got %q", mode, framing, got)
			}
			// The connection goes on.
			w.send("POST / HTTP/1.1\nHost: x\nContent-Length: 2\n\nhi")
			// A client that did not ask is not told (RFC 9110 10.1.1).
			if a := w.response("POST"); a.StatusCode != 200 {
				t.Errorf("%s, %s: then %d", mode, framing, a.StatusCode)
			}
			within(t, "the request", said)
		}
		w := ask(serve("refuse"), framing)
		if a := w.response("POST"); a.StatusCode != 417 {
			t.Errorf("refuse, %s: %d", framing, a.StatusCode)
		}
		within(t, "the request", said)
		w.wantEnd()
	}
	// A client that does not wait.
	w := serve("ignore").dial().send("POST / HTTP/1.1\nHost: x\nContent-Length: 5\nExpect: 100-continue\n\nhello")
	a := w.response("POST")
	if a.StatusCode == 100 {
		a = w.response("POST")
	}
	if got := within(t, "the request", said); a.StatusCode != 200 || got.body != "hello" {
		t.Errorf("%d, %q", a.StatusCode, got)
	}
	// Nobody is told to send what will be refused.
	e := startEdge(t, "routes: [ { name: no, respond: { status: 401, body: no } } ]\n")
	if a := ask(e, "Content-Length: 5").response("POST"); a.StatusCode != 401 {
		t.Errorf("respond: %d", a.StatusCode)
	}
}

// TestUploadClientDies checks that the backend learns of it: its request ends
// without its end.
func TestUploadClientDies(t *testing.T) {
	for _, framing := range []string{"Content-Length: 1000000", "Transfer-Encoding: chunked"} {
		type end struct {
			n   int
			err error
		}
		got := make(chan end, 1)
		began := make(chan bool, 1)
		o := startOrigin(t, func(w *wireEnd) {
			if _, err := w.tryHead(); err != nil {
				return
			}
			w.take(100)
			began <- true
			n, err := io.Copy(io.Discard, w.in)
			got <- end{int(n), err}
		})
		e := startEdge(t, forwardTo(o))
		w := e.dial().send("POST / HTTP/1.1\nHost: x\n" + framing + "\n\n1000\n").sendRaw(noise(4096))
		within(t, "the body's start", began)
		_ = w.Close()
		if r := within(t, "the end at the backend", got); r.n > 5000 {
			t.Errorf("%s: %d bytes more, %v", framing, r.n, r.err)
		}
	}
}

func TestUploadStalls(t *testing.T) {
	o := startOrigin(t, digesting)
	e := startEdge(t, forwardTo(o, "server: { body_timeout: 200ms }"))
	for _, request := range []string{
		"POST / HTTP/1.1\nHost: x\nContent-Length: 10\n\nhalf",
		"POST / HTTP/1.1\nHost: x\nContent-Length: 1000000\n\nhalf",
		"POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n5\nhel",
	} {
		w := e.dial().send(request)
		t.Logf("sent %q", request)
		if a := w.response("POST"); a.StatusCode != 408 {
			t.Errorf("%.60q: %d", request, a.StatusCode)
		}
		w.wantEnd()
	}
}

// TestBackendStopsReading is a backend that takes no more of a body: the
// request ends in the time that a body may stand still.
func TestBackendStopsReading(t *testing.T) {
	release := make(chan bool)
	o := startOrigin(t, func(w *wireEnd) {
		if c, ok := w.Conn.(*net.TCPConn); ok {
			_ = c.SetReadBuffer(4096)
		}
		_, _ = w.tryHead()
		<-release
	})
	defer close(release)
	e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], timeouts: { idle: 200ms, response: 300ms } } }\nroutes: [ { name: all, upstream: main } ]\n")
	w := e.dial().send("POST / HTTP/1.1\nHost: x\nContent-Length: 100000000\n\n")
	go func() { _, _ = w.Write(noise(100000000)) }()
	if a := w.response("POST"); a.StatusCode != 504 && a.StatusCode != 502 {
		t.Errorf("%d", a.StatusCode)
	}
}

// TestBrokenUploadsLeaveNothing runs uploads that break off in every way beside uploads
// that must arrive as they were sent.
func TestBrokenUploadsLeaveNothing(t *testing.T) {
	o := startOrigin(t, digesting)
	e := startEdge(t, forwardTo(o, "server: { max_body: 60KiB }"))
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		evil := e.dial().send("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n")
		go func() { _, _ = evil.Write(chunked(bytes.Repeat([]byte("EVIL"), 40000), 30000, "")) }()
		if a := evil.response("POST"); a.StatusCode != 413 {
			t.Fatalf("%d", a.StatusCode)
		}
		_ = evil.Close()
		b := noise(40000 + i)
		w := e.dial().send("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n").sendRaw(chunked(b, 9000, ""))
		if got := w.response("POST").body; !strings.HasPrefix(got, digestOf(b, "")) {
			t.Fatalf("round %d: got %s, want %s", i, got, digestOf(b, ""))
		}
		_ = w.Close()
	}
}
