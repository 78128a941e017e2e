// Package encode speaks the content codings gzip, br and zstd: it agrees on one
// with a client, compresses bodies whole or piece by piece, and decodes them
// within a bound.
//
//	request ── Policy.Choose ──> Coding            Accept-Encoding, RFC 9110 12.5.3
//	answer ─── Policy.Suits ───> worth it or not   its type and its length
//	       ├── Policy.AppendAll ─> body            the body is at hand
//	       └── Policy.NewStream ─> Append…, End    it comes in pieces
//	body ───── Decode ──────────> at most so many bytes
//
// A Policy is compiled once for each route and never changes. The fields around
// the body (Content-Encoding, Vary, ETag, Content-Length, no-transform) are the
// caller's, and so is the judgement whether a body may be compressed at all: one
// that holds a secret beside text of an attacker's choosing tells the secret by
// its length (BREACH).
//
// Invariants: a coding that was not asked for is never chosen; the same body, in
// the same pieces, gives the same bytes, whatever an encoder did before; a body
// decodes to no more than its bound; an encoder has no goroutine and keeps
// no buffer of the caller's. A zstd window is at most 8 MiB, so that every client
// can read it (RFC 9659).
//
// Choose and Suits allocate nothing. The rest takes encoders and decoders from
// pools for each coding and level; encoder.go says what each costs. Only
// AppendAll with br or zstd at level small may block: so many at one time are as
// many as there are processors, at most 8, and the others wait for them.
package encode

import "sluice/wire"

// Coding is a content coding (RFC 9110 8.4.1, RFC 7932, RFC 8878).
type Coding uint8

// The codings.
const (
	Identity Coding = iota // the body as it is
	Gzip
	Brotli
	Zstd

	codings = iota
)

var codingNames = [codings]string{"identity", "gzip", "br", "zstd"}

// String is the coding's name in Content-Encoding and Accept-Encoding.
func (c Coding) String() string {
	if int(c) < len(codingNames) {
		return codingNames[c]
	}
	return "unknown"
}

// CodingOf reads a value of Content-Encoding, without regard to case. ok is
// false for a coding that is not known here, for a list of several, and for
// nothing. x-gzip is gzip (RFC 9110 8.4.1.3).
func CodingOf(value []byte) (c Coding, ok bool) {
	return codingNamed(wire.TrimOWS(value))
}

func codingNamed(name []byte) (Coding, bool) {
	for c, known := range codingNames {
		if wire.EqualFold(name, known) {
			return Coding(c), true
		}
	}
	if wire.EqualFold(name, "x-gzip") {
		return Gzip, true
	}
	return Identity, false
}
