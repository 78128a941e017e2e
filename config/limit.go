package config

import (
	"maps"
	"slices"
	"strconv"

	"sluice/setting"
)

// mostPlaces is how many limits of one route may bound requests in flight.
const mostPlaces = 4

// validateLimits checks the limits by name, and validateLimit those that a route
// names.
func (c *Config) validateLimits(p *setting.Problems) {
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		if !isName(name) {
			p.Add("limits."+setting.Key(name), "expected a name of up to 128 letters, digits and any of . _ - / :, got %q", name)
		}
		if s := c.Limits[name].Shared; s != nil {
			if _, ok := c.Redis[s.Redis]; !ok {
				at := "limits." + setting.Key(name) + ".shared.redis"
				if near := setting.Nearest(s.Redis, slices.Sorted(maps.Keys(c.Redis))); near != "" {
					p.Add(at, "unknown Redis %q; did you mean %q?", s.Redis, near)
				} else {
					p.Add(at, "unknown Redis %q; expected one of those under redis", s.Redis)
				}
			}
		}
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
		} else if l := c.Limits[name]; l.Concurrent > 0 {
			if places++; places > mostPlaces {
				p.Add(path, "expected at most %d limits with concurrent on one route", mostPlaces)
			}
		} else if r.Auth == nil && needsIdentity(l) {
			p.Add(path, "expected auth on the route, for the key of limit %q asks who calls", name)
		}
	}
}
