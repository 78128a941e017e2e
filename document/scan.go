package document

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// What is in this file walks over documents that are known to be good. On others
// it ends early, with -1 or with walk.bad, and that is all it promises.

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// space returns the index of the first byte of b from i on that is no white space.
func space(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// zeroes has the high bit set of every byte of x that is 0, and perhaps of bytes
// above the lowest of those.
func zeroes(x uint64) uint64 { return (x - ones) &^ x & highs }

// skipString returns the end of the text whose opening quote is b[i], or -1.
func skipString(b []byte, i int) int {
	for i++; ; {
		// Eight bytes at a time up to the first quote or backslash.
		for i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			if hit := zeroes(x^'"'*ones) | zeroes(x^'\\'*ones); hit != 0 {
				i += bits.TrailingZeros64(hit) / 8
				break
			}
			i += 8
		}
		for i < len(b) && b[i] != '"' && b[i] != '\\' {
			i++
		}
		if i >= len(b) {
			return -1
		}
		if b[i] == '"' {
			return i + 1
		}
		i += 2
	}
}

// skip returns the end of the value that begins at b[i], or -1.
func skip(b []byte, i int) int {
	if i < 0 || i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				if i = skipString(b, i) - 1; i < 0 {
					return -1
				}
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return -1
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] != ':' && b[i] != '"' && !isSpace(b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// walk steps through the members of an object or the elements of an array. It
// begins behind the opening bracket; after each step the caller sets i to the end
// of the value. At the end i is behind the closing bracket.
type walk struct {
	b     []byte
	i     int
	start int // of the member or element
	bad   bool
}

// opened is a walk over the object or array at b[i]; object tells which it is. It
// is nothing (ok is false) where another value stands.
func opened(b []byte, i int) (w walk, object, ok bool) {
	if i < 0 || i >= len(b) || b[i] != '{' && b[i] != '[' {
		return w, false, false
	}
	return walk{b: b, i: i + 1}, b[i] == '{', true
}

// next is where the next member or element begins, or -1 at the end.
func (w *walk) next() int {
	i := space(w.b, w.i)
	if i < len(w.b) && w.b[i] == ',' {
		i = space(w.b, i+1)
	}
	if i >= len(w.b) {
		return w.stop()
	}
	if w.b[i] == '}' || w.b[i] == ']' {
		w.i = i + 1
		return -1
	}
	w.start = i
	return i
}

func (w *walk) stop() int {
	w.bad, w.i = true, len(w.b)
	return -1
}

// member returns the next member's name, as written between its quotes, and where
// its value begins; value is -1 at the end.
func (w *walk) member() (name []byte, value int) {
	i := w.next()
	if i < 0 {
		return nil, -1
	}
	if w.b[i] != '"' {
		return nil, w.stop()
	}
	end := skipString(w.b, i)
	if end < 0 {
		return nil, w.stop()
	}
	colon := space(w.b, end)
	if colon >= len(w.b) || w.b[colon] != ':' {
		return nil, w.stop()
	}
	return w.b[i+1 : end-1], space(w.b, colon+1)
}

// pass goes behind the value at value and returns its end. Where there is none it
// ends the walk.
func (w *walk) pass(value int) (end int) {
	if w.i = skip(w.b, value); w.i < 0 {
		w.stop()
	}
	return w.i
}

// memberOf returns where the value of the last member called name of the object at
// b[i] begins, or -1.
func memberOf(b []byte, i int, name string) int {
	w, object, _ := opened(b, i)
	if !object {
		return -1
	}
	found := -1
	for {
		raw, value := w.member()
		if value < 0 {
			return found
		}
		if nameIs(raw, name) {
			found = value
		}
		w.pass(value)
	}
}

// elementOf returns where element n of the array at b[i] begins, or -1. A negative
// n counts from the end.
func elementOf(b []byte, i, n int) int {
	w, object, ok := opened(b, i)
	if !ok || object {
		return -1
	}
	if n < 0 {
		if n += elements(b, i); n < 0 {
			return -1
		}
	}
	for {
		value := w.next()
		if value < 0 || n == 0 {
			return value
		}
		w.pass(value)
		n--
	}
}

// elements counts the elements of the array at b[i].
func elements(b []byte, i int) (n int) {
	w := walk{b: b, i: i + 1}
	for value := w.next(); value >= 0; value = w.next() {
		w.pass(value)
		n++
	}
	return n
}

// nameIs tells whether raw, as written between quotes, stands for name.
func nameIs(raw []byte, name string) bool {
	if len(raw) == len(name) {
		// An escape is longer than what it stands for.
		return string(raw) == name && strings.IndexByte(name, '\\') < 0
	}
	if len(raw) < len(name) || bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	var room [utf8.UTFMax]byte
	for len(raw) > 0 {
		var one []byte
		if raw[0] == '\\' {
			one, raw = unescapeOne(room[:0], raw)
		} else {
			one, raw = raw[:1], raw[1:]
		}
		if !strings.HasPrefix(name, string(one)) {
			return false
		}
		name = name[len(one):]
	}
	return name == ""
}

// appendUnescaped appends the text that raw, as written between quotes, stands
// for.
func appendUnescaped(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		dst, raw = unescapeOne(dst, raw[i:])
	}
}

// unescapeOne appends what the escape at the start of raw stands for. What is no
// escape and half of a surrogate pair become U+FFFD.
func unescapeOne(dst, raw []byte) (out, rest []byte) {
	if len(raw) < 2 {
		return utf8.AppendRune(dst, utf8.RuneError), nil
	}
	c := raw[1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r := hex4(raw[2:])
		if raw = raw[min(6, len(raw)):]; r < 0 {
			return utf8.AppendRune(dst, utf8.RuneError), raw
		}
		if utf16.IsSurrogate(r) {
			if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
				return utf8.AppendRune(dst, utf8.RuneError), raw
			}
			if r = utf16.DecodeRune(r, hex4(raw[2:])); r != utf8.RuneError {
				raw = raw[6:]
			}
		}
		return utf8.AppendRune(dst, r), raw
	default:
		return utf8.AppendRune(dst, utf8.RuneError), raw[2:]
	}
	return append(dst, c), raw[2:]
}

// hex4 reads four hexadecimal digits, or returns -1.
func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// AppendString appends text as a JSON text, in quotes. What is no UTF-8 becomes
// U+FFFD.
func AppendString[T string | []byte](dst []byte, text T) []byte {
	dst = appendEscaped(append(dst, '"'), text)
	return append(dst, '"')
}

// appendEscaped appends text as it is written between quotes.
func appendEscaped[T string | []byte](dst []byte, text T) []byte {
	const hex = "0123456789abcdef"
	from := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			end := min(len(text), i+utf8.UTFMax)
			r, size := utf8.DecodeRuneInString(string(text[i:end]))
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, text[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, text[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(dst, text[from:]...)
}

// trim cuts the white space around a document.
func trim(doc []byte) []byte {
	doc = doc[space(doc, 0):]
	for len(doc) > 0 && isSpace(doc[len(doc)-1]) {
		doc = doc[:len(doc)-1]
	}
	return doc
}

// AppendText appends value, raw JSON, as a text for a URL, a header or a template:
// texts without their quotes and escapes, numbers exactly as they are written,
// true, false and null as these words, objects and arrays as their JSON.
func AppendText(dst, value []byte) []byte {
	value = trim(value)
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		return appendUnescaped(dst, value[1:n-1])
	}
	return append(dst, value...)
}

// appendCompact appends value without the white space between its parts.
func appendCompact(dst, value []byte) []byte {
	for i := 0; i < len(value); {
		switch {
		case value[i] == '"':
			end := skipString(value, i)
			if end < 0 {
				end = len(value)
			}
			dst = append(dst, value[i:end]...)
			i = end
		case isSpace(value[i]):
			i++
		default:
			dst = append(dst, value[i])
			i++
		}
	}
	return dst
}
