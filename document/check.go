package document

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// Check tells whether b is one JSON document (RFC 8259) within the limits, and
// strictly: nothing around it but white space, no byte order mark, texts in UTF-8
// and without halves of surrogate pairs in escapes. Unless duplicates is true, no
// object may have one name twice, however it is escaped.
//
// Its only errors are *Refused. It goes over b once and allocates nothing, but for
// an error and for objects that outgrow what others left in a pool.
func Check(b []byte, lim Limits, duplicates bool) error {
	lim = lim.filled()
	if len(b) > lim.Bytes {
		return tooLong(lim.Bytes)
	}
	c := checker{b: b, lim: lim}
	if !duplicates {
		c.names, _ = namePool.Get().(*nameStack)
		if c.names == nil {
			c.names = new(nameStack)
		}
		c.names.list = c.names.list[:0]
	}
	end := c.value(space(b, 0), 0)
	if end >= 0 {
		if end = space(b, end); end < len(b) {
			c.fail(end, "expected nothing after the document")
		}
	}
	if c.names != nil && cap(c.names.list) <= mostNames && cap(c.names.scratch) <= mostRoom {
		namePool.Put(c.names)
	}
	if c.why == "" {
		return nil
	}
	return c.refusal()
}

type checker struct {
	b     []byte
	lim   Limits
	nodes int
	names *nameStack // nil: duplicates are fine

	at    int // of the mistake
	why   string
	large bool
}

// fail notes the first mistake and returns -1.
func (c *checker) fail(at int, why string) int {
	if c.why == "" {
		c.at, c.why = at, why
	}
	return -1
}

func (c *checker) exceeds(at int, format string, most int) int {
	if c.why == "" {
		c.at, c.why, c.large = at, fmt.Sprintf(format, most), true
	}
	return -1
}

func (c *checker) refusal() error {
	r := &Refused{Offset: c.at, Path: pathTo(c.b, c.at), Reason: c.why, TooLarge: c.large}
	if c.large {
		return r
	}
	if c.at >= len(c.b) {
		r.Reason += ", got the end"
	} else {
		ch, size := utf8.DecodeRune(c.b[c.at:])
		if ch == utf8.RuneError && size <= 1 {
			r.Reason += fmt.Sprintf(", got byte 0x%02x", c.b[c.at])
		} else {
			r.Reason += ", got " + strconv.QuoteRuneToASCII(ch)
		}
	}
	return r
}

// value returns the end of the value at b[i], or -1.
func (c *checker) value(i, depth int) int {
	b := c.b
	if i >= len(b) {
		return c.fail(i, "expected a value")
	}
	if c.nodes++; c.nodes > c.lim.Nodes {
		return c.exceeds(i, "expected at most %d values", c.lim.Nodes)
	}
	switch ch := b[i]; {
	case ch == '"':
		return c.text(i)
	case ch == '{' || ch == '[':
		if depth >= c.lim.Depth {
			return c.exceeds(i, "expected at most %d arrays and objects inside each other", c.lim.Depth)
		}
		if ch == '{' {
			return c.object(i, depth+1)
		}
		return c.array(i, depth+1)
	case ch == '-' || ch >= '0' && ch <= '9':
		return c.number(i)
	case ch == 't':
		return c.word(i, "true")
	case ch == 'f':
		return c.word(i, "false")
	case ch == 'n':
		return c.word(i, "null")
	}
	return c.fail(i, "expected a value")
}

func (c *checker) word(i int, word string) int {
	for n := range len(word) {
		if i+n >= len(c.b) || c.b[i+n] != word[n] {
			return c.fail(i+n, "expected "+word)
		}
	}
	return i + len(word)
}

func (c *checker) array(i, depth int) int {
	b := c.b
	i = space(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		if i = c.value(i, depth); i < 0 {
			return -1
		}
		i = space(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = space(b, i+1)
		case i < len(b) && b[i] == ']':
			return i + 1
		default:
			return c.fail(i, "expected , or ]")
		}
	}
}

func (c *checker) object(i, depth int) int {
	b := c.b
	mark := 0
	if c.names != nil {
		mark = len(c.names.list)
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return c.fail(i, "expected a name in quotes")
		}
		end := c.text(i)
		if end < 0 {
			return -1
		}
		if c.names != nil {
			c.names.push(b, i, end)
		}
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return c.fail(i, "expected :")
		}
		if i = c.value(space(b, i+1), depth); i < 0 {
			return -1
		}
		i = space(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = space(b, i+1)
		case i < len(b) && b[i] == '}':
			if c.names != nil {
				if at := c.names.twice(b, mark); at >= 0 {
					return c.fail(at, "expected each name once in an object")
				}
			}
			return i + 1
		default:
			return c.fail(i, "expected , or }")
		}
	}
}

// number is RFC 8259 6.
func (c *checker) number(i int) int {
	b := c.b
	if b[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return c.fail(i, "expected a digit")
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return c.fail(i, "expected a digit")
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return c.fail(i, "expected a digit")
		}
	}
	return i
}

// text is the text whose opening quote is b[i].
func (c *checker) text(i int) int {
	b := c.b
	start := i
	i++
	high := false
	for {
		// Eight bytes at a time that are plain ASCII.
		for i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			if hit := zeroes(x^'"'*ones) | zeroes(x^'\\'*ones) | (x-' '*ones)&^x&highs | x&highs; hit != 0 {
				i += bits.TrailingZeros64(hit) / 8
				break
			}
			i += 8
		}
		if i >= len(b) {
			return c.fail(i, "expected a quote at the end of the text")
		}
		switch ch := b[i]; {
		case ch == '"':
			if high && !utf8.Valid(b[start:i]) {
				return c.fail(invalidUTF8(b, start), "expected UTF-8")
			}
			return i + 1
		case ch == '\\':
			if i = c.escape(i); i < 0 {
				return -1
			}
		case ch < ' ':
			return c.fail(i, "expected control characters to be escaped")
		default:
			high = high || ch >= utf8.RuneSelf
			i++
		}
	}
}

// escape returns the end of the escape at b[i].
func (c *checker) escape(i int) int {
	const want = `expected an escape such as \n or \u00e9`
	b := c.b
	if i+1 >= len(b) {
		return c.fail(i+1, want)
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
	default:
		return c.fail(i+1, want)
	}
	r := hex4(b[min(i+2, len(b)):])
	switch {
	case r < 0:
		return c.fail(i, want)
	case r < 0xd800 || r > 0xdfff:
		return i + 6
	case r < 0xdc00 && i+8 <= len(b) && b[i+6] == '\\' && b[i+7] == 'u':
		if low := hex4(b[i+8:]); low >= 0xdc00 && low <= 0xdfff {
			return i + 12
		}
	}
	return c.fail(i, "expected both halves of a surrogate pair")
}

// invalidUTF8 returns where the first byte from i on is that is no UTF-8.
func invalidUTF8(b []byte, i int) int {
	for i < len(b) {
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return i
}

// nameStack holds the names of the objects that are open, the innermost on top.
type nameStack struct {
	list    []seenName
	scratch []byte
}

// seenName is a name by its hash: to compare hashes is as good as to compare
// names, until two are equal. The seed is secret, so that nobody can choose names
// that are.
type seenName struct {
	hash    uint64
	at, end int32 // with its quotes
}

func (n *seenName) raw(b []byte) []byte { return b[n.at+1 : n.end-1] }

var (
	namePool sync.Pool
	nameSeed = maphash.MakeSeed()
)

// mostNames bounds a stack that is kept.
const mostNames = 4096

// hashName hashes what a name stands for. scratch is room for a name with escapes.
func hashName(raw, scratch []byte) (hash uint64, room []byte) {
	if bytes.IndexByte(raw, '\\') >= 0 {
		scratch = appendUnescaped(scratch[:0], raw)
		raw = scratch
	}
	return maphash.Bytes(nameSeed, raw), scratch
}

func (s *nameStack) push(b []byte, at, end int) {
	var hash uint64
	hash, s.scratch = hashName(b[at+1:end-1], s.scratch)
	s.list = append(s.list, seenName{hash, int32(at), int32(end)})
}

// twice closes an object, whose names begin at mark. It returns where a name
// stands that was there before, or -1.
func (s *nameStack) twice(b []byte, mark int) int {
	const few = 16
	list := s.list[mark:]
	at := int32(-1)
	if len(list) <= few {
		for i := range list {
			for j := range list[:i] {
				if list[i].hash == list[j].hash && sameName(list[i].raw(b), list[j].raw(b)) {
					at = list[i].at
				}
			}
		}
	} else {
		slices.SortFunc(list, func(a, b seenName) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.at, b.at)) })
		for i := range list[1:] {
			if list[i].hash == list[i+1].hash && sameName(list[i].raw(b), list[i+1].raw(b)) && (at < 0 || list[i+1].at < at) {
				at = list[i+1].at
			}
		}
	}
	s.list = s.list[:mark]
	return int(at)
}

// sameName tells whether two names, as written between quotes, stand for the same.
func sameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return false
	}
	return bytes.Equal(appendUnescaped(nil, a), appendUnescaped(nil, b))
}

// pathTo is the path of the value that b[at] belongs to, for an error: it may be
// slow, and shortens what is long.
func pathTo(b []byte, at int) string {
	const mostSteps, mostName = 32, 64
	var p Path
	i := space(b, 0)
	for len(p.steps) < mostSteps {
		w, object, ok := opened(b, i)
		if !ok {
			break
		}
		i = -1
		for n := 0; ; n++ {
			s, value := step{kind: byIndex, index: n}, -1
			if object {
				var raw []byte
				raw, value = w.member()
				text := appendUnescaped(nil, raw)
				s = step{kind: byName, name: string(text[:min(len(text), mostName)])}
			} else {
				value = w.next()
			}
			if value < 0 || w.start > at {
				break
			}
			end := skip(b, value)
			if end < 0 || at < end {
				p.steps, i = append(p.steps, s), value
				break
			}
			w.i = end
		}
		if i < 0 || i >= at {
			break
		}
	}
	if len(p.steps) == 0 {
		return ""
	}
	return p.String()
}
