package proxy

import (
	"bytes"
	"io"

	"sluice/cache"
	"sluice/encode"
	"sluice/fault"
	"sluice/pool"
	"sluice/wire"
)

// chooseCoding decides in which coding an answer goes to the client. What the
// target has coded itself, and what must not be changed, stays as it is.
func (x *exchange) chooseCoding(status int, length int64, fields []wire.Field) {
	p := x.route.Compress
	if !codable(status) {
		return
	}
	var kind []byte
	for i := range fields {
		switch f := &fields[i]; f.Kind {
		case wire.ContentType:
			kind = f.Value
		case wire.ContentEncoding, wire.ContentRange:
			return
		case wire.CacheControl:
			if lists(f.Value, "no-transform") {
				return
			}
		}
	}
	if string(x.req.Method) == "HEAD" {
		length = -1 // the head is that of a GET, as far as it is known
	}
	x.agreeOnCoding(p, kind, length)
}

// codable tells whether an answer of this status has a body that may be coded.
func codable(status int) bool {
	return status >= 200 && status != 204 && status != 205 && status != 206 && status != 304 && status != 416
}

func (x *exchange) agreeOnCoding(p *encode.Policy, kind []byte, length int64) {
	if !p.Suits(kind, length) {
		return
	}
	x.varies = true
	// Without the chunked coding an HTTP/1.0 client could not tell the end from a
	// broken connection.
	if x.req.Minor > 0 && !x.refusesTransform() {
		x.coding = p.Choose(x.req.Fields)
	}
}

func (x *exchange) refusesTransform() bool {
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; f.Kind == wire.CacheControl && lists(f.Value, "no-transform") {
			return true
		}
	}
	return false
}

func lists(value []byte, lower string) bool {
	for item, rest := wire.NextItem(value); item != nil; item, rest = wire.NextItem(rest) {
		if wire.EqualFold(item, lower) {
			return true
		}
	}
	return false
}

// appendCodedField writes a line of an answer whose body is coded here. A strong
// validator becomes a weak one, for the bytes are others (RFC 9110 8.8.3), and
// what is true of the bytes alone goes.
func appendCodedField(out, name, value []byte) []byte {
	switch len(name) {
	case 4:
		if wire.EqualFold(name, "etag") && len(value) > 0 && value[0] == '"' {
			out = append(append(out, name...), ": W/"...)
			return append(append(out, value...), "\r\n"...)
		}
	case 6:
		if wire.EqualFold(name, "digest") {
			return out
		}
	case 11:
		if wire.EqualFold(name, "content-md5") || wire.EqualFold(name, "repr-digest") {
			return out
		}
	case 13:
		if wire.EqualFold(name, "accept-ranges") {
			return out
		}
	case 14:
		if wire.EqualFold(name, "content-digest") {
			return out
		}
	}
	return appendField(out, name, value)
}

// appendCoding writes what coding the body has and that others might get another.
func (x *exchange) appendCoding(out []byte) []byte {
	if x.coding != encode.Identity {
		out = append(append(append(out, "Content-Encoding: "...), x.coding.String()...), "\r\n"...)
	}
	if x.varies {
		out = append(out, "Vary: Accept-Encoding\r\n"...)
	}
	return out
}

// relayCoded sends the answer in x.coding. A body that is here whole goes out
// with its length, one that arrives in pieces as it comes.
func (x *exchange) relayCoded(conn *pool.Conn) fault.Kind {
	a := newArrival(conn, &x.res)
	if string(x.req.Method) == "HEAD" {
		x.responseHead(false)
		x.status, x.begun = x.res.Status, true
		return x.flush()
	}
	p := x.route.Compress
	if !a.chunked && !a.untilClose && a.left <= int64(conn.W-conn.R) {
		body, _, _ := a.buffered()
		x.coded, _ = p.AppendAll(x.coded[:0], body, x.coding)
		x.responseHead(false)
		x.insertLength(len(x.coded))
		x.status, x.begun = x.res.Status, true
		x.bytesOut = int64(len(x.coded))
		if err := x.client.writeBoth(x.out, x.coded); err != nil {
			return clientFault(err)
		}
		return fault.None
	}
	x.responseHead(true)
	x.status, x.begun = x.res.Status, true
	s := p.NewStream(x.coding)
	defer s.Drop()
	return x.relayThrough(s, &a, conn)
}

// insertLength puts a Content-Length before the empty line that ends the head in
// x.out.
func (x *exchange) insertLength(n int) {
	x.out = append(appendLengthLine(x.out[:len(x.out)-2], int64(n)), "\r\n"...)
}

// relayThrough sends a body through s. What a target that streams has said so far
// is with the client before more is waited for.
func (x *exchange) relayThrough(s *encode.Stream, a *arrival, conn *pool.Conn) fault.Kind {
	idle, sent := int64(x.upstream.Idle()), false
	streamed := a.chunked || a.untilClose
	ended := false
	for {
		piece, done, f := a.buffered()
		if f != fault.None {
			x.begun = sent // while the head has not been sent, the client can be told
			return f
		}
		done = done || ended
		waits := !done && conn.R == conn.W
		x.coded, _ = s.Append(x.coded[:0], piece, waits && streamed)
		if done {
			x.coded, _ = s.End(x.coded)
		}
		if n := len(x.coded); n > 0 {
			x.bytesOut += int64(n)
			x.out = append(append(wire.AppendChunkSize(x.out, n), x.coded...), "\r\n"...)
		}
		switch {
		case done:
			if x.out = append(x.out, "0\r\n"...); a.chunked {
				x.out = x.appendTrailers(x.out, a.chunks.Trailers, x.mayReturn)
			}
			x.out = append(x.out, "\r\n"...)
			return x.flush()
		case len(x.out) > backSize || waits && (streamed || !sent):
			sent = true
			conn.Arm(x.until(x.heard + unbounded)) // a slow client is not the target's fault
			if f := x.flush(); f != fault.None {
				return f
			}
		}
		if !waits {
			continue
		}
		conn.Arm(x.until(wire.Nanotime() + idle))
		if err := conn.Fill(); err != nil {
			if !a.untilClose || err != io.EOF {
				return fault.AnswerCut
			}
			ended = true
		}
	}
}

// choosesFor is chooseCoding for what is stored, whose body has length bytes, or
// -1.
func (x *exchange) choosesFor(o *cache.Object, length int64) {
	x.coding, x.varies = encode.Identity, false
	if p := x.route.Compress; p != nil && o.Sum != 0 && codable(int(o.Status)) && o.Marks&cache.MarkNoTransform == 0 {
		x.agreeOnCoding(p, o.Field("content-type"), length)
	}
}

// encoded is the body of o in the coding that the client is to get. It is made
// once and stored beside o; while one makes it, others get o as it is.
func (x *exchange) encoded(o *cache.Object) []byte {
	p, c, k := x.route.Compress, x.snapshot.Cache, &x.cached
	if x.choosesFor(o, int64(len(o.Body))); x.coding == encode.Identity {
		return o.Body
	}
	k.full = append(append(append(k.full[:0], o.Key...), '\n'), x.coding.String()...)
	made := c.Get(k.full)
	if made == nil || made.Sum != o.Sum {
		fill, leads := c.Join(k.full)
		if !leads {
			fill.Leave()
			x.coding = encode.Identity
			return o.Body
		}
		body, err := p.AppendAll(nil, o.Body, x.coding)
		if err != nil || len(body) >= len(o.Body) {
			body = nil // not worth it
		}
		made = o.Made(bytes.Clone(k.full), body)
		c.Put(made)
		fill.End(cache.Lost, 0)
	}
	if len(made.Body) == 0 {
		x.coding = encode.Identity
		return o.Body
	}
	x.made = made
	return made.Body
}
