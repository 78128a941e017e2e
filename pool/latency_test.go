package pool

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestLatencySteps(t *testing.T) {
	f := func(ns, upTo int64) {
		t.Helper()
		if got := latencyOf(latencyStep(ns)); got != upTo {
			t.Errorf("%d ns: expected the step up to %d, got %d", ns, upTo, got)
		}
	}
	f(math.MinInt64, 1<<14)
	f(-1, 1<<14)
	f(0, 1<<14)
	f(1<<14-1, 1<<14)
	f(1<<14, 5<<12)
	f(5<<12-1, 5<<12)
	f(5<<12, 6<<12)
	f(7<<12, 1<<15)
	f(1<<15, 5<<13)
	f(1<<35-1, 1<<35)
	f(1<<35, 1<<35)
	f(math.MaxInt64, 1<<35)

	// Every step ends where the next begins.
	for step := 4; step < latencySteps-1; step++ {
		end := latencyOf(step)
		if latencyStep(end-1) != step || latencyStep(end) != step+1 {
			t.Errorf("step %d: expected to end at %d, got steps %d and %d there", step, end, latencyStep(end-1), latencyStep(end))
		}
	}
}

// A quantile is never below the exact one and at most 25 % above it, whatever
// the distribution.
func TestLatencyQuantiles(t *testing.T) {
	ms := float64(time.Millisecond)
	draws := map[string]func(*rand.Rand) float64{
		"uniform":     func(r *rand.Rand) float64 { return ms * (1 + 99*r.Float64()) },
		"exponential": func(r *rand.Rand) float64 { return ms * (0.02 + 20*r.ExpFloat64()) },
		"log-normal":  func(r *rand.Rand) float64 { return ms * (0.02 + math.Exp(1.5*r.NormFloat64())) },
		"pareto":      func(r *rand.Rand) float64 { return min(ms*math.Pow(r.Float64(), -0.8), 30e9) },
		"two humps":   func(r *rand.Rand) float64 { return ms * (1 + r.Float64() + float64(r.IntN(10)/9)*1000) },
		"constant":    func(*rand.Rand) float64 { return ms },
	}
	for name, draw := range draws {
		for seed := range runs(20) {
			r := rand.New(rand.NewPCG(seed, 5))
			var l latency
			exact := make([]int64, latencyFew+r.IntN(5000))
			for i := range exact {
				exact[i] = int64(draw(r))
				l.add(exact[i])
			}
			l.sweep(1)
			slices.Sort(exact)
			for _, p := range []int{50, 90, 95, 99} {
				want := exact[(len(exact)*p+99)/100-1]
				if got := l.Quantile(p); got < want || float64(got) > 1.25*float64(want)+1 {
					t.Errorf("%s, seed %d, p%d of %d: expected %d and up to 25 %% more, got %d", name, seed, p, len(exact), want, got)
				}
			}
		}
	}
}

func TestLatencyWindow(t *testing.T) {
	var l latency
	at := func(s float64) int64 { return 1 + int64(s*1e9) }
	add := func(n int, d time.Duration) {
		for range n {
			l.add(int64(d))
		}
	}
	f := func(s float64, count uint32, p50 time.Duration) {
		t.Helper()
		l.sweep(at(s))
		got := time.Duration(l.Quantile(50))
		if l.count.Load() != count || got < p50 || float64(got) > 1.25*float64(p50) {
			t.Errorf("%v s: expected %d answers and a p50 of about %s, got %d and %s", s, count, p50, l.count.Load(), got)
		}
	}
	f(0, 0, 0)
	add(latencyFew-1, time.Millisecond)
	f(1, latencyFew-1, 0) // too few to speak
	add(1, time.Millisecond)
	f(2, latencyFew, time.Millisecond)
	f(5, latencyFew, time.Millisecond) // the last half now
	add(30, 100*time.Millisecond)
	f(6, 40, 100*time.Millisecond)
	f(10, 30, 100*time.Millisecond)
	f(15, 0, 0)
	add(20, time.Millisecond)
	f(16, 20, time.Millisecond)
	f(40, 0, 0) // nobody swept: both halves are old
}

func TestLatencyConcurrent(t *testing.T) {
	var l latency
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range int64(5000) {
				l.add(i * 1000)
				if g < 2 && i%100 == 0 { // as at a reload: two sweepers
					l.sweep(i * 10e6)
				}
				l.Quantile(95)
			}
		})
	}
	all.Wait()
}
