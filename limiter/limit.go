package limiter

import (
	"sync/atomic"
	"unsafe"
)

// Limit is one limit with the budgets of its keys. All methods are safe for
// many goroutines; none blocks, locks or allocates. Make it with New; it has
// no end of its own, for it holds nothing but memory.
type Limit struct {
	cfg    Config
	rate   Rate
	burst  int64 // requests
	room   int64 // burst in units
	closed bool  // on_full
	head   header
	table  *table
	counts *counts
}

// Decision is what a Limit says of one request. Times are in nanoseconds from
// the now it was asked with.
type Decision struct {
	OK         bool
	DryRun     bool  // OK only because the limit just counts
	Remaining  int64 // requests of cost 1 that could follow at once; 0 to the burst
	Reset      int64 // until the key's whole burst is there again, if it makes no request
	RetryAfter int64 // until the same request would pass, at least 1; 0 when OK without DryRun
	Limit      int64 // the quota that RateLimit-Policy names, never below Remaining
}

// New returns the limit of this name, which clients are told. cfg must have
// passed Validate. The counts of old, which may be nil, go on in it, and so do
// the budgets unless rate, key, keys or ipv6_prefix differ: they would mean
// something else. old may still be in use, and stay so. New allocates all
// memory that the limit will ever use: 16 bytes a key, 16,000,000 bytes for a
// million.
func New(name string, cfg Config, old *Limit) *Limit {
	rate, err := ParseRate(cfg.Rate)
	if err != nil {
		panic("BUG: limiter: a config that was not validated: rate: " + err.Error())
	}
	l := &Limit{cfg: cfg, rate: rate, burst: min(cfg.burst(rate), mostBurst), closed: cfg.OnFull == "closed"}
	l.room = l.burst * unitsPerRequest
	l.head = newHeader(name, rate, l.burst)
	if old != nil {
		l.counts = old.counts
		if old.rate == rate && old.cfg.Key == cfg.Key && old.cfg.Keys == cfg.Keys && old.cfg.IPv6Prefix == cfg.IPv6Prefix {
			l.table = old.table
		}
	}
	if l.counts == nil {
		l.counts = new(counts)
	}
	if l.table == nil {
		l.table = newTable(max(cfg.Keys, 1024))
	}
	return l
}

// Config returns what l was made with.
func (l *Limit) Config() Config { return l.cfg }

// Allow asks whether key (see Hasher) may make a request of this cost at the
// time now, in the unit of wire.Nanotime, and if so charges its budget; what
// is refused costs nothing. A cost of 0 or less only looks. A cost above the
// burst never passes. Calls need not come in the order of their now: each
// counts as made when it is carried out, and one whose now is old by then may
// be refused for the time between, never admitted for it.
func (l *Limit) Allow(key uint64, cost, now int64) Decision {
	units := min(max(cost, 0), l.burst+1) * unitsPerRequest
	s := l.table.charge(key, l.rate.units(now), units, l.room)
	d := Decision{OK: s.verdict == taken, Limit: l.head.quota}
	c := l.counts.mine()
	switch {
	case s.verdict != full:
		d.Remaining = max(l.room-s.debt, 0) / unitsPerRequest
		if s.debt > 0 {
			d.Reset = max(l.rate.nanoseconds(s.from+uint64(s.debt))-now, 0)
		}
		if s.verdict == refused {
			d.RetryAfter = max(l.rate.nanoseconds(s.from+uint64(s.debt+units-l.room))-now, 1)
		}
	case l.closed:
		c.full.Add(1)
		d.Reset = max(l.rate.nanoseconds(s.from+uint64(s.debt))-now, 1)
		d.RetryAfter = d.Reset
	default:
		c.full.Add(1)
		d.OK, d.Remaining = true, (l.room-units)/unitsPerRequest
	}
	switch {
	case d.OK:
		c.allowed.Add(1)
	case l.cfg.DryRun:
		d.OK, d.DryRun = true, true
		c.dryRun.Add(1)
	default:
		c.refused.Add(1)
	}
	return d
}

// Tighter tells whether d binds a client more than e, the decision of another
// limit on the same request: of several, clients are told of the tightest.
func (d Decision) Tighter(e Decision) bool {
	if d.OK != e.OK {
		return e.OK
	}
	if d.RetryAfter != e.RetryAfter {
		return d.RetryAfter > e.RetryAfter
	}
	return d.Remaining < e.Remaining
}

// Stats counts decisions since the limit was first made. Allowed, Refused and
// DryRun add up to all of them.
type Stats struct {
	Allowed uint64
	Refused uint64
	DryRun  uint64 // would have been refused
	Full    uint64 // made without a budget, as the table had no room
}

// Stats returns the counts. It reads 2 KiB.
func (l *Limit) Stats() Stats {
	var s Stats
	for i := range l.counts {
		c := &l.counts[i]
		s.Allowed += c.allowed.Load()
		s.Refused += c.refused.Load()
		s.DryRun += c.dryRun.Load()
		s.Full += c.full.Load()
	}
	return s
}

// counts are spread over cache lines by goroutine: on one line, or by key,
// they would cost two cores that ask for the same key more than the decision.
type counts [16]countLine

type countLine struct {
	allowed, refused, dryRun, full atomic.Uint64
	_                              [96]byte // two lines: processors fetch them in pairs
}

// mine returns the caller's line. Goroutines are told apart by where their
// stacks lie, which is enough: any line is right, another is only faster.
func (c *counts) mine() *countLine {
	var here byte
	return &c[uint32(uintptr(unsafe.Pointer(&here))>>11)*0x9e3779b1>>28]
}
