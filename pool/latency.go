package pool

import (
	"math/bits"
	"sync/atomic"
)

// latency remembers how long answers took, over a sliding window of five to
// ten seconds, closely enough for quantiles: steps of a quarter of a power of
// two, so that a quantile is at most 25 % too high, from 16 us to 34 s. add is
// one atomic addition; the quantiles are worked out once a second by whoever
// sweeps, so that reading one is a load. All methods are safe for many
// goroutines; the zero value is ready.
type latency struct {
	halves [2][latencySteps]atomic.Uint32 // this half of the window, and the last
	now    atomic.Uint32                  // which half is this
	rolled atomic.Int64                   // when it began, 0 before the first sweep

	count              atomic.Uint32 // answers in the window
	p50, p90, p95, p99 atomic.Int64  // ns, 0 while fewer than latencyFew are known
}

const (
	latencySteps = 88
	latencyLow   = 14 // 2^14 ns = 16 us; shorter answers are one step
	latencyHalf  = int64(5e9)
	latencyFew   = 10
)

// latencyStep is the step of an answer that took ns. The first power of two
// stands at step 4, so that a step is its exponent and its two next bits.
func latencyStep(ns int64) int {
	if ns < 1<<latencyLow {
		return 0
	}
	n := bits.Len64(uint64(ns))
	return min((n-latencyLow)*4+int(ns>>(n-3)&3), latencySteps-1)
}

// latencyOf is the upper end of a step.
func latencyOf(step int) int64 {
	if step < 4 {
		return 1 << latencyLow
	}
	n := step/4 + latencyLow
	return int64(4+step%4+1) << (n - 3)
}

// add counts an answer that took ns.
func (l *latency) add(ns int64) {
	l.halves[l.now.Load()&1][latencyStep(ns)].Add(1)
}

// sweep moves the window on when it is time, and works out the quantiles. Two
// sweepers, as there are for a moment of a reload, do no harm: one of them
// moves the window.
func (l *latency) sweep(now int64) {
	l.roll(now)
	var sum uint32
	var steps [latencySteps]uint32
	for i := range steps {
		steps[i] = l.halves[0][i].Load() + l.halves[1][i].Load()
		sum += steps[i]
	}
	l.count.Store(sum)
	l.p50.Store(quantile(&steps, sum, 50))
	l.p90.Store(quantile(&steps, sum, 90))
	l.p95.Store(quantile(&steps, sum, 95))
	l.p99.Store(quantile(&steps, sum, 99))
}

func (l *latency) roll(now int64) {
	rolled := l.rolled.Load()
	if rolled == 0 {
		l.rolled.CompareAndSwap(0, now)
		return
	}
	if now-rolled < latencyHalf || !l.rolled.CompareAndSwap(rolled, now) {
		return
	}
	next := l.now.Load() + 1
	l.forgetHalf(next)
	if now-rolled >= 2*latencyHalf {
		l.forgetHalf(next + 1) // nobody swept for so long that it is old too
	}
	l.now.Store(next)
}

func (l *latency) forgetHalf(half uint32) {
	for i := range l.halves[half&1] {
		l.halves[half&1][i].Store(0)
	}
}

// quantile is the upper end of the step that holds the answer of the rank.
func quantile(steps *[latencySteps]uint32, sum uint32, pct uint64) int64 {
	if sum < latencyFew {
		return 0
	}
	rank := (uint64(sum)*pct + 99) / 100
	for i, n := range steps {
		if uint64(n) >= rank {
			return latencyOf(i)
		}
		rank -= uint64(n)
	}
	return latencyOf(latencySteps - 1)
}

// Quantile returns a quantile of recent answer times in nanoseconds, or 0 when
// too few are known. p is one of 50, 90, 95, 99.
func (l *latency) Quantile(p int) int64 {
	switch p {
	case 50:
		return l.p50.Load()
	case 90:
		return l.p90.Load()
	case 95:
		return l.p95.Load()
	}
	return l.p99.Load()
}

// Times remembers how long recent answers took, for whoever is not an upstream
// or target: a route. A nil Times knows nothing. See Set.Times.
type Times struct{ l latency }

// Add takes in an answer after took nanoseconds.
func (t *Times) Add(took int64) {
	if t != nil {
		t.l.add(took)
	}
}

// Quantile is one of the quantiles 50, 90, 95 and 99 in nanoseconds, 0 while too
// few answers are known.
func (t *Times) Quantile(p int) int64 {
	if t == nil {
		return 0
	}
	return t.l.Quantile(p)
}
