package auth

import "sluice/observe"

// Policy is what a route asks of its callers. It never changes once it is in
// use.
type Policy struct {
	Any      []Group // any of them; none at all lets everybody pass
	Optional bool    // a request without a credential passes, one with a bad one does not
	Require  *Requirement

	guessable  bool
	challenges []string
	places     Places
}

// Group is authenticators that must all prove the request.
type Group []*Member

// Member is an authenticator and what it has decided so far. It lives as long as
// the authenticator keeps its name.
type Member struct {
	Authenticator
	Counts  Counts
	config  Config
	kind    string
	headers []HeaderLine
}

// Counts counts decisions of one authenticator.
type Counts struct {
	Recalled    observe.Counter // proven from memory
	Verified    observe.Counter // proven anew
	Refused     observe.Counter
	Unavailable observe.Counter
	Answered    observe.Counter
}

func (c *Counts) count(o Outcome, recalled bool) {
	switch o {
	case Identified:
		if recalled {
			c.Recalled.Inc()
		} else {
			c.Verified.Inc()
		}
	case Refused:
		c.Refused.Inc()
	case Unavailable:
		c.Unavailable.Inc()
	case Answered:
		c.Answered.Inc()
	}
}

// MostProven is how many authenticators of a group may prove one request.
const MostProven = 4

// Proof is who a request comes from: what each authenticator of the group that
// held has proven, in the group's order.
type Proof struct {
	Group Group
	By    [MostProven]*Identity
	N     int
}

// Forget makes p empty.
func (p *Proof) Forget() {
	if p.N > 0 {
		*p = Proof{}
	}
}

// Identity is the first of the group's identities, nil when nobody was proven.
func (p *Proof) Identity() *Identity { return p.By[0] }

// Claim is the claim at path of the first identity that has it.
func (p *Proof) Claim(path string) (string, bool) {
	for _, id := range p.By[:p.N] {
		if s, ok := id.Claim(path); ok {
			return s, true
		}
	}
	return "", false
}

// HeaderLine is a header that tells the target of the caller.
type HeaderLine struct{ Name, Claim string }

// Ready prepares p for use, once.
func (p *Policy) Ready() *Policy {
	for _, g := range p.Any {
		for _, m := range g {
			p.guessable = p.guessable || m.Guessable()
			if c := m.Challenge(); c != "" {
				p.challenges = append(p.challenges, c)
			}
			if c, ok := m.Authenticator.(Copier); ok {
				// What it brings replaces what the client sent.
				p.places.Headers = append(p.places.Headers, c.CopiedHeaders()...)
			}
			for _, h := range m.headers {
				p.places.Headers = append(p.places.Headers, h.Name)
			}
			if m.config.Forwards {
				continue
			}
			at := m.Places()
			p.places.Schemes = append(p.places.Schemes, at.Schemes...)
			p.places.Headers = append(p.places.Headers, at.Headers...)
			p.places.Cookies = append(p.places.Cookies, at.Cookies...)
			p.places.Query = append(p.places.Query, at.Query...)
		}
	}
	return p
}

// Headers is what the member's settings tell the target of the caller, by name.
func (m *Member) Headers() []HeaderLine { return m.headers }

// Guessable tells whether some authenticator takes credentials that people choose.
func (p *Policy) Guessable() bool { return p.guessable }

// Challenges are the WWW-Authenticate values for a request without credentials.
func (p *Policy) Challenges() []string { return p.challenges }

// Places is where all its authenticators look for credentials.
func (p *Policy) Places() Places { return p.places }

// Recall decides r from memory into proof, which must be empty. Outcome Unknown
// asks for Verify. With slowed, credentials that people choose are Unknown
// whatever memory says.
func (p *Policy) Recall(r *Request, slowed bool, proof *Proof) Result {
	return p.decide(r, proof, slowed, false)
}

// Verify decides r whatever it takes. It never returns Unknown.
func (p *Policy) Verify(r *Request, proof *Proof) Result { return p.decide(r, proof, false, true) }

func (p *Policy) decide(r *Request, proof *Proof, slowed, verify bool) Result {
	worst := Result{Outcome: Absent}
	var cookies []Line // of groups that did not hold: a renewed session is the client's all the same
	for _, g := range p.Any {
		res := g.decide(r, proof, slowed, verify)
		if cookies = append(cookies, res.SetCookies...); res.Outcome == Identified {
			proof.Group, res.SetCookies = g, cookies
			return res
		}
		proof.Forget()
		if weight[res.Outcome] > weight[worst.Outcome] {
			worst = res
		}
	}
	worst.SetCookies = cookies
	return worst
}

// weight orders what is said when no group held: a credential that may still be
// good beats a refusal, and a refusal an invitation to log in.
var weight = [...]int{Absent: 0, Answered: 1, Refused: 2, Unavailable: 3, Unknown: 4}

// reasonPart refuses a request that has some of a group's credentials.
const reasonPart = "a credential of the group is missing"

// part tells whether r has a credential for another member than the ith, of
// which those before it were proven.
func (g Group) part(r *Request, i int) bool {
	if i > 0 {
		return true
	}
	for _, m := range g[1:] {
		if m.Recall(r).Outcome != Absent {
			return true
		}
	}
	return false
}

func (g Group) decide(r *Request, proof *Proof, slowed, verify bool) Result {
	var res Result
	var cookies []Line
	for i, m := range g {
		if slowed && m.Guessable() {
			res = Result{Outcome: Unknown}
		} else {
			res = m.Recall(r)
		}
		recalled := true
		if res.Outcome == Unknown {
			if !verify {
				return res
			}
			res, recalled = m.Verify(r), false
		}
		// What Recall left Unknown is decided twice; it counts once.
		if verify && !recalled || !verify && recalled {
			m.Counts.count(res.Outcome, recalled)
		}
		cookies = append(cookies, res.SetCookies...)
		res.SetCookies = cookies
		if res.Outcome == Absent && g.part(r, i) {
			// Half a proof is a bad one: optional is for those who bring none.
			return Result{Outcome: Refused, Reason: reasonPart, Challenge: m.Challenge(), Session: true, SetCookies: cookies}
		}
		if res.Outcome != Identified {
			_, res.Session = m.Authenticator.(Handler)
			return res
		}
		proof.By[i], proof.N = res.Identity, i+1
	}
	return res
}
