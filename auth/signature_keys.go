package auth

// This file reads the keys of those who sign: a YAML list that is read when the
// authenticator is built and again whenever the file changes. A changed file
// with a mistake changes nothing: the last good keys stay, the mistake is logged
// and counted. A key that is not in the file any more proves nothing from the
// next request on.
//
// Invariants: a mistake is told by line, column and what was expected, and
// never by what is written there, which may be a secret; a key has exactly one
// algorithm, and its type must fit it: a public key is never an HMAC secret. find
// takes no lock and allocates nothing; verify allocates.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/rs/zerolog"

	"sluice/setting"
)

// The algorithms of RFC 9421 3.3, by their registered names.
const (
	algRSAPSS  = "rsa-pss-sha512"
	algRSAv15  = "rsa-v1_5-sha256"
	algHMAC    = "hmac-sha256"
	algP256    = "ecdsa-p256-sha256"
	algP384    = "ecdsa-p384-sha384"
	algEd25519 = "ed25519"
)

var signatureAlgorithms = []string{algEd25519, algP256, algP384, algRSAPSS, algRSAv15, algHMAC}

// Bounds of a key file.
const (
	mostSigningKeyFile   = 8 << 20
	mostSigningKeyErrors = 8
	leastSigningSecret   = 32 // bytes of an HMAC secret: as many as its hash has (RFC 2104 3)
	leastSigningRSA      = 2048
	mostSigningRSA       = 8192
)

// signingKey is one caller's key.
type signingKey struct {
	id, algorithm string
	secret        []byte
	public        any
	identity      *Identity // of a signature that does not cover Content-Digest
	withDigest    *Identity // of one that does
}

// verify tells whether signature is that of base with this key. Each algorithm
// takes one length of signature and one encoding of it.
func (k *signingKey) verify(base, signature []byte) bool {
	switch key := k.public.(type) {
	case nil:
		mac := hmac.New(sha256.New, k.secret)
		_, _ = mac.Write(base)
		return hmac.Equal(mac.Sum(nil), signature)
	case ed25519.PublicKey:
		return len(signature) == ed25519.SignatureSize && ed25519.Verify(key, base, signature)
	case *ecdsa.PublicKey:
		var sum []byte
		half := 32
		if k.algorithm == algP384 {
			h := sha512.Sum384(base)
			sum, half = h[:], 48
		} else {
			h := sha256.Sum256(base)
			sum = h[:]
		}
		if len(signature) != 2*half {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])
		return ecdsa.Verify(key, sum, r, s)
	case *rsa.PublicKey:
		if k.algorithm == algRSAPSS {
			sum := sha512.Sum512(base)
			return rsa.VerifyPSS(key, crypto.SHA512, sum[:], signature, &rsa.PSSOptions{SaltLength: 64}) == nil
		}
		sum := sha256.Sum256(base)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}

// setKey reads the key's text: base64 of an HMAC secret, else a public key in PEM.
func (k *signingKey) setKey(text string) error {
	isPEM := strings.Contains(text, "-----BEGIN ")
	if k.algorithm == algHMAC {
		if isPEM {
			return errors.New("expected a secret in base64 for hmac-sha256, got PEM")
		}
		secret, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return errors.New("expected a secret in base64")
		}
		if len(secret) < leastSigningSecret {
			return fmt.Errorf("expected a secret of at least %d bytes, got %d", leastSigningSecret, len(secret))
		}
		k.secret = secret
		return nil
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		return errors.New("expected one public key in PEM")
	}
	public, err := publicKeyOf(block)
	if err != nil {
		return err
	}
	fits := false
	switch key := public.(type) {
	case ed25519.PublicKey:
		fits = k.algorithm == algEd25519
	case *ecdsa.PublicKey:
		fits = k.algorithm == algP256 && key.Curve == elliptic.P256() || k.algorithm == algP384 && key.Curve == elliptic.P384()
	case *rsa.PublicKey:
		fits = k.algorithm == algRSAPSS || k.algorithm == algRSAv15
		if bits := key.N.BitLen(); fits && (bits < leastSigningRSA || bits > mostSigningRSA) {
			return fmt.Errorf("expected an RSA key of %d to %d bits, got %d", leastSigningRSA, mostSigningRSA, bits)
		}
	}
	if !fits {
		return errors.New("expected a key for " + k.algorithm + ", got one of another type or curve")
	}
	k.public = public
	return nil
}

var oidRSAPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}

func publicKeyOf(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		// crypto/x509 does not know id-RSASSA-PSS (RFC 4055), under which some
		// tools write RSA keys; the key inside is the same.
		var info struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		if rest, err := asn1.Unmarshal(block.Bytes, &info); err == nil && len(rest) == 0 && info.Algorithm.Algorithm.Equal(oidRSAPSS) {
			key, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
			if err != nil {
				return nil, errors.New("expected a public key, got one that cannot be read")
			}
			return key, nil
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("expected a public key, got one that cannot be read")
		}
		return key, nil
	case "RSA PUBLIC KEY":
		key, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("expected a public key, got one that cannot be read")
		}
		return key, nil
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("expected a certificate, got one that cannot be read")
		}
		return cert.PublicKey, nil
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, errors.New("expected a public key, got a private one: it belongs to the signer alone")
	}
	return nil, errors.New(`expected PEM of type "PUBLIC KEY"`)
}

// signingKeyMistakes collects what is wrong with a key file.
type signingKeyMistakes struct {
	list []string
	more int
}

func (m *signingKeyMistakes) add(t *token.Token, format string, args ...any) {
	if len(m.list) >= mostSigningKeyErrors {
		m.more++
		return
	}
	line, column := 1, 1
	if t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	m.list = append(m.list, strconv.Itoa(line)+":"+strconv.Itoa(column)+": "+fmt.Sprintf(format, args...))
}

func (m *signingKeyMistakes) err() error {
	if len(m.list) == 0 {
		return nil
	}
	text := strings.Join(m.list, "; ")
	if m.more > 0 {
		text += fmt.Sprintf("; and %d more", m.more)
	}
	return errors.New(text)
}

var signingKeyFields = []string{"id", "algorithm", "key", "subject", "scopes", "metadata"}

// parseSigningKeys reads a key file for the authenticator name.
func parseSigningKeys(name string, text []byte) (map[string]*signingKey, error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		// The parser's own message quotes the file.
		return nil, errors.New("expected YAML: a list of keys")
	}
	var m signingKeyMistakes
	keys := map[string]*signingKey{}
	for i, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		list, ok := doc.Body.(*ast.SequenceNode)
		if i > 0 || !ok {
			m.add(doc.Body.GetToken(), "expected one list of keys, each with id, algorithm and key")
			continue
		}
		for _, entry := range list.Values {
			readSigningKey(name, entry, keys, &m)
		}
	}
	return keys, m.err()
}

func readSigningKey(name string, entry ast.Node, keys map[string]*signingKey, m *signingKeyMistakes) {
	fields, ok := keyMapping(entry)
	if !ok {
		m.add(entry.GetToken(), "expected a key: a mapping with id, algorithm and key")
		return
	}
	k := &signingKey{}
	found := map[string]ast.Node{}
	before := len(m.list) + m.more
	for _, f := range fields {
		field := f.Key.GetToken().Value
		switch {
		case !slices.Contains(signingKeyFields, field):
			hint := ""
			if near := setting.Nearest(field, signingKeyFields); near != "" {
				hint = ", did you mean " + near + "?"
			}
			m.add(f.Key.GetToken(), "expected one of %s%s", strings.Join(signingKeyFields, ", "), hint)
		case found[field] != nil:
			m.add(f.Key.GetToken(), "expected %s only once", field)
		default:
			found[field] = f.Value
		}
	}
	word := func(field string, needed bool) string {
		n := found[field]
		if n == nil {
			if needed {
				m.add(entry.GetToken(), "expected %s in this key", field)
			}
			return ""
		}
		s, ok := keyText(n)
		if _, printable := printable(s); !ok || s == "" || !printable && field != "key" {
			m.add(n.GetToken(), "expected a text for %s", field)
			return ""
		}
		return s
	}
	k.id = word("id", true)
	k.algorithm = word("algorithm", true)
	key := word("key", true)
	subject := word("subject", false)
	if subject == "" {
		subject = k.id
	}
	if k.algorithm != "" && !slices.Contains(signatureAlgorithms, k.algorithm) {
		m.add(found["algorithm"].GetToken(), "expected one of %s", strings.Join(signatureAlgorithms, ", "))
		k.algorithm = ""
	}
	if k.algorithm != "" && key != "" {
		if err := k.setKey(key); err != nil {
			m.add(found["key"].GetToken(), "%v", err)
		}
	}
	if k.id != "" && keys[k.id] != nil {
		m.add(found["id"].GetToken(), "expected an id that no other key has")
	}
	claims := map[string]any{}
	if n := found["metadata"]; n != nil {
		members, ok := keyMapping(n)
		if !ok {
			m.add(n.GetToken(), "expected metadata as a mapping of names to values")
		}
		for _, f := range members {
			v, ok := keyValue(f.Value)
			if !ok {
				m.add(f.Value.GetToken(), "expected a text, a number, a boolean or a list of them")
				continue
			}
			claims[f.Key.GetToken().Value] = v
		}
	}
	if n := found["scopes"]; n != nil {
		v, ok := keyValue(n)
		switch v.(type) {
		case string, []any:
			claims["scope"] = v
		default:
			ok = false
		}
		if !ok {
			m.add(n.GetToken(), "expected scopes as a list, or a text with spaces between")
		}
	}
	if len(m.list)+m.more > before {
		return
	}
	identity := func(digest bool) *Identity {
		own := map[string]any{"signature": map[string]any{"key": k.id, "algorithm": k.algorithm, "digest": digest}}
		for name, v := range claims {
			if name != "signature" && name != "sub" {
				own[name] = v
			}
		}
		return NewIdentity(name, subject, own, 0)
	}
	k.identity, k.withDigest = identity(false), identity(true)
	keys[k.id] = k
}

func keyMapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// keyText is a scalar as it is written; a block text is its lines.
func keyText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// keyValue is a scalar, or a list of scalars.
func keyValue(n ast.Node) (any, bool) {
	switch n := n.(type) {
	case *ast.BoolNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		text := n.GetToken().Value
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return i, true
		}
		f, err := strconv.ParseFloat(text, 64)
		return f, err == nil
	case *ast.SequenceNode:
		list := []any{}
		for _, e := range n.Values {
			if _, nested := e.(*ast.SequenceNode); nested {
				return nil, false
			}
			v, ok := keyValue(e)
			if !ok {
				return nil, false
			}
			list = append(list, v)
		}
		return list, true
	}
	return keyText(n)
}

// signingKeyFile holds the keys of a file, which is watched.
type signingKeyFile struct {
	*watchedFile
	keys atomic.Pointer[map[string]*signingKey]
}

// openSigningKeys reads the file for the first time.
func openSigningKeys(name, path string, log zerolog.Logger) (f *signingKeyFile, err error) {
	f = &signingKeyFile{}
	f.watchedFile, err = openWatched(path, name, mostSigningKeyFile, log, func(text []byte) error {
		keys, err := parseSigningKeys(name, text)
		if err != nil {
			return fmt.Errorf("%s:%w", path, err)
		}
		f.keys.Store(&keys)
		return nil
	})
	return f, err
}

func (f *signingKeyFile) find(id string) *signingKey { return (*f.keys.Load())[id] }

func (f *signingKeyFile) len() int { return len(*f.keys.Load()) }
