package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// backend is an origin that counts what it is asked, by URI.
type backend struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	reqs []*http.Request
}

func startBackend(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, n int)) *backend {
	t.Helper()
	b := &backend{seen: map[string]int{}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.seen[r.URL.RequestURI()]++
		n := b.seen[r.URL.RequestURI()]
		b.reqs = append(b.reqs, r)
		b.mu.Unlock()
		answer(w, r, n)
	}))
	t.Cleanup(b.Server.Close)
	return b
}

// asked is how often the backend was asked for uri.
func (b *backend) asked(uri string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[uri]
}

func (b *backend) last() *http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reqs[len(b.reqs)-1]
}

// cachingTo is a configuration that forwards all to b, with a route's cache.
func cachingTo(b *backend, cache string, more ...string) string {
	return "upstreams: { app: \"" + b.URL + "\" }\nroutes:\n  - { name: app, upstream: app, cache: " + cache + " }\n" + strings.Join(more, "\n")
}

// want checks status, body and how often the backend was asked for path so far.
func (e *edge) want(b *backend, path string, status int, body string, asked int, fields ...string) *answer {
	e.t.Helper()
	a := e.get(path, fields...)
	if a.StatusCode != status || a.body != body || b.asked(path) != asked {
		e.t.Errorf("%s %q: got %d %.60q after %d requests, want %d %.60q after %d; %s", path, fields, a.StatusCode, a.body, b.asked(path), status, body, asked, a.Header["Cache-Status"])
	}
	return a
}

func TestCacheHit(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", "max-age=60")
		w.Header().Set("ETag", `"one"`)
		fmt.Fprint(w, "answer ", n)
	})
	e := startEdge(t, cachingTo(b, "on"))
	first := e.want(b, "/a", 200, "answer 1", 1)
	if got := first.Header.Get("Cache-Status"); got != "Sluice; fwd=uri-miss; stored; ttl=60" {
		t.Errorf("Cache-Status of the miss: %q", got)
	}
	hit := e.want(b, "/a", 200, "answer 1", 1)
	if got := hit.Header.Get("Cache-Status"); !strings.HasPrefix(got, "Sluice; hit; ttl=") {
		t.Errorf("Cache-Status of the hit: %q", got)
	}
	if hit.Header.Get("Age") == "" || hit.Header.Get("Via") == "" || hit.Header.Get("X-Request-Id") == "" || hit.ContentLength != 8 {
		t.Errorf("head of the hit:\n%s", hit.head)
	}
	if hit.Header.Get("X-Request-Id") == first.Header.Get("X-Request-Id") {
		t.Error("the request id was stored")
	}
	e.want(b, "/a?x=1", 200, "answer 1", 1)
	if a := e.ask("HEAD", "/a"); a.StatusCode != 200 || a.body != "" || a.ContentLength != 8 || b.asked("/a") != 1 {
		t.Errorf("HEAD: %d %q %d", a.StatusCode, a.body, a.ContentLength)
	}
	e.want(b, "/a", 304, "", 1, `If-None-Match: "zero", W/"one"`)
	e.want(b, "/a", 206, "swe", 1, "Range: bytes=2-4")
	e.want(b, "/a", 416, "", 1, "Range: bytes=99-")
	if a := e.want(b, "/a", 200, "answer 1", 1, "Range: bytes=2-4", `If-Range: "other"`); a.Header.Get("Content-Range") != "" {
		t.Error("If-Range does not hold")
	}
	parts := e.get("/a", "Range: bytes=0-1,4-5")
	if parts.StatusCode != 206 || !strings.Contains(parts.body, "Content-Range: bytes 4-5/8\r\n\r\ner") || int64(len(parts.body)) != parts.ContentLength {
		t.Errorf("parts: %s\n%s", parts.head, parts.body)
	}
	if e.ask("GET", "/b", "Cache-Control: only-if-cached").StatusCode != 504 || b.asked("/b") != 0 {
		t.Error("only-if-cached was forwarded")
	}
}

func TestCacheRevalidates(t *testing.T) {
	var fail atomic.Bool
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if fail.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Cache-Control", "max-age=0, stale-if-error=60")
		w.Header().Set("ETag", `"one"`)
		w.Header().Set("X-Count", fmt.Sprint(n))
		if r.Header.Get("If-None-Match") == `"one"` {
			w.WriteHeader(304)
			return
		}
		fmt.Fprint(w, "body")
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.want(b, "/a", 200, "body", 1)
	a := e.want(b, "/a", 200, "body", 2)
	if got := a.Header.Get("Cache-Status"); !strings.HasPrefix(got, "Sluice; fwd=stale; fwd-status=304; stored") {
		t.Errorf("Cache-Status: %q", got)
	}
	if a.Header.Get("X-Count") != "2" {
		t.Error("the 304 did not update the head")
	}
	e.want(b, "/a", 304, "", 3, `If-None-Match: "one"`)
	fail.Store(true)
	if a := e.want(b, "/a", 200, "body", 4); !strings.Contains(a.Header.Get("Cache-Status"), "fwd-status=503") {
		t.Errorf("stale on error: %q", a.Header.Get("Cache-Status"))
	}
	b.Server.CloseClientConnections()
	b.Server.Listener.Close()
	e.want(b, "/a", 200, "body", 4)
}

func TestCacheServesStaleAndRefreshes(t *testing.T) {
	again := make(chan struct{})
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			w.Header().Set("Date", time.Now().Add(-10*time.Second).UTC().Format(http.TimeFormat))
		} else {
			defer close(again)
		}
		w.Header().Set("Cache-Control", "max-age=5, stale-while-revalidate=60")
		fmt.Fprint(w, "answer ", n)
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.want(b, "/a", 200, "answer 1", 1)
	a := e.get("/a")
	if a.body != "answer 1" || !strings.Contains(a.Header.Get("Cache-Status"), "hit; ttl=-") {
		t.Errorf("stale: %q %q", a.body, a.Header.Get("Cache-Status"))
	}
	<-again
	for until := time.Now().Add(limit); ; {
		if e.get("/a").body == "answer 2" {
			break
		}
		if time.Now().After(until) {
			t.Fatal("never refreshed")
		}
	}
	if n := b.asked("/a"); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

func TestCacheCollapses(t *testing.T) {
	const clients = 100
	var arrived atomic.Int32
	release := make(chan struct{})
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		arrived.Add(1)
		<-release
		if strings.HasPrefix(r.URL.Path, "/private") {
			w.Header().Set("Cache-Control", "private")
		} else {
			w.Header().Set("Cache-Control", "max-age=60")
		}
		fmt.Fprint(w, strings.Repeat("x", 50_000), n)
	})
	e := startEdge(t, cachingTo(b, "on"))
	for _, c := range []struct {
		path  string
		asked int
	}{{"/shared", 1}, {"/private", clients}} {
		var wg sync.WaitGroup
		arrived.Store(0)
		release = make(chan struct{})
		for range clients {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a := e.get(c.path)
				if a.StatusCode != 200 || len(a.body) < 50_001 {
					t.Errorf("%s: %d with %d bytes", c.path, a.StatusCode, len(a.body))
				}
			}()
		}
		eventually(t, "all are waiting", func() bool {
			open, _ := e.gateway.Engine.Counts()
			return open == clients && arrived.Load() > 0
		})
		close(release)
		wg.Wait()
		if n := b.asked(c.path); n != c.asked {
			t.Errorf("%s: asked %d times, want %d", c.path, n, c.asked)
		}
	}
}

func TestCacheFollowersReadWhileItArrives(t *testing.T) {
	step := make(chan string)
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", "max-age=60")
		for text := range step {
			_, _ = io.WriteString(w, text)
			w.(http.Flusher).Flush()
		}
	})
	e := startEdge(t, cachingTo(b, "on"))
	leader := e.dial()
	leader.send("GET /a HTTP/1.1\nHost: test\n\n")
	step <- "one"
	leader.head()
	leader.want("3\r\none\r\n")
	follower := e.dial()
	follower.send("GET /a HTTP/1.1\nHost: test\n\n")
	head := follower.head()
	if !strings.Contains(head, "collapsed") {
		t.Errorf("head of the follower:\n%s", head)
	}
	follower.want("3\r\none\r\n")
	_ = leader.Close() // the follower does not notice
	step <- "two"
	follower.want("3\r\ntwo\r\n")
	close(step)
	follower.want("0\r\n\r\n")
	e.want(b, "/a", 200, "onetwo", 1)
}

func TestCacheUnsafeMethodsInvalidate(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		switch r.Method {
		case "POST":
			w.Header().Set("Location", "/other")
			w.WriteHeader(201)
		case "DELETE":
			w.WriteHeader(500)
		default:
			w.Header().Set("Cache-Control", "max-age=60")
			fmt.Fprint(w, "answer ", n)
		}
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.want(b, "/a", 200, "answer 1", 1)
	e.want(b, "/other", 200, "answer 1", 1)
	e.want(b, "/third", 200, "answer 1", 1)
	e.ask("DELETE", "/a")
	e.want(b, "/a", 200, "answer 1", 2)
	e.ask("POST", "/a", "Content-Length: 0")
	e.want(b, "/a", 200, "answer 4", 4)
	e.want(b, "/other", 200, "answer 2", 2)
	e.want(b, "/third", 200, "answer 1", 1)
}

func TestPurge(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60, stale-while-revalidate=0")
		h.Set("ETag", fmt.Sprintf(`"%d"`, n))
		h.Set("Surrogate-Key", "all "+strings.Trim(r.URL.Path, "/"))
		h.Set("Cache-Tag", "x,y")
		fmt.Fprint(w, n)
	})
	e := startEdge(t, cachingTo(b, "{ key: { query: sorted } }"))
	if a := e.want(b, "/a", 200, "1", 1); a.Header.Get("Surrogate-Key")+a.Header.Get("Cache-Tag") != "" {
		t.Errorf("surrogate keys went on:\n%s", a.head)
	}
	e.want(b, "/b", 200, "1", 1)
	e.want(b, "/b?x=2&a=1", 200, "1", 0)
	asked := 1
	for _, c := range []struct {
		scope, value string
		soft, hits   bool
	}{
		{"url", "http://test/b", false, true},
		{"url", "http://test/a?z", false, true},
		{"url", "http://TEST:80/x/%2e%2E/%61", false, false},
		{"prefix", "http://test/a", false, false},
		{"prefix", "http://test", false, false},
		{"prefix", "https://test", false, true},
		{"tag", "a", false, false},
		{"tag", "b", false, true},
		{"tag", "y", true, false},
		{"all", "", false, false},
	} {
		if err := e.gateway.Purge(c.scope, c.value, c.soft); err != nil {
			t.Fatal(err)
		}
		if !c.hits {
			asked++
		}
		if e.get("/a"); b.asked("/a") != asked {
			t.Errorf("%s %s: asked %d times, want %d", c.scope, c.value, b.asked("/a"), asked)
			asked = b.asked("/a")
		}
	}
	before := b.asked("/b?a=1&x=2")
	e.get("/b?x=2&a=1")
	e.get("/b?a=1&x=2")
	if err := e.gateway.Purge("url", "http://test/b?x=2&a=1", false); err != nil {
		t.Fatal(err)
	}
	if e.get("/b?a=1&x=2"); b.asked("/b?a=1&x=2") != before+2 {
		t.Errorf("a sorted query: asked %d times, want %d", b.asked("/b?a=1&x=2"), before+2)
	}
	for scope, value := range map[string]string{"url": "/a", "prefix": "ftp://x/", "tag": "a b", "host": "x", "url ": "http:///a"} {
		if e.gateway.Purge(scope, value, false) == nil {
			t.Errorf("%s %q was taken", scope, value)
		}
	}
}

// What is stored is there again after a restart, and after a reload that changes
// the memory.
func TestCacheStays(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, n)
	})
	file := t.TempDir() + "/answers"
	text := cachingTo(b, "on", "cache: { file: \""+file+"\" }")
	e := startEdge(t, text)
	e.want(b, "/a", 200, "1", 1)
	e.apply(strings.Replace(text, "cache: { file", "cache: { size: 8MiB, file", 1))
	e.want(b, "/a", 200, "1", 1)
	e.apply(text + "\nreload: { watch: false }")
	e.want(b, "/a", 200, "1", 1)
	e.gateway.SaveCache()
	e.stop()
	again := startEdge(t, text)
	again.want(b, "/a", 200, "1", 1)
}

func TestCacheStoresNothingIncomplete(t *testing.T) {
	n := 0
	breaking := startOrigin(t, func(w *wireEnd) {
		if _, err := w.tryHead(); err != nil {
			return
		}
		n++
		switch n {
		case 1:
			w.send("HTTP/1.1 200 OK\nCache-Control: max-age=60\nContent-Length: 50\n\nshort")
		case 2:
			w.send("HTTP/1.1 200 OK\nCache-Control: max-age=60\nTransfer-Encoding: chunked\n\n5\nshort\n")
		case 3:
			w.send("HTTP/1.1 200 OK\nCache-Control: max-age=60\nTransfer-Encoding: chunked\n\n5\nshort\nZZ\n")
		default:
			w.send("HTTP/1.1 200 OK\nCache-Control: max-age=60\nContent-Length: 5\nConnection: close\n\nwhole")
		}
	})
	e := startEdge(t, "upstreams: { app: \""+breaking.url()+"\" }\nroutes: [ { name: app, upstream: app, cache: on } ]\n")
	for i := range 3 {
		w := e.dial()
		w.send("GET /a HTTP/1.1\nHost: test\nConnection: close\n\n")
		if text, err := w.rest(); err == nil && strings.Contains(text, " 200 ") {
			t.Errorf("request %d: an answer that broke off ended in order:\n%s", i+1, text)
		}
	}
	if a := e.get("/a"); a.body != "whole" {
		t.Errorf("%q", a.body)
	}
	if a := e.get("/a"); a.body != "whole" || !strings.Contains(a.Header.Get("Cache-Status"), "hit") {
		t.Errorf("%q, %s", a.body, a.Header.Get("Cache-Status"))
	}
	if n != 4 {
		t.Errorf("asked %d times", n)
	}
}

// While a target fails, stale answers go on, and it is not asked for each of them.
func TestCacheRefreshesWithPauses(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n > 1 {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("Date", time.Now().Add(-10*time.Second).UTC().Format(http.TimeFormat))
		w.Header().Set("Cache-Control", "max-age=5, stale-while-revalidate=60, stale-if-error=60")
		fmt.Fprint(w, "answer ", n)
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.get("/a")
	e.get("/a")
	eventually(t, "the refresh has failed", func() bool { return b.asked("/a") == 2 })
	began := time.Now()
	for range 200 {
		if a := e.get("/a"); a.body != "answer 1" {
			t.Fatalf("%d %q", a.StatusCode, a.body)
		}
	}
	if most := 3 + int(time.Since(began)/time.Second); b.asked("/a") > most {
		t.Errorf("asked %d times in %v", b.asked("/a"), time.Since(began))
	}
}
