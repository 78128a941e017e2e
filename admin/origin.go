package admin

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/valyala/fasthttp"
)

// hostNames are the names under which the door may be asked for. A page of
// evil.example whose name is made to point to 127.0.0.1 would count as the
// same origin and could read everything here; its Host gives it away.
type hostNames map[string]bool

func newHostNames(address string, more []string) hostNames {
	h := hostNames{"localhost": true}
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		h[fold(host)] = true
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		h[fold(name)] = true
	}
	for _, name := range more {
		h[fold(name)] = true
	}
	return h
}

// accept reports whether a Host header is one of the names or an IP address,
// which cannot be made to point elsewhere. Without a Host it is no browser.
func (h hostNames) accept(header string) bool {
	if header == "" {
		return true
	}
	host := header
	if name, _, err := net.SplitHostPort(header); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return h[fold(host)]
}

func fold(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// crossOrigin is the standard library's judgement of Sec-Fetch-Site and Origin.
var crossOrigin http.CrossOriginProtection

// fromAnotherSite reports whether a browser sent an unsafe request on behalf
// of a page that is not this door's. With strict set every request is unsafe.
func fromAnotherSite(ctx *fasthttp.RequestCtx, strict bool) bool {
	r := http.Request{
		Method: string(ctx.Method()),
		Host:   string(ctx.Request.Header.Host()),
		Header: http.Header{},
	}
	if strict {
		r.Method = http.MethodPost
	}
	for _, name := range []string{"Sec-Fetch-Site", "Origin"} {
		if value := ctx.Request.Header.Peek(name); len(value) > 0 {
			r.Header.Set(name, string(value))
		}
	}
	return crossOrigin.Check(&r) != nil
}
