package proxy

import (
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"sluice/auth"
	"sluice/cache"
	"sluice/encode"
	"sluice/fault"
	"sluice/limiter"
	"sluice/observe"
	"sluice/pool"
	"sluice/wire"
)

const (
	inSize   = 16 << 10 // a request's head and small body
	backSize = 16 << 10 // an answer's head and small body
	outSize  = 20 << 10 // what is sent: a head and what fits behind it
)

// exchange is one request and its answer. Exchanges are pooled: between two
// requests a connection holds none.
type exchange struct {
	engine   *Engine
	client   *client
	snapshot *Snapshot
	route    *Route

	// in[r:w] is what has been read from the client and not yet taken: behind
	// the head, its body and what comes after. The head's slices point into in.
	in      []byte
	r, w    int
	headLen int    // of a head that is whole and read, else 0
	out     []byte // being written, to the target and then to the client
	back    []byte // read from the target

	req     wire.Request
	res     wire.Response
	path    []byte // normal; what is matched and forwarded
	pathBuf []byte
	hostBuf []byte
	caller  netip.Addr // the client's address, by trusted hops
	trusted bool       // the peer is a trusted hop
	scheme  string
	params  []span
	values  [16]span
	found   fasthttp.RequestCtx // carries what the route index finds

	id      []byte
	idBuf   [128]byte
	newID   [32]byte
	body    body
	chunks  wire.Chunked // of the answer
	upgrade bool         // the client asked for one and may have it

	asked       auth.Request // what authenticators see
	proof       auth.Proof   // who calls
	cookies     []auth.Line  // for the answer, of a session that was renewed
	challenge   string       // for a refusal, instead of the route's own
	refused     bool         // the audit log is to hear of it, though there is no fault
	verified    bool         // identifying the caller may have taken a while
	preflighted bool         // it is a CORS preflight for the route
	anyone      bool         // the caller is not known, for it is only being explained

	told       *limiter.Limit   // the tightest limit, for the answer's header
	decision   limiter.Decision // of told
	places     [MostPlaces]limiter.Place
	entered    int    // of places
	shortened  bool   // the caller left less time than the route's budget
	uploading  bool   // the body was still being sent when the try ended
	unlimited  bool   // the place in the adaptive limit has been given back
	kept       []byte // the body, when it can be sent again
	isWhole    bool   // the body went into kept, or there is none
	deadline   int64  // of the request's budget, 0 for none
	pause      int64  // before the next try
	retries    int
	hedges     int
	hedge      *hedge
	slow       *pool.Target // what a second try stood in for
	tried      pool.Tried   // a second try that is due picks with it too
	held       *pool.Conn   // of an answer that was passed over, until the next try begins
	ticket     pool.Ticket
	reported   bool   // the try, to its upstream
	placed     bool   // it has a place in the route's bulkhead
	fallback   int    // which of the route's is next
	standingIn string // which one answers

	cached cached        // what it has to do with the cache
	coding encode.Coding // that the gateway gives the answer
	varies bool          // the answer is one that it may give a coding
	coded  []byte        // a body in it
	made   *cache.Object // or a stored one

	upstream *pool.Upstream
	target   *pool.Target
	tries    int
	reused   bool
	allow    string // methods, for a 405
	sticky   string // a cookie that keeps the client on its side of a split

	start, sent, heard, end int64
	connect, waited         int64 // sums over all tries: connecting, and waiting for the head
	when                    time.Time
	status                  int // sent to the client, 0 when none was
	answered                int // by the target
	bytesOut                int64
	fault                   fault.Kind
	why                     string // the fault in words, for the log
	close                   bool   // the client connection ends with this answer
	begun                   bool   // the answer's head is on its way
	record                  observe.Record
}

var exchanges = sync.Pool{New: func() any {
	return &exchange{
		in:   make([]byte, inSize),
		back: make([]byte, backSize),
		out:  make([]byte, 0, outSize),
	}
}}

// clear forgets the request and keeps the buffers.
func (x *exchange) clear() {
	x.snapshot, x.route = nil, nil
	x.path = nil
	x.params = nil
	x.trusted, x.upgrade = false, false
	x.upstream, x.target = nil, nil
	x.tries, x.reused, x.sticky, x.allow = 0, false, "", ""
	x.headLen = 0
	x.body.drop()
	x.sent, x.heard, x.connect, x.waited = 0, 0, 0, 0
	x.status, x.answered, x.bytesOut = 0, 0, 0
	x.kept, x.isWhole, x.deadline, x.pause, x.retries, x.hedges = nil, false, 0, 0, 0, 0
	x.hedge, x.slow, x.held, x.reported, x.placed, x.fallback, x.standingIn = nil, nil, nil, false, false, 0, ""
	x.why, x.told, x.shortened = "", nil, false
	x.proof.Forget()
	x.cached.clear()
	x.coding, x.varies, x.made = encode.Identity, false, nil
	if x.asked.Head != nil {
		x.asked = auth.Request{}
	}
	x.cookies, x.challenge, x.refused, x.verified, x.preflighted = nil, "", false, false, false
	x.fault, x.close, x.begun = fault.None, false, false
	x.out = x.out[:0]
}

// free gives x back. Buffers that a large head made grow are not kept.
func (x *exchange) free() {
	x.clear()
	x.engine, x.client = nil, nil
	x.r, x.w = 0, 0
	if len(x.in) > inSize {
		x.in = make([]byte, inSize)
	}
	if len(x.back) > backSize {
		x.back = make([]byte, backSize)
	}
	if cap(x.coded) > 4*outSize {
		x.coded = nil
	}
	if cap(x.out) > 4*outSize {
		x.out = make([]byte, 0, outSize)
	}
	exchanges.Put(x)
}

// str is b without a copy, for as long as b is not changed.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
