//go:build !race

package limiter

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/rs/zerolog"

	"sluice/redis"
	"sluice/wire"
)

// Making a key and deciding in mode fast allocates nothing, nor does deciding
// without Redis.
func TestSharedAllocatesNothing(t *testing.T) {
	c, err := redis.Open(redisConfig("127.0.0.1:1"), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	addr, long := netip.MustParseAddr("2001:db8::1"), bytes.Repeat([]byte("x"), 1000)
	for _, onError := range []string{"open", "closed", "local"} {
		s := NewShared("l", Config{Keys: 1024}, sharedConfig("fast", onError), c, nil)
		if s.ledger == nil {
			t.Fatal("no ledger")
		}
		i := byte(0)
		f := func(name string, run func(k SharedKey)) {
			t.Helper()
			if n := testing.AllocsPerRun(1000, func() {
				i++
				h := s.NewHasher()
				h.Addr(addr, 64)
				h.Bytes([]byte{i})
				h.Bytes(long)
				h.Bytes(long)
				h.Bytes(long[:60])
				h.Bytes(long[:60])
				h.Missing()
				run(h.Sum())
			}); n != 0 {
				t.Errorf("%s, on_error %s: expected no allocation, got %v", name, onError, n)
			}
		}
		f("Allow without Redis", func(k SharedKey) { s.Allow(k, perSecond(10), 10, 1, wire.Nanotime()) })
		f("by the ledger", func(k SharedKey) {
			s.byLedger(k, packPlan(perSecond(10), 10), perSecond(10), 10, 1, wire.Nanotime())
		})
	}
}
