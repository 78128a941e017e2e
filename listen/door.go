package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/valyala/fasthttp"
)

// lastCall is how long a closing door goes on to accept. Connections that the
// kernel has established but nobody has accepted are reset when a socket
// closes; their clients have been told that they are connected.
const lastCall = 20 * time.Millisecond

// Accept errors are those of a process or system without descriptors or memory:
// trying again at once would spin.
const (
	minBackoff   = 5 * time.Millisecond
	maxBackoff   = time.Second
	backoffQuiet = 10 * time.Second // between two lines in the log
)

// door is one open socket. Everything but the socket may change while it is
// open; a connection sees the settings of the moment at which it is greeted.
type door struct {
	all      *Doors
	id       string
	socket   socket
	settings atomic.Pointer[settings]
	counts   counts

	closing chan struct{} // closed when the door is to close
	done    chan struct{} // closed when it accepts no more
	logged  time.Time     // when an accept error was last logged; the accept loop's own
}

// settings are what a door is configured to be, apart from its address.
type settings struct {
	name  string     // the address as configured: the door's name in logs and metrics
	proxy *proxyRule // nil: no PROXY protocol
	tls   *identity  // nil: plain
}

// socket is what *net.TCPListener and *net.UnixListener have in common.
type socket interface {
	net.Listener
	SetDeadline(time.Time) error
}

func newDoor(all *Doors, id string, sock socket) *door {
	return &door{
		all:     all,
		id:      id,
		socket:  sock,
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// start accepts connections until close. Each door has a fasthttp.Server of its
// own, for a server remembers every listener that it ever served.
func (o *door) start() {
	s := &fasthttp.Server{
		// Connections are counted over all doors, in Accept; a second bound
		// here would answer in words that are not ours.
		Concurrency: 1 << 30,
		Logger:      debugLog{o.all.log},
	}
	for name, engine := range o.all.engines {
		s.NextProto(name, func(c net.Conn) error { return engine.ServeConn(c.(*conn).client) })
	}
	s.NextProto(protoRefused, func(c net.Conn) error { return c.(*conn).refusal })
	go func() {
		defer close(o.done)
		if err := s.Serve(o); err != nil {
			o.all.log.Error().Err(err).Str("door", o.settings.Load().name).Msg("door closed unexpectedly")
		}
	}()
}

// closeAll closes doors together, so that their last calls overlap.
func closeAll(doors []*door) {
	for _, o := range doors {
		_ = o.socket.SetDeadline(time.Now().Add(lastCall))
		close(o.closing)
	}
	for _, o := range doors {
		<-o.done
	}
}

// Accept returns the next connection, or io.EOF once the door is closed. It is
// fasthttp that calls it, from one goroutine.
func (o *door) Accept() (net.Conn, error) {
	backoff := minBackoff
	for {
		sock, err := o.socket.Accept()
		switch {
		case err == nil:
			o.counts.accepted.Add(1)
			if !o.all.enter() {
				o.counts.refused[RefusedTotal].Add(1)
				_ = sock.Close()
				continue
			}
			o.counts.open.Add(1)
			return &conn{Conn: sock, door: o}, nil
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			_ = o.socket.Close()
			return nil, io.EOF
		}
		o.counts.acceptErrors.Add(1)
		if now := time.Now(); now.Sub(o.logged) > backoffQuiet {
			o.logged = now
			o.all.log.Error().Str("door", o.settings.Load().name).Err(plainReason(err)).Msg("cannot accept connections")
		}
		select {
		case <-time.After(backoff):
		case <-o.closing:
			_ = o.socket.Close()
			return nil, io.EOF
		}
		backoff = min(backoff*2, maxBackoff)
	}
}

// Close is there for net.Listener. A door is closed by closeAll.
func (o *door) Close() error { return nil }

// Addr is the address of the socket.
func (o *door) Addr() net.Addr { return o.socket.Addr() }

// debugLog is where fasthttp tells of connections that ended in an error.
type debugLog struct{ log zerolog.Logger }

func (l debugLog) Printf(format string, args ...any) { l.log.Debug().Msgf(format, args...) }
