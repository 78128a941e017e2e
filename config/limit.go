package config

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"sluice/setting"
)

// mostPlaces is how many limits of one route may bound requests in flight.
const mostPlaces = 4

// validateLimits checks the limits by name, and validateLimit those that a route
// names.
func (c *Config) validateLimits(p *setting.Problems) {
	files := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		if file := c.Limits[name].File; file != "" {
			if other, taken := files[filepath.Clean(file)]; taken {
				p.Add("limits."+setting.Key(name)+".file", "expected a file of its own, got that of limit %q", other)
			}
			files[filepath.Clean(file)] = name
		}
		if !isName(name) {
			p.Add("limits."+setting.Key(name), "expected a name of up to 128 letters, digits and any of . _ - / :, got %q", name)
		}
		if s := c.Limits[name].Shared; s != nil {
			c.checkRedis(p, "limits."+setting.Key(name)+".shared.redis", s.Redis)
		}
	}
}

// checkRedis reports a Redis that is not there.
func (c *Config) checkRedis(p *setting.Problems, at, name string) {
	if _, ok := c.Redis[name]; ok {
		return
	}
	if near := setting.Nearest(name, slices.Sorted(maps.Keys(c.Redis))); near != "" {
		p.Add(at, "unknown Redis %q; did you mean %q?", name, near)
	} else {
		p.Add(at, "unknown Redis %q; expected one of those under redis", name)
	}
}

func (c *Config) validateLimit(p *setting.Problems, r *Route) {
	places := 0
	for i, name := range r.Rate {
		path := "limit[" + strconv.Itoa(i) + "]"
		if _, ok := c.Limits[name]; !ok {
			known := slices.Sorted(maps.Keys(c.Limits))
			if near := setting.Nearest(name, known); near != "" {
				p.Add(path, "unknown limit %q; did you mean %q?", name, near)
			} else {
				p.Add(path, "unknown limit %q; expected one of those under limits", name)
			}
		} else if slices.Contains(r.Rate[:i], name) {
			p.Add(path, "expected each limit once, got %q again", name)
		} else {
			l := c.Limits[name]
			if l.Concurrent > 0 {
				places++
			}
			if l.Concurrent > 0 && places > mostPlaces {
				p.Add(path, "expected at most %d limits with concurrent on one route", mostPlaces)
			}
			if r.Auth == nil && needsIdentity(l) {
				p.Add(path, "expected auth on the route, for the key of limit %q asks who calls", name)
			}
		}
	}
}
