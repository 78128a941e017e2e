package proxy

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/auth"
	"sluice/cache"
	"sluice/encode"
	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// deliver sends the target's answer to the client and settles what becomes of
// the target's connection. p is the pump of the request's body, nil when that
// was sent whole.
func (x *exchange) deliver(conn *pool.Conn, p *pump) fault.Kind {
	if x.res.Status == 101 || x.res.Chunked || x.res.UntilClose {
		// It may go on for hours. A breaker that waits for this try's word to
		// close must not wait that long.
		x.report(fault.None, x.heard)
		// Nor does it press on the upstream as requests do.
		x.upstream.LeaveLimit(x.felt(fault.None, x.heard), x.heard)
		x.unlimited = true
	}
	if x.res.Status == 101 {
		// The pump has sent all; its last act, a deadline, must not come later.
		p.end(conn)
		x.closeWindow()
		return x.tunnel(conn)
	}
	if !p.finished() {
		// The answer came before the request's end. The client may be sending
		// still; what it sends then cannot be told from a new request.
		x.close = true
	}
	x.changes()
	if x.route.Compress != nil && p == nil {
		x.chooseCoding(x.res.Status, x.res.Length, x.res.Fields)
	}
	var f fault.Kind
	taken := false
	if x.cached.active && p == nil {
		f, taken = x.keep(conn)
	} else {
		f = x.relay(conn)
	}
	x.client.up.Store(nil)
	unused := p.finished()
	bodyFault := p.end(conn)
	if taken {
		return x.goneOr(f)
	}
	if f == fault.None && unused && bodyFault == fault.None && !x.res.Close && conn.Settled() && conn.Disarm() {
		conn.Release(x.client.shard, x.heard)
	} else {
		conn.Close()
	}
	if f != fault.None && bodyFault != fault.None {
		f = bodyFault
	}
	return x.goneOr(f)
}

// goneOr is f, or that the client has left when that is why.
func (x *exchange) goneOr(f fault.Kind) fault.Kind {
	if f != fault.None && x.client.gone.Load() {
		return fault.ClientGone
	}
	return f
}

// relay sends head and body of the answer. A body that is in the buffer with
// its head goes out in the same write.
func (x *exchange) relay(conn *pool.Conn) fault.Kind {
	res := &x.res
	streamed := res.Chunked || res.UntilClose
	chunked := streamed && x.req.Minor > 0
	if streamed && !chunked {
		x.close = true // an HTTP/1.0 client learns the end by the close
	}
	x.closeAtEnd()
	if x.coding != encode.Identity {
		return x.relayCoded(conn)
	}
	x.responseHead(chunked)
	x.status, x.begun = res.Status, true
	if streamed {
		return x.relayStream(conn, chunked)
	}
	left := res.Length
	n := min(left, int64(conn.W-conn.R))
	if int(n) <= cap(x.out)-len(x.out) {
		x.out = append(x.out, conn.Buf[conn.R:conn.R+int(n)]...)
		conn.R += int(n)
		left -= n
		x.bytesOut += n
	}
	if err := x.client.write(x.out); err != nil {
		return clientFault(err)
	}
	if left == 0 {
		return fault.None
	}
	return x.relayLength(conn, left)
}

// relayLength sends the rest of a body whose length is known.
func (x *exchange) relayLength(conn *pool.Conn, left int64) fault.Kind {
	idle := int64(x.upstream.Idle())
	var s splicer
	for left > 0 {
		if conn.R < conn.W {
			n := int(min(left, int64(conn.W-conn.R)))
			conn.Arm(x.until(x.heard + unbounded)) // a slow client is not the target's fault
			if err := x.client.write(conn.Buf[conn.R : conn.R+n]); err != nil {
				return clientFault(err)
			}
			conn.R += n
			left -= int64(n)
			x.bytesOut += int64(n)
			continue
		}
		if step := s.step(left); step > 0 && conn.Plain() && x.client.Plain() {
			n, f := x.spliceAnswer(&s, conn, step)
			left -= n
			x.bytesOut += n
			if f != fault.None {
				return f
			}
			continue
		}
		conn.Arm(x.until(wire.Nanotime() + idle))
		if conn.Fill() != nil {
			return fault.AnswerCut
		}
	}
	return fault.None
}

// spliceAnswer moves up to step bytes of the answer's body to the client.
func (x *exchange) spliceAnswer(s *splicer, conn *pool.Conn, step int64) (int64, fault.Kind) {
	// The slot stays armed, so that the request can be cancelled; how long the
	// target may take is told the socket.
	conn.Arm(x.until(x.heard + unbounded))
	s.begin(x.client.Conn, conn.Conn, x.snapshot.Settings.WriteTimeout, x.upstream.Idle())
	if conn.Expired() {
		return 0, fault.AnswerCut
	}
	n, readErr, err := s.splice(x.client.Conn, conn.Conn, step)
	if x.client.session {
		_ = x.client.SetWriteDeadline(time.Time{})
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch {
	case readErr != nil || conn.Expired():
		return n, fault.AnswerCut
	case err != nil:
		return n, clientFault(err)
	}
	return n, fault.None
}

// relayStream sends a body whose end the target tells as it goes. What has
// been read is sent before more is waited for, so that an event stream arrives
// event by event.
func (x *exchange) relayStream(conn *pool.Conn, chunked bool) fault.Kind {
	idle := int64(x.upstream.Idle())
	x.chunks.Reset()
	sent := false
	for {
		var data []byte
		done := false
		if x.res.Chunked {
			var used int
			var bad *wire.Malformed
			data, used, done, bad = x.chunks.Next(conn.Buf[conn.R:conn.W])
			conn.R += used
			if bad != nil {
				// While the head has not been sent, the client can be told.
				x.begun = sent
				return fault.BadAnswer
			}
		} else {
			data = conn.Buf[conn.R:conn.W]
			conn.R = conn.W
		}
		switch {
		case len(data) > 0:
			x.bytesOut += int64(len(data))
			if chunked {
				x.out = wire.AppendChunkSize(x.out, len(data))
			}
			x.out = append(x.out, data...)
			if chunked {
				x.out = append(x.out, "\r\n"...)
			}
			if len(x.out) < backSize && x.res.Chunked {
				continue
			}
		case done:
			return x.endStream(chunked)
		}
		if len(x.out) > 0 {
			sent = true
			conn.Arm(x.until(x.heard + unbounded)) // a slow client is not the target's fault
			if err := x.client.write(x.out); err != nil {
				return clientFault(err)
			}
			x.out = x.out[:0]
		}
		if x.res.Chunked && conn.R < conn.W && len(data) > 0 {
			continue
		}
		conn.Arm(x.until(wire.Nanotime() + idle))
		if err := conn.Fill(); err != nil {
			if err == io.EOF && x.res.UntilClose {
				return x.endStream(chunked)
			}
			return fault.AnswerCut
		}
	}
}

// endStream sends what is left of the body, its end and its trailers.
func (x *exchange) endStream(chunked bool) fault.Kind {
	if chunked {
		x.out = append(x.out, "0\r\n"...)
		if x.res.Chunked {
			x.out = x.appendTrailers(x.out, x.chunks.Trailers, x.mayReturn)
		}
		x.out = append(x.out, "\r\n"...)
	}
	if len(x.out) == 0 {
		return fault.None
	}
	if err := x.client.write(x.out); err != nil {
		return clientFault(err)
	}
	return fault.None
}

// appendTrailers writes the trailer fields that may be handed on: none that
// have a say in framing, routing or identity (RFC 9110 6.5.1), nor what is kept
// out of the head: some receivers make one of the two.
func (x *exchange) appendTrailers(out []byte, fields []wire.Field, mayPass func(*wire.Field) bool) []byte {
	for i := range fields {
		if f := &fields[i]; f.Kind == wire.Other && mayPass(f) {
			out = appendField(out, f.Name, f.Value)
		}
	}
	return out
}

// mayReturn tells whether a line without a role of its own may go to the client.
func (x *exchange) mayReturn(f *wire.Field) bool {
	edit := &x.route.Response
	return !x.snapshot.Settings.isRequestID(f) && !(edit.any && edit.replaces(f))
}

// responseHead writes to x.out the head of the target's answer as the client
// is to see it.
func (x *exchange) responseHead(chunked bool) {
	s := &x.snapshot.Settings
	res := &x.res
	out := appendStatus(x.out[:0], res.Status, res.Reason)
	edit := &x.route.Response
	dated := false
	for i := range res.Fields {
		f := &res.Fields[i]
		switch f.Kind {
		case wire.Other:
			if f.Drop || !s.requestIDField && s.isRequestID(f) {
				continue
			}
			if x.route.CORS != nil && auth.DropsFromAnswer(f.Name) || x.cached.told && x.route.Cache.OwnField(f.Name) {
				continue
			}
		case wire.ContentLength:
			if res.Status == 204 || x.coding != encode.Identity {
				continue
			}
		case wire.Trailer:
			if !chunked {
				continue
			}
		case wire.XRequestID:
			if s.requestIDField {
				continue
			}
		case wire.Date:
			dated = true
		case wire.CacheControl:
			if len(x.cookies) > 0 {
				continue // a session of one caller is nothing to store
			}
		default:
			if f.Kind.HopByHop() {
				continue
			}
		}
		if edit.any && edit.replaces(f) {
			continue
		}
		if x.coding != encode.Identity {
			out = appendCodedField(out, f.Name, f.Value)
			continue
		}
		out = appendField(out, f.Name, f.Value)
	}
	out = x.appendCoding(out)
	own := len(out)
	if len(x.cookies) > 0 {
		out = append(out, "Cache-Control: private, no-store\r\n"...)
	}
	if !dated {
		out = x.appendDate(out)
	}
	if s.Via {
		out = s.appendVia(out, res.Minor)
	}
	x.out = x.appendOwn(out, own, chunked)
}

// closeAtEnd lets the connection end with this answer when the process is about
// to, which may have come up since the request began.
func (x *exchange) closeAtEnd() { x.close = x.close || x.engine.draining.Load() }

// appendOwn ends a head with what this hop has to say. The lines from own on
// are the gateway's.
func (x *exchange) appendOwn(out []byte, own int, chunked bool) []byte {
	s := &x.snapshot.Settings
	if s.RequestID != "" {
		out = append(append(out, s.RequestID...), ": "...)
		out = append(append(out, x.id...), "\r\n"...)
	}
	if x.standingIn != "" {
		out = append(append(append(out, "Sluice-Fallback: "...), x.standingIn...), "\r\n"...)
	}
	if x.cached.told {
		out = cache.AppendStatus(out, x.route.Cache.Name, x.cached.status)
	}
	if x.told != nil {
		out = x.told.AppendHeaders(out, x.decision)
	}
	if x.route != nil && x.route.CORS != nil && !x.preflighted {
		out = x.route.CORS.AppendLines(out, auth.Origin(&x.req))
	}
	if x.route != nil && x.route.Response.any {
		out = x.route.Response.apply(out, own, x)
	}
	out = x.appendCookies(out)
	if x.sticky != "" {
		out = append(append(out, "Set-Cookie: "...), x.route.Split.Cookie...)
		out = append(append(out, '='), x.sticky...)
		out = append(out, "; Path=/; HttpOnly; SameSite=Lax"...)
		if x.scheme == "https" {
			out = append(out, "; Secure"...)
		}
		out = append(out, "\r\n"...)
	}
	if chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case x.close:
		out = append(out, "Connection: close\r\n"...)
	case x.req.Minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	return append(out, "\r\n"...)
}

func appendStatus(out []byte, status int, reason []byte) []byte {
	return appendStatusText(out, status, str(reason))
}

func appendStatusText(out []byte, status int, reason string) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = append(out, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10), ' ')
	return append(append(out, reason...), "\r\n"...)
}

func (x *exchange) appendDate(out []byte) []byte {
	out = append(out, "Date: "...)
	return append(fasthttp.AppendHTTPDate(out, x.when), "\r\n"...)
}

// handsOn tells whether a line of an interim answer, or of a 101, is handed on.
func (x *exchange) handsOn(f *wire.Field) bool {
	edit := &x.route.Response
	return !f.Kind.HopByHop() && !f.Drop && f.Kind != wire.ContentLength &&
		!x.snapshot.Settings.isRequestID(f) && !(edit.any && edit.replaces(f))
}

// interim hands a 1xx answer on. 100 goes only to a client that asked for it
// and has not had it; none goes to an HTTP/1.0 client (RFC 9110 15.2).
func (x *exchange) interim(p *pump) error {
	if x.res.Status == 100 {
		return p.proceed()
	}
	if x.req.Minor == 0 {
		return nil
	}
	var head [512]byte
	out := appendStatus(head[:0], x.res.Status, x.res.Reason)
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; x.handsOn(f) {
			out = appendField(out, f.Name, f.Value)
		}
	}
	return p.writeInterim(x, append(out, "\r\n"...))
}

func clientFault(err error) fault.Kind {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fault.ClientSlow
	}
	return fault.ClientGone
}

// deliverFault tells the client what failed.
func (x *exchange) deliverFault(f fault.Kind) {
	if f == fault.RequestTimeout || f == fault.BadRequest || f == fault.BodyTooLarge {
		x.close = true
	}
	// The body, which nobody has taken yet, is not the next request.
	x.dropBody()
	var page [512]byte
	body := fault.AppendProblem(page[:0], f, x.id)
	status := f.Status()
	out := appendStatus(x.out[:0], status, []byte(fasthttp.StatusMessage(status)))
	out = append(out, "Content-Type: "+fault.ContentType+"\r\nContent-Length: "...)
	out = append(strconv.AppendInt(out, int64(len(body)), 10), "\r\n"...)
	if f.RetryAfter() {
		out = append(out, "Retry-After: 1\r\n"...)
	}
	if f == fault.TooManyFailures {
		out = append(append(append(out, "Retry-After: "...), x.snapshot.Settings.failurePause...), "\r\n"...)
	}
	if f == fault.Unauthenticated || f == fault.Forbidden {
		out = x.appendChallenges(out, f)
	}
	if x.allow != "" {
		out = append(append(append(out, "Allow: "...), x.allow...), "\r\n"...)
	}
	out = append(out, "Cache-Control: no-store\r\n"...)
	x.sendOwn(x.appendDate(out), status, body)
}

// sendOwn ends and sends an answer that the gateway itself gives.
func (x *exchange) sendOwn(out []byte, status int, body []byte) {
	x.closeAtEnd()
	x.out = x.appendOwn(out, 0, false)
	x.status, x.begun = status, true
	if string(x.req.Method) != "HEAD" {
		x.out = append(x.out, body...)
		x.bytesOut = int64(len(body))
	}
	if err := x.client.write(x.out); err != nil {
		x.close = true
		if x.fault == fault.None {
			x.fault = clientFault(err)
		}
	}
}

// Respond is a fixed answer.
type Respond struct {
	Status  int
	Body    string
	Type    string
	Headers map[string]string
	head    []byte
	body    []byte
}

func (r *Respond) compile() {
	head := appendStatus(nil, r.Status, []byte(fasthttp.StatusMessage(r.Status)))
	bodiless := r.Status == 204 || r.Status == 304
	if r.body = []byte(r.Body); bodiless {
		r.body = nil
	}
	if len(r.body) > 0 {
		t := r.Type
		if t == "" {
			t = "text/plain; charset=utf-8"
		}
		head = appendField(head, []byte("Content-Type"), []byte(t))
	}
	if !bodiless {
		head = appendField(head, []byte("Content-Length"), []byte(strconv.Itoa(len(r.body))))
	}
	for _, name := range sortedKeys(r.Headers) {
		head = appendField(head, []byte(name), []byte(r.Headers[name]))
	}
	r.head = head
}

func (x *exchange) respond(r *Respond) fault.Kind {
	x.dropBody()
	x.sendOwn(x.appendDate(append(x.out[:0], r.head...)), r.Status, r.body)
	return fault.None
}

// lastHop tells whether the request asks to go no further (RFC 9110 7.6.2).
func (x *exchange) lastHop() bool {
	if string(x.req.Method) != "OPTIONS" {
		return false
	}
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; f.Kind == wire.MaxForwards && string(f.Value) == "0" {
			return true
		}
	}
	return false
}

// respondOptions answers OPTIONS in the place of the target.
func (x *exchange) respondOptions() fault.Kind {
	x.dropBody()
	out := appendStatus(x.out[:0], 204, []byte(fasthttp.StatusMessage(204)))
	out = append(append(append(out, "Allow: "...), allowed(traceable(x.route.Methods))...), "\r\n"...)
	x.sendOwn(x.appendDate(out), 204, nil)
	return fault.None
}

// Redirect sends the client elsewhere.
type Redirect struct {
	Status int
	To     string // template
	to     *Template
}

func (x *exchange) redirect(r *Redirect) fault.Kind {
	x.dropBody()
	out := appendStatus(x.out[:0], r.Status, []byte(fasthttp.StatusMessage(r.Status)))
	out = append(out, "Location: "...)
	out = append(r.to.append(out, x), "\r\nContent-Length: 0\r\n"...)
	x.sendOwn(x.appendDate(out), r.Status, nil)
	return fault.None
}

// dropBody takes a request's body that nobody will look at. One that is still
// to come is read after the answer, or the connection ends.
func (x *exchange) dropBody() {
	if _, whole := x.whole(); !whole {
		x.close = x.close || x.body.chunked || x.body.left > drainBytes || x.req.Expect
	}
}

// allowed is the value of Allow for the methods of routes.
func allowed(methods []string) string {
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	out := ""
	for _, m := range slices.Compact(methods) {
		if out != "" {
			out += ", "
		}
		out += m
	}
	return out
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// splicer moves bytes from socket to socket inside the kernel, in steps that
// are short enough for every step to end within the time that a body may stand
// still. A transfer that is slow falls back to ordinary reads and writes, which
// know which side it is that stands still.
type splicer struct {
	size  int64
	slow  bool
	until time.Time // when the writing of this step must have ended
}

const (
	spliceFrom = 64 << 10 // bodies with less left are copied
	spliceMost = 1 << 20
)

// step is how many bytes to move next, 0 to copy instead.
func (s *splicer) step(left int64) int64 {
	if s.size == 0 {
		s.size = spliceFrom
	}
	if s.slow || left < spliceFrom {
		return 0
	}
	return min(left, s.size)
}

// begin sets the deadlines of a step. That of reading is the nearer one: when
// it ends the step, nothing that was read is still to be written, and the
// transfer can go on.
func (s *splicer) begin(dst, src *wire.Conn, write, read time.Duration) {
	now := time.Now()
	s.until = now.Add(write)
	_ = src.SetReadDeadline(now.Add(min(read, write) / 2))
	_ = dst.SetWriteDeadline(s.until)
}

// splice moves up to n bytes; fewer without an error mean that it was slow.
// readErr says that src ended or failed before.
func (s *splicer) splice(dst, src *wire.Conn, n int64) (moved int64, readErr, err error) {
	to, ok := dst.Conn.(io.ReaderFrom)
	if !ok {
		s.slow = true
		return 0, nil, nil
	}
	began := time.Now()
	moved, err = to.ReadFrom(&io.LimitedReader{R: src.Conn, N: n})
	now := time.Now()
	if now.Sub(began) > time.Second {
		s.slow = true
	} else if s.size < spliceMost {
		s.size *= 2
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && now.Before(s.until):
		s.slow = true
		return moved, nil, nil
	case err == nil && moved < n:
		return moved, io.ErrUnexpectedEOF, nil
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && src.HungUp():
		// The error does not say which side failed.
		return moved, err, nil
	}
	return moved, nil, err
}
