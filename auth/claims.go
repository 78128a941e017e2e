package auth

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
)

// What requirements look at is worked out once, when an identity is made, so
// that a check neither walks claims nor makes texts. What expressions look at is a
// copy of the claims, and made only when an expression first asks for it.

// Bounds of what requirements see of an identity. Beyond them a value is left
// out: what is not seen is not held, so a check fails closed.
const (
	mostPaths  = 512  // claims, at all depths
	mostValues = 4096 // values of all claims together
	mostNested = 16   // levels of what expressions see
)

// held is the values of each claim by its path, as sorted texts: one of a
// scalar, those of the scalars in a list. A path that stands for two claims,
// {"a.b": 1} and {"a": {"b": 2}}, stands for none: whoever can name a claim
// could otherwise put his own over one that the provider vouches for.
type held map[string][]string

func heldOf(subject string, claims map[string]any) held {
	h := held{}
	values := 0
	h.collect("", claims, 0, &values)
	if _, ok := claims["sub"]; !ok && subject != "" {
		h["sub"] = []string{subject}
	}
	for path, list := range h {
		if list == nil {
			delete(h, path)
			continue
		}
		slices.Sort(list)
		h[path] = slices.Clip(slices.Compact(list))
	}
	return h
}

func (h held) collect(prefix string, claims map[string]any, depth int, values *int) {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if len(h) >= mostPaths {
			return
		}
		path := prefix + name
		switch v := claims[name].(type) {
		case map[string]any:
			if depth < mostDepth {
				h.collect(path+".", v, depth+1, values)
			}
		case []any:
			list := make([]string, 0, min(len(v), mostValues))
			for _, e := range v {
				if s, ok := scalarText(e); ok && *values < mostValues {
					list = append(list, s)
					*values++
				}
			}
			h.put(path, list)
		case []string:
			n := min(len(v), mostValues-*values)
			*values += n
			h.put(path, append([]string{}, v[:n]...))
		default:
			if s, ok := scalarText(v); ok && *values < mostValues {
				*values++
				h.put(path, []string{s})
			}
		}
	}
}

// put gives path its values, or none for ever when it has some already.
func (h held) put(path string, list []string) {
	if _, twice := h[path]; twice {
		list = nil
	}
	h[path] = list
}

// has tells whether the claim at path is, or holds, value. It allocates nothing.
func (h held) has(path, value string) bool {
	_, ok := slices.BinarySearch(h[path], value)
	return ok
}

func scalarText(v any) (string, bool) {
	switch v.(type) {
	case string, bool, json.Number, float64, int64, int:
		return textOf(v)
	}
	return "", false
}

// caller is an Identity as expressions see it: numbers are int or float64. It
// never changes.
type caller struct {
	Authenticator string         `expr:"authenticator"`
	Subject       string         `expr:"subject"`
	Scopes        []string       `expr:"scopes"`
	Claims        map[string]any `expr:"claims"`

	longest int // entries of the longest list or map
}

// nobody stands for the caller of a request that nobody has proven.
var nobody = &caller{}

func callerOf(id *Identity) *caller {
	if c := id.caller.Load(); c != nil {
		return c
	}
	c := &caller{Authenticator: id.Authenticator, Subject: id.Subject, Scopes: id.Scopes, longest: len(id.Scopes)}
	c.Claims, _ = c.copied(id.Claims, 0).(map[string]any)
	id.caller.Store(c) // of two made at one time, either will do
	return c
}

// copied returns v with its numbers as int or float64, and notes how long its
// lists are.
func (c *caller) copied(v any, depth int) any {
	switch v := v.(type) {
	case map[string]any:
		c.longest = max(c.longest, len(v))
		if depth == mostNested || v == nil {
			return nil
		}
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = c.copied(e, depth+1)
		}
		return m
	case []any:
		c.longest = max(c.longest, len(v))
		if depth == mostNested {
			return nil
		}
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = c.copied(e, depth+1)
		}
		return list
	case []string:
		c.longest = max(c.longest, len(v))
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil && n == int64(int(n)) {
			return int(n)
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case int64:
		return int(v)
	case float64:
		// A whole number is one, however its decoder saw it.
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v)
		}
		return v
	default:
		return v
	}
}
