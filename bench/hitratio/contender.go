package main

import (
	"container/list"
	"context"
	"errors"
	"time"

	"github.com/allegro/bigcache/v3"
	"github.com/maypok86/otter/v2"

	"sluice/cache"
)

// contender is a cache of objects that takes a given number of bytes for data.
type contender interface {
	get(key []byte) *cache.Object
	put(o *cache.Object)
	// held is how many objects it holds, and their bytes by its own count.
	held() (objects int, bytes int64)
	close()
}

// contenders in the order of the table. What each calls data is the size of the
// encoded object (cache.Object.Size: body, head, key, tags and the fixed fields).
// The two on bigcache take heads of entries and dead room out of the same bytes;
// the indexes are on top of that for all.
var contenders = []struct {
	name string
	open func(bytes int64, largest int) (contender, error)
}{
	{"Sluice", openSluice},
	{"bigcache (FIFO)", openFIFO},
	{"LRU", openLRU},
	{"otter (W-TinyLFU)", openOtter},
}

func names() (names []string) {
	for _, c := range contenders {
		names = append(names, c.name)
	}
	return names
}

type sluice struct{ *cache.Store }

func openSluice(bytes int64, largest int) (contender, error) {
	s, err := cache.NewStore(cache.StoreConfig{Bytes: bytes, MaxObject: largest})
	return sluice{s}, err
}

func (s sluice) get(key []byte) *cache.Object { return s.Get(key) }
func (s sluice) put(o *cache.Object)          { s.Put(o) }
func (s sluice) close()                       { s.Close() }

func (s sluice) held() (int, int64) {
	stats := s.Stats()
	return stats.Objects, stats.Bytes + stats.HotBytes
}

// fifo is bigcache as its manual has it, with all of its memory from the start.
type fifo struct {
	*bigcache.BigCache
	buf []byte
}

func openFIFO(bytes int64, largest int) (contender, error) {
	mib := int(bytes >> 20)
	shards := 256
	for shards > 1 && int(bytes)/shards < 4*largest {
		shards /= 2
	}
	const guess = 2 << 10
	b, err := bigcache.New(context.Background(), bigcache.Config{
		Shards: shards, LifeWindow: 1000 * time.Hour, HardMaxCacheSize: mib,
		MaxEntriesInWindow: mib << 20 / guess, MaxEntrySize: guess,
	})
	return &fifo{BigCache: b}, err
}

func (f *fifo) get(key []byte) *cache.Object {
	b, err := f.Get(string(key))
	if errors.Is(err, bigcache.ErrEntryNotFound) {
		return nil
	}
	o, err := cache.ParseObject(b)
	if err != nil {
		panic(err) // nobody but put wrote it
	}
	return o
}

func (f *fifo) put(o *cache.Object) {
	f.buf = cache.AppendObject(f.buf[:0], o)
	_ = f.Set(string(o.Key), f.buf)
}

func (f *fifo) held() (int, int64) { return f.Len(), int64(f.Capacity()) }
func (f *fifo) close()             { _ = f.Close() }

// lru throws out what was not asked for for longest.
type lru struct {
	most, bytes int64
	order       list.List // of objects, the latest first
	places      map[string]*list.Element
}

func openLRU(bytes int64, _ int) (contender, error) {
	return &lru{most: bytes, places: map[string]*list.Element{}}, nil
}

func (l *lru) get(key []byte) *cache.Object {
	e := l.places[string(key)]
	if e == nil {
		return nil
	}
	l.order.MoveToFront(e)
	return e.Value.(*cache.Object)
}

func (l *lru) put(o *cache.Object) {
	if e := l.places[string(o.Key)]; e != nil {
		l.drop(e)
	}
	l.places[string(o.Key)] = l.order.PushFront(o)
	for l.bytes += int64(o.Size()); l.bytes > l.most; {
		l.drop(l.order.Back())
	}
}

func (l *lru) drop(e *list.Element) {
	o := l.order.Remove(e).(*cache.Object)
	delete(l.places, string(o.Key))
	l.bytes -= int64(o.Size())
}

func (l *lru) held() (int, int64) { return len(l.places), l.bytes }
func (l *lru) close()             {}

type tinyLFU struct {
	*otter.Cache[string, *cache.Object]
}

func openOtter(bytes int64, _ int) (contender, error) {
	c, err := otter.New(&otter.Options[string, *cache.Object]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(_ string, o *cache.Object) uint32 { return uint32(o.Size()) },
		// Its maintenance at once: with goroutines it would depend on the
		// scheduler what is thrown out.
		Executor: func(f func()) { f() },
	})
	return tinyLFU{c}, err
}

func (t tinyLFU) get(key []byte) *cache.Object {
	o, _ := t.GetIfPresent(string(key))
	return o
}

func (t tinyLFU) put(o *cache.Object) { t.Set(string(o.Key), o) }
func (t tinyLFU) close()              { t.StopAllGoroutines() }

func (t tinyLFU) held() (int, int64) {
	t.CleanUp()
	return t.EstimatedSize(), int64(t.WeightedSize())
}
