package proxy

import (
	"strconv"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// Retry is a route's policy of repeating a request that failed, on another
// target when there is one. Whatever it says, a request is never repeated once
// bytes of its answer went to the client, nor when its body is gone, and extra
// tries keep within the route's budget of them.
type Retry struct {
	Attempts      int // tries in all, the first included
	Connect       bool
	Reset         bool
	Timeout       bool
	Statuses      []int
	PerTry        time.Duration // 0: no bound of its own
	Backoff       time.Duration
	MaxBackoff    time.Duration
	MaxBody       int64 // bodies up to this size are kept
	NonIdempotent bool
}

// covers tells whether the policy repeats a request that failed so.
func (r *Retry) covers(f fault.Kind) bool {
	switch f {
	case fault.ConnectFailed, fault.ConnectTimeout:
		return r.Connect
	case fault.TargetReset, fault.BadAnswer:
		return r.Reset
	case fault.AnswerTimeout:
		return r.Timeout
	}
	return false
}

// mayRetry tells whether the request that failed with f is tried once more, and
// takes what that costs from the budget of extra tries. x.pause is how long to
// wait before.
func (x *exchange) mayRetry(f fault.Kind, now int64) bool {
	r := x.route.Retry
	return r != nil && r.covers(f) && x.affords(r, 0, now)
}

// affords settles everything about a repetition but the reason. least is the
// wait that the target asked for, in nanoseconds.
func (x *exchange) affords(r *Retry, least, now int64) bool {
	if x.retries+1 >= r.Attempts || !x.isWhole || x.begun || x.upgrade || !r.NonIdempotent && !idempotent(x.req.Method) {
		return false
	}
	// Those that were all told the same time do not come back at the same time.
	x.pause = least + pool.Backoff(x.retries+2, int64(r.Backoff), int64(r.MaxBackoff))
	if x.deadline > 0 && now+x.pause >= x.deadline {
		return false
	}
	return x.route.Extra.Take(now)
}

// mostRetryAfter is the longest Retry-After that a request without a budget
// waits for.
const mostRetryAfter = int64(time.Second)

// discard passes over an answer whose status the policy repeats the request
// for. It is held until the next try begins: should there be none after all, it
// is still the client's. None is returned when the answer is to be used.
func (x *exchange) discard(conn *pool.Conn, p *pump) fault.Kind {
	r := x.route.Retry
	if r == nil || p != nil || !listed(r.Statuses, x.res.Status) {
		return fault.None
	}
	least := int64(0)
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; f.Kind == wire.RetryAfter {
			seconds, err := strconv.ParseInt(string(f.Value), 10, 32)
			if least = seconds * int64(time.Second); err != nil || x.deadline == 0 && least > mostRetryAfter {
				return fault.None
			}
		}
	}
	if !x.affords(r, max(least, 0), x.heard) {
		return fault.None
	}
	conn.Arm(x.until(x.heard + unbounded))
	x.held = conn
	return fault.TargetError
}

func listed(statuses []int, status int) bool {
	for _, s := range statuses {
		if s == status {
			return true
		}
	}
	return false
}

// settle gives back a connection whose answer nobody wants: to the pool when
// all of the answer is here, else it is closed.
func (x *exchange) settle(conn *pool.Conn) {
	x.client.up.Store(nil)
	if n := x.res.Length; n >= 0 && n <= int64(conn.W-conn.R) {
		conn.R += int(n)
		if !x.res.Close && conn.Settled() && conn.Disarm() {
			conn.Release(x.client.shard, x.heard)
			return
		}
	}
	conn.Close()
}

// rest waits before the next try. A client that leaves meanwhile ends it.
func (x *exchange) rest() fault.Kind {
	for until := wire.Nanotime() + x.pause; ; {
		left := until - wire.Nanotime()
		if left > 0 {
			time.Sleep(durationOf(min(left, abortCheck)))
		}
		if x.client.gone.Load() || x.client.HungUp() {
			x.client.gone.Store(true)
			if x.held != nil {
				x.settle(x.held)
				x.held = nil
			}
			return fault.ClientGone
		}
		if left <= abortCheck {
			return fault.None
		}
	}
}
