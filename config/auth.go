package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/auth"
	"sluice/limiter"
	"sluice/setting"
)

// validateAuth checks the authenticators' names, and validateRouteAuth what a
// route asks of its callers.
func (c *Config) validateAuth(p *setting.Problems) {
	for _, name := range slices.Sorted(maps.Keys(c.Auth)) {
		if !isName(name) {
			p.Add("auth."+setting.Key(name), "expected a name of up to 128 letters, digits and any of . _ - / :, got %q", name)
		}
	}
}

func (c *Config) validateRouteAuth(p *setting.Problems, r *Route) {
	if r.Auth == nil {
		if r.Require != nil {
			p.Add("require", "expected auth as well: without it nobody is known")
		}
		return
	}
	if len(r.Auth.Any) == 0 {
		p.Add("auth", "expected the name of an authenticator, or a list of them")
	}
	for i, text := range r.Auth.Any {
		at := "auth.any[" + strconv.Itoa(i) + "]"
		group := strings.Split(text, "+")
		if len(group) > auth.MostProven {
			p.Add(at, "expected at most %d authenticators joined by +, got %d", auth.MostProven, len(group))
		}
		for j, name := range group {
			if _, ok := c.Auth[name]; !ok {
				c.unknownAuthenticator(p, at, name)
			} else if slices.Contains(group[:j], name) {
				p.Add(at, "expected each authenticator once, got %q again", name)
			}
		}
		if slices.Contains(r.Auth.Any[:i], text) {
			p.Add(at, "expected each entry once, got %q again", text)
		}
	}
}

func (c *Config) unknownAuthenticator(p *setting.Problems, at, name string) {
	known := slices.Sorted(maps.Keys(c.Auth))
	if near := setting.Nearest(name, known); near != "" {
		p.Add(at, "unknown authenticator %q; did you mean %q?", name, near)
	} else {
		p.Add(at, "unknown authenticator %q; expected one of those under auth", name)
	}
}

// needsIdentity tells whether a limit's key is that of a proven caller, with
// nothing that could stand in for it.
func needsIdentity(l limiter.Config) bool {
	parts, _ := limiter.ParseKey(l.Key)
	for i, p := range parts {
		if p.NeedsIdentity() && !p.Or && (i+1 == len(parts) || !parts[i+1].Or) {
			return true
		}
	}
	return false
}
