package limiter

import (
	"strconv"
	"time"
)

// header is the part of a limit's fields that never changes
// (draft-ietf-httpapi-ratelimit-headers-11).
type header struct {
	policy   string // RateLimit-Policy: "name";q=100;w=1
	limit    string // RateLimit: "name";r=
	quota    int64
	interval int64 // nanoseconds in which the rate gives one request, rounded up
}

// newHeader chooses a quota and a window in whole seconds that say the rate:
// the rate as it is written, or the burst and the time that it lasts when that
// is more, so that nobody has more left than the quota.
func newHeader(name string, r Rate, burst int64) header {
	quota, window := r.Count, int64(r.Per/time.Second)
	if burst > quota {
		quota, window = burst, seconds(r.nanoseconds(uint64(burst)*unitsPerRequest))
	}
	quoted := quote(name)
	return header{
		policy:   "RateLimit-Policy: " + quoted + ";q=" + strconv.FormatInt(quota, 10) + ";w=" + strconv.FormatInt(window, 10) + "\r\n",
		limit:    "RateLimit: " + quoted + ";r=",
		quota:    quota,
		interval: r.nanoseconds(unitsPerRequest),
	}
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

// seconds rounds up, so that nobody comes back too soon.
func seconds(ns int64) int64 {
	return ns/int64(time.Second) + min(ns%int64(time.Second), 1)
}

// AppendHeaders appends the fields that tell a client of d, a decision of l,
// each as a line with its CRLF: RateLimit-Policy, RateLimit and, when d
// refuses, Retry-After. With several limits on a request append one of them,
// the tightest. It appends nothing when the limit only counts, and Retry-After
// alone when headers is off. It allocates only when dst has no room.
//
// The effective window t is Retry-After in a refusal. Else it is the time over
// which what remains lasts at the limit's rate, so that a client that divides
// r by t comes to the rate and not to a burst; at r=0 the next request is
// there by then.
func (l *Limit) AppendHeaders(dst []byte, d Decision) []byte {
	if l.cfg.DryRun {
		return dst
	}
	window := max(seconds(max(d.Remaining, 1)*l.head.interval), 1)
	if !d.OK {
		window = max(seconds(d.RetryAfter), 1)
	}
	if l.cfg.Headers {
		dst = append(dst, l.head.policy...)
		dst = append(dst, l.head.limit...)
		dst = strconv.AppendInt(dst, d.Remaining, 10)
		dst = append(dst, ";t="...)
		dst = strconv.AppendInt(dst, window, 10)
		dst = append(dst, "\r\n"...)
	}
	if !d.OK {
		dst = append(dst, "Retry-After: "...)
		dst = strconv.AppendInt(dst, window, 10)
		dst = append(dst, "\r\n"...)
	}
	return dst
}
