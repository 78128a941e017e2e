package limiter

import (
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"
)

// Kind is what a Limit counts.
type Kind uint8

// The kinds.
const (
	ByRate        Kind = iota // requests in time, evenly: ask Allow
	ByConcurrency             // requests at work at one time: ask Enter
	ByQuota                   // requests in a window of the calendar: ask Allow
)

// String is why a limit of the kind refuses, for the log.
func (k Kind) String() string {
	return [...]string{"rate-limited", "concurrency-limited", "quota-exhausted"}[k]
}

// Limit is one limit with the budgets of its keys. All methods but Start and
// Stop are safe for many goroutines; none of these blocks, locks or allocates,
// save that the first request after a quota's window has ended makes the table
// of the next. Make it with New.
type Limit struct {
	cfg    Config
	kind   Kind
	key    []Part
	skips  bool // missing
	closed bool // on_full
	rate   Rate // the limit's own
	burst  int64
	room   int64 // burst in units
	head   header
	counts *counts

	own, fastest *Plan
	plans        map[string]*Plan
	met          [256]atomic.Pointer[metPlan]
	planClaims   []string

	// By kind, one of:
	clock    Rate // table counts in 512ths of its requests
	table    *table
	inFlight *inFlight
	quota    *quota
	saver    *saver // between Start and Stop, with a file
}

// Decision is what a Limit says of one request. Times are in nanoseconds from
// the now it was asked with.
type Decision struct {
	OK         bool
	DryRun     bool  // OK only because the limit just counts
	Remaining  int64 // requests of cost 1 that could follow at once; 0 to the burst, quota or number in flight
	Reset      int64 // until the key's whole budget is there again, if it makes no request; 0 by concurrency
	RetryAfter int64 // until the same request would pass, at least 1; 0 when OK without DryRun
	Limit      int64 // the quota that RateLimit-Policy names, never below Remaining

	plan *Plan // nil is the limit's own
}

// New returns the limit of this name, which clients are told. cfg must have
// passed Validate. The counts of old, which may be nil, go on in it, and so do
// the budgets unless kind, key, keys, ipv6_prefix or what time is counted in
// differ (the fastest rate; a quota's window and timezone): they would mean
// something else. old may still be in use, and stay so. New allocates all
// memory that the limit will use, save what the next window of a quota takes
// in turn: 16 bytes a key, 16,000,000 bytes for a million, with a quota twice
// that.
func New(name string, cfg Config, old *Limit) *Limit {
	own, ok := cfg.own()
	key, err := ParseKey(cfg.Key)
	if !ok || err != nil {
		panic("BUG: limiter: a config that was not validated: " + cfg.String() + " for each " + cfg.Key)
	}
	l := &Limit{cfg: cfg, kind: cfg.kind(), key: key, skips: cfg.Missing == "skip", closed: cfg.OnFull == "closed", rate: own.rate}
	l.setPlans(name, own)
	l.burst, l.room = l.own.most, l.own.room()
	l.head = newHeader(name, *l.own)
	if old != nil {
		l.counts = old.counts
	}
	if l.counts == nil {
		l.counts = new(counts)
	}
	same := old != nil && old.kind == l.kind && old.cfg.Key == cfg.Key && old.cfg.Keys == cfg.Keys && old.cfg.IPv6Prefix == cfg.IPv6Prefix
	keys := max(cfg.Keys, 1024)
	switch l.kind {
	case ByRate:
		if same && old.clock == l.clock {
			l.table = old.table
		} else {
			l.table = newTable(keys)
		}
	case ByConcurrency:
		if same {
			l.inFlight = old.inFlight
		} else {
			l.inFlight = newInFlight(keys)
		}
	case ByQuota:
		if same && old.own.period == own.period && old.cfg.Timezone == cfg.Timezone {
			l.quota = old.quota
			l.quota.settle()
		} else {
			l.quota = newQuota(keys, own.period, cfg.Timezone)
		}
	}
	return l
}

// setPlans compiles the plans of l.cfg.
func (l *Limit) setPlans(name string, own Plan) {
	fastest := own
	parse := func(s string) Plan {
		p, ok := own.parse(s)
		if !ok {
			panic("BUG: limiter: a config that was not validated: plan " + s)
		}
		if p.over(fastest) {
			fastest = p
		}
		return p
	}
	for _, text := range l.cfg.Plans {
		parse(text)
	}
	if l.cfg.PlanMax != "" {
		parse(l.cfg.PlanMax)
	}
	l.clock = fastest.rate
	ready := func(p Plan) *Plan {
		p = l.ready(p)
		return &p
	}
	l.own, l.fastest = ready(own), ready(fastest)
	l.plans = make(map[string]*Plan, len(l.cfg.Plans))
	for name, text := range l.cfg.Plans {
		l.plans[name] = ready(parse(text))
	}
	l.planClaims = []string{"limits." + name}
	if path, ok := strings.CutPrefix(l.cfg.PlanBy, "claim:"); ok {
		l.planClaims = append(l.planClaims, path)
	}
}

// Config returns what l was made with. Its map must not be changed.
func (l *Limit) Config() Config { return l.cfg }

// Kind is what l counts.
func (l *Limit) Kind() Kind { return l.kind }

// Cost is what one request takes from the budget.
func (l *Limit) Cost() int64 { return int64(l.cfg.Cost) }

// Allow is AllowPlan with the limit's own plan.
func (l *Limit) Allow(key uint64, cost, now int64) Decision {
	return l.AllowPlan(key, l.own, cost, now)
}

// AllowPlan asks whether key (see Key) may make a request of this cost under
// the plan at the time now, in the unit of wire.Nanotime, and if so charges its
// budget; what is refused costs nothing. A cost of 0 or less only looks. A cost
// above the burst or the quota never passes. Calls need not come in the order of
// their now: each counts as made when it is carried out, and one whose now is
// old by then may be refused for the time between, never admitted for it. A
// limit by concurrency is asked with Enter.
func (l *Limit) AllowPlan(key uint64, plan *Plan, cost, now int64) (d Decision) {
	if plan == nil {
		plan = l.own
	}
	switch l.kind {
	case ByQuota:
		return l.allowQuota(key, plan, cost, now)
	case ByConcurrency:
		panic("BUG: limiter: Allow of a limit by concurrency")
	}
	room := plan.room()
	units := min(max(cost, 0), plan.most+1) * plan.units
	s := l.table.charge(key, l.clock.units(now), units, room)
	d.OK, d.Limit, d.plan = s.verdict == taken, max(plan.most, plan.rate.Count), plan
	switch {
	case s.verdict != full:
		d.Remaining = max(room-s.debt, 0) / plan.units
		if s.debt > 0 {
			d.Reset = max(l.clock.nanoseconds(s.from+uint64(s.debt))-now, 0)
		}
		if s.verdict == refused {
			d.RetryAfter = max(l.clock.nanoseconds(s.from+uint64(s.debt+units-room))-now, 1)
		}
	case l.closed:
		d.Reset = max(l.clock.nanoseconds(s.from+uint64(s.debt))-now, 1)
		d.RetryAfter = d.Reset
	default:
		d.OK, d.Remaining = true, (room-units)/plan.units
	}
	d.OK, d.DryRun = l.count(d.OK, s.verdict == full)
	return d
}

// count counts a decision and turns a refusal of a limit that only counts
// around.
func (l *Limit) count(ok, full bool) (pass, dryRun bool) {
	c := l.counts.mine()
	if full {
		c.full.Add(1)
	}
	switch {
	case ok:
		c.allowed.Add(1)
		return true, false
	case l.cfg.DryRun:
		c.dryRun.Add(1)
		return true, true
	}
	c.refused.Add(1)
	return false, false
}

// Refund gives back what a call of AllowPlan with the same key, plan and cost
// has taken: for a request that another limit then refused. What the key no
// longer owes is not given back, so that nobody gains more than the burst or
// the quota by it. The decision stays counted. Only what was OK and not DryRun
// has taken anything; callers give back nothing else.
func (l *Limit) Refund(key uint64, plan *Plan, cost, now int64) {
	if cost <= 0 || l.kind == ByConcurrency {
		return
	}
	if l.kind == ByQuota {
		l.quota.refund(key, cost, now)
		return
	}
	if plan == nil {
		plan = l.own
	}
	l.table.refund(key, l.clock.units(now), min(cost, plan.most)*plan.units)
}

// Pause is the whole seconds, at least one, after which a budget that is used up
// lets one request pass.
func (l *Limit) Pause() int {
	return int(max(wholeSeconds(l.own.rate.nanoseconds(unitsPerRequest)), 1))
}

// NeedsIdentity tells whether the limit can only be asked once it is known who
// calls.
func (l *Limit) NeedsIdentity() bool {
	return l.cfg.PlanBy != "" || slices.ContainsFunc(l.key, Part.NeedsIdentity)
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
	Allowed     uint64
	Refused     uint64
	DryRun      uint64 // would have been refused
	Full        uint64 // made without a budget, as the table had no room
	UnknownPlan uint64 // claims that named no plan: the limit's own was used
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
		s.UnknownPlan += c.unknown.Load()
	}
	return s
}

// counts are spread over cache lines by goroutine: on one line, or by key,
// they would cost two cores that ask for the same key more than the decision.
type counts [16]countLine

type countLine struct {
	allowed, refused, dryRun, full, unknown atomic.Uint64
	_                                       [88]byte // two lines: processors fetch them in pairs
}

// mine returns the caller's line. Goroutines are told apart by where their
// stacks lie, which is enough: any line is right, another is only faster.
func (c *counts) mine() *countLine {
	var here byte
	return &c[uint32(uintptr(unsafe.Pointer(&here))>>11)*0x9e3779b1>>28]
}
