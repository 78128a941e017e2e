package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// broken loads text and compares every mistake, one a line. The positions are
// those of an editor: lines and columns from 1.
func broken(t *testing.T, text, want string) {
	t.Helper()
	brokenFrom(t, &Sources{Environ: []string{"PASSWORD=hunter2!", "BIG=9000000", "URL=http://u:hunter2!@host", "EMPTY="}}, text, want)
}

func brokenFrom(t *testing.T, src *Sources, text, want string) {
	t.Helper()
	cfg, err := Parse("f", []byte(text), src)
	if err == nil {
		t.Errorf("no mistake in\n%s", text)
		return
	}
	var mistakes *Mistakes
	if cfg != nil || !errors.As(err, &mistakes) {
		t.Errorf("got %v and a %T", cfg, err)
	}
	got, wanted := strings.Split(err.Error(), "\n"), strings.Split(strings.TrimSpace(want), "\n")
	for i := range max(len(got), len(wanted)) {
		g, w := "nothing more", "nothing more"
		if i < len(got) {
			g = got[i]
		}
		if i < len(wanted) {
			w = wanted[i]
		}
		if g != w {
			t.Errorf("mistake %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

// Everything but the thing under test, on one line, so that a case begins in
// line 2.
const rest = `{upstreams: {a: "http://a:1"}, routes: [{name: r, upstream: a}], `

func TestMistakesOfKeysAndTypes(t *testing.T) {
	broken(t, `
lisen: [":1"]
upstreams:
  users: { targets: ["http://a:1"], balanse: random, balance: rr }
routes:
  - name: r
    upsteam: users
    timeoot: 5
    match: { path: [1], hots: x }
  - 5
`, `
f:2:1: lisen: unknown key; did you mean "listen"?
f:4:37: upstreams.users.balanse: unknown key; did you mean "balance"?
f:4:63: upstreams.users.balance: expected one of round_robin, random, least_request, peak_ewma, hash, got "rr"
f:7:5: routes[0].upsteam: unknown key; did you mean "upstream"?
f:8:5: routes[0].timeoot: unknown key; expected one of name, match, upstream, split, aggregate, compose, redirect, respond, rewrite, mirror, request, response, path_form, upgrade, ip, cors, auth, require, cache, compress, max_body, budget, limit, retry, hedge, fallback, priority, concurrency, response_timeout
f:9:20: routes[0].match.path: expected a text, got a list
f:9:25: routes[0].match.hots: unknown key; did you mean "host"?
f:10:5: routes[1]: expected a mapping of keys, got a number
`)
	broken(t, rest+`
server: { max_requests: 1.5, max_header: 64kb, idle_timeout: 500ms, body_timeout: 5, max_connections: 010,
  max_header_fields: 20000, write_timeout: [1], max_body: {} },
admin: { pprof: yes, address: }, shutdown: 30s, listen: {}, log: [] }
`, `
f:2:25: server.max_requests: expected a whole number of at least 0, got "1.5"
f:2:42: server.max_header: expected a size from 1KiB to 1MiB, got "64kb"
f:2:62: server.idle_timeout: expected a duration of at least 1s, got "500ms"
f:2:83: server.body_timeout: expected a duration of at least 100ms, got "5"
f:2:103: server.max_connections: expected a whole number of at least 1, got "010"
f:3:22: server.max_header_fields: expected a whole number from 8 to 10000, got "20000"
f:3:44: server.write_timeout: expected a duration of at least 100ms, got a list
f:3:59: server.max_body: expected a size such as 512, 64KiB or 1MiB, got a mapping
f:4:17: admin.pprof: expected true or false, got "yes"
f:4:30: admin.address: expected a text, got nothing
f:4:44: shutdown: expected a mapping of keys, got a text
f:4:57: listen: expected a list, got a mapping
f:4:66: log: expected a mapping of keys, got a list
`)
	broken(t, rest+`
server: { max_body: 1, max_body: 2 }, server: {} }
`, `
f:2:24: server.max_body: expected each key once, got it also in line 2
f:2:39: server: expected each key once, got it also in line 2
`)
	broken(t, `[a]`, `f:1:1: expected a mapping of keys such as listen, upstreams and routes, got a list`)
	broken(t, `plain`, `f:1:1: expected a mapping of keys such as listen, upstreams and routes, got a text`)
	broken(t, ``, `f: routes: expected at least one route, or --upstream URL`)
	broken(t, `rotues: []`, `f:1:1: rotues: unknown key; did you mean "routes"?`)
	broken(t, "? [a]\n: b\n", `f:2:1: found an invalid key for this map`)
	broken(t, rest+"~: 1}", "f:1:66: expected a plain key")
	broken(t, rest+`"a b": 1}`, `f:1:66: "a b": unknown key; expected one of listen, admin, log, server, forwarded, reload, shutdown, defaults, auth, auth_failures, redis, limits, cache, upstreams, routes`)
}

func TestMistakesOfSyntax(t *testing.T) {
	broken(t, "a: [1, 2\nb: 3\n", `f:2:1: ',' or ']' must be specified (inside { } and [ ], a text that holds one of { } [ ] , must be quoted: "/users/{id}")`)
	broken(t, "server:\n\tmax_body: 1\n", `f:2:1: expected spaces for indentation, got a tab`)
	broken(t, "a: b: c\n", `f:1:4: mapping value is not allowed in this context (a text that holds ": " must be quoted)`)
	broken(t, "a: \"x\n", `f:1:4: could not find end character of double-quoted text`)
	broken(t, "a: {match: /users/{id}}\n", `f:1:19: ',' or '}' must be specified (inside { } and [ ], a text that holds one of { } [ ] , must be quoted: "/users/{id}")`)
	broken(t, "a: @b\n", `f:1:4: '@' is a reserved character (a text that begins with it must be quoted)`)
	broken(t, "a: 1\n---\nb: 1\n", `f:2:1: expected one YAML document, got another one here`)
	broken(t, "a: \xff\n", `f:1:4: expected UTF-8 text without control bytes`)
	broken(t, "a: b\rc: d\n", `f:1:5: expected UTF-8 text without control bytes`)
	broken(t, "a:\n  b: x\x00\n", `f:2:7: expected UTF-8 text without control bytes`)
	broken(t, rest+"log: !!map {}}", `f:1:71: log: expected a value without a tag, got !!map`)
}

func TestMistakesOfAliases(t *testing.T) {
	broken(t, rest+"log: *nope}", `f:1:71: expected an anchor &nope above this alias`)
	broken(t, rest+"log: &l {access: *l}}", `f:1:83: expected an anchor &l above this alias`)
	broken(t, rest+"log: {<<: 5, level: info}}", `f:1:76: log: expected a mapping to merge, got a number`)
	broken(t, rest+"log: {<<: [[]]}}", `f:1:77: log: expected a mapping to merge, got a list`)
	broken(t, "defaults: &d {blance: hash}\nupstreams: {a: &a {targets: [\"http://a:1\"], host: ''}, b: {<<: *a}}\nroutes: [{name: r, upstream: a}]\n", `
f:1:15: defaults.blance: unknown key; did you mean "balance"?
f:2:51: upstreams.a.host: expected preserve, target or a host name, got ""
f:2:51: upstreams.b.host: expected preserve, target or a host name, got ""
`)
}

func TestMistakesOfReferences(t *testing.T) {
	broken(t, rest+`
admin: {address: "${NONE}"}, forwarded: {pseudonym: "${1}", request_id: "${A", trusted: ["${file:/nonexistent/x}"]} }
`, `
f:2:18: admin.address: expected the environment variable NONE to be set, or ${NONE:-default}
f:2:53: forwarded.pseudonym: expected ${NAME}, ${NAME:-default} or ${file:/path}, got "${1}" (write $${ for a literal ${)
f:2:73: forwarded.request_id: expected } after ${ (write $${ for the two characters themselves)
f:2:90: forwarded.trusted[0]: expected a readable file "/nonexistent/x": no such file or directory
`)
	directory := t.TempDir()
	broken(t, rest+`
admin: {address: "${file:`+directory+`}"} }
`, `f:2:18: admin.address: expected a readable file "`+directory+`": is a directory`)
}

func TestMistakesHideSecrets(t *testing.T) {
	broken(t, `
upstreams:
  a: "${URL}"
  b: { targets: ["http://user:pa/ss@host"], host: "x ${PASSWORD}", connections: { max: "${BIG}" } }
  c: { targets: [{ url: "ftp://${PASSWORD}", weight: "${PASSWORD}" }], balance: "${PASSWORD}" }
routes:
  - name: r
    upstream: "${PASSWORD}"
    match: { path: "x${PASSWORD}", headers: { A: "~(${PASSWORD}" } }
    request: { headers: { set: { "A": "${EMPTY} {hunter2}", "B:hunter2!": x } } }
`, `
f:3:6: upstreams.a.targets[0].url: expected http://host:port or https://host:port without credentials, got "***"
f:4:18: upstreams.b.targets[0].url: expected http://host:port or https://host:port, got "http://***@host"
f:4:51: upstreams.b.host: expected preserve, target or a host name, got "***"
f:4:88: upstreams.b.connections.max: expected a whole number from 1 to 1000000, got "***"
f:5:25: upstreams.c.targets[0].url: expected http://host:port or https://host:port, got "***"
f:5:54: upstreams.c.targets[0].weight: expected a whole number from 1 to 1000, got "***"
f:5:81: upstreams.c.balance: expected one of round_robin, random, least_request, peak_ewma, hash, got "***"
f:8:15: routes[0].upstream: unknown upstream "***"; expected one of a, b, c
f:9:20: routes[0].match.path: ***, got "***"
f:9:50: routes[0].match.headers.A: expected a regular expression after ~: ***
f:10:39: routes[0].request.headers.set.A: expected one line without control bytes and outer blanks
f:10:75: routes[0].request.headers.set.B:hunter2!: expected the name of a header, got "B:***"
`)
}

func TestMistakesOfVariablesAndFlags(t *testing.T) {
	src := sources(t, []string{
		"SLUICE_SERVER_MAX_HEADER=1", "SLUICE_LOG_LEVEL=loud", "SLUICE_SERVR_MAX_HEADER=1", "SLUICE_ADMIN_ADDRESS=nowhere",
		"SLUICE_SERVICE_HOST=10.0.0.1", "SLUICE_PORT_80_TCP_ADDR=10.0.0.1", "SLUICE_LISTEN=x", "OTHER=1",
		"SLUICE_PORT=tcp://10.0.0.1:80", "SLUICE_ADMIN_SERVICE_HOST=10.0.0.1", "SLUICE_ADMIN_SERVICE_PORT_HTTP=80",
		"SLUICE_ADMIN_PORT=tcp://10.0.0.1:80", "SLUICE_ADMIN_PORT_9901_TCP=tcp://10.0.0.1:9901", "SLUICE_ADMIN_PORT_9901_TCP_ADDR=10.0.0.1",
	}, "--server-idle-timeout=5", "--admin-pprof=maybe", "--upstream=a:1", "--forwarded-trusted=10.0.0.1/8,::1")
	brokenFrom(t, src, "server: { max_body: x }\n", `
f:1:21: server.max_body: expected a size such as 512, 64KiB or 1MiB, got "x"
SLUICE_ADMIN_ADDRESS: admin.address: expected host:port, :port or unix:/path, or nothing; got "nowhere"
SLUICE_LISTEN: listen[0].address: expected host:port, :port or unix:/path, got "x"
SLUICE_LOG_LEVEL: expected one of debug, info, warn, error, got "loud"
SLUICE_SERVER_MAX_HEADER: expected a size from 1KiB to 1MiB, got "1"
SLUICE_SERVR_MAX_HEADER: unknown variable; did you mean SLUICE_SERVER_MAX_HEADER?
--admin-pprof: expected true or false, got "maybe"
--forwarded-trusted: forwarded.trusted[0]: expected a network without host bits such as 10.0.0.0/8, got "10.0.0.1/8"
--server-idle-timeout: expected a duration of at least 1s, got "5"
--upstream: upstreams.default.targets[0].url: expected http://host:port or https://host:port, got "a:1"
`)
}

func TestMistakesOfMeaning(t *testing.T) {
	broken(t, rest+`
listen:
 [x, ":1", ":1", "0.0.0.0:1", "unix:x", ":65536", "a b:1", "[::1]:80", "127.0.0.1:9901",
  {address: ":2", tls: {cert: c}}, {address: ":3", tls: {}}, {address: ":4", tls: {cert: c, key: k, client_auth: require, certificates: [{cert: x}]}},
  {address: ":5", tls: {cert: c, key: k, client_ca: x}, proxy_protocol: {}}, {address: ":6", proxy_protocol: {trusted: [10.0.0.0/33]}}],
forwarded: {trusted: [1.2.3.4, 10.1.0.0/8, x], pseudonym: "a b", request_id: "a:b"} }
`, `
f:3:3: listen[0].address: expected host:port, :port or unix:/path, got "x"
f:3:12: listen[2].address: expected an address of its own, got that of listen[1]
f:3:18: listen[3].address: expected an address of its own, got that of listen[2]
f:3:31: listen[4].address: expected unix:/path of at most 107 bytes, got "unix:x"
f:3:41: listen[5].address: expected a port from 0 to 65535 after the last colon, got ":65536"
f:3:51: listen[6].address: expected host:port, :port or unix:/path, got "a b:1"
f:3:72: listen[8].address: expected an address of its own, got that of admin.address
f:4:19: listen[9].tls: expected cert and key together
f:4:52: listen[10].tls: expected cert and key, or certificates
f:4:114: listen[11].tls.client_auth: expected client_ca to verify client certificates with
f:4:138: listen[11].tls.certificates[0]: expected cert and key together
f:5:53: listen[12].tls.client_ca: expected client_auth to be request or require, without which it is not used
f:5:57: listen[12].proxy_protocol.trusted: expected at least one address such as 10.0.0.0/8
f:5:121: listen[13].proxy_protocol.trusted[0]: expected an address or network such as 10.1.2.3, 10.0.0.0/8 or fd00::/8, got "10.0.0.0/33"
f:6:32: forwarded.trusted[1]: expected a network without host bits such as 10.0.0.0/8, got "10.1.0.0/8"
f:6:44: forwarded.trusted[2]: expected an address or network such as 10.1.2.3, 10.0.0.0/8 or fd00::/8, got "x"
f:6:59: forwarded.pseudonym: expected a name of letters, digits, - and _, got "a b"
f:6:78: forwarded.request_id: expected the name of a header, got "a:b"
`)
	broken(t, `
upstreams:
  users: "http://a:1"
  orders: { targets: [], hash: { header: "a b", cookie: "c;" } }
  "b c": "http://a:1/path"
routes:
  - upstream: users
  - name: two
    upstream: user
    respond: hello
  - { name: two, match: /two, split: { to: [] } }
  - { name: "x\ny", match: /three }
  - name: split
    match: /split
    split: { to: [{ upstream: users, weight: 0 }, { upstream: users, weight: 0 }, { upstream: billing }], cookie: "a b", header: x }
    mirror: ordres
  - name: split2
    match: /split2
    split: { to: [{ upstream: users, weight: 0 }] }
  - name: fixed
    match: /fixed
    respond: { status: 204, body: x, type: "a\nb", headers: { "A:": x, X: "a\r\nb", Content-Length: 1 } }
    rewrite: { add_prefix: /x }
    mirror: users
    request: { headers: { remove: [Cookie] } }
  - name: away
    match: /away/{id}
    redirect: { to: "ftp://x/{idd}", status: 200 }
`, `
f:4:13: upstreams.orders.targets: expected at least one target such as http://10.0.0.11:9000, or discover
f:4:26: upstreams.orders.hash: expected either header or cookie, got both
f:4:42: upstreams.orders.hash.header: expected the name of a header, got "a b"
f:4:57: upstreams.orders.hash.cookie: expected the name of a cookie, got "c;"
f:5:10: upstreams."b c": expected a name of up to 128 letters, digits and any of . _ - / :
f:5:10: upstreams."b c".targets[0].url: expected http://host:port or https://host:port without a path (use rewrite on the route), got "http://a:1/path"
f:7:5: routes[0].name: expected a name
f:9:15: routes[1].upstream: unknown upstream "user"; did you mean "users"?
f:10:14: routes[1].respond: expected only one of upstream, split, aggregate, redirect and respond, got upstream and respond
f:11:13: routes[2].name: expected a name of its own, got "two", which is routes[1]
f:11:40: routes[2].split.to: expected at least one upstream with its weight
f:12:5: routes[3]: expected one of upstream, split, aggregate, redirect and respond
f:12:13: routes[3].name: expected a name of up to 128 letters, digits and any of . _ - / :, got "x\ny"
f:15:63: routes[4].split.to[1].upstream: expected each upstream once, got "users" again
f:15:95: routes[4].split.to[2].upstream: unknown upstream "billing"; expected one of b c, orders, users
f:15:115: routes[4].split.cookie: expected the name of a cookie, got "a b"
f:15:130: routes[4].split.header: expected either cookie or header, got both
f:16:13: routes[4].mirror.upstream: unknown upstream "ordres"; did you mean "orders"?
f:19:14: routes[5].split.to: expected at least one weight above 0
f:22:35: routes[6].respond.body: expected none with status 204
f:22:44: routes[6].respond.type: expected a media type such as application/json, got "a\nb"
f:22:69: routes[6].respond.headers.A:: expected the name of a header, got "A:"
f:22:75: routes[6].respond.headers.X: expected one line without control bytes and outer blanks
f:22:101: routes[6].respond.headers.Content-Length: expected no header that belongs to the connection, got "Content-Length"
f:23:5: routes[6].rewrite: expected none with respond, which forwards nothing
f:24:13: routes[6].mirror: expected none with respond, which forwards nothing
f:25:5: routes[6].request: expected none with respond, which forwards nothing
f:28:21: routes[7].redirect.to: unknown parameter {idd}; did you mean {id}?
f:28:21: routes[7].redirect.to: expected a path or an http(s) URL, got "ftp://x/{idd}"
f:28:46: routes[7].redirect.status: expected one of 301, 302, 303, 307, 308, got "200"
`)
	broken(t, rest+`
x: 1 }
`, `f:2:1: x: unknown key; expected one of listen, admin, log, server, forwarded, reload, shutdown, defaults, auth, auth_failures, redis, limits, cache, upstreams, routes`)
}

func TestMistakesOfMatches(t *testing.T) {
	route := func(block, want string) {
		t.Helper()
		broken(t, "upstreams: { a: \"http://a:1\" }\nroutes:\n - name: r\n   upstream: a\n   "+block+"\n", want)
	}
	path := func(pattern, want string) {
		t.Helper()
		route("match: '"+pattern+"'", fmt.Sprintf("f:5:11: routes[0].match.path: %s, got %q", want, pattern))
	}
	path("", "expected a path that begins with /")
	path("users", "expected a path that begins with /")
	path("/a b", "expected a path without blanks and control bytes")
	path("/a?b", "expected a path without ? and # (the query has a predicate of its own)")
	path("/a/../b", "expected a path without .. segments, which no request has left after normalizing")
	path("/a*", "expected * only as /* at the end")
	path("/*/a", "expected * only as /* at the end")
	path("/a/{b", "expected braces in pairs")
	path("/a/b}", "expected braces in pairs")
	path("/{}", "expected {name} of letters, digits and _")
	path("/{a-b}", "expected {name} of letters, digits and _")
	path("/{a}{b}", "expected at least one character between two parameters")
	path("/{a}/{a}", "expected each parameter once, got {a} twice")
	path("/{path}", `expected a parameter that is not called "path", which means the request's own path`)
	path("/{a:*}/b", "expected {a:*} as the whole end of the path")
	path("/x{a:*}", "expected {a:*} as the whole end of the path")
	path("/{a:}", "expected {a}, {a:*} or {a:regex}")
	path("/{a:[}", "expected a regular expression for {a}: error parsing regexp: missing closing ]: `[`")
	path("/{a:(x)}", "expected (?:...) instead of (...) in the expression for {a}")

	host := func(host, want string) {
		t.Helper()
		route("match: { host: '"+host+"' }", fmt.Sprintf("f:5:19: routes[0].match.host[0]: %s, got %q", want, host))
	}
	host("a:80", "expected a host without a port, an IPv6 address in brackets")
	host("*.", "expected a host name of 1 to 253 bytes")
	host("a.*.b", "expected * alone or as *. at the start")
	host("a..b", "expected labels of 1 to 63 bytes between the dots")
	host("a/b", "expected letters, digits, - and _ (other names in their xn-- form)")
	host("bücher.de", "expected letters, digits, - and _ (other names in their xn-- form)")

	route(`match: { methods: [get, "G T", FOO], headers: { "a b": x, C: "~[" }, query: { d: "~(" } }`, `
f:5:23: routes[0].match.methods[0]: expected GET (methods are case-sensitive), got "get"
f:5:28: routes[0].match.methods[1]: expected a method such as GET, got "G T"
`+"f:5:59: routes[0].match.headers.\"a b\": expected a name before the colon\n"+
		"f:5:65: routes[0].match.headers.C: expected a regular expression after ~: error parsing regexp: missing closing ]: `[`\n"+
		"f:5:85: routes[0].match.query.d: expected a regular expression after ~: error parsing regexp: missing closing ): `(`")
	route(`rewrite: { path: "v2/{x", strip_prefix: a, add_prefix: "/{b}", host: "a b" }`, `
f:5:21: routes[0].rewrite.path: expected either path, or strip_prefix and add_prefix, got both
f:5:21: routes[0].rewrite.path: expected a path that begins with / and holds no blanks, got "v2/{x"
f:5:21: routes[0].rewrite.path: expected braces only around a word such as {host}, got "v2/{x"
f:5:44: routes[0].rewrite.strip_prefix: expected a prefix that begins with / and holds no blanks, got "a"
f:5:59: routes[0].rewrite.add_prefix: expected plain text without ? # { } and *, got "/{b}"
f:5:73: routes[0].rewrite.host: expected a host name, got "a b"
`)
	route(`rewrite: {}`, `f:5:4: routes[0].rewrite: expected at least one of path, strip_prefix, add_prefix and host`)
	route(`request: { headers: { set: { X: "{client_pi}", Host: x }, add: { Transfer-Encoding: x, Y: "{zzzzzzzz}" }, remove: [a b] } }`, `
f:5:36: routes[0].request.headers.set.X: unknown parameter {client_pi}; did you mean {client_ip}?
f:5:57: routes[0].request.headers.set.Host: expected rewrite.host or the upstream's host for the Host header
f:5:88: routes[0].request.headers.add.Transfer-Encoding: expected no header that belongs to the connection, got "Transfer-Encoding"
f:5:94: routes[0].request.headers.add.Y: unknown parameter {zzzzzzzz}; expected one of {client_ip}, {host}, {method}, {path}, {query}, {request_id}, {route}, {scheme}, {uri}
f:5:119: routes[0].request.headers.remove[0]: expected the name of a header, got "a b"
`)
}

func TestGoodPatterns(t *testing.T) {
	f := func(pattern string, want ...string) {
		t.Helper()
		got, err := pathParams(pattern)
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got %q, %v; want %q", pattern, got, err, want)
		}
	}
	f("/")
	f("/*")
	f("/a/*")
	f("/a/..b")
	f("/users/{id}", "id")
	f("/users/{id:[0-9]{3}}/x", "id")
	f("/{a}-{b}.json", "a", "b")
	f("/files/{rest:*}", "rest")
	f("/{year:(?:19|20)[0-9]+}/{m}/*", "year", "m")
	for _, host := range []string{"*", "a", "a.b", "*.a.b", "1.2.3.4", "[::1]", "xn--bcher-kva.de", "a_b"} {
		if err := checkHost(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(&Sources{File: path, Environ: []string{"SLUICE_LOG_LEVEL=loud"}})
	want := path + ": expected a readable file: no such file or directory\n" +
		`SLUICE_LOG_LEVEL: expected one of debug, info, warn, error, got "loud"`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err = Load(&Sources{File: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory as file: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = Load(&Sources{File: pipe}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe as file: %v", err)
	}
}

func TestHeaderNamesWithAMeaning(t *testing.T) {
	f := func(name string, good bool) {
		t.Helper()
		_, err := Parse("f", []byte(minimal+"\nforwarded: { request_id: "+name+" }\n"), nil)
		if good != (err == nil) || err != nil && !strings.Contains(err.Error(), "forwarded.request_id") {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("X-Request-Id", true)
	f("X-Trace", true)
	f(`""`, true)
	f("Content-Length", false)
	f("host", false)
	f("Transfer-Encoding", false)
	f("Sluice-Try", false)
	f("grpc-timeout", false)
}

func TestBounds(t *testing.T) {
	f := func(name, text, want string) {
		t.Helper()
		_, err := Parse("f", []byte(text), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			message := fmt.Sprint(err)
			t.Errorf("%s: got %s, want %s", name, message[:min(len(message), 300)], want)
		}
	}
	f("size", "# "+strings.Repeat("x", maxFileSize), "expected a file of at most 8 MiB")
	f("brackets", strings.Repeat("[", 1<<20), "expected at most 64 levels")
	f("braces", "a: "+strings.Repeat("{a: ", 1<<18), "expected at most 64 levels")
	f("dashes", strings.Repeat("- ", 1<<20), "expected at most 64 levels")
	f("questions", strings.Repeat("? ", 1<<20), "expected at most 64 levels")
	var b strings.Builder
	for i := range 1000 {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	f("indentation", b.String(), "expected at most 64 levels")
	b.Reset()
	for i := range 1 << 17 {
		fmt.Fprintf(&b, "k%d: v\n", i)
	}
	f("keys", b.String(), "expected at most 10000 keys")
	f("keys in braces", "{"+strings.Repeat("a,", 1<<17)+"}", "expected at most 10000 keys")
	f("blank lines", "a: |\n"+strings.Repeat(" \n", 1<<18), "f:102:1: expected at most 100 blank lines")
	f("words", "a: ["+strings.Repeat("1,", 1<<20)+"]", "expected a file of at most 524288 words")
	b.Reset()
	for i := range 1000 {
		fmt.Fprintf(&b, "k%d: v\n", i)
	}
	f("mistakes", b.String(), "... and 901 more")
	f("long values", "log: { level: "+strings.Repeat("x", 1<<20)+" }", "xxx...")

	b.Reset()
	b.WriteString("routes:\n  - { name: r, redirect: /, match: { methods: &m [" + strings.Repeat("A,", 20_000) + "] } }\n")
	for range 100 {
		b.WriteString("  - { name: r, redirect: /, match: { methods: *m } }\n")
	}
	f("alias bomb", b.String(), "expected at most 524288 values after aliases are expanded")
}

// A list is not a mapping: its length is bounded only by the file.
func TestManyRoutes(t *testing.T) {
	var b strings.Builder
	b.WriteString("upstreams: { a: \"http://a:1\" }\nroutes:\n")
	const many = 12_000
	for i := range many {
		fmt.Fprintf(&b, "- name: r%d\n  match: {path: /%d, host: a.b}\n  upstream: a\n", i, i)
	}
	b.WriteString("log: { level: debug }\n")
	if cfg := mustParse(t, b.String(), nil); len(cfg.Routes) != many {
		t.Errorf("got %d routes", len(cfg.Routes))
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(string(example))
	f.Add(minimal)
	f.Add("a: &a [*a]\n<<: *a\n? b\n: !!str c\n---\n")
	f.Add("upstreams: {a: \"${A}\", b: '${file:/nonexistent}', c: $${A}}\nroutes: [{name: \"\\n\", match: \"/{a:[}\"}]\n")
	f.Add("listen: [\":1\", \"unix:/x\", {tls: {}}]\nserver: {max_header: 1e9KiB}\n")
	f.Add("log:\n\t- x\n")
	src := &Sources{Environ: []string{"A=hunter2hunter2"}}
	f.Fuzz(func(t *testing.T, text string) {
		// What a file names may exist on the machine that fuzzes.
		if strings.Contains(text, "file:") && !strings.Contains(text, "file:/nonexistent") {
			t.Skip()
		}
		cfg, err := Parse("f", []byte(text), src)
		if err != nil {
			var mistakes *Mistakes
			if !errors.As(err, &mistakes) || len(mistakes.List) == 0 || len(mistakes.List) > maxMistakes {
				t.Fatalf("%T: %v", err, err)
			}
			for _, m := range mistakes.List {
				if !strings.HasPrefix(m.Where, "f") || m.Expected == "" || strings.Contains(m.String(), "\n") {
					t.Errorf("mistake without a place or an expectation, or on two lines: %q", m)
				}
				if strings.Contains(m.Expected, "hunter2hunter2") && !strings.Contains(text, "hunter2") {
					t.Errorf("the mistake shows the secret: %s", m)
				}
			}
			return
		}
		shown := Redacted(cfg)
		if strings.Contains(string(shown), "hunter2hunter2") && !strings.Contains(text, "hunter2") {
			t.Errorf("the secret is shown:\n%s", shown)
		}
		if again, err := Parse("again", shown, src); err != nil {
			if !strings.Contains(string(shown), "***") && !strings.Contains(string(shown), "${") {
				t.Errorf("what was printed does not load: %v\n%s", err, shown)
			}
		} else if again.Hash() != cfg.Hash() && !strings.Contains(string(shown), "***") && !strings.Contains(text, "${") {
			t.Errorf("what was printed is not what was read:\n%s", shown)
		}
	})
}
