package limiter

import (
	"strconv"
	"time"
)

// Plan is how much one key may have: the limit's own rate, quota or number in
// flight, or another that comes with the key. It never changes. Where a *Plan is
// asked for, nil is the limit's own.
//
// All plans of a limit share one table, whose time is counted in 512ths of a
// request at the limit's fastest rate (of its own, its plans and plan_max). A
// request of a slower plan takes proportionally more of them, rounded up to a
// whole one. So a plan admits never more than its rate, and less by one part in
// 512 at most; the fastest, and every rate that divides it, exactly. What a key
// owes is a time, and stays owed when its plan changes.
type Plan struct {
	rate   Rate  // zero unless the limit is one by rate
	most   int64 // the burst, the quota or the number in flight, in requests
	units  int64 // that one request takes, by rate
	period period
}

// parse reads a plan of the same kind as p: a rate, a quota over the same
// window, or a number in flight. It does not allocate.
func (p Plan) parse(s string) (Plan, bool) {
	switch {
	case p.rate != (Rate{}):
		r, ok := parseRate(s)
		return Plan{rate: r}, ok
	case p.period != 0:
		q, ok := parseQuota(s)
		return q, ok && q.period == p.period
	}
	n, ok := parseCount(s)
	return Plan{most: n}, ok && n <= mostInFlight
}

// want is what parse expects, in a message.
func (p Plan) want() string {
	switch {
	case p.rate != (Rate{}):
		return rateWant
	case p.period != 0:
		return "a quota over the window of the limit's own, such as " + p.text()
	}
	return "a number of requests in flight from 1 to 1000000"
}

func (p Plan) text() string {
	switch {
	case p.rate != (Rate{}):
		return p.rate.String()
	case p.period != 0:
		return countText(p.most) + "/" + p.period.String()
	}
	return countText(p.most)
}

func countText(n int64) string { return strconv.FormatInt(n, 10) }

// over tells whether p allows more than q, a plan of the same kind.
func (p Plan) over(q Plan) bool {
	if p.rate != (Rate{}) {
		return p.rate.faster(q.rate)
	}
	return p.most > q.most
}

// own is the limit's own plan as it is written.
func (c *Config) own() (Plan, bool) {
	switch c.kind() {
	case ByQuota:
		return parseQuota(c.Quota)
	case ByConcurrency:
		return Plan{most: int64(c.Concurrent)}, true
	}
	r, ok := parseRate(c.Rate)
	return Plan{rate: r}, ok
}

// burst is how many requests p, a plan by rate, lets through at once: a second's
// worth, or as long as the burst that is written for the rate own lasts. It is
// at least 1.
func (p Plan) burst(written int, own Rate) int64 {
	if written <= 0 {
		return min(p.rate.perSecond(), mostBurst)
	}
	if p.rate == own {
		return min(int64(written), mostBurst)
	}
	requests := min(int64(written), int64(longestRefill/own.Per)*own.Count)
	ns := own.nanoseconds(uint64(requests) * unitsPerRequest)
	return min(max(int64(p.rate.units(ns)/unitsPerRequest), 1), mostBurst)
}

// ready makes p, as it was parsed, a plan of l.
func (l *Limit) ready(p Plan) Plan {
	if p.rate == (Rate{}) {
		return p
	}
	// Validate refuses a named plan too slow for the table; one out of a claim
	// is as slow as the table can count.
	p.units = min(p.rate.unitsAt(l.clock), mostRoom)
	p.most = p.burst(l.cfg.Burst, l.rate)
	if p.most < int64(l.cfg.Cost) && int64(l.cfg.Cost) <= int64(longestRefill/p.rate.Per)*p.rate.Count {
		p.most = int64(l.cfg.Cost) // else no request would ever pass
	}
	p.most = max(min(p.most, mostRoom/p.units), 1)
	return p
}

// room is the burst in units.
func (p Plan) room() int64 { return p.most * p.units }

// PlanClaims are the paths of the claims that may tell a request's plan; the
// text of the first that is there goes to Plan. "limits.NAME" comes first, NAME
// being the limit's: what an API key's own limits arrive as.
func (l *Limit) PlanClaims() []string { return l.planClaims }

// Plan is the plan that a claim's text tells: the one of this name, or else a
// rate, quota or number itself, of which no more than plan_max is granted. Any
// other text is the limit's own plan, and counted (Stats.UnknownPlan). It never
// blocks, and allocates only for a rate, quota or number that it has not met
// before, or not lately: 256 of them are remembered.
func (l *Limit) Plan(text string) *Plan {
	if p, ok := l.plans[text]; ok {
		return p
	}
	p, ok := l.own.parse(text)
	if !ok {
		l.counts.mine().unknown.Add(1)
		return l.own
	}
	if p.over(*l.fastest) {
		return l.fastest
	}
	slot := &l.met[uint32(p.most^p.rate.Count^int64(p.rate.Per)>>20)*0x9e3779b1>>24]
	if met := slot.Load(); met != nil && met.most == p.most && met.rate == p.rate {
		return &met.ready
	}
	met := &metPlan{p, l.ready(p)}
	slot.Store(met)
	return &met.ready
}

// metPlan is a plan that came with a key: as it was parsed, and as it is used.
type metPlan struct {
	Plan
	ready Plan
}

// PlanOf is the plan of a request of c, by the claims that it has.
func (l *Limit) PlanOf(c Caller) *Plan {
	for _, path := range l.planClaims {
		if text, ok := c.Claim(path); ok {
			return l.Plan(text)
		}
	}
	return l.own
}

// Rate is the rate of a plan of a limit by rate, else zero.
func (p Plan) Rate() Rate { return p.rate }

// Most is the burst of a plan by rate, the quota or the number in flight.
func (p Plan) Most() int64 { return p.most }

// window is the quota that is told of a plan by rate, and over how many
// seconds: the rate as it is written, or the burst and the time that it lasts
// when that is more, so that nobody has more left than the quota.
func (p Plan) window() (quota, seconds int64) {
	if p.most > p.rate.Count {
		return p.most, wholeSeconds(p.rate.nanoseconds(uint64(p.most) * unitsPerRequest))
	}
	return p.rate.Count, int64(p.rate.Per / time.Second)
}
