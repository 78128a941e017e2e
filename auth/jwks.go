package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"sluice/observe"
)

// keySource keeps a provider's key set: fetched in the background from Start on,
// again when its time is over, and once more, at most every so often, when a
// token names a key that is not there. All who wait for keys wait for one fetch.
// While the provider is down the last good set is kept, up to keep; then there is
// none. One goroutine fetches; set is read without a lock.
type keySource struct {
	provider *provider
	log      zerolog.Logger
	issuer   string // to be discovered, when there is no URL
	plain    bool
	shared   bool
	allowed  []string
	refresh  time.Duration
	refetch  time.Duration
	keep     time.Duration
	timeout  time.Duration

	set     atomic.Pointer[keySet]
	changed atomic.Pointer[atomic.Bool] // false once another set came: what was refused may be good now

	ask  chan struct{} // somebody wants a fetch
	stop chan struct{}

	mu      sync.Mutex    // guards what follows
	url     string        // of the keys, given or discovered
	found   time.Time     // when it was discovered
	landed  chan struct{} // closed by the end of the fetch under way, or of the next
	last    time.Time     // begin of the last fetch
	busy    bool          // a fetch is under way, or has been asked for
	good    time.Time     // end of the last good one
	mistake string        // of the last one
	skipped string        // which keys it left out, and why

	fetches, failed, refetches observe.Counter
}

const (
	mostKeySet     = 1 << 20
	mostDiscovery  = 256 << 10
	leastRefresh   = time.Minute
	firstBackoff   = time.Second
	mostBackoff    = time.Minute
	discoverAgain  = time.Hour
	wellKnownOIDC  = "/.well-known/openid-configuration"
	wellKnownOAuth = "/.well-known/oauth-authorization-server"
)

func (s *keySource) Start() { go s.run() }

func (s *keySource) Stop() {
	close(s.stop)
	s.provider.Stop()
}

// run fetches until Stop.
func (s *keySource) run() {
	backoff := firstBackoff
	for {
		next, err := s.fetch()
		switch {
		case err != nil:
			next = backoff
			backoff = min(2*backoff, mostBackoff)
			s.expire(time.Now())
		default:
			backoff = firstBackoff
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-s.ask:
			s.refetches.Inc()
		case <-s.stop:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// expire gives the set up when the provider has been away for too long.
func (s *keySource) expire(now time.Time) {
	s.mu.Lock()
	late := !s.good.IsZero() && now.Sub(s.good) > s.keep
	s.mu.Unlock()
	if old := s.set.Load(); late && old != nil {
		(&keySet{}).replaces(old)
		s.set.Store(nil)
		s.log.Error().Dur("keep", s.keep).Msg("key set given up: its provider has been away for too long")
	}
}

// fetch gets the set once and says when to do so again.
func (s *keySource) fetch() (next time.Duration, err error) {
	s.mu.Lock()
	s.last, s.busy = time.Now(), true
	s.mu.Unlock()
	s.fetches.Inc()
	set, header, err := s.load()
	s.provider.report(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mistake = ""; err != nil {
		s.failed.Inc()
		s.mistake = err.Error()
	} else {
		s.good = time.Now()
		set.replaces(s.set.Load())
		s.set.Store(set)
		fresh := new(atomic.Bool)
		fresh.Store(true)
		if old := s.changed.Swap(fresh); old != nil {
			old.Store(false)
		}
	}
	select {
	case <-s.ask: // asked for while this one began
	default:
	}
	s.busy = false
	close(s.landed)
	s.landed = make(chan struct{})
	return s.lifetime(header), err
}

// load discovers where the keys are, if need be, and gets them.
func (s *keySource) load() (*keySet, http.Header, error) {
	s.mu.Lock()
	where, found := s.url, s.found
	s.mu.Unlock()
	if s.issuer != "" && (where == "" || time.Since(found) > discoverAgain) {
		again, err := s.discover()
		switch {
		case err == nil:
			where = again
			s.mu.Lock()
			s.url, s.found = where, time.Now()
			s.mu.Unlock()
		case where == "":
			return nil, nil, err
		}
	}
	answer, err := s.get(where, mostKeySet)
	if err != nil {
		return nil, nil, err
	}
	set, skipped, err := parseKeySet(answer.Body, s.shared, s.allowed)
	if err != nil {
		return nil, nil, fmt.Errorf("the key set %w", err)
	}
	// Told once, and again when it is another list.
	told := strings.Join(skipped, "; ")
	s.mu.Lock()
	news := told != s.skipped
	s.skipped = told
	s.mu.Unlock()
	if news && told != "" {
		s.log.Warn().Strs("keys", skipped).Msg("keys of the provider left out")
	}
	return set, answer.Header, nil
}

func (s *keySource) get(where string, most int) (*providerAnswer, error) {
	answer, err := s.provider.ask(s.timeout, most, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
		if err == nil {
			req.Header.Set("Accept", "application/json")
		}
		return req, err
	})
	switch {
	case err != nil:
		return nil, err
	case answer.Status != http.StatusOK:
		return nil, fmt.Errorf("the provider answered %d for %s", answer.Status, withoutQuery(where))
	case answer.Cut:
		return nil, fmt.Errorf("the provider's answer for %s is longer than %d bytes", withoutQuery(where), most)
	}
	return answer, nil
}

// discover asks the issuer where its keys are (OpenID Connect Discovery 1.0 4,
// else RFC 8414 3.1). The document must be the issuer's own.
func (s *keySource) discover() (string, error) {
	base, err := url.Parse(s.issuer)
	if err != nil {
		return "", err
	}
	path := strings.TrimSuffix(base.Path, "/")
	var first error
	for _, where := range []string{path + wellKnownOIDC, wellKnownOAuth + path} {
		at := *base
		at.Path = where
		answer, err := s.get(at.String(), mostDiscovery)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		var document struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(answer.Body, &document); err != nil {
			return "", errors.New("the provider's discovery document is no JSON object")
		}
		if document.Issuer != s.issuer {
			return "", fmt.Errorf("the provider calls itself %.128q, not the issuer %q", document.Issuer, s.issuer)
		}
		keys, err := providerURL(document.Keys, s.plain)
		if err != nil {
			return "", fmt.Errorf("the provider's jwks_uri: %w", err)
		}
		if base.Scheme == "https" && keys.Scheme != "https" && !s.plain {
			return "", errors.New("the provider's jwks_uri: expected https://, as its issuer has")
		}
		return keys.String(), nil
	}
	return "", first
}

// withoutQuery is a URL as it may be logged: a query can hold a secret.
func withoutQuery(where string) string {
	where, _, _ = strings.Cut(where, "?")
	return where
}

// lifetime is how long a set is taken without asking again: what the provider
// says (RFC 9111 4.2.1), within bounds.
func (s *keySource) lifetime(header http.Header) time.Duration {
	for directive := range strings.SplitSeq(header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		if !strings.EqualFold(name, "max-age") {
			continue
		}
		if n, err := strconv.Atoi(strings.Trim(value, `"`)); err == nil && n >= 0 {
			return min(max(time.Duration(min(n, 1<<20))*time.Second, leastRefresh), s.refresh)
		}
	}
	return s.refresh
}

// again waits for a newer set than old, at most for wait. It asks for a fetch if
// the last one is long enough ago; false says that there is none to hope for.
func (s *keySource) again(old *keySet, wait time.Duration) bool {
	landed, hope := s.join(old)
	if !hope {
		return s.set.Load() != old
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-landed:
		return s.set.Load() != old
	case <-timer.C:
	case <-s.stop:
	}
	return false
}

// join returns what closes when the fetch under way, or one that it asks for, has
// ended. hope is false when there is none to wait for.
func (s *keySource) join(old *keySet) (landed chan struct{}, hope bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.set.Load() != old:
		return nil, false // it is there
	case s.busy:
	case old == nil:
		// The background fetches as fast as it should. Between two tries there
		// is nothing to wait for, and an outage must not make a heap of waiting
		// requests.
		return s.landed, s.mistake == ""
	case time.Since(s.last) < s.refetch:
		return nil, false
	default:
		// From here on it counts as under way: nobody asks for a second one.
		s.busy = true
		select {
		case s.ask <- struct{}{}:
		default:
		}
	}
	return s.landed, true
}

func (s *keySource) state(detail map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	detail["jwks"] = withoutQuery(s.url)
	if !s.good.IsZero() {
		detail["fetched"] = s.good.UTC().Format(time.RFC3339)
	}
	if s.mistake != "" {
		detail["mistake"] = s.mistake
	}
}
