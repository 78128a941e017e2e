package auth

import (
	"sync"
	"time"
)

// replayMemory remembers which nonces have been used, for at least the time
// that a signature with one of them is taken.
//
// Nonces lie in two generations: new ones go into the younger; once it is as
// old as the window, it becomes the elder and what the elder held is forgotten.
// So each is known for one to two windows, and nothing has to be cleaned. Only
// signatures that hold spend nonces, so whoever has no key cannot fill it; when it
// is full it says so, for forgetting would let replays pass. The lock of a shard
// is held for two look-ups.
type replayMemory struct {
	window time.Duration
	most   int // of a generation of a shard
	shards [replayShards]replayShard
}

const replayShards = 16

type replayShard struct {
	mu             sync.Mutex
	since          time.Time // when younger began
	younger, elder map[[16]byte]uint64
}

// nonceState is what became of a nonce.
type nonceState uint8

const (
	nonceFresh nonceState = iota
	nonceSpent
	nonceNoRoom
)

// newReplayMemory remembers about most nonces for each window.
func newReplayMemory(window time.Duration, most int) *replayMemory {
	// A sixteenth more, because keys do not spread evenly.
	return &replayMemory{window: window, most: most/replayShards + most/replayShards/16 + 1}
}

// spend uses the nonce that key stands for. bearer is the request that spends
// it: the same one may do so again. It may be called from many goroutines.
func (m *replayMemory) spend(key [16]byte, bearer uint64, now time.Time) nonceState {
	s := &m.shards[key[0]%replayShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch age := now.Sub(s.since); {
	case s.younger == nil, age >= 2*m.window:
		s.younger, s.elder, s.since = map[[16]byte]uint64{}, nil, now
	case age >= m.window:
		s.younger, s.elder, s.since = map[[16]byte]uint64{}, s.younger, now
	}
	by, used := s.younger[key]
	if !used {
		by, used = s.elder[key]
	}
	switch {
	case used && by == bearer:
		return nonceFresh
	case used:
		return nonceSpent
	case len(s.younger) >= m.most:
		return nonceNoRoom
	}
	s.younger[key] = bearer
	return nonceFresh
}

// len counts what is remembered.
func (m *replayMemory) len() (n int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.younger) + len(s.elder)
		s.mu.Unlock()
	}
	return n
}
