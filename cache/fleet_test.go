package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/redis"
	"sluice/redis/redistest"
	"sluice/setting"
	"sluice/wire"
)

func fleetRedis(addrs ...string) redis.Config {
	c := redis.Config{
		Addresses: addrs, Mode: "single", Prefix: "t:",
		ConnectTimeout: setting.Duration(time.Second), Timeout: setting.Duration(300 * time.Millisecond),
	}
	if len(addrs) > 1 {
		c.Mode = "cluster"
	}
	return c
}

func fleetConfig(tiered bool) FleetConfig {
	c := FleetConfig{Redis: "main", Sync: setting.Duration(20 * time.Millisecond)}
	if tiered {
		// Ample: what a busy machine takes to schedule is not the subject.
		c.SecondTier = &TierConfig{TTL: setting.Duration(time.Hour), Timeout: setting.Duration(time.Second), MaxObject: 64 << 10}
	}
	return c
}

// newFleet is a gateway with its store that has read the log.
func newFleet(t testing.TB, rc redis.Config, cfg FleetConfig) *Fleet {
	t.Helper()
	f := startFleet(t, rc, cfg)
	eventually(t, "the log is read", func() bool { return f.Stats().Up })
	return f
}

func startFleet(t testing.TB, rc redis.Config, cfg FleetConfig) *Fleet {
	t.Helper()
	client, err := redis.Open(rc, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	f := NewFleet(cfg, client, newTestStore(t, 8<<20), zerolog.Nop())
	f.Start()
	t.Cleanup(f.Close)
	return f
}

// eventually waits for what has no event, up to twenty seconds.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// now is the clock, in a millisecond that is later than any before the call: an
// entry of the log that is there already is older.
func now() int64 {
	for begin := time.Now().UnixMilli(); ; {
		if at := time.Now(); at.UnixMilli() > begin {
			return at.UnixNano()
		}
	}
}

// fetched is an answer that has just been asked for.
func fetched(key, body string, tags ...string) *Object {
	o := object(key, body, tags...)
	o.Asked = now()
	o.Stored, o.Date, o.Life = o.Asked, o.Asked/second, 600*second
	return o
}

// keep puts an answer into the gateway's own memory.
func keep(t testing.TB, f *Fleet, key string, tags ...string) {
	t.Helper()
	if !f.store.Put(fetched(key, "body of "+key, tags...)) {
		t.Fatal("not stored")
	}
}

func has(f *Fleet, key string) bool { return f.store.Get([]byte(key)) != nil }

// order purges on f and for all others.
func order(t testing.TB, f *Fleet, p Purge) {
	t.Helper()
	p.At = time.Now().UnixNano()
	f.store.Purge(p)
	if err := f.Order(p); err != nil {
		t.Fatal(err)
	}
}

// caughtUp waits until f has read all that is in the log now.
func caughtUp(t testing.TB, f *Fleet) {
	t.Helper()
	at := wire.Nanotime()
	eventually(t, "the log is read", func() bool { return f.read.Load() > at })
}

func TestFleetConfig(t *testing.T) {
	f := func(change func(*FleetConfig), path string) {
		t.Helper()
		c := fleetConfig(true)
		change(&c)
		var p setting.Problems
		c.Validate(&p)
		if list := p.List(); path == "" && len(list) > 0 || path != "" && (len(list) != 1 || list[0].Path != path) {
			t.Errorf("expected a problem at %q, got %v", path, list)
		}
	}
	f(func(*FleetConfig) {}, "")
	f(func(c *FleetConfig) { c.Shorthand("other") }, "")
	f(func(c *FleetConfig) { c.Redis = "" }, "redis")
}

// A purge of every kind reaches all, once, and nothing that it is not of.
func TestFleetPurges(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	a, b, c := newFleet(t, fleetRedis(server.Addr), fleetConfig(false)), newFleet(t, fleetRedis(server.Addr), fleetConfig(false)), newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	started := b.Stats().Received
	all := []*Fleet{a, b, c}
	for _, f := range all {
		for _, path := range []string{"/a", "/a?q", "/b/1", "/b/2", "/c"} {
			keep(t, f, "http://h"+path+"\nk", "tag"+path)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		for i, f := range all {
			eventually(t, fmt.Sprintf("gateway %d has %v", i, want), func() bool {
				var got []string
				for _, path := range []string{"/a", "/a?q", "/b/1", "/b/2", "/c"} {
					if o := f.store.Get([]byte("http://h" + path + "\nk")); o != nil {
						if o.has(MarkPurged) {
							path += " stale"
						}
						got = append(got, path)
					}
				}
				return strings.Join(got, ",") == strings.Join(want, ",")
			})
		}
	}
	expect("/a", "/a?q", "/b/1", "/b/2", "/c")
	order(t, a, Purge{Scope: PurgeURL, Value: "http://h/a"})
	expect("/a?q", "/b/1", "/b/2", "/c")
	order(t, b, Purge{Scope: PurgePrefix, Value: "http://h/b/"})
	expect("/a?q", "/c")
	order(t, c, Purge{Scope: PurgeTag, Value: "tag/c", Soft: true})
	expect("/a?q", "/c stale")
	order(t, a, Purge{Scope: PurgeAll})
	expect()
	if st := a.Stats(); st.Sent != 2 || st.Unsent+st.Gaps+st.Unreadable != 0 {
		t.Errorf("%+v", st)
	}
	if st := b.Stats(); st.Received != started+3 || st.Sent != 1 {
		t.Errorf("received %d before, now %+v", started, st)
	}
}

// What a gateway could not say so that others understand it is refused.
func TestFleetOrderRefuses(t *testing.T) {
	f := startFleet(t, fleetRedis("127.0.0.1:1"), fleetConfig(false))
	for _, p := range []Purge{
		{Scope: "", At: 1}, {Scope: "urls", At: 1}, {Scope: PurgeAll}, {Scope: PurgeTag, Value: "\xff", At: 1},
		{Scope: PurgeURL, Value: strings.Repeat("x", mostPurgeValue+1), At: 1},
	} {
		if err := f.Order(p); err == nil || errors.Is(err, redis.ErrDown) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := f.Order(Purge{Scope: PurgeAll, At: 1}); !errors.Is(err, redis.ErrDown) {
		t.Error(err)
	}
	if st := f.Stats(); st.Unsent != 1 || st.Up {
		t.Errorf("%+v", st)
	}
}

// A message brings a purge without a wait for the next sync; without the right
// to subscribe the sync brings it.
func TestFleetNudges(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	rc := fleetRedis(server.Addr)
	t.Run("by message alone", func(t *testing.T) {
		cfg := fleetConfig(false)
		cfg.Sync = setting.Duration(time.Hour)
		cfgNow := fleetConfig(false)
		a := newFleet(t, rc, cfgNow) // begins the log
		client, err := redis.Open(rc, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		eventually(t, "Redis is up", client.Up)
		b := NewFleet(cfg, client, newTestStore(t, 8<<20), zerolog.Nop())
		b.Start()
		t.Cleanup(b.Close)
		eventually(t, "both have subscribed", func() bool {
			return strings.Contains(server.Do("PUBSUB", "NUMSUB", a.key), ":2\r\n")
		})
		eventually(t, "the log is read", func() bool { return b.Stats().Up })
		keep(t, b, "x")
		order(t, a, Purge{Scope: PurgeURL, Value: "x"})
		eventually(t, "the purge arrives", func() bool { return !has(b, "x") })
	})
	t.Run("by sync alone", func(t *testing.T) {
		if got := server.Do("ACL", "SETUSER", "sluice", "on", ">secret", "resetchannels", "~t:*", "+xadd", "+xrange", "+publish", "+subscribe", "+ping", "+hello", "+client"); got != "+OK\r\n" {
			t.Fatal(got)
		}
		few := rc
		few.Username, few.Password = "sluice", "secret"
		a, b := newFleet(t, few, fleetConfig(false)), newFleet(t, few, fleetConfig(false))
		keep(t, b, "x")
		order(t, a, Purge{Scope: PurgeURL, Value: "x"})
		eventually(t, "the purge arrives", func() bool { return !has(b, "x") })
	})
}

// line is a connection to a server that can be cut.
type line struct {
	listener net.Listener
	to       string
	mu       sync.Mutex // guards what follows
	cut      bool
	conns    map[net.Conn]bool
	wg       sync.WaitGroup
}

func newLine(t testing.TB, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &line{listener: l, to: to, conns: map[net.Conn]bool{}}
	n.wg.Go(n.run)
	t.Cleanup(func() {
		l.Close()
		n.set(true)
		n.wg.Wait()
	})
	return n
}

func (n *line) addr() string { return n.listener.Addr().String() }

// set cuts the line, or mends it.
func (n *line) set(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	for c := range n.conns {
		c.Close()
	}
}

func (n *line) hold(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut {
		c.Close()
		return false
	}
	n.conns[c] = true
	return true
}

func (n *line) run() {
	for {
		c, err := n.listener.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", n.to)
		if err != nil {
			c.Close()
			continue
		}
		if !n.hold(c) || !n.hold(s) {
			c.Close()
			s.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
			n.wg.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
				way[1].Close()
			})
		}
	}
}

// Who was cut off when a purge was ordered gets it afterwards, and nothing more,
// as long as the log reaches back; else all from before is purged.
func TestFleetCutOff(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	line := newLine(t, server.Addr)
	a, c := newFleet(t, fleetRedis(server.Addr), fleetConfig(false)), newFleet(t, fleetRedis(line.addr()), fleetConfig(false))
	for _, trim := range []bool{false, true} {
		keep(t, c, "purged")
		keep(t, c, "other")
		gaps := c.Stats().Gaps
		line.set(true)
		eventually(t, "the gateway is cut off", func() bool { return !c.Stats().Up })
		for range 3 * logRead {
			order(t, a, Purge{Scope: PurgeURL, Value: "purged"})
		}
		if !has(c, "purged") {
			t.Fatal("purged through a line that is cut")
		}
		if trim {
			server.Do("XTRIM", a.key, "MAXLEN", "5")
		}
		keep(t, c, "later")
		line.set(false)
		eventually(t, "the gateway is back", func() bool { return c.Stats().Up })
		if has(c, "purged") || has(c, "other") == trim || !has(c, "later") || c.Stats().Gaps > gaps != trim {
			t.Errorf("trimmed %v: purged %v, other %v, later %v, %+v", trim, has(c, "purged"), has(c, "other"), has(c, "later"), c.Stats())
		}
	}
}

// A Redis that hangs, and one that comes back empty.
func TestFleetOutage(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	a, b := newFleet(t, fleetRedis(server.Addr), fleetConfig(false)), newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	keep(t, b, "x")
	keep(t, b, "other")
	server.Stop()
	p := Purge{Scope: PurgeURL, Value: "x", At: now()}
	if err := a.Order(p); err == nil {
		t.Error("ordered through a Redis that hangs")
	}
	eventually(t, "both are away", func() bool { return !a.Stats().Up && !b.Stats().Up })
	server.Continue()
	eventually(t, "the order goes out", func() bool { return a.Order(p) == nil })
	eventually(t, "it arrives", func() bool { return !has(b, "x") })
	if !has(b, "other") || b.Stats().Gaps != 0 {
		t.Errorf("more was purged: %+v", b.Stats())
	}

	server.Kill()
	eventually(t, "both are away", func() bool { return !a.Stats().Up && !b.Stats().Up })
	server.Restart()
	eventually(t, "both are back", func() bool { return a.Stats().Up && b.Stats().Up })
	// There may have been a purge that nobody read.
	if has(b, "other") || b.Stats().Gaps != 1 || a.Stats().Gaps != 1 {
		t.Errorf("%v, %+v, %+v", has(b, "other"), a.Stats(), b.Stats())
	}
	// Both may have begun the log, one after the other. What comes after the
	// entries of both stays.
	caughtUp(t, b)
	keep(t, b, "y")
	if caughtUp(t, b); !has(b, "y") {
		t.Error("purged without an order")
	}
	order(t, a, Purge{Scope: PurgeURL, Value: "y"})
	eventually(t, "it arrives", func() bool { return !has(b, "y") })
}

// A gateway that starts knows what was purged before it came, and takes all for
// purged that is older than the log.
func TestFleetStartsLate(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	a := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	keeps := []*Object{fetched("purged", ""), fetched("soft", ""), fetched("other", "")}
	for range logRead + 5 {
		order(t, a, Purge{Scope: PurgeURL, Value: "purged"})
	}
	order(t, a, Purge{Scope: PurgeURL, Value: "soft", Soft: true})
	expect := func(want ...bool) {
		t.Helper()
		b := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
		for i, o := range keeps {
			o = &Object{Key: o.Key, Entry: o.Entry, Body: o.Body, Tags: o.Tags, Asked: o.Asked}
			b.store.Put(o)
			if got := has(b, string(o.Key)); got != want[i] {
				t.Errorf("%s: %v", o.Key, got)
			}
		}
		if o := b.store.Get([]byte("soft")); o != nil && !o.has(MarkPurged) {
			t.Error("what was purged softly is not stale")
		}
	}
	expect(false, true, true)
	last := server.Do("XREVRANGE", a.key, "+", "-", "COUNT", "1")
	server.Do("XTRIM", a.key, "MAXLEN", "1")
	if first := server.Do("XRANGE", a.key, "-", "+", "COUNT", "1"); first != last {
		t.Fatalf("%q, %q", first, last)
	}
	expect(false, false, false)
	keeps[2] = fetched("other", "")
	expect(false, false, true)
}

// A Redis that came back with an older state has lost purges for good: who
// notices purges all, for all.
func TestFleetLogGoesBack(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	a := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	order(t, a, Purge{Scope: PurgeTag, Value: "x"})
	caughtUp(t, a)
	keep(t, a, "k")
	o := fetched("k", "")
	// An old state: in one step, so that it is not seen without any.
	if got := server.Do("EVAL", "redis.call('DEL', KEYS[1]) return redis.call('XADD', KEYS[1], '5-5', 'p', ARGV[1])", "1", a.key, `{"scope":"tag","value":"old","at":5}`); !strings.Contains(got, "5-5") {
		t.Fatal(got)
	}
	eventually(t, "it is noticed", func() bool { return a.Stats().Gaps > 0 && a.Stats().Up })
	b := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	if b.store.Put(o); has(a, "k") || has(b, "k") {
		t.Errorf("here %v, there %v: %+v", has(a, "k"), has(b, "k"), a.Stats())
	}
}

// What stands in the log and is no purge that this gateway knows counts as one of
// all.
func TestFleetUnreadable(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	f := newFleet(t, fleetRedis(server.Addr), fleetConfig(false))
	for i, fields := range [][]string{{"p", `{"scope":"host","value":"h","at":1}`}, {"p", "\xff"}, {"x", "y"}} {
		keep(t, f, "k")
		server.Do(append([]string{"XADD", f.key, "*"}, fields...)...)
		eventually(t, "it is read", func() bool { return f.Stats().Unreadable == uint64(i+1) })
		if has(f, "k") {
			t.Errorf("%q left something", fields)
		}
	}
	// A time that is yet to come is not waited for.
	keep(t, f, "k")
	server.Do("XADD", f.key, "*", "p", `{"scope":"all","at":9000000000000000000}`)
	eventually(t, "it is read", func() bool { return !has(f, "k") })
	o := fetched("later", "")
	o.Asked += 2 * mostAhead
	if f.store.Put(o); !has(f, "later") {
		t.Error("a purge has no end")
	}
	// A key of another kind is no log.
	server.Do("DEL", f.key)
	server.Do("SET", f.key, "x")
	eventually(t, "it is noticed", func() bool { return !f.Stats().Up })
	server.Do("DEL", f.key)
	eventually(t, "it is over", func() bool { return f.Stats().Up })
}

// A log that cannot be begun does not empty the cache over and over.
func TestFleetReadOnly(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	if got := server.Do("ACL", "SETUSER", "sluice", "on", ">secret", "~t:*", "+xrange", "+ping", "+hello", "+client"); got != "+OK\r\n" {
		t.Fatal(got)
	}
	rc := fleetRedis(server.Addr)
	rc.Username, rc.Password = "sluice", "secret"
	var said lockedBuffer
	client, err := redis.Open(rc, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	f := NewFleet(fleetConfig(false), client, newTestStore(t, 8<<20), zerolog.New(&said))
	f.Start()
	t.Cleanup(f.Close)
	eventually(t, "the log says so", func() bool { return strings.Contains(said.String(), "NOPERM") })
	keep(t, f, "k")
	calls := func() string { return server.Do("INFO", "commandstats") }
	failures := func() (n int) {
		_, rest, _ := strings.Cut(calls(), "cmdstat_xadd:")
		_, rest, _ = strings.Cut(rest, "rejected_calls=")
		fmt.Sscan(strings.SplitN(rest, ",", 2)[0], &n)
		return n
	}
	was := failures()
	eventually(t, "it is tried again", func() bool { return failures() > was+2 })
	if !has(f, "k") || f.Stats().Up || strings.Count(said.String(), "cannot read the log") != 1 {
		t.Errorf("%v, %+v, %s", has(f, "k"), f.Stats(), said.String())
	}
	server.Do("ACL", "SETUSER", "sluice", "+xadd", "+publish")
	eventually(t, "the log is begun", func() bool { return f.Stats().Up })
	if has(f, "k") {
		t.Error("what others may have purged unheard is there")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestLogID(t *testing.T) {
	for text, want := range map[string]logID{"5-7": {5, 7}, "18446744073709551615-18446744073709551615": {1<<64 - 1, 1<<64 - 1}} {
		if id, ok := parseLogID(text); !ok || id != want || id.String() != text || id.time() <= 0 {
			t.Errorf("%q: %v, %v, %d", text, id, ok, id.time())
		}
	}
	for _, text := range []string{"", "-", "5", "5-", "-5", "a-b", "0-0", "5-7-9", "-1-1", "18446744073709551616-1"} {
		if id, ok := parseLogID(text); ok {
			t.Errorf("%q: %v", text, id)
		}
	}
	if a, b := (logID{5, 7}), (logID{6, 1}); !b.after(a) || a.after(b) || a.after(a) || !(logID{5, 8}).after(a) {
		t.Error("the order of entries")
	}
}

func FuzzReadEntry(f *testing.F) {
	for _, text := range []string{
		`{"scope":"all","at":5}`, `{"scope":"url","value":"http://h/a?b","soft":true,"at":1795579200000000000}`,
		`{"scope":"tag","value":"\ud800","at":1}`, `{"scope":"all","at":5}{}`, `{"scope":"all","at":1e3}`, `null`, `[]`, "", "\xff",
		`{"scope":"host","at":5}`, `{"scope":"all","at":-1}`, `{"scope":"all","at":9223372036854775807,"more":1}`,
	} {
		f.Add(uint64(1795579200000), text)
	}
	f.Fuzz(func(t *testing.T, ms uint64, text string) {
		const present = start
		p, ok := readEntry(logID{ms: ms, n: 1}, text, present)
		if err := p.check(); err != nil || p.At > present+mostAhead {
			t.Fatalf("%q: %+v, %v", text, p, err)
		}
		if !ok {
			if p.Scope != PurgeAll || p.Soft || p.At < int64(min(ms, uint64(present/1e6))) {
				t.Fatalf("%q is not understood and purges %+v", text, p)
			}
			return
		}
		if again, ok := readEntry(logID{ms: 1}, p.json(), present); !ok || again != p {
			t.Fatalf("%+v is written %s and read %+v", p, p.json(), again)
		}
	})
}
