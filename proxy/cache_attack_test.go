package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A HEAD updates what is stored for those that it fits, and for nobody else.
func TestHeadDoesNotPoison(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		h := w.Header()
		h.Set("Cache-Control", "max-age=60")
		h.Set("ETag", `"x"`)
		if o := r.Header.Get("Origin"); o != "" {
			h.Set("Vary", "Origin")
			h.Set("Access-Control-Allow-Origin", o)
		}
		h.Set("Content-Length", "4")
		_, _ = io.WriteString(w, "body")
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.want(b, "/a", 200, "body", 1)
	e.ask("HEAD", "/a", "Cache-Control: no-cache", "Origin: https://evil.example")
	if a := e.get("/a"); strings.Contains(a.head, "evil") {
		t.Errorf("everybody gets\n%s", a.head)
	}
	e.get("/a")
	before := b.asked("/a")
	e.ask("HEAD", "/a", "Cache-Control: no-cache", "Authorization: x")
	e.ask("HEAD", "/a", "Cache-Control: no-store, no-cache")
	if e.get("/a"); b.asked("/a") != before+2 {
		t.Errorf("a HEAD with credentials took away what is stored: %d requests, want %d", b.asked("/a"), before+2)
	}
}

// What one request fails with for its own sake is not the others' answer, and does
// not send all of them to the target.
func TestLeadersOwnFailureIsItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		field string
		most  int // requests of the target for the leader and 20 others
	}{
		"reset":    {"X-Bad: 1", 3},
		"no-store": {"Cache-Control: no-store", 2},
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			var once sync.Once
			var waiting atomic.Int32
			b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
				waiting.Add(1)
				<-release
				if r.Header.Get("X-Bad") != "" {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Cache-Control", "max-age=60")
				fmt.Fprint(w, "good")
			})
			defer once.Do(func() { close(release) })
			e := startEdge(t, cachingTo(b, "on"))
			lead := e.dial()
			lead.send("GET /a HTTP/1.1\nHost: test\n" + c.field + "\n\n")
			eventually(t, "the leader's request has arrived", func() bool { return waiting.Load() == 1 })
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if a := e.get("/a"); a.StatusCode != 200 || a.body != "good" {
						t.Errorf("%d %q", a.StatusCode, a.body)
					}
				})
			}
			eventually(t, "all wait", func() bool { open, _ := e.gateway.Engine.Counts(); return open == 21 })
			once.Do(func() { close(release) })
			wg.Wait()
			if n := b.asked("/a"); n > c.most {
				t.Errorf("the target was asked %d times, want at most %d", n, c.most)
			}
		})
	}
}

// What is kept by the route's ttl alone is for those without credentials, also as
// something to ask about and to fall back to.
func TestAnonymousAnswersAreNotForCallers(t *testing.T) {
	var down atomic.Bool
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if down.Load() {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("ETag", `"anonymous"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
			return
		}
		fmt.Fprint(w, "page of ", r.Header.Get("Cookie"))
	})
	e := startEdge(t, cachingTo(b, "60s"))
	e.get("/a")
	if a := e.get("/a", "Cookie: who=ann"); a.body != "page of who=ann" {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
	down.Store(true)
	if a := e.get("/a", "Cookie: who=ann"); a.StatusCode != 503 {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
	if a := e.get("/a"); a.body != "page of " {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
}

// A client that wants a part, or has it all, does not keep the whole from being
// stored.
func TestConditionalLeaderFills(t *testing.T) {
	body := strings.Repeat("x", 300_000)
	for _, field := range []string{`If-None-Match: "x"`, "Range: bytes=0-9"} {
		b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("ETag", `"x"`)
			_, _ = io.WriteString(w, body)
		})
		e := startEdge(t, cachingTo(b, "on"))
		e.get("/a", field)
		eventually(t, "it is stored", func() bool { return strings.Contains(e.get("/a").Header.Get("Cache-Status"), "hit") })
		if n := b.asked("/a"); n > 2 {
			t.Errorf("%s: asked %d times", field, n)
		}
	}
}

// Fields that Cache-Control keeps for one request reach that one.
func TestFieldsForOneRequest(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", `max-age=60, private="X-Token", no-cache="X-Note"`)
		w.Header().Set("X-Token", "secret")
		w.Header().Set("X-Note", "note")
	})
	e := startEdge(t, cachingTo(b, "on"))
	if a := e.get("/a"); a.Header.Get("X-Token")+a.Header.Get("X-Note") != "secretnote" {
		t.Errorf("the first got\n%s", a.head)
	}
	if a := e.want(b, "/a", 200, "", 1); a.Header.Get("X-Token")+a.Header.Get("X-Note") != "" {
		t.Errorf("the second got\n%s", a.head)
	}
}

// Whoever does not read holds nobody up for long.
func TestSlowReaderHoldsNobodyUp(t *testing.T) {
	const size = 12 << 20
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", "max-age=60")
		piece := make([]byte, 64<<10)
		for range size / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})
	e := startEdge(t, cachingTo(b, "on", "cache: { max_object: 256KiB }\nserver: { write_timeout: 1h }"))
	slow := e.dial()
	slow.send("GET /a HTTP/1.1\nHost: test\n\n")
	slow.head()
	began := time.Now()
	if a := e.get("/a"); len(a.body) != size {
		t.Errorf("%d bytes", len(a.body))
	}
	if took := time.Since(began); took > limit/2 {
		t.Errorf("it took %v", took)
	}
}

// A stale answer to HEAD is refreshed whole.
func TestRefreshAfterHead(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			w.Header().Set("Date", time.Now().Add(-10*time.Second).UTC().Format(http.TimeFormat))
		}
		w.Header().Set("Cache-Control", "max-age=5, stale-while-revalidate=60")
		_, _ = io.WriteString(w, strings.Repeat("x", n))
	})
	e := startEdge(t, cachingTo(b, "on"))
	e.get("/a")
	e.ask("HEAD", "/a", "Cache-Control: no-store")
	eventually(t, "it is refreshed", func() bool { return b.asked("/a") == 2 && e.get("/a", "Cache-Control: only-if-cached").body == "xx" })
	if b.last().Method != "GET" {
		t.Errorf("refreshed by %s", b.last().Method)
	}
}
