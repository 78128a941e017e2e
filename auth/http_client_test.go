package auth

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/wire"
)

// servicePatience bounds every wait on something that must come. No test waits
// for it when all is well.
const servicePatience = 20 * time.Second

// serviceRequest makes a Request of a head as it came off a connection.
func serviceRequest(t testing.TB, head string) *Request {
	t.Helper()
	h := &wire.Request{}
	raw := []byte(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")
	if _, err := h.Parse(raw, wire.Limits{Bytes: 64 << 10, Fields: 100}); err != nil {
		t.Fatalf("head %q: %v", head, err)
	}
	return &Request{Head: h, Path: h.Path, Scheme: "https", Caller: netip.MustParseAddr("203.0.113.7"), ID: []byte("req-1"), Route: "r", Now: time.Now()}
}

// leaks checks at the test's end that no goroutine of it is left.
func leaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// until waits for what another goroutine will do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(servicePatience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("never came: " + what)
		}
	}
}

func testProvider(t *testing.T, timeout time.Duration, parallel int) *provider {
	t.Helper()
	p, err := newProvider("p", Env{Log: zerolog.Nop()}, "", timeout, parallel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func getOf(url string) func(context.Context) (*http.Request, error) {
	return func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	}
}

// rawServer answers every connection with text and closes it; with text "" it
// says nothing and holds the connection.
func rawServer(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	held.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			if text == "" {
				continue
			}
			held.Go(func() {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, text)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		held.Wait()
	})
	return "http://" + l.Addr().String()
}

func deadURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestProviderFailures(t *testing.T) {
	leaks(t)
	p := testProvider(t, 300*time.Millisecond, 4)
	f := func(name, url, want string) {
		t.Helper()
		answer, err := p.ask(p.timeout, 100, getOf(url+"/secret-path?token=hunter2"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v; want an error with %q", name, answer, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: the error tells what was asked: %v", name, err)
		}
	}
	f("silent", rawServer(t, ""), "in time")
	f("dead", deadURL(t), "refused")
	f("garbage", rawServer(t, "SSH-2.0-OpenSSH\x01\x02\r\n"), "does not answer")
	f("cut", rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc"), "unexpected EOF")
	f("endless head", rawServer(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 2*mostProviderHeader)+"\r\n\r\n"), "does not answer")
	if _, err := p.ask(0, 100, getOf("http://127.0.0.1:1")); err != errProviderTimeout {
		t.Errorf("no time left: %v", err)
	}
}

func TestProviderBounds(t *testing.T) {
	leaks(t)
	var followed atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/huge":
			for i := 0; i < 1000; i++ {
				if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		case "/away":
			http.Redirect(w, r, "/target", http.StatusFound)
		case "/target":
			followed.Add(1)
		}
	}))
	defer srv.Close()
	p := testProvider(t, servicePatience, 4)
	a, err := p.ask(p.timeout, 5000, getOf(srv.URL+"/huge"))
	if err != nil || len(a.Body) != 5000 || !a.Cut {
		t.Errorf("huge: %v, %v", a, err)
	}
	a, err = p.ask(p.timeout, 5000, getOf(srv.URL+"/away"))
	if err != nil || a.Status != 302 || followed.Load() != 0 {
		t.Errorf("redirect: %v, %v, followed %d times", a, err, followed.Load())
	}
}

// A kept connection that the service has closed costs no request.
func TestProviderStaleConnection(t *testing.T) {
	leaks(t)
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hits.Add(1) == 2 {
			// The second question on this connection finds it closed.
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = c.Close()
			}
		}
	}))
	defer srv.Close()
	p := testProvider(t, servicePatience, 4)
	for range 2 {
		_, err := p.ask(p.timeout, 10, func(ctx context.Context) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, strings.NewReader("token=x"))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if hits.Load() != 3 {
		t.Errorf("%d questions arrived, want 3", hits.Load())
	}
}

func TestProviderBusyAndStop(t *testing.T) {
	leaks(t)
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	p := testProvider(t, servicePatience, 1)
	var waiting sync.WaitGroup
	results := make(chan error, 20)
	for range 1 + queuedPerPlace {
		waiting.Go(func() {
			_, err := p.ask(p.timeout, 10, getOf(srv.URL))
			results <- err
		})
	}
	until(t, "all places taken", func() bool { return p.queued.Load() == 1+queuedPerPlace })
	if _, err := p.ask(p.timeout, 10, getOf(srv.URL)); err != errProviderBusy {
		t.Errorf("one too many: %v", err)
	}
	p.Stop()
	waiting.Wait()
	for range 1 + queuedPerPlace {
		if err := <-results; err != errProviderStopped {
			t.Errorf("stopped: %v", err)
		}
	}
}

func TestFlightsShareAndRecover(t *testing.T) {
	leaks(t)
	var fs flights[int]
	var runs atomic.Int32
	quiet := zerolog.Nop()
	release := make(chan struct{})
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			v, _, err := fs.do([]byte("k"), servicePatience, &quiet, func() int { runs.Add(1); <-release; return 7 })
			if v != 7 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	until(t, "50 callers", func() bool {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		return fs.by["k"] != nil && fs.by["k"].callers == 50
	})
	// One in a hurry leaves; the others get their answer.
	if _, joined, err := fs.do([]byte("k"), time.Millisecond, &quiet, nil); !joined || err != errProviderTimeout {
		t.Errorf("hasty: %v, %v", joined, err)
	}
	close(release)
	callers.Wait()
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
	if _, _, err := fs.do([]byte("k"), servicePatience, &quiet, func() int { panic("defect") }); !errors.Is(err, errProviderFault) {
		t.Errorf("a panic gives %v", err)
	}
}

func TestProviderURL(t *testing.T) {
	f := func(text string, plain bool, want string) {
		t.Helper()
		_, err := providerURL(text, plain)
		if got := ""; err != nil {
			got = err.Error()
			if want == "" || !strings.Contains(got, want) {
				t.Errorf("%s: %s, want %q", text, got, want)
			}
		} else if want != "" {
			t.Errorf("%s: taken, want %q", text, want)
		}
	}
	f("https://id.example.com/introspect", false, "")
	f("http://127.0.0.1:9/x", false, "")
	f("http://[::1]:9/x", false, "")
	f("http://localhost/x", false, "")
	f("http://id.example.com/x", false, "http:// goes only to this machine")
	f("http://id.example.com/x", true, "")
	f("http://127.0.0.1.evil.example/x", false, "this machine")
	f("ftp://id.example.com", true, "https:// URL")
	f("//id.example.com", true, "https:// URL")
	f("", true, "https:// URL")
	f("https://user:hunter2@id.example.com", true, "without user and password")
	f("https://id.example.com/#x", true, "fragment")
	if _, err := providerURL("ftp://u:hunter2@h", true); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("password shown: %v", err)
	}
}

func TestProviderCA(t *testing.T) {
	leaks(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	ask := func(ca string) error {
		t.Helper()
		p, err := newProvider("p", Env{Log: zerolog.Nop()}, ca, servicePatience, 1)
		if err != nil {
			return err
		}
		defer p.Stop()
		_, err = p.ask(p.timeout, 10, getOf(srv.URL))
		return err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(file); err != nil {
		t.Errorf("with its CA: %v", err)
	}
	if err := ask(""); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with the system's: %v", err)
	}
	if err := os.WriteFile(file, []byte("no pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(file); err == nil || !strings.HasPrefix(err.Error(), "ca: expected PEM certificates") {
		t.Errorf("without PEM: %v", err)
	}
}
