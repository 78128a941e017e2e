package auth

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const (
	// From the test suite of the reference implementation: "password", "somesalt".
	argonPassword = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	// From the test suite of crypt_blowfish: "U*U".
	bcryptUU = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
)

func TestPasswordHashes(t *testing.T) {
	f := func(hash, password string, want bool) {
		t.Helper()
		h, err := parsePasswordHash(hash)
		if err != nil {
			t.Error(err)
			return
		}
		if got := h.check([]byte(password)); got != want {
			t.Errorf("%s: check(%q) = %v", hash, password, got)
		}
	}
	f(argonPassword, "password", true)
	f(argonPassword, "Password", false)
	f(argonPassword, "", false)
	for _, version := range []string{"$2a$", "$2b$", "$2y$"} {
		f(version+bcryptUU[4:], "U*U", true)
		f(version+bcryptUU[4:], "U*U*", false)
	}
	for _, useBcrypt := range []bool{false, true} {
		hash, err := hashPassword([]byte("correct horse"), useBcrypt)
		if err != nil {
			t.Fatal(err)
		}
		f(hash, "correct horse", true)
		if useBcrypt {
			continue // each takes a second under the race detector
		}
		f(hash, "correct horsf", false)
		if again, _ := hashPassword([]byte("correct horse"), useBcrypt); again == hash {
			t.Error("the same salt twice")
		}
	}
}

// bcrypt reads 72 bytes: what it would drop must not pass for the password.
func TestBcryptReadsNoMore(t *testing.T) {
	long := strings.Repeat("x", bcryptMost)
	h, err := parsePasswordHash(cheap(t, long))
	if err != nil {
		t.Fatal(err)
	}
	if !h.check([]byte(long)) || h.check([]byte(long+"y")) {
		t.Error("the 73rd byte is dropped")
	}
	if _, err := hashPassword([]byte(long+"y"), true); err == nil {
		t.Error("a password of 73 bytes is taken")
	}
}

func TestNewPasswords(t *testing.T) {
	f := func(password, want string) {
		t.Helper()
		if _, err := hashPassword([]byte(password), false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: expected %q, got %v", password, want, err)
		}
	}
	f("1234567", "at least 8 bytes")
	f(strings.Repeat("x", mostPassword+1), "at most 1024 bytes")
	f("with\x00 a NUL", "UTF-8 text without control")
	f("with \u0085 C1", "UTF-8 text without control")
	f("not UTF-8 \xff", "UTF-8 text without control")
}

func TestParsePasswords(t *testing.T) {
	text := "\ufeff# users\n\nalice:" + argonPassword + "\r\n  # more\nJürgen M:" + bcryptUU
	list, err := parsePasswords("h", []byte(text))
	if err != nil || len(list) != 2 || list[0].user != "alice" || list[1].user != "Jürgen M" || list[0].hash.bcrypt != nil || list[1].hash.bcrypt == nil {
		t.Errorf("got %+v, %v", list, err)
	}
	f := func(line, want string) {
		t.Helper()
		_, err := parsePasswords("h", []byte("# x\n"+line+"\n"))
		var m *fileMistakes
		if !errors.As(err, &m) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: expected %q, got %v", line, want, err)
			return
		}
		if _, hash, ok := strings.Cut(line, ":"); ok && len(hash) > 12 && strings.Contains(err.Error(), hash[12:]) {
			t.Errorf("the mistake repeats the hash: %v", err)
		}
	}
	argon := func(parameters string) string {
		return "a:$argon2id$v=19$" + parameters + "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	}
	f("alice", "h:2:1: expected USER:HASH, got a line without a colon")
	f(":"+bcryptUU, "h:2:1: expected a user of 1 to 256 bytes")
	f(" a:"+bcryptUU, "h:2:1: expected a user")
	f("a\x01:"+bcryptUU, "h:2:1: expected a user")
	f("a\xff:"+bcryptUU, "h:2:1: expected a user")
	f("a:"+bcryptUU+"\na:"+bcryptUU, `h:3:1: expected each user once, got "a" also in line 2`)
	f("jürgen:plain text", "h:2:8: expected a bcrypt hash")
	f("a:", "h:2:3: expected a bcrypt hash")
	f("a:$apr1$salt$hashhashhashhash", "h:2:3: expected a bcrypt hash ($2a$, $2b$ or $2y$) or an argon2id PHC string ($argon2id$v=19$m=...,t=...,p=...$SALT$HASH), got MD5")
	f("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "h:2:3: expected a bcrypt hash")
	f("a:"+bcryptUU+" ", "h:2:3: expected a bcrypt hash")
	f("a:"+bcryptUU+":x", "h:2:3: expected a bcrypt hash")
	f("a:"+bcryptUU[:40], "h:2:3: expected a bcrypt hash")
	f("a:$2x"+bcryptUU[3:], "h:2:3: expected a bcrypt hash")
	f("a:$2a$03"+bcryptUU[6:], "h:2:3: expected a bcrypt cost from 4 to 16, got 3")
	f("a:$2a$17"+bcryptUU[6:], "h:2:3: expected a bcrypt cost from 4 to 16, got 17")
	f(argon("m=262145,t=1,p=1"), "h:2:3: expected m from 8 (8 for each of p) to 262144 KiB, got 262145")
	f(argon("m=999999999,t=1,p=1"), "h:2:3: expected m from")
	f(argon("m=31,t=1,p=4"), "h:2:3: expected m from 32")
	f(argon("m=4096,t=0,p=1"), "h:2:3: expected t from 1 to 16, got 0")
	f(argon("m=4096,t=17,p=1"), "h:2:3: expected t from 1 to 16, got 17")
	f(argon("m=4096,t=1,p=0"), "h:2:3: expected p from 1 to 16, got 0")
	f(argon("m=4096,t=1,p=17"), "h:2:3: expected p from 1 to 16, got 17")
	f(argon("m=262144,t=5,p=1"), "h:2:3: expected m times t of at most 1048576 KiB")
	f(argon("t=1,m=4096,p=1"), "h:2:3: expected a bcrypt hash")
	f(argon("m=4096,t=1,p=1,data=x"), "h:2:3: expected a bcrypt hash")
	f(strings.Replace(argon("m=4096,t=1,p=1"), "v=19", "v=16", 1), "h:2:3: expected version 19 of argon2id, got 16")
	f(strings.Replace(argon("m=4096,t=1,p=1"), "$c29tZXNhbHQ", "$c29t", 1), "h:2:3: expected a salt of 8 to 64 bytes")
	f(argon("m=4096,t=1,p=1")+"=", "h:2:3: expected a bcrypt hash")
	f("a:$argon2i$v=19$m=4096,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "h:2:3: expected a bcrypt hash")
}

func TestHasherSlots(t *testing.T) {
	h := newHasherSlots(1)
	if !h.take(0) {
		t.Fatal("a free slot is not given")
	}
	if h.take(time.Millisecond) {
		t.Fatal("a slot is given twice")
	}
	got := make(chan bool, mostWaiting)
	for range mostWaiting {
		go func() { got <- h.take(patience) }()
	}
	for h.waiting.Load() < mostWaiting {
		time.Sleep(time.Millisecond)
	}
	if h.take(patience) {
		t.Error("one more than may wait waits")
	}
	for range mostWaiting {
		h.leave()
		if !<-got {
			t.Error("who waits gets no slot")
		}
	}
	h.leave()
	if !h.take(0) || h.waiting.Load() != 0 {
		t.Error("a slot is lost")
	}
}

func FuzzParsePasswords(f *testing.F) {
	f.Add("a:" + argonPassword + "\n# x\n\nb:" + bcryptUU + "\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parsePasswords("h", []byte(text))
		if err != nil {
			return
		}
		for _, e := range list {
			if checkUser(e.user) != nil || e.hash == nil || e.hash.memory > argonMemory || e.hash.passes > argonPasses {
				t.Errorf("out of bounds: %+v", e)
			}
		}
	})
}
