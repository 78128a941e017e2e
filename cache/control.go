package cache

import (
	"bytes"

	"github.com/dunglas/httpsfv"

	"sluice/wire"
)

// Flag is a directive without a number.
type Flag uint16

// The flags. A directive with a list of field names (no-cache="A, B") is in
// Control.fields instead.
const (
	FlagNoStore Flag = 1 << iota
	FlagNoCache
	FlagPrivate
	FlagPublic
	FlagMustRevalidate
	FlagProxyRevalidate
	FlagMustUnderstand
	FlagNoTransform
	FlagOnlyIfCached
	FlagImmutable
	FlagMaxStaleAny // max-stale without a number
	FlagMalformed   // a part of it cannot be read: the worst is assumed
)

// none stands for a number that was not given.
const none = -1

// Control is what Cache-Control, or a targeted field in its place, says: RFC
// 9111 5.2, RFC 5861, RFC 8246. Numbers are seconds from 0 to 2^31, or -1. Its
// slices point into what was read. Begin with reset.
type Control struct {
	Flags    Flag
	Present  bool // there was a field
	MaxAge   int64
	SMaxAge  int64
	MinFresh int64
	MaxStale int64
	SWR      int64 // stale-while-revalidate
	SIE      int64 // stale-if-error

	fields     [4][]byte // lists of names that are not to be kept
	fieldLists int
}

func (c *Control) reset() {
	*c = Control{MaxAge: none, SMaxAge: none, MinFresh: none, MaxStale: none, SWR: none, SIE: none}
}

func (c *Control) has(f Flag) bool { return c.Flags&f != 0 }

// ParseControl reads one field line of Cache-Control. It allocates nothing.
func ParseControl(value []byte) Control {
	var c Control
	c.reset()
	c.add(value)
	return c
}

// add reads one more field line. Of a directive that comes twice the first
// counts (RFC 9111 4.2.1). An argument may be a token or a quoted string,
// whatever the directive (5.2).
func (c *Control) add(b []byte) {
	c.Present = true
	for i := 0; i < len(b); {
		switch b[i] {
		case ' ', '\t', ',':
			i++
			continue
		}
		start := i
		for i < len(b) && b[i] != ',' && b[i] != '=' && b[i] != '"' {
			i++
		}
		name := wire.TrimOWS(b[start:i])
		if !wire.IsToken(name) {
			c.Flags |= FlagMalformed
		}
		if i < len(b) && b[i] == '=' {
			// White space around "=" is no grammar: what the name is can be
			// seen, what the argument is cannot.
			bad := len(name) != i-start
			arg, next, ok := argument(b, i+1)
			if i = next; !ok {
				c.Flags |= FlagMalformed
			}
			if !ok || bad {
				arg = badArgument
			}
			c.set(name, arg)
			continue
		}
		if i < len(b) && b[i] == '"' {
			c.Flags |= FlagMalformed
			i = skip(b, i)
		}
		c.set(name, nil)
	}
}

// badArgument is an argument that no directive takes.
var badArgument = []byte("=")

// argument reads the token or quoted string at b[i:] and what white space is
// behind it, up to the comma. ok is false when the string does not end or
// something else comes before the comma.
func argument(b []byte, i int) (arg []byte, next int, ok bool) {
	if i < len(b) && b[i] == '"' {
		start := i + 1
		for i = start; i < len(b) && b[i] != '"'; i++ {
			if b[i] == '\\' {
				i++
			}
		}
		if i >= len(b) {
			return nil, len(b), false
		}
		arg = b[start:i]
		for i++; i < len(b) && b[i] != ','; i++ {
			if b[i] != ' ' && b[i] != '\t' {
				return nil, skip(b, i), false
			}
		}
		return arg, i, true
	}
	start := i
	for i < len(b) && b[i] != ',' {
		if b[i] == '"' {
			return nil, skip(b, i), false
		}
		i++
	}
	arg = b[start:i]
	for len(arg) > 0 && (arg[len(arg)-1] == ' ' || arg[len(arg)-1] == '\t') {
		arg = arg[:len(arg)-1]
	}
	return arg, i, true
}

// skip finds the next comma outside of quotes.
func skip(b []byte, i int) int {
	for in := false; i < len(b); i++ {
		switch {
		case in && b[i] == '\\':
			i++
		case b[i] == '"':
			in = !in
		case b[i] == ',' && !in:
			return i
		}
	}
	return len(b)
}

// set takes one directive. What restricts counts whatever its argument; what
// allows counts only as it is defined.
func (c *Control) set(name, arg []byte) {
	switch len(name) {
	case 6:
		if wire.EqualFold(name, "public") && arg == nil {
			c.Flags |= FlagPublic
		}
	case 7:
		switch {
		case wire.EqualFold(name, "max-age"):
			setDelta(&c.MaxAge, arg, 0)
		case wire.EqualFold(name, "private"):
			c.setFields(FlagPrivate, arg)
		}
	case 8:
		switch {
		case wire.EqualFold(name, "no-store"):
			c.Flags |= FlagNoStore
		case wire.EqualFold(name, "no-cache"):
			c.setFields(FlagNoCache, arg)
		case wire.EqualFold(name, "s-maxage"):
			setDelta(&c.SMaxAge, arg, 0)
		}
	case 9:
		switch {
		case wire.EqualFold(name, "min-fresh"):
			setDelta(&c.MinFresh, arg, maxDelta)
		case wire.EqualFold(name, "max-stale"):
			if arg == nil {
				c.Flags |= FlagMaxStaleAny
			} else {
				setDelta(&c.MaxStale, arg, none)
			}
		case wire.EqualFold(name, "immutable") && arg == nil:
			c.Flags |= FlagImmutable
		}
	case 12:
		if wire.EqualFold(name, "no-transform") {
			c.Flags |= FlagNoTransform
		}
	case 14:
		switch {
		case wire.EqualFold(name, "only-if-cached"):
			c.Flags |= FlagOnlyIfCached
		case wire.EqualFold(name, "stale-if-error"):
			setDelta(&c.SIE, arg, none)
		}
	case 15:
		switch {
		case wire.EqualFold(name, "must-revalidate"):
			c.Flags |= FlagMustRevalidate
		case wire.EqualFold(name, "must-understand") && arg == nil:
			c.Flags |= FlagMustUnderstand
		}
	case 16:
		if wire.EqualFold(name, "proxy-revalidate") {
			c.Flags |= FlagProxyRevalidate
		}
	case 22:
		if wire.EqualFold(name, "stale-while-revalidate") {
			setDelta(&c.SWR, arg, none)
		}
	}
}

// setDelta takes delta-seconds, or bad in the place of what is none.
func setDelta(to *int64, arg []byte, bad int64) {
	if *to != none {
		return
	}
	if n, ok := parseDelta(arg); ok {
		*to = n
	} else {
		*to = bad
	}
}

// parseDelta reads 1*DIGIT; what is more than 2^31 is 2^31 (RFC 9111 1.2.2).
func parseDelta(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > maxDelta {
			n = maxDelta
		}
	}
	return n, true
}

// setFields takes private or no-cache, as a whole or for some fields only
// (RFC 9111 5.2.2.4, 5.2.2.7). A list that cannot be read is taken for the whole.
func (c *Control) setFields(whole Flag, arg []byte) {
	if arg == nil || c.fieldLists == len(c.fields) || !nameList(arg) {
		c.Flags |= whole
		return
	}
	c.fields[c.fieldLists] = arg
	c.fieldLists++
}

func nameList(list []byte) bool {
	n := 0
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		if !wire.IsToken(item) {
			return false
		}
		n++
	}
	return n > 0
}

// excludes tells whether a field of this name is not to be kept.
func (c *Control) excludes(name []byte) bool {
	for _, list := range c.fields[:c.fieldLists] {
		for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
			if bytes.EqualFold(item, name) {
				return true
			}
		}
	}
	return false
}

// mostTargeted bounds the bytes of a targeted field that are read. An answer
// with more is not kept.
const mostTargeted = 16 << 10

// readTargeted reads the lines of a targeted field, a Dictionary of Structured
// Fields (RFC 9213 2.1). It is false, and c of no use, for a field that is empty
// or none: then the field is ignored. It allocates.
func (c *Control) readTargeted(lines []string) bool {
	size := 0
	for _, l := range lines {
		size += len(l)
	}
	if size > mostTargeted {
		c.reset()
		c.Present, c.Flags = true, FlagNoStore
		return true
	}
	dict, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil || len(dict.Names()) == 0 {
		return false
	}
	c.reset()
	c.Present = true
	for _, name := range dict.Names() {
		member, _ := dict.Get(name)
		item, ok := member.(httpsfv.Item)
		if !ok {
			c.set([]byte(name), badArgument)
			continue
		}
		switch v := item.Value.(type) {
		case bool:
			if v {
				c.set([]byte(name), nil)
			}
		case int64:
			c.set([]byte(name), appendInt(nil, v))
		case string:
			// Only lists of names are texts; a number in quotes is of the wrong type.
			if name == "private" || name == "no-cache" {
				c.set([]byte(name), []byte(v))
			} else {
				c.set([]byte(name), badArgument)
			}
		case httpsfv.Token:
			c.set([]byte(name), []byte(v))
		default:
			c.set([]byte(name), badArgument)
		}
	}
	return true
}
