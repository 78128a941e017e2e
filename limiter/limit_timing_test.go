package limiter

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"sluice/wire"
)

// million returns a limit with a million live keys, each with room for more
// than a benchmark asks. The time stands still, so that they stay live.
func million(b *testing.B) *Limit {
	c := testConfig("100000/s", mostBurst)
	c.Keys = 1 << 20
	l := New("b", c, nil)
	for i := range 1 << 20 {
		if !l.Allow(testKey(i), 1, 1).OK {
			b.Fatal("refused")
		}
	}
	if full := l.Stats().Full; full != 0 {
		b.Fatalf("%d keys found no room", full)
	}
	return l
}

// scattered returns the keys of million in an order that no cache foresees.
func scattered() []uint64 {
	keys := make([]uint64, 1<<20)
	for i := range keys {
		keys[i] = testKey(i * 0x9e3779b1 & (1<<20 - 1))
	}
	return keys
}

// One goroutine over a million live keys.
func BenchmarkAllowMillionKeys(b *testing.B) {
	l, keys := million(b), scattered()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Allow(keys[i&(1<<20-1)], 1, 1)
	}
}

// Different keys on all cores; compare with -cpu 1,2.
func BenchmarkAllowUncontended(b *testing.B) {
	l, keys := million(b), scattered()
	b.ReportAllocs()
	b.ResetTimer()
	var part atomic.Int64
	b.RunParallel(func(p *testing.PB) {
		for i := int(part.Add(1)) << 18; p.Next(); i++ {
			l.Allow(keys[i&(1<<20-1)], 1, 1)
		}
	})
}

// One key on all cores at the highest rate that there is, by the real clock,
// which is read for each call.
func BenchmarkAllowContended(b *testing.B) {
	l := New("b", testConfig("1000000/s", 1000), nil)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			l.Allow(7, 1, wire.Nanotime())
		}
	})
}

// One key on all cores and every call admitted, which no rate allows for
// long: the most that cores can get into each other's way.
func BenchmarkAllowContendedAdmitted(b *testing.B) {
	l := New("b", testConfig("1000000/s", mostBurst), nil)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for now := int64(1); p.Next(); now += 4000 {
			l.Allow(7, 1, now)
		}
	})
}

// One key on all cores, always refused: nobody writes but the counts.
func BenchmarkAllowRefused(b *testing.B) {
	l := New("b", testConfig("1/h", 1), nil)
	l.Allow(7, 1, 1)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			l.Allow(7, 1, 1)
		}
	})
}

// A key that was never seen, in a table that passes as fast as it fills.
func BenchmarkAllowNewKey(b *testing.B) {
	c := testConfig("1000000/s", 1)
	c.Keys = 1 << 20
	l := New("b", c, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Allow(testKey(i), 1, int64(i))
	}
}

func BenchmarkHasher(b *testing.B) {
	addr, tenant := netip.MustParseAddr("2001:db8::1"), []byte("tenant-4711")
	b.Run("ip", func(b *testing.B) {
		for b.Loop() {
			h := NewHasher()
			h.Addr(addr, 64)
			h.Sum()
		}
	})
	b.Run("ip+header", func(b *testing.B) {
		for b.Loop() {
			h := NewHasher()
			h.Addr(addr, 64)
			h.Bytes(tenant)
			h.Sum()
		}
	})
}

func BenchmarkAppendHeaders(b *testing.B) {
	l := New("per_customer", testConfig("100/s", 50), nil)
	dst := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		dst = l.AppendHeaders(dst[:0], Decision{Remaining: 0, RetryAfter: 5e9})
	}
}
