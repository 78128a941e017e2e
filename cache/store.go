package cache

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/allegro/bigcache/v3"
)

// Store keeps objects in bounded memory. Most of it is two sharded bigcaches, a
// small queue that everything begins in and a large one for what was asked for
// again (see admission); a part is the hot tier, from which an object is served
// without a lock, a copy or an allocation.
//
// An object lives until it is pushed out, replaced or purged; whether it is fresh
// is not the store's business.
//
// All methods may be called from many goroutines; none does IO.
type Store struct {
	seed        maphash.Seed
	hot         *hot
	small       *bigcache.BigCache
	main        *bigcache.BigCache
	smallMost   int // bytes of the largest object that begins in small
	admit       *admission
	purges      purges
	generations []atomic.Uint32
	largest     int
	pending     [stripes]pendingList
	waiting     atomic.Int64 // objects in pending
	// full is set when main has had to push something out. Until then nothing is
	// lost for want of room in small: not while a cache fills, and not what one
	// takes over from another.
	full    atomic.Bool
	buffers sync.Pool
	stripes [stripes]stripe // of those who replace an object, by its sum

	evicted, refused atomic.Uint64
}

type stripe struct {
	sync.Mutex
	_ [56]byte
}

// stripes is how many replacements go on at one time.
const stripes = 64

func stripeOf(sum uint64) uint64 { return sum >> 58 }

// StoreConfig says how much a Store may take.
type StoreConfig struct {
	Bytes     int64 // of all tiers together, at least LeastBytes
	MaxObject int   // bytes of the largest body that is taken
}

// LeastBytes is the smallest store.
const LeastBytes = 4 << 20

const (
	hotShare    = 16 // of the bytes, one in so many
	smallShare  = 10 // of the rest, one in so many
	objectGuess = 4 << 10
	// hotFrom is how often an object was asked for, without luck in the hot tier,
	// before it is let in: one that stays for long serves more than many that
	// drive each other out.
	hotFrom = 3
	// headRoom is what an object may have besides its body.
	headRoom = 128 << 10
	// never is a life window that does not end: objects carry their own.
	never = 100 * 365 * 24 * time.Hour
)

// NewStore returns an empty store. It takes address space for all of its bytes
// at once; pages are used as they are filled.
func NewStore(cfg StoreConfig) (*Store, error) {
	bytes := max(cfg.Bytes, LeastBytes)
	s := &Store{seed: maphash.MakeSeed(), largest: cfg.MaxObject + headRoom}
	hotBytes := bytes / hotShare
	rest := bytes - hotBytes
	smallBytes := rest / smallShare
	n := int(bytes / objectGuess)
	s.hot = newHot(hotBytes, max(2*n/hotShare, 64)) // objects that are small fill it too
	s.admit = newAdmission(2 * n)
	size := 1 << 14
	for size < 4*n && size < 1<<22 {
		size *= 2
	}
	s.generations = make([]atomic.Uint32, size)
	s.buffers.New = func() any { b := make([]byte, 0, objectGuess); return &b }
	var err error
	if s.small, s.smallMost, err = newQueue(smallBytes, s.largest, s.leftSmall); err != nil {
		return nil, err
	}
	if s.main, _, err = newQueue(rest-smallBytes, s.largest, s.leftMain); err != nil {
		return nil, err
	}
	return s, nil
}

// newQueue returns a bigcache of so many bytes whose shards each hold the largest
// object several times, where there is room for that. most is the size of
// objects that push out no more than a quarter of a shard.
func newQueue(bytes int64, largest int, left func(key string, entry []byte, reason bigcache.RemoveReason)) (_ *bigcache.BigCache, most int, err error) {
	mib := max(int(bytes>>20), 1)
	shards := 256
	for shards > 1 && bytes/int64(shards) < max(int64(largest)*4, 64<<10) {
		shards /= 2
	}
	for bytes/int64(shards) > 1<<30 {
		shards *= 2 // a shard counts its bytes with 32 bits
	}
	q, err := bigcache.New(context.Background(), bigcache.Config{
		Shards: shards, LifeWindow: never, HardMaxCacheSize: mib,
		// All of it from the start: growing would copy a shard under its lock.
		MaxEntriesInWindow: mib << 20 / objectGuess, MaxEntrySize: objectGuess,
		Hasher: passThrough{}, OnRemoveWithReason: left,
	}.OnRemoveFilterSet(bigcache.NoSpace))
	return q, mib << 20 / shards / 4, err
}

// passThrough is the hasher of keys that are sums already.
type passThrough struct{}

func (passThrough) Sum64(key string) (sum uint64) {
	for i := range len(key) {
		sum |= uint64(key[i]) << (8 * i)
	}
	return sum
}

// nameOf is the sum as bigcache wants its keys.
func nameOf(sum uint64) string {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], sum)
	return string(b[:])
}

// Get returns the object of key, or nil. A hot object costs no allocation. One
// that a soft purge hit is returned as stale.
func (s *Store) Get(key []byte) *Object {
	sum := maphash.Bytes(s.seed, key)
	if o := s.hot.get(sum, key); o != nil {
		return s.current(o)
	}
	version := s.hot.versionOf(sum)
	o := s.read(sum, key)
	if o == nil {
		return nil
	}
	if s.admit.asked(sum) >= hotFrom-1 {
		s.hot.promote(o, version)
	}
	return s.current(o)
}

// read looks for key in both queues.
func (s *Store) read(sum uint64, key []byte) *Object {
	name := nameOf(sum)
	for _, q := range [...]*bigcache.BigCache{s.main, s.small} {
		b, err := q.Get(name)
		if err != nil {
			continue
		}
		o, err := ParseObject(b)
		if err != nil || string(o.Key) != string(key) {
			continue // another key with the same sum
		}
		o.sum, o.place, o.tier = sum, s.placeOf(URI(o.Key)), s.hot
		return o
	}
	return nil
}

// current holds the purges since its last look against o, and what unsafe
// requests have changed.
func (s *Store) current(o *Object) *Object {
	if o.Generation != s.generations[o.place].Load() {
		s.remove(o.sum)
		return nil
	}
	latest := s.purges.latest.Load()
	if o.checked.Load() == latest {
		return o
	}
	verdict, at := s.purges.hit(o)
	switch {
	case verdict == gone:
		s.remove(o.sum)
		return nil
	case verdict == softened && o.Lists == nil && !(o.has(MarkPurged) && o.Life <= o.age(at)):
		stale := &Object{Key: o.Key, Entry: o.Entry, Body: o.Body, Tags: o.Tags, Asked: o.Asked, Generation: o.Generation, Sum: o.Sum, sum: o.sum, place: o.place, tier: o.tier}
		stale.Entry.Purge(at)
		stale.checked.Store(latest)
		s.hot.swap(o, stale)
		return stale
	}
	o.checked.Store(latest)
	return o
}

// Put stores o in the place of the object that had its key. It is false when o
// is too large, or has been purged or changed since it was asked for. o must not be changed any more.
func (s *Store) Put(o *Object) bool {
	if size := o.Size(); size > s.largest || len(o.Tags) > math.MaxUint16 || len(o.Vary)|len(o.ETag) > math.MaxUint16 {
		s.refused.Add(1)
		return false
	}
	o.sum, o.place, o.tier = maphash.Bytes(s.seed, o.Key), s.placeOf(URI(o.Key)), s.hot
	if verdict, _ := s.purges.hit(o); verdict == gone || o.Generation != s.generations[o.place].Load() {
		return false // it must not push out what was fetched since
	}
	name := nameOf(o.sum)
	buf := s.buffers.Get().(*[]byte)
	*buf = AppendObject((*buf)[:0], o)
	i := stripeOf(o.sum)
	s.stripes[i].Lock()
	// An older version must not outlive this one in the other queue, nor on its
	// way from one to the other: those who move it have done so, or have put it
	// down, when both queues have been locked once.
	inSmall, inMain := s.small.Delete(name) == nil, s.main.Delete(name) == nil
	q := s.small
	switch {
	case inMain || inSmall && s.admit.count(o.sum) > 0 || len(*buf) > s.smallMost || s.admit.ghost(o.sum):
		q = s.main
	case !inSmall:
		// What strangers in the same place were asked for is not its merit.
		s.admit.forget(o.sum)
	}
	err := q.Set(name, *buf)
	s.forget(name, i)
	s.hot.replaced(o.sum, o)
	s.stripes[i].Unlock()
	s.settle(i)
	if cap(*buf) <= 1<<20 {
		s.buffers.Put(buf)
	}
	if err != nil {
		s.refused.Add(1)
		return false
	}
	return true
}

// Delete takes the object of key out.
func (s *Store) Delete(key []byte) { s.remove(maphash.Bytes(s.seed, key)) }

func (s *Store) remove(sum uint64) {
	name := nameOf(sum)
	i := stripeOf(sum)
	s.stripes[i].Lock()
	_ = s.small.Delete(name)
	_ = s.main.Delete(name)
	s.forget(name, i)
	s.hot.replaced(sum, nil)
	s.stripes[i].Unlock()
	s.admit.forget(sum)
}

// placeOf is where the generation of a URI is counted: one place is shared by
// all queries of a path, and by few other paths.
func (s *Store) placeOf(uri []byte) uint32 {
	for i, c := range uri {
		if c == '?' {
			uri = uri[:i]
			break
		}
	}
	return uint32(maphash.Bytes(s.seed, uri)) & uint32(len(s.generations)-1)
}

// Generation numbers what a URI names; it is to be read before the origin is
// asked. Queries do not count.
func (s *Store) Generation(uri []byte) uint32 { return s.generations[s.placeOf(uri)].Load() }

// Invalidate ends everything that is stored under uri, with any query: it may
// have been changed by an unsafe request (RFC 9111 4.4).
func (s *Store) Invalidate(uri []byte) { s.generations[s.placeOf(uri)].Add(1) }

// pendingList is objects on their way from one queue into the large one. They
// wait here because they leave under the lock of a shard.
type pendingList struct {
	mu   sync.Mutex // guards what follows
	list []pendingObject
	_    [40]byte
}

type pendingObject struct {
	name  string
	entry []byte
}

const (
	// mostMoves bounds the moves that one Put does for others.
	mostMoves = 16
	// mostWaiting bounds the objects that wait for one.
	mostWaiting = 1024
)

// leftSmall decides what becomes of an object that the small queue has no room
// for any more. bigcache calls it under the lock of a shard.
func (s *Store) leftSmall(name string, entry []byte, _ bigcache.RemoveReason) {
	sum := passThrough{}.Sum64(name)
	if (!s.full.Load() || s.admit.count(sum) > 0) && s.wait(sum, name, entry) {
		return
	}
	s.admit.thrownOut(sum)
	s.hot.replaced(sum, nil)
	s.evicted.Add(1)
}

// leftMain gives an object that was asked for another turn in the large queue.
func (s *Store) leftMain(name string, entry []byte, _ bigcache.RemoveReason) {
	sum := passThrough{}.Sum64(name)
	if !s.full.Load() {
		s.full.Store(true)
	}
	if (s.hot.wanted(sum) || s.admit.spend(sum)) && s.wait(sum, name, entry) {
		return
	}
	s.hot.replaced(sum, nil)
	s.evicted.Add(1)
}

func (s *Store) wait(sum uint64, name string, entry []byte) bool {
	if s.waiting.Add(1) > mostWaiting {
		s.waiting.Add(-1)
		return false
	}
	p := &s.pending[stripeOf(sum)]
	p.mu.Lock()
	p.list = append(p.list, pendingObject{name, entry})
	p.mu.Unlock()
	return true
}

// forget takes the object of this name from those that wait. The caller holds
// stripe i.
func (s *Store) forget(name string, i uint64) {
	if s.waiting.Load() == 0 {
		return
	}
	p := &s.pending[i]
	p.mu.Lock()
	before := len(p.list)
	p.list = slices.DeleteFunc(p.list, func(o pendingObject) bool { return o.name == name })
	s.waiting.Add(int64(len(p.list) - before))
	p.mu.Unlock()
}

// settle moves what waits into the large queue, from stripe i on. Its objects may
// push out others, which then wait in their turn; after a bounded number the
// rest are left to the next.
func (s *Store) settle(i uint64) {
	for n := 0; n < mostMoves && s.waiting.Load() > 0; {
		for range stripes {
			if s.move(i) {
				break
			}
			i = (i + 1) % stripes
		}
		n++
	}
}

// move moves one object of stripe i. Its lock is held, so that nobody replaces
// the object meanwhile.
func (s *Store) move(i uint64) bool {
	p := &s.pending[i]
	s.stripes[i].Lock()
	defer s.stripes[i].Unlock()
	p.mu.Lock()
	last := len(p.list) - 1
	if last < 0 {
		p.mu.Unlock()
		return false
	}
	o := p.list[last]
	p.list[last] = pendingObject{}
	p.list = p.list[:last]
	p.mu.Unlock()
	s.waiting.Add(-1)
	_ = s.main.Set(o.name, o.entry)
	return true
}

// Stats counts what a store did since it was made, and what it holds.
type Stats struct {
	Evicted  uint64 // pushed out for want of room
	Refused  uint64 // too large
	Objects  int
	Bytes    int64 // that both queues may take
	HotBytes int64 // in the hot tier
}

// Stats returns the counts. It takes each shard's lock once.
func (s *Store) Stats() Stats {
	return Stats{
		Evicted: s.evicted.Load(), Refused: s.refused.Load(),
		Objects: s.small.Len() + s.main.Len(),
		Bytes:   int64(s.small.Capacity() + s.main.Capacity()), HotBytes: s.hot.bytes.Load(),
	}
}

// Each gives every object to f until it returns false, each in the state that Get
// would give it in. Objects that come or go meanwhile may be missed.
func (s *Store) Each(f func(*Object) bool) {
	for _, q := range [...]*bigcache.BigCache{s.main, s.small} {
		for it := q.Iterator(); it.SetNext(); {
			e, err := it.Value()
			if err != nil {
				continue
			}
			o, err := ParseObject(e.Value())
			if err != nil {
				continue
			}
			o.sum, o.place, o.tier = maphash.Bytes(s.seed, o.Key), s.placeOf(URI(o.Key)), s.hot
			if o = s.current(o); o != nil && !f(o) {
				return
			}
		}
	}
}

// Close gives the memory back. The store must not be used afterwards.
func (s *Store) Close() {
	_ = s.small.Close()
	_ = s.main.Close()
}

func median(numbers []uint64) uint64 {
	slices.Sort(numbers)
	return numbers[len(numbers)/2]
}
