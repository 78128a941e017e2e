package limiter

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"unsafe"
)

// Hasher makes one 64-bit key of the parts that a budget is kept for. It is
// SipHash-1-3 with a random key of this process, so that who chooses a part
// can neither share another's budget nor crowd one place of the table. (XXH64
// with a random seed would not do: two 16-byte values can be written down that
// collide under every seed.)
//
// Parts are told apart by their kind, length and order: "ab","c" is another
// key than "a","bc". A Hasher is a value on the caller's stack, for one
// goroutine; feeding it does not allocate. Begin with Limit.Hasher or NewHasher.
type Hasher struct {
	v0, v1, v2, v3 uint64
	words          uint64 // fed so far
}

// seed is the process's key.
var seed = func() (k [2]uint64) {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // it cannot fail
	return [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}()

// NewHasher returns a Hasher that was fed nothing.
func NewHasher() Hasher { return newHasher(seed) }

func newHasher(k [2]uint64) Hasher {
	return Hasher{
		v0: k[0] ^ 0x736f6d6570736575,
		v1: k[1] ^ 0x646f72616e646f6d,
		v2: k[0] ^ 0x6c7967656e657261,
		v3: k[1] ^ 0x7465646279746573,
	}
}

// The kinds of a part, in the top byte of the word before it.
const (
	partMissing = (iota + 1) << 56
	partBytes
	partIPv4
	partIPv6
	partAlternative
)

// Missing feeds the absence of a part, which differs from an empty one.
func (h *Hasher) Missing() { h.word(partMissing) }

// Bytes feeds b, whatever its length.
func (h *Hasher) Bytes(b []byte) {
	h.word(partBytes | uint64(len(b)))
	for len(b) >= 8 {
		h.word(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		h.word(binary.LittleEndian.Uint64(last[:]))
	}
}

// Text feeds the bytes of s.
func (h *Hasher) Text(s string) { h.Bytes(unsafe.Slice(unsafe.StringData(s), len(s))) }

// alternative marks the part that follows as one that stands in for another,
// so that nobody who chooses the one can be taken for who has the other.
func (h *Hasher) alternative(or bool, s Source) {
	if or {
		h.word(partAlternative | uint64(s))
	}
}

// Addr feeds an IPv4 address (also one mapped into IPv6) as a whole and of an
// IPv6 address the first prefix bits; zones do not count. prefix outside 0 to
// 128 is taken as the nearer bound. The zero Addr is Missing.
func (h *Hasher) Addr(a netip.Addr, prefix int) {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		h.word(partIPv4 | uint64(binary.BigEndian.Uint32(b[:])))
	case a.Is6():
		b := a.As16()
		prefix = min(max(prefix, 0), 128)
		h.word(partIPv6 | uint64(prefix))
		// A shift by 64 leaves 0, as it should.
		h.word(binary.BigEndian.Uint64(b[:8]) &^ (^uint64(0) >> prefix))
		if prefix > 64 {
			h.word(binary.BigEndian.Uint64(b[8:]) &^ (^uint64(0) >> (prefix - 64)))
		}
	default:
		h.Missing()
	}
}

// Sum returns the key of what was fed. The Hasher may be fed on afterwards.
func (h *Hasher) Sum() uint64 {
	end := *h
	end.word(h.words * 8 << 56) // SipHash ends with the length
	v0, v1, v2, v3 := end.v0, end.v1, end.v2^0xff, end.v3
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return v0 ^ v1 ^ v2 ^ v3
}

func (h *Hasher) word(w uint64) {
	h.words++
	v0, v1, v2, v3 := sipRound(h.v0, h.v1, h.v2, h.v3^w)
	h.v0, h.v1, h.v2, h.v3 = v0^w, v1, v2, v3
}

// sipRound works on values, which stay in registers; on fields the hash would
// take twice as long.
func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v2 += v3
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 = bits.RotateLeft64(v0, 32) + v3
	v2 += v1
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	return v0, v1, bits.RotateLeft64(v2, 32), v3
}
