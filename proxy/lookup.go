package proxy

import (
	"bytes"
	"encoding/binary"
	"time"

	"sluice/cache"
	"sluice/fault"
	"sluice/observe"
	"sluice/wire"
)

// cached is what a request has to do with the cache. It belongs to one exchange
// and is reused with it.
//
//	lookup ── fresh ──────────────────────────────> sendStored
//	   │ ──── stale, allowed ── refresh behind it ─> sendStored
//	   │ ──── somebody asks for the same ──────────> await ──> sendStored, follow
//	   └───── stale, or not there ── answer ── keep ─> sendStored, follow; or relay
//	                                   └── 304 ── revalidated ─> sendStored
//	recover ── stale, allowed on error ───────────> sendStored
type cached struct {
	active bool // the route caches, and the request does not pass the cache by
	told   bool // Cache-Status is to be sent
	ask    cache.Ask
	key    []byte // primary
	full   []byte // with the variant, or with what a fill is joined by
	query  []byte // as it is keyed
	target []byte // what else the target sees
	// requery: the target is to see query and not the client's.
	requery bool
	// whole: the target is asked for the whole answer without conditions of the
	// client's; these are decided here.
	whole bool
	// validates: the target is asked whether object is still good.
	validates  bool
	lists      *cache.Object // what is stored under key is a list of variants
	object     *cache.Object // what is stored and may not be sent as it is
	fill       *cache.Fill   // that this request leads
	generation uint32
	ticket     cache.Ticket // of the gateways' second tier
	status     cache.Status
	result     observe.CacheResult
	extra      []byte      // lines of the answer that this client gets and nobody else
	entry      cache.Entry // of the answer, while it is admitted
}

func (k *cached) clear() {
	if !k.told {
		return
	}
	k.active, k.told, k.requery, k.whole, k.validates = false, false, false, false, false
	k.lists, k.object, k.fill, k.ticket = nil, nil, nil, cache.Ticket{}
	k.status, k.result = cache.Status{}, observe.CacheNone
	k.extra = k.extra[:0]
	k.ask = cache.Ask{}
	if cap(k.entry.Head) > outSize {
		k.entry = cache.Entry{}
	}
}

// passFor is how long, in seconds, requests for what could not be kept do not
// wait for each other.
const passFor = 10

// mostQuery bounds the body of a QUERY that is keyed.
const mostQuery = 64 << 10

// lookup answers from memory where that may be, and prepares the request for
// being sent to a target where it may not.
func (x *exchange) lookup() fault.Kind {
	p := x.route.Cache
	if p == nil {
		return fault.None
	}
	k := &x.cached
	k.told = true
	p.Read(&k.ask, &x.req, x.trusted)
	k.ask.Identified = x.proof.N > 0
	if f := x.makeKey(); f != fault.None {
		return f
	}
	if why := k.ask.Bypass; why != cache.OK {
		k.status = cache.Status{Fwd: cache.FwdOf(why, false), Detail: why}
		k.result = observe.CacheBypass
		if k.ask.OnlyIfCached() {
			return fault.NotStored
		}
		return fault.None
	}
	k.active = true
	o := x.findStored()
	v := cache.Decide(&k.ask, entryOf(o), x.wall(x.start))
	switch v.Use {
	case cache.Fresh, cache.Allowed:
		return x.sendHit(o, v, observe.CacheHit)
	case cache.Stale:
		x.refresh(o)
		return x.sendHit(o, v, observe.CacheStale)
	case cache.Refuse:
		k.status = cache.Status{Fwd: cache.FwdOf(v.Why, k.lists != nil), Detail: v.Why}
		k.result = observe.CacheMiss
		return fault.NotStored
	}
	return x.miss(o, v)
}

func entryOf(o *cache.Object) *cache.Entry {
	if o == nil {
		return nil
	}
	return &o.Entry
}

// wall is the time t of this process's clock in Unix nanoseconds.
func (x *exchange) wall(t int64) int64 {
	if t == x.start && x.verified {
		t = wire.Nanotime() // who calls may have taken a while to tell
	}
	return x.when.UnixNano() + t - x.start
}

// makeKey writes the request's key. What the target will see of it is what is
// keyed.
func (x *exchange) makeKey() fault.Kind {
	k, p, r := &x.cached, x.route.Cache, x.route
	k.key = k.key[:0]
	if k.ask.Bypass != cache.OK {
		return fault.None
	}
	if r.Split != nil {
		x.upstream = r.Split.choose(x)
	}
	query, has := x.req.Query, x.req.HasQuery
	if has && len(r.credentials.query) > 0 {
		k.target = r.credentials.appendQuery(k.target[:0], query, "")
		if query, has = k.target, len(k.target) > 0; has {
			query = query[1:]
		}
	}
	var ok bool
	if k.query, ok = p.AppendQuery(k.query[:0], query, has); !ok {
		k.ask.Bypass = cache.ByQuery
		return fault.None
	}
	k.requery = p.ForwardsQuery()
	s := cache.Subject{Scheme: x.scheme, Host: x.req.Host, Path: x.path, Query: k.query, Claims: (*limitCaller)(x)}
	if p.ByIdentity() && x.proof.N > 0 {
		if s.Identity = x.identity(); s.Identity == nil {
			k.ask.Bypass = cache.Unknown
			return fault.None
		}
	}
	if k.ask.Method == cache.Query {
		var f fault.Kind
		if s.Body, f = x.keepWhole(mostQuery); f != fault.None {
			return f
		}
	}
	k.key = p.AppendKey(k.key, &k.ask, &s)
	if r.RawPath && !bytes.Equal(x.req.Path, x.path) {
		k.key = append(append(k.key, '\n'), x.req.Path...)
	}
	for _, t := range [...]*Template{r.Rewrite.path, r.Rewrite.host} {
		if t != nil {
			k.key = t.append(append(k.key, '\n'), x)
		}
	}
	if r.Split != nil {
		k.key = append(append(k.key, '\n'), x.upstream.Name...)
	}
	if r.Aggregate != nil {
		x.keyFacts(r.Aggregate)
	}
	return fault.None
}

// keyFacts adds to the key what the branches of an aggregation refer to: no policy
// of the route's can leave out what the whole is made of.
func (x *exchange) keyFacts(a *Aggregate) {
	k := &x.cached
	values := x.valuesOf(nil)
	for _, path := range a.Plan.Facts() {
		if path.First() == "request_id" {
			k.ask.Bypass = cache.ByCondition // no two wholes are the same
			return
		}
		v, ok := values(path)
		if !ok {
			k.key = append(k.key, '\n', '-')
			continue
		}
		k.key = append(binary.AppendUvarint(append(k.key, '\n', '+'), uint64(len(v))), v...)
	}
}

// identity is who the caller is, in a form that no other caller has; nil when an
// authenticator cannot tell.
func (x *exchange) identity() []byte {
	var b []byte
	for _, id := range x.proof.By[:x.proof.N] {
		subject, ok := id.Claim("sub")
		if !ok {
			subject = id.Subject
		}
		if subject == "" {
			return nil
		}
		b = append(append(append(append(b, id.Authenticator...), 0), subject...), 0)
	}
	return b
}

// findStored returns what is stored for the request, or nil.
func (x *exchange) findStored() *cache.Object {
	k, c := &x.cached, x.snapshot.Cache
	k.lists = nil
	o := c.Get(k.key)
	if o == nil || o.Lists == nil {
		return o
	}
	k.lists = o
	for _, list := range o.Lists {
		if v := c.Get(x.variant(list)); v != nil && v.Lists == nil {
			return v
		}
	}
	return nil
}

// variant is the key of the answer with this Vary to the request.
func (x *exchange) variant(vary []byte) []byte {
	k := &x.cached
	k.full = append(k.full[:0], k.key...)
	if len(vary) > 0 {
		k.full = x.route.Cache.AppendVariant(k.full, vary, &k.ask)
	}
	return k.full
}

// sendHit answers with o as it is stored.
func (x *exchange) sendHit(o *cache.Object, v cache.Verdict, result observe.CacheResult) fault.Kind {
	x.dropBody()
	k := &x.cached
	k.status.Timed, k.status.TTL = true, v.TTL
	k.result = result
	x.route.Stats.HitAge(time.Duration(v.Age) * time.Second)
	return x.sendStored(o, v)
}

// miss prepares the request for a target, or waits for one who asks for the same.
func (x *exchange) miss(o *cache.Object, v cache.Verdict) fault.Kind {
	k, c := &x.cached, x.snapshot.Cache
	now := x.wall(x.start)
	if v.Why == cache.CookieSent {
		o = nil // it is not for this caller, also not to be asked about
	}
	k.object, k.result = o, observe.CacheMiss
	k.status = cache.Status{Fwd: cache.FwdOf(v.Why, k.lists != nil), Detail: v.Why}
	if v.Why == cache.Absent {
		k.status.Detail = cache.OK
	}
	k.generation = c.Generation(cache.URI(k.key))
	if k.ask.Method == cache.Head {
		return fault.None
	}
	// Where it is not known that all get the same, callers are not made to wait for
	// each other, and their own conditions go to the target.
	shares := x.route.Cache.Common(&k.ask) && !c.Passes(k.key, now/1e9)
	if o != nil {
		shares, k.validates = o.Shareable(), o.Validates()
	}
	k.whole = shares || o != nil
	if !shares || x.route.CacheWait == 0 {
		if k.whole {
			f, _ := x.askFleet()
			return f
		}
		return fault.None
	}
	for until := x.until(wire.Nanotime() + int64(x.route.CacheWait)); ; {
		fill, leads := c.Join(x.fillKey())
		if leads {
			k.fill = fill
			x.client.leads.Store(fill)
			// Who led before may have come to the end just now.
			if again := x.findStored(); again != nil && again != o {
				if v := cache.Decide(&k.ask, &again.Entry, x.wall(wire.Nanotime())); v.Use == cache.Fresh {
					x.endFill(cache.Lost, fault.None)
					k.status = cache.Status{}
					return x.sendHit(again, v, observe.CacheHit)
				}
			}
			f, _ := x.askFleet()
			return f
		}
		f, lost := x.await(fill, until)
		if !lost {
			return f
		}
	}
}

// askFleet looks for what another gateway has stored. What it finds is stored
// here, and sent when it may be; else it is what the target is asked about.
func (x *exchange) askFleet() (f fault.Kind, answered bool) {
	k, c := &x.cached, x.snapshot.Cache
	if c.Fleet == nil {
		return fault.None, false
	}
	wait := x.until(unbounded) - wire.Nanotime()
	o, ticket, _ := c.Fleet.Get(k.key, durationOf(wait))
	k.ticket = ticket
	if o != nil && o.Lists != nil {
		c.Put(o)
		k.lists = o
		for _, list := range o.Lists {
			if o, ticket, _ = c.Fleet.Get(x.variant(list), durationOf(wait)); o != nil {
				break
			}
		}
		k.ticket = ticket
	}
	if o == nil || o.Lists != nil || k.object != nil && o.Stored <= k.object.Stored {
		return fault.None, false
	}
	c.Put(o)
	v := cache.Decide(&k.ask, &o.Entry, x.wall(wire.Nanotime()))
	switch {
	case v.Use == cache.Fresh, v.Use == cache.Allowed:
	case v.Why == cache.CookieSent:
		return fault.None, false
	default:
		k.object, k.validates = o, o.Validates()
		return fault.None, false
	}
	if k.fill != nil {
		k.fill.Finish(o)
		x.leadsNoMore()
	}
	k.status = cache.Status{}
	return x.sendHit(o, v, observe.CacheHit), true
}

// fillKey is what those have in common who may share an answer: the variant, as
// far as it is known, and that nothing was purged or changed between them.
func (x *exchange) fillKey() []byte {
	k := &x.cached
	var vary []byte
	if k.lists != nil {
		vary = k.lists.Lists[0]
	}
	key := x.variant(vary)
	k.full = x.snapshot.Cache.AppendEra(key, k.generation)
	return k.full
}

// await waits for what another request brings. lost says that it brings nothing
// and somebody else is to ask; done by await the request is answered, or has
// failed, or is to ask for itself.
func (x *exchange) await(fill *cache.Fill, until int64) (f fault.Kind, lost bool) {
	k := &x.cached
	defer fill.Leave()
	x.client.slot.CheckAt(wire.Nanotime() + abortCheck)
	for {
		phase, o, length, reason, changed := fill.State()
		switch phase {
		case cache.Asking:
			if f, over := x.pauseFor(changed, until); over {
				return f, false
			}
			continue
		case cache.Open, cache.Complete:
			v := cache.Decide(&k.ask, &o.Entry, x.wall(wire.Nanotime()))
			if v.Use != cache.Fresh && v.Use != cache.Allowed && v.Use != cache.Stale || !bytes.Equal(o.Key, x.variant(o.Vary)) {
				return fault.None, false
			}
			k.status = cache.Status{Fwd: k.status.Fwd, Collapsed: true, Timed: true, TTL: v.TTL}
			k.result = observe.CacheCollapsed
			x.dropBody()
			if phase == cache.Complete && int64(len(o.Body)) == o.Length {
				return x.sendStored(o, v), false
			}
			if r := fill.Read(); r != nil {
				return x.follow(o, length, r, v), false
			}
			k.result = observe.CacheMiss
			k.status.Collapsed, k.status.Timed = false, false
			return fault.None, false
		case cache.Failed:
			return fault.Kind(reason), false
		case cache.Lost:
			return fault.None, true
		}
		// Refused: what it is cannot be shared, so the client's own conditions hold.
		k.whole = k.object != nil
		return fault.None, false
	}
}

// pauseFor waits until changed is closed. over is true when the time has come
// instead, with None, or when nobody waits for the answer any more.
func (x *exchange) pauseFor(changed <-chan struct{}, until int64) (f fault.Kind, over bool) {
	left := until - wire.Nanotime()
	if left <= 0 {
		if x.deadline > 0 && wire.Nanotime() >= x.deadline {
			return fault.BudgetSpent, true
		}
		return fault.None, true
	}
	t := time.NewTimer(durationOf(min(left, abortCheck)))
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
		if x.client.gone.Load() || x.client.HungUp() {
			x.client.gone.Store(true)
			return fault.ClientGone, true
		}
	}
	return fault.None, false
}

// endFill ends the fill that this request leads, if it does.
func (x *exchange) endFill(phase cache.Phase, f fault.Kind) {
	if fill := x.cached.fill; fill != nil {
		x.cached.fill = nil
		x.client.leads.Store(nil)
		fill.End(phase, uint8(f))
	}
}

// failFill tells those who wait that there is no answer. They share what says
// nothing of this request; what a target may have failed with for its sake, another
// is to try.
func (x *exchange) failFill(f fault.Kind) {
	switch f {
	case fault.NoTarget, fault.QueueFull, fault.QueueTimeout, fault.ConnectFailed, fault.ConnectTimeout, fault.BreakerOpen, fault.Overloaded:
		x.endFill(cache.Failed, f)
	case fault.TargetError:
		if x.cached.object != nil {
			x.endFill(cache.Failed, f) // all have the same to stand in for it
			return
		}
		fallthrough
	default:
		x.endFill(cache.Lost, fault.None)
	}
}

// staleFor tells whether what is stored stands in for an answer of this status
// (RFC 5861 4).
func (x *exchange) staleFor(status int) bool {
	k := &x.cached
	return k.object != nil && x.fallback == 0 && cache.StaleOnError(&k.ask, &k.object.Entry, x.wall(x.heard), status)
}

// sendStale answers with what is stored in the place of what failed with f (RFC
// 5861 4).
func (x *exchange) sendStale(f fault.Kind) bool {
	k := &x.cached
	o := k.object
	if o == nil || x.begun || !standsIn(f) {
		return false
	}
	now := x.wall(wire.Nanotime())
	if !cache.StaleOnError(&k.ask, &o.Entry, now, 0) {
		return false
	}
	v := o.At(now)
	k.status = cache.Status{Fwd: cache.FwdStale, FwdStatus: x.answered, Timed: true, TTL: v.TTL, Detail: k.status.Detail}
	k.result = observe.CacheStaleOnError
	x.client.up.Store(nil)
	if f := x.sendStored(o, v); f != fault.None {
		x.fault = f
	}
	return true
}
