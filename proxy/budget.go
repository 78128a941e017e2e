package proxy

import (
	"bytes"
	"strconv"
	"time"

	"sluice/wire"
)

// setDeadline gives the request its one deadline: from the route's budget, and
// from what a trusted caller has left of its own, whichever is less. Queueing,
// connecting, every try and pause, hedge and fallback fit in it.
func (x *exchange) setDeadline(s *Settings) {
	budget := none
	if x.route.Budget > 0 {
		budget = int64(x.route.Budget)
	}
	if x.trusted {
		for i := range x.req.Fields {
			f := &x.req.Fields[i]
			switch {
			case f.Kind != wire.Other:
			case s.isBudget(f):
				budget = less(budget, millis(f.Value))
			case isGRPCTimeout(f):
				budget = less(budget, grpcTimeout(f.Value))
			}
		}
	}
	x.shortened = budget != none && (x.route.Budget == 0 || budget < int64(x.route.Budget))
	if budget != none {
		// A caller with nothing left is told so at once.
		x.deadline = x.start + max(budget, 1)
	}
}

// none is a time that a header does not tell.
const none = int64(-1)

// mostBudget bounds what a header may tell, so that no sum overflows.
const mostBudget = int64(1) << 60

// less is the lesser of two times that may be none.
func less(a, b int64) int64 {
	if a == none || b != none && b < a {
		return b
	}
	return a
}

func (s *Settings) isBudget(f *wire.Field) bool {
	return s.Budget != "" && len(f.Name) == len(s.Budget) && bytes.EqualFold(f.Name, []byte(s.Budget))
}

func isGRPCTimeout(f *wire.Field) bool { return wire.EqualFold(f.Name, "grpc-timeout") }

// tryField tells a target which of a request's tries this is, from the second
// on. What a client says under this name is not handed on.
const tryField = "Sluice-Try"

func isTry(f *wire.Field) bool {
	return len(f.Name) == len(tryField) && wire.EqualFold(f.Name, "sluice-try")
}

// millis reads a number of milliseconds as nanoseconds.
func millis(v []byte) int64 {
	n, err := strconv.ParseUint(str(v), 10, 63)
	if err != nil {
		return none
	}
	return times(n, time.Millisecond)
}

// grpcTimeout reads a grpc-timeout (gRPC over HTTP/2, Requests) as nanoseconds.
func grpcTimeout(v []byte) int64 {
	if len(v) < 2 || len(v) > 9 {
		return none
	}
	n, err := strconv.ParseUint(str(v[:len(v)-1]), 10, 32)
	if err != nil {
		return none
	}
	switch v[len(v)-1] {
	case 'H':
		return times(n, time.Hour)
	case 'M':
		return times(n, time.Minute)
	case 'S':
		return times(n, time.Second)
	case 'm':
		return times(n, time.Millisecond)
	case 'u':
		return times(n, time.Microsecond)
	case 'n':
		return int64(n)
	}
	return none
}

// times is n units in nanoseconds, mostBudget at the most.
func times(n uint64, unit time.Duration) int64 {
	if n > uint64(mostBudget/int64(unit)) {
		return mostBudget
	}
	return int64(n) * int64(unit)
}

// appendGRPCTimeout writes ns in the form of a grpc-timeout, rounded down: up
// to eight digits in the finest unit that holds it.
func appendGRPCTimeout(out []byte, ns int64) []byte {
	const most = 99_999_999
	ns = max(ns, 0)
	for _, unit := range [...]struct {
		ns   int64
		name byte
	}{{1e6, 'm'}, {1e9, 'S'}} {
		if n := ns / unit.ns; n <= most {
			return append(strconv.AppendInt(out, n, 10), unit.name)
		}
	}
	return append(out, "99999999S"...)
}

// leftOf is what is left at the time now of a time that the caller gave the
// request, and of the request's budget.
func (x *exchange) leftOf(given, now int64) int64 {
	if given == none {
		return x.left(now)
	}
	return min(x.left(now), given-(now-x.start))
}

// left is how much of the budget is left at the time now, in nanoseconds.
func (x *exchange) left(now int64) int64 {
	if x.deadline == 0 {
		return unbounded
	}
	return x.deadline - now
}
