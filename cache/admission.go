package cache

import "sync/atomic"

// admission remembers, in fixed memory, how often keys were asked for lately and
// which were thrown out unasked. It is what makes two plain queues scan-proof
// (S3-FIFO: Yang et al., SOSP 2023): an object begins in a small queue, and only
// one that was asked for again, or had been thrown out a moment ago, gets into
// the large one. All methods are lock-free; keys that share a place share their
// luck, which costs a little of the hit ratio and nothing else.
type admission struct {
	counts []atomic.Uint32 // sixteen counters of two bits each
	ghosts []atomic.Uint32 // prints of what was thrown out
	turns  []atomic.Uint32 // when, in thrown out objects
	turn   atomic.Uint32
	memory uint32 // how many thrown out objects are remembered
}

// newAdmission returns the memory for about n objects: 1/4 byte a counter, 32
// counters an object to keep strangers apart (with four of them every tenth
// object of a scan got into the large queue), and eight bytes a ghost.
func newAdmission(n int) *admission {
	size := 1 << 10
	for size < n {
		size *= 2
	}
	return &admission{
		counts: make([]atomic.Uint32, 2*size),
		ghosts: make([]atomic.Uint32, size),
		turns:  make([]atomic.Uint32, size),
		memory: uint32(size),
	}
}

// mostCount is where a counter stops.
const mostCount = 3

func (a *admission) place(sum uint64) (word *atomic.Uint32, shift uint32) {
	i := sum >> 7
	return &a.counts[i/16&uint64(len(a.counts)-1)], uint32(i%16) * 2
}

// asked counts one more request for sum and returns how many there were before.
func (a *admission) asked(sum uint64) uint32 {
	word, shift := a.place(sum)
	for {
		old := word.Load()
		n := old >> shift & mostCount
		if n == mostCount || word.CompareAndSwap(old, old+1<<shift) {
			return n
		}
	}
}

// count is how often sum was asked for, up to mostCount.
func (a *admission) count(sum uint64) uint32 {
	word, shift := a.place(sum)
	return word.Load() >> shift & mostCount
}

// spend takes one request off sum's count. ok is false when there was none.
func (a *admission) spend(sum uint64) (ok bool) {
	word, shift := a.place(sum)
	for {
		old := word.Load()
		if old>>shift&mostCount == 0 {
			return false
		}
		if word.CompareAndSwap(old, old-1<<shift) {
			return true
		}
	}
}

// forget sets sum's count to nothing.
func (a *admission) forget(sum uint64) {
	word, shift := a.place(sum)
	for {
		old := word.Load()
		if old>>shift&mostCount == 0 || word.CompareAndSwap(old, old&^(mostCount<<shift)) {
			return
		}
	}
}

// thrownOut remembers sum as a ghost.
func (a *admission) thrownOut(sum uint64) {
	i := sum & uint64(len(a.ghosts)-1)
	a.turns[i].Store(a.turn.Add(1))
	a.ghosts[i].Store(max(uint32(sum>>32), 1))
}

// ghost tells whether sum was thrown out lately, and forgets that.
func (a *admission) ghost(sum uint64) bool {
	i := sum & uint64(len(a.ghosts)-1)
	print := max(uint32(sum>>32), 1)
	return a.ghosts[i].Load() == print && a.turn.Load()-a.turns[i].Load() < a.memory && a.ghosts[i].CompareAndSwap(print, 0)
}
