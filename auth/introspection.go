package auth

// This file proves opaque tokens by asking the provider that gave them (OAuth
// 2.0 Token Introspection, RFC 7662).
//
// A token is taken from the request and looked for among the remembered ones
// (Recall: no lock, no allocation). A new one is sent to the provider, once for
// all requests that carry it meanwhile; what the answer says becomes the
// Identity and is remembered for cache.ttl, never beyond its exp; a token that
// is not active is remembered as such for cache.negative_ttl.
//
// Invariants: only a 200 with a JSON object and a boolean `active` decides; all
// else is Unavailable and is never remembered. A token bound to a key (cnf), or
// one that is not an access token, is refused: here a bearer shows no key. The
// token goes to the provider in the body, never in a URL, and never to a log.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/observe"
	"sluice/setting"
)

// IntrospectionConfig is how the provider is asked about opaque tokens.
type IntrospectionConfig struct {
	URL       string `yaml:"url" doc:"The provider's introspection endpoint. http:// is allowed to this machine only, see plain_http."`
	PlainHTTP bool   `yaml:"plain_http" default:"false" doc:"Allow http:// to other machines. Tokens and the client's secret then cross the network in the clear."`
	CA        string `yaml:"ca" doc:"File of PEM certificates that are trusted for the provider instead of the system's."`

	Auth         string `yaml:"auth" default:"client_secret_basic" enum:"client_secret_basic,client_secret_post,bearer,none" doc:"How the gateway proves itself to the provider."`
	ClientID     string `yaml:"client_id" doc:"The gateway's client id, for client_secret_basic and client_secret_post."`
	ClientSecret string `yaml:"client_secret" secret:"true" doc:"The gateway's client secret."`
	BearerToken  string `yaml:"bearer_token" secret:"true" doc:"The token that proves the gateway, for bearer."`

	Header   string       `yaml:"header" default:"Authorization" doc:"Where the token stands: Authorization takes it with the scheme Bearer, another header holds the bare token. Empty looks in no header."`
	Cookie   string       `yaml:"cookie" doc:"The cookie that holds the token."`
	Query    string       `yaml:"query" doc:"The query parameter that holds the token. URLs end up in logs and histories; prefer a header."`
	MaxToken setting.Size `yaml:"max_token" default:"4KiB" min:"16" max:"64KiB" doc:"Longer tokens are refused without asking."`

	Audience []string         `yaml:"audience" one:"true" doc:"Audiences of which the answer's aud must name one."`
	Issuer   string           `yaml:"issuer" doc:"What the answer's iss must be."`
	Required []string         `yaml:"required" one:"true" doc:"Members that the answer must have."`
	Subject  string           `yaml:"subject" default:"sub" doc:"The member that names the caller, such as sub, username or client_id. A token without it is refused."`
	Leeway   setting.Duration `yaml:"leeway" default:"60s" max:"10m" doc:"How far the provider's clock may be off when exp and nbf are checked."`

	Cache       IntrospectionCacheConfig `yaml:"cache" doc:"How long answers are remembered."`
	Timeout     setting.Duration         `yaml:"timeout" default:"2s" min:"10ms" max:"1m" doc:"How long a question to the provider may take in all. After it the request is answered 503."`
	Concurrency int                      `yaml:"concurrency" default:"32" min:"1" max:"1024" doc:"Questions under way at one time. Eight times as many wait; more are answered 503."`
}

// IntrospectionCacheConfig is how long answers are remembered.
type IntrospectionCacheConfig struct {
	TTL         setting.Duration `yaml:"ttl" default:"30s" max:"24h" doc:"How long an active token is taken as such without asking again, at most until its exp: a token that is revoked may live on for so long. 0 asks for every request."`
	NegativeTTL setting.Duration `yaml:"negative_ttl" default:"5s" max:"1h" doc:"How long a token that is not active is refused without asking again. 0 asks for every request."`
	Remember    int              `yaml:"remember" default:"16384" min:"4" max:"16777216" doc:"Active tokens that are remembered; a quarter as many that are not active."`
}

// Validate reports what the tags cannot say.
func (c *IntrospectionConfig) Validate(p *setting.Problems) {
	if _, err := providerURL(c.URL, c.PlainHTTP); err != nil {
		p.Add("url", "%v", err)
	}
	switch c.Auth {
	case "client_secret_basic", "client_secret_post":
		if c.ClientID == "" {
			p.Add("client_id", "expected the gateway's client id, which auth: %s needs", c.Auth)
		}
		if c.ClientSecret == "" {
			p.Add("client_secret", "expected the gateway's client secret, which this auth needs")
		}
	case "bearer":
		if !isOpaqueToken(c.BearerToken) {
			p.Add("bearer_token", "expected a token, which auth: bearer needs")
		}
	}
	if c.Header != "" && !isToken(c.Header) {
		p.Add("header", "expected the name of a header, got %q", c.Header)
	}
	if c.Cookie != "" && !isToken(c.Cookie) {
		p.Add("cookie", "expected the name of a cookie, got %q", c.Cookie)
	}
	if c.Query != "" && url.QueryEscape(c.Query) != c.Query {
		p.Add("query", "expected the name of a query parameter, got %q", c.Query)
	}
	if c.Header == "" && c.Cookie == "" && c.Query == "" {
		p.Add("header", "expected at least one of header, cookie, query")
	}
	wholeSeconds(p, "cache.ttl", c.Cache.TTL)
	wholeSeconds(p, "cache.negative_ttl", c.Cache.NegativeTTL)
	if c.Subject == "" {
		p.Add("subject", "expected the name of a member of the answer, such as sub")
	}
}

// wholeSeconds reports a time that memory, which counts seconds, cannot keep.
func wholeSeconds(p *setting.Problems, key string, d setting.Duration) {
	if d > 0 && d.Std() < time.Second {
		p.Add(key, "expected 0 or at least 1s, got %v", d)
	}
}

// isOpaqueToken tells whether s may be a token (RFC 6749 A.12): not empty, visible
// ASCII.
func isOpaqueToken[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) > 0
}

// Bounds of an introspection answer.
const mostIntrospection = 64 << 10

// The reasons of an introspection authenticator.
const (
	opaqueInactive   = "the token is not active"
	opaqueRemembered = "the token was not active when asked before"
	opaqueExpired    = "the token has expired"
	opaqueEarly      = "the token is not valid yet"
	opaqueAudience   = "the token is for another audience"
	opaqueIssuer     = "the token is of another issuer"
	opaqueKind       = "the token is not a bearer access token"
	opaqueBound      = "the token is bound to a key (cnf) that a bearer does not prove"
	opaqueSubject    = "the answer does not name the subject"
	opaqueRequired   = "the answer lacks a required member: "
)

type introspection struct {
	name      string
	c         IntrospectionConfig
	bearer    bearerPlaces
	provider  *provider
	known     *memo // nil when nothing is remembered
	inactive  *memo
	nobody    *Identity // what inactive remembers
	inFlight  flights[Result]
	challenge string
	bad       string
	prove     func(*http.Request, url.Values)

	active  observe.Counter
	refused observe.Counter
}

func newIntrospection(name string, c *IntrospectionConfig, env Env) (Authenticator, error) {
	endpoint, err := providerURL(c.URL, c.PlainHTTP)
	if err != nil {
		return nil, &FieldError{Key: "url", Err: err}
	}
	p, err := newProvider(name, env, c.CA, c.Timeout.Std(), c.Concurrency)
	if err != nil {
		return nil, err
	}
	a := &introspection{
		name: name, c: *c, provider: p,
		bearer: bearerPlaces{header: c.Header, cookie: c.Cookie, query: c.Query, most: int(c.MaxToken)},
		nobody: &Identity{},
	}
	a.c.URL = endpoint.String()
	if c.Cache.TTL.Std() >= time.Second {
		a.known = newMemo(c.Cache.Remember, int(c.MaxToken))
	}
	if c.Cache.NegativeTTL.Std() >= time.Second {
		a.inactive = newMemo(c.Cache.Remember/4, int(c.MaxToken))
	}
	realm := `Bearer realm="` + forRealm(name) + `"`
	a.challenge, a.bad = realm, realm+`, error="invalid_token"`
	switch id, secret := c.ClientID, c.ClientSecret; c.Auth {
	case "client_secret_basic":
		// RFC 6749 2.3.1: both are form-encoded before they are joined.
		id, secret = url.QueryEscape(id), url.QueryEscape(secret)
		a.prove = func(req *http.Request, _ url.Values) { req.SetBasicAuth(id, secret) }
	case "client_secret_post":
		a.prove = func(_ *http.Request, form url.Values) {
			form.Set("client_id", id)
			form.Set("client_secret", secret)
		}
	case "bearer":
		authorization := "Bearer " + c.BearerToken
		a.prove = func(req *http.Request, _ url.Values) { req.Header.Set("Authorization", authorization) }
	default:
		a.prove = func(*http.Request, url.Values) {}
	}
	return a, nil
}

// forRealm is name as it can stand between quotes in a header.
func forRealm(name string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return '_'
		}
		return c
	}, name)
}

func (a *introspection) Name() string      { return a.name }
func (a *introspection) Challenge() string { return a.challenge }
func (a *introspection) Guessable() bool   { return false }
func (a *introspection) Start()            {}
func (a *introspection) Stop()             { a.provider.Stop() }

func (a *introspection) Places() Places { return a.bearer.places() }

func (a *introspection) Recall(r *Request) Result {
	_, res := a.recall(r)
	return res
}

// recall decides from memory; token is set when that is Unknown.
func (a *introspection) recall(r *Request) (token []byte, res Result) {
	token, reason := a.bearer.token(r)
	if reason != "" {
		return nil, a.refuse(reason)
	}
	if token == nil {
		return nil, Result{Outcome: Absent}
	}
	if res = a.remembered(token, r.Now.Unix()); res.Outcome == Unknown && !isOpaqueToken(token) {
		return nil, a.refuse(bearerMalformed)
	}
	return token, res
}

func (a *introspection) remembered(token []byte, now int64) Result {
	if a.known != nil {
		if id := a.known.get(token, now); id != nil {
			return Result{Outcome: Identified, Identity: id}
		}
	}
	if a.inactive != nil && a.inactive.get(token, now) != nil {
		return a.refuse(opaqueRemembered)
	}
	return Result{Outcome: Unknown}
}

func (a *introspection) refuse(reason string) Result {
	return Result{Outcome: Refused, Reason: reason, Challenge: a.bad}
}

func (a *introspection) Verify(r *Request) Result {
	token, res := a.recall(r)
	if res.Outcome != Unknown {
		return res
	}
	own := bytes.Clone(token) // the flight may outlive the request
	res, joined, err := a.inFlight.do(own, r.Timeout(a.provider.timeout), &a.provider.log, func() Result { return a.introspect(own) })
	if joined {
		a.provider.shared.Inc()
	}
	if err != nil {
		return Result{Outcome: Unavailable, Reason: err.Error()}
	}
	return res
}

// introspect asks the provider about token and remembers its answer.
func (a *introspection) introspect(token []byte) Result {
	// An answer may have come between the look into memory and this flight.
	if res := a.remembered(token, time.Now().Unix()); res.Outcome != Unknown {
		return res
	}
	var id *Identity
	var reason string
	claims, err := a.question(token)
	now := time.Now()
	if err == nil {
		id, reason, err = a.judge(claims, now)
	}
	a.provider.report(err)
	switch {
	case err != nil:
		return Result{Outcome: Unavailable, Reason: err.Error()}
	case reason != "":
		a.refused.Inc()
		if a.inactive != nil {
			a.inactive.put(token, a.nobody, now.Unix(), now.Add(a.c.Cache.NegativeTTL.Std()).Unix(), nil)
		}
		return a.refuse(reason)
	}
	a.active.Inc()
	if a.known != nil {
		until := now.Add(a.c.Cache.TTL.Std()).Unix()
		if id.Expires > 0 {
			until = min(until, id.Expires) // RFC 7662 4
		}
		a.known.put(token, id, now.Unix(), until, nil)
	}
	return Result{Outcome: Identified, Identity: id}
}

// question returns the members of the provider's answer.
func (a *introspection) question(token []byte) (map[string]any, error) {
	answer, err := a.provider.ask(a.provider.timeout, mostIntrospection, func(ctx context.Context) (*http.Request, error) {
		form := url.Values{"token": {string(token)}, "token_type_hint": {"access_token"}}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.c.URL, nil)
		if err != nil {
			return nil, errors.New("cannot make the question")
		}
		a.prove(req, form)
		body := form.Encode()
		req.Body = io.NopCloser(strings.NewReader(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
		req.ContentLength = int64(len(body))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Accept", "application/json")
		req.Header.Set("User-Agent", "sluice")
		return req, nil
	})
	switch {
	case err != nil:
		return nil, err
	case answer.Status == http.StatusUnauthorized, answer.Status == http.StatusForbidden:
		return nil, errors.New("the provider refuses the gateway's own credentials: status " + strconv.Itoa(answer.Status))
	case answer.Status != http.StatusOK:
		return nil, errors.New("the provider answers with status " + strconv.Itoa(answer.Status))
	case answer.Cut:
		return nil, errors.New("the provider's answer is too large")
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, errors.New("the provider's answer is not application/json")
	}
	return parseIntrospection(answer.Body)
}

var errIntrospection = errors.New("the provider's answer is not a JSON object with a boolean active")

// parseIntrospection reads an introspection answer (RFC 7662 2.2). A member
// that comes twice makes it no answer: two readers could take two meanings from
// it.
func parseIntrospection(body []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errIntrospection
	}
	claims := map[string]any{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errIntrospection
		}
		if _, twice := claims[name]; twice {
			return nil, errIntrospection
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, errIntrospection
		}
		claims[name] = v
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return nil, errIntrospection
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errIntrospection
	}
	if _, ok := claims["active"].(bool); !ok {
		return nil, errIntrospection
	}
	return claims, nil
}

// judge makes an identity of the answer's members, or says why not. An error is
// an answer that makes no sense.
func (a *introspection) judge(claims map[string]any, now time.Time) (id *Identity, reason string, err error) {
	if claims["active"] != true {
		return nil, opaqueInactive, nil
	}
	expires, err := answerSeconds(claims, "exp")
	if err != nil {
		return nil, "", err
	}
	from, err := answerSeconds(claims, "nbf")
	if err != nil {
		return nil, "", err
	}
	leeway := int64(a.c.Leeway.Std() / time.Second)
	if expires > 0 && now.Unix() >= expires+leeway {
		return nil, opaqueExpired, nil
	}
	if from > now.Unix()+leeway {
		return nil, opaqueEarly, nil
	}
	// A refresh token is active too, and some providers answer for ID tokens.
	if kind, ok := claims["token_type"].(string); ok && !strings.EqualFold(kind, "bearer") && !strings.EqualFold(kind, "access_token") {
		return nil, opaqueKind, nil
	}
	if use, ok := claims["token_use"].(string); ok && use != "access_token" && use != "access" {
		return nil, opaqueKind, nil
	}
	if _, ok := claims["cnf"]; ok {
		return nil, opaqueBound, nil
	}
	if a.c.Issuer != "" && claims["iss"] != a.c.Issuer {
		return nil, opaqueIssuer, nil
	}
	if len(a.c.Audience) > 0 && !audienceNames(claims["aud"], a.c.Audience) {
		return nil, opaqueAudience, nil
	}
	for _, name := range a.c.Required {
		if v, ok := claims[name]; !ok || v == nil {
			return nil, opaqueRequired + name, nil
		}
	}
	subject := ""
	switch v := claims[a.c.Subject].(type) {
	case string:
		subject = v
	case json.Number:
		subject = v.String()
	}
	if subject == "" {
		return nil, opaqueSubject, nil
	}
	delete(claims, "active")
	return NewIdentity(a.name, subject, claims, expires), "", nil
}

// answerSeconds reads a time in Unix seconds (RFC 7519 2), 0 when there is none.
func answerSeconds(claims map[string]any, name string) (int64, error) {
	v, ok := claims[name]
	if !ok || v == nil {
		return 0, nil
	}
	n, _ := v.(json.Number)
	seconds, err := n.Float64()
	if err != nil || math.IsNaN(seconds) || seconds < 1 || seconds > 1<<40 {
		return 0, errors.New("the provider's answer has a bad " + name)
	}
	return int64(seconds), nil
}

// audienceNames tells whether aud, a string or a list of them, names one of wanted.
func audienceNames(aud any, wanted []string) bool {
	switch v := aud.(type) {
	case string:
		return slices.Contains(wanted, v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && slices.Contains(wanted, s) {
				return true
			}
		}
	}
	return false
}

// State tells what is remembered and whether the provider answers.
func (a *introspection) State() State {
	s := State{Name: a.name, Kind: "introspection", Detail: a.provider.state()}
	if a.known != nil {
		s.Remembered = a.known.len()
	}
	return s
}

// Counts are provider_asked, provider_failed, provider_busy, provider_shared,
// tokens_active and tokens_refused (both of the provider's answers).
func (a *introspection) Counts() map[string]uint64 {
	m := a.provider.counts()
	m["tokens_active"], m["tokens_refused"] = a.active.Load(), a.refused.Load()
	return m
}
