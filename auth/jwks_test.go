package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
	"github.com/rs/zerolog"

	"sluice/setting"
	"sluice/wire"
)

// issuer is a real server with a key set that changes as the test says.
type issuer struct {
	*httptest.Server
	t        *testing.T
	down     atomic.Bool
	fetches  atomic.Int64
	name     atomic.Pointer[string] // what it calls itself
	mu       sync.Mutex
	keys     map[string]*ecdsa.PrivateKey
	document string // the path of its discovery document
}

func startIssuer(t *testing.T, kids ...string) *issuer {
	i := &issuer{t: t, keys: map[string]*ecdsa.PrivateKey{}, document: wellKnownOIDC}
	i.Server = httptest.NewServer(i)
	i.name.Store(&i.URL)
	t.Cleanup(i.Close)
	i.set(kids...)
	return i
}

// set makes kids the keys of the set; those that were there stay the same.
func (i *issuer) set(kids ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.keys
	i.keys = map[string]*ecdsa.PrivateKey{}
	for _, kid := range kids {
		if i.keys[kid] = old[kid]; i.keys[kid] == nil {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				i.t.Error(err)
			}
			i.keys[kid] = key
		}
	}
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if i.down.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	switch r.URL.Path {
	case i.document:
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, *i.name.Load(), i.URL+"/keys")
	case "/keys":
		i.fetches.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		var list []string
		for kid, key := range i.keys {
			point, err := key.PublicKey.Bytes()
			if err != nil {
				i.t.Error(err)
			}
			b64 := base64.RawURLEncoding.EncodeToString
			list = append(list, fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}`, kid, b64(point[1:33]), b64(point[33:])))
		}
		// Keys that cannot be used do not cost the others.
		list = append(list, `{"kty":"EC","crv":"secp256k1","kid":"odd","x":"AA","y":"AA"}`, `{"kty":"XYZ","kid":"new"}`)
		fmt.Fprintf(w, `{"keys":[%s]}`, strings.Join(list, ","))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// token signs a token of sub with the key kid, which need not be in the set.
func (i *issuer) token(kid, sub string) string {
	i.mu.Lock()
	key := i.keys[kid]
	i.mu.Unlock()
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			i.t.Fatal(err)
		}
	}
	return signedES256(i.t, key, kid, map[string]any{"iss": i.URL, "sub": sub, "exp": time.Now().Add(time.Hour).Unix()})
}

func signedES256(t *testing.T, key crypto.PrivateKey, kid string, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":%q}`, kid)) + "." + b64(payload)
	signature, err := jwsbb.Sign(key, "ES256", []byte(signed), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(signature)
}

func testJWT() *JWTConfig {
	return &JWTConfig{
		Expiry: true, Subject: "sub", Header: "Authorization", MaxToken: 8 << 10, Remember: 64,
		Refresh: setting.Duration(10 * time.Minute), Refetch: setting.Duration(10 * time.Second), Keep: setting.Duration(24 * time.Hour), Timeout: setting.Duration(5 * time.Second),
	}
}

func startJWT(t *testing.T, c *JWTConfig) *jwtAuth {
	t.Helper()
	a, err := newJWT("customers", c, Env{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	a.(Starter).Start()
	t.Cleanup(a.(Starter).Stop)
	return a.(*jwtAuth)
}

func bearing(token string) *Request {
	head := &wire.Request{Fields: []wire.Field{{Name: []byte("Authorization"), Value: []byte("Bearer " + token), Kind: wire.Authorization}}}
	return &Request{Head: head, Caller: netip.MustParseAddr("192.0.2.1"), Now: time.Now()}
}

func (a *jwtAuth) expect(t *testing.T, what, token string, want Outcome, reason string) {
	t.Helper()
	if res := a.Verify(bearing(token)); res.Outcome != want || res.Reason != reason {
		t.Errorf("%s: outcome %d, %q; want %d, %q", what, res.Outcome, res.Reason, want, reason)
	}
}

// The issuer alone is enough; a key that is new there is found by the first token
// that names it; one that is gone ends the tokens that it proved.
func TestKeysRotate(t *testing.T) {
	i := startIssuer(t, "one")
	c := testJWT()
	c.Issuer = i.URL
	a := startJWT(t, c)
	old := i.token("one", "ann")
	a.expect(t, "before the rotation", old, Identified, "")
	// The bound between two fetches is not what this test is about.
	a.src.mu.Lock()
	a.src.refetch = 0
	a.src.mu.Unlock()
	i.set("one", "two")
	a.expect(t, "with a new key", i.token("two", "bob"), Identified, "")
	a.expect(t, "with the old one", old, Identified, "")
	i.set("two")
	a.expect(t, "a key of nobody", i.token("three", "eve"), Refused, jwtKey) // has the set fetched
	if res := a.Recall(bearing(old)); res.Outcome == Identified {
		t.Error("a remembered token outlived its key")
	}
	a.expect(t, "with the key that is gone", old, Refused, jwtKey)
	// The same name with another key is another key.
	again := i.token("two", "bob")
	a.expect(t, "before the key is replaced", again, Identified, "")
	i.set()
	i.set("two")
	a.expect(t, "a key of nobody again", i.token("four", "eve"), Refused, jwtKey)
	a.expect(t, "after the key was replaced under its name", again, Refused, jwtSignature)
	if n := a.Counts()["jwks_fetch_failed"]; n != 0 {
		t.Errorf("%d fetches failed", n)
	}
}

// A provider that publishes no key any more has ended all tokens.
func TestEmptyKeySetEndsTokens(t *testing.T) {
	var text atomic.Pointer[string]
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, _ := key.PublicKey.Bytes()
	b64 := base64.RawURLEncoding.EncodeToString
	full := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"one","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	text.Store(&full)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, *text.Load()) }))
	defer s.Close()
	c := testJWT()
	c.JWKS = s.URL
	a := startJWT(t, c)
	token := signedES256(t, key, "one", map[string]any{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
	a.expect(t, "with its key", token, Identified, "")
	empty := `{"keys":[]}`
	text.Store(&empty)
	if _, err := a.src.fetch(); err != nil {
		t.Fatal(err)
	}
	if res := a.Recall(bearing(token)); res.Outcome == Identified {
		t.Error("remembered, though the provider has no key any more")
	}
	a.expect(t, "without any key", token, Refused, jwtAlgorithm)
}

// The subject is one thing for everybody who asks.
func TestSubjectClaim(t *testing.T) {
	r := newKeyring(t)
	c := testJWT()
	c.Keys, c.Subject = r.set, "email"
	a := startJWT(t, c)
	sign := func(claims string) string {
		return r.sign(t, "EdDSA", `{"alg":"EdDSA"}`, fmt.Sprintf(claims, time.Now().Add(time.Hour).Unix()))
	}
	res := a.Verify(bearing(sign(`{"sub":"17","email":"ann@example.com","exp":%d}`)))
	if res.Outcome != Identified || res.Identity.Subject != "ann@example.com" || res.Identity.Claims["sub"] != "ann@example.com" {
		t.Fatalf("%+v", res)
	}
	if sub, _ := res.Identity.Claim("sub"); sub != "ann@example.com" {
		t.Errorf("sub is %q", sub)
	}
	a.expect(t, "without the claim", sign(`{"sub":"17","exp":%d}`), Refused, jwtSubject)
	for _, sub := range []string{"a\\nb", " admin", "admin "} {
		own := testJWT()
		own.Keys = r.set
		startJWT(t, own).expect(t, sub, sign(`{"sub":"`+sub+`","exp":%d}`), Refused, jwtSubject)
	}
}

// A flood of tokens with keys of nobody has the set fetched once, however many
// ask, and not again before its time.
func TestUnknownKeysAreFetchedOnce(t *testing.T) {
	i := startIssuer(t, "one")
	c := testJWT()
	c.JWKS = i.URL + "/keys"
	a := startJWT(t, c)
	a.expect(t, "the first", i.token("one", "ann"), Identified, "")
	a.src.mu.Lock()
	a.src.last = time.Now().Add(-time.Minute)
	a.src.mu.Unlock()
	before := i.fetches.Load()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 20 {
				a.Verify(bearing(i.token(fmt.Sprint("nobody", g, n), "eve")))
			}
		})
	}
	wg.Wait()
	if n := i.fetches.Load() - before; n != 1 {
		t.Errorf("fetched %d times, want once", n)
	}
}

// While the provider is away the last good set is used, until it is too old; one
// that never answered leaves nothing to refuse with.
func TestProviderOutage(t *testing.T) {
	i := startIssuer(t, "one")
	c := testJWT()
	c.Issuer = i.URL
	a := startJWT(t, c)
	a.expect(t, "before", i.token("one", "ann"), Identified, "")
	i.down.Store(true)
	a.expect(t, "while it is away", i.token("one", "bob"), Identified, "")
	if _, err := a.src.fetch(); err == nil {
		t.Error("a provider that is away was fetched from")
	}
	a.expect(t, "after a fetch that failed", i.token("one", "cid"), Identified, "")
	kept := i.token("one", "dan")
	a.expect(t, "remembered", kept, Identified, "")
	a.src.expire(time.Now().Add(25 * time.Hour))
	if res := a.Recall(bearing(kept)); res.Outcome == Identified {
		t.Error("a token is remembered though its key set was given up")
	}
	late := testJWT()
	late.Issuer, late.Timeout = i.URL, setting.Duration(50*time.Millisecond)
	b := startJWT(t, late)
	b.expect(t, "a provider that was never there", i.token("one", "eve"), Unavailable, jwtNoKeys)
	// It is back.
	i.down.Store(false)
	if _, err := b.src.fetch(); err != nil {
		t.Error(err)
	}
	b.expect(t, "once it is there", i.token("one", "eve"), Identified, "")
}

func TestDiscovery(t *testing.T) {
	i := startIssuer(t, "one")
	i.document = wellKnownOAuth // RFC 8414 alone
	c := testJWT()
	c.Issuer = i.URL
	startJWT(t, c).expect(t, "by RFC 8414", i.token("one", "ann"), Identified, "")
	other := "https://another.example"
	i.name.Store(&other)
	c2 := testJWT()
	c2.Issuer, c2.Timeout = i.URL, setting.Duration(50*time.Millisecond)
	a := startJWT(t, c2)
	a.expect(t, "a document of another issuer", i.token("one", "ann"), Unavailable, jwtNoKeys)
	if _, err := a.src.fetch(); err == nil || !strings.Contains(err.Error(), "another.example") {
		t.Errorf("expected to be told whose document it is, got %v", err)
	}
}

// A file is read again when it changes; one with a mistake changes nothing.
func TestKeyFileIsWatched(t *testing.T) {
	one, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	two, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	text := func(key *ecdsa.PrivateKey) string {
		point, _ := key.PublicKey.Bytes()
		b64 := base64.RawURLEncoding.EncodeToString
		return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(text(one))
	c := testJWT()
	c.File = file
	a := startJWT(t, c)
	claims := map[string]any{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
	old := signedES256(t, one, "x", claims)
	a.expect(t, "before", old, Identified, "")
	write("no key set")
	await(t, func() bool { return a.Counts()["file_refused"] > 0 })
	if res := a.Recall(bearing(old)); res.Outcome != Identified {
		t.Error("a mistake in the file ended a token")
	}
	write(text(two))
	await(t, func() bool { return a.Counts()["file_reloaded"] > 0 })
	if res := a.Recall(bearing(old)); res.Outcome == Identified {
		t.Error("a key that is gone from the file still counts")
	}
	a.expect(t, "with the new key", signedES256(t, two, "x", claims), Identified, "")
}

// await polls for what another goroutine is about to do.
func await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func FuzzParseCompact(f *testing.F) {
	f.Add([]byte("eyJhbGciOiJFUzI1NiJ9.e30.AAAA"))
	f.Add([]byte("eyJhbGciOiJub25lIn0.e30."))
	f.Add([]byte("a.b.c.d.e"))
	f.Fuzz(func(t *testing.T, token []byte) {
		c, err := parseCompact(token)
		if err != nil {
			return
		}
		// What was read is written in one way only.
		b64 := base64.RawURLEncoding.EncodeToString
		parts := strings.Split(string(token), ".")
		if len(parts) != 3 || b64(c.payload) != parts[1] || b64(c.signature) != parts[2] || string(c.signed) != parts[0]+"."+parts[1] {
			t.Fatalf("%q is read as %+v", token, c)
		}
		parseObject(c.payload)
	})
}

func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, _, err := parseKeySet(text, true, nil)
		if err == nil && len(set.keys) == 0 {
			t.Fatal("a set without keys")
		}
	})
}
