package limiter

import (
	"strconv"
	"time"
)

// header is the part of a limit's fields that never changes
// (draft-ietf-httpapi-ratelimit-headers-11).
type header struct {
	begin    string // RateLimit-Policy: "name";q=
	policy   string // the whole line of the limit's own plan, unless it is a quota
	limit    string // RateLimit: "name";r=
	interval int64  // nanoseconds in which the rate gives one request, rounded up
}

func newHeader(name string, own Plan) header {
	quoted := quote(name)
	h := header{begin: "RateLimit-Policy: " + quoted + ";q=", limit: "RateLimit: " + quoted + ";r="}
	switch {
	case own.period != 0:
	case own.rate == (Rate{}):
		h.policy = string(h.appendPolicy(nil, own.most, 0))
	default:
		quota, window := own.window()
		h.policy = string(h.appendPolicy(nil, quota, window))
		h.interval = own.rate.nanoseconds(unitsPerRequest)
	}
	return h
}

// appendPolicy appends the line of RateLimit-Policy. A window of 0 is a number
// in flight.
func (h *header) appendPolicy(dst []byte, quota, window int64) []byte {
	dst = append(dst, h.begin...)
	dst = strconv.AppendInt(dst, quota, 10)
	if window == 0 {
		return append(dst, ";qu=\"concurrent-requests\"\r\n"...)
	}
	dst = append(dst, ";w="...)
	dst = strconv.AppendInt(dst, window, 10)
	return append(dst, "\r\n"...)
}

// quote writes name as a String of RFC 9651 3.3.3; what may not stand in one
// becomes "_".
func quote(name string) string {
	quoted := []byte{'"'}
	for _, c := range []byte(name) {
		switch {
		case c == '"' || c == '\\':
			quoted = append(quoted, '\\', c)
		case c < ' ' || c > '~':
			quoted = append(quoted, '_')
		default:
			quoted = append(quoted, c)
		}
	}
	return string(append(quoted, '"'))
}

// wholeSeconds rounds up, so that nobody comes back too soon.
func wholeSeconds(ns int64) int64 {
	return ns/int64(time.Second) + min(ns%int64(time.Second), 1)
}

// AppendHeaders appends the fields that tell a client of d, a decision of l,
// each as a line with its CRLF: RateLimit-Policy, RateLimit and, when d
// refuses, Retry-After. With several limits on a request append one of them,
// the tightest: the draft lets a server list them all, but a client can keep
// only to the one that binds it, and the lines are on every answer. It appends
// nothing when the limit only counts, and Retry-After alone when headers is
// off. It allocates only when dst has no room.
//
// The effective window t is Retry-After in a refusal. Else it is, by rate, the
// time over which what remains lasts at the plan's rate, so that a client that
// divides r by t comes to the rate and not to a burst; at r=0 the next request
// is there by then. By quota it is the time to the window's end. By concurrency
// there is none, for nobody knows when a request will end.
func (l *Limit) AppendHeaders(dst []byte, d Decision) []byte {
	if l.cfg.DryRun {
		return dst
	}
	var window int64
	switch {
	case !d.OK:
		window = max(wholeSeconds(d.RetryAfter), 1)
	case l.kind == ByRate:
		interval := l.head.interval
		if d.plan != nil && d.plan != l.own {
			interval = d.plan.rate.nanoseconds(unitsPerRequest)
		}
		window = max(wholeSeconds(max(d.Remaining, 1)*interval), 1)
	case l.kind == ByQuota:
		window = max(wholeSeconds(d.Reset), 1)
	}
	if l.cfg.Headers {
		dst = l.appendPolicy(dst, d)
		dst = append(dst, l.head.limit...)
		dst = strconv.AppendInt(dst, d.Remaining, 10)
		if window > 0 {
			dst = append(dst, ";t="...)
			dst = strconv.AppendInt(dst, window, 10)
		}
		dst = append(dst, "\r\n"...)
	}
	if !d.OK {
		dst = append(dst, "Retry-After: "...)
		dst = strconv.AppendInt(dst, window, 10)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

func (l *Limit) appendPolicy(dst []byte, d Decision) []byte {
	switch {
	case l.kind == ByQuota:
		w := l.quota.now.Load()
		return l.head.appendPolicy(dst, d.Limit, w.to-w.from)
	case d.plan == nil || d.plan == l.own:
		return append(dst, l.head.policy...)
	case l.kind == ByConcurrency:
		return l.head.appendPolicy(dst, d.plan.most, 0)
	}
	quota, window := d.plan.window()
	return l.head.appendPolicy(dst, quota, window)
}
