// Package auth says who a request comes from and whether they may do what they
// ask for. It knows credentials and their proof, not routes.
//
// An Authenticator looks for one kind of credential: a JWT, an API key, a
// password, a client certificate, a signature, an opaque token, the word of
// another service, a browser's session. A Set is all authenticators of a
// configuration, with what they must remember over a reload: key sets, proven
// credentials. A Policy is what one route asks for: any of several groups of
// authenticators, then a Requirement of the identity found.
//
// A request is decided in two steps, so that whoever floods the gateway with
// bad credentials cannot starve those whose credentials were proven before:
// Recall looks only at what is in memory, blocks on nothing and allocates
// nothing; Verify does the cryptography, may ask a provider, may block up to the
// authenticator's timeout, and allocates.
//
// Invariants: the reason of a refusal goes to the log and never to the client;
// a credential is compared as a whole, never by its hash alone; what a token
// says of how it is to be checked (alg, jku, x5u, jwk) is never believed; an
// Identity never changes once it is made and may be shared by many requests.
package auth

import (
	"bytes"
	"crypto/tls"
	"net/netip"
	"time"

	"sluice/wire"
)

// Request is what an authenticator may see of a request. Its bytes live as long
// as the request does: what is kept longer must be copied.
type Request struct {
	Head   *wire.Request
	Path   []byte               // in its normal form
	Scheme string               // http or https, as the client sees it
	Caller netip.Addr           // the client's address, by trusted hops
	TLS    *tls.ConnectionState // nil on a plain connection
	ID     []byte               // the request's id
	Route  string               // the route's name
	Now    time.Time            // when the request began
	Until  time.Time            // when waiting for it makes no sense any more; zero is never
	Body   []byte               // for a Handler alone: whole, at most MostHandled
}

// Header returns the value of the field name and how many such fields there
// are. A credential that comes twice is nobody's: callers refuse a count above
// one.
func (r *Request) Header(name string) (value []byte, count int) {
	for i := range r.Head.Fields {
		if f := &r.Head.Fields[i]; len(f.Name) == len(name) && bytes.EqualFold(f.Name, []byte(name)) {
			if count++; count == 1 {
				value = f.Value
			}
		}
	}
	return value, count
}

// Authorization is Header("Authorization"), by the kind that the parser noted.
func (r *Request) Authorization() (value []byte, count int) {
	for i := range r.Head.Fields {
		if f := &r.Head.Fields[i]; f.Kind == wire.Authorization {
			if count++; count == 1 {
				value = f.Value
			}
		}
	}
	return value, count
}

// Scheme cuts the scheme off an Authorization value, without regard to case
// (RFC 9110 11.1). lower is the scheme in lower case. ok is false when the value
// is of another scheme.
func Scheme(value []byte, lower string) (credential []byte, ok bool) {
	n := len(lower)
	if len(value) <= n || value[n] != ' ' || !wire.EqualFold(value[:n], lower) {
		return nil, false
	}
	return wire.TrimOWS(value[n:]), true
}

// Cookie returns the value of the cookie name and how many such cookies there
// are.
func (r *Request) Cookie(name string) (value []byte, count int) {
	for i := range r.Head.Fields {
		if r.Head.Fields[i].Kind != wire.Cookie {
			continue
		}
		for list := r.Head.Fields[i].Value; len(list) > 0; {
			var pair []byte
			pair, list, _ = bytes.Cut(list, []byte{';'})
			if k, v, ok := bytes.Cut(wire.TrimOWS(pair), []byte{'='}); ok && string(k) == name {
				if count++; count == 1 {
					value = v
				}
			}
		}
	}
	return value, count
}

// Query returns the value of the query parameter name, as it was sent, and how
// many such parameters there are. Credentials need no escapes; one that has
// some does not match.
func (r *Request) Query(name string) (value []byte, count int) {
	for list := r.Head.Query; len(list) > 0; {
		var pair []byte
		pair, list, _ = bytes.Cut(list, []byte{'&'})
		if k, v, _ := bytes.Cut(pair, []byte{'='}); string(k) == name {
			if count++; count == 1 {
				value = v
			}
		}
	}
	return value, count
}

// Timeout is how long a wait for r may be: most, or what is left of the
// request's budget.
func (r *Request) Timeout(most time.Duration) time.Duration {
	if r.Until.IsZero() {
		return most
	}
	return max(min(most, time.Until(r.Until)), 0)
}

// Outcome is what an authenticator came to.
type Outcome uint8

// The outcomes.
const (
	Absent      Outcome = iota // the request carries nothing for this authenticator
	Unknown                    // it does, but only Verify can tell (Recall alone says so)
	Identified                 // proven
	Refused                    // the credential is not good
	Unavailable                // it cannot be told now: a provider does not answer
	Answered                   // the authenticator has an answer for the client: a redirect to log in
)

// Result is an Outcome with what belongs to it.
type Result struct {
	Outcome   Outcome
	Identity  *Identity // of Identified
	Reason    string    // why Refused or Unavailable, for the log; holds nothing of the credential
	Challenge string    // a WWW-Authenticate value for a 401; "" for none
	Answer    *Answer   // of Answered

	// Session tells that what was Refused is a browser's session: most likely one
	// that has ended, and not a guess. Policy sets it.
	Session bool

	// SetCookies are lines for the answer to a request that is Identified: a
	// session that was renewed.
	SetCookies []Line
}

// Answer is an authenticator's own answer to a client.
type Answer struct {
	Status int
	Header []Line
	Body   []byte
}

// Line is a header line. Neither part may hold CR, LF or NUL: who makes one
// checks it with wire.IsToken and wire.IsFieldValue.
type Line struct{ Name, Value string }

// Authenticator proves one kind of credential. All methods may be called from
// many goroutines.
type Authenticator interface {
	// Name is the name that the configuration gave it.
	Name() string

	// Recall decides from what is in memory: it neither blocks nor allocates,
	// and does no public-key cryptography and no password hashing. It returns
	// Unknown when Verify is needed.
	Recall(r *Request) Result

	// Verify decides whatever it takes: it may block up to the
	// authenticator's own timeout and never returns Unknown.
	Verify(r *Request) Result

	// Challenge is the WWW-Authenticate value for a request without a
	// credential, "" for none.
	Challenge() string

	// Places is where the credential stands, so that it can be taken out
	// before the request is forwarded.
	Places() Places

	// Guessable tells whether the credential is one that people choose. While
	// an address is slowed for its failures, such credentials are not even
	// recalled: memory would tell a guesser that he is right.
	Guessable() bool
}

// Places are the parts of a request that hold a credential.
type Places struct {
	Schemes []string // of Authorization, in lower case
	Headers []string // whole fields
	Cookies []string // names; one that ends in * stands for all that begin so
	Query   []string // parameters
}

// Starter is implemented by authenticators that work in the background: Start is
// called once when the authenticator comes into use, Stop once when nothing
// uses it any more. Stop does not wait.
type Starter interface {
	Start()
	Stop()
}

// MostHandled bounds the body of a request for a Handler's path, in bytes.
const MostHandled = 64 << 10

// Handler is implemented by authenticators that answer paths of their own, such
// as the callback of a login.
type Handler interface {
	// Paths are exact paths of the gateway.
	Paths() []string
	// Handle answers a request for one of them, of any method. A body longer
	// than MostHandled is answered with 413 before it comes here. It may block
	// as Verify may.
	Handle(r *Request) *Answer
}

// State is what the admin door shows of an authenticator.
type State struct {
	Name       string            `json:"name"`
	Kind       string            `json:"kind"`
	Remembered int               `json:"remembered"` // proven credentials in memory
	Detail     map[string]string `json:"detail,omitempty"`
}

// Stater is implemented by authenticators that have something to show or count.
// Counts are by a fixed small set of names, such as jwks_fetch_failed.
type Stater interface {
	State() State
	Counts() map[string]uint64
}
