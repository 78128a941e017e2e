// Package fault is the closed list of what can go wrong with a request and the
// one shape of the answers that tell a client of it: application/problem+json
// (RFC 9457) with a stable type, the request id, and no inner detail.
//
// A Kind is a small integer: it is returned, compared and counted on the path
// of a request without allocating. Its Name stands in the access log, in
// metrics and at the end of the problem's type; names are only ever added.
// Nothing here blocks, and appending a problem to a buffer with room does not
// allocate.
package fault

import (
	"net/http"
	"strconv"
)

// Kind is one way in which a request can fail.
type Kind uint8

// The kinds. None is success.
const (
	None Kind = iota

	BadRequest         // the client's message breaks HTTP's grammar or framing
	URITooLong         // the request target passes the bound
	HeadTooLarge       // the head passes a bound
	BodyTooLarge       // the body passes the route's bound
	RequestTimeout     // the client was too slow to send its request
	NotImplemented     // a method or coding that is not spoken
	VersionUnsupported // not HTTP/1.x
	NotFound           // no route matches
	MethodNotAllowed   // routes match but for the method
	LoopDetected       // the request has been here before
	ConnectionLimit    // too many client connections
	Draining           // the process is about to end
	NoTarget           // the upstream has no target to try
	QueueFull          // too many requests wait for a connection already
	QueueTimeout       // no connection became free in time
	ConnectFailed      // the target does not take connections
	ConnectTimeout     // the target takes too long to take one
	TargetReset        // the target closed the connection before its answer
	BadAnswer          // the target's answer breaks HTTP's grammar or framing
	AnswerTimeout      // the target's answer did not begin in time
	AnswerCut          // the target's answer ended before its end
	ClientGone         // the client left before its answer
	ClientSlow         // the client took none of its answer for too long
	Internal           // a defect of ours
	BudgetSpent        // the request's latency budget is used up
	BreakerOpen        // the upstream's circuit breaker is open
	Overloaded         // the upstream's adaptive limit is reached
	TargetError        // the target answered with an error that the route does not hand on
	RateLimited        // the caller asks for more than a limit of the route gives it
	Unauthenticated    // the caller did not prove who it is
	Forbidden          // the caller is known and may not
	TooManyFailures    // the caller's address sent too many bad credentials
	AuthUnavailable    // who the caller is cannot be told now
	AddressDenied      // the caller's address may not call
	LimitUnavailable   // a limit that gateways share cannot be asked now
	NotAcceptable      // the answer is to be had in no form that the client takes
	NotStored          // the client wants a stored answer only, and there is none

	kinds
)

type text struct {
	name   string
	status int
	title  string
}

var texts = [kinds]text{
	None:               {"", 200, ""},
	BadRequest:         {"bad-request", 400, "The request is malformed"},
	URITooLong:         {"uri-too-long", 414, "The request target is too long"},
	HeadTooLarge:       {"head-too-large", 431, "The request header is too large"},
	BodyTooLarge:       {"body-too-large", 413, "The request body is too large"},
	RequestTimeout:     {"request-timeout", 408, "The request took too long to arrive"},
	NotImplemented:     {"not-implemented", 501, "The method or transfer coding is not supported"},
	VersionUnsupported: {"version-not-supported", 505, "The HTTP version is not supported"},
	NotFound:           {"not-found", 404, "No route matches the request"},
	MethodNotAllowed:   {"method-not-allowed", 405, "The method is not allowed here"},
	LoopDetected:       {"loop-detected", 508, "The request has passed here before"},
	ConnectionLimit:    {"connection-limit", 503, "Too many connections"},
	Draining:           {"draining", 503, "The gateway is shutting down"},
	NoTarget:           {"no-target", 503, "No backend is available"},
	QueueFull:          {"queue-full", 503, "Too many requests wait for the backend"},
	QueueTimeout:       {"queue-timeout", 503, "The backend has no free connection"},
	ConnectFailed:      {"connect-failed", 502, "The backend cannot be reached"},
	ConnectTimeout:     {"connect-timeout", 504, "The backend cannot be reached in time"},
	TargetReset:        {"target-reset", 502, "The backend closed the connection"},
	BadAnswer:          {"bad-answer", 502, "The backend's answer is malformed"},
	AnswerTimeout:      {"answer-timeout", 504, "The backend did not answer in time"},
	AnswerCut:          {"answer-cut", 502, "The backend's answer broke off"},
	ClientGone:         {"client-gone", 499, "The client closed the connection"},
	ClientSlow:         {"client-slow", 499, "The client did not take its answer"},
	Internal:           {"internal", 500, "Internal error"},
	BudgetSpent:        {"budget-spent", 504, "The request took longer than it may"},
	BreakerOpen:        {"breaker-open", 503, "The backend is given time to recover"},
	Overloaded:         {"overloaded", 503, "The backend is overloaded"},
	TargetError:        {"target-error", 502, "The backend failed"},
	RateLimited:        {"rate-limited", 429, "Too many requests"},
	Unauthenticated:    {"unauthenticated", 401, "Valid credentials are needed"},
	Forbidden:          {"forbidden", 403, "The caller may not do this"},
	TooManyFailures:    {"too-many-failures", 429, "Too many refused credentials"},
	AuthUnavailable:    {"auth-unavailable", 503, "Credentials cannot be checked now"},
	LimitUnavailable:   {"limit-unavailable", 503, "The caller's budget cannot be checked now"},
	NotAcceptable:      {"not-acceptable", 406, "The answer is not to be had in a form that the client takes"},
	NotStored:          {"not-stored", 504, "No stored answer fits the request"},
	AddressDenied:      {"address-denied", 403, "The caller's address may not call"},
}

// Name is the stable word for k, empty for None.
func (k Kind) Name() string { return texts[k].name }

// String is Name.
func (k Kind) String() string { return texts[k].name }

// Status is the status that a client is answered, and for ClientGone and
// ClientSlow the one that is logged: nobody is there to read an answer.
func (k Kind) Status() int { return texts[k].status }

// RetryAfter tells whether the answer invites the client to come back soon.
func (k Kind) RetryAfter() bool {
	return texts[k].status == 503
}

// Refusal tells whether k is a caller who may not pass: the audit log hears of
// it.
func (k Kind) Refusal() bool {
	switch k {
	case Unauthenticated, Forbidden, TooManyFailures, AuthUnavailable, AddressDenied:
		return true
	}
	return false
}

// Names lists the name of every kind by its number, for whoever counts them.
func Names() []string {
	names := make([]string, kinds)
	for k := range names {
		names[k] = texts[k].name
	}
	return names
}

// Type is the problem type of k (RFC 9457 3.1.1), an identifier that stays.
func (k Kind) Type() string { return "urn:sluice:problem:" + texts[k].name }

// ContentType is the media type of AppendProblem's output.
const ContentType = "application/problem+json"

var heads = func() (h [kinds]string) {
	for k := range h {
		t := texts[k]
		h[k] = `{"type":"` + Kind(k).Type() + `","title":"` + t.title + `","status":` + strconv.Itoa(t.status) + `,"request_id":"`
	}
	return h
}()

// AppendProblem appends the problem document of k. id is the request's id and
// must need no JSON escaping: hex digits, letters, hyphens.
func AppendProblem(dst []byte, k Kind, id []byte) []byte {
	dst = append(dst, heads[k]...)
	dst = append(dst, id...)
	return append(dst, "\"}\n"...)
}

// FromStatus is the kind whose answer has this status, for a message that a
// parser refused with it.
func FromStatus(status int) Kind {
	switch status {
	case http.StatusRequestURITooLong:
		return URITooLong
	case http.StatusRequestHeaderFieldsTooLarge:
		return HeadTooLarge
	case http.StatusNotImplemented:
		return NotImplemented
	case http.StatusHTTPVersionNotSupported:
		return VersionUnsupported
	}
	return BadRequest
}
