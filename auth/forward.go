package auth

// This file lets another service decide (forward_auth). For each request a
// small one of the gateway's own goes to the service: what the request asks for
// in X-Forwarded-*, and those of its headers that are listed. A 2xx lets the
// request pass and names the caller; a 401, a 403 or a redirect is handed to
// the client; all else is Unavailable.
//
// Invariants: the service is told the path in the normal form that routes match
// and targets get, never the bytes that only look like it; a client can send
// none of the headers that the service's word travels in (CopiedHeaders); an
// answer is remembered only under a key of everything that it was asked with,
// unless cache.by says what it hangs on; a refusal is never remembered. Recall
// takes no lock and allocates nothing; Verify blocks up to timeout.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"sluice/observe"
	"sluice/setting"
	"sluice/wire"
)

// ForwardConfig is a service that decides about requests. Its short form is the
// service's URL.
type ForwardConfig struct {
	URL    string `yaml:"url" doc:"The service's URL, such as http://127.0.0.1:9091/api/verify."`
	Method string `yaml:"method" default:"GET" enum:"GET,HEAD,POST" doc:"The method that the service is asked with. The client's own is in X-Forwarded-Method."`
	CA     string `yaml:"ca" doc:"File of PEM certificates that are trusted for the service instead of the system's."`

	Headers       []string `yaml:"headers" one:"true" doc:"Headers of the request that are handed on to the service. Default: Authorization and Cookie."`
	Copy          []string `yaml:"copy" one:"true" doc:"Headers of a 2xx answer that are sent to the target. No client can send them."`
	AnswerHeaders []string `yaml:"answer_headers" one:"true" doc:"Headers of a refusal that are handed to the client. Default: WWW-Authenticate, Location, Set-Cookie and Content-Type."`
	Subject       string   `yaml:"subject" doc:"The header of a 2xx answer that names the caller, such as Remote-User. No client can send it."`
	Lists         []string `yaml:"lists" one:"true" doc:"Headers of a 2xx answer that hold a list with commas, such as Remote-Groups: their claim is then a list."`
	Cookies       []string `yaml:"cookies" one:"true" doc:"Cookies that are the service's own and are not sent to the target. One that ends in * stands for all that begin so."`

	Cache       ForwardCacheConfig `yaml:"cache" doc:"Remember 2xx answers."`
	Timeout     setting.Duration   `yaml:"timeout" default:"2s" min:"10ms" max:"1m" doc:"How long a question to the service may take in all. After it the request is answered 503."`
	Concurrency int                `yaml:"concurrency" default:"256" min:"1" max:"4096" doc:"Questions under way at one time. Eight times as many wait; more are answered 503."`
}

// ForwardCacheConfig is what is remembered of a service's answers.
type ForwardCacheConfig struct {
	TTL      setting.Duration `yaml:"ttl" default:"0" max:"24h" doc:"How long a 2xx answer holds for the same question, at most its own Cache-Control: max-age. 0 asks for every request. Answers with no-store, no-cache or Set-Cookie are never remembered."`
	By       []string         `yaml:"by" one:"true" doc:"What makes two questions the same: header:NAME, cookie:NAME, method, scheme, host, path, query, ip, route. Default: all that the service is told. A shorter list is right only if the service looks at nothing else."`
	Remember int              `yaml:"remember" default:"4096" min:"4" max:"1048576" doc:"Answers that are remembered."`
}

// Shorthand reads the short form: the service's URL.
func (c *ForwardConfig) Shorthand(s string) { c.URL = s }

var (
	defaultAsked    = []string{"Authorization", "Cookie"}
	defaultAnswered = []string{"WWW-Authenticate", "Location", "Set-Cookie", "Content-Type"}
)

// Bounds of what a service may answer.
const (
	mostForwardBody  = 64 << 10 // of a refusal, for the client
	mostForwardLines = 16 << 10 // of the headers taken from an answer
	mostForwardKey   = 8 << 10  // of what an answer is remembered by
)

// Validate reports what the tags cannot say.
func (c *ForwardConfig) Validate(p *setting.Problems) {
	if _, err := providerURL(c.URL, true); err != nil {
		p.Add("url", "expected the URL of a service, such as http://127.0.0.1:9091/verify: %v", err)
	}
	names := func(key string, list []string, asked bool) {
		for i, name := range list {
			at := key + "[" + strconv.Itoa(i) + "]"
			switch {
			case !isToken(name):
				p.Add(at, "expected the name of a header, got %q", name)
			case !mayTravel(name, asked):
				p.Add(at, "expected a header other than %s, which belongs to the gateway or to one connection", name)
			}
		}
	}
	names("headers", c.Headers, true)
	names("copy", c.Copy, false)
	names("answer_headers", c.AnswerHeaders, false)
	names("lists", c.Lists, false)
	if c.Subject != "" && (!isToken(c.Subject) || !mayTravel(c.Subject, false)) {
		p.Add("subject", "expected the name of a header of the service's answer, got %q", c.Subject)
	}
	for i, name := range c.Cookies {
		if !isToken(name) {
			p.Add("cookies["+strconv.Itoa(i)+"]", "expected the name of a cookie, got %q", name)
		}
	}
	wholeSeconds(p, "cache.ttl", c.Cache.TTL)
	caller := len(c.Cache.By) == 0
	for i, part := range c.Cache.By {
		k, err := parseKeyPart(part)
		if err != nil {
			p.Add("cache.by["+strconv.Itoa(i)+"]", "%v", err)
		}
		caller = caller || k.kind == partHeader || k.kind == partCookie
	}
	if !caller {
		p.Add("cache.by", "expected at least one header:NAME or cookie:NAME: without, one caller's answer would hold for another")
	}
}

// mayTravel tells whether a header may be copied from one message to another.
// Those of a connection and of framing never are; those that tell the service
// of the request are the gateway's own.
func mayTravel(name string, asked bool) bool {
	kind := wire.KindOf([]byte(name))
	if kind.HopByHop() {
		return false
	}
	switch kind {
	case wire.ContentLength, wire.Trailer, wire.Host, wire.Expect, wire.MaxForwards, wire.Via,
		wire.Forwarded, wire.XForwardedFor, wire.XForwardedHost, wire.XForwardedProto, wire.XForwardedPort, wire.XRealIP,
		wire.SecWebSocketKey:
		return false
	case wire.XRequestID, wire.Range:
		return !asked
	}
	lower := strings.ToLower(name)
	return !asked || !strings.HasPrefix(lower, "x-forwarded-") && !strings.HasPrefix(lower, "x-original-") && !strings.HasPrefix(lower, "accept-encoding") &&
		!strings.HasPrefix(lower, "if-") && lower != "idempotency-key"
}

// keyPart is one part of what an answer is remembered by.
type keyPart struct {
	kind keyPartKind
	name string
}

type keyPartKind uint8

const (
	partHeader keyPartKind = iota
	partCookie
	partMethod
	partScheme
	partHost
	partPath
	partQuery
	partIP
	partRoute
)

var keyWords = []string{"method", "scheme", "host", "path", "query", "ip", "route"}

func parseKeyPart(s string) (keyPart, error) {
	kind, name, named := strings.Cut(s, ":")
	switch {
	case named && kind == "header" && isToken(name):
		return keyPart{partHeader, name}, nil
	case named && kind == "cookie" && isToken(name):
		return keyPart{partCookie, name}, nil
	}
	for i, word := range keyWords {
		if s == word {
			return keyPart{kind: partMethod + keyPartKind(i)}, nil
		}
	}
	want := "expected header:NAME, cookie:NAME, " + strings.Join(keyWords, ", ")
	if near := setting.Nearest(s, keyWords); near != "" {
		return keyPart{}, fmt.Errorf("%s; got %q, did you mean %s?", want, s, near)
	}
	return keyPart{}, fmt.Errorf("%s; got %q", want, s)
}

type forward struct {
	name     string
	c        ForwardConfig
	provider *provider
	asked    []string
	answered []string
	copied   []string // with the subject's header
	lists    map[string]bool
	known    *memo // nil when nothing is remembered
	by       []keyPart
	whole    bool // by is all that the service is told
	keys     sync.Pool
	inFlight flights[Result]

	passed  observe.Counter
	turned  observe.Counter
	cutBody observe.Counter
}

func newForward(name string, c *ForwardConfig, env Env) (Authenticator, error) {
	endpoint, err := providerURL(c.URL, true)
	if err != nil {
		return nil, &FieldError{Key: "url", Err: err}
	}
	p, err := newProvider(name, env, c.CA, c.Timeout.Std(), c.Concurrency)
	if err != nil {
		return nil, err
	}
	a := &forward{name: name, c: *c, provider: p, asked: c.Headers, answered: c.AnswerHeaders, lists: map[string]bool{}}
	a.c.URL = endpoint.String()
	a.keys.New = func() any { b := make([]byte, 0, 1<<10); return &b }
	if a.asked == nil {
		a.asked = defaultAsked
	}
	if a.answered == nil {
		a.answered = defaultAnswered
	}
	a.copied = append(a.copied, c.Copy...)
	if c.Subject != "" {
		a.copied = append(a.copied, c.Subject)
	}
	a.copied = append(a.copied, c.Lists...)
	for _, name := range c.Lists {
		a.lists[textproto.CanonicalMIMEHeaderKey(name)] = true
	}
	if c.Cache.TTL.Std() >= time.Second {
		a.known = newMemo(c.Cache.Remember, mostForwardKey)
		if a.whole = len(c.Cache.By) == 0; a.whole {
			for _, name := range a.asked {
				a.by = append(a.by, keyPart{partHeader, name})
			}
			for kind := partMethod; kind <= partIP; kind++ {
				a.by = append(a.by, keyPart{kind: kind})
			}
		}
		for i, part := range c.Cache.By {
			k, err := parseKeyPart(part)
			if err != nil {
				return nil, &FieldError{Key: "cache.by[" + strconv.Itoa(i) + "]", Err: err}
			}
			a.by = append(a.by, k)
		}
	}
	return a, nil
}

func (a *forward) Name() string      { return a.name }
func (a *forward) Challenge() string { return "" } // the service gives its own
func (a *forward) Start()            {}
func (a *forward) Stop()             { a.provider.Stop() }

// Guessable is true while Authorization is handed on: behind it may be a
// password.
func (a *forward) Guessable() bool {
	for _, name := range a.asked {
		if strings.EqualFold(name, "Authorization") {
			return true
		}
	}
	return false
}

// Places are the Authorization that the service has looked at, and its own
// cookies. The other cookies are the application's.
func (a *forward) Places() (at Places) {
	if a.Guessable() {
		at.Headers = []string{"Authorization"}
	}
	at.Cookies = a.c.Cookies
	return at
}

// CopiedHeaders are the headers that carry the service's word to the target. What
// a client sends under these names must be taken out of the request before
// Identity.Lines are added.
func (a *forward) CopiedHeaders() []string { return a.copied }

// Copier is implemented by authenticators whose identities bring header lines.
type Copier interface{ CopiedHeaders() []string }

const forwardTwice = "more than one Authorization"

func (a *forward) Recall(r *Request) Result {
	if _, count := r.Authorization(); count > 1 {
		return Result{Outcome: Refused, Reason: forwardTwice}
	}
	if a.known == nil {
		return Result{Outcome: Unknown}
	}
	buf := a.keys.Get().(*[]byte)
	res := Result{Outcome: Unknown}
	if key, ok := a.key((*buf)[:0], r); ok {
		*buf = key
		if id := a.known.get(key, r.Now.Unix()); id != nil {
			res = Result{Outcome: Identified, Identity: id}
		}
	}
	a.keys.Put(buf)
	return res
}

// key appends what r's answer is remembered by: each part with its length
// before it, so that no two requests share one. ok is false when nothing in it
// is the caller's, or it is too long: then the service is asked.
func (a *forward) key(b []byte, r *Request) (key []byte, ok bool) {
	ok = a.whole
	part := func(value []byte) {
		b = binary.AppendUvarint(b, uint64(len(value))+1)
		b = append(b, value...)
	}
	for i := range a.by {
		switch k := &a.by[i]; k.kind {
		case partHeader:
			n := 0
			for j := range r.Head.Fields {
				if f := &r.Head.Fields[j]; !f.Drop && namesField(f.Name, k.name) {
					part(f.Value)
					n++
				}
			}
			ok = ok || n > 0
			b = append(b, 0) // the end of its lines
		case partCookie:
			value, count := r.Cookie(k.name)
			if count > 1 {
				return b, false
			}
			if count == 1 {
				part(value)
				ok = true
			}
			b = append(b, 0)
		case partMethod:
			part(r.Head.Method)
		case partScheme:
			b = binary.AppendUvarint(b, uint64(len(r.Scheme))+1)
			b = append(b, r.Scheme...)
		case partHost:
			part(r.Head.Host)
		case partPath:
			part(r.Path)
		case partQuery:
			part(r.Head.Query)
			b = append(b, byte(0))
			if r.Head.HasQuery {
				b[len(b)-1] = 1
			}
		case partIP:
			ip := r.Caller.As16()
			b = append(b, ip[:]...)
		case partRoute:
			b = binary.AppendUvarint(b, uint64(len(r.Route))+1)
			b = append(b, r.Route...)
		}
		if len(b) > mostForwardKey {
			return b, false
		}
	}
	return b, ok
}

func namesField(field []byte, name string) bool {
	if len(field) != len(name) {
		return false
	}
	for i := range field {
		a, b := field[i], name[i]
		if a != b && (a|0x20 != b|0x20 || a|0x20 < 'a' || a|0x20 > 'z') {
			return false
		}
	}
	return true
}

func (a *forward) Verify(r *Request) Result {
	if res := a.Recall(r); res.Outcome != Unknown {
		return res
	}
	wait := r.Timeout(a.provider.timeout)
	if a.known == nil {
		return a.decide(wait, a.question(r), nil)
	}
	key, ok := a.key(nil, r)
	if !ok {
		return a.decide(wait, a.question(r), nil)
	}
	// The flight may outlive the request, so the question is made before.
	q := a.question(r)
	res, joined, err := a.inFlight.do(key, wait, &a.provider.log, func() Result {
		if id := a.known.get(key, time.Now().Unix()); id != nil {
			return Result{Outcome: Identified, Identity: id}
		}
		return a.decide(a.provider.timeout, q, key)
	})
	if joined {
		a.provider.shared.Inc()
	}
	if err != nil {
		return Result{Outcome: Unavailable, Reason: err.Error()}
	}
	return res
}

// question is the header that the service is asked with. It holds copies.
func (a *forward) question(r *Request) http.Header {
	h := make(http.Header, len(a.asked)+10)
	for _, name := range a.asked {
		key := textproto.CanonicalMIMEHeaderKey(name)
		for i := range r.Head.Fields {
			if f := &r.Head.Fields[i]; !f.Drop && namesField(f.Name, name) {
				h[key] = append(h[key], string(f.Value))
			}
		}
		if key == "Cookie" && len(h[key]) > 1 {
			// HTTP/2 may send one line for each; HTTP/1.1 allows only one.
			h[key] = []string{strings.Join(h[key], "; ")}
		}
	}
	uri := string(r.Path)
	if r.Head.HasQuery {
		uri += "?" + string(r.Head.Query)
	}
	method, host := string(r.Head.Method), string(r.Head.Host)
	h.Set("X-Forwarded-Method", method)
	h.Set("X-Forwarded-Proto", r.Scheme)
	h.Set("X-Forwarded-Uri", uri)
	h.Set("X-Original-Method", method)
	if host != "" {
		h.Set("X-Forwarded-Host", host)
		if strings.HasPrefix(uri, "/") {
			h.Set("X-Original-URL", r.Scheme+"://"+host+uri)
		}
	}
	if r.Caller.IsValid() {
		h.Set("X-Forwarded-For", r.Caller.Unmap().WithZone("").String())
	}
	if len(r.ID) > 0 {
		h.Set("X-Request-Id", string(r.ID))
	}
	if _, ok := h["User-Agent"]; !ok {
		h.Set("User-Agent", "sluice")
	}
	return h
}

// decide asks the service. A 2xx is remembered under key unless that is nil.
func (a *forward) decide(wait time.Duration, question http.Header, key []byte) Result {
	answer, err := a.provider.ask(wait, mostForwardBody, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, a.c.Method, a.c.URL, nil)
		if err != nil {
			return nil, errors.New("cannot make the question")
		}
		req.Header = question
		return req, nil
	})
	var res Result
	if err == nil {
		res, err = a.read(answer)
	}
	a.provider.report(err)
	if err != nil {
		return Result{Outcome: Unavailable, Reason: err.Error()}
	}
	if res.Outcome == Answered {
		a.turned.Inc()
		return res
	}
	a.passed.Inc()
	if key != nil {
		now := time.Now()
		if ttl := a.holds(answer.Header); ttl > 0 {
			a.known.put(key, res.Identity, now.Unix(), now.Add(ttl).Unix(), nil)
		}
	}
	return res
}

// read makes a result of the service's answer.
func (a *forward) read(answer *providerAnswer) (Result, error) {
	switch status := answer.Status; {
	case status >= 200 && status <= 299:
		id, err := a.identity(answer.Header)
		return Result{Outcome: Identified, Identity: id}, err
	case status == http.StatusUnauthorized, status == http.StatusForbidden,
		status == http.StatusMovedPermanently, status == http.StatusFound, status == http.StatusSeeOther,
		status == http.StatusTemporaryRedirect, status == http.StatusPermanentRedirect:
		lines, err := linesOf(answer.Header, a.answered)
		if err != nil {
			return Result{}, err
		}
		body := answer.Body
		if answer.Cut || answer.Header.Get("Content-Encoding") != "" {
			// Half a page is worse than none, and no coding was asked for.
			a.cutBody.Inc()
			body = nil
		}
		if len(body) == 0 {
			lines = linesWithout(lines, "Content-Type")
		}
		return Result{
			Outcome: Answered, Reason: "the service answers with status " + strconv.Itoa(status),
			Answer: &Answer{Status: status, Header: lines, Body: body},
		}, nil
	}
	return Result{}, errors.New("the service answers with status " + strconv.Itoa(answer.Status))
}

// identity is who the service says the caller is. Every header taken from the
// answer is a claim under its name in lower case.
func (a *forward) identity(h http.Header) (*Identity, error) {
	lines, err := linesOf(h, a.c.Copy)
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	for _, name := range a.copied {
		values := h[textproto.CanonicalMIMEHeaderKey(name)]
		if len(values) == 0 {
			continue
		}
		value := strings.Join(values, ", ")
		if len(value) > mostForwardLines || !wire.IsFieldValue([]byte(value)) {
			return nil, errForwardHeader
		}
		if !a.lists[textproto.CanonicalMIMEHeaderKey(name)] {
			claims[strings.ToLower(name)] = value
			continue
		}
		list := []any{}
		for item, rest := wire.NextItem([]byte(value)); item != nil; item, rest = wire.NextItem(rest) {
			list = append(list, string(item))
		}
		claims[strings.ToLower(name)] = list
	}
	subject := ""
	if a.c.Subject != "" {
		if values := h[textproto.CanonicalMIMEHeaderKey(a.c.Subject)]; len(values) > 1 {
			return nil, errors.New("the service names more than one subject")
		}
		subject = h.Get(a.c.Subject)
	}
	id := NewIdentity(a.name, subject, claims, 0)
	id.Lines = lines
	return id, nil
}

var errForwardHeader = errors.New("the service's answer has a header that is too long or malformed")

// linesOf takes the named headers out of an answer.
func linesOf(h http.Header, names []string) (lines []Line, err error) {
	size := 0
	for _, name := range names {
		for _, value := range h[textproto.CanonicalMIMEHeaderKey(name)] {
			if size += len(name) + len(value); size > mostForwardLines || !wire.IsFieldValue([]byte(value)) {
				return nil, errForwardHeader
			}
			lines = append(lines, Line{Name: name, Value: value})
		}
	}
	return lines, nil
}

func linesWithout(lines []Line, name string) []Line {
	kept := lines[:0]
	for _, l := range lines {
		if !strings.EqualFold(l.Name, name) {
			kept = append(kept, l)
		}
	}
	return kept
}

// holds is how long a 2xx answer may be remembered, 0 for not at all. A
// directive that cannot be read counts as no-store.
func (a *forward) holds(h http.Header) time.Duration {
	if len(h["Set-Cookie"]) > 0 {
		return 0
	}
	ttl := a.c.Cache.TTL.Std()
	list := []byte(strings.Join(h["Cache-Control"], ","))
	for item, rest := wire.NextItem(list); item != nil; item, rest = wire.NextItem(rest) {
		name, value, _ := strings.Cut(string(item), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return 0
			}
			ttl = min(ttl, time.Duration(seconds)*time.Second)
		}
	}
	return ttl
}

// State tells what is remembered and whether the service answers.
func (a *forward) State() State {
	s := State{Name: a.name, Kind: "forward_auth", Detail: a.provider.state()}
	if a.known != nil {
		s.Remembered = a.known.len()
	}
	return s
}

// Counts are provider_asked, provider_failed, provider_busy, provider_shared,
// answers_passed, answers_refused and bodies_dropped.
func (a *forward) Counts() map[string]uint64 {
	m := a.provider.counts()
	m["answers_passed"], m["answers_refused"], m["bodies_dropped"] = a.passed.Load(), a.turned.Load(), a.cutBody.Load()
	return m
}
