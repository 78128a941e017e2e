package auth_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sluice/auth"
	"sluice/e2e/openid"
	"sluice/setting"
)

// These tests drive the authenticator with a real OpenID provider and HTTP
// clients with cookie jars. Time is moved by the clock that requests carry.

// site is a gateway with a login, before a page that says who asks.
type site struct {
	t        *testing.T
	provider *openid.Provider
	door     *openid.Door
	server   *httptest.Server
	log      *lines
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func oidcConfigOf(p *openid.Provider) *auth.OIDCConfig {
	return &auth.OIDCConfig{
		Issuer: p.URL, ClientID: openid.ClientID, ClientSecret: openid.ClientSecret,
		Scopes:            []string{"openid", "profile", "email", "offline_access"},
		BackchannelLogout: "/backchannel",
		Cookie:            auth.OIDCCookieConfig{Secure: "auto", SameSite: "lax", Parts: 4, MaxAge: setting.Duration(12 * time.Hour)},
		Secret:            []string{"0123456789abcdef0123456789abcdef"},
		Refresh:           true, ClaimsFrom: "userinfo", Timeout: setting.Duration(20 * time.Second), Remember: 64,
	}
}

func newMember(t *testing.T, c *auth.OIDCConfig, log io.Writer) *auth.Member {
	t.Helper()
	var p setting.Problems
	c.Validate(&p)
	set := auth.Build(map[string]auth.Config{"web": {OIDC: c}}, nil, auth.Env{Log: zerolog.New(log)}, &p)
	if len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	set.Start(nil)
	t.Cleanup(func() { set.Retire(nil) })
	return set.Member("web")
}

// newSite runs one. change may alter its settings, which know its own URL.
func newSite(t *testing.T, https bool, change func(c *auth.OIDCConfig, own string)) *site {
	t.Helper()
	s := &site{t: t, log: &lines{}}
	s.door = &openid.Door{HTTPS: https, Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("X-Sub"), "\n") {
			t.Error("a claim broke a line")
		}
		fmt.Fprintf(w, "%s %s %s", r.URL.RequestURI(), r.Header.Get("X-Sub"), r.Header.Get("X-Email"))
	})}
	s.server = httptest.NewUnstartedServer(s.door)
	if https {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	t.Cleanup(s.server.Close)
	own := s.server.URL
	var err error
	if s.provider, err = openid.Start(own+"/bye", own+"/oauth2/web/callback"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.provider.Stop)
	c := oidcConfigOf(s.provider)
	if change != nil {
		change(c, own)
	}
	s.door.Member = newMember(t, c, s.log)
	return s
}

// ahead moves the gateway's clock.
func (s *site) ahead(d time.Duration) { s.door.Ahead.Store(int64(d)) }

func (s *site) counts() map[string]uint64 {
	return s.door.Member.Authenticator.(auth.Stater).Counts()
}

// browser is a client with cookies that follows redirects when it is told to.
type browser struct {
	t      *testing.T
	client *http.Client
	jar    *cookiejar.Jar
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the server's own certificate
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t, &http.Client{Transport: transport, Jar: jar, Timeout: time.Minute}, jar}
}

// do sends a request as a browser sends it for a page, unless headers say
// otherwise, and returns the answer that it ends at.
func (b *browser) do(follow bool, method, to, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, to, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Accept", "text/html,*/*")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := *b.client
	if !follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	res, err := client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res, string(text)
}

func (b *browser) get(to string) (*http.Response, string) {
	b.t.Helper()
	return b.do(true, http.MethodGet, to, "")
}

var hiddenID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// fill sends the provider's login form, and stops before the callback.
func (b *browser) fill(s *site, form string) *url.URL {
	b.t.Helper()
	m := hiddenID.FindStringSubmatch(form)
	if m == nil {
		b.t.Fatalf("expected the login form, got %s", form)
	}
	res, text := b.do(false, http.MethodPost, s.provider.URL+"/login/username",
		url.Values{"id": {m[1]}, "username": {s.provider.User}, "password": {openid.Password}}.Encode())
	if res.StatusCode != http.StatusFound {
		b.t.Fatalf("the form answered %d: %s", res.StatusCode, text)
	}
	next, err := res.Location()
	if err != nil {
		b.t.Fatal(err)
	}
	res, text = b.do(false, http.MethodGet, next.String(), "")
	callback, err := res.Location()
	if err != nil {
		b.t.Fatalf("the provider answered %d: %s", res.StatusCode, text)
	}
	return callback
}

// login goes from a page through the provider back to it.
func (b *browser) login(s *site, page string) (*http.Response, string) {
	b.t.Helper()
	_, form := b.get(s.server.URL + page)
	return b.get(b.fill(s, form).String())
}

func (b *browser) wantPage(s *site, page string) {
	b.t.Helper()
	res, text := b.do(false, http.MethodGet, s.server.URL+page, "")
	if want := page + " " + openid.Subject + " " + openid.Email; res.StatusCode != http.StatusOK || text != want {
		b.t.Fatalf("expected %q, got %d %q; log: %s", want, res.StatusCode, text, s.log)
	}
}

func (b *browser) wantLogin(s *site, page string) {
	b.t.Helper()
	res, text := b.do(false, http.MethodGet, s.server.URL+page, "")
	if to := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, s.provider.URL+"/auth?") {
		b.t.Fatalf("expected a redirect to the provider, got %d %q %q; log: %s", res.StatusCode, to, text, s.log)
	}
}

func TestOIDCLogin(t *testing.T) {
	for _, https := range []bool{false, true} {
		t.Run(fmt.Sprint("https=", https), func(t *testing.T) {
			s := newSite(t, https, nil)
			b := newBrowser(t)
			res, text := b.login(s, "/a/page?with=query&and=more")
			if want := "/a/page?with=query&and=more " + openid.Subject + " " + openid.Email; res.StatusCode != 200 || text != want {
				t.Fatalf("expected %q, got %d %q; log: %s", want, res.StatusCode, text, s.log)
			}
			before := s.door.By.Load()
			b.wantPage(s, "/")
			if s.door.By.Load() != before+1 {
				t.Error("expected the session to be recalled")
			}
			own, _ := url.Parse(s.server.URL)
			names := []string{}
			for _, c := range b.jar.Cookies(own) {
				names = append(names, c.Name)
			}
			want := "[sluice_web]"
			if https {
				want = "[__Host-sluice_web]"
			}
			if fmt.Sprint(names) != want {
				t.Errorf("expected the cookies %s, got %v", want, names)
			}
			if log := s.log.String(); strings.Contains(log, "failed") || strings.Contains(log, openid.ClientSecret) {
				t.Error(log)
			}
			if c := s.counts(); c["logins_started"] != 1 || c["logins_finished"] != 1 || c["logins_failed"] != 0 {
				t.Error(c)
			}
		})
	}
}

// The redirect asks for what the flow needs, and the cookies are locked up.
func TestOIDCRedirect(t *testing.T) {
	s := newSite(t, true, nil)
	b := newBrowser(t)
	res, _ := b.do(false, http.MethodGet, s.server.URL+"/x", "")
	to, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	q := to.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": openid.ClientID, "code_challenge_method": "S256",
		"redirect_uri": s.server.URL + "/oauth2/web/callback", "scope": "openid profile email offline_access",
	} {
		if q.Get(name) != want {
			t.Errorf("%s: expected %q, got %q", name, want, q.Get(name))
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) < 22 {
			t.Errorf("%s has less than 128 bits: %q", name, q.Get(name))
		}
	}
	if res.Header.Get("Cache-Control") != "no-store" || len(res.Cookies()) != 1 {
		t.Fatal(res.Header)
	}
	c := res.Cookies()[0]
	if !strings.HasPrefix(c.Name, "__Host-sluice_web.login-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 600 {
		t.Error(c)
	}
	if strings.Contains(c.Value, q.Get("state")) || strings.Contains(c.Value, q.Get("nonce")) {
		t.Error("the cookie shows what it holds")
	}
}

// Only pages are redirected.
func TestOIDCWhoIsRedirected(t *testing.T) {
	s := newSite(t, false, nil)
	f := func(want int, method string, headers ...string) {
		t.Helper()
		res, text := newBrowser(t).do(false, method, s.server.URL+"/x", "", headers...)
		if res.StatusCode != want {
			t.Errorf("%s %v: expected %d, got %d %s", method, headers, want, res.StatusCode, text)
		}
	}
	f(303, "GET")
	f(303, "HEAD")
	f(303, "GET", "Sec-Fetch-Mode", "navigate", "Accept", "*/*")
	f(401, "GET", "Accept", "application/json")
	f(401, "GET", "Accept", "*/*")
	f(401, "GET", "Sec-Fetch-Mode", "cors")
	f(401, "GET", "Sec-Fetch-Mode", "no-cors")
	f(401, "GET", "Sec-Fetch-Mode", "navigate", "Sec-Purpose", "prefetch;prerender")
	f(401, "GET", "X-Requested-With", "XMLHttpRequest")
	f(401, "GET", "Connection", "Upgrade", "Upgrade", "websocket")
	f(401, "POST")
	f(401, "DELETE")
	// A cookie that nobody made here is no session.
	f(303, "GET", "Cookie", "sluice_web=AAAA")
	f(401, "POST", "Cookie", "sluice_web=AAAA")
	f(401, "GET", "Cookie", "sluice_web=AAAA; sluice_web=BBBB")
	f(303, "GET", "Cookie", "sluice_web=3.AAAA; sluice_web.1=BBBB")
	f(303, "GET", "Cookie", "sluice_web=9.AAAA")
}

// Several tabs log in at a time, each to its own page.
func TestOIDCTabs(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	var callbacks []string
	for i := range 3 {
		// In a browser the session of the provider would spare the form.
		_, form := b.get(fmt.Sprintf("%s/tab/%d", s.server.URL, i))
		callbacks = append(callbacks, b.fill(s, form).String())
	}
	for i, c := range callbacks {
		res, text := b.get(c)
		if want := fmt.Sprintf("/tab/%d ", i); res.StatusCode != 200 || !strings.HasPrefix(text, want) {
			t.Errorf("tab %d: expected %q, got %d %q", i, want, res.StatusCode, text)
		}
	}
	// A callback that is loaded again leads on: the session is there.
	if res, text := b.get(callbacks[0]); res.StatusCode != 200 || !strings.HasPrefix(text, "/ ") {
		t.Errorf("again: got %d %q", res.StatusCode, text)
	}
	// More logins than are kept: the oldest go.
	other := newBrowser(t)
	for i := range 9 {
		other.do(false, http.MethodGet, fmt.Sprintf("%s/tab/%d", s.server.URL, i), "")
	}
	own, _ := url.Parse(s.server.URL)
	if n := len(other.jar.Cookies(own)); n != 5 {
		t.Errorf("expected 5 logins under way, got %d", n)
	}
}

// Nobody is sent away from the site.
func TestOIDCReturnsToItself(t *testing.T) {
	s := newSite(t, false, nil)
	f := func(target, want string) {
		t.Helper()
		b := newBrowser(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.server.URL+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/html")
		client := *b.client
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		form, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		res, text := b.do(false, http.MethodGet, b.fill(s, string(form)).String(), "")
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("%s: expected %q, got %q %s", target, want, got, text)
		}
	}
	f("//evil.example/x", "/")
	f("//evil.example%2f..", "/")
	f("/%5cevil.example", "/%5cevil.example")
	f("/a?b", "/a?b")
	f("/ok?next=//evil.example", "/ok?next=//evil.example")
	f("/oauth2/web/logout/x", "/oauth2/web/logout/x")
	f("/"+strings.Repeat("a", 2000), "/")
	f("/page?"+strings.Repeat("a", 2000), "/page")
}

// What is wrong at the callback is said, and no session comes of it.
func TestOIDCCallbackRefused(t *testing.T) {
	s := newSite(t, false, nil)
	start := func(t *testing.T) (*browser, *url.URL) {
		b := newBrowser(t)
		_, form := b.get(s.server.URL + "/")
		return b, b.fill(s, form)
	}
	with := func(u *url.URL, change func(url.Values)) string {
		q := u.Query()
		change(q)
		v := *u
		v.RawQuery = q.Encode()
		return v.String()
	}
	for _, c := range []struct {
		name   string
		want   int
		change func(url.Values)
	}{
		{"no query", 400, func(q url.Values) { clear(q) }},
		{"no state", 400, func(q url.Values) { q.Del("state") }},
		{"another state", 400, func(q url.Values) { q.Set("state", strings.Repeat("A", 26)) }},
		{"a state that ends otherwise", 400, func(q url.Values) { q.Set("state", q.Get("state")[:20]+"AAAAAA") }},
		{"a state with a line end", 400, func(q url.Values) { q.Set("state", q.Get("state")+"\r\n") }},
		{"two states", 400, func(q url.Values) { q.Add("state", q.Get("state")) }},
		{"two codes", 400, func(q url.Values) { q.Add("code", "x") }},
		{"no code", 400, func(q url.Values) { q.Del("code") }},
		{"another code", 403, func(q url.Values) { q.Set("code", "stolen") }},
		{"another issuer", 400, func(q url.Values) { q.Set("iss", "https://evil.example") }},
		{"a refusal", 403, func(q url.Values) { q.Set("error", "access_denied") }},
		{"a refusal with a script", 403, func(q url.Values) { q.Set("error", "<script>") }},
		{"an outage", 503, func(q url.Values) { q.Set("error", "temporarily_unavailable") }},
		{"too long", 400, func(q url.Values) { q.Set("x", strings.Repeat("a", 9000)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, callback := start(t)
			res, text := b.do(false, http.MethodGet, with(callback, c.change), "")
			if res.StatusCode != c.want || !strings.Contains(res.Header.Get("Content-Type"), "problem+json") || strings.Contains(text, "script") {
				t.Errorf("expected %d, got %d %s", c.want, res.StatusCode, text)
			}
			var p map[string]any
			if err := json.Unmarshal([]byte(text), &p); err != nil || p["status"] != float64(c.want) {
				t.Errorf("%v %s", err, text)
			}
			b.wantLogin(s, "/")
		})
	}
	t.Run("another browser", func(t *testing.T) {
		_, callback := start(t)
		if res, text := newBrowser(t).do(false, http.MethodGet, callback.String(), ""); res.StatusCode != 400 {
			t.Errorf("got %d %s", res.StatusCode, text)
		}
	})
	t.Run("another login's code", func(t *testing.T) {
		b, callback := start(t)
		_, other := start(t)
		if res, text := b.do(false, http.MethodGet, with(callback, func(q url.Values) { q.Set("code", other.Query().Get("code")) }), ""); res.StatusCode != 403 {
			t.Errorf("got %d %s", res.StatusCode, text)
		}
	})
	t.Run("another host", func(t *testing.T) {
		b, callback := start(t)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, callback.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.jar.Cookies(callback) {
			req.AddCookie(c)
		}
		req.Host = "evil.example"
		res, err := b.client.Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != 400 {
			t.Errorf("got %d", res.StatusCode)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b, callback := start(t)
		s.ahead(11 * time.Minute)
		defer s.ahead(0)
		if res, text := b.do(false, http.MethodGet, callback.String(), ""); res.StatusCode != 400 {
			t.Errorf("got %d %s", res.StatusCode, text)
		}
	})
	t.Run("POST", func(t *testing.T) {
		b, callback := start(t)
		if res, _ := b.do(false, http.MethodPost, callback.String(), "a=b"); res.StatusCode != 405 || res.Header.Get("Allow") != "GET" {
			t.Errorf("got %d", res.StatusCode)
		}
	})
	if log := s.log.String(); strings.Contains(log, "stolen") || strings.Contains(log, openid.ClientSecret) {
		t.Error(log)
	}
}

func TestOIDCSessionEnds(t *testing.T) {
	s := newSite(t, false, func(c *auth.OIDCConfig, _ string) { c.Refresh = false })
	b := newBrowser(t)
	b.login(s, "/")
	s.ahead(11*time.Hour + 59*time.Minute)
	b.wantPage(s, "/")
	s.ahead(12*time.Hour + time.Second)
	b.wantLogin(s, "/")
	if res, _ := b.do(false, http.MethodGet, s.server.URL+"/", "", "Accept", "*/*"); res.StatusCode != 401 {
		t.Errorf("got %d", res.StatusCode)
	}
}

// Many requests of a session that is due renew it once, and each gets the new
// cookie.
func TestOIDCRenewal(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	own, _ := url.Parse(s.server.URL)
	old := b.jar.Cookies(own)
	asked := s.provider.Asked("/oauth/token")
	s.ahead(4*time.Minute + time.Second)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			res, text := b.do(false, http.MethodGet, s.server.URL+"/", "")
			if res.StatusCode != 200 {
				t.Errorf("got %d %s", res.StatusCode, text)
			}
		})
	}
	wg.Wait()
	if n := s.provider.Asked("/oauth/token") - asked; n != 1 {
		t.Errorf("expected one question, got %d", n)
	}
	if s.counts()["renewed"] != 1 {
		t.Error(s.counts())
	}
	if now := b.jar.Cookies(own); now[0].Value == old[0].Value {
		t.Error("expected a new cookie")
	}
	before := s.door.By.Load()
	b.wantPage(s, "/")
	if s.door.By.Load() != before+1 {
		t.Error("expected the renewed session to be recalled")
	}
	// A request that was under way with the old cookie gets the new one too.
	late := newBrowser(t)
	late.jar.SetCookies(own, old)
	late.wantPage(s, "/")
	if late.jar.Cookies(own)[0].Value == old[0].Value {
		t.Error("expected the new cookie for the old one")
	}
	// And on it goes.
	s.ahead(9 * time.Minute)
	b.wantPage(s, "/")
	if s.counts()["renewed"] != 2 {
		t.Error(s.counts())
	}
	s.ahead(13 * time.Hour)
	b.wantLogin(s, "/")
}

// Another gateway with the same secret has used the refresh token up.
func TestOIDCRenewedElsewhere(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	own, _ := url.Parse(s.server.URL)
	old := b.jar.Cookies(own)
	first := s.door.Member
	s.ahead(4*time.Minute + time.Second)
	b.wantPage(s, "/")

	s.door.Member = newMember(t, oidcConfigOf(s.provider), s.log)
	other := newBrowser(t)
	other.jar.SetCookies(own, old)
	other.wantPage(s, "/")
	if s.counts()["renewals_refused"] != 1 {
		t.Error(s.counts())
	}
	b.wantPage(s, "/") // the first one's new cookie is good here
	s.ahead(5*time.Minute + 30*time.Second)
	other.wantLogin(s, "/")
	s.door.Member = first
	b.wantPage(s, "/")
}

func TestOIDCOutage(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	stranger := newBrowser(t)
	_, form := stranger.get(s.server.URL + "/")
	callback := stranger.fill(s, form)
	s.provider.Stop()
	s.ahead(2 * time.Minute)
	b.wantPage(s, "/")
	wantOut := func(b *browser, to string) {
		t.Helper()
		if res, text := b.do(false, http.MethodGet, to, ""); res.StatusCode != 503 {
			t.Errorf("expected 503, got %d %s", res.StatusCode, text)
		}
	}
	wantOut(newBrowser(t), s.server.URL+"/")
	wantOut(newBrowser(t), s.server.URL+"/") // at once, without a question
	wantOut(stranger, callback.String())
	// Renewal fails and the session goes on, past the end of its tokens.
	for _, ahead := range []time.Duration{4*time.Minute + 10*time.Second, 6 * time.Minute, time.Hour} {
		s.ahead(ahead)
		b.wantPage(s, "/")
		b.wantPage(s, "/")
	}
	if c := s.counts(); c["renewals_failed"] != 3 || c["renewed"] != 0 {
		t.Error(c)
	}
	s.ahead(13 * time.Hour)
	wantOut(b, s.server.URL+"/")
	if err := s.provider.Resume(); err != nil {
		t.Fatal(err)
	}
	s.ahead(time.Hour + time.Minute)
	b.wantPage(s, "/")
	if s.counts()["renewed"] != 1 {
		t.Error(s.counts())
	}
	newBrowser(t).wantLogin(s, "/")
}

func TestOIDCStartsWithoutProvider(t *testing.T) {
	s := newSite(t, false, nil)
	s.provider.Stop()
	c := oidcConfigOf(s.provider)
	s.door.Member = newMember(t, c, s.log)
	b := newBrowser(t)
	if res, _ := b.do(false, http.MethodGet, s.server.URL+"/", ""); res.StatusCode != 503 {
		t.Errorf("got %d", res.StatusCode)
	}
	if err := s.provider.Resume(); err != nil {
		t.Fatal(err)
	}
	s.ahead(time.Minute)
	b.login(s, "/")
	b.wantPage(s, "/")
}

func TestOIDCKeyRotation(t *testing.T) {
	s := newSite(t, false, nil)
	newBrowser(t).login(s, "/")
	if err := s.provider.Rotate(); err != nil {
		t.Fatal(err)
	}
	b := newBrowser(t)
	b.login(s, "/")
	b.wantPage(s, "/")
	if c := s.counts(); c["logins_finished"] != 2 {
		t.Error(c, s.log)
	}
}

// A secret is replaced: the new one encrypts, the old one still decrypts.
func TestOIDCSecretRotation(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	build := func(secrets ...string) {
		c := oidcConfigOf(s.provider)
		c.Secret = secrets
		s.door.Member = newMember(t, c, s.log)
	}
	build(strings.Repeat("n", 32), "0123456789abcdef0123456789abcdef")
	b.wantPage(s, "/")
	build(strings.Repeat("n", 32))
	b.wantLogin(s, "/")
	build()
	b.wantLogin(s, "/")
	if !strings.Contains(s.log.String(), "oidc has no secret") {
		t.Error("expected a warning")
	}
}

func TestOIDCLogout(t *testing.T) {
	f := func(name string, change func(*auth.OIDCConfig, string), ask func(b *browser, s *site) (*http.Response, string), check func(t *testing.T, s *site, res *http.Response, text string)) {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, false, change)
			b := newBrowser(t)
			b.login(s, "/")
			own, _ := url.Parse(s.server.URL)
			copied := newBrowser(t)
			copied.jar.SetCookies(own, b.jar.Cookies(own))
			res, text := ask(b, s)
			check(t, s, res, text)
			for _, c := range b.jar.Cookies(own) {
				if c.Name == "sluice_web" {
					t.Error("expected no session")
				}
			}
			b.wantLogin(s, "/")
			copied.wantLogin(s, "/")
			// The user can log in again.
			b.login(s, "/")
			b.wantPage(s, "/")
		})
	}
	post := func(c *auth.OIDCConfig, own string) { c.PostLogout = own + "/bye" }
	provider := func(t *testing.T, s *site, res *http.Response, text string) {
		to, err := res.Location()
		if err != nil {
			t.Fatal(err, text)
		}
		if q := to.Query(); !strings.HasPrefix(to.String(), s.provider.URL+"/end_session?") || q.Get("client_id") != openid.ClientID ||
			strings.Count(q.Get("id_token_hint"), ".") != 2 || q.Get("post_logout_redirect_uri") != s.server.URL+"/bye" {
			t.Error(to)
		}
	}
	f("GET", post, func(b *browser, s *site) (*http.Response, string) {
		return b.do(false, http.MethodGet, s.server.URL+"/oauth2/web/logout", "", "Sec-Fetch-Site", "same-origin")
	}, provider)
	f("POST", post, func(b *browser, s *site) (*http.Response, string) {
		return b.do(false, http.MethodPost, s.server.URL+"/oauth2/web/logout", "a=b", "Origin", s.server.URL)
	}, provider)
	f("through the provider", post, func(b *browser, s *site) (*http.Response, string) {
		// The provider sends the browser to /bye, which asks for a login.
		return b.do(true, http.MethodGet, s.server.URL+"/oauth2/web/logout", "")
	}, func(t *testing.T, s *site, res *http.Response, text string) {
		if res.StatusCode != 200 || !strings.Contains(text, "Login") {
			t.Error(res.StatusCode, text)
		}
	})
}

func TestOIDCLogoutWithoutProvider(t *testing.T) {
	s := newSite(t, false, nil)
	s.provider.Stop()
	c := oidcConfigOf(s.provider)
	s.door.Member = newMember(t, c, s.log)
	if res, text := newBrowser(t).get(s.server.URL + "/oauth2/web/logout"); res.StatusCode != 200 || !strings.Contains(text, "logged out") {
		t.Error(res.StatusCode, text)
	}
	c = oidcConfigOf(s.provider)
	c.AfterLogout = "/home"
	s.door.Member = newMember(t, c, s.log)
	if res, _ := newBrowser(t).do(false, http.MethodGet, s.server.URL+"/oauth2/web/logout", ""); res.Header.Get("Location") != "/home" {
		t.Error(res.Header)
	}
}

// No other site logs a user out.
func TestOIDCLogoutAsksBack(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	f := func(want int, method string, headers ...string) {
		t.Helper()
		res, text := b.do(false, method, s.server.URL+"/oauth2/web/logout", "", headers...)
		if res.StatusCode != want || len(res.Cookies()) > 0 {
			t.Errorf("%s %v: expected %d, got %d %s", method, headers, want, res.StatusCode, text)
		}
		if want == 200 && !strings.Contains(text, `<form method="post"`) {
			t.Error(text)
		}
		b.wantPage(s, "/")
	}
	f(200, "GET", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	f(403, "GET", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors")
	f(403, "POST", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	f(403, "POST", "Origin", "https://evil.example")
	f(403, "POST", "Origin", "null")
	f(200, "GET", "Referer", "https://evil.example/")
	f(405, "DELETE")
}

func TestOIDCBackchannelLogout(t *testing.T) {
	s := newSite(t, false, nil)
	b := newBrowser(t)
	b.login(s, "/")
	ask := func(want int, body string, headers ...string) {
		t.Helper()
		res, text := newBrowser(t).do(false, http.MethodPost, s.server.URL+"/backchannel", body, headers...)
		if res.StatusCode != want || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("expected %d, got %d %s", want, res.StatusCode, text)
		}
	}
	token := func(claims map[string]any) string {
		t.Helper()
		text, err := s.provider.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		return url.Values{"logout_token": {text}}.Encode()
	}
	now := time.Now().Unix()
	good := map[string]any{"sub": openid.Subject, "events": openid.LogoutEvent}
	with := func(name string, v any) map[string]any {
		m := map[string]any{name: v}
		for k, v := range good {
			if _, ok := m[k]; !ok {
				m[k] = v
			}
		}
		return m
	}
	for _, bad := range []map[string]any{
		with("events", nil), with("events", map[string]any{}), with("nonce", "n"), with("sub", nil), with("jti", nil),
		with("exp", now-10), with("exp", nil), with("iat", now-3600), with("iat", now+3600), with("iat", nil),
		with("aud", "another"), with("iss", "https://evil.example"),
	} {
		ask(400, token(bad))
	}
	ask(400, "")
	ask(400, token(good)+"&"+token(good))
	ask(400, token(good), "Content-Type", "text/plain")
	ask(400, "logout_token=e30.e30.")
	text := token(good)
	ask(400, text[:len(text)-8]+"AAAAAAAA")
	if res, _ := b.do(false, http.MethodGet, s.server.URL+"/backchannel", ""); res.StatusCode != 405 {
		t.Error(res.StatusCode)
	}
	b.wantPage(s, "/")

	ask(200, text)
	b.wantLogin(s, "/")
	b.login(s, "/")
	b.wantPage(s, "/")
	ask(400, text) // seen before: what began after it stays
	b.wantPage(s, "/")
	// Another session of the provider, for a provider whose ID tokens name none.
	ask(200, token(map[string]any{"sub": "another", "sid": "one", "events": openid.LogoutEvent}))
	b.wantPage(s, "/")
	ask(200, token(map[string]any{"sub": openid.Subject, "sid": "one", "events": openid.LogoutEvent}))
	b.wantLogin(s, "/")
	// Tokens with unknown keys do not become questions to the provider.
	keys := s.provider.Asked("/keys")
	for i := range 20 {
		head := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"RS256","kid":"k%d"}`, i))
		ask(400, "logout_token="+head+"."+base64.RawURLEncoding.EncodeToString([]byte(`{}`))+".AAAA")
	}
	if n := s.provider.Asked("/keys") - keys; n > 10 {
		t.Errorf("20 unknown keys became %d questions", n)
	}
}

func TestOIDCStrict(t *testing.T) {
	s := newSite(t, false, func(c *auth.OIDCConfig, _ string) { c.Cookie.SameSite = "strict" })
	b := newBrowser(t)
	res, text := b.login(s, "/page?a=1&b=2")
	if res.StatusCode != 200 || !strings.Contains(text, `content="0;url=/page?a=1&amp;b=2"`) {
		t.Error(res.StatusCode, text)
	}
	b.wantPage(s, "/")
}

func TestOIDCRedirectBase(t *testing.T) {
	s := newSite(t, false, func(c *auth.OIDCConfig, own string) {
		c.RedirectBase = own
	})
	b := newBrowser(t)
	res, _ := b.do(false, http.MethodGet, s.server.URL+"/", "", "X-Forwarded-Host", "evil.example")
	to, err := res.Location()
	if err != nil || to.Query().Get("redirect_uri") != s.server.URL+"/oauth2/web/callback" {
		t.Error(to, err)
	}
}
