package encode

import (
	"strconv"
	"strings"

	"sluice/setting"
	"sluice/wire"
)

// Config is a route's `compress`.
type Config struct {
	Codings []string     `yaml:"codings" one:"true" doc:"Codings that answers may get, of zstd, br and gzip, the dearest to the gateway first: it decides between those that a client likes as well. None: zstd, br, gzip."`
	Types   []string     `yaml:"types" one:"true" doc:"Media types that are compressed: type/subtype, type/*, *+suffix or type/*+suffix. text/event-stream must be named in full. None: text/*, *+json, *+xml, application/json, application/javascript, application/xml, application/wasm, uncompressed fonts, and others that are mostly text."`
	Min     setting.Size `yaml:"min" default:"1KiB" min:"0" max:"1GiB" doc:"Bodies that are known to be shorter are sent as they are."`
	Level   string       `yaml:"level" default:"balanced" enum:"fast,balanced,small" doc:"What to spend on compression: fast, the least time; balanced; small, the fewest bytes, for several times the time, and with br and zstd 40 MiB of memory for each processor."`
}

// Shorthand reads the short form: on, for the defaults.
func (c *Config) Shorthand(s string) {
	if s != "on" {
		c.Min = -1
	}
}

const (
	mostTypes = 64
	mostType  = 127 // bytes of a media type, without its parameters
)

var (
	defaultCodings = []string{"zstd", "br", "gzip"}
	defaultTypes   = []string{
		"text/*", "*+json", "*+xml", "*+yaml",
		"application/json", "application/javascript", "application/x-javascript", "application/xml", "application/xml-dtd",
		"application/yaml", "application/toml", "application/graphql", "application/sql", "application/rtf", "application/wasm",
		"font/ttf", "font/otf", "application/x-font-ttf", "application/vnd.ms-fontobject",
		"image/bmp", "image/x-icon", "image/vnd.microsoft.icon",
	}
)

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	if c.Min < 0 {
		p.Add("", "expected on, or a block of codings, types, min and level")
	}
	for i, name := range c.Codings {
		path := "codings[" + strconv.Itoa(i) + "]"
		if c, ok := codingNamed([]byte(name)); !ok || c == Identity || name != c.String() {
			const want = "expected one of zstd, br and gzip, got %q"
			if near := setting.Nearest(name, defaultCodings); near != "" {
				p.Add(path, want+"; did you mean %s?", name, near)
			} else {
				p.Add(path, want, name)
			}
		}
		for _, other := range c.Codings[:i] {
			if name == other {
				p.Add(path, "expected each coding once, got %q again", name)
			}
		}
	}
	if len(c.Types) > mostTypes {
		p.Add("types", "expected at most %d media types, got %d", mostTypes, len(c.Types))
	}
	for i, text := range c.Types {
		if _, ok := parseType(text); !ok {
			p.Add("types["+strconv.Itoa(i)+"]", "expected type/subtype, type/*, *+suffix or type/*+suffix, without parameters, got %q", text)
		}
	}
}

// mediaTypes is one of Config's types: a media type, or what such begin and end
// with. Everything is in lower case.
type mediaTypes struct {
	exact          string
	prefix, suffix string // "text/", "+json"; of those without exact
}

// holds tells whether name, in lower case and with one slash, is one of those
// that m is not exact about.
func (m *mediaTypes) holds(name []byte) bool {
	n, end := len(m.prefix), len(name)-len(m.suffix)
	return n < end && string(name[:n]) == m.prefix && string(name[end:]) == m.suffix
}

// parseType reads type/subtype, type/*, *+suffix or type/*+suffix.
func parseType(s string) (m mediaTypes, ok bool) {
	if len(s) > mostType {
		return m, false
	}
	s = strings.ToLower(s)
	isName := func(s string) bool { return wire.IsToken([]byte(s)) && !strings.Contains(s, "*") }
	if kind, sub, found := strings.Cut(s, "/"); found {
		if !isName(kind) {
			return m, false
		}
		if !strings.HasPrefix(sub, "*") {
			return mediaTypes{exact: s}, isName(sub)
		}
		m.prefix, s = kind+"/", sub
		if s == "*" {
			return m, true
		}
	}
	m.suffix = strings.TrimPrefix(s, "*")
	return m, m.suffix != s && strings.HasPrefix(m.suffix, "+") && isName(m.suffix[1:])
}
