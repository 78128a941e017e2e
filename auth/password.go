package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// A password file holds lines USER:HASH, empty lines, and comments that begin
// with #. A hash is bcrypt ($2a$, $2b$, $2y$) or argon2id as a PHC string. Its
// parameters are bounded when the file is read, for whoever sends a password
// makes the gateway spend what they say.
const (
	mostPasswordFile = 4 << 20 // bytes
	mostPassword     = 1024    // bytes
	leastPassword    = 8       // bytes, of a new one
	mostUser         = 256     // bytes
	bcryptMost       = 72      // bytes that bcrypt reads; it drops the rest silently

	bcryptMostCost = 16        // about 4 s on one core
	argonMemory    = 256 << 10 // KiB
	argonPasses    = 16
	argonWork      = 1 << 20 // KiB times passes
	argonLanes     = 16
)

// What a new hash costs. The figures are OWASP's for argon2id; more memory would
// be the attacker's lever on a gateway as much as the guesser's burden.
const (
	newMemory = 19 << 10 // KiB
	newPasses = 2
	newLanes  = 1
	newCost   = 12 // of bcrypt
	newSalt   = 16 // bytes
	newSum    = 32 // bytes
)

// passwordHash is a hash with its parameters.
type passwordHash struct {
	bcrypt []byte // nil for argon2id

	salt, sum      []byte
	memory, passes uint32
	lanes          uint8
}

var phc = regexp.MustCompile(`^\$argon2id\$v=(\d{1,3})\$m=(\d{1,9}),t=(\d{1,9}),p=(\d{1,9})\$([A-Za-z0-9+/]{1,128})\$([A-Za-z0-9+/]{1,128})$`)

var bcryptForm = regexp.MustCompile(`^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$`)

const hashWant = "a bcrypt hash ($2a$, $2b$ or $2y$) or an argon2id PHC string ($argon2id$v=19$m=...,t=...,p=...$SALT$HASH)"

// parsePasswordHash reads a hash. Its error does not repeat it.
func parsePasswordHash(text string) (*passwordHash, error) {
	if m := bcryptForm.FindStringSubmatch(text); m != nil {
		if cost, _ := strconv.Atoi(m[1]); cost < bcrypt.MinCost || cost > bcryptMostCost {
			return nil, fmt.Errorf("expected a bcrypt cost from %d to %d, got %d", bcrypt.MinCost, bcryptMostCost, cost)
		}
		return &passwordHash{bcrypt: []byte(text)}, nil
	}
	m := phc.FindStringSubmatch(text)
	if m == nil {
		return nil, errors.New("expected " + hashWant + otherHash(text))
	}
	number := func(s string) uint64 {
		n, _ := strconv.ParseUint(s, 10, 32)
		return n
	}
	version, memory, passes, lanes := number(m[1]), number(m[2]), number(m[3]), number(m[4])
	switch {
	case version != argon2.Version:
		return nil, fmt.Errorf("expected version 19 of argon2id, got %d", version)
	case lanes < 1 || lanes > argonLanes:
		return nil, fmt.Errorf("expected p from 1 to %d, got %d", argonLanes, lanes)
	case memory < 8*lanes || memory > argonMemory:
		return nil, fmt.Errorf("expected m from %d (8 for each of p) to %d KiB, got %d", 8*lanes, argonMemory, memory)
	case passes < 1 || passes > argonPasses:
		return nil, fmt.Errorf("expected t from 1 to %d, got %d", argonPasses, passes)
	case memory*passes > argonWork:
		return nil, fmt.Errorf("expected m times t of at most %d KiB, got %d", argonWork, memory*passes)
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(m[5])
	sum, err2 := base64.RawStdEncoding.Strict().DecodeString(m[6])
	if err != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 {
		return nil, errors.New("expected a salt of 8 to 64 bytes and a hash of 16 to 64, in base64 without =")
	}
	return &passwordHash{salt: salt, sum: sum, memory: uint32(memory), passes: uint32(passes), lanes: uint8(lanes)}, nil
}

// otherHash names a hash that is refused.
func otherHash(text string) string {
	for _, other := range []struct{ prefix, name string }{
		{"$apr1$", "MD5"}, {"$1$", "MD5"}, {"{SHA}", "SHA-1"}, {"{SSHA}", "SHA-1"}, {"$5$", "SHA-256 crypt"}, {"$6$", "SHA-512 crypt"},
		{"$argon2i$", "argon2i"}, {"$argon2d$", "argon2d"}, {"$argon2id$", "an argon2id string of another form"},
		{"$2x$", "bcrypt of a known defect"}, {"$2", "a bcrypt hash that is cut or of another form"}, {"$y$", "yescrypt"}, {"$scrypt$", "scrypt"},
	} {
		if strings.HasPrefix(text, other.prefix) {
			return ", got " + other.name
		}
	}
	return ""
}

// check computes the hash of password and tells whether it is h.
func (h *passwordHash) check(password []byte) bool {
	if h.bcrypt == nil {
		sum := argon2.IDKey(password, h.salt, h.passes, h.memory, h.lanes, uint32(len(h.sum)))
		return subtle.ConstantTimeCompare(sum, h.sum) == 1
	}
	tooLong := len(password) > bcryptMost
	if tooLong {
		password = password[:bcryptMost] // costs the same, and is refused
	}
	return bcrypt.CompareHashAndPassword(h.bcrypt, password) == nil && !tooLong
}

// hashPassword makes the hash of a new password.
func hashPassword(password []byte, useBcrypt bool) (string, error) {
	if len(password) < leastPassword {
		return "", fmt.Errorf("expected a password of at least %d bytes", leastPassword)
	}
	if len(password) > mostPassword {
		return "", fmt.Errorf("expected a password of at most %d bytes", mostPassword)
	}
	if !isText(password) {
		return "", errors.New("expected a password of UTF-8 text without control characters")
	}
	if useBcrypt {
		if len(password) > bcryptMost {
			return "", fmt.Errorf("expected a password of at most %d bytes, which is all that bcrypt reads; without --bcrypt it may be longer", bcryptMost)
		}
		hash, err := bcrypt.GenerateFromPassword(password, newCost)
		return string(hash), err
	}
	salt := make([]byte, newSalt)
	_, _ = rand.Read(salt)
	sum := argon2.IDKey(password, salt, newPasses, newMemory, newLanes, newSum)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, newMemory, newPasses, newLanes, encode(salt), encode(sum)), nil
}

// isText tells whether b is UTF-8 without control characters (RFC 7617 2).
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, c := range string(b) {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return false
		}
	}
	return true
}

func checkUser(user string) error {
	if user == "" || len(user) > mostUser || !isText([]byte(user)) || strings.Contains(user, ":") ||
		strings.TrimSpace(user) != user || user[0] == '#' {
		return fmt.Errorf("expected a user of 1 to %d bytes of UTF-8 text, without colon, control characters, blanks at its ends, and # at its begin", mostUser)
	}
	return nil
}

// passwordEntry is a line of a password file.
type passwordEntry struct {
	user string
	text string // of the hash
	hash *passwordHash
}

// parsePasswords reads the text of a password file; file is its name in mistakes.
// An error is a *fileMistakes.
func parsePasswords(file string, text []byte) ([]passwordEntry, error) {
	m := &fileMistakes{File: file}
	lines := map[string]int{}
	var list []passwordEntry
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		number++
		s := strings.TrimRight(string(line), "\r\n")
		if strings.TrimSpace(s) == "" || strings.HasPrefix(strings.TrimSpace(s), "#") {
			continue
		}
		user, hash, ok := strings.Cut(s, ":")
		if !ok {
			m.add(number, 1, "", "expected USER:HASH, got a line without a colon")
			continue
		}
		if err := checkUser(user); err != nil {
			m.add(number, 1, "", "%v", err)
			continue
		}
		column := utf8.RuneCountInString(user) + 2
		parsed, err := parsePasswordHash(hash)
		if err != nil {
			m.add(number, column, "", "%v", err)
			continue
		}
		if first := lines[user]; first > 0 {
			m.add(number, 1, "", "expected each user once, got %q also in line %d", user, first)
			continue
		}
		lines[user] = number
		list = append(list, passwordEntry{user, hash, parsed})
	}
	return list, m.err()
}

// hashers bounds the password hashes that the process computes at one time, for
// all authenticators together: half of its processors, so that a flood of
// passwords leaves the other half to requests that need none. Up to mostWaiting
// more wait, each no longer than its request may.
var hashers = newHasherSlots(max(1, runtime.GOMAXPROCS(0)/2))

const (
	mostWaiting = 64
	hashWait    = 2 * time.Second
)

type hasherSlots struct {
	slots   chan struct{}
	waiting atomic.Int64
}

func newHasherSlots(n int) *hasherSlots { return &hasherSlots{slots: make(chan struct{}, n)} }

// take waits for a slot up to most and tells whether it got one; who did must
// leave it.
func (h *hasherSlots) take(most time.Duration) bool {
	select {
	case h.slots <- struct{}{}:
		return true
	default:
	}
	if h.waiting.Add(1) > mostWaiting {
		h.waiting.Add(-1)
		return false
	}
	defer h.waiting.Add(-1)
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case h.slots <- struct{}{}:
		return true
	case <-late.C:
		return false
	}
}

func (h *hasherSlots) leave() { <-h.slots }
