package proxy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"

	"github.com/cespare/xxhash/v2"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// forward sends the request to its upstream and the answer to the client: a
// place in the upstream first, then the attempt loop.
func (x *exchange) forward() fault.Kind {
	if m := x.route.Mirror; m != nil && x.fallback == 0 {
		m.copy(x)
	}
	if f := x.keepBody(); f != fault.None {
		return f
	}
	u := x.upstream
	now := x.start
	if x.fallback > 0 || x.req.Length != 0 || x.verified || x.cached.told || x.route.Bulkhead.Queues() {
		now = wire.Nanotime() // there may have been a wait since the start
	}
	if f := u.Enter(x.route.Share, now, x.until(now+unbounded)); f != fault.None {
		return x.spent(f)
	}
	if c := u.Config.Concurrency; c != nil && c.Queue > 0 {
		now = wire.Nanotime()
	}
	x.unlimited = false
	f := fault.ClientGone
	if !x.client.left(x.start) {
		f = x.attempt(u, now)
	}
	if x.end == 0 {
		x.end = wire.Nanotime()
	}
	if !x.unlimited {
		u.LeaveLimit(x.felt(f, x.end), x.end)
	}
	u.LeavePlace()
	return f
}

// felt is the time to an answer as the adaptive limit is to see it, 0 when it
// tells nothing. A wait that was given up counts for as long as it lasted: an
// upstream that hangs gives no other sign. A quick failure does not count, or
// an outage would teach the limit that good answers are slow.
func (x *exchange) felt(f fault.Kind, now int64) int64 {
	switch {
	case x.sent == 0:
		return 0
	case x.heard > 0 && x.answered < 500:
		return x.heard - x.sent
	case x.heard == 0 && (f == fault.AnswerTimeout || f == fault.BudgetSpent):
		return now - x.sent
	}
	return 0
}

// spent is what a wait that ended with f came to: the end of the budget when
// that is what ended it.
func (x *exchange) spent(f fault.Kind) fault.Kind {
	switch f {
	case fault.QueueTimeout, fault.ConnectTimeout, fault.AnswerTimeout, fault.AnswerCut:
		if x.deadline > 0 && wire.Nanotime() >= x.deadline {
			return fault.BudgetSpent
		}
	}
	return f
}

// until is the end of a wait that would last to at: the request's own deadline
// when that comes first.
func (x *exchange) until(at int64) int64 {
	if x.deadline > 0 && x.deadline < at {
		return x.deadline
	}
	return at
}

// ending is what a try came to.
type ending uint8

const (
	ended   ending = iota // answered, or failed for good
	unsent                // nothing of the request left: another target may be tried at once
	retried               // the route's policy allows one more, after x.pause
)

// attempt is the attempt loop, the only loop over targets. A target that does
// not take the connection costs no attempt, for nothing of the request has been
// sent: the next one is tried at once. All else needs the retry policy's leave.
func (x *exchange) attempt(u *pool.Upstream, now int64) fault.Kind {
	if x.route.Extra != nil && x.fallback == 0 {
		x.route.Extra.Paid()
	}
	key := x.hashKey()
	x.tried = 0
	last, missed, granted, slow := fault.NoTarget, 0, false, false
	for {
		var t *pool.Target
		// More targets than Tried remembers would be missed for ever.
		if missed == 0 || missed < len(u.Targets()) {
			t = u.Pick(key, &x.tried, now)
		}
		if t == nil && slow {
			// Whoever is left would take too long. Not even to try is kinder
			// to both sides.
			return x.giveUp(fault.BudgetSpent)
		}
		if t == nil && last != fault.NoTarget {
			// Everyone has been tried once. Begin again.
			if !granted {
				if !x.mayRetry(last, now) {
					return last
				}
				x.retries++
				if f := x.rest(); f != fault.None {
					return f
				}
				now = wire.Nanotime()
			}
			x.tried, missed = 0, 0
			t = u.Pick(key, &x.tried, now)
		}
		if t == nil {
			return x.giveUp(last)
		}
		if x.deadline > 0 && !x.inTime(t, now) {
			slow = true
			if missed++; x.deadline-now < leastTry {
				return x.giveUp(fault.BudgetSpent)
			}
			continue
		}
		ticket, ok := u.Allow(now)
		if !ok {
			if last == fault.NoTarget {
				last = fault.BreakerOpen
			}
			return x.giveUp(last)
		}
		if x.held != nil {
			x.settle(x.held)
			x.held = nil
		}
		x.target, x.ticket, x.reported = t, ticket, false
		t.Begin()
		f, end := x.try(t, now)
		now = wire.Nanotime()
		x.report(f, now)
		t.End()
		granted = end == retried
		switch end {
		case ended:
			x.end = now
			return x.spent(f)
		case unsent:
			missed++
		case retried:
			x.retries++
			if f := x.rest(); f != fault.None {
				return f
			}
			now = wire.Nanotime()
		}
		last = f
	}
}

// giveUp ends the attempts with f. An answer that was passed over for the sake
// of a further try is the client's after all when there is none.
func (x *exchange) giveUp(f fault.Kind) fault.Kind {
	conn := x.held
	if conn == nil {
		return f
	}
	x.held = nil
	if x.intercepts(conn, nil) {
		return fault.TargetError
	}
	return x.deliver(conn, nil)
}

// report tells the upstream how the try ended, once: with its answer's head
// when the answer is one that may go on for long, else with its end.
func (x *exchange) report(f fault.Kind, now int64) {
	u := x.upstream
	if x.reported {
		if f == fault.AnswerCut || f == fault.BadAnswer {
			u.Report(x.target, pool.Unticketed, 0, f, 0, now)
		}
		return
	}
	x.reported = true
	took, status := int64(0), 0
	switch {
	case x.heard > 0:
		took, status = x.heard-x.sent, x.answered
		x.waited += took
		x.route.Usual.Add(took)
	case x.sent > 0:
		// It takes at least as long as was waited for it.
		if took = now - x.sent; f != fault.AnswerTimeout && f != fault.BudgetSpent {
			took = 0
		}
		x.waited += now - x.sent
	}
	if x.deadline > 0 && now >= x.deadline && x.blameless() {
		f = fault.ClientGone // tells nothing of the target
	}
	if x.slow != nil {
		// The second target answered, and its flight reported it.
		u.Outpaced(x.slow, x.ticket, took, now)
		x.slow = nil
		return
	}
	u.Report(x.target, x.ticket, status, outcomeOf(f, status), took, now)
}

// blameless tells whether the target is not to blame for a budget that is spent:
// the client used the time, or the caller gave less than the route does, or
// there was not even a connection yet.
func (x *exchange) blameless() bool {
	return x.shortened || x.uploading || x.heard > 0 || x.sent == 0
}

// outcomeOf is the fault of a try, None when there was an answer to judge.
func outcomeOf(f fault.Kind, status int) fault.Kind {
	if status != 0 && (f == fault.TargetError || f == fault.ClientGone || f == fault.ClientSlow) {
		return fault.None
	}
	return f
}

// inTime tells whether t is likely to answer within what is left of the budget:
// by its own recent median, or by that of this route, whichever is less, for a
// target may be slow for others only.
func (x *exchange) inTime(t *pool.Target, now int64) bool {
	usual := t.Median()
	if own := x.route.Usual.Quantile(50); own > 0 {
		usual = min(usual, own)
	}
	return x.deadline-now >= max(usual, leastTry)
}

// leastTry is how long a try takes at the very least, in nanoseconds.
const leastTry = 10_000

// staleTries is how many pooled connections that turn out to be dead a request
// tries before it asks for a new one.
const staleTries = 3

// try sends the request on a connection to t.
func (x *exchange) try(t *pool.Target, now int64) (fault.Kind, ending) {
	body, whole := x.kept, x.isWhole
	x.sent, x.heard, x.answered, x.end, x.uploading = 0, 0, 0, 0, false
	for n := 0; ; n++ {
		if n > 0 {
			now = wire.Nanotime()
		}
		conn, f := t.Get(x.client.shard, n > staleTries, now, x.until(now+x.perTry()))
		if f == fault.None && x.client.left(now) {
			// It waited for nothing: the client has gone, or has been cut.
			conn.Disarm()
			conn.Release(x.client.shard, now)
			return fault.ClientGone, ended
		}
		if f != fault.None {
			x.why = t.LastError()
			return x.unconnected(f)
		}
		x.tries++
		x.sent = now
		if x.reused = conn.Reused; !conn.Reused || conn.Waited {
			x.sent = wire.Nanotime()
			if !conn.Reused {
				x.connect += x.sent - now
			}
		}
		x.out = x.appendRequest(x.out[:0], t, body, whole, x.retries+x.hedges+1, x.sent)
		o, p := x.send(conn, whole)
		if second := x.settleHedge(conn, o); second != nil {
			// The second try answered first and stands in for this one.
			x.client.up.Store(nil)
			conn.Close()
			conn, o = second, pool.Outcome{}
			x.client.up.Store(conn)
			x.tries++
		}
		if x.why = ""; o.Err != nil {
			x.why = o.Err.Error()
		}
		if o.Fault == fault.None && p == nil && x.cached.active {
			f, done, again := x.consult(conn)
			if done {
				return f, ended
			}
			if again {
				continue
			}
		}
		if o.Fault == fault.None {
			if f := x.discard(conn, p); f != fault.None {
				return f, retried
			}
			if x.intercepts(conn, p) {
				return fault.TargetError, ended
			}
			return x.deliver(conn, p), ended
		}
		x.client.up.Store(nil)
		x.uploading = !p.finished()
		bodyFault := p.end(conn)
		stale := conn.Reused && whole && n <= staleTries && !errors.Is(o.Err, os.ErrDeadlineExceeded)
		conn.Close()
		switch {
		case x.client.gone.Load():
			return fault.ClientGone, ended
		case bodyFault != fault.None:
			return bodyFault, ended
		case conn.Reused && o.Unsent && n <= staleTries:
			// The target closed it before we wrote: as if we had not tried.
		case stale && o.Silent && idempotent(x.req.Method):
			// It closed it as we wrote. Whether it acted on the request
			// nobody knows, so only what may be repeated is (RFC 9110 9.2.2),
			// once and on a new connection.
			n = staleTries
		default:
			return x.failed(o.Fault)
		}
		x.tries--
	}
}

// unconnected settles a try that got no connection. Another target may have
// room where this one's queue is full; a wait in the queue is not done twice.
func (x *exchange) unconnected(f fault.Kind) (fault.Kind, ending) {
	switch f {
	case fault.ConnectFailed, fault.ConnectTimeout, fault.QueueFull:
		if x.deadline == 0 || wire.Nanotime() < x.deadline {
			return f, unsent
		}
	}
	return f, ended
}

// failed settles a try that was sent and got no answer.
func (x *exchange) failed(f fault.Kind) (fault.Kind, ending) {
	now := wire.Nanotime()
	if (x.deadline == 0 || now < x.deadline) && x.mayRetry(f, now) {
		return f, retried
	}
	return f, ended
}

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// send writes the request and reads until the head of its final answer is in
// x.res, handing on interim ones. A body that is streamed is sent by the pump
// that it returns, which may then still be at work.
func (x *exchange) send(conn *pool.Conn, whole bool) (pool.Outcome, *pump) {
	conn.Buf = x.back
	head := string(x.req.Method) == "HEAD"
	wait := x.responseTimeout()
	x.client.up.Store(conn)
	x.client.slot.CheckAt(x.sent + abortCheck)
	var o pool.Outcome
	var p *pump
	if whole {
		conn.Arm(x.until(x.sent + wait))
		x.armHedge(conn)
		o = conn.Send(x.out, &x.res, head)
	} else {
		conn.Arm(x.until(x.sent + unbounded))
		if o = conn.Start(x.out); o.Fault == fault.None {
			p = x.startPump(conn, wait)
			o = conn.NextHead(&x.res, head)
		}
	}
	for n := 0; o.Fault == fault.None && x.res.Status < 200; n++ {
		if x.res.Status == 101 {
			if !x.mayTunnel(p) {
				o = pool.Outcome{Fault: fault.BadAnswer}
			}
			break
		}
		if n == mostInterim {
			o = pool.Outcome{Fault: fault.BadAnswer}
			break
		}
		if err := x.interim(p); err != nil {
			x.client.gone.Store(true)
			o = pool.Outcome{Fault: fault.ClientGone, Err: err}
			break
		}
		o = conn.NextHead(&x.res, head)
	}
	x.back = conn.Buf
	p.answering()
	if o.Fault == fault.None {
		x.heard = wire.Nanotime()
		x.answered = x.res.Status
	}
	return o, p
}

// mostInterim bounds the interim answers to one request.
const mostInterim = 32

// unbounded is a wait that does not end by itself.
const unbounded = int64(1) << 60

// perTry is how long one try may take to the head of its answer, connecting and
// waiting for a connection included.
func (x *exchange) perTry() int64 {
	if r := x.route.Retry; r != nil && r.PerTry > 0 {
		return int64(r.PerTry)
	}
	return unbounded
}

// responseTimeout is how long the head of one try's answer may take.
func (x *exchange) responseTimeout() int64 {
	wait := int64(x.upstream.Response())
	if t := x.route.ResponseTimeout; t > 0 {
		wait = int64(t)
	}
	if r := x.route.Retry; r != nil && r.PerTry > 0 {
		wait = min(wait, int64(r.PerTry))
	}
	return wait
}

// keepBody decides whether the request's body is kept, so that it can be sent
// more than once, or streamed. A body up to the retry policy's bound is read
// whole first.
func (x *exchange) keepBody() fault.Kind {
	if x.isWhole {
		return fault.None // a fallback's turn
	}
	if x.kept, x.isWhole = x.whole(); x.isWhole {
		return fault.None
	}
	r := x.route.Retry
	if r == nil || x.body.chunked || x.req.Expect || x.body.left > r.MaxBody || x.upgrade {
		return fault.None
	}
	var kept []byte // grows with what comes, not with what is promised
	for {
		wait := x.until(wire.Nanotime()+int64(x.snapshot.Settings.BodyTimeout)) - wire.Nanotime()
		piece, err := x.readBody(durationOf(wait))
		kept = append(kept, piece...)
		if x.body.done {
			x.kept, x.isWhole = kept, true
			return fault.None
		}
		if err != nil {
			return faultOfBody(err)
		}
	}
}

// hashKey is what identifies the caller for consistent hashing.
func (x *exchange) hashKey() uint64 {
	header, cookie, path, needed := x.upstream.HashBy()
	if !needed {
		return 0
	}
	switch {
	case header != "":
		if v, ok := x.header(header); ok {
			return xxhash.Sum64(v)
		}
	case cookie != "":
		if v := x.cookie(cookie); v != nil {
			return xxhash.Sum64(v)
		}
	case path:
		return xxhash.Sum64(x.path)
	}
	ip := x.caller.As16()
	return xxhash.Sum64(ip[:])
}

// header is the value of the request's first field of this name.
func (x *exchange) header(name string) ([]byte, bool) {
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; len(f.Name) == len(name) && bytes.EqualFold(f.Name, []byte(name)) {
			return f.Value, true
		}
	}
	return nil, false
}

// cookie is the value of the request's cookie of this name, or nil.
func (x *exchange) cookie(name string) []byte {
	for i := range x.req.Fields {
		if x.req.Fields[i].Kind != wire.Cookie {
			continue
		}
		for list := x.req.Fields[i].Value; len(list) > 0; {
			var pair []byte
			pair, list, _ = bytes.Cut(list, []byte{';'})
			if k, v, ok := bytes.Cut(wire.TrimOWS(pair), []byte{'='}); ok && string(k) == name {
				return v
			}
		}
	}
	return nil
}

// Split shares requests between upstreams by weight.
type Split struct {
	To     []SplitTo
	Cookie string // keeps a client on its side; set where it is missing
	Header string // keeps requests with one value on one side
	upTo   []uint64
	sum    uint64
}

// SplitTo is one side of a split.
type SplitTo struct {
	Upstream *pool.Upstream
	Weight   int
}

func (s *Split) compile() {
	for _, to := range s.To {
		s.sum += uint64(to.Weight)
		s.upTo = append(s.upTo, s.sum)
	}
}

// choose finds the side that x belongs to.
func (s *Split) choose(x *exchange) *pool.Upstream {
	if s.Header != "" {
		if v, ok := x.header(s.Header); ok {
			return s.at(xxhash.Sum64(v) % s.sum)
		}
	}
	if s.Cookie != "" {
		side := x.cookie(s.Cookie)
		for _, to := range s.To {
			if to.Weight > 0 && string(side) == to.Upstream.Name {
				return to.Upstream
			}
		}
	}
	u := s.at(rand.Uint64N(s.sum))
	if s.Cookie != "" {
		x.sticky = u.Name
	}
	return u
}

func (s *Split) at(n uint64) *pool.Upstream {
	for i, upTo := range s.upTo {
		if n < upTo {
			return s.To[i].Upstream
		}
	}
	return s.To[len(s.To)-1].Upstream
}
