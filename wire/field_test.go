package wire

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestIsFieldValue(t *testing.T) {
	// Every byte at every place of values of many lengths, so that the look at
	// eight bytes at a time is held to the one byte by byte.
	for c := range 256 {
		want := c == '\t' || c >= 0x20 && c != 0x7f
		for length := 1; length <= 20; length++ {
			for at := range length {
				for _, other := range []string{"a", "\t", "\x80", "\xff", "!", "~"} {
					v := []byte(strings.Repeat(other, length))
					v[at] = byte(c)
					if IsFieldValue(v) != want {
						t.Fatalf("%q: %v, want %v", v, !want, want)
					}
				}
			}
		}
	}
	if !IsFieldValue(nil) {
		t.Error("an empty value is refused")
	}
}

func TestIsToken(t *testing.T) {
	const tchar = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for c := range 256 {
		if want := strings.IndexByte(tchar, byte(c)) >= 0; IsToken([]byte{'a', byte(c)}) != want {
			t.Errorf("%q: %v, want %v", rune(c), !want, want)
		}
	}
	if IsToken(nil) {
		t.Error("an empty token")
	}
}

func TestNextItem(t *testing.T) {
	f := func(list string, want ...string) {
		t.Helper()
		var got []string
		for item, rest := NextItem([]byte(list)); item != nil; item, rest = NextItem(rest) {
			got = append(got, string(item))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
	f("")
	f(" \t ")
	f(",")
	f(" , ,\t,")
	f("a", "a")
	f("a,b", "a", "b")
	f(" a b , c\t", "a b", "c")
	// RFC 9110 5.6.1.2.
	f("foo,bar", "foo", "bar")
	f("foo ,bar,", "foo", "bar")
	f("foo , ,bar,charlie", "foo", "bar", "charlie")
}

func TestTrimOWS(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		if got := TrimOWS([]byte(s)); string(got) != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	f("", "")
	f(" \t", "")
	f("\t a b \t", "a b")
	f("\va\r", "\va\r")
	f("\u00a0a", "\u00a0a")
}

func TestKindOf(t *testing.T) {
	f := func(name string, want Kind) {
		t.Helper()
		for _, n := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
			if got := KindOf([]byte(n)); got != want {
				t.Errorf("%s: %d, want %d", n, got, want)
			}
		}
	}
	f("", Other)
	f("X", Other)
	f("Content_Length", Other)
	f("Content-Lengths", Other)
	f("ontent-Length", Other)
	f(strings.Repeat("x", 100), Other)
	f("Content-Length", ContentLength)
	f("Transfer-Encoding", TransferEncoding)
	f("HTTP2-Settings", HTTP2Settings)
	f("TE", TE)
	f("Sec-WebSocket-Key", SecWebSocketKey)
	seen := map[Kind]string{}
	for _, list := range names {
		for _, k := range list {
			f(k.lower, k.kind)
			if seen[k.kind] != "" {
				t.Errorf("%s and %s are of one kind", k.lower, seen[k.kind])
			}
			seen[k.kind] = k.lower
		}
	}
	for k := Connection; k <= SecWebSocketKey; k++ {
		if k != lastHopByHop && seen[k] == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}

func TestHopByHop(t *testing.T) {
	f := func(want bool, names ...string) {
		t.Helper()
		for _, name := range names {
			if KindOf([]byte(name)).HopByHop() != want {
				t.Errorf("%s: %v, want %v", name, !want, want)
			}
		}
	}
	// RFC 9110 7.6.1, with those of RFC 9110 11.7 that are for the next hop.
	f(true, "Connection", "Proxy-Connection", "Keep-Alive", "TE", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "HTTP2-Settings")
	f(false, "Trailer", "Content-Length", "Host", "Expect", "Via", "Authorization", "X-Anything")
}

func TestConnectionNames(t *testing.T) {
	f := func(connection, want string) {
		t.Helper()
		r, _, err := readRequest(t, "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: c\r\nConnection: "+connection+"\r\nx-a: 2\r\nX-B: 3\r\n\r\n")
		if err != nil {
			t.Fatalf("%s: %v", connection, err)
		}
		var got []string
		for _, f := range r.Fields {
			if f.Drop {
				got = append(got, string(f.Name))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q ends here, want %q", connection, got, want)
		}
	}
	f("close", "")
	f("x-a", "X-A x-a")
	f("X-b,close , x-A", "X-A x-a X-B")
	f("host, cookie, connection, content-length", "")
	f("x", "")
	f("x-a\r\nConnection: x-b", "X-A x-a X-B")
}

func TestCodingFault(t *testing.T) {
	f := func(value string, want *Malformed) {
		t.Helper()
		if got := codingFault([]byte(value)); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	f("gzip, chunked", errCodingUnknown)
	f("deflate, gzip , chunked", errCodingUnknown)
	f("gzip;level=1, chunked", errCodingUnknown)
	f("", errCoding)
	f(",", errCoding)
	f("gzip", errCoding)
	f("chunked, gzip", errCoding)
	f("chunked, chunked", errCoding)
	f("chunked, gzip, chunked", errCoding)
	f("identity, chunked", errCoding)
	f("identity ;x, chunked", errCoding)
	f("gz ip, chunked", errCoding)
	f("\"gzip\", chunked", errCoding)
	f("chunked;q=1", errCoding)
}

func TestEqualFold(t *testing.T) {
	f := func(b, lower string, want bool) {
		t.Helper()
		if EqualFold([]byte(b), lower) != want {
			t.Errorf("%q and %q: %v, want %v", b, lower, !want, want)
		}
	}
	f("", "", true)
	f("Chunked", "chunked", true)
	f("chunke", "chunked", false)
	f("chunkez", "chunked", false)
	f("100-CONTINUE", "100-continue", true)
	// No byte but a letter has another in its place: not even those that
	// differ in the same bit, as long as no control character gets here.
	for c := 0x20; c < 0x100; c++ {
		for _, l := range "abcdefghijklmnopqrstuvwxyz0123456789-" {
			want := bytes.Equal(bytes.ToLower([]byte{byte(c)}), []byte{byte(l)})
			f(string([]byte{byte(c)}), string(l), want && c < 0x80)
		}
	}
}
