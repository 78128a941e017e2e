package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// callers is who sends requests under the workload policy: what each of them
// carries, and what a gateway needs to check it.
type callers struct {
	tokens []string
	lines  string // file with a token a line, for wrk
	jwks   string // file with the key set
	pem    string // file with the public key
}

// callerCount is how many tokens are in use: as many as wrk has connections by
// default.
const callerCount = 64

// makeCallers signs tokens with a new RSA key of 2048 bits, as most identity
// providers do.
func makeCallers(dir string) (*callers, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	c := &callers{lines: filepath.Join(dir, "tokens"), jwks: filepath.Join(dir, "jwks.json"), pem: filepath.Join(dir, "key.pem")}
	for i := range callerCount {
		claims, err := json.Marshal(map[string]any{
			"iss": "https://id.example.com", "aud": []string{"api"}, "sub": fmt.Sprintf("customer-%04d", i),
			"iat": time.Now().Unix(), "exp": time.Now().Add(24 * time.Hour).Unix(), "jti": fmt.Sprintf("3f0c7a52-%04x-4d0a-9c77-0a51d1f2c0de", i),
			"scope": "openid users:read orders:read", "azp": "web", "tenant": "acme", "plan": "gold",
			"email": fmt.Sprintf("customer-%04d@example.com", i), "roles": []string{"reader", "buyer"},
		})
		if err != nil {
			return nil, err
		}
		signed := b64([]byte(`{"alg":"RS256","typ":"JWT","kid":"bench"}`)) + "." + b64(claims)
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			return nil, err
		}
		c.tokens = append(c.tokens, signed+"."+b64(signature))
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	set := fmt.Sprintf(`{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"bench","n":%q,"e":%q}]}`,
		b64(key.N.Bytes()), b64(big.NewInt(int64(key.E)).Bytes()))
	for name, text := range map[string][]byte{
		c.lines: []byte(strings.Join(c.tokens, "\n") + "\n"),
		c.jwks:  []byte(set),
		c.pem:   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}
