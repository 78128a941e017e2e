package auth

// A session and the cookies that it lives in. A session is JSON, encrypted with
// AES-256-GCM under a key that HKDF (RFC 5869) derives from a secret of the
// configuration, bound to its purpose, its cookie, its authenticator, its issuer
// and its client, and written in base64url. What is longer than browsers take in
// one cookie is cut into parts:
//
//	NAME=VALUE
//	NAME=3.PART   NAME.1=PART   NAME.2=PART
//
// The ciphertext covers all parts, so that parts of two sessions never make a
// third one.
//
// Since no table of sessions exists, an ended one is known by the memory of its
// end alone (endings), which is bounded: when it overflows, all sessions that
// began before the end that is forgotten are over. It errs to one more login.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of cookies. Browsers keep 4096 bytes of name, value and attributes
// (RFC 6265 6.1); 3800 of name and value leave room for the attributes with the
// longest domain.
const (
	mostCookieBytes = 3800
	mostParts       = 8                           // that any configuration writes
	mostSession     = mostParts * mostCookieBytes // bytes of all parts
	mostRemembered  = 8 << 10                     // longer sessions are opened at each request
)

// session is what a login has come to. It never changes once it is sealed.
type session struct {
	ID      string         `json:"i"`           // random, the same through all renewals
	Sub     string         `json:"s"`           // the provider's name for the user
	SID     string         `json:"p,omitempty"` // the provider's name for its session
	Begun   int64          `json:"b"`           // when the user logged in, Unix milliseconds
	Ends    int64          `json:"e"`           // Unix seconds
	Due     int64          `json:"d,omitempty"` // when to renew it, Unix seconds; 0 is never
	Lapses  int64          `json:"l,omitempty"` // when the provider's tokens expire, Unix seconds
	Refresh string         `json:"r,omitempty"`
	IDToken string         `json:"t"` // verified when it came; its payload holds the claims
	Scope   string         `json:"o,omitempty"`
	More    map[string]any `json:"m,omitempty"` // claims of the userinfo endpoint

	claims map[string]any // all of them
}

// protocolClaims are the ID token's own: the userinfo endpoint has no say in them.
var protocolClaims = []string{"iss", "sub", "aud", "exp", "iat", "nbf", "auth_time", "nonce", "acr", "amr", "azp", "at_hash", "c_hash", "sid"}

var errIDToken = errors.New("the ID token's payload is not a JSON object")

// read fills in claims.
func (s *session) read() error {
	parts := strings.Split(s.IDToken, ".")
	if len(parts) != 3 {
		return errIDToken
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return errIDToken
	}
	claims, err := decodeClaims(payload)
	if err != nil {
		return err
	}
	more := maps.Clone(s.More)
	for _, name := range protocolClaims {
		delete(more, name)
	}
	maps.Copy(claims, more)
	// What was granted is said beside the token and not in it (RFC 6749 5.1).
	if _, ok := claims["scope"]; !ok && s.Scope != "" {
		claims["scope"] = s.Scope
	}
	s.claims = claims
	return nil
}

// decodeClaims reads a JSON object with its numbers as they are written.
func decodeClaims(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var claims map[string]any
	if err := d.Decode(&claims); err != nil || claims == nil {
		return nil, errIDToken
	}
	return claims, nil
}

func (s *session) identity(authenticator string) *Identity {
	return NewIdentity(authenticator, s.Sub, s.claims, s.Ends)
}

// cookieKeys encrypts and decrypts what browsers keep. GCM with random nonces is
// good for 2^32 cookies under one secret: a thousand logins a second for seven
// weeks. It is safe for use by many goroutines.
type cookieKeys struct {
	keys    []cipher.AEAD
	context []byte // authenticator, issuer, client
}

// purpose keeps one kind of cookie from standing for another.
type purpose string

const (
	forSession purpose = "session"
	forLogin   purpose = "login"
)

func newCookieKeys(secrets []string, context ...string) (*cookieKeys, error) {
	k := &cookieKeys{}
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, []byte(secret), nil, "sluice oidc cookie AES-256-GCM 1", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		k.keys = append(k.keys, aead)
	}
	for _, part := range context {
		k.context = appendPart(k.context, part)
	}
	return k, nil
}

// appendPart writes part so that no two lists of parts read alike.
func appendPart(b []byte, part string) []byte {
	b = strconv.AppendInt(b, int64(len(part)), 10)
	b = append(b, ':')
	return append(b, part...)
}

func (k *cookieKeys) bound(p purpose, cookie string) []byte {
	b := appendPart(make([]byte, 0, 256), string(p))
	b = appendPart(b, cookie)
	return append(b, k.context...)
}

// seal encrypts text for the cookie of this name.
func (k *cookieKeys) seal(p purpose, cookie string, text []byte) string {
	return base64.RawURLEncoding.EncodeToString(k.keys[0].Seal(nil, nil, text, k.bound(p, cookie)))
}

// open decrypts what seal has made, with whichever secret it was.
func (k *cookieKeys) open(p purpose, cookie string, value []byte) ([]byte, bool) {
	// The decoder passes over line ends.
	if len(value) > mostSession || bytes.ContainsAny(value, "\r\n") {
		return nil, false
	}
	sealed := make([]byte, base64.RawURLEncoding.DecodedLen(len(value)))
	n, err := base64.RawURLEncoding.Strict().Decode(sealed, value)
	if err != nil {
		return nil, false
	}
	bound := k.bound(p, cookie)
	for _, key := range k.keys {
		if text, err := key.Open(nil, nil, sealed[:n], bound); err == nil {
			return text, true
		}
	}
	return nil, false
}

// cookieJar writes the names and attributes of cookies. [1] is for browsers that
// came by https.
type cookieJar struct {
	names      [2]cookieNames
	attributes [2]string
	sameSite   [2]string // of a session
	login      [2]string // of a login, which another site's redirect must bring back
	secure     string    // auto, always, never
	parts      int       // most that are written
}

type cookieNames struct {
	session string
	parts   [mostParts]string // [0] is not used
	login   string            // what the names of logins begin with
	all     string            // a pattern for all but the first
}

func newCookieJar(base string, c *OIDCCookieConfig) cookieJar {
	j := cookieJar{secure: c.Secure, parts: c.Parts}
	for i, prefix := range [2]string{"", "__Host-"} {
		if i == 1 && c.Domain != "" {
			prefix = "__Secure-"
		}
		n := &j.names[i]
		n.session = prefix + base
		for p := range n.parts {
			n.parts[p] = n.session + "." + strconv.Itoa(p)
		}
		n.login = n.session + ".login-"
		n.all = n.session + ".*"
		j.attributes[i] = "; Path=/; HttpOnly"
		if i == 1 {
			j.attributes[i] += "; Secure"
		}
		if c.Domain != "" {
			j.attributes[i] += "; Domain=" + c.Domain
		}
		j.login[i] = "; SameSite=Lax"
		switch c.SameSite {
		case "strict":
			j.sameSite[i] = "; SameSite=Strict"
		case "none":
			if i == 1 {
				j.sameSite[i], j.login[i] = "; SameSite=None", "; SameSite=None"
				break
			}
			fallthrough
		default:
			j.sameSite[i] = "; SameSite=Lax"
		}
	}
	return j
}

func (j *cookieJar) patterns() []string {
	return []string{j.names[0].session, j.names[0].all, j.names[1].session, j.names[1].all}
}

// line is one Set-Cookie line; a lifetime of 0 takes the cookie away.
func (j *cookieJar) line(https int, name, value, sameSite string, lifetime int64) Line {
	return Line{"Set-Cookie", name + "=" + value + "; Max-Age=" + strconv.FormatInt(max(lifetime, 0), 10) + j.attributes[https] + sameSite}
}

// room is what fits into each cookie.
func (j *cookieJar) room(https int) int {
	return mostCookieBytes - len(j.names[https].parts[1]) - len("8.=")
}

// keep lists the lines that give the browser of r the session value, and take
// away parts of an older one. ok is false when it is too large.
func (j *cookieJar) keep(r *Request, https int, value string, lifetime int64) (lines []Line, ok bool) {
	n := &j.names[https]
	room := j.room(https)
	count := (len(value) + room - 1) / room
	if count > j.parts {
		return nil, false
	}
	for i := range count {
		name, part := n.session, value[:min(room, len(value))]
		value = value[len(part):]
		switch {
		case i > 0:
			name = n.parts[i]
		case count > 1:
			part = strconv.Itoa(count) + "." + part
		}
		lines = append(lines, j.line(https, name, part, j.sameSite[https], lifetime))
	}
	return append(lines, j.without(r, https, count)...), true
}

// without lists the lines that take away the session's cookies from part number
// from on, those that r has sent.
func (j *cookieJar) without(r *Request, https, from int) (lines []Line) {
	n := &j.names[https]
	for i := from; i < mostParts; i++ {
		name := n.parts[i]
		if i == 0 {
			name = n.session
		}
		if _, sent := r.Cookie(name); sent > 0 {
			lines = append(lines, j.line(https, name, "", j.sameSite[https], 0))
		}
	}
	return lines
}

// https is 1 when the browser of r came by https, as its cookies know it.
func (o *openID) https(r *Request) int {
	https := r.Scheme == "https"
	if o.base != nil {
		https = o.base.Scheme == "https"
	}
	switch o.cookies.secure {
	case "always":
		https = true
	case "never":
		https = false
	}
	if https {
		return 1
	}
	return 0
}

// found is what a request has of a session.
type found uint8

const (
	cookieNone found = iota
	cookieWhole
	cookieTwice  // by one name
	cookieBroken // a part is missing, or too much
)

// sessionCookie returns the session that r carries, as one piece. Only the
// names are looked at that belong to the request's scheme: what came by http
// may have been set by anybody in between. buffer holds a session in parts and
// must be released.
func (o *openID) sessionCookie(r *Request) (value []byte, f found, buffer *[]byte) {
	n := &o.cookies.names[o.https(r)]
	first, count := r.Cookie(n.session)
	switch {
	case count > 1:
		return nil, cookieTwice, nil
	case len(first) == 0:
		return nil, cookieNone, nil
	case len(first) > mostCookieBytes:
		return nil, cookieBroken, nil
	case len(first) < 2 || first[1] != '.':
		return first, cookieWhole, nil
	}
	parts := int(first[0]) - '0'
	if parts < 2 || parts > mostParts {
		return nil, cookieBroken, nil
	}
	buffer = o.buffers.Get().(*[]byte)
	*buffer = append((*buffer)[:0], first[2:]...)
	for i := 1; i < parts; i++ {
		part, count := r.Cookie(n.parts[i])
		if count > 1 {
			return nil, cookieTwice, buffer
		}
		if len(part) == 0 || len(part) > mostCookieBytes {
			return nil, cookieBroken, buffer
		}
		*buffer = append(*buffer, part...)
	}
	return *buffer, cookieWhole, buffer
}

func (o *openID) release(buffer *[]byte) {
	if buffer != nil {
		o.buffers.Put(buffer)
	}
}

// open decrypts a session.
func (o *openID) open(r *Request, cookie []byte) (*session, bool) {
	text, ok := o.seal.open(forSession, o.cookies.names[o.https(r)].session, cookie)
	if !ok {
		return nil, false
	}
	s := &session{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(s); err != nil || s.ID == "" || s.read() != nil {
		return nil, false
	}
	return s, true
}

// sealed encrypts a session for browsers that came as https says.
func (o *openID) sealed(s *session, https int) (string, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return o.seal.seal(forSession, o.cookies.names[https].session, text), nil
}

// Bounds of what is remembered of sessions that ended early.
const (
	mostEndings = 1 << 18
	mostTokens  = 1 << 13 // logout tokens
	tokenWindow = 10 * time.Minute
)

// endings remembers which sessions ended before their time, until they would
// have ended anyway. The zero value with a lifetime is ready.
type endings struct {
	lifetime time.Duration
	mu       sync.RWMutex
	at       recent // by session, by the provider's session, by user
	tokens   recent // logout tokens seen
	before   int64  // sessions that began until then are over, Unix milliseconds
}

// has tells whether s was ended.
func (e *endings) has(s *session) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if s.Begun <= e.before && e.before > 0 {
		return true
	}
	keys := [...]endKey{endOf("id", s.ID), endOf("sub", s.Sub), endOf("sid", s.SID)}
	if s.SID == "" {
		keys[2] = endOf("sub without sid", s.Sub)
	}
	for _, k := range keys {
		if at, ok := e.at.by[k]; ok && s.Begun <= at {
			return true
		}
	}
	return false
}

// end ends all sessions that k names and that have begun by now. It reports
// whether the end of others had to be forgotten.
func (e *endings) end(k endKey, now time.Time) (overflowed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at.expire(now.Add(-e.lifetime).UnixMilli())
	for e.at.len() >= mostEndings {
		if at := e.at.drop(); at > 0 {
			overflowed, e.before = true, max(e.before, at)
		}
	}
	e.at.put(k, now.UnixMilli())
	return overflowed
}

// first tells whether a logout token comes for the first time.
func (e *endings) first(token endKey, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.tokens.by[token]; ok {
		return false
	}
	e.tokens.expire(now.Add(-2 * tokenWindow).UnixMilli())
	for e.tokens.len() >= mostTokens {
		e.tokens.drop()
	}
	e.tokens.put(token, now.UnixMilli())
	return true
}

func (e *endings) len() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.at.by)
}

// endKey names sessions or a token by a hash, so that each takes the same room.
type endKey [16]byte

func endOf(kind, value string) (k endKey) {
	sum := sha256.Sum256(appendPart(appendPart(nil, kind), value))
	copy(k[:], sum[:])
	return k
}

// recent is a set whose members know when they came, in the order of coming.
type recent struct {
	by    map[endKey]int64
	queue []arrival // an arrival that by does not know of any more counts for nothing
	head  int
}

type arrival struct {
	key endKey
	at  int64
}

func (r *recent) put(k endKey, at int64) {
	if r.by == nil {
		r.by = map[endKey]int64{}
	}
	r.by[k] = at
	r.queue = append(r.queue, arrival{k, at})
}

// len counts arrivals, those that count for nothing included: it is what takes
// room.
func (r *recent) len() int { return len(r.queue) - r.head }

// drop takes the oldest arrival out and returns when it came, 0 when it counts
// for nothing any more.
func (r *recent) drop() (at int64) {
	a := r.queue[r.head]
	if r.head++; r.head > 1024 && r.head > len(r.queue)/2 {
		r.queue = append([]arrival(nil), r.queue[r.head:]...)
		r.head = 0
	}
	if r.by[a.key] != a.at {
		return 0
	}
	delete(r.by, a.key)
	return a.at
}

// expire takes out what came before.
func (r *recent) expire(before int64) {
	for r.len() > 0 && r.queue[r.head].at < before {
		r.drop()
	}
}
