package backend

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	ServeIfChild()
	os.Exit(m.Run())
}

func start(t *testing.T, script Script) *Server {
	t.Helper()
	s, err := Start("127.0.0.1:0", 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Set(script); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends one request on a new connection and returns it for more.
func ask(t *testing.T, addr, path string) (*http.Response, *bufio.Reader, net.Conn, error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, nil, err
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil, nil, c, err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	return res, r, c, err
}

func TestFaults(t *testing.T) {
	f := func(name string, script Script, want func(res *http.Response, body []byte, err error) bool) {
		t.Helper()
		s := start(t, script)
		res, _, _, err := ask(t, s.Addr(), "/")
		var body []byte
		if err == nil {
			body, err = io.ReadAll(res.Body)
		}
		if !want(res, body, err) {
			t.Errorf("%s: got answer %+v, body %.50q, error %v", name, res, body, err)
		}
		if n := s.Counts(); n.Requests != 1 || n.Connections != 1 {
			t.Errorf("%s: counted %+v", name, n)
		}
	}
	f("good", Script{Body: 5}, func(res *http.Response, body []byte, err error) bool {
		return err == nil && res.StatusCode == 200 && string(body) == "bbbbb"
	})
	f("reset", Script{Reset: 1}, func(_ *http.Response, _ []byte, err error) bool { return errors.Is(err, syscall.ECONNRESET) })
	f("garbage", Script{Garbage: 1}, func(_ *http.Response, _ []byte, err error) bool {
		return err != nil && strings.Contains(err.Error(), "malformed")
	})
	f("error", Script{Error: 1, ErrorStatus: 500}, func(res *http.Response, _ []byte, err error) bool { return err == nil && res.StatusCode == 500 })
	f("error by default", Script{Error: 1}, func(res *http.Response, _ []byte, err error) bool { return err == nil && res.StatusCode == 503 })
	f("trickle", Script{Trickle: 1, TrickleEvery: time.Millisecond, Body: 3}, func(_ *http.Response, body []byte, err error) bool {
		return err == nil && string(body) == "ttt"
	})
	f("no content", Script{Error: 1, ErrorStatus: 204, Body: 9}, func(res *http.Response, body []byte, err error) bool {
		return err == nil && res.StatusCode == 204 && len(body) == 0
	})
}

// A connection that hangs ends when the script changes, and not before.
func TestHang(t *testing.T) {
	s := start(t, Script{HangAfter: 1, Body: 10})
	res, _, _, err := ask(t, s.Addr(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(Script{HangBefore: 1}); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 0 {
		t.Fatalf("expected an answer without its body, got %q, %v", body, err)
	}
	ended := make(chan error)
	go func() {
		_, _, _, err := ask(t, s.Addr(), "/")
		ended <- err
	}()
	for s.Counts().Requests < 2 {
		select {
		case err := <-ended:
			t.Fatalf("expected no answer, got %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := s.Set(Script{}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("expected the end of the connection, got %v", err)
	}
}

func TestRefuse(t *testing.T) {
	s := start(t, Script{})
	_, r, _, err := ask(t, s.Addr(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(Script{Refuse: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Fatal("expected the open connection to end")
	}
	if _, _, _, err := ask(t, s.Addr(), "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("expected a refused connection, got %v", err)
	}
	if err := s.Set(Script{}); err != nil {
		t.Fatal(err)
	}
	if res, _, _, err := ask(t, s.Addr(), "/"); err != nil || res.StatusCode != 200 {
		t.Fatalf("expected it to be back, got %v", err)
	}
}

func TestChecks(t *testing.T) {
	s := start(t, Script{Error: 1})
	if res, _, _, err := ask(t, s.Addr(), HealthPath); err != nil || res.StatusCode != 200 {
		t.Fatalf("expected a good check, got %v %v", res, err)
	}
	if err := s.Set(Script{Error: 1, Checks: true}); err != nil {
		t.Fatal(err)
	}
	if res, _, _, err := ask(t, s.Addr(), HealthPath); err != nil || res.StatusCode != 503 {
		t.Fatalf("expected a bad check, got %v %v", res, err)
	}
	if n := s.Counts(); n.Checks != 2 || n.Requests != 0 {
		t.Fatalf("counted %+v", n)
	}
}

// Requests on one connection are answered one after another.
func TestKeepAlive(t *testing.T) {
	s := start(t, Script{Body: 3})
	res, r, c, err := ask(t, s.Addr(), "/")
	for range 3 {
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		res, err = http.ReadResponse(r, nil)
	}
	if n := s.Counts(); n.Requests != 4 || n.Connections != 1 {
		t.Fatalf("counted %+v", n)
	}
}

func TestDraw(t *testing.T) {
	script := Script{Reset: 0.1, HangBefore: 0.1, HangAfter: 0.1, Trickle: 0.1, Garbage: 0.1, Error: 0.1, Delay: 10, Jitter: 10, Factor: 3}
	rng, again := rand.New(rand.NewPCG(7, 1)), rand.New(rand.NewPCG(7, 1))
	const n = 60_000
	var seen [failure + 1]int
	for range n {
		what, delay := script.draw(rng)
		if same, at := script.draw(again); same != what || at != delay {
			t.Fatal("expected the same fates from the same seed")
		}
		if delay < 30 || delay > 60 {
			t.Fatalf("expected a delay from 30 to 60, got %d", delay)
		}
		seen[what]++
	}
	// Four standard deviations of a binomial with p = 0.1.
	const want, slack = n / 10, 300
	for what := reset; what <= failure; what++ {
		if seen[what] < want-slack || seen[what] > want+slack {
			t.Errorf("fault %d: expected about %d, got %d", what, want, seen[what])
		}
	}
}

func TestValidate(t *testing.T) {
	f := func(want string, s Script) {
		t.Helper()
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	f("from 0 to 1", Script{Reset: -0.1})
	f("sum", Script{Reset: 0.6, Error: 0.6})
	f("error_status", Script{ErrorStatus: 99})
	f("delay", Script{Delay: 31 * time.Second, Factor: 2})
	f("delay", Script{Delay: -1})
	f("trickle_every", Script{TrickleEvery: time.Hour})
	f("body", Script{Body: MaxBody + 1})
	s := start(t, Script{Body: 1})
	if err := s.Set(Script{Reset: 2}); err == nil {
		t.Fatal("expected a refusal")
	}
	if res, _, _, err := ask(t, s.Addr(), "/"); err != nil || res.ContentLength != 1 {
		t.Fatal("expected the script before to stay in force")
	}
}

func TestControl(t *testing.T) {
	s := start(t, Script{})
	control := s.Control()
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		control.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s %s: expected %d and %q, got %d %s", method, path, body, status, want, w.Code, w.Body)
		}
	}
	f("PUT", "/script", `{"error":1}`, 204, "")
	f("PUT", "/script", `{"eror":1}`, 400, "eror")
	f("PUT", "/script", `{"error":2}`, 400, "0 to 1")
	f("PUT", "/script", `{`, 400, "EOF")
	f("GET", "/counts", ``, 200, `"requests":0`)
	f("GET", "/", ``, 404, "")
}

// kill -9 is real: the connection breaks, connects are refused, and the counts
// live on when the process is back.
func TestChild(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := Spawn(ctx, "127.0.0.1:0", 7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set(ctx, Script{Error: 1, ErrorStatus: 500}); err != nil {
		t.Fatal(err)
	}
	res, r, _, err := ask(t, c.Addr(), "/")
	if err != nil || res.StatusCode != 500 {
		t.Fatalf("expected 500, got %v", err)
	}
	if err := c.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Fatal("expected the connection to break")
	}
	if _, _, _, err := ask(t, c.Addr(), "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("expected a refused connection, got %v", err)
	}
	if err := c.Set(ctx, Script{}); err == nil {
		t.Fatal("expected that the dead take no script")
	}
	if err := c.Revive(ctx); err != nil {
		t.Fatal(err)
	}
	if res, _, _, err := ask(t, c.Addr(), "/"); err != nil || res.StatusCode != 200 {
		t.Fatalf("expected 200 from the new process, got %v", err)
	}
	if n, err := c.Counts(ctx); err != nil || n.Requests != 2 {
		t.Fatalf("expected 2 requests over both lives, got %+v, %v", n, err)
	}
}
