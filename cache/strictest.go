package cache

import "sluice/wire"

// Strictest gathers what the parts of a composed answer say to caches. The zero
// value has no parts.
type Strictest struct {
	flags  Flag
	left   int64 // seconds of the shortest life
	parts  int
	silent bool // some part says nothing of freshness
}

// Add adds a part with these fields, which came at the time now, in Unix
// nanoseconds.
func (s *Strictest) Add(fields []wire.Field, now int64) {
	var r reply
	p := Policy{}
	p.readReply(&r, fields, now)
	s.flags |= r.control.Flags & (FlagNoStore | FlagNoCache | FlagPrivate | FlagMustRevalidate | FlagProxyRevalidate | FlagMalformed)
	if r.control.fieldLists > 0 {
		s.flags |= FlagNoCache // of some fields, which the whole does not tell apart
	}
	if r.setCookie {
		s.flags |= FlagPrivate
	}
	date := r.date
	if date == noDate {
		date = now / second
	}
	life, given := p.explicit(&r, date)
	left := max(life-initialAge(&r, now, now), 0) / second
	switch {
	case !given:
		s.silent = true
	case s.parts == 0 || left < s.left:
		s.left = left
	}
	s.parts++
}

// Forbid says that the whole is not to be stored: a part of it is missing.
func (s *Strictest) Forbid() { s.flags |= FlagNoStore }

// Append writes the value of Cache-Control for the whole, which is nothing when
// the parts leave it open.
func (s *Strictest) Append(dst []byte) []byte {
	if s.flags&(FlagNoStore|FlagMalformed) != 0 {
		return append(dst, "no-store"...)
	}
	start := len(dst)
	word := func(w string) {
		if len(dst) > start {
			dst = append(dst, ", "...)
		}
		dst = append(dst, w...)
	}
	if s.flags&FlagPrivate != 0 {
		word("private")
	}
	if s.flags&FlagNoCache != 0 {
		word("no-cache")
	}
	if s.flags&(FlagMustRevalidate|FlagProxyRevalidate) != 0 {
		word("must-revalidate")
	}
	if s.parts > 0 && !s.silent {
		word("max-age=")
		dst = appendInt(dst, s.left)
	}
	return dst
}
