package auth

// This file proves signed requests (HTTP Message Signatures, RFC 9421).
//
// A request names its signatures in Signature-Input: for each a label, what it
// covers and its parameters. Of at most mostSignatures, those with the
// configured label and tag are tried in order; the first that holds proves the
// request. Cheap checks come first: the key is known, the time is right, all
// that must be covered is; then the signature base is built
// (signature_base.go), the signature checked with the key
// (signature_keys.go), and last its nonce spent (signature_replay.go).
//
// The Go libraries for RFC 9421 verify net/http requests, which would have to
// be made anew from each request here and could differ from what is forwarded.
// So the base is built from the request's own bytes; the structured fields are
// parsed by dunglas/httpsfv and all cryptography is the standard library's.
//
// Invariants: the algorithm is that of the key, whatever `alg` says; a covered
// field that this hop takes away (Connection) makes the signature worthless
// and is refused; a nonce is spent only by a signature that holds; no
// signature is remembered as good. Verify does not block and allocates; its
// work is bounded by the number of signatures, of components, and the base's size.

import (
	"crypto/sha256"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/rs/zerolog"

	"sluice/observe"
	"sluice/setting"
	"sluice/wire"
)

// SignatureConfig is what a signed request must be.
type SignatureConfig struct {
	File       string            `yaml:"file" doc:"File of the callers' keys, see docs/auth.md. It is read again when it changes."`
	Components []string          `yaml:"components" one:"true" doc:"What a signature must cover, such as \"@method\" or content-type. Default: @method and the target, as @target-uri or as @authority, @path and @query."`
	IfPresent  []string          `yaml:"if_present" one:"true" doc:"Headers that a signature must cover when the request has them."`
	Label      string            `yaml:"label" doc:"The label of the signature that counts. Default: any."`
	Tag        string            `yaml:"tag" doc:"The tag that the signature must have (RFC 9421 2.3). Signatures with others are passed over."`
	MaxAge     setting.Duration  `yaml:"max_age" default:"5m" min:"1s" max:"24h" doc:"How old a signature may be, by its created, which it must have."`
	Skew       setting.Duration  `yaml:"skew" default:"30s" max:"10m" doc:"How far the signer's clock may be off."`
	Expires    bool              `yaml:"require_expires" default:"false" doc:"Refuse signatures without expires. One that has it is held to it in any case."`
	Nonce      string            `yaml:"nonce" default:"optional" enum:"optional,required,off" doc:"With optional a nonce can be used once; with required there must be one as well; with off nonces are not looked at. A signature without a nonce can be sent again until it is max_age old."`
	Nonces     int               `yaml:"nonces" default:"262144" min:"1024" max:"16777216" doc:"Nonces that are remembered for each stretch of max_age. When there are more, signed requests are answered 503: nothing that may be a replay passes. Each takes about 60 bytes while it is remembered."`
	Digest     bool              `yaml:"digest" default:"false" doc:"A request with a body must have a Content-Digest (RFC 9530) with sha-256 or sha-512, and the signature must cover it. The body itself is not compared with it here."`
	Structured map[string]string `yaml:"structured" doc:"The type of structured headers that signers cover with ;sf, beyond the registered ones: dictionary, list or item by the header's name."`
}

// Validate reports what the tags cannot say.
func (c *SignatureConfig) Validate(p *setting.Problems) {
	if c.File == "" {
		p.Add("file", "expected a file of keys")
	}
	for i, name := range c.Components {
		if _, err := parseComponent(name); err != nil {
			p.Add("components["+strconv.Itoa(i)+"]", "%v", err)
		}
	}
	for i, name := range c.IfPresent {
		if !isToken(name) {
			p.Add("if_present["+strconv.Itoa(i)+"]", "expected the name of a header, got %q", name)
		}
	}
	if c.Label != "" {
		if _, err := httpsfv.UnmarshalDictionary([]string{c.Label + "=1"}); err != nil {
			p.Add("label", "expected a label: lower-case letters, digits, _ - . or *, beginning with a letter or *; got %q", c.Label)
		}
	}
	kinds := []string{"dictionary", "list", "item"}
	for name, kind := range c.Structured {
		if !isToken(name) {
			p.Add("structured."+setting.Key(name), "expected the name of a header, got %q", name)
		}
		if !slices.Contains(kinds, kind) {
			p.Add("structured."+setting.Key(name), "expected dictionary, list or item, got %q", kind)
		}
	}
}

// Bounds of what a request may ask to be verified.
const (
	mostSignatures     = 8        // signatures of one request
	mostComponents     = 64       // components that one covers
	mostSignatureField = 16 << 10 // bytes of Signature-Input, and of Signature
	mostBase           = 64 << 10 // bytes of a signature base
	mostNonce          = 512
	mostSignature      = 1 << 10 // bytes of a signature: RSA of 8192 bits
)

// The reasons of a signature authenticator.
const (
	sigMalformed   = "Signature-Input or Signature is malformed"
	sigTooMany     = "too many signatures, or covered components"
	sigTooLarge    = "Signature-Input, Signature or what is covered is too large"
	sigMissing     = "no signature for a label of Signature-Input"
	sigNoKey       = "keyid is missing"
	sigUnknownKey  = "keyid is unknown"
	sigAlgorithm   = "alg is not that of the key"
	sigNoCreated   = "created is missing"
	sigOld         = "created is longer ago than max_age"
	sigFuture      = "created lies ahead"
	sigExpired     = "expires has passed"
	sigNoExpires   = "expires is missing"
	sigUncovered   = "what must be covered is not: "
	sigNoNonce     = "nonce is missing"
	sigReplay      = "the nonce has been used"
	sigNoDigest    = "Content-Digest is missing or malformed"
	sigWrong       = "the signature is wrong"
	sigReplayFull  = "no room to remember more nonces, see signature.nonces"
	sigConnection  = "a covered field ends at this hop (Connection)"
	sigUnsupported = "a component that cannot be verified here: "
)

type signature struct {
	name      string
	c         SignatureConfig
	log       zerolog.Logger
	must      []component
	ifPresent []string
	types     map[string]string // of structured fields
	keys      *signingKeyFile
	replay    *replayMemory // nil with nonce off
	seed      maphash.Seed

	counts struct{ unknown, expired, replayed, wrong, full observe.Counter }
}

func newSignature(name string, c *SignatureConfig, env Env) (Authenticator, error) {
	a := &signature{name: name, c: *c, log: env.Log.With().Str("authenticator", name).Logger(), types: map[string]string{}, seed: maphash.MakeSeed()}
	for i, text := range c.Components {
		k, err := parseComponent(text)
		if err != nil {
			return nil, &FieldError{Key: "components[" + strconv.Itoa(i) + "]", Err: err}
		}
		a.must = append(a.must, k)
	}
	if len(c.Components) == 0 {
		a.must = []component{{name: "@method"}, {name: "@target-uri"}}
	}
	for _, name := range c.IfPresent {
		a.ifPresent = append(a.ifPresent, strings.ToLower(name))
	}
	for name, kind := range registeredStructures {
		a.types[name] = kind
	}
	for name, kind := range c.Structured {
		a.types[strings.ToLower(name)] = kind
	}
	var err error
	if a.keys, err = openSigningKeys(name, c.File, a.log); err != nil {
		return nil, &FieldError{Key: "file", Err: err}
	}
	if c.Nonce != "off" {
		// A signature may be made up to skew ahead, and lives max_age + skew
		// from its created: its nonce must be known for all of that.
		a.replay = newReplayMemory(c.MaxAge.Std()+2*c.Skew.Std(), c.Nonces)
	}
	return a, nil
}

func (a *signature) Name() string    { return a.name }
func (a *signature) Guessable() bool { return false }
func (a *signature) Start()          { a.keys.start() }
func (a *signature) Stop()           { a.keys.stop() }

// Challenge names a scheme because a 401 must have a challenge (RFC 9110
// 15.5.2); RFC 9421 itself has none.
func (a *signature) Challenge() string { return `Signature realm="` + forRealm(a.name) + `"` }

func (a *signature) Places() Places {
	return Places{Headers: []string{"Signature", "Signature-Input"}}
}

func (a *signature) Recall(r *Request) Result {
	for i := range r.Head.Fields {
		if n := r.Head.Fields[i].Name; namesField(n, "Signature-Input") || namesField(n, "Signature") {
			return Result{Outcome: Unknown}
		}
	}
	return Result{Outcome: Absent}
}

func (a *signature) Verify(r *Request) Result {
	inputs, signatures, reason := parseSignatures(r.Head)
	if reason != "" {
		return Result{Outcome: Refused, Reason: reason, Challenge: a.Challenge()}
	}
	if inputs == nil {
		return Result{Outcome: Absent}
	}
	first := Result{Outcome: Absent}
	for _, label := range inputs.Names() {
		if a.c.Label != "" && label != a.c.Label {
			continue
		}
		member, _ := inputs.Get(label)
		res := a.verify(r, member, label, signatures)
		if res.Outcome == Identified || res.Outcome == Unavailable {
			return res
		}
		if first.Outcome == Absent {
			first = res
		}
	}
	return first
}

// parseSignatures reads the two fields of a request; both are nil when it has
// neither.
func parseSignatures(head *wire.Request) (inputs, signatures *httpsfv.Dictionary, reason string) {
	inputLines, n := linesNamed(head, "signature-input")
	signatureLines, m := linesNamed(head, "signature")
	switch {
	case inputLines == nil && signatureLines == nil:
		return nil, nil, ""
	case n > mostSignatureField, m > mostSignatureField:
		return nil, nil, sigTooLarge
	case inputLines == nil, signatureLines == nil:
		return nil, nil, sigMalformed
	}
	inputs, err := httpsfv.UnmarshalDictionary(inputLines)
	if err != nil {
		return nil, nil, sigMalformed
	}
	if signatures, err = httpsfv.UnmarshalDictionary(signatureLines); err != nil {
		return nil, nil, sigMalformed
	}
	if n := len(inputs.Names()); n == 0 || n > mostSignatures || len(signatures.Names()) > mostSignatures {
		return nil, nil, sigTooMany
	}
	return inputs, signatures, ""
}

// linesNamed copies the values of all fields of a name, and counts their bytes.
func linesNamed(head *wire.Request, name string) (lines []string, size int) {
	for i := range head.Fields {
		if f := &head.Fields[i]; namesField(f.Name, name) {
			lines = append(lines, string(f.Value))
			size += len(f.Value)
		}
	}
	return lines, size
}

// sigParams are the parameters of a signature (RFC 9421 2.3).
type sigParams struct {
	created, expires       int64
	hasCreated, hasExpires bool
	keyID, alg, nonce, tag string
	hasAlg, hasNonce       bool
}

func readParams(p *httpsfv.Params) (s sigParams, ok bool) {
	for _, name := range p.Names() {
		v, _ := p.Get(name)
		switch name {
		case "created":
			s.created, s.hasCreated = v.(int64)
			ok = s.hasCreated
		case "expires":
			s.expires, s.hasExpires = v.(int64)
			ok = s.hasExpires
		case "keyid":
			s.keyID, ok = v.(string)
		case "alg":
			s.alg, s.hasAlg = v.(string)
			ok = s.hasAlg
		case "nonce":
			s.nonce, s.hasNonce = v.(string)
			ok = s.hasNonce && s.nonce != "" && len(s.nonce) <= mostNonce
		case "tag":
			s.tag, ok = v.(string)
		default:
			ok = true // of no meaning here, but part of the base
		}
		if !ok {
			return s, false
		}
	}
	return s, true
}

// verify checks one signature.
func (a *signature) verify(r *Request, member httpsfv.Member, label string, signatures *httpsfv.Dictionary) Result {
	refuse := func(reason string) Result {
		return Result{Outcome: Refused, Reason: reason, Challenge: a.Challenge()}
	}
	list, ok := member.(httpsfv.InnerList)
	if !ok {
		return refuse(sigMalformed)
	}
	params, ok := readParams(list.Params)
	if !ok {
		return refuse(sigMalformed)
	}
	if a.c.Tag != "" && params.tag != a.c.Tag {
		return Result{Outcome: Absent}
	}
	if len(list.Items) > mostComponents {
		return refuse(sigTooMany)
	}
	value := signatureOf(signatures, label)
	if len(value) == 0 || len(value) > mostSignature {
		return refuse(sigMissing)
	}
	if params.keyID == "" {
		return refuse(sigNoKey)
	}
	key := a.keys.find(params.keyID)
	if key == nil {
		a.counts.unknown.Inc()
		return refuse(sigUnknownKey)
	}
	if params.hasAlg && params.alg != key.algorithm {
		return refuse(sigAlgorithm)
	}
	if reason := a.timely(&params, r.Now); reason != "" {
		a.counts.expired.Inc()
		return refuse(reason)
	}
	if a.c.Nonce == "required" && !params.hasNonce {
		return refuse(sigNoNonce)
	}
	covered, err := componentsOf(list.Items)
	if err != nil {
		return refuse(err.Error())
	}
	if reason := a.covers(covered, r.Head); reason != "" {
		return refuse(reason)
	}
	base, err := signatureBase(r, covered, list, a.types)
	if err != nil {
		return refuse(err.Error())
	}
	if !key.verify(base, value) {
		a.counts.wrong.Inc()
		return refuse(sigWrong)
	}
	if a.replay != nil && params.hasNonce {
		switch a.replay.spend(replayKey(params.keyID, params.nonce), a.bearerOf(r), r.Now) {
		case nonceSpent:
			a.counts.replayed.Inc()
			return refuse(sigReplay)
		case nonceNoRoom:
			a.counts.full.Inc()
			return Result{Outcome: Unavailable, Reason: sigReplayFull}
		}
	}
	if hasComponent(covered, "content-digest") {
		return Result{Outcome: Identified, Identity: key.withDigest}
	}
	return Result{Outcome: Identified, Identity: key.identity}
}

// bearerOf marks the request that spends a nonce, so that a policy that asks
// twice about one request does not take it for its own replay.
func (a *signature) bearerOf(r *Request) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	_, _ = h.Write(r.ID)
	_ = h.WriteByte(0)
	maphash.WriteComparable(&h, r)
	maphash.WriteComparable(&h, r.Now.UnixNano())
	return h.Sum64()
}

func replayKey(keyID, nonce string) [16]byte {
	sum := sha256.Sum256([]byte(strconv.Itoa(len(keyID)) + ":" + keyID + nonce))
	return [16]byte(sum[:16])
}

func signatureOf(signatures *httpsfv.Dictionary, label string) []byte {
	member, _ := signatures.Get(label)
	item, _ := member.(httpsfv.Item)
	value, _ := item.Value.([]byte)
	return value
}

func (a *signature) timely(p *sigParams, at time.Time) string {
	now, skew := at.Unix(), int64(a.c.Skew.Std()/time.Second)
	switch {
	case !p.hasCreated:
		return sigNoCreated
	case p.created > now+skew:
		return sigFuture
	case p.created < now-skew-int64(a.c.MaxAge.Std()/time.Second):
		return sigOld
	case p.hasExpires && now >= p.expires+skew:
		return sigExpired
	case !p.hasExpires && a.c.Expires:
		return sigNoExpires
	}
	return ""
}

// covers tells what of that which must be covered is not.
func (a *signature) covers(covered []component, head *wire.Request) string {
	for i := range a.must {
		if !isCovered(covered, &a.must[i]) {
			return sigUncovered + a.must[i].String()
		}
	}
	for _, name := range a.ifPresent {
		if lines, _ := linesNamed(head, name); lines != nil && !hasComponent(covered, name) {
			return sigUncovered + name
		}
	}
	if a.c.Digest && (head.Length != 0 || head.Chunked) {
		if !hasComponent(covered, "content-digest") {
			return sigUncovered + "content-digest"
		}
		if _, err := newBodyDigest(head); err != nil {
			return sigNoDigest
		}
	}
	return ""
}

// State tells how many keys are known and nonces remembered.
func (a *signature) State() State {
	s := State{Name: a.name, Kind: "signature", Detail: map[string]string{"keys": strconv.Itoa(a.keys.len())}}
	a.keys.state(s.Detail)
	if a.replay != nil {
		s.Detail["nonces"] = strconv.Itoa(a.replay.len())
	}
	return s
}

// Counts are key_unknown, signature_expired, signature_wrong, nonce_replayed,
// nonce_no_room, and those of the file.
func (a *signature) Counts() map[string]uint64 {
	m := map[string]uint64{
		"key_unknown": a.counts.unknown.Load(), "signature_expired": a.counts.expired.Load(),
		"signature_wrong": a.counts.wrong.Load(), "nonce_replayed": a.counts.replayed.Load(),
		"nonce_no_room": a.counts.full.Load(),
	}
	maps.Copy(m, a.keys.counts())
	return m
}
