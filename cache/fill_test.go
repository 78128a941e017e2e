package cache

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

const forever = time.Hour

// readAll reads r to its end.
func readAll(r *Reader) (body []byte, phase Phase) {
	for {
		piece, done, phase, _, changed := r.Next()
		body = append(body, piece...)
		switch {
		case len(piece) > 0:
		case done:
			return body, phase
		default:
			<-changed
		}
	}
}

func TestFillIsShared(t *testing.T) {
	f := NewFills(1 << 20)
	lead, leads := f.Join([]byte("k"))
	if !leads {
		t.Fatal("the first does not lead")
	}
	var wg sync.WaitGroup
	for range 50 {
		other, leads := f.Join([]byte("k"))
		if leads || other != lead {
			t.Fatal("two lead")
		}
		wg.Go(func() {
			for {
				phase, _, _, _, changed := other.State()
				if phase != Asking {
					break
				}
				<-changed
			}
			body, phase := readAll(other.Read())
			if string(body) != "onetwo" || phase != Complete {
				t.Errorf("%q, %d", body, phase)
			}
		})
	}
	r := lead.Open(object("k\n", ""), -1, func() {})
	lead.Append([]byte("one"), forever)
	lead.Append([]byte("two"), forever)
	lead.Finish(object("k\n", "onetwo"))
	wg.Wait()
	r.Close(false)
	if _, leads := f.Join([]byte("k")); !leads {
		t.Error("what has ended is still joined")
	}
}

func TestFillEnds(t *testing.T) {
	f := NewFills(1 << 20)
	for _, phase := range []Phase{Refused, Failed, Lost} {
		lead, _ := f.Join([]byte("k"))
		other, _ := f.Join([]byte("k"))
		lead.End(phase, 7)
		lead.End(Complete, 0) // the first end counts
		if got, _, _, why, _ := other.State(); got != phase || why != 7 {
			t.Errorf("%d, %d", got, why)
		}
		if other.Read() != nil {
			t.Error("a body of what has none")
		}
	}
}

// A body beyond what is kept goes on to those who read, and one who does not cannot
// hold the others up.
func TestFillLeavesBehind(t *testing.T) {
	f := NewFills(64 << 10)
	lead, _ := f.Join([]byte("k"))
	slow := lead.Open(object("k\n", ""), -1, func() {})
	fast := lead.Read()
	got := make(chan []byte)
	go func() {
		body, phase := readAll(fast)
		if phase != Complete {
			t.Errorf("phase %d", phase)
		}
		got <- body
	}()
	piece := bytes.Repeat([]byte("x"), 10<<10)
	for range 100 {
		if !lead.Append(piece, time.Millisecond) {
			t.Fatal("nobody reads")
		}
	}
	if lead.Read() != nil {
		t.Error("a reader of what is not kept from its start")
	}
	lead.Finish(nil)
	if body := <-got; len(body) != 100*len(piece) {
		t.Errorf("%d bytes", len(body))
	}
	for {
		piece, done, phase, _, _ := slow.Next()
		if done {
			if phase != Lost {
				t.Errorf("the slow one ended with %d", phase)
			}
			break
		}
		if len(piece) == 0 {
			t.Fatal("the slow one still waits")
		}
	}
	if body, whole := lead.Body(); whole || len(body) > 200<<10 {
		t.Errorf("%d bytes kept, whole %v", len(body), whole)
	}
}

// One who reads alone is waited for.
func TestFillWaitsForItsOnlyReader(t *testing.T) {
	f := NewFills(64 << 10)
	lead := f.Alone()
	r := lead.Open(object("k\n", ""), -1, func() {})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			lead.Append(bytes.Repeat([]byte("x"), 10<<10), time.Microsecond)
		}
		lead.Finish(nil)
	}()
	body, phase := readAll(r)
	<-done
	if len(body) != 500<<10 || phase != Complete {
		t.Errorf("%d bytes, phase %d", len(body), phase)
	}
}

func TestFillWithoutReaders(t *testing.T) {
	f := NewFills(64 << 10)
	lead, _ := f.Join([]byte("k"))
	unread := 0
	r := lead.Open(object("k\n", ""), -1, func() { unread++ })
	r.Close(true) // its client has what it wanted
	if !lead.Append([]byte("x"), forever) || unread > 0 {
		t.Error("what was to be kept is not wanted")
	}
	late := lead.Read()
	late.Close(false)
	if lead.Append([]byte("x"), forever) || unread != 1 || !lead.Idle() {
		t.Error("what nobody wants goes on")
	}
	if lead.Read() != nil {
		t.Error("a reader of what is about to end")
	}
	big, _ := f.Join([]byte("big"))
	big.Open(object("k\n", ""), -1, func() {}).Close(true)
	if big.Append(make([]byte, 65<<10), forever) {
		t.Error("too large to be kept, and nobody reads")
	}
}

func TestPass(t *testing.T) {
	f := NewFills(1)
	f.Pass([]byte("k"), 110)
	for now, want := range map[int64]bool{100: true, 109: true, 110: false, 200: false} {
		if f.Passes([]byte("k"), now) != want {
			t.Errorf("at %d", now)
		}
	}
	if f.Passes([]byte("other"), 100) {
		t.Error("another key passes")
	}
}
