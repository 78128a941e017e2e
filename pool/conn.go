package pool

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"

	"sluice/fault"
	"sluice/wire"
)

// maxAnswerHead bounds the head of an answer.
var maxAnswerHead = wire.Limits{Bytes: 64 << 10, Fields: 256}

// Conn is a connection to a target, in use by one request at a time. Between
// Get and Release or Close it belongs to one goroutine; while a body is sent
// and an answer read at the same time, one goroutine sends with Write and one
// reads.
type Conn struct {
	*wire.Conn
	Target *Target
	Reused bool // it has served a request before
	Waited bool // this request stood in the queue for it

	// Buf[R:W] is what has been read of the answer and not yet taken. Buf is
	// the caller's: it is set before Send and nil after Release.
	Buf  []byte
	R, W int

	bell  Bell // written before armed is set, read after it is taken
	armed atomic.Bool

	slot      *wire.Slot
	dialled   string
	born      int64
	idleSince int64

	// The exchange that the socket's session works on.
	ready func(fd uintptr) bool
	send  []byte
	state sendState
	check bool // look for a stale connection first
	head  bool
	res   *wire.Response
	err   error
}

type sendState uint8

const (
	toWrite sendState = iota
	toRead
	finished
)

func newConn(t *Target, nc net.Conn, dialled string) *Conn {
	c := &Conn{Conn: wire.NewConn(nc, nil), Target: t, dialled: dialled, born: wire.Nanotime()}
	c.slot = t.watch.Add(c)
	c.ready = c.onReady
	return c
}

// Bell is rung by the watch, once, at a time that RingAt names. Ring must not
// block.
type Bell interface{ Ring(now int64) }

// RingAt asks for b to be rung at the time at unless Unring comes first.
func (c *Conn) RingAt(at int64, b Bell) {
	c.bell = b
	c.armed.Store(true)
	c.slot.CheckAt(at)
}

// Unring takes the wish back. It is false when b is being rung or has been.
func (c *Conn) Unring(Bell) bool {
	c.slot.CheckAt(0)
	return c.armed.CompareAndSwap(true, false)
}

// Check is part of wire.Waiter.
func (c *Conn) Check(now int64) int64 {
	if c.armed.CompareAndSwap(true, false) {
		c.bell.Ring(now)
	}
	return 0
}

// Arm ends every wait on the connection at the time at. It returns false when
// an earlier deadline has passed; the connection is then good for nothing.
func (c *Conn) Arm(at int64) bool { return c.slot.Arm(at) }

// Disarm takes the deadline away; false as with Arm.
func (c *Conn) Disarm() bool { return c.slot.Disarm() }

// Cancel ends the waits of the request that armed the connection with the
// deadline at (see Deadline). Anyone may call it at any time; it does nothing
// when that request is over.
func (c *Conn) Cancel(at int64) { c.slot.Fire(at) }

// Deadline is what the connection was last armed with.
func (c *Conn) Deadline() int64 { return c.slot.Deadline() }

// Expired tells whether the deadline has passed, or the request was cancelled.
func (c *Conn) Expired() bool { return c.slot.Deadline() == 0 }

// Release gives the connection back for other requests. All of the answer must
// have been read, and Disarm have returned true.
func (c *Conn) Release(shard uint32, now int64) {
	c.Buf, c.R, c.W, c.send, c.res = nil, 0, 0, nil, nil
	c.Reused, c.Waited = true, false
	c.idleSince = now
	c.Target.release(c, shard)
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.close()
	return nil
}

func (c *Conn) close() {
	c.Buf, c.send, c.res = nil, nil, nil
	_ = c.Conn.Close()
	c.slot.Remove()
	c.Target.unreserve()
}

// errStale is a pooled connection that the target has closed, seen before a
// byte was sent on it.
var errStale = errors.New("pool: stale connection")

// Outcome tells how a Send ended.
type Outcome struct {
	Fault fault.Kind
	// Unsent: not one byte left the gateway, so any request may be repeated.
	Unsent bool
	// Silent: not one byte of an answer came, so a request that is safe to
	// repeat may be. It says nothing of whether the target acted on it.
	Silent bool
	Err    error // for the log
}

// Send writes a request, its head and what there is of its body, and reads
// until the head of the first answer is whole: it is then in res, whose slices
// live in Buf, and Buf[R:W] is what follows it. head says that the request is
// a HEAD.
func (c *Conn) Send(request []byte, res *wire.Response, head bool) Outcome {
	c.send, c.res, c.head, c.err = request, res, head, nil
	c.R, c.W = 0, 0
	c.state, c.check = toWrite, c.Reused
	if !c.Plain() {
		return c.sendOrdinary()
	}
	for {
		err := c.Session(c.ready)
		if c.state == toWrite && err == nil && c.err == nil && len(c.send) > 0 {
			// The socket took only a part.
			if _, c.err = c.Conn.Write(c.send); c.err == nil {
				c.send, c.state = nil, toRead
				continue
			}
		}
		if c.err == nil {
			c.err = err
		}
		return c.outcome(len(c.send) == len(request))
	}
}

// onReady is the session of a Send: write once, then read until the head is
// whole.
func (c *Conn) onReady(fd uintptr) bool {
	if c.state == toWrite {
		if c.check && !wire.Quiet(fd) {
			c.err = errStale
			return true
		}
		n, err := wire.WriteNow(fd, c.send)
		if err != nil && err != wire.ErrWait {
			c.err = err
			return true
		}
		if c.send = c.send[n:]; len(c.send) > 0 {
			return true
		}
		c.state = toRead
		return false
	}
	for {
		if c.W == len(c.Buf) && !c.grow() {
			c.err = &wire.Malformed{Status: 502, Reason: "answer head too large"}
			return true
		}
		n, err := wire.ReadNow(fd, c.Buf[c.W:])
		if err == wire.ErrWait {
			return false
		}
		if err != nil {
			c.err = err
			return true
		}
		c.W += n
		if c.parse() {
			return true
		}
	}
}

// parse looks for a whole head in Buf; false asks for more.
func (c *Conn) parse() bool {
	n, err := c.res.Parse(c.Buf[c.R:c.W], maxAnswerHead, c.head)
	if err == wire.ErrIncomplete {
		return false
	}
	if err != nil {
		c.err = err
		return true
	}
	c.R += n
	c.state = finished
	return true
}

func (c *Conn) grow() bool {
	if c.R > 0 {
		c.W = copy(c.Buf, c.Buf[c.R:c.W])
		c.R = 0
		return true
	}
	if len(c.Buf) >= maxAnswerHead.Bytes {
		return false
	}
	grown := make([]byte, 2*len(c.Buf))
	copy(grown, c.Buf[:c.W])
	c.Buf = grown
	return true
}

// sendOrdinary is Send over TLS.
func (c *Conn) sendOrdinary() Outcome {
	whole := len(c.send)
	if c.check && !c.IsQuiet() {
		c.err = errStale
		return c.outcome(true)
	}
	n, err := c.Conn.Write(c.send)
	if c.send = c.send[n:]; err != nil {
		c.err = err
		return c.outcome(len(c.send) == whole)
	}
	c.readHead()
	return c.outcome(false)
}

// Start writes the beginning of a request whose body follows by Write. The
// answer is then read with NextHead.
func (c *Conn) Start(request []byte) Outcome {
	c.send, c.err = request, nil
	c.R, c.W = 0, 0
	if c.Reused && !c.IsQuiet() {
		c.err = errStale
		return c.failed(true)
	}
	n, err := c.Conn.Write(request)
	if err != nil {
		c.err = err
		return c.failed(n == 0)
	}
	return Outcome{}
}

// NextHead reads the head of the next answer, into res: after Start, or
// after an interim one.
func (c *Conn) NextHead(res *wire.Response, head bool) Outcome {
	c.state, c.err, c.res, c.head = toRead, nil, res, head
	if !c.parse() {
		c.readHead()
	}
	return c.outcome(false)
}

func (c *Conn) readHead() {
	for {
		if c.W == len(c.Buf) && !c.grow() {
			c.err = &wire.Malformed{Status: 502, Reason: "answer head too large"}
			return
		}
		n, err := c.Read(c.Buf[c.W:])
		if c.W += n; n > 0 && c.parse() {
			return
		}
		if err != nil {
			c.err = err
			return
		}
	}
}

// Fill reads more of the answer behind what Buf[R:W] holds; it makes room by
// moving that to the start.
func (c *Conn) Fill() error {
	if c.R == c.W {
		c.R, c.W = 0, 0
	} else if c.W == len(c.Buf) {
		c.W = copy(c.Buf, c.Buf[c.R:c.W])
		c.R = 0
	}
	if c.W == len(c.Buf) && !c.grow() {
		return io.ErrShortBuffer
	}
	n, err := c.Read(c.Buf[c.W:])
	if c.W += n; n > 0 {
		return nil
	}
	return err
}

// Settled tells whether nothing of a later answer has been received.
func (c *Conn) Settled() bool { return c.R == c.W && c.Drained() }

func (c *Conn) outcome(unsent bool) Outcome {
	if c.state == finished {
		return Outcome{}
	}
	return c.failed(unsent)
}

func (c *Conn) failed(unsent bool) Outcome {
	o := Outcome{Unsent: unsent, Silent: c.W == c.R, Err: c.err}
	n := &c.Target.Counters
	var bad *wire.Malformed
	switch {
	case c.err == errStale:
		o.Fault = fault.TargetReset
		n.Stale.Add(1)
	case errors.As(c.err, &bad):
		o.Fault = fault.BadAnswer
		n.BadAnswers.Add(1)
	case errors.Is(c.err, os.ErrDeadlineExceeded):
		o.Fault = fault.AnswerTimeout
		n.AnswerTimeouts.Add(1)
	default:
		o.Fault = fault.TargetReset
		n.Resets.Add(1)
	}
	return o
}
