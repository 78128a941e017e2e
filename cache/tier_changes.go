package cache

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// changes are the invalidations that Redis has not been told of, by the place of
// their path: there is room for all.
type changes struct {
	n       atomic.Int64 // places with a mark in either list
	told    chan struct{}
	mu      sync.Mutex // guards what follows
	waiting []uint64   // a bit for each place
	sending []uint64   // those that are being told
	next    int        // word of waiting where take goes on
}

const (
	placeBits = 20
	places    = 1 << placeBits // of paths that share a generation; part of what the gateways agree on
	mostSent  = 256            // invalidations in a round trip
)

func newChanges() changes {
	return changes{told: make(chan struct{}, 1), waiting: make([]uint64, places/64), sending: make([]uint64, places/64)}
}

// add notes that the answers of a place are invalid.
func (c *changes) add(place uint32) {
	c.mu.Lock()
	c.mark(int(place/64), 1<<(place%64))
	c.mu.Unlock()
	c.wake()
}

func (c *changes) wake() {
	select {
	case c.told <- struct{}{}:
	default:
	}
}

// mark adds places of a word to those that wait. The caller holds the lock.
func (c *changes) mark(w int, mask uint64) {
	fresh := mask &^ (c.waiting[w] | c.sending[w])
	c.waiting[w] |= mask
	c.n.Add(int64(bits.OnesCount64(fresh)))
}

// has tells whether the invalidation of a place has not been delivered.
func (c *changes) has(place uint32) bool {
	if c.n.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return (c.waiting[place/64]|c.sending[place/64])>>(place%64)&1 != 0
}

// take moves up to mostSent places to those that are being told, others each
// time: some may fail while others could be told.
func (c *changes) take(list []uint32) []uint32 {
	if c.n.Load() == 0 {
		return list
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.waiting {
		w := (c.next + i) % len(c.waiting)
		for word := c.waiting[w]; word != 0; word &= word - 1 {
			if len(list) == mostSent {
				c.next = w
				return list
			}
			bit := word & -word
			c.waiting[w] &^= bit
			c.sending[w] |= bit
			list = append(list, uint32(w*64+bits.TrailingZeros64(bit)))
		}
	}
	return list
}

// settle ends what take began. What could not be told waits again, and what
// changed meanwhile still does.
func (c *changes) settle(list []uint32, delivered []bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, place := range list {
		w, bit := place/64, uint64(1)<<(place%64)
		c.sending[w] &^= bit
		if !delivered[i] {
			c.waiting[w] |= bit
		}
		if c.waiting[w]&bit == 0 {
			c.n.Add(-1)
		}
	}
}

// adopt takes what from has, which keeps it.
func (c *changes) adopt(from *changes) {
	from.mu.Lock()
	defer from.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range from.waiting {
		if mask := from.waiting[w] | from.sending[w]; mask != 0 {
			c.mark(w, mask)
		}
	}
	c.wake()
}

// Invalidate ends what the second tier has under uri, with any query, for all
// gateways; what they hold in their own memory is not touched, also not here. It
// does not wait: Redis is told at once, or as soon as it can be. Until then this
// gateway uses nothing that stands there under the path of uri. After Close it
// is of no use, unless another Fleet has adopted f.
func (f *Fleet) Invalidate(uri []byte) {
	if f.tier == nil {
		return
	}
	f.tier.changes.add(tierPlace(uri))
	if heir := f.heir.Load(); heir != nil {
		heir.Invalidate(uri)
	}
}

// deliver tells Redis of invalidations until f is closed, and a last time then.
func (f *Fleet) deliver() {
	for {
		for f.tell() {
		}
		c := &f.tier.changes
		if c.n.Load() > 0 { // Redis is away
			if !f.pause(f.cfg.Sync.Std()) {
				return
			}
			continue
		}
		select {
		case <-c.told:
		case <-f.quit():
			for f.tell() {
			}
			return
		}
	}
}

// tell is one round trip. It is true when all of it went well and there was
// something to tell.
func (f *Fleet) tell() bool {
	t := f.tier
	conn, err := f.client.Conn()
	if err != nil {
		return false
	}
	list := t.changes.take(nil)
	if len(list) == 0 {
		return false
	}
	commands := make([]rueidis.Completed, len(list))
	for i, place := range list {
		commands[i] = conn.B().Del().Key(t.generationKey(place)).Build()
	}
	delivered, good := make([]bool, len(list)), true
	for i, r := range conn.DoMulti(context.Background(), commands...) {
		if delivered[i] = r.Error() == nil; delivered[i] {
			f.counts.invalidations.Add(1)
			continue
		}
		good = false
		if r.NonRedisError() != nil {
			f.client.Check()
		}
	}
	t.changes.settle(list, delivered)
	return good
}
