package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/setting"
	"sluice/wire"
)

const oidcTestSecret = "0123456789abcdef0123456789abcdef"

func oidcTestConfig() *OIDCConfig {
	return &OIDCConfig{
		Issuer: "https://id.example.com", ClientID: "gateway", ClientSecret: "hush",
		Cookie: OIDCCookieConfig{Secure: "auto", SameSite: "lax", Parts: 8, MaxAge: setting.Duration(12 * time.Hour)},
		Secret: []string{oidcTestSecret}, Refresh: true, ClaimsFrom: "id_token",
		Timeout: setting.Duration(time.Second), Remember: 64,
	}
}

func newTestOIDC(t testing.TB, change func(*OIDCConfig)) *openID {
	t.Helper()
	c := oidcTestConfig()
	if change != nil {
		change(c)
	}
	var p setting.Problems
	if c.Validate(&p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newOIDC("web", c, Env{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.(*openID).Stop)
	return a.(*openID)
}

// oidcTestRequest is a request with these header lines.
func oidcTestRequest(t testing.TB, scheme string, lines ...string) *Request {
	t.Helper()
	head := &wire.Request{}
	text := "GET /page HTTP/1.1\r\nHost: app.example.com\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
	if _, err := head.Parse([]byte(text), wire.Limits{Bytes: 64 << 10, Fields: 100}); err != nil {
		t.Fatal(err)
	}
	return &Request{Head: head, Path: head.Path, Scheme: scheme, Now: time.Now()}
}

func oidcTestSession(now time.Time, idToken int) *session {
	claims, err := json.Marshal(map[string]any{"sub": "ada", "email": "ada@example.com", "n": json.Number("12345678901234567890"), "pad": strings.Repeat("x", idToken)})
	if err != nil {
		panic(err)
	}
	return &session{
		ID: "id", Sub: "ada", Begun: now.UnixMilli(), Ends: now.Add(time.Hour).Unix(), Scope: "openid email",
		IDToken: "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln",
	}
}

// cookieHeader is what a browser sends back of Set-Cookie lines.
func cookieHeader(t testing.TB, lines []Line) string {
	t.Helper()
	var pairs []string
	for _, l := range lines {
		c, err := http.ParseSetCookie(l.Value)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Value) > 4096 {
			t.Errorf("a cookie of %d bytes", len(l.Value))
		}
		if c.MaxAge > 0 {
			pairs = append(pairs, c.Name+"="+c.Value)
		}
	}
	return "Cookie: " + strings.Join(pairs, "; ")
}

// A session goes through the browser's cookies in one piece, whatever its size.
func TestOIDCCookieParts(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		if _, err := newTestOIDC(t, func(c *OIDCConfig) { c.Cookie.Parts = 1 }).keepSession(oidcTestRequest(t, scheme), oidcTestSession(time.Now(), 4000)); err == nil {
			t.Error("expected a session of one part to have a bound")
		}
		for _, c := range []struct{ pad, parts int }{{0, 1}, {1500, 1}, {4000, 2}, {9000, 5}, {16000, 8}, {24000, 0}} {
			o := newTestOIDC(t, nil)
			r := oidcTestRequest(t, scheme)
			s := oidcTestSession(r.Now, c.pad)
			if err := s.read(); err != nil {
				t.Fatal(err)
			}
			lines, err := o.keepSession(r, s)
			if c.parts == 0 {
				if err == nil {
					t.Errorf("%d: expected an error", c.pad)
				}
				continue
			}
			if err != nil || len(lines) != c.parts {
				t.Fatalf("%d: expected %d cookies, got %d, %v", c.pad, c.parts, len(lines), err)
			}
			back := oidcTestRequest(t, scheme, cookieHeader(t, lines))
			cookie, f, buffer := o.sessionCookie(back)
			if f != cookieWhole {
				t.Fatalf("%d: found %d", c.pad, f)
			}
			got, ok := o.open(back, cookie)
			o.release(buffer)
			if !ok || !reflect.DeepEqual(got, s) {
				t.Fatalf("%d: got %v %+v", c.pad, ok, got)
			}
			res := o.Verify(back)
			if email, _ := res.Identity.Claim("email"); res.Outcome != Identified || email != "ada@example.com" || !res.Identity.HasScope("email") {
				t.Errorf("%d: %+v", c.pad, res)
			}
			if n, _ := res.Identity.Claim("n"); n != "12345678901234567890" {
				t.Errorf("a large number became %s", n)
			}
			// The other scheme has other names.
			other := oidcTestRequest(t, map[string]string{"http": "https", "https": "http"}[scheme], cookieHeader(t, lines))
			if _, f, _ := o.sessionCookie(other); f != cookieNone {
				t.Error("a cookie of one scheme was taken on the other")
			}
			if c.parts == 8 {
				// A smaller session takes the old parts away.
				small, err := o.keepSession(back, oidcTestSession(r.Now, 0))
				if err != nil || len(small) != 8 {
					t.Errorf("expected 1 cookie and 7 that go, got %d %v", len(small), err)
				}
			}
		}
	}
}

// Whatever is changed about a cookie, or around it, it is no session any more.
func TestOIDCCookieTampered(t *testing.T) {
	o := newTestOIDC(t, nil)
	r := oidcTestRequest(t, "https")
	s := oidcTestSession(r.Now, 0)
	value, err := o.sealed(s, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, o *openID, value string) {
		t.Helper()
		if _, ok := o.open(r, []byte(value)); ok {
			t.Errorf("%s: was opened", what)
		}
	}
	if _, ok := o.open(r, []byte(value)); !ok {
		t.Fatal("not opened")
	}
	for i := range len(value) {
		b := []byte(value)
		b[i] ^= 1
		f(fmt.Sprint("byte ", i), o, string(b))
	}
	f("cut", o, value[:len(value)-1])
	f("longer", o, value+"A")
	f("padded", o, value+"=")
	f("broken", o, value[:8]+"\n"+value[8:])
	f("empty", o, "")
	f("another client", newTestOIDC(t, func(c *OIDCConfig) { c.ClientID = "other" }), value)
	f("another issuer", newTestOIDC(t, func(c *OIDCConfig) { c.Issuer = "https://id.example.org" }), value)
	f("another secret", newTestOIDC(t, func(c *OIDCConfig) { c.Secret = []string{strings.Repeat("z", 32)} }), value)
	f("another cookie", newTestOIDC(t, func(c *OIDCConfig) { c.Cookie.Name = "other" }), value)
	f("no secret", newTestOIDC(t, func(c *OIDCConfig) { c.Secret = nil }), value)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	f("a login's cookie", o, o.seal.seal(forLogin, o.cookies.names[1].session, text))
	f("not JSON", o, o.seal.seal(forSession, o.cookies.names[1].session, []byte("{")))
	f("no session", o, o.seal.seal(forSession, o.cookies.names[1].session, []byte("{}")))
	again := newTestOIDC(t, func(c *OIDCConfig) { c.Secret = []string{strings.Repeat("z", 32), oidcTestSecret} })
	if _, ok := again.open(r, []byte(value)); !ok {
		t.Error("the second secret does not decrypt")
	}
}

func TestOIDCCookieAttributes(t *testing.T) {
	f := func(scheme, want string, change func(*OIDCConfig)) {
		t.Helper()
		o := newTestOIDC(t, change)
		r := oidcTestRequest(t, scheme)
		l := o.cookies.line(o.https(r), o.cookies.names[o.https(r)].session, "v", o.cookies.sameSite[o.https(r)], 5)
		if l.Value != want {
			t.Errorf("expected %s, got %s", want, l.Value)
		}
	}
	f("http", "sluice_web=v; Max-Age=5; Path=/; HttpOnly; SameSite=Lax", nil)
	f("https", "__Host-sluice_web=v; Max-Age=5; Path=/; HttpOnly; Secure; SameSite=Lax", nil)
	f("https", "sluice_web=v; Max-Age=5; Path=/; HttpOnly; SameSite=Lax", func(c *OIDCConfig) { c.Cookie.Secure = "never" })
	f("http", "__Host-x=v; Max-Age=5; Path=/; HttpOnly; Secure; SameSite=Strict", func(c *OIDCConfig) {
		c.Cookie.Secure, c.Cookie.Name, c.Cookie.SameSite = "always", "x", "strict"
	})
	f("http", "__Secure-sluice_web=v; Max-Age=5; Path=/; HttpOnly; Secure; Domain=example.com; SameSite=None", func(c *OIDCConfig) {
		c.RedirectBase, c.Cookie.Domain, c.Cookie.SameSite = "https://app.example.com", "example.com", "none"
	})
	o := newTestOIDC(t, nil)
	if got := fmt.Sprint(o.Places().Cookies); got != "[sluice_web sluice_web.* __Host-sluice_web __Host-sluice_web.*]" {
		t.Error(got)
	}
}

func TestOIDCEndings(t *testing.T) {
	now := time.UnixMilli(1_000_000_000)
	begun := func(at time.Duration, id, sub, sid string) *session {
		return &session{ID: id, Sub: sub, SID: sid, Begun: now.Add(at).UnixMilli()}
	}
	e := &endings{lifetime: time.Hour}
	f := func(want bool, s *session) {
		t.Helper()
		if e.has(s) != want {
			t.Errorf("%+v: expected %v", s, want)
		}
	}
	e.end(endOf("sub", "ada"), now)
	e.end(endOf("sid", "s1"), now)
	e.end(endOf("id", "i1"), now)
	f(true, begun(-time.Minute, "x", "ada", ""))
	f(true, begun(0, "x", "ada", "s9"))
	f(false, begun(time.Millisecond, "x", "ada", ""))
	f(true, begun(-time.Minute, "x", "bob", "s1"))
	f(false, begun(-time.Minute, "x", "bob", "s2"))
	f(true, begun(-time.Minute, "i1", "bob", ""))
	f(false, begun(-time.Minute, "s1", "bob", "i1"))
	// What has ended by itself need not be remembered.
	e.end(endOf("sub", "bob"), now.Add(2*time.Hour))
	if e.len() != 1 {
		t.Errorf("expected 1, got %d", e.len())
	}
	// Too many: whoever began before what is forgotten is out.
	e = &endings{lifetime: 1000 * time.Hour}
	for i := range mostEndings + 10 {
		if overflowed := e.end(endOf("id", fmt.Sprint(i)), now.Add(time.Duration(i)*time.Millisecond)); overflowed != (i >= mostEndings) {
			t.Fatalf("%d: overflowed %v", i, overflowed)
		}
	}
	if e.len() != mostEndings {
		t.Errorf("got %d", e.len())
	}
	f(true, begun(9*time.Millisecond, "x", "x", ""))
	f(false, begun(10*time.Millisecond, "x", "x", ""))
	// One user again and again takes no more room than many.
	e = &endings{lifetime: 1000 * time.Hour}
	for i := range 2 * mostEndings {
		e.end(endOf("sub", "ada"), now.Add(time.Duration(i)*time.Millisecond))
	}
	if e.at.len() > mostEndings || e.len() != 1 || e.before != 0 {
		t.Error(e.at.len(), e.len(), e.before)
	}
	if first, again := e.first(endOf("jti", "a"), now), e.first(endOf("jti", "a"), now); !first || again {
		t.Error(first, again)
	}
}

func TestOIDCRenewalsBounded(t *testing.T) {
	var rs renewals
	now := time.Unix(1_000_000, 0)
	var last *renewal
	for i := range mostRenewals {
		r, mine := rs.begin(fmt.Sprint(i), now)
		if !mine {
			t.Fatal(i)
		}
		last = r
	}
	if r, _ := rs.begin("one more", now); r != nil {
		t.Error("expected a bound")
	}
	close(last.landed)
	if r, _ := rs.begin("one more", now.Add(time.Second)); r != nil {
		t.Error("what landed just now is kept")
	}
	if r, mine := rs.begin("one more", now.Add(renewalKept)); r == nil || !mine {
		t.Error("what landed long ago makes room")
	}
}

func TestOIDCSchedule(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	f := func(lives time.Duration, refresh string, due, lapses int64) {
		t.Helper()
		s := &session{Refresh: refresh}
		var expires time.Time
		if lives != 0 {
			expires = now.Add(lives)
		}
		s.schedule(now, expires)
		if s.Due != due || s.Lapses != lapses {
			t.Errorf("%v: expected %d %d, got %d %d", lives, due, lapses, s.Due, s.Lapses)
		}
	}
	f(time.Hour, "", 0, 0)
	f(0, "r", 0, 0)
	f(time.Hour, "r", 1_000_000+3540, 1_000_000+3600)
	f(time.Minute, "r", 1_000_000+45, 1_000_000+60)
	f(time.Second, "r", 1_000_000+15, 1_000_000+16)
	f(-time.Hour, "r", 1_000_000+15, 1_000_000+16)
}

func TestOIDCConfigMistakes(t *testing.T) {
	f := func(want string, change func(*OIDCConfig)) {
		t.Helper()
		c := oidcTestConfig()
		change(c)
		var p setting.Problems
		c.Validate(&p)
		var paths []string
		for _, problem := range p.List() {
			paths = append(paths, problem.Path)
			if !strings.HasPrefix(problem.Expected, "expected ") || strings.Contains(problem.Expected, "hush") || strings.Contains(problem.Expected, "pass") {
				t.Errorf("%s: %s", problem.Path, problem.Expected)
			}
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("expected mistakes at %q, got %q", want, got)
		}
	}
	f("", func(*OIDCConfig) {})
	f("", func(c *OIDCConfig) { c.Issuer = "http://127.0.0.1:9998" })
	f("issuer", func(c *OIDCConfig) { c.Issuer = "" })
	f("issuer", func(c *OIDCConfig) { c.Issuer = "http://id.example.com" })
	f("issuer", func(c *OIDCConfig) { c.Issuer = "https://user:pass@id.example.com" })
	f("issuer", func(c *OIDCConfig) { c.Issuer = "https://id.example.com?x" })
	f("issuer", func(c *OIDCConfig) { c.Issuer = "https://id.example.com/#x" })
	f("client_id", func(c *OIDCConfig) { c.ClientID = "" })
	f("scopes", func(c *OIDCConfig) { c.Scopes = []string{"email"} })
	f("scopes[1]", func(c *OIDCConfig) { c.Scopes = []string{"openid", "a b"} })
	f("callback", func(c *OIDCConfig) { c.Callback = "oauth2" })
	f("callback", func(c *OIDCConfig) { c.Callback = "/a/../b" })
	f("callback", func(c *OIDCConfig) { c.Callback = "/a%2fb" })
	f("logout", func(c *OIDCConfig) { c.Logout = "//evil.example" })
	f("logout", func(c *OIDCConfig) { c.Callback, c.Logout = "/x", "/x" })
	f("after_logout", func(c *OIDCConfig) { c.AfterLogout = "//evil.example" })
	f("after_logout", func(c *OIDCConfig) { c.AfterLogout = "javascript:alert(1)" })
	f("", func(c *OIDCConfig) { c.AfterLogout = "/bye?now" })
	f("", func(c *OIDCConfig) { c.AfterLogout = "https://example.com/" })
	f("post_logout", func(c *OIDCConfig) { c.PostLogout = "/bye" })
	f("redirect_base", func(c *OIDCConfig) { c.RedirectBase = "https://example.com/" })
	f("redirect_base", func(c *OIDCConfig) { c.RedirectBase = "example.com" })
	f("secret[0]", func(c *OIDCConfig) { c.Secret = []string{"hush"} })
	f("secret", func(c *OIDCConfig) { c.Secret = strings.Split(strings.Repeat(oidcTestSecret+" ", 9)[:9*33-1], " ") })
	f("cookie.name", func(c *OIDCConfig) { c.Cookie.Name = "a=b" })
	f("cookie.name", func(c *OIDCConfig) { c.Cookie.Name = "__Host-x" })
	f("cookie.domain", func(c *OIDCConfig) { c.Cookie.Domain = "com" })
	f("cookie.domain", func(c *OIDCConfig) { c.Cookie.Domain = "a.b; Path=/x" })
	f("cookie.same_site", func(c *OIDCConfig) { c.Cookie.SameSite, c.Cookie.Secure = "none", "never" })

	c := oidcTestConfig()
	c.Logout = "/oauth2/web/callback"
	if _, err := newOIDC("web", c, Env{}); err == nil {
		t.Error("one path for two")
	}
}

func TestOIDCLocalTarget(t *testing.T) {
	f := func(want bool, targets ...string) {
		t.Helper()
		for _, s := range targets {
			if isLocalTarget(s) != want {
				t.Errorf("%q: expected %v", s, want)
			}
		}
	}
	f(true, "/", "/a", "/a//b", "/a?u=//x", "/%2f/x", "/a?u=https://x")
	f(false, "", "a", "//x", "/\\x", "\\\\x", "/\tx", "/\n/x", "/ /x", "https://x", "/é", "/a\\b")
}

func FuzzOIDCCookie(f *testing.F) {
	o := newTestOIDC(f, nil)
	r := oidcTestRequest(f, "http")
	value, err := o.sealed(oidcTestSession(r.Now, 0), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add("3." + value + "; sluice_web.1=AAAA; sluice_web.2=BBBB")
	f.Add("2.; sluice_web.1=")
	f.Add("8.x")
	f.Fuzz(func(t *testing.T, text string) {
		if !wire.IsFieldValue([]byte(text)) || len(text) > 32<<10 {
			return
		}
		head := &wire.Request{}
		if _, err := head.Parse([]byte("POST / HTTP/1.1\r\nHost: a\r\nCookie: sluice_web="+text+"\r\n\r\n"), wire.Limits{Bytes: 64 << 10, Fields: 100}); err != nil {
			return
		}
		r := &Request{Head: head, Path: head.Path, Scheme: "http", Now: time.Now()}
		o.Recall(r)
		// Whatever is opened was sealed here, and nobody else was.
		if res := o.Verify(r); res.Outcome == Identified && res.Identity.Subject != "ada" {
			t.Fatalf("%q became a session of %q", text, res.Identity.Subject)
		}
	})
}

// Whatever a query says, the callback answers, and with nothing of it.
func FuzzOIDCCallback(f *testing.F) {
	o := newTestOIDC(f, nil)
	f.Add("state=ABCDEFGHIJKLMNOP&code=x", "x")
	f.Add("state=ABCDEFGHIJKLMNOP&error=%0d%0aX", "")
	f.Add("state=%zz", "")
	f.Fuzz(func(t *testing.T, query, cookie string) {
		head := &wire.Request{}
		if _, err := head.Parse([]byte("GET /oauth2/web/callback?"+query+" HTTP/1.1\r\nHost: a\r\nCookie: sluice_web.login-ABCDEFGHIJKL="+cookie+"\r\n\r\n"), wire.Limits{Bytes: 64 << 10, Fields: 100}); err != nil {
			return
		}
		a := o.Handle(&Request{Head: head, Path: head.Path, Scheme: "http", Now: time.Now()})
		if a.Status != 400 && a.Status != 404 {
			t.Fatalf("%q: %d", query, a.Status)
		}
		for _, l := range a.Header {
			if !wire.IsToken([]byte(l.Name)) || !wire.IsFieldValue([]byte(l.Value)) {
				t.Fatalf("%q: %q", query, l)
			}
		}
	})
}
