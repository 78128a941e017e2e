package auth

// OpenID Connect login for browsers, in four files. A browser without a session
// is sent to the provider (login.go), comes back to the callback with a code,
// and the code is exchanged for an ID token (oidc_provider.go). What the token
// says of the user becomes a session, which lives encrypted in the browser's own
// cookies (session.go): the gateway keeps no table of sessions. A session whose
// tokens run out is renewed with its refresh token (oidc_renewal.go).
//
//	Recall    cookie known -> its identity; no lock, no allocation
//	Verify    cookie opened; renewed when due; else a redirect to the provider
//	Handle    callback, logout, back-channel logout
//
// Invariants: a session is believed only when this authenticator has encrypted
// it for this provider, this client and this cookie; it ends at the latest
// max_age after its login, whatever the provider says; nobody is sent to
// another origin than the provider's or one of the configuration; tokens and
// cookies stand in no log. Only Verify and Handle wait, for the provider and at
// most timeout.

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"sluice/observe"
	"sluice/setting"
	"sluice/wire"
)

// OIDCConfig is settings of a login at an OpenID provider.
type OIDCConfig struct {
	Issuer            string           `yaml:"issuer" doc:"The provider's URL, as its discovery document and its tokens name it."`
	ClientID          string           `yaml:"client_id" doc:"The name under which the provider knows the gateway."`
	ClientSecret      string           `yaml:"client_secret" secret:"true" doc:"The client's secret; without one it is a public client, which PKCE alone protects."`
	Scopes            []string         `yaml:"scopes" one:"true" doc:"What the user is asked to share, openid among it; nothing is openid, profile, email. Most providers give a refresh token only for offline_access."`
	Callback          string           `yaml:"callback" doc:"The path to which the provider sends the browser back; nothing is /oauth2/NAME/callback."`
	Logout            string           `yaml:"logout" doc:"The path that ends the session; nothing is /oauth2/NAME/logout."`
	BackchannelLogout string           `yaml:"backchannel_logout" doc:"The path where the provider itself ends sessions (OpenID Connect Back-Channel Logout); nothing is none."`
	AfterLogout       string           `yaml:"after_logout" doc:"The path or URL that follows a logout when the provider has no logout of its own; nothing is a plain page."`
	PostLogout        string           `yaml:"post_logout" doc:"The URL to which the provider sends the browser after its logout, as it is registered there; nothing is the provider's own page."`
	RedirectBase      string           `yaml:"redirect_base" doc:"Scheme and host of the gateway as browsers see it, such as https://app.example.com; nothing is what each request says."`
	Cookie            OIDCCookieConfig `yaml:"cookie" doc:"The session's cookies."`
	Secret            []string         `yaml:"secret" one:"true" secret:"true" doc:"What encrypts the cookies, 32 characters or more each: the first encrypts, all decrypt. Gateways that share sessions share it; without one every restart logs everybody out."`
	Refresh           bool             `yaml:"refresh" default:"true" doc:"Renew a session with its refresh token, when the provider gave one, before its tokens expire."`
	ClaimsFrom        string           `yaml:"claims_from" default:"id_token" enum:"id_token,userinfo" doc:"Where the claims come from: the ID token alone, or the provider's userinfo endpoint as well."`
	Timeout           setting.Duration `yaml:"timeout" default:"5s" min:"100ms" max:"60s" doc:"How long the provider may take for each question."`
	Remember          int              `yaml:"remember" default:"4096" min:"1" max:"1048576" doc:"Sessions that are kept decrypted in memory."`
}

// OIDCCookieConfig is settings of a session's cookies.
type OIDCCookieConfig struct {
	Name     string           `yaml:"name" doc:"The name, before which __Host- or __Secure- is put on https; nothing is sluice_NAME."`
	Domain   string           `yaml:"domain" doc:"The domain whose hosts all see the session; nothing is the one host that the user logged in at."`
	Secure   string           `yaml:"secure" default:"auto" enum:"auto,always,never" doc:"Whether the cookies are for https only; auto is for those who came by https."`
	SameSite string           `yaml:"same_site" default:"lax" enum:"lax,strict,none" doc:"Whether requests that other sites cause carry the session (RFC 6265bis); none needs https."`
	Parts    int              `yaml:"parts" default:"4" min:"1" max:"8" doc:"Cookies, of 3800 bytes each, over which a large session may be spread. All stand in the head of each request: see server.max_header."`
	MaxAge   setting.Duration `yaml:"max_age" default:"12h" min:"1m" max:"8760h" doc:"How long a login lasts."`
}

// Bounds of the settings.
const (
	mostSecrets    = 8
	leastSecret    = 32 // characters
	mostCookie     = 64 // bytes of a cookie's name
	mostOIDCScopes = 32
	mostOIDCScope  = 256 // bytes
	mostOwnPath    = 256
	mostSetting    = 2048 // bytes of a URL or a client's name
	loginLifetime  = 10 * time.Minute
)

var defaultScopes = []string{"openid", "profile", "email"}

// Validate reports what the tags cannot say.
func (c *OIDCConfig) Validate(p *setting.Problems) {
	if err := checkProviderURL(c.Issuer); err != "" {
		p.Add("issuer", "%s, got %q", err, withoutUserinfo(c.Issuer))
	}
	if c.ClientID == "" || len(c.ClientID) > mostSetting {
		p.Add("client_id", "expected the name that the provider gave the gateway, of at most %d bytes", mostSetting)
	}
	if len(c.Scopes) > mostOIDCScopes {
		p.Add("scopes", "expected at most %d, got %d", mostOIDCScopes, len(c.Scopes))
	}
	for i, scope := range c.Scopes {
		if len(scope) > mostOIDCScope || !isScopeToken(scope) {
			p.Add(fmt.Sprintf("scopes[%d]", i), "expected one scope, without spaces, quotes and backslashes, got %q", scope)
		}
	}
	if len(c.Scopes) > 0 && !slices.Contains(c.Scopes, "openid") {
		p.Add("scopes", "expected openid among them: without it there is no ID token")
	}
	paths := map[string]string{}
	for _, own := range []struct{ key, path string }{{"callback", c.Callback}, {"logout", c.Logout}, {"backchannel_logout", c.BackchannelLogout}} {
		if own.path == "" {
			continue
		}
		if !isOwnPath(own.path) {
			p.Add(own.key, "expected a plain path such as /oauth2/callback, without query, escapes, empty and dot segments, of at most %d bytes; got %q", mostOwnPath, own.path)
		}
		if other := paths[own.path]; other != "" {
			p.Add(own.key, "expected a path of its own, got that of %s", other)
		}
		paths[own.path] = own.key
	}
	if c.AfterLogout != "" && !isLocalTarget(c.AfterLogout) && checkPageURL(c.AfterLogout) != "" {
		p.Add("after_logout", "expected a path or an http(s) URL, got %q", withoutUserinfo(c.AfterLogout))
	}
	if c.PostLogout != "" && checkPageURL(c.PostLogout) != "" {
		p.Add("post_logout", "expected an http(s) URL, as it is registered at the provider, got %q", withoutUserinfo(c.PostLogout))
	}
	if c.RedirectBase != "" {
		u, err := url.Parse(c.RedirectBase)
		if err != nil || checkPageURL(c.RedirectBase) != "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
			p.Add("redirect_base", "expected a scheme and a host alone, such as https://app.example.com, got %q", withoutUserinfo(c.RedirectBase))
		}
	}
	if len(c.Secret) > mostSecrets {
		p.Add("secret", "expected at most %d, got %d", mostSecrets, len(c.Secret))
	}
	for i, secret := range c.Secret {
		if len(secret) < leastSecret {
			p.Add(fmt.Sprintf("secret[%d]", i), "expected %d random characters or more, such as openssl rand -base64 32 gives; got %d", leastSecret, len(secret))
		}
	}
	c.Cookie.check(p.At("cookie"), c.RedirectBase)
}

// check is no Validate: it needs to know how browsers reach the gateway.
func (c *OIDCCookieConfig) check(p *setting.Problems, base string) {
	if c.Name != "" && !isCookieName(c.Name) {
		p.Add("name", "expected letters, digits, - and _, at most %d, got %q", mostCookie, c.Name)
	}
	if lower := strings.ToLower(c.Name); strings.HasPrefix(lower, "__host-") || strings.HasPrefix(lower, "__secure-") {
		p.Add("name", "expected the name without its prefix, which is added where browsers take it; got %q", c.Name)
	}
	if c.Domain != "" && !isCookieDomain(c.Domain) {
		p.Add("domain", "expected a domain such as example.com, got %q", c.Domain)
	}
	plain := c.Secure == "never" || c.Secure != "always" && strings.HasPrefix(base, "http://")
	if c.SameSite == "none" && plain {
		p.Add("same_site", "expected lax or strict: browsers refuse none without https")
	}
}

// openID is the authenticator.
type openID struct {
	name     string
	config   *OIDCConfig
	scopes   []string
	callback string
	logout   string
	lifetime time.Duration // of a login
	base     *url.URL      // nil is what the request says
	cookies  cookieJar
	seal     *cookieKeys
	random   bool // the keys are this process's own
	provider *oidcProvider
	memo     *memo
	ended    endings
	renewals renewals
	log      zerolog.Logger
	buffers  sync.Pool // of *[]byte, for cookies in parts

	counts struct {
		started, finished, failed                     observe.Counter // logins
		opened, refused, ended                        observe.Counter // sessions decrypted, not authentic, over
		renewed, renewalRefused, renewalFailed        observe.Counter
		loggedOut, backchannel, backchannelRefused    observe.Counter
		tooLarge, evicted, providerAsked, providerOut observe.Counter
	}
}

var (
	_ Authenticator = (*openID)(nil)
	_ Handler       = (*openID)(nil)
	_ Starter       = (*openID)(nil)
	_ Stater        = (*openID)(nil)
)

func newOIDC(name string, c *OIDCConfig, env Env) (Authenticator, error) {
	o := &openID{
		name:     name,
		config:   c,
		scopes:   c.Scopes,
		callback: c.Callback,
		logout:   c.Logout,
		lifetime: c.Cookie.MaxAge.Std(),
		log:      env.Log.With().Str("authenticator", name).Logger(),
	}
	if len(o.scopes) == 0 {
		o.scopes = defaultScopes
	}
	// A name of the user's choosing may hold what a path and a cookie may not.
	plain := plainName(name)
	if o.callback == "" {
		o.callback = "/oauth2/" + plain + "/callback"
	}
	if o.logout == "" {
		o.logout = "/oauth2/" + plain + "/logout"
	}
	if c.BackchannelLogout == o.callback || c.BackchannelLogout == o.logout || o.callback == o.logout {
		return nil, &FieldError{"callback", fmt.Errorf("expected paths that differ, got %s, %s, %s", o.callback, o.logout, c.BackchannelLogout)}
	}
	if c.RedirectBase != "" {
		u, err := url.Parse(c.RedirectBase)
		if err != nil {
			return nil, &FieldError{"redirect_base", err}
		}
		o.base = u
	}
	base := c.Cookie.Name
	if base == "" {
		base = "sluice_" + plain[:min(len(plain), mostCookie-len("sluice_"))]
	}
	o.cookies = newCookieJar(base, &c.Cookie)
	secrets := c.Secret
	if len(secrets) == 0 {
		o.random = true
		secrets = []string{rand.Text() + rand.Text()}
	}
	var err error
	if o.seal, err = newCookieKeys(secrets, name, c.Issuer, c.ClientID); err != nil {
		return nil, &FieldError{"secret", err}
	}
	o.provider = newOIDCProvider(c, o.scopes, env, o.log, &o.counts.providerAsked, &o.counts.providerOut)
	o.memo = newMemo(c.Remember, mostRemembered)
	o.buffers.New = func() any { b := make([]byte, 0, mostRemembered); return &b }
	o.ended.lifetime = o.lifetime
	return o, nil
}

// Name is the name that the configuration gave it.
func (o *openID) Name() string { return o.name }

// Guessable is false: a session is a ciphertext.
func (o *openID) Guessable() bool { return false }

// Challenge names the scheme that browsers log in with. None is registered; a
// 401 must have one (RFC 9110 15.5.2), and browsers pass over those that they do
// not know.
func (o *openID) Challenge() string { return `Cookie realm="` + plainName(o.name) + `"` }

// Places are the cookies of sessions and of logins that are under way, however
// the browser may have come.
func (o *openID) Places() Places { return Places{Cookies: o.cookies.patterns()} }

// Start looks the provider up ahead of the first login.
func (o *openID) Start() {
	if o.random {
		o.log.Warn().Msg("oidc has no secret: a restart of this gateway logs everybody out, and so does another gateway; set oidc.secret")
	}
	o.provider.warm(time.Now())
}

// Stop ends questions to the provider that are under way.
func (o *openID) Stop() { o.provider.stop() }

// Recall finds the identity of a session that was opened before.
func (o *openID) Recall(r *Request) Result {
	cookie, found, buffer := o.sessionCookie(r)
	res := Result{Outcome: Unknown}
	switch found {
	case cookieNone:
		// A redirect is made by Verify; whoever cannot follow one has nothing
		// to prove anything with.
		if !isNavigation(r) {
			res.Outcome = Absent
		}
	case cookieWhole:
		if id := o.memo.get(cookie, r.Now.Unix()); id != nil {
			res = Result{Outcome: Identified, Identity: id}
		}
	}
	o.release(buffer)
	return res
}

// Verify opens the session, renews it when that is due, and sends a browser
// without one to the provider.
func (o *openID) Verify(r *Request) Result {
	cookie, found, buffer := o.sessionCookie(r)
	defer o.release(buffer)
	switch found {
	case cookieNone:
		return o.invite(r, Result{Outcome: Absent})
	case cookieTwice:
		// Nothing that is set here would end it: a redirect would go round
		// for ever.
		o.counts.refused.Inc()
		return Result{Outcome: Refused, Reason: "two session cookies of one name", Challenge: o.Challenge()}
	case cookieBroken:
		o.counts.refused.Inc()
		return o.invite(r, o.refusal("a part of the session cookie is missing or too much"))
	}
	s, ok := o.open(r, cookie)
	if !ok {
		o.counts.refused.Inc()
		return o.invite(r, o.refusal("session cookie not made with a secret of this gateway"))
	}
	if reason := o.over(s, r.Now); reason != "" {
		o.counts.ended.Inc()
		return o.invite(r, o.refusal(reason))
	}
	o.counts.opened.Inc()
	until := o.proven(s)
	if r.Now.Unix() >= until {
		return o.renew(r, s, cookie)
	}
	return o.identified(r, s, cookie, until, nil)
}

// identified remembers that cookie is the session's until then (Unix seconds),
// for as long as nothing about it has to be decided anew. The order closes a
// race: a logout first notes the session as ended and then forgets it, here it
// is remembered first and looked up then.
func (o *openID) identified(r *Request, s *session, cookie []byte, until int64, set []Line) Result {
	id := s.identity(o.name)
	o.memo.put(cookie, id, r.Now.Unix(), min(until, s.Ends), nil)
	if reason := o.over(s, r.Now); reason != "" {
		o.forget(s.Sub, "")
		o.counts.ended.Inc()
		return o.invite(r, o.refusal(reason))
	}
	return Result{Outcome: Identified, Identity: id, SetCookies: set}
}

// proven is until when (Unix seconds) a session needs no second look.
func (o *openID) proven(s *session) int64 {
	if o.config.Refresh && s.Due > 0 {
		return min(s.Due, s.Ends)
	}
	return s.Ends
}

// over says why the session has ended, "" when it has not.
func (o *openID) over(s *session, now time.Time) string {
	switch {
	case now.Unix() >= s.Ends, now.Unix() >= s.Begun/1000+int64(o.lifetime/time.Second):
		return "the session is older than cookie.max_age"
	case o.ended.has(s):
		return "the session was ended by a logout"
	}
	return ""
}

// forget ends what memory says of a user, or of a session of the provider. The
// sessions themselves are not touched: one that has not ended is opened again.
func (o *openID) forget(sub, sid string) {
	o.memo.forget(func(id *Identity) bool {
		if sid != "" {
			if text, _ := id.Claim("sid"); text == sid {
				return true
			}
		}
		return sub != "" && id.Subject == sub
	})
}

func (o *openID) refusal(reason string) Result {
	return Result{Outcome: Refused, Reason: reason, Challenge: o.Challenge()}
}

// invite sends a browser that asks for a page to log in; for everyone else the
// answer is what it is.
func (o *openID) invite(r *Request, otherwise Result) Result {
	if !isNavigation(r) {
		return otherwise
	}
	return o.begin(r)
}

// isNavigation tells whether a person waits for a page: only then a redirect to
// a login form leads anywhere. Programs get a 401 that they understand.
func isNavigation(r *Request) bool {
	if m := r.Head.Method; string(m) != http.MethodGet && string(m) != http.MethodHead || len(r.Head.Upgrade) > 0 {
		return false
	}
	if purpose, _ := r.Header("Sec-Purpose"); containsFold(purpose, "prefetch") {
		return false
	}
	if mode, n := r.Header("Sec-Fetch-Mode"); n > 0 {
		return string(mode) == "navigate"
	}
	if _, n := r.Header("X-Requested-With"); n > 0 {
		return false
	}
	accept, _ := r.Header("Accept")
	return containsFold(accept, "text/html")
}

// containsFold tells whether b holds lower, in any case. It allocates nothing.
func containsFold(b []byte, lower string) bool {
	for i := 0; i+len(lower) <= len(b); i++ {
		if wire.EqualFold(b[i:i+len(lower)], lower) {
			return true
		}
	}
	return false
}

// Paths are those of the callback and the logouts.
func (o *openID) Paths() []string {
	paths := []string{o.callback, o.logout}
	if o.config.BackchannelLogout != "" {
		paths = append(paths, o.config.BackchannelLogout)
	}
	return paths
}

// Handle answers a request for one of Paths.
func (o *openID) Handle(r *Request) *Answer {
	switch string(r.Path) {
	case o.callback:
		return o.handleCallback(r)
	case o.logout:
		return o.handleLogout(r)
	case o.config.BackchannelLogout:
		return o.handleBackchannel(r)
	}
	return problem(http.StatusNotFound, r, "Nothing is here")
}

// State shows how it does.
func (o *openID) State() State {
	detail := o.provider.state()
	detail["sessions_ended"] = fmt.Sprint(o.ended.len())
	detail["cookie_keys"] = fmt.Sprint(len(o.seal.keys))
	if o.random {
		detail["cookie_keys"] = "random"
	}
	return State{Name: o.name, Kind: "oidc", Remembered: o.memo.len(), Detail: detail}
}

// Counts counts since it was made.
func (o *openID) Counts() map[string]uint64 {
	c := &o.counts
	return map[string]uint64{
		"logins_started":             c.started.Load(),
		"logins_finished":            c.finished.Load(),
		"logins_failed":              c.failed.Load(),
		"sessions_opened":            c.opened.Load(),
		"sessions_refused":           c.refused.Load(),
		"sessions_over":              c.ended.Load(),
		"sessions_too_large":         c.tooLarge.Load(),
		"renewed":                    c.renewed.Load(),
		"renewals_refused":           c.renewalRefused.Load(),
		"renewals_failed":            c.renewalFailed.Load(),
		"logouts":                    c.loggedOut.Load(),
		"backchannel_logouts":        c.backchannel.Load(),
		"backchannel_refused":        c.backchannelRefused.Load(),
		"ended_sessions_overflowed":  c.evicted.Load(),
		"provider_questions":         c.providerAsked.Load(),
		"provider_questions_failed":  c.providerOut.Load(),
		"key_set_fetches_suppressed": o.provider.suppressed.Load(),
	}
}

// plainName is name with what neither a path nor a cookie takes replaced.
func plainName(name string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x80 && isNameByte(byte(c)) {
			return c
		}
		return '_'
	}, name)
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func isCookieName(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return s != "" && len(s) <= mostCookie
}

// isCookieDomain takes names of hosts without a leading dot, which RFC 6265
// passes over. A domain of one label would be every host there is.
func isCookieDomain(s string) bool {
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsRune(label, '_') {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !isNameByte(label[i]) {
				return false
			}
		}
	}
	return len(labels) > 1 && len(s) <= 253
}

// isOwnPath takes paths that are their own normal form.
func isOwnPath(s string) bool {
	if len(s) < 2 || len(s) > mostOwnPath || s[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		for i := 0; i < len(segment); i++ {
			if !isNameByte(segment[i]) && segment[i] != '.' && segment[i] != '~' {
				return false
			}
		}
	}
	return true
}

// checkProviderURL says what is wrong with a provider's URL. Secrets go there, so
// http stays on this machine.
func checkProviderURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil, s == "", len(s) > mostSetting, checkPageURL(s) != "", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return "expected the provider's https URL, without query and fragment"
	case u.Scheme == "http" && !isLoopbackHost(u.Hostname()):
		return "expected https: http is for providers on this machine alone"
	}
	return ""
}

// checkPageURL says what is wrong with a URL to which a browser may be sent.
func checkPageURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Opaque != "" ||
		len(s) > mostSetting || !wire.ValidHost([]byte(u.Host)) || u.Host == "" || !wire.IsFieldValue([]byte(s)) {
		return "expected an http(s) URL"
	}
	return ""
}

func isLoopbackHost(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}
