package auth

// This file is how authenticators ask other services. A question goes out on a
// kept-alive HTTP/1.1 connection of a client of its own, waits at most its
// timeout, and comes back as a providerAnswer with a body of bounded size.
//
// Invariants: no proxy and no credential is taken from the environment; a
// redirect is an answer and never followed, for the question holds credentials;
// at most `parallel` questions are under way and a bounded number more waits;
// an error names the cause and nothing of what was asked; Stop ends every
// question. Callers with the same question share one answer (flights), which
// the first caller's haste cannot cut short for the others.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"sluice/observe"
	"sluice/setting"
)

// Bounds of what a provider is asked and may answer.
const (
	queuedPerPlace     = 8        // questions that wait for each that may be under way
	mostProviderHeader = 64 << 10 // bytes of an answer's head
	mostCAFile         = 4 << 20  // bytes of a file of CA certificates
	mostDetail         = 200      // bytes of a network error that go into the log
	idleProvider       = time.Minute
)

// The reasons for which a provider has no answer, as they stand in the log.
var (
	errProviderBusy    = errors.New("too many questions to the provider")
	errProviderTimeout = errors.New("the provider does not answer in time")
	errProviderHaste   = errors.New("the request's time was over before the provider answered")
	errProviderStopped = errors.New("the authenticator has been stopped")
	errProviderFault   = errors.New("a defect in the gateway, see the process log")
)

// provider is another service that an authenticator asks.
type provider struct {
	client  *http.Client
	own     bool // the client is this provider's alone
	timeout time.Duration
	places  chan struct{}
	queued  atomic.Int64
	ctx     context.Context // ends with Stop
	cancel  context.CancelFunc

	log     zerolog.Logger
	failing atomic.Bool

	asked  observe.Counter // questions sent
	failed observe.Counter // of these without a good answer
	busy   observe.Counter // questions not sent, for too many waited
	shared observe.Counter // callers that took the answer to another's question
}

// providerAnswer is what a provider answered.
type providerAnswer struct {
	Status int
	Header http.Header
	Body   []byte
	Cut    bool // there was more body than asked for
}

// newProvider makes a client for one service. ca is a file of PEM certificates
// trusted instead of the system's, or ""; timeout bounds each question from
// the wait for a place to the answer's last byte; parallel is how many may be
// under way. An env.Client is used as it is, except that it follows no redirect.
func newProvider(name string, env Env, ca string, timeout time.Duration, parallel int) (*provider, error) {
	p := &provider{timeout: timeout, places: make(chan struct{}, parallel), log: env.Log.With().Str("authenticator", name).Logger()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	roots, err := certificatesOf(ca)
	if err != nil {
		return nil, &FieldError{Key: "ca", Err: err}
	}
	if env.Client != nil {
		client := *env.Client
		p.client = &client
	} else {
		var http1 http.Protocols
		http1.SetHTTP1(true)
		p.own = true
		p.client = &http.Client{Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			ExpectContinueTimeout:  timeout,
			IdleConnTimeout:        idleProvider,
			MaxIdleConns:           parallel,
			MaxIdleConnsPerHost:    parallel,
			MaxConnsPerHost:        parallel,
			MaxResponseHeaderBytes: mostProviderHeader,
			DisableCompression:     true,
			// One question, one connection: a connection that has died
			// without a word then costs one question its time, not all.
			Protocols: &http1,
		}}
	}
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p.client.Jar = nil
	return p, nil
}

// certificatesOf reads a file of PEM certificates; no file is the system's.
func certificatesOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readAtMost(file, mostCAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("expected PEM certificates in %s, found none", file)
	}
	return pool, nil
}

// readAtMost reads a file of at most most bytes.
func readAtMost(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("expected at most %d bytes in %s", most, file)
	}
	return text, nil
}

// Stop ends all questions and closes idle connections.
func (p *provider) Stop() {
	p.cancel()
	if p.own {
		p.client.CloseIdleConnections()
	}
}

// ask sends one question and waits at most `wait` for its answer, with at most
// `most` bytes of body. build makes the request; it is called once a place is
// free. An error is one of the reasons above, or what the network said.
func (p *provider) ask(wait time.Duration, most int, build func(context.Context) (*http.Request, error)) (*providerAnswer, error) {
	if wait <= 0 {
		return nil, errProviderTimeout
	}
	if p.queued.Add(1) > int64(cap(p.places)*(1+queuedPerPlace)) {
		p.queued.Add(-1)
		p.busy.Inc()
		return nil, errProviderBusy
	}
	defer p.queued.Add(-1)
	ctx, cancel := context.WithTimeout(p.ctx, wait)
	defer cancel()
	late := errProviderTimeout
	if wait < p.timeout {
		late = errProviderHaste
	}
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	case <-ctx.Done():
		// A wait that this side's own load has used up says nothing of the
		// provider, so it is not counted as its failure.
		p.busy.Inc()
		return nil, p.reason(ctx, errProviderBusy, late)
	}
	req, err := build(ctx)
	if err != nil {
		return nil, err
	}
	// Asking changes nothing at the provider, so net/http may ask again when a
	// kept connection turns out to be closed. The empty key is not sent.
	req.Header["Idempotency-Key"] = []string{}
	p.asked.Inc()
	res, err := p.client.Do(req)
	if err != nil {
		return nil, p.reason(ctx, err, late)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(most)+1))
	if err != nil {
		return nil, p.reason(ctx, err, late)
	}
	a := &providerAnswer{Status: res.StatusCode, Header: res.Header, Body: body}
	if len(body) > most {
		a.Body, a.Cut = body[:most], true
	}
	return a, nil
}

// reason says why a question has no answer, without what was asked: net/http
// puts the URL, which may hold more than the log should, around its errors.
// late is what it is called when the time is over.
func (p *provider) reason(ctx context.Context, err, late error) error {
	var timeout net.Error
	switch {
	case p.ctx.Err() != nil:
		return errProviderStopped
	case errors.Is(err, errProviderBusy):
		return err
	case ctx.Err() != nil:
		return late
	case errors.As(err, &timeout) && timeout.Timeout():
		return errProviderTimeout
	}
	var around *url.Error
	if errors.As(err, &around) {
		err = around.Err
	}
	text := strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, err.Error())
	return errors.New("the provider does not answer: " + text[:min(len(text), mostDetail)])
}

// report notes whether the provider gives good answers, and logs when that
// changes. What the gateway's own load or end, or one request's small budget,
// has caused does not count.
func (p *provider) report(err error) {
	if err == errProviderBusy || err == errProviderStopped || err == errProviderHaste {
		return
	}
	if err != nil {
		p.failed.Inc()
	}
	switch was := p.failing.Swap(err != nil); {
	case !was && err != nil:
		p.log.Warn().AnErr("reason", err).Msg("provider fails")
	case was && err == nil:
		p.log.Info().Msg("provider answers again")
	}
}

// counts adds what was counted to m.
func (p *provider) counts() map[string]uint64 {
	return map[string]uint64{
		"provider_asked":  p.asked.Load(),
		"provider_failed": p.failed.Load(),
		"provider_busy":   p.busy.Load(),
		"provider_shared": p.shared.Load(),
	}
}

// state says how the provider does, for the admin door.
func (p *provider) state() map[string]string {
	if p.failing.Load() {
		return map[string]string{"provider": "failing"}
	}
	return map[string]string{"provider": "ok"}
}

// flights lets callers with the same question share one answer. The zero value
// is ready. Each flight runs in a goroutine of its own, so that it ends by its
// own time and not by that of whoever asked first.
type flights[T any] struct {
	mu sync.Mutex
	by map[string]*flight[T]
}

type flight[T any] struct {
	landed  chan struct{}
	value   T
	err     error
	callers int // guarded by flights.mu
}

// do returns what run returns, run once for all who ask with key meanwhile. It
// waits at most `wait`. joined tells that another had asked first.
func (fs *flights[T]) do(key []byte, wait time.Duration, log *zerolog.Logger, run func() T) (value T, joined bool, err error) {
	if wait <= 0 {
		return value, false, errProviderTimeout
	}
	fs.mu.Lock()
	f, joined := fs.by[string(key)]
	if !joined {
		if fs.by == nil {
			fs.by = map[string]*flight[T]{}
		}
		f = &flight[T]{landed: make(chan struct{})}
		own := string(key)
		fs.by[own] = f
		go fs.fly(own, f, log, run)
	}
	f.callers++
	fs.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-f.landed:
		return f.value, joined, f.err
	case <-timer.C:
		return value, joined, errProviderTimeout
	}
}

func (fs *flights[T]) fly(key string, f *flight[T], log *zerolog.Logger, run func() T) {
	f.err = errProviderFault
	defer func() {
		if cause := recover(); cause != nil {
			log.Error().Interface("panic", cause).Bytes("stack", debug.Stack()).Msg("question to a provider given up")
		}
		fs.mu.Lock()
		delete(fs.by, key)
		fs.mu.Unlock()
		close(f.landed)
	}()
	f.value = run()
	f.err = nil
}

// providerURL reads the URL of a service. With plain, http:// may go to any
// host; else only to this machine.
func providerURL(text string, plain bool) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, fmt.Errorf("expected an https:// URL, got %q", withoutUserinfo(text))
	case u.User != nil:
		return nil, errors.New("expected a URL without user and password; give them in their own keys")
	case u.Fragment != "":
		return nil, fmt.Errorf("expected a URL without a fragment, got %q", text)
	case u.Scheme == "http" && !plain && !isThisMachine(u.Hostname()):
		return nil, fmt.Errorf("expected https://, got %q; http:// goes only to this machine", text)
	}
	return u, nil
}

// withoutUserinfo is text, or nothing of it when it may hold a password.
func withoutUserinfo(text string) string {
	if strings.Contains(text, "@") {
		return setting.Hidden
	}
	return text
}

func isThisMachine(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
