package proxy

import (
	"bytes"
	"net/netip"
	"time"

	"sluice/observe"
	"sluice/wire"
)

func durationOf(ns int64) time.Duration { return time.Duration(ns) }

// introduce finds the caller's address and gives the request its id. Words of
// the client about itself are believed only from trusted hops.
func (x *exchange) introduce(s *Settings) {
	x.caller = x.client.Remote.Addr()
	x.trusted = len(s.Trusted) > 0 && trusts(s.Trusted, x.caller)
	x.id = nil
	if x.trusted {
		x.caller = x.callerByHops(s.Trusted)
		if id := x.given(s); validID(id) {
			x.id = append(x.idBuf[:0], id...)
			return
		}
	}
	observe.NewID(&x.newID)
	x.id = x.newID[:]
}

func trusts(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// given is the request id that came with the request.
func (x *exchange) given(s *Settings) []byte {
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; s.isRequestID(f) {
			return f.Value
		}
	}
	return nil
}

func (s *Settings) isRequestID(f *wire.Field) bool {
	if s.requestIDField || s.RequestID == "" {
		return f.Kind == wire.XRequestID
	}
	return len(f.Name) == len(s.RequestID) && bytes.EqualFold(f.Name, []byte(s.RequestID))
}

// validID tells whether id may stand in a log, a header and JSON as it is.
func validID(id []byte) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == ':', c == '=', c == '+', c == '/':
		default:
			return false
		}
	}
	return true
}

// callerByHops walks X-Forwarded-For from the right, through trusted hops to
// the first address that is not one: each hop vouches for the one before it.
// Without X-Forwarded-For it does the same with Forwarded (RFC 7239 5.2).
func (x *exchange) callerByHops(trusted []netip.Prefix) netip.Addr {
	caller := x.client.Remote.Addr()
	kind := wire.Forwarded
	for i := range x.req.Fields {
		if x.req.Fields[i].Kind == wire.XForwardedFor {
			kind = wire.XForwardedFor
			break
		}
	}
	for i := len(x.req.Fields) - 1; i >= 0; i-- {
		f := &x.req.Fields[i]
		if f.Kind != kind {
			continue
		}
		for list := f.Value; len(list) > 0; {
			var last []byte
			if c := bytes.LastIndexByte(list, ','); c >= 0 {
				last, list = list[c+1:], list[:c]
			} else {
				last, list = list, nil
			}
			last = wire.TrimOWS(last)
			if kind == wire.Forwarded {
				last = forwardedFor(last)
			}
			a, ok := parseHop(last)
			if !ok {
				return caller
			}
			caller = a
			if !trusts(trusted, a) {
				return caller
			}
		}
	}
	return caller
}

// forwardedFor is the value of for= in one element of Forwarded.
func forwardedFor(element []byte) []byte {
	for len(element) > 0 {
		var pair []byte
		pair, element, _ = bytes.Cut(element, []byte{';'})
		name, value, ok := bytes.Cut(wire.TrimOWS(pair), []byte{'='})
		if ok && wire.EqualFold(name, "for") {
			return bytes.Trim(value, `"`)
		}
	}
	return nil
}

// parseHop reads an address, with or without a port, IPv6 with or without
// brackets.
func parseHop(b []byte) (netip.Addr, bool) {
	s := str(b)
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap(), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// mostPasses is how often a request may carry this gateway's pseudonym in Via:
// a chain of gateways with one name is not a loop, one of eight is.
const mostPasses = 8

// looped tells whether the request runs in a circle through this gateway.
func (x *exchange) looped() bool {
	s := &x.snapshot.Settings
	if !s.Via {
		return false
	}
	n := 0
	for i := range x.req.Fields {
		if x.req.Fields[i].Kind != wire.Via {
			continue
		}
		for item, rest := wire.NextItem(x.req.Fields[i].Value); item != nil; item, rest = wire.NextItem(rest) {
			if _, by, ok := bytes.Cut(item, []byte{' '}); ok && string(wire.TrimOWS(by)) == s.Pseudonym {
				n++
			}
		}
	}
	return n >= mostPasses
}
