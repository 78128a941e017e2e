package proxy

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"sluice/auth"
	"sluice/fault"
)

// login lets an authenticator answer a path of its own.
func (x *exchange) login(h auth.Handler) fault.Kind {
	body, f := x.takeBody(auth.MostHandled)
	if f != fault.None {
		return f
	}
	r := x.authRequest()
	r.Body = body
	return x.sendAnswer(h.Handle(r))
}

// sendAnswer sends an answer that an authenticator made.
func (x *exchange) sendAnswer(a *auth.Answer) fault.Kind {
	if a == nil {
		return fault.Internal
	}
	x.dropBody()
	bodiless := a.Status == fasthttp.StatusNoContent || a.Status == fasthttp.StatusNotModified
	out := appendStatus(x.out[:0], a.Status, []byte(fasthttp.StatusMessage(a.Status)))
	for _, l := range a.Header {
		out = appendField(out, []byte(l.Name), []byte(l.Value))
	}
	body := a.Body
	if bodiless {
		body = nil
	} else {
		out = append(out, "Content-Length: "...)
		out = append(strconv.AppendInt(out, int64(len(body)), 10), "\r\n"...)
	}
	x.sendOwn(x.appendDate(out), a.Status, body)
	return fault.None
}
