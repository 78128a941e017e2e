package pool

import (
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// Tried is the set of targets, by their place in the upstream, that a request
// has tried. Places from 64 on are not remembered.
type Tried uint64

func (t Tried) has(i int) bool { return i < 64 && t>>i&1 != 0 }

// candidates are the targets that may be chosen: not yet tried, and in a state
// that the care taken allows.
type candidates struct {
	targets   []*Target
	tried     Tried
	now       int64
	slowStart int64 // ns
	care      care
	again     bool // a choice found nobody already
}

// care is how much the state of targets is looked at. A choice that finds
// nobody is made again with less.
type care uint8

const (
	careNot    care = iota // in panic: any target
	careHealth             // none that fails its checks
	careGood               // nor one that is ejected or lately refused a connection
	careAll                // nor, for its share, one that is in its slow start
)

func (c candidates) usable(i int) bool {
	if c.tried.has(i) {
		return false
	}
	t := c.targets[i]
	switch {
	case c.care == careNot:
		return true
	case t.standing.down.Load():
		return false
	case c.care == careHealth:
		return true
	case t.downUntil.Load() > c.now || t.conduct.until.Load() > c.now:
		return false
	}
	return c.care == careGood || t.conduct.rampUp(c.slowStart, c.now)
}

// picker chooses among the targets of one upstream. It must be lock-free and
// safe for all goroutines.
type picker interface {
	// pick returns the place of a target that is usable, or -1.
	pick(key uint64, c candidates) int
}

func newPicker(balance string, weights []int, targets []*Target) picker {
	if len(targets) == 1 {
		return single{}
	}
	switch balance {
	case "random":
		return newWeightedRandom(weights)
	case "least_request":
		return &twoChoices{targets: targets, weights: weights, cost: func(t *Target, _ int64) float64 {
			return float64(t.active.Load())
		}}
	case "peak_ewma":
		return &twoChoices{targets: targets, weights: weights, cost: (*Target).ewmaCost}
	case "hash":
		return newRing(targets, weights)
	}
	return newRoundRobin(weights)
}

// single is the picker of an upstream with one target.
type single struct{}

func (single) pick(_ uint64, c candidates) int {
	if c.usable(0) {
		return 0
	}
	return -1
}

// roundRobin walks a sequence in which each target stands as often as its
// weight says, spread out as smoothly as nginx does it, made once so that a
// choice is one atomic addition.
type roundRobin struct {
	next atomic.Uint64
	seq  []uint16
}

func newRoundRobin(weights []int) *roundRobin {
	sum, div := 0, 0
	for _, w := range weights {
		div = gcd(div, w)
	}
	for _, w := range weights {
		sum += w / div
	}
	r := &roundRobin{seq: make([]uint16, 0, sum)}
	current := make([]int, len(weights))
	for range sum {
		best := 0
		for i, w := range weights {
			current[i] += w / div
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= sum
		r.seq = append(r.seq, uint16(best))
	}
	return r
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (r *roundRobin) pick(_ uint64, c candidates) int {
	size := uint64(len(r.seq))
	if !c.again {
		if i := int(r.seq[(r.next.Add(1)-1)%size]); c.usable(i) {
			return i
		}
	}
	// Go on from anywhere: the next in turn would get all that the ones before
	// it cannot take.
	n := rand.Uint64N(size)
	for range r.seq {
		if i := int(r.seq[n%size]); c.usable(i) {
			return i
		}
		n++
	}
	return -1
}

// weightedRandom draws a target by weight.
type weightedRandom struct{ upTo []int }

func newWeightedRandom(weights []int) *weightedRandom {
	r := &weightedRandom{}
	sum := 0
	for _, w := range weights {
		sum += w
		r.upTo = append(r.upTo, sum)
	}
	return r
}

func (r *weightedRandom) draw() int {
	return sort.SearchInts(r.upTo, rand.IntN(r.upTo[len(r.upTo)-1])+1)
}

func (r *weightedRandom) pick(_ uint64, c candidates) int {
	if i := r.draw(); c.usable(i) {
		return i
	}
	// Draw among those that are usable, so that what the others would have had
	// is spread over all of them.
	sum := 0
	for i := range r.upTo {
		if c.usable(i) {
			sum += r.weight(i)
		}
	}
	if sum == 0 {
		return -1
	}
	last, n := -1, rand.IntN(sum)
	for i := range r.upTo {
		if c.usable(i) {
			if n -= r.weight(i); n < 0 {
				return i
			}
			last = i
		}
	}
	return last // one became unusable meanwhile
}

func (r *weightedRandom) weight(i int) int {
	if i == 0 {
		return r.upTo[0]
	}
	return r.upTo[i] - r.upTo[i-1]
}

// scanUpTo is the number of targets up to which all are compared; above it two
// drawn at random are, which is nearly as good and costs the same for any number
// (Mitzenmacher, The Power of Two Choices).
const scanUpTo = 8

// twoChoices takes the cheaper of the targets it looks at.
type twoChoices struct {
	targets []*Target
	weights []int
	cost    func(t *Target, now int64) float64
}

func (p *twoChoices) pick(_ uint64, c candidates) int {
	best, least, ties := -1, math.Inf(1), 0
	n := len(p.targets)
	look := func(i int) {
		if !c.usable(i) {
			return
		}
		cost := p.cost(p.targets[i], c.now) / float64(p.weights[i])
		switch {
		case cost < least:
			best, least, ties = i, cost, p.weights[i]
		case cost == least:
			// Drawn by weight, or a light one would never be the one of two
			// that are idle.
			if ties += p.weights[i]; rand.IntN(ties) < p.weights[i] {
				best = i
			}
		}
	}
	start := rand.IntN(n)
	if n > scanUpTo {
		look(start)
		look((start + 1 + rand.IntN(n-1)) % n)
		if best >= 0 {
			return best
		}
	}
	for i := range n {
		look((start + i) % n)
	}
	return best
}

// ewmaDecay is the time in which an old latency loses 63 % of its say.
const ewmaDecay = 10e9

// ewmaPenalty is what a failure counts as, and an answer that is still awaited
// of a target of which nothing else is known.
const ewmaPenalty = 1e9

// ewmaCost is the latency expected of the target, times the requests that
// would share it. What is known grows old, so that a target that was slow is
// tried again. One of which nothing is known is cheapest, for one request:
// until that is answered, the others keep the traffic.
func (t *Target) ewmaCost(now int64) float64 {
	v, active := math.Float64frombits(t.ewma.Load()), t.active.Load()
	if since := now - t.ewmaAt.Load(); since > ewmaDecay/100 {
		v *= math.Exp(-float64(since) / ewmaDecay)
	}
	if v < 1 && active > 0 {
		v = ewmaPenalty
	}
	return v * float64(active+1)
}

// observe takes in the latency of an answer. A latency above the average
// counts at once, one below it only slowly, so that a target that stalls is
// felt before it has stalled a thousand requests (Finagle's peak EWMA). Two
// answers at the same moment may lose one observation, which is no harm.
func (t *Target) observe(latency, now int64) {
	old := math.Float64frombits(t.ewma.Load())
	since := now - t.ewmaAt.Swap(now)
	v := float64(latency)
	if v < old {
		w := math.Exp(-float64(since) / ewmaDecay)
		v = old*w + v*(1-w)
	}
	t.ewma.Store(math.Float64bits(v))
}

// ring is a consistent hash ring: each target stands at many places of a
// circle, and a key goes to the first target at or after its own place. When a
// target is not usable only its own keys move.
type ring struct {
	places []uint64
	target []uint16
}

const ringPlaces = 160 // for a target of weight 1

func newRing(targets []*Target, weights []int) *ring {
	div := 0
	for _, w := range weights {
		div = gcd(div, w)
	}
	sum := 0
	for _, w := range weights {
		sum += w / div
	}
	per := ringPlaces
	if sum*per > 1<<17 {
		per = max(1, 1<<17/sum)
	}
	r := &ring{}
	type place struct {
		at uint64
		of int
	}
	var all []place
	for i, t := range targets {
		for n := range per * (weights[i] / div) {
			all = append(all, place{xxhash.Sum64String(t.URL + "#" + strconv.Itoa(n)), i})
		}
	}
	sort.Slice(all, func(a, b int) bool { return all[a].at < all[b].at })
	for _, p := range all {
		r.places = append(r.places, p.at)
		r.target = append(r.target, uint16(p.of))
	}
	return r
}

func (r *ring) pick(key uint64, c candidates) int {
	n := len(r.places)
	start := sort.Search(n, func(i int) bool { return r.places[i] >= key })
	for i := range n {
		if t := int(r.target[(start+i)%n]); c.usable(t) {
			return t
		}
	}
	return -1
}
