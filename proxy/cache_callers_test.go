package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// callerOf sends requests of one caller of an authenticator.
type callerOf func(path string) (body, status string)

// TestCacheKeepsCallersApart asks as two callers of every kind of authenticator
// that has a credential in the request or its connection. What the origin made for
// one is never given to the other unless the origin, or the route, says that it may
// be. (Sessions of a login: TestLoginsAreCachedApart in e2e.)
func TestCacheKeepsCallersApart(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyA, lineA := apiKey("ann", "")
	keyB, lineB := apiKey("bob", "")
	passwords := ""
	for _, who := range []string{"ann", "bob"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(who), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		passwords += who + ":" + string(hash) + "\n"
	}
	secret := []byte("a secret of at least thirty-two bytes")
	signers := ""
	for _, who := range []string{"ann", "bob"} {
		signers += "- { id: " + who + ", algorithm: hmac-sha256, key: \"" + base64.StdEncoding.EncodeToString(secret) + "\" }\n"
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/introspect" {
			_ = r.ParseForm()
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"active":true,"sub":%q}`, r.Form.Get("token"))
			return
		}
		w.Header().Set("Remote-User", r.Header.Get("X-Who"))
	}))
	defer provider.Close()
	cert, key, ca, clients := certificates(t, write, "ann", "bob")

	b := startBackend(t, func(w http.ResponseWriter, r *http.Request, n int) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/public"):
			w.Header().Set("Cache-Control", "public, max-age=60")
		case strings.HasPrefix(r.URL.Path, "/plain"), strings.HasPrefix(r.URL.Path, "/identity"):
			w.Header().Set("Cache-Control", "max-age=60")
		}
		fmt.Fprint(w, "answer ", n)
	})
	auths := map[string]string{
		"jwt":           `{ jwt: { secret: "` + sharedSecret + `" } }`,
		"cookie":        `{ jwt: { secret: "` + sharedSecret + `", header: "", cookie: session } }`,
		"query":         `{ jwt: { secret: "` + sharedSecret + `", header: "", query: token } }`,
		"key":           `{ api_key: { file: "` + write("keys", lineA+lineB) + `" } }`,
		"basic":         `{ basic: { file: "` + write("passwords", passwords) + `" } }`,
		"introspection": `{ introspection: { url: "` + provider.URL + `/introspect", auth: none } }`,
		"forward":       `{ forward_auth: { url: "` + provider.URL + `/", headers: [X-Who], copy: Remote-User, subject: Remote-User } }`,
		"signature":     `{ signature: { file: "` + write("signers", signers) + `", components: ["@method", "@authority", "@path", "@query"] } }`,
		"mtls":          `{ mtls: {} }`,
	}
	text := "listen: [\"127.0.0.1:0\", { address: \"127.0.0.1:0\", tls: { cert: " + cert + ", key: " + key + ", client_ca: " + ca + ", client_auth: request } }]\nauth:\n"
	routes := "upstreams: { app: \"" + b.URL + "\" }\nroutes:\n"
	for name, a := range auths {
		text += "  " + name + ": " + a + "\n"
		for path, cache := range map[string]string{"plain": "on", "public": "on", "ttl": "60s", "identity": "{ share: identity }", "all": "{ share: all, ttl: 60s }"} {
			routes += fmt.Sprintf("  - { name: %s-%s, match: /%s/%s, auth: %s, upstream: app, cache: %s }\n", path, name, path, name, name, cache)
		}
	}
	e := startEdge(t, text+routes)
	plain := func(fields ...string) callerOf {
		return func(path string) (string, string) {
			a := e.get(path, fields...)
			return a.body, a.Status
		}
	}
	bearer := func(who string) string { return "Authorization: Bearer " + signed(t, who, nil) }
	for name, callers := range map[string][2]callerOf{
		"jwt":           {plain(bearer("ann")), plain(bearer("bob"))},
		"cookie":        {plain("Cookie: session=" + signed(t, "ann", nil)), plain("Cookie: session=" + signed(t, "bob", nil))},
		"query":         {queried(e, signed(t, "ann", nil)), queried(e, signed(t, "bob", nil))},
		"key":           {plain("X-API-Key: " + keyA), plain("X-API-Key: " + keyB)},
		"basic":         {plain(basic("ann")), plain(basic("bob"))},
		"introspection": {plain("Authorization: Bearer ann"), plain("Authorization: Bearer bob")},
		"forward":       {plain("X-Who: ann"), plain("X-Who: bob")},
		"signature":     {signing(e, "ann", secret), signing(e, "bob", secret)},
		"mtls":          {overTLS(t, e, ca, clients["ann"]), overTLS(t, e, ca, clients["bob"])},
	} {
		f := func(kind string, want ...string) {
			t.Helper()
			path := "/" + kind + "/" + name
			for i, caller := range []callerOf{callers[0], callers[1], callers[0], callers[1]} {
				body, status := caller(path)
				if !strings.HasPrefix(status, "200") || body != want[i] {
					t.Errorf("%s, request %d: got %s %q, want %q", path, i+1, status, body, want[i])
				}
			}
		}
		f("plain", "answer 1", "answer 2", "answer 3", "answer 4")
		f("ttl", "answer 1", "answer 2", "answer 3", "answer 4")
		f("public", "answer 1", "answer 1", "answer 1", "answer 1")
		f("all", "answer 1", "answer 1", "answer 1", "answer 1")
		f("identity", "answer 1", "answer 2", "answer 1", "answer 2")
	}
}

func basic(who string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(who+":"+who))
}

func queried(e *edge, token string) callerOf {
	return func(path string) (string, string) {
		a := e.get(path + "?token=" + token)
		return a.body, a.Status
	}
}

// signing is a caller that signs its requests (RFC 9421).
func signing(e *edge, who string, secret []byte) callerOf {
	return func(path string) (string, string) {
		params := fmt.Sprintf(`("@method" "@authority" "@path" "@query");created=%d;keyid=%q`, time.Now().Unix(), who)
		base := "\"@method\": GET\n\"@authority\": test\n\"@path\": " + path + "\n\"@query\": ?\n\"@signature-params\": " + params
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(base))
		a := e.get(path, "Signature-Input: s="+params, "Signature: s=:"+base64.StdEncoding.EncodeToString(mac.Sum(nil))+":")
		return a.body, a.Status
	}
}

// overTLS is a caller with a client certificate.
func overTLS(t *testing.T, e *edge, ca string, cert tls.Certificate) callerOf {
	pool := x509.NewCertPool()
	b, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}
	t.Cleanup(client.CloseIdleConnections)
	return func(path string) (string, string) {
		resp, err := client.Get("https://" + e.doors.Addrs()[1].String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), resp.Status
	}
}

// certificates are a server's and, of one CA, a client's for each name.
func certificates(t *testing.T, write func(name, text string) string, names ...string) (cert, key, ca string, clients map[string]tls.Certificate) {
	t.Helper()
	serial := int64(1)
	make := func(name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true, IsCA: parent == nil, KeyUsage: x509.KeyUsageDigitalSignature,
		}
		if parent == nil {
			c.KeyUsage |= x509.KeyUsageCertSign
			parent, by = c, k
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &k.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return signed, k
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	root, rootKey := make("ca", nil, nil)
	server, serverKey := make("server", root, rootKey)
	der, err := x509.MarshalECPrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	clients = map[string]tls.Certificate{}
	for _, name := range names {
		c, k := make(name, root, rootKey)
		clients[name] = tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: k}
	}
	return write("server.pem", text("CERTIFICATE", server.Raw)), write("server.key", text("EC PRIVATE KEY", der)), write("ca.pem", text("CERTIFICATE", root.Raw)), clients
}
