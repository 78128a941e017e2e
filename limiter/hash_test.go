package limiter

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// The reference's own vectors for whole words: messages 00 01 02 ... of 0, 8,
// 16, 24, 32, 40, 48 and 56 bytes under the key 00 01 ... 0f.
func TestHasherIsSipHash13(t *testing.T) {
	h := newHasher([2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908})
	for i, want := range []uint64{
		0xabac0158050fc4dc, 0x369095118d299a8e, 0xcc4fdd1a7d908b66, 0xf464aeb267349c8c,
		0x81157b6c16a7b60d, 0xc1d2363299e41531, 0x9f3143f8df074c46, 0xb4bcc0db243c6d75,
	} {
		if got := h.Sum(); got != want {
			t.Errorf("%d bytes: got %#x, want %#x", 8*i, got, want)
		}
		h.word(0x0706050403020100 + uint64(i)*0x0808080808080808)
	}
}

func hash(feed func(h *Hasher)) uint64 {
	h := NewHasher()
	feed(&h)
	return h.Sum()
}

// What a part is, how long it is and where it stands all count.
func TestHasherTellsPartsApart(t *testing.T) {
	seen := map[uint64]int{}
	addr := netip.MustParseAddr
	for i, feed := range []func(h *Hasher){
		func(*Hasher) {},
		func(h *Hasher) { h.Missing() },
		func(h *Hasher) { h.Missing(); h.Missing() },
		func(h *Hasher) { h.Bytes(nil) },
		func(h *Hasher) { h.Bytes([]byte{0}) },
		func(h *Hasher) { h.Bytes([]byte{0, 0}) },
		func(h *Hasher) { h.Bytes(make([]byte, 8)) },
		func(h *Hasher) { h.Bytes(make([]byte, 9)) },
		func(h *Hasher) { h.Bytes([]byte("abc")) },
		func(h *Hasher) { h.Bytes([]byte("ab")); h.Bytes([]byte("c")) },
		func(h *Hasher) { h.Bytes([]byte("a")); h.Bytes([]byte("bc")) },
		func(h *Hasher) { h.Bytes([]byte("abc")); h.Missing() },
		func(h *Hasher) { h.Missing(); h.Bytes([]byte("abc")) },
		func(h *Hasher) { h.Bytes([]byte("10.0.0.1")) },
		func(h *Hasher) { h.Addr(addr("10.0.0.1"), 64) },
		func(h *Hasher) { h.Addr(addr("10.0.0.2"), 64) },
		func(h *Hasher) { h.Addr(addr("0.0.0.0"), 64) },
		func(h *Hasher) { h.Addr(addr("::"), 64) },
		func(h *Hasher) { h.Addr(addr("2001:db8:0:1::"), 64) },
		func(h *Hasher) { h.Addr(addr("2001:db8:0:2::"), 64) },
		func(h *Hasher) { h.Addr(addr("2001:db8:0:1::1"), 128) },
	} {
		sum := hash(feed)
		if other, dup := seen[sum]; dup {
			t.Errorf("cases %d and %d are one key", other, i)
		}
		seen[sum] = i
	}
}

func TestHasherAddr(t *testing.T) {
	f := func(a, b string, prefix int, same bool) {
		t.Helper()
		x := hash(func(h *Hasher) { h.Addr(netip.MustParseAddr(a), prefix) })
		y := hash(func(h *Hasher) { h.Addr(netip.MustParseAddr(b), prefix) })
		if (x == y) != same {
			t.Errorf("%s and %s by /%d: one key is %v, want %v", a, b, prefix, x == y, same)
		}
	}
	f("2001:db8::1", "2001:db8::ffff:0:0:1", 64, true)
	f("2001:db8::1", "2001:db8:0:1::1", 64, false)
	f("2001:db8::1", "2001:db8:0:ff::1", 56, true)
	f("2001:db8::1", "2001:db8:0:100::1", 56, false)
	f("2001:db8::1", "2001:db8::2", 128, false)
	f("2001:db8::1", "2001:db8::2", 126, true)
	f("2001:db8::1", "2001:db8::2", 127, false)
	f("2001:db8::1", "ffff::", 0, true)
	f("fe80::1%eth0", "fe80::1%eth1", 64, true)
	f("::ffff:10.0.0.1", "10.0.0.1", 64, true)
	f("::ffff:10.0.0.1", "::ffff:10.0.0.2", 64, false)
	if hash(func(h *Hasher) { h.Addr(netip.Addr{}, 64) }) != hash((*Hasher).Missing) {
		t.Error("no address differs from a missing part")
	}
}

// Why Hasher is not the xxhash that the rest of the house uses: each half of a
// 16-byte value passes through a bijection before it meets the seed, so a
// difference in the first half can be chosen that the second takes out again,
// whatever the seed is. A client could give itself another's budget.
func TestXXHashCollidesUnderEverySeed(t *testing.T) {
	const p1, p2 = 11400714785074694791, 14029467366897019727
	inverse := func(odd uint64) uint64 {
		x := odd
		for range 6 {
			x *= 2 - odd*x
		}
		return x
	}
	round := func(k uint64) uint64 { return bits.RotateLeft64(k*p2, 31) * p1 }
	undo := func(r uint64) uint64 { return bits.RotateLeft64(r*inverse(p1), -31) * inverse(p2) }

	first, second := []byte("tenant-A"), []byte("tenant-B")
	a := append(append([]byte{}, first...), second...)
	b := binary.LittleEndian.AppendUint64(nil, undo(round(binary.LittleEndian.Uint64(first))^1<<36))
	b = binary.LittleEndian.AppendUint64(b, undo(round(binary.LittleEndian.Uint64(second))^1<<63))
	for s := range uint64(1000) {
		x, y := xxhash.NewWithSeed(s*0x9e3779b97f4a7c15), xxhash.NewWithSeed(s*0x9e3779b97f4a7c15)
		x.Write(a)
		y.Write(b)
		if x.Sum64() != y.Sum64() {
			t.Fatalf("no collision under seed %d: then xxhash would do", s)
		}
	}
	if hash(func(h *Hasher) { h.Bytes(a) }) == hash(func(h *Hasher) { h.Bytes(b) }) {
		t.Error("Hasher collides as well")
	}
}
