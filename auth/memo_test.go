package auth

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func TestMemoRemembersUntilItsTime(t *testing.T) {
	m := newMemo(64, 100)
	id := &Identity{Subject: "a"}
	alive := new(atomic.Bool)
	alive.Store(true)
	m.put([]byte("token"), id, 10, 20, alive)
	if got := m.get([]byte("token"), 19); got != id {
		t.Errorf("before its end: %v", got)
	}
	if got := m.get([]byte("token"), 20); got != nil {
		t.Errorf("at its end: %v", got)
	}
	m.put([]byte("token"), id, 10, 20, alive)
	alive.Store(false)
	if got := m.get([]byte("token"), 11); got != nil {
		t.Errorf("after its key was taken out: %v", got)
	}
	m.put([]byte("late"), id, 10, 10, nil)
	m.put(bytes.Repeat([]byte("x"), 101), id, 10, 20, nil)
	if n := m.len(); n != 0 {
		t.Errorf("kept %d that were over or too long", n)
	}
}

// A collision of hashes finds another place, never another identity.
func TestMemoComparesTheWhole(t *testing.T) {
	m := newMemo(4, 100)
	a, b := []byte("aaaaaaaaaaaaaaaaaaaa"), []byte("aaaaaaaaaaaaaaaaaaab")
	m.put(a, &Identity{Subject: "a"}, 0, 10, nil)
	p := m.sets[0].ways[0].Load()
	for i := range m.sets[0].ways {
		if q := m.sets[0].ways[i].Load(); q != nil {
			p = q
		}
	}
	p.hash = m.hash(b) // as if the two had one hash
	if got := m.get(b, 1); got != nil {
		t.Errorf("%q is %v", b, got)
	}
}

func TestMemoIsBounded(t *testing.T) {
	m := newMemo(1024, 100)
	for i := range 100_000 {
		m.put(fmt.Appendf(nil, "token %d", i), &Identity{}, 0, 100, nil)
	}
	if n := m.len(); n > 1024 {
		t.Errorf("%d are remembered, at most 1024", n)
	}
}

// Many goroutines: what is found is always the identity of that credential.
func TestMemoUnderLoad(t *testing.T) {
	m := newMemo(256, 100)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				n := (i*31 + g) % 1000
				token := fmt.Appendf(nil, "token %d", n)
				if id := m.get(token, 1); id == nil {
					m.put(token, &Identity{Subject: fmt.Sprint(n)}, 0, 100, nil)
				} else if id.Subject != fmt.Sprint(n) {
					t.Errorf("%s is %s", token, id.Subject)
				}
				if i%5000 == 0 {
					m.forget(func(id *Identity) bool { return id.Subject == "7" })
				}
			}
		})
	}
	wg.Wait()
}

func TestEqual(t *testing.T) {
	for n := range 40 {
		a := bytes.Repeat([]byte{0xa5}, n)
		if b := bytes.Clone(a); !equal(a, b) {
			t.Errorf("%d bytes differ from themselves", n)
		}
		for i := range n {
			b := bytes.Clone(a)
			b[i] ^= 1
			if equal(a, b) {
				t.Errorf("%d bytes: a difference at %d is not seen", n, i)
			}
		}
		if equal(a, append(bytes.Clone(a), 0)) {
			t.Errorf("%d and %d bytes are equal", n, n+1)
		}
	}
}
