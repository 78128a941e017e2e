package pool

import (
	"sync/atomic"

	"sluice/setting"
)

// BreakerConfig describes a circuit breaker: it opens when too large a share
// of the answers in a window of time are failures, or too slow, and closes
// again after a few probes have gone well.
type BreakerConfig struct {
	ErrorRate   setting.Percent  `yaml:"error_rate" default:"50%" doc:"The share of failed requests that opens it. 0 ignores failures."`
	SlowRate    setting.Percent  `yaml:"slow_rate" default:"0%" doc:"The share of slow requests that opens it. 0 ignores slowness."`
	Slow        setting.Duration `yaml:"slow" default:"1s" min:"1ms" max:"1h" doc:"From when on an answer counts as slow."`
	Window      setting.Duration `yaml:"window" default:"10s" min:"100ms" max:"10m" doc:"The time that is looked back on."`
	MinRequests int              `yaml:"min_requests" default:"20" min:"1" max:"1000000" doc:"Below this many requests in the window it does not open."`
	Open        setting.Duration `yaml:"open" default:"5s" min:"10ms" max:"1h" doc:"How long it stays open before it lets probes through."`
	Probes      int              `yaml:"probes" default:"3" min:"1" max:"1000" doc:"Requests let through in half-open; when all go well it closes, at the first failure it opens again."`
}

// breaker is a circuit breaker over a sliding window of time. It takes the
// time as an argument, does no IO, holds no lock and may be used by any number
// of goroutines; only a change of state allocates. Use is in two steps: allow
// before a request, and when it agreed exactly one report after it. A nil
// breaker is always closed.
//
// Each stretch of one state is a spell of its own with its own counters, and a
// ticket belongs to the spell that gave it: what is reported after that spell
// is over changes nothing. So a request that hung since before the breaker
// opened cannot fail a probe, nor open it again once it has closed.
type breaker struct {
	cfg     BreakerConfig
	spell   atomic.Pointer[spell]
	opened  atomic.Uint64
	refused atomic.Uint64
}

// spell is a stretch of time closed, or open and then half-open.
type spell struct {
	until   int64        // when open becomes half-open; 0 when closed
	probing atomic.Int64 // probes let through
	passed  atomic.Int64 // probes gone well
	slices  [breakerSlices]breakerSlice
}

const breakerSlices = 10

// breakerSlice counts what ended in one tenth of the window.
type breakerSlice struct {
	of                  atomic.Int64 // which tenth, since the start of time
	total, failed, slow atomic.Uint32
}

// sliceEmptied stands in of while a slice is being emptied.
const sliceEmptied = -1

func newBreaker(cfg *BreakerConfig) *breaker {
	if cfg == nil {
		return nil
	}
	b := &breaker{cfg: *cfg}
	b.spell.Store(&spell{})
	return b
}

// ticket is what allow gives: the leave to send one request.
type ticket struct{ of *spell }

var (
	ticketRefused ticket
	// alwaysClosed is the spell of a breaker that is not there.
	alwaysClosed spell
)

// refused tells whether there is no leave.
func (t ticket) refused() bool { return t.of == nil }

// probe tells whether the request decides if the breaker closes.
func (t ticket) probe() bool { return t.of != nil && t.of.until != 0 }

// allow asks whether a request may go through at the time now.
func (b *breaker) allow(now int64) ticket {
	if b == nil {
		return ticket{&alwaysClosed}
	}
	s := b.spell.Load()
	if s.until == 0 {
		return ticket{s}
	}
	if now >= s.until {
		// One more set of probes for each further time that open lasts: else
		// probes that hang, or are never reported, would keep it from closing.
		most := int64(b.cfg.Probes) * (1 + (now-s.until)/int64(b.cfg.Open))
		for n := s.probing.Load(); n < most; n = s.probing.Load() {
			if s.probing.CompareAndSwap(n, n+1) {
				return ticket{s}
			}
		}
	}
	b.refused.Add(1)
	return ticketRefused
}

// breakerResult is the verdict of a request for the breaker.
type breakerResult uint8

const (
	resultGood breakerResult = iota
	resultFailed
	resultUnknown // given up by the client, say: it tells nothing of the target
)

// report tells how a request that was allowed ended; took is its time to the
// answer's head in nanoseconds.
func (b *breaker) report(t ticket, r breakerResult, took, now int64) {
	if b == nil || t.of == nil || t.of != b.spell.Load() {
		return
	}
	s := t.of
	if r == resultUnknown {
		if t.probe() {
			s.probing.Add(-1)
		}
		return
	}
	failed := r == resultFailed
	slow := b.cfg.SlowRate > 0 && took >= int64(b.cfg.Slow)
	if t.probe() {
		switch {
		case failed && b.cfg.ErrorRate > 0 || slow:
			b.open(s, now)
		case s.passed.Add(1) == int64(b.cfg.Probes):
			b.spell.CompareAndSwap(s, &spell{})
		}
		return
	}
	c := b.slice(s, now)
	if c == nil {
		return
	}
	c.total.Add(1)
	if failed {
		c.failed.Add(1)
	}
	if slow {
		c.slow.Add(1)
	}
	// Only a bad answer opens it, even where a good one makes the number of
	// requests large enough: looking back is left off the good path.
	if (failed || slow) && b.tooBad(s, now) {
		b.open(s, now)
	}
}

// open opens the breaker if its spell is still from.
func (b *breaker) open(from *spell, now int64) {
	if b.spell.CompareAndSwap(from, &spell{until: max(now+int64(b.cfg.Open), 1)}) {
		b.opened.Add(1)
	}
}

// slice is the counter for the time now, emptied if it was last used for a
// time gone by. While one goroutine empties it the others get nil and what
// they would have counted is lost, as it is for a now that lies a whole window
// behind: a few requests of a tenth of a window that has just begun.
func (b *breaker) slice(s *spell, now int64) *breakerSlice {
	at := now / (int64(b.cfg.Window) / breakerSlices)
	c := &s.slices[at%breakerSlices]
	of := c.of.Load()
	if of == at {
		return c
	}
	if of > at || of == sliceEmptied || !c.of.CompareAndSwap(of, sliceEmptied) {
		return nil
	}
	c.total.Store(0)
	c.failed.Store(0)
	c.slow.Store(0)
	c.of.Store(at)
	return c
}

// tooBad looks back over the window.
func (b *breaker) tooBad(s *spell, now int64) bool {
	at := now / (int64(b.cfg.Window) / breakerSlices)
	var total, failed, slow uint64
	for i := range s.slices {
		c := &s.slices[i]
		if of := c.of.Load(); of != sliceEmptied && at-of < breakerSlices {
			total += uint64(c.total.Load())
			failed += uint64(c.failed.Load())
			slow += uint64(c.slow.Load())
		}
	}
	if total < uint64(b.cfg.MinRequests) {
		return false
	}
	return reaches(failed, total, b.cfg.ErrorRate) || reaches(slow, total, b.cfg.SlowRate)
}

// reaches tells whether n of total is at least the share most, which 0 switches
// off. 7 of 100 reach 7 %, though 0.07*100 is a little more than 7.
func reaches(n, total uint64, most setting.Percent) bool {
	return most > 0 && float64(n) >= float64(most)*float64(total)-1e-9
}

// condition is the breaker's state in a word.
func (b *breaker) condition(now int64) string {
	if b == nil {
		return "closed"
	}
	switch s := b.spell.Load(); {
	case s.until == 0:
		return "closed"
	case now < s.until:
		return "open"
	}
	return "half-open"
}
