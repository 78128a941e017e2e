// Package transform changes what requests and answers carry on their way through a
// route: bodies, query parameters, cookies, statuses. It also holds requests to a
// JSON Schema or an OpenAPI document.
//
//	body ──> Body.Applies    by Content-Type and status, before any of it is read
//	     ──> Body.Apply      read ─ schema ─ shape ─ template ─ static ─ write
//	                         any format ──> JSON ──────────> JSON ──> any format
//	head ──> Query.Append, Cookies.Append, SetCookie.Append, Status.Of
//	both ──> Operation.Check
//
// Everything here is pure: no IO after a New or Load function has returned, and no
// clock but the time that is handed in. What New returns never changes and may be
// used by any number of goroutines. Nothing blocks, but that who holds something
// against a schema waits while as many do as the machine has cores for.
//
// Invariants: a body is changed whole or not at all, and what changes nothing gives
// the very bytes back; JSON is spliced, not decoded (package document), but for
// queries and schemas, so that numbers of any size survive; every document is within
// stated limits; a Refusal tells a client nothing that an upstream said, but for the
// code and the text of a SOAP fault.
package transform

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Refusal is why a body, or a request, is not let through.
type Refusal struct {
	Status   int       // what the client is answered
	Detail   string    // safe to show to the client
	Why      string    // for the log alone: what is wrong with an answer; may be empty
	Failures []Failure // of a schema: the first of them, by place
	More     int       // how many failures are not listed
	Code     string    // of a SOAP fault: faultcode, or Code and Subcode, without prefixes
	Reason   string    // of a SOAP fault: faultstring, or Reason
}

// Failure is one value that a schema does not allow.
type Failure struct {
	In       string `json:"in,omitempty"`   // path, query, header or cookie; empty: the body
	Name     string `json:"name,omitempty"` // of the parameter
	Pointer  string `json:"pointer"`        // JSON Pointer (RFC 6901) within body or parameter
	Expected string `json:"expected"`
}

func (r *Refusal) Error() string {
	text := strconv.Itoa(r.Status) + ": " + r.Detail
	if r.Why != "" {
		text += " (" + r.Why + ")"
	}
	for _, f := range r.Failures {
		text += "; " + f.In + " " + f.Name + f.Pointer + ": " + f.Expected
	}
	return text
}

// shown is text within a bound and without what would break a line of a log or a
// header.
func shown(text string, most int) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text[:min(len(text), 4*most)])
	clean = strings.Join(strings.Fields(clean), " ")
	if len(clean) <= most {
		return clean
	}
	end := most - len("…")
	for end > 0 && !utf8.RuneStart(clean[end]) {
		end--
	}
	return clean[:end] + "…"
}

func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 1 && b[0] == '{'
}
