package proxy

import (
	"bytes"
	"strings"
	"testing"

	"sluice/wire"
)

func TestNormalPath(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		if !parsesAsPath(path) {
			t.Fatalf("%q is no path that the parser lets through", path)
		}
		given := []byte(path)
		got, ok := normalPath(given, nil)
		if !ok {
			got = []byte("refused")
		}
		if string(got) != want {
			t.Errorf("normalPath(%q) = %q, want %q", path, got, want)
		}
		if string(given) != path {
			t.Errorf("normalPath(%q) changed its argument to %q", path, given)
		}
	}
	// Normal already.
	f("/", "/")
	f("/a", "/a")
	f("/a/", "/a/")
	f("/a/b.c/d..e/...", "/a/b.c/d..e/...")
	f("/.well-known/x", "/.well-known/x")
	f("/..a/.b./c..", "/..a/.b./c..")
	f("/a;v=1/b;c,d=e", "/a;v=1/b;c,d=e")
	f("/a:b@c!d$e&f'g(h)i*j+k", "/a:b@c!d$e&f'g(h)i*j+k")
	f("/[a]|b", "/[a]|b")

	// Escapes: unreserved characters are decoded, once; others stay, in upper case.
	f("/%41%7a%30%2D%2e%5f%7E", "/Az0-._~")
	f("/%2f", "/%2F")
	f("/a%2fb%2Fc", "/a%2Fb%2Fc")
	f("/%5c", "/%5C")
	f("/%3b%3a%40%26%3d", "/%3B%3A%40%26%3D")
	f("/%252e%252e/", "/%252e%252e/")
	f("/%25%32%65", "/%252e")
	f("/%20%0d%0a%7f%ff", "/%20%0D%0A%7F%FF")
	f("/%c3%a9", "/%C3%A9")
	f("/%61/b", "/a/b")

	// Slashes.
	f("//", "/")
	f("///", "/")
	f("//a//b///c//", "/a/b/c/")
	f("/a//", "/a/")
	f("//..", "refused")
	f("//./a", "/a")

	// Dot segments, plain and encoded.
	f("/.", "/")
	f("/./", "/")
	f("/a/.", "/a/")
	f("/a/./b", "/a/b")
	f("/a/..", "/")
	f("/a/../", "/")
	f("/a/../b", "/b")
	f("/a/b/..", "/a/")
	f("/a/b/../", "/a/")
	f("/a/b/../../c", "/c")
	f("/a/b/c/../../d/./e/..", "/a/d/")
	f("/%2e", "/")
	f("/a/%2e%2e/b", "/b")
	f("/a/.%2E/b", "/b")
	f("/a/%2e./b", "/b")
	f("/a/b/%2e%2e", "/a/")
	f("/a/%2e/b", "/a/b")
	f("/a//../b", "/b")
	f("/a/..//b", "/b")

	// What only looks like a dot segment.
	f("/a/...", "/a/...")
	f("/a/..;/b", "/a/..;/b")
	f("/a/..;x=1/b", "/a/..;x=1/b")
	f("/a/.;/b", "/a/.;/b")
	f("/a/..%2fb", "/a/..%2Fb")
	f("/a/..%5cb", "/a/..%5Cb")
	f("/a/%2e%2e%2f", "/a/..%2F")
	f("/a;x/../b", "/b")
	f("/a/..%00/b", "refused")

	// Above the root, and NUL.
	f("/..", "refused")
	f("/../", "refused")
	f("/../a", "refused")
	f("/a/../..", "refused")
	f("/a/../../b", "refused")
	f("/%2e%2e/a", "refused")
	f("/./../a", "refused")
	f("/a/%2e%2e/%2e%2e/etc/passwd", "refused")
	f("/%00", "refused")
	f("/a%00b", "refused")
}

// parsesAsPath tells whether a request with this path gets as far as
// normalPath.
func parsesAsPath(path string) bool {
	var r wire.Request
	_, err := r.Parse([]byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"), wire.Limits{Bytes: 1 << 20, Fields: 10})
	return err == nil && r.Form == wire.OriginForm && string(r.Path) == path
}

// TestNormalPathReusesBuffer holds the promise that a path needs no memory of
// its own once the buffer is large enough.
func TestNormalPathReusesBuffer(t *testing.T) {
	buf := make([]byte, 0, 64)
	for _, path := range []string{"/a/b", "/a/../b", "/%41//x/.%2e/y"} {
		p := []byte(path)
		if n := testing.AllocsPerRun(100, func() { _, _ = normalPath(p, buf) }); n != 0 {
			t.Errorf("normalPath(%q) allocates %v times", path, n)
		}
	}
}

func FuzzNormalPath(f *testing.F) {
	for _, s := range []string{
		"/", "/a/b", "//", "/./a", "/a/../b", "/%2e%2E/", "/a/%2e%2e/b", "/%252e", "/%2f%5C", "/a//../..",
		"/..;/a", "/%00", "/a/..", "/.../..../", "/%e2%80%ae", "/a/.%2e/%2e./b/", "/[x]|y", "/%", "/%4", "/%zz",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if !parsesAsPath(path) {
			t.Skip()
		}
		got, ok := normalPath([]byte(path), nil)
		if !ok {
			return
		}
		checkNormal(t, path, got)
		again, ok := normalPath(got, nil)
		if !ok || !bytes.Equal(again, got) {
			t.Fatalf("%q: not idempotent: %q, then %q, %v", path, got, again, ok)
		}
		if !parsesAsPath(string(got)) {
			t.Fatalf("%q: the normal form %q is no path", path, got)
		}
		// The meaning stays: the same sequence of decoded bytes but for the
		// segments that were resolved.
		if !strings.Contains(path, "//") && !strings.Contains(strings.ToLower(path), "%2e") && !strings.Contains(path, "/.") &&
			decoded(path) != decoded(string(got)) {
			t.Fatalf("%q: meaning changed: %q", path, got)
		}
	})
}

// checkNormal checks got against the words of the doc, not against the code.
func checkNormal(t *testing.T, path string, got []byte) {
	t.Helper()
	s := string(got)
	if !strings.HasPrefix(s, "/") {
		t.Fatalf("%q: %q does not begin with /", path, s)
	}
	if strings.Contains(s, "//") {
		t.Fatalf("%q: %q has //", path, s)
	}
	for _, seg := range strings.Split(s, "/") {
		if seg == "." || seg == ".." {
			t.Fatalf("%q: %q has a dot segment", path, s)
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		hex := s[i+1 : i+3]
		if hex != strings.ToUpper(hex) {
			t.Fatalf("%q: %q has an escape in lower case", path, s)
		}
		c := unhex(hex[0])<<4 | unhex(hex[1])
		if c == 0 || strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~", c) >= 0 {
			t.Fatalf("%q: %q has %%%s", path, s, hex)
		}
	}
}

func decoded(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
