package admin

import (
	"errors"
	"html"
	"net"
	"strings"

	"github.com/goccy/go-json"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"

	"sluice/fault"
	"sluice/observe"
)

var servePprof = pprofhandler.PprofHandler

// problemDocument is RFC 9457's, with the members that are of use here.
type problemDocument struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// problem answers with a mistake. kind is a stable word like fault's names.
func problem(ctx *fasthttp.RequestCtx, status int, kind, detail string) {
	allow := ctx.Response.Header.Peek("Allow")
	ctx.Response.Reset()
	guard(ctx)
	if len(allow) > 0 {
		ctx.Response.Header.SetBytesV("Allow", allow)
	}
	writeJSON(ctx, problemDocument{"urn:sluice:problem:" + kind, fasthttp.StatusMessage(status), status, detail})
	ctx.SetStatusCode(status)
	ctx.SetContentType(fault.ContentType)
}

// guard sets what every answer has: nothing here is to be kept, guessed at,
// framed, or let run scripts.
func guard(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
}

func writeText(ctx *fasthttp.RequestCtx, text string) {
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(text)
}

// writeJSON panics when v cannot be JSON, which is a defect of whoever gave it.
func writeJSON(ctx *fasthttp.RequestCtx, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	ctx.SetContentType("application/json")
	ctx.SetBody(append(text, '\n'))
}

// refuseMessage answers what is not an acceptable HTTP request.
func refuseMessage(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	var timeout net.Error
	switch {
	case errors.As(err, &small):
		problem(ctx, fasthttp.StatusRequestHeaderFieldsTooLarge, "head-too-large", "expected a smaller head")
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		problem(ctx, fasthttp.StatusRequestEntityTooLarge, "body-too-large", "expected no body, or a small one")
	case errors.As(err, &timeout) && timeout.Timeout():
		problem(ctx, fasthttp.StatusRequestTimeout, "request-timeout", "the request took too long to arrive")
	default:
		problem(ctx, fasthttp.StatusBadRequest, "bad-request", "expected an HTTP/1.1 request")
	}
}

// index is the page that lists the endpoints.
func index(build observe.Build, endpoints []endpoint) fasthttp.RequestHandler {
	var page strings.Builder
	page.WriteString("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sluice admin</title>\n" +
		"<style>body{font:16px/1.5 sans-serif;margin:2rem}td{padding-right:1.5rem}</style></head>\n" +
		"<body><h1>Sluice " + html.EscapeString(build.Version) + "</h1>\n<table>\n")
	for _, e := range endpoints {
		name := html.EscapeString(e.path)
		if e.method == "GET" {
			name = `<a href="` + name + `">` + name + "</a>"
		}
		page.WriteString("<tr><td>" + e.method + "</td><td>" + name + "</td><td>" + html.EscapeString(e.help) + "</td></tr>\n")
	}
	page.WriteString("</table></body></html>\n")
	text := page.String()
	return func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/html; charset=utf-8")
		ctx.SetBodyString(text)
	}
}
