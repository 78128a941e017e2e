package proxy

import (
	"bytes"
	"io"
	"net"
	"time"

	"sluice/cache"
	"sluice/fault"
	"sluice/observe"
	"sluice/wire"
)

// refresh fetches o anew behind the client's back, which has had it stale (RFC
// 5861 3). The request goes the way of any other, from the choice of a target to
// the store, in an exchange of its own whose client is nobody.
func (x *exchange) refresh(o *cache.Object) {
	k, c := &x.cached, x.snapshot.Cache
	k.generation = c.Generation(cache.URI(k.key))
	key := x.fillKey()
	if c.Passes(key, x.when.Unix()) {
		return // it has just failed
	}
	if x.engine.nobodies.Load() > mostNobodies {
		return
	}
	fill, leads := c.Join(key)
	if !leads {
		fill.Leave()
		return
	}
	y := x.again()
	if y == nil {
		fill.End(cache.Lost, 0)
		return
	}
	z := &y.cached
	z.object, z.lists, z.fill, z.generation = o, k.lists, fill, k.generation
	z.whole, z.validates = true, o.Validates()
	z.full = append(z.full[:0], key...)
	go y.refreshes()
}

// refreshAgain is how long, in seconds, a refresh that failed is not tried again.
const refreshAgain = 2

// mostNobodies bounds refreshes, and branches, that are under way when one more
// refresh is to begin: clients do not wait for these, so nothing else does.
const mostNobodies = 1024

// again is the same request once more, for nobody. It is nil when its head
// cannot be copied.
func (x *exchange) again() *exchange {
	y := exchanges.Get().(*exchange)
	if len(y.in) < x.headLen {
		y.in = make([]byte, x.headLen)
	}
	copy(y.in, x.in[:x.headLen])
	y.engine, y.snapshot, y.route = x.engine, x.snapshot, x.route
	y.client = newNobody(x.client, y)
	y.when, y.start = x.when, x.start
	if n, err := y.req.Parse(y.in[:x.headLen], x.snapshot.Settings.Head); err != nil || n != x.headLen {
		y.client.end()
		return nil
	}
	if string(y.req.Method) == "HEAD" {
		y.req.Method = []byte("GET") // it is the whole that is wanted anew
	}
	y.headLen, y.r, y.w = x.headLen, x.headLen, x.headLen
	y.body.begin(&y.req)
	y.body.done = true
	y.kept, y.isWhole = append([]byte(nil), x.kept...), true
	y.caller, y.trusted, y.scheme = x.caller, x.trusted, x.scheme
	observe.NewID(&y.newID)
	y.id = y.newID[:]
	y.pathBuf = append(y.pathBuf[:0], x.path...)
	y.path = y.pathBuf
	y.values = x.values
	y.params = y.values[:len(x.params)]
	y.proof = x.proof
	y.upstream = x.upstream
	z, k := &y.cached, &x.cached
	z.active, z.told, z.requery = true, true, k.requery
	z.key, z.query = append(z.key[:0], k.key...), append(z.query[:0], k.query...)
	y.route.Cache.Read(&z.ask, &y.req, y.trusted)
	z.ask.Identified = k.ask.Identified
	z.ask.Control = cache.ParseControl(nil) // what the client said was about the answer that it has had
	z.status.Fwd = cache.FwdStale
	return y
}

// refreshes is the life of a request for nobody, from where its answer is found.
func (x *exchange) refreshes() {
	defer x.client.end()
	defer x.client.rescue()
	defer func() {
		if x.placed {
			x.route.Bulkhead.Leave()
		}
		x.endFill(cache.Lost, fault.None) // where nothing else ended it
	}()
	x.when = time.Now()
	x.start = wire.Stamp(x.when)
	x.setDeadline(&x.snapshot.Settings)
	key := bytes.Clone(x.cached.full)
	f := x.answer()
	if f != fault.None {
		x.failFill(f)
	}
	if f != fault.None || x.answered >= 500 {
		// A target that fails is not asked once for each request that has been
		// answered already.
		x.snapshot.Cache.Pass(key, time.Now().Unix()+refreshAgain)
	}
	x.route.Stats.Refreshed(x.cached.status.Stored)
}

// newNobody is a client that takes all that is sent to it.
func newNobody(c *client, x *exchange) *client { return newClientless(c, x, nowhere{}) }

// newClientless is a client of x that stands for c; what is sent to it goes to to.
func newClientless(c *client, x *exchange, to net.Conn) *client {
	conn := wire.NewConn(to, nil)
	conn.Remote, conn.TLS = c.Remote, c.TLS
	n := &client{Conn: conn, engine: c.engine, shard: c.shard, x: x, nobody: true}
	n.slot = c.engine.watch.Add(n)
	c.engine.live.Add(1) // which the end of a client takes back
	c.engine.nobodies.Add(1)
	return n
}

// nowhere is a connection that leads nowhere.
type nowhere struct{}

func (nowhere) Read([]byte) (int, error)         { return 0, io.EOF }
func (nowhere) Write(p []byte) (int, error)      { return len(p), nil }
func (nowhere) Close() error                     { return nil }
func (nowhere) LocalAddr() net.Addr              { return nil }
func (nowhere) RemoteAddr() net.Addr             { return nil }
func (nowhere) SetDeadline(time.Time) error      { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }
