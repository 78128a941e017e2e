package limiter

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/redis"
	"sluice/redis/redistest"
	"sluice/setting"
	"sluice/wire"
)

// accuracy is how long TestSharedAccuracy loads:
//
//	go test ./limiter -run TestSharedAccuracy -v -args -accuracy 30s
var accuracy = flag.Duration("accuracy", 2*time.Second, "how long TestSharedAccuracy loads")

func sharedConfig(mode, onError string) SharedConfig {
	return SharedConfig{
		Redis: "main", Mode: mode, OnError: onError, LocalShare: 1,
		Sync: setting.Duration(50 * time.Millisecond),
		// Ample: what a busy machine takes to schedule is not the subject.
		Timeout: setting.Duration(250 * time.Millisecond),
	}
}

func redisConfig(addrs ...string) redis.Config {
	c := redis.Config{
		Addresses: addrs, Mode: "single", Prefix: "t:",
		ConnectTimeout: setting.Duration(time.Second), Timeout: setting.Duration(500 * time.Millisecond),
	}
	if len(addrs) > 1 {
		c.Mode = "cluster"
	}
	return c
}

// gateways are n of one limit, each with its own client.
func gateways(tb testing.TB, n int, rc redis.Config, cfg SharedConfig) []*Shared {
	tb.Helper()
	list := make([]*Shared, n)
	for i := range list {
		c, err := redis.Open(rc, zerolog.Nop())
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(c.Close)
		list[i] = NewShared("per_key", Config{Rate: "1/s", Keys: 4096, OnFull: "open"}, cfg, c, nil)
		list[i].Start()
		tb.Cleanup(list[i].Close)
	}
	for _, s := range list {
		eventually(tb, "Redis is up", func() bool { return !s.away() })
	}
	return list
}

// eventually waits for what has no event, up to twenty seconds.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within 20 s: %s", what)
		}
	}
}

func sharedKey(s *Shared, text string) SharedKey {
	h := s.NewHasher()
	h.Bytes([]byte(text))
	return h.Sum()
}

var perSecond = func(n int64) Rate { return Rate{n, time.Second} }

// serverTime is the clock of a server in microseconds.
func serverTime(tb testing.TB, s *redistest.Server) int64 {
	var sec, usec int64
	lines := strings.Split(s.Do("TIME"), "\r\n")
	if len(lines) < 5 {
		tb.Fatalf("TIME: %q", lines)
	}
	fmt.Sscan(lines[2], &sec)
	fmt.Sscan(lines[4], &usec)
	return sec*1e6 + usec
}

// Three gateways on one Redis under more load than the rate give the rate:
// exact never more than burst + rate*time, fast never more than its bound.
func TestSharedAccuracy(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	const n = 3
	for _, mode := range []string{"exact", "fast"} {
		for _, rate := range []Rate{perSecond(1000), {123457, time.Minute}} {
			t.Run(mode+" "+rate.String(), func(t *testing.T) {
				burst := rate.perSecond() / 2
				list := gateways(t, n, redisConfig(server.Addr), sharedConfig(mode, "closed"))
				key := sharedKey(list[0], t.Name())
				var admitted, asked atomic.Int64
				begin := serverTime(t, server)
				end := time.Now().Add(*accuracy)
				var wg sync.WaitGroup
				for _, s := range list {
					for range 4 {
						wg.Go(func() {
							for time.Now().Before(end) {
								d, basis := s.Allow(key, rate, burst, 1, wire.Nanotime())
								asked.Add(1)
								if d.OK {
									admitted.Add(1)
								} else {
									time.Sleep(time.Millisecond) // paces the load
								}
								if basis != Counted {
									t.Errorf("basis %d: %+v", basis, s.Stats())
									return
								}
							}
						})
					}
				}
				wg.Wait()
				elapsed := float64(serverTime(t, server)-begin) / 1e6
				perSec := float64(rate.Count) / rate.Per.Seconds()
				given := perSec * elapsed
				most := float64(burst) + given + 1
				if mode == "fast" {
					c := list[0].cfg
					most += (n - 1) * (float64(burst) + perSec*(2*c.Sync.Std()+list[0].exchangeTimeout()).Seconds())
				}
				got := float64(admitted.Load())
				t.Logf("asked %d times in %.2f s; admitted %.0f = burst %d + %.4f of the rate; at most %.0f", asked.Load(), elapsed, got, burst, (got-float64(burst))/given, most)
				if got > most || got < 0.99*given {
					t.Errorf("admitted %.0f, expected %.0f to %.0f", got, 0.99*given, most)
				}
				if mode == "exact" && *accuracy >= 10*time.Second && got-float64(burst) < 0.99*given {
					t.Errorf("admitted %.0f beside the burst, expected at least %.0f", got-float64(burst), 0.99*given)
				}
			})
		}
	}
}

// At worst each gateway of mode fast gives a whole burst before it hears of the
// others; then all of them wait until what was too much is paid.
func TestSharedOvershootIsOwed(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	const n, burst = 3, 100
	list := gateways(t, n, redisConfig(server.Addr), sharedConfig("fast", "closed"))
	rate, key := Rate{60, time.Hour}, sharedKey(list[0], "k")
	for range 2 * burst { // in turn, so that all begin before an exchange
		for _, s := range list {
			s.Allow(key, rate, burst, 1, wire.Nanotime())
		}
	}
	var admitted uint64
	for _, s := range list {
		admitted += s.Stats().Allowed
	}
	if admitted > n*burst || admitted < burst {
		t.Errorf("admitted %d", admitted)
	}
	owed := time.Duration(admitted-1) * time.Minute // and a minute for the test
	for i, s := range list {
		eventually(t, fmt.Sprintf("gateway %d owes for all %d", i, admitted), func() bool {
			d, _ := s.Allow(key, rate, burst, 1, wire.Nanotime())
			return !d.OK && d.Reset > int64(owed) && d.RetryAfter > int64(owed)-int64(burst*time.Minute)
		})
	}
	t.Logf("admitted %d of %d", admitted, n*burst)
}

// A decision says the same as that of a Limit, and refusals cost nothing.
func TestSharedDecision(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	for _, mode := range []string{"exact", "fast"} {
		t.Run(mode, func(t *testing.T) {
			s := gateways(t, 1, redisConfig(server.Addr), sharedConfig(mode, "closed"))[0]
			rate, key := Rate{6, time.Hour}, sharedKey(s, mode)
			f := func(cost int64, ok bool, remaining int64, retry time.Duration) {
				t.Helper()
				d, basis := s.Allow(key, rate, 4, cost, wire.Nanotime())
				about := func(ns int64, want time.Duration) bool {
					return ns <= int64(want) && ns > int64(want-time.Minute)
				}
				owed := time.Duration(4-remaining) * 10 * time.Minute
				if basis != Counted || d.OK != ok || d.Remaining != remaining || d.Limit != 6 || !about(d.Reset, owed) || !about(d.RetryAfter, retry) {
					t.Errorf("cost %d: expected %v, %d left, retry %v; got %+v, basis %d", cost, ok, remaining, retry, d, basis)
				}
			}
			f(0, true, 4, 0)
			f(1, true, 3, 0)
			f(5, false, 3, 20*time.Minute)
			f(1<<60, false, 3, 20*time.Minute)
			f(3, true, 0, 0)
			f(1, false, 0, 10*time.Minute)
			f(-1, true, 0, 0)
			if st := s.Stats(); st.Allowed != 4 || st.Refused != 3 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// What stands on Redis: no value of a client, and only for as long as there is
// a debt.
func TestSharedKeysExpire(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	s := gateways(t, 1, redisConfig(server.Addr), sharedConfig("exact", "closed"))[0]
	h := s.NewHasher()
	h.Addr(netip.MustParseAddr("192.0.2.77"), 64)
	if d, _ := s.Allow(h.Sum(), Rate{60, time.Minute}, 600, 120, 0); !d.OK {
		t.Fatal("refused")
	}
	keys := server.Do("KEYS", "*")
	if !strings.HasPrefix(keys, "*1\r\n") || !strings.Contains(keys, "t:limit:per_key:") || strings.Contains(keys, "192.0.2") {
		t.Errorf("keys: %q", keys)
	}
	name := strings.Split(keys, "\r\n")[2]
	var ms int
	if fmt.Sscanf(server.Do("PTTL", name), ":%d", &ms); ms < 100_000 || ms > 120_001 {
		t.Errorf("expected a life of two minutes, got %d ms", ms)
	}
	t.Logf("a key takes %s bytes", strings.TrimSpace(server.Do("MEMORY", "USAGE", name)))
	// A look at another key leaves nothing.
	s.Allow(sharedKey(s, "x"), perSecond(1), 1, 0, 0)
	if got := server.Do("DBSIZE"); got != ":1\r\n" {
		t.Errorf("DBSIZE %q", got)
	}
	// A value that is none of ours fails closed and harms nobody else.
	server.Do("DEL", name)
	server.Do("LPUSH", name, "x")
	if d, basis := s.Allow(h.Sum(), Rate{60, time.Minute}, 600, 1, 0); d.OK || basis != Unavailable {
		t.Errorf("%+v, basis %d", d, basis)
	}
	if d, basis := s.Allow(sharedKey(s, "y"), perSecond(1), 1, 1, 0); !d.OK || basis != Counted {
		t.Errorf("%+v, basis %d", d, basis)
	}
}

func TestSharedOnTLSAndCluster(t *testing.T) {
	f := func(name string, rc func(t *testing.T) redis.Config) {
		t.Run(name, func(t *testing.T) {
			config := rc(t)
			for _, mode := range []string{"exact", "fast"} {
				list := gateways(t, 2, config, sharedConfig(mode, "closed"))
				for i := range 20 { // over all nodes of a cluster
					key := sharedKey(list[0], fmt.Sprint(mode, i))
					for range 3 {
						if d, basis := list[0].Allow(key, Rate{1, time.Hour}, 3, 1, wire.Nanotime()); !d.OK || basis != Counted {
							t.Fatalf("%s: %+v, basis %d, %+v", mode, d, basis, list[0].Stats())
						}
					}
				}
				for i := range 20 {
					key := sharedKey(list[0], fmt.Sprint(mode, i))
					eventually(t, "the other gateway refuses", func() bool {
						d, _ := list[1].Allow(key, Rate{1, time.Hour}, 3, 1, wire.Nanotime())
						return !d.OK
					})
				}
				if mode == "fast" {
					eventually(t, "the debts add up", func() bool {
						d, _ := list[1].Allow(sharedKey(list[0], "fast0"), Rate{1, time.Hour}, 3, 1, wire.Nanotime())
						return d.RetryAfter > int64(2*time.Hour)
					})
				}
			}
		})
	}
	f("TLS and password", func(t *testing.T) redis.Config {
		server := redistest.Start(t, redistest.Options{TLS: true, Password: "open sesame"})
		rc := redisConfig(server.Addr)
		rc.Password, rc.TLS = "open sesame", &redis.TLS{CA: server.CA}
		return rc
	})
	// The rights that the documentation asks for are enough.
	f("user with few rights", func(t *testing.T) redis.Config {
		server := redistest.Start(t, redistest.Options{})
		if got := server.Do("ACL", "SETUSER", "sluice", "on", ">secret", "~t:*", "+evalsha", "+eval", "+get", "+set", "+incrby", "+expireat", "+time", "+ping", "+hello", "+client"); got != "+OK\r\n" {
			t.Fatal(got)
		}
		rc := redisConfig(server.Addr)
		rc.Username, rc.Password = "sluice", "secret"
		return rc
	})
	f("cluster", func(t *testing.T) redis.Config {
		servers := redistest.StartCluster(t, 3)
		return redisConfig(servers[0].Addr, servers[1].Addr)
	})
}

// Redis hangs, goes on, dies and comes back under load. No caller waits longer
// than its timeouts, nothing is decided but as on_error says, and afterwards
// all is counted again.
func TestSharedOutage(t *testing.T) {
	want := map[string]Basis{"open": Unchecked, "closed": Unavailable, "local": Alone}
	for _, mode := range []string{"exact", "fast"} {
		for _, onError := range []string{"open", "closed", "local"} {
			t.Run(mode+" "+onError, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t, redistest.Options{})
				cfg := sharedConfig(mode, onError)
				cfg.Timeout = setting.Duration(20 * time.Millisecond)
				cfg.Sync = setting.Duration(20 * time.Millisecond)
				s := gateways(t, 1, redisConfig(server.Addr), cfg)[0]
				key, rate := sharedKey(s, "k"), Rate{20, time.Hour}
				var stop atomic.Bool
				var seen, refused [4]atomic.Int64
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for !stop.Load() {
							d, basis := s.Allow(key, rate, 20, 1, wire.Nanotime())
							seen[basis].Add(1)
							if !d.OK {
								refused[basis].Add(1)
							}
							if basis == Unchecked && !d.OK || basis == Unavailable && (d.OK || d.RetryAfter != int64(time.Second)) {
								t.Errorf("basis %d: %+v", basis, d)
							}
							time.Sleep(time.Millisecond) // paces the load
						}
					})
				}
				after := func(b Basis) {
					t.Helper()
					was := seen[b].Load()
					eventually(t, fmt.Sprintf("more of basis %d", b), func() bool { return seen[b].Load() > was+20 })
				}
				after(Counted)
				for range 2 {
					server.Stop()
					after(want[onError])
					eventually(t, "Redis counts as gone", s.away)
					timeouts := s.Stats().Timeouts
					after(want[onError])
					// The prober alone still waits: four callers would have
					// waited twenty times.
					if now := s.Stats().Timeouts; mode == "exact" && now > timeouts+15 {
						t.Errorf("callers still wait: %d timeouts more", now-timeouts)
					}
					server.Continue()
					syncs := s.Stats().Syncs
					eventually(t, "Redis counts as there", func() bool { return !s.away() })
					after(Counted)
					if mode == "fast" {
						eventually(t, "an exchange", func() bool { return s.Stats().Syncs > syncs+1 })
					}
				}
				server.Kill()
				after(want[onError])
				server.Restart()
				eventually(t, "Redis counts as there", func() bool { return !s.away() })
				after(Counted)
				stop.Store(true)
				wg.Wait()
				st := s.Stats()
				if st.Trips == 0 || st.Allowed+st.Refused == 0 {
					t.Errorf("%+v", st)
				}
				for b := range seen {
					if n := seen[b].Load(); n != 0 && Basis(b) != Counted && Basis(b) != want[onError] {
						t.Errorf("basis %d: %d times", b, n)
					}
				}
				if onError == "local" && refused[Alone].Load() == 0 {
					t.Error("alone it refused nothing")
				}
				t.Logf("%+v", st)
			})
		}
	}
}

// Alone a gateway gives its share, and what it gave meanwhile is not paid in
// without bound.
func TestSharedAloneGivesItsShare(t *testing.T) {
	c, err := redis.Open(redisConfig("127.0.0.1:1"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, mode := range []string{"exact", "fast"} {
		cfg := sharedConfig(mode, "local")
		cfg.LocalShare = 0.25
		s := NewShared("l", Config{Keys: 1024}, cfg, c, nil)
		var admitted int64
		now := int64(time.Hour)
		for range 100_000 { // 100 s, 1000 asked a second
			now += int64(time.Millisecond)
			if d, basis := s.Allow(SharedKey{1}, perSecond(100), 80, 1, now); d.OK {
				admitted++
			} else if basis != Alone || d.RetryAfter <= 0 || d.RetryAfter > int64(40*time.Millisecond) {
				t.Fatalf("basis %d, %+v", basis, d)
			}
		}
		if admitted < 2500+19 || admitted > 2500+21 {
			t.Errorf("%s: expected a quarter, 20 + 2500, got %d", mode, admitted)
		}
		// A cost that the whole burst allows is not refused for ever.
		if d, _ := s.Allow(SharedKey{2}, perSecond(100), 80, 80, now); !d.OK {
			t.Errorf("%s: %+v", mode, d)
		}
		if d, _ := s.Allow(SharedKey{3}, perSecond(100), 80, 81, now); d.OK {
			t.Errorf("%s: %+v", mode, d)
		}
	}
	s := NewShared("l", Config{Keys: 1024}, sharedConfig("fast", "local"), c, nil)
	if most := s.mostTold(perSecond(100), 80); most != 80+511 {
		t.Errorf("expected 80 and twice 2.55 s of the rate, got %d", most)
	}
}

func TestSharedQuota(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	list := gateways(t, 2, redisConfig(server.Addr), sharedConfig("fast", "closed"))
	key, now := sharedKey(list[0], "k"), time.Now()
	ends := now.Add(time.Hour).Truncate(time.Second)
	f := func(s *Shared, cost int64, ok bool, remaining int64) {
		t.Helper()
		d, basis := s.Quota(key, 10, cost, ends, now)
		if basis != Counted || d.OK != ok || d.Remaining != remaining || d.Limit != 10 || d.Reset != int64(ends.Sub(now)) || (d.RetryAfter == d.Reset) == ok {
			t.Errorf("cost %d: %+v, basis %d", cost, d, basis)
		}
	}
	f(list[0], 0, true, 10)
	f(list[0], 3, true, 7)
	f(list[1], 8, false, 7)
	f(list[1], 7, true, 0)
	f(list[0], 1, false, 0)
	f(list[0], 0, true, 0)
	name := strings.Split(server.Do("KEYS", "t:quota:*"), "\r\n")[2]
	var at int64
	if fmt.Sscanf(server.Do("EXPIRETIME", name), ":%d", &at); at != ends.Unix()+60 {
		t.Errorf("expected it to go a minute after %d, got %d", ends.Unix(), at)
	}
	// The next window is another count.
	if d, _ := list[0].Quota(key, 10, 10, ends.Add(time.Hour), now); !d.OK {
		t.Errorf("%+v", d)
	}
	// Many at once do not count past the quota.
	var admitted atomic.Int64
	var wg sync.WaitGroup
	other := sharedKey(list[0], "other")
	for i := range 20 {
		wg.Go(func() {
			for range 20 {
				if d, basis := list[i%2].Quota(other, 150, 1, ends, now); d.OK && basis == Counted {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 150 {
		t.Errorf("expected 150, got %d", admitted.Load())
	}
	server.Kill()
	eventually(t, "it is gone", func() bool {
		d, basis := list[0].Quota(key, 10, 1, ends, now)
		return basis == Unavailable && !d.OK
	})
}

// A server that was restarted, or told to forget, knows no script.
func TestSharedScriptIsUnknown(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	s := gateways(t, 1, redisConfig(server.Addr), sharedConfig("exact", "closed"))[0]
	for i := range 3 {
		if got := server.Do("SCRIPT", "FLUSH"); got != "+OK\r\n" {
			t.Fatal(got)
		}
		var wg sync.WaitGroup
		for j := range 50 {
			wg.Go(func() {
				if d, basis := s.Allow(sharedKey(s, fmt.Sprint(i, j)), perSecond(1), 1, 1, 0); !d.OK || basis != Counted {
					t.Errorf("%+v, basis %d", d, basis)
				}
			})
		}
		wg.Wait()
	}
	if st := s.Stats(); st.Errors != 0 || st.Sent < 150 {
		t.Errorf("%+v", st)
	}
}

// A reload takes counts and budgets along while they mean the same.
func TestSharedCarriesOver(t *testing.T) {
	c, err := redis.Open(redisConfig("127.0.0.1:1"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	limit := Config{Keys: 1024, Key: "ip"}
	a := NewShared("l", limit, sharedConfig("fast", "local"), c, nil)
	now := int64(time.Hour)
	if d, _ := a.Allow(SharedKey{1}, perSecond(1), 1, 1, now); !d.OK {
		t.Fatal(d)
	}
	b := NewShared("l", limit, sharedConfig("exact", "local"), c, a)
	if d, _ := b.Allow(SharedKey{1}, perSecond(1), 1, 1, now); d.OK {
		t.Error("the budget is gone")
	}
	limit.Key = "route"
	d := NewShared("l", limit, sharedConfig("exact", "local"), c, b)
	if d, _ := d.Allow(SharedKey{1}, perSecond(1), 1, 1, now); !d.OK {
		t.Error("the budget of another key")
	}
	if st := d.Stats(); st.Allowed != 2 || st.Refused != 1 {
		t.Errorf("%+v", st)
	}
	if e := NewShared("l", limit, sharedConfig("exact", "open"), c, d); e.ledger != nil {
		t.Error("a ledger for nothing")
	}
	limit.DryRun = true
	dry := NewShared("l", limit, sharedConfig("exact", "closed"), c, nil)
	if d, basis := dry.Allow(SharedKey{}, perSecond(1), 1, 1, now); !d.OK || !d.DryRun || basis != Unavailable {
		t.Errorf("%+v, basis %d", d, basis)
	}
}

// The ledger gives what a token bucket gives, over rates that change, costs
// and pauses at random.
func TestLedgerEqualsTokenBucket(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		units := rateUnits[r.IntN(len(rateUnits))]
		rate := Rate{1 + r.Int64N(mostPerSecond), units.per}
		burst := 1 + r.Int64N(100)
		interval := intervalTicks(rate)
		room := roomTicks(interval, burst)
		l := newLedger(64)
		var level, last int64 // of the reference, in ticks
		level = room
		now := r.Int64N(1<<50) + 1
		for range 500 {
			if step := interval * burst / ticksPerNanosecond; r.IntN(3) > 0 {
				now += r.Int64N(step/20 + 2)
			}
			level = min(level+(now-last)*ticksPerNanosecond, room)
			last = now
			cost := r.Int64N(burst + 2)
			want := cost*interval <= level
			got := l.charge(SharedKey{7}, packPlan(rate, burst), cost, interval, room, now)
			if want {
				level -= cost * interval
			}
			if (got.verdict == taken) != want || got.debt != room-level {
				t.Fatalf("%v burst %d cost %d: expected %v with %d, got %+v", rate, burst, cost, want, room-level, got)
			}
		}
	}
}

// Many goroutines on many keys, more than there is room for: no key gets more
// than its burst while the clock stands, and all that is admitted is told.
func TestLedgerAtOnce(t *testing.T) {
	const keys, burst = 200, 5
	l := newLedger(2 * keys)
	rate := perSecond(1)
	interval := intervalTicks(rate)
	room := roomTicks(interval, burst)
	var admitted [keys]atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			for range 20_000 {
				k := r.IntN(keys)
				h := newSharedHasher(new([32]byte))
				h.Bytes([]byte{byte(k)})
				switch st := l.charge(h.Sum(), packPlan(rate, burst), 1, interval, room, int64(time.Minute)); st.verdict {
				case taken:
					admitted[k].Add(1)
				case full:
					t.Error("full")
				}
			}
		})
	}
	wg.Wait()
	var total, told int64
	for i := range admitted {
		n := admitted[i].Load()
		total += n
		if n < burst || n > burst+2 { // two slots for a key that came twice at once
			t.Errorf("key %d: %d", i, n)
		}
	}
	for i := range l.buckets {
		for j := range l.buckets[i].slots {
			n := l.buckets[i].slots[j].untold.Load()
			told += n
			at := i*ledgerSlots + j
			if marked := l.changed[at/64].Load()>>(at%64)&1 == 1; marked != (n > 0) {
				t.Errorf("slot %d: %d to tell, marked %v", at, n, marked)
			}
		}
	}
	if total != told {
		t.Errorf("admitted %d, to tell %d", total, told)
	}
}

func TestLedgerFull(t *testing.T) {
	c, err := redis.Open(redisConfig("127.0.0.1:1"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, onFull := range []string{"open", "closed"} {
		s := NewShared("l", Config{Keys: 1024, OnFull: onFull}, sharedConfig("exact", "local"), c, nil)
		s.ledger = newLedger(8)
		now := int64(time.Hour)
		for i := range 100 {
			d, _ := s.Allow(sharedKey(s, fmt.Sprint(i)), Rate{1, time.Hour}, 1, 1, now)
			if full := s.Stats().Full > 0; !d.OK != (full && onFull == "closed") {
				t.Fatalf("%s, key %d: %+v", onFull, i, d)
			}
		}
		if n := s.Stats().Full; n < 84 {
			t.Errorf("%d full", n)
		}
		// What was admitted is still to be told, so that only time empties no slot.
		for i := range s.ledger.buckets {
			for j := range s.ledger.buckets[i].slots {
				s.ledger.buckets[i].slots[j].untold.Store(0)
			}
		}
		was := s.Stats().Full
		if d, _ := s.Allow(sharedKey(s, "late"), Rate{1, time.Hour}, 1, 1, now+int64(2*time.Hour)); !d.OK || s.Stats().Full != was {
			t.Errorf("%s: a slot whose time has passed is not taken over: %+v", onFull, d)
		}
	}
}

func TestSharedHasher(t *testing.T) {
	seed := sharedSeed("")
	sum := func(feed func(*SharedHasher)) SharedKey {
		h := newSharedHasher(&seed)
		feed(&h)
		return h.Sum()
	}
	b := func(parts ...string) func(*SharedHasher) {
		return func(h *SharedHasher) {
			for _, p := range parts {
				h.Bytes([]byte(p))
			}
		}
	}
	addr := func(a string, prefix int) func(*SharedHasher) {
		return func(h *SharedHasher) { h.Addr(netip.MustParseAddr(a), prefix) }
	}
	long := strings.Repeat("x", 100)
	different := []func(*SharedHasher){
		b(), b(""), b("", ""), (*SharedHasher).Missing, b("ab", "c"), b("a", "bc"), b("abc"), b(long), b(long + "x"), b(long, long, long, long), b(long, long, long, long, ""),
		b("\x00"), b("\x00\x00"), addr("192.0.2.1", 64), addr("192.0.2.2", 64), addr("2001:db8::1", 64), addr("2001:db8::1", 63), addr("2001:db8:0:1::1", 64), addr("2001:db8::1", 128),
		addr("2001:db8::", 128), b("\xc0\x00\x02\x01"),
	}
	seen := map[SharedKey]int{}
	for i, feed := range different {
		k := sum(feed)
		if j, ok := seen[k]; ok {
			t.Errorf("%d and %d are the same", i, j)
		}
		seen[k] = i
	}
	same := [][2]func(*SharedHasher){
		{addr("::ffff:192.0.2.1", 64), addr("192.0.2.1", 32)},
		{addr("2001:db8::1", 64), addr("2001:db8::2%eth0", 64)},
		{addr("2001:db8::1", 128), addr("2001:db8::1", 500)},
		{addr("2001:db8::1", -1), addr("::1", 0)},
		{func(h *SharedHasher) { h.Addr(netip.Addr{}, 64) }, (*SharedHasher).Missing},
	}
	for i, p := range same {
		if sum(p[0]) != sum(p[1]) {
			t.Errorf("%d differ", i)
		}
	}
	// Gateways of different versions share budgets while this holds.
	if got := string(sum(b("tenant")).appendText(nil)); got != "6Lg_Bn_4AmVXYfcXbJYQBg" {
		t.Errorf("the key of tenant is now %q", got)
	}
	seed = sharedSeed("secret")
	if _, ok := seen[sum(b("abc"))]; ok {
		t.Error("the secret changes nothing")
	}
}

func FuzzSharedHasher(f *testing.F) {
	f.Add([]byte("a"), []byte("bc"))
	f.Add([]byte{}, bytes.Repeat([]byte("y"), 300))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		seed := sharedSeed("")
		h, g := newSharedHasher(&seed), newSharedHasher(&seed)
		for range 5 {
			h.Bytes(a)
			h.Bytes(b)
			g.Bytes(a)
			g.Bytes(b)
		}
		if h.Sum() != g.Sum() {
			t.Error("not the same twice")
		}
		g.Bytes(nil)
		if h.Sum() == g.Sum() {
			t.Error("one part more changes nothing")
		}
		first, second := h.Sum().halves()
		if first <= claimed {
			t.Error("a key that is a mark")
		}
		if k := keyOf(first, second); h.Sum() != k && h.Sum()[0] > 1 {
			t.Error("halves do not make the whole")
		}
	})
}

func TestSharedConfigValidate(t *testing.T) {
	f := func(change func(*SharedConfig), path string) {
		t.Helper()
		c := sharedConfig("exact", "local")
		change(&c)
		var p setting.Problems
		c.Validate(&p)
		got := p.List()
		if path == "" && len(got) != 0 || path != "" && (len(got) != 1 || got[0].Path != path) {
			t.Errorf("expected a problem at %q, got %v", path, got)
		}
	}
	f(func(c *SharedConfig) {}, "")
	f(func(c *SharedConfig) { c.Shorthand("other") }, "")
	f(func(c *SharedConfig) { c.Redis = "" }, "redis")
	f(func(c *SharedConfig) { c.OnError, c.LocalShare = "open", 0.5 }, "local_share")
	f(func(c *SharedConfig) { c.LocalShare = 0.5 }, "")
}

func TestSane(t *testing.T) {
	f := func(rate, want Rate) {
		t.Helper()
		if got, _ := sane(rate, 1); got != want {
			t.Errorf("%v: expected %v, got %v", rate, want, got)
		}
		if back, burst := unpackPlan(packPlan(want, 1<<20)); back != want || burst != 1<<20 {
			t.Errorf("%v packed is %v, %d", want, back, burst)
		}
	}
	const day = 24 * time.Hour
	f(Rate{}, Rate{86400 * mostPerSecond, day})
	f(Rate{5, time.Second}, Rate{5, time.Second})
	f(Rate{-5, time.Minute}, Rate{1, time.Minute})
	f(Rate{1 << 62, time.Second}, Rate{mostPerSecond, time.Second})
	f(Rate{1 << 62, day}, Rate{86400 * mostPerSecond, day})
	f(Rate{10, 12 * time.Hour}, Rate{20, day})
	f(Rate{1, 1000 * day}, Rate{1, day})
	f(Rate{1 << 62, 1}, Rate{86400 * mostPerSecond, day})
}
