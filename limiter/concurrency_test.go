package limiter

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

func testInFlight(most int, change func(*Config)) *Limit {
	return testLimit(func(c *Config) {
		c.Rate, c.Burst, c.Concurrent = "", 0, most
		if change != nil {
			change(c)
		}
	})
}

func TestEnterAndLeave(t *testing.T) {
	l := testInFlight(2, nil)
	var a, b, c Place
	f := func(p *Place, key uint64, want Decision) {
		t.Helper()
		if d := public(l.Enter(key, nil, p)); d != want {
			t.Errorf("got %+v, want %+v", d, want)
		}
	}
	f(&a, 7, Decision{OK: true, Remaining: 1, Limit: 2})
	f(&b, 7, Decision{OK: true, Remaining: 0, Limit: 2})
	f(&c, 7, Decision{RetryAfter: 1e9, Limit: 2})
	c.Leave() // holds nothing
	f(&c, 7, Decision{RetryAfter: 1e9, Limit: 2})
	f(&c, 8, Decision{OK: true, Remaining: 1, Limit: 2})
	a.Leave()
	a.Leave() // once is all it counts
	f(&a, 7, Decision{OK: true, Remaining: 0, Limit: 2})
	a.Leave()
	b.Leave()
	c.Leave()
	if n := occupied(l); n != 0 {
		t.Errorf("%d slots are left behind", n)
	}
	if s := l.Stats(); s.Allowed != 4 || s.Refused != 2 {
		t.Errorf("%+v", s)
	}
}

func occupied(l *Limit) (n int) {
	for i := range l.inFlight.groups {
		for j := range l.inFlight.groups[i] {
			if l.inFlight.groups[i][j].Load() != 0 {
				n++
			}
		}
	}
	return n
}

func TestEnterPlan(t *testing.T) {
	l := testInFlight(2, func(c *Config) { c.Plans = map[string]string{"gold": "5"} })
	var places [6]Place
	gold := l.Plan("gold")
	for i := range 5 {
		if !l.Enter(7, gold, &places[i]).OK {
			t.Fatalf("%d of 5 is refused", i)
		}
	}
	if l.Enter(7, gold, &places[5]).OK || l.Enter(7, nil, &places[5]).OK {
		t.Error("a sixth gets in")
	}
}

func TestEnterFull(t *testing.T) {
	for _, onFull := range []string{"open", "closed"} {
		l := testInFlight(3, func(c *Config) { c.OnFull = onFull })
		l.inFlight = newInFlight(8)
		places := make([]Place, 17)
		for i := range 16 {
			if !l.Enter(testKey(i), nil, &places[i]).OK {
				t.Fatalf("%d of 16 slots", i)
			}
		}
		if d := l.Enter(testKey(16), nil, &places[16]); d.OK != (onFull == "open") || (d.RetryAfter > 0) == d.OK {
			t.Errorf("%s: %+v", onFull, d)
		}
		places[16].Leave()
		if d := l.Enter(testKey(3), nil, &places[16]); !d.OK || d.Remaining != 1 {
			t.Errorf("%s: a key with a slot gets %+v", onFull, d)
		}
		if s := l.Stats(); s.Full != 1 {
			t.Errorf("%+v", s)
		}
		for i := range places {
			places[i].Leave()
		}
		if n := occupied(l); n != 0 {
			t.Errorf("%d slots are left behind", n)
		}
	}
}

func TestEnterDryRun(t *testing.T) {
	l := testInFlight(1, func(c *Config) { c.DryRun = true })
	var a, b Place
	l.Enter(7, nil, &a)
	if d := l.Enter(7, nil, &b); !d.OK || !d.DryRun {
		t.Errorf("%+v", d)
	}
	b.Leave()
	if d := l.Enter(7, nil, &b); !d.DryRun {
		t.Error("one that was not counted has freed a place")
	}
}

// Many goroutines that come and go on few keys in a small table, so that slots
// change their keys all the time: never more of a key than may be, by their own
// count, and nothing is left in the end.
func TestNeverMoreInFlight(t *testing.T) {
	for _, most := range []int{1, 2, 5} {
		l := testInFlight(most, func(c *Config) { c.OnFull = "closed" })
		l.inFlight = newInFlight(8)
		const keys = 20
		var at [keys]atomic.Int32
		var entered atomic.Int64
		inParallel(8, func(i int) {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			var places [3]Place
			var of [3]int
			for range 30_000 {
				j := random.IntN(len(places))
				if places[j].slot != nil {
					at[of[j]].Add(-1)
					places[j].Leave()
					continue
				}
				of[j] = random.IntN(keys)
				if l.Enter(testKey(of[j]), nil, &places[j]).OK {
					entered.Add(1)
					if n := at[of[j]].Add(1); n > int32(most) {
						t.Errorf("%d at work, want at most %d", n, most)
					}
				}
			}
			for j := range places {
				if places[j].slot != nil {
					at[of[j]].Add(-1)
					places[j].Leave()
				}
			}
		})
		if n := occupied(l); n != 0 {
			t.Errorf("%d slots are left behind", n)
		}
		if entered.Load() == 0 {
			t.Error("nobody got in")
		}
	}
}

// All bring one new key at one time: exactly as many get in as may.
func TestNewKeyInFlight(t *testing.T) {
	l := testInFlight(3, nil)
	for round := range 3000 {
		var in atomic.Int32
		places := make([]Place, 8)
		inParallel(8, func(i int) {
			if l.Enter(testKey(round), nil, &places[i]).OK {
				in.Add(1)
			}
		})
		if in.Load() != 3 {
			t.Fatalf("round %d: %d got in, want 3", round, in.Load())
		}
		for i := range places {
			places[i].Leave()
		}
	}
	if n := occupied(l); n != 0 {
		t.Errorf("%d slots are left behind", n)
	}
}

// What an interrupted goroutine leaves behind hinders nobody.
func TestTentativeLeftBehind(t *testing.T) {
	l := testInFlight(2, nil)
	l.inFlight = newInFlight(8)
	key := testKey(1)
	print := uint64(max(uint32(key), 1)) << 32
	l.inFlight.groups[1][7].Store(print | tentative | 5)
	l.inFlight.groups[0][7].Store(print | tentative | 6)
	var places [3]Place
	for i := range places {
		if ok := l.Enter(key, nil, &places[i]).OK; ok != (i < 2) {
			t.Errorf("%d gets in: %v", i, ok)
		}
	}
	for i := range places {
		places[i].Leave()
	}
	if n := occupied(l); n != 0 {
		t.Errorf("%d slots are left behind", n)
	}
}
