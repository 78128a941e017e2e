package proxy_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/fault"
)

const sharedSecret = "a secret that both sides of this test share"

// signed is a token of who with these further claims, HS256.
func signed(t testing.TB, who string, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"sub": who, "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range more {
		claims[name] = v
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"HS256"}`)) + "." + b64(payload)
	mac := hmac.New(sha256.New, []byte(sharedSecret))
	mac.Write([]byte(text))
	return text + "." + b64(mac.Sum(nil))
}

// apiKey is a key and its line for a file of keys.
func apiKey(name, more string) (key, line string) {
	key = "a-key-of-another-system-" + name
	return key, fmt.Sprintf("- { name: %s, hash: \"sha256:%x\"%s }\n", name, sha256.Sum256([]byte(key)), more)
}

// guarded is a gateway whose routes ask who calls, and a backend that answers
// with the head that it got.
func guarded(t testing.TB, more string) (e *edge, key string) {
	t.Helper()
	dir := t.TempDir()
	key, line := apiKey("acme", ", scopes: [read], metadata: { plan: gold }")
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	o := startOrigin(t, headBack)
	e = startEdge(t, `
auth:
  tokens: { jwt: { secret: "`+sharedSecret+`", query: token }, headers: { X-User: sub, X-Tenant: tenant } }
  keys: { api_key: { file: "`+keys+`" } }
  cookies: { jwt: { secret: "`+sharedSecret+`", header: "", cookie: session } }
  kept: { jwt: { secret: "`+sharedSecret+`" }, forward_credential: true }
auth_failures: { rate: 60/h, burst: 1000 }
limits: { few: { rate: 1/h, burst: 2, key: "claim:sub|ip", plans: { gold: 3/h }, plan_by: "claim:plan" } }
upstreams: { main: "`+o.url()+`" }
routes:
  - { name: open, match: /open, upstream: main }
  - { name: token, match: /token, auth: tokens, upstream: main }
  - { name: any, match: /any, auth: [tokens, keys], upstream: main }
  - { name: both, match: /both, auth: tokens+keys, upstream: main }
  - { name: optional, match: /optional, auth: { any: [tokens], optional: true }, upstream: main }
  - { name: optionalBoth, match: /optionalBoth, auth: { any: [tokens+keys], optional: true }, upstream: main }
  - { name: cookie, match: /cookie, auth: cookies, upstream: main }
  - { name: kept, match: /kept, auth: kept, upstream: main }
  - { name: scope, match: /scope, auth: [tokens, keys], require: { scope: read }, upstream: main }
  - { name: limited, match: /limited, auth: tokens, limit: few, upstream: main }
  - { name: claims, match: /claims, auth: tokens, upstream: main, request: { headers: { set: { X-Sub: "claim:sub", X-Both: "{claim:sub}@{claim:none}", X-None: "claim:none" } } } }
  - { name: path, match: /path, auth: tokens, upstream: main, rewrite: { path: "/of/{claim:sub}" } }
`+more)
	return e, key
}

// sent are the lines of the request that the backend got.
func sent(t testing.TB, a *answer) string {
	t.Helper()
	if a.StatusCode != 200 {
		t.Fatalf("%s: %s", a.Status, a.body)
	}
	return strings.ReplaceAll(a.body, "\r\n", "\n")
}

func TestWhoMayCall(t *testing.T) {
	e, key := guarded(t, "")
	ann := "Authorization: Bearer " + signed(t, "ann", map[string]any{"scope": "read write", "tenant": "t1"})
	bob := "Authorization: Bearer " + signed(t, "bob", nil)
	bad := ann[:len(ann)-2] + "AA"
	for _, c := range []struct {
		path   string
		fields []string
		status int
	}{
		{"/open", nil, 200},
		{"/token", nil, 401},
		{"/token", []string{ann}, 200},
		{"/token", []string{bad}, 401},
		{"/token", []string{ann, bob}, 401},
		{"/token", []string{"Authorization: Basic YTpi"}, 401},
		{"/token", []string{"Authorization: Bearer"}, 401},
		{"/any", []string{"X-API-Key: " + key}, 200},
		{"/any", []string{ann}, 200},
		{"/any", []string{bad, "X-API-Key: " + key}, 200},
		{"/any", []string{"X-API-Key: " + key + "x"}, 401},
		{"/both", []string{ann}, 401},
		{"/both", []string{"X-API-Key: " + key}, 401},
		{"/both", []string{ann, "X-API-Key: " + key}, 200},
		{"/optional", nil, 200},
		{"/optional", []string{bad}, 401},
		{"/optionalBoth", nil, 200},
		{"/optionalBoth", []string{ann}, 401},
		{"/optionalBoth", []string{"X-API-Key: " + key}, 401},
		{"/optionalBoth", []string{"X-API-Key: wrong-and-long-enough"}, 401},
		{"/scope", []string{ann}, 200},
		{"/scope", []string{bob}, 403},
		{"/scope", []string{"X-API-Key: " + key}, 200},
		{"/cookie", []string{"Cookie: a=b; session=" + signed(t, "ann", nil)}, 200},
		{"/cookie", []string{"Cookie: session=" + signed(t, "ann", nil) + "; session=x"}, 401},
		{"/token?token=" + signed(t, "ann", nil), nil, 200},
		{"/token?token=" + signed(t, "ann", nil), []string{ann}, 401},
	} {
		for range 2 { // proven, then remembered
			a := e.get(c.path, c.fields...)
			if a.StatusCode != c.status {
				t.Errorf("%s %.60q: %s, want %d", c.path, c.fields, a.Status, c.status)
				continue
			}
			switch c.status {
			case 401:
				wantProblem(t, a, fault.Unauthenticated)
				if len(fieldLines(a.head, "WWW-Authenticate")) == 0 && c.path != "/any" {
					t.Errorf("%s %.60q: no WWW-Authenticate", c.path, c.fields)
				}
			case 403:
				wantProblem(t, a, fault.Forbidden)
				if got := a.Header.Get("WWW-Authenticate"); got != `Bearer realm="tokens", error="insufficient_scope", scope="read"` {
					t.Errorf("WWW-Authenticate: %s", got)
				}
			}
		}
	}
	if got := e.get("/token", bad).Header.Get("WWW-Authenticate"); got != `Bearer realm="tokens", error="invalid_token"` {
		t.Errorf("WWW-Authenticate: %s", got)
	}
}

// The target sees who calls, by the gateway's word alone, and no credential.
func TestWhatTheTargetIsTold(t *testing.T) {
	e, key := guarded(t, "")
	token := signed(t, "ann b", map[string]any{"tenant": "t1"})
	ann := "Authorization: Bearer " + token
	has := func(head, line string, want bool) {
		t.Helper()
		if strings.Contains(strings.ToLower(head), strings.ToLower(line)) != want {
			t.Errorf("%q is there: %v, in\n%s", line, !want, head)
		}
	}
	head := sent(t, e.get("/token", ann, "X-User: root", "x-user: root", "X-Tenant: other", "X_User: root"))
	has(head, "X-User: ann b\n", true)
	has(head, "X-Tenant: t1\n", true)
	has(head, "root", false)
	has(head, "other", false)
	has(head, token, false)
	// Nor on a route that asks nobody.
	head = sent(t, e.get("/open", "X-User: root", "X-TENANT: other", "Authorization: Bearer x", "X-Other: y"))
	has(head, "root", false)
	has(head, "other\n", false)
	has(head, "Authorization: Bearer x", true)
	has(head, "X-Other: y", true)
	// A claim that the caller lacks leaves no line.
	head = sent(t, e.get("/token", "Authorization: Bearer "+signed(t, "bob", nil)))
	has(head, "X-Tenant", false)
	head = sent(t, e.get("/claims", ann, "X-None: forged", "X-Sub: forged"))
	has(head, "X-Sub: ann b\n", true)
	has(head, "X-Both: ann b@\n", true)
	has(head, "X-None", false)
	has(head, "forged", false)
	has(sent(t, e.get("/path", "Authorization: Bearer "+signed(t, "../admin?x", nil))), "GET /of/..%2Fadmin%3Fx HTTP/1.1", true)
	has(sent(t, e.get("/kept", ann)), token, true)
	has(sent(t, e.get("/any", "X-API-Key: "+key)), key, false)
	head = sent(t, e.get("/cookie", "Cookie: a=b; session="+token+"; c=d"))
	has(head, "Cookie: a=b; c=d\n", true)
	has(head, token, false)
	has(sent(t, e.get("/cookie", "Cookie: session="+token)), "Cookie:", false)
	head = sent(t, e.get("/token?x=1&token="+token+"&y=2"))
	has(head, "GET /token?x=1&y=2 HTTP/1.1", true)
	// Where the identity is told in a header that may also be the client's, his goes.
	e2 := startEdge(t, `
auth: { tokens: { jwt: { secret: "`+sharedSecret+`", query: token, header: X-Token }, headers: { Authorization: sub } } }
upstreams: { main: "`+startOrigin(t, headBack).url()+`" }
routes: [{ name: all, match: /*, auth: tokens, upstream: main }]
`)
	head = sent(t, e2.get("/x", "X-Token: "+token, "Authorization: Basic YWRtaW46YWRtaW4="))
	has(head, "Authorization: ann b\n", true)
	has(head, "Basic", false)
	// An identity does not stay on the connection: the next request is nobody's.
	w := e.dial()
	w.send("GET /token HTTP/1.1\nHost: a\n" + ann + "\n\nGET /open HTTP/1.1\nHost: a\n\nGET /token HTTP/1.1\nHost: a\n\n")
	has(sent(t, w.response("GET")), "X-User: ann b\n", true)
	has(sent(t, w.response("GET")), "X-User", false)
	if a := w.response("GET"); a.StatusCode != 401 {
		t.Errorf("the third request on the connection: %s", a.Status)
	}
}

// No credential is in any log, and each refusal is in the audit log with its
// reason.
func TestRefusalsAreLogged(t *testing.T) {
	dir := t.TempDir()
	audit := filepath.Join(dir, "audit.log")
	o := startOrigin(t, headBack)
	access := filepath.Join(dir, "access.log")
	e := &edge{t: t, logFile: access, logs: `{ access: { output: "` + access + `" }, audit: { output: "` + audit + `" } }`}
	e.start(`
auth: { tokens: { jwt: { secret: "` + sharedSecret + `", query: token } } }
upstreams: { main: "` + o.url() + `" }
routes:
  - { name: token, match: /token, auth: tokens, require: { scope: read }, upstream: main }
  - { name: near, match: /near, ip: { deny: 127.0.0.1 }, upstream: main }
`)
	token := signed(t, "ann", nil)
	old := signed(t, "bob", map[string]any{"exp": 1})
	e.get("/token?token=" + token)
	e.get("/token", "Authorization: Bearer "+old)
	e.get("/token")
	e.get("/near")
	e.stop()
	both, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(both)), "\n")
	if len(lines) != 4 {
		t.Fatalf("want 4 refusals, got\n%s", both)
	}
	for i, want := range []string{`"flag":"forbidden","reason":"scope missing: read"`, `"reason":"token expired"`, `"reason":"no credential"`, `"flag":"address-denied"`} {
		if !strings.Contains(string(both), want) || !strings.Contains(lines[i], `"log":"audit"`) {
			t.Errorf("expected %s in\n%s", want, both)
		}
	}
	if !strings.Contains(lines[0], `"user":"ann"`) && !strings.Contains(string(both), `"user":"ann"`) {
		t.Errorf("no user in\n%s", both)
	}
	for _, secret := range []string{token, old, token[strings.LastIndexByte(token, '.')+1:]} {
		if strings.Contains(string(both)+e.log(), secret) {
			t.Errorf("a credential stands in a log")
		}
	}
	if !strings.Contains(e.log(), "/token?token=***") {
		t.Errorf("the access log: %s", e.log())
	}
}

// Who sends bad credentials is slowed; what was proven before still passes.
func TestFailuresAreSlowed(t *testing.T) {
	o := startOrigin(t, headBack)
	e := startEdge(t, `
forwarded: { trusted: [127.0.0.1] }
auth: { tokens: { jwt: { secret: "`+sharedSecret+`" } } }
auth_failures: { rate: 60/h, burst: 3 }
upstreams: { main: "`+o.url()+`" }
routes: [{ name: all, match: /*, auth: tokens, upstream: main }]
`)
	good := "Authorization: Bearer " + signed(t, "ann", nil)
	from := "X-Forwarded-For: 192.0.2.7"
	if a := e.get("/", good, from); a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	for i := range 3 {
		if a := e.get("/", fmt.Sprintf("Authorization: Bearer a.b.%d", i), from); a.StatusCode != 401 {
			t.Errorf("failure %d: %s", i, a.Status)
		}
	}
	a := e.get("/", "Authorization: Bearer a.b.4", from)
	wantProblem(t, a, fault.TooManyFailures)
	if got := a.Header.Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After: %q", got)
	}
	wantProblem(t, e.get("/", "Authorization: Bearer "+signed(t, "new", nil), from), fault.TooManyFailures)
	if a := e.get("/", good, from); a.StatusCode != 200 {
		t.Errorf("a remembered token from the same address: %s", a.Status)
	}
	if a := e.get("/", "Authorization: Bearer "+signed(t, "new", nil), "X-Forwarded-For: 192.0.2.8"); a.StatusCode != 200 {
		t.Errorf("another address: %s", a.Status)
	}
}

func TestLimitByClaim(t *testing.T) {
	e, _ := guarded(t, "")
	count := func(token string) (passed int) {
		for range 6 {
			if e.get("/limited", "Authorization: Bearer "+token).StatusCode == 200 {
				passed++
			}
		}
		return passed
	}
	if n := count(signed(t, "ann", nil)); n != 2 {
		t.Errorf("ann: %d of 6 passed, want 2", n)
	}
	if n := count(signed(t, "bob", nil)); n != 2 {
		t.Errorf("bob: %d of 6 passed, want 2", n)
	}
	if n := count(signed(t, "gold", map[string]any{"plan": "gold"})); n < 3 {
		t.Errorf("the plan gold: %d of 6 passed, want its own burst", n)
	}
}

// What another limit refuses takes nothing out of a quota, however they are
// written.
func TestQuotaIsAskedLast(t *testing.T) {
	o := startOrigin(t, headBack)
	e := startEdge(t, `
limits:
  quota: { quota: 3/day, key: "header:X-Tenant" }
  rate: { rate: 1/h, burst: 2, key: "header:X-Tenant" }
upstreams: { main: "`+o.url()+`" }
routes:
  - { name: both, match: /both, limit: [quota, rate], upstream: main }
  - { name: quota, match: /quota, limit: quota, upstream: main }
`)
	passed := func(path string) (n int) {
		for range 5 {
			if e.get(path, "X-Tenant: a").StatusCode == 200 {
				n++
			}
		}
		return n
	}
	if n := passed("/both"); n != 2 {
		t.Errorf("%d of 5 passed the rate, want 2", n)
	}
	if n := passed("/quota"); n != 1 {
		t.Errorf("%d of 5 passed what is left of the quota, want 1", n)
	}
}

// Requests in flight of one key are bounded, and each gives its place back.
func TestConcurrentLimit(t *testing.T) {
	release := make(chan struct{})
	o := startOrigin(t, answering(func(head, _ string) string {
		if strings.HasPrefix(head, "GET /hold") {
			<-release
		}
		return ok("x")
	}))
	e := startEdge(t, `
limits: { two: { concurrent: 2, key: "header:X-Tenant" } }
upstreams: { main: "`+o.url()+`" }
routes: [{ name: all, match: /*, limit: two, upstream: main }]
`)
	held := make(chan int)
	for range 2 {
		go func() { held <- e.get("/hold", "X-Tenant: a").StatusCode }()
	}
	waitFor(t, func() bool { return o.connections() == 2 })
	if a := e.get("/", "X-Tenant: a"); a.StatusCode != 429 {
		t.Errorf("a third: %s", a.Status)
	}
	if a := e.get("/", "X-Tenant: b"); a.StatusCode != 200 {
		t.Errorf("another tenant: %s", a.Status)
	}
	close(release)
	for range 2 {
		if got := <-held; got != 200 {
			t.Errorf("one that was let in: %d", got)
		}
	}
	waitFor(t, func() bool { return e.get("/", "X-Tenant: a").StatusCode == 200 })
}

func TestCORS(t *testing.T) {
	e, _ := guarded(t, `
  - { name: cors, match: { path: /cors, methods: [PUT, GET] }, auth: tokens, upstream: main, cors: { origins: "https://app.example.com", methods: PUT, headers: [Authorization], credentials: true } }
`)
	const origin = "Origin: https://app.example.com"
	a := e.ask("OPTIONS", "/cors", origin, "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: authorization")
	if a.StatusCode != 204 || a.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" || a.Header.Get("Access-Control-Allow-Methods") == "" {
		t.Errorf("preflight: %s\n%s", a.Status, a.head)
	}
	if a := e.ask("OPTIONS", "/cors", "Origin: https://evil.example", "Access-Control-Request-Method: PUT"); a.StatusCode != 403 || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a preflight of another origin: %s\n%s", a.Status, a.head)
	}
	// A page must be able to read that it has to log in.
	if a := e.get("/cors", origin); a.StatusCode != 401 || a.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" || !strings.Contains(a.Header.Get("Vary"), "Origin") {
		t.Errorf("401: %s\n%s", a.Status, a.head)
	}
	if a := e.get("/cors", origin, "Authorization: Bearer "+signed(t, "ann", nil)); a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("200: %s\n%s", a.Status, a.head)
	}
}

// Another service decides; what it says of the caller reaches the target.
func TestForwardAuth(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "sid=1" {
			w.Header().Set("Location", "/login")
			w.WriteHeader(http.StatusFound)
			return
		}
		w.Header().Set("Remote-User", "ann")
	}))
	defer service.Close()
	o := startOrigin(t, headBack)
	e := startEdge(t, `
auth: { sso: { forward_auth: { url: "`+service.URL+`", copy: Remote-User, subject: Remote-User } } }
upstreams: { main: "`+o.url()+`" }
routes: [{ name: sso, match: /sso, auth: sso, upstream: main }, { name: open, match: /open, upstream: main }]
`)
	if a := e.get("/sso"); a.StatusCode != 302 || a.Header.Get("Location") != "/login" {
		t.Errorf("nobody: %s\n%s", a.Status, a.head)
	}
	head := sent(t, e.get("/sso", "Cookie: sid=1", "Remote-User: root"))
	if !strings.Contains(head, "Remote-User: ann\n") || strings.Contains(head, "root") {
		t.Errorf("the target got\n%s", head)
	}
	if head := sent(t, e.get("/open", "Remote-User: root")); strings.Contains(head, "root") {
		t.Errorf("the target got\n%s", head)
	}
}

// Many callers at once on many connections: each is told of itself.
func TestIdentitiesDoNotMix(t *testing.T) {
	e, _ := guarded(t, "")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			w := e.dial()
			for i := range 50 {
				who := fmt.Sprintf("caller-%d", (g*7+i)%5)
				w.send("GET /token HTTP/1.1\nHost: a\nAuthorization: Bearer " + signed(t, who, nil) + "\n\n")
				a, err := w.tryResponse("GET")
				if err != nil || !strings.Contains(a.body, "X-User: "+who+"\r\n") {
					t.Errorf("%s got %v %v", who, a.body, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A refusal in the middle of an upload leaves no bytes that could be taken for a
// request.
func TestRefusedUpload(t *testing.T) {
	e, _ := guarded(t, "")
	for _, framing := range []string{"Content-Length: 50\n\nGET /open HTTP/1.1\r\nHost: a\r\n\r\n", "Transfer-Encoding: chunked\n\n"} {
		w := e.dial()
		w.send("POST /token HTTP/1.1\nHost: a\n" + framing)
		if a := w.response("POST"); a.StatusCode != 401 {
			t.Errorf("%s", a.Status)
		}
		w.send("0123456789012345678901234567890123456789")
		if c, ok := w.Conn.(*net.TCPConn); ok {
			_ = c.CloseWrite()
		}
		if text, _ := w.rest(); strings.Contains(text, "200 OK") {
			t.Errorf("what was left of the body was answered: %q", text)
		}
	}
	w := e.dial()
	w.send("POST /token HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 5\n\n")
	if a := w.response("POST"); a.StatusCode != 401 {
		t.Errorf("with Expect: %s", a.Status)
	}
}

// waitFor polls for what another goroutine is about to do.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
	}
}

// A reload that changes an authenticator does not cut short what requests of the
// generation before are asking its provider.
func TestReloadLetsProofsEnd(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-release
	}))
	defer service.Close()
	text := func(timeout string) string {
		return `
auth: { sso: { forward_auth: { url: "` + service.URL + `", timeout: ` + timeout + ` } } }
routes: [{ name: sso, match: /*, auth: sso, respond: x }]
`
	}
	e := startEdge(t, text("19s"))
	got := make(chan int)
	go func() { got <- e.get("/").StatusCode }()
	<-asked
	e.apply(text("18s"))
	close(release)
	if status := <-got; status != 200 {
		t.Errorf("a request that was being proven: %d, want 200", status)
	}
}
