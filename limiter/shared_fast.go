package limiter

import (
	"context"
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
)

// ledger is what one gateway knows of the keys it was asked for: for each its
// theoretical arrival time, and what it has admitted and not told Redis yet.
// It is a fixed, open-addressed hash table; a key lives in one of two buckets.
// Charging is lock-free and allocates nothing.
//
// A time is in ticks of 1/32 ns since the begin of wire.Nanotime, so that the
// interval between requests at 1,000,000/s is rounded by 1/32,000 and a year
// takes 60 bits.
//
// Who claims a slot writes the mark `claimed` where its key stands, moves its
// time to now, and only then writes the key. Who charges a slot reads its time,
// then its key, and moves the time by compare-and-swap: if the slot changed
// hands in between, the time did too. So no key is charged for another's
// request. Two races are left, each worth one request once:
//   - Two goroutines that bring the same key at once may give it two slots, as
//     neither sees the other's mark as its key. Look-ups find the first; what
//     was charged to the other reaches Redis and comes back from there.
//   - A goroutine that sleeps for a second longer than the debt lasts between
//     charging a slot and noting it in untold notes it for the next key.
type ledger struct {
	buckets []bucketOf8
	// changed has a bit for each slot that the next exchange is about: set by who
	// makes untold more than 0, cleared by the exchange before it takes untold
	// away, and set again once by an exchange that told something.
	changed []atomic.Uint64
}

const (
	ledgerSlots         = 8
	ledgerKeysPerBucket = 4

	claimed = 1 // in place of a key

	ticksPerNanosecond = 32
	idleBefore         = time.Second // a slot is taken over
	mostTicks          = int64(366*24*time.Hour) * ticksPerNanosecond
)

type bucketOf8 struct {
	keys  [ledgerSlots]atomic.Uint64 // first half; 0 is an empty slot
	slots [ledgerSlots]ledgerSlot
}

type ledgerSlot struct {
	second atomic.Uint64 // half of the key
	tat    atomic.Int64
	untold atomic.Int64  // requests
	plan   atomic.Uint64 // rate and burst at the last charge, packed
}

// newLedger returns a ledger for keys keys: 320 bytes for each four, and a bit
// for each slot.
func newLedger(keys int) *ledger {
	n := max((keys+ledgerKeysPerBucket-1)/ledgerKeysPerBucket, 2)
	return &ledger{make([]bucketOf8, n), make([]atomic.Uint64, (n*ledgerSlots+63)/64)}
}

// intervalTicks is the time in which rate gives one request, rounded up.
func intervalTicks(rate Rate) int64 {
	ticks := (uint64(rate.Per)*ticksPerNanosecond + uint64(rate.Count) - 1) / uint64(rate.Count)
	return int64(min(max(ticks, 1), uint64(mostTicks)))
}

// roomTicks is how far ahead of now a key's time may be.
func roomTicks(interval, burst int64) int64 {
	hi, lo := bits.Mul64(uint64(interval), uint64(burst))
	if hi > 0 || lo > uint64(mostTicks) {
		return mostTicks
	}
	return int64(lo)
}

// charge is what a request of this cost takes, at most one request more than
// room.
func charge(cost, interval, room int64) int64 {
	hi, lo := bits.Mul64(uint64(interval), uint64(cost))
	if hi > 0 || lo > uint64(room+interval) {
		return room + interval
	}
	return int64(lo)
}

func nanoseconds(ticks int64) int64 {
	return (max(ticks, 0) + ticksPerNanosecond - 1) / ticksPerNanosecond
}

// packPlan writes a sane rate and burst in one word, never 0: 37 bits of count,
// 20 of burst less 1, and the number of the stretch.
func packPlan(rate Rate, burst int64) uint64 {
	unit := 0
	for i, u := range rateUnits {
		if u.per == rate.Per {
			unit = i
		}
	}
	return uint64(rate.Count) | uint64(burst-1)<<37 | uint64(unit+1)<<57
}

func unpackPlan(w uint64) (Rate, int64) {
	return Rate{int64(w & (1<<37 - 1)), rateUnits[w>>57-1].per}, int64(w>>37&(1<<20-1)) + 1
}

func (k SharedKey) halves() (first, second uint64) {
	first, second = binary.LittleEndian.Uint64(k[:8]), binary.LittleEndian.Uint64(k[8:])
	if first <= claimed {
		first += 2
	}
	return first, second
}

func keyOf(first, second uint64) (k SharedKey) {
	binary.LittleEndian.PutUint64(k[:8], first)
	binary.LittleEndian.PutUint64(k[8:], second)
	return k
}

// ledgerStanding is where a key stands after a charge: its debt in ticks.
type ledgerStanding struct {
	verdict verdict
	debt    int64
}

// charge adds cost to what key owes if that is then at most room. plan is what
// Redis is told of.
func (l *ledger) charge(key SharedKey, plan uint64, cost, interval, room, now int64) ledgerStanding {
	first, second := key.halves()
	present := now * ticksPerNanosecond
	ticks := charge(cost, interval, room)
	a, b := l.places(first, second)
	for {
		at := l.find(a, first)
		if at < 0 {
			at = l.find(b, first)
		}
		if at < 0 {
			switch {
			case ticks > room:
				return ledgerStanding{refused, 0}
			case ticks == 0:
				return ledgerStanding{taken, 0}
			}
			if at = l.claim(a, first, second, present); at < 0 {
				at = l.claim(b, first, second, present)
			}
			if at < 0 {
				return ledgerStanding{full, 0}
			}
		}
		bucket := &l.buckets[at/ledgerSlots]
		slot := &bucket.slots[at%ledgerSlots]
		tat := slot.tat.Load()
		if bucket.keys[at%ledgerSlots].Load() != first {
			continue
		}
		debt := max(tat-present, 0)
		if debt+ticks > room {
			return ledgerStanding{refused, debt}
		}
		if ticks == 0 {
			return ledgerStanding{taken, debt}
		}
		if !slot.tat.CompareAndSwap(tat, present+debt+ticks) {
			continue
		}
		if slot.plan.Load() != plan {
			slot.plan.Store(plan)
		}
		if slot.untold.Add(cost) == cost {
			l.mark(at)
		}
		return ledgerStanding{taken, debt + ticks}
	}
}

func (l *ledger) mark(at int) { l.changed[at/64].Or(1 << (at % 64)) }

// places returns the two buckets of a key.
func (l *ledger) places(first, second uint64) (a, b int) {
	n := uint64(len(l.buckets))
	x, _ := bits.Mul64(first, n)
	y, _ := bits.Mul64(second, n)
	if x == y {
		if y++; y == n {
			y = 0
		}
	}
	return int(x), int(y)
}

// find returns the slot of a key in a bucket, or -1.
func (l *ledger) find(bucket int, first uint64) int {
	b := &l.buckets[bucket]
	for i := range b.keys {
		if b.keys[i].Load() == first {
			return bucket*ledgerSlots + i
		}
	}
	return -1
}

// claim takes a slot of a bucket that is empty or says nothing any more, for a
// key that owes nothing. -1 is none.
func (l *ledger) claim(bucket int, first, second uint64, present int64) int {
	b := &l.buckets[bucket]
	for i := range b.keys {
		key, slot := b.keys[i].Load(), &b.slots[i]
		tat := slot.tat.Load()
		if key == claimed || key != 0 && tat+int64(idleBefore)*ticksPerNanosecond > present || slot.untold.Load() != 0 {
			continue
		}
		if !b.keys[i].CompareAndSwap(key, claimed) {
			continue
		}
		if !slot.tat.CompareAndSwap(tat, present) { // it was charged at the last moment
			b.keys[i].Store(key)
			continue
		}
		slot.second.Store(second)
		slot.plan.Store(0)
		b.keys[i].Store(first)
		return bucket*ledgerSlots + i
	}
	return -1
}

// raise has the key at a slot owe at least until tat, if it is still there.
func (l *ledger) raise(at int, first uint64, tat int64) {
	b := &l.buckets[at/ledgerSlots]
	slot := &b.slots[at%ledgerSlots]
	for {
		was := slot.tat.Load()
		if was >= tat || b.keys[at%ledgerSlots].Load() != first || slot.tat.CompareAndSwap(was, tat) {
			return
		}
	}
}

// told is one key of an exchange.
type told struct {
	at            int
	first, second uint64
	took          int64 // requests taken from untold
	rate          Rate
	burst         int64
}

// mostExchanged keys go in one round trip: some 5 ms of Redis' time.
const mostExchanged = 1024

// sync tells Redis every SharedConfig.Sync what was admitted.
func (s *Shared) sync() {
	tick := time.NewTicker(s.cfg.Sync.Std())
	defer tick.Stop()
	var b batch
	list := make([]told, 0, mostExchanged)
	for {
		select {
		case <-s.quit:
			if s.client.Up() && !s.gate.isShut.Load() {
				s.exchange(&b, list)
			}
			return
		case <-tick.C:
			if !s.away() {
				s.exchange(&b, list)
			}
		}
	}
}

// exchangeTimeout bounds one round trip of an exchange.
func (s *Shared) exchangeTimeout() time.Duration { return 10 * s.cfg.Timeout.Std() }

// exchange tells Redis of all keys that changed, in as many round trips as it
// takes, until one fails.
func (s *Shared) exchange(b *batch, list []told) {
	begin := time.Now()
	l, list, good := s.ledger, list[:0], true
	for w := range l.changed {
		word := l.changed[w].Load()
		if word == 0 {
			continue
		}
		l.changed[w].And(^word)
		for ; word != 0; word &= word - 1 {
			list = s.collect(list, w*64+bits.TrailingZeros64(word))
		}
		if len(list) > mostExchanged-64 {
			if good = s.tell(b, list); !good {
				return
			}
			list = list[:0]
		}
	}
	if len(list) > 0 {
		good = s.tell(b, list)
	}
	if good {
		s.events.syncs.Add(1)
		s.events.lastSync.Store(int64(time.Since(begin)))
	}
}

// collect takes what the key at a slot has to tell. Nothing is a look at what
// others told since.
func (s *Shared) collect(list []told, at int) []told {
	bucket := &s.ledger.buckets[at/ledgerSlots]
	key, slot := &bucket.keys[at%ledgerSlots], &bucket.slots[at%ledgerSlots]
	t := told{at: at, first: key.Load(), second: slot.second.Load()}
	plan := slot.plan.Load()
	t.took = slot.untold.Swap(0)
	if t.first <= claimed || plan == 0 || key.Load() != t.first {
		if t.took > 0 {
			s.untell(t) // it is being claimed: next time
		}
		return list
	}
	t.rate, t.burst = unpackPlan(plan)
	return append(list, t)
}

// untell gives back what collect took.
func (s *Shared) untell(t told) {
	if s.ledger.buckets[t.at/ledgerSlots].slots[t.at%ledgerSlots].untold.Add(t.took) == t.took {
		s.ledger.mark(t.at)
	}
}

// mostTold is what is paid in for one key at most: twice what it could have
// been admitted between two exchanges. More piles up only while Redis is away,
// and is long paid off by the time that it is back.
func (s *Shared) mostTold(rate Rate, burst int64) int64 {
	stretch := 2 * (s.cfg.Sync.Std() + s.exchangeTimeout() + time.Duration(s.events.lastSync.Load()))
	hi, lo := bits.Mul64(uint64(rate.Count), uint64(stretch))
	n, _ := bits.Div64(hi, lo, uint64(rate.Per))
	return burst + int64(n) + 1
}

// tell is one round trip of an exchange. What could not be told is left for
// the next one; if it was lost on the way back it will be told twice, which errs
// on the side of refusing.
func (s *Shared) tell(b *batch, list []told) bool {
	l := s.ledger
	b.reset()
	for i := range list {
		t := &list[i]
		if most := s.mostTold(t.rate, t.burst); t.took > most {
			t.took = most
			s.events.capped.Add(1)
		}
		a := chargeArgs(t.rate, -1, t.took)
		b.add(s.prefix, keyOf(t.first, t.second), &a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.exchangeTimeout())
	s.roundTrip(ctx, b)
	cancel()
	present := monotonic() * ticksPerNanosecond
	good := true
	for i := range list {
		t := &list[i]
		bucket := &l.buckets[t.at/ledgerSlots]
		if b.failed[i] {
			good = false
			if bucket.keys[t.at%ledgerSlots].Load() == t.first {
				s.untell(*t)
			}
			continue
		}
		// Redis counts from the moment it answered, which was before present:
		// the debt is taken for a little higher than it is, never for lower.
		owed := min(spread(b.answers[i], t.rate), int64(mostTicks)/ticksPerNanosecond)
		if t.took > 0 {
			// What the others admitted in the same stretch may reach Redis
			// after this: the next exchange looks again.
			l.mark(t.at)
		}
		since := charge(bucket.slots[t.at%ledgerSlots].untold.Load(), intervalTicks(t.rate), mostTicks)
		l.raise(t.at, t.first, present+owed*ticksPerNanosecond+since)
	}
	if good {
		s.answered()
	} else {
		s.failed()
	}
	return good
}
