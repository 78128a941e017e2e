package rig

import "fmt"

// Generations are two configurations that forward to the same two targets and
// differ in as much as two can: a route's header edits, a further route, what
// shapes connections, a further door (a unix socket in dir), the access log.
// Answers say in X-Generation which was in use, 0 or 1.
func Generations(dir, target1, target2 string, watch bool) (texts [2]string) {
	const base = `
admin: { address: "127.0.0.1:0" }
reload: { watch: %t }
forwarded: { trusted: ["127.0.0.0/8"] }
`
	texts[0] = fmt.Sprintf(base+`
listen: ["127.0.0.1:0"]
log: { access: { output: %q } }
upstreams:
  a: { targets: [%q, %q] }
routes:
  - { name: all, upstream: a, response: { headers: { set: { X-Generation: "0" } } } }
`, watch, dir+"/access.0.log", target1, target2)
	texts[1] = fmt.Sprintf(base+`
listen: ["127.0.0.1:0", %q]
log: { access: { output: %q, sample: 2 } }
upstreams:
  a: { targets: [%q, %q], balance: least_request, timeouts: { response: 50s } }
  b: %q
routes:
  - { name: other, match: /other/*, respond: other }
  - name: all
    split: { to: [{ upstream: a, weight: 3 }, { upstream: b, weight: 1 }] }
    response: { headers: { set: { X-Generation: "1" } } }
`, watch, "unix:"+dir+"/door", dir+"/access.1.log", target2, target1, target1)
	return texts
}
