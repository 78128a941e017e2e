// Package e2e holds the tests of the whole process: the real binary, started
// and ended as its users do it, between real backends and a client that checks
// every answer. What the parts do is tested beside them; here is what only the
// whole can show: the command line, reload, the end, memory, the logs.
//
// TestMain builds the binary once, under the race detector when the tests run
// under it. A test starts gateways with serve, which stops them again and
// complains about a bad end, a data race and a defect in the log. Nothing
// sleeps to wait, nothing is timed, ports are chosen by the system.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/e2e/rig"
)

// patience is how long a test waits for what must happen. No test waits for it
// when all is well.
const patience = 60 * time.Second

// binary is the gateway under test.
var binary string

func TestMain(m *testing.M) {
	rig.ServeIfChild()
	if slices.Contains(os.Args, "-test.fuzzworker") {
		os.Exit(m.Run()) // needs no binary, and ends by being killed
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sluice-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if binary, err = rig.Build(ctx, dir, underRace()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := goleak.Find(goleak.IgnoreTopFunction("sluice/e2e/rig.init.0.func1"),
			// The worker pool of a closed server sweeps once more, at its next tick.
			goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")); code == 0 && err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// underRace tells whether this test binary was built with -race.
func underRace() bool {
	build, _ := debug.ReadBuildInfo()
	for _, s := range build.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// bounded is the time that a test has.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// given fails the test on err and returns v.
func given[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// written puts text into a new file of the test's own.
func written(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// backend runs a backend for the length of the test.
func backend(t *testing.T, name string) *rig.Backend {
	t.Helper()
	b := given[*rig.Backend](t)(rig.StartBackend(name))
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// serve runs a gateway for the length of the test.
func serve(t *testing.T, args ...string) *rig.Gateway {
	t.Helper()
	return serveWith(t, rig.Command{Args: args})
}

func serveWith(t *testing.T, c rig.Command) *rig.Gateway {
	t.Helper()
	c.Binary = binary
	g := given[*rig.Gateway](t)(rig.Start(bounded(t), c))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := g.Stop(ctx); err != nil {
			t.Error(err)
		}
		checkLog(t, g.Log())
	})
	return g
}

// checkLog complains about what no log of a healthy process holds.
func checkLog(t *testing.T, log string) {
	t.Helper()
	for _, bad := range []string{"DATA RACE", "panic", "goroutine ", `"defect"`, "BUG:"} {
		if strings.Contains(log, bad) {
			t.Errorf("the log has %q:\n%s", bad, log)
			return
		}
	}
}

// serveFile runs a gateway on a configuration of its own.
func serveFile(t *testing.T, config string, args ...string) (g *rig.Gateway, file string) {
	t.Helper()
	file = written(t, "sluice.yaml", config)
	return serve(t, append([]string{"-c", file}, args...)...), file
}

// common is how the configurations of most tests begin.
const common = `
listen: ["127.0.0.1:0"]
admin: { address: "127.0.0.1:0" }
forwarded: { trusted: ["127.0.0.0/8"] }
`

// silent is common without an access log.
const silent = common + "log: { access: { enabled: false } }\n"

// exchange sends one request over a connection of its own.
func exchange(t *testing.T, method, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	req := given[*http.Request](t)(http.NewRequestWithContext(bounded(t), method, url, nil))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.Close = true
	// Redirects are answers to be looked at.
	res, err := http.DefaultTransport.RoundTrip(req)
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	must(t, err)
	return res, string(body)
}

// wantStatus sends a GET and returns the body.
func wantStatus(t *testing.T, want int, url string) string {
	t.Helper()
	res, body := exchange(t, http.MethodGet, url)
	if res.StatusCode != want {
		t.Errorf("GET %s: expected %d, got %d: %s", url, want, res.StatusCode, body)
	}
	return body
}

// load begins a load that the test stops.
func load(t *testing.T, l rig.Load) *rig.Running {
	t.Helper()
	if l.Name == "" {
		l.Name = "load"
	}
	r := l.Start(bounded(t))
	t.Cleanup(func() { r.Stop() })
	return r
}

// busy waits until a load has got so many more answers.
func busy(t *testing.T, r *rig.Running, answers int) {
	t.Helper()
	enough := r.Now().Answers + answers
	must(t, rig.Poll(bounded(t), "the load is under way", func() bool {
		now := r.Now()
		return now.Answers >= enough || now.Failed > 0
	}))
}

// wantClean stops a load of which nothing may have failed.
func wantClean(t *testing.T, r *rig.Running) rig.Result {
	t.Helper()
	result := r.Stop()
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	if result.Answers == 0 {
		t.Error("the load got no answer")
	}
	return result
}

// dial opens a connection that closes with the test and on which nothing may
// take longer than the test has.
func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c := given[net.Conn](t)(rig.Dialer(network, addr)(bounded(t)))
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}
