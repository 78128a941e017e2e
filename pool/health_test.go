package pool

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/setting"
)

func testHealthConfig() HealthConfig {
	return HealthConfig{Path: "/healthz", Interval: setting.Duration(10 * time.Millisecond), Timeout: setting.Duration(5 * time.Second),
		Healthy: 2, Unhealthy: 3, Initial: "healthy"}
}

// checkedTarget is a target at the address of a server's URL.
func checkedTarget(t *testing.T, server string) *Target {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return &Target{URL: server, Host: u.Host, address: u.Host}
}

// checkOnce makes one check with cfg.
func checkOnce(t *testing.T, target *Target, cfg HealthConfig) error {
	t.Helper()
	return newProbe(target, cfg).check(t.Context())
}

// wantError holds err to a text it must contain, or to nil for an empty one.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("expected an error with %q, got %v", want, err)
	}
}

func TestHealthOfAnswers(t *testing.T) {
	var status atomic.Int64
	var body atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/healthz?deep=1" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, *body.Load())
	}))
	defer server.Close()
	target := checkedTarget(t, server.URL)
	f := func(answer int, statuses []string, text, want, problem string) {
		t.Helper()
		status.Store(int64(answer))
		body.Store(&text)
		cfg := testHealthConfig()
		cfg.Path, cfg.Statuses, cfg.Body = "/healthz?deep=1", statuses, want
		wantError(t, checkOnce(t, target, cfg), problem)
	}
	f(200, nil, "", "", "")
	f(204, nil, "", "", "")
	f(302, nil, "", "", "") // an answer, which is not followed
	f(399, nil, "", "", "")
	f(400, nil, "", "", "expected a status of 200-399, got 400")
	f(503, nil, "", "", "got 503")
	f(200, []string{"204", "3xx"}, "", "", "expected a status of 204, 3xx, got 200")
	f(204, []string{"204", "3xx"}, "", "", "")
	f(301, []string{"204", "3xx"}, "", "", "")
	f(404, []string{"400-404"}, "", "", "")
	f(405, []string{"400-404"}, "", "", "got 405")
	f(200, nil, "all is UP here", "UP", "")
	f(200, nil, "all is DOWN here", "UP", `expected a body with "UP" in its first 65536 bytes`)
	f(500, nil, "UP", "UP", "got 500")
	large := strings.Repeat("x", maxCheckedBody)
	f(200, nil, large+large, "", "")
	f(200, nil, large[2:]+"UP"+large, "UP", "")
	f(200, nil, large[1:]+"UP"+large, "UP", "expected a body")
}

// The check asks the host and port it is told to, by a connection of its own
// that it closes.
func TestHealthHostAndPort(t *testing.T) {
	seen := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	target := &Target{Host: "users.internal:1", address: "127.0.0.1:1"}
	cfg := testHealthConfig()
	cfg.Port, _ = strconv.Atoi(port)
	f := func(host, want string) {
		t.Helper()
		cfg.Host = host
		if err := checkOnce(t, target, cfg); err != nil {
			t.Fatal(err)
		}
		r := <-seen
		if r.Host != want || r.UserAgent() != "sluice-health" || !r.Close {
			t.Errorf("expected Host %s by sluice-health on a connection of its own, got %s, %s, %v", want, r.Host, r.UserAgent(), r.Close)
		}
	}
	f("", "users.internal:1")
	f("check.example", "check.example")

	cfg.Path = ""
	if err := checkOnce(t, target, cfg); err != nil {
		t.Errorf("expected the port to be open, got %v", err)
	}
	cfg.Port = 0
	wantError(t, checkOnce(t, target, cfg), "refused")
}

// What a server does wrong is told within the timeout, and leaves nothing
// behind.
func TestHealthOfBrokenServers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := func(answer func(net.Conn), problem string) {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var all sync.WaitGroup
		defer all.Wait()
		all.Go(func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				t.Error(err)
			}
			answer(c)
		})
		cfg := testHealthConfig()
		cfg.Body, cfg.Timeout = "UP", setting.Duration(100*time.Millisecond)
		wantError(t, checkOnce(t, checkedTarget(t, "http://"+l.Addr().String()), cfg), problem)
	}
	write := func(text string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, text) }
	}
	hang := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, c) // until the checker gives up
		}
	}
	trickle := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.WriteString(c, text)
			for {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				runtime.Gosched()
			}
		}
	}
	const late = "expected an answer within 100ms"
	f(write(""), "EOF")
	f(write("nonsense\r\n\r\n"), "malformed")
	f(write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nDOWN"), "EOF")
	f(write("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 2*maxCheckedHead)), "exceeded")
	f(hang(""), late)
	f(hang("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nDOWN"), late)
	// Too long or too late, whichever comes first.
	f(trickle("HTTP/1.1 200 OK\r\nX: "), "GET http://")
	f(trickle("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "GET http://")
	// The text may come before the end.
	f(hang("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nUP"), "")
}

func TestHealthOverTLS(t *testing.T) {
	var names sync.Map
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		names.Store(r.TLS.ServerName, r.Proto)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	server.StartTLS()
	defer server.Close()
	target := checkedTarget(t, server.URL)
	own := x509.NewCertPool()
	own.AddCert(server.Certificate())
	f := func(c *tls.Config, problem string) {
		t.Helper()
		target.tls = c
		wantError(t, checkOnce(t, target, testHealthConfig()), problem)
	}
	f(&tls.Config{RootCAs: own, ServerName: "example.com"}, "")
	if proto, ok := names.Load("example.com"); !ok || proto != "HTTP/1.1" {
		t.Errorf("expected HTTP/1.1 with the SNI of the target, got %v", proto)
	}
	f(&tls.Config{RootCAs: own, ServerName: "other.example"}, "certificate is valid for")
	f(&tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}, "unknown authority")
	f(nil, "got 400") // plain HTTP to a TLS port
}

func TestHealthThresholds(t *testing.T) {
	f := func(initial, checks, want string) {
		t.Helper()
		var s standing
		cfg := testHealthConfig()
		cfg.Initial = initial
		s.begin(&cfg)
		got := ""
		for _, c := range checks {
			var err error
			if c == '-' {
				err = errors.New("down")
			}
			was := s.down.Load()
			changed := s.took(err, &cfg)
			if changed != (was != s.down.Load()) {
				t.Errorf("%s: expected to be told of every change and of nothing else", checks)
			}
			got += map[bool]string{true: "D", false: "U"}[s.down.Load()]
		}
		if got != want {
			t.Errorf("from %s, checks %s: expected %s, got %s", initial, checks, want, got)
		}
		if int(s.checks.Load()) != len(checks) || int(s.failed.Load()) != strings.Count(checks, "-") {
			t.Errorf("%s: expected the checks to be counted, got %d, %d failed", checks, s.checks.Load(), s.failed.Load())
		}
	}
	f("healthy", "++++", "UUUU")
	f("healthy", "---", "UUD")
	f("healthy", "--+--+---", "UUUUUUUUD")
	f("healthy", "---+-++", "UUDDDDU")
	f("healthy", "-------++---", "UUDDDDDDUUUD")
	f("unhealthy", "++", "DU")
	f("unhealthy", "+-++", "DDDU")
	f("unhealthy", "-----++", "DDDDDDU")
}

func TestHealthWaits(t *testing.T) {
	cfg := testHealthConfig()
	cfg.Interval = setting.Duration(time.Second)
	spread := map[time.Duration]bool{}
	f := func(wait, least, most time.Duration) {
		t.Helper()
		spread[wait] = true
		if wait < least || wait > most {
			t.Fatalf("expected a wait from %s to %s, got %s", least, most, wait)
		}
	}
	for range 1000 {
		var s standing
		cfg.Initial = "healthy"
		s.begin(&cfg)
		f(firstWait(&cfg), 0, time.Second)
		f(s.nextWait(&cfg), 900*time.Millisecond, 1100*time.Millisecond)
		s.took(nil, &cfg)
		f(s.nextWait(&cfg), 900*time.Millisecond, 1100*time.Millisecond)

		s = standing{}
		cfg.Initial = "unhealthy"
		s.begin(&cfg)
		f(firstWait(&cfg), 0, quickCheck)
		s.took(nil, &cfg) // one more good check lets it in
		f(s.nextWait(&cfg), quickCheck*9/10, quickCheck*11/10)
		s.took(errors.New("down"), &cfg)
		f(s.nextWait(&cfg), 900*time.Millisecond, 1100*time.Millisecond)
	}
	if len(spread) < 5000 {
		t.Errorf("expected the waits to be drawn at random, got %d different ones", len(spread))
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("expected %s", what)
		}
		runtime.Gosched()
	}
}

// A checker takes a target out and lets it back with slow start, and stops.
func TestHealthChecker(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var ill atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	target := checkedTarget(t, server.URL)
	s := &target.standing
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	cfg := testHealthConfig()
	cfg.Initial = "unhealthy"
	// The caller may not have given it a processor yet.
	s.down.Store(true)
	all.Go(func() { target.checkHealth(ctx, cfg) })
	eventually(t, "it to become healthy", func() bool { return !s.down.Load() })
	ill.Store(true)
	eventually(t, "it to become unhealthy", s.down.Load)
	wantError(t, errors.New(*s.last.Load()), "got 503")
	target.conduct.until.Store(1 << 62)
	target.downUntil.Store(1 << 62)
	ill.Store(false)
	eventually(t, "it to become healthy again", func() bool { return !s.down.Load() })
	eventually(t, "marks of the past to go, and slow start", func() bool {
		return target.conduct.until.Load() == 0 && target.downUntil.Load() == 0 && target.conduct.returned.Load() != 0
	})
	cancel()
	all.Wait()
	if n := s.checks.Load(); n < 7 || s.failed.Load() < 3 {
		t.Errorf("expected at least 7 checks, 3 of them failed, got %d and %d", n, s.failed.Load())
	}
}

// The end of a checker's context ends a check that hangs, which then counts
// for nothing.
func TestHealthCheckerStopsAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	target := checkedTarget(t, "http://"+l.Addr().String())
	cfg := testHealthConfig()
	cfg.Timeout = setting.Duration(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { target.checkHealth(ctx, cfg) })
	c, err := l.Accept() // the check is under way, and never answered
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	all.Wait()
	if n := target.standing.checks.Load(); n != 0 {
		t.Errorf("expected a check broken off to count for nothing, got %d", n)
	}
}

// At a reload the checker of the old configuration ends before that of the new
// one begins, which takes the standing over as it is.
func TestHealthCheckersTakeTurns(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var checking, most atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := checking.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		runtime.Gosched()
		checking.Add(-1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	target := checkedTarget(t, server.URL)
	s := &target.standing
	cfg := testHealthConfig()
	var all sync.WaitGroup
	stop := func() {}
	for generation := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		started := s.checks.Load()
		all.Go(func() { target.checkHealth(ctx, cfg) })
		stop()
		stop = cancel
		eventually(t, fmt.Sprintf("checks of generation %d", generation), func() bool { return s.checks.Load() > started+2 })
	}
	if !s.down.Load() {
		t.Error("expected the standing to be carried on")
	}
	// A configuration that takes new targets for healthy does not bring an old
	// one back.
	cfg.Initial = "healthy"
	s.begin(&cfg)
	if !s.down.Load() {
		t.Error("expected a target that was checked to stay what it is")
	}
	// One that never had its turn ends too.
	ctx, cancel := context.WithCancel(t.Context())
	var idle sync.WaitGroup
	idle.Go(func() { target.checkHealth(ctx, cfg) })
	cancel()
	idle.Wait()
	stop()
	all.Wait()
	if most.Load() > 1 {
		t.Errorf("expected one checker at a time, got %d", most.Load())
	}
}

func TestStatusRange(t *testing.T) {
	f := func(s string, low, high int) {
		t.Helper()
		gotLow, gotHigh, ok := statusRange(s)
		if ok != (low != 0) || ok && (gotLow != low || gotHigh != high) {
			t.Errorf("%q: expected %d to %d, got %d to %d, %v", s, low, high, gotLow, gotHigh, ok)
		}
	}
	f("200", 200, 200)
	f("2xx", 200, 299)
	f("5xx", 500, 599)
	f("200-399", 200, 399)
	f("204-204", 204, 204)
	for _, bad := range []string{"", "-", "2", "20", "2000", "600", "099", "0xx", "6xx", "2XX", "xxx", "20x", "399-200",
		"200-", "-200", "+200", "200-+39", "200-300-400", "200 ", " 200", "2xx-3xx", "١٢٣"} {
		f(bad, 0, 0)
	}
}

func FuzzStatusRange(f *testing.F) {
	for _, seed := range []string{"200", "2xx", "200-399", "-", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		low, high, ok := statusRange(s)
		if ok && (low < 100 || high > 599 || low > high) {
			t.Errorf("%q: expected statuses, got %d to %d", s, low, high)
		}
	})
}

func TestHealthValidate(t *testing.T) {
	f := func(change func(*HealthConfig), want string) {
		t.Helper()
		c := testHealthConfig()
		change(&c)
		p := setting.NewProblems(nil)
		c.Validate(p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("expected %q, got %q", want, got)
		}
	}
	f(func(*HealthConfig) {}, "")
	f(func(c *HealthConfig) { c.Path = "" }, "")
	f(func(c *HealthConfig) { c.Path = "healthz" }, `path: expected a path such as /healthz, got "healthz"`)
	f(func(c *HealthConfig) { c.Statuses = []string{"2xx", "20"} }, `statuses[1]: expected a status such as 200, 2xx or 200-399, got "20"`)
	f(func(c *HealthConfig) { c.Path, c.Body = "", "UP" }, "path: expected a path, for statuses and body to be looked at")
}
