package proxy

import (
	"github.com/valyala/fasthttp"

	"sluice/auth"
	"sluice/fault"
)

// findPreflight finds the route that a CORS preflight asks for: that of the
// method which the browser is about to use (Fetch 4.8). The target never sees
// it, for it comes without credentials.
func (x *exchange) findPreflight() *Route {
	method, ok := auth.IsPreflight(&x.req)
	if !ok {
		return nil
	}
	own := x.req.Method
	x.req.Method = method
	r := x.snapshot.Table.lookup(x, nil)
	x.req.Method = own
	if r == nil || r.CORS == nil {
		return nil
	}
	return r
}

// preflight answers a CORS preflight, and refuses requests of pages that the
// route wants nothing from.
func (x *exchange) preflight() fault.Kind {
	c := x.route.CORS
	if c == nil {
		return fault.None
	}
	if !x.preflighted {
		if c.Blocks(&x.req, x.scheme) {
			x.why = reasonOtherOrigin
			return fault.Forbidden
		}
		return fault.None
	}
	origin, method, headers, private, _ := auth.PreflightFields(&x.req)
	lines, ok := c.Preflight(x.back[:0], origin, method, headers, private)
	status := fasthttp.StatusNoContent
	if !ok {
		x.why, x.refused, status = reasonOtherOrigin, true, fasthttp.StatusForbidden
	}
	x.dropBody()
	out := appendStatus(x.out[:0], status, []byte(fasthttp.StatusMessage(status)))
	if out = append(out, lines...); !ok {
		out = append(out, "Content-Length: 0\r\n"...)
	}
	x.sendOwn(x.appendDate(out), status, nil)
	return fault.None
}
