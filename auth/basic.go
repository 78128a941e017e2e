package auth

import (
	"bytes"
	"encoding/base64"
	"hash/maphash"
	"math"
	"strconv"
	"sync/atomic"

	"sluice/observe"
	"sluice/setting"
)

// BasicConfig is users with passwords.
type BasicConfig struct {
	File     string `yaml:"file" doc:"The file with lines USER:HASH (bcrypt or argon2id), which sluice key password writes; read again when it changes."`
	Realm    string `yaml:"realm" doc:"What browsers show when they ask for the password; the authenticator's name when empty."`
	Remember int    `yaml:"remember" default:"4096" min:"0" max:"1048576" doc:"How many proven passwords are remembered, so that they are not hashed again. 0 hashes for every request."`
}

// Validate reports what the tags cannot say.
func (c *BasicConfig) Validate(p *setting.Problems) {
	if c.File == "" {
		p.Add("file", "expected a file with lines USER:HASH, which sluice key password makes")
	}
	if len(c.Realm) > 256 {
		p.Add("realm", "expected at most 256 bytes")
	}
	for i := 0; i < len(c.Realm); i++ {
		if c.Realm[i] < ' ' || c.Realm[i] >= 0x7f {
			p.Add("realm", "expected printable ASCII, got %q", c.Realm)
			break
		}
	}
}

// mostBasic bounds an Authorization value: the longest user and password.
const mostBasic = len("Basic ") + (mostUser+1+mostPassword+2)/3*4

// basic is the authenticator (RFC 7617). Recall finds the whole Authorization
// value among those that were proven; Verify computes the hash. A proof ends when
// its user is removed or gets another hash: each user that a file brings has a
// flag of its own, which proofs point to and which stays with the user over
// reloads that do not change the hash.
//
// A user that nobody is called costs what one of the file costs: a hash of the
// file is computed for it, chosen by the name under a secret seed, so that the
// same name always costs the same. Neither the time nor its spread tells who
// exists.
type basic struct {
	name      string
	challenge string
	file      *watchedFile
	path      string
	memo      *memo // nil when nothing is to be remembered
	seed      maphash.Seed
	users     atomic.Pointer[userTable]

	unknown, wrong, malformed, full observe.Counter
}

type userTable struct {
	byName map[string]*basicUser
	list   []*basicUser
}

type basicUser struct {
	identity *Identity
	text     string // of the hash
	hash     *passwordHash
	alive    *atomic.Bool
}

func newBasic(name string, c *BasicConfig, env Env) (Authenticator, error) {
	realm := c.Realm
	if realm == "" {
		realm = name
	}
	b := &basic{name: name, path: c.File, challenge: "Basic realm=" + quoted(realm) + `, charset="UTF-8"`, seed: maphash.MakeSeed()}
	if c.Remember > 0 {
		b.memo = newMemo(c.Remember, mostBasic)
	}
	b.users.Store(&userTable{})
	file, err := openWatched(c.File, name, mostPasswordFile, env.Log, b.use)
	if err != nil {
		return nil, fileError(c.File, "users", err)
	}
	b.file = file
	return b, nil
}

// use puts the users of text in use, all or none.
func (b *basic) use(text []byte) error {
	list, err := parsePasswords(b.path, text)
	if err != nil {
		return err
	}
	was := b.users.Load()
	next := &userTable{byName: make(map[string]*basicUser, len(list)), list: make([]*basicUser, 0, len(list))}
	for _, e := range list {
		u := was.byName[e.user]
		if u == nil || u.text != e.text {
			u = &basicUser{text: e.text, hash: e.hash, alive: new(atomic.Bool),
				identity: NewIdentity(b.name, e.user, map[string]any{"sub": e.user}, 0)}
			u.alive.Store(true)
		}
		next.byName[e.user] = u
		next.list = append(next.list, u)
	}
	b.users.Store(next)
	for name, u := range was.byName {
		if next.byName[name] != u {
			u.alive.Store(false)
		}
	}
	return nil
}

func (b *basic) Name() string      { return b.name }
func (b *basic) Challenge() string { return b.challenge }
func (b *basic) Places() Places    { return Places{Schemes: []string{"basic"}} }
func (b *basic) Guessable() bool   { return true }
func (b *basic) Start()            { b.file.start() }
func (b *basic) Stop()             { b.file.stop() }

// find returns the whole Authorization value when it is of this scheme.
func (b *basic) find(r *Request) (value []byte, res Result) {
	value, count := r.Authorization()
	_, ok := Scheme(value, "basic")
	switch {
	case count > 1:
		return nil, b.refuse("more than one Authorization")
	case !ok && !isBare(value):
		return nil, Result{Outcome: Absent}
	case !ok || len(value) > mostBasic:
		b.malformed.Inc()
		return nil, b.refuse("the credential is empty or too long")
	}
	return value, Result{Outcome: Unknown}
}

// isBare tells whether value is the scheme without a credential.
func isBare(value []byte) bool { return len(value) == 5 && bytes.EqualFold(value, []byte("basic")) }

// Recall looks whether the very same Authorization value was proven before.
func (b *basic) Recall(r *Request) Result {
	value, res := b.find(r)
	if res.Outcome == Unknown && b.memo != nil {
		if id := b.memo.get(value, r.Now.Unix()); id != nil {
			return Result{Outcome: Identified, Identity: id}
		}
	}
	return res
}

// Verify computes the password's hash. It waits for a turn up to two seconds, or
// what is left of the request's time.
func (b *basic) Verify(r *Request) Result {
	value, res := b.find(r)
	if res.Outcome != Unknown {
		return res
	}
	credential, _ := Scheme(value, "basic")
	user, password, why := parseBasic(credential)
	if why != "" {
		b.malformed.Inc()
		return b.refuse(why)
	}
	users := b.users.Load()
	u := users.byName[string(user)]
	known := u != nil
	if !known {
		if len(users.list) == 0 {
			b.unknown.Inc()
			return b.refuse("the user is unknown")
		}
		u = users.list[maphash.Bytes(b.seed, user)%uint64(len(users.list))]
	}
	if !hashers.take(r.Timeout(hashWait)) {
		b.full.Inc()
		return Result{Outcome: Unavailable, Reason: "too many passwords wait to be checked"}
	}
	defer hashers.leave()
	// Browsers open several connections at once: one of them may have proven
	// it while this one waited.
	if b.memo != nil {
		if id := b.memo.get(value, r.Now.Unix()); id != nil {
			return Result{Outcome: Identified, Identity: id}
		}
	}
	good := u.hash.check(password)
	switch {
	case !known:
		b.unknown.Inc()
		return b.refuse("the user is unknown")
	case !good:
		b.wrong.Inc()
		return b.refuse("the password is wrong")
	case !u.alive.Load():
		return b.refuse("the user was removed or got another password")
	}
	if b.memo != nil {
		b.memo.put(value, u.identity, r.Now.Unix(), math.MaxInt64, u.alive)
	}
	return Result{Outcome: Identified, Identity: u.identity}
}

// parseBasic reads user-id ":" password in base64 (RFC 7617 2). why is not empty
// when it is malformed. Base64 is read strictly: one credential has one form.
func parseBasic(credential []byte) (user, password []byte, why string) {
	text := make([]byte, base64.StdEncoding.DecodedLen(len(credential)))
	n, err := base64.StdEncoding.Strict().Decode(text, credential)
	if err != nil || bytes.ContainsAny(credential, "\r\n") {
		return nil, nil, "the credential is not base64"
	}
	user, password, ok := bytes.Cut(text[:n], []byte(":"))
	switch {
	case !ok:
		return nil, nil, "the credential has no colon"
	case !isText(text[:n]):
		return nil, nil, "the credential is not UTF-8 or holds control characters"
	case len(user) == 0 || len(user) > mostUser:
		return nil, nil, "the user is empty or too long"
	case len(password) > mostPassword:
		return nil, nil, "the password is too long"
	}
	return user, password, ""
}

func (b *basic) refuse(reason string) Result {
	return Result{Outcome: Refused, Reason: reason, Challenge: b.challenge}
}

func (b *basic) State() State {
	s := State{Name: b.name, Kind: "basic", Detail: map[string]string{"users": strconv.Itoa(len(b.users.Load().list))}}
	if b.memo != nil {
		s.Remembered = b.memo.len()
	}
	b.file.state(s.Detail)
	return s
}

func (b *basic) Counts() map[string]uint64 {
	counts := b.file.counts()
	counts["user_unknown"] = b.unknown.Load()
	counts["password_wrong"] = b.wrong.Load()
	counts["password_queue_full"] = b.full.Load()
	counts["credential_malformed"] = b.malformed.Load()
	return counts
}
