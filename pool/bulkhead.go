package pool

import (
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/setting"
	"sluice/wire"
)

// BulkheadConfig bounds the requests that are at work at one time, so that one
// upstream or route cannot take all there is.
type BulkheadConfig struct {
	Max          int              `yaml:"max" default:"1024" min:"1" max:"10000000" doc:"Requests at work at one time."`
	Queue        int              `yaml:"queue" default:"0" min:"0" max:"10000000" doc:"Requests that may wait for a place."`
	QueueTimeout setting.Duration `yaml:"queue_timeout" default:"1s" max:"1h" doc:"How long one waits before it is answered 503."`
}

// Bulkhead is a bounded number of places. Entering one that has room is one
// compare-and-swap; the lock is taken only to wait, and waiting allocates
// nothing once warm. Who waits is served in the order of arrival, and while
// anybody waits a newcomer queues behind. A nil Bulkhead has room for everyone.
// All methods are safe for many goroutines.
type Bulkhead struct {
	cfg     BulkheadConfig
	taken   atomic.Int64 // at most Max
	waiting atomic.Int64 // in line or about to be; at most Queue
	mu      sync.Mutex
	first   *inLine // guarded by mu
	last    *inLine

	Full     atomic.Uint64
	TimedOut atomic.Uint64
}

// inLine is one who waits. Links and queued are guarded by the bulkhead's mu.
type inLine struct {
	before, after *inLine
	queued        bool
	turn          chan struct{}
	timer         *time.Timer
}

var inLines = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &inLine{turn: make(chan struct{}, 1), timer: t}
}}

// NewBulkhead returns a bulkhead, nil for a nil config.
func NewBulkhead(cfg *BulkheadConfig) *Bulkhead {
	if cfg == nil {
		return nil
	}
	return &Bulkhead{cfg: *cfg}
}

// Enter takes a place, waiting for one until the time until (see
// wire.Nanotime) at the latest. Leave must follow when it returns None; else
// it is QueueFull or QueueTimeout.
func (b *Bulkhead) Enter(now, until int64) fault.Kind {
	if b == nil {
		return fault.None
	}
	if b.waiting.Load() == 0 && bounded(&b.taken, b.cfg.Max) {
		return fault.None
	}
	if !bounded(&b.waiting, b.cfg.Queue) {
		b.Full.Add(1)
		return fault.QueueFull
	}
	return b.wait(min(until, now+int64(b.cfg.QueueTimeout)))
}

// wait waits for a turn until the time limit; the place in the queue has been
// counted.
func (b *Bulkhead) wait(limit int64) fault.Kind {
	w := inLines.Get().(*inLine)
	defer inLines.Put(w)
	b.mu.Lock()
	b.push(w)
	// A place may have become free after the look and before the queue; who
	// left it saw nobody.
	b.admit()
	b.mu.Unlock()
	w.timer.Reset(time.Duration(limit - wire.Nanotime()))
	defer w.timer.Stop()
	select {
	case <-w.turn:
		return fault.None
	case <-w.timer.C:
	}
	b.mu.Lock()
	served := !w.queued
	if !served {
		b.remove(w)
	}
	b.mu.Unlock()
	if served {
		<-w.turn // its turn came at the same moment
		return fault.None
	}
	b.TimedOut.Add(1)
	return fault.QueueTimeout
}

// bounded adds one to n unless it is most already.
func bounded(n *atomic.Int64, most int) bool {
	for {
		have := n.Load()
		if have >= int64(most) {
			return false
		}
		if n.CompareAndSwap(have, have+1) {
			return true
		}
	}
}

// Leave gives the place to the first who waits.
func (b *Bulkhead) Leave() {
	if b == nil {
		return
	}
	b.taken.Add(-1)
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		b.admit()
		b.mu.Unlock()
	}
}

// admit lets in as many of those who wait as there is room for. The caller
// holds mu.
func (b *Bulkhead) admit() {
	for b.first != nil && bounded(&b.taken, b.cfg.Max) {
		w := b.first
		b.remove(w)
		w.turn <- struct{}{}
	}
}

func (b *Bulkhead) push(w *inLine) {
	w.queued, w.before, w.after = true, b.last, nil
	if b.last == nil {
		b.first = w
	} else {
		b.last.after = w
	}
	b.last = w
}

func (b *Bulkhead) remove(w *inLine) {
	if w.before == nil {
		b.first = w.after
	} else {
		w.before.after = w.after
	}
	if w.after == nil {
		b.last = w.before
	} else {
		w.after.before = w.before
	}
	w.queued, w.before, w.after = false, nil, nil
	b.waiting.Add(-1)
}

// Queues tells whether Enter may wait.
func (b *Bulkhead) Queues() bool { return b != nil && b.cfg.Queue > 0 }

// Taken is how many places are taken.
func (b *Bulkhead) Taken() int64 {
	if b == nil {
		return 0
	}
	return b.taken.Load()
}

// Waiting is how many wait for a place.
func (b *Bulkhead) Waiting() int64 {
	if b == nil {
		return 0
	}
	return b.waiting.Load()
}
