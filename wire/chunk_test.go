package wire

import (
	"fmt"
	"strings"
	"testing"
)

// dechunk decodes raw, giving the decoder its bytes as a connection would: step
// bytes more whenever it asks. It says what came: the data, the trailer fields,
// how many bytes belong to the body, and what was wrong.
func dechunk(raw string, step int) (data, trailers string, used int, err *Malformed) {
	var d Chunked
	from, upTo := 0, 0
	for {
		piece, n, done, err := d.Next([]byte(raw[from:upTo]))
		from += n
		data += string(piece)
		switch {
		case err != nil:
			return data, "", from, err
		case done:
			for _, f := range d.Trailers {
				trailers += fmt.Sprintf("%s: %s\n", f.Name, f.Value)
			}
			return data, trailers, from, nil
		case len(piece) > 0:
		case upTo == len(raw):
			return data, "", from, ErrIncomplete
		default:
			upTo = min(upTo+step, len(raw))
		}
	}
}

// decode is dechunk, which it requires to come to the same in pieces of every
// size and in two pieces that meet anywhere.
func decode(t testing.TB, raw string) (data, trailers string, used int, err *Malformed) {
	t.Helper()
	data, trailers, used, err = dechunk(raw, len(raw)+1)
	for step := 1; step <= len(raw); step++ {
		d, tr, u, e := dechunk(raw, step)
		if d != data || tr != trailers || e != err || err == nil && u != used {
			t.Fatalf("%.200q in steps of %d: %q, %q, %d, %v; at once: %q, %q, %d, %v", raw, step, d, tr, u, e, data, trailers, used, err)
		}
		if step > 64 && step < len(raw)-64 {
			step += len(raw) / 64
		}
	}
	return data, trailers, used, err
}

func TestChunked(t *testing.T) {
	f := func(raw, want, trailers string) {
		t.Helper()
		data, tr, used, err := decode(t, raw+"GET /next")
		if err != nil || data != want || tr != trailers || used != len(raw) {
			t.Errorf("%.200q: %q, %q, %d bytes of %d, %v; want %q, %q", raw, data, tr, used, len(raw), err, want, trailers)
		}
	}
	f("0\r\n\r\n", "", "")
	f("000\r\n\r\n", "", "")
	f("5\r\nhello\r\n0\r\n\r\n", "hello", "")
	f("5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n", "hello world", "")
	f("A\r\n0123456789\r\n0\r\n\r\n", "0123456789", "")
	f("a\r\n0123456789\r\n0\r\n\r\n", "0123456789", "")
	f("00000000000000a\r\n0123456789\r\n0\r\n\r\n", "0123456789", "")
	f("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", "")
	f("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", "")
	f("1;a\r\nx\r\n0\r\n\r\n", "x", "")
	f("1;a=b\r\nx\r\n0;c\r\n\r\n", "x", "")
	f("1 ; a = b\t;c=\"d;\\\"\t\xe9\" ; e\r\nx\r\n0\r\n\r\n", "x", "")
	f("1;a=\"\"\r\nx\r\n0\r\n\r\n", "x", "")
	f("1;"+strings.Repeat("a", 4000)+"\r\nx\r\n0\r\n\r\n", "x", "")
	f("0\r\nX: y\r\n\r\n", "", "X: y\n")
	f("1\r\nx\r\n0\r\nX:\t y z \r\nX:\r\n\r\n", "x", "X: y z\nX: \n")
	f("0\r\nX: "+strings.Repeat("y", maxTrailer-len("X: \r\n\r\n"))+"\r\n\r\n", "", "X: "+strings.Repeat("y", maxTrailer-len("X: \r\n\r\n"))+"\n")
}

func TestChunkedRefused(t *testing.T) {
	f := func(raw, data string, want *Malformed) {
		t.Helper()
		got, _, _, err := decode(t, raw)
		if err != want || got != data {
			t.Errorf("%.200q: %q, %v; want %q, %v", raw, got, err, data, want)
		}
	}
	f("", "", ErrIncomplete)
	f("5", "", ErrIncomplete)
	f("5\r", "", ErrIncomplete)
	f("5\r\nhel", "hel", ErrIncomplete)
	f("5\r\nhello\r", "hello", ErrIncomplete)
	f("0\r\n", "", ErrIncomplete)
	f("0\r\n\r", "", ErrIncomplete)
	f("0\r\nX: y\r\n", "", ErrIncomplete)
	f("\r\n", "", errChunkSize)
	f("g\r\n", "", errChunkSize)
	f("+1\r\n", "", errChunkSize)
	f("-1\r\n", "", errChunkSize)
	f("0x1\r\n", "", errChunkSize)
	f("1_0\r\n", "", errChunkSize)
	f("1.\r\n", "", errChunkSize)
	f(" 1\r\n", "", errChunkSize)
	f("\xd9\xa1\r\n", "", errChunkSize)
	f("1\x00\r\n", "", errChunkSize)
	f("1\n", "", errChunkSize)
	f("0000000000000001", "", errChunkSize)
	f("ffffffffffffffff\r\n", "", errChunkSize)
	f("10000000000000000\r\n", "", errChunkSize)
	f("1 \r\n", "", errChunkExt)
	f("1 a\r\n", "", errChunkExt)
	f("1;\r\n", "", errChunkExt)
	f("1;a=\r\n", "", errChunkExt)
	f("1;=a\r\n", "", errChunkExt)
	f("1;a b\r\n", "", errChunkExt)
	f("1;a;\r\n", "", errChunkExt)
	f("1;a \r\n", "", errChunkExt)
	f("1;a=\"b\r\n", "", errChunkExt)
	f("1;a=\"b\\\"\r\n", "", errChunkExt)
	f("1;a=\"b\"c\r\n", "", errChunkExt)
	f("1;a=\"\x00\"\r\n", "", errChunkExt)
	f("1;a\rb\r\n", "", errChunkExt)
	f("1;a\r\r\n", "", errChunkExt)
	f("1;a\n", "", errChunkLine)
	f("1\rx\n", "", errChunkLine)
	f("1;"+strings.Repeat("a", maxChunkLine), "", errChunkLine)
	f("1;"+strings.Repeat("a", maxChunkLine)+"\r\nx\r\n", "", errChunkLine)
	f("1\r\nxy", "x", errChunkEnd)
	f("1\r\nx\n", "x", errChunkEnd)
	f("1\r\nx\rx", "x", errChunkEnd)
	f("1\r\nx0\r\n\r\n", "x", errChunkEnd)
	f("0\r\nX\r\n\r\n", "", errFieldName)
	f("0\r\nX : y\r\n\r\n", "", errFieldName)
	f("0\r\n X: y\r\n\r\n", "", errFold)
	f("0\r\nX: y\n\r\n", "", errBareLF)
	f("0\r\n\n", "", errBareLF)
	f("0\r\n\rx", "", errBareCR)
	f("0\r\nX: \x00\r\n\r\n", "", errFieldValue)
	f("0\r\n"+strings.Repeat("X: y\r\n", maxTrailers+1)+"\r\n", "", errTrailerLarge)
	f("0\r\nX: "+strings.Repeat("y", maxTrailer)+"\r\n\r\n", "", errTrailerLarge)
	f("0\r\nX: "+strings.Repeat("y", maxTrailer-len("X: \r\n\r\n")+1)+"\r\n\r\n", "", errTrailerLarge)
	ext := "1;" + strings.Repeat("a", 4000) + "\r\nx\r\n"
	f(strings.Repeat(ext, 5)+"0\r\n\r\n", "xxxx", errChunkExt)
}

// A chunk's size is never more than what an int64 counts.
func TestChunkSizeBound(t *testing.T) {
	var d Chunked
	raw := []byte("fffffffffffffff\r\nx")
	if data, used, done, err := d.Next(raw); string(data) != "x" || used != len(raw) || done || err != nil {
		t.Fatalf("%q, %d, %v, %v", data, used, done, err)
	}
	if want := int64(1<<60 - 2); d.remain != want {
		t.Errorf("%d bytes remain, want %d", d.remain, want)
	}
}

func TestChunkedReset(t *testing.T) {
	var d Chunked
	for range 3 {
		raw := []byte("1;a=b\r\nx\r\n0\r\nX: y\r\n\r\n")
		for n := 0; ; {
			_, used, done, err := d.Next(raw[n:])
			if n += used; err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
		}
		if len(d.Trailers) != 1 {
			t.Fatalf("%d trailers, want 1", len(d.Trailers))
		}
		d.Reset()
	}
}

func TestAppendChunkSize(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 15, 16, 255, 256, 4095, 4096, 1 << 20, 1<<62 + 5} {
		if got, want := string(AppendChunkSize([]byte("a"), n)), fmt.Sprintf("a%x\r\n", n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
