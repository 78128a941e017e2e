package transform

import (
	"bytes"
	"strings"

	"sluice/wire"
)

// mostType bounds a media type without its parameters.
const mostType = 127

// mediaType is a media type as the configuration has it: type/subtype, type/*,
// *+suffix, type/*+suffix or */*.
type mediaType struct {
	exact  string // in lower case; else the two below
	begin  string // with its /
	suffix string // with its +
}

// parseMediaType reads one; ok is false where it is none.
func parseMediaType(text string) (m mediaType, ok bool) {
	text = strings.ToLower(text)
	if text == "*/*" {
		return mediaType{}, true
	}
	kind, sub, slash := strings.Cut(text, "/")
	if !slash {
		if kind, sub = "*", text; !strings.HasPrefix(sub, "*+") {
			return m, false
		}
	}
	if len(text) > mostType || kind != "*" && !isWord(kind) || kind == "*" && slash {
		return m, false
	}
	if kind != "*" {
		m.begin = kind + "/"
	}
	switch star, suffix, plus := strings.Cut(sub, "+"); {
	case sub == "*" && slash:
	case star == "*" && plus && isWord(suffix):
		m.suffix = "+" + suffix
	case isWord(sub):
		m = mediaType{exact: text}
	default:
		return m, false
	}
	return m, true
}

func isWord(s string) bool { return !strings.Contains(s, "*") && wire.IsToken([]byte(s)) }

func (m *mediaType) holds(name []byte) bool {
	if m.exact != "" {
		return string(name) == m.exact
	}
	return len(name) > len(m.begin)+len(m.suffix) && bytes.HasPrefix(name, []byte(m.begin)) && bytes.HasSuffix(name, []byte(m.suffix))
}

// lowerType is a media type in lower case and without its parameters, nil for what
// is none or too long to be one.
func lowerType(contentType []byte, room *[mostType]byte) []byte {
	if i := bytes.IndexByte(contentType, ';'); i >= 0 {
		contentType = contentType[:i]
	}
	contentType = wire.TrimOWS(contentType)
	if len(contentType) > len(room) || bytes.IndexByte(contentType, '/') <= 0 {
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

// charset is the value of a Content-Type's charset parameter, without its quotes,
// nil for none.
func charset(contentType []byte) []byte {
	for {
		i := bytes.IndexByte(contentType, ';')
		if i < 0 {
			return nil
		}
		contentType = contentType[i+1:]
		p := contentType
		if end := bytes.IndexByte(p, ';'); end >= 0 {
			p = p[:end]
		}
		name, value, ok := bytes.Cut(p, []byte("="))
		if ok && wire.EqualFold(wire.TrimOWS(name), "charset") {
			return bytes.Trim(wire.TrimOWS(value), `"`)
		}
	}
}

// isUnicode tells whether a body of this Content-Type says that it is in UTF-8, or
// says nothing.
func isUnicode(contentType []byte) bool {
	name := charset(contentType)
	return name == nil || wire.EqualFold(name, "utf-8") || wire.EqualFold(name, "us-ascii") || wire.EqualFold(name, "utf8")
}
