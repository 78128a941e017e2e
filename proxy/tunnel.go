package proxy

import (
	"bytes"
	"io"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// carriesHTTP tells whether the list of an Upgrade holds a protocol that more
// requests could be sent in, past every route and rule: HTTP itself, or TLS
// with HTTP inside (RFC 2817). Such an Upgrade is ignored, which RFC 9110 7.8
// leaves to every server.
func carriesHTTP(list []byte) bool {
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		name, _, _ := bytes.Cut(item, []byte{'/'})
		for _, no := range []string{"h2c", "h2", "http", "tls"} {
			if wire.EqualFold(wire.TrimOWS(name), no) {
				return true
			}
		}
	}
	return false
}

// mayTunnel tells whether the 101 in x.res switches to a protocol that the
// client offered (RFC 9110 7.8), after all of the request has been sent.
func (x *exchange) mayTunnel(p *pump) bool {
	if !x.upgrade || !p.finished() {
		return false
	}
	n := 0
	for item, rest := wire.NextItem(x.res.Upgrade); item != nil; item, rest = wire.NextItem(rest) {
		if n++; !offers(x.req.Upgrade, item) {
			return false
		}
	}
	return n > 0
}

func offers(list, protocol []byte) bool {
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		if bytes.EqualFold(item, protocol) {
			return true
		}
	}
	return false
}

// tunnel hands the 101 on and then moves bytes both ways until both sides have
// ended, or neither has said anything for the tunnel's idle time. It is blind
// to what the bytes mean.
func (x *exchange) tunnel(conn *pool.Conn) fault.Kind {
	c := x.client
	x.close = true
	x.switchingHead()
	x.status, x.begun = 101, true
	early := conn.Buf[conn.R:conn.W]
	x.out = append(x.out, early...)
	conn.R = conn.W
	defer conn.Close()
	if err := c.write(x.out); err != nil {
		return clientFault(err)
	}
	c.engine.tunnels.Add(1)
	defer c.engine.tunnels.Add(-1)
	_ = c.SetWriteDeadline(time.Time{})
	// From here an end of the client's side is an end of that side only.
	c.up.Store(nil)
	c.slot.CheckAt(0)

	t := &tunnel{client: c, conn: conn, idle: int64(x.upstream.Tunnel())}
	conn.Disarm() // a budget is for answers, not for what comes after
	t.slot = c.engine.watch.Add(t)
	defer t.slot.Remove()
	t.touch()
	up := make(chan int64, 1)
	go func() {
		n, err := int64(x.w-x.r), error(nil)
		if n > 0 {
			_, err = conn.Conn.Write(x.in[x.r:x.w])
		}
		if err == nil {
			var m int64
			m, err = t.move(conn.Conn, c.Conn)
			n += m
		}
		t.ended(err, conn.Conn)
		up <- n
	}()
	n, err := t.move(c.Conn, conn.Conn)
	t.ended(err, c.Conn)
	x.bytesOut = n + int64(len(early))
	x.body.taken = <-up
	x.r = x.w
	return fault.None
}

// switchingHead writes the 101 as the client is to see it.
func (x *exchange) switchingHead() {
	out := appendStatus(x.out[:0], 101, x.res.Reason)
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; x.handsOn(f) {
			out = appendField(out, f.Name, f.Value)
		}
	}
	if x.route.Response.any {
		out = x.route.Response.append(out, x)
	}
	out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
	out = append(append(out, x.res.Upgrade...), "\r\n"...)
	s := &x.snapshot.Settings
	if s.Via {
		out = s.appendVia(out, x.res.Minor)
	}
	if s.RequestID != "" {
		out = append(append(out, s.RequestID...), ": "...)
		out = append(append(out, x.id...), "\r\n"...)
	}
	x.out = append(x.appendCookies(out), "\r\n"...)
}

type tunnel struct {
	client *client
	conn   *pool.Conn
	slot   *wire.Slot // of its own: a deadline on the client's counts as idle in a drain
	idle   int64
}

// touch moves the end of the idle time. It is false when that has passed.
func (t *tunnel) touch() bool { return t.slot.Arm(wire.Nanotime() + t.idle) }

// Expire is part of wire.Waiter: nothing has moved for too long. It ends both
// sides, for one may be stuck in a write to a side that does not read.
func (t *tunnel) Expire() {
	t.client.Conn.Expire()
	t.conn.Conn.Expire()
}

// Check is part of wire.Waiter.
func (t *tunnel) Check(int64) int64 { return 0 }

// ended settles the end of one direction: an orderly end is handed on to dst
// alone, anything else ends both.
func (t *tunnel) ended(err error, dst *wire.Conn) {
	if err == io.EOF && dst.CloseWrite() == nil {
		return
	}
	t.Expire()
}

// move copies from src to dst until src ends, which it reports as io.EOF. While
// nothing comes it holds no buffer on a plain connection.
func (t *tunnel) move(dst, src *wire.Conn) (n int64, err error) {
	if !src.Plain() || src.Pending() {
		w := windows.Get().(*window)
		defer windows.Put(w)
		for {
			m, err := src.Read(w.b)
			if m > 0 {
				if _, err := dst.Write(w.b[:m]); err != nil || !t.touch() {
					return n, io.ErrClosedPipe
				}
				n += int64(m)
			}
			if err != nil {
				return n, err
			}
		}
	}
	sessionErr := src.Session(func(fd uintptr) bool {
		w := windows.Get().(*window)
		defer windows.Put(w)
		for {
			m, readErr := wire.ReadNow(fd, w.b)
			if readErr == wire.ErrWait {
				return false
			}
			if err = readErr; err != nil {
				return true
			}
			if _, writeErr := dst.Write(w.b[:m]); writeErr != nil || !t.touch() {
				err = io.ErrClosedPipe
				return true
			}
			n += int64(m)
		}
	})
	if err == nil {
		err = sessionErr
	}
	return n, err
}
