package auth

// Logging in and out. A login is the authorization code flow of OpenID Connect
// Core 3.1 with PKCE (RFC 7636, S256):
//
//	begin      page without a session -> the provider, with state, nonce, challenge;
//	           the same three, encrypted, in a cookie of this login alone
//	callback   state finds its cookie; code + verifier -> ID token with that nonce;
//	           -> the session's cookies, and back to the page
//	logout     the session's end -> the provider's own logout
//
// Each login has a cookie of its own, named by its state, so that several tabs do
// not undo each other. A callback without its cookie was not begun by this
// browser: nobody can log another one in under an account of his own.
//
// The way back is kept as a path in the encrypted cookie and never as a host.

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"sluice/wire"
)

const (
	mostLogins      = 5 // that one browser has under way
	loginIDBytes    = 12
	mostReturn      = 1024 // bytes of the page's path and query
	mostQueryBytes  = 8 << 10
	mostLogoutToken = 16 << 10
	mostHint        = 4 << 10 // bytes of an ID token in the URL of a logout
)

// login is what a browser keeps of a login under way.
type login struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Return   string `json:"r"` // path and query
	Redirect string `json:"u"` // the callback's URL, as the provider was told
	Until    int64  `json:"e"` // Unix seconds
}

// begin sends the browser to the provider.
func (o *openID) begin(r *Request) Result {
	redirect := o.redirectURI(r)
	if redirect == "" {
		return o.refusal("the request names no host")
	}
	d, err := o.provider.document(r.Now, r.Timeout(o.config.Timeout.Std()), true)
	if err != nil {
		return Result{Outcome: Unavailable, Reason: "login: " + err.Error()}
	}
	l := login{
		State:    rand.Text(),
		Nonce:    rand.Text(),
		Verifier: oauth2.GenerateVerifier(),
		Return:   o.returnTo(r),
		Redirect: redirect,
		Until:    r.Now.Add(loginLifetime).Unix(),
	}
	text, err := json.Marshal(&l)
	if err != nil {
		return Result{Outcome: Unavailable, Reason: "login: " + err.Error()}
	}
	https := o.https(r)
	name := o.cookies.names[https].login + l.State[:loginIDBytes]
	config := d.oauth
	config.RedirectURL = redirect
	to := config.AuthCodeURL(l.State, oidc.Nonce(l.Nonce), oauth2.S256ChallengeOption(l.Verifier))
	if !wire.IsFieldValue([]byte(to)) {
		return Result{Outcome: Unavailable, Reason: "login: the provider's authorization_endpoint does not fit a header"}
	}
	lines := append(o.tooManyLogins(r, https),
		o.cookies.line(https, name, o.seal.seal(forLogin, name, text), o.cookies.login[https], int64(loginLifetime/time.Second)))
	o.counts.started.Inc()
	return Result{Outcome: Answered, Answer: redirectTo(to, lines)}
}

// tooManyLogins takes away the oldest logins that were begun and not finished.
// Browsers send older cookies first (RFC 6265 5.4).
func (o *openID) tooManyLogins(r *Request, https int) (lines []Line) {
	prefix := []byte(o.cookies.names[https].login)
	var names []string
	for i := range r.Head.Fields {
		if r.Head.Fields[i].Kind != wire.Cookie {
			continue
		}
		for pair := range bytes.SplitSeq(r.Head.Fields[i].Value, []byte{';'}) {
			name, _, _ := bytes.Cut(wire.TrimOWS(pair), []byte{'='})
			if len(name) == len(prefix)+loginIDBytes && bytes.HasPrefix(name, prefix) && wire.IsToken(name) && len(names) < 64 {
				names = append(names, string(name))
			}
		}
	}
	for len(names) >= mostLogins {
		lines = append(lines, o.cookies.line(https, names[0], "", o.cookies.login[https], 0))
		names = names[1:]
	}
	return lines
}

// redirectURI is the callback as the browser reaches it, "" when it cannot be
// told. The Host that it may come from is the client's own word; the provider
// knows which of them are the gateway's (RFC 9700 4.1.3), and the callback is
// believed on the same one only.
func (o *openID) redirectURI(r *Request) string {
	if o.base != nil {
		return o.base.Scheme + "://" + o.base.Host + o.callback
	}
	return o.origin(r, o.callback)
}

func (o *openID) origin(r *Request, path string) string {
	if len(r.Head.Host) == 0 || !wire.ValidHost(r.Head.Host) || r.Scheme != "http" && r.Scheme != "https" {
		return ""
	}
	return r.Scheme + "://" + strings.ToLower(string(r.Head.Host)) + path
}

// returnTo is the page that was asked for.
func (o *openID) returnTo(r *Request) string {
	if slices.Contains(o.Paths(), string(r.Path)) {
		return "/"
	}
	to := string(r.Head.Path)
	if r.Head.HasQuery && len(to)+1+len(r.Head.Query) <= mostReturn {
		to += "?" + string(r.Head.Query)
	}
	if len(to) > mostReturn || !isLocalTarget(to) {
		return "/"
	}
	return to
}

// isLocalTarget takes a path with a query that every browser reads as one of the
// same origin: //host is another, and so are /\host and, since browsers drop
// tabs and line ends, "/ /host" with a tab for the space.
func isLocalTarget(s string) bool {
	if s == "" || s[0] != '/' || len(s) > 1 && (s[1] == '/' || s[1] == '\\') {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '\\' {
			return false
		}
	}
	return true
}

// handleCallback finishes a login.
func (o *openID) handleCallback(r *Request) *Answer {
	if string(r.Head.Method) != http.MethodGet {
		return notAllowed(r, "GET")
	}
	query, ok := single(r.Head.Query, "state", "code", "error", "iss")
	if !ok || len(query["state"]) < loginIDBytes || !isPlain(query["state"]) {
		return o.loginFails(r, http.StatusBadRequest, "This is no answer of the login service", "callback: its query is malformed", nil)
	}
	https := o.https(r)
	name := o.cookies.names[https].login + query["state"][:loginIDBytes]
	value, count := r.Cookie(name)
	if count == 0 {
		// A callback that is loaded once more, such as by the back button.
		if cookie, f, buffer := o.sessionCookie(r); f == cookieWhole {
			s, ok := o.open(r, cookie)
			o.release(buffer)
			if ok && o.over(s, r.Now) == "" {
				return redirectTo("/", nil)
			}
		} else {
			o.release(buffer)
		}
		return o.loginFails(r, http.StatusBadRequest, "This login was not begun by this browser, or took longer than ten minutes. Begin again at the page you wanted", "callback: no such login is under way in this browser", nil)
	}
	gone := []Line{o.cookies.line(https, name, "", o.cookies.login[https], 0)}
	var l login
	text, ok := o.seal.open(forLogin, name, value)
	if count > 1 || !ok || json.Unmarshal(text, &l) != nil {
		return o.loginFails(r, http.StatusBadRequest, "This login was not begun here. Begin again at the page you wanted", "callback: its cookie was not made here", gone)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(l.State), []byte(query["state"])) != 1:
		return o.loginFails(r, http.StatusBadRequest, "This is no answer to this login", "callback: state is not that of its cookie", gone)
	case r.Now.Unix() >= l.Until:
		return o.loginFails(r, http.StatusBadRequest, "This login took longer than ten minutes. Begin again at the page you wanted", "callback: too late", gone)
	case l.Redirect != o.redirectURI(r):
		return o.loginFails(r, http.StatusBadRequest, "This login was begun at another host", "callback: at another host than the login", gone)
	}
	if code := query["error"]; code != "" {
		if !isErrorCode(code) {
			code = "unknown"
		}
		status := http.StatusForbidden
		if code == "temporarily_unavailable" || code == "server_error" {
			status = http.StatusServiceUnavailable
		}
		return o.loginFails(r, status, "The login service did not log you in", "callback: the provider says "+code, gone)
	}
	if query["code"] == "" {
		return o.loginFails(r, http.StatusBadRequest, "This is no answer of the login service", "callback: neither code nor error", gone)
	}
	wait := r.Timeout(o.config.Timeout.Std())
	d, err := o.provider.document(r.Now, wait, false)
	if err != nil {
		return o.loginFails(r, http.StatusServiceUnavailable, "The login service does not answer", "callback: "+err.Error(), gone)
	}
	// RFC 9207 2.4: an answer that names another issuer is another's.
	if iss := query["iss"]; iss != "" && iss != o.config.Issuer || iss == "" && d.namesIss {
		return o.loginFails(r, http.StatusBadRequest, "This is no answer of the login service", "callback: iss is not the issuer's", gone)
	}
	t, err := o.provider.exchange(d, r.Timeout(o.config.Timeout.Std()), query["code"], l.Redirect, l.Verifier, l.Nonce)
	if err != nil {
		message := "The login service does not answer"
		if statusOf(err) == http.StatusForbidden {
			message = "The login service did not log you in. Begin again at the page you wanted"
		}
		return o.loginFails(r, statusOf(err), message, "callback: "+err.Error(), gone)
	}
	s := o.sessionOf(t, r.Now)
	if err := s.read(); err != nil {
		return o.loginFails(r, http.StatusForbidden, "The login service did not log you in", "callback: "+err.Error(), gone)
	}
	lines, err := o.keepSession(r, s)
	if err != nil {
		return o.loginFails(r, http.StatusInternalServerError, "You are logged in, but the session is too large for a browser", "callback: "+err.Error(), gone)
	}
	lines = append(lines, gone...)
	o.counts.finished.Inc()
	if o.config.Cookie.SameSite == "strict" {
		// Redirects that another site began do not carry strict cookies; a
		// page of this site that goes on by itself does.
		return page(http.StatusOK, "Logged in", `<meta http-equiv="refresh" content="0;url=`+html.EscapeString(l.Return)+`">`,
			`<p>You are logged in. <a href="`+html.EscapeString(l.Return)+`">Go on</a></p>`, lines)
	}
	return redirectTo(l.Return, lines)
}

func (o *openID) sessionOf(t *tokens, now time.Time) *session {
	s := &session{
		ID:      rand.Text(),
		Sub:     t.claims.Subject,
		SID:     t.sid,
		Begun:   now.UnixMilli(),
		Ends:    now.Add(o.lifetime).Unix(),
		IDToken: t.idToken,
		Scope:   t.scope,
		More:    t.more,
	}
	if s.Scope == "" {
		s.Scope = strings.Join(o.scopes, " ") // RFC 6749 5.1: what was asked for
	}
	if o.config.Refresh {
		s.Refresh = t.refresh
	}
	s.schedule(now, expiresAt(t, now))
	return s
}

func (o *openID) keepSession(r *Request, s *session) ([]Line, error) {
	https := o.https(r)
	value, err := o.sealed(s, https)
	if err != nil {
		return nil, err
	}
	lines, ok := o.cookies.keep(r, https, value, s.Ends-r.Now.Unix())
	if !ok {
		o.counts.tooLarge.Inc()
		return nil, errSessionTooLarge
	}
	o.memo.put([]byte(value), s.identity(o.name), r.Now.Unix(), o.proven(s), nil)
	return lines, nil
}

func (o *openID) loginFails(r *Request, status int, message, reason string, lines []Line) *Answer {
	o.counts.failed.Inc()
	o.log.Warn().Bytes("request_id", r.ID).Stringer("client", r.Caller).Int("status", status).Str("reason", reason).Msg("login failed")
	a := problem(status, r, message)
	a.Header = append(a.Header, lines...)
	return a
}

// handleLogout ends the session of the browser that asks. A link on another
// site, or an image, is no wish of the user: a page from there is asked back,
// anything else is refused.
func (o *openID) handleLogout(r *Request) *Answer {
	method := string(r.Head.Method)
	if method != http.MethodGet && method != http.MethodPost {
		return notAllowed(r, "GET, POST")
	}
	if crossSite(r) {
		if method == http.MethodGet && isNavigation(r) {
			return page(http.StatusOK, "Log out?", "", `<p>Another site asks to log you out.</p><form method="post" action="`+o.logout+`"><button>Log out</button></form>`, nil)
		}
		return problem(http.StatusForbidden, r, "A logout must come from this site")
	}
	https := o.https(r)
	lines := o.cookies.without(r, https, 0)
	var s *session
	if cookie, f, buffer := o.sessionCookie(r); f == cookieWhole {
		if opened, ok := o.open(r, cookie); ok {
			s = opened
		}
		o.release(buffer)
	} else {
		o.release(buffer)
	}
	if s != nil {
		// Copies of the cookie end with it.
		o.end(endOf("id", s.ID), r.Now)
		o.forget(s.Sub, "")
		o.counts.loggedOut.Inc()
	}
	return o.loggedOut(r, s, lines)
}

// loggedOut sends the browser on: to the provider's logout (OpenID Connect
// RP-Initiated Logout 2) when it has one.
func (o *openID) loggedOut(r *Request, s *session, lines []Line) *Answer {
	d, err := o.provider.document(r.Now, r.Timeout(o.config.Timeout.Std()), false)
	if err != nil || d.endSession == "" {
		if o.config.AfterLogout != "" {
			return redirectTo(o.config.AfterLogout, lines)
		}
		return page(http.StatusOK, "Logged out", "", `<p>You are logged out.</p>`, lines)
	}
	to, err := url.Parse(d.endSession)
	if err != nil {
		return page(http.StatusOK, "Logged out", "", `<p>You are logged out.</p>`, lines)
	}
	query := to.Query()
	query.Set("client_id", o.config.ClientID)
	if s != nil && len(s.IDToken) <= mostHint {
		query.Set("id_token_hint", s.IDToken)
	}
	if o.config.PostLogout != "" {
		query.Set("post_logout_redirect_uri", o.config.PostLogout)
	}
	to.RawQuery = query.Encode()
	return redirectTo(to.String(), lines)
}

func (o *openID) end(k endKey, now time.Time) {
	if o.ended.end(k, now) {
		o.counts.evicted.Inc()
	}
}

// crossSite tells whether another site is behind r. Browsers say so in
// Sec-Fetch-Site; older ones in Origin or Referer.
func crossSite(r *Request) bool {
	if site, n := r.Header("Sec-Fetch-Site"); n > 0 {
		return n > 1 || string(site) != "same-origin" && string(site) != "same-site" && string(site) != "none"
	}
	for _, name := range []string{"Origin", "Referer"} {
		if from, n := r.Header(name); n > 0 {
			u, err := url.Parse(string(from))
			return n > 1 || err != nil || !wire.EqualFold(r.Head.Host, strings.ToLower(u.Host))
		}
	}
	return false
}

// handleBackchannel ends sessions on the provider's word (OpenID Connect
// Back-Channel Logout 2.5 to 2.8): those of its session sid, or all of a user.
func (o *openID) handleBackchannel(r *Request) *Answer {
	if string(r.Head.Method) != http.MethodPost {
		return notAllowed(r, "POST")
	}
	refuse := func(status int, code, reason string) *Answer {
		o.counts.backchannelRefused.Inc()
		o.log.Warn().Bytes("request_id", r.ID).Stringer("client", r.Caller).Str("reason", reason).Msg("back-channel logout refused")
		a := &Answer{Status: status, Body: []byte(`{"error":"` + code + `"}` + "\n"), Header: []Line{{"Content-Type", "application/json"}, noStore}}
		if status == http.StatusServiceUnavailable {
			a.Header = append(a.Header, retrySoon)
		}
		return a
	}
	kind, _ := r.Header("Content-Type")
	if kind, _, _ = bytes.Cut(kind, []byte{';'}); !wire.EqualFold(wire.TrimOWS(kind), "application/x-www-form-urlencoded") {
		return refuse(http.StatusBadRequest, "invalid_request", "not a form")
	}
	if len(r.Body) > MostHandled {
		return refuse(http.StatusBadRequest, "invalid_request", "too large")
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil || len(form["logout_token"]) != 1 || len(form["logout_token"][0]) > mostLogoutToken {
		return refuse(http.StatusBadRequest, "invalid_request", "expected one logout_token of at most 16 KiB")
	}
	wait := r.Timeout(o.config.Timeout.Std())
	d, err := o.provider.document(r.Now, wait, false)
	if err != nil {
		return refuse(http.StatusServiceUnavailable, "temporarily_unavailable", err.Error())
	}
	ctx, cancel := context.WithTimeout(o.provider.ctx, wait)
	defer cancel()
	token, err := d.logouts.VerifyLogout(ctx, form["logout_token"][0])
	if err != nil {
		return refuse(http.StatusBadRequest, "invalid_request", "logout token: "+oidcReason(err))
	}
	if age := r.Now.Sub(token.IssuedAt); age > tokenWindow || age < -tokenWindow {
		return refuse(http.StatusBadRequest, "invalid_request", "logout token: not issued within ten minutes of now")
	}
	// A token that is sent again would end sessions that began after it.
	if !o.ended.first(endOf("jti", token.TokenID), r.Now) {
		return refuse(http.StatusBadRequest, "invalid_request", "logout token: seen before")
	}
	switch {
	case token.SessionID == "":
		o.end(endOf("sub", token.Subject), r.Now)
	case token.Subject != "":
		// Where ID tokens do not name the session, the user is all there is.
		o.end(endOf("sub without sid", token.Subject), r.Now)
		fallthrough
	default:
		o.end(endOf("sid", token.SessionID), r.Now)
	}
	o.forget(token.Subject, token.SessionID)
	o.counts.backchannel.Inc()
	return &Answer{Status: http.StatusOK, Header: []Line{noStore}}
}

var (
	noStore   = Line{"Cache-Control", "no-store"}
	retrySoon = Line{"Retry-After", strconv.Itoa(int(failurePause / time.Second))}
)

// single reads parameters that may each come once. Others are passed over.
func single(query []byte, names ...string) (map[string]string, bool) {
	if len(query) > mostQueryBytes {
		return nil, false
	}
	values, err := url.ParseQuery(string(query))
	if err != nil {
		return nil, false
	}
	m := map[string]string{}
	for _, name := range names {
		switch v := values[name]; len(v) {
		case 0:
		case 1:
			m[name] = v[0]
		default:
			return nil, false
		}
	}
	return m, true
}

// isPlain takes what may become part of a cookie's name.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) {
			return false
		}
	}
	return len(s) <= 128
}

// redirectTo makes a browser go to a URL with GET. The page that it leaves, which
// may have a code in its URL, is not told to the next.
func redirectTo(to string, lines []Line) *Answer {
	return &Answer{Status: http.StatusSeeOther, Header: append([]Line{
		{"Location", to}, noStore, {"Referrer-Policy", "no-referrer"},
	}, lines...)}
}

// page is a small page of the gateway's own. Everything in it must be safe HTML.
func page(status int, title, head, body string, lines []Line) *Answer {
	return &Answer{Status: status, Header: append([]Line{
		{"Content-Type", "text/html; charset=utf-8"}, noStore, {"Referrer-Policy", "no-referrer"}, {"X-Content-Type-Options", "nosniff"},
		// No form-action: browsers hold it against the redirect that follows.
		{"Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"},
	}, lines...), Body: []byte("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + title + "</title>" + head + "</head><body>" + body + "</body></html>\n")}
}

// problem is a failure in the shape of all others (RFC 9457).
func problem(status int, r *Request, title string) *Answer {
	text, err := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		ID     string `json:"request_id"`
	}{"urn:sluice:problem:login", title, status, string(r.ID)})
	if err != nil {
		panic("BUG: a problem of strings does not marshal")
	}
	a := &Answer{Status: status, Header: []Line{{"Content-Type", "application/problem+json"}, noStore}, Body: append(text, '\n')}
	if status == http.StatusServiceUnavailable {
		a.Header = append(a.Header, retrySoon)
	}
	return a
}

func notAllowed(r *Request, methods string) *Answer {
	a := problem(http.StatusMethodNotAllowed, r, "The method is not allowed here")
	a.Header = append(a.Header, Line{"Allow", methods})
	return a
}
