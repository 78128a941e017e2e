// Package openid is what tests of logins are written with: a real OpenID
// provider in the test process, and a door that lets requests through an
// authenticator as the gateway does.
//
// The provider is zitadel's, with its example storage and login form, over
// loopback. It can rotate its keys, fall silent and come back.
package openid

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The only client and one of the users that a Provider knows.
const (
	ClientID     = "gateway"
	ClientSecret = "a secret between two"
	Password     = "verysecure"
	Subject      = "id1"
	Email        = "test-user@zitadel.ch"
)

// Provider is a running OpenID provider.
type Provider struct {
	URL  string // the issuer
	User string

	handler http.Handler
	store   *store
	addr    string
	server  *httptest.Server

	mu   sync.Mutex
	asks map[string]int
}

// Start runs a provider for a client with these redirect URIs and one URI for
// after a logout.
func Start(postLogout string, redirects ...string) (*Provider, error) {
	p := &Provider{asks: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.addr = l.Addr().String()
	p.URL, p.User = "http://"+p.addr, "test-user@127.0.0.1"
	client := storage.WebClient(ClientID, ClientSecret, redirects...)
	p.store = &store{
		Storage:    storage.NewStorageWithClients(storage.NewUserStore(p.URL), map[string]*storage.Client{ClientID: client}),
		postLogout: postLogout,
	}
	if err := p.Rotate(); err != nil {
		_ = l.Close()
		return nil, err
	}
	router := exampleop.SetupServer(p.URL, p.store, slog.New(slog.DiscardHandler), false)
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asks[r.URL.Path]++
		p.mu.Unlock()
		router.ServeHTTP(w, r)
	})
	p.serve(l)
	return p, nil
}

func (p *Provider) serve(l net.Listener) {
	p.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p.handler, ReadHeaderTimeout: time.Minute}}
	p.server.Start()
}

// Stop ends the provider; what it knows is kept for Resume.
func (p *Provider) Stop() {
	if p.server != nil {
		p.server.CloseClientConnections()
		p.server.Close()
		p.server = nil
	}
}

// Resume runs it again at the same address.
func (p *Provider) Resume() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.serve(l)
	return nil
}

// Rotate replaces the key that signs; the old one is not published any more.
func (p *Provider) Rotate() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.store.key = signingKey{id: rand.Text(), key: key}
	return nil
}

// Asked is how many requests for a path it has got.
func (p *Provider) Asked(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asks[path]
}

// Sign makes a token with these claims, and iss, aud, iat, exp and jti where they
// do not say otherwise.
func (p *Provider) Sign(claims map[string]any) (string, error) {
	now := time.Now().Unix()
	all := map[string]any{"iss": p.URL, "aud": ClientID, "iat": now, "exp": now + 120, "jti": rand.Text()}
	for name, v := range claims {
		if all[name] = v; v == nil {
			delete(all, name)
		}
	}
	k := p.store.current()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k.key, KeyID: k.id}}, nil)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(text)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// LogoutEvent is the events claim of a logout token.
var LogoutEvent = map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}

// store is the example's storage with keys that rotate and a client that may
// name where a logout ends.
type store struct {
	*storage.Storage
	postLogout string

	mu  sync.Mutex
	key signingKey
}

func (s *store) current() signingKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// SigningKey implements op.Storage.
func (s *store) SigningKey(context.Context) (op.SigningKey, error) { return s.current(), nil }

// KeySet implements op.Storage.
func (s *store) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.current()}}, nil
}

// SignatureAlgorithms implements op.Storage.
func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// GetClientByClientID implements op.Storage.
func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c, []string{s.postLogout}}, nil
}

type client struct {
	op.Client
	postLogout []string
}

// PostLogoutRedirectURIs implements op.Client.
func (c client) PostLogoutRedirectURIs() []string { return c.postLogout }

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

// SignatureAlgorithm implements op.SigningKey.
func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Key implements op.SigningKey.
func (k signingKey) Key() any { return k.key }

// ID implements op.SigningKey.
func (k signingKey) ID() string { return k.id }

type publicKey struct{ signingKey }

// Algorithm implements op.Key.
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }

// Use implements op.Key.
func (k publicKey) Use() string { return "sig" }

// Key implements op.Key.
func (k publicKey) Key() any { return &k.key.PublicKey }
