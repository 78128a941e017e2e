package limiter

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// testKey spreads small numbers the way Hasher would.
func testKey(i int) uint64 {
	h := newHasher([2]uint64{1, 2})
	h.word(uint64(i))
	return h.Sum()
}

func testRate(t *testing.T, s string) Rate {
	t.Helper()
	r, err := ParseRate(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// public is d without what only AppendHeaders reads.
func public(d Decision) Decision {
	d.plan = nil
	return d
}

// bucket is the reference: a token bucket, which GCRA is said to equal. It
// counts tokens in units and remembers in 64 bits when it last did.
type bucket struct {
	used         bool
	level, burst int64
	last         uint64
}

func (b *bucket) allow(units int64, now uint64) bool {
	if !b.used {
		b.used, b.level = true, b.burst
	} else {
		b.level = int64(min(uint64(b.level)+now-b.last, uint64(b.burst)))
	}
	b.last = now
	if units > b.level {
		return false
	}
	b.level -= units
	return true
}

var rateCases = []struct {
	rate  string
	burst int
}{
	{"1/s", 1}, {"100/s", 50}, {"7/s", 100}, {"1000000/s", 1000000}, {"999983/s", 3}, {"5000/m", 0}, {"10/h", 10}, {"1/d", 366}, {"3/d", 1},
}

// One goroutine gets exactly what the reference says, over keys, costs and
// pauses at random: within a burst, about as long as an epoch of the table,
// about as long as its 32 bits take to run around, and for months.
func TestAllowEqualsTokenBucket(t *testing.T) {
	for _, c := range rateCases {
		rate := testRate(t, c.rate)
		l := New("t", testConfig(c.rate, c.burst), nil)
		l.table = newTable(8) // two groups, so that keys meet
		const keys = groupSlots
		reference := make([]bucket, keys)
		for i := range reference {
			reference[i].burst = l.room
		}
		var now int64
		pauses := []int64{0, 1}
		for _, units := range []uint64{1, unitsPerRequest, uint64(l.room), epochLen, 4 * epochLen, 8 * epochLen, 8*epochLen + uint64(l.room)/2} {
			// At slow rates some of them are longer than the clock can count.
			if units < rate.units(1<<60) {
				pauses = append(pauses, rate.nanoseconds(units))
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 100_000 {
			if random.IntN(4) == 0 {
				pause := pauses[random.IntN(len(pauses))]
				if random.IntN(2) == 0 {
					pause = random.Int64N(pause + 2)
				}
				if now < 1<<62 {
					now += pause
				}
			}
			key, cost := random.IntN(keys), int64(1)
			if random.IntN(3) == 0 {
				cost = random.Int64N(l.burst+2) - random.Int64N(2)
			}
			ref := &reference[key]
			want := ref.allow(max(cost, 0)*unitsPerRequest, rate.units(now))
			d := l.Allow(testKey(key), cost, now)
			if d.OK != want || d.Remaining != ref.level/unitsPerRequest {
				t.Fatalf("%s burst %d, step %d: key %d, cost %d, now %d: got %+v, want %v with %d left",
					c.rate, l.burst, i, key, cost, now, d, want, ref.level/unitsPerRequest)
			}
			if whole := rate.nanoseconds(ref.last+uint64(l.room-ref.level)) - now; d.Reset != max(whole, 0) && ref.level < l.room {
				t.Fatalf("%s burst %d, step %d: reset is %d, want %d", c.rate, l.burst, i, d.Reset, whole)
			}
		}
		if s := l.Stats(); s.Full != 0 || s.Allowed+s.Refused != 100_000 {
			t.Errorf("%s: %+v", c.rate, s)
		}
	}
}

// A refused request passes after RetryAfter and not a nanosecond before.
func TestRetryAfterIsExact(t *testing.T) {
	for _, c := range rateCases {
		l := New("t", testConfig(c.rate, c.burst), nil)
		now := int64(12345)
		for i := 0; i < 2000 && now < 1<<61; i++ {
			cost := 1 + int64(i)%l.burst
			d := l.Allow(7, cost, now)
			if d.OK {
				continue
			}
			if early := l.Allow(7, cost, now+d.RetryAfter-1); early.OK {
				t.Fatalf("%s: passes 1 ns before %+v", c.rate, d)
			}
			if late := l.Allow(7, cost, now+d.RetryAfter); !late.OK {
				t.Fatalf("%s: refused after %+v: %+v", c.rate, d, late)
			}
			now += d.RetryAfter + int64(i)
		}
	}
}

// Over 30 s of a demand that is far too high, what is admitted is the burst
// and the rate, to one request: exact, where 1 % is asked for.
func TestAccuracy(t *testing.T) {
	for _, c := range []struct {
		rate  string
		burst int
		want  int64
	}{{"100/s", 50, 3050}, {"7/s", 1, 211}, {"5000/m", 10, 2510}, {"999/s", 999, 30969}} {
		l := New("t", testConfig(c.rate, c.burst), nil)
		var admitted int64
		end := int64(30 * time.Second)
		for now := int64(0); now <= end; now += end / 300_000 {
			if l.Allow(7, 1, now).OK {
				admitted++
			}
		}
		if admitted < c.want-1 || admitted > c.want {
			t.Errorf("%s burst %d: admitted %d, want %d or one less", c.rate, c.burst, admitted, c.want)
		}
	}
}

// inParallel runs f in n goroutines that begin together.
func inParallel(n int, f func(i int)) {
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-begin
			f(i)
		})
	}
	close(begin)
	all.Wait()
}

// Many goroutines on one key, whose clocks are read at one place but used out
// of order, get together what one would: never more than the burst and the
// rate, and at most 2 fewer.
func TestOneKeyManyGoroutines(t *testing.T) {
	for _, c := range rateCases[:5] {
		l := New("t", testConfig(c.rate, c.burst), nil)
		const goroutines, calls = 8, 20_000
		span := l.rate.nanoseconds(uint64(2*l.burst+1000) * unitsPerRequest)
		if l.burst > calls {
			span = int64(100 * time.Millisecond)
		}
		step := span / (goroutines * calls)
		var clock, admitted atomic.Int64
		inParallel(goroutines, func(int) {
			for range calls {
				if l.Allow(7, 1, clock.Add(step)).OK {
					admitted.Add(1)
				}
			}
		})
		demand := int64(goroutines * calls)
		most := min(l.burst+int64((l.rate.units(clock.Load())-l.rate.units(step))/unitsPerRequest), demand)
		if got := admitted.Load(); got > most || got < most-2 {
			t.Errorf("%s burst %d: admitted %d of %d, want %d, or up to 2 fewer", c.rate, l.burst, got, demand, most)
		}
	}
}

// Goroutines that bring a new key at about one time share one budget, while
// slots around it pass and are taken over between their looks.
func TestNewKeyManyGoroutines(t *testing.T) {
	c := testConfig("1000/s", 1)
	c.OnFull = "closed"
	l := New("t", c, nil)
	l.table = newTable(8)
	const (
		goroutines, keys = 4, 50_000
		step             = int64(25 * time.Microsecond) // ten keys live at a time, in fourteen slots
		late             = int64(900 * time.Microsecond)
	)
	var admitted, inTime [keys]atomic.Int32
	var calls atomic.Int64
	inParallel(goroutines, func(int) {
		for i := calls.Add(1); i <= goroutines*keys; i = calls.Add(1) {
			key := (i - 1) / goroutines
			if l.Allow(testKey(int(key)), 1, i*step).OK {
				admitted[key].Add(1)
				// One that the others have overtaken by the life of a key may
				// find its slot gone, and rightly pass.
				if (calls.Load()-i)*step < late {
					inTime[key].Add(1)
				}
			}
		}
	})
	for key := range keys {
		if n := inTime[key].Load(); n > 1 {
			t.Errorf("key %d: admitted %d, want 1", key, n)
		}
		if admitted[key].Load() == 0 && l.Stats().Full == 0 {
			t.Errorf("key %d: all refused", key)
		}
	}
}

// The same at one moment that stands still: exactly the burst is admitted for
// each key, whichever of the goroutines gets it.
func TestNewKeysAtOneMoment(t *testing.T) {
	l := New("t", testConfig("1000/s", 2), nil)
	const goroutines, keys = 8, 256
	for round := range 200 {
		now := int64(round+1) * int64(time.Second)
		var admitted [keys]atomic.Int32
		inParallel(goroutines, func(int) {
			for key := range keys {
				if l.Allow(testKey(round<<16|key), 1, now).OK {
					admitted[key].Add(1)
				}
			}
		})
		for key := range admitted {
			if n := admitted[key].Load(); n != 2 {
				t.Fatalf("round %d, key %d: admitted %d, want 2", round, key, n)
			}
		}
	}
}

func TestOnFull(t *testing.T) {
	f := func(onFull string, dryRun bool, want Decision, stats Stats) {
		t.Helper()
		c := testConfig("10/s", 5)
		c.OnFull, c.DryRun = onFull, dryRun
		l := New("t", c, nil)
		l.table = newTable(8)
		const slots = 2 * groupSlots
		for key := range slots {
			if d := l.Allow(testKey(key), int64(1+min(key, 1)), 0); !d.OK || d.Remaining != int64(4-min(key, 1)) {
				t.Fatalf("key %d of %d: %+v", key, slots, d)
			}
		}
		if d := public(l.Allow(testKey(slots), 2, 0)); d != want {
			t.Errorf("on_full %s: the key too many gets %+v, want %+v", onFull, d, want)
		}
		if d := l.Allow(testKey(1), 4, 0); d.Remaining != 3 || d.OK != dryRun {
			t.Errorf("on_full %s: a key that has its slot gets %+v", onFull, d)
		}
		if s := l.Stats(); s != stats {
			t.Errorf("on_full %s: %+v, want %+v", onFull, s, stats)
		}
		// The first key's TAT passes after 0.1 s: its slot is taken over.
		if d := l.Allow(testKey(slots), 1, int64(100*time.Millisecond)); !d.OK || d.Remaining != 4 {
			t.Errorf("after a slot has passed: %+v", d)
		}
		if d := l.Allow(testKey(slots), 5, int64(100*time.Millisecond)); d.RetryAfter != int64(100*time.Millisecond) {
			t.Errorf("the key is not followed after it took a slot over: %+v", d)
		}
	}
	const soon = int64(100 * time.Millisecond)
	f("open", false, Decision{OK: true, Remaining: 3, Limit: 10}, Stats{Allowed: 15, Refused: 1, Full: 1})
	f("closed", false, Decision{RetryAfter: soon, Reset: soon, Limit: 10}, Stats{Allowed: 14, Refused: 2, Full: 1})
	f("closed", true, Decision{OK: true, DryRun: true, RetryAfter: soon, Reset: soon, Limit: 10}, Stats{Allowed: 14, DryRun: 2, Full: 1})
}

func TestDryRun(t *testing.T) {
	c := testConfig("1/s", 1)
	c.DryRun = true
	l := New("t", c, nil)
	if d := public(l.Allow(7, 1, 0)); d != (Decision{OK: true, Reset: 1e9, Limit: 1}) {
		t.Errorf("first: %+v", d)
	}
	if d := public(l.Allow(7, 1, 0)); d != (Decision{OK: true, DryRun: true, Reset: 1e9, RetryAfter: 1e9, Limit: 1}) {
		t.Errorf("second: %+v", d)
	}
	if s := l.Stats(); s != (Stats{Allowed: 1, DryRun: 1}) {
		t.Errorf("%+v", s)
	}
}

func TestCost(t *testing.T) {
	l := New("t", testConfig("10/s", 10), nil)
	f := func(cost int64, ok bool, remaining int64) {
		t.Helper()
		if d := l.Allow(7, cost, 1); d.OK != ok || d.Remaining != remaining || !ok && d.RetryAfter <= 0 {
			t.Errorf("cost %d: %+v, want %v and %d left", cost, d, ok, remaining)
		}
	}
	f(11, false, 10)
	f(1<<62, false, 10)
	f(0, true, 10)
	f(-1<<63, true, 10)
	f(7, true, 3)
	f(4, false, 3)
	f(3, true, 0)
	f(0, true, 0)
	f(1, false, 0)
}

// A reload keeps budgets while they mean the same, and counts always.
func TestNewCarriesOver(t *testing.T) {
	old := New("t", testConfig("1/h", 4), nil)
	old.Allow(7, 3, 1)
	f := func(change func(*Config), remaining int64) {
		t.Helper()
		c := testConfig("1/h", 4)
		change(&c)
		l := New("t", c, old)
		if d := l.Allow(7, 0, 1); d.Remaining != remaining {
			t.Errorf("%+v: %d remain, want %d", c, d.Remaining, remaining)
		}
		if s := l.Stats(); s != old.Stats() || s.Allowed < 2 {
			t.Errorf("%+v: %+v", c, s)
		}
	}
	f(func(*Config) {}, 1)
	f(func(c *Config) { c.Burst = 10 }, 7)
	f(func(c *Config) { c.Burst = 2 }, 0)
	f(func(c *Config) { c.DryRun, c.OnFull, c.Headers, c.Cost = true, "closed", false, 2 }, 1)
	f(func(c *Config) { c.Rate = "2/h" }, 4)
	f(func(c *Config) { c.Key = "route" }, 4)
	f(func(c *Config) { c.Keys = 2048 }, 4)
	f(func(c *Config) { c.IPv6Prefix = 56 }, 4)
}

func TestTighter(t *testing.T) {
	order := []Decision{ // from the tightest
		{RetryAfter: 9}, {RetryAfter: 5}, {OK: true, DryRun: true, RetryAfter: 5}, {OK: true}, {OK: true, Remaining: 1}, {OK: true, Remaining: 2},
	}
	for i, a := range order {
		for j, b := range order {
			if a.Tighter(b) != (i < j) {
				t.Errorf("%+v tighter than %+v: %v", a, b, a.Tighter(b))
			}
		}
	}
}

// A million keys take 16,000,000 bytes, as the comment on New says, in whole
// cache lines.
func TestMemory(t *testing.T) {
	c := testConfig("10/s", 1)
	c.Keys = 1_000_000
	l := New("t", c, nil)
	size := unsafe.Sizeof(l.table.groups[0]) * uintptr(cap(l.table.groups))
	if size != 16_000_000 {
		t.Errorf("a million keys take %d bytes", size)
	}
	if at := uintptr(unsafe.Pointer(&l.table.groups[0])); at%64 != 0 {
		t.Errorf("the table begins at %#x, not on a cache line", at)
	}
	if size := unsafe.Sizeof(countLine{}); size != 128 {
		t.Errorf("counts take %d bytes", size)
	}
}
