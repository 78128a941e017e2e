package admin

import (
	"github.com/valyala/fasthttp"
)

// mostPurges bounds the orders of one request.
const mostPurges = 256

// purge reads orders from the query: url, prefix and tag, each as often as wanted,
// or all; soft holds for all of them. An order that is wrong ends the request;
// those before it have been carried out, as the answer says.
func (s *Server) purge(order func(scope, value string, soft bool) error) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		args := ctx.QueryArgs()
		soft := false
		type purged struct {
			Scope string `json:"scope"`
			Value string `json:"value,omitempty"`
		}
		var orders []purged
		unknown := ""
		for name, value := range args.All() {
			switch string(name) {
			case "soft":
				soft = string(value) != "0" && string(value) != "false"
			case "url", "prefix", "tag":
				orders = append(orders, purged{string(name), string(value)})
			case "all":
				orders = append(orders, purged{Scope: "all"})
			default:
				unknown = string(name)
			}
		}
		switch {
		case unknown != "":
			problem(ctx, fasthttp.StatusBadRequest, "bad-request", "expected url, prefix, tag, all or soft in the query, got "+unknown)
			return
		case len(orders) == 0:
			problem(ctx, fasthttp.StatusBadRequest, "bad-request", "expected url=, prefix=, tag= or all in the query")
			return
		case len(orders) > mostPurges:
			problem(ctx, fasthttp.StatusBadRequest, "bad-request", "expected at most 256 orders at once")
			return
		}
		done := []purged{}
		for _, o := range orders {
			if err := order(o.Scope, o.Value, soft); err != nil {
				problem(ctx, fasthttp.StatusUnprocessableEntity, "purge-refused", o.Scope+": "+err.Error())
				return
			}
			done = append(done, o)
		}
		s.log.Info().Int("orders", len(done)).Bool("soft", soft).Str("first", done[0].Scope+" "+done[0].Value).Msg("purged")
		writeJSON(ctx, struct {
			Purged []purged `json:"purged"`
			Soft   bool     `json:"soft"`
		}{done, soft})
	}
}
