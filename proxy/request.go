package proxy

import (
	"bytes"
	"strconv"
	"strings"

	"sluice/cache"
	"sluice/observe"
	"sluice/pool"
	"sluice/wire"
)

// Rewrite changes the target of a request before it is forwarded.
type Rewrite struct {
	Path        string // template; the query stays unless it has one
	StripPrefix string
	AddPrefix   string
	Host        string // template
	path, host  *Template
}

// appendRequest writes the request as the target t is to see it: the client's
// fields under the client's names and in its order, less what ends at this hop,
// plus what this hop has to say; then the body if it is whole. try is the
// number of the try, from 1. It changes nothing of x.
func (x *exchange) appendRequest(out []byte, t *pool.Target, body []byte, whole bool, try int, now int64) []byte {
	s := &x.snapshot.Settings
	r := x.route
	out = append(out, x.req.Method...)
	out = append(out, ' ')
	out = x.appendTarget(out)
	out = append(out, " HTTP/1.1\r\n"...)

	edit := &r.Request
	hostDone, forwardedHost, forwardedProto := false, false, false
	traced := x.trusted && x.inTrace()
	for i := range x.req.Fields {
		f := &x.req.Fields[i]
		if f.Kind == wire.Other {
			if !x.mayForward(f) {
				continue
			}
			if x.deadline > 0 && isGRPCTimeout(f) {
				out = append(append(out, f.Name...), ": "...)
				out = append(appendGRPCTimeout(out, x.leftOf(grpcTimeout(f.Value), now)), "\r\n"...)
				continue
			}
			out = appendField(out, f.Name, f.Value)
			continue
		}
		switch f.Kind {
		case wire.Host:
			hostDone = true
			out = append(append(out, f.Name...), ": "...)
			out = append(x.appendHost(out, t), "\r\n"...)
			continue
		case wire.Expect:
			if whole {
				continue
			}
		case wire.Authorization:
			if r.hidesCredentials && r.credentials.hasScheme(f.Value) {
				continue
			}
		case wire.Cookie:
			if r.hidesCredentials && r.credentials.headers.has(f.Name) {
				continue
			}
			if len(r.credentials.cookies) > 0 && !(edit.any && edit.replaces(f)) {
				out = r.credentials.appendCookies(out, f)
				continue
			}
		case wire.XForwardedFor:
			if !x.trusted || s.XForwarded {
				continue
			}
		case wire.XForwardedHost:
			if !x.trusted {
				continue
			}
			forwardedHost = true
		case wire.XForwardedProto:
			if !x.trusted {
				continue
			}
			forwardedProto = true
		case wire.XForwardedPort, wire.XRealIP, wire.Forwarded:
			if !x.trusted {
				continue
			}
		case wire.XRequestID:
			if s.requestIDField || !x.trusted {
				continue
			}
		case wire.Traceparent, wire.Tracestate:
			if !traced {
				continue
			}
		case wire.Range:
			if x.cached.whole {
				continue
			}
		case wire.MaxForwards:
			if n, err := strconv.Atoi(str(f.Value)); err == nil && n > 0 && string(x.req.Method) == "OPTIONS" {
				out = append(append(out, f.Name...), ": "...)
				out = append(strconv.AppendInt(out, int64(n-1), 10), "\r\n"...)
				continue
			}
		default:
			if f.Kind.HopByHop() {
				continue
			}
		}
		if f.Kind == wire.Trailer && !x.req.Chunked || edit.any && edit.replaces(f) || s.identity.has(f.Name) {
			continue
		}
		out = appendField(out, f.Name, f.Value)
	}
	if !hostDone {
		out = append(x.appendHost(append(out, "Host: "...), t), "\r\n"...)
	}
	own := len(out)
	if s.XForwarded {
		out = x.appendXForwarded(out, forwardedHost, forwardedProto)
	}
	if s.Forwarded {
		out = x.appendForwarded(out, s)
	}
	if s.Via {
		out = s.appendVia(out, x.req.Minor)
	}
	if s.RequestID != "" {
		out = append(append(out, s.RequestID...), ": "...)
		out = append(append(out, x.id...), "\r\n"...)
	}
	if s.Traceparent && !traced {
		out = x.appendTraceparent(out)
	}
	if x.deadline > 0 && s.Budget != "" {
		out = append(append(out, s.Budget...), ": "...)
		out = append(strconv.AppendInt(out, max(x.deadline-now, 0)/1e6, 10), "\r\n"...)
	}
	if x.cached.validates {
		out = cache.AppendConditions(out, &x.cached.object.Entry)
	}
	if try > 1 {
		out = append(strconv.AppendInt(append(out, tryField+": "...), int64(try), 10), "\r\n"...)
	}
	if x.proof.N > 0 {
		out = x.appendIdentity(out)
	}
	if edit.any {
		out = edit.apply(out, own, x)
	}
	out = x.appendConnection(out)
	if x.req.Chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	out = append(out, "\r\n"...)
	return append(out, body...)
}

// mayForward tells whether a line without a role of its own may go to the
// target. The whole X-Forwarded family is for trusted hops: backends take
// X-Forwarded-User for a login and X-Forwarded-Prefix for their own address.
func (x *exchange) mayForward(f *wire.Field) bool {
	s, edit := &x.snapshot.Settings, &x.route.Request
	switch {
	case f.Drop, !s.Underscores && bytes.IndexByte(f.Name, '_') >= 0:
		return false
	case !x.trusted && len(f.Name) > len(forwardedFamily) && wire.EqualFold(f.Name[:len(forwardedFamily)], forwardedFamily):
		return false
	case x.cached.whole && (cache.Own(f.Name) || wire.EqualFold(f.Name, "if-range")):
		return false
	case s.isBudget(f), isTry(f), edit.any && edit.replaces(f):
		return false
	case s.identity.has(f.Name), x.route.hidesCredentials && x.route.credentials.headers.has(f.Name):
		return false
	}
	return s.requestIDField || !s.isRequestID(f)
}

const forwardedFamily = "x-forwarded-"

func appendField(out, name, value []byte) []byte {
	out = append(append(out, name...), ": "...)
	return append(append(out, value...), "\r\n"...)
}

// appendTarget writes the request target in origin form.
func (x *exchange) appendTarget(out []byte) []byte {
	r := x.route
	path := x.path
	if r.RawPath {
		path = x.req.Path
	}
	if string(path) == "*" {
		return append(out, '*')
	}
	if t := r.Rewrite.path; t != nil {
		start := len(out)
		out = t.append(out, x)
		if x.req.HasQuery && bytes.IndexByte(out[start:], '?') < 0 {
			out = x.appendQuery(out)
		}
		return out
	}
	path = withoutPrefix(path, r.Rewrite.StripPrefix)
	out = append(out, strings.TrimSuffix(r.Rewrite.AddPrefix, "/")...)
	if len(path) == 0 || path[0] != '/' {
		out = append(out, '/')
	}
	out = append(out, path...)
	if x.req.HasQuery {
		out = x.appendQuery(out)
	}
	return out
}

func (x *exchange) appendQuery(out []byte) []byte {
	if x.cached.requery {
		return append(out, x.cached.query...)
	}
	if c := &x.route.credentials; len(c.query) > 0 {
		return c.appendQuery(out, x.req.Query, "")
	}
	return append(append(out, '?'), x.req.Query...)
}

// withoutPrefix cuts prefix off path where it stands for whole segments: /api
// is no prefix of /apis.
func withoutPrefix(path []byte, prefix string) []byte {
	n := len(prefix)
	if n == 0 || len(path) < n || string(path[:n]) != prefix {
		return path
	}
	if prefix[n-1] != '/' && len(path) > n && path[n] != '/' {
		return path
	}
	return path[n:]
}

// appendVia writes the Via of a message that came as HTTP/1.minor.
func (s *Settings) appendVia(out []byte, minor int) []byte {
	out = append(out, "Via: 1."...)
	out = append(out, '0'+byte(minor), ' ')
	return append(append(out, s.Pseudonym...), "\r\n"...)
}

// appendHost writes the value of Host for the target t.
func (x *exchange) appendHost(out []byte, t *pool.Target) []byte {
	if h := x.route.Rewrite.host; h != nil {
		return h.append(out, x)
	}
	switch h := x.upstream.Config.Host; h {
	case "preserve":
		if len(x.req.Host) > 0 {
			return append(out, x.req.Host...)
		}
		return append(out, t.Host...)
	case "target":
		return append(out, t.Host...)
	default:
		return append(out, h...)
	}
}

// appendXForwarded writes the X-Forwarded fields. What a trusted hop said
// before stays; the address of the peer is added to its list.
func (x *exchange) appendXForwarded(out []byte, host, proto bool) []byte {
	out = append(out, "X-Forwarded-For: "...)
	if x.trusted {
		for i := range x.req.Fields {
			if f := &x.req.Fields[i]; f.Kind == wire.XForwardedFor && len(f.Value) > 0 {
				out = append(append(out, f.Value...), ", "...)
			}
		}
	}
	out = append(x.client.appendPeer(out), "\r\n"...)
	if !proto {
		out = append(out, "X-Forwarded-Proto: "...)
		out = append(append(out, x.scheme...), "\r\n"...)
	}
	if !host && len(x.req.Host) > 0 {
		out = append(out, "X-Forwarded-Host: "...)
		out = append(append(out, x.req.Host...), "\r\n"...)
	}
	return out
}

// appendPeer writes the address of the other end, which does not change while
// the connection lives.
func (c *client) appendPeer(out []byte) []byte {
	if !c.Remote.IsValid() {
		return append(out, "unknown"...)
	}
	return c.Remote.Addr().WithZone("").AppendTo(out)
}

// appendForwarded writes one element of Forwarded (RFC 7239 4).
func (x *exchange) appendForwarded(out []byte, s *Settings) []byte {
	out = append(out, "Forwarded: for="...)
	if a := x.client.Remote.Addr(); a.Is6() {
		out = append(out, `"[`...)
		out = append(a.WithZone("").AppendTo(out), `]"`...)
	} else {
		out = x.client.appendPeer(out)
	}
	if len(x.req.Host) > 0 {
		out = append(out, `;host="`...)
		out = append(append(out, x.req.Host...), '"')
	}
	out = append(append(out, ";proto="...), x.scheme...)
	out = append(append(out, ";by=_"...), s.Pseudonym...)
	return append(out, "\r\n"...)
}

// inTrace tells whether the request belongs to a trace: it has one traceparent,
// and that is valid. What else there is of a trace is then worth nothing
// (W3C Trace Context 2.2.2, 3.2).
func (x *exchange) inTrace() bool {
	n := 0
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; f.Kind == wire.Traceparent {
			if _, ok := observe.ParseTraceparent(f.Value); !ok {
				return false
			}
			n++
		}
	}
	return n == 1
}

// appendTraceparent begins a trace. It is marked as sampled, which is what a
// backend without a parent would decide by OpenTelemetry's default.
func (x *exchange) appendTraceparent(out []byte) []byte {
	var trace [32]byte
	var span [16]byte
	if len(x.id) == len(trace) && &x.id[0] == &x.newID[0] {
		trace = x.newID // the log line and the trace share their id
	} else {
		observe.NewID(&trace)
	}
	observe.NewSpanID(&span)
	out = append(out, "traceparent: "...)
	out = observe.AppendTraceparent(out, &trace, &span, observe.FlagSampled|observe.FlagRandom)
	return append(out, "\r\n"...)
}

// appendConnection writes what concerns the connection to the target alone.
func (x *exchange) appendConnection(out []byte) []byte {
	switch {
	case x.upgrade:
		out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
		return append(append(out, x.req.Upgrade...), "\r\n"...)
	case x.req.TETrailers:
		return append(out, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return out
}

// Edit changes the lines of a header: remove, then set, then add.
type Edit struct {
	Set    map[string]string
	Add    map[string]string
	Remove []string

	any     bool
	gone    [][]byte // names of lines that do not stay
	written []line
}

type line struct {
	name  string
	value *Template
}

func (e *Edit) compile(key string, template func(key, text string) *Template) {
	for _, name := range e.Remove {
		e.gone = append(e.gone, []byte(name))
	}
	for _, m := range []map[string]string{e.Set, e.Add} {
		for _, name := range sortedKeys(m) {
			t := template(key, m[name])
			if t == nil {
				t = &Template{}
			}
			e.written = append(e.written, line{name, t})
		}
	}
	for name := range e.Set {
		e.gone = append(e.gone, []byte(name))
	}
	e.any = len(e.gone) > 0 || len(e.written) > 0
}

// replaces tells whether the line f does not stay.
func (e *Edit) replaces(f *wire.Field) bool {
	for _, name := range e.gone {
		if len(name) == len(f.Name) && bytes.EqualFold(name, f.Name) {
			return true
		}
	}
	return false
}

// apply makes the changes to a header whose lines from own on are the
// gateway's; those before have been looked at with replaces.
func (e *Edit) apply(out []byte, own int, x *exchange) []byte {
	kept := own
	for at := own; at < len(out); {
		end := at + bytes.IndexByte(out[at:], '\n') + 1
		name, _, _ := bytes.Cut(out[at:end], []byte{':'})
		if !e.replaces(&wire.Field{Name: name}) {
			kept += copy(out[kept:], out[at:end])
		}
		at = end
	}
	return e.append(out[:kept], x)
}

func (e *Edit) append(out []byte, x *exchange) []byte {
	for i := range e.written {
		l := &e.written[i]
		start := len(out)
		out = append(append(out, l.name...), ": "...)
		value := len(out)
		out = l.value.append(out, x)
		if len(out) == value && l.value.claims {
			// A claim that the caller does not have leaves no line.
			out = out[:start]
			continue
		}
		if !wire.IsFieldValue(out[value:]) {
			out = out[:value]
		}
		out = append(out, "\r\n"...)
	}
	return out
}
