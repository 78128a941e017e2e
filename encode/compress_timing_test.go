package encode

import "testing"

func BenchmarkAppendAll(b *testing.B) {
	body := testJSON(16 << 10)
	for _, level := range levelNames {
		p := testPolicy(level)
		for _, c := range everyCoding[1:] {
			b.Run(c.String()+"/"+level, func(b *testing.B) {
				var dst []byte
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					dst, _ = p.AppendAll(dst[:0], body, c)
				}
				b.ReportMetric(float64(len(dst)), "out-B")
			})
		}
	}
}

// A stream in pieces of 4 KiB, of which each is flushed.
func BenchmarkStream(b *testing.B) {
	body := testJSON(16 << 10)
	p := testPolicy("balanced")
	for _, c := range everyCoding[1:] {
		b.Run(c.String(), func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				dst = dst[:0]
				s := p.NewStream(c)
				for rest := body; len(rest) > 0; rest = rest[4<<10:] {
					dst, _ = s.Append(dst, rest[:4<<10], true)
				}
				dst, _ = s.End(dst)
			}
			b.ReportMetric(float64(len(dst)), "out-B")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	body := testJSON(16 << 10)
	for _, c := range everyCoding[1:] {
		coded, _ := testPolicy("balanced").AppendAll(nil, body, c)
		b.Run(c.String(), func(b *testing.B) {
			var dst []byte
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = Decode(dst[:0], coded, c, 1<<20)
			}
		})
	}
}

func BenchmarkChoose(b *testing.B) {
	p := testPolicy("")
	fields := acceptLines("gzip, deflate, br;q=1.0, zstd")
	b.ReportAllocs()
	for b.Loop() {
		p.Choose(fields)
	}
}

func BenchmarkSuits(b *testing.B) {
	p := testPolicy("")
	typ := []byte("application/problem+json; charset=utf-8")
	b.ReportAllocs()
	for b.Loop() {
		p.Suits(typ, 4096)
	}
}
