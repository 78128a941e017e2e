package cache

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"sluice/setting"
	"sluice/wire"
)

type testClaims map[string]string

func (c testClaims) Claim(path string) (string, bool) { s, ok := c[path]; return s, ok }

// testKey is the primary key of a request.
func testKey(t testing.TB, p *Policy, text string, trusted bool, change func(*Subject)) string {
	t.Helper()
	r := testRequest(t, text)
	var a Ask
	p.Read(&a, r, trusted)
	q, _ := p.AppendQuery(nil, r.Query, r.HasQuery)
	s := Subject{Scheme: "http", Host: r.Host, Path: r.Path, Query: q}
	if change != nil {
		change(&s)
	}
	return string(p.AppendKey(nil, &a, &s))
}

func TestKeySame(t *testing.T) {
	f := func(same bool, change func(*RouteConfig), a, b string) {
		t.Helper()
		p := testPolicy(change)
		if got := testKey(t, p, a, false, nil) == testKey(t, p, b, false, nil); got != same {
			t.Errorf("%q and %q: the same key is %v", a, b, got)
		}
	}
	const v = " HTTP/1.1"
	f(true, nil, "GET /"+v, "HEAD /"+v)
	f(true, nil, "GET /\x20HTTP/1.1\nHost: TEST:80", "GET /"+v)
	f(false, nil, "GET /"+v, "GET /"+v+"\nHost: other")
	f(false, nil, "GET /"+v, "GET /"+v+"\nHost: test:81")
	f(false, nil, "GET /a"+v, "GET /A"+v)
	f(false, nil, "GET /"+v, "GET /?"+v)
	f(false, nil, "GET /?a&b"+v, "GET /?b&a"+v)
	f(true, nil, "GET /"+v, "GET /"+v+"\nX-Forwarded-Host: evil\nCookie: a=b\nX-A: 1") // not keyed, and the first does not reach the target
	sorted := func(c *RouteConfig) { c.Key.Query = "sorted" }
	f(true, sorted, "GET /?a=1&b=2"+v, "GET /?b=2&a=1"+v)
	f(false, sorted, "GET /?a=1&a=2"+v, "GET /?a=2&a=1"+v)
	header := func(c *RouteConfig) { c.Key.Headers = []string{"X-A", "X-B"} }
	f(true, header, "X-A: 1\nX-B: 2", "x-b: 2\nx-a: 1")
	f(false, header, "X-A: 1", "X-A: 2")
	f(false, header, "X-A: 1", "X-B: 1")
	f(false, header, "X-A:", "")
	f(true, header, "X-A: 1, 2", "X-A: 1\nX-A: 2")
	f(false, header, "X-A: 1\nConnection: X-A", "X-A: 1")
	cookie := func(c *RouteConfig) { c.Key.Cookies = []string{"a", "b"} }
	f(true, cookie, "Cookie: a=1; z=9", "Cookie: z=8; a=1")
	f(false, cookie, "Cookie: a=1", "Cookie: b=1")
	f(false, cookie, "Cookie: a=1; a=2", "Cookie: a=1")
	f(false, cookie, "Cookie: a=", "")
	query := func(c *RouteConfig) { c.Methods = []string{"GET", "QUERY"} }
	f(false, query, "QUERY", "GET")
	f(false, query, "QUERY\nContent-Type: a/b", "QUERY\nContent-Type: c/d")
}

func TestKeyParts(t *testing.T) {
	p := testPolicy(func(c *RouteConfig) { c.Share, c.Key.Claims = "identity", []string{"tenant", "tier"} })
	seen := map[string]string{}
	f := func(name string, change func(*Subject)) {
		t.Helper()
		k := testKey(t, p, "", false, change)
		if other, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[k] = name
		if !strings.HasPrefix(k, "http") || strings.Count(string(URI([]byte(k))), "\n") != 0 {
			t.Errorf("%s: %q", name, k)
		}
	}
	f("nobody", nil)
	f("empty identity", func(s *Subject) { s.Identity = []byte{} })
	f("alice", func(s *Subject) { s.Identity = []byte("alice") })
	f("tenant", func(s *Subject) { s.Claims = testClaims{"tenant": "a"} })
	f("tier", func(s *Subject) { s.Claims = testClaims{"tier": "a"} })
	f("empty tenant", func(s *Subject) { s.Claims = testClaims{"tenant": ""} })
	// A value that looks like the parts behind it is only a value.
	f("forged", func(s *Subject) {
		s.Claims = testClaims{"tenant": "a\n" + string([]byte{partClaim, partAbsent, partIdentity, partIdentity, 5}) + "alice"}
	})
	f("a and alice", func(s *Subject) { s.Claims, s.Identity = testClaims{"tenant": "a"}, []byte("alice") })
	f("https", func(s *Subject) { s.Scheme = "https" })

	route, shared := testConfig()
	a, b := NewPolicy(route, shared, Place{Route: "a"}), NewPolicy(route, shared, Place{Route: "b"})
	if testKey(t, a, "", false, nil) == testKey(t, b, "", false, nil) {
		t.Error("two routes share a key")
	}
	plain := testPolicy()
	const lied = "X-Forwarded-Host: evil"
	if testKey(t, plain, lied, true, nil) == testKey(t, plain, "", true, nil) {
		t.Error("what a trusted hop says is not keyed")
	}
	if testKey(t, plain, "X-Forwarded-For: 1", true, nil) != testKey(t, plain, "X-Forwarded-For: 2", true, nil) {
		t.Error("the client's address is keyed")
	}
	var ask Ask
	plain.Read(&ask, testRequest(t, "Forwarded: for=1;Host=evil"), true)
	if ask.Bypass != ByHeader {
		t.Error("Forwarded with a host")
	}
}

func TestAppendQuery(t *testing.T) {
	f := func(kind string, parameters []string, forward bool, in, want string) {
		t.Helper()
		p := testPolicy(func(c *RouteConfig) {
			c.Key.Query, c.Key.Parameters, c.Key.Unkeyed = kind, parameters, forward
		})
		if got, ok := p.AppendQuery(nil, []byte(in), true); !ok || string(got) != want {
			t.Errorf("%s %v of %q: %q %v, want %q", kind, parameters, in, got, ok, want)
		}
	}
	f("all", nil, false, "b&a", "?b&a")
	f("none", nil, false, "b&a", "")
	f("sorted", nil, false, "b=2&a=2&&b=1&a=1&A", "?A&a=2&a=1&b=2&b=1")
	only := []string{"page", "f_*"}
	f("only", only, false, "x=1&page=2&f_b=1&f_a=2&pages=3", "?f_a=2&f_b=1&page=2")
	f("only", only, false, "x=1", "")
	f("only", only, false, "%70age=2", "?%70age=2")
	f("only", only, false, "x=1;page=2", "")
	f("only", only, true, "x=1;page=2", "?x=1;page=2")
	f("only", only, false, "page", "?page")
	except := []string{"utm_*", "fbclid"}
	f("except", except, false, "utm_source=a&b=1&fbclid=c&a=2&utm=3", "?a=2&b=1&utm=3")
	f("except", except, false, "%75tm_source=a", "")
	f("except", except, true, "utm_x=a;callback=evil", "?utm_x=a;callback=evil")
	f("except", except, false, "utm_x=a;callback=evil", "")
	p := testPolicy(func(c *RouteConfig) { c.Key.Query = "sorted" })
	if _, ok := p.AppendQuery(nil, bytes.Repeat([]byte("a&"), mostPairs), true); !ok {
		t.Error("64 parameters")
	}
	if _, ok := p.AppendQuery(nil, bytes.Repeat([]byte("a&"), mostPairs+1), true); ok {
		t.Error("65 parameters")
	}
}

func FuzzAppendQuery(f *testing.F) {
	f.Add([]byte("a=1&b=%20;c"))
	f.Fuzz(func(t *testing.T, q []byte) {
		for _, kind := range []string{"sorted", "only", "except"} {
			p := testPolicy(func(c *RouteConfig) { c.Key.Query, c.Key.Parameters = kind, []string{"a", "b*"} })
			once, ok := p.AppendQuery(nil, q, true)
			if !ok {
				continue
			}
			// What is forwarded has the key of what was asked.
			twice, ok := p.AppendQuery(nil, bytes.TrimPrefix(once, []byte("?")), len(once) > 0)
			if !ok || !bytes.Equal(once, twice) {
				t.Fatalf("%s %q: %q, then %q", kind, q, once, twice)
			}
		}
	})
}

func TestVariant(t *testing.T) {
	f := func(same bool, vary, a, b string) {
		t.Helper()
		p := testPolicy()
		e := testEntry(t, p, "200 OK\nCache-Control: max-age=60\nVary: "+vary)
		x, y := p.AppendVariant(nil, e.Vary, testAsk(t, p, a)), p.AppendVariant(nil, e.Vary, testAsk(t, p, b))
		if bytes.Equal(x, y) != same {
			t.Errorf("Vary: %s, %q and %q: the same is %v", vary, a, b, !same)
		}
	}
	f(true, "Foo", "Foo: 1", "foo: 1")
	f(false, "Foo", "Foo: 1", "Foo: 2")
	f(false, "Foo", "Foo: a", "Foo: A")
	f(false, "Foo", "Foo: 1", "")
	f(false, "Foo", "Foo:", "")
	f(true, "Foo", "", "")
	f(true, "Foo", "Bar: 1", "Bar: 2")
	f(true, "Foo", "Foo: 1,2", "Foo: 1\nFoo: 2")
	f(true, "Foo", "Foo: 1 ,\t 2", "Foo: 1, 2")
	f(false, "Foo", "Foo: 1 2", "Foo: 12")
	f(false, "Foo", "Foo: \"a, b\"", "Foo: \"a,b\"")
	f(false, "Foo", "Foo: 1, 2", "Foo: 2, 1")
	f(true, "foo, BAR", "Bar: 2\nFoo: 1", "Foo: 1\nBar: 2")
	f(false, "Foo, Bar", "Foo: 1\nBar: 2", "Foo: 1\nBar: 3")
	f(false, "Foo, Bar", "Foo: 1", "Bar: 1")
	f(true, "Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: BR;q=0.9,gzip;q=0.5")
	f(true, "Accept-Encoding", "Accept-Encoding: x-gzip", "Accept-Encoding: gzip")
	f(false, "Accept-Encoding", "Accept-Encoding: gzip", "Accept-Encoding: gzip;q=0")
	f(false, "Accept-Encoding", "Accept-Encoding: gzip", "")
	f(false, "Accept-Encoding", "Accept-Encoding: *", "Accept-Encoding: identity")
	f(false, "Accept-Encoding", "Accept-Encoding: gzip, dcz", "Accept-Encoding: gzip")
	f(true, "Accept-Language", "Accept-Language: EN, de", "Accept-Language: en,DE")
	f(false, "Origin", "Origin: https://a", "Origin: https://b")
}

func TestVary(t *testing.T) {
	route, shared := testConfig()
	p := NewPolicy(route, shared, Place{Route: "r", Written: []string{"X-User"}})
	f := func(fields string, want string, reason Reason) {
		t.Helper()
		got, why := p.readVary(nil, testAnswer(t, "200 OK\n"+fields).Fields)
		if why != reason || why == OK && string(got) != want {
			t.Errorf("%q: %q %v, want %q %v", fields, got, why, want, reason)
		}
	}
	f("X: y", "", OK)
	f("Vary:", "", OK)
	f("Vary: B, a,, A\nVary: c", "a,b,c", OK)
	f("Vary: *", "", VaryStar)
	f("Vary: a\nVary: b, *", "", VaryStar)
	f("Vary: a b", "", VaryStar)
	f("Vary: X-User", "", VaryOwn)
	f("Vary: X-Forwarded-For", "", VaryOwn)
	f("Vary: Forwarded", "", VaryOwn)
	f("Vary: Connection", "", VaryOwn)
	f("Vary: If-None-Match", "", VaryOwn)
	f("Vary: X-Forwarded-Proto, Host", "host,x-forwarded-proto", OK)
	f("Access-Control-Allow-Origin: https://a", "origin", OK)
	f("Access-Control-Allow-Origin: https://a\nVary: Origin", "origin", OK)
	f("Access-Control-Allow-Origin: *", "", OK)
	f("Vary: 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", "1,10,11,12,13,14,15,16,2,3,4,5,6,7,8,9", OK)
	f("Vary: 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "", VaryLong)
	f("Vary: "+strings.Repeat("x", mostVaryBytes), "", VaryLong)
}

func FuzzVariant(f *testing.F) {
	f.Add("gzip, br;q=0", "a, \"b\"")
	f.Fuzz(func(t *testing.T, x, y string) {
		if !wire.IsFieldValue([]byte(x)) || !wire.IsFieldValue([]byte(y)) {
			return
		}
		p := testPolicy()
		vary := []byte("accept-encoding,foo")
		ask := func(x, y string) []byte {
			return p.AppendVariant(nil, vary, &Ask{fields: []wire.Field{{Name: []byte("Accept-Encoding"), Value: []byte(x)}, {Name: []byte("Foo"), Value: []byte(y)}}})
		}
		if !bytes.Equal(ask(x, y), ask(x, y)) {
			t.Fatal("not the same twice")
		}
		if bytes.Equal(ask(x, y), ask(x, y+"x")) {
			t.Fatalf("%q has the variant of %q", y, y+"x")
		}
	})
}

func TestBypass(t *testing.T) {
	p := testPolicy(func(c *RouteConfig) {
		c.Bypass = []string{"header:X-Debug", "header:X-Mode=raw", "cookie:session", "query:preview", "query:v=2"}
	})
	f := func(ask string, want Reason) {
		t.Helper()
		if got := testAsk(t, p, ask).Bypass; got != want {
			t.Errorf("%q: %v, want %v", ask, got, want)
		}
	}
	f("", OK)
	f("x-debug: 1", ByCondition)
	f("X-Mode: cooked", OK)
	f("X-Mode: raw", ByCondition)
	f("Cookie: a=b; session=x", ByCondition)
	f("Cookie: sessions=x", OK)
	f("GET /?preview HTTP/1.1", ByCondition)
	f("GET /?%70review=1 HTTP/1.1", ByCondition)
	f("GET /?v=1 HTTP/1.1", OK)
	f("GET /?v=2 HTTP/1.1", ByCondition)
}

func problems(validate func(*setting.Problems)) (got []string) {
	p := setting.NewProblems(nil)
	validate(p)
	for _, m := range p.List() {
		got = append(got, m.Path+": "+m.Expected)
	}
	return got
}

func TestValidate(t *testing.T) {
	f := func(change func(*RouteConfig), want ...string) {
		t.Helper()
		c, _ := testConfig()
		change(c)
		if got := problems(c.Validate); !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
	}
	f(func(*RouteConfig) {})
	f(func(c *RouteConfig) { c.Shorthand("30s") })
	f(func(c *RouteConfig) { c.Shorthand("on") })
	f(func(c *RouteConfig) { c.Shorthand("soon") }, ": expected a ttl such as 30s, or on")
	f(func(c *RouteConfig) { c.Methods = []string{"GET", "POST"} }, `methods[1]: expected one of GET, HEAD, QUERY, got "POST"`)
	f(func(c *RouteConfig) { c.Statuses = []int{200, 206, 99} },
		"statuses[1]: expected a status from 200 to 599 but 206 and 304, got 206", "statuses[2]: expected a status from 200 to 599 but 206 and 304, got 99")
	f(func(c *RouteConfig) { c.Ignore = []string{"nostore"} }, `ignore[0]: expected one of no-store, private, no-cache, must-revalidate, cookie, got "nostore"; did you mean no-store?`)
	f(func(c *RouteConfig) { c.Ignore, c.Share = []string{"private"}, "all" }, "ignore: expected share: identity beside private: share: all would give one caller's answer to others")
	f(func(c *RouteConfig) { c.Bypass = []string{"cooky:a", "header:", "x"} },
		`bypass[0]: expected header:NAME, cookie:NAME or query:NAME, each with or without =VALUE, got "cooky:a"; did you mean cookie?`,
		`bypass[1]: expected header:NAME, cookie:NAME or query:NAME, each with or without =VALUE, got "header:"`,
		`bypass[2]: expected header:NAME, cookie:NAME or query:NAME, each with or without =VALUE, got "x"`)
	f(func(c *RouteConfig) { c.Key.Query = "only" }, "key.parameters: expected the names that query: only is about")
	f(func(c *RouteConfig) { c.Key.Parameters = []string{"a"} }, "key.parameters: expected query: only or except beside it, got query: all")
	f(func(c *RouteConfig) { c.Key.Query, c.Key.Parameters = "only", []string{"a*b"} }, `key.parameters[0]: expected the name of a parameter, or the start of one and *, got "a*b"`)
	f(func(c *RouteConfig) { c.Key.Unkeyed = true }, "key.forward_unkeyed: expected query: only, except or none beside it: with query: all nothing is left out of the key")
	f(func(c *RouteConfig) { c.Key.Headers = []string{"X-A", "x-a", "b c"} },
		`key.headers[1]: expected each name once, got "x-a" again`, `key.headers[2]: expected a name of at most 128 characters, got "b c"`)

	g := func(change func(*Config), want ...string) {
		t.Helper()
		_, c := testConfig()
		change(c)
		if got := problems(c.Validate); !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
	}
	g(func(c *Config) { c.Shorthand("1GiB") })
	g(func(c *Config) { c.Shorthand("big") }, "size: expected a size such as 256MiB")
	g(func(c *Config) { c.MaxObject = 100 << 20 }, "max_object: expected at most a quarter of size, 64MiB: a few answers would push all others out; got 100MiB")
	g(func(c *Config) { c.Target = "a b" }, `target: expected a name of letters, digits and hyphens, got "a b"`)
	g(func(c *Config) { c.Target = "cdn" }, "target: expected a name of this cache's own: CDN is what cdn_cache_control is for")
	g(func(c *Config) { c.Name = "a\n" }, `name: expected at most 64 printable ASCII characters, got "a\n"`)
}
