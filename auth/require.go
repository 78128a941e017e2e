package auth

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/setting"
)

// Requirement is what the callers of a route must be beyond proven: a list of
// conditions that were made ready when the configuration was loaded. Each holds
// when one of the identities in the proof meets it; all must hold. The zero
// value asks for nothing. It never changes and may be used by many goroutines.
type Requirement struct {
	scopes [][]string // all of them, any of each
	roles  []string   // one of them
	in     []string   // paths of the claims that hold roles
	claims []claimRule
	expr   *expression

	// What is said of a condition that fails, made once.
	scopeReasons []string
	roleReason   string
	challenge    string // the scope attribute (RFC 6750 3)
}

type claimRule struct {
	path   string
	values []string // one of them; none at all is any
	reason string
}

// The reasons of a refusal, for the log. A colon and what was missing follow.
const (
	ReasonScope      = "scope missing"
	ReasonRole       = "role missing"
	ReasonClaim      = "claim missing or different"
	ReasonExpression = "expression" // ": false", or ": " and why it could not be told
)

// RequireConfig is the written form of a Requirement. All that is set must hold.
type RequireConfig struct {
	Scope      []string          `yaml:"scope" one:"true" doc:"Scopes that must all be granted. An entry may hold several, with spaces between; a|b is one of two."`
	Roles      []string          `yaml:"roles" one:"true" doc:"Roles of which one must be held."`
	RolesClaim []string          `yaml:"roles_claim" one:"true" doc:"Paths of the claims that hold roles, such as resource_access.api.roles. Without it, roles and realm_access.roles."`
	Claims     map[string]string `yaml:"claims" doc:"Claims by path: the value that the claim must be or, for a list, hold; a|b for alternatives, * for any value."`
	Expr       string            `yaml:"expr" doc:"An expression over the claims and the request that must be true, see docs/auth.md."`
}

// defaultRoles are where roles stand unless the configuration says otherwise:
// the plain claim, and Keycloak's. Not groups: with many providers, users make
// and name these themselves.
var defaultRoles = []string{"roles", "realm_access.roles"}

const (
	mostConditions = 64  // entries of one list of a requirement
	longestValue   = 512 // bytes of one value
)

// Validate reports what the tags cannot say.
func (c *RequireConfig) Validate(p *setting.Problems) { c.compile(p) }

// NewRequirement compiles c. Its error holds every mistake.
func NewRequirement(c *RequireConfig) (*Requirement, error) {
	var p setting.Problems
	q := c.compile(&p)
	var list []error
	for _, problem := range p.List() {
		list = append(list, errors.New(strings.TrimPrefix(problem.Path+": "+problem.Expected, ": ")))
	}
	if len(list) > 0 {
		return nil, errors.Join(list...)
	}
	return q, nil
}

func (c *RequireConfig) compile(p *setting.Problems) *Requirement {
	q := &Requirement{}
	if len(c.Scope)+len(c.Roles)+len(c.Claims) == 0 && c.Expr == "" {
		p.Add("", "expected at least one of scope, roles, claims, expr")
	}
	bounded := func(key string, n int) bool {
		if n > mostConditions {
			p.Add(key, "expected at most %d entries, got %d", mostConditions, n)
		}
		return n <= mostConditions
	}

	var named []string
	if bounded("scope", len(c.Scope)) {
		for i, words := range c.Scope {
			at := entry("scope", i)
			list := strings.Fields(words)
			if len(list) == 0 {
				p.Add(at, "expected a scope, got nothing")
			}
			for _, s := range list {
				any, why := alternatives(s)
				if why == "" && !isScope(s) {
					why = "expected scopes of printable ASCII without quotes and backslashes"
				}
				if why != "" {
					p.Add(at, "%s, got %q", why, s)
					continue
				}
				q.scopes = append(q.scopes, any)
				q.scopeReasons = append(q.scopeReasons, ReasonScope+": "+s)
				named = append(named, any[0])
			}
		}
	}
	q.challenge = strings.Join(named, " ")

	q.in = c.RolesClaim
	if len(q.in) == 0 {
		q.in = defaultRoles
	} else if len(c.Roles) == 0 {
		p.Add("roles_claim", "expected roles beside it: without them it does nothing")
	}
	bounded("roles_claim", len(c.RolesClaim))
	for i, path := range c.RolesClaim {
		if why := checkValue(path); why != "" {
			p.Add(entry("roles_claim", i), "expected the path of a claim: %s", why)
		}
	}
	bounded("roles", len(c.Roles))
	for i, role := range c.Roles {
		if why := checkValue(role); why != "" {
			p.Add(entry("roles", i), "expected a role: %s", why)
		}
	}
	q.roles = slices.Clone(c.Roles)
	q.roleReason = ReasonRole + ": " + strings.Join(c.Roles, "|")

	if bounded("claims", len(c.Claims)) {
		for _, path := range slices.Sorted(maps.Keys(c.Claims)) {
			at, value := "claims."+setting.Key(path), c.Claims[path]
			if why := checkValue(path); why != "" {
				p.Add(at, "expected the path of a claim: %s", why)
				continue
			}
			rule := claimRule{path: path, reason: ReasonClaim + ": " + path}
			if value != "*" {
				var why string
				if rule.values, why = alternatives(value); why != "" {
					p.Add(at, "%s, got %q", why, value)
					continue
				}
			}
			q.claims = append(q.claims, rule)
		}
	}

	if c.Expr != "" {
		e, err := newExpression(c.Expr)
		if err != nil {
			p.Add("expr", "%v", err)
		}
		q.expr = e
	}
	return q
}

// entry is the path of an entry of the list key.
func entry(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// alternatives cuts a|b|c.
func alternatives(s string) (list []string, why string) {
	list = strings.Split(s, "|")
	if len(list) > mostConditions {
		return nil, "expected fewer alternatives"
	}
	for _, a := range list {
		if why := checkValue(a); why != "" {
			return nil, "expected a value, or several with | between: " + why
		}
		if a == "*" && len(list) > 1 {
			return nil, "expected * alone: it stands for any value"
		}
	}
	return list, ""
}

func checkValue(s string) (why string) {
	switch _, ok := printable(s); {
	case s == "":
		return "it is empty"
	case len(s) > longestValue:
		return "it is longer than 512 bytes"
	case !ok:
		return "it holds control characters"
	}
	return ""
}

// Check tells whether the callers in proof may make r. reason is for the log: one of
// the reasons above and what was missing, never a value of the request. scope
// is what a Bearer challenge is to name (RFC 6750 3), when scopes were missing.
// Without an expression it neither blocks nor allocates; an expression
// allocates a little and its work is bounded. An expression that cannot be
// told, whatever the cause, refuses.
func (q *Requirement) Check(r *Request, proof *Proof) (ok bool, reason, scope string) {
	if q == nil {
		return true, "", ""
	}
	for i, any := range q.scopes {
		if !proof.granted(any) {
			return false, q.scopeReasons[i], q.challenge
		}
	}
	if len(q.roles) > 0 && !proof.holdsRole(q.in, q.roles) {
		return false, q.roleReason, ""
	}
	for i := range q.claims {
		if rule := &q.claims[i]; !proof.meets(rule) {
			return false, rule.reason, ""
		}
	}
	if q.expr != nil {
		if ok, why := q.expr.holds(r, proof); !ok {
			return false, why, ""
		}
	}
	return true, "", ""
}

func (p *Proof) granted(any []string) bool {
	for _, id := range p.By[:p.N] {
		for _, s := range any {
			if id.HasScope(s) {
				return true
			}
		}
	}
	return false
}

func (p *Proof) holdsRole(paths, roles []string) bool {
	for _, id := range p.By[:p.N] {
		for _, path := range paths {
			for _, role := range roles {
				if id.held.has(path, role) {
					return true
				}
			}
		}
	}
	return false
}

func (p *Proof) meets(rule *claimRule) bool {
	for _, id := range p.By[:p.N] {
		if rule.values == nil && len(id.held[rule.path]) > 0 {
			return true
		}
		for _, v := range rule.values {
			if id.held.has(rule.path, v) {
				return true
			}
		}
	}
	return false
}

// String says in words what must hold.
func (c *RequireConfig) String() string {
	var parts []string
	if len(c.Scope) > 0 {
		parts = append(parts, "scope "+strings.Join(c.Scope, " "))
	}
	if len(c.Roles) > 0 {
		parts = append(parts, "role "+strings.Join(c.Roles, "|"))
	}
	for _, path := range slices.Sorted(maps.Keys(c.Claims)) {
		parts = append(parts, "claim "+path+"="+c.Claims[path])
	}
	if c.Expr != "" {
		parts = append(parts, c.Expr)
	}
	return strings.Join(parts, " and ")
}
