package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"sluice/e2e/rig"
)

// drainConfig forwards to b; the end takes what extra says.
func drainConfig(b *rig.Backend, extra string) string {
	return silent + "shutdown: { " + extra + " }\nupstreams: { a: \"" + b.URL + "\" }\nroutes: [{ name: all, upstream: a }]\n"
}

// wantEnd waits for a good end.
func wantEnd(t *testing.T, g *rig.Gateway, cut int) {
	t.Helper()
	code, err := g.Wait(bounded(t))
	must(t, err)
	if want := fmt.Sprintf(`"cut":%d,`, cut); code != 0 || !strings.Contains(g.Log(), want) {
		t.Errorf("expected code 0 and %s in the log, got %d and\n%s", want, code, g.Log())
	}
}

// wantClosed waits until nothing listens at addr.
func wantClosed(t *testing.T, addr string) {
	t.Helper()
	must(t, rig.Poll(bounded(t), addr+" is closed", func() bool {
		c, err := rig.Dialer("tcp", addr)(bounded(t))
		if err == nil {
			_ = c.Close()
		}
		return rig.IsRefused(err)
	}))
}

// TestEndUnderLoad ends the process in the middle of its work.
func TestEndUnderLoad(t *testing.T) {
	t.Parallel()
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(how.String(), func(t *testing.T) {
			t.Parallel()
			b := backend(t, "b")
			g, _ := serveFile(t, drainConfig(b, "grace: 30s"))
			running := load(t, rig.Load{Dial: rig.Dialer("tcp", g.Doors[0]), Clients: 8, Bodies: true})
			busy(t, running, 200)
			must(t, g.Signal(how))
			wantEnd(t, g, 0)
			wantClosed(t, g.Doors[0])
			result := wantClean(t, running)
			t.Logf("%d answers, then %d attempts to connect refused", result.Answers, result.Refused)
			if result.Connections != 8 {
				t.Errorf("expected every client to keep its connection to the end, got %d connections", result.Connections)
			}
		})
	}
}

// TestEndWaits holds that requests and tunnels in flight get their time: all
// that is left is finished, and nothing new is begun.
func TestEndWaits(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	g, _ := serveFile(t, drainConfig(b, "grace: 50s"))
	held := dial(t, "tcp", g.Doors[0])
	_, err := fmt.Fprint(held, "POST /hold/late HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
	must(t, err)
	if token, err := b.Held(bounded(t)); err != nil || token != "late" {
		t.Fatalf("expected the request to be held, got %q, %v", token, err)
	}
	tunnel := openTunnel(t, g.Doors[0])
	if status, body, err := g.Ask(bounded(t), http.MethodGet, "/readyz"); err != nil || status != 200 {
		t.Fatalf("/readyz: expected 200, got %d %s %v", status, body, err)
	}

	must(t, g.Signal(syscall.SIGTERM))
	wantClosed(t, g.Doors[0])
	status, body, err := g.Ask(bounded(t), http.MethodGet, "/readyz")
	must(t, err)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "shutting down") {
		t.Errorf("/readyz: expected 503, got %d: %s", status, body)
	}
	if status, _, err := g.Ask(bounded(t), http.MethodGet, "/healthz"); err != nil || status != 200 {
		t.Errorf("/healthz: expected 200, got %d %v", status, err)
	}
	// logrotate knows nothing of the end; its signal must not hasten it.
	must(t, g.Signal(syscall.SIGHUP))
	tunnel.echo(t, "still there")

	b.Release()
	res, err := http.ReadResponse(bufio.NewReader(held), nil)
	must(t, err)
	answer, err := io.ReadAll(res.Body)
	must(t, err)
	if res.StatusCode != 200 || string(answer) != "late\nbody" || !res.Close {
		t.Errorf("expected the answer and Connection: close, got %s %q close %v", res.Status, answer, res.Close)
	}
	tunnel.echo(t, "and now")
	must(t, tunnel.Close())
	wantEnd(t, g, 0)
}

// TestEndIsCut holds that what does not end by itself is cut: by a second
// signal, or when the grace time is over.
func TestEndIsCut(t *testing.T) {
	t.Parallel()
	f := func(grace string, signals int) {
		t.Helper()
		b := backend(t, "b")
		g, _ := serveFile(t, drainConfig(b, "grace: "+grace))
		tunnel := openTunnel(t, g.Doors[0])
		held := dial(t, "tcp", g.Doors[0])
		_, err := fmt.Fprint(held, "GET /hold/x HTTP/1.1\r\nHost: h\r\n\r\n")
		must(t, err)
		_, err = b.Held(bounded(t))
		must(t, err)
		for n := range signals {
			must(t, g.Signal(syscall.SIGTERM))
			if n == 0 {
				wantClosed(t, g.Doors[0])
			}
		}
		wantEnd(t, g, 2)
		if n, err := io.Copy(io.Discard, tunnel); n != 0 {
			t.Errorf("expected the tunnel to be cut, got %d bytes, %v", n, err)
		}
		// Nothing may look like an answer that went well.
		if got, _ := io.ReadAll(held); strings.Contains(string(got), " 200 ") {
			t.Errorf("expected the request to be cut, got %q", got)
		}
	}
	f("50s", 2)
	f("200ms", 1)
}

// TestEndShowsFirst holds that during shutdown.delay readiness is red and
// requests are served as before.
func TestEndShowsFirst(t *testing.T) {
	t.Parallel()
	b := backend(t, "b")
	g, _ := serveFile(t, drainConfig(b, "delay: 50s, grace: 50s"))
	running := load(t, rig.Load{Dial: rig.Dialer("tcp", g.Doors[0]), Clients: 4, Reconnect: 4})
	busy(t, running, 20)
	must(t, g.Signal(syscall.SIGTERM))
	must(t, rig.Poll(bounded(t), "readiness is red", func() bool {
		status, _, err := g.Ask(bounded(t), http.MethodGet, "/readyz")
		return err == nil && status == http.StatusServiceUnavailable
	}))
	busy(t, running, 50)
	wantClean(t, running)
	must(t, g.Signal(syscall.SIGTERM)) // do not wait for the rest
	wantEnd(t, g, 0)
}

// tunnel is an upgraded connection at whose end is an echo.
type tunnel struct {
	net.Conn
	in *bufio.Reader
}

func openTunnel(t *testing.T, addr string) tunnel {
	t.Helper()
	c := dial(t, "tcp", addr)
	_, err := fmt.Fprint(c, "GET /switch HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	must(t, err)
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("expected an upgrade, got %s", res.Status)
	}
	tun := tunnel{c, in}
	tun.echo(t, "hello")
	return tun
}

func (c tunnel) echo(t *testing.T, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	must(t, err)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c.in, got); err != nil || string(got) != text {
		t.Fatalf("expected %q back, got %q, %v", text, got, err)
	}
}
