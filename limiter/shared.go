package limiter

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"sluice/redis"
	"sluice/setting"
	"sluice/wire"
)

// SharedConfig has several gateways keep one budget for each key, on a Redis
// that they all use. Its short form is the name of that Redis. Two
// SharedConfigs are compared with ==.
type SharedConfig struct {
	Redis      string           `yaml:"redis" default:"main" doc:"Name of the Redis, from redis."`
	Mode       string           `yaml:"mode" default:"exact" enum:"exact,fast" doc:"How: exact asks Redis for each request. fast decides alone and tells Redis what it admitted each sync: no request waits, and together the gateways may admit more for a moment."`
	Sync       setting.Duration `yaml:"sync" default:"100ms" min:"10ms" max:"10s" doc:"In mode fast how often the gateways exchange what they admitted."`
	Timeout    setting.Duration `yaml:"timeout" default:"10ms" min:"1ms" max:"1s" doc:"How long a request may wait for Redis. In mode fast, where none waits, an exchange may take ten times as long."`
	OnError    string           `yaml:"on_error" default:"local" enum:"open,closed,local" doc:"What holds while Redis is slow or gone: open lets all pass, closed refuses all with 503, local keeps a budget on this gateway."`
	LocalShare setting.Percent  `yaml:"local_share" default:"100%" min:"1%" doc:"With on_error local the share of rate and burst that this gateway gives while it is alone; with four equal gateways 25% holds the limit."`
}

// Shorthand reads the short form: the name of a Redis.
func (c *SharedConfig) Shorthand(s string) { c.Redis = s }

// Validate reports what the tags cannot say.
func (c *SharedConfig) Validate(p *setting.Problems) {
	if c.Redis == "" {
		p.Add("redis", "expected a name from redis")
	}
	if c.OnError != "local" && c.LocalShare != 1 {
		p.Add("local_share", "expected on_error: local, without which it is not used, got on_error: %s", c.OnError)
	}
}

// Basis tells what a decision of a Shared rests on.
type Basis uint8

const (
	Counted     Basis = iota // all gateways count it: in mode exact at once, in mode fast within sync
	Alone                    // Redis is away: the budget of this gateway alone
	Unchecked                // Redis is away: let pass
	Unavailable              // Redis is away: refused. Not the client's fault, so a 503
)

// Shared is a limit whose budgets several gateways keep together. Gateways
// share a budget when the prefix and the key_secret of their Redis and the
// name of the limit are the same. All methods are safe for many goroutines.
// Begin it with Start and end it with Close.
//
// # Mode exact
//
// Each decision is one execution of a script on Redis, by Redis' clock: the
// clocks of gateways do not matter. Callers hand their question to a few
// workers and wait at most SharedConfig.Timeout; a worker takes all that is
// there (up to 128) into one pipelined round trip, so that the more there is
// to ask the less each question costs. Together all gateways admit at most
// burst + rate*time. A question that was not sent by its timeout never is; one
// that was may be charged on Redis and, with on_error local, here as well.
//
// # Mode fast
//
// Each gateway decides by its own ledger, without a wait, a lock or an
// allocation, and every Sync adds what it admitted to the shared debt of each
// key and takes that debt over if it is higher than its own, then and once more
// after another Sync. With n gateways,
// in any stretch of time t, a key is given at most
//
//	n*burst + rate*t + (n-1)*rate*(2*Sync+d)
//
// where d is what a round trip takes: each gateway may give what the others do
// not know of yet, which is a burst and what the rate gives between two
// exchanges. What was given too much is owed: the debt goes above the burst and
// is waited off, so that in the long run the rate is exact. A key that a gateway
// sees for the first time begins there with a whole burst.
//
// # Redis slow or gone
//
// Then SharedConfig.OnError decides. A gate shuts when questions fail (five in
// a row, or more than one in five for long): from then on no request waits, and
// one prober in the background asks until Redis answers twice in time. When it
// comes back, each gateway pays in for each key at most what it could have
// admitted in two exchanges. The local budgets of mode exact begin whole.
//
// Memory here is fixed: 80 bytes for each of Config.Keys (none in mode exact
// without on_error local). On Redis a key takes about 150 bytes and expires
// when its debt is paid. Keys are hashed; see SharedHasher.
type Shared struct {
	cfg    SharedConfig
	limit  Config
	name   string
	prefix string // of the keys on Redis
	quotas string
	client *redis.Client
	seed   [32]byte
	share  float64

	ledger *ledger // nil where nothing is decided here
	counts *counts
	events *sharedEvents
	gate   gate

	queue chan *question
	quit  chan struct{}
	wg    sync.WaitGroup
	begin sync.Once
	end   sync.Once
}

type sharedEvents struct {
	roundTrips, sent, errors, timeouts, crowded, trips, nanoseconds atomic.Uint64
	alone, unchecked, unavailable                                   atomic.Uint64
	syncs, capped                                                   atomic.Uint64
	lastSync                                                        atomic.Int64
}

const (
	workers    = 4    // round trips under way at once
	mostQueued = 4096 // questions; more are as good as timed out
	mostAtOnce = 128  // questions in a round trip
)

// NewShared returns the shared budgets of the limit of this name. limit and cfg
// must have passed Validate; of limit it uses keys, on_full and dry_run, while
// rate and burst come with each call. The counts of old, which may be nil, go
// on in it, and so do the budgets here unless key, keys or ipv6_prefix differ.
// old may still be in use. It starts nothing.
func NewShared(name string, limit Config, cfg SharedConfig, client *redis.Client, old *Shared) *Shared {
	rc := client.Config()
	s := &Shared{
		cfg: cfg, limit: limit, name: name, client: client,
		prefix: rc.Prefix + "limit:" + name + ":",
		quotas: rc.Prefix + "quota:" + name + ":",
		seed:   sharedSeed(rc.KeySecret),
		share:  float64(cfg.LocalShare),
		queue:  make(chan *question, mostQueued),
		quit:   make(chan struct{}),
	}
	s.gate.shut = make(chan struct{}, 1)
	if old != nil {
		s.counts, s.events = old.counts, old.events
		if old.limit.Key == limit.Key && old.limit.Keys == limit.Keys && old.limit.IPv6Prefix == limit.IPv6Prefix && old.seed == s.seed {
			s.ledger = old.ledger
		}
	}
	if s.counts == nil {
		s.counts, s.events = new(counts), new(sharedEvents)
	}
	switch {
	case cfg.Mode == "exact" && cfg.OnError != "local":
		s.ledger = nil
	case s.ledger == nil:
		s.ledger = newLedger(max(limit.Keys, 1024))
	}
	return s
}

// Config returns what s was made with.
func (s *Shared) Config() SharedConfig { return s.cfg }

// NewHasher returns a hasher for the keys of s. All gateways with the same
// key_secret make the same keys.
func (s *Shared) NewHasher() SharedHasher { return newSharedHasher(&s.seed) }

// Start begins the work in the background. Until then, and after Close, Redis
// counts as gone.
func (s *Shared) Start() {
	s.begin.Do(func() {
		for range workers {
			s.wg.Go(s.work)
		}
		s.wg.Go(s.probe)
		if s.cfg.Mode == "fast" {
			s.wg.Go(s.sync)
		}
		s.gate.started.Store(true)
	})
}

// Close ends what Start began and waits for it: for round trips under way, no
// longer than a second more than the timeout of the redis.Client. What a gateway
// in mode fast admitted since its last exchange is told to Redis first, if that
// answers within the time of one exchange.
func (s *Shared) Close() {
	s.end.Do(func() {
		s.gate.started.Store(false)
		close(s.quit)
	})
	s.wg.Wait()
}

// Allow asks whether key may make a request of this cost at the time now, in
// the unit of wire.Nanotime, when it may make rate requests in the long run and
// burst at once; if so it charges the key's budget. The same key may come with
// another rate at any time: what it owes stays, counted in requests. A cost of 0
// or less only looks; a cost above the burst never passes. In mode exact it
// waits at most SharedConfig.Timeout; in mode fast it neither waits nor
// allocates, and now must be close to the present. A rate without a count or
// burst below 1 are taken as 1.
func (s *Shared) Allow(key SharedKey, rate Rate, burst, cost, now int64) (Decision, Basis) {
	rate, burst = sane(rate, burst)
	cost = min(max(cost, 0), burst+1)
	d, basis := s.decide(key, rate, burst, cost, now)
	d.Limit = max(rate.Count, burst)
	c := s.counts.mine()
	switch {
	case d.OK:
		c.allowed.Add(1)
	case s.limit.DryRun:
		d.OK, d.DryRun = true, true
		c.dryRun.Add(1)
	default:
		c.refused.Add(1)
	}
	return d, basis
}

func (s *Shared) decide(key SharedKey, rate Rate, burst, cost, now int64) (Decision, Basis) {
	if s.away() {
		return s.without(key, rate, burst, cost, now)
	}
	if s.cfg.Mode == "fast" {
		return s.byLedger(key, packPlan(rate, burst), rate, burst, cost, now), Counted
	}
	debt, ok, answered := s.ask(s.prefix, key, chargeArgs(rate, burst*sharedUnits, cost))
	if !answered {
		return s.without(key, rate, burst, cost, now)
	}
	return decisionOf(ok, debt, rate, burst, cost), Counted
}

// away tells whether it is not worth asking Redis.
func (s *Shared) away() bool {
	return s.gate.isShut.Load() || !s.gate.started.Load() || !s.client.Up()
}

// without is the decision while Redis is away.
func (s *Shared) without(key SharedKey, rate Rate, burst, cost, now int64) (Decision, Basis) {
	switch s.cfg.OnError {
	case "open":
		s.events.unchecked.Add(1)
		return Decision{OK: true, Remaining: max(burst-cost, 0)}, Unchecked
	case "closed":
		s.events.unavailable.Add(1)
		return Decision{RetryAfter: int64(time.Second), Reset: int64(time.Second)}, Unavailable
	}
	s.events.alone.Add(1)
	plan := packPlan(rate, burst) // what Redis is told once it is back
	if s.share < 1 {
		// A share of the count is none of the rate when the count is small, so
		// the stretch is drawn out instead.
		rate.Per = time.Duration(float64(rate.Per) / s.share)
		part := max(int64(float64(burst)*s.share), 1)
		if cost <= burst {
			cost = min(cost, part)
		}
		burst = part
		cost = min(cost, burst+1)
	}
	return s.byLedger(key, plan, rate, burst, cost, now), Alone
}

// byLedger decides by what this gateway knows.
func (s *Shared) byLedger(key SharedKey, plan uint64, rate Rate, burst, cost, now int64) Decision {
	interval := intervalTicks(rate)
	room := roomTicks(interval, burst)
	st := s.ledger.charge(key, plan, cost, interval, room, now)
	d := Decision{OK: st.verdict == taken}
	switch st.verdict {
	case taken, refused:
		d.Remaining = max(room-st.debt, 0) / interval
		d.Reset = nanoseconds(st.debt)
		if st.verdict == refused {
			d.RetryAfter = max(nanoseconds(st.debt+charge(cost, interval, room)-room), 1)
		}
	default:
		s.counts.mine().full.Add(1)
		if s.limit.OnFull == "closed" {
			d.Reset, d.RetryAfter = int64(idleBefore), int64(idleBefore)
		} else {
			d.OK, d.Remaining = true, max(burst-cost, 0)
		}
	}
	return d
}

// Quota asks whether key may make a request of this cost while at most quota
// are made until ends, and if so counts it on Redis, where the count goes a
// minute after ends. A cost of 0 or less only looks. Whoever counts for the same
// window must name the same ends, in whole seconds. It waits at most
// SharedConfig.Timeout, in both modes. When the basis is Alone the decision
// says nothing: the caller is to ask a quota of its own.
func (s *Shared) Quota(key SharedKey, quota, cost int64, ends, now time.Time) (Decision, Basis) {
	cost, quota = max(cost, 0), max(quota, 0)
	left := max(int64(ends.Sub(now)), 1)
	basis, used, ok := Counted, int64(0), false
	if s.away() {
		basis = s.quotaBasis()
	} else {
		var answered bool
		used, ok, answered = s.ask(s.quotas, key, quotaArgs(quota, cost, ends))
		if !answered {
			basis = s.quotaBasis()
		}
	}
	switch basis {
	case Alone:
		return Decision{}, Alone
	case Unchecked:
		return Decision{OK: true, Remaining: quota, Reset: left, Limit: quota}, basis
	case Unavailable:
		return Decision{Reset: int64(time.Second), RetryAfter: int64(time.Second), Limit: quota}, basis
	}
	d := Decision{OK: ok, Remaining: max(quota-used, 0), Reset: left, Limit: quota}
	if !ok {
		d.RetryAfter = left
	}
	return d, basis
}

func (s *Shared) quotaBasis() Basis {
	switch s.cfg.OnError {
	case "open":
		s.events.unchecked.Add(1)
		return Unchecked
	case "closed":
		s.events.unavailable.Add(1)
		return Unavailable
	}
	s.events.alone.Add(1)
	return Alone
}

// SharedStats counts since the limit was first made.
type SharedStats struct {
	Stats
	Away        bool   // Redis counts as gone now
	RoundTrips  uint64 // pipelined, that were answered or failed
	Sent        uint64 // scripts in them
	Nanoseconds uint64 // that all round trips took together
	Errors      uint64 // scripts that failed on the way or on Redis
	Timeouts    uint64 // questions that were not answered in time
	Crowded     uint64 // questions that found too many others waiting
	Trips       uint64 // times that the gate shut
	Alone       uint64 // decisions made without Redis, by on_error: local,
	Unchecked   uint64 // open,
	Unavailable uint64 // closed
	Syncs       uint64 // exchanges of mode fast that Redis answered
	Capped      uint64 // keys that an outage had more admitted for than was paid in
	LastSync    time.Duration
}

// Stats returns the counts.
func (s *Shared) Stats() SharedStats {
	e := s.events
	st := SharedStats{
		Stats:      s.counts.sum(),
		Away:       s.away(),
		RoundTrips: e.roundTrips.Load(), Sent: e.sent.Load(), Nanoseconds: e.nanoseconds.Load(),
		Errors: e.errors.Load(), Timeouts: e.timeouts.Load(), Crowded: e.crowded.Load(), Trips: e.trips.Load(),
		Alone: e.alone.Load(), Unchecked: e.unchecked.Load(), Unavailable: e.unavailable.Load(),
		Syncs: e.syncs.Load(), Capped: e.capped.Load(),
		LastSync: time.Duration(e.lastSync.Load()),
	}
	return st
}

func (c *counts) sum() (s Stats) {
	for i := range c {
		l := &c[i]
		s.Allowed += l.allowed.Load()
		s.Refused += l.refused.Load()
		s.DryRun += l.dryRun.Load()
		s.Full += l.full.Load()
	}
	return s
}

// gate is shut while asking Redis is not worth the wait.
type gate struct {
	started atomic.Bool
	isShut  atomic.Bool
	score   atomic.Int32
	shut    chan struct{} // has one when the prober should look
}

const (
	failureScore = 4  // an answer takes one back
	shutAt       = 20 // so five failures in a row, or more than one in five
)

func (s *Shared) answered() {
	if v := s.gate.score.Load(); v > 0 {
		s.gate.score.CompareAndSwap(v, v-1) // who loses is one of many
	}
}

func (s *Shared) failed() {
	if s.gate.score.Add(failureScore) >= shutAt && s.gate.isShut.CompareAndSwap(false, true) {
		s.events.trips.Add(1)
		s.client.Check()
		select {
		case s.gate.shut <- struct{}{}:
		default:
		}
	}
}

const (
	firstProbe   = 20 * time.Millisecond
	longestProbe = time.Second
)

// probe opens the gate again when Redis has answered twice in time.
func (s *Shared) probe() {
	for {
		select {
		case <-s.quit:
			return
		case <-s.gate.shut:
		}
		wait, good := firstProbe, 0
		for good < 2 {
			timer := time.NewTimer(wait)
			select {
			case <-s.quit:
				timer.Stop()
				return
			case <-timer.C:
			}
			if !s.client.Up() {
				good, wait = 0, firstProbe // the client's keeper backs off by itself
				continue
			}
			// A look at a key that is nobody's: no handler's hash is all zero.
			if _, _, ok := s.ask(s.prefix, SharedKey{}, chargeArgs(Rate{1, time.Second}, sharedUnits, 0)); ok {
				good++
				wait = firstProbe
			} else {
				good, wait = 0, min(wait*2, longestProbe)
			}
		}
		s.gate.score.Store(0)
		s.gate.isShut.Store(false)
	}
}

// sane makes a rate and burst that can be reckoned with. A stretch that is no
// unit becomes a day.
func sane(rate Rate, burst int64) (Rate, int64) {
	known := false
	for _, u := range rateUnits {
		known = known || u.per == rate.Per
	}
	rate.Count = max(rate.Count, 1)
	if !known {
		const day = 24 * time.Hour
		hi, lo := bits.Mul64(uint64(rate.Count), uint64(day))
		per := uint64(max(rate.Per, 1))
		n := uint64(mostPerSecond * 86400)
		if hi < per {
			quotient, _ := bits.Div64(hi, lo, per)
			n = min(max(quotient, 1), n)
		}
		rate = Rate{Count: int64(n), Per: day}
	}
	rate.Count = min(rate.Count, mostPerSecond*int64(rate.Per/time.Second))
	return rate, min(max(burst, 1), mostBurst)
}

// monotonic is the present in the unit of now.
func monotonic() int64 { return wire.Nanotime() }
