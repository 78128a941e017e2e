package proxy

import (
	"bytes"
	"runtime/debug"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/rs/zerolog"

	"sluice/cache"
	"sluice/fault"
	"sluice/observe"
	"sluice/pool"
	"sluice/wire"
)

// changes ends what is stored under the URIs that an unsafe request changed (RFC
// 9111 4.4), before its client hears that it did.
func (x *exchange) changes() {
	c := x.snapshot.Cache
	if c == nil || !cache.Invalidates(cache.MethodOf(x.req.Method), x.res.Status) {
		return
	}
	uri := func(path []byte) { c.Changed(cache.AppendURI(nil, x.scheme, x.req.Host, path)) }
	uri(x.path)
	for _, t := range cache.Targets(nil, x.scheme, x.req.Host, x.path, x.req.Query, x.res.Fields) {
		if path, ok := normalPath([]byte(t.Path), nil); ok {
			uri(path)
		}
	}
}

// keep decides whether the answer in x.res is kept, and sends it: what is kept
// from there, and all else as it comes. taken says that a fetch has the
// connection now.
func (x *exchange) keep(conn *pool.Conn) (f fault.Kind, taken bool) {
	k, p := &x.cached, x.route.Cache
	asked, answered := x.wall(x.sent), x.wall(x.heard)
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; x.snapshot.Settings.isRequestID(f) {
			f.Drop = true // it is that of one request
		}
	}
	tags := p.TakeTags(x.res.Fields)
	if k.ask.Method == cache.Head {
		x.keepHead(asked, answered)
		return x.relay(conn), false
	}
	reason := p.Admit(&k.entry, &k.ask, x.res.Status, x.res.Fields, asked, answered)
	if reason == cache.OK && x.fallback > 0 {
		reason = cache.StoodIn
	}
	if reason != cache.OK {
		x.refuse(reason)
		return x.relay(conn), false
	}
	k.status.Stored = true
	k.status.Timed, k.status.TTL = true, k.entry.At(answered).TTL
	k.extra = p.AppendExcluded(k.extra[:0], x.res.Fields)
	if !k.entry.Shareable() {
		x.endFill(cache.Refused, fault.None)
	}
	t := newFetch(x, conn, tags)
	if t.arrived() {
		o := t.object(t.first)
		t.put(o)
		if k.fill != nil {
			k.fill.Finish(o)
			x.leadsNoMore()
		}
		return x.sendStored(o, o.At(answered)), false
	}
	if t.fault != fault.None {
		x.begun = false
		return t.fault, false
	}
	return x.share(t)
}

// keepComposed stores the composed answer in x.res, whose body is here, and sends
// it from there. It is false when it is not one to store.
func (x *exchange) keepComposed(body []byte) (done bool, f fault.Kind) {
	k, p := &x.cached, x.route.Cache
	asked, answered := x.wall(x.start), x.wall(x.heard)
	tags := p.TakeTags(x.res.Fields)
	reason := p.Admit(&k.entry, &k.ask, x.res.Status, x.res.Fields, asked, answered)
	if reason != cache.OK {
		x.refuse(reason)
		return false, fault.None
	}
	k.status.Stored, k.status.Timed, k.status.TTL = true, true, k.entry.At(answered).TTL
	if !k.entry.Shareable() {
		x.endFill(cache.Refused, fault.None)
	}
	t := newFetch(x, nil, tags)
	o := t.object(body)
	t.put(o)
	if k.fill != nil {
		k.fill.Finish(o)
		x.leadsNoMore()
	}
	return true, x.sendStored(o, o.At(answered))
}

// keepHead brings what is stored up to date with the answer to a HEAD.
func (x *exchange) keepHead(asked, answered int64) {
	k, c := &x.cached, x.snapshot.Cache
	if k.object == nil || x.fallback > 0 {
		return
	}
	reason := x.route.Cache.FreshenHead(&k.entry, &k.object.Entry, &k.ask, x.res.Status, x.res.Fields, asked, answered)
	switch {
	case reason == cache.OK && bytes.Equal(k.entry.Vary, k.object.Vary):
		c.Keep(k.object.With(&k.entry, asked, k.generation), k.ticket)
	case x.res.Status < 500 && (reason == cache.OK || reason == cache.Partial || reason.OfAnswer()):
		c.Delete(k.object.Key)
	}
}

// refuse says why the answer is not kept, to the client and to those who wait.
func (x *exchange) refuse(reason cache.Reason) {
	k, c := &x.cached, x.snapshot.Cache
	k.status.Detail = reason
	if k.object != nil && x.res.Status < 500 && reason.OfAnswer() {
		c.Delete(k.object.Key) // the origin has another answer now
	}
	if x.fallback == 0 && k.whole && reason.OfAnswer() {
		c.Pass(k.key, x.wall(x.heard)/1e9+passFor)
	}
	if reason.OfAnswer() {
		x.endFill(cache.Refused, fault.None)
	} else {
		x.endFill(cache.Lost, fault.None) // it is only this request that gets nothing stored
	}
}

// revalidated settles a 304 to the gateway's own conditions. again says that it
// is not about what is stored, and the request is to be sent without them.
func (x *exchange) revalidated(conn *pool.Conn) (f fault.Kind, again bool) {
	k, c, p := &x.cached, x.snapshot.Cache, x.route.Cache
	asked, answered := x.wall(x.sent), x.wall(x.heard)
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; x.snapshot.Settings.isRequestID(f) {
			f.Drop = true
		}
	}
	tags := p.TakeTags(x.res.Fields)
	old := k.object
	reason := p.Freshen(&k.entry, &old.Entry, &k.ask, x.res.Fields, asked, answered)
	if reason == cache.Partial {
		k.validates, k.object = false, nil
		c.Delete(old.Key)
		x.settle(conn)
		return fault.None, true
	}
	next := old.With(&k.entry, asked, k.generation)
	if len(tags) > 0 {
		next.Tags = append(tags, cache.URISum(cache.URI(next.Key)))
	}
	k.status.FwdStatus, k.result = 304, observe.CacheRevalidated
	switch {
	case reason == cache.OK:
		next.Key = bytes.Clone(x.variant(next.Vary))
		x.remember(next)
		c.Keep(next, k.ticket)
		k.status.Stored = true
		k.status.Timed, k.status.TTL = true, next.At(answered).TTL
		if k.fill != nil && next.Shareable() {
			k.fill.Finish(next)
			x.leadsNoMore()
		}
	case reason.OfAnswer():
		c.Delete(old.Key)
		k.status.Detail = reason
	default:
		k.status.Detail = reason
		x.endFill(cache.Lost, fault.None) // it is only this request that gets nothing stored
	}
	x.endFill(cache.Refused, fault.None)
	x.settle(conn)
	return x.sendStored(next, next.At(answered)), false
}

// consult looks at the head of an answer before its attempt is judged: one that
// confirms what is stored ends the request, and one that is no use sends it once
// more.
func (x *exchange) consult(conn *pool.Conn) (f fault.Kind, done, again bool) {
	k := &x.cached
	switch {
	case x.fallback > 0:
	case k.validates && x.res.Status == 304:
		f, again = x.revalidated(conn)
		return x.goneOr(f), !again, again
	case k.whole && k.ask.Ranged() && x.res.Status == 200 && x.res.Length > int64(x.snapshot.Cache.Config.MaxObject):
		// It is too large to be kept, and the client wants a part of it only.
		x.refuse(cache.TooLarge)
		k.whole, k.validates, k.active = false, false, false
		x.settle(conn)
		return fault.None, false, true
	}
	return fault.None, false, false
}

// leadsNoMore is called when the fill that this request led has an end, or has a
// fetch of its own.
func (x *exchange) leadsNoMore() {
	x.cached.fill = nil
	x.client.leads.Store(nil)
}

// remember notes what the answers under the request's key vary with.
func (x *exchange) remember(o *cache.Object) {
	k := &x.cached
	if len(o.Vary) == 0 || k.lists.Knows(o.Vary) {
		return
	}
	list := cache.Remember(bytes.Clone(k.key), k.lists, o.Vary, o.Asked)
	list.Generation = o.Generation
	x.snapshot.Cache.Keep(list, k.ticket)
}

// share hands the connection to a fetch, so that however slow this client is,
// the others and the store are not: it reads what arrives like all of them.
func (x *exchange) share(t *fetch) (fault.Kind, bool) {
	k := &x.cached
	fill := k.fill
	if x.leadsNoMore(); fill == nil {
		fill = x.snapshot.Cache.Alone()
	}
	length := int64(-1)
	if !x.res.Chunked && !x.res.UntilClose {
		length = x.res.Length
	}
	o := t.object(nil)
	o.Length = length
	t.fill = fill
	reader := fill.Open(o, length, func() { t.conn.Cancel(t.conn.Deadline()) })
	fill.Append(t.first, readerPatience)
	x.back = make([]byte, backSize) // the fetch has the old one
	x.client.up.Store(nil)
	t.target.Begin()
	t.flights, t.log = &x.engine.flights, x.engine.log
	go t.run()
	return x.follow(o, length, reader, o.At(x.wall(x.heard))), true
}

// readerPatience is how long one who reads a body that is larger than what is kept
// may hold up the others.
const readerPatience = 2 * time.Second

// fetch reads the rest of an answer into a fill, and stores it.
type fetch struct {
	cache *cache.Cache
	arrival
	upstream *pool.Upstream
	target   *pool.Target
	shard    uint32
	heard    int64
	sums     bool   // others will be made of the body
	close    bool   // the target will not use the connection again
	first    []byte // of the body, what came with the head
	fault    fault.Kind

	log     zerolog.Logger
	flights *flights
	fill    *cache.Fill
	head    *cache.Object // the answer without its body
	primary []byte
	ticket  cache.Ticket
	list    *cache.Object // to be stored with it, or nil
}

// newFetch prepares to read the body of the answer that x has admitted.
func newFetch(x *exchange, conn *pool.Conn, tags []uint64) *fetch {
	k := &x.cached
	key := bytes.Clone(x.variant(k.entry.Vary))
	head := cache.NewObject(key, &k.entry, nil)
	head.Tags = append(tags, cache.URISum(cache.URI(key)))
	head.Asked, head.Generation = x.wall(x.sent), k.generation
	t := &fetch{
		cache: x.snapshot.Cache, arrival: newArrival(conn, &x.res), upstream: x.upstream, target: x.target, shard: x.client.shard, heard: x.heard,
		close: x.res.Close, head: head, primary: bytes.Clone(k.key), ticket: k.ticket,
	}
	t.sums = x.varies
	if t.sums {
		head.Sum = 1 // until the body is known
	}
	if len(head.Vary) > 0 && !k.lists.Knows(head.Vary) {
		t.list = cache.Remember(bytes.Clone(k.key), k.lists, head.Vary, head.Asked)
		t.list.Generation = head.Generation
	}
	return t
}

// object is the answer with a body, which is not copied.
func (t *fetch) object(body []byte) *cache.Object {
	o := t.head.Filled(body)
	if t.sums {
		o.Sum = xxhash.Sum64(body)
	}
	return o
}

// put stores o.
func (t *fetch) put(o *cache.Object) {
	if t.list != nil {
		t.cache.Keep(t.list, t.ticket)
	}
	t.cache.Keep(o, t.ticket)
}

// arrived takes what has come of the body, and is true when that is all of it.
func (t *fetch) arrived() bool {
	for {
		piece, done, f := t.buffered()
		if t.first = append(t.first, piece...); f != fault.None {
			t.fault = f
			return false
		}
		if done || len(piece) == 0 {
			return done
		}
	}
}

// run reads until the end, or until nobody wants it.
func (t *fetch) run() {
	defer t.target.End()
	defer t.rescue()
	f := fault.ClientGone
	if t.flights.begin(t.conn) {
		f = t.read()
		t.flights.end(t.conn)
	}
	now := wire.Nanotime()
	if f != fault.None && f != fault.ClientGone {
		t.upstream.Report(t.target, pool.Unticketed, 0, f, 0, now)
	}
	switch body, whole := t.fill.Body(); {
	case f == fault.ClientGone:
		t.fill.End(cache.Lost, 0)
	case f != fault.None:
		t.fill.End(cache.Failed, uint8(f))
	case whole && int64(len(body)) <= int64(t.cache.Config.MaxObject):
		o := t.object(body)
		t.put(o)
		t.fill.Finish(o)
	default:
		t.cache.Pass(t.primary, t.head.Asked/1e9+passFor)
		t.fill.Finish(nil)
	}
	if f == fault.None && !t.close && t.conn.Settled() && t.conn.Disarm() {
		t.conn.Release(t.shard, now)
	} else {
		_ = t.conn.Close()
	}
}

// rescue keeps a defect of ours from ending more than this answer.
func (t *fetch) rescue() {
	if defect := recover(); defect != nil {
		t.log.Error().Interface("defect", defect).Bytes("stack", debug.Stack()).Msg("answer for the cache given up")
		t.fill.End(cache.Failed, uint8(fault.Internal))
		_ = t.conn.Close()
	}
}

func (t *fetch) read() fault.Kind {
	idle := int64(t.upstream.Idle())
	for {
		piece, done, f := t.buffered()
		switch {
		case f != fault.None:
			return f
		case len(piece) > 0 && !t.append(piece):
			return fault.ClientGone
		case done:
			return fault.None
		case len(piece) > 0 && t.conn.R < t.conn.W:
			continue
		}
		t.conn.Arm(wire.Nanotime() + idle)
		if t.fill.Idle() {
			return fault.ClientGone // the deadline that Arm set must not outlast it
		}
		if err := t.conn.Fill(); err != nil {
			if t.fill.Idle() {
				return fault.ClientGone
			}
			if t.untilClose && isEOF(err) {
				return fault.None
			}
			return fault.AnswerCut
		}
	}
}

// append gives a piece to those who read. How long they take is not the target's
// fault.
func (t *fetch) append(piece []byte) bool {
	t.conn.Arm(t.heard + unbounded)
	return t.fill.Append(piece, readerPatience)
}
