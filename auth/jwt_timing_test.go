package auth

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
	"github.com/rs/zerolog"

	"sluice/wire"
)

// typical is an authenticator and a request with a token of the size that
// providers give, RS256.
func typical(tb testing.TB) (*jwtAuth, *Request) {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set := fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k","n":%q,"e":%q}]}`, b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes()))
	c := &JWTConfig{
		Issuer: "https://id.example.com", Audience: []string{"api"}, Keys: set, Expiry: true, Subject: "sub",
		Header: "Authorization", MaxToken: 8 << 10, Remember: 1024,
	}
	a, err := newJWT("customers", c, Env{Log: zerolog.Nop()})
	if err != nil {
		tb.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{
		"iss": "https://id.example.com", "aud": []string{"api"}, "sub": "customer-0001", "exp": time.Now().Add(time.Hour).Unix(),
		"scope": "openid users:read orders:read", "tenant": "acme", "plan": "gold", "email": "customer@example.com", "roles": []string{"reader"},
	})
	if err != nil {
		tb.Fatal(err)
	}
	signed := b64([]byte(`{"alg":"RS256","typ":"JWT","kid":"k"}`)) + "." + b64(claims)
	signature, err := jwsbb.Sign(key, "RS256", []byte(signed), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	head := &wire.Request{}
	text := "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + signed + "." + b64(signature) + "\r\n\r\n"
	if _, bad := head.Parse([]byte(text), wire.Limits{Bytes: 1 << 14, Fields: 100}); bad != nil {
		tb.Fatal(bad)
	}
	r := &Request{Head: head, Caller: netip.MustParseAddr("192.0.2.1"), Now: time.Now()}
	if res := a.Verify(r); res.Outcome != Identified {
		tb.Fatalf("%+v", res)
	}
	return a.(*jwtAuth), r
}

func BenchmarkRecallJWT(b *testing.B) {
	a, r := typical(b)
	b.ReportAllocs()
	for b.Loop() {
		if a.Recall(r).Outcome != Identified {
			b.Fatal("forgotten")
		}
	}
}

func BenchmarkVerifyJWT(b *testing.B) {
	a, r := typical(b)
	b.ReportAllocs()
	for b.Loop() {
		a.known = newMemo(4, 8<<10)
		if a.Verify(r).Outcome != Identified {
			b.Fatal("refused")
		}
	}
}
