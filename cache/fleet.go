package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"sluice/redis"
	"sluice/setting"
	"sluice/wire"
)

// FleetConfig has several gateways purge together, and share what they store, on a
// Redis that they all use. Its short form is the name of that Redis.
type FleetConfig struct {
	Redis      string           `yaml:"redis" default:"main" doc:"Name of the Redis, from redis."`
	Sync       setting.Duration `yaml:"sync" default:"100ms" min:"10ms" max:"10s" doc:"How often each gateway looks for purges that others ordered. It is told at once as well, where it may subscribe."`
	SecondTier *TierConfig      `yaml:"second_tier" doc:"Keep answers on the Redis too, for all gateways. Without it they share purges only."`
}

// Shorthand reads the short form: the name of a Redis.
func (c *FleetConfig) Shorthand(s string) { c.Redis = s }

// Validate reports what the tags cannot say.
func (c *FleetConfig) Validate(p *setting.Problems) {
	if c.Redis == "" {
		p.Add("redis", "expected a name from redis")
	}
}

// TierConfig says what the gateways keep on Redis.
type TierConfig struct {
	TTL       setting.Duration `yaml:"ttl" default:"1h" min:"1s" max:"8760h" doc:"How long an answer stays there at most, however long it is fresh."`
	Timeout   setting.Duration `yaml:"timeout" default:"20ms" min:"1ms" max:"1s" doc:"How long a request may wait for Redis."`
	MaxObject setting.Size     `yaml:"max_object" default:"256KiB" min:"1KiB" max:"16MiB" doc:"The largest answer that is kept there, with its head and key."`
}

// Fleet is what several gateways share of their caches: purges, and with
// FleetConfig.SecondTier the answers themselves. Gateways are of one fleet when
// the prefix of their Redis is the same. All methods are safe for many
// goroutines. Begin it with Start and end it with Close.
//
// # Purges
//
// A purge is an entry in a log on Redis, a stream that holds about the last
// 10,000. Each gateway reads it from its beginning when it starts, then what is
// new: when it is nudged by a message, which is an entry's own speed, and each
// Sync, which loses nothing. So a purge also reaches those that were cut off
// when it was ordered, or not running. Whatever a gateway cannot know counts as
// purged:
//
//   - what was asked for before the first entry of the log, when it starts;
//   - the same, when the entry that it read last is not there any more;
//   - everything up to the present, when there is no log or it has gone back to
//     an older state: it then orders that for all;
//   - everything as old as an entry that it cannot read.
//
// Purge.At is the clock of the gateway that ordered it, Object.Asked that of the
// one that asked: the clocks of the gateways and of Redis must agree to within
// less than an answer takes that may not survive a purge. Times more than a
// minute ahead count as a minute ahead.
//
// # The second tier
//
// An answer on Redis is good while the generation of its URI's path is the one
// that was read before the origin was asked for it. A generation is a random
// word that the first to ask for a path puts there, and that an invalidation
// takes away: whatever else becomes of it, by eviction, expiry or the loss of
// Redis, the answers under it are lost and never come back. Paths share
// 1,048,576 places.
//
// An answer is also held against the purges known here, and so the tier is used
// only while the log has been read to its end a moment ago. Whoever can write to
// the Redis can put answers into the gateways' mouths.
//
// # Redis slow or gone
//
// While it is known to be down Get fails at once, else no later than its timeout.
// After five timeouts in a row, or more than one in five for long, the tier is
// left alone for a quarter of a second, then one request tries, then for twice
// as long, up to five seconds. Answers to be put are dropped and counted.
// Invalidations are kept until they are delivered; until then this gateway does
// not use what the tier has under these paths. Others, which may reach Redis, do
// use it.
type Fleet struct {
	cfg    FleetConfig
	client *redis.Client
	store  *Store
	log    zerolog.Logger
	own    string // marks the entries of the log that are this Fleet's
	key    string // of the log; also the channel of nudges
	tier   *tier  // nil without a second tier
	counts *fleetCounts

	seen  logID        // the last entry that was read; of the reading goroutine
	lost  bool         // the log has gone, and could not be begun anew; of the reading goroutine
	mute  bool         // what ails the log has been said; of the reading goroutine
	read  atomic.Int64 // when the log was last read to its end, by wire.Nanotime; 0 is out of date
	nudge chan struct{}

	heir    atomic.Pointer[Fleet]
	running atomic.Bool
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	begin   sync.Once
}

// ErrAway says that the second tier cannot be used now, or that there is none.
var ErrAway = errors.New("cache: the second tier is not used now")

// ErrSlow says that the second tier did not answer in time.
var ErrSlow = errors.New("cache: the second tier did not answer in time")

type fleetCounts struct {
	sent, unsent, received, unreadable, gaps             atomic.Uint64
	hits, misses, refused, timeouts, errors, away, trips atomic.Uint64
	puts, dropped, invalidations                         atomic.Uint64
}

// NewFleet returns what the gateways share of store. cfg must have passed
// Validate. It starts nothing.
func NewFleet(cfg FleetConfig, client *redis.Client, store *Store, log zerolog.Logger) *Fleet {
	prefix := client.Config().Prefix + "cache:"
	f := &Fleet{
		cfg: cfg, client: client, store: store, log: log, own: randomWord(), key: prefix + "purges",
		counts: new(fleetCounts), nudge: make(chan struct{}, 1),
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	if cfg.SecondTier != nil {
		f.tier = newTier(*cfg.SecondTier, prefix)
	}
	return f
}

// Config returns what f was made with.
func (f *Fleet) Config() FleetConfig { return f.cfg }

// Adopt takes over the counts of from and the invalidations that it could not
// deliver, those that it is still given included. It must come before Start;
// from may still be in use.
func (f *Fleet) Adopt(from *Fleet) {
	f.counts = from.counts
	if f.tier == nil || from.tier == nil {
		return
	}
	from.heir.Store(f)
	f.tier.changes.adopt(&from.tier.changes)
}

// Start begins the work in the background. Until the log of purges has been read,
// and after Close, the second tier is not used.
func (f *Fleet) Start() {
	f.begin.Do(func() {
		f.wg.Go(f.follow)
		f.wg.Go(f.listen)
		if f.tier != nil {
			for range askers {
				f.wg.Go(f.answerAsks)
			}
			for range putters {
				f.wg.Go(f.sendPuts)
			}
			f.wg.Go(f.deliver)
		}
		f.running.Store(true)
	})
}

// Close ends what Start began and waits for it: for round trips under way, no
// longer than about a second more than the timeout of the redis.Client.
// Invalidations are delivered first, if Redis is up. Answers that wait to be put
// are dropped.
func (f *Fleet) Close() {
	f.running.Store(false)
	f.stop()
	f.wg.Wait()
}

// quit is closed when f is.
func (f *Fleet) quit() <-chan struct{} { return f.ctx.Done() }

// pause waits for d, and is false when f was closed meanwhile.
func (f *Fleet) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-f.quit():
		return false
	}
}

// knows tells whether the log of purges was read to its end a moment ago.
func (f *Fleet) knows() bool {
	const moment = time.Second
	read := f.read.Load()
	return read != 0 && wire.Nanotime()-read < int64(max(moment, 5*f.cfg.Sync.Std()))
}

// FleetStats counts since the Fleet was made, or the first that it adopted.
type FleetStats struct {
	Up         bool   // Redis answers, and the log of purges has just been read
	Sent       uint64 // purges ordered here that are in the log
	Unsent     uint64 // that Order failed to put there
	Received   uint64 // purges that others ordered, carried out here
	Unreadable uint64 // entries of the log that could not be read: all from before was purged
	Gaps       uint64 // times that the log did not reach back to what was read last: the same

	Hits     uint64 // answers that the second tier gave
	Misses   uint64 // questions that it had no good answer to
	Refused  uint64 // of these, where what stood there was not an answer to the question
	Timeouts uint64 // questions not answered in time
	Errors   uint64 // questions that failed on the way or on Redis
	Away     uint64 // questions not put because they were not worth the wait, or an answer could not be trusted
	Trips    uint64 // times that it was left alone after timeouts
	Puts     uint64 // answers put there
	Dropped  uint64 // answers not put for want of room, of Redis, or because they had become invalid

	Invalidations uint64 // that Redis has
	Undelivered   int    // paths whose invalidation it does not have yet
	Queued        int64  // bytes of the answers that wait to be put
}

// Stats returns the counts.
func (f *Fleet) Stats() FleetStats {
	c := f.counts
	s := FleetStats{
		Up:   f.client.Up() && f.knows(),
		Sent: c.sent.Load(), Unsent: c.unsent.Load(), Received: c.received.Load(), Unreadable: c.unreadable.Load(), Gaps: c.gaps.Load(),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Refused: c.refused.Load(), Timeouts: c.timeouts.Load(),
		Errors: c.errors.Load(), Away: c.away.Load(), Trips: c.trips.Load(),
		Puts: c.puts.Load(), Dropped: c.dropped.Load(), Invalidations: c.invalidations.Load(),
	}
	if f.tier != nil {
		s.Undelivered, s.Queued = int(f.tier.changes.n.Load()), f.tier.queued.Load()
	}
	return s
}

// wordLen is the length of a random word: enough that no two are alike.
const wordLen = 16

func randomWord() string {
	var b [wordLen / 2]byte
	n := rand.Uint64()
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}
