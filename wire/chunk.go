package wire

import "bytes"

const (
	maxChunkLine  = 4 << 10  // of one chunk-size line with its extensions
	maxExtensions = 16 << 10 // of all extensions of one body
	maxTrailer    = 16 << 10 // of a trailer section
	maxTrailers   = 64       // fields in it
)

var (
	errChunkSize    = malformed("chunk size is not a hex number")
	errChunkLine    = malformed("chunk-size line does not end in CRLF, or is too long")
	errChunkExt     = malformed("chunk extension breaks RFC 9112 7.1.1, or extensions are too long")
	errChunkEnd     = malformed("chunk data is not followed by CRLF")
	errTrailerLarge = malformed("trailer section too large")
)

// Chunked decodes a body in the chunked transfer coding (RFC 9112 7.1) from
// pieces as they arrive. The zero value is at the start of a body.
type Chunked struct {
	Trailers []Field // after the end; slices of the last bytes given to Next

	remain     int64 // data bytes left in this chunk
	extensions int
	state      chunkState
}

type chunkState uint8

const (
	atSize chunkState = iota
	inData
	atDataEnd
	atTrailers
)

// Reset makes d ready for the next body.
func (d *Chunked) Reset() {
	*d = Chunked{Trailers: d.Trailers[:0]}
}

// Next decodes from the start of b. It returns a piece of the body's data (a
// slice of b), how many bytes of b it is done with, and whether the body and
// its trailer section have ended. With no data and done false, it needs more
// bytes after b[used:]; b must then have room for a line or a trailer section,
// both of which are bounded at 16 KiB.
func (d *Chunked) Next(b []byte) (data []byte, used int, done bool, err *Malformed) {
	for {
		rest := b[used:]
		switch d.state {
		case atSize:
			n, err := d.sizeLine(rest)
			if err == ErrIncomplete {
				return nil, used, false, nil
			}
			if err != nil {
				return nil, used, false, err
			}
			used += n
		case inData:
			if len(rest) == 0 {
				return nil, used, false, nil
			}
			n := int(min(d.remain, int64(len(rest))))
			if d.remain -= int64(n); d.remain == 0 {
				d.state = atDataEnd
			}
			return rest[:n], used + n, false, nil
		case atDataEnd:
			if len(rest) > 0 && rest[0] != '\r' || len(rest) > 1 && rest[1] != '\n' {
				return nil, used, false, errChunkEnd
			}
			if len(rest) < 2 {
				return nil, used, false, nil
			}
			used += 2
			d.state = atSize
		case atTrailers:
			n, fields, err := parseFields(rest[:min(len(rest), maxTrailer)], 0, d.Trailers[:0], maxTrailers, false)
			d.Trailers = fields
			switch {
			case err == ErrIncomplete && len(rest) < maxTrailer:
				return nil, used, false, nil
			case err == ErrIncomplete || err == errTooManyFields:
				return nil, used, false, errTrailerLarge
			case err != nil:
				return nil, used, false, err
			}
			return nil, used + n, true, nil
		}
	}
}

// sizeLine reads a chunk-size line and enters the state that follows it.
func (d *Chunked) sizeLine(b []byte) (int, *Malformed) {
	var size uint64
	i := 0
	for ; i < len(b) && class[b[i]]&classHex != 0; i++ {
		if i == 15 {
			// Sixteen digits could pass the bound of an int64, and no chunk
			// is that long; leading zeros are no reason for more.
			return 0, errChunkSize
		}
		size = size<<4 | uint64(unhex(b[i]))
	}
	if i == len(b) {
		return 0, ErrIncomplete
	}
	if i == 0 {
		return 0, errChunkSize
	}
	if b[i] != '\r' && b[i] != ';' && b[i] != ' ' && b[i] != '\t' {
		return 0, errChunkSize
	}
	end := bytes.IndexByte(b[i:], '\n')
	if end < 0 {
		if len(b) > maxChunkLine {
			return 0, errChunkLine
		}
		return 0, ErrIncomplete
	}
	line := b[i : i+end]
	if len(line) == 0 || line[len(line)-1] != '\r' || i+end > maxChunkLine {
		return 0, errChunkLine
	}
	if ext := line[:len(line)-1]; len(ext) > 0 {
		if d.extensions += len(ext); d.extensions > maxExtensions || !validExtensions(ext) {
			return 0, errChunkExt
		}
	}
	d.remain = int64(size)
	if d.state = inData; size == 0 {
		d.state = atTrailers
	}
	return i + end + 1, nil
}

// validExtensions checks *( BWS ";" BWS name [ BWS "=" BWS value ] ).
func validExtensions(b []byte) bool {
	for {
		b = trimLeading(b)
		if len(b) == 0 || b[0] != ';' {
			return false
		}
		b = trimToken(trimLeading(b[1:]))
		if b == nil {
			return false
		}
		if len(b) == 0 {
			return true
		}
		if v := trimLeading(b); len(v) > 0 && v[0] == '=' {
			v = trimLeading(v[1:])
			if len(v) > 0 && v[0] == '"' {
				b = trimQuoted(v)
			} else {
				b = trimToken(v)
			}
			if b == nil {
				return false
			}
			if len(b) == 0 {
				return true
			}
		}
	}
}

// trimToken cuts a token off b; it returns nil when there is none.
func trimToken(b []byte) []byte {
	i := 0
	for i < len(b) && class[b[i]]&classToken != 0 {
		i++
	}
	if i == 0 {
		return nil
	}
	return b[i:len(b):len(b)]
}

// trimQuoted cuts a quoted string off b; it returns nil when it has no end.
func trimQuoted(b []byte) []byte {
	for i := 1; i < len(b); i++ {
		switch {
		case b[i] == '"':
			return b[i+1:]
		case b[i] == '\\' && i+1 < len(b):
			i++
		}
		if class[b[i]]&classValue == 0 {
			return nil
		}
	}
	return nil
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// AppendChunkSize appends the line that begins a chunk of n bytes.
func AppendChunkSize(dst []byte, n int) []byte {
	const hex = "0123456789abcdef"
	var line [18]byte
	i := len(line)
	line[i-1], line[i-2] = '\n', '\r'
	i -= 2
	for {
		i--
		line[i] = hex[n&15]
		if n >>= 4; n == 0 {
			return append(dst, line[i:]...)
		}
	}
}
