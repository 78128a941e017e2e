package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws/jwsbb"
)

// This file is the keys that tokens are proven with. The key says which
// algorithms it may be used with, never the token (RFC 8725 3.1).

// jwsAlgorithms are those that are spoken (RFC 7518 3.1, RFC 8037 3.1).
var jwsAlgorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
}

// verifyKey is one key.
type verifyKey struct {
	kid   string
	print string // RFC 7638 thumbprint and algorithms: what makes it the same key
	algs  []string
	key   any          // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or []byte for HMAC
	alive *atomic.Bool // false once the key is taken out
}

// proves tells whether c is signed with k.
func (k *verifyKey) proves(c *compact) bool {
	if !slices.Contains(k.algs, c.alg) {
		return false
	}
	if e, ok := k.key.(*ecdsa.PublicKey); ok {
		// RFC 7518 3.4: both halves in full; and a zero proves nothing.
		size := (e.Curve.Params().BitSize + 7) / 8
		if len(c.signature) != 2*size || allZero(c.signature[:size]) || allZero(c.signature[size:]) {
			return false
		}
	}
	if e, ok := k.key.(*rsa.PublicKey); ok && len(c.signature) != e.Size() {
		return false
	}
	return jwsbb.Verify(k.key, c.alg, c.signed, c.signature) == nil
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// keySet is the keys of one moment. It never changes.
type keySet struct{ keys []*verifyKey }

// mostKeys bounds a key set, and mostTried the keys that one token is tried with.
const (
	mostKeys  = 256
	mostTried = 8
)

// candidates are the keys that c may be proven with: those of its kid, or, for a
// token without one, all that fit its algorithm. Keys without a kid stand for
// every kid.
func (s *keySet) candidates(c *compact) (list []*verifyKey) {
	take := func(fits func(kid string) bool) {
		for _, k := range s.keys {
			if len(list) < mostTried && fits(k.kid) && slices.Contains(k.algs, c.alg) {
				list = append(list, k)
			}
		}
	}
	if !c.hasKid {
		take(func(string) bool { return true })
		return list
	}
	// The named ones first, or many that have no name would leave no try for them.
	if c.kid != "" {
		take(func(kid string) bool { return kid == c.kid })
	}
	take(func(kid string) bool { return kid == "" })
	return list
}

// speaks tells whether any key is used with alg.
func (s *keySet) speaks(alg string) bool {
	return slices.ContainsFunc(s.keys, func(k *verifyKey) bool { return slices.Contains(k.algs, alg) })
}

// errNoKeys is a set without a key that tokens can be proven with.
var errNoKeys = errors.New("has no key that signatures can be checked with")

var errKeySet = errors.New("is neither a JSON Web Key Set nor PEM with public keys or certificates")

// parseKeySet reads a JWKS, one JWK, or PEM. Keys that cannot be used are left out
// and told in skipped: one of them must not cost the others. With shared,
// symmetric keys are taken; they never are from a provider's URL, whose keys
// everybody can read. A provider may publish no key at all, which ends every
// token; elsewhere that is a mistake. allowed, if not empty, bounds the
// algorithms.
func parseKeySet(text []byte, shared bool, allowed []string) (set *keySet, skipped []string, err error) {
	keys, skipped, empty, err := readJWKs(bytes.TrimSpace(text))
	if err != nil {
		return nil, nil, err
	}
	set = &keySet{}
	for _, k := range keys {
		v, err := newVerifyKey(k, shared, allowed)
		if err != nil {
			kid, _ := k.KeyID()
			skipped = append(skipped, fmt.Sprintf("key with kid %.64q: %v", kid, err))
			continue
		}
		if len(set.keys) < mostKeys && !slices.ContainsFunc(set.keys, func(o *verifyKey) bool { return o.print == v.print && o.kid == v.kid }) {
			set.keys = append(set.keys, v)
		}
	}
	if len(set.keys) == 0 && (shared || !empty) {
		return nil, skipped, errNoKeys
	}
	return set, skipped, nil
}

// readJWKs reads the keys of text one by one. empty tells that it is a set that
// says it has none.
func readJWKs(text []byte) (keys []jwk.Key, skipped []string, empty bool, err error) {
	if !bytes.HasPrefix(text, []byte{'{'}) {
		set, err := jwk.Parse(text, jwk.WithPEM(true))
		if err != nil {
			return nil, nil, false, errKeySet
		}
		for i := range set.Len() {
			k, _ := set.Key(i)
			keys = append(keys, k)
		}
		return keys, nil, false, nil
	}
	members, ok := membersOnce(text)
	if !ok {
		return nil, nil, false, errors.New("is not a JSON object with each member once")
	}
	list := []json.RawMessage{text}
	if several, ok := members["keys"]; ok {
		if list = nil; json.Unmarshal(several, &list) != nil || list == nil {
			return nil, nil, false, errKeySet
		}
	}
	for i, own := range list {
		if _, ok := parseObject(own); !ok {
			skipped = append(skipped, fmt.Sprintf("key %d: is not a JSON object with each member once", i))
			continue
		}
		k, err := jwk.ParseKey(own)
		if err != nil {
			// What the library says may hold a part of the key.
			skipped = append(skipped, fmt.Sprintf("key %d: is of a type or form that is not known", i))
			continue
		}
		keys = append(keys, k)
	}
	return keys, skipped, len(list) == 0, nil
}

func newVerifyKey(k jwk.Key, shared bool, allowed []string) (*verifyKey, error) {
	if use, ok := k.KeyUsage(); ok && use != "" && use != "sig" {
		return nil, fmt.Errorf("is for %q, not for signatures", use)
	}
	if ops, ok := k.KeyOps(); ok && len(ops) > 0 && !slices.Contains(ops, jwk.KeyOpVerify) && !slices.Contains(ops, jwk.KeyOpSign) {
		return nil, errors.New("key_ops has no verify")
	}
	public, err := k.PublicKey()
	if err != nil {
		return nil, errors.New("has no public half")
	}
	var raw any
	if err := jwk.Export(public, &raw); err != nil {
		return nil, errors.New("cannot be read")
	}
	v := &verifyKey{alive: new(atomic.Bool)}
	v.alive.Store(true)
	v.kid, _ = k.KeyID()
	switch key := raw.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 || key.N.BitLen() > 16384 || key.E < 3 || key.E%2 == 0 {
			return nil, fmt.Errorf("expected an RSA key of 2048 to 16384 bits with an odd exponent above 2, got %d bits", key.N.BitLen())
		}
		v.key, v.algs = key, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		if _, err := key.ECDH(); err != nil {
			return nil, errors.New("is no point of its curve")
		}
		switch key.Curve {
		case elliptic.P256():
			v.algs = []string{"ES256"}
		case elliptic.P384():
			v.algs = []string{"ES384"}
		case elliptic.P521():
			v.algs = []string{"ES512"}
		default:
			return nil, errors.New("is on a curve that is not spoken")
		}
		v.key = key
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return nil, errors.New("is no Ed25519 key")
		}
		v.key, v.algs = key, []string{"EdDSA"}
	case []byte:
		if !shared {
			return nil, errors.New("is symmetric, and the provider's set is public")
		}
		return finishKey(v, k, allowed, hmacKey(v, key))
	default:
		return nil, errors.New("is of a type that is not spoken")
	}
	return finishKey(v, k, allowed, nil)
}

// hmacKey gives v the algorithms that key is long enough for (RFC 7518 3.2).
func hmacKey(v *verifyKey, key []byte) error {
	v.key = key
	for _, a := range []struct {
		name string
		size int
	}{{"HS256", 32}, {"HS384", 48}, {"HS512", 64}} {
		if len(key) >= a.size {
			v.algs = append(v.algs, a.name)
		}
	}
	if v.algs == nil {
		return fmt.Errorf("expected a secret of at least 32 bytes, got %d", len(key))
	}
	return nil
}

// finishKey narrows the algorithms to what the key and the settings say.
func finishKey(v *verifyKey, k jwk.Key, allowed []string, err error) (*verifyKey, error) {
	if err != nil {
		return nil, err
	}
	if alg, ok := k.Algorithm(); ok && alg.String() != "" {
		own := alg.String()
		if own == "Ed25519" {
			own = "EdDSA"
		}
		if !slices.Contains(v.algs, own) {
			return nil, fmt.Errorf("has alg %.32q, which is none of %v", own, v.algs)
		}
		v.algs = []string{own}
	}
	if len(allowed) > 0 {
		v.algs = slices.DeleteFunc(v.algs, func(a string) bool { return !slices.Contains(allowed, a) })
		if len(v.algs) == 0 {
			return nil, errors.New("is for no algorithm of algorithms")
		}
	}
	thumb, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	v.print = base64.RawURLEncoding.EncodeToString(thumb) + fmt.Sprint(v.algs)
	return v, nil
}

// secretKeys is the set of one HMAC secret.
func secretKeys(secret []byte, allowed []string) (*keySet, error) {
	k, err := jwk.Import(secret)
	if err != nil {
		return nil, errors.New("expected a secret of at least 32 bytes")
	}
	v, err := newVerifyKey(k, true, allowed)
	if err != nil {
		return nil, err
	}
	return &keySet{keys: []*verifyKey{v}}, nil
}

// replaces carries over from old what is the same key, and ends what is not in
// s any more, with every token that it proved.
func (s *keySet) replaces(old *keySet) {
	if old == nil {
		return
	}
	for _, was := range old.keys {
		i := slices.IndexFunc(s.keys, func(k *verifyKey) bool { return k.print == was.print && k.kid == was.kid })
		if i < 0 {
			was.alive.Store(false)
		} else {
			s.keys[i].alive = was.alive
		}
	}
}
