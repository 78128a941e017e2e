//go:build !race

package limiter

import (
	"net/netip"
	"testing"
)

// Hashing, deciding and telling allocate nothing; the race detector would.
func TestAllocatesNothing(t *testing.T) {
	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: expected no allocation, got %v", name, n)
		}
	}
	var now int64
	l := New("t", testConfig("1000/s", 10), nil)
	addr, tenant := netip.MustParseAddr("2001:db8::1"), []byte("a tenant with a name")
	dst := make([]byte, 0, 256)
	f("one key", func() {
		now += 1000
		h := NewHasher()
		h.Addr(addr, 64)
		h.Bytes(tenant)
		h.Missing()
		dst = l.AppendHeaders(dst[:0], l.Allow(h.Sum(), 1, now))
	})
	small := New("t", testConfig("1000/s", 10), nil)
	small.table = newTable(8)
	var i int
	f("new keys, a table that is full", func() {
		i++
		small.Allow(testKey(i), 1, int64(i)*1000)
	})
	if s := small.Stats(); s.Full == 0 || s.Full == s.Allowed {
		t.Errorf("the table was not full now and then: %+v", s)
	}
	f("Stats", func() { l.Stats() })
}
