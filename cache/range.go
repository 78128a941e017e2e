package cache

import (
	"bytes"

	"sluice/wire"
)

const (
	mostRanges     = 16
	mostRangeBytes = 512
)

// Span is a part of a body: First and Last are the positions of its first and
// last byte.
type Span struct{ First, Last int64 }

// Len is the number of bytes of s.
func (s Span) Len() int64 { return s.Last - s.First + 1 }

// Ranges are the parts of a body that a client asks for.
type Ranges struct {
	Span [mostRanges]Span
	N    int
}

// Part is what to do with a request for parts.
type Part uint8

// The parts.
const (
	Whole         Part = iota // 200: there is no Range, or it is to be ignored
	Single                    // 206 with one span
	Multiple                  // 206 multipart/byteranges
	Unsatisfiable             // 416
)

// Parts decides which parts of e, whose Length must be known, a wants (RFC 9110
// 14.2). A Range that cannot be read, is in other units than bytes, has more
// than 16 parts or parts that overlap, is ignored, and so is one whose If-Range
// does not hold. It allocates nothing.
func Parts(r *Ranges, a *Ask, e *Entry, now int64) Part {
	r.N = 0
	if a.rangeLines != 1 || a.Method != Get || e.Status != 200 || e.Length < 0 || !ifRange(a, e, now) {
		return Whole
	}
	return r.parse(a.ranges, e.Length)
}

// ifRange is the precondition If-Range (RFC 9110 13.1.5), which compares
// strongly.
func ifRange(a *Ask, e *Entry, now int64) bool {
	switch {
	case a.ifRanges == 0:
		return true
	case a.ifRanges > 1 || len(a.ifRange) == 0:
		return false
	case a.ifRange[0] == '"':
		return e.has(MarkStrong) && bytes.Equal(a.ifRange, e.ETag)
	}
	t, ok := parseDate(a.ifRange, now/second)
	return ok && e.has(MarkDated) && t == e.Modified
}

func (r *Ranges) parse(b []byte, length int64) Part {
	unit, list, ok := bytes.Cut(b, equals)
	if !ok || !wire.EqualFold(unit, "bytes") || len(b) > mostRangeBytes {
		return Whole
	}
	specs := 0
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		specs++
		first, last, ok := bytes.Cut(item, dash)
		if !ok {
			return Whole
		}
		var s Span
		switch {
		case len(first) == 0: // the last n bytes
			n, ok := position(last)
			if !ok {
				return Whole
			}
			if length == 0 && n > 0 {
				return Whole // satisfiable, but no Content-Range can say it
			}
			if n == 0 {
				continue
			}
			s = Span{max(length-n, 0), length - 1}
		default:
			if s.First, ok = position(first); !ok {
				return Whole
			}
			s.Last = length - 1
			if len(last) > 0 {
				n, ok := position(last)
				if !ok || n < s.First {
					return Whole
				}
				s.Last = min(n, length-1)
			}
			if s.First >= length {
				continue
			}
		}
		if r.N == mostRanges {
			return Whole
		}
		for _, other := range r.Span[:r.N] {
			if s.First <= other.Last && other.First <= s.Last {
				r.N = 0
				return Whole
			}
		}
		r.Span[r.N] = s
		r.N++
	}
	switch {
	case specs == 0:
		return Whole
	case r.N == 0:
		return Unsatisfiable
	case r.N == 1:
		return Single
	}
	return Multiple
}

var dash = []byte("-")

// position reads a byte position; one beyond any body counts as that.
func position(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	const most = 1 << 62
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n < most/10 {
			n = n*10 + int64(c-'0')
		} else {
			n = most
		}
	}
	return n, true
}

// AppendContentRange writes the Content-Range field line of a 206 with one span.
func AppendContentRange(dst []byte, s Span, length int64) []byte {
	dst = appendInt(append(dst, "Content-Range: bytes "...), s.First)
	dst = appendInt(append(dst, '-'), s.Last)
	return append(appendInt(append(dst, '/'), length), "\r\n"...)
}

// AppendUnsatisfied writes the Content-Range field line of a 416.
func AppendUnsatisfied(dst []byte, length int64) []byte {
	return append(appendInt(append(dst, "Content-Range: bytes */"...), length), "\r\n"...)
}

// AppendPart writes what stands before one span in multipart/byteranges (RFC
// 9110 14.6). first says that it is the first. contentType may be empty.
func AppendPart(dst []byte, first bool, boundary string, contentType []byte, s Span, length int64) []byte {
	if !first {
		dst = append(dst, "\r\n"...)
	}
	dst = append(append(append(dst, "--"...), boundary...), "\r\n"...)
	if len(contentType) > 0 {
		dst = append(append(append(dst, "Content-Type: "...), contentType...), "\r\n"...)
	}
	return append(AppendContentRange(dst, s, length), "\r\n"...)
}

// AppendPartsEnd writes what stands behind the last span.
func AppendPartsEnd(dst []byte, boundary string) []byte {
	return append(append(append(dst, "\r\n--"...), boundary...), "--\r\n"...)
}

// PartsLength is the Content-Length of a multipart/byteranges body.
func (r *Ranges) PartsLength(boundary string, contentType []byte, length int64) int64 {
	var buf [512]byte
	total := int64(len(AppendPartsEnd(buf[:0], boundary)))
	for i, s := range r.Span[:r.N] {
		total += s.Len() + int64(len(AppendPart(buf[:0], i == 0, boundary, contentType, s, length)))
	}
	return total
}

// AppendPartialHead writes e's field lines for a 206: all but Content-Type when
// it goes into the parts.
func AppendPartialHead(dst []byte, e *Entry, multiple bool) []byte {
	for head := e.Head; len(head) > 0; {
		name, _, rest := nextLine(head)
		if rest == nil {
			break
		}
		if !(multiple && wire.EqualFold(name, "content-type")) {
			dst = append(dst, head[:len(head)-len(rest)]...)
		}
		head = rest
	}
	return dst
}
