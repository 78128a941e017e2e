package limiter

import (
	"time"

	"sluice/setting"
)

// Config describes one limit. Its short form is its rate. Two Configs are
// compared with ==.
type Config struct {
	Rate       string `yaml:"rate" doc:"Requests that each key may make in the long run: 100/s, 5000/m, 10/h or 1000/d."`
	Burst      int    `yaml:"burst" default:"0" min:"0" max:"1000000" doc:"Requests that each key may make at once after a pause. 0 is what the rate gives in one second, at least 1."`
	Key        string `yaml:"key" default:"ip" doc:"Who shares a budget: ip, route, header:NAME, cookie:NAME, or several joined by +, such as ip+header:X-Tenant. A client chooses its headers and cookies: alone they bound only those who play fair."`
	Cost       int    `yaml:"cost" default:"1" min:"1" max:"1000000" doc:"What one request takes from the budget."`
	DryRun     bool   `yaml:"dry_run" default:"false" doc:"Count what would be refused, refuse nothing and send no headers."`
	Keys       int    `yaml:"keys" default:"65536" min:"1024" max:"16777216" doc:"Keys with a budget in use that are followed at one time; each takes 16 bytes, from the start."`
	OnFull     string `yaml:"on_full" default:"open" enum:"open,closed" doc:"What a new key is answered while keys are used up: open lets it pass, closed refuses it."`
	Headers    bool   `yaml:"headers" default:"true" doc:"Tell clients of their budget in RateLimit and RateLimit-Policy."`
	IPv6Prefix int    `yaml:"ipv6_prefix" default:"64" min:"16" max:"128" doc:"Bits of an IPv6 address that count as one ip: who has one address has its whole network."`
}

// Shorthand reads the short form of a limit: its rate.
func (c *Config) Shorthand(s string) { c.Rate = s }

// longestRefill bounds the time in which a budget that is used up becomes
// whole again, so that every time in a Decision fits.
const longestRefill = 366 * 24 * time.Hour

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	if _, err := ParseKey(c.Key); err != nil {
		p.Add("key", "%v", err)
	}
	rate, err := ParseRate(c.Rate)
	if err != nil {
		p.Add("rate", "expected "+rateWant+", got %q", c.Rate)
		return
	}
	burst := c.burst(rate)
	if most := int64(longestRefill/rate.Per) * rate.Count; burst > most {
		p.Add("burst", "expected at most %d, what %v gives in 366 days, got %d", most, rate, burst)
	}
	if int64(c.Cost) > burst {
		p.Add("cost", "expected at most the burst, %d: a request of more would never pass; got %d", burst, c.Cost)
	}
}

// burst is the burst that applies.
func (c *Config) burst(r Rate) int64 {
	if c.Burst > 0 {
		return int64(c.Burst)
	}
	return r.perSecond()
}
