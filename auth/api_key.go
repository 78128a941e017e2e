package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sluice/observe"
	"sluice/setting"
)

// APIKeyConfig is keys in a file, by their hashes.
type APIKeyConfig struct {
	Header string `yaml:"header" doc:"The header that holds the key; X-API-Key when no place is named."`
	Query  string `yaml:"query" doc:"The query parameter that holds the key. It ends up in the logs of others: the last resort."`
	Cookie string `yaml:"cookie" doc:"The cookie that holds the key."`
	Scheme string `yaml:"scheme" doc:"Take the key from Authorization with this scheme, such as ApiKey or Bearer."`
	File   string `yaml:"file" doc:"The file with the keys' hashes, which sluice key writes; read again when it changes."`
}

// defaultKeyHeader is where a key stands when the configuration names no place.
const defaultKeyHeader = "X-API-Key"

// Validate reports what the tags cannot say.
func (c *APIKeyConfig) Validate(p *setting.Problems) {
	if c.File == "" {
		p.Add("file", "expected a file with keys, which sluice key new makes")
	}
	if c.Header != "" && !isToken(c.Header) {
		p.Add("header", "expected the name of a header, got %q", c.Header)
	}
	for _, taken := range []string{"Authorization", "Cookie", "Host", "Content-Length", "Transfer-Encoding", "Connection"} {
		if strings.EqualFold(c.Header, taken) {
			want := "expected a header of the key's own, got %q"
			if taken == "Authorization" {
				want += "; for Authorization, set scheme"
			} else if taken == "Cookie" {
				want += "; for a cookie, set cookie"
			}
			p.Add("header", want, c.Header)
		}
	}
	if c.Cookie != "" && !isToken(c.Cookie) {
		p.Add("cookie", "expected the name of a cookie, got %q", c.Cookie)
	}
	if c.Scheme != "" && !isScheme(c.Scheme) {
		p.Add("scheme", "expected a scheme of letters, digits and hyphens, such as ApiKey or Bearer, got %q", c.Scheme)
	} else if strings.EqualFold(c.Scheme, "basic") {
		p.Add("scheme", "expected another scheme than Basic, which is user and password")
	}
	if c.Query != "" && !isParameter(c.Query) {
		p.Add("query", "expected the name of a parameter of letters, digits, - _ . and ~, got %q", c.Query)
	}
}

func isScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func isParameter(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && strings.IndexByte("-_.~", s[i]) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= mostName
}

// apiKeys is the authenticator. Recall decides everything: one SHA-256 of the
// key, one lookup in a map that never changes, found through an atomic pointer.
// No lock, no allocation. A reload stores a new map, so that a key that was taken
// out or disabled is good for no request that begins after it.
//
// The comparison is constant in time by construction: what is looked up is a
// hash, of which whoever asks cannot choose a single bit, so how far two of them
// agree tells nothing of any key.
type apiKeys struct {
	name      string
	config    APIKeyConfig
	scheme    string // in lower case
	challenge string
	refusal   string // the challenge for a key that is not good
	places    Places
	file      *watchedFile
	keys      atomic.Pointer[map[[sha256.Size]byte]*apiKey]

	unknown, mistyped, expired, disabled observe.Counter
}

// apiKey is a key in use. It never changes.
type apiKey struct {
	identity *Identity
	expires  int64 // Unix seconds; 0 for never
	off      bool
	reason   string // when it is off or expired
}

func newAPIKey(name string, c *APIKeyConfig, env Env) (Authenticator, error) {
	a := &apiKeys{name: name, config: *c, scheme: strings.ToLower(c.Scheme)}
	if c.Header == "" && c.Query == "" && c.Cookie == "" && c.Scheme == "" {
		a.config.Header = defaultKeyHeader
	}
	switch {
	case c.Scheme != "":
		a.challenge = c.Scheme + " realm=" + quoted(name)
		if a.refusal = a.challenge; a.scheme == "bearer" {
			a.refusal += `, error="invalid_token"` // RFC 6750 3.1
		}
	case a.config.Header != "":
		// RFC 9110 11.6.1 wants a challenge with a 401. No scheme is
		// registered for keys in a header of their own.
		a.challenge = "ApiKey realm=" + quoted(name) + ", header=" + quoted(a.config.Header)
		a.refusal = a.challenge
	default:
		a.challenge = "ApiKey realm=" + quoted(name)
		a.refusal = a.challenge
	}
	if a.config.Header != "" {
		a.places.Headers = []string{a.config.Header}
	}
	if c.Query != "" {
		a.places.Query = []string{c.Query}
	}
	if c.Cookie != "" {
		a.places.Cookies = []string{c.Cookie}
	}
	if c.Scheme != "" {
		a.places.Schemes = []string{a.scheme}
	}
	file, err := openWatched(c.File, name, mostKeyFile, env.Log, a.use)
	if err != nil {
		return nil, fileError(c.File, "keys", err)
	}
	a.file = file
	return a, nil
}

// fileError is what a configuration is told of a file that cannot be had.
func fileError(path, what string, err error) error {
	var m *fileMistakes
	if !errors.As(err, &m) {
		err = fmt.Errorf("expected a readable file with %s, got %q: %w", what, path, err)
	}
	return &FieldError{Key: "file", Err: err}
}

// quoted writes a quoted-string (RFC 9110 5.6.4); bytes that it cannot hold
// become a question mark.
func quoted(s string) string {
	b := []byte{'"'}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c >= 0x7f:
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

// use puts the keys of text in use, all or none.
func (a *apiKeys) use(text []byte) error {
	list, err := parseKeys(a.config.File, text)
	if err != nil {
		return err
	}
	keys := make(map[[sha256.Size]byte]*apiKey, len(list))
	for i := range list {
		keys[list[i].hash] = a.key(&list[i])
	}
	a.keys.Store(&keys)
	return nil
}

func (a *apiKeys) key(e *keyEntry) *apiKey {
	claims := make(map[string]any, len(e.metadata)+3)
	for name, value := range e.metadata {
		claims[name] = value
	}
	claims["sub"] = e.name
	if len(e.scopes) > 0 {
		claims["scope"] = strings.Join(e.scopes, " ")
	}
	if len(e.limits) > 0 {
		limits := make(map[string]any, len(e.limits))
		for name, rate := range e.limits {
			limits[name] = rate
		}
		claims["limits"] = limits
	}
	k := &apiKey{off: e.disabled}
	if !e.expires.IsZero() {
		k.expires = e.expires.Unix()
	}
	k.identity = NewIdentity(a.name, e.name, claims, k.expires)
	if k.off {
		k.reason = "key " + strconv.Quote(e.name) + " is disabled"
	} else if k.expires != 0 {
		k.reason = "key " + strconv.Quote(e.name) + " expired at " + e.expires.UTC().Format(time.RFC3339)
	}
	return k
}

func (a *apiKeys) Name() string      { return a.name }
func (a *apiKeys) Challenge() string { return a.challenge }
func (a *apiKeys) Places() Places    { return a.places }

// Guessable is false: nobody guesses 256 random bits, and the 16 bytes that an
// imported key has at least are not told apart by trying.
func (a *apiKeys) Guessable() bool { return false }

func (a *apiKeys) Start() { a.file.start() }
func (a *apiKeys) Stop()  { a.file.stop() }

// Verify is Recall: there is nothing that takes longer.
func (a *apiKeys) Verify(r *Request) Result { return a.Recall(r) }

// Recall decides r. It never returns Unknown.
func (a *apiKeys) Recall(r *Request) Result {
	key, count := a.find(r)
	switch {
	case count == 0:
		return Result{Outcome: Absent}
	case count > 1:
		return a.refuse("more than one key")
	case len(key) < leastKey || len(key) > mostKey:
		return a.refuse("the key is shorter than 16 or longer than 512 bytes")
	}
	k := (*a.keys.Load())[sha256.Sum256(key)]
	switch {
	case k == nil && mistyped(key):
		a.mistyped.Inc()
		return a.refuse("the key is mistyped or cut: its checksum is wrong")
	case k == nil:
		a.unknown.Inc()
		return a.refuse("the key is unknown")
	case k.off:
		a.disabled.Inc()
		return a.refuse(k.reason)
	case k.expires != 0 && r.Now.Unix() >= k.expires:
		a.expired.Inc()
		return a.refuse(k.reason)
	}
	return Result{Outcome: Identified, Identity: k.identity}
}

func (a *apiKeys) refuse(reason string) Result {
	return Result{Outcome: Refused, Reason: reason, Challenge: a.refusal}
}

// find returns the key and how many there are, over all places.
func (a *apiKeys) find(r *Request) (key []byte, count int) {
	add := func(value []byte, n int) {
		if n > 0 {
			key, count = value, count+n
		}
	}
	if a.config.Header != "" {
		add(r.Header(a.config.Header))
	}
	if a.scheme != "" {
		if value, n := r.Authorization(); n > 0 {
			// With two Authorization fields, which is whose is anybody's guess.
			if credential, ok := Scheme(value, a.scheme); ok || n > 1 {
				add(credential, n)
			}
		}
	}
	if a.config.Cookie != "" {
		add(r.Cookie(a.config.Cookie))
	}
	if a.config.Query != "" {
		add(r.Query(a.config.Query))
	}
	return key, count
}

func (a *apiKeys) State() State {
	s := State{Name: a.name, Kind: "api_key", Detail: map[string]string{}}
	off := 0
	for _, k := range *a.keys.Load() {
		if k.off {
			off++
		}
	}
	s.Remembered = len(*a.keys.Load()) - off
	s.Detail["keys"] = strconv.Itoa(s.Remembered)
	s.Detail["disabled"] = strconv.Itoa(off)
	a.file.state(s.Detail)
	return s
}

func (a *apiKeys) Counts() map[string]uint64 {
	counts := a.file.counts()
	counts["key_unknown"] = a.unknown.Load()
	counts["key_mistyped"] = a.mistyped.Load()
	counts["key_expired"] = a.expired.Load()
	counts["key_disabled"] = a.disabled.Load()
	return counts
}
