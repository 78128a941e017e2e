package proxy

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

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
	if x.req.Expect && !x.body.done {
		if err := x.client.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
			return clientFault(err)
		}
	}
	body, f := x.takeBody(mostSignedBody)
	if f != fault.None {
		return f
	}
	if _, _ = digest.Write(body); !digest.Matches() {
		x.why = "body does not match its Content-Digest"
		return fault.BadRequest
	}
	if x.req.Chunked {
		framed := wire.AppendChunkSize(nil, len(body))
		if framed = append(append(framed, body...), "\r\n0\r\n\r\n"...); len(body) == 0 {
			framed = []byte("0\r\n\r\n")
		}
		body = framed
	}
	x.kept, x.isWhole = body, true
	return fault.None
}

// takeBody reads the whole body into memory.
func (x *exchange) takeBody(most int) ([]byte, fault.Kind) {
	body, whole := x.whole()
	for !whole {
		piece, err := x.readBody(x.snapshot.Settings.BodyTimeout)
		if body = append(body, piece...); len(body) > most {
			return nil, fault.BodyTooLarge
		}
		if whole = x.body.done; err != nil && !whole {
			return nil, faultOfBody(err)
		}
	}
	return body, fault.None
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

// findPreflight finds the route that a CORS preflight asks for: that of the
// method which the browser is about to use (Fetch 4.8). The target never sees
// it, for it comes without credentials.
func (x *exchange) findPreflight() *Route {
	method, ok := auth.IsPreflight(&x.req)
	if !ok {
		return nil
	}
	own := x.req.Method
	x.req.Method = method
	r := x.snapshot.Table.lookup(x, nil)
	x.req.Method = own
	if r == nil || r.CORS == nil {
		return nil
	}
	return r
}

// preflight answers a CORS preflight, and refuses requests of pages that the
// route wants nothing from.
func (x *exchange) preflight() fault.Kind {
	c := x.route.CORS
	if c == nil {
		return fault.None
	}
	if !x.preflighted {
		if c.Blocks(&x.req, x.scheme) {
			x.why = reasonOtherOrigin
			return fault.Forbidden
		}
		return fault.None
	}
	origin, method, headers, private, _ := auth.PreflightFields(&x.req)
	lines, ok := c.Preflight(x.back[:0], origin, method, headers, private)
	status := fasthttp.StatusNoContent
	if !ok {
		x.why, x.refused, status = reasonOtherOrigin, true, fasthttp.StatusForbidden
	}
	x.dropBody()
	out := appendStatus(x.out[:0], status, []byte(fasthttp.StatusMessage(status)))
	if out = append(out, lines...); !ok {
		out = append(out, "Content-Length: 0\r\n"...)
	}
	x.sendOwn(x.appendDate(out), status, nil)
	return fault.None
}

// login lets an authenticator answer a path of its own.
func (x *exchange) login(h auth.Handler) fault.Kind {
	body, f := x.takeBody(auth.MostHandled)
	if f != fault.None {
		return f
	}
	r := x.authRequest()
	r.Body = body
	return x.sendAnswer(h.Handle(r))
}

// sendAnswer sends an answer that an authenticator made.
func (x *exchange) sendAnswer(a *auth.Answer) fault.Kind {
	if a == nil {
		return fault.Internal
	}
	x.dropBody()
	bodiless := a.Status == fasthttp.StatusNoContent || a.Status == fasthttp.StatusNotModified
	out := appendStatus(x.out[:0], a.Status, []byte(fasthttp.StatusMessage(a.Status)))
	for _, l := range a.Header {
		out = appendField(out, []byte(l.Name), []byte(l.Value))
	}
	body := a.Body
	if bodiless {
		body = nil
	} else {
		out = append(out, "Content-Length: "...)
		out = append(strconv.AppendInt(out, int64(len(body)), 10), "\r\n"...)
	}
	x.sendOwn(x.appendDate(out), a.Status, body)
	return fault.None
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

// credentials are the places of a request that hold one, which the target does
// not get to see.
type credentials struct {
	schemes []string
	headers nameSet
	cookies []string
	query   []string
}

func newCredentials(p auth.Places) credentials {
	return credentials{schemes: p.Schemes, headers: newNameSet(p.Headers), cookies: p.Cookies, query: p.Query}
}

// hasScheme tells whether an Authorization value is a credential for this gateway.
func (c *credentials) hasScheme(value []byte) bool {
	if c.headers.has([]byte("authorization")) {
		return true
	}
	for _, s := range c.schemes {
		if len(value) >= len(s) && wire.EqualFold(value[:len(s)], s) && (len(value) == len(s) || value[len(s)] == ' ') {
			return true
		}
	}
	return false
}

func (c *credentials) hasCookie(name []byte) bool {
	for _, n := range c.cookies {
		if prefix, ok := strings.CutSuffix(n, "*"); ok && bytes.HasPrefix(name, []byte(prefix)) || string(name) == n {
			return true
		}
	}
	return false
}

// appendCookies writes a Cookie line without the cookies that are credentials,
// and no line when none is left.
func (c *credentials) appendCookies(out []byte, f *wire.Field) []byte {
	start := len(out)
	out = append(append(out, f.Name...), ": "...)
	empty := len(out)
	for list := f.Value; len(list) > 0; {
		var pair []byte
		pair, list, _ = bytes.Cut(list, []byte{';'})
		pair = wire.TrimOWS(pair)
		name, _, _ := bytes.Cut(pair, []byte{'='})
		if len(pair) == 0 || c.hasCookie(name) {
			continue
		}
		if len(out) > empty {
			out = append(out, "; "...)
		}
		out = append(out, pair...)
	}
	if len(out) == empty {
		return out[:start]
	}
	return append(out, "\r\n"...)
}

// appendQuery writes "?" and a query without the parameters that are credentials,
// or with mark in the place of their values.
func (c *credentials) appendQuery(out, query []byte, mark string) []byte {
	separator := byte('?')
	for more := true; more; {
		var pair []byte
		pair, query, more = bytes.Cut(query, []byte{'&'})
		name, _, _ := bytes.Cut(pair, []byte{'='})
		secret := false
		for _, n := range c.query {
			secret = secret || string(name) == n
		}
		if secret && mark == "" {
			continue
		}
		out = append(out, separator)
		separator = '&'
		if secret {
			out = append(append(append(out, name...), '='), mark...)
		} else {
			out = append(out, pair...)
		}
	}
	return out
}

// logged is a URI as a log may hold it: without the values of parameters in which
// some authenticator looks for a credential, whatever the route.
func (x *exchange) logged(uri []byte) []byte {
	secrets := &x.snapshot.Settings.secrets
	if len(secrets.query) == 0 {
		return uri
	}
	path, query, has := bytes.Cut(uri, []byte{'?'})
	if !has {
		return uri
	}
	x.out = append(x.out, path...)
	start := len(x.out) - len(path)
	x.out = secrets.appendQuery(x.out, query, "***")
	return x.out[start:]
}

// nameSet is a set of header names, without regard to case. Most names that are
// asked for are not in it, and are ruled out by their length.
type nameSet struct {
	lengths [4]uint64
	names   [][]byte // in lower case
}

func newNameSet(names []string) (s nameSet) {
	for _, n := range names {
		n = strings.ReplaceAll(strings.ToLower(n), "_", "-")
		if l := len(n); l < 256 {
			s.lengths[l/64] |= 1 << (l % 64)
			s.names = append(s.names, []byte(n))
		}
	}
	return s
}

// has takes "_" for "-": a backend may (see forwarded.underscores).
func (s *nameSet) has(name []byte) bool {
	n := len(name)
	if n > 255 || s.lengths[n/64]&(1<<(n%64)) == 0 {
		return false
	}
	for _, own := range s.names {
		if len(own) == n && sameName(own, name) {
			return true
		}
	}
	return false
}

func sameName(own, name []byte) bool {
	for i, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if own[i] != c {
			return false
		}
	}
	return true
}
