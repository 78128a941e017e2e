package encode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// ErrTooLarge says that a body decodes to more bytes than it may.
var ErrTooLarge = errors.New("body is larger than allowed once it is decoded")

// mostWindow is the window that a zstd decoder must have and need not exceed
// (RFC 9659).
const mostWindow = 8 << 20

// decoder reads from its own source, which is empty while nobody calls.
type decoder struct {
	src bytes.Reader
	r   interface {
		io.Reader
		Reset(io.Reader) error
	}
}

func newDecoder(c Coding) *decoder {
	d := new(decoder)
	switch c {
	case Gzip:
		d.r = new(gzip.Reader)
	case Brotli:
		d.r = new(brotli.Reader)
	case Zstd:
		// With a concurrency of 1 the decoder starts no goroutine. Its way for
		// whole bodies would hold the window, which a head may put far above the
		// length, to the bound of the body.
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow))
		must(err)
		d.r = r
	}
	return d
}

var decoders [codings]sync.Pool

// Decode appends to dst what body, all of it, is when decoded from coding c.
// Several gzip members or zstd frames in a row are one body. body must not overlap
// dst.
//
// It fails with ErrTooLarge when that is more than most bytes, which it finds
// without decoding further, and with another error when body is cut short, is
// damaged, has something behind its end, is empty (no coding has an empty form) or
// asks for a zstd window above 8 MiB. Then it returns dst as it was. Besides the
// bytes appended, and at most half as many again while dst grows, it uses the
// window that body asks for: 32 KiB with gzip, up to 16 MiB with br, up to 8.3 MiB
// with zstd.
func Decode(dst, body []byte, c Coding, most int) ([]byte, error) {
	start := len(dst)
	most = min(max(most, 0), math.MaxInt-start-1)
	if c == Identity {
		if len(body) > most {
			return dst, ErrTooLarge
		}
		return append(dst, body...), nil
	}
	if c >= codings {
		return dst, errCoding
	}
	d, _ := decoders[c].Get().(*decoder)
	if d == nil {
		d = newDecoder(c)
	}
	out, err := d.decode(dst, body, most)
	d.src.Reset(nil)
	decoders[c].Put(d)
	switch {
	case err == nil:
		return out, nil
	case err == ErrTooLarge:
		return dst, err
	}
	return dst, fmt.Errorf("body is not in the coding %s: %w", c, err)
}

func (d *decoder) decode(dst, body []byte, most int) ([]byte, error) {
	if len(body) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	d.src.Reset(body)
	if err := d.r.Reset(&d.src); err != nil {
		return nil, err
	}
	start := len(dst)
	for {
		// One byte more than allowed tells a body that is too large.
		room := most + 1 - (len(dst) - start)
		if len(dst) == cap(dst) {
			dst = grow(dst, min(room, max(len(dst)-start, 4*len(body), 512)))
		}
		n, err := d.r.Read(dst[len(dst):min(cap(dst), len(dst)+room)])
		dst = dst[:len(dst)+n]
		switch {
		case n >= room:
			return nil, ErrTooLarge
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return nil, err
		}
	}
}

// grow gives dst room for n bytes more, and unlike append not for more than that.
func grow(dst []byte, n int) []byte {
	grown := make([]byte, len(dst), len(dst)+n)
	copy(grown, dst)
	return grown
}
