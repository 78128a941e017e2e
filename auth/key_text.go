package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/big"
	"strings"
)

// A key that Sluice makes is
//
//	slk_ + 43 base-62 digits of 256 random bits + 6 base-62 digits of a CRC-32
//
// The prefix lets secret scanners find a key that leaked into a repository or a
// log. The checksum, of all that stands before it, tells a key that was mistyped
// or cut from one that was never made or was removed, without asking anybody; it
// protects nothing. Letters and digits alone are selected by a double click and
// need no escape in a header, a cookie, a query or a shell.
//
// Only SHA-256 of a key is kept, without salt and without stretching. Both are
// for secrets that people choose: a salt hinders tables of likely ones, stretching
// makes each guess dear. There is no table of 2^256 keys and no guessing one, and
// a hash that is the same in every file is what a lookup in a map needs.
const (
	keyPrefix   = "slk_"
	keyRandom   = 32 // bytes
	keyDigits   = 43 // 62^43 > 2^256
	checkDigits = 6  // 62^6 > 2^32
	keyLength   = len(keyPrefix) + keyDigits + checkDigits

	// The bounds of keys that other systems made. Under 16 bytes a key can be
	// guessed from its hash.
	leastKey = 16
	mostKey  = 512
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newKey makes a key. It panics when the system gives no randomness, as
// crypto/rand does.
func newKey() string {
	random := make([]byte, keyRandom)
	_, _ = rand.Read(random)
	key := keyPrefix + digits(new(big.Int).SetBytes(random), keyDigits)
	return key + checksum(key)
}

func digits(n *big.Int, count int) string {
	text := make([]byte, count)
	base, rest := big.NewInt(int64(len(base62))), new(big.Int)
	for i := count - 1; i >= 0; i-- {
		n.QuoRem(n, base, rest)
		text[i] = base62[rest.Int64()]
	}
	return string(text)
}

func checksum(text string) string {
	return digits(big.NewInt(int64(crc32.ChecksumIEEE([]byte(text)))), checkDigits)
}

// mistyped tells whether key was meant to be one of ours and cannot be one.
func mistyped(key []byte) bool {
	if len(key) < len(keyPrefix) || string(key[:len(keyPrefix)]) != keyPrefix {
		return false
	}
	if len(key) != keyLength {
		return true
	}
	sum := crc32.ChecksumIEEE(key[:keyLength-checkDigits])
	for i := keyLength - 1; i >= keyLength-checkDigits; i-- {
		if key[i] != base62[sum%62] {
			return true
		}
		sum /= 62
	}
	return false
}

// keyHash is what a keys file holds of key.
func keyHash(key []byte) string {
	sum := sha256.Sum256(key)
	return hashPrefix + hex.EncodeToString(sum[:])
}

const hashPrefix = "sha256:"

// parseHash reads what keyHash writes. Its error does not repeat text, which may
// be a key.
func parseHash(text string) (hash [sha256.Size]byte, err error) {
	const want = "expected sha256: and 64 hex digits"
	digits, ok := strings.CutPrefix(text, hashPrefix)
	if !ok && len(text) == hex.EncodedLen(len(hash)) {
		if _, err := hex.DecodeString(text); err == nil {
			return hash, errors.New(want + ", got the digits alone")
		}
	}
	if !ok && strings.HasPrefix(text, keyPrefix) {
		return hash, errors.New(want + ", got a key itself, which sluice key hash turns into its hash")
	}
	if n, err := hex.Decode(hash[:], []byte(digits[:min(len(digits), 2*len(hash))])); !ok || err != nil || n != len(hash) || len(digits) != 2*len(hash) {
		return [sha256.Size]byte{}, errors.New(want)
	}
	return hash, nil
}

// checkImported tells what is wrong with a key that another system made.
func checkImported(key []byte) error {
	switch {
	case len(key) < leastKey:
		return fmt.Errorf("expected a key of at least %d bytes: a shorter one can be found from its hash; got %d", leastKey, len(key))
	case len(key) > mostKey:
		return fmt.Errorf("expected a key of at most %d bytes", mostKey)
	case mistyped(key):
		return errors.New("expected a whole key of Sluice, got one that is mistyped or cut: its checksum is wrong")
	}
	for _, c := range key {
		if c <= ' ' || c >= 0x7f {
			return errors.New("expected a key of printable ASCII without blanks, which a header can carry")
		}
	}
	return nil
}
