package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sluice/auth"
	"sluice/e2e/openid"
	"sluice/setting"
)

// crooked is a provider that answers as a test wants it to.
type crooked struct {
	URL  string
	key  *rsa.PrivateKey
	mu   sync.Mutex
	doc  map[string]any
	give func(w http.ResponseWriter, form url.Values) // at the token endpoint
	info string                                       // of the userinfo endpoint
}

func newCrooked(t *testing.T) *crooked {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &crooked{key: key}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	c.doc = map[string]any{
		"issuer": c.URL, "authorization_endpoint": c.URL + "/auth", "token_endpoint": c.URL + "/token",
		"jwks_uri": c.URL + "/keys", "userinfo_endpoint": c.URL + "/userinfo",
		"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
	}
	return c
}

func (c *crooked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(c.doc)
	case "/keys":
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &c.key.PublicKey, KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	case "/userinfo":
		_, _ = w.Write([]byte(c.info))
	case "/token":
		_ = r.ParseForm()
		c.give(w, r.PostForm)
	default:
		http.NotFound(w, r)
	}
}

func (c *crooked) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// signed makes an ID token.
func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, options *jose.SignerOptions, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := token.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

// What a provider, or somebody in its place, may answer: only an ID token that is
// its own, for this client and this login, makes a session.
func TestOIDCTokenAttacks(t *testing.T) {
	c := newCrooked(t)
	door := &openid.Door{Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("X-Sub"), " ", r.Header.Get("X-Email"))
	})}
	server := httptest.NewServer(door)
	t.Cleanup(server.Close)
	log := &lines{}
	config := oidcConfigOf(&openid.Provider{URL: c.URL})
	config.ClaimsFrom, config.Timeout = "id_token", setting.Duration(20*time.Second)
	plain := newMember(t, config, log)
	withInfo := *config
	withInfo.ClaimsFrom = "userinfo"
	asking := newMember(t, &withInfo, log)
	hasty := *config
	hasty.Timeout = setting.Duration(100 * time.Millisecond)
	impatient := newMember(t, &hasty, log)

	// login goes through with what give makes of the login's nonce.
	login := func(m *auth.Member, give func(nonce string) func(http.ResponseWriter, url.Values)) (*http.Response, string, *browser) {
		t.Helper()
		door.Member = m
		b := newBrowser(t)
		res, text := b.do(false, http.MethodGet, server.URL+"/", "")
		to, err := res.Location()
		if err != nil {
			t.Fatal(err, text, log)
		}
		c.set(func() { c.give = give(to.Query().Get("nonce")) })
		res, text = b.do(false, http.MethodGet, server.URL+"/oauth2/web/callback?code=the-code&state="+to.Query().Get("state"), "")
		return res, text, b
	}
	answer := func(fields map[string]any) func(http.ResponseWriter, url.Values) {
		return func(w http.ResponseWriter, _ url.Values) {
			all := map[string]any{"access_token": "the-access-token", "token_type": "Bearer", "expires_in": 300}
			maps.Copy(all, fields)
			_ = json.NewEncoder(w).Encode(all)
		}
	}
	now := time.Now().Unix()
	claims := func(nonce string, changes map[string]any) map[string]any {
		all := map[string]any{"iss": c.URL, "aud": openid.ClientID, "sub": "ada", "nonce": nonce, "iat": now, "exp": now + 300, "email": "ada@example.com"}
		for name, v := range changes {
			if all[name] = v; v == nil {
				delete(all, name)
			}
		}
		return all
	}
	kid := (&jose.SignerOptions{}).WithHeader("kid", "k")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&c.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	token := func(changes map[string]any) func(string) func(http.ResponseWriter, url.Values) {
		return func(nonce string) func(http.ResponseWriter, url.Values) {
			return answer(map[string]any{"id_token": signed(t, jose.RS256, c.key, kid, claims(nonce, changes))})
		}
	}
	raw := func(make func(nonce string) string) func(string) func(http.ResponseWriter, url.Values) {
		return func(nonce string) func(http.ResponseWriter, url.Values) {
			return answer(map[string]any{"id_token": make(nonce)})
		}
	}
	good := func(name string, m *auth.Member, want string, give func(string) func(http.ResponseWriter, url.Values)) {
		t.Helper()
		res, text, b := login(m, give)
		if res.StatusCode != 303 || res.Header.Get("Location") != "/" {
			t.Errorf("%s: got %d %s", name, res.StatusCode, text)
		}
		if _, text := b.get(server.URL + "/"); text != want {
			t.Errorf("%s: expected %q, got %q", name, want, text)
		}
	}
	bad := func(name string, m *auth.Member, want int, give func(string) func(http.ResponseWriter, url.Values)) {
		t.Helper()
		res, text, b := login(m, give)
		if res.StatusCode != want {
			t.Errorf("%s: expected %d, got %d %s", name, want, res.StatusCode, text)
		}
		if res, text := b.do(false, http.MethodGet, server.URL+"/", "", "Accept", "*/*"); res.StatusCode != 401 {
			t.Errorf("%s: made a session: %d %s", name, res.StatusCode, text)
		}
	}

	good("good", plain, "ada ada@example.com", token(nil))
	good("azp", plain, "ada ada@example.com", token(map[string]any{"azp": openid.ClientID, "aud": []string{openid.ClientID, "more"}}))
	bad("another nonce", plain, 403, token(map[string]any{"nonce": "x"}))
	bad("no nonce", plain, 403, token(map[string]any{"nonce": nil}))
	bad("another issuer", plain, 403, token(map[string]any{"iss": "https://evil.example"}))
	bad("another audience", plain, 403, token(map[string]any{"aud": "another"}))
	bad("no audience", plain, 403, token(map[string]any{"aud": nil}))
	bad("two audiences", plain, 403, token(map[string]any{"aud": []string{openid.ClientID, "more"}}))
	bad("another azp", plain, 403, token(map[string]any{"azp": "another"}))
	bad("expired", plain, 403, token(map[string]any{"exp": now - 1}))
	bad("no exp", plain, 403, token(map[string]any{"exp": nil}))
	bad("nbf far ahead", plain, 403, token(map[string]any{"nbf": now + 3600}))
	bad("no sub", plain, 403, token(map[string]any{"sub": nil}))
	bad("sub is a number", plain, 403, token(map[string]any{"sub": 1}))
	bad("at_hash", plain, 403, token(map[string]any{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}))
	bad("another key", plain, 403, raw(func(nonce string) string { return signed(t, jose.RS256, other, kid, claims(nonce, nil)) }))
	bad("embedded key", plain, 403, raw(func(nonce string) string {
		return signed(t, jose.RS256, other, &jose.SignerOptions{EmbedJWK: true}, claims(nonce, nil))
	}))
	bad("HMAC with the public key", plain, 403, raw(func(nonce string) string { return signed(t, jose.HS256, public, kid, claims(nonce, nil)) }))
	bad("HMAC with the client's secret", plain, 403, raw(func(nonce string) string {
		return signed(t, jose.HS256, []byte(strings.Repeat(openid.ClientSecret, 2)), kid, claims(nonce, nil))
	}))
	bad("alg none", plain, 403, raw(func(nonce string) string {
		parts := strings.Split(signed(t, jose.RS256, c.key, kid, claims(nonce, nil)), ".")
		return "eyJhbGciOiJub25lIn0." + parts[1] + "."
	}))
	bad("not a token", plain, 403, raw(func(string) string { return "a.b.c" }))
	bad("no ID token", plain, 403, func(string) func(http.ResponseWriter, url.Values) { return answer(nil) })
	bad("an object instead", plain, 403, func(string) func(http.ResponseWriter, url.Values) {
		return answer(map[string]any{"id_token": map[string]any{}})
	})
	bad("too large for cookies", plain, 500, token(map[string]any{"pad": strings.Repeat("x", 20000)}))
	bad("endless", plain, 503, raw(func(string) string { return strings.Repeat("x", 2<<20) }))
	bad("5xx", plain, 503, func(string) func(http.ResponseWriter, url.Values) {
		return func(w http.ResponseWriter, _ url.Values) { w.WriteHeader(502) }
	})
	bad("echo", plain, 403, func(string) func(http.ResponseWriter, url.Values) {
		return func(w http.ResponseWriter, form url.Values) {
			w.WriteHeader(400)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": "invalid_request", "error_description": form.Encode()})
		}
	})
	bad("redirect", plain, 403, func(string) func(http.ResponseWriter, url.Values) {
		return func(w http.ResponseWriter, _ url.Values) {
			w.Header().Set("Location", "http://127.0.0.1:1/steal")
			w.WriteHeader(307)
		}
	})
	gone := make(chan struct{})
	bad("silence", impatient, 503, func(string) func(http.ResponseWriter, url.Values) {
		return func(http.ResponseWriter, url.Values) { <-gone }
	})
	close(gone)

	c.set(func() {
		c.info = `{"sub":"ada","email":"new@example.com","iss":"https://evil.example","aud":"x","sid":"stolen"}`
	})
	good("userinfo", asking, "ada new@example.com", token(nil))
	for _, info := range []string{`{"sub":"bob"}`, `{}`} {
		c.set(func() { c.info = info })
		bad("userinfo "+info, asking, 403, token(nil))
	}
	for _, info := range []string{`[]`, ``, `{"sub":`, strings.Repeat(" ", 2<<20)} {
		c.set(func() { c.info = info })
		bad("userinfo "+info[:min(len(info), 9)], asking, 503, token(nil))
	}
	for _, secret := range []string{"the-code", "the-access-token", openid.ClientSecret, "ada"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q: %s", secret, log)
		}
	}

	// A renewal that turns out to be somebody else's ends the session.
	c.set(func() { c.info = "" })
	_, _, b := login(plain, func(nonce string) func(http.ResponseWriter, url.Values) {
		return answer(map[string]any{"refresh_token": "one", "id_token": signed(t, jose.RS256, c.key, kid, claims(nonce, nil))})
	})
	c.set(func() {
		c.give = answer(map[string]any{"refresh_token": "two", "id_token": signed(t, jose.RS256, c.key, kid, claims("", map[string]any{"sub": "bob"}))})
	})
	door.Ahead.Store(int64(6 * time.Minute))
	if res, text := b.do(false, http.MethodGet, server.URL+"/", "", "Accept", "*/*"); res.StatusCode != 401 {
		t.Errorf("got %d %s", res.StatusCode, text)
	}
}

// A discovery document that is not the provider's, or leads elsewhere, is none.
func TestOIDCDiscoveryAttacks(t *testing.T) {
	for name, change := range map[string]func(doc map[string]any){
		"another issuer":         func(doc map[string]any) { doc["issuer"] = "https://evil.example" },
		"no token endpoint":      func(doc map[string]any) { delete(doc, "token_endpoint") },
		"token endpoint by http": func(doc map[string]any) { doc["token_endpoint"] = "http://evil.example/token" },
		"script as login":        func(doc map[string]any) { doc["authorization_endpoint"] = "javascript:alert(1)" },
		"keys from a file":       func(doc map[string]any) { doc["jwks_uri"] = "file:///etc/passwd" },
		"logout with a script":   func(doc map[string]any) { doc["end_session_endpoint"] = "javascript:alert(1)" },
		"endless":                func(doc map[string]any) { doc["pad"] = strings.Repeat("x", 2<<20) },
		"methods of a kind":      func(doc map[string]any) { doc["token_endpoint_auth_methods_supported"] = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrooked(t)
			change(c.doc)
			log := &lines{}
			door := &openid.Door{Next: http.NotFoundHandler(), Member: newMember(t, oidcConfigOf(&openid.Provider{URL: c.URL}), log)}
			server := httptest.NewServer(door)
			t.Cleanup(server.Close)
			if res, text := newBrowser(t).do(false, http.MethodGet, server.URL+"/", ""); res.StatusCode != 503 {
				t.Errorf("got %d %s", res.StatusCode, text)
			}
			if text := log.String(); !strings.Contains(text, "provider fails") || len(text) > 1000 {
				t.Errorf("got %q", text[:min(len(text), 1000)])
			}
		})
	}
}
