package e2e

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"

	"sluice/e2e/rig"
)

// loginSite is a web app behind a login: a real OpenID provider, a backend that
// knows nothing of it, and the gateway between.
type loginSite struct {
	url      string // of the app, by the gateway
	gateway  *rig.Gateway
	provider *httptest.Server
	down     atomic.Bool
	config   string
	file     string
}

func startLoginSite(t *testing.T) *loginSite {
	t.Helper()
	s := &loginSite{}
	door := given[string](t)(rig.FreeAddress())
	s.url = "http://" + door
	s.provider = httptest.NewUnstartedServer(nil)
	issuer := "http://" + s.provider.Listener.Addr().String() + "/"
	client := "client-" + rand.Text()
	storage.RegisterClients(storage.WebClient(client, "secret", s.url+"/oauth2/web/callback"))
	op := exampleop.SetupServer(issuer, storage.NewStorage(storage.NewUserStore(issuer)), slog.New(slog.DiscardHandler), false)
	s.provider.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		op.ServeHTTP(w, r)
	})
	s.provider.Start()
	t.Cleanup(s.provider.Close)
	s.config = `
listen: ["` + door + `"]
admin: { address: "" }
log: { access: { enabled: false } }
auth:
  web:
    oidc:
      issuer: "` + issuer + `"
      client_id: "` + client + `"
      client_secret: secret
      scopes: [openid, profile, email, offline_access]
      claims_from: userinfo
      secret: "` + strings.Repeat("s", 40) + `"
    headers: { X-User: sub, X-Email: email }
upstreams: { app: "` + backend(t, "app").URL + `" }
routes:
  - { name: app, match: /*, auth: web, upstream: app }
`
	s.gateway, s.file = serveFile(t, s.config)
	return s
}

// client is a browser as far as cookies and redirects go.
func (s *loginSite) client(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: given[*cookiejar.Jar](t)(cookiejar.New(nil)), Transport: transport, Timeout: patience}
}

func (s *loginSite) get(t *testing.T, c *http.Client, path, mode string) (status int, at *url.URL, body string) {
	t.Helper()
	req := given[*http.Request](t)(http.NewRequestWithContext(bounded(t), http.MethodGet, s.url+path, nil))
	req.Header.Set("Sec-Fetch-Mode", mode)
	req.Header.Set("X-User", "forged")
	res := given[*http.Response](t)(c.Do(req))
	defer res.Body.Close()
	return res.StatusCode, res.Request.URL, string(given[[]byte](t)(io.ReadAll(res.Body)))
}

// logIn logs test-user2 in and returns what the app answered.
func (s *loginSite) logIn(t *testing.T, c *http.Client, path string) (at *url.URL, body string) {
	t.Helper()
	return s.logInAs(t, c, "test-user2", path)
}

func (s *loginSite) logInAs(t *testing.T, c *http.Client, user, path string) (at *url.URL, body string) {
	t.Helper()
	status, at, form := s.get(t, c, path, "navigate")
	_, rest, ok := strings.Cut(form, `name="id" value="`)
	if status != http.StatusOK || !ok {
		t.Fatalf("expected the provider's form, got %d at %s: %s", status, at, form)
	}
	id, _, _ := strings.Cut(rest, `"`)
	res := given[*http.Response](t)(c.PostForm(s.provider.URL+"/login/username", url.Values{"id": {id}, "username": {user}, "password": {"verysecure"}}))
	defer res.Body.Close()
	return res.Request.URL, string(given[[]byte](t)(io.ReadAll(res.Body)))
}

// The app sees who the user is, and nothing of how the gateway knows; the session
// outlives a reload, a restart and the provider.
func TestLoginAtARealProvider(t *testing.T) {
	s := startLoginSite(t)
	c := s.client(t)
	if status, _, _ := s.get(t, c, "/headers", "cors"); status != http.StatusUnauthorized {
		t.Errorf("a script without a session: %d, want 401", status)
	}
	at, body := s.logIn(t, c, "/headers?tab=2")
	var seen http.Header
	if err := json.Unmarshal([]byte(body), &seen); err != nil || at.String() != s.url+"/headers?tab=2" {
		t.Fatalf("after the login: %v at %s: %s", err, at, body)
	}
	if seen.Get("X-User") != "id2" || seen.Get("X-Email") != "test-user2@zitadel.ch" || len(seen["X-User"]) != 1 {
		t.Errorf("the app was told %v", seen)
	}
	if cookie := seen.Get("Cookie"); strings.Contains(cookie, "sluice") {
		t.Errorf("the app got the session: %s", cookie)
	}
	must(t, rig.Replace(s.file, s.config+"  - { name: more, match: /more, respond: more }\n"))
	if _, err := s.gateway.Await(bounded(t), func(line string) bool {
		return strings.Contains(line, "configuration applied") || strings.Contains(line, `"generation":2`)
	}); err != nil {
		t.Log("reload:", err)
	}
	if status, _, _ := s.get(t, c, "/headers", "cors"); status != http.StatusOK {
		t.Errorf("after a reload: %d", status)
	}
	s.down.Store(true)
	if status, _, _ := s.get(t, c, "/headers", "cors"); status != http.StatusOK {
		t.Errorf("a session while the provider is away: %d", status)
	}
	s.down.Store(false)
	if status, _, _ := s.get(t, c, "/oauth2/web/logout", "navigate"); status != http.StatusOK {
		t.Errorf("logout: %d", status)
	}
	if status, _, _ := s.get(t, c, "/headers", "cors"); status != http.StatusUnauthorized {
		t.Errorf("after the logout: %d, want 401", status)
	}
}

// What the app made for one session is not answered to another from memory, and
// where a route keeps answers for each caller it is answered to that one again.
func TestLoginsAreCachedApart(t *testing.T) {
	s := startLoginSite(t)
	must(t, rig.Replace(s.file, s.config+`  - { name: ttl, match: /headers, auth: web, upstream: app, cache: 60s }
  - { name: own, match: { path: /headers, query: { own: "1" } }, auth: web, upstream: app, cache: { share: identity, ttl: 60s } }
`))
	users := map[string]*http.Client{"id2": s.client(t), "id1": s.client(t)}
	s.logInAs(t, users["id2"], "test-user2", "/headers")
	s.logInAs(t, users["id1"], "test-user@127.0.0.1", "/headers")
	ask := func(id, path string) (told, status string) {
		req := given[*http.Request](t)(http.NewRequestWithContext(bounded(t), http.MethodGet, s.url+path, nil))
		req.Header.Set("Sec-Fetch-Mode", "cors")
		res := given[*http.Response](t)(users[id].Do(req))
		defer res.Body.Close()
		var seen http.Header
		must(t, json.NewDecoder(res.Body).Decode(&seen))
		return seen.Get("X-User"), res.Header.Get("Cache-Status")
	}
	must(t, rig.Poll(bounded(t), "the routes are in use", func() bool {
		_, status := ask("id2", "/headers")
		return status != ""
	}))
	for round := range 3 {
		for id := range users {
			if told, status := ask(id, "/headers"); told != id || strings.Contains(status, "hit") {
				t.Errorf("round %d: %s got the answer of %s, %s", round, id, told, status)
			}
			told, status := ask(id, "/headers?own=1")
			if told != id || strings.Contains(status, "hit") != (round > 0) {
				t.Errorf("round %d, for each: %s got the answer of %s, %s", round, id, told, status)
			}
		}
	}
}

// A person with a browser: a page, the form, the page.
func TestLoginInABrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on PATH: apt-get install -y chromium")
	}
	if testing.Short() {
		t.Skip("a browser takes seconds to start")
	}
	s := startLoginSite(t)
	ctx, cancel := chromedp.NewExecAllocator(bounded(t), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-dev-shm-usage", true))...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		must(t, chromedp.Do(ctx, steps...))
	}
	ask := func(what chromedp.Action[string]) string {
		t.Helper()
		return given[string](t)(chromedp.Run(ctx, what))
	}
	do(
		chromedp.Navigate(s.url+"/headers"),
		chromedp.WaitVisible("#password"),
		chromedp.SendKeys("#username", "test-user2"),
		chromedp.SendKeys("#password", "verysecure"),
		chromedp.Click("button[type=submit]"),
		chromedp.WaitNotPresent("#password"),
		chromedp.WaitVisible("body"),
	)
	where, page := ask(chromedp.Location()), ask(chromedp.TextContent("body"))
	if where != s.url+"/headers" || !strings.Contains(page, `"X-User":["id2"]`) || strings.Contains(page, "sluice_web") {
		t.Errorf("at %s: %s", where, page)
	}
	// A second page asks nobody.
	do(chromedp.Navigate(s.url + "/echo/second"))
	if after := ask(chromedp.TextContent("body")); !strings.Contains(after, "second") {
		t.Errorf("the second page: %s", after)
	}
	// After the logout the next page is the form again.
	do(chromedp.Navigate(s.url+"/oauth2/web/logout"), chromedp.Navigate(s.url+"/headers"), chromedp.WaitVisible("#password"))
	if left := ask(chromedp.Location()); !strings.HasPrefix(left, s.provider.URL) {
		t.Errorf("after the logout the browser is at %s, not at the login form", left)
	}
	if err := chromedp.Cancel(ctx); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
}
