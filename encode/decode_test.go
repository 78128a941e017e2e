package encode

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"testing"
)

func mustCode(t testing.TB, body []byte, c Coding) []byte {
	t.Helper()
	coded, err := testPolicy("fast").AppendAll(nil, body, c)
	if err != nil {
		t.Fatal(err)
	}
	return coded
}

// mustStream is body coded as a stream, of which no head tells the length.
func mustStream(t testing.TB, body []byte, c Coding) []byte {
	t.Helper()
	s := testPolicy("fast").NewStream(c)
	coded, err := s.Append(nil, body, true)
	if err == nil {
		coded, err = s.End(coded)
	}
	if err != nil {
		t.Fatal(err)
	}
	return coded
}

func TestDecodeBound(t *testing.T) {
	body := testJSON(10000)
	for _, c := range everyCoding {
		for _, coded := range [][]byte{mustCode(t, body, c), mustStream(t, body, c)} {
			for most, ok := range map[int]bool{-1: false, 0: false, 1: false, 512: false, 9999: false, 10000: true, 10001: true, 1 << 30: true, math.MaxInt: true} {
				dst := append(make([]byte, 0, 100), "before"...)
				got, err := Decode(dst, coded, c, most)
				switch {
				case ok && (err != nil || string(got) != "before"+string(body)):
					t.Errorf("%v, at most %d: %d bytes, %v", c, most, len(got), err)
				case !ok && (!errors.Is(err, ErrTooLarge) || string(got) != "before"):
					t.Errorf("%v, at most %d: %d bytes, %v; want ErrTooLarge", c, most, len(got), err)
				}
			}
		}
		empty := mustStream(t, nil, c)
		if got, err := Decode(nil, empty, c, 0); err != nil || len(got) != 0 {
			t.Errorf("%v, nothing: %q, %v", c, got, err)
		}
	}
}

// Damage in a gzip or zstd body is found by its checksum. Brotli has none.
func TestDecodeRefuses(t *testing.T) {
	body := testJSON(3000)
	for _, c := range everyCoding[1:] {
		for _, coded := range [][]byte{mustCode(t, body, c), mustStream(t, body, c)} {
			for n := range coded {
				if got, err := Decode(nil, coded[:n], c, 1<<20); err == nil || errors.Is(err, ErrTooLarge) || got != nil {
					t.Errorf("%v, the first %d of %d bytes: %d bytes, %v", c, n, len(coded), len(got), err)
				}
			}
			for _, tail := range []string{"x", "\x00", "xyz", "garbage behind the end"} {
				if got, err := Decode(nil, append(bytes.Clone(coded), tail...), c, 1<<20); err == nil {
					t.Errorf("%v, with %q behind: %d bytes, no error", c, tail, len(got))
				}
			}
			for i := range coded {
				bad := bytes.Clone(coded)
				bad[i] ^= 0x10
				got, err := Decode(nil, bad, c, 1<<20)
				if err == nil && !bytes.Equal(got, body) && c != Brotli {
					t.Errorf("%v, byte %d is wrong: %d bytes, no error", c, i, len(got))
				}
			}
			// What failed before must not tell.
			if got, err := Decode(nil, coded, c, len(body)); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%v, after all that: %d bytes, %v", c, len(got), err)
			}
		}
		for _, wrong := range everyCoding[1:] {
			if wrong == c {
				continue
			}
			if got, err := Decode(nil, mustCode(t, body, wrong), c, 1<<20); err == nil {
				t.Errorf("%v taken for %v: %d bytes, no error", wrong, c, len(got))
			}
		}
	}
}

func TestDecodeSeveral(t *testing.T) {
	one, two := testJSON(3000), testNoise(2000)
	for _, c := range []Coding{Gzip, Zstd} {
		coded := append(mustStream(t, one, c), mustCode(t, two, c)...)
		if got, err := Decode(nil, coded, c, 5000); err != nil || string(got) != string(one)+string(two) {
			t.Errorf("%v: %d bytes, %v", c, len(got), err)
		}
		if _, err := Decode(nil, coded, c, 4999); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%v, one byte too many: %v", c, err)
		}
	}
}

func TestDecodeWindow(t *testing.T) {
	const magic, raw = "\x28\xb5\x2f\xfd", "\x09\x00\x00x" // the last block, one byte as it is
	for _, c := range []struct {
		head string
		ok   bool
	}{
		{"\x00\x58", true},  // 2 MiB
		{"\x00\x68", true},  // 8 MiB
		{"\x00\x69", false}, // 9 MiB
		{"\x00\xff", false}, // as large as can be written
		{"\x20\x01", true},  // no window, one byte
		{"\x20\x02", false}, // two bytes, of which one is missing
		{"\xe0\x01\x00\x00\x01\x00\x00\x00\x00", false}, // 16 MiB
		{"\xe0\xff\xff\xff\xff\xff\xff\xff\xff", false},
		{"\x01\x58\x07", false}, // a dictionary
		{"\x08\x58", false},     // the reserved bit
	} {
		got, err := Decode(nil, []byte(magic+c.head+raw), Zstd, 1<<20)
		if c.ok != (err == nil) || c.ok && string(got) != "x" {
			t.Errorf("%q: %q, %v", c.head, got, err)
		}
	}
	// Large-window brotli is no content coding.
	if _, err := Decode(nil, []byte("\x11\x1e\x03"), Brotli, 1<<20); err == nil {
		t.Error("a brotli window of 2^30 passes")
	}
}

// A bomb uses no more memory than its bound says, and the window.
func TestDecodeBombs(t *testing.T) {
	const most = 1 << 20
	size := 64 * most
	if testing.Short() {
		size = 16 * most
	}
	zeros := make([]byte, 1<<20)
	for _, c := range everyCoding[1:] {
		s := testPolicy("fast").NewStream(c)
		var bomb []byte
		var err error
		for range size / len(zeros) {
			if bomb, err = s.Append(bomb, zeros, false); err != nil {
				t.Fatal(err)
			}
		}
		if bomb, err = s.End(bomb); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := Decode(nil, bomb, c, most)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		t.Logf("%v: %d bytes would be %d; used %d KiB", c, len(bomb), size, used>>10)
		if !errors.Is(err, ErrTooLarge) || got != nil {
			t.Errorf("%v: %d bytes, %v", c, len(got), err)
		}
		if used > 5*most {
			t.Errorf("%v: %d bytes to decode at most %d", c, used, most)
		}
	}
}

func FuzzDecode(f *testing.F) {
	body := testJSON(2000)
	for _, c := range everyCoding {
		f.Add(uint8(c), mustCode(f, body, c), uint16(2000))
		f.Add(uint8(c), mustStream(f, body, c), uint16(1999))
		f.Add(uint8(c), mustCode(f, make([]byte, 1<<20), c), uint16(60000))
		f.Add(uint8(c), []byte{}, uint16(0))
	}
	f.Fuzz(func(t *testing.T, coding uint8, coded []byte, most uint16) {
		c := Coding(coding % codings)
		dst := append(make([]byte, 0, 16), "before"...)
		got, err := Decode(dst, coded, c, int(most))
		if !bytes.HasPrefix(got, []byte("before")) {
			t.Fatalf("%v: what was there is gone: %.20q", c, got)
		}
		if err != nil {
			if len(got) != len("before") {
				t.Fatalf("%v: %d bytes beside %v", c, len(got), err)
			}
			return
		}
		body := got[len("before"):]
		if len(body) > int(most) {
			t.Fatalf("%v: %d bytes, at most %d allowed", c, len(body), most)
		}
		// A client reads the same.
		if want, err := plain(coded, c); err != nil || !bytes.Equal(body, want) {
			t.Fatalf("%v: %d bytes, a client reads %d, %v", c, len(body), len(want), err)
		}
		if len(body) > 0 {
			if _, err := Decode(nil, coded, c, len(body)-1); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("%v: %d bytes pass for fewer: %v", c, len(body), err)
			}
		}
	})
}
