package auth

import (
	"strings"
	"testing"
)

func TestNewKey(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		key := newKey()
		if len(key) != keyLength || !strings.HasPrefix(key, keyPrefix) || mistyped([]byte(key)) || checkImported([]byte(key)) != nil {
			t.Fatalf("not a key of ours: %q", key)
		}
		if seen[key] {
			t.Fatal("the same key twice")
		}
		seen[key] = true
	}
}

// Every single character that is wrong, and every two that are swapped, is found.
func TestMistyped(t *testing.T) {
	key := []byte(newKey())
	for i := range key {
		was := key[i]
		for _, c := range []byte(base62) {
			if c == was || i < len(keyPrefix) {
				continue
			}
			if key[i] = c; !mistyped(key) {
				t.Errorf("%q at %d is not found", c, i)
			}
		}
		key[i] = was
		if i > len(keyPrefix) && key[i] != key[i-1] {
			key[i], key[i-1] = key[i-1], key[i]
			if !mistyped(key) {
				t.Errorf("a swap at %d is not found", i)
			}
			key[i], key[i-1] = key[i-1], key[i]
		}
	}
	f := func(key string, want bool) {
		t.Helper()
		if got := mistyped([]byte(key)); got != want {
			t.Errorf("mistyped(%q) = %v", key, got)
		}
	}
	f(string(key), false)
	f(string(key[:len(key)-1]), true)
	f(string(key)+"x", true)
	f(keyPrefix, true)
	f("slk", false)
	f("a key of another system", false)
	f("", false)
}

func TestParseHash(t *testing.T) {
	key := newKey()
	good := keyHash([]byte(key))
	f := func(text, want string) {
		t.Helper()
		_, err := parseHash(text)
		if err == nil && want == "" {
			return
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, got %v", want, err)
			return
		}
		if len(text) > 16 && strings.Contains(err.Error(), text[8:]) {
			t.Errorf("the error repeats what may be a key: %v", err)
		}
	}
	f(good, "")
	f(hashPrefix+strings.ToUpper(good[len(hashPrefix):]), "")
	f(good[len(hashPrefix):], "got the digits alone")
	f(key, "got a key itself")
	f(good[:len(good)-1], "64 hex digits")
	f(good+"0", "64 hex digits")
	f(good+"00", "64 hex digits")
	f(good[:len(good)-1]+"g", "64 hex digits")
	f("sha1:"+good, "64 hex digits")
	f("", "64 hex digits")
}

func TestCheckImported(t *testing.T) {
	f := func(key, want string) {
		t.Helper()
		err := checkImported([]byte(key))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: expected %q, got %v", key, want, err)
		}
	}
	f("0123456789abcdef", "")
	f("0123456789abcde", "at least 16 bytes")
	f(strings.Repeat("k", mostKey), "")
	f(strings.Repeat("k", mostKey+1), "at most 512 bytes")
	f("0123456789 abcdef", "without blanks")
	f("0123456789\x00abcdef", "printable ASCII")
	f("0123456789abcdefé", "printable ASCII")
	f(newKey()[:30], "mistyped or cut")
}
