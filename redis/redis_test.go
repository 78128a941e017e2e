package redis_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"sluice/redis"
	"sluice/redis/redistest"
	"sluice/setting"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// A client of a cluster that is closed within five seconds of a look at the nodes sleeps them out.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

func testConfig(addr ...string) redis.Config {
	return redis.Config{Addresses: addr, Mode: "single", Prefix: "t:", ConnectTimeout: setting.Duration(time.Second), Timeout: setting.Duration(300 * time.Millisecond)}
}

// logs is a buffer that several goroutines may use.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func open(t *testing.T, cfg redis.Config) (*redis.Client, *logs) {
	t.Helper()
	var p setting.Problems
	if cfg.Validate(&p); len(p.List()) != 0 {
		t.Fatal(p.List())
	}
	l := new(logs)
	c, err := redis.Open(cfg, zerolog.New(l))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, l
}

// eventually waits for what has no event, up to ten seconds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func works(t *testing.T, c *redis.Client) {
	t.Helper()
	eventually(t, "up", c.Up)
	conn, err := c.Conn()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, key := range []string{"a", "b", "c", "d"} { // of several nodes in a cluster
		if err := conn.Do(ctx, conn.B().Set().Key(key).Value("1").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnects(t *testing.T) {
	t.Run("plain, another db", func(t *testing.T) {
		cfg := testConfig(redistest.Start(t, redistest.Options{}).Addr)
		cfg.DB = 3
		c, _ := open(t, cfg)
		works(t, c)
	})
	t.Run("TLS and password", func(t *testing.T) {
		s := redistest.Start(t, redistest.Options{TLS: true, Password: "open sesame"})
		cfg := testConfig(s.Addr)
		cfg.Password, cfg.TLS = "open sesame", &redis.TLS{CA: s.CA, ServerName: "redis.example"}
		c, _ := open(t, cfg)
		works(t, c)
	})
	t.Run("TLS, a name that the certificate does not have", func(t *testing.T) {
		s := redistest.Start(t, redistest.Options{TLS: true})
		cfg := testConfig(s.Addr)
		cfg.TLS = &redis.TLS{CA: s.CA, ServerName: "other.example"}
		c, l := open(t, cfg)
		eventually(t, "the log says why", func() bool { return strings.Contains(l.String(), "other.example") })
		if c.Up() {
			t.Error("up")
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		s := redistest.Start(t, redistest.Options{Password: "open sesame"})
		cfg := testConfig(s.Addr)
		cfg.Password = "hunter2hunter2"
		c, l := open(t, cfg)
		eventually(t, "the log says why", func() bool { return strings.Contains(l.String(), "WRONGPASS") })
		if c.Up() || strings.Contains(l.String(), "hunter2") {
			t.Errorf("up %v, log %s", c.Up(), l)
		}
	})
	t.Run("sentinel", func(t *testing.T) {
		master := redistest.Start(t, redistest.Options{Password: "open sesame"})
		sentinel := redistest.Start(t, redistest.Options{Sentinel: master.Addr})
		cfg := testConfig(sentinel.Addr)
		cfg.Mode, cfg.Master, cfg.Password = "sentinel", "main", "open sesame"
		c, l := open(t, cfg)
		works(t, c)
		if strings.Contains(l.String(), "sesame") {
			t.Error(l)
		}
	})
	t.Run("cluster", func(t *testing.T) {
		servers := redistest.StartCluster(t, 3)
		cfg := testConfig(servers[0].Addr, servers[1].Addr)
		cfg.Mode = "cluster"
		c, _ := open(t, cfg)
		works(t, c)
	})
}

// A server that is not there, comes, hangs, goes on, dies and comes again.
func TestOutages(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	s.Kill()
	c, l := open(t, testConfig(s.Addr))
	eventually(t, "a failure", func() bool { return c.Stats().Failures >= 3 })
	if _, err := c.Conn(); err != redis.ErrDown {
		t.Errorf("expected ErrDown, got %v", err)
	}
	s.Restart()
	works(t, c)
	s.Stop()
	eventually(t, "a server that hangs is down", func() bool { return !c.Up() })
	s.Continue()
	works(t, c)
	s.Kill()
	c.Check()
	eventually(t, "a server that died is down", func() bool { return !c.Up() })
	s.Restart()
	works(t, c)
	if st := c.Stats(); st.Connects != 3 {
		t.Errorf("expected to come up three times: %+v", st)
	}
	if up, down := strings.Count(l.String(), "is up"), strings.Count(l.String(), "is down"); up != 3 || down != 3 {
		t.Errorf("expected three of each line: %s", l)
	}
}

func TestCloseWhileDown(t *testing.T) {
	c, _ := open(t, testConfig("127.0.0.1:1"))
	c.Close()
	c.Close()
	if _, err := c.Conn(); err != redis.ErrDown {
		t.Errorf("expected ErrDown, got %v", err)
	}
}

func TestOpenFailsForFiles(t *testing.T) {
	for _, tls := range []redis.TLS{{CA: "/nowhere"}, {CA: "redis_test.go"}, {Cert: "/nowhere", Key: "/nowhere"}} {
		cfg := testConfig("127.0.0.1:1")
		cfg.TLS = &tls
		if c, err := redis.Open(cfg, zerolog.Nop()); err == nil {
			c.Close()
			t.Errorf("%+v: expected an error", tls)
		}
	}
}

func TestValidate(t *testing.T) {
	f := func(change func(*redis.Config), path string) {
		t.Helper()
		cfg := testConfig("redis.example:6379")
		change(&cfg)
		var p setting.Problems
		cfg.Validate(&p)
		got := p.List()
		if path == "" && len(got) != 0 || path != "" && (len(got) != 1 || got[0].Path != path) {
			t.Errorf("expected a problem at %q, got %v", path, got)
		}
	}
	f(func(c *redis.Config) {}, "")
	f(func(c *redis.Config) { c.Shorthand("[::1]:6379") }, "")
	f(func(c *redis.Config) { c.Addresses = nil }, "addresses")
	for _, a := range []string{"", "redis", "redis:", ":6379", "redis:0", "redis:06379", "redis:70000", "redis://redis:6379", "user:pass@redis:6379", "a b:1", "a/b:1"} {
		f(func(c *redis.Config) { c.Addresses = []string{a} }, "addresses[0]")
	}
	f(func(c *redis.Config) { c.Addresses = []string{"a:1", "b:1"} }, "addresses")
	f(func(c *redis.Config) { c.Addresses, c.Mode = []string{"a:1", "b:1"}, "cluster" }, "")
	f(func(c *redis.Config) { c.Mode, c.DB = "cluster", 1 }, "db")
	f(func(c *redis.Config) { c.Mode = "sentinel" }, "master")
	f(func(c *redis.Config) { c.Master = "m" }, "master")
	f(func(c *redis.Config) { c.Mode, c.Master, c.SentinelPass = "sentinel", "m", "x" }, "")
	f(func(c *redis.Config) { c.SentinelPass = "x" }, "sentinel_username")
	f(func(c *redis.Config) { c.Username = "u" }, "password")
	f(func(c *redis.Config) { c.Prefix = "a b" }, "prefix")
	f(func(c *redis.Config) { c.Prefix = "{a}" }, "prefix")
	f(func(c *redis.Config) { c.TLS = &redis.TLS{Cert: "a"} }, "tls")
}

func FuzzAddress(f *testing.F) {
	f.Add("127.0.0.1:6379")
	f.Add("[::1]:1")
	f.Fuzz(func(t *testing.T, s string) {
		cfg := testConfig(s)
		var p setting.Problems
		cfg.Validate(&p)
		if len(p.List()) == 0 && strings.ContainsAny(s, " \r\n@/") {
			t.Errorf("%q passed", s)
		}
	})
}
