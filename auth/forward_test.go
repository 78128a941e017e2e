package auth

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/setting"
)

func forwardConfig(url string) *ForwardConfig {
	return &ForwardConfig{URL: url, Method: "GET", Timeout: setting.Duration(servicePatience), Concurrency: 8, Cache: ForwardCacheConfig{Remember: 64}}
}

func testForward(t testing.TB, c *ForwardConfig) *forward {
	t.Helper()
	var p setting.Problems
	if c.Validate(&p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newForward("sso", c, Env{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.(Starter).Stop)
	return a.(*forward)
}

// deciding is a service that answers with what handle does, and counts.
func deciding(t testing.TB, handle http.HandlerFunc) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		handle(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

func TestForwardQuestion(t *testing.T) {
	leaks(t)
	var got *http.Request
	url, _ := deciding(t, func(_ http.ResponseWriter, r *http.Request) { got = r })
	c := forwardConfig(url + "/verify?rd=1")
	c.Headers = []string{"Authorization", "Cookie", "X-Tenant", "X-Gone"}
	a := testForward(t, c)
	r := serviceRequest(t, "POST /a/%2E%2e/b?x=1&y HTTP/1.1\nHost: Api.example.com:8443\nauthorization: Basic eDp5\nCookie: a=1\nCookie: b=2\nx-tenant: t1\nX-Tenant: t2\nX-Forwarded-For: 6.6.6.6\nX-Forwarded-Method: GET\nX-Original-URL: /public\nX-Secret: s\nX-Gone: g\nConnection: x-gone\nContent-Length: 5")
	r.Path = []byte("/b")
	if res := a.Verify(r); res.Outcome != Identified || res.Identity.Subject != "" || res.Identity.Authenticator != "sso" {
		t.Fatalf("%+v", res)
	}
	want := http.Header{
		"Authorization": {"Basic eDp5"}, "Cookie": {"a=1; b=2"}, "X-Tenant": {"t1", "t2"}, "User-Agent": {"sluice"},
		"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"Api.example.com:8443"},
		"X-Forwarded-Method": {"POST"}, "X-Forwarded-Uri": {"/b?x=1&y"}, "X-Request-Id": {"req-1"},
		"X-Original-Method": {"POST"}, "X-Original-Url": {"https://Api.example.com:8443/b?x=1&y"},
	}
	if !reflect.DeepEqual(got.Header, want) {
		t.Errorf("sent %v\nwant %v", got.Header, want)
	}
	if got.Method != "GET" || got.RequestURI != "/verify?rd=1" || "http://"+got.Host != url || got.ContentLength != 0 {
		t.Errorf("asked %s %s of %s", got.Method, got.RequestURI, got.Host)
	}
}

func TestForwardIdentity(t *testing.T) {
	leaks(t)
	url, _ := deciding(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Remote-User"] = []string{"ann"}
		w.Header()["Remote-Groups"] = []string{"admins, dev", "ops"}
		w.Header()["X-Plan"] = []string{"gold"}
		w.Header()["X-Other"] = []string{"not asked for"}
		w.WriteHeader(http.StatusNoContent)
	})
	c := forwardConfig(url)
	c.Subject, c.Copy, c.Lists, c.Cookies = "remote-user", []string{"X-Plan", "Remote-Groups", "X-Missing"}, []string{"remote-groups"}, []string{"sso_*"}
	a := testForward(t, c)
	res := a.Verify(serviceRequest(t, "GET / HTTP/1.1\nHost: h"))
	id := res.Identity
	if res.Outcome != Identified || id.Subject != "ann" {
		t.Fatalf("%+v", res)
	}
	if want := []Line{{"X-Plan", "gold"}, {"Remote-Groups", "admins, dev"}, {"Remote-Groups", "ops"}}; !reflect.DeepEqual(id.Lines, want) {
		t.Errorf("lines %v", id.Lines)
	}
	if want := map[string]any{"remote-user": "ann", "remote-groups": []any{"admins", "dev", "ops"}, "x-plan": "gold"}; !reflect.DeepEqual(id.Claims, want) {
		t.Errorf("claims %v", id.Claims)
	}
	if s, _ := id.Claim("sub"); s != "ann" {
		t.Errorf("sub %q", s)
	}
	if got := a.CopiedHeaders(); !reflect.DeepEqual(got, []string{"X-Plan", "Remote-Groups", "X-Missing", "remote-user", "remote-groups"}) {
		t.Errorf("copied %q", got)
	}
	if at := a.Places(); !reflect.DeepEqual(at, Places{Headers: []string{"Authorization"}, Cookies: []string{"sso_*"}}) || !a.Guessable() {
		t.Errorf("places %+v", at)
	}
}

func TestForwardAnswers(t *testing.T) {
	leaks(t)
	f := func(handle http.HandlerFunc, want Outcome, reason string, answer *Answer) {
		t.Helper()
		url, _ := deciding(t, handle)
		c := forwardConfig(url)
		c.Copy, c.Subject = []string{"X-Copy"}, "X-User"
		c.Cache.TTL = setting.Duration(time.Hour)
		a := testForward(t, c)
		r := serviceRequest(t, "GET / HTTP/1.1\nHost: h\nCookie: s=1")
		res := a.Verify(r)
		if res.Outcome != want || !strings.Contains(res.Reason, reason) || !reflect.DeepEqual(res.Answer, answer) {
			t.Errorf("got %d %q %+v, want %d %q %+v", res.Outcome, res.Reason, res.Answer, want, reason, answer)
		}
		if again := a.Recall(r); want != Identified && again.Outcome != Unknown {
			t.Errorf("%d was remembered: %+v", want, again)
		}
	}
	status := func(status int, header http.Header, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for name, values := range header {
				w.Header()[name] = values
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	h := http.Header{"Www-Authenticate": {`Basic realm="x"`}, "Set-Cookie": {"a=1", "b=2"}, "Content-Type": {"text/plain"}, "X-Inner": {"secret"}, "Server": {"inner/1"}}
	lines := []Line{{"WWW-Authenticate", `Basic realm="x"`}, {"Set-Cookie", "a=1"}, {"Set-Cookie", "b=2"}, {"Content-Type", "text/plain"}}
	f(status(401, h, "who?"), Answered, "status 401", &Answer{Status: 401, Header: lines, Body: []byte("who?")})
	f(status(403, h, ""), Answered, "status 403", &Answer{Status: 403, Header: lines[:3], Body: []byte{}})
	f(status(403, h, strings.Repeat("x", mostForwardBody)), Answered, "status 403", &Answer{Status: 403, Header: lines, Body: []byte(strings.Repeat("x", mostForwardBody))})
	f(status(403, h, strings.Repeat("x", mostForwardBody+1)), Answered, "status 403", &Answer{Status: 403, Header: lines[:3]})
	f(status(302, http.Header{"Location": {"https://login.example.com/?rd=1"}}, ""), Answered, "status 302",
		&Answer{Status: 302, Header: []Line{{"Location", "https://login.example.com/?rd=1"}}, Body: []byte{}})
	f(status(403, http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"text/html"}}, "\x1f\x8b"), Answered, "status 403", &Answer{Status: 403, Header: []Line{}})
	for _, s := range []int{300, 304, 305, 400, 402, 404, 418, 429, 500, 502, 503} {
		f(status(s, h, ""), Unavailable, fmt.Sprint("status ", s), nil)
	}
	f(status(200, http.Header{"X-User": {"ann", "bob"}}, ""), Unavailable, "more than one subject", nil)
	f(status(200, http.Header{"X-Copy": {strings.Repeat("x", mostForwardLines)}}, ""), Unavailable, "too long", nil)
	f(status(401, http.Header{"Location": {strings.Repeat("x", mostForwardLines)}}, ""), Unavailable, "too long", nil)
	f(status(200, nil, strings.Repeat("x", 1<<20)), Identified, "", nil)
	f(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unavailable, "does not answer", nil)

	// Raw bytes that Go's own server would not send.
	raw := func(text, reason string) {
		t.Helper()
		c := forwardConfig(rawServer(t, text))
		c.Copy = []string{"X-Copy"}
		if res := testForward(t, c).Verify(serviceRequest(t, "GET / HTTP/1.1\nHost: h")); res.Outcome != Unavailable || !strings.Contains(res.Reason, reason) {
			t.Errorf("%q: %+v", text, res)
		}
	}
	raw("HTTP/1.1 200 OK\r\nX-Copy: a\x00b\r\nContent-Length: 0\r\n\r\n", "")
	raw("HTTP/1.1 200 OK\r\nX-Copy: a\x7fb\r\nContent-Length: 0\r\n\r\n", "")
	raw("HTTP/1.1 200 OK\r\nX-Copy a\r\n\r\n", "does not answer")
	raw("HTTP/1.1 999\r\n\r\n", "status 999")
	raw("nonsense\r\n\r\n", "does not answer")

	slow := forwardConfig(rawServer(t, ""))
	slow.Timeout = setting.Duration(50 * time.Millisecond)
	if res := testForward(t, slow).Verify(serviceRequest(t, "GET / HTTP/1.1\nHost: h")); res.Reason != errProviderTimeout.Error() {
		t.Errorf("slow: %+v", res)
	}
	// A request's own small budget is not the service's failure.
	slow.Timeout = setting.Duration(servicePatience)
	a := testForward(t, slow)
	hasty := serviceRequest(t, "GET / HTTP/1.1\nHost: h")
	hasty.Until = time.Now().Add(20 * time.Millisecond)
	if res := a.Verify(hasty); res.Reason != errProviderHaste.Error() || a.State().Detail["provider"] != "ok" {
		t.Errorf("hasty: %+v, %v", res, a.State())
	}
	twice := serviceRequest(t, "GET / HTTP/1.1\nHost: h\nAuthorization: a\nAuthorization: b")
	if res := testForward(t, forwardConfig(deadURL(t))).Verify(twice); res.Outcome != Refused || res.Reason != forwardTwice {
		t.Errorf("two credentials: %+v", res)
	}
}

func TestForwardCache(t *testing.T) {
	leaks(t)
	url, asked := deciding(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-User"] = []string{r.Header.Get("Cookie")}
		if cc := r.Header.Get("X-Cc"); cc != "" {
			w.Header().Set("Cache-Control", cc)
		}
		if r.Header.Get("X-Set") != "" {
			w.Header().Set("Set-Cookie", "s=2")
		}
	})
	whole := forwardConfig(url)
	whole.Subject, whole.Headers, whole.Cache.TTL = "X-User", []string{"Authorization", "Cookie", "X-Cc", "X-Set"}, setting.Duration(time.Hour)
	f := func(c *ForwardConfig, first, second *Request, want int32) {
		t.Helper()
		a := testForward(t, c)
		asked.Store(0)
		one := a.Verify(first)
		two := a.Verify(second)
		if one.Outcome != Identified || two.Outcome != Identified {
			t.Fatalf("%+v, %+v", one, two)
		}
		if n := asked.Load(); n != want {
			t.Errorf("%d questions, want %d", n, want)
		}
		if want == 1 && (one.Identity != two.Identity || a.Recall(second).Outcome != Identified) {
			t.Error("not the same identity, or Recall does not know it")
		}
	}
	req := func(head string) *Request { return serviceRequest(t, head) }
	const h = "GET /a?b HTTP/1.1\nHost: h"
	f(whole, req(h), req(h), 1)
	f(whole, req(h+"\nCookie: s=1"), req(h+"\ncookie: s=1\nX-Other: 1"), 1)
	f(whole, req(h+"\nCookie: s=1"), req(h+"\nCookie: s=2"), 2)
	f(whole, req(h+"\nCookie: s=1"), req(h), 2)
	f(whole, req(h+"\nCookie: s=1"), req(h+"\nCookie: s=1\nAuthorization: x"), 2)
	f(whole, req(h+"\nCookie: ab\nAuthorization: c"), req(h+"\nCookie: a\nAuthorization: bc"), 2)
	f(whole, req(h), req("POST /a?b HTTP/1.1\nHost: h"), 2)
	f(whole, req(h), req("GET /c?b HTTP/1.1\nHost: h"), 2)
	f(whole, req(h), req("GET /a?c HTTP/1.1\nHost: h"), 2)
	f(whole, req("GET /a HTTP/1.1\nHost: h"), req("GET /a? HTTP/1.1\nHost: h"), 2)
	f(whole, req(h), req("GET /a?b HTTP/1.1\nHost: i"), 2)
	other := req(h)
	other.Caller = other.Caller.Next()
	f(whole, req(h), other, 2)
	plain := req(h)
	plain.Scheme = "http"
	f(whole, req(h), plain, 2)
	later := req(h)
	later.Now = later.Now.Add(time.Hour + time.Second)
	f(whole, req(h), later, 2)

	f(whole, req(h+"\nX-Cc: no-store"), req(h+"\nX-Cc: no-store"), 2)
	f(whole, req(h+"\nX-Cc: private, No-Cache"), req(h+"\nX-Cc: private, No-Cache"), 2)
	f(whole, req(h+"\nX-Cc: max-age=0"), req(h+"\nX-Cc: max-age=0"), 2)
	f(whole, req(h+"\nX-Cc: max-age=x"), req(h+"\nX-Cc: max-age=x"), 2)
	f(whole, req(h+"\nX-Cc: max-age=60"), req(h+"\nX-Cc: max-age=60"), 1)
	f(whole, req(h+"\nX-Set: 1"), req(h+"\nX-Set: 1"), 2)

	by := *whole
	by.Cache.By = []string{"cookie:s", "header:X-Tenant", "method", "route"}
	f(&by, req(h+"\nCookie: s=1; t=1"), req("GET /other HTTP/1.1\nHost: i\nCookie: t=2; s=1"), 1)
	f(&by, req(h+"\nCookie: s=1"), req("POST /other HTTP/1.1\nHost: i\nCookie: s=1"), 2)
	f(&by, req(h+"\nCookie: s=1"), req(h+"\nX-Tenant: s=1"), 2)
	f(&by, req(h), req(h), 2) // nobody's answer would be everybody's
	f(&by, req(h+"\nCookie: s=1; s=2"), req(h+"\nCookie: s=1; s=2"), 2)
	f(&by, req(h+"\nX-Tenant: "+strings.Repeat("x", mostForwardKey)), req(h+"\nX-Tenant: "+strings.Repeat("x", mostForwardKey)), 2)

	off := forwardConfig(url)
	f(off, req(h+"\nCookie: s=1"), req(h+"\nCookie: s=1"), 2)
}

func TestForwardSingleFlight(t *testing.T) {
	leaks(t)
	release := make(chan struct{})
	url, asked := deciding(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Header()["X-User"] = []string{r.Header.Get("Cookie")}
	})
	c := forwardConfig(url)
	c.Subject, c.Cache.TTL = "X-User", setting.Duration(time.Hour)
	a := testForward(t, c)
	var callers sync.WaitGroup
	const users, each = 3, 30
	for n := range users * each {
		callers.Go(func() {
			user := fmt.Sprint("s=", n%users)
			if res := a.Verify(serviceRequest(t, "GET / HTTP/1.1\nHost: h\nCookie: "+user)); res.Outcome != Identified || res.Identity.Subject != user {
				t.Errorf("%s: %+v", user, res)
			}
		})
	}
	until(t, "all callers", func() bool {
		a.inFlight.mu.Lock()
		defer a.inFlight.mu.Unlock()
		n := 0
		for _, f := range a.inFlight.by {
			n += f.callers
		}
		return n == users*each
	})
	close(release)
	callers.Wait()
	if asked.Load() != users {
		t.Errorf("%d questions, want %d", asked.Load(), users)
	}
}

func TestForwardConfigMistakes(t *testing.T) {
	f := func(change func(*ForwardConfig), path, want string) {
		t.Helper()
		c := forwardConfig("http://auth.internal:9091/verify")
		change(c)
		var p setting.Problems
		c.Validate(&p)
		if got := p.List(); len(got) != 1 || got[0].Path != path || !strings.Contains(got[0].Expected, want) {
			t.Errorf("%s: %v, want %q", path, got, want)
		}
	}
	f(func(c *ForwardConfig) { c.URL = "auth:9091" }, "url", "URL of a service")
	f(func(c *ForwardConfig) { c.Headers = []string{"A", "X Y"} }, "headers[1]", "name of a header")
	for _, name := range []string{"Host", "connection", "Content-Length", "X-Forwarded-For", "x-forwarded-user-x", "X-Original-URL", "Accept-Encoding", "If-None-Match", "Range", "X-Request-Id"} {
		f(func(c *ForwardConfig) { c.Headers = []string{name} }, "headers[0]", "belongs to the gateway")
	}
	for _, name := range []string{"Transfer-Encoding", "Content-Length", "X-Forwarded-For", "Via"} {
		f(func(c *ForwardConfig) { c.Copy = []string{name} }, "copy[0]", "belongs to the gateway")
		f(func(c *ForwardConfig) { c.AnswerHeaders = []string{name} }, "answer_headers[0]", "belongs to the gateway")
	}
	f(func(c *ForwardConfig) { c.Subject = "a b" }, "subject", "name of a header")
	f(func(c *ForwardConfig) { c.Cookies = []string{"a;b"} }, "cookies[0]", "name of a cookie")
	f(func(c *ForwardConfig) { c.Cache.By = []string{"cookie:s", "hots"} }, "cache.by[1]", "did you mean host?")
	f(func(c *ForwardConfig) { c.Cache.By = []string{"cookie:s", "header:"} }, "cache.by[1]", "header:NAME")
	f(func(c *ForwardConfig) { c.Cache.By = []string{"path"} }, "cache.by", "at least one")
	f(func(c *ForwardConfig) { c.Cache.TTL = 1 }, "cache.ttl", "at least 1s")
	var short ForwardConfig
	if short.Shorthand("http://x"); short.URL != "http://x" {
		t.Error("short form")
	}
}

func FuzzForwardKey(f *testing.F) {
	f.Add("s=1", "a", "/p", "q=1")
	f.Fuzz(func(t *testing.T, cookie, tenant, path, query string) {
		// Two questions have one key only if all their parts are equal.
		c := forwardConfig("http://127.0.0.1:1")
		c.Headers, c.Cache.TTL = []string{"Cookie", "X-Tenant"}, setting.Duration(time.Hour)
		a, err := newForward("x", c, Env{Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		one := serviceRequest(t, "GET / HTTP/1.1\nHost: h\nCookie: c\nX-Tenant: t")
		two := serviceRequest(t, "GET / HTTP/1.1\nHost: h\nCookie: c\nX-Tenant: t")
		two.Head.Fields[1].Value, two.Head.Fields[2].Value = []byte(cookie), []byte(tenant)
		two.Path, two.Head.Query = []byte(path), []byte(query)
		same := cookie == "c" && tenant == "t" && path == string(one.Path) && query == ""
		first, _ := a.(*forward).key(nil, one)
		second, ok := a.(*forward).key(nil, two)
		if ok && (string(first) == string(second)) != same {
			t.Fatalf("%q and %q", first, second)
		}
	})
}
