package limiter

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/redis/redistest"
	"sluice/wire"
)

// cpu is what this process has used, user and system, in nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkSharedExact asks a real Redis from many callers at once.
func BenchmarkSharedExact(b *testing.B) {
	server := redistest.Start(b, redistest.Options{})
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			s := gateways(b, 1, redisConfig(server.Addr), sharedConfig("exact", "closed"))[0]
			var seq, done atomic.Int64
			begin, used := s.Stats(), cpu()
			b.ReportAllocs()
			b.ResetTimer()
			ended := make(chan struct{})
			for range callers {
				go func() {
					key := sharedKey(s, fmt.Sprint(seq.Add(1)))
					for done.Add(1) <= int64(b.N) {
						s.Allow(key, perSecond(1_000_000), 1000, 1, 0)
					}
					ended <- struct{}{}
				}()
			}
			for range callers {
				<-ended
			}
			b.StopTimer()
			end := s.Stats()
			b.ReportMetric(float64(cpu()-used)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(end.Sent-begin.Sent)/float64(end.RoundTrips-begin.RoundTrips), "questions/trip")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

// BenchmarkSharedFast decides with 65,536 live keys, exchanging with a real
// Redis meanwhile.
func BenchmarkSharedFast(b *testing.B) {
	server := redistest.Start(b, redistest.Options{})
	s := gateways(b, 1, redisConfig(server.Addr), sharedConfig("fast", "closed"))[0]
	s.ledger = newLedger(1 << 17)
	keys := make([]SharedKey, 1<<16)
	for i := range keys {
		keys[i] = sharedKey(s, fmt.Sprint(i))
	}
	b.Run("many keys", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				s.Allow(keys[i*7919&(1<<16-1)], perSecond(1000), 1000, 1, wire.Nanotime())
			}
		})
	})
	b.Run("one key", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				s.Allow(keys[0], perSecond(1000), 1000, 1, wire.Nanotime())
			}
		})
	})
	b.Run("one core", func(b *testing.B) {
		now := wire.Nanotime()
		for i := 0; b.Loop(); i++ {
			now += int64(time.Microsecond)
			s.Allow(keys[i*7919&(1<<16-1)], perSecond(1000), 1000, 1, now)
		}
	})
}

func BenchmarkSharedHasher(b *testing.B) {
	seed := sharedSeed("secret")
	addr, tenant := netip.MustParseAddr("2001:db8::1"), []byte("a tenant")
	b.ReportAllocs()
	for b.Loop() {
		h := newSharedHasher(&seed)
		h.Addr(addr, 64)
		h.Bytes(tenant)
		h.Sum()
	}
}
