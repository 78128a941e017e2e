package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/redis/rueidis"

	"sluice/redis"
	"sluice/wire"
)

// tier is the second tier of a Fleet.
type tier struct {
	cfg     TierConfig
	prefix  string // of all keys
	gate    gate
	changes changes
	asks    chan *tierAsk
	puts    chan tierPut
	queued  atomic.Int64 // bytes of the objects in puts, and of those on their way
}

const (
	askers     = 16 // questions on their way at one time
	mostAsks   = 256
	putters    = 2
	mostPuts   = 1024
	mostQueued = 64 << 20 // bytes

	// graceStale is how long an answer with a validator is kept when it is of no
	// more use without the origin: to be confirmed instead of fetched anew.
	graceStale = 10 * time.Minute

	// generationLife is how much longer than any answer a generation stays: those
	// under one that expires are lost.
	generationLife = time.Hour

	tierVersion  = 1
	tierEnvelope = 1 + wordLen // version, generation
)

func newTier(cfg TierConfig, prefix string) *tier {
	return &tier{cfg: cfg, prefix: prefix, changes: newChanges(), asks: make(chan *tierAsk, mostAsks), puts: make(chan tierPut, mostPuts)}
}

// tierPlace is where the generation of a URI is kept: of its path, as queries do
// not count.
func tierPlace(uri []byte) uint32 {
	for i, c := range uri {
		if c == '?' {
			uri = uri[:i]
			break
		}
	}
	return uint32(xxhash.Sum64(uri) >> (64 - placeBits))
}

func (t *tier) generationKey(place uint32) string {
	return fmt.Sprintf("%sg:%05x", t.prefix, place)
}

func (t *tier) objectKey(key []byte) string {
	sum := sha256.Sum256(key)
	return t.prefix + "o:" + hex.EncodeToString(sum[:16])
}

// Ticket is what the second tier said of a URI before the origin was asked: an
// answer is put there with it. The zero value is of no use, and does no harm. It
// is good for all answers under the URI's path.
type Ticket struct {
	generation string
	place      uint32
}

// tierAsk is one question on its way to Redis and back.
type tierAsk struct {
	object, generation, fresh string
	gone                      atomic.Bool // nobody waits for it any more
	done                      chan struct{}

	found   string // the generation of the path
	value   []byte
	foreign bool // what stands under the object's key is not a string
	broken  bool // err comes of the connection
	err     error
}

// Get asks the second tier for the object of key and waits for it at most
// timeout, or TierConfig.Timeout if that is shorter. Nil is none. What it
// returns has been held against all purges known here, may be stale, and is to be
// put into the Store as it is. The ticket is for what the origin is asked
// instead. On an error the tier has not answered, and the ticket is of no use.
func (f *Fleet) Get(key []byte, timeout time.Duration) (*Object, Ticket, error) {
	t := f.tier
	if t == nil {
		return nil, Ticket{}, ErrAway
	}
	uri := URI(key)
	place, before := tierPlace(uri), f.store.Generation(uri)
	if !f.client.Up() {
		f.counts.away.Add(1)
		return nil, Ticket{}, redis.ErrDown
	}
	if timeout <= 0 || !f.running.Load() || !f.knows() || t.changes.has(place) {
		f.counts.away.Add(1)
		return nil, Ticket{}, ErrAway
	}
	ok, trial := t.gate.enter(wire.Nanotime())
	if !ok {
		f.counts.away.Add(1)
		return nil, Ticket{}, ErrAway
	}
	q := &tierAsk{object: t.objectKey(key), generation: t.generationKey(place), fresh: randomWord(), done: make(chan struct{})}
	select {
	case t.asks <- q:
	default: // those before it wait for Redis too
		f.counts.away.Add(1)
		return nil, Ticket{}, ErrAway
	}
	timer := time.NewTimer(min(timeout, t.cfg.Timeout.Std()))
	defer timer.Stop()
	select {
	case <-q.done:
	case <-timer.C:
		q.gone.Store(true)
		f.counts.timeouts.Add(1)
		if timeout >= t.cfg.Timeout.Std() { // it is not Redis' fault that there was less time
			f.tierFailed(trial)
		}
		return nil, Ticket{}, ErrSlow
	case <-f.quit():
		q.gone.Store(true)
		return nil, Ticket{}, ErrAway
	}
	if q.err != nil {
		f.counts.errors.Add(1)
		switch {
		case q.broken:
			f.tierFailed(trial)
		case !errors.Is(q.err, redis.ErrDown):
			t.gate.answered()
		}
		return nil, Ticket{}, q.err
	}
	t.gate.answered()
	if t.changes.has(place) || f.store.Generation(uri) != before {
		f.counts.away.Add(1) // it changed meanwhile
		return nil, Ticket{}, ErrAway
	}
	o, refused := f.accept(key, q)
	if o == nil {
		f.counts.misses.Add(1)
		if refused {
			f.counts.refused.Add(1)
		}
	} else {
		o.Generation = before
		f.counts.hits.Add(1)
	}
	return o, Ticket{q.found, place}, nil
}

func (f *Fleet) tierFailed(trial bool) {
	if f.tier.gate.failed(wire.Nanotime(), trial) {
		f.counts.trips.Add(1)
		f.client.Check()
	}
}

// accept makes an object of what stands on Redis, if it answers key and is good.
// refused tells that something else stands there.
func (f *Fleet) accept(key []byte, q *tierAsk) (o *Object, refused bool) {
	if len(q.value) == 0 {
		return nil, q.foreign
	}
	generation, o, err := parseTiered(q.value)
	if err != nil || string(o.Key) != string(key) || o.Asked <= 0 || o.Asked > time.Now().UnixNano()+mostAhead {
		return nil, true
	}
	if generation != q.found || !f.store.stands(o) {
		return nil, false
	}
	return o, false
}

var errTiered = errors.New("cache: not what a gateway puts there")

func appendTiered(dst []byte, generation string, o *Object) []byte {
	return AppendObject(append(append(dst, tierVersion), generation...), o)
}

func parseTiered(b []byte) (generation string, o *Object, err error) {
	if len(b) < tierEnvelope || b[0] != tierVersion {
		return "", nil, errTiered
	}
	o, err = ParseObject(b[tierEnvelope:])
	return string(b[1:tierEnvelope]), o, err
}

// stands holds all purges against o, which nobody else has yet: it is false for
// one that is gone, and makes one stale that was purged softly.
func (s *Store) stands(o *Object) bool {
	verdict, at := s.purges.hit(o)
	if verdict == softened && o.Lists == nil {
		o.Entry.Purge(at)
	}
	return verdict != gone
}

// answerAsks puts questions to Redis until f is closed.
func (f *Fleet) answerAsks() {
	for {
		select {
		case <-f.quit():
			return
		case q := <-f.tier.asks:
			if !q.gone.Load() {
				f.answer(q)
			}
			close(q.done)
		}
	}
}

// answer is one round trip. Whoever asks first for a path gives it a generation:
// so there is one before the origin is asked.
func (f *Fleet) answer(q *tierAsk) {
	conn, err := f.client.Conn()
	if err != nil {
		q.err = err
		return
	}
	t := f.tier
	rs := conn.DoMulti(context.Background(),
		conn.B().Set().Key(q.generation).Value(q.fresh).Nx().Px(t.cfg.TTL.Std()+generationLife).Build(),
		// What others put there may be of any size.
		conn.B().Getrange().Key(q.generation).Start(0).End(wordLen).Build(),
		conn.B().Getrange().Key(q.object).Start(0).End(int64(t.cfg.MaxObject)+tierEnvelope).Build())
	// That the first fails matters only where there is no generation.
	if q.found, q.err = rs[1].ToString(); q.err != nil {
		q.broken = rs[1].NonRedisError() != nil
		return
	}
	if len(q.found) != wordLen {
		if q.err = rs[0].Error(); q.err == nil || rueidis.IsRedisNil(q.err) {
			q.err = errTiered
		}
		return
	}
	if q.value, err = rs[2].AsBytes(); err != nil {
		if q.broken = rs[2].NonRedisError() != nil; q.broken {
			q.err = err
		}
		q.foreign = !q.broken
	}
}

type tierPut struct {
	object *Object
	ticket Ticket
	size   int64
}

// Put gives o to the second tier, with the ticket that Get returned before the
// origin was asked: what became invalid since then is never found there. It
// does not wait: what there is no room or no Redis for is dropped and counted.
// Objects that are too large, or of no use to others any more, are not sent. o
// must not be changed any more.
func (f *Fleet) Put(o *Object, ticket Ticket) {
	t := f.tier
	if t == nil {
		return
	}
	size := int64(o.Size())
	if size > int64(t.cfg.MaxObject) || len(o.Tags) > math.MaxUint16 || len(o.Vary)|len(o.ETag) > math.MaxUint16 || t.life(o, time.Now().UnixNano()) <= 0 {
		return
	}
	if ticket.generation == "" || tierPlace(URI(o.Key)) != ticket.place || !f.running.Load() || !f.mayPut() {
		f.counts.dropped.Add(1)
		return
	}
	if t.queued.Add(size) <= mostQueued {
		select {
		case t.puts <- tierPut{o, ticket, size}:
			return
		default:
		}
	}
	t.queued.Add(-size)
	f.counts.dropped.Add(1)
}

// mayPut tells whether Redis is there and not busy.
func (f *Fleet) mayPut() bool { return f.client.Up() && !f.tier.gate.shut.Load() }

// life is how long o is kept at the time now; 0 is not at all.
func (t *tier) life(o *Object, now int64) time.Duration {
	most := t.cfg.TTL.Std()
	if o.Lists != nil {
		return most
	}
	left := time.Duration(o.Until() - now)
	if o.Validates() {
		left += graceStale
	}
	return min(max(left, 0), most).Truncate(time.Millisecond)
}

// sendPuts sends objects until f is closed.
func (f *Fleet) sendPuts() {
	for {
		select {
		case <-f.quit():
			return
		case p := <-f.tier.puts:
			if f.send(&p) {
				f.counts.puts.Add(1)
			} else {
				f.counts.dropped.Add(1)
			}
			f.tier.queued.Add(-p.size)
		}
	}
}

func (f *Fleet) send(p *tierPut) bool {
	t, o := f.tier, p.object
	if !f.mayPut() || t.changes.has(p.ticket.place) || f.store.Generation(URI(o.Key)) != o.Generation {
		return false
	}
	life := t.life(o, time.Now().UnixNano())
	conn, err := f.client.Conn()
	if life <= 0 || err != nil {
		return false
	}
	// The client may keep it when the connection breaks: it is not used again.
	value := appendTiered(make([]byte, 0, tierEnvelope+p.size), p.ticket.generation, o)
	rs := conn.DoMulti(context.Background(),
		conn.B().Set().Key(t.objectKey(o.Key)).Value(rueidis.BinaryString(value)).Px(life).Build(),
		conn.B().Pexpire().Key(t.generationKey(p.ticket.place)).Milliseconds((t.cfg.TTL.Std() + generationLife).Milliseconds()).Build())
	if rs[0].NonRedisError() != nil {
		f.client.Check()
	}
	return rs[0].Error() == nil
}
