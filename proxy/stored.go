package proxy

import (
	"errors"
	"io"
	"runtime"
	"strconv"

	"github.com/valyala/fasthttp"

	"sluice/auth"
	"sluice/cache"
	"sluice/encode"
	"sluice/fault"
	"sluice/wire"
)

// boundary stands between the parts of a multipart/byteranges answer; the
// request's id makes it one that no stored body was made for.
const boundary = "sluice-part-"

// sendStored answers with o: all of it, the parts that were asked for, or 304.
func (x *exchange) sendStored(o *cache.Object, v cache.Verdict) fault.Kind {
	k := &x.cached
	now := x.wall(x.start)
	body := o.Body
	if k.ask.Ranged() {
		x.choosesFor(o, int64(len(body)))
		x.coding = encode.Identity
	} else {
		body = x.encoded(o)
	}
	if cache.NotModified(&k.ask, &o.Entry, now) {
		x.storedHead(o, v, 304, nil)
		return x.writeStored(o, 0, nil)
	}
	var lines [128]byte
	if k.ask.Ranged() {
		var ranges cache.Ranges
		switch cache.Parts(&ranges, &k.ask, &o.Entry, now) {
		case cache.Single:
			s := ranges.Span[0]
			x.storedHead(o, v, 206, appendLength(cache.AppendContentRange(lines[:0], s, o.Length), o, s.Len()))
			return x.writeStored(o, s.First, body[s.First:s.Last+1])
		case cache.Multiple:
			return x.sendParts(o, v, &ranges)
		case cache.Unsatisfiable:
			return x.sendUnsatisfied(o, v)
		}
	}
	x.storedHead(o, v, int(o.Status), appendLength(lines[:0], o, int64(len(body))))
	if x.made != nil {
		o = x.made
	}
	return x.writeStored(o, 0, body)
}

// sendParts answers with several parts of o (RFC 9110 14.6).
func (x *exchange) sendParts(o *cache.Object, v cache.Verdict, ranges *cache.Ranges) fault.Kind {
	mark := boundary + string(x.id)
	kind := o.Field("content-type")
	var parts []byte
	for i, s := range ranges.Span[:ranges.N] {
		parts = cache.AppendPart(parts, i == 0, mark, kind, s, o.Length)
		parts = append(parts, o.Body[s.First:s.Last+1]...)
	}
	parts = cache.AppendPartsEnd(parts, mark)
	x.storedHead(o, v, multipart, appendLength([]byte("Content-Type: multipart/byteranges; boundary="+mark+"\r\n"), o, int64(len(parts))))
	return x.writeStored(nil, 0, parts)
}

// sendUnsatisfied answers that no part that was asked for is there.
func (x *exchange) sendUnsatisfied(o *cache.Object, v cache.Verdict) fault.Kind {
	x.storedHead(o, v, 416, appendLength(cache.AppendUnsatisfied(nil, o.Length), o, 0))
	return x.writeStored(o, 0, nil)
}

// multipart stands for a 206 of several parts, each of which has a Content-Type
// of its own.
const multipart = -206

func appendLength(out []byte, o *cache.Object, n int64) []byte {
	if o.Status == 204 {
		return out
	}
	return appendLengthLine(out, n)
}

func appendLengthLine(out []byte, n int64) []byte {
	return append(strconv.AppendInt(append(out, "Content-Length: "...), n, 10), "\r\n"...)
}

// storedHead writes to x.out the head of a stored answer; lines are those of this
// message alone: its length, or the part that it is.
func (x *exchange) storedHead(o *cache.Object, v cache.Verdict, status int, lines []byte) {
	s := &x.snapshot.Settings
	head := o.Head
	switch status {
	case 304, 416:
		head = cache.AppendNotModified(nil, &o.Entry)
	case 206, multipart:
		head = cache.AppendPartialHead(nil, &o.Entry, status == multipart)
		status = 206
	}
	out := appendStatusText(x.out[:0], status, fasthttp.StatusMessage(status))
	out = x.appendStored(out, head)
	if len(x.cached.extra) > 0 {
		out = x.appendStored(out, x.cached.extra)
	}
	if out = append(out, lines...); status == 304 {
		x.coding = encode.Identity // it has no content
	}
	out = x.appendCoding(out)
	own := len(out)
	if len(x.cookies) > 0 {
		out = append(out, "Cache-Control: private, no-store\r\n"...)
	}
	if k := &x.cached; k.status.Fwd == cache.Hit || v.Age > 0 {
		out = cache.AppendAge(out, v)
	}
	if s.Via {
		out = s.appendVia(out, 1)
	}
	x.closeAtEnd()
	x.out = x.appendOwn(out, own, false)
	x.status, x.begun = status, true
}

// appendStored writes the lines of a stored head that this client may see.
func (x *exchange) appendStored(out, head []byte) []byte {
	edit := &x.route.Response
	if !edit.any && x.route.CORS == nil && len(x.cookies) == 0 && x.coding == encode.Identity {
		return append(out, head...)
	}
	for len(head) > 0 {
		name, line, rest := cache.NextLine(head)
		if line == nil {
			break
		}
		head = rest
		f := wire.Field{Name: name}
		switch {
		case edit.any && edit.replaces(&f),
			x.route.CORS != nil && auth.DropsFromAnswer(name),
			len(x.cookies) > 0 && wire.KindOf(name) == wire.CacheControl:
			continue
		case x.coding != encode.Identity:
			out = appendCodedField(out, name, wire.TrimOWS(line[len(name)+1:len(line)-2]))
			continue
		}
		out = append(out, line...)
	}
	return out
}

// writeStored sends the head in x.out and body, which is o's from at on where there
// is an o, in one write.
func (x *exchange) writeStored(o *cache.Object, at int64, body []byte) fault.Kind {
	if string(x.req.Method) == "HEAD" {
		body = nil
	}
	x.bytesOut = int64(len(body))
	var err error
	file, ok := 0, false
	if len(body) > cap(x.out)-len(x.out) && o != nil {
		file, ok = o.File()
	}
	switch {
	case ok:
		err = x.client.writeFile(x.out, body, file, at)
		runtime.KeepAlive(o)
	case len(body) <= cap(x.out)-len(x.out):
		x.out = append(x.out, body...)
		err = x.client.write(x.out)
	default:
		err = x.client.writeBoth(x.out, body)
	}
	if err != nil {
		return clientFault(err)
	}
	return fault.None
}

// follow answers with o, whose body is still arriving.
func (x *exchange) follow(o *cache.Object, length int64, r *cache.Reader, v cache.Verdict) fault.Kind {
	f := x.sendArriving(o, length, r, v)
	r.Close(f == fault.None)
	return f
}

func (x *exchange) sendArriving(o *cache.Object, length int64, r *cache.Reader, v cache.Verdict) fault.Kind {
	k := &x.cached
	now := x.wall(x.start)
	if x.choosesFor(o, length); k.ask.Ranged() {
		x.coding = encode.Identity
	}
	if cache.NotModified(&k.ask, &o.Entry, now) {
		x.storedHead(o, v, 304, nil)
		return x.writeStored(o, 0, nil)
	}
	body := arriving{reader: r, left: length}
	status := int(o.Status)
	var buf [128]byte
	lines := buf[:0]
	switch {
	case x.coding != encode.Identity:
		body.coder = x.route.Compress.NewStream(x.coding)
		defer body.coder.Drop()
		body.chunked = true
	case length < 0:
		if body.chunked = x.req.Minor > 0; !body.chunked {
			x.close = true // an HTTP/1.0 client learns the end by the close
		}
	default:
		var ranges cache.Ranges
		switch cache.Parts(&ranges, &k.ask, &o.Entry, now) {
		case cache.Single:
			s := ranges.Span[0]
			body.skip, body.left, status = s.First, s.Len(), 206
			lines = cache.AppendContentRange(lines, s, length)
		case cache.Unsatisfiable:
			return x.sendUnsatisfied(o, v)
		}
		lines = appendLength(lines, o, body.left)
	}
	if body.chunked {
		lines = append(lines, "Transfer-Encoding: chunked\r\n"...)
	}
	x.storedHead(o, v, status, lines)
	if string(x.req.Method) == "HEAD" {
		return x.writeStored(o, 0, nil)
	}
	return x.relayArriving(&body)
}

// arriving is what of a body that is arriving goes to one client, and how.
type arriving struct {
	reader  *cache.Reader
	skip    int64 // bytes that are not wanted
	left    int64 // bytes that are wanted behind them, -1 for all
	chunked bool
	coder   *encode.Stream // nil sends it as it is
}

// next is the next piece that is wanted; done says that there is none any more.
func (b *arriving) next() (piece []byte, done bool, f fault.Kind, changed <-chan struct{}) {
	for {
		piece, ended, phase, reason, changed := b.reader.Next()
		if n := min(b.skip, int64(len(piece))); n > 0 {
			piece, b.skip = piece[n:], b.skip-n
		}
		if b.left >= 0 && int64(len(piece)) >= b.left {
			piece, ended, phase = piece[:b.left], true, cache.Complete
		}
		switch {
		case len(piece) > 0:
			if b.left > 0 {
				b.left -= int64(len(piece))
			}
			return piece, ended && b.left == 0, fault.None, nil
		case ended && phase == cache.Complete && b.left <= 0:
			return nil, true, fault.None, nil
		case ended && phase == cache.Failed:
			return nil, true, fault.Kind(reason), nil
		case ended:
			return nil, true, fault.AnswerCut, nil
		case changed != nil:
			return nil, false, fault.None, changed
		}
	}
}

// relayArriving sends a body as it arrives, behind the head that is in x.out.
func (x *exchange) relayArriving(b *arriving) fault.Kind {
	for {
		piece, done, f, changed := b.next()
		if f != fault.None {
			return f
		}
		if b.coder != nil {
			x.coded, _ = b.coder.Append(x.coded[:0], piece, changed != nil)
			if done {
				x.coded, _ = b.coder.End(x.coded)
			}
			piece = x.coded
		}
		if n := len(piece); n > 0 {
			if b.chunked {
				x.out = wire.AppendChunkSize(x.out, n)
			}
			if err := x.client.writeBoth(x.out, piece); err != nil {
				return clientFault(err)
			}
			x.bytesOut += int64(n)
			if x.out = x.out[:0]; b.chunked {
				x.out = append(x.out, "\r\n"...)
			}
		}
		if done {
			if b.chunked {
				x.out = append(x.out, "0\r\n\r\n"...)
			}
			return x.flush()
		}
		if changed == nil {
			continue
		}
		if f := x.flush(); f != fault.None {
			return f
		}
		if f, over := x.pauseFor(changed, x.until(x.start+unbounded)); over {
			if f == fault.None {
				f = fault.AnswerCut
			}
			return f
		}
	}
}

// flush sends what has been gathered.
func (x *exchange) flush() fault.Kind {
	if len(x.out) == 0 {
		return fault.None
	}
	err := x.client.write(x.out)
	if x.out = x.out[:0]; err != nil {
		return clientFault(err)
	}
	return fault.None
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
