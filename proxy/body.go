package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/wire"
)

// windowSize is the buffer that a streamed body passes through.
const windowSize = 32 << 10

// window is a buffer on loan: b[r:w] has been read and not yet taken.
type window struct {
	b    []byte
	r, w int
}

var windows = sync.Pool{New: func() any { return &window{b: make([]byte, windowSize)} }}

// body is what a request's head said of its body, and how much of it has been
// taken. Bytes are taken by one goroutine at a time.
type body struct {
	chunked bool
	done    bool
	left    int64 // of a body with a length
	taken   int64
	limit   int64 // 0 is without bound
	chunks  wire.Chunked
	window  *window      // nil until the body is streamed
	quit    *atomic.Bool // set by who wants the reading to end
}

func (b *body) begin(r *wire.Request) {
	b.chunked, b.left, b.taken = r.Chunked, max(r.Length, 0), 0
	b.done = !r.Chunked && r.Length == 0
	b.chunks.Reset()
}

// errBodyTooLarge is a body that passes its bound while it is read.
var errBodyTooLarge = errors.New("proxy: body passes the route's max_body")

// whole takes the body of a request that lies in the buffer with all of it.
// It returns nil for one that must be streamed.
func (x *exchange) whole() ([]byte, bool) {
	if x.body.done {
		return nil, true
	}
	if x.body.chunked || x.body.left > int64(x.w-x.r) || x.body.taken > 0 {
		return nil, false
	}
	b := x.in[x.r : x.r+int(x.body.left)]
	x.r += len(b)
	x.body.taken, x.body.left, x.body.done = int64(len(b)), 0, true
	return b, true
}

// openWindow moves what has been read of the body to a buffer for streaming.
func (x *exchange) openWindow() *window {
	w := x.body.window
	if w == nil {
		w = windows.Get().(*window)
		w.r, w.w = 0, 0
		have := x.in[x.r:x.w]
		if len(have) > len(w.b) {
			w.b = make([]byte, 2*len(have))
		}
		w.w = copy(w.b, have)
		x.r = x.w
		x.body.window = w
	}
	return w
}

// closeWindow gives the buffer back; what was read behind the body becomes the
// start of the next request.
func (x *exchange) closeWindow() {
	w := x.body.window
	if w == nil {
		return
	}
	x.body.window = nil
	if rest := w.b[w.r:w.w]; len(rest) > 0 {
		if len(x.in)-x.w < len(rest) {
			x.in = append(x.in[:x.w:x.w], make([]byte, len(rest)+inSize)...)
		}
		copy(x.in[x.w:], rest)
		x.w += len(rest)
	}
	if len(w.b) == windowSize {
		windows.Put(w)
	}
}

// drop forgets the body, and what was read of it.
func (b *body) drop() {
	if b.window != nil && len(b.window.b) == windowSize {
		windows.Put(b.window)
	}
	*b = body{chunks: b.chunks}
}

// readBody returns the next piece of the body, waiting for it; io.EOF comes at its
// end, alone. The piece is valid until the next call.
func (x *exchange) readBody(timeout time.Duration) ([]byte, error) {
	b := &x.body
	w := x.openWindow()
	for !b.done {
		if w.r < w.w {
			piece, err := x.bufferedPiece()
			if err != nil || len(piece) > 0 {
				return piece, err
			}
			if b.done {
				break
			}
		}
		if w.r == w.w {
			w.r, w.w = 0, 0
		} else if w.w == len(w.b) {
			w.w = copy(w.b, w.b[w.r:w.w])
			w.r = 0
		}
		if err := x.client.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			return nil, err
		}
		if b.quit != nil && b.quit.Load() {
			return nil, io.ErrClosedPipe
		}
		n, err := x.client.Read(w.b[w.w:])
		if w.w += n; n > 0 {
			continue
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return nil, io.EOF
}

// bufferedPiece takes a piece of the body from what has been read. It is empty
// when more must be read, or the body has ended.
func (x *exchange) bufferedPiece() ([]byte, error) {
	b := &x.body
	piece, err := x.pieceOf(b.window)
	if err != nil {
		return nil, err
	}
	if b.taken += int64(len(piece)); b.limit > 0 && b.taken > b.limit {
		return nil, errBodyTooLarge
	}
	return piece, nil
}

// pieceOf takes a piece of the body from what the window holds.
func (x *exchange) pieceOf(w *window) ([]byte, error) {
	b := &x.body
	if !b.chunked {
		n := int(min(b.left, int64(w.w-w.r)))
		piece := w.b[w.r : w.r+n]
		w.r += n
		b.left -= int64(n)
		b.done = b.left == 0
		return piece, nil
	}
	piece, used, done, err := b.chunks.Next(w.b[w.r:w.w])
	w.r += used
	if err != nil {
		return nil, err
	}
	b.done = done
	return piece, nil
}

// takeBody reads the whole body into memory.
func (x *exchange) takeBody(most int) ([]byte, fault.Kind) {
	body, whole := x.whole()
	for !whole {
		piece, err := x.readBody(x.snapshot.Settings.BodyTimeout)
		if body = append(body, piece...); len(body) > most {
			return nil, fault.BodyTooLarge
		}
		if whole = x.body.done; err != nil && !whole {
			return nil, faultOfBody(err)
		}
	}
	return body, fault.None
}

// keepWhole reads the whole body, up to most bytes, before anything is forwarded,
// and keeps it to be sent.
func (x *exchange) keepWhole(most int) ([]byte, fault.Kind) {
	if x.isWhole && !x.req.Chunked {
		return x.kept, fault.None
	}
	if x.req.Expect && !x.body.done {
		if err := x.client.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return nil, clientFault(err)
		}
	}
	body, f := x.takeBody(most)
	if f != fault.None {
		return nil, f
	}
	x.kept, x.isWhole = body, true
	if x.req.Chunked {
		framed := wire.AppendChunkSize(nil, len(body))
		if framed = append(append(framed, body...), "\r\n0\r\n\r\n"...); len(body) == 0 {
			framed = []byte("0\r\n\r\n")
		}
		x.kept = framed
	}
	return body, fault.None
}

// faultOfBody is the fault of a body that could not be read.
func faultOfBody(err error) fault.Kind {
	var bad *wire.Malformed
	switch {
	case errors.As(err, &bad):
		return fault.BadRequest
	case err == errBodyTooLarge:
		return fault.BodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.RequestTimeout
	}
	return fault.ClientGone
}

// Bounds of what is read of a body that nobody wants, to keep the connection.
const (
	drainBytes = 256 << 10
	drainTime  = time.Second
)

// finishBody reads what is left of the request's body after the answer. It is
// false when the connection cannot be used again; the client has then been
// given time to read its answer.
func (x *exchange) finishBody() bool {
	defer x.closeWindow()
	c := x.client
	if x.body.done {
		return c.SetReadDeadline(time.Time{}) == nil && c.SetWriteDeadline(time.Time{}) == nil
	}
	if !x.body.chunked && x.body.left > drainBytes {
		c.linger()
		return false
	}
	x.body.limit = x.body.taken + drainBytes
	until := time.Now().Add(drainTime)
	for {
		_, err := x.readBody(time.Until(until))
		if err == io.EOF {
			return c.SetReadDeadline(time.Time{}) == nil && c.SetWriteDeadline(time.Time{}) == nil
		}
		if err != nil {
			if err == errBodyTooLarge {
				c.linger()
			}
			return false
		}
	}
}
