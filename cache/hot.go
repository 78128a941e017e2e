package cache

import "sync/atomic"

// hot is the objects that are asked for most, as they are sent: to serve one
// takes no lock and no copy, where bigcache takes both. It is a fixed table of
// sets of a few places. What it holds is in bigcache too, so whatever is pushed
// out of here is not lost.
type hot struct {
	sets  []hotSet
	mask  uint64
	most  int64 // bytes
	bytes atomic.Int64
	files atomic.Int64
}

const hotWays = 8

type hotSet struct {
	ways [hotWays]atomic.Pointer[hotPlace]
	hand atomic.Uint32
	// version counts what was stored or taken out of the queues under this set:
	// one who read an object before that must not leave it here.
	version atomic.Uint32
	_       [56]byte
}

type hotPlace struct {
	*Object
	asked atomic.Bool
}

// newHot returns a table for most bytes of about n objects.
func newHot(most int64, n int) *hot {
	size := 1
	for size*hotWays < n {
		size *= 2
	}
	return &hot{sets: make([]hotSet, size), mask: uint64(size - 1), most: most}
}

func (h *hot) set(sum uint64) *hotSet { return &h.sets[sum>>8&h.mask] }

// get returns the object of key, or nil.
func (h *hot) get(sum uint64, key []byte) *Object {
	set := h.set(sum)
	for i := range set.ways {
		p := set.ways[i].Load()
		if p != nil && p.sum == sum && string(p.Key) == string(key) {
			if !p.asked.Load() {
				p.asked.Store(true)
			}
			return p.Object
		}
	}
	return nil
}

// wanted tells whether the object of sum is here and was asked for since the
// last time that this was asked.
func (h *hot) wanted(sum uint64) bool {
	set := h.set(sum)
	for i := range set.ways {
		if p := set.ways[i].Load(); p != nil && p.sum == sum {
			return p.asked.Swap(false)
		}
	}
	return false
}

// versionOf is to be read before an object is read from the queues.
func (h *hot) versionOf(sum uint64) uint32 { return h.set(sum).version.Load() }

// promote puts o, which was read under version, unless it has been replaced.
func (h *hot) promote(o *Object, version uint32) {
	set := h.set(o.sum)
	if set.version.Load() != version {
		return
	}
	h.put(o)
	if set.version.Load() == version {
		return
	}
	for i := range set.ways {
		if p := set.ways[i].Load(); p != nil && p.Object == o {
			h.drop(set, i, p)
		}
	}
}

// replaced is called once the queues hold another object for sum, or none: o
// nil. What is here of it follows.
func (h *hot) replaced(sum uint64, o *Object) {
	set := h.set(sum)
	set.version.Add(1)
	for i := range set.ways {
		p := set.ways[i].Load()
		if p == nil || p.sum != sum || !h.drop(set, i, p) || o == nil {
			continue
		}
		h.put(o)
		return
	}
}

// swap puts next in the place of o, if it is there.
func (h *hot) swap(o, next *Object) {
	set := h.set(o.sum)
	for i := range set.ways {
		if p := set.ways[i].Load(); p != nil && p.Object == o {
			set.ways[i].CompareAndSwap(p, &hotPlace{Object: next})
		}
	}
}

// hotPart is the part of the tier that one object may take.
const hotPart = 8

// put gives o a place, in that of an older version of itself or of one that was
// not asked for lately. It may find that there is no room.
func (h *hot) put(o *Object) {
	size := int64(o.Size())
	if size > h.most/hotPart {
		return
	}
	set := h.set(o.sum)
	place := -1
	for i := range set.ways {
		p := set.ways[i].Load()
		if p == nil && place < 0 {
			place = i
		}
		if p != nil && p.sum == o.sum {
			place = i
			break
		}
	}
	for n := 0; place < 0 || h.bytes.Load()+size > h.most; n++ {
		if n == 2*hotWays {
			return
		}
		i := int(set.hand.Add(1) % hotWays)
		p := set.ways[i].Load()
		if p == nil || p.asked.Swap(false) {
			continue
		}
		if h.bytes.Load()+size > h.most && h.drop(set, i, p) || place < 0 {
			place = i
		}
	}
	next := &hotPlace{Object: o}
	old := set.ways[place].Swap(next)
	h.bytes.Add(size)
	if old != nil {
		h.bytes.Add(-int64(old.Size()))
	}
}

// drop takes p out of its place. It is false when others did before.
func (h *hot) drop(set *hotSet, i int, p *hotPlace) bool {
	if !set.ways[i].CompareAndSwap(p, nil) {
		return false
	}
	h.bytes.Add(-int64(p.Size()))
	return true
}
