package limiter

import (
	"sync/atomic"
	"testing"
	"time"
)

func testQuota(quota string, wall *time.Time, change func(*Config)) *Limit {
	l := testLimit(func(c *Config) {
		c.Rate, c.Burst, c.Quota = "", 0, quota
		if change != nil {
			change(c)
		}
	})
	if wall != nil {
		l.quota.wall = func() time.Time { return *wall }
		l.quota.now.Store(l.quota.newWindow(*wall))
	}
	return l
}

func date(t *testing.T, s string) time.Time {
	t.Helper()
	d, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWindow(t *testing.T) {
	f := func(p period, zone, at, from, to string) {
		t.Helper()
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Skip("no time zones here")
		}
		a, b := p.window(date(t, at).In(loc))
		if !a.Equal(date(t, from)) || !b.Equal(date(t, to)) {
			t.Errorf("%v, %s: the window of %s is %v to %v, want %s to %s", p, zone, at, a, b, from, to)
		}
	}
	f(hourly, "UTC", "2026-11-25T10:59:59Z", "2026-11-25T10:00:00Z", "2026-11-25T11:00:00Z")
	f(hourly, "Asia/Kolkata", "2026-11-25T10:59:59Z", "2026-11-25T10:00:00Z", "2026-11-25T11:00:00Z")
	f(daily, "UTC", "2026-11-25T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z")
	f(daily, "UTC", "2026-12-31T23:59:59Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z")
	f(daily, "America/New_York", "2026-11-25T03:00:00Z", "2026-11-24T05:00:00Z", "2026-11-25T05:00:00Z")
	f(weekly, "UTC", "2026-11-25T12:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z")
	f(weekly, "UTC", "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z")
	f(weekly, "UTC", "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z")
	f(monthly, "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z")
	f(monthly, "UTC", "2026-12-05T12:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
	// Days of 23 and 25 hours.
	f(daily, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
	f(daily, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
	// Days without a midnight, and one that the country left out.
	f(daily, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z")
	f(daily, "America/Sao_Paulo", "2018-11-04T02:30:00Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z")
	f(daily, "Asia/Beirut", "2022-03-27T12:00:00Z", "2022-03-26T22:00:00Z", "2022-03-27T21:00:00Z")
	f(daily, "Pacific/Apia", "2011-12-31T12:00:00Z", "2011-12-31T10:00:00+00:00", "2012-01-01T10:00:00Z")
}

// Every moment is in the window that it asks for, in every zone that has
// something odd about it, and one window begins where another ends.
func TestWindowsFollowEachOther(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Tehran"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Skip("no time zones here")
		}
		for p := hourly; p <= monthly; p++ {
			at := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
			for range 3000 {
				from, to := p.window(at.In(loc))
				if from.After(at) || !to.After(at) || to.Sub(from) > 32*24*time.Hour {
					t.Fatalf("%v, %s: the window of %v is %v to %v", p, zone, at, from, to)
				}
				if again, end := p.window(from.In(loc)); !again.Equal(from) || !end.Equal(to) {
					t.Fatalf("%v, %s: %v begins a window to %v, and is in one from %v to %v", p, zone, from, to, again, end)
				}
				if next, _ := p.window(to.In(loc)); !next.Equal(to) {
					t.Fatalf("%v, %s: a window ends at %v, and the next begins at %v", p, zone, to, next)
				}
				at = to.Add(time.Duration(int64(to.Sub(from)) / 3))
			}
		}
	}
}

func TestQuota(t *testing.T) {
	wall := date(t, "2026-11-25T12:00:00Z")
	l := testQuota("3/day", &wall, nil)
	const s = int64(time.Second)
	now := 5 * s
	f := func(key uint64, cost int64, want Decision) {
		t.Helper()
		want.Limit = 3
		if d := public(l.Allow(key, cost, now)); d != want {
			t.Errorf("cost %d: got %+v, want %+v", cost, d, want)
		}
	}
	day := 12 * 3600 * s
	f(7, 0, Decision{OK: true, Remaining: 3, Reset: day})
	f(7, 2, Decision{OK: true, Remaining: 1, Reset: day})
	f(7, 2, Decision{Remaining: 1, Reset: day, RetryAfter: day})
	f(7, 4, Decision{Remaining: 1, Reset: day, RetryAfter: day})
	f(7, 1<<62, Decision{Remaining: 1, Reset: day, RetryAfter: day})
	f(7, 1, Decision{OK: true, Remaining: 0, Reset: day})
	f(7, 0, Decision{OK: true, Remaining: 0, Reset: day})
	f(8, 1, Decision{OK: true, Remaining: 2, Reset: day})
	l.Refund(7, nil, 1, now)
	f(7, 0, Decision{OK: true, Remaining: 1, Reset: day})
	l.Refund(7, nil, 1<<62, now)
	l.Refund(9, nil, 1, now)
	f(7, 3, Decision{OK: true, Remaining: 0, Reset: day})

	// Noon to midnight, and a second more.
	wall, now = wall.Add(12*time.Hour-time.Second), now+day-s
	f(7, 1, Decision{Remaining: 0, Reset: s, RetryAfter: s})
	wall, now = wall.Add(time.Second), now+s
	f(7, 1, Decision{OK: true, Remaining: 2, Reset: 24 * 3600 * s})

	// The clock is put back: the later window goes on.
	wall, now = wall.Add(-2*time.Hour), now+3600*s
	f(7, 1, Decision{OK: true, Remaining: 1, Reset: 26 * 3600 * s})
	// And forward again, by two days.
	wall, now = wall.Add(50*time.Hour), now+3600*s
	f(7, 1, Decision{OK: true, Remaining: 2, Reset: 24*3600*s - 0*s})
	// Back by a year: it was wrong before.
	wall, now = wall.Add(-365*24*time.Hour), now+3600*s
	f(7, 1, Decision{OK: true, Remaining: 2, Reset: 24 * 3600 * s})
}

func TestQuotaHeaders(t *testing.T) {
	wall := date(t, "2026-11-25T00:00:00Z")
	l := testQuota("100000/month", &wall, func(c *Config) { c.Plans = map[string]string{"gold": "500000/month"} })
	f := func(d Decision, want string) {
		t.Helper()
		if got := string(l.AppendHeaders(nil, d)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(l.Allow(7, 1, 1), "RateLimit-Policy: \"t\";q=100000;w=2592000\r\nRateLimit: \"t\";r=99999;t=518400\r\n")
	f(l.Allow(7, 100000, 1), "RateLimit-Policy: \"t\";q=100000;w=2592000\r\nRateLimit: \"t\";r=99999;t=518400\r\nRetry-After: 518400\r\n")
	f(l.AllowPlan(7, l.Plan("gold"), 1, 1), "RateLimit-Policy: \"t\";q=500000;w=2592000\r\nRateLimit: \"t\";r=499998;t=518400\r\n")
}

func TestQuotaOnFull(t *testing.T) {
	for _, onFull := range []string{"open", "closed"} {
		l := testQuota("10/day", nil, func(c *Config) { c.OnFull = onFull })
		w := l.quota.now.Load()
		w.groups = make([]quotaGroup, 1)
		for i := range 4 {
			if d := l.Allow(testKey(i), 1, 1); !d.OK || d.Remaining != 9 {
				t.Fatalf("%d of 4: %+v", i, d)
			}
		}
		if d := l.Allow(testKey(4), 1, 1); d.OK != (onFull == "open") || (d.RetryAfter > 0) == d.OK {
			t.Errorf("%s: %+v", onFull, d)
		}
		if d := l.Allow(testKey(2), 1, 1); !d.OK || d.Remaining != 8 {
			t.Errorf("%s: a key that has its place gets %+v", onFull, d)
		}
		if s := l.Stats(); s.Full != 1 {
			t.Errorf("%+v", s)
		}
	}
}

func TestQuotaTableHoldsItsKeys(t *testing.T) {
	const keys = 1 << 17
	l := testQuota("1/day", nil, func(c *Config) { c.Keys = keys })
	for i := range keys {
		l.Allow(testKey(i), 1, 1)
	}
	if n := l.Stats().Full; n != 0 {
		t.Errorf("%d of %d keys found no place", n, keys)
	}
	for i := range keys {
		if l.Allow(testKey(i), 1, 1).OK {
			t.Fatalf("key %d has two budgets", i)
		}
	}
}

// However many goroutines bring new keys, each key gets its quota and no more.
func TestQuotaManyGoroutines(t *testing.T) {
	l := testQuota("5/day", nil, nil)
	const keys = 500
	var admitted [keys]atomic.Int32
	inParallel(8, func(int) {
		for range 3 {
			for key := range keys {
				if l.Allow(testKey(key), 1, 1).OK {
					admitted[key].Add(1)
				}
			}
		}
	})
	for key := range admitted {
		if n := admitted[key].Load(); n != 5 {
			t.Fatalf("key %d: admitted %d, want 5", key, n)
		}
	}
}

// Many goroutines over the end of a window: each window admits its quota, and a
// few that came at the end of one may count in it.
func TestQuotaTurns(t *testing.T) {
	var hours atomic.Int64
	begin := date(t, "2026-11-25T12:00:00Z")
	l := testQuota("100/hour", nil, nil)
	l.quota.wall = func() time.Time { return begin.Add(time.Duration(hours.Load()) * time.Hour) }
	l.quota.now.Store(l.quota.newWindow(begin))
	const windows = 50
	var admitted atomic.Int64
	for h := range windows {
		hours.Store(int64(h))
		inParallel(4, func(int) {
			for range 100 {
				if l.Allow(7, 1, int64(h)*int64(time.Hour)+1).OK {
					admitted.Add(1)
				}
			}
		})
	}
	if n := admitted.Load(); n > windows*100 || n < (windows-1)*100 {
		t.Errorf("admitted %d in %d windows of 100", n, windows)
	}
}

func FuzzParseQuota(f *testing.F) {
	for _, s := range []string{"1000/hour", "50000/day", "200000/week", "1000000000000/month", "", "/day", "0/day", "1/year", "01/day", "1/day/day"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := parseQuota(s)
		if !ok {
			return
		}
		if p.text() != s || p.most < 1 || p.most > mostCount {
			t.Fatalf("%q is read as %s", s, p.text())
		}
	})
}
