package config

import (
	"slices"
	"testing"
)

func TestMistakesOfResilience(t *testing.T) {
	f := func(route, want string) {
		t.Helper()
		broken(t, `{upstreams: {a: "http://a:1", b: "http://b:1"}, routes: [{name: r, upstream: a,
`+route+`}]}`, want)
	}
	f(`retry: { on: [conect, "200", "503", 700], attempts: 0, budget: 120% }`, `
f:2:15: routes[0].retry.on[0]: expected connect, reset, timeout or a status from 400 to 599, got "conect"
f:2:23: routes[0].retry.on[1]: expected connect, reset, timeout or a status from 400 to 599, got "200"
f:2:37: routes[0].retry.on[3]: expected connect, reset, timeout or a status from 400 to 599, got "700"
f:2:53: routes[0].retry.attempts: expected a whole number from 1 to 10, got "0"
f:2:64: routes[0].retry.budget: expected a share such as 50% or 0.5, between 0 and 1, got "120%"
`)
	f(`budget: 100ms, retry: { per_try: 100ms }`, `
f:2:34: routes[0].retry.per_try: expected less than the route's budget of 100ms, got 100ms
`)
	f(`retry: { backoff: 2s, max_backoff: 1s }`, `
f:2:36: routes[0].retry.max_backoff: expected at least retry.backoff, which is 2s, got 1s
`)
	for _, after := range []string{"p96", "0", "soon", "-5ms", "p"} {
		f(`hedge: `+after, `
f:2:8: routes[0].hedge.after: expected a time such as 50ms, or p50, p90, p95 or p99, got "`+after+`"
`)
	}
	f(`budget: 100ms, hedge: 100ms`, `
f:2:23: routes[0].hedge.after: expected less than the route's budget of 100ms, got 100ms
`)
	f(`hedge: 1s, retry: { per_try: 500ms }`, `
f:2:8: routes[0].hedge.after: expected less than retry.per_try of 500ms, after which the first try is over, got 1s
`)
	f(`fallback: [{ upstream: a }, { upstream: c }, { on: [500], body: x }]`, `
f:2:24: routes[0].fallback[0].upstream: expected another upstream than the route's own, got "a"
f:2:41: routes[0].fallback[1].upstream: unknown upstream "c"; did you mean "a"?
f:2:48: routes[0].fallback[2].on: expected it on the first entry only, where it holds for all
`)
	f(`fallback: [{ body: x }, { upstream: b, status: 200 }, { on: [200] }]`, `
f:2:12: routes[0].fallback[0]: expected a fixed answer as the last entry, for it always answers
f:2:25: routes[0].fallback[1]: expected either upstream or a fixed answer, got both
f:2:55: routes[0].fallback[2]: expected upstream, or status and body of a fixed answer
f:2:57: routes[0].fallback[2].on: expected it on the first entry only, where it holds for all
f:2:62: routes[0].fallback[2].on[0]: expected a status from 400 to 599, got 200
`)
	f(`fallback: { status: 100 }`, `
f:2:21: routes[0].fallback[0].status: expected a status from 200 to 599, got 100
`)
	f(`fallback: { status: 204, body: x }`, `
f:2:32: routes[0].fallback[0].body: expected none with status 204
`)
	f(`priority: urgent`, `
f:2:11: routes[0].priority: expected one of low, normal, high, got "urgent"
`)
	broken(t, `{upstreams: {a: "http://a:1"}, routes: [{name: r, respond: x,
retry: { attempts: 2 }, hedge: p95, fallback: { body: x }}]}`, `
f:2:1: routes[0].retry: expected none with respond, which forwards nothing
f:2:32: routes[0].hedge: expected none with respond, which forwards nothing
f:2:37: routes[0].fallback: expected none with respond, which forwards nothing
`)
	for _, name := range []string{"Content-Length", "transfer-encoding", "Host", "Connection", "X-Forwarded-For", "Authorization", "x-request-id", "grpc-timeout", "sluice-try"} {
		broken(t, rest+"\nforwarded: { budget: "+name+" }}", `
f:2:22: forwarded.budget: expected a header of its own, got "`+name+`", which has a meaning already
`)
	}
	broken(t, rest+"\nforwarded: { budget: \"a b\" }}", `
f:2:22: forwarded.budget: expected the name of a header, got "a b"
`)
	broken(t, rest+"\nforwarded: { budget: X-Id, request_id: x-id }}", `
f:2:22: forwarded.budget: expected a header of its own, got "X-Id", which has a meaning already
`)
}

func TestRetryConditions(t *testing.T) {
	f := func(r Retry, want ...string) {
		t.Helper()
		if got := r.Conditions(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(Retry{}, "connect", "reset", "502", "503", "504")
	f(Retry{PerTry: 1}, "connect", "reset", "timeout", "502", "503", "504")
	f(Retry{PerTry: 1, On: []string{"500"}}, "500")
}
