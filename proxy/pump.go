package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// pump sends the body of a request to its target while the answer is already
// being read: a target may answer before it has read everything. All its
// methods do nothing on a nil pump, which stands for a body that went out
// whole with its head.
type pump struct {
	x    *exchange
	conn *pool.Conn
	wait int64         // how long the answer may take once all is sent
	gate chan struct{} // closed when the body may be asked for
	done chan struct{}

	quit  atomic.Bool
	last  atomic.Bool // the end of the body is being sent
	all   atomic.Bool // the whole body has been sent
	fault fault.Kind  // after done: why the body could not be read

	mu        sync.Mutex // guards what is written to the client before the answer
	continued bool       // the client has had its 100, or needs none
	final     bool       // the answer is on its way
}

// continueWait is how long a target may leave a client with
// Expect: 100-continue without a word before the gateway speaks for it.
const continueWait = time.Second

func (x *exchange) startPump(conn *pool.Conn, wait int64) *pump {
	p := &pump{x: x, conn: conn, wait: wait, done: make(chan struct{}), continued: true}
	if x.req.Expect && x.body.taken == 0 {
		p.continued = false
		p.gate = make(chan struct{})
	}
	x.body.quit = &p.quit
	go p.run()
	return p
}

func (p *pump) run() {
	defer close(p.done)
	if p.gate != nil && !p.waitToContinue() {
		return
	}
	err := p.send()
	switch {
	case err == nil:
		p.all.Store(true)
		p.awaitHead()
	case p.quit.Load():
	case errors.As(err, new(*readError)):
		p.fault = faultOfBody(err.(*readError).err)
		p.conn.Cancel(p.conn.Deadline())
	default:
		// The target takes no more. It may have answered.
		p.awaitHead()
	}
}

// awaitHead bounds the wait for the head of the answer, unless that has come.
func (p *pump) awaitHead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.final {
		p.conn.Arm(p.x.until(wire.Nanotime() + p.wait))
	}
}

// readError is a failure on the client's side.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func (p *pump) waitToContinue() bool {
	t := time.NewTimer(continueWait)
	defer t.Stop()
	select {
	case <-p.gate:
	case <-t.C:
		if p.proceed() != nil {
			return false
		}
	}
	return !p.quit.Load()
}

// proceed tells the client to send its body, once.
func (p *pump) proceed() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.continued || p.final {
		return nil
	}
	p.continued = true
	close(p.gate)
	return p.x.client.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
}

// writeInterim sends an interim answer between those of the pump.
func (p *pump) writeInterim(x *exchange, out []byte) error {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
	}
	return x.client.write(out)
}

// answering ends the time of interim answers.
func (p *pump) answering() {
	if p != nil {
		p.mu.Lock()
		p.final = true
		p.mu.Unlock()
	}
}

// finished tells whether all of the body has been sent. A target may answer its
// last byte before the pump has come back from writing it, which is waited for.
func (p *pump) finished() bool {
	if p == nil || p.all.Load() {
		return true
	}
	if !p.last.Load() {
		return false
	}
	t := time.NewTimer(lastWrite)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	}
	return p.all.Load()
}

// lastWrite is how long the last write of a body may take beyond the head of
// its answer. A target that answers early may never read it.
const lastWrite = 50 * time.Millisecond

// end stops the pump and waits for it. The connection of one that was still at
// work is good for nothing afterwards. It returns what was wrong with the body.
func (p *pump) end(conn *pool.Conn) fault.Kind {
	if p == nil {
		return fault.None
	}
	if !p.all.Load() {
		p.quit.Store(true)
		p.mu.Lock()
		if !p.continued {
			p.continued = true
			close(p.gate)
		}
		p.mu.Unlock()
		conn.Expire()
		_ = p.x.client.SetReadDeadline(time.Unix(1, 0))
	}
	<-p.done
	p.x.body.quit = nil
	_ = p.x.client.SetReadDeadline(time.Time{})
	return p.fault
}

// send moves the body, piece by piece as it arrives.
func (p *pump) send() error {
	x := p.x
	timeout := x.snapshot.Settings.BodyTimeout
	idle := x.upstream.Idle()
	var s splicer
	var frame []byte
	for {
		if b := &x.body; !b.chunked && b.window != nil && b.window.r == b.window.w &&
			p.conn.Plain() && x.client.Plain() && !x.client.Pending() {
			if step := s.step(b.left); step > 0 {
				if err := p.splice(&s, step, timeout, idle); err != nil {
					return err
				}
				continue
			}
		}
		piece, err := x.readBody(timeout)
		if err == io.EOF {
			break
		}
		if err != nil {
			return &readError{err}
		}
		if x.body.chunked {
			frame = appendChunk(frame[:0], piece)
			// What has been read goes out in one write, however small the
			// client's chunks are.
			for len(frame) < windowSize && x.body.window.r < x.body.window.w && !x.body.done {
				if piece, err = x.bufferedPiece(); err != nil || len(piece) == 0 {
					break
				}
				frame = appendChunk(frame, piece)
			}
			if err != nil {
				_ = p.write(frame, idle) // what was good of it
				return &readError{err}
			}
			piece = frame
		} else if x.body.done {
			p.last.Store(true)
		}
		if err := p.write(piece, idle); err != nil {
			return err
		}
	}
	if x.body.chunked {
		frame = append(frame[:0], "0\r\n"...)
		frame = append(x.appendTrailers(frame, x.body.chunks.Trailers, x.mayForward), "\r\n"...)
		p.last.Store(true)
		return p.write(frame, idle)
	}
	return nil
}

// appendChunk appends piece as a chunk.
func appendChunk(dst, piece []byte) []byte {
	dst = wire.AppendChunkSize(dst, len(piece))
	return append(append(dst, piece...), "\r\n"...)
}

func (p *pump) write(b []byte, idle time.Duration) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(idle)); err != nil {
		return err
	}
	if p.quit.Load() {
		return io.ErrClosedPipe
	}
	_, err := p.conn.Conn.Write(b)
	return err
}

func (p *pump) splice(s *splicer, step int64, timeout, idle time.Duration) error {
	c := p.x.client
	s.begin(p.conn.Conn, c.Conn, idle, timeout)
	if p.quit.Load() {
		return io.ErrClosedPipe
	}
	b := &p.x.body
	p.last.Store(step == b.left)
	n, readErr, err := s.splice(p.conn.Conn, c.Conn, step)
	b.taken += n
	b.left -= n
	b.done = b.left == 0
	p.last.Store(b.done)
	if readErr != nil {
		return &readError{readErr}
	}
	return err
}
