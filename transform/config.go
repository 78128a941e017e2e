package transform

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"sluice/document"
	"sluice/setting"
	"sluice/wire"
)

// BodyConfig is what becomes of a body; the same for requests and answers of a
// route. The steps come in this order: it is read (from) as a JSON document, held
// to schema, shaped, put into template, static is added, and it is written (to).
type BodyConfig struct {
	From string `yaml:"from" default:"auto" enum:"auto,json,ndjson,xml,rss,atom,yaml,text,soap" doc:"What the body is in. auto goes by Content-Type, and leaves plain text alone; feeds are read as XML then."`
	document.ShapeConfig
	Template string       `yaml:"template" doc:"JSON, or text with to: text, with {path} of the document in it, that takes the document's place."`
	Static   string       `yaml:"static" doc:"A JSON object whose members are added, in the place of those of the same name. A document that is an array becomes the member collection."`
	To       string       `yaml:"to" default:"same" enum:"same,json,xml,yaml,ndjson,text,soap,accept" doc:"What the body is sent in. accept lets the request's Accept choose among json, xml and yaml (406 for none of them)."`
	SOAP     *SOAPConfig  `yaml:"soap" doc:"The envelope, with from: soap or to: soap."`
	Schema   string       `yaml:"schema" doc:"A file with a JSON Schema (2020-12 or draft-07), or the schema itself, for bodies of requests: those that do not hold are refused with 422, those of other media types with 415; with types, others pass unchecked. Formats are asserted; a document has at most one value for every 16 bytes of max."`
	Statuses []int        `yaml:"statuses" one:"true" doc:"The only statuses of answers that are changed. None: 200 to 299, and with from: soap 400 and 500 too, which faults come with."`
	Types    []string     `yaml:"types" one:"true" doc:"The only media types that are changed, such as application/json, text/* or *+json. None: those of from."`
	Max      setting.Size `yaml:"max" default:"1MiB" min:"1" max:"256MiB" doc:"The largest body that is read. What it becomes may be four times as large."`
	Over     string       `yaml:"over" default:"refuse" enum:"refuse,pass" doc:"Larger bodies, and those nested deeper than 200 levels or of more than a million values: refuse (413, 502 for answers) or pass on untouched."`
	Invalid  string       `yaml:"invalid" default:"refuse" enum:"refuse,pass" doc:"Bodies that cannot be read in their format: refuse (400, 502 for answers) or pass on untouched."`
}

// SOAPConfig is a SOAP envelope. Read, the document is what is in Body, with names
// without prefixes; Header, and attributes of namespaces, are left out. Written, the
// document as XML is put in Body.
type SOAPConfig struct {
	Version   string `yaml:"version" default:"1.1" enum:"1.1,1.2" doc:"The version that is written; both are read."`
	Action    string `yaml:"action" doc:"The action: SOAPAction (1.1), or the parameter of Content-Type (1.2)."`
	Prefix    string `yaml:"prefix" default:"soap" doc:"Prefix of the envelope's own elements."`
	Namespace string `yaml:"namespace" doc:"Namespace of the element in Body, and of those inside it."`
	Header    string `yaml:"header" doc:"XML that is put in Header; empty for no Header."`
}

const (
	defaultMax   = 1 << 20
	mostMax      = 256 << 20
	mostStatuses = 64
	mostTypes    = 64
	mostText     = 64 << 10 // of a static, a header of SOAP
	mostWord     = 1 << 10  // of an action, a namespace
)

// Validate reports what the tags cannot say, of the embedded shape too.
func (c *BodyConfig) Validate(p *setting.Problems) {
	c.ShapeConfig.Validate(p)
	if c.Max < 0 || c.Max > mostMax {
		p.Add("max", "expected at most %v, got %v", setting.Size(mostMax), c.Max)
	}
	c.validateFormats(p)
	if c.Template != "" {
		if err := checkTemplate(c.Template, c.templateMode()); err != nil {
			p.Add("template", "%v", err)
		}
	}
	if c.Static != "" {
		switch err := document.Check([]byte(c.Static), document.Limits{Bytes: mostText}, false); {
		case err != nil:
			p.Add("static", "expected a JSON object: %v", err)
		case !isObject([]byte(c.Static)):
			p.Add("static", "expected a JSON object, got %.60q", c.Static)
		case c.To == "text" && c.Template != "":
			p.Add("static", "expected no template with to: text beside it: a text has no members")
		}
	}
	if len(c.Statuses) > mostStatuses {
		p.Add("statuses", "expected at most %d statuses, got %d", mostStatuses, len(c.Statuses))
	}
	for i, s := range c.Statuses {
		if s < 200 || s > 599 || !hasBody(s) || s == 206 {
			p.Add(at("statuses", i), "expected a status from 200 to 599 that comes with a whole body, got %d", s)
		}
	}
	if len(c.Types) > mostTypes {
		p.Add("types", "expected at most %d media types, got %d", mostTypes, len(c.Types))
	}
	for i, text := range c.Types {
		m, ok := parseMediaType(text)
		switch {
		case !ok:
			p.Add(at("types", i), "expected a media type such as application/json, text/*, *+json or */*, without parameters, got %q", text)
		case orWord(c.From, "auto") == "auto" && m.exact != "" && autoFormat([]byte(m.exact)) == document.Unknown:
			p.Add(at("types", i), "expected from beside it, to say what %s is in", text)
		}
	}
	if c.Schema != "" {
		if c.Over == "pass" || c.Invalid == "pass" {
			p.Add("schema", "expected over: refuse and invalid: refuse beside it, else a body could evade it")
		}
		if isInline(c.Schema) {
			if _, err := newSchema(c.Schema, 1); err != nil {
				p.Add("schema", "%v", err)
			}
		}
	}
	if c.SOAP != nil {
		if c.From != "soap" && c.To != "soap" {
			p.Add("soap", "expected from: soap or to: soap beside it")
		}
		c.SOAP.validate(p.At("soap"))
	}
}

func (c *BodyConfig) validateFormats(p *setting.Problems) {
	known := []string{"auto", "json", "ndjson", "xml", "rss", "atom", "yaml", "text", "soap"}
	if c.From != "" && !slices.Contains(known, c.From) {
		p.Add("from", "expected one of %s, got %q", strings.Join(known, ", "), c.From)
	}
	known = []string{"same", "json", "xml", "yaml", "ndjson", "text", "soap", "accept"}
	if c.To != "" && !slices.Contains(known, c.To) {
		p.Add("to", "expected one of %s, got %q", strings.Join(known, ", "), c.To)
	}
	for _, key := range [][2]string{{"over", c.Over}, {"invalid", c.Invalid}} {
		if key[1] != "" && key[1] != "refuse" && key[1] != "pass" {
			p.Add(key[0], "expected refuse or pass, got %q", key[1])
		}
	}
	if (c.From == "rss" || c.From == "atom") && orWord(c.To, "same") == "same" {
		p.Add("to", "expected another format beside from: %s: feeds are read, but not written", c.From)
	}
}

func (c *SOAPConfig) validate(p *setting.Problems) {
	if c.Version != "" && c.Version != "1.1" && c.Version != "1.2" {
		p.Add("version", "expected 1.1 or 1.2, got %q", c.Version)
	}
	if c.Prefix != "" && !isPrefix(c.Prefix) {
		p.Add("prefix", "expected an XML prefix of at most 32 letters, digits, - and _ that does not begin with xml, got %q", c.Prefix)
	}
	quotable := func(key, text string) {
		if len(text) > mostWord || !wire.IsFieldValue([]byte(text)) || strings.ContainsAny(text, "\"\\\t") || !isASCII(text) {
			p.Add(key, "expected at most %d characters of ASCII without quotes and backslashes, got %q", mostWord, text)
		}
	}
	quotable("action", c.Action)
	quotable("namespace", c.Namespace)
	if c.Header != "" {
		if err := checkHeader(c.Header, orWord(c.Prefix, defaultPrefix)); err != nil {
			p.Add("header", "expected XML: %v", err)
		}
	}
}

func (c *BodyConfig) templateMode() document.Mode {
	if c.To == "text" {
		return document.Raw
	}
	return document.BodyJSON
}

// checkTemplate tells whether text is a template in which, with other values for all
// of its paths, no object has a name twice.
func checkTemplate(text string, mode document.Mode) error {
	t, err := document.ParseTemplate(text, mode)
	if err != nil || mode != document.BodyJSON {
		return err
	}
	values := 0
	example, err := t.Append(nil, func(document.Path) ([]byte, bool) {
		values++
		return strconv.AppendQuote(nil, "value "+strconv.Itoa(values)), true
	})
	if err == nil {
		err = document.Check(example, document.Limits{}, false)
	}
	return err
}

// hasBody tells whether answers of this status have one (RFC 9110 6.4.1).
func hasBody(status int) bool {
	return status >= 200 && status != 204 && status != 205 && status != 304
}

func orWord(word, otherwise string) string {
	if word == "" {
		return otherwise
	}
	return word
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// firstProblem is the first mistake of what a New function was given.
func firstProblem(validate func(*setting.Problems)) error {
	problems := setting.NewProblems(nil)
	validate(problems)
	list := problems.List()
	switch {
	case len(list) == 0:
		return nil
	case list[0].Path == "":
		return errors.New(list[0].Expected)
	}
	return errors.New(list[0].Path + ": " + list[0].Expected)
}
