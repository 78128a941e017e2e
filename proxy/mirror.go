package proxy

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// Mirror copies requests to a shadow upstream. A copy is sent by a goroutine
// of its own, after the request has been read and before it is forwarded; its
// answer is read and dropped. When the shadow is slow copies are left out, and
// counted: the request itself never waits.
type Mirror struct {
	Upstream *pool.Upstream
	Share    float64 // of requests, 0 to 1
	MaxBody  int64   // larger bodies are not copied

	flying  atomic.Int64
	Sent    atomic.Uint64 // copies answered
	Failed  atomic.Uint64 // copies that got no answer
	Skipped atomic.Uint64 // copies left out: too large, or too many in flight
}

const (
	mostMirrored   = 256 // copies in flight
	mirrorAnswer   = 1 << 20
	mirrorDeadline = 30 * time.Second
)

// copy sends a copy of x on its way.
func (m *Mirror) copy(x *exchange) {
	if m.Share < 1 && rand.Float64() >= m.Share {
		return
	}
	body := x.kept // whole already, when its digest was compared
	if !x.isWhole {
		body = x.in[x.r : x.r+int(min(x.body.left, int64(x.w-x.r)))]
	}
	if x.req.Chunked || x.body.left > m.MaxBody || int64(len(body)) > m.MaxBody || x.body.left > int64(x.w-x.r) || len(x.req.Upgrade) > 0 {
		m.Skipped.Add(1)
		return
	}
	if m.flying.Add(1) > mostMirrored {
		m.flying.Add(-1)
		m.Skipped.Add(1)
		return
	}
	var tried pool.Tried
	t := m.Upstream.Pick(rand.Uint64(), &tried, x.start)
	if t == nil {
		m.flying.Add(-1)
		m.Failed.Add(1)
		return
	}
	own := x.upstream
	x.upstream = m.Upstream
	request := x.appendRequest(nil, t, body, true, 1, x.start)
	x.upstream = own
	head := string(x.req.Method) == "HEAD"
	shard := x.client.shard
	e := x.engine
	go func() {
		defer m.flying.Add(-1)
		if m.send(&e.flights, t, shard, request, head) {
			m.Sent.Add(1)
		} else {
			m.Failed.Add(1)
		}
	}()
}

// flights are the connections that carry copies for a shadow, and answers for the
// cache. Taking part costs a lock that
// no request waits for.
type flights struct {
	mu    sync.Mutex // guards what follows
	conns map[*pool.Conn]bool
	over  bool
}

// begin is false when there are to be no more of them.
func (f *flights) begin(c *pool.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	if f.conns == nil {
		f.conns = map[*pool.Conn]bool{}
	}
	f.conns[c] = true
	return true
}

func (f *flights) end(c *pool.Conn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}

// cut ends all in flight, and those still to come.
func (f *flights) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for c := range f.conns {
		c.Cancel(c.Deadline())
	}
}

func (m *Mirror) send(f *flights, t *pool.Target, shard uint32, request []byte, head bool) bool {
	now := wire.Nanotime()
	until := now + min(int64(m.Upstream.Response()), int64(mirrorDeadline))
	if m.Upstream.Enter(1, now, now) != fault.None {
		return false
	}
	defer m.Upstream.LeavePlace()
	defer m.Upstream.LeaveLimit(0, now)
	ticket, ok := m.Upstream.Allow(now)
	if !ok {
		return false
	}
	t.Begin()
	defer t.End()
	conn, none := t.Get(shard, false, now, until)
	if none != fault.None {
		m.Upstream.Report(t, ticket, 0, none, 0, wire.Nanotime())
		return false
	}
	conn.Buf = make([]byte, backSize)
	conn.Arm(until)
	if !f.begin(conn) {
		m.Upstream.Report(t, ticket, 0, fault.ClientGone, 0, wire.Nanotime())
		_ = conn.Close()
		return false
	}
	defer f.end(conn)
	var res wire.Response
	o := conn.Send(request, &res, head)
	for o.Fault == fault.None && res.Status < 200 && res.Status != 101 {
		o = conn.NextHead(&res, head)
	}
	heard := wire.Nanotime()
	took := heard - now
	if o.Fault != fault.None {
		took = 0
	}
	m.Upstream.Report(t, ticket, res.Status, o.Fault, took, heard)
	if o.Fault != fault.None {
		conn.Close()
		return false
	}
	if m.drop(conn, &res) && !res.Close && conn.Settled() && conn.Disarm() {
		conn.Release(shard, heard)
	} else {
		conn.Close()
	}
	return true
}

// drop reads the body of an answer, up to a bound.
func (m *Mirror) drop(conn *pool.Conn, res *wire.Response) bool {
	if res.Status == 101 {
		return false
	}
	var chunks wire.Chunked
	for left, read := res.Length, 0; ; {
		if res.Chunked {
			data, used, done, err := chunks.Next(conn.Buf[conn.R:conn.W])
			conn.R += used
			if read += len(data); done || err != nil {
				return err == nil
			}
			if used > 0 {
				continue
			}
		} else if !res.UntilClose {
			n := min(left, int64(conn.W-conn.R))
			conn.R += int(n)
			read += int(n)
			if left -= n; left == 0 {
				return true
			}
		} else {
			read += conn.W - conn.R
			conn.R = conn.W
		}
		if read > mirrorAnswer || conn.Fill() != nil {
			return false
		}
	}
}
