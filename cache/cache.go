// Package cache answers requests from memory as a shared cache of RFC 9111.
//
// The policy half, described first, is pure: functions of bytes and of the time
// that the caller passes in, without IO, clock or lock. The store beside it
// keeps what the policy admits.
//
//	request ── Policy.Read ──> Ask ── Ask.Bypass ─────────────> forward, store nothing
//	                            │
//	                            ├── Policy.AppendKey ──> primary key ──┐
//	                            ├── AppendVariant ─────> variant ──────┴─> store ──> *Entry
//	                            │
//	                            └── Decide(ask, entry, now) ──> Verdict
//	                                  Fresh, Stale   NotModified: 304; Parts: 206, 416; else 200
//	                                  Validate       AppendConditions; then Freshen, or StaleOnError
//	                                  Miss           forward
//	                                  Refuse         504 (only-if-cached)
//	answer ── Policy.Admit ──> Entry, or the Reason why not
//	       ── Invalidates, Targets ──> what an unsafe request makes stale
//
// A Policy is compiled once for each route and never changes. An Ask is what a
// request says to caches, read in one pass. An Entry holds the facts of a stored
// answer as numbers, so that a hit is decided by comparing them; nothing of a
// stored head is parsed again.
//
// Invariants: what is forwarded is what is keyed (see AppendQuery); whatever
// cannot be understood makes an answer less usable, never more; must-revalidate,
// proxy-revalidate and no-cache of an origin are never overruled by a route's
// allowance for stale answers, only by its ignore; an answer to one caller is not given to another
// unless the origin or the route says so.
//
// The other half keeps what the policy admits. A Store holds objects in bounded
// memory: two bigcaches and a lock-free hot tier; it purges by marks. Fills are
// answers on their way into it, which those who miss one key together share. A Fleet
// purges together with other gateways and keeps answers on their Redis. A Cache is
// the three for one gateway.
//
// Nothing of the policy blocks. Read, AppendKey, AppendQuery, AppendVariant, Decide,
// NotModified, Parts and the header writers allocate nothing when their
// buffers are large enough. Admit allocates for a targeted Cache-Control field;
// Freshen and Targets allocate.
//
// Times are Unix nanoseconds and lengths of time are nanoseconds, except where a
// name says seconds.
package cache

// Reason says why a request was not answered from memory, or an answer not
// kept. It is the detail in Cache-Status and a label in metrics.
type Reason uint8

// The reasons.
const (
	OK Reason = iota

	// Why the cache is passed by.
	ByMethod       // the method is none that the route caches
	ByBody         // a GET or HEAD with a body, which is no part of the key
	ByHeader       // a header that changes what is asked for and is not keyed
	ByCondition    // the route's bypass
	ByPrecondition // If-Match or If-Unmodified-Since: the origin's to decide
	ByQuery        // more parameters than are sorted or chosen from
	ByUpgrade      // the request is to change the protocol
	Unknown        // who calls has no name that could be keyed

	// Why an entry is not used as it is.
	Absent        // nothing is stored
	Expired       // it is stale
	NoCacheStored // the origin asks for validation each time
	NoCacheAsked  // the client does
	TooOld        // older than the client's max-age
	NotFreshLong  // not fresh for as long as the client's min-fresh
	SoftPurged    // it was made stale by a purge or an unsafe request

	// Why an answer is not kept.
	NoStoreAsked
	NoStore
	Private
	Authorized // to a request with credentials, without the origin's leave
	CookieSent // for a request with cookies or credentials, or without, where only the route's ttl keeps it
	SetsCookie
	StatusNot // the status is none that is kept
	Partial   // 206 and 304 are no whole answers
	VaryStar
	VaryOwn  // it varies with a field that the gateway writes itself
	VaryLong // it names more fields than are compared
	NoLife   // never fresh, and without a validator
	TooLarge
	Malformed // a Cache-Control that cannot be read
	Events    // a stream of events, which is not the same for who comes later
	StoodIn   // a fallback gave it
	reasons
)

var reasonNames = [reasons]string{
	OK: "ok", ByMethod: "method", ByBody: "request-body", ByHeader: "unkeyed-header", ByCondition: "bypass",
	ByPrecondition: "precondition", ByQuery: "query-parameters", ByUpgrade: "upgrade", Unknown: "no-subject",
	Absent: "absent", Expired: "expired", NoCacheStored: "no-cache", NoCacheAsked: "request-no-cache",
	TooOld: "request-max-age", NotFreshLong: "request-min-fresh", SoftPurged: "purged",
	NoStoreAsked: "request-no-store", NoStore: "no-store", Private: "private", Authorized: "authorized",
	CookieSent: "request-cookie", SetsCookie: "set-cookie", StatusNot: "status", Partial: "partial",
	VaryStar: "vary-any", VaryOwn: "vary-own-field", VaryLong: "vary-too-long", NoLife: "no-freshness",
	TooLarge: "too-large", Malformed: "malformed-cache-control", Events: "event-stream", StoodIn: "fallback",
}

// String is the reason in a word: a token, for Cache-Status and for metrics.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "unknown"
}

// OfAnswer tells whether r lies with the origin's answer, so that others who ask
// for the same will not be given one that is kept either.
func (r Reason) OfAnswer() bool {
	switch r {
	case NoStore, Private, SetsCookie, StatusNot, VaryStar, VaryOwn, VaryLong, NoLife, TooLarge, Malformed, Events:
		return true
	}
	return false
}

// Reasons are all reasons in words, by their number.
func Reasons() []string { return reasonNames[:] }

const (
	second = int64(1e9)

	// maxDelta is the greatest delta-seconds (RFC 9111 1.2.2). Larger ones
	// count as this.
	maxDelta = 1 << 31
)
