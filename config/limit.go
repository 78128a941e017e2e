package config

import (
	"maps"
	"slices"
	"strconv"

	"sluice/setting"
)

// validateLimits checks the limits by name, and validateLimit those that a route
// names.
func (c *Config) validateLimits(p *setting.Problems) {
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		if !isName(name) {
			p.Add("limits."+setting.Key(name), "expected a name of up to 128 letters, digits and any of . _ - / :, got %q", name)
		}
	}
}

func (c *Config) validateLimit(p *setting.Problems, r *Route) {
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
		}
	}
}
