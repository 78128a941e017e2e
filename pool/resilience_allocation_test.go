//go:build !race

package pool

import (
	"math"
	"testing"
	"time"

	"sluice/wire"
)

// What every request and every try passes allocates nothing; the race detector
// itself would.
func TestResilienceAllocatesNothing(t *testing.T) {
	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: expected no allocation, got %v", name, n)
		}
	}
	var now int64
	tick := func() int64 { now += int64(5 * time.Millisecond); return now }

	b := testBreaker(3)
	f("breaker closed", func() { b.report(b.allow(tick()), resultGood, 1, now) })
	f("breaker closed, failing now and then", func() {
		r := resultGood
		if tick()%3 == 0 {
			r = resultFailed
		}
		b.report(b.allow(now), r, 1, now)
	})
	b = testBreaker(3)
	tripBreaker(t, b, now)
	opened := now
	f("breaker open", func() { b.report(b.allow(opened), resultFailed, 1, opened) })

	x := NewExtra(0.2, 3)
	f("extra tries", func() { x.Paid(); x.Take(tick()) })
	f("Backoff", func() { Backoff(4, 25e6, 250e6) })

	cfg := testAdaptiveConfig()
	a := newAdaptive(&cfg)
	f("adaptive", func() {
		if a.enter(1) {
			a.leave(int64(time.Millisecond), tick())
		}
	})

	oc := testOutlierConfig()
	oc.SlowFactor = 0
	j := newJudge(&oc)
	targets := []*Target{{}, {}, {}}
	f("outlier", func() {
		j.saw(targets[0], tick()%3 == 0, targets, now)
		j.saw(targets[1], true, targets, now)
		j.failure(503)
		targets[1].conduct.rampUp(int64(time.Second), now)
	})
	f("outlier sweep", func() { j.sweep(targets, tick()) })

	var l latency
	f("latency", func() { l.add(tick()); l.Quantile(95) })
	f("latency sweep", func() { l.sweep(tick()) })

	h := testBulkhead(1, 1, time.Minute)
	f("bulkhead", func() { h.Enter(1, math.MaxInt64); h.Leave() })
	h.Enter(1, math.MaxInt64)
	f("bulkhead, waiting in vain", func() { h.Enter(wire.Nanotime(), 1) })
}
