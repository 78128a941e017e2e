package pool

import (
	"math"
	"sync"
	"sync/atomic"

	"sluice/setting"
)

// AdaptiveConfig describes a limit of requests in flight that finds itself:
// it shrinks while answers take longer than they do at rest, and grows while
// they do not.
type AdaptiveConfig struct {
	Initial   int              `yaml:"initial" default:"50" min:"1" max:"1000000" doc:"The limit to begin with."`
	Min       int              `yaml:"min" default:"5" min:"1" max:"1000000" doc:"It never goes below."`
	Max       int              `yaml:"max" default:"1000" min:"1" max:"1000000" doc:"It never goes above."`
	Tolerance float64          `yaml:"tolerance" default:"1.5" min:"1" max:"10" doc:"How many times longer than at rest an answer may take before the limit shrinks."`
	Window    setting.Duration `yaml:"window" default:"200ms" min:"10ms" max:"10s" doc:"How often the limit is worked out anew."`
}

// Validate reports what the tags cannot say.
func (c *AdaptiveConfig) Validate(p *setting.Problems) {
	if c.Min > c.Max {
		p.Add("min", "expected at most max, which is %d, got %d", c.Max, c.Min)
	} else if c.Initial < c.Min || c.Initial > c.Max {
		p.Add("initial", "expected a number from min to max, %d to %d, got %d", c.Min, c.Max, c.Initial)
	}
}

// adaptive is a concurrency limit by the gradient of latency (as in Netflix's
// concurrency-limits, Gradient2): in steps of a fifth the limit follows
//
//	limit * clamp(tolerance * rest / recent, 0.5, 1) + sqrt(limit)
//
// where rest is the answer time of the upstream when it is not crowded and
// recent the one of the last window. The square root is the queue that is
// allowed, so that a limit at rest still grows. With a server that works at C
// requests at a time it settles near tolerance * C.
//
// Gradient2 takes a long average for rest, which a lasting overload slowly
// becomes, and one that was there from the first request is. So rest rises
// here only while the limit does not press; while it does, it is measured now
// and then as Envoy does it: for a moment the limit is halved, and the answer
// time seen then is what rest is. A crowded upstream becomes faster by that,
// and is looked at again soon; one that has just become slow does not, and is
// granted its slowness.
//
// enter and leave are lock-free and never allocate. Whoever first sees that a
// window is over works out the next limit, under mu. A nil adaptive has room
// for everyone.
type adaptive struct {
	cfg      AdaptiveConfig
	limit    atomic.Uint64 // float64; half of found during a look
	longest  atomic.Int64  // ns; a longer answer counts as this long
	since    atomic.Int64  // answers to requests from before do not count
	sum      atomic.Int64  // ns in this window
	count    atomic.Int64
	peak     atomic.Int64 // in flight in this window
	ends     atomic.Int64 // of the window
	inFlight atomic.Int64
	shed     atomic.Uint64

	mu      sync.Mutex // guards what follows
	found   float64    // the limit apart from looks
	rest    float64    // ns
	looking bool
	before  float64 // ns, the answer time when the look began
	doubt   int     // a look begins when it reaches adaptiveLook
}

const (
	// adaptiveFew is the number of answers below which a window says nothing
	// and goes on.
	adaptiveFew = 10
	// adaptiveLook is how many windows under pressure are between looks;
	// adaptiveFar makes them a few when the limit is far from where it goes, or
	// the look before has found something new.
	adaptiveLook = 150
	adaptiveFar  = 30
	// adaptiveWindow bounds how far long answers make a window longer, in ns.
	adaptiveWindow = int64(10e9)
)

func newAdaptive(cfg *AdaptiveConfig) *adaptive {
	if cfg == nil {
		return nil
	}
	a := &adaptive{cfg: *cfg, doubt: adaptiveLook}
	a.found = a.clamp(float64(cfg.Initial))
	a.limit.Store(math.Float64bits(a.found))
	a.longest.Store(math.MaxInt64)
	return a
}

// enter asks for a place for a request that may use a share of the limit: the
// lower its priority, the smaller. One request may always be in flight. leave
// must follow if it agreed.
func (a *adaptive) enter(share float64) bool {
	if a == nil {
		return true
	}
	most := max(1, math.Float64frombits(a.limit.Load())*share)
	n := a.inFlight.Load()
	for {
		if float64(n+1) > most {
			a.shed.Add(1)
			return false
		}
		if a.inFlight.CompareAndSwap(n, n+1) {
			break
		}
		n = a.inFlight.Load()
	}
	for p := a.peak.Load(); n+1 > p && !a.peak.CompareAndSwap(p, n+1); {
		p = a.peak.Load()
	}
	return true
}

// leave gives the place back. took is the time to the answer in nanoseconds, 0
// when it says nothing about the upstream; a request that timed out says as
// much as one that was answered then.
func (a *adaptive) leave(took, now int64) {
	if a == nil {
		return
	}
	a.inFlight.Add(-1)
	if took > 0 && now-took >= a.since.Load() {
		// A few answers that hang must not look like a crowd of slow ones.
		a.sum.Add(min(took, a.longest.Load()))
		a.count.Add(1)
	}
	if now >= a.ends.Load() && a.count.Load() >= adaptiveFew && a.mu.TryLock() {
		if now >= a.ends.Load() {
			recent := a.update(now)
			// A window shorter than an answer takes would see nothing of what
			// the limit did in it.
			a.ends.Store(now + max(int64(a.cfg.Window), min(2*recent, adaptiveWindow)))
		}
		a.mu.Unlock()
	}
}

// now is the limit of the moment.
func (a *adaptive) now() float64 { return math.Float64frombits(a.limit.Load()) }

// update ends a window and returns its mean answer time in nanoseconds.
func (a *adaptive) update(now int64) int64 {
	n, sum, peak := a.count.Swap(0), a.sum.Swap(0), a.peak.Swap(a.inFlight.Load())
	recent := float64(sum) / float64(max(n, 1))
	if a.looking {
		a.look(recent)
	} else {
		a.follow(recent, peak, now)
	}
	a.longest.Store(int64(min(8*a.cfg.Tolerance*a.rest, math.MaxInt64/4)))
	return int64(recent)
}

// follow moves the limit towards what the gradient says.
func (a *adaptive) follow(recent float64, peak, now int64) {
	pressing := float64(peak) >= a.found/2
	switch {
	case a.rest == 0:
		a.rest = recent
	case recent < a.rest:
		a.rest += (recent - a.rest) / 4
	case !pressing:
		a.rest += (recent - a.rest) / 20
	}
	gradient := max(0.5, min(1, a.cfg.Tolerance*a.rest/recent))
	next := a.found*gradient + math.Sqrt(a.found)
	if next < a.found || pressing {
		a.found = a.clamp(a.found + (next-a.found)*0.2)
	}
	a.limit.Store(math.Float64bits(a.found))
	// Only a limit that turns requests away, or nearly so, is in doubt.
	if float64(peak) < a.found*0.9-1 || a.found < 2 {
		return
	}
	if gradient <= 0.75 {
		a.doubt += adaptiveFar
	}
	if a.doubt++; a.doubt >= adaptiveLook {
		a.looking, a.before = true, recent
		a.since.Store(now)
		a.limit.Store(math.Float64bits(a.found / 2))
	}
}

// look compares the answer time of what was let in under half the limit with
// the one before.
func (a *adaptive) look(recent float64) {
	rest := recent
	if recent < 0.8*a.before {
		rest = min(a.rest, recent)
	}
	a.doubt = 0
	if math.Abs(rest-a.rest) > 0.2*a.rest {
		a.doubt = adaptiveLook - adaptiveLook/adaptiveFar
	}
	if recent < 0.55*a.before {
		// Half the limit, half the time: as many were answered, and half of
		// the limit was but a queue.
		a.found = a.clamp(a.found / 2)
		a.doubt = adaptiveLook - adaptiveLook/adaptiveFar
	}
	a.rest, a.looking = rest, false
	a.limit.Store(math.Float64bits(a.found))
}

func (a *adaptive) clamp(limit float64) float64 {
	return max(float64(a.cfg.Min), min(float64(a.cfg.Max), limit))
}
