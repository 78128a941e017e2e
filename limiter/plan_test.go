package limiter

import (
	"math/big"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	type plans = map[string]string
	f := func(l *Limit, text, want string, most int64) {
		t.Helper()
		if p := l.Plan(text); p.text() != want || p.Most() != most {
			t.Errorf("%q is %s, %d at once; want %s, %d", text, p.text(), p.Most(), want, most)
		}
	}
	l := testLimit(func(c *Config) { c.Plans, c.PlanMax = plans{"gold": "1000/s", "10/s": "20/s"}, "5000/s" })
	f(l, "gold", "1000/s", 500) // as long a burst: half a second
	f(l, "", "100/s", 50)
	f(l, "silver", "100/s", 50)
	f(l, "Gold", "100/s", 50)
	f(l, "200/s", "200/s", 100)
	f(l, "10/s", "20/s", 10) // a name comes first
	f(l, "1/s", "1/s", 1)
	f(l, "5000/s", "5000/s", 2500)
	f(l, "5001/s", "5000/s", 2500)
	f(l, "300001/m", "5000/s", 2500)
	f(l, "0/s", "100/s", 50)
	f(l, "-1/s", "100/s", 50)
	f(l, "99999999999999999999/s", "100/s", 50)
	if n := l.Stats().UnknownPlan; n != 6 {
		t.Errorf("%d unknown plans, want 6", n)
	}
	// Without plan_max no claim asks for more than the configuration grants.
	l = testLimit(func(*Config) {})
	f(l, "1000/s", "100/s", 50)
	f(l, "50/s", "50/s", 25)
	l = testLimit(func(c *Config) { c.Burst, c.Cost = 0, 20 })
	f(l, "50/s", "50/s", 50)
	f(l, "10/s", "10/s", 20) // or no request would pass

	l = testLimit(func(c *Config) {
		c.Rate, c.Burst, c.Quota, c.Plans = "", 0, "1000/month", plans{"gold": "5000/month"}
	})
	f(l, "gold", "5000/month", 5000)
	f(l, "2000/month", "2000/month", 2000)
	f(l, "9999/month", "5000/month", 5000)
	f(l, "2000/day", "1000/month", 1000)
	f(l, "2000", "1000/month", 1000)

	l = testLimit(func(c *Config) { c.Rate, c.Burst, c.Concurrent, c.PlanMax = "", 0, 10, "30" })
	f(l, "20", "20", 20)
	f(l, "31", "30", 30)
	f(l, "1/s", "10", 10)
}

func TestPlanOf(t *testing.T) {
	type m = map[string]string
	l := testLimit(func(c *Config) { c.PlanBy, c.Plans = "claim:plan", m{"gold": "1000/s", "free": "1/s"} })
	f := func(claims m, want string) {
		t.Helper()
		if p := l.PlanOf(&caller{claims: claims}); p.text() != want {
			t.Errorf("%v: %s, want %s", claims, p.text(), want)
		}
	}
	f(nil, "100/s")
	f(m{"plan": "gold"}, "1000/s")
	f(m{"plan": "gold", "limits.t": "free"}, "1/s")
	f(m{"plan": "free", "limits.t": "500/s"}, "500/s")
	f(m{"plan": "free", "limits.other": "500/s"}, "1/s")
}

// meter is exact GCRA with rational times: what one key may do under plans that
// change, each at a rate of its own. A debt is a time.
type meter struct{ tat *big.Rat }

// allow asks at now nanoseconds for n requests that take interval nanoseconds
// each, when the debt may be burst of them.
func (m *meter) allow(now int64, n, burst int64, interval *big.Rat) bool {
	at := new(big.Rat).SetInt64(now)
	if m.tat == nil || m.tat.Cmp(at) < 0 {
		m.tat = at
	}
	times := func(n int64) *big.Rat { return new(big.Rat).Mul(interval, new(big.Rat).SetInt64(n)) }
	next := new(big.Rat).Add(m.tat, times(n))
	if next.Cmp(new(big.Rat).Add(at, times(burst))) > 0 {
		return false
	}
	m.tat = next
	return true
}

// One table with many plans decides as exact GCRA does whose interval of a
// request is rounded up to a whole unit, and whose clock is that of units; and
// no plan is slowed by more than one part in 512.
func TestPlansEqualReference(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		rate, most string
		burst      int
		plans      []string
	}{
		{"100/s", "", 50, []string{"1/s", "99/s", "7/s", "100/m", "3333/h"}},
		{"10/s", "1000/s", 10, []string{"1000/s", "999/s", "501/s", "1/s", "600/m", "10/s"}},
		{"5000/m", "100000/s", 0, []string{"99999/s", "1/s", "86400/d"}},
		{"10/h", "1000/h", 3, []string{"1000/h", "1/h", "1/d", "20/d"}},
	} {
		l := testLimit(func(cfg *Config) { cfg.Rate, cfg.Burst, cfg.PlanMax = c.rate, c.burst, c.most })
		unit := big.NewRat(int64(l.clock.Per), l.clock.Count*unitsPerRequest) // in nanoseconds
		const keys = 5
		var meters [keys]meter
		var now int64
		for i := range 30_000 {
			plan := l.Plan(c.plans[random.IntN(len(c.plans))])
			if random.IntN(5) == 0 {
				plan = nil
			}
			p := plan
			if p == nil {
				p = l.own
			}
			interval := new(big.Rat).Mul(unit, new(big.Rat).SetInt64(p.units))
			asked := big.NewRat(int64(p.rate.Per), p.rate.Count)
			if slow := new(big.Rat).Quo(interval, asked); slow.Cmp(big.NewRat(1, 1)) < 0 || slow.Cmp(big.NewRat(513, 512)) > 0 {
				t.Fatalf("%v beside %v is slowed by %v", p.rate, l.clock, slow.FloatString(6))
			}
			if random.IntN(3) == 0 {
				now += random.Int64N(int64(p.rate.Per)/p.rate.Count*2 + 2)
			}
			if random.IntN(500) == 0 {
				now += random.Int64N(int64(48 * time.Hour))
			}
			key, cost := random.IntN(keys), int64(1)
			if random.IntN(4) == 0 {
				cost = 1 + random.Int64N(p.most+1)
			}
			// The table sees the time as whole units.
			ticks := new(big.Rat).Quo(new(big.Rat).SetInt64(now), unit)
			whole := new(big.Int).Quo(ticks.Num(), ticks.Denom()).Int64()
			want := meters[key].allow(whole, cost, p.most, new(big.Rat).SetInt64(p.units))
			if d := l.AllowPlan(testKey(key), plan, cost, now); d.OK != want {
				t.Fatalf("%s, step %d: %v, cost %d of %d, now %d: got %+v, want %v", c.rate, i, p.rate, cost, p.most, now, d, want)
			}
		}
	}
}

// Over a minute of a demand that is too high each plan admits its burst and its
// rate, and at most a 512th of the rate less.
func TestPlanAccuracy(t *testing.T) {
	l := testLimit(func(c *Config) { c.PlanMax = "1000/s" })
	for i, text := range []string{"1000/s", "999/s", "300/s", "10/s", "1/s", "90/m"} {
		p := l.Plan(text)
		end := int64(60 * time.Second)
		var admitted int64
		for now := int64(0); now <= end; now += end / 200_000 {
			if l.AllowPlan(testKey(i), p, 1, now).OK {
				admitted++
			}
		}
		most := p.most + int64(p.rate.units(end)/unitsPerRequest)
		if least := most - (most-p.most)/unitsPerRequest - 1; admitted > most || admitted < least {
			t.Errorf("%s: admitted %d, want %d to %d", text, admitted, least, most)
		}
	}
}

// A plan so slow that the table cannot count it is as slow as the table can.
func TestSlowestPlan(t *testing.T) {
	l := testLimit(func(c *Config) { c.PlanMax = "100000/s" })
	p := l.Plan("1/d")
	if p.most != 1 || p.units != mostRoom {
		t.Errorf("1/d beside 100000/s: %+v", p)
	}
	if !l.AllowPlan(7, p, 1, 1).OK || l.AllowPlan(7, p, 1, 1+int64(9*time.Second)).OK || !l.AllowPlan(7, p, 1, 1+int64(11*time.Second)).OK {
		t.Error("it is not one in 10.24 s")
	}
}

func TestRefund(t *testing.T) {
	l := testLimit(func(c *Config) { c.Rate, c.Burst, c.PlanMax = "1/s", 10, "100/s" })
	f := func(text string, take, back, left int64) {
		t.Helper()
		var plan *Plan
		if text != "" {
			plan = l.Plan(text)
		}
		if take > 0 && !l.AllowPlan(7, plan, take, 1).OK {
			t.Fatalf("%d refused", take)
		}
		l.Refund(7, plan, back, 1)
		if d := l.AllowPlan(7, plan, 0, 1); d.Remaining != left {
			t.Errorf("%q, took %d, gave back %d: %d left, want %d", text, take, back, d.Remaining, left)
		}
	}
	f("", 0, 5, 10) // a key that was never seen
	f("", 3, 1, 8)
	f("", 0, 0, 8)
	f("", 0, -5, 8)
	f("", 8, 8, 8)
	f("", 0, 1<<62, 10) // never more than the burst
	f("", 4, 0, 6)
	l.Refund(7, nil, 4, int64(3*time.Second)) // 1 or so is still owed
	if d := l.AllowPlan(7, nil, 0, int64(3*time.Second)); d.Remaining != 10 || d.Reset != 0 {
		t.Errorf("later: %+v", d)
	}
	l = testLimit(func(c *Config) { c.Rate, c.Burst, c.PlanMax = "1/s", 10, "100/s" })
	f("100/s", 500, 200, 700)
}

// Charges that are given back by some do not admit more to others than fits.
func TestRefundManyGoroutines(t *testing.T) {
	l := testLimit(func(c *Config) { c.Rate, c.Burst = "1/h", 100 })
	var kept atomic.Int64
	inParallel(8, func(i int) {
		for j := range 10_000 {
			if !l.Allow(7, 1, 1).OK {
				continue
			}
			if (i+j)%100 != 0 {
				l.Refund(7, nil, 1, 1)
			} else {
				kept.Add(1)
			}
		}
	})
	d := l.Allow(7, 0, 1)
	if d.Remaining != 100-kept.Load() {
		t.Errorf("%d were kept, %d remain of 100", kept.Load(), d.Remaining)
	}
}
