package observe

import (
	"encoding/binary"
	"math/rand/v2"
)

// NewID fills dst with 128 random bits in lowercase hex: a request id, and a
// trace id as well. The generator is ChaCha8, seeded by the system, one for
// each thread: no lock, no system call, and not to be guessed from other ids.
// It is still no secret: do not let an id grant anything.
func NewID(dst *[32]byte) {
	putHex((*[16]byte)(dst[:16]), nonZero())
	putHex((*[16]byte)(dst[16:]), rand.Uint64())
}

// NewSpanID fills dst with 64 random bits in lowercase hex, never all zero.
func NewSpanID(dst *[16]byte) {
	putHex(dst, nonZero())
}

// nonZero is random but not 0, which W3C Trace Context holds invalid as an id.
func nonZero() uint64 {
	for {
		if n := rand.Uint64(); n != 0 {
			return n
		}
	}
}

// putHex writes n in 16 digits, eight at a time.
func putHex(dst *[16]byte, n uint64) {
	binary.BigEndian.PutUint64(dst[:8], hexOf(uint32(n>>32)))
	binary.BigEndian.PutUint64(dst[8:], hexOf(uint32(n)))
}

// hexOf spreads the digits of n over the bytes of the result and turns each
// into its character: '0' and, for those above nine, the way on to 'a'.
func hexOf(n uint32) uint64 {
	const ones = 0x0101010101010101
	x := uint64(n)
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff
	x = (x | x<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (x + 6*ones) >> 4 & ones
	return x + '0'*ones + ('a'-'0'-10)*letters
}
