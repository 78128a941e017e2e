package config

import "testing"

// What a route with branches may not have, and what its branches may not.
func TestMistakesOfAggregates(t *testing.T) {
	broken(t, `upstreams: { a: "http://a" }
routes:
  - name: one
    retry: { attempts: 2 }
    hedge: p95
    rewrite: { path: /x }
    aggregate: { x: { upstream: a, path: x }, y: { upstream: b, path: "/{z.q}", max: 1, retry: { on: [nothing] } } }
  - { name: two, upstream: a, compose: { deep: true } }
  - { name: three, match: /3, aggregate: { x: { upstream: a, path: /x, pick: "a[" } } }
`, `f:4:5: routes[0].retry: expected it on the branches of aggregate, each of which is tried by itself
f:5:12: routes[0].hedge: expected it on the branches of aggregate, each of which is tried by itself
f:6:5: routes[0].rewrite: expected none with aggregate: each branch says what it asks for
f:7:42: routes[0].aggregate.x.path: expected a path that begins with /, got "x"
f:7:62: routes[0].aggregate.y.upstream: unknown upstream "b"; did you mean "a"?
f:7:71: routes[0].aggregate.y.path: unknown value {z.q}; did you mean x?
f:7:86: routes[0].aggregate.y.max: expected a size from 1KiB to 1GiB, got "1"
f:7:103: routes[0].aggregate.y.retry.on[0]: expected connect, reset, timeout or a status from 400 to 599, got "nothing"
f:8:31: routes[1].compose: expected aggregate beside it
f:9:78: routes[2].aggregate.x.pick[0]: expected ] at byte 2 of path "a[", got the end
`)
}
