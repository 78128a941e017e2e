package openid

import (
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"sluice/auth"
	"sluice/wire"
)

// Door lets those through to Next whom its authenticator proves, by the same
// steps as the gateway: paths of its own, memory, proof. Next gets the claims
// sub and email as X-Sub and X-Email.
type Door struct {
	Member *auth.Member
	Next   http.Handler
	HTTPS  bool          // what browsers are said to have come by
	Ahead  atomic.Int64  // nanoseconds that its clock is ahead
	By     atomic.Uint64 // requests proven from memory
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r, err := d.request(hr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if h, ok := d.Member.Authenticator.(auth.Handler); ok && slices.Contains(h.Paths(), string(r.Path)) {
		if r.Body, err = io.ReadAll(http.MaxBytesReader(w, hr.Body, auth.MostHandled)); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		answer(w, h.Handle(r))
		return
	}
	policy := (&auth.Policy{Any: []auth.Group{{d.Member}}}).Ready()
	var proof auth.Proof
	res := policy.Recall(r, false, &proof)
	if res.Outcome == auth.Identified {
		d.By.Add(1)
	}
	if res.Outcome == auth.Unknown {
		res = policy.Verify(r, &proof)
	}
	for _, l := range res.SetCookies {
		w.Header().Add(l.Name, l.Value)
	}
	switch res.Outcome {
	case auth.Identified:
		for name, claim := range map[string]string{"X-Sub": "sub", "X-Email": "email"} {
			if text, ok := proof.Claim(claim); ok {
				hr.Header.Set(name, text)
			}
		}
		d.Next.ServeHTTP(w, hr)
	case auth.Answered:
		answer(w, res.Answer)
	case auth.Unavailable:
		http.Error(w, res.Reason, http.StatusServiceUnavailable)
	default:
		http.Error(w, res.Reason, http.StatusUnauthorized)
	}
}

func answer(w http.ResponseWriter, a *auth.Answer) {
	for _, l := range a.Header {
		w.Header().Add(l.Name, l.Value)
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

// request is hr as the gateway's own parser reads it.
func (d *Door) request(hr *http.Request) (*auth.Request, error) {
	var head bytes.Buffer
	head.WriteString(hr.Method + " " + hr.RequestURI + " HTTP/1.1\r\nHost: " + hr.Host + "\r\n")
	if err := hr.Header.Write(&head); err != nil {
		return nil, err
	}
	head.WriteString("\r\n")
	req := &wire.Request{}
	if _, err := req.Parse(head.Bytes(), wire.Limits{Bytes: 64 << 10, Fields: 256}); err != nil {
		return nil, err
	}
	caller, err := netip.ParseAddrPort(hr.RemoteAddr)
	if err != nil {
		return nil, err
	}
	r := &auth.Request{
		Head: req, Path: req.Path, Scheme: "http", Caller: caller.Addr(),
		ID: []byte("test"), Route: "test", Now: time.Now().Add(time.Duration(d.Ahead.Load())),
	}
	if d.HTTPS {
		r.Scheme = "https"
	}
	return r, nil
}
