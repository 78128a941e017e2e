package listen

import (
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Refusal is why a connection was turned away.
type Refusal uint8

// The refusals.
const (
	RefusedTotal Refusal = iota // server.max_connections are open
	RefusedPerIP                // server.max_connections_per_ip are open from its address
	RefusedProxy                // a trusted peer's PROXY header was missing, malformed or late

	refusals
)

// String is the stable word for r in metrics.
func (r Refusal) String() string {
	return [...]string{"max_connections", "max_connections_per_ip", "proxy_protocol"}[r]
}

// counts are the figures of one door.
type counts struct {
	open            atomic.Int64
	accepted        atomic.Uint64
	refused         [refusals]atomic.Uint64
	handshakeErrors atomic.Uint64
	acceptErrors    atomic.Uint64
}

// Stats are the figures of all doors at one moment.
type Stats struct {
	Open         int64         // connections, those included whose door is gone
	ReloadErrors uint64        // certificate files that changed and could not be used
	Doors        []DoorStats   // in the order of the configuration
	Certificates []Certificate // in the order of the configuration
}

// DoorStats are the figures of one door since it was opened.
type DoorStats struct {
	Door            string // its address as configured, with the port that the system chose
	Open            int64  // connections
	Accepted        uint64
	Refused         [refusals]uint64 // by Refusal
	HandshakeErrors uint64           // TLS handshakes that failed or took too long
	AcceptErrors    uint64           // times that the system gave no connection
}

// Certificate is one that a door shows.
type Certificate struct {
	Door     string
	File     string
	NotAfter time.Time // when it expires
}

// Stats returns the figures of now. It costs a few loads for each door.
func (d *Doors) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Open: d.open.Load(), ReloadErrors: d.reloadErrors.Load()}
	for _, o := range d.doors {
		set := o.settings.Load()
		f := DoorStats{
			Door:            o.name(),
			Open:            o.counts.open.Load(),
			Accepted:        o.counts.accepted.Load(),
			HandshakeErrors: o.counts.handshakeErrors.Load(),
			AcceptErrors:    o.counts.acceptErrors.Load(),
		}
		for r := range f.Refused {
			f.Refused[r] = o.counts.refused[r].Load()
		}
		s.Doors = append(s.Doors, f)
		if set.tls == nil {
			continue
		}
		for _, p := range set.tls.pairs {
			s.Certificates = append(s.Certificates, Certificate{Door: f.Door, File: p.cert, NotAfter: p.current.Leaf.NotAfter})
		}
	}
	return s
}

// name tells doors apart, also those of which only the system knows the port.
func (o *door) name() string {
	name := o.settings.Load().name
	if at, ok := o.socket.Addr().(*net.TCPAddr); ok && strings.HasSuffix(name, ":0") {
		return strings.TrimSuffix(name, "0") + strconv.Itoa(at.Port)
	}
	return name
}
