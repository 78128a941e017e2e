package wire

import "testing"

func TestTarget(t *testing.T) {
	f := func(method, target, form, authority, path, query string) {
		t.Helper()
		r := &Request{Method: []byte(method)}
		if err := r.parseTarget([]byte(target)); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		got := [4]string{map[Form]string{OriginForm: "origin", AbsoluteForm: "absolute", AsteriskForm: "asterisk"}[r.Form], string(r.Authority), string(r.Path), string(r.Query)}
		if r.HasQuery {
			got[3] = "?" + got[3]
		}
		if want := [4]string{form, authority, path, query}; got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	f("GET", "/", "origin", "", "/", "")
	f("GET", "/a/b;c=d,e?f=g&h", "origin", "", "/a/b;c=d,e", "?f=g&h")
	f("GET", "/?", "origin", "", "/", "?")
	f("GET", "/??/?", "origin", "", "/", "??/?")
	f("GET", "//a", "origin", "", "//a", "")
	f("GET", "/*", "origin", "", "/*", "")
	f("GET", "/http://b/", "origin", "", "/http://b/", "")
	f("GET", "/%41%7f?%00", "origin", "", "/%41%7f", "?%00")
	f("GET", "/-._~!$&'()*+,;=:@", "origin", "", "/-._~!$&'()*+,;=:@", "")
	f("OPTIONS", "*", "asterisk", "", "*", "")
	f("OPTIONS", "/", "origin", "", "/", "")
	f("OPTIONS", "http://b", "absolute", "b", "*", "")
	f("OPTIONS", "http://b/", "absolute", "b", "/", "")
	f("OPTIONS", "http://b?c", "absolute", "b", "/", "?c")
	f("GET", "http://b", "absolute", "b", "/", "")
	f("GET", "HtTpS://b:1/c?d", "absolute", "b:1", "/c", "?d")
	f("GET", "http://[::1]?c", "absolute", "[::1]", "/", "?c")
	f("GET", "http://b/http://c", "absolute", "b", "/http://c", "")
	// Not of RFC 3986, but sent by browsers as they are (WHATWG URL).
	f("GET", "/a[b]|c?d{e}|^`\\", "origin", "", "/a[b]|c", "?d{e}|^`\\")
}

func TestTargetRefused(t *testing.T) {
	f := func(method, target string, want *Malformed) {
		t.Helper()
		r := &Request{Method: []byte(method)}
		if err := r.parseTarget([]byte(target)); err != want {
			t.Errorf("%s: %v, want %v", target, err, want)
		}
	}
	f("GET", "", errTarget)
	f("GET", "a", errTarget)
	f("GET", "?a", errTarget)
	f("GET", "a:80", errTarget)
	f("GET", "*", errAsteriskFor)
	f("OPTIONS", "**", errTarget)
	f("OPTIONS", "*?a", errTarget)
	f("GET", "ftp://b/", errTarget)
	f("GET", "http:/b", errTarget)
	f("GET", "http:b", errTarget)
	f("GET", "://b", errTarget)
	f("GET", "xhttp://b/", errTarget)
	f("GET", "http:///a", errTargetHost)
	f("GET", "http://", errTargetHost)
	f("GET", "http://?a", errTargetHost)
	f("GET", "http://:80/", errTargetHost)
	f("GET", "http://b:65536/", errTargetHost)
	f("GET", "http://b#c", errTargetHost)
	f("GET", "http://b\\c/", errTargetHost)
	f("GET", "http://u@b/", errUserinfo)
	f("GET", "http://u:p@b", errUserinfo)
	f("GET", "http://@b", errUserinfo)
	f("GET", "/#a", errTargetChar)
	f("GET", "/?#a", errTargetChar)
	f("GET", "/\"", errTargetChar)
	f("GET", "/<", errTargetChar)
	f("GET", "/\\", errTargetChar)
	f("GET", "/^", errTargetChar)
	f("GET", "/{", errTargetChar)
	f("GET", "/?\"", errTargetChar)
	f("GET", "/\x7f", errTargetChar)
	f("GET", "/\x80", errTargetChar)
	f("GET", "/?\xff", errTargetChar)
	f("GET", "/%", errPercent)
	f("GET", "/%4", errPercent)
	f("GET", "/%4g", errPercent)
	f("GET", "/%4?1", errPercent)
	f("GET", "/?%g4", errPercent)
	f("GET", "/a?b%", errPercent)
	for c := range 0x21 {
		f("GET", "/a"+string(rune(c)), errTargetChar)
		f("GET", "/a?"+string(rune(c)), errTargetChar)
	}
}

func TestValidHost(t *testing.T) {
	f := func(want bool, hosts ...string) {
		t.Helper()
		for _, h := range hosts {
			if ValidHost([]byte(h)) != want {
				t.Errorf("%q: %v, want %v", h, !want, want)
			}
		}
	}
	f(true, "a", "a.", "example.com", "example.com:80", "example.com:", "EXAMPLE.com", "127.0.0.1:65535", "a_b", "xn--bcher-kva.example",
		"%41", "[::1]", "[::]:80", "[2001:db8::ffff:1.2.3.4]", "[::1]:", "a-b~c!d")
	f(false, "", ":", ":80", "a:b", "a:65536", "a:1:2", "a:-1", "a:+1", "a b", "a/b", "a?b", "a#b", "a@b", "a\\b", "a\x00", "a\t", "\xe9",
		"%", "%4", "%4g", "[", "[]", "[::1", "::1]", "[::1]80", "[::1]:x", "[g::1]", "[1]", "[::1%25eth0]", "[v1.x]", "a[b", "[::1]a", "a\"b", "<a>")
}
