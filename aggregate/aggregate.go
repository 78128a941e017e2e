// Package aggregate composes one answer of several: which branches there are, in
// which order they may be asked, what their answers come to.
//
//	Config ── NewPlan ──> Plan ── Steps: branches that wait for nobody else, by step
//	                       │
//	values ────────────────┼── Plan.Request(i, values) ──> target, fields, body of branch i
//	answers ───────────────┼── Plan.Take(i, answer) ─────> Part: its document, or why there is none
//	                       └── Plan.Compose(parts) ──────> status, body, what is missing
//
// A branch is one request to one upstream. What it refers to ({user.id}) makes
// those branches come first; circles are a mistake of the configuration. The
// values keep their JSON type, and what nothing changes is copied as bytes.
//
// Everything here is pure: no IO, no clock, no lock. A Plan never changes and may
// be used by many requests at once. How branches are asked, within which time, and
// how the answer goes out is the caller's.
//
// Invariants: the same parts give the same bytes; a required branch that fails
// fails the whole, by the stated rules and no others; nothing of what an upstream
// said of its failure is shown; a document beyond its bounds is a failure of its
// branch and never of the process.
package aggregate

import "strconv"

// Reason says why a branch has no document.
type Reason uint8

// The reasons.
const (
	OK        Reason = iota
	Status           // it answered with a status that is not among ok
	Unreached        // nobody answered: a fault of the gateway's side
	Late             // not in time
	Unread           // the document breaks its format
	TooLarge         // the document passes max
	Unmade           // its request could not be made: a value that it refers to is missing
	Skipped          // a branch that it refers to has failed
	reasons
)

var reasonNames = [reasons]string{"ok", "status", "unreached", "timeout", "malformed", "too-large", "missing-value", "skipped"}

// String is the word for r in problems and headers.
func (r Reason) String() string { return reasonNames[r] }

// Answer is what came of asking a branch.
type Answer struct {
	Reason Reason // Unreached and Late are the caller's to tell; else OK
	Status int
	Type   []byte // Content-Type
	Body   []byte
}

// Part is what a branch contributes.
type Part struct {
	Reason Reason
	Status int    // that it answered, 0 when it did not
	Doc    []byte // JSON; nil for none
	Stood  bool   // Doc is the branch's default
}

func at(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }
