package pool

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/setting"
)

// crowd simulates, in its own time, clients that send at a rate through an
// adaptive limit to a server that works at a number of requests at once and
// queues the rest.
type crowd struct {
	a       *adaptive
	r       *rand.Rand
	now     int64
	rate    float64 // requests a second
	workers int     // of the server
	service int64   // mean time at work in ns
	hang    float64 // share of answers that take a minute, without a worker

	arrival int64
	busy    int
	queued  []int64 // when each was sent
	done    departures
}

type departure struct {
	at, sent int64
	worker   bool
}

type departures []departure

func (d departures) Len() int           { return len(d) }
func (d departures) Less(i, j int) bool { return d[i].at < d[j].at }
func (d departures) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *departures) Push(x any)        { *d = append(*d, x.(departure)) }
func (d *departures) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]
	return last
}

func (c *crowd) work(sent int64) {
	c.busy++
	// Half of the time is constant, half is exponential.
	took := float64(c.service) * (0.5 + 0.5*c.r.ExpFloat64())
	heap.Push(&c.done, departure{c.now + int64(took), sent, true})
}

// run lets time pass and returns the answer times seen, how many were shed, and
// the mean of the limit.
func (c *crowd) run(long time.Duration) (took []int64, shed int, limit float64) {
	end := c.now + int64(long)
	sum, samples := 0.0, 0
	for {
		next := c.arrival
		if len(c.done) > 0 && c.done[0].at < next {
			next = c.done[0].at
		}
		if next > end {
			c.now = end
			return took, shed, sum / float64(max(samples, 1))
		}
		c.now = next
		if len(c.done) > 0 && c.done[0].at == next {
			d := heap.Pop(&c.done).(departure)
			if d.worker {
				c.busy--
			}
			c.a.leave(c.now-d.sent, c.now)
			took = append(took, c.now-d.sent)
			if len(c.queued) > 0 && c.busy < c.workers {
				c.work(c.queued[0])
				c.queued = c.queued[1:]
			}
			continue
		}
		c.arrival = c.now + 1 + int64(c.r.ExpFloat64()*1e9/c.rate)
		sum += c.a.found
		samples++
		switch {
		case !c.a.enter(1):
			shed++
		case c.r.Float64() < c.hang:
			heap.Push(&c.done, departure{c.now + int64(time.Minute), c.now, false})
		case c.busy < c.workers:
			c.work(c.now)
		default:
			c.queued = append(c.queued, c.now)
		}
	}
}

func testAdaptiveConfig() AdaptiveConfig {
	return AdaptiveConfig{Initial: 50, Min: 5, Max: 1000, Tolerance: 1.5, Window: setting.Duration(200 * time.Millisecond)}
}

func newCrowd(c AdaptiveConfig, seed uint64, workers int, service time.Duration) *crowd {
	return &crowd{a: newAdaptive(&c), r: rand.New(rand.NewPCG(seed, 13)), now: 1, arrival: 1, workers: workers, service: int64(service)}
}

// load sets the rate as a multiple of what the server can do.
func (c *crowd) load(of float64) *crowd {
	c.rate = of * float64(c.workers) / (float64(c.service) / 1e9)
	return c
}

func p99(took []int64) time.Duration {
	slices.Sort(took)
	return time.Duration(took[len(took)*99/100])
}

// settledNear is where the limit must be with a server of so many workers: its
// work fills them, and its queue stays within what tolerance and the square
// root allow.
func settledNear(t *testing.T, what string, limit float64, workers int) {
	t.Helper()
	w := float64(workers)
	if limit < w*0.9 || limit > 1.5*w+3*math.Sqrt(1.5*w)+5 {
		t.Errorf("%s: expected a limit near %d, got %.0f", what, workers, limit)
	}
}

// However an overload begins, the limit settles near what the server can do,
// answers become nearly as quick as at rest, and the server stays busy; and
// that is still so half an hour later.
func TestAdaptiveConverges(t *testing.T) {
	for _, workers := range []int{10, 40, 200} {
		if testing.Short() && workers > 10 {
			break
		}
		service := 10 * time.Millisecond * time.Duration(max(1, workers/40))
		for _, initial := range []int{5, 50, 1000} {
			for seed := range runs(3) {
				what := fmt.Sprintf("%d workers, from %d, seed %d", workers, initial, seed)
				cfg := testAdaptiveConfig()
				cfg.Initial = initial
				c := newCrowd(cfg, seed, workers, service).load(2)
				c.run(time.Minute)
				took, _, limit := c.run(20 * time.Second)
				settledNear(t, what, limit, workers)
				if p := p99(took); p > 6*service {
					t.Errorf("%s: expected a p99 of a few times %s, got %s", what, service, p)
				}
				if busy := float64(len(took)) / 20 / (float64(workers) / service.Seconds()); busy < 0.85 {
					t.Errorf("%s: expected the server busy, got %.2f", what, busy)
				}
			}
		}
	}
}

func TestAdaptiveDoesNotCreep(t *testing.T) {
	c := newCrowd(testAdaptiveConfig(), 1, 20, 10*time.Millisecond).load(3)
	c.run(time.Minute)
	if !testing.Short() {
		c.run(20 * time.Minute)
	}
	_, _, limit := c.run(20 * time.Second)
	settledNear(t, "after a long overload", limit, 20)
}

// An overload that comes and goes: nothing is shed before and soon after.
func TestAdaptiveRecovers(t *testing.T) {
	c := newCrowd(testAdaptiveConfig(), 2, 40, 10*time.Millisecond).load(0.5)
	c.run(10 * time.Second)
	calm, shed, _ := c.run(20 * time.Second)
	if shed > 0 {
		t.Errorf("expected nothing shed at half load, got %d", shed)
	}
	c.load(5).run(30 * time.Second)
	storm, shed, _ := c.run(20 * time.Second)
	if shed == 0 {
		t.Error("expected an overload to be shed")
	}
	if a, b := p99(calm), p99(storm); b > 4*a {
		t.Errorf("expected a p99 under overload near that at rest, %s, got %s", a, b)
	}
	c.load(0.5).run(5 * time.Second)
	if _, shed, _ := c.run(20 * time.Second); shed > 0 {
		t.Errorf("expected nothing shed after the overload, got %d", shed)
	}
}

// A server that becomes slower of itself is granted its slowness: the limit
// comes back though it fell at first. One that loses workers is not.
func TestAdaptiveTellsSlowFromCrowded(t *testing.T) {
	for seed := range runs(3) {
		c := newCrowd(testAdaptiveConfig(), seed, 40, 10*time.Millisecond).load(1.5)
		c.run(30 * time.Second)
		c.service *= 4
		c.run(90 * time.Second)
		_, _, limit := c.run(20 * time.Second)
		settledNear(t, fmt.Sprintf("four times slower, seed %d", seed), limit, 40)

		c = newCrowd(testAdaptiveConfig(), seed, 80, 10*time.Millisecond).load(1.5)
		c.run(30 * time.Second)
		c.workers = 10
		c.run(90 * time.Second)
		_, _, limit = c.run(20 * time.Second)
		settledNear(t, fmt.Sprintf("an eighth of the workers, seed %d", seed), limit, 10)

		c.workers = 80
		c.run(90 * time.Second)
		_, _, limit = c.run(20 * time.Second)
		settledNear(t, fmt.Sprintf("all the workers again, seed %d", seed), limit, 80)
	}
}

// A few answers that hang must not close the door to the others.
func TestAdaptiveBearsHangs(t *testing.T) {
	c := newCrowd(testAdaptiveConfig(), 3, 40, 10*time.Millisecond).load(0.5)
	c.hang = 0.0002
	c.run(90 * time.Second)
	took, shed, _ := c.run(20 * time.Second)
	if share := float64(shed) / float64(len(took)); share > 0.001 {
		t.Errorf("expected next to nothing shed, got %.4f", share)
	}
}

// A trickle too thin to fill a window is judged once it has.
func TestAdaptiveJudgesATrickle(t *testing.T) {
	cfg := testAdaptiveConfig()
	a := newAdaptive(&cfg)
	for i := range int64(100) {
		a.enter(1)
		a.leave(int64(time.Millisecond), i*int64(time.Second))
	}
	if a.rest == 0 {
		t.Error("expected ten answers to be judged, whenever they come")
	}
}

func TestAdaptiveShares(t *testing.T) {
	cfg := testAdaptiveConfig()
	cfg.Initial = 10
	a := newAdaptive(&cfg)
	enter := func(share float64) (n int) {
		for a.enter(share) {
			n++
		}
		return n
	}
	f := func(share float64, want int) {
		t.Helper()
		if n := enter(share); n != want {
			t.Errorf("share %v: expected %d more, got %d", share, want, n)
		}
	}
	f(0, 1) // one always
	f(0.5, 4)
	f(0.8, 3)
	f(1, 2)
	f(0.5, 0)
	if a.inFlight.Load() != 10 || a.shed.Load() != 5 {
		t.Errorf("expected 10 in flight and 5 shed, got %d and %d", a.inFlight.Load(), a.shed.Load())
	}
	for range 10 {
		a.leave(0, 1)
	}
	f(1, 10)
}

func TestAdaptiveStress(t *testing.T) {
	cfg := testAdaptiveConfig()
	cfg.Initial, cfg.Max = 6, 6
	a := newAdaptive(&cfg)
	var clock, inside atomic.Int64
	var over atomic.Bool
	var all sync.WaitGroup
	for g := range 12 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 5000 {
				if !a.enter(1) {
					continue
				}
				if inside.Add(1) > 6 {
					over.Store(true)
				}
				inside.Add(-1)
				a.leave(r.Int64N(int64(50*time.Millisecond)), clock.Add(int64(time.Millisecond)))
			}
		})
	}
	all.Wait()
	limit := math.Float64frombits(a.limit.Load())
	if over.Load() || a.inFlight.Load() != 0 || limit > 6 || limit < 1 {
		t.Errorf("expected the bounds to hold, got %d in flight and a limit of %v", a.inFlight.Load(), limit)
	}
}

func TestAdaptiveValidate(t *testing.T) {
	f := func(initial, least, most int, want string) {
		t.Helper()
		p := setting.NewProblems(nil)
		c := AdaptiveConfig{Initial: initial, Min: least, Max: most}
		c.Validate(p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("expected %q, got %q", want, got)
		}
	}
	f(50, 5, 1000, "")
	f(5, 5, 5, "")
	f(50, 20, 10, "min: expected at most max, which is 10, got 20")
	f(4, 5, 10, "initial: expected a number from min to max, 5 to 10, got 4")
	f(11, 5, 10, "initial: expected a number from min to max, 5 to 10, got 11")
	var none *adaptive
	if !none.enter(1) {
		t.Error("expected room without a limit")
	}
	none.leave(1, 1)
}
