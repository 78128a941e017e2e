package auth

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/setting"
	"sluice/wire"
)

func corsOf(t testing.TB, c CORSConfig) *CORS {
	t.Helper()
	policy, err := NewCORS(&c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return policy
}

func TestCORSOrigins(t *testing.T) {
	f := func(origins string, allowed, refused string) {
		t.Helper()
		c := corsOf(t, CORSConfig{Origins: strings.Fields(origins)})
		for _, o := range strings.Fields(allowed) {
			if !c.Allows([]byte(o)) {
				t.Errorf("%s: expected %s to be allowed", origins, o)
			}
		}
		for _, o := range append(strings.Fields(refused), "", strings.Repeat("a", 600)) {
			if c.Allows([]byte(o)) && o != "" && !c.anyone || o == "" && c.Allows(nil) {
				t.Errorf("%s: expected %q to be refused", origins, o)
			}
		}
	}
	f("*", "https://a.example null file://", "")
	f("https://a.example.com http://b:8080 null", "https://a.example.com http://b:8080 null",
		"http://a.example.com https://a.example.com:444 https://A.example.com https://a.example.com/ https://a.example.com.evil.net https://xa.example.com http://b NULL https://a.example.com,null")
	f("https://*.example.com", "https://a.example.com https://a.b.example.com https://a-b_c.example.com",
		"https://example.com https://.example.com https://a..example.com.evil.net http://a.example.com https://a.example.com:8443 https://evil.net/.example.com "+
			"https://evil.net#.example.com https://evil.net?.example.com https://u@a.example.com https://evil.net:1.example.com https://aexample.com https://A.example.com https://a.example.com.")
	f("https://*.example.com:8443", "https://a.example.com:8443", "https://a.example.com https://a.example.com:84433 https://a.example.com:443")
	f("http://localhost:* http://*.localhost:*", "http://localhost http://localhost:1 http://localhost:65535 http://a.localhost:3000",
		"https://localhost http://localhost: http://localhost:1a http://localhost:123456 http://localhost.evil.net:1 http://localhost:1:2 http://evil.net:1.localhost")
	f("http://[::1]:* https://[2001:db8::1]", "http://[::1] http://[::1]:3000 https://[2001:db8::1]", "http://::1 https://[::1] http://[::1]x")
	f("~https://(a|b)[.]example[.](com|net)", "https://a.example.com https://b.example.net",
		"https://c.example.com https://a.example.com.evil.net xhttps://a.example.com https://a.example.com/ https://axexample.com")
	f("~https://a|http://b", "https://a http://b", "https://ab xhttp://b https://a/http://b")
	f("chrome-extension://abcdefghijklmnop capacitor://localhost", "chrome-extension://abcdefghijklmnop capacitor://localhost", "chrome-extension://other")
}

func TestCORSMistakes(t *testing.T) {
	f := func(c CORSConfig, want ...string) {
		t.Helper()
		var p setting.Problems
		c.Validate(&p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("expected %q, got %q", want, got)
				break
			}
		}
		if _, err := NewCORS(&c); (err != nil) != (len(want) > 0) {
			t.Errorf("%+v: got the error %v", c, err)
		}
	}
	o := func(s ...string) CORSConfig { return CORSConfig{Origins: s} }
	f(CORSConfig{}, "origins: expected at least one origin")
	f(CORSConfig{Origins: []string{"*"}, Credentials: true}, "origins[0]: expected origins by name beside credentials: with *")
	f(CORSConfig{Origins: []string{"null"}, Credentials: true}, "origins[0]: expected origins by name beside credentials: any page")
	f(CORSConfig{Origins: []string{"*"}, Block: true}, "block: expected origins other than *")
	f(o("https://a", "*"), "origins[1]: expected * alone")
	for _, s := range []string{"a.example.com", "https://", "://a", "1s://a", "https://a b", "https://*", "https://a.*.com", "https://a*.com", "https://ä.example", "https://a..b", "https://a_b%41", ""} {
		f(o(s), "origins[0]: expected a")
	}
	f(o("https://a/"), "origins[0]: expected an origin, which has no path")
	f(o("https://a/x", "https://a?x"), "origins[0]: expected an origin, which has no path", "origins[1]: expected an origin, which has no path")
	f(o("https://u@a"), "origins[0]: expected an origin, which has no user")
	f(o("https://A.example"), "origins[0]: expected https://a.example, as browsers write it")
	f(o("https://a:443", "http://a:80"), "origins[0]: expected https://a: browsers leave out", "origins[1]: expected http://a: browsers leave out")
	f(o("https://a:0", "https://a:65536", "https://a:", "https://a:08"), "origins[0]: expected a port", "origins[1]: expected a port", "origins[2]: expected ", "origins[3]: expected a port")
	f(o("https://*.com"), "origins[0]: expected a domain of its owner")
	f(o("http://[::0001]", "http://[x]"), "origins[0]: expected an IPv6 address", "origins[1]: expected an IPv6 address")
	f(o("~("), "origins[0]: expected a regular expression after ~")

	c := o("https://a")
	c.Methods, c.Headers, c.Expose = []string{"put", "a b", "TRACE", "patch", "purge"}, []string{"X-A", "a b"}, []string{"a:b"}
	f(c, "methods[0]: expected PUT: methods are in capitals", "methods[1]: expected a method, got", "methods[2]: expected a method that browsers send", "methods[3]: expected PATCH", "headers[1]: expected the name", "expose[0]: expected the name")
	c = o("https://a")
	c.Credentials, c.Expose = true, []string{"*"}
	f(c, "expose[0]: expected names beside credentials")

	var short CORSConfig
	short.Shorthand("https://a.example")
	f(short)
}

// The preflights of Fetch, 4.8 "CORS-preflight fetch", and what each answer says.
func TestPreflight(t *testing.T) {
	const age = setting.Duration(10 * time.Minute)
	plain := CORSConfig{Origins: []string{"https://a.example"}, Methods: []string{"PUT", "PURGE"}, Headers: []string{"Content-Type", "X-One"}, Expose: []string{"X-Two"}, MaxAge: age}
	anyone := CORSConfig{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, MaxAge: age}
	logged := CORSConfig{Origins: []string{"https://a.example"}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true, PrivateNetwork: true}
	named := anyone
	named.Headers = []string{"*", "Authorization"}
	loggedNamed := logged
	loggedNamed.Headers = named.Headers

	f := func(c CORSConfig, method, headers string, private bool, want string) {
		t.Helper()
		lines, ok := corsOf(t, c).Preflight(nil, []byte("https://a.example"), []byte(method), []byte(headers), private)
		got, cut := strings.CutPrefix(string(lines), varyPreflight)
		if !cut || ok != (want != "") || strings.ReplaceAll(got, "Access-Control-", "") != strings.ReplaceAll(want, "\n", "\r\n") {
			t.Errorf("%s %q: expected %q, got %v %q", method, headers, want, ok, got)
		}
	}
	const from, all = "Allow-Origin: https://a.example\n", "Allow-Methods: PUT, PURGE\nAllow-Headers: content-type, x-one\nMax-Age: 600\n"
	f(plain, "GET", "", false, from+all)
	f(plain, "POST", "content-type", false, from+all)
	f(plain, "PUT", "content-type,x-one", false, from+all)
	f(plain, "PUT", "X-ONE, Content-Type", false, from+all)
	f(plain, "PUT", " , x-one ,, ", false, from+all)
	f(plain, "PURGE", "", false, from+all)
	f(plain, "put", "", false, "") // methods have a case
	f(plain, "purge", "", false, "")
	f(plain, "DELETE", "", false, "")
	f(plain, "PUT", "x-two", false, "")
	f(plain, "PUT", "x-one x-one", false, "")
	f(plain, "PUT", "x-one,authorization", false, "")
	f(plain, "PUT", "*", false, "")
	f(plain, "PUT", "", true, "")

	const every = "Allow-Origin: *\nAllow-Methods: *\n"
	f(anyone, "DELETE", "x-any", false, every+"Allow-Headers: *\nMax-Age: 600\n")
	f(anyone, "delete", "", false, every+"Allow-Headers: *\nMax-Age: 600\n")
	f(anyone, "GET", "authorization", false, "")
	f(anyone, "GET", "a,Authorization", false, "")
	f(named, "GET", "a,Authorization", false, every+"Allow-Headers: *, authorization\nMax-Age: 600\n")
	f(anyone, "A B", "", false, "")
	f(anyone, "GET", "a\tb", false, "")

	// With credentials, * would be a name: what is asked for is said.
	const session = from + "Allow-Credentials: true\n"
	f(logged, "DELETE", "x-b,x-a", false, session+"Allow-Methods: DELETE\nAllow-Headers: x-b, x-a\nMax-Age: 0\n")
	f(logged, "GET", "", false, session+"Allow-Methods: GET\nMax-Age: 0\n")
	f(logged, "GET", "authorization", false, "")
	f(loggedNamed, "GET", "authorization,x", false, session+"Allow-Methods: GET\nAllow-Headers: authorization, x\nMax-Age: 0\n")
	f(logged, "GET", "", true, session+"Allow-Methods: GET\nAllow-Private-Network: true\nMax-Age: 0\n")
	f(logged, "GET", strings.Repeat("a,", mostHeaders+1), false, "")
	f(logged, "GET", strings.Repeat("a", longestHeader+1), false, "")

	c := corsOf(t, plain)
	for _, origin := range []string{"https://b.example", "", "null", "https://a.example\r\nX: y"} {
		if lines, ok := c.Preflight(nil, []byte(origin), []byte("GET"), nil, false); ok || string(lines) != varyPreflight {
			t.Errorf("%q: expected a refusal, got %v %q", origin, ok, lines)
		}
	}
}

func TestCORSLines(t *testing.T) {
	f := func(c CORSConfig, origin, want string) {
		t.Helper()
		if got := string(corsOf(t, c).AppendLines([]byte("A: b\r\n"), []byte(origin))); got != "A: b\r\n"+strings.ReplaceAll(want, "\n", "\r\n") {
			t.Errorf("%q: expected %q, got %q", origin, want, got)
		}
	}
	c := CORSConfig{Origins: []string{"https://a.example"}}
	f(c, "https://a.example", "Vary: Origin\nAccess-Control-Allow-Origin: https://a.example\n")
	f(c, "https://b.example", "Vary: Origin\n")
	f(c, "", "Vary: Origin\n")
	f(c, "null", "Vary: Origin\n")
	c.Credentials, c.Expose = true, []string{"X-A", "X-B"}
	f(c, "https://a.example", "Vary: Origin\nAccess-Control-Allow-Origin: https://a.example\nAccess-Control-Allow-Credentials: true\nAccess-Control-Expose-Headers: X-A, X-B\n")
	c = CORSConfig{Origins: []string{"*"}, Expose: []string{"*"}}
	f(c, "https://b.example", "Access-Control-Allow-Origin: *\nAccess-Control-Expose-Headers: *\n")
	f(c, "", "Access-Control-Allow-Origin: *\nAccess-Control-Expose-Headers: *\n") // one answer for all
}

func TestIsPreflight(t *testing.T) {
	f := func(head, want string) {
		t.Helper()
		method, ok := IsPreflight(askedFor(t, head).Head)
		if string(method) != want || ok != (want != "") {
			t.Errorf("%q: expected %q, got %v %q", head, want, ok, method)
		}
	}
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT", "PUT")
	f("OPTIONS / HTTP/1.1\nHost: a\norigin: https://b\nACCESS-CONTROL-REQUEST-METHOD: PUT\nAccess-Control-Request-Headers: a", "PUT")
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b", "")
	f("OPTIONS / HTTP/1.1\nHost: a\nAccess-Control-Request-Method: PUT", "")
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method:", "")
	f("GET / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT", "")
	f("options / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT", "")
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nOrigin: https://c\nAccess-Control-Request-Method: PUT", "")
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Method: GET", "")
	f("OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: a\nAccess-Control-Request-Headers: b", "")

	origin, method, headers, private, ok := PreflightFields(askedFor(t, "OPTIONS / HTTP/1.1\nHost: a\nOrigin: https://b\nAccess-Control-Request-Method: PUT\nAccess-Control-Request-Headers: a, b\nAccess-Control-Request-Private-Network: true").Head)
	if string(origin) != "https://b" || string(method) != "PUT" || string(headers) != "a, b" || !private || !ok {
		t.Errorf("got %q %q %q %v %v", origin, method, headers, private, ok)
	}
}

func TestCORSBlocks(t *testing.T) {
	c := corsOf(t, CORSConfig{Origins: []string{"https://app.example"}, Block: true})
	off := corsOf(t, CORSConfig{Origins: []string{"https://app.example"}})
	f := func(scheme, head string, want bool) {
		t.Helper()
		req := askedFor(t, head).Head
		if got := c.Blocks(req, scheme); got != want || off.Blocks(req, scheme) {
			t.Errorf("%s %q: expected %v, got %v", scheme, head, want, got)
		}
	}
	const post = "POST / HTTP/1.1\nHost: api.example\n"
	f("https", post+"X: y", false)
	f("https", post+"Origin: https://app.example", false)
	f("https", post+"Origin: https://api.example", false) // its own
	f("https", "POST / HTTP/1.1\nHost: API.example:443\nOrigin: https://api.example", false)
	f("http", "POST / HTTP/1.1\nHost: api.example:8080\nOrigin: http://api.example:8080", false)
	f("https", post+"Origin: http://api.example", true)
	f("https", post+"Origin: https://api.example:8443", true)
	f("https", post+"Origin: https://evil.example", true)
	f("https", post+"Origin: null", true)
	f("https", post+"Origin:", true)
	f("https", post+"Origin: https://app.example\nOrigin: https://evil.example", true)
	f("https", "GET / HTTP/1.1\nHost: a\nOrigin: https://evil.example", false)
	f("https", "HEAD / HTTP/1.1\nHost: a\nOrigin: https://evil.example", false)
	f("https", "DELETE / HTTP/1.1\nHost: a\nOrigin: https://evil.example", true)
	f("https", "get / HTTP/1.1\nHost: a\nOrigin: https://evil.example", true)
	const socket = "GET / HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\nOrigin: "
	f("https", socket+"https://evil.example", true)
	f("https", socket+"https://app.example", false)
	f("https", socket+"https://a", false)
}

func TestDropsFromAnswer(t *testing.T) {
	for name, want := range map[string]bool{
		"Access-Control-Allow-Origin": true, "ACCESS-CONTROL-EXPOSE-HEADERS": true, "access-control-max-age": true,
		"Access-Control-": false, "Access-Control": false, "Vary": false, "X-Access-Control-Allow-Origin": false, "": false,
	} {
		if got := DropsFromAnswer([]byte(name)); got != want {
			t.Errorf("%s: expected %v, got %v", name, want, got)
		}
	}
}

// What is written is lines that an HTTP client of another make reads.
func TestCORSLinesOverSocket(t *testing.T) {
	c := corsOf(t, CORSConfig{Origins: []string{"https://a.example"}, Headers: []string{"*"}, Credentials: true, Expose: []string{"X-A"}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		lines, _ := c.Preflight([]byte("HTTP/1.1 204 No Content\r\n"), []byte(r.Header.Get("Origin")), []byte(r.Header.Get("Access-Control-Request-Method")), []byte(r.Header.Get("Access-Control-Request-Headers")), false)
		_, _ = conn.Write(append(lines, "\r\n"...))
	}))
	defer server.Close()
	r, _ := http.NewRequest("OPTIONS", server.URL, nil)
	r.Header.Set("Origin", "https://a.example")
	r.Header.Set("Access-Control-Request-Method", "GET")
	r.Header.Set("Access-Control-Request-Headers", "x-a,x-b")
	res, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	for name, want := range map[string]string{"Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Headers": "x-a, x-b", "Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "0"} {
		if got := res.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: expected %q, got %q", name, want, got)
		}
	}
}

// A pattern that is accepted allows no origin of another host, and whatever a
// client sends ends in whole lines.
func FuzzCORS(f *testing.F) {
	f.Add("https://*.example.com", "https://a.example.com", "PUT", "x-a,x-b")
	f.Add("http://localhost:*", "http://localhost:3000", "get", "Authorization")
	f.Add("http://[::1]:*", "http://[::1]:1", "A", "\r\n")
	f.Add("~https://[a-z]+", "https://a\r\n", "GET", "*")
	f.Add("chrome-extension://a", "null", "\x00", ",,")
	f.Fuzz(func(t *testing.T, pattern, origin, method, headers string) {
		c, err := NewCORS(&CORSConfig{Origins: []string{pattern}, Methods: []string{"*"}, Headers: []string{"*"}, Credentials: true})
		if err != nil {
			return
		}
		lines, ok := c.Preflight(nil, []byte(origin), []byte(method), []byte(headers), false)
		if wire.IsFieldValue([]byte(origin)) {
			for line := range strings.SplitSeq(strings.TrimSuffix(string(lines), "\r\n"), "\r\n") {
				if name, value, found := strings.Cut(line, ": "); !found || !wire.IsToken([]byte(name)) || !wire.IsFieldValue([]byte(value)) {
					t.Errorf("%q: the line %q", lines, line)
				}
			}
		}
		if ok && pattern[0] != '~' {
			host := strings.TrimPrefix(strings.TrimSuffix(pattern, ":*"), "*")
			_, host, _ = strings.Cut(host, "://")
			if host = strings.TrimPrefix(host, "*"); !strings.Contains(origin, host) || strings.ContainsAny(origin, "/?#@ ") && strings.Count(origin, "/") != 2 {
				t.Errorf("%q allowed %q", pattern, origin)
			}
		}
	})
}
