package pool

import (
	"testing"

	"sluice/fault"
)

// pickInTurn sends n requests, 1 ms one after the other, that target i answers
// within latency(i), or fails when that is 0. It returns how many each got.
func pickInTurn(u *Upstream, n int, now int64, latency func(i int) int64) []int {
	counts := make([]int, len(u.Targets()))
	for range n {
		var tried Tried
		target := u.Pick(0, &tried, now)
		for i := range u.Targets() {
			if u.Targets()[i] == target {
				counts[i]++
				target.Begin()
				if ns := latency(i); ns > 0 {
					u.Report(target, Ticket{}, 200, fault.None, ns, now)
				} else {
					u.Report(target, Ticket{}, 0, fault.TargetReset, 0, now)
				}
				target.End()
				now += 1e6
			}
		}
	}
	return counts
}

// A target that hangs from its first request on gets few: one of which nothing
// is known is tried, not trusted.
func TestPeakEWMAHungTarget(t *testing.T) {
	u := balancedBy("peak_ewma", 1, 1, 1)
	hung := 0
	for range 1000 {
		var tried Tried
		target := u.Pick(0, &tried, 1e9)
		target.Begin()
		if target == u.Targets()[1] {
			hung++ // and it never ends
			continue
		}
		u.Report(target, Ticket{}, 200, fault.None, 1e6, 1e9)
		target.End()
	}
	if hung > 3 {
		t.Errorf("expected a target that does not answer to get a few of 1000 requests, got %d", hung)
	}
}

// A target that fails at once is not the fastest.
func TestPeakEWMAFailingTarget(t *testing.T) {
	u := balancedBy("peak_ewma", 1, 1)
	if n := pickInTurn(u, 1000, 1e9, func(i int) int64 { return []int64{1e6, 0}[i] }); n[1] > 10 {
		t.Errorf("expected a target that fails to get a few of 1000 requests, got %d", n[1])
	}
}

// A target that was slow once is tried again after a while, and is one like
// the others when it has become fast.
func TestPeakEWMARecovers(t *testing.T) {
	u := balancedBy("peak_ewma", 1, 1)
	u.Targets()[0].observe(1e6, 1)
	u.Targets()[1].observe(5e9, 1)
	const now = 200e9
	n := pickInTurn(u, 200_000, 1, func(int) int64 { return 1e6 })
	if cost := u.Targets()[1].ewmaCost(now); n[1] == 0 || cost > 2e6 {
		t.Errorf("expected a target that has recovered to be known as fast, got %d requests and a cost of %.1f ms", n[1], cost/1e6)
	}
}

func TestRandomSpreadsWhatIsLeft(t *testing.T) {
	u := balancedBy("random", 1, 1, 2)
	u.Targets()[0].downUntil.Store(1 << 62)
	checkShares(t, choose(t, u, 30_000, noKey)[1:], []float64{1.0 / 3, 2.0 / 3})
}

// A target that answers errors at once is not the fastest either.
func TestPeakEWMAQuickErrors(t *testing.T) {
	u := balancedBy("peak_ewma", 1, 1)
	counts := [2]int{}
	now := int64(1e9)
	for range 1000 {
		var tried Tried
		target := u.Pick(0, &tried, now)
		target.Begin()
		if target == u.Targets()[1] {
			counts[1]++
			u.Report(target, Ticket{}, 500, fault.None, 200_000, now)
		} else {
			counts[0]++
			u.Report(target, Ticket{}, 200, fault.None, 1e6, now)
		}
		target.End()
		now += 1e6
	}
	if counts[1] > 10 {
		t.Errorf("expected a target that answers errors to get a few of 1000 requests, got %d", counts[1])
	}
}
