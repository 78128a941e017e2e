package limiter

import (
	"net/netip"
	"testing"
)

// caller is a Caller for tests.
type caller struct {
	address         string
	route           string
	headers         map[string]string
	cookies, claims map[string]string
	by, who         string
}

func (c *caller) Address() netip.Addr {
	a, _ := netip.ParseAddr(c.address)
	return a
}
func (c *caller) RouteName() []byte { return []byte(c.route) }
func (c *caller) Header(name string) ([]byte, bool) {
	v, ok := c.headers[name]
	return []byte(v), ok
}
func (c *caller) Cookie(name string) ([]byte, bool) {
	v, ok := c.cookies[name]
	return []byte(v), ok
}
func (c *caller) Claim(path string) (string, bool) {
	v, ok := c.claims[path]
	return v, ok
}
func (c *caller) Identity() (string, string, bool) { return c.by, c.who, c.by != "" }

func testLimit(change func(*Config)) *Limit {
	c := testConfig("100/s", 50)
	change(&c)
	return New("t", c, nil)
}

func TestKey(t *testing.T) {
	type m = map[string]string
	f := func(key string, a, b *caller, same bool) {
		t.Helper()
		l := testLimit(func(c *Config) { c.Key = key })
		x, okX := l.Key(a)
		y, okY := l.Key(b)
		if !okX || !okY {
			t.Errorf("%s does not apply", key)
		}
		if (x == y) != same {
			t.Errorf("%s: %+v and %+v are one key: %v, want %v", key, a, b, x == y, same)
		}
	}
	ann, bob := &caller{address: "10.0.0.1", claims: m{"sub": "ann"}, by: "id", who: "ann"}, &caller{address: "10.0.0.1", claims: m{"sub": "bob"}, by: "id", who: "bob"}
	f("ip", ann, bob, true)
	f("claim:sub", ann, bob, false)
	f("identity", ann, bob, false)
	f("claim:tenant", ann, bob, true)
	f("claim:tenant|claim:sub", ann, bob, false)
	f("claim:tenant|ip", ann, bob, true)
	f("claim:sub|ip", ann, &caller{address: "10.0.0.9", claims: m{"sub": "ann"}}, true)
	f("claim:sub|ip+route", &caller{address: "10.0.0.1", route: "a"}, &caller{address: "10.0.0.1", route: "b"}, false)
	f("claim:sub|ip+route", &caller{address: "10.0.0.1", route: "a"}, &caller{address: "10.0.0.2", route: "a"}, false)
	f("claim:sub|ip+route", &caller{address: "10.0.0.1", route: "a"}, &caller{address: "10.0.0.1", route: "a"}, true)
	f("identity", &caller{by: "ab", who: "c"}, &caller{by: "a", who: "bc"}, false)
	f("identity", &caller{}, &caller{address: "10.0.0.1"}, true)

	// Who chooses a header cannot be taken for who has the claim.
	f("claim:sub|header:X", &caller{claims: m{"sub": "ann"}}, &caller{headers: m{"X": "ann"}}, false)
	f("claim:sub|cookie:X|header:X", &caller{cookies: m{"X": "ann"}}, &caller{headers: m{"X": "ann"}}, false)
	// A missing one is not an empty one.
	f("claim:sub", &caller{claims: m{"sub": ""}}, &caller{}, false)
	f("claim:sub|header:X", &caller{claims: m{"sub": ""}}, &caller{headers: m{"X": ""}}, false)
	f("ip", &caller{}, &caller{address: "0.0.0.0"}, false)
}

func TestMissing(t *testing.T) {
	f := func(key string, c *caller, share, skip bool) {
		t.Helper()
		for missing, want := range map[string]bool{"share": share, "skip": skip} {
			l := testLimit(func(c *Config) { c.Key, c.Missing = key, missing })
			if _, applies := l.Key(c); applies != want {
				t.Errorf("%s, missing: %s: applies is %v", key, missing, applies)
			}
		}
	}
	f("identity", &caller{address: "10.0.0.1"}, true, false)
	f("identity|ip", &caller{address: "10.0.0.1"}, true, true)
	f("identity|claim:sub+ip", &caller{address: "10.0.0.1"}, true, false)
	f("identity", &caller{by: "id"}, true, true)
	f("route", &caller{}, true, true)
}
