package pool

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// Extra keeps the tries beyond the first within a share of the live
// traffic, so that an outage is not multiplied. Every request pays in its
// share of a token and every further try takes a whole one. The store is
// small: what was saved in good times cannot be spent on a storm. The floor
// lets a quiet upstream retry at all; it is no second allowance beside the
// share: tries paid with tokens count towards it, and it is paid back.
//
// For any arrivals the tries granted are at most
// share * requests + floor * (seconds begun), and in a stretch of time at most
// share * requests in it + storedTokens + floor * (seconds begun in it).
//
// It is lock-free, takes the time as an argument and never allocates.
type Extra struct {
	perRequest int64 // in units of 1/token
	most       int64
	floor      int64
	tokens     atomic.Int64
	spent      atomic.Uint64 // a second, and what it has granted up to the floor
	denied     atomic.Uint64
	granted    atomic.Uint64
}

// token is one try. Its parts are small enough for a share of 0.0001 %.
const token = 1_000_000

// storedTokens is how many tries may be saved up.
const storedTokens = 10

// spentBits hold the tries of a second in Extra.spent: more than the
// largest floor.
const spentBits = 21

// NewExtra returns a budget of extra tries: a share of the requests, and floor
// of them each second in any case.
func NewExtra(share float64, floor int) *Extra {
	return &Extra{
		perRequest: int64(math.Round(share * token)),
		most:       storedTokens * token,
		floor:      min(int64(floor), 1<<spentBits-1),
	}
}

// Paid counts a request. Goroutines that pay at the same moment may pass the
// store's bound by their one share each.
func (b *Extra) Paid() {
	if b.tokens.Load() < b.most {
		b.tokens.Add(b.perRequest)
	}
}

// Take asks for a further try at the time now.
func (b *Extra) Take(now int64) bool {
	if b.takeToken() {
		b.takeFloor(now)
		b.granted.Add(1)
		return true
	}
	if b.takeFloor(now) {
		// The debt is bounded, or a long quiet time would cost a busy one.
		if b.tokens.Load() > -b.floor*token {
			b.tokens.Add(-token)
		}
		b.granted.Add(1)
		return true
	}
	b.denied.Add(1)
	return false
}

func (b *Extra) takeToken() bool {
	for {
		have := b.tokens.Load()
		if have < token {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-token) {
			return true
		}
	}
}

// takeFloor takes one of the tries that the floor gives to this second. Second
// and count are one word, so that a caller whose now is a little old cannot
// bring a second back with its tries unspent.
func (b *Extra) takeFloor(now int64) bool {
	second := uint64(max(now, 0)) / 1e9
	for {
		was := b.spent.Load()
		next := was
		if second > was>>spentBits {
			next = second << spentBits
		}
		if int64(next&(1<<spentBits-1)) >= b.floor {
			return false
		}
		if b.spent.CompareAndSwap(was, next+1) {
			return true
		}
	}
}

// Backoff is the wait before try n (2 is the first repetition): uniform between
// 0 and base doubled for each, at most most, all in nanoseconds. Full jitter
// spreads the callers that failed together.
func Backoff(n int, base, most int64) int64 {
	return rand.Int64N(min(backoffLimit(n, base, most), math.MaxInt64-1) + 1)
}

// backoffLimit is the longest wait before try n.
func backoffLimit(n int, base, most int64) int64 {
	shift := max(n-2, 0)
	if base <= 0 || most <= 0 {
		return 0
	}
	if shift >= 63 || base > most>>shift {
		return most
	}
	return base << shift
}
