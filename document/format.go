package document

import (
	"bytes"
	"strconv"

	"sluice/setting"
	"sluice/wire"
)

// Format is what a body is written in.
type Format uint8

// The formats.
const (
	Unknown Format = iota
	JSON
	NDJSON // JSON documents, one in each line
	XML
	RSS
	Atom
	YAML
	Text

	formats = iota
)

var formatNames = [formats]string{"unknown", "json", "ndjson", "xml", "rss", "atom", "yaml", "text"}

// String is the format's name in settings and logs.
func (f Format) String() string {
	if int(f) < len(formatNames) {
		return formatNames[f]
	}
	return formatNames[Unknown]
}

// FormatNamed is the format that String calls name. ok is false for Unknown and
// for what is none.
func FormatNamed(name string) (f Format, ok bool) {
	for f = JSON; f < formats; f++ {
		if formatNames[f] == name {
			return f, true
		}
	}
	return Unknown, false
}

// mediaTypes are those of each format; the first is what we say.
var mediaTypes = [formats][]string{
	JSON:   {"application/json", "text/json", "application/x-json"},
	NDJSON: {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines", "application/json-lines"},
	XML:    {"application/xml", "text/xml"},
	RSS:    {"application/rss+xml"},
	Atom:   {"application/atom+xml"},
	YAML:   {"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "text/vnd.yaml"},
	Text:   {"text/plain"},
}

// ContentType is the value of Content-Type for f, "" for Unknown.
func ContentType(f Format) string {
	switch {
	case f == Text:
		return "text/plain; charset=utf-8"
	case f == Unknown || int(f) >= formats:
		return ""
	}
	return mediaTypes[f][0]
}

// mostType bounds a media type without its parameters.
const mostType = 127

// lowerType is a media type in lower case and without its parameters, nil for what
// is too long to be one.
func lowerType(contentType []byte, room *[mostType]byte) []byte {
	if i := bytes.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	contentType = wire.TrimOWS(contentType)
	if len(contentType) > len(room) {
		return nil
	}
	name := room[:len(contentType)]
	for i, c := range contentType {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		name[i] = c
	}
	return name
}

// FormatOf reads a value of Content-Type, without regard to case and parameters.
// What ends in +json, +xml or +yaml is of these formats (RFC 6839, RFC 9512). It
// allocates nothing.
func FormatOf(contentType []byte) Format {
	var room [mostType]byte
	name := lowerType(contentType, &room)
	for f := JSON; f < formats; f++ {
		for _, known := range mediaTypes[f] {
			if string(name) == known {
				return f
			}
		}
	}
	switch {
	case bytes.IndexByte(name, '/') <= 0:
	case bytes.HasSuffix(name, []byte("+json")):
		return JSON
	case bytes.HasSuffix(name, []byte("+xml")):
		return XML
	case bytes.HasSuffix(name, []byte("+yaml")):
		return YAML
	}
	return Unknown
}

// ToJSON appends body, which is in format f, to dst as one JSON document within lim.
// They must not overlap. A byte order mark before body is skipped.
//
//	JSON     as it is; a name that is twice in an object is refused
//	NDJSON   an array of its lines; empty lines are skipped
//	XML      {"root": ...}, see xml.go
//	RSS      {"title", "link", "description", "items": [...]}, see feed.go
//	Atom     the same
//	YAML     the JSON of its one document, see yaml.go
//	Text     {"content": "..."}
//
// Its errors are *Refused, for what is not the format it should be, not in UTF-8, or
// beyond a limit; dst then comes back as it was.
func ToJSON(dst, body []byte, f Format, lim Limits) ([]byte, error) {
	lim = lim.filled()
	if len(body) > lim.Bytes {
		return dst, tooLong(lim.Bytes)
	}
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	out, err := dst, error(nil)
	switch f {
	case JSON:
		if err = Check(body, lim, false); err == nil {
			out = append(dst, trim(body)...)
		}
	case NDJSON:
		out, err = fromLines(dst, body, lim)
	case XML:
		out, err = fromXML(dst, body, lim)
	case RSS, Atom:
		out, err = fromFeed(dst, body, lim)
	case YAML:
		out, err = fromYAML(dst, body, lim)
	case Text:
		if at := invalidUTF8(body, 0); at < len(body) {
			err = refused(at, "expected UTF-8, got byte 0x%02x", body[at])
		} else {
			out = append(AppendString(append(dst, `{"content":`...), body), '}')
		}
	default:
		err = refused(0, "expected a body in a format that can be read, got %s", f)
	}
	if err == nil && len(out)-len(dst) > lim.Bytes {
		err = tooLong(lim.Bytes)
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

// fromLines makes an array of documents that stand in a line each.
func fromLines(dst, body []byte, lim Limits) ([]byte, error) {
	dst = append(dst, '[')
	left := lim
	left.Depth--
	left.Nodes--
	some, n := false, 0
	for at := 0; at < len(body); {
		line := body[at:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		if doc := trim(line); len(doc) > 0 {
			if left.Nodes <= 0 || left.Depth <= 0 { // which Check takes for the defaults
				return nil, tooLarge(at, "expected at most %d values, and %d levels", lim.Nodes, lim.Depth)
			}
			if err := Check(line, left, false); err != nil {
				r := *err.(*Refused)
				r.Offset += at
				r.Path = setting.Join("["+strconv.Itoa(n)+"]", r.Path)
				return nil, &r
			}
			left.Nodes -= countValues(doc)
			n++
			if some {
				dst = append(dst, ',')
			}
			dst, some = append(dst, doc...), true
		}
		at += len(line) + 1
	}
	return append(dst, ']'), nil
}

// countValues counts the values of a good document: the first of an object or array is
// behind its bracket, all others are behind a comma.
func countValues(doc []byte) (n int) {
	n = 1
	for i := 0; i < len(doc); i++ {
		switch doc[i] {
		case '"':
			if i = skipString(doc, i) - 1; i < 0 {
				return n
			}
		case ',':
			n++
		case '{', '[':
			if next := space(doc, i+1); next < len(doc) && doc[next] != '}' && doc[next] != ']' {
				n++
			}
		}
	}
	return n
}

// FromJSON appends doc, which must have passed Check, to dst in format f. They must
// not overlap.
//
//	JSON     as it is
//	NDJSON   the elements of an array, or the one document, a line each
//	XML      see xml.go
//	YAML     block style, see yaml.go
//	Text     see AppendText
//
// Its errors are *Refused, for another format and for what becomes longer than
// lim.Bytes; dst then comes back as it was.
func FromJSON(dst, doc []byte, f Format, lim Limits) ([]byte, error) {
	lim = lim.filled()
	doc = trim(doc)
	if skip(doc, 0) < 0 {
		return dst, errBad
	}
	out, err := dst, error(nil)
	switch f {
	case JSON:
		out = append(dst, doc...)
	case NDJSON:
		w, object, ok := opened(doc, 0)
		if !ok || object {
			out = append(appendCompact(dst, doc), '\n')
			break
		}
		for value := w.next(); value >= 0; value = w.next() {
			out = append(appendCompact(out, doc[value:w.pass(value)]), '\n')
		}
	case XML:
		out, err = toXML(dst, doc, lim)
	case YAML:
		out, err = toYAML(dst, doc, lim)
	case Text:
		out = AppendText(dst, doc)
	default:
		err = refused(0, "expected a format that can be written, got %s", f)
	}
	if err == nil && len(out)-len(dst) > lim.Bytes {
		err = tooLong(lim.Bytes)
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}
