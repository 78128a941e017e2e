package pool

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/fault"
	"sluice/setting"
	"sluice/wire"
)

func testBulkhead(places, queue int, timeout time.Duration) *Bulkhead {
	return NewBulkhead(&BulkheadConfig{Max: places, Queue: queue, QueueTimeout: setting.Duration(timeout)})
}

// enterBy enters b, waiting until the given time at the latest.
func enterBy(b *Bulkhead, until int64) fault.Kind { return b.Enter(wire.Nanotime(), until) }

// queueUp has n goroutines wait in b in a known order; each sends its number
// and outcome.
func queueUp(b *Bulkhead, n int) <-chan int {
	admitted := make(chan int, n)
	for i := range n {
		before := b.Waiting()
		go func() {
			if enterBy(b, math.MaxInt64) == fault.None {
				admitted <- i
			} else {
				admitted <- -1
			}
		}()
		for b.Waiting() == before {
			runtime.Gosched()
		}
		// Counted is not yet in line.
		for inLineCount(b) != int(before)+1 {
			runtime.Gosched()
		}
	}
	return admitted
}

func inLineCount(b *Bulkhead) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := b.first; w != nil; w = w.after {
		n++
	}
	return n
}

func TestBulkheadServesInOrder(t *testing.T) {
	const waiters = 20
	b := testBulkhead(2, waiters, time.Minute)
	for range 2 {
		if k := enterBy(b, math.MaxInt64); k != fault.None {
			t.Fatalf("expected room, got %s", k)
		}
	}
	admitted := queueUp(b, waiters)
	if k := enterBy(b, math.MaxInt64); k != fault.QueueFull {
		t.Errorf("expected queue-full, got %q", k)
	}
	for want := range waiters {
		b.Leave()
		if got := <-admitted; got != want {
			t.Fatalf("expected waiter %d to be next, got %d", want, got)
		}
	}
	b.Leave()
	b.Leave()
	if b.Taken() != 0 || b.Waiting() != 0 || b.Full.Load() != 1 {
		t.Errorf("expected it empty and one refused, got %d taken, %d waiting, %d refused", b.Taken(), b.Waiting(), b.Full.Load())
	}
}

// Several places free at once admit as many, and a waiter that gives up in the
// middle of the queue leaves the order of the others.
func TestBulkheadGivingUpKeepsTheOrder(t *testing.T) {
	b := testBulkhead(1, 10, time.Minute)
	enterBy(b, math.MaxInt64)
	first := queueUp(b, 2)
	gaveUp := make(chan fault.Kind)
	go func() { gaveUp <- enterBy(b, wire.Nanotime()+int64(20*time.Millisecond)) }()
	for inLineCount(b) != 3 && b.TimedOut.Load() == 0 {
		runtime.Gosched()
	}
	last := queueUp(b, 2)
	if k := <-gaveUp; k != fault.QueueTimeout {
		t.Fatalf("expected queue-timeout, got %q", k)
	}
	for i, from := range []<-chan int{first, first, last, last} {
		b.Leave()
		if got := <-from; got != i%2 {
			t.Errorf("turn %d: expected waiter %d, got %d", i, i%2, got)
		}
	}
	b.Leave()
	if b.first != nil || b.last != nil || b.Waiting() != 0 {
		t.Error("expected an empty queue")
	}
}

func TestBulkheadDeadlines(t *testing.T) {
	b := testBulkhead(1, 5, time.Millisecond)
	enterBy(b, math.MaxInt64)
	f := func(until int64) {
		t.Helper()
		if k := enterBy(b, until); k != fault.QueueTimeout {
			t.Errorf("expected queue-timeout, got %q", k)
		}
	}
	f(math.MaxInt64) // the queue's own bound
	f(wire.Nanotime())
	f(0)
	b.Leave()
	// With room the time does not matter: nothing is waited for.
	if k := enterBy(b, 0); k != fault.None {
		t.Errorf("expected room, got %q", k)
	}
}

func TestBulkheadWithoutQueue(t *testing.T) {
	b := testBulkhead(1, 0, time.Second)
	if k := enterBy(b, math.MaxInt64); k != fault.None {
		t.Errorf("expected room, got %q", k)
	}
	if k := enterBy(b, math.MaxInt64); k != fault.QueueFull {
		t.Errorf("expected queue-full, got %q", k)
	}
	b.Leave()
	if k := enterBy(b, math.MaxInt64); k != fault.None {
		t.Errorf("expected room again, got %q", k)
	}
}

func TestNilBulkhead(t *testing.T) {
	b := NewBulkhead(nil)
	if k := b.Enter(0, 0); k != fault.None || b.Taken() != 0 || b.Waiting() != 0 {
		t.Errorf("expected room for everyone, got %q", k)
	}
	b.Leave()
}

// Under a storm of entries, some of which give up, there are never more than
// Max inside or more than Queue in line, and nobody is forgotten: whoever may
// wait long enough gets in.
func TestBulkheadStress(t *testing.T) {
	const places, queue, goroutines = 3, 40, 24
	b := testBulkhead(places, queue, time.Minute)
	rounds := 3000
	if testing.Short() {
		rounds = 500
	}
	var inside, most, patientLost atomic.Int64
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for range rounds {
				now, until := wire.Nanotime(), int64(math.MaxInt64)
				if g%2 == 0 {
					until = now + r.Int64N(int64(50*time.Microsecond))
				}
				if b.Enter(now, until) != fault.None {
					if g%2 != 0 {
						patientLost.Add(1)
					}
					continue
				}
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if r.IntN(4) == 0 {
					runtime.Gosched()
				}
				inside.Add(-1)
				b.Leave()
			}
		})
	}
	all.Wait()
	if most.Load() > places {
		t.Errorf("expected at most %d inside, got %d", places, most.Load())
	}
	// The queue is larger than the goroutines, so that nobody is refused.
	if patientLost.Load() != 0 || b.Full.Load() != 0 {
		t.Errorf("expected every patient request inside, %d were not; %d found the queue full", patientLost.Load(), b.Full.Load())
	}
	if b.Taken() != 0 || b.Waiting() != 0 || b.first != nil {
		t.Errorf("expected it empty, got %d taken, %d waiting", b.Taken(), b.Waiting())
	}
}

// With more goroutines than places and queue the bounds hold too, and refusals
// leave nothing behind.
func TestBulkheadStressFull(t *testing.T) {
	b := testBulkhead(2, 2, time.Millisecond)
	var all sync.WaitGroup
	var over atomic.Bool
	for range 12 {
		all.Go(func() {
			for range 1000 {
				k := enterBy(b, math.MaxInt64)
				if b.Taken() > 2 || b.Waiting() > 2 {
					over.Store(true)
				}
				if k == fault.None {
					runtime.Gosched()
					b.Leave()
				}
			}
		})
	}
	all.Wait()
	if over.Load() {
		t.Error("expected the bounds to hold at every moment")
	}
	if b.Taken() != 0 || b.Waiting() != 0 || b.first != nil {
		t.Errorf("expected it empty, got %d taken, %d waiting", b.Taken(), b.Waiting())
	}
}
