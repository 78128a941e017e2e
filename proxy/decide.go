package proxy

import (
	"net/netip"
	"time"

	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// Decision is what would become of a request.
type Decision struct {
	Path     string      // in its normal form
	Route    *Route      // nil when none matches
	Fault    fault.Kind  // why it would not be answered, or None
	Allow    string      // methods, for MethodNotAllowed
	Params   [][2]string // the path's parameters and their values
	Location string      // of a redirect
	Forwards []Forward   // where it may go, one entry for each side of a split
}

// Forward is a request as one upstream would see it.
type Forward struct {
	Upstream *pool.Upstream
	Head     string
}

// Decide goes the way of a request through s, from its head to where it would
// be sent. The error says what is malformed about the head.
func Decide(s *Snapshot, head []byte, scheme string) (*Decision, error) {
	x := &exchange{client: &client{Conn: &wire.Conn{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)}}, snapshot: s}
	if _, err := x.req.Parse(head, s.Settings.Head); err != nil {
		return nil, err
	}
	x.engine, x.anyone = &Engine{}, true
	x.client.engine = x.engine
	x.when = time.Now()
	x.body.begin(&x.req)
	x.begin()
	x.scheme = scheme
	d := &Decision{Fault: x.find(), Route: x.route}
	d.Path, d.Allow = string(x.path), x.allow
	if d.Route == nil {
		return d, nil
	}
	x.params, _ = x.route.pattern.match(x.path, x.values[:0])
	for i, p := range x.params {
		d.Params = append(d.Params, [2]string{x.route.pattern.params[i], string(x.path[p.from:p.to])})
	}
	x.start = wire.Nanotime()
	x.setDeadline(&s.Settings)
	if d.Fault = x.admit(); d.Fault != fault.None {
		return d, nil
	}
	r := x.route
	if r.Redirect != nil {
		d.Location = string(r.Redirect.to.append(nil, x))
	}
	var sides []*pool.Upstream
	if r.Upstream != nil {
		sides = append(sides, r.Upstream)
	}
	if r.Split != nil {
		for _, to := range r.Split.To {
			sides = append(sides, to.Upstream)
		}
	}
	for _, u := range sides {
		x.upstream = u
		f := Forward{Upstream: u}
		if targets := u.Targets(); len(targets) > 0 {
			f.Head = string(x.appendRequest(nil, targets[0], nil, true, 1, x.start))
		}
		d.Forwards = append(d.Forwards, f)
	}
	return d, nil
}
