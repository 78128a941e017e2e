package proxy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// Hedge is a route's policy of asking a second target when the first is slow:
// the first answer wins and the other try is cancelled. It is for requests
// that may be repeated, and costs of the route's budget of extra tries.
type Hedge struct {
	After      time.Duration // 0: after Percentile
	Percentile int           // of the upstream's recent answer times: 50, 90, 95 or 99
}

// hedge is the second try of a request. Until it is due it is a word in the
// first connection's slot; then the watch rings it, and it flies in a goroutine
// of its own with buffers of its own. Two hold it, the request and the flight,
// and the last to let go gives it back, so that a request whose first try wins
// waits for nobody.
//
// winner is taken once, by the first of the two that has the head of an answer.
// alone says that the first try has ended without a good one, and the client
// waits for the flight.
type hedge struct {
	state  atomic.Int32
	winner atomic.Int32
	held   atomic.Int32
	conn   atomic.Pointer[pool.Conn] // of the flight
	flown  sync.WaitGroup

	x      *exchange // until the flight begins
	first  *pool.Conn
	at     int64   // the first connection's deadline, for Cancel
	client *client // who waits
	alone  atomic.Bool

	upstream *pool.Upstream
	target   *pool.Target
	ticket   pool.Ticket
	route    *Route
	shard    uint32
	head     bool
	wait     int64 // for the head of the answer
	deadline int64 // 0 for none
	out      []byte
	back     []byte
	res      wire.Response
	heard    int64
}

const (
	hedgeArmed  int32 = iota
	hedgeFlying       // the flight has all it needs and no longer looks at the exchange
	hedgeOff          // rung, but there was nobody to ask or no budget for it
)

const (
	nobody int32 = iota
	firstWins
	secondWins
)

var hedges = sync.Pool{New: func() any { return &hedge{back: make([]byte, backSize)} }}

// armHedge asks for a second try if the first has no answer in time.
func (x *exchange) armHedge(conn *pool.Conn) {
	p := x.route.Hedge
	if p == nil || x.upgrade || !idempotent(x.req.Method) {
		return
	}
	after := int64(p.After)
	if after == 0 {
		if after = x.upstream.Quantile(p.Percentile); after == 0 {
			return // too little is known yet
		}
	}
	h := hedges.Get().(*hedge)
	h.x, h.first, h.at, h.client = x, conn, conn.Deadline(), x.client
	h.alone.Store(false)
	h.state.Store(hedgeArmed)
	h.winner.Store(nobody)
	h.held.Store(1)
	x.hedge = h
	conn.RingAt(x.sent+after, h)
}

// Ring is called by the watch when the second try is due. The request is
// waiting for the first one meanwhile, or for this to be over.
func (h *hedge) Ring(now int64) {
	x := h.x
	tried := x.tried
	t := x.upstream.Pick(x.hashKey(), &tried, now)
	if t == nil || t == h.first.Target || x.deadline > 0 && x.deadline-now < max(t.Median(), 1) || !x.route.Extra.Take(now) {
		h.state.Store(hedgeOff)
		return
	}
	ticket, ok := x.upstream.Allow(now)
	if !ok {
		h.state.Store(hedgeOff)
		return
	}
	x.tried = tried
	h.upstream, h.target, h.ticket, h.route = x.upstream, t, ticket, x.route
	h.shard, h.head = x.client.shard, string(x.req.Method) == "HEAD"
	h.wait, h.deadline = x.responseTimeout(), x.deadline
	h.out = x.appendRequest(h.out[:0], t, x.kept, true, x.retries+x.hedges+2, now)
	h.x = nil
	h.held.Add(1)
	h.flown.Add(1)
	t.Begin()
	h.state.Store(hedgeFlying)
	go h.fly(now)
}

// fly is the second try.
func (h *hedge) fly(now int64) {
	defer h.letGo()
	defer h.flown.Done()
	defer h.target.End()
	until := now + h.wait
	if h.deadline > 0 {
		until = min(until, h.deadline)
	}
	conn, o, sent, f := h.ask(now, until)
	if f != fault.None {
		h.upstream.Report(h.target, h.ticket, 0, f, 0, wire.Nanotime())
		return
	}
	if conn == nil {
		return // the race was over before anything was sent
	}
	for n := 0; n < mostInterim && o.Fault == fault.None && h.res.Status < 200 && h.res.Status != 101; n++ {
		o = conn.NextHead(&h.res, h.head)
	}
	h.back = conn.Buf
	h.heard = wire.Nanotime()
	good := o.Fault == fault.None && h.res.Status >= 200 && !h.route.repeats(h.res.Status)
	if good && h.winner.CompareAndSwap(nobody, secondWins) {
		h.upstream.Report(h.target, h.ticket, h.res.Status, fault.None, h.heard-sent, h.heard)
		h.first.Cancel(h.at)
		return
	}
	switch {
	case h.winner.Load() == firstWins || h.client.gone.Load():
		// Cancelled, or too late: it says nothing against the target.
		h.upstream.Report(h.target, h.ticket, 0, fault.ClientGone, 0, h.heard)
	case o.Fault == fault.None:
		h.upstream.Report(h.target, h.ticket, h.res.Status, fault.None, h.heard-sent, h.heard)
	default:
		h.upstream.Report(h.target, h.ticket, 0, o.Fault, 0, h.heard)
	}
	h.conn.Store(nil)
	h.client.up.CompareAndSwap(conn, nil)
	conn.Close()
}

// ask sends the request on a connection, a pooled one that turns out to be dead
// being as good as none. It returns no connection when the race was over before
// anything was sent.
func (h *hedge) ask(now, until int64) (conn *pool.Conn, o pool.Outcome, sent int64, f fault.Kind) {
	for n := 0; ; n++ {
		if conn, f = h.target.Get(h.shard, n > 0, now, until); f != fault.None {
			return nil, o, 0, f
		}
		sent = wire.Nanotime()
		if h.winner.Load() != nobody || h.client.gone.Load() {
			conn.Release(h.shard, sent)
			h.upstream.Report(h.target, h.ticket, 0, fault.ClientGone, 0, sent)
			return nil, o, 0, fault.None
		}
		conn.Buf = h.back
		conn.Arm(until)
		h.conn.Store(conn)
		if h.alone.Load() {
			h.client.up.Store(conn)
		}
		if h.winner.Load() != nobody {
			// It was decided in between, by one who may not have seen conn: of
			// the two at least the later sees the other. He may have ended its
			// waits, so it is not for the pool.
			h.conn.Store(nil)
			h.client.up.CompareAndSwap(conn, nil)
			conn.Close()
			h.upstream.Report(h.target, h.ticket, 0, fault.ClientGone, 0, sent)
			return nil, o, 0, fault.None
		}
		o = conn.Send(h.out, &h.res, h.head)
		if !conn.Reused || !o.Unsent && !o.Silent || o.Fault != fault.TargetReset || n > 0 || h.winner.Load() != nobody {
			return conn, o, sent, fault.None
		}
		h.back = conn.Buf
		h.conn.Store(nil)
		h.client.up.CompareAndSwap(conn, nil)
		conn.Close()
	}
}

// letGo gives h back when nobody holds it any more.
func (h *hedge) letGo() {
	if h.held.Add(-1) > 0 {
		return
	}
	h.x, h.first, h.client = nil, nil, nil
	h.upstream, h.target, h.route = nil, nil, nil
	if len(h.back) > backSize {
		h.back = make([]byte, backSize)
	}
	if cap(h.out) > 4*outSize {
		h.out = nil
	}
	hedges.Put(h)
}

// repeats tells whether an answer of this status is one to try again for, or
// would commonly be where the route does not say.
func (r *Route) repeats(status int) bool {
	if r.Retry == nil {
		return status >= 502 && status <= 504
	}
	return listed(r.Retry.Statuses, status)
}

// settleHedge ends the race after the first try ended with o. When the second
// try's answer is the request's, it is now in x.res and x.back, and the
// connection that its body comes from is returned; else nil is.
func (x *exchange) settleHedge(conn *pool.Conn, o pool.Outcome) *pool.Conn {
	h := x.hedge
	if h == nil {
		return nil
	}
	x.hedge = nil
	defer h.letGo()
	if conn.Unring(h) {
		return nil // it was never due
	}
	for h.state.Load() == hedgeArmed {
		runtime.Gosched() // the watch is just ringing it
	}
	if h.state.Load() == hedgeOff {
		return nil
	}
	x.hedges++
	// An answer that the route would try again for is no victory while the
	// other try may still bring a good one.
	good := o.Fault == fault.None && !x.route.repeats(x.res.Status)
	if (good || x.client.gone.Load()) && h.winner.CompareAndSwap(nobody, firstWins) {
		if second := h.conn.Load(); second != nil {
			second.Expire()
		}
		return nil
	}
	h.alone.Store(true)
	if second := h.conn.Load(); second != nil {
		x.client.up.Store(second)
	}
	h.flown.Wait()
	if h.winner.Load() != secondWins {
		return nil
	}
	second := h.conn.Swap(nil)
	x.res, h.res = h.res, x.res
	x.back, h.back = h.back, conn.Buf
	x.heard, x.answered = h.heard, x.res.Status
	x.slow, x.target = x.target, h.target
	return second
}
