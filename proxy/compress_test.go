package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sluice/encode"
)

var text = strings.Repeat("the quick brown fox jumps over the lazy dog. ", 2000)

// decoded is the body of a, without its coding.
func decoded(t *testing.T, a *answer) string {
	t.Helper()
	value := a.Header.Get("Content-Encoding")
	if value == "" {
		return a.body
	}
	c, ok := encode.CodingOf([]byte(value))
	if !ok {
		t.Fatalf("coding %q", value)
	}
	b, err := encode.Decode(nil, []byte(a.body), c, 1<<24)
	if err != nil {
		t.Fatalf("%s body of %d bytes: %v", value, len(a.body), err)
	}
	return string(b)
}

func TestCompress(t *testing.T) {
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		h := w.Header()
		h.Set("Content-Type", "text/plain")
		h.Set("ETag", `"strong"`)
		h.Set("Accept-Ranges", "bytes")
		body := text
		switch r.URL.Path {
		case "/short":
			body = "short"
		case "/image":
			h.Set("Content-Type", "image/png")
		case "/coded":
			h.Set("Content-Encoding", "gzip")
		case "/fixed":
			h.Set("Cache-Control", "no-transform, max-age=60")
		case "/stream":
			for range 10 {
				_, _ = io.WriteString(w, text[:len(text)/10])
				w.(http.Flusher).Flush()
			}
			return
		case "/small":
			body = text[:4000]
		}
		if h.Get("Cache-Control") == "" && r.URL.Query().Has("cache") {
			h.Set("Cache-Control", "max-age=60")
		}
		h.Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.WriteString(w, body)
	})
	const config = `
upstreams: { app: "%s" }
routes:
  - { name: cached, match: { query: { cache: "*" } }, upstream: app, compress: on, cache: on }
  - { name: plain, upstream: app, compress: { codings: [br, gzip] } }
`
	e := startEdge(t, fmt.Sprintf(config, b.URL))
	for _, c := range []struct {
		path, accept, coding string
		varies               bool
	}{
		{"/large", "gzip", "gzip", true},
		{"/large", "gzip, br, zstd", "br", true},
		{"/large", "gzip;q=1, br;q=0.1", "gzip", true},
		{"/large", "zstd", "", true},
		{"/large", "", "", true},
		{"/small", "br", "br", true},
		{"/stream", "br", "br", true},
		{"/stream", "gzip", "gzip", true},
		{"/short", "gzip", "", false},
		{"/image", "gzip", "", false},
		{"/fixed", "gzip", "", false},
		{"/large?cache", "zstd", "zstd", true},
		{"/large?cache", "gzip", "gzip", true},
		{"/large?cache", "", "", true},
		{"/small?cache", "zstd", "zstd", true},
		{"/short?cache", "gzip", "", false},
		{"/fixed?cache", "gzip", "", false},
		{"/image?cache", "gzip", "", false},
	} {
		want := text
		switch {
		case strings.HasPrefix(c.path, "/short"):
			want = "short"
		case strings.HasPrefix(c.path, "/small"):
			want = text[:4000]
		}
		for range 3 { // from the target, and from memory
			a := e.get(c.path, "Accept-Encoding: "+c.accept)
			if got := a.Header.Get("Content-Encoding"); got != c.coding {
				t.Errorf("%s for %q: coding %q, want %q", c.path, c.accept, got, c.coding)
			}
			if varies := strings.Contains(a.Header.Get("Vary"), "Accept-Encoding"); varies != c.varies {
				t.Errorf("%s for %q: Vary %q", c.path, c.accept, a.Header["Vary"])
			}
			if c.coding != "" && (a.Header.Get("Accept-Ranges") != "" || a.Header.Get("ETag") == `"strong"`) {
				t.Errorf("%s for %q:\n%s", c.path, c.accept, a.head)
			}
			if got := decoded(t, a); got != want {
				t.Errorf("%s for %q: %d bytes of body, want %d", c.path, c.accept, len(got), len(want))
			}
			if a.ContentLength >= 0 && int(a.ContentLength) != len(a.body) {
				t.Errorf("%s for %q: Content-Length %d of %d", c.path, c.accept, a.ContentLength, len(a.body))
			}
		}
	}
	if n := b.asked("/large?cache"); n != 1 {
		t.Errorf("asked %d times for what is stored", n)
	}
	if a := e.get("/large?cache", "Accept-Encoding: gzip", "Range: bytes=4-8"); a.body != "quick" || a.Header.Get("Content-Encoding") != "" {
		t.Errorf("range: %q\n%s", a.body, a.head)
	}
	if a := e.get("/large?cache", "Accept-Encoding: gzip", `If-None-Match: W/"strong"`); a.StatusCode != 304 || a.Header.Get("ETag") != `W/"strong"` {
		t.Errorf("conditional: %s", a.head)
	}
	if a := e.ask("HEAD", "/large", "Accept-Encoding: gzip"); a.Header.Get("Content-Encoding") != "gzip" || a.Header.Get("Content-Length") != "" {
		t.Errorf("HEAD: %s", a.head)
	}
	w := e.dial()
	w.send("GET /large HTTP/1.0\nHost: test\nAccept-Encoding: gzip\n\n")
	if a := w.response("GET"); a.body != text || a.Header.Get("Content-Encoding") != "" {
		t.Errorf("HTTP/1.0: %s", a.head)
	}
}

// What a target has said is with the client before it says more, compressed or
// not.
func TestCompressedStreamDoesNotWait(t *testing.T) {
	step := make(chan string)
	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Content-Type", "application/x-ndjson+json")
		for text := range step {
			_, _ = io.WriteString(w, text)
			w.(http.Flusher).Flush()
		}
	})
	e := startEdge(t, "upstreams: { app: \""+b.URL+"\" }\nroutes: [ { name: app, upstream: app, compress: { codings: gzip } } ]\n")
	req, _ := http.NewRequest("GET", "http://"+e.addr+"/", nil)
	go func() { step <- "one\n" }()
	resp, err := http.DefaultTransport.RoundTrip(req) // asks for gzip by itself, and decodes it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if !resp.Uncompressed {
		t.Error("not compressed")
	}
	buf := make([]byte, 64)
	for _, text := range []string{"one\n", "two\n"} {
		n, err := io.ReadFull(resp.Body, buf[:4])
		if err != nil || !bytes.Equal(buf[:n], []byte(text)) {
			t.Fatalf("%q, %v", buf[:n], err)
		}
		if text == "one\n" {
			step <- "two\n"
		}
	}
	close(step)
}
