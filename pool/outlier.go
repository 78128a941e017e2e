package pool

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"sluice/setting"
)

// OutlierConfig describes passive health: a target whose answers are worse
// than they should be is passed over for a while.
type OutlierConfig struct {
	Errors      int              `yaml:"errors" default:"5" min:"0" max:"1000000" doc:"Failures in a row that eject a target. 0 ignores them."`
	ErrorRate   setting.Percent  `yaml:"error_rate" default:"0%" doc:"The share of failed answers in an interval that ejects a target. 0 ignores it."`
	SlowFactor  float64          `yaml:"slow_factor" default:"0" min:"0" max:"1000" doc:"Eject a target whose median answer takes this many times longer than the median of all. 0 ignores it."`
	MinRequests int              `yaml:"min_requests" default:"20" min:"1" max:"1000000" doc:"Answers in an interval below which rate and slowness say nothing."`
	Interval    setting.Duration `yaml:"interval" default:"10s" min:"1s" max:"1h" doc:"How often rate and slowness are looked at."`
	Eject       setting.Duration `yaml:"eject" default:"30s" min:"10ms" max:"24h" doc:"How long a target is passed over the first time; each further time it is that much longer."`
	MaxEject    setting.Duration `yaml:"max_eject" default:"5m" min:"10ms" max:"24h" doc:"How long it is passed over at the most."`
	MaxEjected  setting.Percent  `yaml:"max_ejected" default:"50%" doc:"The share of targets that may be ejected at one time; one always may. The last one that is left never is."`
	Statuses    []int            `yaml:"statuses" doc:"The statuses that count as failures. None: 500, 502, 503, 504."`
}

// Validate reports what the tags cannot say.
func (c *OutlierConfig) Validate(p *setting.Problems) {
	if c.SlowFactor > 0 && c.SlowFactor <= 1 {
		p.Add("slow_factor", "expected 0 or more than 1, got %v", c.SlowFactor)
	}
	if c.MaxEject < c.Eject {
		p.Add("max_eject", "expected at least eject, which is %s, got %s", c.Eject, c.MaxEject)
	}
	for i, s := range c.Statuses {
		if s < 100 || s > 599 {
			p.Add(indexed("statuses", i, ""), "expected a status from 100 to 599, got %d", s)
		}
	}
}

// judge ejects targets of one upstream that are outliers and lets them back.
// What is counted for each answer is a few atomics of the target; the lock is
// taken only to eject and to sweep. It takes the time as an argument and does
// no IO. A nil judge ejects nobody.
type judge struct {
	cfg     OutlierConfig
	mu      sync.Mutex
	next    int64 // when to look at rate and slowness
	ejected atomic.Uint64
}

// conduct is what a judge knows of a target. It stays with the target over a
// reload, whatever becomes of the judge.
type conduct struct {
	inRow    atomic.Int32 // failures
	answers  atomic.Uint32
	failed   atomic.Uint32
	until    atomic.Int64 // ejected until
	times    atomic.Int32 // ejections that still count
	returned atomic.Int64 // when it came back last; slow start runs from here
}

func newJudge(cfg *OutlierConfig) *judge {
	if cfg == nil {
		return nil
	}
	return &judge{cfg: *cfg}
}

// failure tells whether an answer of this status counts as one.
func (j *judge) failure(status int) bool {
	if j != nil && len(j.cfg.Statuses) > 0 {
		return slices.Contains(j.cfg.Statuses, status)
	}
	return status == http.StatusInternalServerError || status >= http.StatusBadGateway && status <= http.StatusGatewayTimeout
}

// saw takes in how a request on t ended. While t is ejected nothing counts:
// what still comes in was sent before, and must not eject it again as soon as
// it is back.
func (j *judge) saw(t *Target, failed bool, targets []*Target, now int64) {
	if j == nil {
		return
	}
	c := &t.conduct
	if c.until.Load() > now {
		return
	}
	c.answers.Add(1)
	if !failed {
		if c.inRow.Load() != 0 {
			c.inRow.Store(0)
		}
		return
	}
	c.failed.Add(1)
	// Only the failure that completes a row goes for the lock; when nobody
	// may be ejected the next row tries again. Else an outage of everything
	// would have all requests queue here.
	if n := c.inRow.Add(1); j.cfg.Errors > 0 && n >= int32(j.cfg.Errors) && c.inRow.CompareAndSwap(n, 0) {
		j.eject(t, targets, now)
	}
}

// overtaken takes in that a second try on another target was faster than t by
// far. It counts towards the row of failures only.
func (j *judge) overtaken(t *Target, targets []*Target, now int64) {
	if j == nil {
		return
	}
	if n := t.conduct.inRow.Add(1); j.cfg.Errors > 0 && n >= int32(j.cfg.Errors) {
		j.eject(t, targets, now)
	}
}

// eject passes t over for a while, unless too many are already or it is the
// last one that is left.
func (j *judge) eject(t *Target, targets []*Target, now int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := &t.conduct
	if c.until.Load() > now {
		return
	}
	out, left := 0, 0
	for _, o := range targets {
		switch {
		case o.conduct.until.Load() > now:
			out++
		case o != t && !o.standing.down.Load():
			left++
		}
	}
	if left == 0 || out > 0 && float64(out+1) > float64(j.cfg.MaxEjected)*float64(len(targets))+1e-9 {
		return
	}
	times := c.times.Add(1)
	long := int64(j.cfg.MaxEject)
	if n := int64(j.cfg.Eject); int64(times) <= long/max(n, 1) {
		long = n * int64(times)
	}
	c.inRow.Store(0)
	c.answers.Store(0)
	c.failed.Store(0)
	c.returned.Store(now + long)
	c.until.Store(now + long)
	j.ejected.Add(1)
}

// sweep looks at rate and slowness when an interval is over, and forgives one
// earlier ejection of every target that has behaved for one.
func (j *judge) sweep(targets []*Target, now int64) {
	if j == nil {
		return
	}
	j.mu.Lock()
	due := now >= j.next
	if due {
		j.next = now + int64(j.cfg.Interval)
	}
	j.mu.Unlock()
	if !due {
		return
	}
	middle := j.middle(targets)
	for _, t := range targets {
		c := &t.conduct
		n, failed := c.answers.Swap(0), c.failed.Swap(0)
		bad := n >= uint32(j.cfg.MinRequests) && reaches(uint64(failed), uint64(n), j.cfg.ErrorRate)
		// Times from before an ejection say nothing of the target as it is.
		if middle > 0 && now-c.until.Load() >= 2*latencyHalf && t.latency.count.Load() >= uint32(j.cfg.MinRequests) {
			bad = bad || float64(t.latency.Quantile(50)) > j.cfg.SlowFactor*float64(middle)
		}
		switch {
		case bad:
			j.eject(t, targets, now)
		case now-c.until.Load() >= int64(j.cfg.Interval) && c.times.Load() > 0:
			c.times.Add(-1)
		}
	}
}

// middle is the median of the targets' median answer times, or 0 when
// slowness is not looked at or too few are known. Of two middle ones it is the
// lower: with two targets the faster is the measure.
func (j *judge) middle(targets []*Target) int64 {
	if j.cfg.SlowFactor <= 0 {
		return 0
	}
	var medians []int64
	for _, t := range targets {
		if m := t.latency.Quantile(50); m > 0 && t.latency.count.Load() >= uint32(j.cfg.MinRequests) {
			medians = append(medians, m)
		}
	}
	if len(medians) < 2 {
		return 0
	}
	slices.Sort(medians)
	return medians[(len(medians)-1)/2]
}

// rampUp tells whether a target that came back a while ago takes this request:
// its share grows evenly over the slow start, from a tenth. Where every target
// of an upstream says no, the caller takes one all the same.
func (c *conduct) rampUp(slowStart, now int64) bool {
	back := c.returned.Load()
	if back == 0 || slowStart <= 0 {
		return true
	}
	since := now - back
	if since >= slowStart {
		c.returned.CompareAndSwap(back, 0)
		return true
	}
	return rand.Float64() < max(0.1, float64(since)/float64(slowStart))
}
