package config

import (
	"bytes"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"sluice/setting"
)

// Redacted writes c as YAML with every effective value, defaults included.
// What came from ${...} is shown as that expression, what is a secret by its
// nature, or the value of a header that holds one, as ***, and credentials
// inside URLs are left out.
func Redacted(c *Config) []byte { return documentOf(c, true) }

func documentOf(c *Config, redact bool) []byte {
	p := printer{origin: c.origin, redact: redact}
	if p.origin == nil {
		p.origin = newOrigin("")
	}
	p.mapping(p.block(reflect.ValueOf(c).Elem(), ""), 0, true)
	return p.out.Bytes()
}

// printer writes the few forms of YAML that a configuration needs. The library
// has an encoder, but that one drops quotes and line breaks of some texts, and
// what is printed here must load again.
type printer struct {
	origin *origin
	redact bool
	out    bytes.Buffer
}

// pair is one key of a mapping; its value is pairs, a list of such values, or
// the text of a scalar as it stands in the document.
type pair struct {
	key   string
	value any
}

type (
	pairs  []pair
	list   []any
	scalar string
)

func (p *printer) block(v reflect.Value, path string) pairs {
	out := pairs{}
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		keyPath := setting.Join(path, f.key)
		if p.redact {
			if expression, ok := p.origin.secrets[keyPath]; ok {
				out = append(out, pair{f.key, p.shown(expression)})
				continue
			}
			if f.secret && !fv.IsZero() {
				out = append(out, pair{f.key, quote(setting.Hidden)})
				continue
			}
		}
		// An absent value is one that says nothing; a zero with a default says
		// that the default is not wanted.
		if fv.IsZero() && !f.hasDefault {
			continue
		}
		value := p.value(fv, keyPath)
		if nested, ok := value.(pairs); ok && len(nested) == 0 && fv.Kind() == reflect.Struct {
			continue
		}
		out = append(out, pair{f.key, value})
	}
	return out
}

func (p *printer) value(v reflect.Value, path string) any {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if p.redact {
		if expression, ok := p.origin.secrets[path]; ok {
			return p.shown(expression)
		}
	}
	switch kindOf(v.Type()) {
	case kindStruct:
		return p.block(v, path)
	case kindList:
		out := make(list, v.Len())
		for i := range out {
			out[i] = p.value(v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
		return out
	case kindMap:
		out := make(pairs, 0, v.Len())
		for _, key := range sortedKeys(v) {
			name := key.String()
			out = append(out, pair{name, p.value(v.MapIndex(key), setting.Join(path, setting.Key(name)))})
		}
		return out
	case kindText:
		if p.redact {
			return p.shown(escape(v.String()))
		}
		return quote(v.String())
	}
	return scalar(scalarText(v))
}

// shown takes the credentials out of a URL.
func (p *printer) shown(text string) scalar {
	if strings.Contains(text, "://") {
		text = urlCredentials.ReplaceAllString(text, "://"+setting.Hidden+"@")
	}
	return quote(text)
}

// mapping writes m at an indentation. The first key of a list item stands
// behind its dash: indented says whether it is there already.
func (p *printer) mapping(m pairs, indent int, indented bool) {
	for _, entry := range m {
		if !indented {
			p.indent(indent)
		}
		indented = indent == 0
		p.out.WriteString(string(quote(entry.key)) + ":")
		switch v := entry.value.(type) {
		case scalar:
			p.out.WriteString(" " + string(v) + "\n")
		case pairs:
			if len(v) == 0 {
				p.out.WriteString(" {}\n")
				continue
			}
			p.out.WriteString("\n")
			p.mapping(v, indent+2, false)
		case list:
			if len(v) == 0 {
				p.out.WriteString(" []\n")
				continue
			}
			p.out.WriteString("\n")
			p.list(v, indent+2)
		}
	}
}

// list writes items that are scalars or mappings; the schema has no others.
func (p *printer) list(items list, indent int) {
	for _, item := range items {
		p.indent(indent)
		p.out.WriteString("- ")
		switch v := item.(type) {
		case scalar:
			p.out.WriteString(string(v) + "\n")
		case pairs:
			if len(v) == 0 {
				p.out.WriteString("{}\n")
				continue
			}
			p.mapping(v, indent+2, true)
		}
	}
}

func (p *printer) indent(n int) {
	for range n {
		p.out.WriteByte(' ')
	}
}

// plainText needs no quotes wherever it stands and whoever reads it.
var plainText = regexp.MustCompile(`^[A-Za-z/$][A-Za-z0-9_./${}~+-]*([:=][A-Za-z0-9_./${}~+-]+)*$`)

// quote writes text as a YAML scalar that is read as a text by everybody.
func quote(text string) scalar {
	switch strings.ToLower(text) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return scalar(`"` + text + `"`)
	}
	if plainText.MatchString(text) {
		return scalar(text)
	}
	return scalar(strconv.Quote(text))
}
