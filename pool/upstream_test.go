package pool

import (
	"slices"
	"testing"
	"time"

	"sluice/fault"
	"sluice/setting"
	"sluice/wire"
)

// newTestUpstream is an upstream of n targets that nothing is sent to.
func newTestUpstream(t *testing.T, n int, cfg Config) *Upstream {
	t.Helper()
	for i := range n {
		cfg.Targets = append(cfg.Targets, TargetConfig{URL: "http://127.0.0.1:" + itoa(10001+i), Weight: 1})
	}
	if cfg.Balance == "" {
		cfg.Balance = "round_robin"
	}
	watch := wire.NewWatch(time.Hour)
	t.Cleanup(watch.Stop)
	u, err := newUpstream("main", cfg, nil, watch)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// picks counts who is chosen in n requests at the time now.
func picks(u *Upstream, n int, now int64) map[int]int {
	count := map[int]int{}
	for range n {
		var tried Tried
		count[slices.Index(u.Targets(), u.Pick(0, &tried, now))]++
	}
	return count
}

func TestPickByState(t *testing.T) {
	const now = int64(1e12)
	sick := func(u *Upstream, i int) { u.Targets()[i].standing.down.Store(true) }
	ejected := func(u *Upstream, i int) { u.Targets()[i].conduct.until.Store(now + 1) }
	refused := func(u *Upstream, i int) { u.Targets()[i].downUntil.Store(now + 1) }
	for _, c := range []struct {
		name string
		is   [3]func(*Upstream, int)
		want []int // who is chosen
	}{
		{"all well", [3]func(*Upstream, int){}, []int{0, 1, 2}},
		{"one sick", [3]func(*Upstream, int){sick}, []int{1, 2}},
		{"one ejected", [3]func(*Upstream, int){nil, ejected}, []int{0, 2}},
		{"one refused", [3]func(*Upstream, int){nil, nil, refused}, []int{0, 1}},
		{"one of each", [3]func(*Upstream, int){sick, ejected, refused}, []int{1, 2}},
		{"all ejected", [3]func(*Upstream, int){ejected, ejected, ejected}, []int{0, 1, 2}},
		{"all refused", [3]func(*Upstream, int){refused, refused, refused}, []int{0, 1, 2}},
		{"sick and ejected", [3]func(*Upstream, int){sick, sick, ejected}, []int{2}},
		{"all sick", [3]func(*Upstream, int){sick, sick, sick}, []int{-1}},
	} {
		for _, balance := range []string{"round_robin", "random", "least_request", "peak_ewma", "hash"} {
			u := newTestUpstream(t, 3, Config{Balance: balance})
			for i, f := range c.is {
				if f != nil {
					f(u, i)
				}
			}
			got := picks(u, 300, now)
			if balance == "hash" { // one key has one target
				if len(got) != 1 {
					t.Errorf("%s, %s: chose %v", c.name, balance, got)
				}
				for i := range got {
					if !slices.Contains(c.want, i) {
						t.Errorf("%s, %s: chose %v, want of %v", c.name, balance, got, c.want)
					}
				}
				continue
			}
			if len(got) != len(c.want) {
				t.Errorf("%s, %s: chose %v, want %v", c.name, balance, got, c.want)
			}
			for _, i := range c.want {
				if got[i] == 0 {
					t.Errorf("%s, %s: chose %v, want %v", c.name, balance, got, c.want)
				}
			}
		}
	}
}

// TestPickTried is a request that goes from target to target.
func TestPickTried(t *testing.T) {
	u := newTestUpstream(t, 3, Config{})
	u.Targets()[1].conduct.until.Store(1 << 60)
	var tried Tried
	seen := map[*Target]bool{}
	for range 2 {
		seen[u.Pick(0, &tried, 1)] = true
	}
	if len(seen) != 2 || seen[nil] || seen[u.Targets()[1]] {
		t.Errorf("expected each of the good ones once")
	}
	if u.Pick(0, &tried, 1) != nil {
		t.Error("someone was chosen twice")
	}
}

// TestPanic is an upstream of which too few targets are well.
func TestPanic(t *testing.T) {
	u := newTestUpstream(t, 4, Config{Panic: 0.5, Resolve: setting.Duration(time.Hour)})
	for i, sick := range []bool{true, true, false, false} {
		u.Targets()[i].standing.down.Store(sick)
	}
	u.sweep(1)
	if got := picks(u, 100, 1); len(got) != 2 {
		t.Errorf("at half, chose %v", got)
	}
	u.Targets()[2].standing.down.Store(true)
	u.sweep(2)
	if got := picks(u, 100, 2); len(got) != 4 || !u.Guards().Panic {
		t.Errorf("below half, chose %v", got)
	}
	u.Targets()[2].standing.down.Store(false)
	u.sweep(3)
	if got := picks(u, 100, 3); len(got) != 2 || u.Guards().Panic {
		t.Errorf("after it, chose %v", got)
	}
}

// TestSlowStartShare is a target that came back: its share grows.
func TestSlowStartShare(t *testing.T) {
	for _, balance := range []string{"round_robin", "random", "least_request"} {
		u := newTestUpstream(t, 2, Config{Balance: balance, SlowStart: setting.Duration(10 * time.Second)})
		const back = int64(1e12)
		last := -1
		for _, after := range []int64{1e9, 5e9, 11e9} {
			u.Targets()[0].conduct.returned.Store(back)
			n := picks(u, 4000, back+after)[0]
			if n <= last {
				t.Errorf("%s: %d of 4000 requests %d s after it came back, and %d before", balance, n, after/1e9, last)
			}
			if after == 1e9 && (n < 100 || n > 800) {
				t.Errorf("%s: %d of 4000 requests one second after it came back, want about a tenth of a half", balance, n)
			}
			last = n
		}
		if last < 1800 || last > 2200 {
			t.Errorf("%s: %d of 4000 requests in the end, want half", balance, last)
		}
	}
}

// TestReport is what a try teaches the breaker and the outlier judge.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		status int
		fault  fault.Kind
		failed bool
		told   bool
	}{
		{200, fault.None, false, true},
		{404, fault.None, false, true},
		{429, fault.None, false, true},
		{500, fault.None, true, true},
		{501, fault.None, false, true},
		{503, fault.None, true, true},
		{0, fault.ConnectFailed, true, true},
		{0, fault.ConnectTimeout, true, true},
		{0, fault.TargetReset, true, true},
		{0, fault.BadAnswer, true, true},
		{0, fault.AnswerTimeout, true, true},
		{0, fault.AnswerCut, true, true},
		{0, fault.QueueFull, false, false},
		{0, fault.QueueTimeout, false, false},
		{0, fault.ClientGone, false, false},
		{0, fault.ClientSlow, false, false},
		{0, fault.BodyTooLarge, false, false},
	} {
		u := newTestUpstream(t, 2, Config{
			Outlier: &OutlierConfig{Errors: 1, Eject: setting.Duration(time.Hour), MaxEject: setting.Duration(time.Hour), MaxEjected: 0.5},
			Breaker: &BreakerConfig{ErrorRate: 1, Window: setting.Duration(time.Second), MinRequests: 1, Open: setting.Duration(time.Hour), Probes: 1},
		})
		const now = int64(1e12)
		k, ok := u.Allow(now)
		if !ok {
			t.Fatal("a new breaker is open")
		}
		target := u.Targets()[0]
		u.Report(target, k, c.status, c.fault, 0, now)
		if got := target.conduct.until.Load() > now; got != c.failed {
			t.Errorf("%d %s: ejected %v", c.status, c.fault, got)
		}
		if _, ok := u.Allow(now); ok == c.failed {
			t.Errorf("%d %s: the breaker lets the next one through: %v", c.status, c.fault, ok)
		}
		if got := target.conduct.answers.Load() > 0 || c.failed; got != c.told {
			t.Errorf("%d %s: counted %v", c.status, c.fault, got)
		}
	}
}

// TestEnterGivesBack is a request that gets one place and not the other.
func TestEnterGivesBack(t *testing.T) {
	u := newTestUpstream(t, 1, Config{
		Concurrency: &BulkheadConfig{Max: 1},
		Adaptive:    &AdaptiveConfig{Initial: 5, Min: 5, Max: 5, Tolerance: 2, Window: setting.Duration(time.Second)},
	})
	now := wire.Nanotime()
	if f := u.Enter(1, now, now+1e9); f != fault.None {
		t.Fatal(f)
	}
	for range 20 {
		if f := u.Enter(1, now, now+1e9); f != fault.QueueFull {
			t.Fatalf("got %v, want the bulkhead to be full", f)
		}
	}
	u.leave(0, now)
	if f := u.Enter(1, now, now+1e9); f != fault.None {
		t.Errorf("a free place is not given: %v", f)
	}
}

// TestRebuildKeeps is a reload: what is not changed stays, what is starts anew.
func TestRebuildKeeps(t *testing.T) {
	breaker := &BreakerConfig{ErrorRate: 0.5, Window: setting.Duration(time.Second), MinRequests: 5, Open: setting.Duration(time.Second), Probes: 1}
	outlier := &OutlierConfig{Errors: 5}
	u := newTestUpstream(t, 2, Config{Breaker: breaker, Outlier: outlier, Concurrency: &BulkheadConfig{Max: 5}, Adaptive: &AdaptiveConfig{Initial: 5, Min: 1, Max: 9}})
	u.panicking.Store(true)
	same, err := newUpstream("main", u.Config, u, u.watch)
	if err != nil || same != u {
		t.Fatalf("an unchanged upstream is made anew, %v", err)
	}
	cfg := u.Config
	cfg.Panic = 0.3
	changed := *breaker
	changed.MinRequests = 7
	cfg.Breaker = &changed
	next, err := newUpstream("main", cfg, u, u.watch)
	if err != nil || next == u {
		t.Fatal("a changed upstream is the old one", err)
	}
	if next.breaker == u.breaker {
		t.Error("the breaker's settings are changed and it is the old one")
	}
	if next.judge != u.judge || next.adaptive != u.adaptive || next.bulkhead != u.bulkhead || next.latency != u.latency || !next.panicking.Load() {
		t.Error("what is not changed starts anew")
	}
	for i, target := range next.Targets() {
		if target != u.Targets()[i] {
			t.Errorf("target %d starts anew", i)
		}
	}
}

// leave gives both places back.
func (u *Upstream) leave(took, now int64) {
	u.LeaveLimit(took, now)
	u.LeavePlace()
}

// TestSlowStartIsNoReason is a target in its slow start beside one that is
// ejected: the latter is not asked.
func TestSlowStartIsNoReason(t *testing.T) {
	const now = int64(1e9)
	u := newTestUpstream(t, 2, Config{SlowStart: setting.Duration(10 * time.Second)})
	u.Targets()[0].conduct.until.Store(1 << 60)
	u.Targets()[1].conduct.returned.Store(now)
	for range 200 {
		var tried Tried
		if got := u.Pick(0, &tried, now); got != u.Targets()[1] {
			t.Fatalf("chose %v", got)
		}
	}
}

// TestForgive is a reload that takes health and outlier away: what they had
// marked is not marked any more.
func TestForgive(t *testing.T) {
	u := newTestUpstream(t, 1, Config{})
	u.Targets()[0].standing.down.Store(true)
	u.Targets()[0].conduct.until.Store(1 << 60)
	u.forgive()
	if s := u.Targets()[0].State(); s.Unhealthy || s.Ejected {
		t.Errorf("%+v", s)
	}
}
