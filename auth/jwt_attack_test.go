package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// compactOf is header.payload.signature with the parts as they are.
func compactOf(header, payload string, signature []byte) string {
	return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64(signature)
}

// keyring is one key of each kind, and what signs with it.
type keyring struct {
	set  string
	keys map[string]any // by algorithm
}

func newKeyring(t *testing.T) *keyring {
	t.Helper()
	r := &keyring{keys: map[string]any{}}
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var list []string
	add := func(kid string, key any, algs ...string) {
		k, err := jwk.Import(key)
		fatal(err)
		if _, symmetric := key.([]byte); !symmetric {
			k, err = k.PublicKey()
			fatal(err)
		}
		fatal(k.Set(jwk.KeyIDKey, kid))
		text, err := json.Marshal(k)
		fatal(err)
		list = append(list, string(text))
		for _, alg := range algs {
			r.keys[alg] = key
		}
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	fatal(err)
	add("rsa", rsaKey, "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
	for alg, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		fatal(err)
		add(alg, key, alg)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	fatal(err)
	add("ed", ed, "EdDSA")
	secret := make([]byte, 64)
	_, _ = rand.Read(secret)
	add("hmac", secret, "HS256", "HS384", "HS512")
	r.set = `{"keys":[` + strings.Join(list, ",") + `]}`
	return r
}

func (r *keyring) sign(t *testing.T, alg, header, payload string) string {
	t.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	signature, err := jwsbb.Sign(r.keys[alg], alg, []byte(text), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(signature)
}

func (r *keyring) authenticator(t *testing.T) *jwtAuth {
	c := testJWT()
	c.Keys, c.Remember = r.set, 4
	return startJWT(t, c)
}

// Every algorithm: the good token is taken, and no tampered form of it.
func TestEveryAlgorithmAndItsForgeries(t *testing.T) {
	r := newKeyring(t)
	a := r.authenticator(t)
	payload := fmt.Sprintf(`{"sub":"ann","exp":%d}`, time.Now().Add(time.Hour).Unix())
	refused := func(what, token string) {
		t.Helper()
		for range 2 { // once remembered as bad it stays so
			if res := a.Verify(bearing(token)); res.Outcome != Refused {
				t.Errorf("%s is taken: %s", what, token)
			}
		}
	}
	for _, alg := range jwsAlgorithms {
		good := r.sign(t, alg, `{"alg":"`+alg+`"}`, payload)
		a.expect(t, alg, good, Identified, "")
		head, rest, _ := strings.Cut(good, ".")
		body, signature, _ := strings.Cut(rest, ".")
		raw, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(raw); i += 1 + len(raw)/16 {
			for _, bit := range []byte{1, 0x80} {
				forged := append([]byte(nil), raw...)
				forged[i] ^= bit
				refused(fmt.Sprintf("%s with byte %d of its signature changed", alg, i), head+"."+body+"."+b64(forged))
			}
		}
		refused(alg+" without its signature", head+"."+body+".")
		refused(alg+" cut", head+"."+body+"."+b64(raw[:len(raw)-1]))
		refused(alg+" longer", head+"."+body+"."+b64(append(raw, 0)))
		refused(alg+" of zeros", head+"."+body+"."+b64(make([]byte, len(raw))))
		refused(alg+" padded", good+"=")
		refused(alg+" with a space", head+". "+body+"."+signature)
		refused(alg+" with four parts", good+".x")
		refused(alg+" of another payload", head+"."+b64([]byte(strings.Replace(payload, "ann", "eve", 1)))+"."+signature)
		for _, other := range jwsAlgorithms {
			if other == alg {
				continue
			}
			refused(alg+" called "+other, b64([]byte(`{"alg":"`+other+`"}`))+"."+body+"."+signature)
			if r.keys[other] != nil && fmt.Sprintf("%p", r.keys[other]) != fmt.Sprintf("%p", r.keys[alg]) {
				wrongKid := map[bool]string{true: "rsa", false: "ed"}[alg == "EdDSA"]
				refused(alg+" under another's kid", r.sign(t, alg, `{"alg":"`+alg+`","kid":"`+wrongKid+`x"}`, payload))
			}
		}
		// The last character holds bits that no encoder sets: another spelling of
		// the same bytes is another token.
		if last := len(raw) % 3; last != 0 {
			const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
			at := strings.IndexByte(alphabet, good[len(good)-1])
			refused(alg+" spelled otherwise", good[:len(good)-1]+string(alphabet[at|1]))
		}
	}
}

// The classics of attacks on tokens (RFC 8725).
func TestAttacks(t *testing.T) {
	r := newKeyring(t)
	var asked atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer evil.Close()
	c := testJWT()
	c.Keys, c.Remember, c.Audience, c.Issuer = r.set, 4, []string{"api"}, "me"
	a := startJWT(t, c)
	now := time.Now().Unix()
	claims := func(more string) string {
		return fmt.Sprintf(`{"iss":"me","aud":"api","sub":"ann","exp":%d%s}`, now+3600, more)
	}
	good := claims("")
	es := func(header, payload string) string { return r.sign(t, "ES256", header, payload) }
	a.expect(t, "the good one", es(`{"alg":"ES256","kid":"ES256"}`, good), Identified, "")
	a.expect(t, "typ at+jwt", es(`{"alg":"ES256","typ":"at+jwt"}`, good), Identified, "")
	a.expect(t, "typ application/at+JWT", es(`{"alg":"ES256","typ":"application/at+JWT"}`, good), Identified, "")
	a.expect(t, "aud in a list", es(`{"alg":"ES256"}`, fmt.Sprintf(`{"iss":"me","aud":["x","api"],"sub":"ann","exp":%d}`, now+3600)), Identified, "")
	a.expect(t, "expired within the leeway", r.leeway(t, now-1), Refused, jwtExpired)

	rsaKey := r.keys["RS256"].(*rsa.PrivateKey)
	public, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ownPoint, _ := own.PublicKey.Bytes()
	ownJWK := fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":"ES256","x":%q,"y":%q}`, b64(ownPoint[1:33]), b64(ownPoint[33:]))
	bySelf := func(header, payload string) string {
		text := b64([]byte(header)) + "." + b64([]byte(payload))
		signature, err := jwsbb.Sign(own, "ES256", []byte(text), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return text + "." + b64(signature)
	}
	mac := func(header string, key []byte) string {
		text := b64([]byte(header)) + "." + b64([]byte(good))
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return text + "." + b64(m.Sum(nil))
	}
	for what, token := range map[string]string{
		"alg none":                    compactOf(`{"alg":"none"}`, good, nil),
		"alg None":                    compactOf(`{"alg":"None"}`, good, nil),
		"alg nOnE with a signature":   compactOf(`{"alg":"nOnE"}`, good, []byte("x")),
		"no alg":                      compactOf(`{}`, good, []byte("x")),
		"alg as a list":               compactOf(`{"alg":["ES256"]}`, good, []byte("x")),
		"two algs":                    compactOf(`{"alg":"none","alg":"ES256"}`, good, nil),
		"HS256 with the public PEM":   mac(`{"alg":"HS256","kid":"rsa"}`, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"HS256 with the public DER":   mac(`{"alg":"HS256","kid":"rsa"}`, public),
		"HS256 with the modulus":      mac(`{"alg":"HS256","kid":"rsa"}`, rsaKey.N.Bytes()),
		"HS256 with the EC point":     mac(`{"alg":"HS256","kid":"ES256"}`, ownPoint),
		"HS256 with nothing":          mac(`{"alg":"HS256"}`, nil),
		"its own jwk":                 bySelf(`{"alg":"ES256","jwk":`+ownJWK+`}`, good),
		"its own jku":                 bySelf(`{"alg":"ES256","jku":"`+evil.URL+`"}`, good),
		"its own x5u":                 bySelf(`{"alg":"ES256","x5u":"`+evil.URL+`"}`, good),
		"its own x5c":                 bySelf(`{"alg":"ES256","x5c":["`+b64(public)+`"]}`, good),
		"kid of a path":               bySelf(`{"alg":"ES256","kid":"../../../../dev/null"}`, good),
		"kid of SQL":                  bySelf(`{"alg":"ES256","kid":"x' UNION SELECT 'k"}`, good),
		"kid of a URL":                bySelf(`{"alg":"ES256","kid":"`+evil.URL+`"}`, good),
		"kid with NUL":                bySelf(`{"alg":"ES256","kid":"ES256\u0000"}`, good),
		"a huge kid":                  es(`{"alg":"ES256","kid":"`+strings.Repeat("k", 5000)+`"}`, good),
		"kid as a number":             es(`{"alg":"ES256","kid":1}`, good),
		"crit":                        es(`{"alg":"ES256","crit":["exp"]}`, good),
		"b64 false":                   es(`{"alg":"ES256","b64":false,"crit":["b64"]}`, good),
		"typ logout+jwt":              es(`{"alg":"ES256","typ":"logout+jwt"}`, good),
		"typ dpop+jwt":                es(`{"alg":"ES256","typ":"dpop+jwt"}`, good),
		"a token in a token":          es(`{"alg":"ES256","cty":"JWT"}`, good),
		"encrypted":                   "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA",
		"JSON serialisation":          `{"payload":"e30","signatures":[]}`,
		"the zero signature":          compactOf(`{"alg":"ES256"}`, good, make([]byte, 64)),
		"expired by one second":       es(`{"alg":"ES256"}`, fmt.Sprintf(`{"iss":"me","aud":"api","exp":%d}`, now-1)),
		"without exp":                 es(`{"alg":"ES256"}`, `{"iss":"me","aud":"api","sub":"ann"}`),
		"exp as a text":               es(`{"alg":"ES256"}`, fmt.Sprintf(`{"iss":"me","aud":"api","exp":"%d"}`, now+3600)),
		"exp without bound":           es(`{"alg":"ES256"}`, `{"iss":"me","aud":"api","exp":1e400}`),
		"exp below zero":              es(`{"alg":"ES256"}`, `{"iss":"me","aud":"api","exp":-1}`),
		"exp null":                    es(`{"alg":"ES256"}`, `{"iss":"me","aud":"api","exp":null}`),
		"not yet":                     es(`{"alg":"ES256"}`, claims(fmt.Sprintf(`,"nbf":%d`, now+30))),
		"issued in the future":        es(`{"alg":"ES256"}`, claims(fmt.Sprintf(`,"iat":%d`, now+30))),
		"aud of another":              es(`{"alg":"ES256"}`, strings.Replace(good, `"api"`, `"web"`, 1)),
		"aud as a number":             es(`{"alg":"ES256"}`, strings.Replace(good, `"api"`, `1`, 1)),
		"aud as an object":            es(`{"alg":"ES256"}`, strings.Replace(good, `"api"`, `{"api":"api"}`, 1)),
		"aud in a nested list":        es(`{"alg":"ES256"}`, strings.Replace(good, `"api"`, `[["api"]]`, 1)),
		"no aud":                      es(`{"alg":"ES256"}`, strings.Replace(good, `"aud":"api",`, ``, 1)),
		"iss of another":              es(`{"alg":"ES256"}`, strings.Replace(good, `"me"`, `"you"`, 1)),
		"iss in a list":               es(`{"alg":"ES256"}`, strings.Replace(good, `"me"`, `["me"]`, 1)),
		"sub as a list":               es(`{"alg":"ES256"}`, strings.Replace(good, `"ann"`, `["ann"]`, 1)),
		"a claim twice":               es(`{"alg":"ES256"}`, claims(`,"sub":"root"`)),
		"a nested claim twice":        es(`{"alg":"ES256"}`, claims(`,"a":{"b":1,"b":2}`)),
		"a deep claim":                es(`{"alg":"ES256"}`, claims(`,"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100))),
		"invalid UTF-8":               es(`{"alg":"ES256"}`, claims(",\"a\":\"\xff\"")),
		"something behind the object": es(`{"alg":"ES256"}`, good+"{}"),
		"a payload that is a list":    es(`{"alg":"ES256"}`, `[1]`),
		"too long":                    es(`{"alg":"ES256"}`, claims(`,"a":"`+strings.Repeat("x", 9000)+`"`)),
		"nothing":                     "",
		"dots":                        "..",
	} {
		c.Leeway = 0
		if res := a.Verify(bearing(token)); res.Outcome != Refused {
			t.Errorf("%s: outcome %d", what, res.Outcome)
		} else if strings.Contains(res.Challenge, res.Reason) {
			t.Errorf("%s: the reason %q is told to the caller", what, res.Reason)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("a token had the gateway ask a server of its own choosing %d times", n)
	}
	// Two of them are nobody's.
	two := bearing(es(`{"alg":"ES256"}`, good))
	two.Head.Fields = append(two.Head.Fields, two.Head.Fields[0])
	if res := a.Verify(two); res.Outcome != Refused || res.Reason != bearerTwice {
		t.Errorf("two tokens: %+v", res)
	}
	// The scheme is compared without regard to case, and nothing else is.
	other := bearing("")
	other.Head.Fields[0].Value = []byte("bEARER " + es(`{"alg":"ES256"}`, good))
	if res := a.Verify(other); res.Outcome != Identified {
		t.Errorf("another case of the scheme: %+v", res)
	}
}

// leeway is a token that expired at a time.
func (r *keyring) leeway(t *testing.T, exp int64) string {
	return r.sign(t, "ES256", `{"alg":"ES256"}`, fmt.Sprintf(`{"iss":"me","aud":"api","sub":"ann","exp":%d}`, exp))
}

// Clocks differ by up to the leeway.
func TestLeeway(t *testing.T) {
	r := newKeyring(t)
	c := testJWT()
	c.Keys, c.Leeway = r.set, 60e9
	a := startJWT(t, c)
	now := time.Now()
	for _, f := range []struct {
		claims string
		want   Outcome
		reason string
	}{
		{fmt.Sprintf(`{"sub":"a","exp":%d}`, now.Unix()-58), Identified, ""},
		{fmt.Sprintf(`{"sub":"a","exp":%d}`, now.Unix()-61), Refused, jwtExpired},
		{fmt.Sprintf(`{"sub":"a","exp":%d.5}`, now.Unix()+9), Identified, ""},
		{fmt.Sprintf(`{"sub":"a","exp":%d,"nbf":%d}`, now.Unix()+99, now.Unix()+58), Identified, ""},
		{fmt.Sprintf(`{"sub":"a","exp":%d,"nbf":%d}`, now.Unix()+99, now.Unix()+70), Refused, jwtEarly},
		{fmt.Sprintf(`{"sub":"a","exp":%d,"iat":%d}`, now.Unix()+99, now.Unix()+70), Refused, jwtIssued},
	} {
		a.expect(t, f.claims, r.sign(t, "EdDSA", `{"alg":"EdDSA"}`, f.claims), f.want, f.reason)
	}
	// A remembered token is not remembered beyond its time.
	token := r.sign(t, "EdDSA", `{"alg":"EdDSA"}`, fmt.Sprintf(`{"sub":"b","exp":%d}`, now.Unix()+10))
	a.expect(t, "in time", token, Identified, "")
	late := bearing(token)
	late.Now = now.Add(71 * time.Second)
	if res := a.Verify(late); res.Outcome != Refused {
		t.Errorf("after its time: %+v", res)
	}
}

// Keys that must not prove anything are left out, whoever published them.
func TestBadKeys(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := b64(small.N.Bytes())
	for what, key := range map[string]string{
		"1024 bits":        `{"kty":"RSA","n":"` + b64(new(big.Int).Lsh(big.NewInt(1), 1023).Bytes()) + `","e":"AQAB"}`,
		"exponent 1":       `{"kty":"RSA","n":"` + n + `","e":"AQ"}`,
		"for encryption":   `{"kty":"RSA","use":"enc","n":"` + n + `","e":"AQAB"}`,
		"not for verify":   `{"kty":"RSA","key_ops":["encrypt"],"n":"` + n + `","e":"AQAB"}`,
		"of another alg":   `{"kty":"RSA","alg":"HS256","n":"` + n + `","e":"AQAB"}`,
		"off its curve":    `{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 32)) + `","y":"` + b64(make([]byte, 32)) + `"}`,
		"a short secret":   `{"kty":"oct","k":"c2hvcnQ"}`,
		"an unknown type":  `{"kty":"XYZ"}`,
		"an unknown curve": `{"kty":"EC","crv":"P-999","x":"AA","y":"AA"}`,
	} {
		if set, _, err := parseKeySet([]byte(`{"keys":[`+key+`]}`), true, nil); err == nil {
			t.Errorf("%s: taken as %v", what, set.keys[0].algs)
		}
	}
	// One of them costs none of the others, and is told.
	good := `{"kty":"RSA","kid":"good","n":"` + n + `","e":"AQAB"}`
	for what, bad := range map[string]string{
		"1024 bits":      `{"kty":"RSA","kid":"small","n":"` + b64(new(big.Int).Lsh(big.NewInt(1), 1023).Bytes()) + `","e":"AQAB"}`,
		"a member twice": `{"kty":"RSA","kty":"RSA","n":"` + n + `","e":"AQAB"}`,
		"of no type":     `{"kty":"XYZ"}`,
		"no object":      `7`,
	} {
		set, skipped, err := parseKeySet([]byte(`{"keys":[`+bad+","+good+`]}`), false, nil)
		if err != nil || len(set.keys) != 1 || set.keys[0].kid != "good" || len(skipped) != 1 {
			t.Errorf("%s beside a good key: %v, skipped %q", what, err, skipped)
		}
	}
	for text, shared := range map[string]bool{`{"keys":[]}`: true, `{"keys":null}`: false, `{"keys":{}}`: false, `{"keys":[` + good + `],"keys":[]}`: false, `{}`: false} {
		if _, _, err := parseKeySet([]byte(text), shared, nil); err == nil {
			t.Errorf("%s is taken for a key set", text)
		}
	}
	secret := `{"keys":[{"kty":"oct","k":"` + b64(make([]byte, 64)) + `"}]}`
	if _, _, err := parseKeySet([]byte(secret), false, nil); err == nil {
		t.Error("a symmetric key of a provider's public set is taken")
	}
	if _, _, err := parseKeySet([]byte(secret), true, []string{"RS256"}); err == nil {
		t.Error("a key for no allowed algorithm is taken")
	}
}

// The values of RFC 7515 appendix A, RFC 7520 section 4 and RFC 8037 appendix A,
// each with every byte of its signature changed in turn.
func TestRFCVectors(t *testing.T) {
	f := func(name, key, token string) {
		t.Helper()
		set, _, err := parseKeySet([]byte(key), true, nil)
		if err != nil {
			t.Errorf("%s: the key: %v", name, err)
			return
		}
		parts := strings.Split(token, ".")
		var header struct{ Alg string }
		head, _ := base64.RawURLEncoding.DecodeString(parts[0])
		if err := json.Unmarshal(head, &header); err != nil {
			t.Fatal(err)
		}
		signature, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		c := &compact{alg: header.Alg, signed: []byte(parts[0] + "." + parts[1]), signature: signature}
		if !set.keys[0].proves(c) {
			t.Errorf("%s: refused", name)
		}
		for i := range signature {
			forged := append([]byte(nil), signature...)
			forged[i] ^= 1
			if set.keys[0].proves(&compact{alg: c.alg, signed: c.signed, signature: forged}) {
				t.Errorf("%s: taken with byte %d changed", name, i)
			}
		}
	}
	f("RFC 7515 A.1, HS256",
		`{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`,
		"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
	f("RFC 7515 A.3, ES256",
		`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`,
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
	f("RFC 7515 A.4, ES512",
		`{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}`,
		"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn")
	f("RFC 8037 A.4, Ed25519",
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg")
	f("RFC 7520 4.4, HS256",
		`{"kty":"oct","kid":"018c0ae5-4d9b-471b-bfd6-eef314bc7037","use":"sig","alg":"HS256","k":"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg"}`,
		"eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0")
	f("RFC 7515 A.2, RS256",
		`{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}`,
		"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw")
	const bilbo = `{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw","e":"AQAB"}`
	const frodo = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4"
	f("RFC 7520 4.1, RS256", bilbo,
		"eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9."+frodo+".MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg")
	f("RFC 7520 4.2, PS384", bilbo,
		"eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9."+frodo+".cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw")
	f("RFC 7520 4.3, ES512",
		`{"kty":"EC","kid":"bilbo.baggins@hobbiton.example","use":"sig","crv":"P-521","x":"AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt","y":"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1"}`,
		"eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9."+frodo+".AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2")
	// A.1 is a token as well, of 2011.
	a := startJWT(t, func() *JWTConfig {
		c := testJWT()
		c.Keys = `{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}`
		return c
	}())
	then := bearing("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
	then.Now = time.Unix(1300819379, 0)
	res := a.Verify(then)
	if res.Outcome != Identified {
		t.Fatalf("RFC 7519 3.1: %+v", res)
	}
	if got, _ := res.Identity.Claim("http://example.com/is_root"); got != "true" {
		t.Errorf("RFC 7519 3.1: is_root %q", got)
	}
	// RFC 7515 A.5 is unsecured.
	a.expect(t, "RFC 7515 A.5", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.", Refused, jwtAlgorithm)
}
