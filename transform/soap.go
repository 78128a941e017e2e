package transform

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"sluice/document"
)

// Namespaces of the envelopes of SOAP 1.1 and 1.2.
const (
	soapFirst  = "http://schemas.xmlsoap.org/soap/envelope/"
	soapSecond = "http://www.w3.org/2003/05/soap-envelope"

	defaultPrefix = "soap"
	mostPrefix    = 32
	mostReason    = 256 // bytes of a fault's text that are shown
	mostCode      = 64
)

// envelope is a SOAPConfig made ready.
type envelope struct {
	second      bool // 1.2
	action      string
	contentType string
	before      []byte // what stands before the document, and after it
	after       []byte
	namespace   string
}

// newEnvelope compiles c, which has been validated; nil stands for its defaults.
func newEnvelope(c *SOAPConfig) *envelope {
	if c == nil {
		c = new(SOAPConfig)
	}
	e := &envelope{second: c.Version == "1.2", action: c.Action, namespace: c.Namespace}
	space := soapFirst
	e.contentType = "text/xml; charset=utf-8"
	if e.second {
		space = soapSecond
		e.contentType = "application/soap+xml; charset=utf-8"
		if c.Action != "" {
			e.contentType += `; action="` + c.Action + `"`
		}
	}
	p := orWord(c.Prefix, defaultPrefix)
	text := `<?xml version="1.0" encoding="UTF-8"?>` + "\n<" + p + `:Envelope xmlns:` + p + `="` + space + `">`
	if c.Header != "" {
		text += "<" + p + ":Header>" + c.Header + "</" + p + ":Header>"
	}
	e.before = []byte(text + "<" + p + ":Body>")
	e.after = []byte("</" + p + ":Body></" + p + ":Envelope>\n")
	return e
}

// wrap appends the envelope with the XML document doc, as FromJSON writes it, in it.
func (e *envelope) wrap(dst, doc []byte) []byte {
	if bytes.HasPrefix(doc, []byte("<?xml")) {
		if end := bytes.Index(doc, []byte("?>")); end >= 0 {
			doc = doc[end+len("?>"):]
		}
	}
	doc = bytes.TrimSpace(doc)
	dst = append(dst, e.before...)
	if end := bytes.IndexAny(doc, " \t\r\n/>"); e.namespace != "" && end > 0 && !bytes.Contains(doc[:bytes.IndexByte(doc, '>')+1], []byte(" xmlns=")) {
		dst = append(dst, doc[:end]...)
		dst = append(dst, ` xmlns="`...)
		dst = appendEscaped(dst, e.namespace)
		dst = append(dst, '"')
		doc = doc[end:]
	}
	return append(append(dst, doc...), e.after...)
}

func appendEscaped(dst []byte, text string) []byte {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a bytes.Buffer fails at nothing
	return append(dst, b.Bytes()...)
}

// bodyName is the root of what unwrap makes, which bodyOf takes away again.
const bodyName = "Body"

// bodyOf is what is in {"Body": ...}, an object even where Body is empty.
func bodyOf(doc []byte) []byte {
	value, ok := bodyPath.Get(doc)
	if !ok || string(value) == `""` {
		return []byte("{}")
	}
	return value
}

var bodyPath, _ = document.ParsePath(bodyName)

// unwrap appends the Body of an envelope as an XML document of its own, whose names
// have no prefixes. A fault is a *Refusal; all other errors are *document.Refused.
func (e *envelope) unwrap(dst, body []byte, lim document.Limits) ([]byte, error) {
	u := unwrapping{
		d:     xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, []byte("\ufeff")))),
		dst:   dst,
		depth: lim.Depth, nodes: lim.Nodes,
		most: len(dst) + growth*lim.Bytes,
	}
	u.d.CharsetReader = func(name string, from io.Reader) (io.Reader, error) {
		if strings.EqualFold(name, "us-ascii") {
			return from, nil
		}
		return nil, fmt.Errorf("expected UTF-8 or US-ASCII, got the encoding %q", shown(name, mostCode))
	}
	if u.depth <= 0 {
		u.depth = 200
	}
	if u.nodes <= 0 {
		u.nodes = 1_000_000
	}
	if err := u.envelope(); err != nil {
		return nil, err
	}
	return u.dst, nil
}

type unwrapping struct {
	d            *xml.Decoder
	dst          []byte
	depth, nodes int
	most         int
	space        string // of the envelope
}

func (u *unwrapping) fail(format string, args ...any) error {
	return &document.Refused{Offset: int(u.d.InputOffset()), Reason: fmt.Sprintf(format, args...)}
}

func (u *unwrapping) exceeds(format string, args ...any) error {
	return &document.Refused{Offset: int(u.d.InputOffset()), Reason: fmt.Sprintf(format, args...), TooLarge: true}
}

// token is the next that says something: a start, an end or text.
func (u *unwrapping) token() (xml.Token, error) {
	for {
		t, err := u.d.Token()
		if err != nil {
			var syntax *xml.SyntaxError
			switch {
			case err == io.EOF:
				return nil, io.EOF
			case errors.As(err, &syntax):
				return nil, u.fail("expected XML: %s", shown(syntax.Msg, mostDetail))
			}
			return nil, u.fail("expected XML: %s", shown(err.Error(), mostDetail))
		}
		switch t := t.(type) {
		case xml.StartElement:
			if u.nodes -= 1 + len(t.Attr); u.nodes < 0 {
				return nil, u.exceeds("expected fewer elements and attributes")
			}
			return t, nil
		case xml.EndElement, xml.CharData:
			return t, nil
		case xml.Directive:
			return nil, u.fail("expected XML without a document type")
		}
	}
}

// start is the next start of an element, nil at the end of the one that is open, or
// of the document. There is no text before it.
func (u *unwrapping) start() (*xml.StartElement, error) {
	for {
		t, err := u.token()
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return &t, nil
		case xml.EndElement:
			return nil, nil
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return nil, u.fail("expected elements without text between them")
			}
		}
	}
}

func (u *unwrapping) envelope() error {
	root, err := u.start()
	switch {
	case err != nil:
		return err
	case root == nil || root.Name.Local != "Envelope" || root.Name.Space != soapFirst && root.Name.Space != soapSecond:
		return u.fail("expected a SOAP envelope, of version 1.1 or 1.2")
	}
	u.space = root.Name.Space
	seen := false
	for {
		child, err := u.start()
		switch {
		case err != nil:
			return err
		case child == nil && !seen:
			return u.fail("expected Body in the envelope")
		case child == nil:
			rest, err := u.start()
			if err == nil && rest != nil {
				err = u.fail("expected one element at the root")
			}
			return err
		case child.Name.Space == u.space && child.Name.Local == bodyName && !seen:
			seen = true
			if err := u.body(); err != nil {
				return err
			}
		case child.Name.Space == u.space && child.Name.Local == "Header" && !seen:
			if err := u.copy(nil, 1); err != nil {
				return err
			}
		default:
			return u.fail("expected Header and Body in the envelope, each once, got <%s>", shown(child.Name.Local, mostCode))
		}
	}
}

// body copies what is in Body, whose start has been read.
func (u *unwrapping) body() error {
	u.dst = append(u.dst, "<"+bodyName+">"...)
	for first := true; ; first = false {
		child, err := u.start()
		if err != nil {
			return err
		}
		if child == nil {
			u.dst = append(u.dst, "</"+bodyName+">"...)
			return nil
		}
		if child.Name.Local == "Fault" && child.Name.Space == u.space {
			if !first {
				return u.fail("expected a fault alone in Body")
			}
			return u.fault()
		}
		if err := u.copy(child, 2); err != nil {
			return err
		}
	}
}

// copy copies the element that start begins, without its prefixes and what is of
// namespaces in its attributes; nil passes over the one that is open.
func (u *unwrapping) copy(start *xml.StartElement, depth int) error {
	var names []string // of what is open
	open := func(s *xml.StartElement) error {
		if depth+len(names) >= u.depth {
			return u.exceeds("expected at most %d elements inside each other", u.depth)
		}
		names = append(names, s.Name.Local)
		if start == nil {
			return nil
		}
		u.dst = append(append(u.dst, '<'), s.Name.Local...)
		for _, a := range s.Attr {
			if a.Name.Space != "" || a.Name.Local == "xmlns" {
				continue
			}
			u.dst = append(append(append(u.dst, ' '), a.Name.Local...), `="`...)
			u.dst = appendEscaped(u.dst, a.Value)
			u.dst = append(u.dst, '"')
		}
		u.dst = append(u.dst, '>')
		return nil
	}
	if start != nil {
		if err := open(start); err != nil {
			return err
		}
	}
	for {
		t, err := u.token()
		if err == io.EOF {
			return u.fail("expected the end of an element, got that of the document")
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if err := open(&t); err != nil {
				return err
			}
		case xml.EndElement:
			if len(names) == 0 {
				return nil
			}
			names = names[:len(names)-1]
			if start == nil {
				continue
			}
			u.dst = append(append(append(u.dst, "</"...), t.Name.Local...), '>')
			if len(names) == 0 {
				return nil
			}
		case xml.CharData:
			if start != nil {
				u.dst = appendEscaped(u.dst, string(t))
			}
		}
		if len(u.dst) > u.most {
			return u.exceeds("expected a shorter body")
		}
	}
}

// fault reads the fault whose start has been read. What a service tells in detail is
// not shown.
func (u *unwrapping) fault() error {
	var path []string
	var code, sub, reason []byte
	for {
		t, err := u.token()
		if err == io.EOF {
			err = u.fail("expected the end of a fault, got that of the document")
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(path) >= u.depth {
				return u.exceeds("expected at most %d elements inside each other", u.depth)
			}
			path = append(path, t.Name.Local)
		case xml.EndElement:
			if len(path) == 0 {
				return newFault(code, sub, reason)
			}
			path = path[:len(path)-1]
		case xml.CharData:
			const most = 4 * mostReason
			add := func(to *[]byte) { *to = append(*to, t[:min(len(t), max(0, most-len(*to)))]...) }
			switch strings.Join(path[:min(len(path), 4)], "/") {
			case "faultcode", "Code/Value":
				add(&code)
			case "Code/Subcode/Value":
				add(&sub)
			case "faultstring":
				add(&reason)
			case "Reason/Text":
				add(&reason)
			}
		}
	}
}

// newFault is a fault as a refusal: of the sender, or of the service.
func newFault(code, sub, reason []byte) *Refusal {
	local := func(name []byte) string {
		name = bytes.TrimSpace(name)
		return shown(string(name[bytes.LastIndexByte(name, ':')+1:]), mostCode)
	}
	r := &Refusal{Status: 502, Code: local(code), Reason: shown(string(reason), mostReason)}
	if first, _, _ := strings.Cut(r.Code, "."); first == "Client" || first == "Sender" {
		r.Status = 400
	}
	if s := local(sub); s != "" {
		r.Code += "/" + s
	}
	r.Detail = "the service answered with a fault"
	for _, text := range []string{r.Code, r.Reason} {
		if text != "" {
			r.Detail += ": " + text
		}
	}
	return r
}

// checkHeader tells whether text is XML that may stand in a Header, where the
// envelope's prefix is known.
func checkHeader(text, prefix string) error {
	if len(text) > mostText {
		return fmt.Errorf("expected at most %d bytes, got %d", mostText, len(text))
	}
	whole := `<h xmlns:` + prefix + `="` + soapFirst + `">` + text + `</h>`
	if _, err := document.ToJSON(nil, []byte(whole), document.XML, document.Limits{}); err != nil {
		return err
	}
	d := xml.NewDecoder(strings.NewReader(whole))
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			// What Token cannot resolve it leaves as the prefix, which is no URI.
			if s := t.Name.Space; s != "" && !strings.Contains(s, ":") {
				return fmt.Errorf("expected a namespace for the prefix %s", shown(s, mostCode))
			}
		case xml.ProcInst:
			return errors.New("expected no processing instructions")
		}
	}
}

func isPrefix(s string) bool {
	if len(s) > mostPrefix || strings.HasPrefix(strings.ToLower(s), "xml") {
		return false
	}
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}
