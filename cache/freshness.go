package cache

// initialAge is corrected_initial_age (RFC 9111 4.2.3).
func initialAge(r *reply, asked, answered int64) int64 {
	apparent := int64(0)
	if r.date != noDate {
		// Date has whole seconds: with a finer clock here, an answer would be
		// up to a second old as it is made.
		apparent = min(max(answered/second-r.date, 0), maxDelta) * second
	}
	corrected := r.age*second + max(answered-asked, 0)
	return min(max(apparent, corrected), maxDelta*second)
}

// life says where a lifetime comes from.
type life uint8

const (
	lifeNone   life = iota // nothing is said: stale from the start
	lifeOrigin             // s-maxage, max-age, Expires
	lifeRoute              // ttl, negative_ttl
	lifeGuess              // the heuristic
	lifeUnfit              // it would be the route's, but the request had cookies
)

// lifetime is at which age an answer is stale (RFC 9111 4.2.1).
func (p *Policy) lifetime(a *Ask, r *reply, status int, e *Entry) (int64, life) {
	own := p.ownTTL(status)
	explicit, given := p.explicit(r, e.Date)
	if own > 0 && (!p.fallback || !given) {
		if a.cookies && !p.forAll(a, &r.control) {
			// The origin does not say that what it made for this cookie is for
			// all. Without the route's ttl it may still be fit.
			if given {
				return explicit, lifeOrigin
			}
			return 0, lifeUnfit
		}
		// The route's ttl is time in this cache, whatever age it came with.
		return e.Age + own, lifeRoute
	}
	if given {
		return explicit, lifeOrigin
	}
	if p.heuristic && !(a.cookies && !p.forAll(a, &r.control)) && r.modified != noDate && r.modified < e.Date && (byDefault(status) || r.control.has(FlagPublic)) {
		return min((e.Date-r.modified)/10*second, p.maxGuess), lifeGuess
	}
	return 0, lifeNone
}

// forAll tells whether what the origin made for one caller may be taken for
// fit for all that have its key, where the origin says nothing of how long.
func (p *Policy) forAll(a *Ask, c *Control) bool {
	return p.share == shareAll || p.share == shareIdentity && a.Identified || c.has(FlagPublic)
}

var cookieName = []byte("cookie")

// ownTTL is what the route gives an answer with this status.
func (p *Policy) ownTTL(status int) int64 {
	switch status {
	case 200, 203, 204, 300, 301, 308:
		return p.ttl
	case 404, 405, 410, 414, 501:
		return p.negative
	}
	if status >= 400 && len(p.statuses) > 0 {
		return p.negative // named in statuses, or it would not be admitted
	}
	return 0
}

// explicit is the lifetime that the origin gives: s-maxage before max-age
// before Expires. What cannot be read is stale.
func (p *Policy) explicit(r *reply, date int64) (int64, bool) {
	switch c := &r.control; {
	case c.SMaxAge != none:
		return c.SMaxAge * second, true
	case c.MaxAge != none:
		return c.MaxAge * second, true
	case r.expiring && r.expires == noDate:
		return 0, true
	case r.expiring:
		return min(max(r.expires-date, 0), maxDelta) * second, true
	}
	return 0, false
}

// Use is what is to be done with an entry for a request.
type Use uint8

// The uses.
const (
	Miss     Use = iota // forward the request
	Fresh               // send the entry
	Stale               // send the entry, and fetch it anew behind the client's back
	Allowed             // send the entry, stale as it is: the client allows it
	Validate            // forward the request with AppendConditions; without validators, as it is
	Refuse              // answer 504: the client wants nothing forwarded
)

// Verdict is a decision and its reason.
type Verdict struct {
	Use Use
	Why Reason
	Age int64 // in seconds, for the Age field
	TTL int64 // in seconds, negative when stale, for Cache-Status
}

// Decide says what is to be done with e, which has the request's key and
// variant, or nil, for the request that a was read from (RFC 9111 4). It does
// not look at a.Bypass, but for only-if-cached a request that passes by is
// refused too. It allocates nothing.
func Decide(a *Ask, e *Entry, now int64) Verdict {
	if e == nil {
		return a.orRefuse(Verdict{Use: Miss, Why: Absent})
	}
	if e.has(MarkAnonymous) && (a.cookies || a.authorized || a.Identified) {
		return a.orRefuse(Verdict{Use: Miss, Why: CookieSent})
	}
	age := e.age(now)
	left := e.Life - age
	v := Verdict{Use: Fresh, Age: min(age/second, maxDelta), TTL: wholeSeconds(left)}
	ask := &a.Control
	if !a.directives {
		ask = &silent
	}
	switch {
	case e.has(MarkInvalid):
		v.Use, v.Why = Validate, SoftPurged
	case e.has(MarkValidate):
		v.Use, v.Why = Validate, NoCacheStored
	case ask.has(FlagNoCache):
		v.Use, v.Why = Validate, NoCacheAsked
	case ask.MaxAge != none && (ask.MaxAge == 0 || age > ask.MaxAge*second) && !(left > 0 && e.has(MarkImmutable)):
		// What does not change is asked about for no-cache only (RFC 8246 2).
		v.Use, v.Why = Validate, TooOld
	case ask.MinFresh != none && left < ask.MinFresh*second:
		v.Use, v.Why = Validate, NotFreshLong
	case left > 0:
	default:
		v.Use, v.Why = e.stale(ask, -left), Expired
		if e.has(MarkPurged) {
			v.Why = SoftPurged
		}
	}
	if v.Use == Validate {
		return a.orRefuse(v)
	}
	return v
}

// silent is a request without directives.
var silent = ParseControl(nil)

// orRefuse turns what would be forwarded into a 504 where the client wants
// nothing forwarded (RFC 9111 5.2.1.7).
func (a *Ask) orRefuse(v Verdict) Verdict {
	if a.OnlyIfCached() {
		v.Use = Refuse
	}
	return v
}

// stale is the use of an entry that has been stale for over nanoseconds.
func (e *Entry) stale(ask *Control, over int64) Use {
	if !e.has(MarkNoStale) {
		switch {
		case ask.has(FlagMaxStaleAny), ask.MaxStale != none && over <= ask.MaxStale*second:
			return Allowed
		}
	}
	// A client that gave max-age wants nothing stale (5.2.1.1).
	if over <= e.SWR && e.SWR > 0 && ask.MaxAge == none {
		return Stale
	}
	return Validate
}

// StaleOnError tells whether e may be sent although the origin was asked and
// failed: status is what it answered, or 0 when there was no answer (RFC 9111
// 4.2.4, RFC 5861 4). The request's own stale-if-error counts too.
func StaleOnError(a *Ask, e *Entry, now int64, status int) bool {
	switch status {
	case 0, 500, 502, 503, 504:
	default:
		return false
	}
	if e.has(MarkValidate|MarkInvalid) || a.directives && a.Control.has(FlagNoCache) {
		return false
	}
	over := e.age(now) - e.Life
	if over <= 0 {
		return true // it was asked about at the client's wish only
	}
	if e.SIE > 0 && over <= e.SIE {
		return true
	}
	return !e.has(MarkNoStale) && a.directives && a.Control.SIE > 0 && over <= a.Control.SIE*second
}

// wholeSeconds is n in seconds, to the nearest one. What is stale is at least one
// second so.
func wholeSeconds(n int64) int64 {
	if n < 0 {
		return -((-n + second - 1) / second)
	}
	return (n + second/2) / second
}

// AppendAge writes the Age field line that every answer from the cache has
// (RFC 9111 4, 5.1).
func AppendAge(dst []byte, v Verdict) []byte {
	return append(appendInt(append(dst, "Age: "...), v.Age), "\r\n"...)
}
