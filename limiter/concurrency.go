package limiter

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// mostInFlight bounds the requests of one key that may be at work.
const mostInFlight = 1_000_000

// retryInFlight is when one who met a full number in flight is told to come
// again, in nanoseconds: nobody knows when a request ends, and a second keeps
// away those who would ask again at once.
const retryInFlight = 1_000_000_000

// Place is what a request that Enter let through holds until Leave. The zero
// Place holds nothing. A Place is not copied and is used by one goroutine at a
// time; it outlives reloads.
type Place struct{ slot *atomic.Uint64 }

// Enter asks a limit by concurrency whether one more request of key may be at
// work under the plan (nil is the limit's own), and if so takes a place
// for it. Whoever was let through must call Leave of the place, once, however
// the request ends. There are never more at work than the plan's number, exactly;
// when plans of one key differ each is held to its own.
func (l *Limit) Enter(key uint64, plan *Plan, place *Place) Decision {
	if l.kind != ByConcurrency {
		panic("BUG: limiter: Enter of a limit that is not by concurrency")
	}
	if plan == nil {
		plan = l.own
	}
	d := Decision{Limit: plan.most, plan: plan}
	slot, held, v := l.inFlight.enter(key, plan.most)
	switch {
	case v == taken:
		place.slot = slot
		d.OK, d.Remaining = true, max(plan.most-held, 0)
	case v == refused:
		d.RetryAfter = retryInFlight
	case l.closed:
		d.RetryAfter = retryInFlight
	default:
		d.OK, d.Remaining = true, plan.most-1
	}
	d.OK, d.DryRun = l.count(d.OK, v == full)
	return d
}

// Leave gives the place back. It does nothing on a place that holds nothing.
func (p *Place) Leave() {
	if p.slot == nil {
		return
	}
	slot := p.slot
	p.slot = nil
	for lost := 0; ; lost++ {
		word := slot.Load()
		next := word - 1
		if uint32(next) == 0 {
			next = 0 // the last one leaves no trace
		}
		if slot.CompareAndSwap(word, next) {
			return
		}
		backOff(lost)
	}
}

// inFlight is a fixed, lock-free hash table from keys to numbers in flight. It is
// built as table is: a key lives in one of two groups, each one cache line.
//
// A slot is one word: 32 bits of the key's hash (its print, never 0), and how
// many are at work. One that is held cannot become another key's, for the count
// is part of the word and whoever holds a place is in it: so Leave needs no
// look-up and can hit no other. When the last has left, the slot is empty.
//
// A key must have one slot only, or twice its number could be at work. Whoever
// finds none puts a tentative word into an empty slot: the print, the top bit
// and a random number, no count. Then every goroutine that looks for the key
// does what brings it to one slot:
//
//   - A slot in use is counted up, and a tentative one that was seen before is
//     emptied.
//   - Of two tentative slots the second is emptied.
//   - A tentative slot that is alone in a look at all slots which began after it
//     was seen becomes the key's slot, with a count of one: for whoever does
//     that first, not necessarily for who put it there.
//
// So no two become the key's at one time: of two tentative words the later is
// put in before the look that would confirm it begins, and that look sees the
// earlier, unless it is gone; and a word that is gone cannot be confirmed, for
// another that is put into its slot has another number. Nobody waits for
// anybody: who fell asleep over his tentative word finds it used or gone.
type inFlight struct{ groups []inFlightGroup }

type inFlightGroup [8]atomic.Uint64

// tentative marks the low half of a word that is not in use yet.
const tentative = 1 << 31

// newInFlight returns a table for keys keys: 64 bytes for each four.
func newInFlight(keys int) *inFlight {
	return &inFlight{make([]inFlightGroup, (keys+keysPerGroup-1)/keysPerGroup)}
}

// enter counts key up if it has fewer than most at work, and returns its slot
// and how many there are then.
func (t *inFlight) enter(key uint64, most int64) (slot *atomic.Uint64, held int64, v verdict) {
	n := uint64(len(t.groups))
	first, _ := bits.Mul64(key, n)
	second, _ := bits.Mul64(key*0x9e3779b97f4a7c15, n)
	if first == second {
		if second++; second == n {
			second = 0
		}
	}
	print := uint64(max(uint32(key), 1)) << 32
	groups := [2]*inFlightGroup{&t.groups[first], &t.groups[second]}

	var seen *atomic.Uint64 // a tentative slot that was alone
	var seenWord uint64
	for lost := 0; ; lost++ {
		look := scan(&groups, print)
		switch {
		case look.used != nil:
			if seen != nil {
				seen.CompareAndSwap(seenWord, 0)
			}
			held = int64(uint32(look.usedWord))
			if held >= most {
				return nil, held, refused
			}
			if look.used.CompareAndSwap(look.usedWord, look.usedWord+1) {
				return look.used, held + 1, taken
			}
			backOff(lost)
		case look.second != nil:
			look.second.CompareAndSwap(look.secondWord, 0)
		case look.tentative == nil:
			if look.empty == nil {
				return nil, 0, full
			}
			word := print | tentative | uint64(rand.Uint32N(tentative))
			if look.empty.CompareAndSwap(0, word) {
				seen, seenWord = look.empty, word
			}
		case look.tentative == seen && look.tentativeWord == seenWord:
			if seen.CompareAndSwap(seenWord, print|1) {
				return seen, 1, taken
			}
		default:
			seen, seenWord = look.tentative, look.tentativeWord
		}
	}
}

// look is what one pass over both groups shows of a key.
type look struct {
	used, tentative, second             *atomic.Uint64
	usedWord, tentativeWord, secondWord uint64
	empty                               *atomic.Uint64 // in the emptier group
}

func scan(groups *[2]*inFlightGroup, print uint64) (l look) {
	var empty [2]*atomic.Uint64
	var free [2]int
	for g, group := range groups {
		for i := range group {
			slot := &group[i]
			word := slot.Load()
			switch {
			case word == 0:
				if free[g]++; free[g] == 1 {
					empty[g] = slot
				}
			case word>>32 != print>>32:
			case word&tentative == 0:
				l.used, l.usedWord = slot, word
				return l
			case l.tentative == nil:
				l.tentative, l.tentativeWord = slot, word
			default:
				l.second, l.secondWord = slot, word
			}
		}
	}
	l.empty = empty[0]
	if free[1] > free[0] {
		l.empty = empty[1]
	}
	return l
}
