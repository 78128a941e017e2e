package cache

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Fills are the answers that are being fetched, by key: of those who miss one key
// together the first leads and asks the origin, the others wait for what comes
// of it, and read the body while it arrives.
type Fills struct {
	seed   maphash.Seed
	most   int64
	shards [fillShards]fillShard
	passed [passedPlaces]atomic.Uint64
}

type fillShard struct {
	mu    sync.Mutex // guards what follows
	fills map[string]*Fill
	_     [40]byte
}

const (
	fillShards   = 64
	passedPlaces = 1 << 14
)

// NewFills returns an empty set. most is the bytes of a body that are kept for
// those who read slower than it arrives.
func NewFills(most int64) *Fills {
	f := &Fills{seed: maphash.MakeSeed(), most: most}
	for i := range f.shards {
		f.shards[i].fills = map[string]*Fill{}
	}
	return f
}

// Join returns the fill of key; leads is true for whoever is the first: it must
// bring the fill to an end, by Open and Finish, or by End.
func (f *Fills) Join(key []byte) (fill *Fill, leads bool) {
	s := &f.shards[maphash.Bytes(f.seed, key)%fillShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if fill = s.fills[string(key)]; fill != nil {
		fill.joined.Add(1)
		return fill, false
	}
	fill = f.Alone()
	fill.key, fill.shard = string(key), s
	s.fills[fill.key] = fill
	return fill, true
}

// Alone returns a fill that nobody can join: its body is read by who opened it.
func (f *Fills) Alone() *Fill {
	return &Fill{most: f.most, changed: make(chan struct{}), length: -1}
}

// Pass remembers until the time, in Unix seconds, that answers of key are not to
// be waited for: the last one could not be kept. Keys that share a place share
// this.
func (f *Fills) Pass(key []byte, until int64) {
	sum := maphash.Bytes(f.seed, key)
	f.passed[sum%passedPlaces].Store(sum&^passedTime | uint64(until)&passedTime)
}

// Passes tells whether answers of key are not worth waiting for at the time now,
// in Unix seconds.
func (f *Fills) Passes(key []byte, now int64) bool {
	sum := maphash.Bytes(f.seed, key)
	w := f.passed[sum%passedPlaces].Load()
	return w&^passedTime == sum&^passedTime && w&passedTime > uint64(now)&passedTime
}

// passedTime is the bits of a word that hold a time, good for centuries.
const passedTime = 1<<36 - 1

// Phase is how far a fill has come.
type Phase uint8

// The phases. All but the first two are ends.
const (
	Asking   Phase = iota // the origin has been asked
	Open                  // its head has come and may be shared; the body is arriving
	Complete              // all of it is there
	Refused               // it may not be shared: everybody is to ask
	Failed                // there is none, for the reason that Fault says
	Lost                  // whoever led has left: another is to lead
)

// Fill is one answer on its way. All methods may be called from many goroutines,
// those of the leader from one.
type Fill struct {
	key    string
	shard  *fillShard // nil when it cannot be joined
	most   int64
	joined atomic.Int32

	mu       sync.Mutex // guards what follows
	phase    Phase
	fault    uint8
	changed  chan struct{} // closed at each change
	object   *Object
	length   int64
	base     int64  // of the body, how much is no longer kept
	body     []byte // what follows it
	readers  []*Reader
	spilling bool          // the body is larger than what may be kept of it
	room     chan struct{} // closed when a reader has taken something
	idle     bool          // it had readers and has none any more
	unread   func()        // called when that comes about
}

// Joined is how many wait for it besides the leader.
func (f *Fill) Joined() int { return int(f.joined.Load()) }

// Leave says that one who joined does not wait any more.
func (f *Fill) Leave() { f.joined.Add(-1) }

// State is the phase, what is known in it, and a channel that is closed at the
// next change. object has no body before it is Complete; length is -1 while it is
// not known; fault is what End was given.
func (f *Fill) State() (phase Phase, object *Object, length int64, fault uint8, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase, f.object, f.length, f.fault, f.changed
}

func (f *Fill) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// leave takes f out of the set, so that who comes now leads.
func (f *Fill) leave() {
	if f.shard == nil {
		return
	}
	f.shard.mu.Lock()
	if f.shard.fills[f.key] == f {
		delete(f.shard.fills, f.key)
	}
	f.shard.mu.Unlock()
}

// Open shares the head of the answer, which is in o, and length, the bytes of its
// body or -1. It returns a reader for the leader's own client. unread is called,
// once, when nobody reads the body any more before its end.
func (f *Fill) Open(o *Object, length int64, unread func()) *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unread = unread
	f.phase, f.object, f.length = Open, o, length
	r := &Reader{fill: f}
	f.readers = append(f.readers, r)
	f.wake()
	return r
}

// Append adds a piece to the body, which is copied. It is false when nobody wants
// it any more. While a body is larger than what is kept, it waits for the slowest
// reader: one who takes nothing for as long as patience, while others have all
// there is, is left behind.
func (f *Fill) Append(piece []byte, patience time.Duration) bool {
	f.mu.Lock()
	f.body = append(f.body, piece...)
	f.wake()
	for int64(len(f.body)) > f.most && !f.idle {
		if len(f.readers) == 0 {
			f.idle = true // it was to be kept, and is too large for that
			break
		}
		if !f.spilling {
			f.spilling = true
			f.mu.Unlock()
			f.leave() // who comes now could not read it from its start
			f.mu.Lock()
			continue
		}
		if f.drop(); int64(len(f.body)) <= f.most {
			break
		}
		f.room = make(chan struct{})
		room := f.room
		f.mu.Unlock()
		t := time.NewTimer(patience)
		select {
		case <-room:
		case <-t.C:
		}
		t.Stop()
		if f.mu.Lock(); f.room == room {
			f.leaveBehind()
		}
	}
	idle := f.idle
	f.mu.Unlock()
	return !idle
}

// leaveBehind ends the readers that hold up all others.
func (f *Fill) leaveBehind() {
	end, waits := f.base+int64(len(f.body)), false
	for _, r := range f.readers {
		waits = waits || r.at == end
	}
	if !waits {
		return // it is everybody's pace
	}
	f.readers = slices.DeleteFunc(f.readers, func(r *Reader) bool {
		r.behind = r.at == f.base
		return r.behind
	})
	f.wake()
}

// Idle tells whether nobody reads the body any more.
func (f *Fill) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.idle
}

// drop forgets what all readers have taken. Pieces that they hold stay as they
// are: the rest moves to memory of its own.
func (f *Fill) drop() {
	least := f.base + int64(len(f.body))
	for _, r := range f.readers {
		least = min(least, r.at)
	}
	if n := least - f.base; n >= int64(len(f.body))/2 || n > 64<<10 {
		f.body = append([]byte(nil), f.body[n:]...)
		f.base = least
	}
}

// Body is what has arrived. whole is false when not all of it is kept any more.
func (f *Fill) Body() (body []byte, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.body, !f.spilling
}

// Finish ends f with the whole answer. o is nil for one that was too large to
// become an object; its readers have what is left of it.
func (f *Fill) Finish(o *Object) {
	f.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase > Open {
		return
	}
	f.phase = Complete
	if o != nil {
		f.object, f.length = o, int64(len(o.Body))
		f.body = o.Body
	}
	f.wake()
}

// End ends f without a whole answer: Refused, Failed with a reason, or Lost. What
// has ended stays as it ended.
func (f *Fill) End(phase Phase, fault uint8) {
	f.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase > Open {
		return
	}
	f.phase, f.fault = phase, fault
	f.wake()
}

// Reader is one who reads the body of a fill while it arrives.
type Reader struct {
	fill   *Fill
	at     int64
	behind bool // the body went on without it
}

// Read returns a reader at the start of the body, nil when that is no longer
// kept. The fill must be Open or Complete.
func (f *Fill) Read() *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle || f.base > 0 || f.spilling || f.phase != Open && f.phase != Complete {
		return nil
	}
	r := &Reader{fill: f}
	f.readers = append(f.readers, r)
	return r
}

// Next is what has arrived behind what Next returned before; it stays valid. When
// that is nothing, done says that the body has ended, phase whether well, and
// else changed is closed when there is more.
func (r *Reader) Next() (piece []byte, done bool, phase Phase, fault uint8, changed <-chan struct{}) {
	f := r.fill
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.behind {
		return nil, true, Lost, 0, nil
	}
	if at := r.at - f.base; at < int64(len(f.body)) {
		piece = f.body[at:len(f.body):len(f.body)]
		r.at += int64(len(piece))
		f.took()
		return piece, false, f.phase, 0, nil
	}
	return nil, f.phase != Open, f.phase, f.fault, f.changed
}

func (f *Fill) took() {
	if f.room != nil {
		close(f.room)
		f.room = nil
	}
}

// Close says that r reads no more. A body that nobody reads need not arrive, unless
// r wants it kept: its client has what it asked for.
func (r *Reader) Close(keep bool) {
	f := r.fill
	f.mu.Lock()
	for i, other := range f.readers {
		if other == r {
			f.readers = append(f.readers[:i], f.readers[i+1:]...)
			break
		}
	}
	now := !f.idle && len(f.readers) == 0 && f.phase == Open && !(keep && !f.spilling)
	f.idle = f.idle || now
	f.took()
	f.mu.Unlock()
	if now {
		f.leave()
		f.unread()
	}
}
