//go:build !race

package proxy_test

import (
	"bytes"
	"net"
	"runtime"
	"testing"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"
)

// rawOrigin answers requests without a body with one and the same answer, and
// allocates nothing while it does.
func rawOrigin(t testing.TB, answer []byte) *origin {
	return startOrigin(t, func(w *wireEnd) {
		buf := make([]byte, 4096)
		have := 0
		for {
			n, err := w.Conn.Read(buf[have:])
			if err != nil {
				return
			}
			if have += n; !bytes.HasSuffix(buf[:have], crlfcrlf) {
				continue
			}
			have = 0
			if _, err := w.Conn.Write(answer); err != nil {
				return
			}
		}
	})
}

var crlfcrlf = []byte("\r\n\r\n")

// rawClient sends one request again and again, and allocates nothing either.
type rawClient struct {
	t       testing.TB
	conn    net.Conn
	request []byte
	buf     []byte
	size    int // of the answer, the same every time
}

func newRawClient(t testing.TB, e *edge, request, end string) *rawClient {
	w := e.dial()
	c := &rawClient{t: t, conn: w.Conn, request: []byte(crlf(request)), buf: make([]byte, 128<<10)}
	if _, err := c.conn.Write(c.request); err != nil {
		t.Fatal(err)
	}
	for !bytes.HasSuffix(c.buf[:c.size], []byte(end)) {
		n, err := c.conn.Read(c.buf[c.size:])
		if err != nil {
			t.Fatal(err)
		}
		c.size += n
	}
	if !bytes.HasPrefix(c.buf, []byte("HTTP/1.1 200 ")) {
		t.Fatalf("got %s", c.buf[:c.size])
	}
	return c
}

func (c *rawClient) exchange() {
	if _, err := c.conn.Write(c.request); err != nil {
		c.t.Fatal(err)
	}
	for have := 0; have < c.size; {
		n, err := c.conn.Read(c.buf[have:])
		if err != nil {
			c.t.Fatal(err)
		}
		have += n
	}
	if string(c.buf[:13]) != "HTTP/1.1 200 " {
		c.t.Fatalf("got %s", c.buf[:c.size])
	}
}

// allocations is how often the process allocates for one exchange, on average.
// It counts all of the process: the gateway with its log writer, the client
// and the backend.
func (c *rawClient) allocations() float64 {
	const runs = 2000
	// On one processor, as testing.AllocsPerRun does, so that the pools are warm.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 200 {
		c.exchange()
	}
	runtime.GC()
	for range 200 {
		c.exchange() // fills the pools that the collection emptied
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		c.exchange()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / runs
}

// stray is what timers and tickers of the process may allocate meanwhile, for
// each request.
const stray = 0.02

// TestForwardingAllocatesNothing holds the promise of the hot path: with access
// log, metrics, request id, trace and X-Forwarded-For on, forwarding a request
// allocates nothing.
func TestForwardingAllocatesNothing(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: raw\r\nContent-Length: 16\r\n\r\n{\"answer\":\"yes\"}")
	stream := []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"answer\":\"yes\"}\r\n0\r\n\r\n")
	o, s := rawOrigin(t, answer), rawOrigin(t, stream)
	e := startEdge(t,
		"upstreams:\n  main: \""+o.url()+"\"\n  stream: \""+s.url()+"\"\n  several: { targets: [\""+o.url()+"\", \"http://localhost:"+portOf(o.addr())+"\"], balance: least_request }\n"+
			"routes:\n"+
			"- { name: exact, match: /exact, upstream: main }\n"+
			"- { name: prefix, match: \"/prefix/*\", upstream: main }\n"+
			"- { name: other, match: \"/prefix/other/*\", upstream: main }\n"+
			"- { name: user, match: \"/users/{id}\", upstream: main, rewrite: { path: \"/v2/{id}\" } }\n"+
			"- { name: host, match: { host: api.example.com, path: \"/*\" }, upstream: several, rewrite: { strip_prefix: /a }, request: { headers: { set: { X-From: \"{client_ip}\" }, remove: [Cookie] } }, response: { headers: { set: { X-Route: \"{route}\" } } } }\n"+
			"- { name: chunked, match: /chunked, upstream: stream }\n"+
			"- { name: limited, match: /limited, upstream: main, limit: [many, mixed] }\n"+
			"limits: { many: 1000000/s, mixed: { rate: 1000000/s, key: \"ip+route+header:X-Custom+cookie:a\" } }\n")
	const fields = "User-Agent: raw/1.0\nAccept: */*\nAccept-Encoding: gzip, br\nCookie: a=b; c=d\nX-Custom: some value\n\n"

	index := router.New()
	for _, path := range []string{"/prefix/{rest:*}", "/prefix/other/{rest:*}", "/users/{id}"} {
		index.GET(path, func(*fasthttp.RequestCtx) {})
	}
	lookup := testing.AllocsPerRun(100, func() {
		if h, _ := index.Lookup("GET", "/users/42", nil); h == nil {
			t.Fatal("the index does not know /users/42")
		}
	})

	f := func(name, request, end string, most float64) {
		t.Helper()
		c := newRawClient(t, e, request+"\n"+fields, end)
		defer func() { _ = c.conn.Close() }()
		if n := c.allocations(); n > most+stray {
			t.Errorf("%s: %.3f allocations for each request, want at most %v", name, n, most)
		}
	}
	const json = `{"answer":"yes"}`
	f("exact", "GET /exact?a=b HTTP/1.1\nHost: test", json, 0)
	f("prefix", "GET /prefix/a/b?c HTTP/1.1\nHost: test", json, 0)
	f("longer prefix", "GET /prefix/other/b?c HTTP/1.1\nHost: test", json, 0)
	f("normalised", "GET /prefix/./x/../%41//b HTTP/1.1\nHost: test", json, 0)
	f("host, edits, several targets", "GET /a/b HTTP/1.1\nHost: API.example.com:80", json, 0)
	f("chunked answer", "GET /chunked HTTP/1.1\nHost: test", "0\r\n\r\n", 0)
	f("limited", "GET /limited HTTP/1.1\nHost: test", json, 0)
	f("param", "GET /users/42 HTTP/1.1\nHost: test", json, lookup)
	e = startEdge(t, forwardTo(o, "forwarded: { trusted: [127.0.0.1], forwarded: true }"))
	f("trusted hop", "GET /exact HTTP/1.1\nHost: test\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nX-Forwarded-For: 1.2.3.4", json, 0)
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// TestAllocationsAreSeen checks that the measure can fail: it counts the
// allocations of a backend that makes two for each request.
func TestAllocationsAreSeen(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend")
	var kept [2][]byte
	o := startOrigin(t, func(w *wireEnd) {
		buf := make([]byte, 4096)
		for {
			if _, err := w.Conn.Read(buf); err != nil {
				return
			}
			kept[0], kept[1] = make([]byte, 100), make([]byte, 200)
			if _, err := w.Conn.Write(answer); err != nil {
				return
			}
		}
	})
	c := newRawClient(t, startEdge(t, forwardTo(o)), "GET / HTTP/1.1\nHost: x\n\n", "end")
	if n := c.allocations(); n < 2 || n > 2+stray {
		t.Errorf("counted %.3f allocations for each request, want 2", n)
	}
}
