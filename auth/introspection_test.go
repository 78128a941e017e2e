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

// introspectionConfig is what the loader makes of url and the gateway's client.
func introspectionConfig(url string) *IntrospectionConfig {
	return &IntrospectionConfig{
		URL: url, Auth: "client_secret_basic", ClientID: "gate:way", ClientSecret: "s3cr&t", Header: "Authorization",
		MaxToken: 4 << 10, Subject: "sub", Leeway: setting.Duration(time.Minute),
		Cache:   IntrospectionCacheConfig{TTL: setting.Duration(time.Hour), NegativeTTL: setting.Duration(time.Hour), Remember: 64},
		Timeout: setting.Duration(servicePatience), Concurrency: 8,
	}
}

func testIntrospection(t testing.TB, c *IntrospectionConfig) *introspection {
	t.Helper()
	var p setting.Problems
	if c.Validate(&p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newIntrospection("opaque", c, Env{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.(Starter).Stop)
	return a.(*introspection)
}

func bearer(t testing.TB, token string) *Request {
	return serviceRequest(t, "GET /a HTTP/1.1\nHost: h\nAuthorization: Bearer "+token)
}

// answering is a provider that says the same of every token, and counts.
func answering(t *testing.T, status int, kind, body string) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

func TestIntrospectionQuestion(t *testing.T) {
	leaks(t)
	var got http.Header
	var form string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got, form = r.Header, r.Method+" "+r.URL.RawQuery+" "+string(body)
		w.Header().Set("Content-Type", "application/json;charset=UTF-8")
		_, _ = io.WriteString(w, `{"active":true,"sub":"ann","scope":"a b","n":12345678901234567890}`)
	}))
	defer srv.Close()
	f := func(auth, wantAuthorization, wantForm string) {
		t.Helper()
		c := introspectionConfig(srv.URL)
		c.Auth, c.BearerToken = auth, "gateway-token"
		res := testIntrospection(t, c).Verify(bearer(t, "t+k/n=="))
		if res.Outcome != Identified {
			t.Fatalf("%s: %+v", auth, res)
		}
		if got.Get("Authorization") != wantAuthorization || form != wantForm {
			t.Errorf("%s: sent %q and %q", auth, got.Get("Authorization"), form)
		}
		if _, sent := got["Idempotency-Key"]; sent {
			t.Error("the empty key was sent")
		}
		id := res.Identity
		if n, _ := id.Claim("n"); id.Subject != "ann" || !id.HasScope("b") || n != "12345678901234567890" || id.Claims["active"] != nil {
			t.Errorf("identity %+v", id)
		}
	}
	const plain = "POST  token=t%2Bk%2Fn%3D%3D&token_type_hint=access_token"
	f("client_secret_basic", "Basic Z2F0ZSUzQXdheTpzM2NyJTI2dA==", plain)
	f("client_secret_post", "", "POST  client_id=gate%3Away&client_secret=s3cr%26t&token=t%2Bk%2Fn%3D%3D&token_type_hint=access_token")
	f("bearer", "Bearer gateway-token", plain)
	f("none", "", plain)
}

func TestIntrospectionPlaces(t *testing.T) {
	leaks(t)
	url, _ := answering(t, 200, "application/json", `{"active":true,"sub":"ann"}`)
	c := introspectionConfig(url)
	c.Cookie, c.Query, c.MaxToken = "tok", "access_token", 16
	all := testIntrospection(t, c)
	own := *c
	own.Header, own.Cookie, own.Query = "X-Token", "", ""
	header := testIntrospection(t, &own)
	f := func(a *introspection, head string, want Outcome, reason string) {
		t.Helper()
		r := serviceRequest(t, head)
		recalled := a.Recall(r)
		if res := a.Verify(r); res.Outcome != want || res.Reason != reason {
			t.Errorf("%q: %+v, want %d %q", head, res, want, reason)
		}
		if want == Absent && recalled.Outcome != Absent || want != Absent && recalled.Outcome == Absent {
			t.Errorf("%q: Recall says %d", head, recalled.Outcome)
		}
	}
	const h = "GET /a HTTP/1.1\nHost: h"
	f(all, h, Absent, "")
	f(all, h+"\nAuthorization: Basic eDp5", Absent, "")
	f(all, h+"\nAuthorization: bEaReR   abc", Identified, "")
	f(all, h+"\nAuthorization: Bearer", Refused, bearerMalformed)
	f(all, h+"\nAuthorization: Bearer a b", Refused, bearerMalformed)
	f(all, h+"\nAuthorization: Bearer \xc3\xa4", Refused, bearerMalformed)
	f(all, h+"\nAuthorization: Bearer "+strings.Repeat("a", 17), Refused, bearerTooLong)
	f(all, h+"\nAuthorization: Bearer a\nAuthorization: Bearer a", Refused, bearerTwice)
	f(all, h+"\nAuthorization: Bearer a\nCookie: tok=a", Refused, bearerTwice)
	f(all, h+"\nCookie: x=1; tok=a", Identified, "")
	f(all, h+"\nCookie: tok=a; tok=b", Refused, bearerTwice)
	f(all, "GET /a?access_token=a HTTP/1.1\nHost: h", Identified, "")
	f(all, "GET /a?access_token= HTTP/1.1\nHost: h", Refused, bearerMalformed)
	f(header, h+"\nx-token: abc", Identified, "")
	f(header, h+"\nx-token: abc\nX-Token: abc", Refused, bearerTwice)
	f(header, h+"\nAuthorization: Bearer abc", Absent, "")

	if got := all.Places(); !reflect.DeepEqual(got, Places{Schemes: []string{"bearer"}, Cookies: []string{"tok"}, Query: []string{"access_token"}}) {
		t.Errorf("places %+v", got)
	}
	if all.Challenge() != `Bearer realm="opaque"` {
		t.Errorf("challenge %s", all.Challenge())
	}
	if res := all.Verify(bearer(t, "a b")); res.Challenge != `Bearer realm="opaque", error="invalid_token"` {
		t.Errorf("challenge %s", res.Challenge)
	}
}

func TestIntrospectionAnswers(t *testing.T) {
	leaks(t)
	now := time.Now().Unix()
	f := func(status int, kind, body string, want Outcome, reason string) {
		t.Helper()
		url, _ := answering(t, status, kind, body)
		c := introspectionConfig(url)
		c.Audience, c.Issuer, c.Required = []string{"api", "web"}, "https://id", []string{"client_id"}
		a := testIntrospection(t, c)
		res := a.Verify(bearer(t, "tok"))
		if res.Outcome != want || !strings.Contains(res.Reason, reason) || reason == "" && res.Reason != "" {
			t.Errorf("%d %s: %+v, want %d %q", status, body, res, want, reason)
		}
		if again := a.Recall(bearer(t, "tok")); (again.Outcome == Unknown) != (want == Unavailable) {
			t.Errorf("%d %s: remembered as %d", status, body, again.Outcome)
		}
	}
	j := func(members string, want Outcome, reason string) {
		t.Helper()
		f(200, "application/json", `{"active":true,"sub":"ann","aud":"api","iss":"https://id","client_id":"c"`+members+`}`, want, reason)
	}
	j(``, Identified, "")
	j(`,"exp":9000000000,"nbf":1,"token_type":"BEARER","token_use":"access"`, Identified, "")
	j(fmt.Sprintf(`,"exp":%d.5`, now+100), Identified, "")
	j(fmt.Sprintf(`,"exp":%d`, now-61), Refused, opaqueExpired)
	j(fmt.Sprintf(`,"nbf":%d`, now+100), Refused, opaqueEarly)
	j(`,"exp":"soon"`, Unavailable, "bad exp")
	j(`,"exp":1e300`, Unavailable, "bad exp")
	j(`,"exp":-5`, Unavailable, "bad exp")
	j(`,"exp":true`, Unavailable, "bad exp")
	j(`,"token_type":"DPoP"`, Refused, opaqueKind)
	j(`,"token_type":"refresh_token"`, Refused, opaqueKind)
	j(`,"token_use":"refresh_token"`, Refused, opaqueKind)
	j(`,"cnf":{"jkt":"x"}`, Refused, opaqueBound)
	j(`,"active":false`, Unavailable, "boolean active")

	f(200, "application/json", `{"active":false}`, Refused, opaqueInactive)
	f(200, "application/json", `{"active":false,"sub":"ann","aud":"api","iss":"https://id","client_id":"c"}`, Refused, opaqueInactive)
	f(200, "application/json", `{"active":true,"aud":["x","web"],"iss":"https://id","client_id":"c","sub":7}`, Identified, "")
	f(200, "application/json", `{"active":true,"aud":["x"],"iss":"https://id","client_id":"c","sub":"a"}`, Refused, opaqueAudience)
	f(200, "application/json", `{"active":true,"aud":{"api":1},"iss":"https://id","client_id":"c","sub":"a"}`, Refused, opaqueAudience)
	f(200, "application/json", `{"active":true,"iss":"https://id","client_id":"c","sub":"a"}`, Refused, opaqueAudience)
	f(200, "application/json", `{"active":true,"aud":"api","iss":"https://other","client_id":"c","sub":"a"}`, Refused, opaqueIssuer)
	f(200, "application/json", `{"active":true,"aud":"api","iss":"https://id","sub":"a"}`, Refused, opaqueRequired+"client_id")
	f(200, "application/json", `{"active":true,"aud":"api","iss":"https://id","client_id":"c"}`, Refused, opaqueSubject)
	f(200, "application/json", `{"active":true,"aud":"api","iss":"https://id","client_id":"c","sub":["a"]}`, Refused, opaqueSubject)

	for _, body := range []string{``, `null`, `true`, `[]`, `"x"`, `{`, `{}`, `{"active":"true"}`, `{"active":1}`, `{"active":null}`, `{"Active":true}`, `{"active":true}{}`, `{"active":true} x`, `<html>`, strings.Repeat(`{"active":`, 5000)} {
		f(200, "application/json", body, Unavailable, "boolean active")
	}
	f(200, "application/json", `{"active":true,"x":"`+strings.Repeat("x", mostIntrospection)+`"}`, Unavailable, "too large")
	f(200, "text/html", `{"active":true,"sub":"a"}`, Unavailable, "not application/json")
	f(200, "application/token-introspection+jwt", `x`, Unavailable, "not application/json")
	f(201, "application/json", `{"active":true,"sub":"a"}`, Unavailable, "status 201")
	f(302, "application/json", `{"active":true,"sub":"a"}`, Unavailable, "status 302")
	f(401, "application/json", `{"active":true,"sub":"a"}`, Unavailable, "own credentials: status 401")
	f(404, "application/json", `{"active":false}`, Unavailable, "status 404")
	f(500, "application/json", `{"active":false}`, Unavailable, "status 500")
}

func TestIntrospectionRemembers(t *testing.T) {
	leaks(t)
	url, asked := answering(t, 200, "application/json", `{"active":true,"sub":"ann"}`)
	a := testIntrospection(t, introspectionConfig(url))
	r := bearer(t, "tok")
	if res := a.Recall(r); res.Outcome != Unknown {
		t.Fatalf("%+v", res)
	}
	first := a.Verify(r)
	if res := a.Recall(r); res.Identity == nil || res.Identity != first.Identity || asked.Load() != 1 {
		t.Fatalf("%+v after %d questions", res, asked.Load())
	}
	if res := a.Recall(bearer(t, "tol")); res.Outcome != Unknown {
		t.Errorf("another token: %+v", res)
	}
	r.Now = r.Now.Add(time.Hour + time.Second)
	if res := a.Recall(r); res.Outcome != Unknown {
		t.Errorf("after ttl: %+v", res)
	}

	// exp ends it before ttl does.
	url, _ = answering(t, 200, "application/json", fmt.Sprintf(`{"active":true,"sub":"ann","exp":%d}`, time.Now().Unix()+100))
	a = testIntrospection(t, introspectionConfig(url))
	a.Verify(bearer(t, "tok"))
	r = bearer(t, "tok")
	r.Now = r.Now.Add(90 * time.Second)
	if res := a.Recall(r); res.Outcome != Identified {
		t.Errorf("before exp: %+v", res)
	}
	r.Now = r.Now.Add(11 * time.Second)
	if res := a.Recall(r); res.Outcome != Unknown {
		t.Errorf("after exp: %+v", res)
	}

	// With nothing remembered each request asks, refused ones too.
	for _, body := range []string{`{"active":true,"sub":"ann"}`, `{"active":false}`} {
		url, asked = answering(t, 200, "application/json", body)
		c := introspectionConfig(url)
		c.Cache.TTL, c.Cache.NegativeTTL = 0, 0
		a = testIntrospection(t, c)
		a.Verify(bearer(t, "tok"))
		a.Verify(bearer(t, "tok"))
		if asked.Load() != 2 {
			t.Errorf("%s: %d questions, want 2", body, asked.Load())
		}
	}

	// A flood of one bad token asks once.
	url, asked = answering(t, 200, "application/json", `{"active":false}`)
	a = testIntrospection(t, introspectionConfig(url))
	for range 1000 {
		if res := a.Verify(bearer(t, "bad")); res.Outcome != Refused {
			t.Fatalf("%+v", res)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("%d questions about one bad token", asked.Load())
	}
}

func TestIntrospectionSingleFlight(t *testing.T) {
	leaks(t)
	var asked atomic.Int32
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-release
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"active":true,"sub":"`+r.FormValue("token")+`"}`)
	}))
	defer srv.Close()
	a := testIntrospection(t, introspectionConfig(srv.URL))
	const tokens, each = 4, 40
	var callers sync.WaitGroup
	for n := range tokens * each {
		callers.Go(func() {
			token := fmt.Sprint("t", n%tokens)
			if res := a.Verify(bearer(t, token)); res.Outcome != Identified || res.Identity.Subject != token {
				t.Errorf("%s: %+v", token, res)
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
		return n == tokens*each
	})
	// A request without time left does not wait, and takes nobody's answer away.
	hasty := bearer(t, "t0")
	hasty.Until = time.Now().Add(-time.Second)
	if res := a.Verify(hasty); res.Outcome != Unavailable {
		t.Errorf("%+v", res)
	}
	close(release)
	callers.Wait()
	if asked.Load() != tokens || a.Counts()["provider_shared"] != tokens*(each-1) {
		t.Errorf("%d questions, %v", asked.Load(), a.Counts())
	}
}

func TestIntrospectionOutage(t *testing.T) {
	leaks(t)
	url, _ := answering(t, 200, "application/json", `{"active":true,"sub":"ann"}`)
	c := introspectionConfig(url)
	a := testIntrospection(t, c)
	if res := a.Verify(bearer(t, "known")); res.Outcome != Identified {
		t.Fatalf("%+v", res)
	}
	a.c.URL = deadURL(t)
	if res := a.Verify(bearer(t, "known")); res.Outcome != Identified {
		t.Errorf("a remembered token while the provider is away: %+v", res)
	}
	if res := a.Verify(bearer(t, "hunter2")); res.Outcome != Unavailable || res.Challenge != "" || strings.Contains(res.Reason, "hunter2") {
		t.Errorf("%+v", res)
	}
	if a.State().Detail["provider"] != "failing" {
		t.Errorf("%+v", a.State())
	}
	a.c.URL = url
	if res := a.Verify(bearer(t, "hunter2")); res.Outcome != Identified || a.State().Detail["provider"] != "ok" {
		t.Errorf("the outage was remembered: %+v", res)
	}
	a.Stop()
	if res := a.Verify(bearer(t, "new")); res.Outcome != Unavailable {
		t.Errorf("after Stop: %+v", res)
	}
}

func TestIntrospectionConfigMistakes(t *testing.T) {
	f := func(change func(*IntrospectionConfig), path, want string) {
		t.Helper()
		c := introspectionConfig("https://id.example.com/i")
		change(c)
		var p setting.Problems
		c.Validate(&p)
		if got := p.List(); len(got) != 1 || got[0].Path != path || !strings.Contains(got[0].Expected, want) {
			t.Errorf("%s: %v, want %q", path, got, want)
		}
	}
	f(func(c *IntrospectionConfig) { c.URL = "http://id.example.com/i" }, "url", "https://")
	f(func(c *IntrospectionConfig) { c.ClientID = "" }, "client_id", "client_secret_basic needs")
	f(func(c *IntrospectionConfig) { c.ClientSecret = "" }, "client_secret", "secret")
	f(func(c *IntrospectionConfig) { c.Auth = "bearer" }, "bearer_token", "token")
	f(func(c *IntrospectionConfig) { c.Header = "X Token" }, "header", "name of a header")
	f(func(c *IntrospectionConfig) { c.Header = "" }, "header", "at least one of")
	f(func(c *IntrospectionConfig) { c.Cookie = "a=b" }, "cookie", "name of a cookie")
	f(func(c *IntrospectionConfig) { c.Query = "a&b" }, "query", "query parameter")
	f(func(c *IntrospectionConfig) { c.Subject = "" }, "subject", "member")
	f(func(c *IntrospectionConfig) { c.Cache.TTL = setting.Duration(time.Millisecond) }, "cache.ttl", "at least 1s")
	c := introspectionConfig("https://id.example.com/i")
	c.CA = "/nowhere.pem"
	if _, err := newIntrospection("x", c, Env{}); err == nil || !strings.HasPrefix(err.Error(), "ca: ") {
		t.Errorf("%v", err)
	}
}

func FuzzIntrospectionAnswer(f *testing.F) {
	for _, s := range []string{`{"active":true,"sub":"a"}`, `{"active":false}`, `{"active":true,"active":false}`, `[`, `{"a":{"b":[1,2,{}]},"active":true}`} {
		f.Add([]byte(s))
	}
	a := &introspection{name: "x", c: IntrospectionConfig{Subject: "sub"}}
	now := time.Unix(1700000000, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		claims, err := parseIntrospection(body)
		if (err == nil) != (claims != nil) {
			t.Fatalf("%v and %v", claims, err)
		}
		if err != nil {
			return
		}
		active := claims["active"].(bool)
		if id, reason, err := a.judge(claims, now); id != nil && (!active || id.Subject == "" || reason != "" || err != nil) {
			t.Fatalf("%s: %+v", body, id)
		}
	})
}
