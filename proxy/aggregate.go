package proxy

import (
	"bytes"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/valyala/fasthttp"

	"sluice/aggregate"
	"sluice/cache"
	"sluice/document"
	"sluice/encode"
	"sluice/fault"
	"sluice/observe"
	"sluice/wire"
)

// Aggregate answers with one answer that is made of several.
//
// Each branch is a request of its own that goes the way of any other from lookup
// on (balancing, retries, hedges, breakers, cache), in an exchange whose client is
// a buffer; its route is not in the table. Branches of one step are asked at the
// same time. All of them fit in the request's deadline, and end with its client.
type Aggregate struct {
	Plan     *aggregate.Plan
	Branches []*Route        // by the order of Plan.Names
	Timeouts []time.Duration // of each, 0 for the request's own
}

// mostComposed bounds a client's body that branches refer to.
const mostComposed = 1 << 20

func (a *Aggregate) compile() error {
	for _, b := range a.Branches {
		if err := b.compile(); err != nil {
			return err
		}
	}
	return nil
}

// calls are the requests of the branches that are under way, for a client that
// leaves.
type calls struct {
	mu   sync.Mutex // guards what follows
	list []*client
	over bool
}

func (c *calls) add(b *client) {
	c.mu.Lock()
	c.list = append(c.list, b)
	over := c.over
	c.mu.Unlock()
	if over {
		b.cut()
	}
}

func (c *calls) cut() {
	c.mu.Lock()
	c.over = true
	for _, b := range c.list {
		b.cut()
	}
	c.mu.Unlock()
}

// take takes b from those that cut reaches: it is about to be given back.
func (c *calls) take(b *client) {
	c.mu.Lock()
	for i, other := range c.list {
		if other == b {
			c.list = append(c.list[:i], c.list[i+1:]...)
			break
		}
	}
	c.mu.Unlock()
}

// branchPart is what came of a branch, and what of its head concerns the whole.
type branchPart struct {
	aggregate.Part
	head  []byte // of its answer
	heard int64  // Unix nanoseconds
}

func (x *exchange) aggregate(a *Aggregate) fault.Kind {
	format, ok := document.Negotiate(x.req.Fields, a.Plan.Formats())
	if !ok {
		return fault.NotAcceptable
	}
	var body []byte
	if a.Plan.NeedsBody() {
		var f fault.Kind
		if body, f = x.keepWhole(mostComposed); f != fault.None {
			return f
		}
		if len(body) == 0 {
			body = []byte("null")
		} else if err := document.Check(body, document.Limits{}, false); err != nil {
			x.why = "body: " + err.Error()
			return fault.BadRequest
		}
	} else {
		x.dropBody()
		x.isWhole = x.req.Length == 0 // a fallback may have the request
	}
	now := wire.Nanotime()
	if f := x.route.Bulkhead.Enter(now, x.until(x.start+unbounded)); f != fault.None {
		return x.spent(f)
	}
	x.placed = true
	parts := x.askBranches(a, body)
	if x.client.left(x.start) {
		return fault.ClientGone
	}
	return x.compose(a, parts, format)
}

// askBranches asks all branches, each once those that it refers to have answered.
func (x *exchange) askBranches(a *Aggregate, body []byte) []branchPart {
	parts := make([]branchPart, len(a.Branches))
	docs := make([]aggregate.Part, len(a.Branches))
	running := &calls{}
	x.client.calls.Store(running)
	defer x.client.calls.Store(nil)
	x.client.slot.CheckAt(wire.Nanotime() + abortCheck)
	values := x.valuesOf(body)
	for _, step := range a.Plan.Steps() {
		var others sync.WaitGroup
		for n, i := range step {
			r, without := a.Plan.Request(i, values, docs)
			if r.Target == nil {
				parts[i].Part = without
				continue
			}
			if n == len(step)-1 {
				x.callBranch(a, i, &r, running, &parts[i])
				continue
			}
			others.Go(func() { x.callBranch(a, i, &r, running, &parts[i]) })
		}
		others.Wait()
		for _, i := range step {
			docs[i] = parts[i].Part
		}
	}
	return parts
}

// valuesOf finds what branches refer to besides each other.
func (x *exchange) valuesOf(body []byte) aggregate.Values {
	quoted := func(b []byte, ok bool) ([]byte, bool) {
		if !ok {
			return nil, false
		}
		return document.AppendString(nil, b), true
	}
	return func(path document.Path) ([]byte, bool) {
		name, rest := path.First(), path.Rest()
		names, _ := rest.Names()
		word := strings.Join(names, ".")
		for i, p := range x.route.pattern.params {
			if p == name && i < len(x.params) {
				s := x.params[i]
				text, err := url.PathUnescape(string(x.path[s.from:s.to]))
				return quoted([]byte(text), err == nil)
			}
		}
		switch name {
		case "body":
			return rest.Get(body)
		case "query":
			query := x.req.Query
			if x.cached.requery { // what is not keyed changes nothing
				query = bytes.TrimPrefix(x.cached.query, []byte{'?'})
			}
			for len(query) > 0 {
				var pair []byte
				pair, query, _ = bytes.Cut(query, []byte{'&'})
				name, value, _ := bytes.Cut(pair, []byte{'='})
				if string(decodeQuery(name)) == word {
					return quoted(decodeQuery(value), true)
				}
			}
		case "header":
			v, ok := x.header(word)
			return quoted(v, ok && x.believes(word))
		case "cookie":
			v := x.cookie(word)
			return quoted(v, v != nil)
		case "claim":
			text, ok := x.proof.Claim(word)
			return quoted([]byte(text), ok)
		case "client_ip":
			return quoted(x.appendFact(nil, factClientIP), true)
		case "host":
			return quoted(x.req.Host, true)
		case "method":
			return quoted(x.req.Method, true)
		case "request_id":
			return quoted(x.id, true)
		}
		return nil, false
	}
}

// believes tells whether a header of the client's may be told to a branch: those that
// say who it is, or where from, are the gateway's and trusted hops' to write.
func (x *exchange) believes(name string) bool {
	s := &x.snapshot.Settings
	f := wire.Field{Name: []byte(name), Kind: wire.KindOf([]byte(name))}
	switch {
	case s.identity.has(f.Name):
		return false
	case x.trusted:
		return true
	case len(name) >= len(forwardedFamily) && wire.EqualFold(f.Name[:len(forwardedFamily)], forwardedFamily):
		return false
	}
	switch f.Kind {
	case wire.XRealIP, wire.Forwarded, wire.Traceparent, wire.Tracestate:
		return false
	}
	return !s.isRequestID(&f)
}

// callBranch asks branch i and notes what came of it. A defect of ours that shows on
// the way is a branch that was not reached.
func (x *exchange) callBranch(a *Aggregate, i int, r *aggregate.Request, running *calls, p *branchPart) {
	route := a.Branches[i]
	route.Stats.Begin()
	began := wire.Nanotime()
	y, answer := x.branchExchange(a, i, r)
	if y == nil {
		p.Part = a.Plan.Take(i, aggregate.Answer{Reason: aggregate.Unmade})
		route.Stats.End(0, 0, 0, 0)
		return
	}
	p.Part = a.Plan.Take(i, aggregate.Answer{Reason: aggregate.Unreached})
	defer y.client.end()
	defer y.client.rescue()
	defer y.endFill(cache.Lost, fault.None) // where nothing else ended it
	defer running.take(y.client)
	running.add(y.client)
	f := y.lookup()
	if f == fault.None && !y.begun {
		f = y.answer()
	}
	if f != fault.None {
		y.recover(f)
	}
	got := aggregate.Answer{Status: y.status}
	stood := y.standingIn != "" || y.cached.result == observe.CacheStaleOnError
	if y.fault != fault.None && !stood {
		got.Status, got.Reason = 0, reasonOf(y.fault)
		route.Stats.Fault(int(y.fault))
	}
	if answer.full {
		got.Reason = aggregate.TooLarge
	}
	if got.Reason == aggregate.OK {
		var res wire.Response
		head, body, ok := answer.parse(&res)
		if p.head = head; !ok {
			got.Reason = aggregate.Unread
		}
		got.Body = body
		for j := range res.Fields {
			if res.Fields[j].Kind == wire.ContentType {
				got.Type = res.Fields[j].Value
			}
		}
	}
	p.heard = y.wall(wire.Nanotime())
	if y.cached.told {
		route.Stats.Cached(y.cached.result, y.bytesOut)
	}
	route.Stats.End(y.status, durationOf(wire.Nanotime()-began), int64(len(r.Body)), y.bytesOut)
	p.Part = a.Plan.Take(i, got)
}

// reasonOf is what a fault of a branch's request is for the whole.
func reasonOf(f fault.Kind) aggregate.Reason {
	switch f {
	case fault.AnswerTimeout, fault.BudgetSpent, fault.ConnectTimeout, fault.QueueTimeout:
		return aggregate.Late
	case fault.BadAnswer, fault.AnswerCut:
		return aggregate.Unread
	}
	return aggregate.Unreached
}

// branchExchange is the exchange that asks branch i, and where its answer goes. It
// is nil when the request is none that may be sent.
func (x *exchange) branchExchange(a *Aggregate, i int, r *aggregate.Request) (*exchange, *answerBuffer) {
	y := exchanges.Get().(*exchange)
	head := append(append(append(y.in[:0], r.Method...), ' '), r.Target...)
	head = append(head, " HTTP/1.1\r\nHost: "...)
	head = append(append(head, x.req.Host...), "\r\n"...)
	for j := range x.req.Fields {
		f := &x.req.Fields[j]
		if f.Drop || f.Kind.HopByHop() || ofContent(f) || !a.Plan.Passes(i, f.Name) || writes(r.Headers, f.Name) {
			continue
		}
		// Here and not when it is forwarded, where a credential that the branch has of
		// its own would be taken for the caller's.
		head = x.appendUncredited(head, f)
	}
	typed := false
	for _, l := range r.Headers {
		typed = typed || len(l.Name) == 12 && wire.EqualFold([]byte(l.Name), "content-type")
		head = append(append(append(append(head, l.Name...), ": "...), l.Value...), "\r\n"...)
	}
	if r.Body != nil {
		if !typed {
			head = append(head, "Content-Type: application/json\r\n"...)
		}
		head = appendLengthLine(head, int64(len(r.Body)))
	}
	head = append(head, "\r\n"...)
	if cap(head) > len(y.in) {
		y.in = head[:cap(head)]
	}
	answer := &answerBuffer{most: int(a.Plan.Max(i)) + headRoom}
	y.engine, y.snapshot, y.route = x.engine, x.snapshot, a.Branches[i]
	y.client = newClientless(x.client, y, answer)
	lim := x.snapshot.Settings.Head
	lim.Bytes += len(r.Target) + 4<<10
	if n, err := y.req.Parse(head, lim); err != nil || n != len(head) {
		y.client.end()
		return nil, nil
	}
	normal, ok := normalPath(y.req.Path, y.pathBuf)
	if !ok {
		y.client.end()
		return nil, nil
	}
	y.path = normal
	y.headLen, y.r, y.w = len(head), len(head), len(head)
	y.kept, y.isWhole, y.body.done = r.Body, true, true
	y.caller, y.trusted, y.scheme = x.caller, x.trusted, x.scheme
	if y.id = append(y.idBuf[:0], x.id...); len(x.id) == len(x.newID) && &x.id[0] == &x.newID[0] {
		y.newID = x.newID // all branches belong to one trace
		y.id = y.newID[:]
	}
	y.proof = x.proof
	now := time.Now()
	y.when, y.start, y.verified = now, wire.Stamp(now), false
	y.deadline = x.deadline
	if t := a.Timeouts[i]; t > 0 && (y.deadline == 0 || y.start+int64(t) < y.deadline) {
		y.deadline = y.start + int64(t)
	}
	return y, answer
}

// appendUncredited writes a line of the client's request without the credential
// that the route's authenticators took from it.
func (x *exchange) appendUncredited(head []byte, f *wire.Field) []byte {
	c := &x.route.credentials
	switch {
	case !x.route.hidesCredentials:
	case c.headers.has(f.Name), f.Kind == wire.Authorization && c.hasScheme(f.Value):
		return head
	case f.Kind == wire.Cookie && len(c.cookies) > 0:
		return c.appendCookies(head, f)
	}
	return appendField(head, f.Name, f.Value)
}

// headRoom is what the head of a branch's answer may take beyond its body.
const headRoom = 72 << 10

// ofContent tells whether a line of the client's request is about its body, or
// about which form of the whole it wants: no branch's business.
func ofContent(f *wire.Field) bool {
	switch f.Kind {
	case wire.Host, wire.ContentLength, wire.ContentType, wire.ContentEncoding, wire.ContentRange, wire.Range, wire.Expect, wire.Trailer, wire.CacheControl:
		return true
	case wire.Other:
		return cache.Own(f.Name) || wire.EqualFold(f.Name, "accept-encoding") || wire.EqualFold(f.Name, "accept") || wire.EqualFold(f.Name, "if-range") ||
			wire.EqualFold(f.Name, "if-match") || wire.EqualFold(f.Name, "if-unmodified-since") || wire.EqualFold(f.Name, "content-digest") || wire.EqualFold(f.Name, "content-language")
	}
	return false
}

func writes(lines []aggregate.Line, name []byte) bool {
	for _, l := range lines {
		if len(l.Name) == len(name) && bytes.EqualFold([]byte(l.Name), name) {
			return true
		}
	}
	return false
}

// compose makes one answer of the parts, and sends it.
func (x *exchange) compose(a *Aggregate, parts []branchPart, format document.Format) fault.Kind {
	docs := make([]aggregate.Part, len(parts))
	for i := range parts {
		docs[i] = parts[i].Part
	}
	whole, err := a.Plan.Compose(nil, docs, x.id)
	if err != nil {
		x.why = err.Error()
		return fault.BadAnswer
	}
	if whole.Problem {
		x.why = missing(a.Plan.Names(), docs)
		if x.staleFor(whole.Status) || len(x.route.Fallbacks) > 0 && listed(x.route.FallbackOn, whole.Status) {
			x.heard = wire.Nanotime()
			return fault.TargetError
		}
	}
	body, kind := whole.Body, document.ContentType(format)
	if whole.Problem {
		kind = fault.ContentType
	} else if format != document.JSON {
		if body, err = document.FromJSON(nil, body, format, document.Limits{}); err != nil {
			x.why = err.Error()
			return fault.BadAnswer
		}
	}
	return x.sendWhole(a, parts, &whole, body, kind)
}

// missing names the branches that failed, for the log.
func missing(names []string, parts []aggregate.Part) string {
	text := "branches"
	for i := range parts {
		if parts[i].Reason != aggregate.OK {
			text += " " + names[i] + ":" + parts[i].Reason.String()
		}
	}
	return text
}

// sendWhole sends the composed answer. Its head says to caches what the strictest
// of the parts says; where the route caches it is stored like a target's.
func (x *exchange) sendWhole(a *Aggregate, parts []branchPart, whole *aggregate.Whole, body []byte, kind string) fault.Kind {
	var strict cache.Strictest
	var vary, tags []byte
	var fields []wire.Field
	for i := range parts {
		fields = cache.AppendFields(fields[:0], parts[i].head)
		if parts[i].Reason == aggregate.OK {
			strict.Add(fields, parts[i].heard)
		}
		for j := range fields {
			f := &fields[j]
			switch {
			case f.Kind == wire.Other && wire.EqualFold(f.Name, "vary"):
				vary = appendListItem(vary, f.Value)
			case f.Kind == wire.Other && (wire.EqualFold(f.Name, "surrogate-key") || wire.EqualFold(f.Name, "cache-tag")):
				tags = appendListItem(tags, f.Value)
			}
		}
	}
	if !whole.Complete {
		strict.Forbid()
	}
	if len(a.Plan.Formats()) > 1 {
		vary = appendListItem(vary, []byte("Accept"))
	}
	head := appendField(nil, []byte("Content-Type"), []byte(kind))
	if control := strict.Append(nil); len(control) > 0 {
		head = appendField(head, []byte("Cache-Control"), control)
	}
	if len(vary) > 0 {
		head = appendField(head, []byte("Vary"), vary)
	}
	if len(tags) > 0 {
		head = appendField(head, []byte("Surrogate-Key"), tags)
	}
	if name := a.Plan.Completion(); name != "" {
		word := "true"
		if !whole.Complete {
			word = "false"
		}
		head = appendField(head, []byte(name), []byte(word))
	}
	if !whole.Problem {
		head = append(head, "ETag: \""...)
		head = append(strconv.AppendUint(head, xxhash.Sum64(body), 16), "\"\r\n"...)
	}
	x.heard, x.sent = wire.Nanotime(), x.start
	x.res.Status, x.res.Minor = whole.Status, 1
	x.res.Length, x.res.Chunked, x.res.UntilClose = int64(len(body)), false, false
	x.res.Reason = append(x.res.Reason[:0:0], fasthttp.StatusMessage(whole.Status)...)
	x.res.Fields = cache.AppendFields(x.res.Fields[:0], head)
	if x.route.Compress != nil {
		x.chooseCoding(whole.Status, int64(len(body)), x.res.Fields)
	}
	if x.cached.active {
		if done, f := x.keepComposed(body); done {
			return f
		}
	}
	return x.sendComposed(body)
}

func appendListItem(list, item []byte) []byte {
	if len(list) > 0 {
		list = append(list, ", "...)
	}
	return append(list, item...)
}

// sendComposed sends the head in x.res, with body, to the client, or that it has
// that already.
func (x *exchange) sendComposed(body []byte) fault.Kind {
	var tag []byte
	for i := range x.res.Fields {
		if f := &x.res.Fields[i]; f.Kind == wire.Other && wire.EqualFold(f.Name, "etag") {
			tag = f.Value
		}
	}
	if x.res.Status == 200 && tag != nil && x.hasTag(tag) {
		x.res.Status, body = 304, nil
		x.res.Reason = []byte(fasthttp.StatusMessage(304))
		x.coding = encode.Identity
	}
	if x.coding != encode.Identity {
		if x.coded, _ = x.route.Compress.AppendAll(x.coded[:0], body, x.coding); len(x.coded) > 0 {
			body = x.coded
		}
	}
	x.closeAtEnd()
	x.responseHead(false)
	if x.res.Status != 304 {
		x.insertLength(len(body))
	}
	x.status, x.begun = x.res.Status, true
	return x.writeStored(nil, 0, body)
}

// hasTag tells whether a client that asks with If-None-Match has what tag names.
func (x *exchange) hasTag(tag []byte) bool {
	if string(x.req.Method) != "GET" && string(x.req.Method) != "HEAD" {
		return false
	}
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; f.Kind == wire.Other && wire.EqualFold(f.Name, "if-none-match") && cache.ListsTag(f.Value, tag) {
			return true
		}
	}
	return false
}

// answerBuffer is what a branch's exchange writes its answer to.
type answerBuffer struct {
	nowhere
	b    []byte
	most int
	full bool
}

var errAnswerFull = errors.New("proxy: the answer of a branch is too large")

func (a *answerBuffer) Write(p []byte) (int, error) {
	if len(a.b)+len(p) > a.most {
		a.full = true
		return 0, errAnswerFull
	}
	a.b = append(a.b, p...)
	return len(p), nil
}

// parse reads the answer. ok is false when it is not whole.
func (a *answerBuffer) parse(res *wire.Response) (head, body []byte, ok bool) {
	n, err := res.Parse(a.b, wire.Limits{Bytes: headRoom, Fields: 512}, false)
	if err != nil {
		return nil, nil, false
	}
	line := bytes.IndexByte(a.b, '\n') + 1
	head, body = a.b[line:n-2], a.b[n:]
	if !res.Chunked {
		return head, body, res.UntilClose || int64(len(body)) == res.Length
	}
	var chunks wire.Chunked
	var out []byte
	for {
		piece, used, done, bad := chunks.Next(body)
		out, body = append(out, piece...), body[used:]
		switch {
		case done:
			return head, out, true
		case bad != nil, used == 0:
			return head, nil, false
		}
	}
}
