package wire

import (
	"sync"
	"sync/atomic"
	"time"
)

// Waiter is what a Watch looks after: something whose wait has an end.
type Waiter interface {
	// Expire is called once, from the watch's goroutine, after the deadline
	// of the slot passed. It ends the wait and must not block.
	Expire()
	// Check is called at the time that CheckAt asked for, from the watch's
	// goroutine. It must not block. It returns when to look again, 0 for not
	// again, or EndWait. A waiter may be looked at while it gives its place
	// back, so Check must not use the slot: that may be another's by now.
	Check(now int64) int64
}

// EndWait is what Check returns to end the wait that is under way, as if its
// time had come. It does nothing when the owner has gone on meanwhile.
const EndWait int64 = -1

// Watch ends waits that last too long, without a timer, a lock or a system
// call for each of them: a deadline is one atomic word in an array that one
// goroutine walks every tick. A wait ends up to one tick late, never early.
//
// A deadline that has passed turns into the word 0. Its owner learns this from
// the swap that sets the next one, so that exactly one of the two, owner or
// watch, decides what became of the wait.
type Watch struct {
	tick time.Duration
	now  atomic.Int64
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards free and growth; taken at open and close only
	blocks atomic.Pointer[[]*slotBlock]
	free   []*Slot
}

const slotsPerBlock = 512

type slotBlock [slotsPerBlock]Slot

// never is the word of a slot without a deadline. 0 is the word of one that
// has passed.
const never int64 = 1<<63 - 1

// Slot is the place of one Waiter in a Watch. Its methods are for the goroutine
// that owns the wait, except Fire, which anyone may call.
type Slot struct {
	deadline atomic.Int64
	check    atomic.Int64
	waiter   atomic.Pointer[Waiter]
	watch    *Watch
}

// NewWatch starts a watch that looks every tick. Stop ends it.
func NewWatch(tick time.Duration) *Watch {
	w := &Watch{tick: tick, stop: make(chan struct{}), done: make(chan struct{})}
	w.blocks.Store(new([]*slotBlock))
	w.now.Store(Nanotime())
	go w.run()
	return w
}

var epoch = time.Now()

// Nanotime is the monotonic time in nanoseconds since the process started,
// plus one so that it is never 0.
func Nanotime() int64 { return int64(time.Since(epoch)) + 1 }

// Stamp is t in the unit of Nanotime. t must come from time.Now.
func Stamp(t time.Time) int64 { return int64(t.Sub(epoch)) + 1 }

// Now is the monotonic time as of the last tick, in the unit of Nanotime.
func (w *Watch) Now() int64 { return w.now.Load() }

// Stop ends the watch. No Expire or Check is called after it returns.
func (w *Watch) Stop() {
	close(w.stop)
	<-w.done
}

func (w *Watch) run() {
	defer close(w.done)
	t := time.NewTicker(w.tick)
	defer t.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-t.C:
		}
		now := Nanotime()
		w.now.Store(now)
		w.sweep(now)
	}
}

// sweep ends every wait whose time has come.
func (w *Watch) sweep(now int64) {
	for _, b := range *w.blocks.Load() {
		for i := range b {
			s := &b[i]
			if d := s.deadline.Load(); d <= now && d > 0 {
				s.fire(d)
			}
			if c := s.check.Load(); c <= now && c > 0 {
				s.look(c, now)
			}
		}
	}
}

// look calls Check, which was asked for at the time at.
func (s *Slot) look(at, now int64) {
	// The deadline is read before the waiter, as fire does and for its reason.
	d := s.deadline.Load()
	p := s.waiter.Load()
	if p == nil {
		return
	}
	next := (*p).Check(now)
	if next == EndWait {
		next = 0
		if d > 0 && d != never && s.deadline.CompareAndSwap(d, 0) {
			(*p).Expire()
		}
	}
	s.check.CompareAndSwap(at, next)
}

// Each calls f for every waiter that has a place.
func (w *Watch) Each(f func(Waiter)) {
	for _, b := range *w.blocks.Load() {
		for i := range b {
			if p := b[i].waiter.Load(); p != nil {
				f(*p)
			}
		}
	}
}

// Add gives waiter a place, without a deadline.
func (w *Watch) Add(waiter Waiter) *Slot {
	w.mu.Lock()
	if len(w.free) == 0 {
		w.grow()
	}
	s := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	w.mu.Unlock()
	s.deadline.Store(never)
	s.check.Store(0)
	s.waiter.Store(&waiter)
	return s
}

func (w *Watch) grow() {
	b := new(slotBlock)
	for i := range b {
		b[i].watch = w
		b[i].deadline.Store(never)
		w.free = append(w.free, &b[i])
	}
	grown := append(append([]*slotBlock(nil), *w.blocks.Load()...), b)
	w.blocks.Store(&grown)
}

// Remove gives the place back. The slot must not be used after it.
func (s *Slot) Remove() {
	s.waiter.Store(nil)
	s.deadline.Store(never)
	s.check.Store(0)
	w := s.watch
	w.mu.Lock()
	w.free = append(w.free, s)
	w.mu.Unlock()
}

// Arm sets the deadline to at, in the unit of Nanotime. It returns false when
// the deadline before it had passed: then the wait is over, Expire has been or
// is being called, and the slot stays passed.
func (s *Slot) Arm(at int64) bool {
	if s.deadline.Swap(at) == 0 {
		s.deadline.Store(0)
		return false
	}
	return true
}

// Disarm takes the deadline away. It returns false when it had passed.
func (s *Slot) Disarm() bool { return s.Arm(never) }

// CheckAt asks for Check to be called at the time at; 0 takes the wish back.
func (s *Slot) CheckAt(at int64) { s.check.Store(at) }

// Deadline is the word of the slot, for a later Fire.
func (s *Slot) Deadline() int64 { return s.deadline.Load() }

// Fire ends the wait that was armed with the deadline at, as if its time had
// come. It does nothing when the owner has gone on since, or waits without one.
func (s *Slot) Fire(at int64) {
	if at != never {
		s.fire(at)
	}
}

func (s *Slot) fire(at int64) {
	// The waiter is read first: a slot that changes hands between the two has
	// another deadline, so the swap fails and nobody is ended by mistake.
	p := s.waiter.Load()
	if at > 0 && p != nil && s.deadline.CompareAndSwap(at, 0) {
		(*p).Expire()
	}
}
