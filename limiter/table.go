package limiter

import (
	"math/bits"
	"sync/atomic"
)

// Time is counted in units: 512ths of a request at the limit's fastest rate. So
// a request of cost c moves a TAT by exactly c*unitsPerRequest whatever that
// rate is, nothing is rounded twice, and a TAT fits in 32 bits beside its key.
// At a slower rate a request takes more units, rounded up once: see Plan.
const unitsPerRequest = 512

const (
	// epochBits: an epoch is 2^29 units, about a million requests at the full
	// rate: 1.05 s at 1,000,000/s, 2.9 h at 100/s.
	epochBits = 29
	epochLen  = 1 << epochBits

	// mostBurst, in requests, keeps every TAT within an epoch of now.
	mostBurst = 1_000_000
	mostRoom  = mostBurst * unitsPerRequest
	_         = uint(epochLen - mostRoom) // not negative

	groupSlots   = 7
	keysPerGroup = 4 // so that a table with as many keys as it is made for is 4/7 full
	spillAt      = 5 // slots in use from which on a new key looks at its second group
)

// table is a fixed, open-addressed hash table from keys to TATs. A key lives
// in one of two groups, each one cache line, so that a look-up reads at most
// two. All methods are safe for many goroutines and lock-free.
//
// A slot is one word: 32 bits of the key's hash (its print, never 0) and the
// low 32 bits of its TAT; 0 is an empty slot. Two keys share a budget only if
// print and group are the same: 2^-38 for any two in the smallest table, 2^-48
// with a million keys.
//
// The rest of a TAT is in its group's epoch e. All of the group's TATs lie
// between e-4 and e+4 epochs, where 32 bits are enough: one is written at most
// two epochs ahead (by a burst and what is left of its epoch), and before the
// group enters a new epoch what has passed by then is emptied. So a slot left
// alone for a year does not come back to life when 32 bits have run around.
//
// Why single steps are enough:
//   - Charging a key, renewing it and taking over a passed slot are each one
//     compare-and-swap on one word that holds key and TAT. One who is late finds
//     another word and looks again, or the same word and with it the same state.
//   - Two goroutines that insert one key at once choose the same slot, and one
//     loses, unless another slot passes between their looks. So who inserts
//     looks again afterwards, and if there is a twin takes its own slot back and
//     starts anew: of two at least the later sees the other. Only if a third
//     has charged that slot by then do both stay; look-ups find the first, and
//     what was charged to the other, a request or two, is forgotten.
//   - A goroutine that sleeps for three epochs between reading a word and
//     writing it, while nobody uses the group, could bring in a TAT of another
//     turn of the 32 bits. insert, which an empty slot would let through, looks
//     at the epoch again.
type table struct{ groups []group }

type group struct {
	epoch atomic.Uint64
	slots [groupSlots]atomic.Uint64
}

// newTable returns a table for keys keys: 64 bytes for each four.
func newTable(keys int) *table {
	return &table{make([]group, (keys+keysPerGroup-1)/keysPerGroup)}
}

// places returns the print of key and its two groups. The table has two.
func (t *table) places(key uint64) (print uint32, a, b *group) {
	n := uint64(len(t.groups))
	first, _ := bits.Mul64(key, n)
	second, _ := bits.Mul64(key*0x9e3779b97f4a7c15, n)
	if first == second {
		second++
		if second == n {
			second = 0
		}
	}
	return max(uint32(key), 1), &t.groups[first], &t.groups[second]
}

// verdict is the outcome of a charge.
type verdict uint8

const (
	taken   verdict = iota // charged
	refused                // over the room
	full                   // no slot for the key
)

// standing is where a key stands after a charge: at the time from its TAT is
// debt units ahead. When the table is full debt is the time to the next slot.
type standing struct {
	verdict verdict
	from    uint64
	debt    int64
}

// charge adds units to the debt of key at the time now if that is then at most
// room, which is at most mostBurst requests. now may be behind the time of
// other calls: it is taken as no earlier than its group's epoch.
func (t *table) charge(key, now uint64, units, room int64) standing {
	print, a, b := t.places(key)
	for {
		if s, found := a.charge(print, now, units, room); found {
			return s
		}
		if s, found := b.charge(print, now, units, room); found {
			return s
		}
		if s, done := insert(a, b, print, now, units, room); done {
			return s
		}
	}
}

// charge is table.charge within g; found is false when print is not there.
func (g *group) charge(print uint32, now uint64, units, room int64) (s standing, found bool) {
	for lost := 0; ; lost++ {
		epoch := g.enter(now)
		i, word := g.find(print)
		if i < 0 {
			return standing{}, false
		}
		if g.epoch.Load() != epoch {
			continue // the word may be of a later one
		}
		s.from, s.debt = debtOf(word, epoch, now)
		if s.debt+units > room {
			s.verdict = refused
			return s, true
		}
		s.debt += units
		if units == 0 || g.slots[i].CompareAndSwap(word, pack(print, s.from+uint64(s.debt))) {
			return s, true
		}
		backOff(lost)
	}
}

// refund takes up to units from the debt of key at the time now. What it no
// longer owes by then is not given back.
func (t *table) refund(key, now uint64, units int64) {
	print, a, b := t.places(key)
	if !a.refund(print, now, units) {
		b.refund(print, now, units)
	}
}

func (g *group) refund(print uint32, now uint64, units int64) (found bool) {
	for lost := 0; ; lost++ {
		epoch := g.enter(now)
		i, word := g.find(print)
		if i < 0 {
			return false
		}
		if g.epoch.Load() != epoch {
			continue
		}
		from, debt := debtOf(word, epoch, now)
		if debt == 0 || g.slots[i].CompareAndSwap(word, pack(print, from+uint64(max(debt-units, 0)))) {
			return true
		}
		backOff(lost)
	}
}

// backOff is for one who lost a word to another core: it spins for a while, a
// few microseconds at most, in which the winner can go on with the word. Words
// that change their core with every call cost each of them more than the
// decision does.
func backOff(lost int) {
	for spin := firstWait << min(lost, 2); spin > 0; spin-- {
	}
}

const firstWait = 1024

// insert charges a key that is in neither group, if its debt may be that high.
// done is false when others changed the groups; then the key must be looked up
// again.
func insert(a, b *group, print uint32, now uint64, units, room int64) (s standing, done bool) {
	s.from = now
	if units > room {
		s.verdict = refused
		return s, true
	}
	if units == 0 {
		return s, true
	}
	g, v := a, a.survey(now)
	if v.live >= spillAt {
		if w := b.survey(now); w.live < v.live {
			g, v = b, w
		} else if v.live == groupSlots {
			return standing{full, now, min(v.soonest, w.soonest)}, true
		}
	}
	s.from, s.debt = max(now, v.epoch<<epochBits), units
	word := pack(print, s.from+uint64(units))
	if !g.slots[v.slot].CompareAndSwap(v.word, word) {
		return s, false
	}
	if g.epoch.Load() == v.epoch && a.count(print)+b.count(print) == 1 {
		return s, true
	}
	return s, !g.slots[v.slot].CompareAndSwap(word, 0)
}

func pack(print uint32, tat uint64) uint64 { return uint64(print)<<32 | tat&(1<<32-1) }

// ahead is how far the TAT in word lies after the begin of epoch, to which the
// word must belong. One before it has passed.
func ahead(word, epoch uint64) int64 {
	return int64(int32(uint32(word) - uint32(epoch<<epochBits)))
}

// debtOf returns the time from which a debt counts and the debt in word: 0
// when its TAT has passed.
func debtOf(word, epoch, now uint64) (from uint64, debt int64) {
	begin := epoch << epochBits
	from = max(now, begin)
	return from, max(ahead(word, epoch)-int64(from-begin), 0)
}

// find returns the slot of print and its word, or -1.
func (g *group) find(print uint32) (int, uint64) {
	for i := range g.slots {
		if w := g.slots[i].Load(); uint32(w>>32) == print {
			return i, w
		}
	}
	return -1, 0
}

// count is how many slots print has.
func (g *group) count(print uint32) (n int) {
	for i := range g.slots {
		if uint32(g.slots[i].Load()>>32) == print {
			n++
		}
	}
	return n
}

// view is what a newcomer sees of a group.
type view struct {
	epoch   uint64
	live    int    // slots whose TAT lies ahead
	slot    int    // the first that may be taken, when live < groupSlots
	word    uint64 // in slot
	soonest int64  // units until the next slot passes, when none may be taken
}

func (g *group) survey(now uint64) view {
again:
	v := view{epoch: g.enter(now), slot: -1, soonest: 1<<63 - 1}
	for i := range g.slots {
		word := g.slots[i].Load()
		if word != 0 {
			if _, debt := debtOf(word, v.epoch, now); debt > 0 {
				v.live++
				v.soonest = min(v.soonest, debt)
				continue
			}
		}
		if v.slot < 0 {
			v.slot, v.word = i, word
		}
	}
	if g.epoch.Load() != v.epoch {
		goto again
	}
	return v
}

// enter brings g into the epoch of now, unless it is in that or a later one
// already, and returns the one that it is in.
func (g *group) enter(now uint64) uint64 {
	to := now >> epochBits
	for {
		epoch := g.epoch.Load()
		if epoch >= to {
			return epoch
		}
		g.advance(epoch, to)
	}
}

// advance empties the slots whose TAT has passed before the epoch to begins,
// and only then enters it: nobody reads an old word in a new epoch.
func (g *group) advance(epoch, to uint64) {
	var words [groupSlots]uint64
	for i := range g.slots {
		words[i] = g.slots[i].Load()
	}
	if g.epoch.Load() != epoch {
		return // some of the words may be of a later one
	}
	for i, word := range words {
		if word != 0 && ahead(word, epoch) <= int64(to-epoch)<<epochBits {
			g.slots[i].CompareAndSwap(word, 0)
		}
	}
	g.epoch.CompareAndSwap(epoch, to)
}
