package proxy

import (
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"sluice/cache"
	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// client is one connection of a client, from its first byte to its last.
//
// Between two requests it holds no buffer and no exchange, only a goroutine
// that waits. A request that lies whole in the buffer is served inside the
// socket's session (see wire.Conn.Session), where nothing may read from the
// client; one whose body is still to come, or that wants to upgrade, is served
// outside.
type client struct {
	*wire.Conn
	engine   *Engine
	slot     *wire.Slot
	x        *exchange // nil between two requests
	shard    uint32
	requests int
	ready    func(fd uintptr) bool
	verdict  verdict
	fd       uintptr // valid while session holds
	session  bool
	reset    bool // end with a reset instead of an orderly close
	nobody   bool // no connection of a client: see newClientless
	refused  bool // the client may still be sending what was refused
	first    [1]byte

	partial atomic.Bool                // a request has begun to arrive
	up      atomic.Pointer[pool.Conn]  // what the request in flight waits on
	gone    atomic.Bool                // the client hung up while it waited
	calls   atomic.Pointer[calls]      // of the branches that the request in flight is made of
	leads   atomic.Pointer[cache.Fill] // what the request in flight brings to others too
}

// verdict is what a look at the bytes read so far came to.
type verdict uint8

const (
	over    verdict = iota // the connection is to be closed
	more                   // the request is not whole yet
	outside                // the request needs to be served outside the session
	idle                   // all requests so far have been served
)

// abortCheck is how often a client that waits for its answer is looked after:
// one that has hung up cancels the request.
const abortCheck = int64(250 * time.Millisecond)

// ServeConn serves the requests of one connection and closes it. It returns
// when the connection has ended.
func (e *Engine) ServeConn(conn *wire.Conn) error {
	e.live.Add(1)
	c := &client{Conn: conn, engine: e, shard: e.shardOf()}
	c.ready = c.onReady
	c.slot = e.watch.Add(c)
	defer c.end()
	defer c.rescue()
	c.slot.Arm(wire.Nanotime() + int64(e.current.Load().Settings.IdleTimeout))
	for {
		if c.await(); c.verdict != outside {
			return nil
		}
		x := c.x
		if !c.slot.Disarm() {
			return nil
		}
		e.serve(x)
		if x.close {
			c.refused = x.unread()
			return nil
		}
		if !x.finishBody() {
			return nil
		}
		if c.nextRequest(); x.w == 0 {
			c.rest()
			continue
		}
		// The next request has begun to arrive behind this one.
		switch c.verdict = c.step(); c.verdict {
		case over:
			return nil
		case idle:
			c.rest()
		}
	}
}

// rescue keeps a defect of ours from ending more than the connection it showed
// on.
func (c *client) rescue() {
	if defect := recover(); defect != nil {
		c.engine.log.Error().Interface("defect", defect).Bytes("stack", debug.Stack()).Msg("connection given up")
		c.reset = true
		c.x = nil // its state is unknown
	}
}

// end closes the connection and gives back what it held.
func (c *client) end() {
	if c.refused && !c.reset {
		c.linger()
	}
	if c.reset {
		_ = c.Reset()
	} else {
		_ = c.Conn.Close()
	}
	c.slot.Remove()
	if c.x != nil {
		c.x.free()
		c.x = nil
	}
	if c.nobody {
		c.engine.nobodies.Add(-1)
	}
	c.engine.live.Add(-1)
}

// await reads until a request has to be served outside, serving the others
// meanwhile; c.verdict tells how it ended.
func (c *client) await() {
	if c.verdict == outside && c.x != nil && c.x.headLen > 0 {
		return
	}
	c.verdict = over
	var err error
	if c.Plain() && !c.Pending() {
		c.session = true
		err = c.Session(c.ready)
		c.session = false
	} else {
		err = c.readOrdinary()
	}
	if err != nil {
		c.verdict = over
		c.timedOut(err)
	}
}

// timedOut answers a client that was too slow to send its request.
func (c *client) timedOut(err error) {
	if x := c.x; x != nil && x.w > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		c.refuse(fault.RequestTimeout, "")
	}
}

// onReady reads what the socket has and serves the requests that are whole.
func (c *client) onReady(fd uintptr) bool {
	c.fd = fd
	for {
		x := c.take()
		n, err := wire.ReadNow(fd, x.in[x.w:])
		if err != nil {
			if err == wire.ErrWait {
				if x.w == 0 {
					c.release()
				}
				return false
			}
			return true
		}
		short := n < len(x.in)-x.w
		x.w += n
		switch c.verdict = c.step(); c.verdict {
		case over, outside:
			return true
		case idle:
			if c.rest(); short {
				return false
			}
		}
	}
}

// readOrdinary is onReady for connections that have no session. While it waits
// for a request it holds no buffer but one byte.
func (c *client) readOrdinary() error {
	for {
		if c.x == nil {
			if n, err := c.Read(c.first[:]); n == 0 {
				if err == io.EOF {
					return nil
				}
				return err
			}
			x := c.take()
			x.in[0], x.w = c.first[0], 1
		} else {
			n, err := c.Read(c.x.in[c.x.w:])
			if c.x.w += n; n == 0 {
				if err == io.EOF {
					return nil
				}
				return err
			}
		}
		switch c.verdict = c.step(); c.verdict {
		case over, outside:
			return nil
		case idle:
			if c.rest(); c.Plain() && !c.Pending() {
				c.verdict = over
				c.session = true
				err := c.Session(c.ready)
				c.session = false
				return err
			}
		}
	}
}

// take returns the exchange that bytes are read into, with room for some.
func (c *client) take() *exchange {
	x := c.x
	if x == nil {
		x = exchanges.Get().(*exchange)
		x.engine, x.client = c.engine, c
		c.x = x
	}
	if x.w == len(x.in) {
		x.in = append(x.in, make([]byte, len(x.in))...)
	}
	return x
}

// release gives the exchange back while the connection waits.
func (c *client) release() {
	c.x.free()
	c.x = nil
}

// rest waits for the next request.
func (c *client) rest() {
	s := &c.engine.current.Load().Settings
	c.slot.Arm(c.x.end + int64(s.IdleTimeout))
	c.release()
}

// step serves the whole requests in the buffer, one after another.
func (c *client) step() verdict {
	x := c.x
	for {
		switch v := c.parse(); v {
		case idle:
		default:
			return v
		}
		if !c.slot.Disarm() {
			return over
		}
		c.engine.serve(x)
		if x.close {
			c.refused = x.unread()
			return over
		}
		if c.nextRequest(); x.w == 0 {
			return idle
		}
	}
}

// unread tells whether the client has sent, or will send, what nobody reads.
func (x *exchange) unread() bool {
	w := x.body.window
	return !x.body.done || x.r < x.w || w != nil && w.r < w.w
}

// nextRequest moves what follows the request to the front.
func (c *client) nextRequest() {
	x := c.x
	x.w = copy(x.in, x.in[x.r:x.w])
	x.r = 0
	x.clear()
}

// parse looks for a whole request at the front of the buffer: idle says that
// there is one that can be served inside the session.
func (c *client) parse() verdict {
	x := c.x
	now := c.engine.current.Load()
	s := &now.Settings
	if x.headLen == 0 {
		n, err := x.req.Parse(x.in[x.r:x.w], s.Head)
		if err == wire.ErrIncomplete {
			c.arriving(x, s.HeaderTimeout)
			return more
		}
		x.when = time.Now()
		x.start = wire.Stamp(x.when)
		c.requests++
		if err != nil {
			c.partial.Store(false)
			c.refuse(fault.FromStatus(err.Status), err.Reason)
			return over
		}
		x.headLen = n
		x.r += n
		x.body.begin(&x.req)
	}
	switch {
	case x.body.chunked || x.req.Expect && x.req.Length > 0 || len(x.req.Upgrade) > 0:
		c.whole()
		return outside
	case x.req.Length > int64(x.w-x.r):
		// A body that may be refused is not waited for.
		if x.req.Length <= int64(len(x.in)-x.r) && !now.Table.mayRefuse(x.req.Length) {
			c.arriving(x, s.BodyTimeout)
			return more
		}
		c.whole()
		return outside
	}
	c.whole()
	return idle
}

// arriving bounds the time in which the rest of a request must come.
func (c *client) arriving(x *exchange, timeout time.Duration) {
	if !c.partial.Load() || x.headLen > 0 {
		c.partial.Store(true)
		c.slot.Arm(wire.Nanotime() + int64(timeout))
	}
}

func (c *client) whole() {
	if c.partial.Load() {
		c.partial.Store(false)
	}
}

// refuse answers a request that could not be read, counts and logs it, and
// ends the connection.
func (c *client) refuse(f fault.Kind, why string) {
	x := c.x
	x.why = why
	x.snapshot = c.engine.current.Load()
	x.snapshot.Unrouted.Begin()
	x.req = wire.Request{Fields: x.req.Fields[:0], Minor: 1}
	if x.start == 0 || f == fault.RequestTimeout {
		x.when = time.Now()
		x.start = wire.Stamp(x.when)
	}
	x.scheme = "http"
	if c.TLS != nil {
		x.scheme = "https"
	}
	x.introduce(&x.snapshot.Settings)
	x.close = true
	x.recover(f)
	x.finish()
	c.refused = true
}

// linger ends the sending side and reads on for a moment, so that what the
// client still sends does not make its kernel throw our answer away
// (RFC 9112 9.6).
func (c *client) linger() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	for n := 0; n < lingerBytes; {
		m, err := c.Read(c.x.back)
		if n += m; err != nil {
			return
		}
	}
}

const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// write sends p to the client, waiting when the socket is full.
func (c *client) write(p []byte) error {
	if c.session {
		n, err := wire.WriteNow(c.fd, p)
		if err == nil && n == len(p) {
			return nil
		}
		if err != nil && err != wire.ErrWait {
			return err
		}
		p = p[n:]
	}
	s := &c.x.snapshot.Settings
	if err := c.SetWriteDeadline(time.Now().Add(s.WriteTimeout)); err != nil {
		return err
	}
	_, err := c.Conn.Write(p)
	if c.session {
		_ = c.SetWriteDeadline(time.Time{})
	}
	return err
}

// writeFile sends a and then b, which begins at a place of a file; without copying
// what the socket takes at once.
func (c *client) writeFile(a, b []byte, file int, at int64) error {
	if !c.session {
		return c.writeBoth(a, b)
	}
	n, err := wire.WriteFileNow(c.fd, a, file, at, int64(len(b)))
	if err != nil && err != wire.ErrWait {
		return err
	}
	if n < len(a) {
		return c.writeBoth(a[n:], b)
	}
	if b = b[n-len(a):]; len(b) == 0 {
		return nil
	}
	return c.write(b)
}

// writeBoth sends a and b to the client, in one go where the socket takes it.
func (c *client) writeBoth(a, b []byte) error {
	if len(a) == 0 {
		return c.write(b)
	}
	if c.session {
		n, err := wire.WriteBothNow(c.fd, a, b)
		if err != nil && err != wire.ErrWait {
			return err
		}
		if n >= len(a) {
			if b = b[n-len(a):]; len(b) == 0 {
				return nil
			}
			return c.write(b)
		}
		a = a[n:]
	}
	if err := c.write(a); err != nil {
		return err
	}
	return c.write(b)
}

// Expire is part of wire.Waiter: the time to send a request, or to send the
// next one, is over.
func (c *client) Expire() { c.Conn.Expire() }

// Check is part of wire.Waiter. It looks whether a client whose request is in
// flight has hung up, and cancels the request then. Between two requests it
// looks once: a client that closed its side together with its last request
// made no sign that the session would see.
func (c *client) Check(now int64) int64 {
	if calls := c.calls.Load(); calls != nil {
		if c.HungUp() {
			c.gone.Store(true)
			calls.cut()
			return 0
		}
		return now + abortCheck
	}
	up := c.up.Load()
	if up == nil {
		if c.HungUp() {
			return wire.EndWait
		}
		return 0
	}
	at := up.Deadline()
	if fill := c.leads.Load(); fill != nil && fill.Joined() > 0 {
		return now + abortCheck // others wait for what this request brings
	}
	if c.HungUp() && c.up.Load() == up {
		c.gone.Store(true)
		up.Cancel(at)
	}
	return now + abortCheck
}

// endIdle closes the connection if it waits for a request that has not begun
// to arrive.
func (c *client) endIdle() {
	if at := c.slot.Deadline(); !c.partial.Load() {
		c.slot.Fire(at)
	}
}

// left tells, after a wait that began at since, whether there is nobody to
// answer any more.
func (c *client) left(since int64) bool {
	if c.gone.Load() {
		return true
	}
	// The watch's time is exact enough, and costs no look at the clock.
	if c.engine.watch.Now()-since < abortCheck || !c.HungUp() {
		return false
	}
	c.gone.Store(true)
	return true
}

// cut ends the connection whatever it does.
func (c *client) cut() {
	c.gone.Store(true) // so that nothing is tried again
	if up := c.up.Load(); up != nil {
		up.Cancel(up.Deadline())
	}
	if calls := c.calls.Load(); calls != nil {
		calls.cut()
	}
	c.Conn.Expire()
}
