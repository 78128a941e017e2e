package proxy_test

import (
	"regexp"
	"strings"
	"testing"
)

// seenBy returns the head that a backend sees of a request, which goes out as
// given, on a gateway with the configuration more.
func seenBy(t *testing.T, request string, more ...string) string {
	t.Helper()
	e := startEdge(t, forwardTo(startOrigin(t, headBack), more...))
	a := e.dial().send(request).response("GET")
	if a.StatusCode != 200 {
		t.Fatalf("%d: %s", a.StatusCode, a.body)
	}
	return strings.ReplaceAll(a.body, "\r\n", "\n")
}

const quiet = "forwarded: { underscores: true, via: false, x_forwarded: false, request_id: \"\", traceparent: false }\n"
const trusting = "forwarded: { trusted: [127.0.0.1/32, 10.0.0.0/8, \"fd00::/8\"] }\n"

func TestRequestHeaderKeepsBytes(t *testing.T) {
	// With nothing of its own to say the gateway sends what it was sent.
	request := "GET /a?b=%7e HTTP/1.1\n" +
		"hOsT: Example.COM:81\n" +
		"accept: */*\n" +
		"X-One: 1\n" +
		"x-one: 2\n" +
		"X-ONE: 1\n" +
		"X-Empty: \n" +
		"cOOkie: a=b; c=\"d e\"\n" +
		"X-Tab: a\tb  c\n" +
		"X-Utf: é\xff\n" +
		"Authorization: Basic eA==\n" +
		"!#$%&'*+-.^_`|~: token\n" +
		"Z: last\n"
	if got := seenBy(t, request+"\n", quiet); got != request {
		t.Errorf("got\n%s\nwant\n%s", got, request)
	}
}

func TestResponseHeaderKeepsBytes(t *testing.T) {
	answer := "HTTP/1.1 242 Own  Words\n" +
		"sErver: b\n" +
		"set-cookie: a=1; Path=/\n" +
		"X-A: 1\n" +
		"Set-Cookie: b=2, c; HttpOnly\n" +
		"SET-COOKIE: a=1; Path=/\n" +
		"x-a: 2\n" +
		"X-Empty: \n" +
		"date: Tue, 15 Nov 1994 08:12:31 GMT\n" +
		"content-length: 0\n" +
		"X-Utf: é\xff\n"
	o := startOrigin(t, answering(func(string, string) string { return answer + "\n" }))
	e := startEdge(t, forwardTo(o, quiet))
	if got := e.dial().send("GET / HTTP/1.1\nHost: x\n\n").head(); got != answer {
		t.Errorf("got\n%s\nwant\n%s", got, answer)
	}
}

func TestHopByHopRequest(t *testing.T) {
	got := seenBy(t, "GET / HTTP/1.1\nHost: x\n"+
		"Connection: keep-alive, X-Drop ,x-drop-too\n"+
		"Connection: X-Third\n"+
		"X-Drop: 1\nX-DROP-TOO: 2\nx-third: 3\nx-drop: 4\n"+
		"Keep-Alive: timeout=5\nProxy-Connection: keep-alive\n"+
		"TE: gzip\nProxy-Authorization: Basic x\nProxy-Authenticate: Basic\n"+
		"HTTP2-Settings: x\nTrailer: X-T\n"+
		"X-Keep: 1\n\n", quiet)
	if want := "GET / HTTP/1.1\nHost: x\nX-Keep: 1\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestConnectionNamesEndToEnd(t *testing.T) {
	// A client must not be able to take these away by naming them.
	got := seenBy(t, "GET / HTTP/1.1\nHost: x\n"+
		"Connection: close, Host, Authorization, Cookie, X-Forwarded-For, Content-Type, Cache-Control\n"+
		"Authorization: a\nCookie: b=c\nContent-Type: d\nCache-Control: no-store\n\n")
	for _, name := range []string{"Host", "Authorization", "Cookie", "X-Forwarded-For", "Content-Type", "Cache-Control"} {
		value(t, got, name)
	}
	if l := fieldLines(got, "Connection"); l != nil {
		t.Errorf("Connection reached the backend: %q", l)
	}
}

func TestHopByHopResponse(t *testing.T) {
	o := startOrigin(t, answering(func(string, string) string {
		return "HTTP/1.1 200 OK\nConnection: keep-alive, X-Drop\nX-Drop: 1\nKeep-Alive: timeout=5\n" +
			"Proxy-Connection: x\nUpgrade: h2c\nTrailer: X-T\nX-Keep: 1\nContent-Length: 0\n\n"
	}))
	e := startEdge(t, forwardTo(o, quiet))
	for range 2 {
		a := e.get("/")
		if got, want := strings.Join(strings.Split(a.head, "\n")[1:3], "|"), "X-Keep: 1|Content-Length: 0"; got != want {
			t.Errorf("got %q of\n%s", got, a.head)
		}
		for _, name := range []string{"Connection", "X-Drop", "Keep-Alive", "Proxy-Connection", "Upgrade", "Trailer"} {
			if l := fieldLines(a.head, name); l != nil {
				t.Errorf("%q reached the client", l)
			}
		}
	}
}

func TestTETrailers(t *testing.T) {
	got := seenBy(t, "GET / HTTP/1.1\nHost: x\nConnection: TE\nTE: gzip;q=0.5, trailers\n\n", quiet)
	if v := value(t, got, "TE"); v != "trailers" {
		t.Errorf("TE: %q", v)
	}
	if v := value(t, got, "Connection"); v != "TE" {
		t.Errorf("Connection: %q", v)
	}
}

func TestForwardedFor(t *testing.T) {
	f := func(more, fields string, want ...string) {
		t.Helper()
		t.Run("", func(t *testing.T) {
			t.Helper()
			got := seenBy(t, "GET / HTTP/1.1\nHost: pub.example\n"+fields+"\n", more)
			var list []string
			for _, line := range strings.Split(got, "\n") {
				name, _, _ := strings.Cut(line, ":")
				switch strings.ToLower(name) {
				case "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded":
					list = append(list, line)
				}
			}
			if strings.Join(list, "\n") != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
			}
		})
	}
	own := []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: pub.example"}
	forged := "X-Forwarded-For: 6.6.6.6\nx-forwarded-for: 7.7.7.7\nX-Forwarded-Proto: https\nX-Forwarded-Host: evil\n" +
		"X-Forwarded-Port: 443\nX-Real-IP: 6.6.6.6\nForwarded: for=6.6.6.6\n"
	f("", "", own...)
	// Nobody forges an address.
	f("", forged, own...)
	f("forwarded: { x_forwarded: false }", forged)
	f("forwarded: { forwarded: true }", forged, append(own, `Forwarded: for=127.0.0.1;host="pub.example";proto=http;by=_sluice`)...)
	f("forwarded: { forwarded: true, x_forwarded: false, pseudonym: gw }", "", `Forwarded: for=127.0.0.1;host="pub.example";proto=http;by=_gw`)
	// A trusted hop is believed and added to.
	f(trusting, forged, "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 443", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6",
		"X-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1")
	f(trusting, "X-Forwarded-For: \n", own...)
	f(trusting, "X-Forwarded-For: 2001:db8::1\n", "X-Forwarded-For: 2001:db8::1, 127.0.0.1", own[1], own[2])
	f("forwarded: { forwarded: true, x_forwarded: false, trusted: [127.0.0.1] }", "Forwarded: for=1.1.1.1;proto=https\n",
		"Forwarded: for=1.1.1.1;proto=https", `Forwarded: for=127.0.0.1;host="pub.example";proto=http;by=_sluice`)
	f("forwarded: { x_forwarded: false, trusted: [127.0.0.1] }", "X-Forwarded-For: 1.1.1.1\n", "X-Forwarded-For: 1.1.1.1")
}

// TestCaller checks whom the gateway takes for the client, by the template
// {client_ip}.
func TestCaller(t *testing.T) {
	config := func(trusted string) string {
		o := startOrigin(t, headBack)
		return "forwarded: { trusted: [" + trusted + "] }\nupstreams: { main: \"" + o.url() + "\" }\n" +
			"routes: [ { name: all, upstream: main, request: { headers: { set: { X-Caller: \"{client_ip}\" } } } } ]\n"
	}
	untrusting := startEdge(t, config(""))
	trust := startEdge(t, config(`127.0.0.1, 10.0.0.0/8, "fd00::/8"`))
	f := func(e *edge, want string, fields ...string) {
		t.Helper()
		a := e.get("/", fields...)
		if got := value(t, strings.ReplaceAll(a.body, "\r\n", "\n"), "X-Caller"); got != want {
			t.Errorf("%q: caller %s, want %s", fields, got, want)
		}
	}
	f(untrusting, "127.0.0.1")
	f(untrusting, "127.0.0.1", "X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Caller: 6.6.6.6")
	f(trust, "127.0.0.1")
	f(trust, "1.2.3.4", "X-Forwarded-For: 1.2.3.4")
	f(trust, "1.2.3.4", "X-Forwarded-For: 6.6.6.6, 1.2.3.4")
	f(trust, "1.2.3.4", "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1")
	f(trust, "1.2.3.4", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4, 10.2.2.2", "X-Forwarded-For: 10.1.1.1")
	f(trust, "10.3.3.3", "X-Forwarded-For: 10.3.3.3, 10.2.2.2")
	f(trust, "1.2.3.4", "X-Forwarded-For: 1.2.3.4:5678")
	f(trust, "2001:db8::1", "X-Forwarded-For: 2001:db8::1")
	f(trust, "2001:db8::1", "X-Forwarded-For: [2001:db8::1]:443, fd00::2")
	f(trust, "2001:db8::1", "X-Forwarded-For: [2001:db8::1]")
	f(trust, "1.2.3.4", "X-Forwarded-For: ::ffff:1.2.3.4")
	// What is malformed vouches for nothing before it.
	f(trust, "10.1.1.1", "X-Forwarded-For: 1.2.3.4, unknown, 10.1.1.1")
	f(trust, "10.1.1.1", "X-Forwarded-For: 1.2.3.4, 1.2.3, 10.1.1.1")
	f(trust, "127.0.0.1", "X-Forwarded-For: 1.2.3.4, ")
	f(trust, "127.0.0.1", "X-Forwarded-For: <script>")
	f(trust, "127.0.0.1", "X-Forwarded-For: 1.2.3.4\\, 5.6.7.8\"")
	// Forwarded, where there is no X-Forwarded-For.
	f(trust, "1.2.3.4", "Forwarded: for=6.6.6.6, for=1.2.3.4;proto=http;by=10.0.0.1")
	f(trust, "1.2.3.4", "forwarded: proto=https; FOR=\"1.2.3.4:99\"")
	f(trust, "2001:db8::1", `Forwarded: for="[2001:db8::1]:4711", for=10.1.1.1`)
	f(trust, "1.2.3.4", "Forwarded: for=6.6.6.6", "X-Forwarded-For: 1.2.3.4")
	f(trust, "10.1.1.1", "Forwarded: for=1.2.3.4, for=_hidden, for=10.1.1.1")
	f(trust, "10.1.1.1", "Forwarded: for=1.2.3.4, for=unknown, for=10.1.1.1")
	f(trust, "127.0.0.1", "Forwarded: proto=https")
}

func TestVia(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		if strings.HasPrefix(head, "GET /old") {
			return "HTTP/1.0 200 OK\nContent-Length: 0\nVia: 1.0 old\n\n"
		}
		return "HTTP/1.1 200 OK\nVia: 1.1 behind\nX-Seen: " + strings.Join(fieldLines(head, "Via"), "|") + "\nContent-Length: 0\n\n"
	}))
	e := startEdge(t, forwardTo(o, "forwarded: { pseudonym: gw }"))
	a := e.get("/", "via: 1.1 before")
	if got := value(t, a.head, "X-Seen"); got != "via: 1.1 before|Via: 1.1 gw" {
		t.Errorf("the backend saw %q", got)
	}
	if got := strings.Join(fieldLines(a.head, "Via"), "|"); got != "Via: 1.1 behind|Via: 1.1 gw" {
		t.Errorf("the client saw %q", got)
	}
	// The protocol is that of the message received (RFC 9110 7.6.3).
	w := e.dial().send("GET / HTTP/1.0\n\n")
	if got := value(t, w.response("GET").head, "X-Seen"); got != "Via: 1.0 gw" {
		t.Errorf("from HTTP/1.0 the backend saw %q", got)
	}
	if got := strings.Join(fieldLines(e.get("/old").head, "Via"), "|"); got != "Via: 1.0 old|Via: 1.0 gw" {
		t.Errorf("of HTTP/1.0 the client saw %q", got)
	}
	// A loop ends.
	if a := e.get("/", "Via: "+strings.Repeat("1.1 gw, ", 30)+"1.1 x"); a.StatusCode != 508 {
		t.Errorf("loop: %d", a.StatusCode)
	}
}

var hexID = regexp.MustCompile(`^[0-9a-f]{32}$`)

func TestRequestID(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		return "HTTP/1.1 200 OK\nX-Request-Id: of-backend\nX-Seen: " + strings.Join(append(fieldLines(head, "X-Request-Id"), fieldLines(head, "Req")...), "|") + "\nContent-Length: 0\n\n"
	}))
	f := func(e *edge, name, given, want string) {
		t.Helper()
		var fields []string
		if given != "" {
			fields = []string{given}
		}
		a := e.get("/", fields...)
		id := value(t, a.head, name)
		if seen := value(t, a.head, "X-Seen"); seen != name+": "+id {
			t.Errorf("%q: the backend saw %q, the client %q", given, seen, id)
		}
		if want == "" && !hexID.MatchString(id) || want != "" && id != want {
			t.Errorf("%q: id %q", given, id)
		}
	}
	e := startEdge(t, forwardTo(o))
	f(e, "X-Request-Id", "", "")
	f(e, "X-Request-Id", "x-request-id: forged", "")
	e = startEdge(t, forwardTo(o, trusting))
	f(e, "X-Request-Id", "", "")
	f(e, "X-Request-Id", "x-request-id: abc-DEF_1.2:3=+/", "abc-DEF_1.2:3=+/")
	f(e, "X-Request-Id", `X-Request-Id: a"b`, "")
	f(e, "X-Request-Id", "X-Request-Id: a b", "")
	f(e, "X-Request-Id", "X-Request-Id: "+strings.Repeat("a", 128), strings.Repeat("a", 128))
	f(e, "X-Request-Id", "X-Request-Id: "+strings.Repeat("a", 129), "")
	o2 := startOrigin(t, answering(func(head, _ string) string {
		return "HTTP/1.1 200 OK\nreq: of-backend\nX-Seen: " + strings.Join(fieldLines(head, "Req"), "|") + "\nContent-Length: 0\n\n"
	}))
	e = startEdge(t, forwardTo(o2, "forwarded: { request_id: Req, trusted: [127.0.0.1] }"))
	f(e, "Req", "req: mine", "mine")
	f(e, "Req", "", "")
	// Two ids are none.
	a := startEdge(t, forwardTo(o, trusting)).get("/", "X-Request-Id: one", "X-Request-Id: two")
	if l := fieldLines(a.head, "X-Request-Id"); len(l) != 1 {
		t.Errorf("got %q", l)
	}
}

func TestTraceparent(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	fresh := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-9a-f]$`)
	f := func(more, fields, wantParent, wantState string) {
		t.Helper()
		t.Run("", func(t *testing.T) {
			t.Helper()
			got := seenBy(t, "GET / HTTP/1.1\nHost: x\n"+fields+"\n", more)
			p := value(t, got, "traceparent")
			if wantParent == "" && (!fresh.MatchString(p) || strings.Contains(p, "0af7651916cd43dd8448eb211c80319c")) || wantParent != "" && p != wantParent {
				t.Errorf("%q: traceparent %q", fields, p)
			}
			if s := strings.Join(fieldLines(got, "tracestate"), "|"); s != wantState {
				t.Errorf("%q: tracestate %q, want %q", fields, s, wantState)
			}
		})
	}
	f("", "", "", "")
	f("", "traceparent: "+parent+"\ntracestate: a=b\n", "", "")
	f(trusting, "", "", "")
	f(trusting, "Traceparent: "+parent+"\ntracestate: a=b\nTraceState: c=d\n", parent, "tracestate: a=b|TraceState: c=d")
	f(trusting, "tracestate: a=b\ntraceparent: "+parent+"\n", parent, "tracestate: a=b")
	// An invalid parent begins a new trace, to which the old state does not belong.
	f(trusting, "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\ntracestate: a=b\n", "", "")
	f(trusting, "tracestate: a=b\ntraceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n", "", "")
	f(trusting, "traceparent: garbage\n", "", "")
	f(trusting, "tracestate: a=b\n", "", "")
	f(trusting, "traceparent: "+parent+"\ntraceparent: "+strings.Replace(parent, "0af7", "1af7", 1)+"\n", "", "")
}

func TestHost(t *testing.T) {
	o := startOrigin(t, headBack)
	config := func(upstream, route string) string {
		return "upstreams: { main: { targets: [\"" + o.url() + "\"]" + upstream + " } }\nroutes: [ { name: all, match: \"/*\", upstream: main" + route + " } ]\n"
	}
	f := func(e *edge, request, wantHost, wantLine string) {
		t.Helper()
		a := e.dial().send(request).response("GET")
		got := strings.ReplaceAll(a.body, "\r\n", "\n")
		if h := value(t, got, "Host"); h != wantHost {
			t.Errorf("%q: Host %q, want %q", request, h, wantHost)
		}
		if line, _, _ := strings.Cut(got, "\n"); line != wantLine {
			t.Errorf("%q: %q, want %q", request, line, wantLine)
		}
	}
	e := startEdge(t, config("", ""))
	f(e, "GET /a HTTP/1.1\nHost: Pub.example:81\n\n", "Pub.example:81", "GET /a HTTP/1.1")
	f(e, "GET /a HTTP/1.0\n\n", o.addr(), "GET /a HTTP/1.1")
	f(e, "GET /a HTTP/1.0\nHost: h\n\n", "h", "GET /a HTTP/1.1")
	// The authority of an absolute-form target wins (RFC 9112 3.2.2).
	f(e, "GET http://real.example/a?b HTTP/1.1\nHost: other\n\n", "real.example", "GET /a?b HTTP/1.1")
	f(e, "GET HTTP://real.example:8080 HTTP/1.1\nHost: other\n\n", "real.example:8080", "GET / HTTP/1.1")
	f(e, "GET http://real.example?q HTTP/1.1\nHost: other\n\n", "real.example", "GET /?q HTTP/1.1")
	f(e, "OPTIONS * HTTP/1.1\nHost: x\n\n", "x", "OPTIONS * HTTP/1.1")
	f(e, "OPTIONS http://real.example HTTP/1.1\nHost: x\n\n", "real.example", "OPTIONS * HTTP/1.1")
	f(startEdge(t, config(", host: target", "")), "GET /a HTTP/1.1\nHost: x\n\n", o.addr(), "GET /a HTTP/1.1")
	f(startEdge(t, config(", host: backend.internal", "")), "GET /a HTTP/1.1\nHost: x\n\n", "backend.internal", "GET /a HTTP/1.1")
	f(startEdge(t, config("", ", rewrite: { host: \"{host}.internal\" }")), "GET /a HTTP/1.1\nHost: x\n\n", "x.internal", "GET /a HTTP/1.1")
	e = startEdge(t, config("", ", rewrite: { add_prefix: /v1 }"))
	f(e, "OPTIONS * HTTP/1.1\nHost: x\n\n", "x", "OPTIONS * HTTP/1.1")
}

func TestMaxForwards(t *testing.T) {
	o := startOrigin(t, headBack)
	e := startEdge(t, forwardTo(o))
	// RFC 9110 7.6.2: with 0 left we are the final recipient.
	a := e.ask("OPTIONS", "/", "Max-Forwards: 0")
	if a.StatusCode/100 != 2 || o.connections() != 0 {
		t.Errorf("0: %d, backend asked: %v", a.StatusCode, o.connections() > 0)
	}
	if a := e.ask("OPTIONS", "/", "max-forwards: 3"); !strings.Contains(a.body, "max-forwards: 2\r\n") {
		t.Errorf("3: %s", a.body)
	}
	if a := e.get("/", "Max-Forwards: 3"); !strings.Contains(a.body, "Max-Forwards: 3\r\n") {
		t.Errorf("GET: %s", a.body)
	}
	if a := e.ask("TRACE", "/"); a.StatusCode != 405 {
		t.Errorf("TRACE: %d", a.StatusCode)
	}
}

func TestHeaderEdits(t *testing.T) {
	o := startOrigin(t, answering(func(head, _ string) string {
		return "HTTP/1.1 200 OK\nX-Set: old\nx-set: old2\nX-Gone: 1\nX-Add: 1\nX-Stay: 1\nServer: s\nx-body: " +
			strings.ReplaceAll(strings.TrimSuffix(head, "\n"), "\n", "|") + "\nContent-Length: 0\n\n"
	}))
	e := startEdge(t, quiet+"upstreams: { main: \""+o.url()+"\" }\nroutes:\n- name: edit\n  match: \"/u/{id}/{rest:*}\"\n  upstream: main\n"+
		"  request: { headers: { set: { X-Set: \"{id}|{method}|{host}|{path}|{query}|{scheme}|{route}|{rest}\", Cookie: fixed }, add: { X-Add: two }, remove: [x-gone, Authorization] } }\n"+
		"  response: { headers: { set: { X-Set: \"new {id}\" }, add: { X-Add: \"2\" }, remove: [X-GONE, server] } }\n")
	a := e.get("/u/7/a/b?q=1", "X-Set: a", "x-SET: b", "X-Gone: g", "X-Add: one", "Authorization: secret", "Cookie: c=d", "X-Stay: s")
	if got, want := value(t, a.head, "x-body"), "GET /u/7/a/b?q=1 HTTP/1.1|Host: test|X-Add: one|X-Stay: s|Cookie: fixed|X-Set: 7|GET|test|/u/7/a/b|q=1|http|edit|a/b|X-Add: two"; got != want {
		t.Errorf("request: got\n%s\nwant\n%s", got, want)
	}
	for name, want := range map[string]string{"X-Set": "X-Set: new 7", "X-Gone": "", "Server": "", "X-Add": "X-Add: 1|X-Add: 2", "X-Stay": "X-Stay: 1"} {
		if got := strings.Join(fieldLines(a.head, name), "|"); got != want {
			t.Errorf("response: %q, want %q", got, want)
		}
	}
}

// TestEditsOfOwnLines checks that set replaces, and remove removes, what the
// gateway itself has to say, not only what the other side said.
func TestEditsOfOwnLines(t *testing.T) {
	o := startOrigin(t, headBack)
	e := startEdge(t, "upstreams: { main: \""+o.url()+"\" }\nroutes:\n- name: edit\n  match: \"/*\"\n  upstream: main\n"+
		"  request: { headers: { set: { X-Forwarded-Proto: https, Via: own }, remove: [X-Forwarded-Host, traceparent] } }\n"+
		"  response: { headers: { set: { Date: never }, remove: [Via, X-Request-Id] } }\n"+
		"- name: fixed\n  match: /fixed\n  respond: { body: \"{}\" }\n  response: { headers: { set: { Content-Type: application/json } } }\n")
	a := e.get("/")
	seen := strings.ReplaceAll(a.body, "\r\n", "\n")
	for name, want := range map[string]string{"X-Forwarded-Proto": "X-Forwarded-Proto: https", "Via": "Via: own", "X-Forwarded-Host": "", "traceparent": "", "X-Forwarded-For": "X-Forwarded-For: 127.0.0.1"} {
		if got := strings.Join(fieldLines(seen, name), "|"); got != want {
			t.Errorf("request: %q, want %q", got, want)
		}
	}
	for name, want := range map[string]string{"Date": "Date: never", "Via": "", "X-Request-Id": ""} {
		if got := strings.Join(fieldLines(a.head, name), "|"); got != want {
			t.Errorf("response: %q, want %q", got, want)
		}
	}
	if got := strings.Join(fieldLines(e.get("/fixed").head, "Content-Type"), "|"); got != "Content-Type: application/json" {
		t.Errorf("respond: %q", got)
	}
}

func TestTemplatesCannotInject(t *testing.T) {
	o := startOrigin(t, headBack)
	e := startEdge(t, quiet+"upstreams: { main: \""+o.url()+"\" }\nroutes:\n"+
		"- { name: set, match: \"/set/{x}\", upstream: main, request: { headers: { set: { X-Set: \"{x}\" } } }, response: { headers: { set: { X-Set: \"{x}{query}\" } } } }\n"+
		"- { name: path, match: \"/path/{x}\", upstream: main, rewrite: { path: \"/v2/{x}/{query}\" } }\n"+
		"- { name: go, match: \"/go/{x}\", redirect: \"http://{host}/{x}?{query}\" }\n")
	for _, x := range []string{"%0d%0aX-Evil:%201", "%0D%0A%0D%0AGET%20%2Fevil%20HTTP%2F1.1", "%20", "%0a", "%e2%80%a8"} {
		for _, prefix := range []string{"/set/", "/path/", "/go/"} {
			a := e.get(prefix + x + "?q=%0d%0aX-Evil:1")
			head, body := strings.ToLower(a.head), strings.ToLower(a.body)
			if strings.Contains(head+body, "\nx-evil") || strings.Contains(body, "\nget ") {
				t.Errorf("%s%s: injected\n%s\n%s", prefix, x, a.head, a.body)
			}
			if a.StatusCode >= 400 {
				t.Errorf("%s%s: %d", prefix, x, a.StatusCode)
			}
		}
	}
}

func TestNothingInvented(t *testing.T) {
	answer := ""
	o := startOrigin(t, answering(func(string, string) string { return answer }))
	e := startEdge(t, forwardTo(o, quiet))
	date := regexp.MustCompile(`^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$`)
	f := func(method, given string, want string) {
		t.Helper()
		answer = given
		a := e.ask(method, "/")
		var names []string
		for _, line := range strings.Split(strings.TrimSuffix(a.head, "\n"), "\n")[1:] {
			name, _, _ := strings.Cut(line, ":")
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s %q: got %q, want %q", method, given, got, want)
		}
		if len(fieldLines(given, "Date")) == 0 {
			if d := value(t, a.head, "Date"); !date.MatchString(d) {
				t.Errorf("Date: %q", d)
			}
		}
	}
	f("GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "Content-Length Date")
	f("GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "Content-Length Date")
	f("GET", "HTTP/1.1 200 OK\ndate: x\nContent-Length: 0\n\n", "date Content-Length")
	f("GET", "HTTP/1.1 204 No Content\n\n", "Date")
	f("GET", "HTTP/1.1 204 No Content\nContent-Length: 0\n\n", "Date")
	f("GET", "HTTP/1.1 304 Not Modified\nETag: x\nContent-Length: 99\n\n", "ETag Content-Length Date")
	f("HEAD", "HTTP/1.1 200 OK\nContent-Length: 99\nContent-Type: a/b\n\n", "Content-Length Content-Type Date")
	f("HEAD", "HTTP/1.1 200 OK\n\n", "Date")
	f("GET", "HTTP/1.1 404 \nContent-Length: 0\n\n", "Content-Length Date")
}

// A name with an underscore is another spelling of one with a hyphen to many
// backends, so it does not pass unless it is asked for.
func TestUnderscores(t *testing.T) {
	const request = "GET / HTTP/1.1\nHost: x\nX_Forwarded_For: 1.1.1.1\nX-Other: 1\n\n"
	for setting, want := range map[string]bool{"": false, "forwarded: { underscores: true }\n": true} {
		got := seenBy(t, request, setting)
		if strings.Contains(got, "X_Forwarded_For: 1.1.1.1") != want || !strings.Contains(got, "X-Other: 1") {
			t.Errorf("%q: forwarded, want %t:\n%s", setting, want, got)
		}
	}
}

// The whole X-Forwarded family is for trusted hops: backends take some of it
// for a login. It passes neither in the head nor in a trailer.
func TestForwardedFamily(t *testing.T) {
	const request = "GET / HTTP/1.1\nHost: x\nX-Forwarded-User: root\nX-Forwarded-Prefix: /evil\nX-Other: 1\n\n"
	for setting, want := range map[string]bool{"": false, "forwarded: { trusted: [127.0.0.1] }\n": true} {
		got := seenBy(t, request, setting)
		if strings.Contains(got, "X-Forwarded-User: root") != want || strings.Contains(got, "X-Forwarded-Prefix") != want || !strings.Contains(got, "X-Other: 1") {
			t.Errorf("%q: forwarded, want %t:\n%s", setting, want, got)
		}
	}
}
