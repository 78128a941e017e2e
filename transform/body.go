package transform

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"sluice/document"
	"sluice/wire"
)

// Body is a BodyConfig made ready. It never changes and may be used by any number of
// goroutines.
type Body struct {
	from     document.Format // Unknown goes by Content-Type
	fromSOAP bool
	shape    *document.Shape // nil where there is nothing to do
	template *document.Template
	static   []byte
	to       document.Format // Unknown is the format that it was in
	toSOAP   bool
	accept   bool
	soap     *envelope
	schema   *schema
	statuses []int
	types    []mediaType
	max      int
	overs    bool // pass what is too large
	invalids bool // pass what cannot be read
	request  bool
}

// growth is how many times as large as max a body may become.
const growth = 4

// negotiable are the formats of to: accept, the first being preferred.
var negotiable = []document.Format{document.JSON, document.XML, document.YAML}

// soapFaults are the statuses that faults come with: 500, and 400 for those of the
// sender (SOAP 1.2, 7.5.2.2).
var soapFaults = []int{400, 500}

// NewBody compiles c, for requests or for answers, and reads the file of its schema.
// It fails with the first of what Validate finds, and for keys that are only for the
// other of the two.
func NewBody(c *BodyConfig, request bool) (*Body, error) {
	if err := firstProblem(c.Validate); err != nil {
		return nil, err
	}
	switch {
	case !request && c.Schema != "":
		return nil, errors.New("schema: expected it for requests only")
	case request && len(c.Statuses) > 0:
		return nil, errors.New("statuses: expected them for answers only")
	case request && c.To == "accept":
		return nil, errors.New("to: expected accept for answers only: what a client accepts says nothing of its request")
	}
	b := &Body{
		fromSOAP: c.From == "soap", toSOAP: c.To == "soap", accept: c.To == "accept",
		statuses: slices.Clone(c.Statuses),
		max:      int(c.Max),
		overs:    c.Over == "pass", invalids: c.Invalid == "pass",
		request: request,
	}
	if b.max == 0 {
		b.max = defaultMax
	}
	b.from, _ = document.FormatNamed(c.From)
	b.to, _ = document.FormatNamed(c.To)
	if b.fromSOAP && orWord(c.To, "same") == "same" {
		b.toSOAP = true
	}
	shape, err := document.NewShape(&c.ShapeConfig)
	if err != nil {
		return nil, err
	}
	if !shape.None() {
		b.shape = shape
	}
	if c.Template != "" {
		if b.template, err = document.ParseTemplate(c.Template, c.templateMode()); err != nil {
			return nil, fmt.Errorf("template: %w", err)
		}
	}
	if c.Static != "" {
		b.static = []byte(c.Static)
	}
	for _, text := range c.Types {
		m, _ := parseMediaType(text)
		b.types = append(b.types, m)
	}
	if b.fromSOAP || b.toSOAP {
		b.soap = newEnvelope(c.SOAP)
	}
	if c.Schema != "" {
		if b.schema, err = newSchema(c.Schema, nodesWithin(b.max)); err != nil {
			return nil, fmt.Errorf("schema: %w", err)
		}
	}
	return b, nil
}

// Max is how much of a body must be read at most: who has read one byte more gives
// that to Apply too, which then refuses the body or says that it may pass.
func (b *Body) Max() int64 { return int64(b.max) }

// PassesLarge tells whether bodies beyond Max are to be passed on untouched.
func (b *Body) PassesLarge() bool { return b.overs }

// Negotiates tells whether the answer depends on Accept, which Vary must then say.
func (b *Body) Negotiates() bool { return b.accept }

// SOAPAction is the value of the field SOAPAction that a request which was changed
// must have. ok is false where it needs none.
func (b *Body) SOAPAction() (value string, ok bool) {
	if !b.toSOAP || b.soap.second {
		return "", false
	}
	return `"` + b.soap.action + `"`, true
}

// Applies tells whether a body with this Content-Type, and status, 0 for requests,
// is one for Apply, before any of it is read. With a schema and without types it is
// every body, for Apply to refuse those that the schema cannot be held against. It
// allocates nothing.
func (b *Body) Applies(contentType []byte, status int) bool {
	if status != 0 && !b.appliesStatus(status) {
		return false
	}
	if b.schema != nil && len(b.types) == 0 {
		return true
	}
	return b.takes(contentType)
}

func (b *Body) appliesStatus(status int) bool {
	if len(b.statuses) > 0 {
		return slices.Contains(b.statuses, status)
	}
	return status >= 200 && status <= 299 && status != 206 && hasBody(status) || b.fromSOAP && slices.Contains(soapFaults, status)
}

// takes tells whether the media type is one of types, or of from.
func (b *Body) takes(contentType []byte) bool {
	var room [mostType]byte
	name := lowerType(contentType, &room)
	if name == nil {
		return false
	}
	if len(b.types) > 0 {
		return slices.ContainsFunc(b.types, func(m mediaType) bool { return m.holds(name) }) &&
			(b.from != document.Unknown || b.fromSOAP || autoFormat(name) != document.Unknown)
	}
	switch f := document.FormatOf(name); {
	case b.fromSOAP:
		return f == document.XML
	case b.from == document.Unknown:
		return f != document.Unknown && f != document.Text
	case b.from == document.RSS || b.from == document.Atom:
		return f == document.RSS || f == document.Atom || f == document.XML
	case b.from == document.XML:
		return f == document.RSS || f == document.Atom || f == document.XML
	default:
		return f == b.from
	}
}

// autoFormat is what a body is read as where the configuration does not say.
func autoFormat(contentType []byte) document.Format {
	switch f := document.FormatOf(contentType); f {
	case document.RSS, document.Atom:
		return document.XML
	case document.Text:
		return document.Unknown
	default:
		return f
	}
}

// Apply changes a whole body. out is body itself where nothing changes; outType is
// the new Content-Type, empty where it stays. An empty body stays as it is, unless
// there is a schema. With an error, which is a *Refusal, there is no out.
//
//	400  the body of a request cannot be read in its format; a SOAP fault of the sender
//	406  nothing that can be sent is accepted
//	413  the body of a request is beyond a bound
//	415  the body of a request is of a media type that schema cannot be held against
//	422  the body of a request does not hold to schema, or lacks what query and template need
//	502  the same as 400, 413 and 422 of an answer; a SOAP fault of the receiver
//
// accept are the request's fields. body must not change while out is in use. Apply
// allocates what it returns, and only that for JSON without query and schema, once
// its buffers have grown to what bodies need.
func (b *Body) Apply(body, contentType []byte, accept []wire.Field) (out []byte, outType string, err error) {
	if len(body) > b.max {
		if b.overs {
			return body, "", nil
		}
		return nil, "", b.refuse(413, fmt.Sprintf("expected a body of at most %d bytes", b.max))
	}
	if len(bytes.TrimSpace(body)) == 0 && b.schema == nil {
		return body, "", nil
	}
	from := b.from
	if from == document.Unknown {
		if from = autoFormat(contentType); from == document.Unknown || b.fromSOAP {
			from = document.JSON
		}
	}
	if b.schema != nil && len(contentType) > 0 && !b.takes(contentType) {
		return nil, "", &Refusal{Status: 415, Detail: "expected a body in " + b.formatName(from) + ", by its Content-Type"}
	}
	to, ok := b.target(from, accept)
	if !ok {
		return nil, "", &Refusal{Status: 406, Detail: "expected Accept to allow application/json, application/xml or application/yaml"}
	}
	r := takeRoom()
	defer r.give()
	doc, err := b.read(r, body, contentType, from)
	if err != nil {
		return b.unread(body, from, err)
	}
	if b.schema != nil {
		if err := b.schema.check(doc); err != nil {
			return nil, "", err
		}
	}
	doc, changed, err := b.change(r, doc)
	if err != nil {
		return nil, "", err
	}
	outType = b.outType(contentType, from, to)
	if !changed && to == from && !b.fromSOAP && !b.toSOAP {
		return body, outType, nil
	}
	if out, err = b.write(r, doc, from, to); err != nil {
		return nil, "", err
	}
	if bytes.Equal(out, body) {
		out = body
	}
	return out, outType, nil
}

// outType is the Content-Type of what is written, empty where it stays. What is
// read says UTF-8 or nothing, so that its charset stays true, but for US-ASCII.
func (b *Body) outType(contentType []byte, from, to document.Format) string {
	switch {
	case b.toSOAP:
		return b.soap.contentType
	case to != from, b.fromSOAP, (b.accept || b.to != document.Unknown) && document.FormatOf(contentType) != to,
		to != document.JSON && wire.EqualFold(charset(contentType), "us-ascii"):
		return document.ContentType(to)
	}
	return ""
}

// target is the format to write; ok is false where the client takes none.
func (b *Body) target(from document.Format, accept []wire.Field) (to document.Format, ok bool) {
	switch {
	case b.accept:
		return document.Negotiate(accept, negotiable)
	case b.toSOAP:
		return document.XML, true
	case b.to != document.Unknown:
		return b.to, true
	}
	return from, true
}

// read is body as a JSON document.
func (b *Body) read(r *room, body, contentType []byte, from document.Format) ([]byte, error) {
	lim := b.limits(1)
	switch {
	case !isUnicode(contentType):
		return nil, &document.Refused{Reason: "expected UTF-8, but Content-Type has another charset"}
	case b.fromSOAP:
		inner, err := b.soap.unwrap(r.next(), body, lim)
		if err != nil {
			return nil, err
		}
		r.keep(inner)
		doc, err := document.ToJSON(r.next(), inner, document.XML, b.limits(growth))
		if err != nil {
			return nil, err
		}
		r.keep(doc)
		return bodyOf(doc), nil
	case from == document.JSON:
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if err := document.Check(body, lim, false); err != nil {
			return nil, err
		}
		return bytes.Trim(body, " \t\r\n"), nil
	}
	lim.Bytes *= growth
	doc, err := document.ToJSON(r.next(), body, from, lim)
	if err != nil {
		return nil, err
	}
	r.keep(doc)
	return doc, nil
}

func (b *Body) limits(times int) document.Limits {
	lim := document.Limits{Bytes: b.max * times}
	if b.schema != nil {
		lim.Nodes = b.schema.nodes
	}
	return lim
}

// change shapes doc, puts it into the template, and adds to it. Its errors are
// *Refusal.
func (b *Body) change(r *room, doc []byte) (changed []byte, some bool, err error) {
	lim := document.Limits{Bytes: b.max * growth}
	put := func(out []byte) {
		some = some || !bytes.Equal(doc, out)
		r.keep(out)
		doc = out
	}
	if b.shape != nil {
		out, err := b.shape.Apply(r.next(), doc, lim)
		if err != nil {
			return nil, false, b.unmade(err)
		}
		put(out)
	}
	if b.template != nil {
		out, err := b.render(r.next(), doc, lim.Bytes)
		if err != nil {
			return nil, false, err
		}
		put(out)
	}
	if b.static != nil {
		parts := [2]document.Part{{Name: "body", Doc: doc}, {Name: "static", Doc: b.static}}
		out, err := document.Merge(r.next(), parts[:], false)
		if err != nil {
			return nil, false, b.unmade(err)
		}
		put(out)
	}
	return doc, some, nil
}

// render puts doc into the template. What stands in it more than once can make it
// large, so what is put is counted.
func (b *Body) render(dst, doc []byte, most int) ([]byte, error) {
	large := false
	out, err := b.template.Append(dst, func(path document.Path) ([]byte, bool) {
		value, ok := path.Get(doc)
		if most -= len(value); ok && most < 0 {
			large = true
			return nil, false
		}
		return value, ok
	})
	if large {
		return nil, b.tooLarge()
	}
	if err == nil && b.to != document.Text {
		// A value can be a name, and so be there twice.
		err = document.Check(out, document.Limits{Bytes: b.max * growth}, false)
	}
	if err != nil {
		return nil, b.unmade(err)
	}
	return out, nil
}

// write is doc in the format to, in memory of its own.
func (b *Body) write(r *room, doc []byte, from, to document.Format) (out []byte, err error) {
	most := b.max * growth
	switch {
	case to == document.JSON, to == document.Text && b.template != nil: // text already
		out = doc
	default:
		if to == document.Text && from == document.Text {
			if text, ok := content.Get(doc); ok {
				doc = text // it was read as {"content": "..."}
			}
		}
		if out, err = document.FromJSON(r.next(), doc, to, document.Limits{Bytes: most}); err != nil {
			return nil, b.unmade(err)
		}
		r.keep(out)
		if b.toSOAP {
			out = b.soap.wrap(r.next(), out)
			r.keep(out)
		}
	}
	if len(out) > most {
		return nil, b.tooLarge()
	}
	return r.release(out), nil
}

var content, _ = document.ParsePath("content")

// unread is what becomes of a body that cannot be read.
func (b *Body) unread(body []byte, from document.Format, err error) ([]byte, string, error) {
	var fault *Refusal
	if errors.As(err, &fault) {
		return nil, "", b.failed(fault)
	}
	large := false
	var refused *document.Refused
	if errors.As(err, &refused) {
		large = refused.TooLarge
	}
	switch {
	case large && b.overs, !large && b.invalids:
		return body, "", nil
	case large:
		return nil, "", b.refuse(413, "expected a body within limits: "+shown(err.Error(), mostDetail))
	}
	return nil, "", b.refuse(400, "expected a body in "+b.formatName(from)+": "+shown(err.Error(), mostDetail))
}

// failed is a SOAP fault as a refusal: of a request it is the client's mistake.
func (b *Body) failed(fault *Refusal) *Refusal {
	if b.request {
		fault.Status = 400
	}
	return fault
}

const mostDetail = 512

func (b *Body) formatName(from document.Format) string {
	if b.fromSOAP {
		return "soap"
	}
	return from.String()
}

// unmade is the refusal of a document that lacks what a step needs.
func (b *Body) unmade(err error) *Refusal {
	var refused *document.Refused
	if errors.As(err, &refused) && refused.TooLarge {
		return b.tooLarge()
	}
	return b.refuse(422, "expected a body that can be changed as the route says: "+shown(err.Error(), mostDetail))
}

func (b *Body) tooLarge() *Refusal {
	return b.refuse(413, fmt.Sprintf("expected a body that becomes at most %d bytes", b.max*growth))
}

// refuse is a refusal with status, or that of an answer, of which the client learns
// nothing but that it is not what it should be.
func (b *Body) refuse(status int, detail string) *Refusal {
	if b.request {
		return &Refusal{Status: status, Detail: detail}
	}
	return &Refusal{Status: 502, Detail: "the answer of the service could not be changed as it should be", Why: detail}
}

// room is what Apply works in: steps read from one buffer and write to the other.
type room struct {
	buffers [2][]byte
	at      int
}

var rooms sync.Pool

// mostRoom bounds a buffer that is kept.
const mostRoom = 1 << 20

func takeRoom() *room {
	if r, ok := rooms.Get().(*room); ok {
		return r
	}
	return new(room)
}

func (r *room) give() {
	for i := range r.buffers {
		if cap(r.buffers[i]) > mostRoom {
			r.buffers[i] = nil
		}
	}
	rooms.Put(r)
}

// next is the empty buffer to write to; keep says that it was written.
func (r *room) next() []byte { return r.buffers[r.at][:0] }

func (r *room) keep(b []byte) {
	r.buffers[r.at] = b
	r.at = 1 - r.at
}

// release is out in memory of its own. What would not be kept anyway is given away
// as it is, instead of being copied.
func (r *room) release(out []byte) []byte {
	for i := range r.buffers {
		buf := r.buffers[i]
		if cap(buf) > mostRoom && len(buf) > 0 && len(out) > 0 && &buf[:1][0] == &out[:1][0] {
			r.buffers[i] = nil
			return out
		}
	}
	return bytes.Clone(out)
}
