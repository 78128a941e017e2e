package config

import (
	"strconv"
	"strings"

	"sluice/setting"
	"sluice/wire"
)

// Conditions are the words of On, or those that stand for none.
func (r *Retry) Conditions() []string {
	switch {
	case len(r.On) > 0:
		return r.On
	case r.PerTry > 0: // who bounds a try wants another
		return []string{"connect", "reset", "timeout", "502", "503", "504"}
	}
	return []string{"connect", "reset", "502", "503", "504"}
}

// validateBudget checks the header that carries budgets: one that means
// something else to a hop would be taken from the client, or sent twice.
func (f *Forwarded) validateBudget(p *setting.Problems) {
	switch name := f.Budget; {
	case name == "":
	case !isToken(name):
		p.Add("budget", "expected the name of a header, got %q", name)
	case hasMeaning(name), strings.EqualFold(name, f.RequestID):
		p.Add("budget", "expected a header of its own, got %q, which has a meaning already", name)
	}
}

// validateRequestID checks the header that carries the request id: one that a
// hop acts on, such as Content-Length, would break what it is sent with.
func (f *Forwarded) validateRequestID(p *setting.Problems) {
	switch name := f.RequestID; {
	case name == "":
	case !isToken(name):
		p.Add("request_id", "expected the name of a header, got %q", name)
	case hasMeaning(name) && wire.KindOf([]byte(name)) != wire.XRequestID:
		p.Add("request_id", "expected X-Request-Id or a header of its own, got %q, which has a meaning already", name)
	}
}

// hasMeaning tells whether a hop reads more than a text from this header.
func hasMeaning(name string) bool {
	return wire.KindOf([]byte(name)) != wire.Other || strings.EqualFold(name, "grpc-timeout") || strings.EqualFold(name, "Sluice-Try")
}

// validateResilience checks what a route does about failures.
func (c *Config) validateResilience(p *setting.Problems, r *Route) {
	if r.Aggregate != nil {
		const why = "expected it on the branches of aggregate, each of which is tried by itself"
		if r.Retry != nil {
			p.Add("retry", why)
		}
		if r.Hedge != nil {
			p.Add("hedge", why)
		}
	}
	if r.Redirect != nil || r.Respond != nil {
		const why = "expected none with %s, which forwards nothing"
		answer := "respond"
		if r.Redirect != nil {
			answer = "redirect"
		}
		for _, set := range []struct {
			key string
			is  bool
		}{{"retry", r.Retry != nil}, {"hedge", r.Hedge != nil}, {"fallback", len(r.Fallback) > 0}} {
			if set.is {
				p.Add(set.key, why, answer)
			}
		}
		return
	}
	validateTries(p, r.Retry, r.Hedge, r.Budget)
	for i := range r.Fallback {
		c.validateFallback(p.At("fallback["+strconv.Itoa(i)+"]"), r, i)
	}
}

// validateTries checks how requests of a route or branch, which have budget, are
// tried again.
func validateTries(p *setting.Problems, t *Retry, h *Hedge, budget setting.Duration) {
	if t != nil {
		for i, what := range t.On {
			switch what {
			case "connect", "reset", "timeout":
			default:
				if n, err := strconv.Atoi(what); err != nil || n < 400 || n > 599 {
					p.Add("retry.on["+strconv.Itoa(i)+"]", "expected connect, reset, timeout or a status from 400 to 599, got %q", what)
				}
			}
		}
		if budget > 0 && t.PerTry >= budget {
			p.Add("retry.per_try", "expected less than the route's budget of %s, got %s", budget, t.PerTry)
		}
		if t.MaxBackoff < t.Backoff {
			p.Add("retry.max_backoff", "expected at least retry.backoff, which is %s, got %s", t.Backoff, t.MaxBackoff)
		}
	}
	if h == nil {
		return
	}
	switch h.After {
	case "p50", "p90", "p95", "p99":
		return
	}
	d, err := setting.ParseDuration(h.After)
	switch {
	case err != nil || d == 0:
		p.Add("hedge.after", "expected a time such as 50ms, or p50, p90, p95 or p99, got %q", h.After)
	case budget > 0 && d >= budget:
		p.Add("hedge.after", "expected less than the route's budget of %s, got %s", budget, d)
	case t != nil && t.PerTry > 0 && d >= t.PerTry:
		p.Add("hedge.after", "expected less than retry.per_try of %s, after which the first try is over, got %s", t.PerTry, d)
	}
}

func (c *Config) validateFallback(p *setting.Problems, r *Route, i int) {
	f := &r.Fallback[i]
	for n, status := range f.On {
		if status < 400 || status > 599 {
			p.Add("on["+strconv.Itoa(n)+"]", "expected a status from 400 to 599, got %d", status)
		}
	}
	if i > 0 && len(f.On) > 0 {
		p.Add("on", "expected it on the first entry only, where it holds for all")
	}
	if f.Upstream != "" {
		c.checkUpstream(p, "upstream", f.Upstream)
		if f.Upstream == r.Upstream {
			p.Add("upstream", "expected another upstream than the route's own, got %q", f.Upstream)
		}
		if f.Status != 0 || f.Body != "" || f.Type != "" || len(f.Headers) > 0 {
			p.Add("", "expected either upstream or a fixed answer, got both")
		}
		return
	}
	if f.Status == 0 && f.Body == "" {
		p.Add("", "expected upstream, or status and body of a fixed answer")
		return
	}
	status := f.Status
	if status == 0 {
		status = 200
	}
	(&Respond{Status: status, Body: f.Body, Type: f.Type, Headers: f.Headers}).validate(p)
	if status < 200 {
		p.Add("status", "expected a status from 200 to 599, got %d", f.Status)
	}
	if i != len(r.Fallback)-1 {
		p.Add("", "expected a fixed answer as the last entry, for it always answers")
	}
}
