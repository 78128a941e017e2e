package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// reloadTime is how long each kind of reload goes on; SLUICE_E2E_RELOAD names
// another time, such as the 60s that loadtest/soak takes.
func reloadTime(t *testing.T) time.Duration {
	if text := os.Getenv("SLUICE_E2E_RELOAD"); text != "" {
		return given[time.Duration](t)(time.ParseDuration(text))
	}
	return time.Second
}

// TestReloadUnderLoad goes to and fro between two configurations every 200 ms,
// in each of the ways to reload. They differ in routes, in what shapes the
// connections to targets, in doors and in the access log. No request may fail.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	for _, how := range []string{rig.BySignal, rig.ByAdmin, rig.ByFile} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			texts := rig.Generations(t.TempDir(), backend(t, "one").URL, backend(t, "two").URL, how == rig.ByFile)
			g, file := serveFile(t, texts[0])
			var seen [2]atomic.Int64
			total := reloadTime(t)
			ctx, cancel := context.WithTimeout(t.Context(), total+patience)
			defer cancel()
			running := rig.Load{Name: "load", Dial: rig.Dialer("tcp", g.Doors[0]), Clients: 6, Reconnect: 2, Bodies: true, Watch: func(res *http.Response) {
				switch res.Header.Get("X-Generation") {
				case "0":
					seen[0].Add(1)
				case "1":
					seen[1].Add(1)
				}
			}}.Start(ctx)
			defer running.Stop()
			busy(t, running, 20)
			count, err := g.Alternate(ctx, how, file, [2]string{texts[1], texts[0]}, 200*time.Millisecond, total)
			must(t, err)
			result := wantClean(t, running)
			if int64(result.Answers) != seen[0].Load()+seen[1].Load() || seen[0].Load() == 0 || seen[1].Load() == 0 {
				t.Errorf("expected answers of both generations and no others, got %d and %d of %d", seen[0].Load(), seen[1].Load(), result.Answers)
			}
			t.Logf("%d reloads, %d answers on %d connections", count, result.Answers, result.Connections)
			must(t, rig.Poll(bounded(t), "the log tells of every reload", func() bool {
				return strings.Count(g.Log(), `"message":"configuration in use"`) == count
			}))
		})
	}
}

// TestReloadOfBadConfiguration holds that a mistake changes nothing, and is told
// to the caller, the log and the metrics.
func TestReloadOfBadConfiguration(t *testing.T) {
	t.Parallel()
	good := silent + "reload: { watch: false }\nroutes: [{ name: all, respond: first }]\n"
	g, file := serveFile(t, good)
	url := "http://" + g.Doors[0] + "/"
	wantStatus(t, 200, url)

	f := func(bad, want string) {
		t.Helper()
		must(t, rig.Replace(file, bad))
		status, body, err := g.Ask(bounded(t), http.MethodPost, "/reload")
		must(t, err)
		if status != http.StatusUnprocessableEntity || !strings.Contains(body, want) {
			t.Errorf("POST /reload: expected 422 with %q, got %d: %s", want, status, body)
		}
		if _, err := g.Await(bounded(t), func(line string) bool {
			return strings.Contains(line, `"level":"error"`) && strings.Contains(line, want)
		}); err != nil {
			t.Errorf("expected an error with %q in the log, got %v\n%s", want, err, g.Log())
		}
		if body := wantStatus(t, 200, url); body != "first" {
			t.Errorf("expected the configuration before to stay, got %q", body)
		}
	}
	f(good+"upstrems: {}\n", "sluice.yaml:8:1: upstrems: unknown key")
	f(strings.Replace(good, "respond: first", "upstream: none", 1), "routes[0].upstream: unknown upstream")
	f(good+"[", "sluice.yaml:")
	f(strings.Replace(good, "routes: [", "routes: [{ name: same, respond: x }, ", 1), "routes[1].match")
	f(strings.Replace(good, `["127.0.0.1:0"]`, `["127.0.0.1:0", "unix:/none/here"]`, 1), `listen[1].address: cannot open`)
	cert, _ := newCertificate(t, "a")
	f(strings.Replace(good, `["127.0.0.1:0"]`, `[{ address: "127.0.0.1:0", tls: { cert: `+cert+`, key: /none } }]`, 1), `listen[0].tls.key`)
	must(t, os.Remove(file))
	status, body, err := g.Ask(bounded(t), http.MethodPost, "/reload")
	must(t, err)
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "no such file") {
		t.Errorf("POST /reload without a file: expected 422, got %d: %s", status, body)
	}

	wantSample(t, g, `sluice_config_reloads_total{result="refused"}`, 7)
	wantSample(t, g, `sluice_config_reloads_total{result="applied"}`, 0)
	wantSample(t, g, `sluice_config_last_reload_success`, 0)
	wantSample(t, g, `sluice_config_generation`, 1)
	if applied, err := g.Reload(bounded(t), rig.BySignal, file, strings.Replace(good, "first", "second", 1)); err != nil || !applied {
		t.Fatalf("expected a good configuration to be applied, got %v, %v", applied, err)
	}
	if body := wantStatus(t, 200, url); body != "second" {
		t.Errorf("expected the new configuration, got %q", body)
	}
	wantSample(t, g, `sluice_config_last_reload_success`, 1)
	wantSample(t, g, `sluice_config_generation`, 2)
}

// wantSample checks one number of /metrics.
func wantSample(t *testing.T, g *rig.Gateway, key string, want float64) {
	t.Helper()
	samples, err := g.Scrape(bounded(t))
	must(t, err)
	if got, ok := samples[key]; !ok || got != want {
		t.Errorf("%s: expected %v, got %v (there: %v)", key, want, got, ok)
	}
}

// TestReloadOfDoors adds a door and takes it away again. Connections that came
// in by it live on.
func TestReloadOfDoors(t *testing.T) {
	t.Parallel()
	second := given[string](t)(rig.FreeAddress())
	socket := filepath.Join(t.TempDir(), "s")
	config := func(doors string) string {
		return fmt.Sprintf("listen: [\"127.0.0.1:0\"%s]\nadmin: { address: \"127.0.0.1:0\" }\nlog: { access: { enabled: false } }\n"+
			"routes: [{ name: all, respond: hello }]\n", doors)
	}
	g, file := serveFile(t, config(""), "--reload-watch=false")
	change := func(doors string) {
		t.Helper()
		if applied, err := g.Reload(bounded(t), rig.ByAdmin, file, config(doors)); err != nil || !applied {
			t.Fatalf("expected the doors %q, got %v, %v", doors, applied, err)
		}
	}
	closed := func(network, addr string) {
		t.Helper()
		if c, err := rig.Dialer(network, addr)(bounded(t)); !rig.IsRefused(err) {
			if err == nil {
				_ = c.Close()
			}
			t.Errorf("expected %s to be closed, got %v", addr, err)
		}
	}
	ask := func(c net.Conn) {
		t.Helper()
		_, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		must(t, err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		must(t, err)
		if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "hello" || err != nil {
			t.Errorf("expected an answer, got %s %q %v", res.Status, body, err)
		}
	}
	closed("tcp", second)
	closed("unix", socket)
	first := dial(t, "tcp", g.Doors[0])
	ask(first)
	change(fmt.Sprintf(", %q, %q", second, "unix:"+socket))
	byTCP, byUnix := dial(t, "tcp", second), dial(t, "unix", socket)
	ask(byTCP)
	ask(byUnix)
	change("")
	closed("tcp", second)
	closed("unix", socket)
	for _, c := range []net.Conn{first, byTCP, byUnix, dial(t, "tcp", g.Doors[0])} {
		ask(c)
	}
}

// TestUnixDoor serves on a unix socket, also where a dead process left one.
func TestUnixDoor(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	socket := filepath.Join(t.TempDir(), "s")
	dead := given[*net.UnixListener](t)(net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"}))
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	g := serve(t, "--listen", "unix:"+socket, "--upstream", b.URL, "--admin-address", "")
	running := load(t, rig.Load{Dial: rig.Dialer("unix", socket), Clients: 4, Reconnect: 2, Bodies: true})
	busy(t, running, 100)
	wantClean(t, running)
	must(t, g.Stop(bounded(t)))
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("expected the socket to be gone after the end, got %v", err)
	}
}

// TestLogRotation moves the logs away under load, as logrotate does. No line is
// lost, and none is there twice.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	dir := t.TempDir()
	access := filepath.Join(dir, "access.log")
	g, _ := serveFile(t, common+`
log: { access: { output: `+access+` } }
reload: { watch: false }
upstreams: { a: "`+b.URL+`" }
routes: [{ name: all, upstream: a }]
`)
	running := load(t, rig.Load{Dial: rig.Dialer("tcp", g.Doors[0]), Clients: 4})
	var files []string
	for i := range 5 {
		busy(t, running, 50)
		files = append(files, fmt.Sprintf("%s.%d", access, i))
		must(t, os.Rename(access, files[i]))
		must(t, g.Signal(syscall.SIGHUP))
		must(t, rig.Poll(bounded(t), "the log is opened again", func() bool {
			_, err := os.Stat(access)
			return err == nil
		}))
	}
	busy(t, running, 50)
	result := wantClean(t, running)
	must(t, g.Stop(bounded(t)))
	count := map[string]int{}
	for _, file := range append(files, access) {
		lines := accessLines(t, file)
		if len(lines) == 0 {
			t.Errorf("%s is empty", file)
		}
		for _, l := range lines {
			count[l.RequestID]++
		}
	}
	if len(count) != result.Answers {
		t.Errorf("expected %d requests in the logs, got %d", result.Answers, len(count))
	}
	for id, n := range count {
		if n != 1 {
			t.Errorf("request %s is there %d times", id, n)
		}
	}
}

// TestReloadThatHangs holds that a reload that does not come to its end keeps
// nobody from ending the process.
func TestReloadThatHangs(t *testing.T) {
	t.Parallel()
	good := silent + "reload: { watch: false }\nroutes: [{ name: all, respond: first }]\n"
	g, file := serveFile(t, good)
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, rig.Replace(file, strings.Replace(good, `["127.0.0.1:0"]`, `[{ address: "127.0.0.1:0", tls: { cert: `+pipe+`, key: `+pipe+` } }]`, 1)))
	must(t, g.Signal(syscall.SIGHUP))
	time.Sleep(100 * time.Millisecond)
	must(t, g.Signal(syscall.SIGHUP))
	must(t, g.Signal(syscall.SIGTERM))
	wantEnd(t, g, 0)
}
