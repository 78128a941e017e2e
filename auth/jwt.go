package auth

// This file proves signed tokens (RFC 7519, RFC 8725).
//
//	token ── memory ──> known good: Identified        no lock, no allocation
//	           │        refused a moment ago: Refused
//	           └─ Verify: read strictly, then what is cheap (alg, typ, exp, nbf,
//	                      iss, aud), then the signature with the key set
//	                        └─ kid not there: one refetch for all who wait
//
// Invariants: the key says the algorithm; nothing in a token's header says where
// a key comes from; a token is remembered as a whole until it expires or its key
// is taken out of the set; a refusal that a newer key set could cure ends with
// that set.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sluice/observe"
	"sluice/setting"
)

// JWTConfig is how signed tokens are proven.
type JWTConfig struct {
	Issuer   string   `yaml:"issuer" doc:"What iss must be. Alone it is enough: the keys are then discovered (issuer/.well-known/openid-configuration)."`
	Audience []string `yaml:"audience" one:"true" doc:"Audiences of which aud must name one. Without any, tokens for every audience are taken."`

	JWKS      string `yaml:"jwks" doc:"URL of the key set. http:// is allowed to this machine only, see plain_http."`
	File      string `yaml:"file" doc:"File with the keys: a JWKS, or PEM with public keys or certificates. Read again when it changes."`
	Keys      string `yaml:"keys" secret:"true" doc:"The keys themselves: a JWKS or PEM."`
	Secret    string `yaml:"secret" secret:"true" doc:"A secret of at least 32 bytes that issuer and gateway share, for HS256, HS384 and HS512."`
	PlainHTTP bool   `yaml:"plain_http" default:"false" doc:"Allow http:// to other machines. Whoever sits between can then choose the keys."`
	CA        string `yaml:"ca" doc:"File of PEM certificates that are trusted for the provider instead of the system's."`

	Algorithms []string `yaml:"algorithms" one:"true" doc:"The algorithms taken: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, HS256, HS384, HS512. None: each that fits the key."`
	Type       []string `yaml:"type" one:"true" doc:"What typ in the header must be, such as at+jwt. None: JWT, at+jwt, or nothing."`
	Required   []string `yaml:"required" one:"true" doc:"Claims that must be there, besides exp."`
	Expiry     bool     `yaml:"expiry" default:"true" doc:"Refuse tokens without exp."`
	Subject    string   `yaml:"subject" default:"sub" doc:"The path of the claim that names the caller."`

	Header   string       `yaml:"header" default:"Authorization" doc:"Where the token stands: Authorization takes it with the scheme Bearer, another header holds the bare token. Empty looks in no header."`
	Cookie   string       `yaml:"cookie" doc:"The cookie that holds the token."`
	Query    string       `yaml:"query" doc:"The query parameter that holds the token. URLs end up in logs and histories; prefer a header."`
	MaxToken setting.Size `yaml:"max_token" default:"8KiB" min:"64" max:"64KiB" doc:"Longer tokens are refused unread."`

	Leeway   setting.Duration `yaml:"leeway" default:"60s" max:"10m" doc:"How far the issuer's clock may be off when exp, nbf and iat are checked."`
	Remember int              `yaml:"remember" default:"16384" min:"4" max:"16777216" doc:"Proven tokens that are remembered until they expire."`
	Refresh  setting.Duration `yaml:"refresh" default:"10m" min:"1m" max:"24h" doc:"How often the key set is fetched. A shorter Cache-Control of the provider counts, down to 1m."`
	Refetch  setting.Duration `yaml:"refetch" default:"10s" min:"1s" max:"1h" doc:"The least time between two fetches that tokens with an unknown key cause."`
	Keep     setting.Duration `yaml:"keep" default:"24h" min:"1m" doc:"How long the last good key set is used while the provider is away."`
	Timeout  setting.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m" doc:"How long a fetch may take, and a request may wait for it."`
}

// Validate reports what the tags cannot say.
func (c *JWTConfig) Validate(p *setting.Problems) {
	sources := 0
	for _, s := range []string{c.JWKS, c.File, c.Keys, c.Secret} {
		if s != "" {
			sources++
		}
	}
	switch {
	case sources > 1:
		p.Add("", "expected one of jwks, file, keys, secret, or issuer alone; got %d of them", sources)
	case sources == 0 && c.Issuer == "":
		p.Add("issuer", "expected issuer, jwks, file, keys or secret: tokens are proven with keys")
	case sources == 0:
		if _, err := providerURL(c.Issuer, c.PlainHTTP); err != nil {
			p.Add("issuer", "%v; or say where the keys are with jwks, file, keys or secret", err)
		}
	}
	if c.JWKS != "" {
		if _, err := providerURL(c.JWKS, c.PlainHTTP); err != nil {
			p.Add("jwks", "%v", err)
		}
	}
	if c.Secret != "" && len(c.Secret) < 32 {
		p.Add("secret", "expected at least 32 bytes, got %d", len(c.Secret))
	}
	for i, a := range c.Algorithms {
		if slices.Contains(jwsAlgorithms, a) {
			continue
		}
		at := fmt.Sprintf("algorithms[%d]", i)
		if near := setting.Nearest(a, jwsAlgorithms); near != "" {
			p.Add(at, "unknown algorithm %q; did you mean %q?", a, near)
		} else {
			p.Add(at, "expected one of "+strings.Join(jwsAlgorithms, ", ")+", got %q", a)
		}
	}
	if c.Header != "" && !isToken(c.Header) {
		p.Add("header", "expected the name of a header, got %q", c.Header)
	}
	if c.Cookie != "" && !isToken(c.Cookie) {
		p.Add("cookie", "expected the name of a cookie, got %q", c.Cookie)
	}
	if c.Header == "" && c.Cookie == "" && c.Query == "" {
		p.Add("header", "expected at least one of header, cookie, query")
	}
	if c.Subject == "" {
		p.Add("subject", "expected the path of a claim, such as sub")
	}
}

// Why a token that can be read is refused.
const (
	jwtAlgorithm = "algorithm is not one of the keys'"
	jwtType      = "typ is not that of an access token"
	jwtClaim     = "required claim missing: "
	jwtNumber    = "exp, nbf or iat is no time"
	jwtExpired   = "token expired"
	jwtEarly     = "token not valid yet"
	jwtIssued    = "token issued in the future"
	jwtIssuer    = "token of another issuer"
	jwtAudience  = "token for another audience"
	jwtSubject   = "token without a subject, or with one that no header can carry"
	jwtKey       = "key of the token is not in the key set"
	jwtSignature = "signature is wrong"
	jwtAgain     = "token was refused a moment ago"
	jwtNoKeys    = "no key set: the provider does not answer"
)

type jwtAuth struct {
	name      string
	c         JWTConfig
	bearer    bearerPlaces
	known     *memo
	bad       *memo // refused a moment ago
	challenge string
	wrong     string

	fixed atomic.Pointer[keySet] // of a file, or written in the configuration
	src   *keySource             // nil when the keys do not come from a provider
	file  *watchedFile

	unknown, tried observe.Counter
	marks          atomic.Pointer[atomic.Bool] // of the fixed set, as keySource.changed
}

// badFor is how long a refusal is remembered, in seconds, and badTokens how many:
// enough that a client in a loop costs no signature check, too little to matter
// otherwise.
const (
	badFor    = 10
	badTokens = 1024
)

func newJWT(name string, c *JWTConfig, env Env) (Authenticator, error) {
	a := &jwtAuth{
		name: name, c: *c,
		bearer:    bearerPlaces{header: c.Header, cookie: c.Cookie, query: c.Query, most: int(c.MaxToken)},
		known:     newMemo(c.Remember, int(c.MaxToken)),
		bad:       newMemo(badTokens, int(c.MaxToken)),
		challenge: `Bearer realm="` + forRealm(name) + `"`,
	}
	a.wrong = a.challenge + `, error="invalid_token"`
	a.fixedSet(nil)
	switch {
	case c.Secret != "":
		set, err := secretKeys([]byte(c.Secret), c.Algorithms)
		if err != nil {
			return nil, &FieldError{Key: "secret", Err: err}
		}
		a.fixedSet(set)
	case c.Keys != "":
		set, skipped, err := parseKeySet([]byte(c.Keys), true, c.Algorithms)
		if err != nil {
			return nil, &FieldError{Key: "keys", Err: explainKeys(err, skipped)}
		}
		a.fixedSet(set)
	case c.File != "":
		file, err := openWatched(c.File, name, mostKeySet, env.Log, func(text []byte) error {
			set, skipped, err := parseKeySet(text, true, c.Algorithms)
			if err != nil {
				return explainKeys(err, skipped)
			}
			for _, why := range skipped {
				env.Log.Warn().Str("auth", name).Str("key", why).Msg("key left out")
			}
			a.fixedSet(set)
			return nil
		})
		if err != nil {
			return nil, &FieldError{Key: "file", Err: fmt.Errorf("%s: %w", c.File, err)}
		}
		a.file = file
	default:
		p, err := newProvider(name, env, c.CA, c.Timeout.Std(), 2)
		if err != nil {
			return nil, err
		}
		a.src = &keySource{
			provider: p, log: env.Log.With().Str("auth", name).Logger(), plain: c.PlainHTTP, allowed: c.Algorithms,
			refresh: c.Refresh.Std(), refetch: c.Refetch.Std(), keep: c.Keep.Std(), timeout: c.Timeout.Std(),
			url: c.JWKS, ask: make(chan struct{}, 1), stop: make(chan struct{}), landed: make(chan struct{}),
		}
		if c.JWKS == "" {
			a.src.issuer = c.Issuer
		}
	}
	return a, nil
}

// explainKeys adds to err why each key was left out.
func explainKeys(err error, skipped []string) error {
	if len(skipped) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.Join(skipped, "; "))
}

func (a *jwtAuth) fixedSet(set *keySet) {
	if set != nil {
		set.replaces(a.fixed.Load())
		a.fixed.Store(set)
	}
	fresh := new(atomic.Bool)
	fresh.Store(true)
	if old := a.marks.Swap(fresh); old != nil {
		old.Store(false)
	}
}

func (a *jwtAuth) Name() string      { return a.name }
func (a *jwtAuth) Challenge() string { return a.challenge }
func (a *jwtAuth) Guessable() bool   { return false }
func (a *jwtAuth) Places() Places    { return a.bearer.places() }

// Start begins to fetch the keys, or to watch their file.
func (a *jwtAuth) Start() {
	if a.src != nil {
		a.src.Start()
	}
	if a.file != nil {
		a.file.start()
	}
}

// Stop ends that.
func (a *jwtAuth) Stop() {
	if a.src != nil {
		a.src.Stop()
	}
	if a.file != nil {
		a.file.stop()
	}
}

func (a *jwtAuth) refuse(reason string) Result {
	return Result{Outcome: Refused, Reason: reason, Challenge: a.wrong}
}

func (a *jwtAuth) Recall(r *Request) Result {
	token, reason := a.bearer.token(r)
	switch {
	case reason != "":
		return a.refuse(reason)
	case token == nil:
		return Result{Outcome: Absent}
	}
	now := r.Now.Unix()
	if id := a.known.get(token, now); id != nil {
		return Result{Outcome: Identified, Identity: id}
	}
	switch {
	case !isOpaqueToken(token):
		return a.refuse(bearerMalformed)
	case a.bad.get(token, now) != nil:
		return a.refuse(jwtAgain)
	}
	return Result{Outcome: Unknown}
}

func (a *jwtAuth) Verify(r *Request) Result {
	if res := a.Recall(r); res.Outcome != Unknown {
		return res
	}
	token, _ := a.bearer.token(r)
	now := r.Now.Unix()
	mark := a.mark()
	id, key, err := a.verify(token, r)
	if err == nil {
		expires := now + mostTokenLife
		if id.Expires > 0 {
			expires = min(expires, id.Expires+int64(a.c.Leeway.Std()/time.Second))
		}
		a.known.put(token, id, now, expires, key.alive)
		return Result{Outcome: Identified, Identity: id}
	}
	var away *unavailable
	if errors.As(err, &away) {
		return Result{Outcome: Unavailable, Reason: away.reason}
	}
	switch err.Error() {
	case jwtEarly, jwtIssued:
	case jwtKey:
		// The next fetch may bring the key. To find out costs no signature.
	default:
		a.bad.put(token, refusedToken, now, now+badFor, mark)
	}
	return a.refuse(err.Error())
}

// mostTokenLife is how long a token is remembered at the most, in seconds: its
// exp may lie years ahead.
const mostTokenLife = 3600

// refusedToken stands in memory for a token that was refused.
var refusedToken = &Identity{}

// unavailable is a token that cannot be proven or refused now.
type unavailable struct{ reason string }

func (u *unavailable) Error() string { return u.reason }

// mark is false once another key set is in use than now.
func (a *jwtAuth) mark() *atomic.Bool {
	if a.src != nil {
		return a.src.changed.Load()
	}
	return a.marks.Load()
}

func (a *jwtAuth) set() *keySet {
	if a.src != nil {
		return a.src.set.Load()
	}
	return a.fixed.Load()
}

// verify reads token and proves it.
func (a *jwtAuth) verify(token []byte, r *Request) (*Identity, *verifyKey, error) {
	c, err := parseCompact(token)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(jwsAlgorithms, c.alg) || len(a.c.Algorithms) > 0 && !slices.Contains(a.c.Algorithms, c.alg) {
		return nil, nil, errors.New(jwtAlgorithm)
	}
	if !a.takesType(c.typ) {
		return nil, nil, errors.New(jwtType)
	}
	claims, ok := parseObject(c.payload)
	if !ok {
		return nil, nil, errTokenClaims
	}
	expires, err := a.judge(claims, r.Now)
	if err != nil {
		return nil, nil, err
	}
	key, err := a.prove(c, r)
	if err != nil {
		return nil, nil, err
	}
	if a.c.Subject != "sub" {
		// The subject is one thing for headers, limits and requirements alike.
		subject, ok := NewIdentity(a.name, "", claims, expires).Claim(a.c.Subject)
		if !ok || subject == "" {
			return nil, nil, errors.New(jwtSubject)
		}
		claims["sub"] = subject
	}
	subject, _ := claims["sub"].(string)
	if _, ok := printable(subject); !ok || subject != strings.TrimSpace(subject) || subject == "" && slices.Contains(a.c.Required, "sub") {
		return nil, nil, errors.New(jwtSubject)
	}
	return NewIdentity(a.name, subject, claims, expires), key, nil
}

// takesType tells whether a token of this typ is an access token (RFC 8725 3.11).
func (a *jwtAuth) takesType(typ string) bool {
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	if len(a.c.Type) > 0 {
		return slices.ContainsFunc(a.c.Type, func(t string) bool { return strings.EqualFold(t, typ) })
	}
	return typ == "" || typ == "jwt" || typ == "at+jwt"
}

// judge checks the claims (RFC 7519 4.1).
func (a *jwtAuth) judge(claims map[string]any, at time.Time) (expires int64, err error) {
	now, leeway := float64(at.UnixNano())/1e9, a.c.Leeway.Std().Seconds()
	exp, hasExp, ok1 := numericDate(claims, "exp")
	nbf, hasNbf, ok2 := numericDate(claims, "nbf")
	iat, hasIat, ok3 := numericDate(claims, "iat")
	switch {
	case !ok1 || !ok2 || !ok3:
		return 0, errors.New(jwtNumber)
	case !hasExp && a.c.Expiry:
		return 0, errors.New(jwtClaim + "exp")
	case hasExp && now >= exp+leeway:
		return 0, errors.New(jwtExpired)
	case hasNbf && now < nbf-leeway:
		return 0, errors.New(jwtEarly)
	case hasIat && now < iat-leeway:
		return 0, errors.New(jwtIssued)
	case a.c.Issuer != "" && claims["iss"] != a.c.Issuer:
		return 0, errors.New(jwtIssuer)
	case len(a.c.Audience) > 0 && !audienceNames(claims["aud"], a.c.Audience):
		return 0, errors.New(jwtAudience)
	}
	if sub, ok := claims["sub"]; ok {
		if _, text := sub.(string); !text {
			return 0, errors.New(jwtSubject)
		}
	}
	for _, name := range a.c.Required {
		if v, ok := claims[name]; !ok || v == nil {
			return 0, errors.New(jwtClaim + name)
		}
	}
	if hasExp {
		expires = max(int64(exp), 1)
	}
	return expires, nil
}

// prove finds the key that c is signed with.
func (a *jwtAuth) prove(c *compact, r *Request) (*verifyKey, error) {
	set := a.set()
	if set == nil && a.src != nil {
		a.src.again(nil, r.Timeout(a.src.timeout))
		set = a.set()
	}
	if set == nil {
		return nil, &unavailable{jwtNoKeys}
	}
	list := set.candidates(c)
	if len(list) == 0 {
		a.unknown.Inc()
		// A key that has just been brought into use may be one fetch away.
		if a.src != nil && a.src.again(set, r.Timeout(a.src.timeout)) {
			if set = a.set(); set == nil {
				return nil, &unavailable{jwtNoKeys}
			}
			list = set.candidates(c)
		}
	}
	if len(list) == 0 {
		if !set.speaks(c.alg) {
			return nil, errors.New(jwtAlgorithm)
		}
		return nil, errors.New(jwtKey)
	}
	for _, k := range list {
		a.tried.Inc()
		if k.proves(c) {
			return k, nil
		}
	}
	return nil, errors.New(jwtSignature)
}

// State tells which keys there are.
func (a *jwtAuth) State() State {
	s := State{Name: a.name, Kind: "jwt", Remembered: a.known.len(), Detail: map[string]string{}}
	if set := a.set(); set != nil {
		var keys []string
		for _, k := range set.keys {
			keys = append(keys, k.kid+" "+strings.Join(k.algs, ","))
		}
		s.Detail["keys"] = strings.Join(keys, "; ")
	}
	if a.src != nil {
		a.src.state(s.Detail)
	}
	if a.file != nil {
		a.file.state(s.Detail)
	}
	return s
}

// Counts tells what happened with the keys.
func (a *jwtAuth) Counts() map[string]uint64 {
	m := map[string]uint64{"unknown_key": a.unknown.Load(), "signatures_checked": a.tried.Load()}
	if a.src != nil {
		m["jwks_fetches"] = a.src.fetches.Load()
		m["jwks_fetch_failed"] = a.src.failed.Load()
		m["jwks_refetches"] = a.src.refetches.Load()
	}
	if a.file != nil {
		for name, n := range a.file.counts() {
			m[name] = n
		}
	}
	return m
}
