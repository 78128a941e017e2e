package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

const upgrade = "GET /ws HTTP/1.1\nHost: x\nConnection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n\n"
const switching = "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n\n"

// switchingOrigin is a backend that agrees to every upgrade and then talks.
func switchingOrigin(t testing.TB, talk func(w *wireEnd)) *origin {
	return startOrigin(t, func(w *wireEnd) {
		head, err := w.tryHead()
		if err != nil {
			return
		}
		if value(w.t, head, "Connection") != "Upgrade" || value(w.t, head, "Upgrade") != "websocket" || len(fieldLines(head, "Sec-WebSocket-Key")) != 1 {
			w.t.Errorf("head %s", head)
		}
		talk(w)
	})
}

func (w *wireEnd) wantSwitch() {
	w.t.Helper()
	head := w.head()
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || value(w.t, head, "Connection") != "Upgrade" || value(w.t, head, "Upgrade") != "websocket" || len(fieldLines(head, "Sec-WebSocket-Accept")) != 1 {
		w.t.Fatalf("head %s", head)
	}
}

func echoing(w *wireEnd) {
	w.send(switching)
	_, _ = io.Copy(w.Conn, w.in)
}

func TestTunnelEchoes(t *testing.T) {
	e := startEdge(t, forwardTo(switchingOrigin(t, echoing)))
	w := e.dial().send(upgrade)
	w.wantSwitch()
	for _, n := range []int{1, 100, 20000, 100000, 1 << 20} {
		b := noise(n)
		go func() { _, _ = w.Write(b) }()
		if got := w.take(n); !bytes.Equal([]byte(got), b) {
			t.Fatalf("%d bytes came back changed", n)
		}
	}
	if _, tunnels := e.gateway.Engine.Counts(); tunnels != 1 {
		t.Errorf("%d tunnels", tunnels)
	}
	_ = w.Conn.(*net.TCPConn).CloseWrite()
	w.wantEnd()
	eventually(t, "the tunnel's end", func() bool { _, n := e.gateway.Engine.Counts(); return n == 0 })
}

// TestTunnelDataBehindHeads sends data in one piece with the heads, on both
// sides: not a byte of it may be taken for HTTP or lost.
func TestTunnelDataBehindHeads(t *testing.T) {
	early := string(noise(5000))
	got := make(chan string, 1)
	o := switchingOrigin(t, func(w *wireEnd) {
		w.sendRaw([]byte(crlf(switching) + early))
		got <- w.take(len(early) + 4)
		w.send("late")
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial().sendRaw([]byte(crlf(upgrade) + early))
	w.wantSwitch()
	w.want(early)
	w.send("more")
	if text := within(t, "the early data", got); text != early+"more" {
		t.Error("the backend got something else")
	}
	w.want("late").wantEnd()
}

func TestTunnelHalfClose(t *testing.T) {
	ended := make(chan string, 1)
	o := switchingOrigin(t, func(w *wireEnd) {
		w.send(switching)
		text, _ := w.rest() // until the client has ended its side
		ended <- text
		w.send("answer after the end")
	})
	e := startEdge(t, forwardTo(o))
	w := e.dial().send(upgrade)
	w.wantSwitch()
	w.send("question")
	_ = w.Conn.(*net.TCPConn).CloseWrite()
	if text := within(t, "the client's end at the backend", ended); text != "question" {
		t.Errorf("got %q", text)
	}
	w.want("answer after the end").wantEnd()

	// The other way round.
	got := make(chan string, 1)
	o = switchingOrigin(t, func(w *wireEnd) {
		w.send(switching + "bye")
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		text, _ := w.rest()
		got <- text
	})
	w = startEdge(t, forwardTo(o)).dial().send(upgrade)
	w.wantSwitch()
	w.want("bye").wantEnd()
	w.send("I heard")
	_ = w.Close()
	if text := within(t, "what the client says last", got); text != "I heard" {
		t.Errorf("got %q", text)
	}
}

func TestTunnelIdle(t *testing.T) {
	ended := make(chan error, 1)
	o := switchingOrigin(t, func(w *wireEnd) {
		w.send(switching)
		_, err := w.in.ReadByte()
		ended <- err
	})
	e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], timeouts: { tunnel: 100ms } } }\nroutes: [ { name: all, upstream: main } ]\n")
	w := e.dial().send(upgrade)
	w.wantSwitch()
	if err := within(t, "the end at the backend", ended); err == nil {
		t.Error("the backend got a byte")
	}
	if text, _ := w.rest(); text != "" {
		t.Errorf("got %q", text)
	}
}

func TestTunnelRefused(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		if strings.Contains(head, "websocket") {
			return "HTTP/1.1 426 Upgrade Required\nContent-Length: 2\n\nno"
		}
		return ok("plain")
	}))
	e := startEdge(t, forwardTo(o))
	w := e.dial()
	for range 2 {
		if a := w.send(upgrade).response("GET"); a.StatusCode != 426 || a.body != "no" {
			t.Fatalf("%d %q", a.StatusCode, a.body)
		}
		if a := w.send("GET / HTTP/1.1\nHost: x\n\n").response("GET"); a.body != "plain" {
			t.Fatalf("got %q", a.body)
		}
	}
	if n := o.connections(); n != 1 {
		t.Errorf("%d connections to the backend", n)
	}
}

// TestUpgradeNotOffered checks what the backend sees of an upgrade that the
// gateway does not let through.
func TestUpgradeNotOffered(t *testing.T) {
	o := startOrigin(t, headBack)
	f := func(e *edge, request string) {
		t.Helper()
		a := e.dial().send(request).response("GET")
		seen := strings.ReplaceAll(a.body, "\r\n", "\n")
		for _, name := range []string{"Upgrade", "Connection", "HTTP2-Settings"} {
			if l := fieldLines(seen, name); l != nil {
				t.Errorf("%.60q: the backend saw %q", request, l)
			}
		}
	}
	e := startEdge(t, forwardTo(o))
	f(e, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n\n")
	f(e, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: H2C\n\n")
	f(e, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: h2c, websocket\n\n")
	f(e, "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket, h2c\n\n")
	f(e, "GET / HTTP/1.1\nHost: x\nUpgrade: websocket\n\n")
	f(e, "GET / HTTP/1.0\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n\n")
	f(startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes: [ { name: all, upstream: main, upgrade: false } ]\n"), upgrade)
}

func TestSwitchingUnasked(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		if strings.HasPrefix(head, "GET /other") {
			return strings.Replace(switching, "websocket", "h2c", 1)
		}
		return switching
	}))
	e := startEdge(t, forwardTo(o))
	f := func(request string) {
		t.Helper()
		if a := e.dial().send(request).response("GET"); a.StatusCode != 502 || !strings.Contains(a.body, "bad-answer") {
			t.Errorf("%.50q: %d %s", request, a.StatusCode, a.body)
		}
	}
	f("GET / HTTP/1.1\nHost: x\n\n")
	f("POST / HTTP/1.1\nHost: x\nContent-Length: 2\n\nhi")
	f("POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n")
	// A protocol that was not asked for (RFC 9110 7.8).
	f(strings.Replace(upgrade, "/ws", "/other", 1))
}

// TestTunnelDrain checks that a tunnel lives through a drain up to the end of
// the grace time, and no longer.
func TestTunnelDrain(t *testing.T) {
	o := switchingOrigin(t, echoing)
	e := startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes: [ { name: ws, match: /ws, upstream: main }, { name: plain, match: /, respond: hello } ]\n")
	w := e.dial().send(upgrade)
	w.wantSwitch()
	idle := e.dial().send("GET / HTTP/1.1\nHost: x\n\n")
	idle.response("GET")
	ctx, cancel := context.WithCancel(context.Background())
	cut := make(chan int, 1)
	go func() { cut <- e.drain(ctx) }()
	// Idle connections go after a moment; the tunnel is not one of them.
	idle.wantEnd()
	for range 20 {
		w.send("still here").want("still here")
	}
	select {
	case n := <-cut:
		t.Fatalf("drained with a tunnel open, %d cut", n)
	default:
	}
	cancel()
	if n := within(t, "drain", cut); n == 0 {
		t.Error("nothing was cut")
	}
	if text, _ := w.rest(); text != "" {
		t.Errorf("got %q", text)
	}
}

// TestTunnelSurvivesReload checks that a reload leaves tunnels alone.
func TestTunnelSurvivesReload(t *testing.T) {
	o := switchingOrigin(t, echoing)
	e := startEdge(t, forwardTo(o))
	w := e.dial().send(upgrade)
	w.wantSwitch()
	for range 5 {
		e.apply(forwardTo(o, "forwarded: { via: false }"))
		e.apply("routes: [ { name: none, respond: gone } ]\n")
		w.send("still here").want("still here")
	}
}

// TestTunnelStuck is a client that upgrades and then does not read, while the
// target goes on sending: the tunnel is idle all the same, and ends.
func TestTunnelStuck(t *testing.T) {
	ended := make(chan error, 1)
	o := switchingOrigin(t, func(w *wireEnd) {
		w.send(switching)
		b := make([]byte, 64<<10)
		for {
			if _, err := w.Conn.Write(b); err != nil {
				ended <- err
				return
			}
		}
	})
	e := startEdge(t, "upstreams: { main: { targets: [\""+o.url()+"\"], timeouts: { tunnel: 100ms } } }\nroutes: [ { name: all, upstream: main } ]\n")
	w := e.dial()
	_ = w.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	w.send(upgrade)
	within(t, "the end at the backend", ended)
}
