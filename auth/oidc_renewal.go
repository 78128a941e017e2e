package auth

// Renewal of sessions. A session with a refresh token is due a little before the
// provider's tokens expire; the first request that comes then puts the refresh
// token to the provider, and all others of the same session that come meanwhile
// wait for it. The browser is given the new session with its answer.
//
// Providers let a refresh token be used once, and browsers send several requests
// at a time: for some minutes the old cookie is answered with the new one. What
// another gateway has used up is refused by the provider; since renewal begins
// before the tokens expire, the session then goes on until they do, time in which
// the browser gets to know the other gateway's cookie.
//
//	provider says     until the tokens expire    afterwards
//	new tokens        the new session            the new session
//	invalid_grant     the session goes on        it is over, the user logs in
//	nothing, 5xx      the session goes on        it goes on, until max_age

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

const (
	mostRenewals  = 1 << 13
	renewalKept   = 2 * time.Minute  // how long a renewed session's old cookie is answered with the new one
	renewalPause  = 10 * time.Second // between questions for one session that have no answer
	renewalMargin = time.Minute      // at most; and at most a quarter of the tokens' life
	leastRenewal  = 15 * time.Second // between two renewals, whatever the provider says
)

// schedule notes when t makes s due.
func (s *session) schedule(now, expires time.Time) {
	s.Due, s.Lapses = 0, 0
	if s.Refresh == "" || expires.IsZero() {
		return
	}
	margin := min(renewalMargin, expires.Sub(now)/4)
	due := expires.Add(-margin)
	if least := now.Add(leastRenewal); due.Before(least) {
		due = least
	}
	s.Due = due.Unix()
	s.Lapses = max(expires.Unix(), s.Due+1)
}

type renewals struct {
	mu sync.Mutex
	by map[[sha256.Size]byte]*renewal // by refresh token
}

// renewal is one question to the provider. What it came to is set before landed
// is closed and never changes.
type renewal struct {
	landed  chan struct{}
	began   time.Time
	session *session // nil when there is none
	value   string   // sealed
	refused string   // why the provider said no
	failed  error    // why there is no answer
}

// over tells at now whether r has nothing to say any more.
func (r *renewal) over(now time.Time) bool {
	select {
	case <-r.landed:
	default:
		return false
	}
	kept := renewalKept
	if r.failed != nil {
		kept = renewalPause
	}
	age := now.Sub(r.began)
	return age >= kept || age < -kept
}

// begin returns the renewal with this refresh token, nil when too many are under
// way; mine tells the caller to run it.
func (rs *renewals) begin(refresh string, now time.Time) (r *renewal, mine bool) {
	key := sha256.Sum256([]byte(refresh))
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.by[key]; r != nil && !r.over(now) {
		return r, false
	}
	if rs.by == nil {
		rs.by = map[[sha256.Size]byte]*renewal{}
	}
	if len(rs.by) >= mostRenewals {
		for k, r := range rs.by {
			if r.over(now) {
				delete(rs.by, k)
			}
		}
		if len(rs.by) >= mostRenewals {
			return nil, false
		}
	}
	r = &renewal{landed: make(chan struct{}), began: now}
	rs.by[key] = r
	return r, true
}

// renew decides a session that is due. cookie is what it came in.
func (o *openID) renew(r *Request, s *session, cookie []byte) Result {
	goesOn := func() Result {
		return o.identified(r, s, cookie, r.Now.Add(renewalPause).Unix(), nil)
	}
	n, mine := o.renewals.begin(s.Refresh, r.Now)
	if n == nil {
		o.counts.renewalFailed.Inc()
		return goesOn()
	}
	https := o.https(r)
	if mine {
		// It runs by itself: a client that leaves must not lose the answer to
		// a question that can be put only once.
		go o.run(n, s, https, r.Now)
	}
	timer := time.NewTimer(r.Timeout(o.config.Timeout.Std()))
	defer timer.Stop()
	select {
	case <-n.landed:
	case <-timer.C:
		return goesOn()
	}
	switch {
	case n.session != nil:
		lines, ok := o.cookies.keep(r, https, n.value, n.session.Ends-r.Now.Unix())
		if !ok {
			return goesOn()
		}
		return o.identified(r, n.session, []byte(n.value), o.proven(n.session), lines)
	case n.refused != "" && r.Now.Unix() >= s.Lapses:
		o.counts.ended.Inc()
		return o.invite(r, o.refusal("the session cannot be renewed: "+n.refused))
	case n.refused != "":
		return o.identified(r, s, cookie, min(s.Lapses, r.Now.Add(renewalPause).Unix()), nil)
	}
	return goesOn()
}

// run puts the question.
func (o *openID) run(n *renewal, s *session, https int, now time.Time) {
	defer close(n.landed)
	defer func() {
		// Nobody above this goroutine would catch it.
		if cause := recover(); cause != nil {
			n.session, n.failed = nil, errOIDCDefect
			o.log.Error().Interface("panic", cause).Bytes("stack", debug.Stack()).Msg("renewal given up")
		}
	}()
	t, err := o.askRenewal(s, now)
	var refusal *oidcRefusal
	switch {
	case errors.As(err, &refusal) && refusal.grant:
		n.refused = refusal.reason
		o.counts.renewalRefused.Inc()
		o.log.Info().Str("reason", n.refused).Msg("session not renewed")
		return
	case err != nil:
		n.failed = err
		o.counts.renewalFailed.Inc()
		o.log.Warn().Str("reason", err.Error()).Msg("session not renewed, it goes on")
		return
	}
	next := *s
	next.Refresh = t.refresh
	if t.idToken != "" {
		next.IDToken = t.idToken
		if t.sid != "" {
			next.SID = t.sid
		}
	}
	if t.scope != "" {
		next.Scope = t.scope
	}
	if t.more != nil {
		next.More = t.more
	}
	next.schedule(now, expiresAt(t, now))
	if err := next.read(); err != nil {
		n.failed = err
		o.counts.renewalFailed.Inc()
		return
	}
	value, err := o.sealed(&next, https)
	if err == nil && len(value) > o.cookies.parts*o.cookies.room(https) {
		err = errSessionTooLarge
		o.counts.tooLarge.Inc()
	}
	if err != nil {
		n.failed = err
		o.counts.renewalFailed.Inc()
		o.log.Error().Err(err).Msg("session not renewed, it goes on")
		return
	}
	n.session, n.value = &next, value
	o.counts.renewed.Inc()
}

func (o *openID) askRenewal(s *session, now time.Time) (*tokens, error) {
	wait := o.config.Timeout.Std()
	d, err := o.provider.document(now, wait, false)
	if err != nil {
		return nil, err
	}
	t, err := o.provider.renew(d, wait, s.Refresh, s.Sub)
	if err != nil {
		return nil, err
	}
	if sub, _ := t.more["sub"].(string); t.more != nil && sub != s.Sub {
		return nil, &oidcRefusal{reason: "userinfo is another user's", grant: true}
	}
	return t, nil
}

// expiresAt is when t expires on the clock that now is of: the library counts
// from the time of the answer.
func expiresAt(t *tokens, now time.Time) time.Time {
	if t.expires.IsZero() {
		return t.expires
	}
	return now.Add(time.Until(t.expires))
}

var errSessionTooLarge = errors.New("the session does not fit into cookie.parts cookies: ask for fewer scopes, have the provider put fewer claims into its tokens, or raise cookie.parts and server.max_header")

// statusOf is what a client is told of err.
func statusOf(err error) int {
	var refusal *oidcRefusal
	if errors.As(err, &refusal) {
		return http.StatusForbidden
	}
	return http.StatusServiceUnavailable
}
