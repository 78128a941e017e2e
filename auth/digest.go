package auth

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"hash"

	"github.com/dunglas/httpsfv"

	"sluice/wire"
)

// BodyDigest compares a body with its request's Content-Digest (RFC 9530) as
// the body passes: whoever streams it writes each piece and asks Matches at the
// end, before the last piece goes on. An authenticator sees only the head, so
// this is the reader's work. It is for one goroutine.
type BodyDigest struct {
	sums []hash.Hash
	want [][]byte
}

var errContentDigest = errors.New("Content-Digest is missing, malformed, or has neither sha-256 nor sha-512")

// NewBodyDigest reads the Content-Digest of r. sha-256 and sha-512 are compared,
// each that is there; other algorithms are passed over, and at least one must be
// left.
func NewBodyDigest(r *Request) (*BodyDigest, error) { return newBodyDigest(r.Head) }

func newBodyDigest(head *wire.Request) (*BodyDigest, error) {
	lines, size := linesNamed(head, "content-digest")
	if lines == nil || size > mostSignatureField {
		return nil, errContentDigest
	}
	dictionary, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, errContentDigest
	}
	d := &BodyDigest{}
	for _, name := range dictionary.Names() {
		var sum hash.Hash
		switch name {
		case "sha-256":
			sum = sha256.New()
		case "sha-512":
			sum = sha512.New()
		default:
			continue
		}
		want := signatureOf(dictionary, name)
		if len(want) != sum.Size() {
			return nil, errContentDigest
		}
		d.sums, d.want = append(d.sums, sum), append(d.want, want)
	}
	if len(d.sums) == 0 {
		return nil, errContentDigest
	}
	return d, nil
}

// Write takes the next piece of the body. It never fails and keeps nothing of p.
func (d *BodyDigest) Write(p []byte) (int, error) {
	for _, sum := range d.sums {
		_, _ = sum.Write(p)
	}
	return len(p), nil
}

// Matches tells whether what was written is the body that the digest is of.
func (d *BodyDigest) Matches() bool {
	ok := 1
	for i, sum := range d.sums {
		ok &= subtle.ConstantTimeCompare(sum.Sum(nil), d.want[i])
	}
	return ok == 1
}

// SignedDigest tells whether one of the identities in p was proven by a
// signature over Content-Digest: then the body is worth comparing with it.
func (p *Proof) SignedDigest() bool {
	for _, id := range p.By[:p.N] {
		if covered, ok := id.Claim("signature.digest"); ok && covered == "true" {
			return true
		}
	}
	return false
}
