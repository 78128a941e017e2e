package encode

import (
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// level is how much time is spent for how few bytes.
type level uint8

const (
	fast level = iota
	balanced
	small

	levels = iota
)

var levelNames = [levels]string{"fast", "balanced", "small"}

// levelOf reads a level of Config; nothing is balanced.
func levelOf(s string) level {
	for l, name := range levelNames {
		if s == name {
			return level(l)
		}
	}
	return balanced
}

// use is what an encoder is for.
//
// What one encoder holds, in MiB, after 8 MiB of text and noise; after short
// bodies it is less, but not with br and zstd at level small. TestMemory measures
// it.
//
//	            gzip  br    zstd
//	fast      0.8   6.5   2.7    whole bodies
//	balanced  1.1   8.5   4.0
//	small     1.4   43    37
//	fast      0.8   2.0   1.0    streams
//	balanced  1.1   3.2   2.3
//	small     1.4   2.5   5.1
//
// An encoder for whole bodies works for as long as AppendAll runs, so there are
// about as many as processors. A stream has its encoder while it waits for the
// next piece, so there are as many as bodies on their way. Hence windows of 256 KiB
// there instead of 1 MiB; and at level small, where the tables of zstd's best are
// 34 MiB and those of br 32 MiB, streams do with zstd's better and with br's window
// of 64 KiB, for which it has smaller tables. That makes them longer by about one
// byte in a hundred.
type use uint8

const (
	wholeBodies use = iota
	pieces
)

// sink is what encoders write to. It never fails.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// writer is what the encoders of all codings have in common.
type writer interface {
	io.Writer
	Flush() error
	Close() error
	Reset(io.Writer)
}

// encoder is one that writes to its own sink. The sink is empty while nobody
// calls, so that a caller's buffer is not kept.
type encoder struct {
	sink sink
	w    writer
}

// mostWrite bounds a piece that an encoder gets at once. Brotli takes its tables
// by the length of the first piece, from 1 MiB on other ones, and keeps them: what
// an encoder did before would tell in its bytes and in its memory.
const mostWrite = 256 << 10

func (e *encoder) write(b []byte) error {
	for len(b) > 0 {
		piece := b[:min(len(b), mostWrite)]
		if _, err := e.w.Write(piece); err != nil {
			return err
		}
		b = b[len(piece):]
	}
	return nil
}

func newEncoder(c Coding, l level, u use) *encoder {
	e := new(encoder)
	switch c {
	case Gzip:
		w, err := gzip.NewWriterLevel(&e.sink, [levels]int{1, 5, 9}[l])
		must(err)
		e.w = w
	case Brotli:
		bits := 20
		switch {
		case u == pieces && l == small:
			bits = 16
		case u == pieces:
			bits = 18
		}
		e.w = brotli.NewWriterOptions(&e.sink, brotli.WriterOptions{Quality: [levels]int{2, 4, 9}[l], LGWin: bits})
	case Zstd:
		// With a concurrency of 1 the encoder starts no goroutine.
		window, quality := 1<<20, [levels]zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBestCompression}[l]
		if u == pieces {
			window = 256 << 10
			quality = min(quality, zstd.SpeedBetterCompression)
		}
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(quality), zstd.WithWindowSize(window),
			zstd.WithLowerEncoderMem(u == pieces))
		must(err)
		if u == pieces {
			w.Reset(&e.sink)
		}
		e.w = w
	}
	return e
}

// must is for options that are fixed in the source.
func must(err error) {
	if err != nil {
		panic("BUG: encode: " + err.Error())
	}
}
