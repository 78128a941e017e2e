package listen

import (
	"hash/maphash"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/fault"
)

// addressCount counts the open connections of each address. It holds an entry
// only while there are any, so it is never larger than the number of open
// connections. Addresses are spread over shards by a seed that is the
// process's secret; a shard is locked for the length of a map access.
type addressCount struct {
	seed   maphash.Seed
	shards [64]struct {
		mu sync.Mutex
		n  map[netip.Addr]int
		_  [48]byte // a cache line each
	}
}

func (a *addressCount) init() {
	a.seed = maphash.MakeSeed()
	for i := range a.shards {
		a.shards[i].n = make(map[netip.Addr]int)
	}
}

// addressKey is what a client's address counts as: for IPv6 its /64, for that
// is what one subscriber is given. The zero Addr stays zero.
func addressKey(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}

// enter counts one in, unless there are bound already. Bound 0 is none; one is
// counted all the same, so that a bound set later finds true numbers.
func (a *addressCount) enter(key netip.Addr, bound int) bool {
	s := &a.shards[maphash.Comparable(a.seed, key)%uint64(len(a.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n[key]
	if bound > 0 && n >= bound {
		return false
	}
	s.n[key] = n + 1
	return true
}

// leave counts one out.
func (a *addressCount) leave(key netip.Addr) {
	s := &a.shards[maphash.Comparable(a.seed, key)%uint64(len(a.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.n[key]; n > 1 {
		s.n[key] = n - 1
	} else {
		delete(s.n, key)
	}
}

// A refused client that has sent its request would lose the answer to a reset
// when its connection is closed at once. So the door lingers until the client
// has closed, but not for long, not for much, and not for many.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 64 << 10
	lingerMost  = 64
)

const retryAfter = "1" // seconds

// answer sends a client in the clear the problem that it is refused for.
func (c *conn) answer(k fault.Kind) {
	d := c.door.all
	if d.lingering.Add(1) > lingerMost {
		d.lingering.Add(-1)
		return
	}
	defer d.lingering.Add(-1)
	_ = c.Conn.SetDeadline(time.Now().Add(lingerTime))
	if _, err := c.Conn.Write(refusalAnswer(k)); err != nil {
		return
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
	}
}

func refusalAnswer(k fault.Kind) []byte {
	body := fault.AppendProblem(nil, k, nil)
	b := make([]byte, 0, 512)
	b = append(b, "HTTP/1.1 "+strconv.Itoa(k.Status())+" "+fasthttp.StatusMessage(k.Status())+"\r\nContent-Type: "+fault.ContentType+"\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	if k.RetryAfter() {
		b = append(b, "\r\nRetry-After: "+retryAfter...)
	}
	b = append(b, "\r\nConnection: close\r\n\r\n"...)
	return append(b, body...)
}
