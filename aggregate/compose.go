package aggregate

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"sluice/document"
)

// Values finds a value by its path: raw JSON. The first name of the path is not
// that of a branch.
type Values func(path document.Path) (raw []byte, ok bool)

// Request is what a branch sends.
type Request struct {
	Method  string
	Target  []byte // path and query
	Headers []Line
	Body    []byte // nil for none
}

// Line is a header line.
type Line struct {
	Name  string
	Value []byte
}

// Request makes the request of branch i out of values and the parts of branches
// that it refers to. It is a Part with a reason when there is none to make.
func (p *Plan) Request(i int, values Values, parts []Part) (Request, Part) {
	b := &p.branches[i]
	for _, j := range b.needs {
		if parts[j].Doc == nil {
			return Request{}, p.without(i, Part{Reason: Skipped})
		}
	}
	lookup := func(path document.Path) ([]byte, bool) {
		name := path.First()
		for _, j := range b.needs {
			if p.branches[j].name == name {
				return path.Rest().Get(parts[j].Doc)
			}
		}
		return values(path)
	}
	r := Request{Method: b.config.Method}
	var err error
	if r.Target, err = b.path.Append(nil, lookup); err != nil {
		return Request{}, p.without(i, Part{Reason: Unmade})
	}
	for _, h := range b.headers {
		value, err := h.value.Append(nil, lookup)
		if err != nil {
			return Request{}, p.without(i, Part{Reason: Unmade})
		}
		r.Headers = append(r.Headers, Line{h.name, value})
	}
	if b.body != nil {
		if r.Body, err = b.body.Append(nil, lookup); err != nil {
			return Request{}, p.without(i, Part{Reason: Unmade})
		}
	}
	return r, Part{}
}

// Passes tells whether branch i gets the client's header line of this name.
func (p *Plan) Passes(i int, name []byte) bool {
	pass := p.branches[i].config.Pass
	if len(pass) == 0 {
		return true
	}
	for _, n := range pass {
		if len(n) == len(name) && bytes.EqualFold(name, []byte(n)) {
			return true
		}
	}
	return false
}

// Take turns the answer to branch i into its part.
func (p *Plan) Take(i int, a Answer) Part {
	b := &p.branches[i]
	part := Part{Reason: a.Reason, Status: a.Status}
	if part.Reason == OK && !b.accepts(a.Status) {
		part.Reason = Status
	}
	if part.Reason == OK && int64(len(a.Body)) > int64(b.config.Max) {
		part.Reason = TooLarge
	}
	if part.Reason == OK {
		if len(bytes.TrimSpace(a.Body)) == 0 {
			return part // 204 and its like: an answer, with nothing to add
		}
		doc, err := b.read(a)
		if err == nil {
			part.Doc = doc
			return part
		}
		part.Reason = Unread
	}
	return p.without(i, part)
}

// without is part, with what stands in for branch i.
func (p *Plan) without(i int, part Part) Part {
	if b := &p.branches[i]; b.config.Optional && b.fallback != nil {
		part.Doc, part.Stood = b.fallback, true
	}
	return part
}

func (b *branch) accepts(status int) bool {
	if len(b.config.OK) == 0 {
		return status >= 200 && status < 300
	}
	for _, s := range b.config.OK {
		if s == status {
			return true
		}
	}
	return false
}

func (b *branch) read(a Answer) ([]byte, error) {
	lim := document.Limits{Bytes: int(b.config.Max)}
	f := b.format
	if f == document.Unknown {
		if f = document.FormatOf(a.Type); f == document.Unknown {
			f = document.JSON // many say nothing, or octet-stream
		}
	}
	doc := bytes.TrimSpace(a.Body)
	if f != document.JSON {
		var err error
		if doc, err = document.ToJSON(nil, a.Body, f, lim); err != nil {
			return nil, err
		}
	} else if err := document.Check(doc, lim, false); err != nil {
		return nil, err
	}
	if b.shape != nil && !b.shape.None() {
		var err error
		if doc, err = b.shape.Apply(nil, doc, lim); err != nil {
			return nil, err
		}
	}
	if b.group == "" && !hasMembers(doc) {
		return nil, errNoMembers
	}
	return doc, nil
}

// errNoMembers is a flat branch that answered with a text, a number, true or false.
var errNoMembers = errors.New("aggregate: expected an object or an array of a flat branch")

// hasMembers tells whether doc can become members of the whole; null becomes none.
func hasMembers(doc []byte) bool {
	doc = bytes.TrimSpace(doc)
	return len(doc) > 0 && (doc[0] == '{' || doc[0] == '[' || doc[0] == 'n')
}

// Whole is the composed answer.
type Whole struct {
	Status   int
	Complete bool
	Problem  bool   // Body is a problem document
	Body     []byte // JSON
}

// Compose makes the whole of parts, which are in the order of Names. id is the
// request's, for a problem. An error is of the whole's own shape.
//
// The status is that of the first rule of Config.Status that holds. Without one:
// 200 when every required branch answered; else what the first required branch that
// failed stands for: its own 401, 403, 404, 405, 409, 410, 412, 415, 422 or 429,
// 504 when it was late, 503 when it was not reached, and 502 for all else.
func (p *Plan) Compose(dst []byte, parts []Part, id []byte) (Whole, error) {
	w := Whole{Status: 200, Complete: true, Body: dst}
	answered, failed := false, -1
	for i := range parts {
		if parts[i].Reason == OK {
			answered = true
			continue
		}
		w.Complete = false
		if failed < 0 && !p.branches[i].config.Optional {
			failed = i
		}
	}
	if failed >= 0 {
		w.Status = standsFor(parts[failed])
	}
	mapped := p.mapped(parts, w.Complete)
	if mapped > 0 {
		w.Status = mapped
	}
	if failed >= 0 && (mapped == 0 || mapped >= 400) {
		w.Problem = true
		w.Body = p.appendProblem(dst, w.Status, parts, id)
		return w, nil
	}
	var list [mostBranches + 8]document.Part
	docs := list[:0]
	for i := range parts {
		if parts[i].Doc == nil {
			continue
		}
		b := &p.branches[i]
		d := document.Part{Name: b.name, Doc: parts[i].Doc, Group: b.group}
		if b.group == "" {
			d.Collection = b.name // for an array, which has no members
		}
		docs = append(docs, d)
	}
	for _, s := range p.config.Static {
		if s.holds(answered, w.Complete) {
			docs = append(docs, document.Part{Name: "static", Doc: []byte(s.Value)})
		}
	}
	if !w.Complete && p.config.Errors != "" {
		docs = append(docs, document.Part{Name: "errors", Doc: p.appendErrors(nil, parts), Group: p.config.Errors})
	}
	start := len(dst)
	body, err := document.Merge(dst, docs, p.config.Deep)
	if err != nil {
		return w, err
	}
	if p.shape != nil && !p.shape.None() {
		if body, err = p.shape.Apply(nil, body[start:], document.Limits{}); err != nil {
			return w, err
		}
		body = append(dst[:start], body...)
	}
	w.Body = body
	return w, nil
}

func (s *Static) holds(answered, complete bool) bool {
	switch s.When {
	case "success":
		return answered
	case "error":
		return !answered
	case "complete":
		return complete
	case "incomplete":
		return !complete
	}
	return true
}

// standsFor is the status of a whole that a failed part fails.
func standsFor(part Part) int {
	switch part.Reason {
	case Status:
		switch part.Status {
		case 401, 403, 404, 405, 409, 410, 412, 415, 422, 429:
			return part.Status
		}
	case Late:
		return 504
	case Unreached:
		return 503
	}
	return 502
}

// mapped is the status that the rules give, 0 for none.
func (p *Plan) mapped(parts []Part, complete bool) int {
	for _, r := range p.status {
		if r.branch < 0 {
			if (r.what == "complete") == complete {
				return r.status
			}
			continue
		}
		part := parts[r.branch]
		if part.Reason == OK {
			continue
		}
		switch {
		case r.what == "", r.what == part.Reason.String(),
			part.Status > 0 && r.what == strconv.Itoa(part.Status),
			part.Status > 0 && len(r.what) == 3 && r.what[1:] == "xx" && int(r.what[0]-'0') == part.Status/100:
			return r.status
		}
	}
	return 0
}

// appendProblem writes the problem document of a whole that failed (RFC 9457),
// with one for each branch that did.
func (p *Plan) appendProblem(dst []byte, status int, parts []Part, id []byte) []byte {
	dst = fmt.Appendf(dst, `{"type":"urn:sluice:problem:aggregate","title":"A part of the answer is missing","status":%d,"instance":"urn:sluice:request:%s","branches":`, status, id)
	return append(p.appendErrors(dst, parts), '}')
}

// appendErrors writes a problem for each branch that failed. What its upstream
// said of it is not shown.
func (p *Plan) appendErrors(dst []byte, parts []Part) []byte {
	dst = append(dst, '[')
	first := true
	for i := range parts {
		part := &parts[i]
		if part.Reason == OK {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, `{"type":"urn:sluice:problem:branch-`...)
		dst = append(append(dst, part.Reason.String()...), `","branch":`...)
		dst = strconv.AppendQuote(dst, p.branches[i].name)
		if part.Reason == Status {
			dst = strconv.AppendInt(append(dst, `,"status":`...), int64(part.Status), 10)
		}
		if part.Stood {
			dst = append(dst, `,"default":true`...)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 1 && b[0] == '{'
}
