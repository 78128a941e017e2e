package auth

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

// memo remembers proven credentials in bounded memory until they expire. A
// credential is found by a keyed hash and then compared as a whole, in constant
// time: a collision finds another place, never another identity. Get takes no
// lock and allocates nothing. Every method may be called from many goroutines.
type memo struct {
	seed    maphash.Seed
	mask    uint64
	longest int
	sets    []memoSet
}

// memoWays places share one set: a new entry replaces an expired one of its set,
// else the one that was not asked for the longest.
const memoWays = 4

type memoSet struct {
	ways [memoWays]atomic.Pointer[proof]
	hand atomic.Uint32
}

// proof is a credential that was proven.
type proof struct {
	hash       uint64
	credential []byte
	identity   *Identity
	expires    int64        // Unix seconds
	alive      *atomic.Bool // of the key that proved it; nil is for ever
	asked      atomic.Bool
}

// equal compares a and b in a time that tells nothing but their lengths. It takes
// eight bytes at a time, for tokens are long; crypto/subtle takes one.
func equal(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	var differ uint64
	for len(a) >= 8 {
		differ |= binary.LittleEndian.Uint64(a) ^ binary.LittleEndian.Uint64(b)
		a, b = a[8:], b[8:]
	}
	for i := range a {
		differ |= uint64(a[i] ^ b[i])
	}
	return differ == 0
}

// newMemo returns a memo for about entries credentials of at most longest bytes
// each.
func newMemo(entries, longest int) *memo {
	n := uint64(1)
	for n*memoWays < uint64(max(entries, memoWays)) {
		n *= 2
	}
	return &memo{seed: maphash.MakeSeed(), mask: n - 1, longest: longest, sets: make([]memoSet, n)}
}

func (m *memo) hash(credential []byte) uint64 { return maphash.Bytes(m.seed, credential) }

// get returns the identity that credential proves at the time now (Unix seconds),
// or nil.
func (m *memo) get(credential []byte, now int64) *Identity {
	hash := m.hash(credential)
	set := &m.sets[hash&m.mask]
	for i := range set.ways {
		p := set.ways[i].Load()
		if p == nil || p.hash != hash || !equal(p.credential, credential) {
			continue
		}
		if now >= p.expires || p.alive != nil && !p.alive.Load() {
			set.ways[i].CompareAndSwap(p, nil)
			return nil
		}
		if !p.asked.Load() {
			p.asked.Store(true)
		}
		return p.identity
	}
	return nil
}

// put remembers that credential proves id until expires (Unix seconds), or until
// alive is false. It copies credential.
func (m *memo) put(credential []byte, id *Identity, now, expires int64, alive *atomic.Bool) {
	if len(credential) > m.longest || expires <= now {
		return
	}
	p := &proof{hash: m.hash(credential), credential: append([]byte(nil), credential...), identity: id, expires: expires, alive: alive}
	set := &m.sets[p.hash&m.mask]
	place := -1
	for i := range set.ways {
		q := set.ways[i].Load()
		if q != nil && q.hash == p.hash && equal(q.credential, credential) {
			place = i // rather than a free place: it would be there twice
			break
		}
		if place < 0 && (q == nil || now >= q.expires || q.alive != nil && !q.alive.Load()) {
			place = i
		}
	}
	for n := 0; place < 0 && n < 2*memoWays; n++ {
		i := int(set.hand.Add(1) % memoWays)
		if q := set.ways[i].Load(); q == nil || !q.asked.Swap(false) {
			place = i
		}
	}
	set.ways[max(place, 0)].Store(p)
}

// forget ends every entry for which gone is true.
func (m *memo) forget(gone func(*Identity) bool) {
	for i := range m.sets {
		for j := range m.sets[i].ways {
			if p := m.sets[i].ways[j].Load(); p != nil && gone(p.identity) {
				m.sets[i].ways[j].CompareAndSwap(p, nil)
			}
		}
	}
}

// len counts what is remembered, expired entries included.
func (m *memo) len() (n int) {
	for i := range m.sets {
		for j := range m.sets[i].ways {
			if m.sets[i].ways[j].Load() != nil {
				n++
			}
		}
	}
	return n
}
