// Package listen is the public doors: the TCP and unix sockets that clients
// come in by, the greeting of each connection (PROXY header, connection limit,
// TLS handshake), and the certificates. What a greeted connection then says is
// the business of an Engine.
//
// Doors holds all of it. Apply makes the open doors those of a configuration,
// all or nothing: a door that stays keeps its socket and its connections,
// whatever else about it changes; a door that goes lets its connections live
// on. Each door runs on its own fasthttp.Server, whose worker pool hands a
// connection to the goroutine that was idle the shortest. HTTP/1.1 is plugged
// in through its NextProto, so fasthttp never parses a byte.
//
// Accept loops never wait for a client: greetings run in the worker, within
// proxy_protocol.timeout and server.header_timeout. Opening a connection
// allocates and, for its address's count, takes the lock of one of many shards
// for the length of a map access. Nothing here is on the path of a request.
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"sluice/config"
	"sluice/wire"
)

// Engine speaks a protocol on a connection that was greeted.
type Engine interface {
	// ServeConn returns when the connection is done with; the door then closes
	// it and gives its place free. It is called from many goroutines at once,
	// once for each connection. The error is for the debug log alone.
	ServeConn(*wire.Conn) error
}

// Options are what Doors needs from its owner.
type Options struct {
	HTTP1 Engine         // speaks HTTP/1.1; needed
	Log   zerolog.Logger // the process's own log
}

// Doors are the open doors of one process. All methods may be called from any
// goroutine.
type Doors struct {
	engines map[string]Engine // by ALPN name
	log     zerolog.Logger

	bounds       atomic.Pointer[bounds]
	open         atomic.Int64 // connections, from accept to close
	empty        chan struct{}
	perIP        addressCount
	lingering    atomic.Int32
	reloadErrors atomic.Uint64

	mu     sync.Mutex // guards what follows; never held while a client is waited for
	doors  []*door    // in the order of the configuration
	closed bool
	watch  *fileWatch // nil until a door speaks TLS

	refreshed func() // for tests: called, with mu held, after files were looked at
}

// bounds are the settings that all doors share.
type bounds struct {
	connections   int64
	perIP         int
	headerTimeout time.Duration
}

// New returns Doors of which none is open. Close ends them.
func New(o Options) *Doors {
	if o.HTTP1 == nil {
		panic("BUG: listen.New without an engine")
	}
	d := &Doors{
		engines: map[string]Engine{alpnHTTP1: o.HTTP1},
		log:     o.Log,
		empty:   make(chan struct{}, 1),
	}
	d.perIP.init()
	d.bounds.Store(&bounds{})
	return d
}

// errClosed is what Apply says after Close.
var errClosed = errors.New("listen: the doors were closed")

// Apply opens, changes and closes doors until they are those of listeners, with
// the bounds of server. Doors are told apart by their address: one whose
// address stays keeps its socket. When anything cannot be had, nothing changes
// and the error has one line for each mistake: key, value, and why.
//
// It reads certificate files. It may wait some milliseconds for doors that go,
// which take the connections that are already at them.
func (d *Doors) Apply(listeners []config.Listener, server config.Server) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}

	next, fresh, err := d.plan(listeners)
	if err != nil {
		for _, p := range fresh {
			_ = p.door.socket.Close()
		}
		return err
	}

	d.bounds.Store(&bounds{
		connections:   int64(server.MaxConnections),
		perIP:         server.MaxConnectionsPerIP,
		headerTimeout: server.HeaderTimeout.Std(),
	})
	gone := d.doors
	d.doors = make([]*door, 0, len(next))
	for _, p := range next {
		p.door.settings.Store(p.settings)
		d.doors = append(d.doors, p.door)
	}
	for _, p := range fresh {
		p.door.start()
	}
	gone = slices.DeleteFunc(slices.Clone(gone), func(old *door) bool { return slices.Contains(d.doors, old) })
	closeAll(gone)
	d.watchFiles()
	return nil
}

// planned is a door and what it is to become.
type planned struct {
	door     *door
	settings *settings
}

// plan reads every file and opens every socket that listeners ask for, and
// changes no door that is open. fresh are the new ones, opened but not started,
// also when there is an error.
func (d *Doors) plan(listeners []config.Listener) (next, fresh []planned, err error) {
	var mistakes []error
	used := make(map[string]int)
	kept := make(map[*door]bool)
	var open []int // of next, without a socket so far
	for i := range listeners {
		l := &listeners[i]
		key := fmt.Sprintf("listen[%d]", i)
		id := doorID(l.Address)
		used[id]++
		old := d.find(id, used[id])
		s, errs := d.prepare(key, l, old)
		mistakes = append(mistakes, errs...)
		if old == nil {
			open = append(open, i)
		} else {
			kept[old] = true
		}
		next = append(next, planned{door: old, settings: s})
	}
	for _, i := range open {
		l := &listeners[i]
		sock, err := openSocket(l.Address)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("listen[%d].address: cannot open %q: %w%s", i, l.Address, err, d.blame(l.Address, err, kept)))
			continue
		}
		next[i].door = newDoor(d, doorID(l.Address), sock)
		fresh = append(fresh, next[i])
	}
	return next, fresh, errors.Join(mistakes...)
}

// find returns the nth open door with this id. There can be several of one id
// where the system chooses the port.
func (d *Doors) find(id string, nth int) *door {
	for _, old := range d.doors {
		if old.id == id {
			if nth--; nth == 0 {
				return old
			}
		}
	}
	return nil
}

// blame says when it is a door of ours, about to go, that an address is in use
// by: it cannot be closed before the new one is open, for then a failure would
// leave neither.
func (d *Doors) blame(address string, why error, kept map[*door]bool) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil || !errors.Is(why, syscall.EADDRINUSE) {
		return ""
	}
	for _, old := range d.doors {
		t, ok := old.socket.Addr().(*net.TCPAddr)
		if ok && !kept[old] && fmt.Sprint(t.Port) == port {
			return fmt.Sprintf(" (by the door %q, which would go; change its port or restart)", old.settings.Load().name)
		}
	}
	return ""
}

// prepare makes the settings of one door. What need not change, such as TLS
// with its session tickets, is taken from the door before it.
func (d *Doors) prepare(key string, l *config.Listener, old *door) (*settings, []error) {
	s := &settings{name: l.Address}
	var mistakes []error
	if l.ProxyProtocol != nil {
		var errs []error
		s.proxy, errs = newProxyRule(key+".proxy_protocol", l.ProxyProtocol)
		mistakes = append(mistakes, errs...)
	}
	if l.TLS != nil {
		if old != nil {
			if id := old.settings.Load().tls; id != nil && reflect.DeepEqual(id.conf, *l.TLS) {
				s.tls = id
				return s, mistakes
			}
		}
		var errs []error
		s.tls, errs = loadIdentity(key+".tls", *l.TLS, alpn)
		mistakes = append(mistakes, errs...)
	}
	return s, mistakes
}

// Check reports what Apply would find wrong with listeners, one line for each
// mistake, without opening a door. It reads certificate files.
func Check(listeners []config.Listener) error {
	var d Doors
	var mistakes []error
	for i := range listeners {
		key := fmt.Sprintf("listen[%d]", i)
		if err := checkAddress(listeners[i].Address); err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s.address: %w, got %q", key, err, listeners[i].Address))
		}
		_, errs := d.prepare(key, &listeners[i], nil)
		mistakes = append(mistakes, errs...)
	}
	return errors.Join(mistakes...)
}

// Addrs are the addresses of the open doors in the order of the configuration,
// with the ports that the system chose.
func (d *Doors) Addrs() []net.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]net.Addr, 0, len(d.doors))
	for _, o := range d.doors {
		list = append(list, o.socket.Addr())
	}
	return list
}

// Close closes the doors. Connections live on; Wait tells when the last is
// gone. It may wait some milliseconds, for the connections that are already at
// the doors. Closing twice is allowed.
func (d *Doors) Close() {
	d.mu.Lock()
	watch := d.watch
	if !d.closed {
		d.closed = true
		closeAll(d.doors)
		d.doors, d.watch = nil, nil
	}
	d.mu.Unlock()
	if watch != nil {
		watch.stop()
	}
}

// Wait returns when no connection is open, or with ctx's error. It is of use
// after Close, when there can be no new ones.
func (d *Doors) Wait(ctx context.Context) error {
	for d.open.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.empty:
		}
	}
	d.tellEmpty() // for whoever waits besides us
	return nil
}

func (d *Doors) tellEmpty() {
	select {
	case d.empty <- struct{}{}:
	default:
	}
}

// enter counts a connection in, unless there are too many.
func (d *Doors) enter() bool {
	if d.open.Add(1) <= d.bounds.Load().connections {
		return true
	}
	d.leave()
	return false
}

// leave counts a connection out.
func (d *Doors) leave() {
	if d.open.Add(-1) == 0 {
		d.tellEmpty()
	}
}
