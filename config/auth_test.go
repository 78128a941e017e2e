package config

import "testing"

func TestMistakesOfCallers(t *testing.T) {
	const start = `auth:
  keys: { api_key: { file: k } }
  other: { api_key: { file: k } }
redis: { main: "127.0.0.1:6379" }
limits:
  user: { rate: 1/s, key: "claim:sub" }
  either: { rate: 1/s, key: "claim:sub|ip" }
  flying: { concurrent: 2, key: identity }
upstreams: { a: "http://a:1" }
routes:
 - name: r
   upstream: a
   `
	route := func(block, want string) {
		t.Helper()
		broken(t, start+block+"\n", want)
	}
	route("auth: kyes", `f:13:10: routes[0].auth.any[0]: unknown authenticator "kyes"; did you mean "keys"?`)
	route("auth: nobody", `f:13:10: routes[0].auth.any[0]: unknown authenticator "nobody"; expected one of those under auth`)
	route("auth: keys+keys", `f:13:10: routes[0].auth.any[0]: expected each authenticator once, got "keys" again`)
	route("auth: [keys, keys]", `f:13:10: routes[0].auth.any[1]: expected each entry once, got "keys" again`)
	route("auth: []", `f:13:10: routes[0].auth: expected the name of an authenticator, or a list of them`)
	route("require: { scope: read }", `f:13:4: routes[0].require: expected auth as well: without it nobody is known`)
	route("limit: user", `f:13:11: routes[0].limit[0]: expected auth on the route, for the key of limit "user" asks who calls`)
	route("limit: flying", `f:13:11: routes[0].limit[0]: expected auth on the route, for the key of limit "flying" asks who calls`)
	broken(t, `limits:
  a: { quota: 1/day, file: q }
  b: { quota: 1/day, file: ./q }
  c: { rate: 1/s, shared: mian }
redis: { main: "127.0.0.1:6379" }
auth_failures: fast
routes: [{ name: r, respond: x }]
`, `f:3:28: limits.b.file: expected a file of its own, got that of limit "a"
f:4:27: limits.c.shared.redis: unknown Redis "mian"; did you mean "main"?
f:6:16: auth_failures.rate: expected a rate such as 100/s, 5000/m, 10/h or 1000/d, at most 1000000 a second, got "fast", or off`)
}
