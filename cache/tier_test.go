package cache

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/redis"
	"sluice/redis/redistest"
	"sluice/setting"
)

// ask asks the second tier, which must answer.
func ask(t testing.TB, f *Fleet, key string) (*Object, Ticket) {
	t.Helper()
	o, ticket, err := f.Get([]byte(key), time.Minute)
	if err != nil || ticket.generation == "" {
		t.Fatalf("%q: %v, %+v", key, err, f.Stats())
	}
	return o, ticket
}

// put puts o and waits until it is there.
func put(t testing.TB, f *Fleet, o *Object, ticket Ticket) {
	t.Helper()
	was := f.Stats()
	f.Put(o, ticket)
	eventually(t, "it is put", func() bool { return f.Stats().Puts > was.Puts })
}

// fetch puts what the origin answers to key.
func fetch(t testing.TB, f *Fleet, key, body string, tags ...string) *Object {
	t.Helper()
	_, ticket := ask(t, f, key)
	o := fetched(key, body, tags...)
	put(t, f, o, ticket)
	return o
}

// gives tells whether f finds the body under key.
func gives(t testing.TB, f *Fleet, key, body string) bool {
	t.Helper()
	o, _ := ask(t, f, key)
	return o != nil && string(o.Body) == body
}

// invalidate ends what is under uri, and waits until Redis knows.
func invalidate(t testing.TB, f *Fleet, uri string) {
	t.Helper()
	f.store.Invalidate([]byte(uri))
	f.Invalidate([]byte(uri))
	eventually(t, "it is delivered", func() bool { return f.Stats().Undelivered == 0 })
}

func TestTierGivesToOthers(t *testing.T) {
	f := func(name string, rc func(t *testing.T) redis.Config) {
		t.Run(name, func(t *testing.T) {
			config := rc(t)
			a, b := newFleet(t, config, fleetConfig(true)), newFleet(t, config, fleetConfig(true))
			for i := range 30 { // over all nodes of a cluster
				key := fmt.Sprintf("http://h/%d?q=1\nrest\x00\xff", i)
				o := fetch(t, a, key, fmt.Sprint("body", i), "tag")
				got, _ := ask(t, b, key)
				if got == nil || string(got.Key) != key || !bytes.Equal(got.Body, o.Body) || !bytes.Equal(got.Head, o.Head) || got.Asked != o.Asked || got.Life != o.Life || len(got.Tags) != 2 {
					t.Fatalf("put %+v, got %+v, %+v", o, got, b.Stats())
				}
				// It is as good in b's own memory as one that b fetched.
				if b.store.Put(got); !has(b, key) {
					t.Error("the store does not take it")
				}
			}
			if b.store.Purge(Purge{Scope: PurgeTag, Value: "tag", At: now()}); has(b, "http://h/1?q=1\nrest\x00\xff") {
				t.Error("a purge does not hold for it")
			}
			// A list of what answers vary with.
			_, ticket := ask(t, a, "http://h/v")
			put(t, a, Remember([]byte("http://h/v"), nil, []byte("accept"), now()), ticket)
			if o, _ := ask(t, b, "http://h/v"); !o.Knows([]byte("accept")) {
				t.Errorf("list %+v", o)
			}
			invalidate(t, a, "http://h/1")
			c := newFleet(t, config, fleetConfig(true))
			if gives(t, c, "http://h/1?q=1\nrest\x00\xff", "body1") || !gives(t, c, "http://h/2?q=1\nrest\x00\xff", "body2") {
				t.Error("an invalidation holds for its path, and no other")
			}
			if st := b.Stats(); st.Hits != 31 || st.Refused+st.Timeouts+st.Errors+st.Away != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
	f("single", func(t *testing.T) redis.Config {
		return fleetRedis(redistest.Start(t, redistest.Options{}).Addr)
	})
	f("user with few rights", func(t *testing.T) redis.Config {
		server := redistest.Start(t, redistest.Options{})
		if got := server.Do("ACL", "SETUSER", "sluice", "on", ">secret", "~t:*", "&t:*", "+xadd", "+xrange", "+publish", "+subscribe", "+set", "+getrange", "+del", "+pexpire", "+ping", "+hello", "+client"); got != "+OK\r\n" {
			t.Fatal(got)
		}
		rc := fleetRedis(server.Addr)
		rc.Username, rc.Password = "sluice", "secret"
		return rc
	})
	f("cluster", func(t *testing.T) redis.Config {
		servers := redistest.StartCluster(t, 3)
		return fleetRedis(servers[0].Addr, servers[1].Addr)
	})
}

// What was asked for before an invalidation is never given after it, whoever puts
// it, and whenever.
func TestTierInvalidation(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	rc := fleetRedis(server.Addr)
	a, b, c := newFleet(t, rc, fleetConfig(true)), newFleet(t, rc, fleetConfig(true)), newFleet(t, rc, fleetConfig(true))
	const key = "http://h/p?x\n"

	fetch(t, a, key, "old")
	invalidate(t, b, "http://h/p?y")
	if gives(t, c, key, "old") || gives(t, a, key, "old") {
		t.Error("it was put before, and is given")
	}
	fetch(t, c, key, "new")
	if !gives(t, a, key, "new") {
		t.Error("what was fetched afterwards is not given")
	}

	_, ticket := ask(t, a, "http://h/q")
	late := fetched("http://h/q", "late")
	invalidate(t, b, "http://h/q")
	put(t, a, late, ticket)
	if gives(t, c, "http://h/q", "late") {
		t.Error("it was asked for before, put after, and is given")
	}
	fetch(t, c, "http://h/q", "new")
	put(t, a, late, ticket)
	if gives(t, c, "http://h/q", "late") {
		t.Error("a late answer is given in place of a new one")
	}

	// Here the gateway knows itself, and does not send it.
	_, ticket = ask(t, a, "http://h/r")
	late = fetched("http://h/r", "late")
	invalidate(t, a, "http://h/r")
	dropped := a.Stats().Dropped
	a.Put(late, ticket)
	eventually(t, "it is dropped", func() bool { return a.Stats().Dropped == dropped+1 })

	// A generation that is lost takes all answers along: nobody can know what
	// it had been.
	fetch(t, a, "http://h/s", "lost")
	_, ticket = ask(t, a, "http://h/s")
	server.Do("DEL", a.tier.generationKey(ticket.place))
	if gives(t, b, "http://h/s", "lost") {
		t.Error("an answer whose generation is unknown is given")
	}
	put(t, a, fetched("http://h/s", "late"), ticket)
	if gives(t, b, "http://h/s", "late") {
		t.Error("an answer of a generation that is lost is given")
	}

	// A ticket is good for its own path only, and none is for nothing.
	_, ticket = ask(t, a, "http://h/s")
	dropped = a.Stats().Dropped
	a.Put(fetched("http://h/other", ""), ticket)
	a.Put(fetched("http://h/other", ""), Ticket{})
	if got := a.Stats().Dropped; got != dropped+2 {
		t.Errorf("dropped %d", got-dropped)
	}
}

// Many ask, put and invalidate at once: no body that is older than an
// invalidation that Redis had before the question is ever given.
func TestTierInvalidationRace(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	rc := fleetRedis(server.Addr)
	list := []*Fleet{newFleet(t, rc, fleetConfig(true)), newFleet(t, rc, fleetConfig(true)), newFleet(t, rc, fleetConfig(true))}
	const key = "http://h/p\n"
	var origin, settled, hits atomic.Int64 // what the origin answers; what all must see
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for _, f := range list {
		for range 2 {
			wg.Go(func() {
				for !stop.Load() {
					least, generation := settled.Load(), f.store.Generation(URI([]byte(key)))
					o, ticket, err := f.Get([]byte(key), time.Minute)
					if err != nil {
						continue // it changed meanwhile
					}
					if o != nil {
						var n int64
						fmt.Sscan(string(o.Body), &n)
						if hits.Add(1); n < least {
							t.Errorf("got %d after the invalidation before %d", n, least)
						}
						continue
					}
					o = object(key, fmt.Sprint(origin.Load()))
					o.Generation, o.Asked = generation, time.Now().UnixNano()
					o.Stored = o.Asked
					f.Put(o, ticket)
				}
			})
		}
	}
	for n := int64(1); n <= 60 && !t.Failed(); n++ {
		origin.Store(n)
		invalidate(t, list[n%3], "http://h/p")
		settled.Store(n)
		was := hits.Load()
		eventually(t, "it is given again", func() bool { return hits.Load() > was })
	}
	t.Logf("%d hits", hits.Load())
}

// A question that was put before an invalidation here is not answered with what
// was good before.
func TestTierInvalidationMeanwhile(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(true))
	fetch(t, f, "http://h/p", "old")
	server.Stop()
	var wg sync.WaitGroup
	for range askers + 1 {
		wg.Go(func() {
			if o, _, err := f.Get([]byte("http://h/p"), time.Minute); o != nil || err == nil {
				t.Errorf("%+v, %v", o, err)
			}
		})
	}
	eventually(t, "all but one are on their way", func() bool { return len(f.tier.asks) == 1 })
	f.store.Invalidate([]byte("http://h/p"))
	f.Invalidate([]byte("http://h/p"))
	server.Continue()
	wg.Wait()
}

// Purges hold for what was put before them and for what is put after them but was
// asked for before, also on gateways that start later.
func TestTierPurges(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	rc := fleetRedis(server.Addr)
	a, b := newFleet(t, rc, fleetConfig(true)), newFleet(t, rc, fleetConfig(true))
	state := func(f *Fleet, key string) string {
		switch o, _ := ask(t, f, key); {
		case o == nil:
			return "gone"
		case o.has(MarkPurged) && o.Life <= o.age(time.Now().UnixNano()):
			return "stale"
		}
		return "fresh"
	}
	expect := func(f *Fleet, key, want string) {
		t.Helper()
		if got := state(f, key); got != want {
			t.Errorf("%s: expected %s, got %s", key, want, got)
		}
	}
	fetch(t, a, "http://h/hard", "", "h")
	fetch(t, a, "http://h/soft", "", "s")
	fetch(t, a, "http://h/other", "", "o")
	_, hard := ask(t, a, "http://h/hard/late")
	lateHard := fetched("http://h/hard/late", "", "h")
	_, soft := ask(t, a, "http://h/soft/late")
	lateSoft := fetched("http://h/soft/late", "", "s")
	order(t, a, Purge{Scope: PurgeTag, Value: "h"})
	order(t, a, Purge{Scope: PurgeTag, Value: "s", Soft: true})
	put(t, a, lateHard, hard)
	put(t, a, lateSoft, soft)
	caughtUp(t, b)
	late := newFleet(t, rc, fleetConfig(true))
	for _, f := range []*Fleet{a, b, late} {
		expect(f, "http://h/hard", "gone")
		expect(f, "http://h/soft", "stale")
		expect(f, "http://h/other", "fresh")
		expect(f, "http://h/hard/late", "gone")
		expect(f, "http://h/soft/late", "stale")
		// As stale in the gateway's own memory.
		o, _ := ask(t, f, "http://h/soft")
		if f.store.Put(o); !f.store.Get([]byte("http://h/soft")).has(MarkPurged) {
			t.Error("fresh in the store")
		}
	}
	fetch(t, b, "http://h/hard", "", "h")
	for _, f := range []*Fleet{a, b, late} {
		expect(f, "http://h/hard", "fresh")
	}
	// The tier is older than the log: nobody knows what was purged of it.
	order(t, a, Purge{Scope: PurgeTag, Value: "x"})
	server.Do("XTRIM", a.key, "MAXLEN", "1")
	expect(newFleet(t, rc, fleetConfig(true)), "http://h/other", "gone")
}

// Whoever was cut off does not use the tier before it knows what was purged
// meanwhile.
func TestTierAfterACut(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	line := newLine(t, server.Addr)
	a, c := newFleet(t, fleetRedis(server.Addr), fleetConfig(true)), newFleet(t, fleetRedis(line.addr()), fleetConfig(true))
	fetch(t, a, "http://h/p", "old")
	if !gives(t, c, "http://h/p", "old") {
		t.Fatal("not given")
	}
	fetch(t, a, "http://h/changed", "old")
	line.set(true)
	eventually(t, "it is cut off", func() bool { return !c.Stats().Up })
	if o, ticket, err := c.Get([]byte("http://h/p"), time.Minute); o != nil || err == nil || ticket != (Ticket{}) {
		t.Errorf("%v, %v", o, err)
	}
	order(t, a, Purge{Scope: PurgeURL, Value: "http://h/p"})
	c.store.Invalidate([]byte("http://h/changed"))
	c.Invalidate([]byte("http://h/changed"))
	c.Invalidate([]byte("http://h/changed?twice"))
	if st := c.Stats(); st.Undelivered != 1 {
		t.Errorf("%+v", st)
	}
	if !gives(t, a, "http://h/changed", "old") {
		t.Error("an invalidation went through a line that is cut")
	}
	line.set(false)
	var o *Object
	eventually(t, "the tier is used again", func() bool {
		var err error
		o, _, err = c.Get([]byte("http://h/p"), time.Minute)
		return err == nil
	})
	if o != nil {
		t.Error("purged meanwhile, and given")
	}
	eventually(t, "the invalidation is delivered", func() bool {
		o, _, err := c.Get([]byte("http://h/changed"), time.Minute)
		if o != nil {
			t.Fatal("changed meanwhile, and given")
		}
		return err == nil
	})
	if gives(t, a, "http://h/changed", "old") {
		t.Error("the invalidation did not arrive")
	}
}

// A new generation of the configuration delivers what the old one could not.
func TestTierAdopts(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	line := newLine(t, server.Addr)
	a, old := newFleet(t, fleetRedis(server.Addr), fleetConfig(true)), newFleet(t, fleetRedis(line.addr()), fleetConfig(true))
	fetch(t, a, "http://h/1", "old")
	fetch(t, a, "http://h/2", "old")
	line.set(true)
	eventually(t, "it is cut off", func() bool { return !old.Stats().Up })
	old.Invalidate([]byte("http://h/1"))
	client, err := redis.Open(fleetRedis(line.addr()), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	next := NewFleet(fleetConfig(true), client, old.store, zerolog.Nop())
	next.Adopt(old)
	next.Start()
	t.Cleanup(next.Close)
	old.Close()
	old.Invalidate([]byte("http://h/2")) // by a request that began before the change
	if st := next.Stats(); st.Undelivered != 2 || st.Received != old.Stats().Received {
		t.Errorf("%+v", st)
	}
	line.set(false)
	eventually(t, "both are delivered", func() bool { return next.Stats().Undelivered == 0 })
	if gives(t, a, "http://h/1", "old") || gives(t, a, "http://h/2", "old") {
		t.Error("given")
	}
}

// What others may have put under the keys is refused.
func TestTierRefusesGarbage(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(true))
	const key = "http://h/p\n"
	good := fetch(t, f, key, "body")
	_, ticket := ask(t, f, key)
	name := f.tier.objectKey([]byte(key))
	value := func(generation string, o *Object) string { return string(appendTiered(nil, generation, o)) }
	changed := func(change func(o *Object)) string {
		o := &Object{Key: good.Key, Entry: good.Entry, Body: good.Body, Tags: good.Tags, Asked: good.Asked}
		change(o)
		return value(ticket.generation, o)
	}
	if whole := value(ticket.generation, good); !strings.Contains(server.Do("GET", name), whole) {
		t.Fatal("the value is not what this test takes it for")
	}
	refused := f.Stats().Refused
	for what, v := range map[string]string{
		"one byte":           "\x01",
		"text":               strings.Repeat("garbage ", 20),
		"cut short":          changed(func(*Object) {})[:100],
		"more than that":     changed(func(*Object) {}) + "x",
		"another version":    "\x02" + changed(func(*Object) {})[1:],
		"another key":        changed(func(o *Object) { o.Key = []byte("http://h/p\nother") }),
		"a head with a line": changed(func(o *Object) { o.Head = []byte("X: y\r\n\r\nZ") }),
		"too large":          changed(func(o *Object) { o.Body = make([]byte, 1<<20); o.Length = 1 << 20 }),
		"never asked":        changed(func(o *Object) { o.Asked = 0 }),
		"not asked yet":      changed(func(o *Object) { o.Asked += 2 * mostAhead }),
	} {
		server.Do("SET", name, v)
		o, _ := ask(t, f, key)
		if refused++; o != nil || f.Stats().Refused != refused {
			t.Errorf("%s: %+v, %+v", what, o, f.Stats())
		}
	}
	// An answer of another generation is not refused, it is none.
	server.Do("SET", name, value(randomWord(), good))
	if o, _ := ask(t, f, key); o != nil || f.Stats().Refused != refused {
		t.Errorf("%+v, %+v", o, f.Stats())
	}
	// A key of another kind is written over.
	server.Do("DEL", name)
	server.Do("LPUSH", name, "x")
	o, ticket := ask(t, f, key)
	if o != nil || f.Stats().Refused != refused+1 {
		t.Errorf("%+v, %+v", o, f.Stats())
	}
	put(t, f, good, ticket)
	if !gives(t, f, key, "body") {
		t.Error("not written over")
	}
	// What is no generation is none, until an invalidation clears it away.
	generation := f.tier.generationKey(ticket.place)
	for _, command := range [][]string{{"SET", generation, "7"}, {"SET", generation, strings.Repeat("x", 1<<20)}, {"LPUSH", generation, "x"}} {
		server.Do("DEL", generation)
		server.Do(command...)
		if o, ticket, err := f.Get([]byte(key), time.Minute); o != nil || ticket != (Ticket{}) || err == nil {
			t.Errorf("%v: %+v, %v", command[0], o, err)
		}
	}
	invalidate(t, f, "http://h/p")
	ask(t, f, key)
}

// What goes to Redis, and for how long.
func TestTierLife(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(true))
	const key = "http://h/p\n"
	at := time.Now().UnixNano()
	entry := func(change func(*Object)) *Object {
		o := object(key, "body")
		o.Stored, o.Life, o.Asked = at, 60*second, at
		change(o)
		return o
	}
	for what, c := range map[string]struct {
		o    *Object
		want time.Duration
	}{
		"fresh":                    {entry(func(*Object) {}), time.Minute},
		"with an age":              {entry(func(o *Object) { o.Age = 20 * second }), 40 * time.Second},
		"stale allowances":         {entry(func(o *Object) { o.SWR, o.SIE = 30*second, 90*second }), 150 * time.Second},
		"a validator":              {entry(func(o *Object) { o.ETag = []byte(`"a"`) }), time.Minute + graceStale},
		"longer than ttl":          {entry(func(o *Object) { o.Life = 86400 * second }), time.Hour},
		"stale":                    {entry(func(o *Object) { o.Life = 0 }), 0},
		"stale, with a validator":  {entry(func(o *Object) { o.Life, o.Modified = 0, at/second }), graceStale},
		"long stale, as validated": {entry(func(o *Object) { o.Stored, o.Modified = at-int64(time.Hour), at/second }), 0},
		"a list":                   {Remember([]byte(key), nil, []byte("accept"), at), time.Hour},
		"made of another":          {entry(func(*Object) {}).Made([]byte(key), []byte("made")), 0},
	} {
		if got := f.tier.life(c.o, at); got != c.want {
			t.Errorf("%s: expected %v, got %v", what, c.want, got)
		}
	}
	pttl := func(name string) (ms int64) {
		fmt.Sscanf(server.Do("PTTL", name), ":%d", &ms)
		return ms
	}
	_, ticket := ask(t, f, key)
	generation := f.tier.generationKey(ticket.place)
	if ms := pttl(generation); ms <= 3600_000 || ms > 7200_000 {
		t.Errorf("a generation stays %d ms", ms)
	}
	server.Do("PEXPIRE", generation, "60000")
	put(t, f, fetched(key, "body"), ticket)
	if ms := pttl(f.tier.objectKey([]byte(key))); ms <= 0 || ms > 600_000 {
		t.Errorf("an answer that is fresh for ten minutes stays %d ms", ms)
	}
	if ms := pttl(generation); ms <= 3600_000 || ms > 7200_000 {
		t.Errorf("a generation stays %d ms after its answer", ms)
	}
	// It goes.
	brief := fetched("http://h/brief", "body")
	brief.Life = second / 2
	_, ticket = ask(t, f, "http://h/brief")
	put(t, f, brief, ticket)
	eventually(t, "it expires", func() bool { return !gives(t, f, "http://h/brief", "body") })
	// What is too large stays here, and is not counted as dropped.
	was := f.Stats()
	_, ticket = ask(t, f, "http://h/large")
	f.Put(fetched("http://h/large", strings.Repeat("x", 64<<10)), ticket)
	f.Put(entry(func(o *Object) { o.Life = 0 }), ticket)
	if st := f.Stats(); st.Dropped != was.Dropped || st.Queued != 0 {
		t.Errorf("%+v", st)
	}
	put(t, f, fetched("http://h/large", strings.Repeat("x", 60<<10)), ticket)
	if o, _ := ask(t, f, "http://h/large"); o == nil || len(o.Body) != 60<<10 {
		t.Errorf("%+v", o)
	}
}

// Redis hangs, goes on, dies and comes back under load: nobody waits longer than
// the timeout, however many there are, and afterwards all works.
func TestTierOutage(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	cfg := fleetConfig(true)
	cfg.SecondTier.Timeout = setting.Duration(20 * time.Millisecond)
	f := newFleet(t, fleetRedis(server.Addr), cfg)
	const patience = 5 * time.Second // a wait that is one
	var stop atomic.Bool
	var good, bad atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				key := fmt.Sprintf("http://h/%d/%d", w, i%50)
				begin := time.Now()
				o, ticket, err := f.Get([]byte(key), time.Minute)
				if err == nil {
					good.Add(1)
				} else {
					bad.Add(1)
				}
				if o != nil && string(o.Body) != key {
					t.Errorf("%s: %q", key, o.Body)
				}
				answer := object(key, key)
				answer.Asked = begin.UnixNano()
				answer.Stored = answer.Asked
				f.Put(answer, ticket)
				if i%10 == 0 {
					f.Invalidate([]byte(fmt.Sprintf("http://h/%d/%d", w, i%7)))
				}
				if took := time.Since(begin); took > patience {
					t.Errorf("took %v: %v", took, err)
				}
				time.Sleep(time.Millisecond) // paces the load
			}
		})
	}
	more := func(what string, n *atomic.Int64) {
		t.Helper()
		was := n.Load()
		eventually(t, what, func() bool { return n.Load() > was+100 })
	}
	more("answers", &good)
	for range 2 {
		server.Stop()
		more("failures", &bad)
		eventually(t, "it is left alone", func() bool { return !f.Stats().Up })
		timeouts := f.Stats().Timeouts
		more("failures", &bad)
		if now := f.Stats().Timeouts; now > timeouts+5 {
			t.Errorf("requests still wait: %d more timeouts", now-timeouts)
		}
		server.Continue()
		more("answers", &good)
	}
	server.Kill()
	more("failures", &bad)
	server.Restart()
	more("answers", &good)
	stop.Store(true)
	wg.Wait()
	eventually(t, "all is delivered", func() bool { st := f.Stats(); return st.Undelivered == 0 && st.Queued == 0 })
	fetch(t, f, "http://h/after", "x")
	if st := f.Stats(); st.Trips == 0 || st.Timeouts == 0 || st.Dropped == 0 || st.Hits == 0 {
		t.Errorf("%+v", st)
	}
	t.Logf("%+v", f.Stats())
}

// A hanging Redis takes no more of what is to be put than there is room for.
func TestTierQueueIsBounded(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(true))
	_, ticket := ask(t, f, "http://h/p")
	server.Stop()
	o := fetched("http://h/p", strings.Repeat("x", 60<<10))
	for range 3 * mostPuts {
		if f.Put(o, ticket); f.Stats().Queued > mostQueued {
			t.Fatalf("%+v", f.Stats())
		}
	}
	if f.Stats().Dropped == 0 {
		t.Error("there is room for all")
	}
	server.Continue()
	eventually(t, "nothing waits", func() bool { return f.Stats().Queued == 0 })
}

// Without a second tier, before Start and after Close nothing is asked.
func TestTierOff(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	if _, _, err := f.Get([]byte("k"), time.Minute); !errors.Is(err, ErrAway) {
		t.Error(err)
	}
	f.Put(fetched("k", ""), Ticket{})
	f.Invalidate([]byte("k"))

	f = newFleet(t, fleetRedis(server.Addr), fleetConfig(true))
	_, ticket := ask(t, f, "k")
	if _, _, err := f.Get([]byte("k"), 0); !errors.Is(err, ErrAway) {
		t.Errorf("without any time: %v", err)
	}
	f.Invalidate([]byte("other"))
	f.Close()
	f.Close()
	if _, _, err := f.Get([]byte("k"), time.Minute); !errors.Is(err, ErrAway) {
		t.Error(err)
	}
	f.Put(fetched("k", ""), ticket)
	if st := f.Stats(); st.Dropped != 1 || st.Undelivered != 0 || st.Invalidations != 1 {
		t.Errorf("%+v", st)
	}
}

func TestTierGate(t *testing.T) {
	var g gate
	at := func(now int64, ok, trial bool) {
		t.Helper()
		if gotOK, gotTrial := g.enter(now); gotOK != ok || gotTrial != trial {
			t.Errorf("at %d: %v, %v", now, gotOK, gotTrial)
		}
	}
	for range 100 { // one in five is borne
		for range 4 {
			g.answered()
		}
		g.failed(0, false)
	}
	at(0, true, false)
	g.answered()
	g.score.Store(0)
	for i := range 5 {
		if trips := g.failed(0, false); trips != (i == 4) {
			t.Errorf("failure %d: %v", i, trips)
		}
	}
	g.failed(0, false) // was under way
	at(0, false, false)
	at(firstPause-1, false, false)
	at(firstPause, true, true)
	at(firstPause, false, false)
	now := firstPause
	for pause := 2 * firstPause; pause < 20*second; pause *= 2 {
		g.failed(now, true)
		at(now+min(pause, longestPause)-1, false, false)
		now += min(pause, longestPause)
		at(now, true, true)
	}
	g.answered()
	at(now, true, false)
}

func TestTierChanges(t *testing.T) {
	c, next := newChanges(), newChanges()
	for i := range uint32(3 * mostSent) { // none starves because others fail
		next.add(i)
	}
	seen := map[uint32]bool{}
	for range 4 {
		list := next.take(nil)
		for _, place := range list {
			seen[place] = true
		}
		next.settle(list, make([]bool, len(list)))
	}
	if len(seen) != 3*mostSent {
		t.Errorf("%d of %d were tried", len(seen), 3*mostSent)
	}
	next = newChanges()
	for i := range uint32(1000) {
		c.add(i * 1000)
		c.add(i * 1000)
	}
	if c.n.Load() != 1000 || !c.has(999_000) || c.has(1) {
		t.Errorf("%d", c.n.Load())
	}
	list := c.take(nil)
	if len(list) != mostSent || c.n.Load() != 1000 || !c.has(list[0]) {
		t.Errorf("%d, %d", len(list), c.n.Load())
	}
	next.adopt(&c)
	delivered := make([]bool, len(list))
	for i := range delivered {
		delivered[i] = i < 100
	}
	c.add(list[0]) // again, while it is on its way
	c.settle(list, delivered)
	if c.n.Load() != 901 || !c.has(list[0]) || c.has(list[1]) || !c.has(list[100]) {
		t.Errorf("%d", c.n.Load())
	}
	for _, c := range []*changes{&c, &next} {
		total := 0
		for list := c.take(nil); len(list) > 0; list = c.take(nil) {
			total += len(list)
			done := make([]bool, len(list))
			for i := range done {
				done[i] = true
			}
			c.settle(list, done)
		}
		if c.n.Load() != 0 || total != 901 && total != 1000 {
			t.Errorf("%d, %d", c.n.Load(), total)
		}
	}
}

func FuzzParseTiered(f *testing.F) {
	f.Add(appendTiered(nil, "0123456789abcdef", object("key", "body", "tag")))
	f.Add(appendTiered(nil, "0123456789abcdef", Remember([]byte("key"), nil, []byte("accept"), 1)))
	f.Add([]byte{tierVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		generation, o, err := parseTiered(b)
		if err != nil {
			return
		}
		again := appendTiered(nil, generation, o)
		same, p, err := parseTiered(again)
		if err != nil || same != generation || !bytes.Equal(appendTiered(nil, same, p), again) {
			t.Fatalf("%q is written %q: %v", b, again, err)
		}
	})
}
