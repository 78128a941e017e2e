package encode

import (
	"errors"

	"github.com/klauspost/compress/zstd"
)

var (
	errCoding = errors.New("encode: no such coding")
	errEnded  = errors.New("encode: the stream has ended")
)

// AppendAll appends body in coding c to dst. Identity is a copy. dst and body must
// not overlap. What it returns may be longer than body. At level small, br and
// zstd may wait for others to be done. Its only error is a coding that does not
// exist, and then it returns dst.
func (p *Policy) AppendAll(dst, body []byte, c Coding) ([]byte, error) {
	if c == Identity {
		return append(dst, body...), nil
	}
	if c >= codings {
		return dst, errCoding
	}
	from := &pools[wholeBodies][p.level][c]
	e := from.take()
	if z, ok := e.w.(*zstd.Encoder); ok {
		// Its way for whole bodies says the length in the head, and needs no window
		// for short ones.
		dst = z.EncodeAll(body, dst)
		from.give(e, true)
		return dst, nil
	}
	e.sink.b = dst
	err := e.write(body)
	if err == nil {
		err = e.w.Close()
	}
	if err == nil {
		dst = e.sink.b
	}
	from.give(e, err == nil)
	return dst, err
}

// Stream compresses one body that comes in pieces. It is for one goroutine at a
// time, and holds an encoder until End or Drop (encoder.go says what it costs).
type Stream struct {
	from  *pool
	e     *encoder // nil with Identity and after the end
	ended bool
	held  bool // something was given that was not flushed
}

// NewStream begins a body in coding c, which must be one of the constants. It
// never waits. Identity passes pieces on as they are.
func (p *Policy) NewStream(c Coding) *Stream {
	s := new(Stream)
	if c != Identity {
		s.from = &pools[pieces][p.level][c]
		s.e = s.from.take()
	}
	return s
}

// Append appends to dst what has become of piece and of those before it, which
// may be nothing: an encoder holds back what it can make smaller together with
// what follows. With flush it holds nothing back, so that everything given so far
// can be decoded from everything returned so far; that costs a few bytes, and
// nothing where nothing is held back. dst and piece must not overlap.
//
// Its only error is a stream that has ended.
func (s *Stream) Append(dst, piece []byte, flush bool) ([]byte, error) {
	if s.ended {
		return dst, errEnded
	}
	if s.e == nil {
		return append(dst, piece...), nil
	}
	s.held = s.held || len(piece) > 0
	s.e.sink.b = dst
	err := s.e.write(piece)
	if err == nil && flush && s.held {
		err = s.e.w.Flush()
		s.held = false
	}
	return s.out(dst, err)
}

// End appends the rest to dst and gives the encoder back. The stream must not be
// used again; Append and End then fail.
func (s *Stream) End(dst []byte) ([]byte, error) {
	if s.ended {
		return dst, errEnded
	}
	if s.e == nil {
		s.ended = true
		return dst, nil
	}
	s.e.sink.b = dst
	dst, err := s.out(dst, s.e.w.Close())
	if err == nil {
		s.giveBack(true)
	}
	return dst, err
}

// Drop gives up a stream before its end. After End it does nothing, so that it
// may be deferred.
func (s *Stream) Drop() {
	if !s.ended {
		s.giveBack(true)
	}
}

// out takes what the encoder has written, or ends a stream whose encoder failed.
func (s *Stream) out(dst []byte, err error) ([]byte, error) {
	if err != nil {
		s.giveBack(false)
		return dst, err
	}
	dst, s.e.sink.b = s.e.sink.b, nil
	return dst, nil
}

func (s *Stream) giveBack(sound bool) {
	if s.e != nil {
		s.from.give(s.e, sound)
	}
	s.e, s.ended = nil, true
}
