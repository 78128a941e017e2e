package encode

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// plain decodes as a client does, with nothing of this package. It returns what
// can be decoded, and the error of an end that is missing.
func plain(coded []byte, c Coding) ([]byte, error) {
	var r io.Reader = bytes.NewReader(coded)
	switch c {
	case Gzip:
		z, err := stdgzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = z
	case Brotli:
		r = brotli.NewReader(r)
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(mostWindow))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	}
	return io.ReadAll(r)
}

// forEach runs f for every level and coding.
func forEach(t *testing.T, f func(t *testing.T, p *Policy, l level, c Coding)) {
	for l, name := range levelNames {
		for _, c := range everyCoding {
			t.Run(name+"/"+c.String(), func(t *testing.T) { f(t, testPolicy(name), level(l), c) })
		}
	}
}

// testBodies are shorter under the race detector, which has nothing to find where
// there is one goroutine.
func testBodies() [][]byte {
	text, n := testJSON(1500<<10), 200<<10
	if testing.Short() {
		text, n = text[:260<<10], 20<<10
	}
	mixed := append(append(bytes.Clone(text[:n]), testNoise(n)...), text[:n]...)
	return [][]byte{
		{}, {'x'}, text[:100], text[:1024], text[:16<<10], text[:128<<10], text[:128<<10+1], text,
		testNoise(70 << 10), make([]byte, 300<<10), mixed,
	}
}

func TestAppendAll(t *testing.T) {
	forEach(t, func(t *testing.T, p *Policy, _ level, c Coding) {
		for i, body := range testBodies() {
			coded, err := p.AppendAll([]byte("before"), body, c)
			if err != nil || !bytes.HasPrefix(coded, []byte("before")) {
				t.Fatalf("body %d: %.10q, %v", i, coded, err)
			}
			coded = coded[len("before"):]
			if got, err := plain(coded, c); err != nil || !bytes.Equal(got, body) {
				t.Errorf("body %d: %d bytes come back as %d, %v", i, len(body), len(got), err)
			}
			if got, err := Decode([]byte("before"), coded, c, len(body)); err != nil || string(got) != "before"+string(body) {
				t.Errorf("body %d: %d bytes decode to %d, %v", i, len(body), len(got)-len("before"), err)
			}
			if c != Identity && i >= 3 && i < 8 && len(coded) > len(body)/2 {
				t.Errorf("body %d: %d bytes of text become %d", i, len(body), len(coded))
			}
		}
	})
}

// A stream is cut into pieces of many lengths, some of them flushed. What came
// out up to a flush must give what went in.
func TestStream(t *testing.T) {
	forEach(t, func(t *testing.T, p *Policy, _ level, c Coding) {
		for i, body := range testBodies() {
			if len(body) > 600<<10 {
				body = body[:600<<10]
			}
			s, coded := p.NewStream(c), []byte(nil)
			given, size := 0, 1
			for n := 0; given < len(body); n++ {
				piece := body[given:min(len(body), given+size)]
				given += len(piece)
				flush := n%3 == 1
				before := len(coded)
				var err error
				if coded, err = s.Append(coded, piece, flush); err != nil {
					t.Fatal(err)
				}
				if !flush {
					size = size*7%(90<<10) + 1
					continue
				}
				if got, err := plain(coded, c); !bytes.Equal(got, body[:given]) {
					t.Fatalf("body %d: %d bytes flushed, %d can be decoded (%v)", i, given, len(got), err)
				}
				if len(coded) == before {
					t.Fatalf("body %d: nothing flushed", i)
				}
				again, err := s.Append(coded, nil, true)
				if err != nil || len(again) != len(coded) {
					t.Fatalf("body %d: a flush of nothing gave %d bytes, %v", i, len(again)-len(coded), err)
				}
			}
			coded, err := s.End(coded)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := plain(coded, c); err != nil || !bytes.Equal(got, body) {
				t.Errorf("body %d: %d bytes come back as %d, %v", i, len(body), len(got), err)
			}
		}
	})
}

func TestStreamHasOneEnd(t *testing.T) {
	for _, c := range everyCoding {
		s := testPolicy("fast").NewStream(c)
		if _, err := s.Append(nil, []byte("text"), false); err != nil {
			t.Fatal(err)
		}
		if _, err := s.End(nil); err != nil {
			t.Fatal(err)
		}
		s.Drop()
		if got, err := s.Append([]byte("kept"), []byte("text"), true); !errors.Is(err, errEnded) || string(got) != "kept" {
			t.Errorf("%v: Append after End: %q, %v", c, got, err)
		}
		if got, err := s.End([]byte("kept")); !errors.Is(err, errEnded) || string(got) != "kept" {
			t.Errorf("%v: End after End: %q, %v", c, got, err)
		}
		s = testPolicy("fast").NewStream(c)
		s.Drop()
		s.Drop()
		if _, err := s.End(nil); !errors.Is(err, errEnded) {
			t.Errorf("%v: End after Drop: %v", c, err)
		}
	}
}

func TestUnknownCoding(t *testing.T) {
	if got, err := testPolicy("").AppendAll([]byte("kept"), []byte("text"), Coding(9)); err == nil || string(got) != "kept" {
		t.Errorf("AppendAll: %q, %v", got, err)
	}
	if got, err := Decode([]byte("kept"), []byte("text"), Coding(9), 9); err == nil || string(got) != "kept" {
		t.Errorf("Decode: %q, %v", got, err)
	}
}

// The bytes must not tell what an encoder did before: a strong entity tag stands
// for them, and what others sent is nobody's business.
func TestEncodersForget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute under the race detector, for one goroutine")
	}
	text := testJSON(3 << 20)
	body, other := text[:100<<10], append(bytes.Clone(text[100<<10:]), testNoise(100<<10)...)
	forEach(t, func(t *testing.T, _ *Policy, l level, c Coding) {
		if c == Identity {
			return
		}
		for u := range use(2) {
			// A pool of the test's own, without what other tests left.
			from := &pool{coding: c, level: l, use: u}
			code := func(e *encoder, body []byte) []byte {
				if z, ok := e.w.(*zstd.Encoder); ok && u == wholeBodies {
					return z.EncodeAll(body, nil)
				}
				if err := errors.Join(e.write(body), e.w.Close()); err != nil {
					t.Fatal(err)
				}
				return e.sink.b
			}
			want := code(from.take(), body)
			used := from.take()
			code(used, other)
			from.give(used, true)
			if u == pieces {
				// Given up in the middle.
				if err := used.write(other[:300<<10]); err != nil {
					t.Fatal(err)
				}
				from.give(used, true)
			}
			for range 2 {
				if got := code(used, body); !bytes.Equal(got, want) {
					t.Errorf("use %d: an encoder gives %d bytes when new and %d others later", u, len(want), len(got))
				}
				from.give(used, true)
			}
		}
	})
}

// Every zstd frame can be read by who has a window of 8 MiB and no more.
func TestZstdWindow(t *testing.T) {
	body := make([]byte, 9<<20)
	copy(body, testJSON(1<<20))
	for _, level := range levelNames {
		p := testPolicy(level)
		all, err := p.AppendAll(nil, body, Zstd)
		if err != nil {
			t.Fatal(err)
		}
		s := p.NewStream(Zstd)
		stream, err := s.Append(nil, body, true)
		if err != nil {
			t.Fatal(err)
		}
		s.Drop()
		for _, coded := range [][]byte{all, stream} {
			var h zstd.Header
			if err := h.Decode(coded); err != nil || h.WindowSize > mostWindow || h.SingleSegment && h.FrameContentSize > mostWindow {
				t.Errorf("%s: %+v, %v", level, h, err)
			}
		}
	}
}

func TestConcurrency(t *testing.T) {
	bodies := [][]byte{testJSON(700), testJSON(20 << 10), testNoise(5 << 10), testJSON(150 << 10)}
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for n := range 12 {
				p, c := testPolicy(levelNames[(n+g)%levels]), everyCoding[(n+g/2)%codings]
				body := bodies[(n*g)%len(bodies)]
				all, err := p.AppendAll(nil, body, c)
				if err != nil {
					t.Error(err)
				}
				s := p.NewStream(c)
				defer s.Drop()
				stream, err := s.Append(nil, body[:len(body)/3], n%2 == 0)
				if err == nil {
					stream, err = s.Append(stream, body[len(body)/3:], false)
				}
				if n%5 == 4 {
					s.Drop()
					stream = all
				} else if err == nil {
					stream, err = s.End(stream)
				}
				if err != nil {
					t.Error(err)
				}
				for _, coded := range [][]byte{all, stream} {
					if got, err := Decode(nil, coded, c, len(body)); err != nil || !bytes.Equal(got, body) {
						t.Errorf("%v: %d bytes come back as %d, %v", c, len(body), len(got), err)
					}
				}
			}
		})
	}
	wait.Wait()
}

// The dearest encoders are few, whoever asks, and none gets lost.
func TestTurns(t *testing.T) {
	body := testJSON(2 << 10)
	p := testPolicy("small")
	for _, c := range []Coding{Brotli, Zstd} {
		turns := pools[wholeBodies][small][c].turns
		if n := cap(turns); n < 1 || n > mostTurns {
			t.Fatalf("%v: %d turns", c, n)
		}
		var held []*encoder
		for range cap(turns) {
			held = append(held, pools[wholeBodies][small][c].take())
		}
		done := make(chan error)
		const callers = 20
		for range callers {
			go func() {
				coded, err := p.AppendAll(nil, body, c)
				if got, wrong := plain(coded, c); wrong != nil || !bytes.Equal(got, body) {
					err = fmt.Errorf("%d bytes come back as %d: %w", len(body), len(got), wrong)
				}
				done <- err
			}()
		}
		select {
		case err := <-done:
			t.Fatalf("%v: one did not wait: %v", c, err)
		default:
		}
		for i, e := range held {
			pools[wholeBodies][small][c].give(e, i > 0) // one of them failed
		}
		for range callers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(turns) != cap(turns) {
			t.Errorf("%v: %d of %d turns are left", c, len(turns), cap(turns))
		}
	}
}

// TestMemory holds encoders to what encoder.go says of them, in KiB and with a
// fifth more.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds, and counts other bytes under the race detector")
	}
	most := [2][levels][codings]int{
		wholeBodies: {
			fast:     {Gzip: 1000, Brotli: 8000, Zstd: 3300},
			balanced: {Gzip: 1350, Brotli: 10500, Zstd: 4900},
			small:    {Gzip: 1750, Brotli: 52800, Zstd: 45500},
		},
		pieces: {
			fast:     {Gzip: 1000, Brotli: 2450, Zstd: 1250},
			balanced: {Gzip: 1350, Brotli: 3950, Zstd: 2850},
			small:    {Gzip: 1750, Brotli: 3100, Zstd: 6300},
		},
	}
	body := append(testJSON(4<<20), testNoise(4<<20)...)
	heap := func() int {
		runtime.GC()
		runtime.GC() // the first leaves what pools held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc >> 10)
	}
	for u := range most {
		for l := range most[u] {
			for _, c := range everyCoding[1:] {
				from := &pool{coding: c, level: level(l), use: use(u)}
				before := heap()
				e := from.take()
				if z, ok := e.w.(*zstd.Encoder); ok && use(u) == wholeBodies {
					z.EncodeAll(body, nil)
				} else if err := errors.Join(e.write(body), e.w.Close()); err != nil {
					t.Fatal(err)
				}
				e.sink.b = nil
				got := heap() - before
				t.Logf("use %d, %s, %v: %d KiB", u, levelNames[l], c, got)
				if got > most[u][l][c] {
					t.Errorf("use %d, %s, %v: %d KiB, want at most %d", u, levelNames[l], c, got, most[u][l][c])
				}
				runtime.KeepAlive(e)
			}
		}
	}
	runtime.KeepAlive(body)
}
