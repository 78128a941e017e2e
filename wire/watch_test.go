package wire

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// waiting is a Waiter that counts what it is told.
type waiting struct {
	expired atomic.Int64
	looked  atomic.Int64
	told    chan struct{} // gets a token for each Expire, when not nil
	check   func(now int64) int64
}

func (w *waiting) Expire() {
	w.expired.Add(1)
	if w.told != nil {
		w.told <- struct{}{}
	}
}

func (w *waiting) Check(now int64) int64 {
	w.looked.Add(1)
	if w.check != nil {
		return w.check(now)
	}
	return 0
}

// stillWatch is a watch that looks only when sweep is called.
func stillWatch(t *testing.T) *Watch {
	w := NewWatch(time.Hour)
	t.Cleanup(w.Stop)
	return w
}

func TestSlot(t *testing.T) {
	w := stillWatch(t)
	x := &waiting{}
	s := w.Add(x)
	sweep := func(now, expired int64) {
		t.Helper()
		if w.sweep(now); x.expired.Load() != expired {
			t.Fatalf("at %d: expired %d times, want %d", now, x.expired.Load(), expired)
		}
	}
	sweep(1<<62, 0) // a new slot has no deadline
	if !s.Arm(10) {
		t.Fatal("Arm on a new slot")
	}
	sweep(9, 0)
	if !s.Arm(20) || !s.Disarm() {
		t.Fatal("Arm and Disarm before the time")
	}
	sweep(1<<62, 0)
	if !s.Arm(30) {
		t.Fatal("Arm after Disarm")
	}
	sweep(30, 1)
	sweep(31, 1) // once
	for range 3 {
		if s.Arm(40) || s.Disarm() {
			t.Fatal("a slot that has passed was armed again")
		}
	}
	sweep(1<<62, 1)
	s.Remove()
	if again := w.Add(&waiting{}); again != s || !again.Arm(50) {
		t.Fatal("a place that was given back is not as new")
	}
}

func TestSlotFire(t *testing.T) {
	w := stillWatch(t)
	x := &waiting{}
	s := w.Add(x)
	s.Fire(s.Deadline())
	if x.expired.Load() != 0 {
		t.Fatal("a wait without a deadline was ended")
	}
	s.Arm(10)
	at := s.Deadline()
	s.Arm(20)
	s.Fire(at)
	if x.expired.Load() != 0 {
		t.Fatal("a wait that came later was ended")
	}
	s.Fire(20)
	s.Fire(20)
	if x.expired.Load() != 1 || s.Disarm() {
		t.Fatalf("expired %d times, want once, and the owner told", x.expired.Load())
	}
	s.Fire(0)
	if x.expired.Load() != 1 {
		t.Fatal("a wait that is over was ended again")
	}
}

func TestSlotCheck(t *testing.T) {
	w := stillWatch(t)
	x := &waiting{}
	s := w.Add(x)
	s.Arm(1000)
	sweep := func(now, looked, expired int64) {
		t.Helper()
		if w.sweep(now); x.looked.Load() != looked || x.expired.Load() != expired {
			t.Fatalf("at %d: looked %d times, expired %d; want %d, %d", now, x.looked.Load(), x.expired.Load(), looked, expired)
		}
	}
	sweep(10, 0, 0)
	s.CheckAt(20)
	sweep(19, 0, 0)
	sweep(20, 1, 0)
	sweep(21, 1, 0) // Check said 0
	x.check = func(now int64) int64 { return now + 10 }
	s.CheckAt(30)
	sweep(30, 2, 0)
	sweep(39, 2, 0)
	sweep(40, 3, 0)
	s.CheckAt(0)
	sweep(100, 3, 0)
	x.check = func(int64) int64 { return EndWait }
	s.CheckAt(110)
	sweep(110, 4, 1)
	sweep(120, 4, 1)
	if s.Disarm() {
		t.Fatal("the owner was not told that its wait has ended")
	}
}

// A waiter that gives its place back while it is looked at must not end the
// wait of who has it then.
func TestCheckOfOneThatLeaves(t *testing.T) {
	w := stillWatch(t)
	other := &waiting{}
	var s, next *Slot
	x := &waiting{check: func(int64) int64 {
		s.Remove()
		next = w.Add(other)
		next.Arm(500)
		return EndWait
	}}
	s = w.Add(x)
	s.Arm(400)
	s.CheckAt(10)
	w.sweep(10)
	if next != s {
		t.Fatal("the place did not change hands")
	}
	if x.expired.Load() != 0 || other.expired.Load() != 0 || !next.Disarm() {
		t.Errorf("expired: %d and %d times, want never", x.expired.Load(), other.expired.Load())
	}
}

// Of the owner who goes on and the watch that ends the wait exactly one wins,
// and both know which.
func TestOneDecides(t *testing.T) {
	w := stillWatch(t)
	rounds := int64(20000)
	if testing.Short() {
		rounds = 4000
	}
	x := &waiting{}
	s := w.Add(x)
	lost := int64(0)
	for i := int64(1); i <= rounds; i++ {
		at := i * 10
		s.Arm(at)
		var both sync.WaitGroup
		both.Go(func() { w.sweep(at) })
		both.Go(func() { s.Fire(at) })
		won := s.Disarm()
		both.Wait()
		if !won {
			lost++
			s.Remove()
			s = w.Add(x)
		}
		if x.expired.Load() != lost {
			t.Fatalf("round %d: expired %d times, the owner lost %d", i, x.expired.Load(), lost)
		}
	}
	t.Logf("the owner lost %d of %d", lost, rounds)
}

func TestWatchGrows(t *testing.T) {
	w := stillWatch(t)
	const n = 2*slotsPerBlock + 1
	all := make([]waiting, n)
	slots := map[*Slot]bool{}
	for i := range all {
		s := w.Add(&all[i])
		s.Arm(int64(i + 1))
		slots[s] = true
	}
	if len(slots) != n {
		t.Fatalf("%d places for %d waiters", len(slots), n)
	}
	seen := 0
	w.Each(func(Waiter) { seen++ })
	if seen != n {
		t.Errorf("Each saw %d waiters, want %d", seen, n)
	}
	w.sweep(n / 2)
	for i := range all {
		want := int64(0)
		if i < n/2 {
			want = 1
		}
		if all[i].expired.Load() != want {
			t.Fatalf("waiter %d expired %d times, want %d", i, all[i].expired.Load(), want)
		}
	}
	for s := range slots {
		s.Remove()
	}
	w.Each(func(Waiter) { t.Error("a waiter is left") })
	w.sweep(1 << 62)
}

// TestWatchRuns is many owners at once on a watch that runs.
func TestWatchRuns(t *testing.T) {
	w := NewWatch(time.Millisecond)
	if d := w.Now() - Nanotime(); d > 0 {
		t.Errorf("Now is %d ns ahead", d)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				x := &waiting{told: make(chan struct{}, 1)}
				s := w.Add(x)
				s.Arm(1 << 62)
				s.CheckAt(1)
				s.Disarm()
				s.Arm(Nanotime())
				select {
				case <-x.told:
				case <-time.After(patience):
					t.Error("a wait did not end")
				}
				if s.Disarm() {
					t.Error("the owner was not told")
				}
				s.Remove()
			}
		})
	}
	all.Wait()
	x := &waiting{}
	s := w.Add(x)
	w.Stop()
	s.Arm(1)
	if x.expired.Load() != 0 {
		t.Error("a wait ended after Stop")
	}
}

func TestStamp(t *testing.T) {
	before := Nanotime()
	now := Stamp(time.Now())
	after := Nanotime()
	if before <= 0 || now < before || now > after {
		t.Errorf("%d, %d, %d are not in order", before, now, after)
	}
}
