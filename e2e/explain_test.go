package e2e

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/fault"
	"sluice/gateway"
	"sluice/observe"
)

const explained = `
listen: [":8080"]
server: { max_body: 1MiB }
upstreams:
  users: { targets: ["http://10.0.0.11:9000", { url: "http://10.0.0.12:9000", weight: 2 }], balance: least_request, host: target }
  next: "http://10.0.0.31:9000"
  found: { discover: { srv: _http._tcp.orders.internal }, fail_timeout: 3s }
routes:
  - name: user
    match: { host: api.example.com, path: "/users/{id:[0-9]+}", methods: [GET] }
    upstream: users
    response_timeout: 3s
    rewrite: { path: "/v2/users/{id}" }
    request: { headers: { set: { X-User: "{id}" }, remove: [Cookie] } }
    response: { headers: { remove: [Server], set: { X-Served-By: "{route}" }, add: { Vary: Origin } } }
  - name: shared
    match: /shared/*
    split: { to: [{ upstream: users, weight: 9 }, { upstream: next, weight: 1 }] }
    mirror: { upstream: next, share: 10% }
  - { name: html, match: { path: /page, headers: { Accept: "~text/html" } }, respond: "hello" }
  - { name: spare, match: /spare, upstream: found, fallback: { upstream: next } }
  - { name: page, match: /page, upstream: next }
  - { name: old, match: "/old/{rest:*}", redirect: "/new/{rest}" }
`

// TestExplain asks the binary what would become of requests.
func TestExplain(t *testing.T) {
	t.Parallel()
	file := written(t, "sluice.yaml", explained)
	f := func(operands []string, want ...string) {
		t.Helper()
		text := succeeds(t, append([]string{"explain", "-c", file}, operands...)...)
		rest := text
		for _, w := range want {
			at := regexp.MustCompile(`(?m)^` + w + `$`).FindStringIndex(rest)
			if at == nil {
				t.Errorf("explain %q: expected %q, in this order, in\n%s", operands, w, text)
				return
			}
			rest = rest[at[1]:]
		}
	}
	get := func(url string, headers ...string) []string { return append([]string{"GET", url}, headers...) }
	f(get("http://api.example.com/users/7?x=1", "Cookie: secret=1", "X-Keep: Me"),
		`match     path /users/7`, `          route "user" \(.*sluice\.yaml:9:5\)`, `          \{id\} = 7`,
		`admit     .*body up to 1048576 bytes`, `answer    forward to upstream users by least_request`,
		`          target http://10\.0\.0\.11:9000, weight 1`, `          target http://10\.0\.0\.12:9000, weight 2`,
		`.*answer within 3s \(the route's\).*`, `send      GET /v2/users/7\?x=1 HTTP/1\.1`, `send      Host: 10\.0\.0\.11:9000`,
		`send      X-Keep: Me`, `send      Via: 1\.1 sluice`, `send      X-Request-Id: [0-9a-f]{32}`, `send      X-User: 7`,
		`deliver   remove Server`, `deliver   set X-Served-By: \{route\}`, `deliver   add Vary: Origin`)
	if text := succeeds(t, append([]string{"explain", "-c", file}, get("http://api.example.com/users/7", "Cookie: secret=1")...)...); strings.Contains(text, "secret") {
		t.Errorf("expected no Cookie to be sent, got\n%s", text)
	}
	f([]string{"POST", "http://api.example.com/users/7"}, `answer    405 method-not-allowed`, `          Allow: GET, HEAD`)
	f(get("http://api.example.com/users/seven"), `answer    404 not-found`)
	f(get("http://other.example.com/users/7"), `answer    404 not-found`)
	f([]string{"POST", "https://h/shared/a", "Content-Length: 9999999"}, `answer    413 body-too-large`)
	f(get("https://h/shared/%7Ea/../b"), `match     path /shared/b`, `answer    copy 10% of requests .* to upstream next`,
		`answer    split users=9 next=1`, `answer    forward to upstream users.*`, `send      GET /shared/b HTTP/1\.1`, `send      X-Forwarded-Proto: https`,
		`or        forward to upstream next.*`)
	f(get("http://h/page", "Accept: text/html"), `.*route "html".*`, `answer    respond 200, 5 bytes`)
	f(get("http://h/spare"), `answer    forward to upstream found.*`, `          targets from the SRV records of _http\._tcp\.orders\.internal`,
		`          a target that refuses a connection is passed over for 3s.*`, `recover   .*`, `          upstream next`, `          target http://10\.0\.0\.31:9000, weight 1`)
	f(get("http://h/page"), `.*route "page".*`)
	f(get("http://h/old/a/b?c"), `answer    redirect 308 to /new/a/b.*`)
	f(get("http://h"), `match     path /`)
	f(get("http://h?q"), `match     path /`)

	bad := func(want string, operands ...string) {
		t.Helper()
		o := command(t, nil, append([]string{"explain", "-c", file}, operands...)...)
		if o.code != 2 || strings.Count(o.errors, "\n") != 1 || !strings.HasPrefix(o.errors, "sluice: ") || !strings.Contains(o.errors, want) {
			t.Errorf("explain %q: expected code 2 and one line with %q, got %d and %q", operands, want, o.code, o.errors)
		}
	}
	bad("expected a URL such as", "GET", "nonsense")
	bad("expected a URL such as", "GET", "ftp://h/")
	bad("expected a URL such as", "GET", "http://[::1")
	bad("expected a URL such as", "GET", "http:///path")
	bad("", "GET", "http://h/a b")
	bad("", "G T", "http://h/")
	bad("", "", "http://h/")
	bad("", "GET", "http://h/", "no colon")
	bad("", "GET", "http://h/", "Host: other")
	bad("", "GET", "http://h/", "A: b\r\n\r\nGET /smuggled")
	bad("", "GET", "http://h/", "Content-Length: 1", "Content-Length: 2")
	bad("", "CONNECT", "http://h/")
}

// prepared compiles the configuration of TestExplain.
func prepared(f *testing.F) (*gateway.Gateway, *gateway.Generation) {
	cfg, err := config.Parse("explained.yaml", []byte(explained), nil)
	if err != nil {
		f.Fatal(err)
	}
	cfg.Log.Access.Enabled = false
	g := gateway.New(observe.NewMetrics(observe.Build{}, fault.Names()), zerolog.New(io.Discard))
	next, err := g.Prepare(cfg)
	if err != nil {
		f.Fatal(err)
	}
	return g, next
}

// FuzzExplain holds that no operand makes explain panic, say nothing, or say
// something of more than one request.
func FuzzExplain(f *testing.F) {
	g, next := prepared(f)
	f.Cleanup(func() {
		g.Discard(next)
		g.Close()
	})
	for _, seed := range [][3]string{
		{"GET", "http://api.example.com/users/7", "Cookie: a=b"},
		{"POST", "https://h:8443/shared/%2e%2e/x?a=b#c", "Content-Length: 5"},
		{"OPTIONS", "http://h", ""},
		{"GET", "http://[::1]:80/page", "Accept: text/html"},
		{"GET", "http://h/old/%00", "Connection: upgrade, x\nUpgrade: websocket"},
		{"G\x00T", "http://u:p@h/\r\n\r\n", "A: \xff"},
		{"TRACE", "http://h/page//.//..", "Transfer-Encoding: chunked"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, url, headers string) {
		if len(method)+len(url)+len(headers) > 1<<16 {
			return // longer than a head may be; refused by its length alone
		}
		var lines []string
		if headers != "" {
			lines = strings.Split(headers, "\n")
		}
		text, err := g.Explain(next, method, url, lines)
		switch {
		case err != nil && (text != "" || err.Error() == ""):
			t.Errorf("expected an error that says something, and nothing else, got %q and %q", err, text)
		case err == nil && !strings.HasPrefix(text, "match     path "):
			t.Errorf("expected an explanation, got %q", text)
		case strings.Count(text, "match  ") > 1 && !strings.Contains(method+url+headers, "match  "):
			t.Errorf("expected one request to be explained, got %q", text)
		}
	})
}
