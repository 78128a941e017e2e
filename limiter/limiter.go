// Package limiter decides how many requests each key (an address, a header's
// value, a combination of them) may make. It is one machine, a Limit, that
// takes the time as an argument and does no IO.
//
// The rule is GCRA (ATM Forum TM 4.0), a token bucket in one number: for each
// key the theoretical arrival time (TAT), when its budget will be whole again. A
// request moves it on by cost/rate and is refused if that would put it more
// than burst/rate ahead of now. A key whose TAT has passed says nothing any
// more, so its place may be taken over: memory is fixed when the Limit is made
// (16 bytes for each key of Config.Keys) and nothing ever needs cleaning.
//
// Invariants: a key's TAT is one atomic word, changed by compare-and-swap
// only; what is admitted is never more than burst + rate*time, to a 512th of a
// request. Nothing on a request's path blocks, locks or allocates. A table
// without room answers as Config.OnFull says and counts it.
package limiter
