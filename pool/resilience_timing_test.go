package pool

import (
	"math"
	"testing"
	"time"

	"sluice/wire"
)

func BenchmarkBreaker(b *testing.B) {
	k := testBreaker(3)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for now := int64(1); p.Next(); now += 1000 {
			k.report(k.allow(now), resultGood, 1000, now)
		}
	})
}

func BenchmarkBreakerOpen(b *testing.B) {
	k := testBreaker(3)
	k.open(k.spell.Load(), 1)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			k.allow(2)
		}
	})
}

func BenchmarkExtraPaid(b *testing.B) {
	x := NewExtra(0.2, 3)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			x.Paid()
		}
	})
}

func BenchmarkExtraStorm(b *testing.B) {
	x := NewExtra(0.2, 3)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for now := int64(1); p.Next(); now += 1000 {
			x.Paid()
			x.Take(now)
		}
	})
}

func BenchmarkAdaptive(b *testing.B) {
	cfg := testAdaptiveConfig()
	a := newAdaptive(&cfg)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for now := int64(1); p.Next(); now += 1000 {
			if a.enter(1) {
				a.leave(1000, now)
			}
		}
	})
}

func BenchmarkOutlierSaw(b *testing.B) {
	cfg := testOutlierConfig()
	j := newJudge(&cfg)
	targets := []*Target{{}, {}, {}}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			j.saw(targets[i%3], false, targets, 1)
		}
	})
}

// An outage of everything, where nobody more may be ejected.
func BenchmarkOutlierOutage(b *testing.B) {
	cfg := testOutlierConfig()
	j := newJudge(&cfg)
	targets := []*Target{{}, {}, {}}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			j.saw(targets[i%3], true, targets, 1)
		}
	})
}

func BenchmarkLatencyAdd(b *testing.B) {
	var l latency
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for ns := int64(1); p.Next(); ns += 7919 {
			l.add(ns & (1<<25 - 1))
		}
	})
}

func BenchmarkLatencySweep(b *testing.B) {
	var l latency
	for ns := range int64(1000) {
		l.add(ns << 16)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.sweep(1)
	}
}

func BenchmarkBulkhead(b *testing.B) {
	h := testBulkhead(1024, 0, time.Second)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			h.Enter(1, math.MaxInt64)
			h.Leave()
		}
	})
}

// One place for all, so that most wait for their turn.
func BenchmarkBulkheadContended(b *testing.B) {
	h := testBulkhead(1, 1024, time.Minute)
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			h.Enter(wire.Nanotime(), math.MaxInt64)
			h.Leave()
		}
	})
}
