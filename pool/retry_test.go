package pool

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/setting"
)

// extraCase is what an Extra is made from.
type extraCase struct {
	Share setting.Percent
	Floor int
}

func TestExtraBudgetScript(t *testing.T) {
	var b *Extra
	setup := func(args []string) {
		c := extraCase{Share: 0.2, Floor: 3}
		scriptSettings(t, args, map[string]func(string) error{"share": intoPercent(&c.Share), "floor": intoInt(&c.Floor)})
		b = NewExtra(float64(c.Share), c.Floor)
	}
	runScript(t, "retry.txt", setup, func(now int64, event []string) string {
		n, err := strconv.Atoi(event[1])
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for range n {
			switch event[0] {
			case "requests":
				b.Paid()
			case "tries":
				if b.Take(now) {
					got++
				}
			case "failing": // requests, each of which would be tried again
				b.Paid()
				if b.Take(now) {
					got++
				}
			}
		}
		if event[0] == "requests" {
			return "ok"
		}
		return fmt.Sprint(got)
	})
}

// For any arrivals the extra tries stay within the share of the requests so
// far and the floor of the seconds begun; in any later stretch what is stored
// comes on top. The floor is always there.
func TestExtraBudgetProperty(t *testing.T) {
	for seed := range runs(60) {
		r := rand.New(rand.NewPCG(seed, 7))
		c := extraCase{Share: []setting.Percent{0, 0.003, 0.1, 0.2, 1}[r.IntN(5)], Floor: r.IntN(6)}
		b := NewExtra(float64(c.Share), c.Floor)
		var now int64
		var requests, extra, inSecond int
		seconds, last := 0, int64(-1)
		markRequests, markExtra, markSeconds := 0, 0, 0
		load, storm := r.Float64(), r.Float64()
		for step := range 20000 {
			if step%2000 == 0 {
				load, storm = r.Float64(), r.Float64()
				markRequests, markExtra, markSeconds = requests, extra, seconds-1
			}
			now += r.Int64N(4e6)
			if now/1e9 != last {
				last, inSecond = now/1e9, 0
				seconds++
			}
			if r.Float64() < load {
				b.Paid()
				requests++
			}
			if r.Float64() < storm {
				if b.Take(now) {
					extra++
					inSecond++
				} else if inSecond < c.Floor {
					t.Fatalf("seed %d: refused try %d of a second, expected the floor of %d", seed, inSecond+1, c.Floor)
				}
			}
			within := func(requests, extra, seconds int, stored float64) {
				if most := float64(c.Share)*float64(requests) + stored + float64(c.Floor*seconds) + 1e-6; float64(extra) > most {
					t.Fatalf("seed %d: %d extra tries for %d requests in %d seconds, expected at most %.1f", seed, extra, requests, seconds, most)
				}
			}
			within(requests, extra, seconds, 0)
			within(requests-markRequests, extra-markExtra, seconds-markSeconds, storedTokens+1)
		}
		if got := int(b.granted.Load()); got != extra {
			t.Errorf("seed %d: expected %d granted, got %d", seed, extra, got)
		}
	}
}

// In a storm at a steady rate the extra load is the larger of share and floor,
// not their sum.
func TestExtraBudgetStorm(t *testing.T) {
	f := func(perSecond int, c extraCase, most float64) {
		t.Helper()
		b := NewExtra(float64(c.Share), c.Floor)
		const seconds = 20
		extra := 0
		for i := range seconds * perSecond {
			b.Paid()
			if b.Take(int64(i) * 1e9 / int64(perSecond)) {
				extra++
			}
		}
		if share := float64(extra) / float64(seconds*perSecond); share > most+0.01 {
			t.Errorf("%d/s: expected at most %.1f %% extra load, got %.1f %%", perSecond, 100*most, 100*share)
		}
	}
	c := extraCase{Share: 0.2, Floor: 3}
	f(1, c, 1)
	f(10, c, 0.3)
	f(100, c, 0.2)
	f(1000, c, 0.2)
	f(1000, extraCase{Share: 0.2, Floor: 300}, 0.3)
	f(100, extraCase{Share: 0.0005}, 0.0005)
	f(100, extraCase{}, 0)
}

// Goroutines whose clocks are read a little apart cannot bring a second's floor
// back.
func TestExtraBudgetConcurrent(t *testing.T) {
	const floor, seconds = 50, 20
	b := NewExtra(0.1, floor)
	var clock, requests, extra atomic.Int64
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 2))
			for {
				now := clock.Add(20_000) - r.Int64N(50e6) // up to 50 ms old
				if now > seconds*1e9 {
					return
				}
				if r.IntN(4) == 0 {
					requests.Add(1)
					b.Paid()
				}
				if b.Take(max(now, 0)) {
					extra.Add(1)
				}
			}
		})
	}
	all.Wait()
	if most := requests.Load()/10 + floor*(seconds+1); extra.Load() > most {
		t.Errorf("expected at most %d extra tries, got %d", most, extra.Load())
	}
}

func TestBackoffLimit(t *testing.T) {
	f := func(n int, base, most, want int64) {
		t.Helper()
		if got := backoffLimit(n, base, most); got != want {
			t.Errorf("try %d, base %d, most %d: expected %d, got %d", n, base, most, want, got)
		}
		for range 100 {
			if got := Backoff(n, base, most); got < 0 || got > want {
				t.Errorf("try %d, base %d, most %d: expected from 0 to %d, got %d", n, base, most, want, got)
			}
		}
	}
	f(2, 25, 250, 25)
	f(3, 25, 250, 50)
	f(4, 25, 250, 100)
	f(5, 25, 250, 200)
	f(6, 25, 250, 250)
	f(1000, 25, 250, 250)
	f(1, 25, 250, 25)
	f(-5, 25, 250, 25)
	f(2, 300, 250, 250)
	f(2, 0, 250, 0)
	f(2, 25, 0, 0)
	f(2, -1, 250, 0)
	f(2, 25, -1, 0)
	f(32, 1<<34+1, math.MaxInt64, math.MaxInt64) // wraps round to a small number
	f(64, 1, math.MaxInt64, 1<<62)
	f(65, 1, math.MaxInt64, math.MaxInt64)
	f(2, math.MaxInt64, math.MaxInt64, math.MaxInt64)
}

// The jitter is full: uniform from 0 to the limit. The bound on chi-square is
// passed by chance once in 1e9 runs.
func TestBackoffIsUniform(t *testing.T) {
	const cells = 10
	counts := make([]int, cells)
	for range 100_000 {
		counts[Backoff(4, 25e6, 250e6)*cells/(100e6+1)]++
	}
	shares := make([]float64, cells)
	for i := range shares {
		shares[i] = 1.0 / cells
	}
	checkShares(t, counts, shares)
}
