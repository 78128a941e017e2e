package limiter

import (
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A quota counts requests in windows of the calendar: hours, days, weeks from
// Monday, months. Data flows from allowQuota to the window's table and, if there
// is a file, from there to the disk (quota_file.go); a request never waits for
// that.
//
// Invariants: a key's count never passes its quota, whichever goroutines charge
// it; a window follows only an earlier one; a key keeps its slot until the window
// ends, and then the whole table is left to the collector at once, so that no
// slot ever changes its key.

// period is the length of a window.
type period uint8

const (
	hourly period = iota + 1
	daily
	weekly
	monthly
)

var periods = [...]string{hourly: "hour", daily: "day", weekly: "week", monthly: "month"}

func (p period) String() string { return periods[p] }

const quotaWant = "a quota such as 1000/hour, 50000/day, 200000/week or 1000000/month, at most 1000000000000"

// parseQuota reads 1000/hour, 50000/day, 200000/week or 1000000/month. It does
// not allocate.
func parseQuota(s string) (Plan, bool) {
	digits, word, _ := strings.Cut(s, "/")
	n, ok := parseCount(digits)
	if !ok {
		return Plan{}, false
	}
	for p := hourly; p <= monthly; p++ {
		if periods[p] == word {
			return Plan{most: n, period: p}, true
		}
	}
	return Plan{}, false
}

// window returns the window that t is in, as its first moment and the first
// after it. Hours are those of UTC; other windows begin at midnight in t's zone,
// or at the first moment of a day that has none.
func (p period) window(t time.Time) (from, to time.Time) {
	year, month, day := t.Date()
	switch p {
	case hourly:
		from = t.UTC().Truncate(time.Hour)
		return from, from.Add(time.Hour)
	case weekly:
		day -= (int(t.Weekday()) + 6) % 7
		return midnight(year, month, day, t.Location()), midnight(year, month, day+7, t.Location())
	case monthly:
		return midnight(year, month, 1, t.Location()), midnight(year, month+1, 1, t.Location())
	}
	return midnight(year, month, day, t.Location()), midnight(year, month, day+1, t.Location())
}

// midnight is the first moment of a day, whose numbers may be out of range.
func midnight(year int, month time.Month, day int, at *time.Location) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, at)
	noon := time.Date(year, month, day, 12, 0, 0, 0, at)
	if t.Day() != noon.Day() {
		// The clock skips midnight, and Date has gone back by what it skips:
		// the day begins where the zone's offset changes.
		_, t = t.ZoneBounds()
	}
	return t
}

// quota is the counts of one limit by quota.
type quota struct {
	seed   [2]uint64 // of the keys; set before they are used
	period period
	zone   *time.Location
	keys   int
	wall   func() time.Time

	now     atomic.Pointer[window]
	turning atomic.Bool // somebody makes the next window

	file    sync.Mutex // of load and save
	settled bool       // counts are not to be loaded any more
}

// window is one window and its table, open-addressed and insert-only: a key
// takes the first empty place of an order of its own and keeps it, so that two
// goroutines that bring a new key find one place.
type window struct {
	from, to int64        // Unix seconds
	look     atomic.Int64 // when to look at the wall clock again, in the unit of now
	over     atomic.Int64 // when the window ends, in the unit of now, as last seen
	groups   []quotaGroup
}

// quotaGroup is one cache line.
type quotaGroup struct {
	key   [4]atomic.Uint64 // 0 is empty
	count [4]atomic.Int64
}

const (
	// quotaKeysPerGroup leaves half of the places empty in a table that has all
	// the keys it is made for.
	quotaKeysPerGroup = 2

	// quotaProbes is how many groups are looked at for a key.
	quotaProbes = 16

	// lookEvery, in nanoseconds, bounds how long a step of the wall clock, or
	// the sleep of a machine, goes unseen.
	lookEvery = int64(30 * time.Second)
)

func newQuota(keys int, p period, timezone string) *quota {
	zone, err := time.LoadLocation(timezone)
	if err != nil {
		panic("BUG: limiter: a config that was not validated: timezone: " + err.Error())
	}
	q := &quota{seed: seed, period: p, zone: zone, keys: keys, wall: time.Now}
	q.now.Store(q.newWindow(q.wall()))
	return q
}

func (q *quota) newWindow(t time.Time) *window {
	from, to := q.period.window(t.In(q.zone))
	return &window{from: from.Unix(), to: to.Unix(), groups: make([]quotaGroup, (q.keys+quotaKeysPerGroup-1)/quotaKeysPerGroup)}
}

// window returns the window of now. Only every lookEvery, and when the window
// should be over, does it ask the wall clock.
func (q *quota) window(now int64) *window {
	w := q.now.Load()
	if now < w.look.Load() {
		return w
	}
	return q.turn(w, now)
}

// turn returns the window of now by the wall clock. Of several that see a window
// end one makes the next; the others count in the old one meanwhile, as if they
// had come a moment earlier.
func (q *quota) turn(w *window, now int64) *window {
	t := q.wall()
	// A clock that goes back stays in the later window, or requests would be
	// admitted twice. One that goes back by more than a window was wrong before.
	if t.Unix() < w.to && t.Unix() >= w.from-(w.to-w.from) {
		left := w.to*int64(time.Second) - t.UnixNano()
		w.over.Store(now + left)
		w.look.Store(now + min(left, lookEvery))
		return w
	}
	if !q.turning.CompareAndSwap(false, true) {
		return w
	}
	defer q.turning.Store(false)
	if q.now.Load() == w {
		q.now.Store(q.newWindow(t))
	}
	return q.turn(q.now.Load(), now)
}

// find returns the count of key, or nil when there is none, and none may or can
// be made.
func (w *window) find(key uint64, create bool) *atomic.Int64 {
	key = max(key, 1)
	n := uint64(len(w.groups))
	at, _ := bits.Mul64(key, n)
	for range min(quotaProbes, n) {
		g := &w.groups[at]
		for i := range g.key {
			k := g.key[i].Load()
			if k == 0 {
				if !create {
					return nil
				}
				if g.key[i].CompareAndSwap(0, key) {
					return &g.count[i]
				}
				k = g.key[i].Load()
			}
			if k == key {
				return &g.count[i]
			}
		}
		if at++; at == n {
			at = 0
		}
	}
	return nil
}

// charge adds cost to the count of key if that is then at most most, and
// returns the count.
func (w *window) charge(key uint64, cost, most int64) (used int64, v verdict) {
	if cost > most {
		// It never passes, and takes no place either.
		if c := w.find(key, false); c != nil {
			used = c.Load()
		}
		return used, refused
	}
	count := w.find(key, cost > 0)
	if count == nil {
		if cost > 0 {
			return 0, full
		}
		return 0, taken
	}
	for lost := 0; ; lost++ {
		used = count.Load()
		if used > most-cost {
			if cost == 0 {
				return used, taken
			}
			return used, refused
		}
		if cost == 0 || count.CompareAndSwap(used, used+cost) {
			return used + cost, taken
		}
		backOff(lost)
	}
}

// refund takes up to cost from the count of key. A charge of the window before
// may come off the first ones of this.
func (q *quota) refund(key uint64, cost, now int64) {
	count := q.window(now).find(key, false)
	if count == nil {
		return
	}
	for lost := 0; ; lost++ {
		used := count.Load()
		if used == 0 || count.CompareAndSwap(used, max(used-cost, 0)) {
			return
		}
		backOff(lost)
	}
}

// allowQuota is AllowPlan of a limit by quota.
func (l *Limit) allowQuota(key uint64, plan *Plan, cost, now int64) Decision {
	w := l.quota.window(now)
	used, v := w.charge(key, min(max(cost, 0), plan.most+1), plan.most)
	d := Decision{OK: v == taken, Limit: plan.most, Remaining: max(plan.most-used, 0), plan: plan}
	d.Reset = max(w.over.Load()-now, 1)
	switch {
	case v == refused:
		d.RetryAfter = d.Reset
	case v == full && l.closed:
		d.Remaining, d.RetryAfter = 0, d.Reset
	case v == full:
		d.OK, d.Remaining = true, max(plan.most-cost, 0)
	}
	d.OK, d.DryRun = l.count(d.OK, v == full)
	return d
}
