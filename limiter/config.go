package limiter

import (
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/setting"
)

// Config describes one limit: a rate, a number of requests in flight or a quota,
// whichever of Rate, Concurrent and Quota is written. Its short form is its rate
// or its quota.
type Config struct {
	Rate       string            `yaml:"rate" doc:"Requests that each key may make in the long run, evenly: 100/s, 5000/m, 10/h or 1000/d."`
	Burst      int               `yaml:"burst" default:"0" min:"0" max:"1000000" doc:"Requests that each key may make at once after a pause. 0 is what the rate gives in one second, at least 1."`
	Concurrent int               `yaml:"concurrent" default:"0" min:"0" max:"1000000" doc:"Requests of each key that may be at work at one time, instead of a rate."`
	Quota      string            `yaml:"quota" doc:"Requests that each key may make in a window of the calendar, instead of a rate: 1000/hour, 50000/day, 200000/week or 1000000/month."`
	Timezone   string            `yaml:"timezone" doc:"Whose calendar the windows of a quota follow, such as Europe/Berlin. Nothing is UTC."`
	File       string            `yaml:"file" doc:"Where the counts of a quota outlive the process. Nothing keeps them in memory only."`
	Save       setting.Duration  `yaml:"save" default:"10s" min:"100ms" max:"1h" doc:"How often the file is written: what a crash may forget."`
	Key        string            `yaml:"key" default:"ip" doc:"Who shares a budget: ip, route, identity, claim:PATH, header:NAME, cookie:NAME, several joined by + (all of them) or | (the first that is there), such as claim:sub|ip+route. A client chooses its headers and cookies: alone they bound only those who play fair."`
	Missing    string            `yaml:"missing" default:"share" enum:"share,skip" doc:"What becomes of requests that lack a part of the key: share gives all of them one budget, skip leaves them to the other limits."`
	Plans      map[string]string `yaml:"plans" doc:"Other rates, quotas or numbers in flight by name, for keys that have them."`
	PlanBy     string            `yaml:"plan_by" doc:"What tells the plan of a request: claim:PATH, whose text is a name under plans or itself a rate, quota or number. Nobody's plan is the limit's own."`
	PlanMax    string            `yaml:"plan_max" doc:"The most that a claim may ask for; one that asks for more gets this. Nothing is the most of the limit's own and its plans."`
	Cost       int               `yaml:"cost" default:"1" min:"1" max:"1000000" doc:"What one request takes from the budget."`
	DryRun     bool              `yaml:"dry_run" default:"false" doc:"Count what would be refused, refuse nothing and send no headers."`
	Keys       int               `yaml:"keys" default:"65536" min:"1024" max:"16777216" doc:"Keys with a budget in use that are followed at one time; each takes 16 bytes, 32 with a quota, from the start."`
	OnFull     string            `yaml:"on_full" default:"open" enum:"open,closed" doc:"What a new key is answered while keys are used up: open lets it pass, closed refuses it."`
	Headers    bool              `yaml:"headers" default:"true" doc:"Tell clients of their budget in RateLimit and RateLimit-Policy."`
	Shared     *SharedConfig     `yaml:"shared" doc:"Keep one budget for several gateways, on Redis. Short form: the name of the Redis."`
	IPv6Prefix int               `yaml:"ipv6_prefix" default:"64" min:"16" max:"128" doc:"Bits of an IPv6 address that count as one ip: who has one address has its whole network."`
}

// Shorthand reads the short form of a limit: its rate or its quota.
func (c *Config) Shorthand(s string) {
	if _, ok := parseQuota(s); ok {
		c.Quota = s
	} else {
		c.Rate = s
	}
}

// String says what c allows: its rate, its quota, or its number in flight.
func (c *Config) String() string {
	switch c.kind() {
	case ByConcurrency:
		return countText(int64(c.Concurrent)) + " in flight"
	case ByQuota:
		return c.Quota
	}
	return c.Rate
}

// kind is what c limits. It is told from what is written.
func (c *Config) kind() Kind {
	switch {
	case c.Quota != "":
		return ByQuota
	case c.Concurrent > 0:
		return ByConcurrency
	}
	return ByRate
}

// longestRefill bounds the time in which a budget that is used up becomes
// whole again, so that every time in a Decision fits.
const longestRefill = 366 * 24 * time.Hour

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	if _, err := ParseKey(c.Key); err != nil {
		p.Add("key", "%v", err)
	}
	if c.PlanBy != "" {
		if word, path, _ := strings.Cut(c.PlanBy, ":"); word != "claim" || !isClaim(path) {
			p.Add("plan_by", "expected claim:PATH, such as claim:plan, got %q", c.PlanBy)
		}
	}
	written := 0
	for _, is := range []bool{c.Rate != "", c.Concurrent > 0, c.Quota != ""} {
		if is {
			written++
		}
	}
	if written > 1 {
		p.Add("", "expected one of rate, concurrent and quota, got %d of them; make a limit of each and name them all on the route", written)
		return
	}
	kind := c.kind()
	if kind != ByRate && c.Burst != 0 {
		p.Add("burst", "expected none: only a rate has a burst")
	}
	if kind != ByQuota {
		for _, f := range []struct{ key, value string }{{"timezone", c.Timezone}, {"file", c.File}} {
			if f.value != "" {
				p.Add(f.key, "expected none: only a quota has one")
			}
		}
	}
	switch kind {
	case ByConcurrency:
		if c.Shared != nil {
			p.Add("shared", "expected none with concurrent: requests in flight are counted by each gateway for itself")
		}
		if c.Cost > 1 {
			p.Add("cost", "expected 1: a request in flight counts once; got %d", c.Cost)
		}
	case ByQuota:
		if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" {
			p.Add("timezone", "expected the name of a time zone that this machine knows, such as UTC or Europe/Berlin, got %q", c.Timezone)
		}
	}
	c.validatePlans(p, kind)
}

// validatePlans checks the limit's own plan and the others.
func (c *Config) validatePlans(p *setting.Problems, kind Kind) {
	own, ok := c.own()
	switch {
	case !ok && kind == ByQuota:
		p.Add("quota", "expected "+quotaWant+", got %q", c.Quota)
		return
	case !ok:
		p.Add("rate", "expected "+rateWant+", got %q", c.Rate)
		return
	}
	fastest, fine := own, true
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		path := "plans." + setting.Key(name)
		if name == "" || len(name) > mostToName {
			p.Add(path, "expected a name of up to %d bytes, got one of %d", mostToName, len(name))
		}
		plan, ok := own.parse(c.Plans[name])
		if !ok {
			p.Add(path, "expected %s, got %q", own.want(), c.Plans[name])
			fine = false
			continue
		}
		if plan.over(fastest) {
			fastest = plan
		}
	}
	if c.PlanMax != "" {
		most, ok := own.parse(c.PlanMax)
		switch {
		case !ok:
			p.Add("plan_max", "expected %s, got %q", own.want(), c.PlanMax)
			fine = false
		case fastest.over(most):
			p.Add("plan_max", "expected at least the most of the limit's own and its plans, %s, got %q", fastest.text(), c.PlanMax)
			fine = false
		default:
			fastest = most
		}
	}
	if !fine {
		return
	}
	c.validateRoom(p, "", own, own, fastest)
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		plan, _ := own.parse(c.Plans[name])
		c.validateRoom(p, "plans."+setting.Key(name), plan, own, fastest)
	}
}

// validateRoom checks that a plan can be counted, and that a request can ever
// pass. path is "" for the limit's own.
func (c *Config) validateRoom(p *setting.Problems, path string, plan, own, fastest Plan) {
	at := func(key string) string {
		if path != "" {
			return path
		}
		return key
	}
	if plan.rate == (Rate{}) {
		if int64(c.Cost) > plan.most {
			p.Add(at("cost"), "expected at most the quota, %d: a request of more would never pass; got %d", plan.most, c.Cost)
		}
		return
	}
	units := plan.rate.unitsAt(fastest.rate)
	if units > mostRoom {
		p.Add(at("rate"), "expected a millionth of the limit's fastest rate, %v, or more, got %v: make a limit of its own for it", fastest.rate, plan.rate)
		return
	}
	burst := plan.burst(c.Burst, own.rate)
	if most := int64(longestRefill/plan.rate.Per) * plan.rate.Count; burst > most {
		p.Add(at("burst"), "expected at most %d, what %v gives in 366 days, got %d", most, plan.rate, burst)
		return
	}
	if most := mostRoom / units; burst > most {
		p.Add(at("burst"), "expected at most %d for %v beside %v, got %d", most, plan.rate, fastest.rate, burst)
		return
	}
	if int64(c.Cost) > burst {
		p.Add(at("cost"), "expected a cost of at most the burst, %d: a request of more would never pass; got %d", burst, c.Cost)
	}
}
