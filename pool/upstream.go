package pool

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/wire"
)

// Upstream is a group of targets that serve the same thing, and what guards
// it. All methods are safe for many goroutines.
type Upstream struct {
	Name   string
	Config Config

	members   atomic.Pointer[members]
	panicking atomic.Bool // too few are healthy: health is ignored

	// The guards, nil when they are not configured. They have an identity of
	// their own and outlive a reload that does not concern them.
	breaker  *breaker
	judge    *judge
	adaptive *adaptive
	bulkhead *Bulkhead
	latency  *latency

	watch *wire.Watch

	// What works in the background.
	ctx    context.Context
	cancel context.CancelFunc // nil before start
	done   sync.WaitGroup
	known  chan struct{}          // closed when discovery has named targets
	found  []Discovered           // what it named last; under mu
	note   atomic.Pointer[string] // why its last look failed
	mu     sync.Mutex             // guards checks and found
	checks map[*Target]context.CancelFunc
}

// members are the targets at one time and the picker made for them.
type members struct {
	targets []*Target
	picker  picker
}

func newUpstream(name string, cfg Config, before *Upstream, watch *wire.Watch) (*Upstream, error) {
	u := &Upstream{Name: name, Config: cfg, watch: watch, latency: &latency{}, known: make(chan struct{}), checks: map[*Target]context.CancelFunc{}}
	for _, tc := range cfg.Targets {
		u.found = append(u.found, Discovered{URL: tc.URL, Weight: tc.Weight})
	}
	if before != nil && cfg.Discover != nil && reflect.DeepEqual(before.Config.Discover, cfg.Discover) {
		before.mu.Lock()
		u.found = before.found
		before.mu.Unlock()
	}
	var old []*Target
	if before != nil {
		old = before.Targets()
	}
	m, err := u.build(u.found, old)
	if err != nil {
		return nil, err
	}
	if before != nil && reflect.DeepEqual(before.Config, cfg) && slices.Equal(m.targets, old) {
		return before, nil
	}
	u.members.Store(m)
	u.breaker, u.judge = newBreaker(cfg.Breaker), newJudge(cfg.Outlier)
	u.adaptive, u.bulkhead = newAdaptive(cfg.Adaptive), NewBulkhead(cfg.Concurrency)
	if before == nil {
		return u, nil
	}
	u.latency = before.latency
	u.panicking.Store(before.panicking.Load())
	if reflect.DeepEqual(before.Config.Breaker, cfg.Breaker) {
		u.breaker = before.breaker
	}
	if reflect.DeepEqual(before.Config.Outlier, cfg.Outlier) {
		u.judge = before.judge
	}
	if reflect.DeepEqual(before.Config.Adaptive, cfg.Adaptive) {
		u.adaptive = before.adaptive
	}
	if reflect.DeepEqual(before.Config.Concurrency, cfg.Concurrency) {
		u.bulkhead = before.bulkhead
	}
	return u, nil
}

// build makes members of targets, taking over from old those that are the same.
func (u *Upstream) build(found []Discovered, old []*Target) (*members, error) {
	m := &members{}
	weights := make([]int, 0, len(found))
	for _, d := range found {
		t, err := newTarget(u.Name, TargetConfig{URL: d.URL, Weight: d.Weight}, d.Address, u.Config, u.watch)
		if err != nil {
			return nil, err
		}
		same := func(o *Target) bool { return o.key == t.key }
		if i := slices.IndexFunc(m.targets, same); i >= 0 {
			t = m.targets[i] // it stands there twice
		} else if i := slices.IndexFunc(old, same); i >= 0 {
			t = old[i]
		}
		m.targets = append(m.targets, t)
		weights = append(weights, d.Weight)
	}
	if len(m.targets) > 0 {
		m.picker = newPicker(u.Config.Balance, weights, m.targets)
	}
	return m, nil
}

// start begins what works in the background. An upstream that was taken over
// works already.
func (u *Upstream) start() {
	if u.cancel != nil {
		return
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	for _, t := range u.Targets() {
		u.begin(t)
	}
	if len(u.Targets()) > 0 {
		close(u.known)
	}
	if c := u.Config.Discover; c != nil {
		d, err := newDiscoverer(*c)
		if err != nil {
			u.noted(err)
			return
		}
		u.done.Go(func() { d.Run(u.ctx, u.replace, u.noted) })
	}
}

// stop ends it.
func (u *Upstream) stop() {
	if u.cancel != nil {
		u.cancel()
		u.done.Wait()
	}
}

// forgive takes marks away that nobody would: of checks and judgements that are
// not configured any more.
func (u *Upstream) forgive() {
	for _, t := range u.Targets() {
		if u.Config.Health == nil {
			t.standing.down.Store(false)
		}
		if u.Config.Outlier == nil {
			t.conduct.until.Store(0)
		}
	}
}

// begin starts what works for one target.
func (u *Upstream) begin(t *Target) {
	t.start()
	h := u.Config.Health
	if h == nil {
		t.standing.down.Store(false)
		return
	}
	ctx, cancel := context.WithCancel(u.ctx)
	u.mu.Lock()
	u.checks[t] = cancel
	u.mu.Unlock()
	u.done.Go(func() { t.checkHealth(ctx, *h) })
}

// replace makes what discovery found the targets. Those that stay keep their
// connections and marks; those that leave are drained: requests on them go on,
// new ones do not come.
func (u *Upstream) replace(found []Discovered) {
	old := u.Targets()
	m, err := u.build(found, old)
	if err != nil {
		u.noted(err)
		return
	}
	u.note.Store(nil)
	for _, t := range m.targets {
		if !slices.Contains(old, t) {
			u.begin(t)
		}
	}
	u.mu.Lock()
	u.found = found
	u.mu.Unlock()
	u.members.Store(m)
	for _, t := range old {
		if slices.Contains(m.targets, t) {
			continue
		}
		u.mu.Lock()
		if cancel := u.checks[t]; cancel != nil {
			cancel()
			delete(u.checks, t)
		}
		u.mu.Unlock()
		t.retire()
	}
	select {
	case <-u.known:
	default:
		close(u.known)
	}
}

// noted keeps why discovery failed, for the admin door.
func (u *Upstream) noted(err error) {
	if err == nil {
		u.note.Store(nil)
		return
	}
	text := err.Error()
	u.note.Store(&text)
}

// Targets are the targets at this time, in the order of the configuration.
func (u *Upstream) Targets() []*Target { return u.members.Load().targets }

// Pick chooses a target for a request at the time now (see wire.Nanotime). key
// identifies the caller for consistent hashing. Targets in tried are passed
// over, and so are those that are unhealthy, ejected, or lately refused a
// connection. Only when there is no other, tried or not, is one tried that is
// ejected or refused; one that fails its health checks is not, unless so
// many do that the upstream is in panic. It returns nil when there is none.
func (u *Upstream) Pick(key uint64, tried *Tried, now int64) *Target {
	m := u.members.Load()
	if m.picker == nil {
		return nil
	}
	c := candidates{targets: m.targets, tried: *tried, now: now, slowStart: int64(u.Config.SlowStart), care: careAll}
	if u.panicking.Load() {
		c.care = careNot
	}
	i := m.picker.pick(key, c)
	if i < 0 && c.care == careAll {
		c.care, c.again = careGood, true
		i = m.picker.pick(key, c)
	}
	if i < 0 && c.tried != 0 && c.care == careGood {
		// A good one that was tried is better than a bad one that was not. The
		// caller decides whether to begin again.
		all := c
		if all.tried = 0; m.picker.pick(key, all) >= 0 {
			return nil
		}
	}
	for i < 0 && c.care > careHealth {
		c.care--
		i = m.picker.pick(key, c)
	}
	if i < 0 {
		return nil
	}
	if i < 64 {
		*tried |= 1 << i
	}
	return m.targets[i]
}

// Enter asks for a place for a request, waiting for one until the time until
// at the latest. share is how much of the adaptive limit a request of its
// priority may use, up to 1. Leave must follow when it returns None.
func (u *Upstream) Enter(share float64, now, until int64) fault.Kind {
	if !u.adaptive.enter(share) {
		return fault.Overloaded
	}
	if f := u.bulkhead.Enter(now, until); f != fault.None {
		u.adaptive.leave(0, now)
		return f
	}
	return fault.None
}

// LeaveLimit gives the place in the adaptive limit back. took is the time to
// the head of the answer in nanoseconds, 0 when there was none.
func (u *Upstream) LeaveLimit(took, now int64) { u.adaptive.leave(took, now) }

// LeavePlace gives the place in the bulkhead back.
func (u *Upstream) LeavePlace() { u.bulkhead.Leave() }

// Allow asks the breaker for leave to try at the time now. When ok, Report
// must follow with the ticket.
func (u *Upstream) Allow(now int64) (t Ticket, ok bool) {
	k := u.breaker.allow(now)
	return Ticket(k), !k.refused()
}

// Ticket is the leave to try.
type Ticket ticket

// Unticketed stands for the ticket in a second report on a try: that what
// began well ended badly.
var Unticketed = Ticket{&alwaysClosed}

// Outpaced reports a try on t that a second one, begun later, overtook after
// took nanoseconds. The breaker learns nothing from it. To the outlier judge it
// is a failure, or a target that hangs would never be found out while hedges
// cover for it, if it took twice the usual time or more; a healthy one, which is
// overtaken now and then, breaks the row with its next answer.
func (u *Upstream) Outpaced(t *Target, k Ticket, took, now int64) {
	u.Report(t, k, 0, fault.ClientGone, took, now)
	if took >= 2*u.Quantile(50) {
		u.judge.overtaken(t, u.members.Load().targets, now)
	}
}

// Report tells how a try on t ended: with an answer of this status, or else
// with a fault. took is the time to the answer's head in nanoseconds, 0
// without one.
func (u *Upstream) Report(t *Target, k Ticket, status int, f fault.Kind, took, now int64) {
	result := resultGood
	switch {
	case f == fault.None && u.failure(status):
		result = resultFailed
	case f == fault.None:
	case f == fault.ConnectFailed, f == fault.ConnectTimeout, f == fault.TargetReset, f == fault.BadAnswer,
		f == fault.AnswerTimeout, f == fault.BudgetSpent, f == fault.AnswerCut:
		result = resultFailed
	default:
		result = resultUnknown
	}
	timedOut := f == fault.AnswerTimeout || f == fault.BudgetSpent
	if took > 0 && (result != resultFailed || timedOut) {
		t.latency.add(took)
		u.latency.add(took)
	}
	if u.Config.Balance == "peak_ewma" {
		switch {
		case result == resultFailed:
			// Or a target that fails at once would be the fastest.
			t.observe(max(took, ewmaPenalty), now)
		case took > 0:
			t.observe(took, now)
		}
	}
	u.breaker.report(ticket(k), result, took, now)
	if result != resultUnknown {
		u.judge.saw(t, result == resultFailed, u.members.Load().targets, now)
	}
}

// failure tells whether a target that answers with this status has failed.
func (u *Upstream) failure(status int) bool {
	if u.judge != nil {
		return u.judge.failure(status)
	}
	return status == 500 || status >= 502 && status <= 504
}

// Quantile is a quantile of the upstream's recent answer times in nanoseconds,
// 0 while too few are known: 50, 90, 95 or 99.
func (u *Upstream) Quantile(p int) int64 { return u.latency.Quantile(p) }

// Median is the target's recent median answer time in nanoseconds, 0 while too
// few are known.
func (t *Target) Median() int64 { return t.latency.Quantile(50) }

func (u *Upstream) sweep(now int64) {
	targets := u.Targets()
	healthy := 0
	for _, t := range targets {
		t.sweep(now)
		t.latency.sweep(now)
		if !t.standing.down.Load() && t.conduct.until.Load() <= now {
			healthy++
		}
	}
	u.latency.sweep(now)
	u.judge.sweep(targets, now)
	u.panicking.Store(float64(healthy) < float64(u.Config.Panic)*float64(len(targets)))
}

// HashBy tells what Pick's key is to be made of: a header's value, a cookie's
// value, the path, or with none of these the client's address. needed is false
// when the key plays no part.
func (u *Upstream) HashBy() (header, cookie string, path, needed bool) {
	h := &u.Config.Hash
	return h.Header, h.Cookie, h.Header == "" && h.Cookie == "" && h.By == "path", u.Config.Balance == "hash"
}

// Response is how long the head of an answer may take.
func (u *Upstream) Response() time.Duration { return u.Config.Timeouts.Response.Std() }

// Idle is how long a body may stand still.
func (u *Upstream) Idle() time.Duration { return u.Config.Timeouts.Idle.Std() }

// Tunnel is how long a tunnel may stand still.
func (u *Upstream) Tunnel() time.Duration { return u.Config.Timeouts.Tunnel.Std() }

// Guards are the figures of an upstream's guards, for the admin door and
// metrics.
type Guards struct {
	Discovery     string  `json:"discovery_error,omitempty"`
	Breaker       string  `json:"breaker,omitempty"`
	Opened        uint64  `json:"breaker_opened,omitempty"`
	Refused       uint64  `json:"breaker_refused,omitempty"`
	Ejections     uint64  `json:"ejections,omitempty"`
	AtWork        int64   `json:"requests_at_work,omitempty"`
	Waiting       int64   `json:"requests_waiting,omitempty"`
	AdaptiveLimit float64 `json:"adaptive_limit,omitempty"`
	Shed          uint64  `json:"shed,omitempty"`
	Panic         bool    `json:"panic,omitempty"`
	P50MS         float64 `json:"p50_ms,omitempty"`
	P99MS         float64 `json:"p99_ms,omitempty"`
}

// Guards takes a look at the guards.
func (u *Upstream) Guards() Guards {
	g := Guards{Panic: u.panicking.Load(), AtWork: u.bulkhead.Taken(), Waiting: u.bulkhead.Waiting(),
		P50MS: float64(u.Quantile(50)) / 1e6, P99MS: float64(u.Quantile(99)) / 1e6}
	if n := u.note.Load(); n != nil {
		g.Discovery = *n
	}
	if b := u.breaker; b != nil {
		g.Breaker, g.Opened, g.Refused = b.condition(wire.Nanotime()), b.opened.Load(), b.refused.Load()
	}
	if j := u.judge; j != nil {
		g.Ejections = j.ejected.Load()
	}
	if a := u.adaptive; a != nil {
		g.AdaptiveLimit, g.Shed = a.now(), a.shed.Load()
	}
	return g
}
