package proxy

import (
	"strings"
	"time"

	"sluice/auth"
	"sluice/fault"
	"sluice/limiter"
	"sluice/wire"
)

// The reasons of refusals that are the gateway's own and not an
// authenticator's. They go to the logs.
const (
	reasonNoCredential = "no credential"
	reasonSlowed       = "too many refused credentials from this address"
	reasonAddress      = "address not allowed"
	reasonOtherOrigin  = "origin, method or header not allowed by cors"
)

// identify finds out who calls and whether they may: first from memory, and only
// for those that are not remembered by cryptography or by asking others. An
// address that keeps sending bad credentials is not given the second.
func (x *exchange) identify() fault.Kind {
	p := x.route.Auth
	if p == nil {
		return fault.None
	}
	r := x.authRequest()
	slowed, charged := p.Guessable() && x.slowed(), false
	res := p.Recall(r, slowed, &x.proof)
	if res.Outcome == auth.Unknown {
		if slowed || x.slowed() {
			x.why = reasonSlowed
			return fault.TooManyFailures
		}
		res = p.Verify(r, &x.proof)
		x.verified = true // it may have taken a while
		x.why = res.Reason
		// Others may have used the address's share up meanwhile: whoever guesses
		// in parallel learns no more than one by one.
		late := p.Guessable() && x.slowed()
		charged = res.Outcome == auth.Refused && !res.Session
		if charged {
			x.chargeFailure()
		}
		switch {
		case late:
			x.proof.Forget()
			x.why = reasonSlowed
			return fault.TooManyFailures
		case x.client.left(x.start):
			x.proof.Forget()
			return fault.ClientGone
		case x.deadline > 0 && wire.Nanotime() >= x.deadline:
			// Not the fault that a fallback may stand in for: nobody is authorised.
			x.proof.Forget()
			return fault.AuthUnavailable
		}
		x.why = ""
	}
	x.cookies = res.SetCookies
	switch res.Outcome {
	case auth.Identified:
		f := x.authorise(r)
		if f == fault.None && x.proof.SignedDigest() {
			f = x.checkDigest(r)
		}
		return f
	case auth.Absent:
		if p.Optional && p.Require == nil {
			return fault.None
		}
		x.why = reasonNoCredential
		return fault.Unauthenticated
	case auth.Answered:
		if p.Optional && p.Require == nil && res.Reason == "" {
			return fault.None // nobody need log in here
		}
		x.why = res.Reason
		x.refused = res.Reason != ""
		return x.sendAnswer(res.Answer)
	case auth.Unavailable:
		x.why = res.Reason
		return fault.AuthUnavailable
	}
	if !charged && !res.Session {
		if x.slowed() {
			x.why = reasonSlowed
			return fault.TooManyFailures
		}
		x.chargeFailure()
	}
	x.why, x.challenge = res.Reason, res.Challenge
	return fault.Unauthenticated
}

// mostSignedBody bounds a body whose digest is signed: none of it goes on before
// all of it was compared.
const mostSignedBody = 1 << 20

// checkDigest compares the body with the digest that the caller signed
// (RFC 9530), and keeps it to be forwarded.
func (x *exchange) checkDigest(r *auth.Request) fault.Kind {
	digest, err := auth.NewBodyDigest(r)
	if err != nil {
		x.why = err.Error()
		return fault.BadRequest
	}
	body, f := x.keepWhole(mostSignedBody)
	if f != fault.None {
		return f
	}
	if _, _ = digest.Write(body); !digest.Matches() {
		x.why = "body does not match its Content-Digest"
		return fault.BadRequest
	}
	return fault.None
}

// authorise holds the caller against what the route requires.
func (x *exchange) authorise(r *auth.Request) fault.Kind {
	q := x.route.Auth.Require
	if q == nil {
		return fault.None
	}
	ok, reason, scope := q.Check(r, &x.proof)
	if ok {
		return fault.None
	}
	if x.why = reason; scope != "" {
		// RFC 6750 3.1
		if c := x.proof.Group[0].Challenge(); strings.HasPrefix(c, "Bearer") {
			x.challenge = c + `, error="insufficient_scope", scope="` + scope + `"`
		}
	}
	return fault.Forbidden
}

// authRequest is what authenticators see of the request.
func (x *exchange) authRequest() *auth.Request {
	r := &x.asked
	*r = auth.Request{
		Head: &x.req, Path: x.path, Scheme: x.scheme, Caller: x.caller, TLS: x.client.TLS,
		ID: x.id, Route: x.route.Name, Now: x.when,
	}
	if x.deadline > 0 {
		r.Until = x.when.Add(time.Duration(x.deadline - x.start))
	}
	return r
}

// slowed tells whether the caller's address has had its share of failures.
func (x *exchange) slowed() bool {
	l := x.snapshot.Settings.Failures
	return l != nil && l.Allow(x.failureKey(l), 0, x.start).Remaining == 0
}

// chargeFailure counts a refused credential against the caller's address.
func (x *exchange) chargeFailure() {
	if l := x.snapshot.Settings.Failures; l != nil {
		l.Allow(x.failureKey(l), 1, x.start)
	}
}

func (x *exchange) failureKey(l *limiter.Limit) uint64 {
	h := limiter.NewHasher()
	h.Addr(x.caller, l.Config().IPv6Prefix)
	return h.Sum()
}

// addressHolds tells whether the caller's address may call the route at all.
func (x *exchange) addressHolds() bool {
	a := x.route.Addresses
	if a == nil || x.anyone || a.Allows(x.caller) {
		return true
	}
	x.why = reasonAddress
	return false
}

// appendChallenges writes how a caller may prove itself (RFC 9110 11.6.1).
func (x *exchange) appendChallenges(out []byte, f fault.Kind) []byte {
	switch {
	case x.challenge != "":
		out = append(append(append(out, "WWW-Authenticate: "...), x.challenge...), "\r\n"...)
	case f == fault.Unauthenticated:
		for _, c := range x.route.Auth.Challenges() {
			out = append(append(append(out, "WWW-Authenticate: "...), c...), "\r\n"...)
		}
	}
	return out
}

// appendCookies writes the cookies of a session that was renewed.
func (x *exchange) appendCookies(out []byte) []byte {
	for _, l := range x.cookies {
		out = append(append(append(append(out, l.Name...), ": "...), l.Value...), "\r\n"...)
	}
	return out
}

// appendIdentity writes what the target is told of the caller.
func (x *exchange) appendIdentity(out []byte) []byte {
	for i, id := range x.proof.By[:x.proof.N] {
		for _, h := range x.proof.Group[i].Headers() {
			if text, ok := id.Claim(h.Claim); ok {
				out = append(append(append(append(out, h.Name...), ": "...), text...), "\r\n"...)
			}
		}
		for _, l := range id.Lines {
			out = append(append(append(append(out, l.Name...), ": "...), l.Value...), "\r\n"...)
		}
	}
	return out
}
