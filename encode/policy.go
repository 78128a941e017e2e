package encode

import (
	"bytes"

	"sluice/wire"
)

// Policy is a Config made ready. It never changes and may be used by any number
// of goroutines.
type Policy struct {
	order   []Coding // the gateway's preference
	exact   map[string]struct{}
	classes []mediaTypes
	min     int64
	level   level
}

// NewPolicy compiles c, which must have been found valid. Fields without a value
// count as not written.
func NewPolicy(c *Config) *Policy {
	p := &Policy{exact: make(map[string]struct{}), min: int64(c.Min), level: levelOf(c.Level)}
	names, types := c.Codings, c.Types
	if len(names) == 0 {
		names = defaultCodings
	}
	if len(types) == 0 {
		types = defaultTypes
	}
	for _, name := range names {
		if c, ok := codingNamed([]byte(name)); ok && c != Identity {
			p.order = append(p.order, c)
		}
	}
	for _, text := range types {
		switch m, ok := parseType(text); {
		case !ok:
		case m.exact != "":
			p.exact[m.exact] = struct{}{}
		default:
			p.classes = append(p.classes, m)
		}
	}
	return p
}

// Suits tells whether a body with this Content-Type and of length bytes, -1 when
// that is not known, is worth compressing. Case and parameters of the type do not
// count; a body without a type is not. It allocates nothing.
//
// text/event-stream is not in text/*: events are small and wait for nobody, and
// each would have to be flushed.
func (p *Policy) Suits(contentType []byte, length int64) bool {
	if length == 0 || length > 0 && length < p.min {
		return false
	}
	if i := bytes.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	contentType = wire.TrimOWS(contentType)
	var room [mostType]byte
	if len(contentType) > len(room) {
		return false
	}
	name, slashes := room[:len(contentType)], 0
	for i, c := range contentType {
		if c == '/' {
			slashes++
		}
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		name[i] = c
	}
	if _, ok := p.exact[string(name)]; ok {
		return true
	}
	if slashes != 1 || string(name) == "text/event-stream" {
		return false
	}
	for i := range p.classes {
		if p.classes[i].holds(name) {
			return true
		}
	}
	return false
}
