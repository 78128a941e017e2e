package limiter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
)

// SharedKey names a budget to all gateways.
type SharedKey [16]byte

// SharedHasher makes one 128-bit key of the parts that a budget is kept for,
// the same on every gateway: SHA-256 over a secret and the parts, cut short.
// So no value of a client stands on Redis, and nobody can choose a value that
// shares another's budget. Without a secret, though, who reads the keys can try
// all addresses, which are few, and see which one it was.
//
// Parts are told apart by their kind, length and order. A SharedHasher is a
// value on the caller's stack, for one goroutine; feeding it does not allocate,
// whatever is fed. Begin with Shared.NewHasher.
type SharedHasher struct {
	n   int
	buf [hashBuffer]byte
}

const (
	hashBuffer = 256
	mostPlain  = 64 // bytes of a part; longer ones are hashed by themselves
)

func sharedSeed(secret string) (seed [32]byte) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("sluice shared limit key 1"))
	mac.Sum(seed[:0])
	return seed
}

func newSharedHasher(seed *[32]byte) SharedHasher {
	var h SharedHasher
	h.n = copy(h.buf[:], seed[:])
	return h
}

// The kinds of a part.
const (
	sharedMissing = iota + 1
	sharedBytes
	sharedLong
	sharedIPv4
	sharedIPv6
)

// Missing feeds the absence of a part, which differs from an empty one.
func (h *SharedHasher) Missing() { h.part(sharedMissing, 0, nil) }

// Bytes feeds b, whatever its length.
func (h *SharedHasher) Bytes(b []byte) {
	if len(b) > mostPlain {
		sum := sha256.Sum256(b)
		h.part(sharedLong, uint64(len(b)), sum[:])
		return
	}
	h.part(sharedBytes, uint64(len(b)), b)
}

// Addr feeds an IPv4 address (also one mapped into IPv6) as a whole and of an
// IPv6 address the first prefix bits; zones do not count. prefix outside 0 to
// 128 is taken as the nearer bound. The zero Addr is Missing.
func (h *SharedHasher) Addr(a netip.Addr, prefix int) {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		h.part(sharedIPv4, 32, b[:])
	case a.Is6():
		prefix = min(max(prefix, 0), 128)
		b := a.As16()
		for i := range b {
			keep := min(max(prefix-8*i, 0), 8)
			b[i] &= byte(uint16(0xff00) >> keep)
		}
		h.part(sharedIPv6, uint64(prefix), b[:])
	default:
		h.Missing()
	}
}

func (h *SharedHasher) part(kind byte, size uint64, b []byte) {
	if h.n+9+len(b) > len(h.buf) {
		sum := sha256.Sum256(h.buf[:h.n])
		h.n = copy(h.buf[:], sum[:])
	}
	h.buf[h.n] = kind
	binary.BigEndian.PutUint64(h.buf[h.n+1:], size)
	h.n += 9
	h.n += copy(h.buf[h.n:], b)
}

// Sum returns the key of what was fed. The SharedHasher may be fed on.
func (h *SharedHasher) Sum() (k SharedKey) {
	sum := sha256.Sum256(h.buf[:h.n])
	copy(k[:], sum[:])
	return k
}

// appendText appends k the way it stands on Redis: 22 letters.
func (k SharedKey) appendText(dst []byte) []byte {
	return base64.RawURLEncoding.AppendEncode(dst, k[:])
}
