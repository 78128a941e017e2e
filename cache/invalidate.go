package cache

import (
	"net/url"
	"strings"

	"sluice/wire"
)

// Invalidates tells whether an answer with this status to a request with this
// method makes what is stored under its URI, and under those that Targets
// names, invalid (RFC 9111 4.4).
func Invalidates(m Method, status int) bool {
	return m == Unsafe && status >= 200 && status < 400
}

// Target is a URI of the request's own origin.
type Target struct {
	Path  string // escaped, as it was written; not in the proxy's normal form
	Query string
	Has   bool // there is a query
}

// mostLocation bounds a Location that is looked at.
const mostLocation = 8 << 10

// Targets appends to dst the URIs that Location and Content-Location name, when
// they are of the request's own origin: others are none of this answer's
// business (RFC 9111 4.4). It allocates.
func Targets(dst []Target, scheme string, host, path, query []byte, fields []wire.Field) []Target {
	base := &url.URL{Scheme: scheme, Host: string(host), Path: "/", RawQuery: string(query)}
	if u, err := url.ParseRequestURI(string(path)); err == nil {
		base.Path, base.RawPath = u.Path, u.RawPath
	}
	for i := range fields {
		f := &fields[i]
		if f.Kind != wire.Location && !(f.Kind == wire.Other && wire.EqualFold(f.Name, "content-location")) || len(f.Value) > mostLocation {
			continue
		}
		ref, err := base.Parse(string(f.Value))
		if err != nil || ref.Opaque != "" || ref.Scheme != scheme || origin(ref) != origin(base) {
			continue
		}
		p := ref.EscapedPath()
		if p == "" {
			p = "/"
		}
		dst = append(dst, Target{p, ref.RawQuery, ref.RawQuery != "" || ref.ForceQuery})
	}
	return dst
}

// origin is host and port in one form.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		if port = "80"; u.Scheme == "https" {
			port = "443"
		}
	}
	return strings.ToLower(u.Hostname()) + "\n" + port
}
