package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/observe"
)

func TestMain(m *testing.M) {
	// fasthttp keeps one goroutine for the Date header until the process ends,
	// and one for each server asleep for up to 10 s after it.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// open starts a door on a free port of loopback and returns its URL.
func open(t *testing.T, o Options) string {
	t.Helper()
	o.Address, o.Log = "127.0.0.1:0", zerolog.New(t.Output())
	s := New(o)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown again: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return "http://" + s.Addr().String()
}

var client = &http.Client{Transport: &http.Transport{}}

// ask sends a request whose headers are given as name, value pairs; Host is one.
func ask(t *testing.T, method, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func everything() Options {
	m := observe.NewMetrics(observe.Build{Version: "1.2.3"}, nil)
	m.Route("user").Begin()
	return Options{
		Build:     observe.Build{Version: "1.2.3", Revision: "abc", Go: "go1"},
		Ready:     func() error { return nil },
		Metrics:   m.Gatherer(),
		Config:    func() ([]byte, error) { return []byte("routes: []\n"), nil },
		Routes:    func() any { return []map[string]any{{"name": "user"}} },
		Upstreams: func() any { return map[string]any{"users": map[string]int{"targets": 2}} },
		Reload:    func() error { return nil },
		Pprof:     true,
	}
}

func TestEndpoints(t *testing.T) {
	url := open(t, everything())
	f := func(method, path string, status int, contentType, part string) {
		t.Helper()
		res, body := ask(t, method, url+path)
		if res.StatusCode != status || !strings.HasPrefix(res.Header.Get("Content-Type"), contentType) || !strings.Contains(body, part) {
			t.Errorf("%s %s: expected %d %s with %q, got %d %s %.300s", method, path, status, contentType, part,
				res.StatusCode, res.Header.Get("Content-Type"), body)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: expected an answer that is not kept, got %v", method, path, res.Header)
		}
		if method == "HEAD" && body != "" {
			t.Errorf("%s %s: expected no body, got %q", method, path, body)
		}
	}
	f("GET", "/", 200, "text/html", `<a href="/metrics">`)
	f("GET", "/healthz", 200, "text/plain", "alive")
	f("HEAD", "/healthz", 200, "text/plain", "")
	f("GET", "/readyz", 200, "text/plain", "ready")
	f("GET", "/version", 200, "application/json", `"revision": "abc"`)
	f("GET", "/metrics", 200, "text/plain", `sluice_requests_in_flight{route="user"} 1`)
	f("GET", "/config", 200, "application/yaml", "routes: []")
	f("GET", "/routes", 200, "application/json", `"name": "user"`)
	f("GET", "/upstreams", 200, "application/json", `"targets": 2`)
	f("POST", "/reload", 200, "application/json", `"result": "applied"`)
	f("GET", "/debug/pprof/", 200, "text/html", "goroutine")
	f("GET", "/debug/pprof/goroutine?debug=1", 200, "text/plain", "goroutine profile")
	f("GET", "/debug/pprof/profile?seconds=999999", 400, "application/problem+json", "expected seconds from 0 to 30")
	f("GET", "/debug/pprof/trace?seconds=NaN", 400, "application/problem+json", "expected seconds")
	f("GET", "/none", 404, "application/problem+json", "urn:sluice:problem:not-found")
	f("GET", "/healthz/", 404, "application/problem+json", "not-found")
	f("GET", "/reload", 405, "application/problem+json", "expected POST")
	f("POST", "/config", 405, "application/problem+json", "expected GET, HEAD")
	f("HEAD", "/reload", 405, "application/problem+json", "")

	if res, _ := ask(t, "DELETE", url+"/config"); res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("expected Allow, got %v", res.Header)
	}
}

func TestWhatIsNotGivenIsNotThere(t *testing.T) {
	url := open(t, Options{})
	for _, path := range []string{"/metrics", "/config", "/routes", "/upstreams", "/reload", "/debug/pprof/", "/debug/pprof/heap"} {
		if res, body := ask(t, "GET", url+path); res.StatusCode != 404 {
			t.Errorf("%s: expected 404, got %d %s", path, res.StatusCode, body)
		}
	}
	if res, _ := ask(t, "GET", url+"/readyz"); res.StatusCode != 200 {
		t.Errorf("expected ready without a function, got %d", res.StatusCode)
	}
}

func TestBadNews(t *testing.T) {
	o := everything()
	o.Ready = func() error { return errors.New("draining") }
	o.Reload = func() error {
		return errors.New("a.yaml:3:5: routes[0].name: expected a name\na.yaml:9:1: unknown key \"rotues\"")
	}
	o.Config = func() ([]byte, error) { return nil, errors.New("inner detail") }
	o.Routes = func() any { panic("a defect") }
	o.Upstreams = func() any { return make(chan int) }
	url := open(t, o)
	f := func(method, path string, status int, kind, detail string) {
		t.Helper()
		res, body := ask(t, method, url+path)
		var got problemDocument
		if err := json.Unmarshal([]byte(body), &got); err != nil || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%s: expected a problem, got %s %s", path, res.Header.Get("Content-Type"), body)
		}
		want := problemDocument{"urn:sluice:problem:" + kind, http.StatusText(status), status, detail}
		if res.StatusCode != status || got != want {
			t.Errorf("%s: expected %+v, got %d %+v", path, want, res.StatusCode, got)
		}
	}
	f("GET", "/readyz", 503, "not-ready", "draining")
	f("POST", "/reload", 422, "configuration-refused", o.Reload().Error())
	f("GET", "/config", 500, "internal", "the process's log has the reason")
	f("GET", "/routes", 500, "internal", "the process's log has the reason")
	f("GET", "/upstreams", 500, "internal", "the process's log has the reason")
	if res, _ := ask(t, "GET", url+"/healthz"); res.StatusCode != 200 {
		t.Errorf("expected to live on, got %d", res.StatusCode)
	}
}

func TestHostNames(t *testing.T) {
	h := newHostNames("Edge1.internal:9901", []string{"admin.example"})
	f := func(header string, want bool) {
		t.Helper()
		if got := h.accept(header); got != want {
			t.Errorf("Host %q: expected %v", header, want)
		}
	}
	for _, name := range []string{"", "127.0.0.1", "127.0.0.1:9901", "10.1.2.3:9901", "[::1]:9901", "[::1]", "::1", "localhost",
		"LOCALHOST:1", "localhost.", "edge1.internal:9901", "EDGE1.INTERNAL.:9901", "admin.example"} {
		f(name, true)
	}
	for _, name := range []string{"evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example",
		"evil.example:127.0.0.1", "xlocalhost", "127.1.nip.io", "0x7f000001", " ", "[::1]evil"} {
		f(name, false)
	}
}

func TestForeignPages(t *testing.T) {
	o := everything()
	reloads := 0
	o.Reload = func() error { reloads++; return nil } // requests come one at a time here
	url := open(t, o)
	own := strings.TrimPrefix(url, "http://")
	f := func(method, path string, status int, headers ...string) {
		t.Helper()
		if res, body := ask(t, method, url+path, headers...); res.StatusCode != status {
			t.Errorf("%s %s %q: expected %d, got %d %s", method, path, headers, status, res.StatusCode, body)
		}
	}
	f("GET", "/config", 421, "Host", "evil.example")
	f("POST", "/reload", 421, "Host", "evil.example")
	f("GET", "/healthz", 200, "Host", "probe.example")
	f("GET", "/readyz", 200, "Host", "probe.example")
	f("POST", "/reload", 403, "Sec-Fetch-Site", "cross-site")
	f("POST", "/reload", 403, "Sec-Fetch-Site", "same-site")
	f("POST", "/reload", 403, "Origin", "http://evil.example")
	f("POST", "/reload", 403, "Origin", "null")
	if reloads != 0 {
		t.Errorf("expected no reload so far, got %d", reloads)
	}
	f("POST", "/reload", 200, "Sec-Fetch-Site", "same-origin", "Origin", url)
	f("POST", "/reload", 200, "Origin", url)
	f("POST", "/reload", 200, "Host", own)
	f("GET", "/routes", 200, "Sec-Fetch-Site", "cross-site") // a link to here is fine
	f("GET", "/debug/pprof/goroutine", 403, "Sec-Fetch-Site", "cross-site")
	f("HEAD", "/debug/pprof/profile?seconds=1", 403, "Origin", "http://evil.example")
	f("GET", "/debug/pprof/goroutine", 200, "Sec-Fetch-Site", "none")
	f("GET", "/debug/pprof/goroutine", 200)
	if reloads != 3 {
		t.Errorf("expected 3 reloads, got %d", reloads)
	}
}

func TestHostileMessages(t *testing.T) {
	url := open(t, everything())
	f := func(message string, want string) {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, message) }() // it may be cut off midway
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			t.Errorf("%.60q: expected %q, got %q, %v", message, want, line, err)
		}
	}
	f("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200")
	f("nonsense\r\n\r\n", "HTTP/1.1 400")
	f("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("a", 2*maxHead)+"\r\n\r\n", "HTTP/1.1 431")
	f("POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", "HTTP/1.1 413")
	f("GET /healthz HTTP/1.0\r\n\r\n", "HTTP/1.1 200") // a plain probe
}

func TestListenMistakes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f := func(address, want string, is error) {
		t.Helper()
		err := New(Options{Address: address}).Listen()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: expected one line with %q, got %v", address, want, err)
		}
	}
	f(l.Addr().String(), "admin.address: "+l.Addr().String()+" is in use", syscall.EADDRINUSE)
	f("127.0.0.1", "admin.address: cannot listen on 127.0.0.1", nil)
	f("192.0.2.1:9901", "expected host:port of this machine", nil)

	s := New(Options{Address: "127.0.0.1:0"})
	if err := s.Serve(); err == nil {
		t.Error("expected Serve before Listen to be an error")
	}
	if err := s.Shutdown(context.Background()); err != nil || s.Addr() != nil {
		t.Errorf("expected nothing to shut down, got %v, %v", err, s.Addr())
	}
	if err := s.Listen(); err == nil {
		t.Error("expected Listen after Shutdown to be an error")
	}
}

// What is under way when the door closes is still answered.
func TestShutdownWaits(t *testing.T) {
	o := Options{Address: "127.0.0.1:0", Log: zerolog.Nop()}
	entered, leave := make(chan struct{}), make(chan struct{})
	o.Reload = func() error { close(entered); <-leave; return nil }
	s := New(o)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	answer := make(chan int, 1)
	go func() {
		res, err := client.Post("http://"+s.Addr().String()+"/reload", "", nil)
		if err != nil {
			t.Error(err)
			answer <- 0
			return
		}
		_ = res.Body.Close()
		answer <- res.StatusCode
	}()
	<-entered
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("expected to hear that an answer is under way, got %v", err)
	}
	close(leave)
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if status := <-answer; status != 200 {
		t.Errorf("expected the answer to arrive, got %d", status)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
