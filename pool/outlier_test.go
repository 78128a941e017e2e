package pool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/setting"
)

func testOutlierConfig() OutlierConfig {
	return OutlierConfig{Errors: 5, MinRequests: 10, Interval: setting.Duration(10 * time.Second),
		Eject: setting.Duration(30 * time.Second), MaxEject: setting.Duration(100 * time.Second), MaxEjected: 0.5}
}

func TestOutlierScript(t *testing.T) {
	var j *judge
	var targets []*Target
	setup := func(args []string) {
		c, n := testOutlierConfig(), 3
		scriptSettings(t, args, map[string]func(string) error{
			"targets": intoInt(&n), "errors": intoInt(&c.Errors), "rate": intoPercent(&c.ErrorRate),
			"slow": func(s string) (err error) { c.SlowFactor, err = strconv.ParseFloat(s, 64); return err },
			"min":  intoInt(&c.MinRequests), "interval": intoDuration(&c.Interval), "eject": intoDuration(&c.Eject),
			"max": intoDuration(&c.MaxEject), "max_ejected": intoPercent(&c.MaxEjected),
		})
		j, targets = newJudge(&c), nil
		for range n {
			targets = append(targets, &Target{})
		}
		j.sweep(targets, 0)
	}
	run := func(now int64, event []string) string {
		var on []*Target // the targets named, all for none
		for _, w := range event[1:] {
			if w[0] >= 'A' && w[0] <= 'Z' {
				on = append(on, targets[w[0]-'A'])
			}
		}
		switch last := event[len(event)-1]; event[0] {
		case "good", "fail":
			n, err := strconv.Atoi(last)
			if err != nil {
				n = 1
			}
			for _, target := range on {
				for range n {
					j.saw(target, event[0] == "fail", targets, now)
				}
			}
		case "took": // enough answers of that time to judge by
			d, _ := time.ParseDuration(last)
			for _, target := range on {
				for range 50 {
					target.latency.add(int64(d))
				}
				target.latency.sweep(now)
			}
		case "down":
			on[0].standing.down.Store(true)
		case "sweep":
			for _, target := range targets {
				target.latency.sweep(now)
			}
			j.sweep(targets, now)
		}
		var out []string
		for i, target := range targets {
			if left := target.conduct.until.Load() - now; left > 0 {
				out = append(out, fmt.Sprintf("%c out for %s", 'A'+i, time.Duration(left)))
			}
		}
		if len(out) == 0 {
			return "all in"
		}
		return strings.Join(out, ", ")
	}
	runScript(t, "outlier.txt", setup, run)
}

// Whatever the answers, never more than max_ejected are out (one always may)
// and never everyone, nor everyone that active checks leave.
func TestOutlierProperty(t *testing.T) {
	for seed := range runs(200) {
		r := rand.New(rand.NewPCG(seed, 11))
		c := testOutlierConfig()
		c.Errors, c.ErrorRate = 1+r.IntN(5), setting.Percent(r.IntN(2))*0.5
		c.MaxEjected = setting.Percent(r.IntN(11)) / 10
		c.Eject = setting.Duration(1 + r.Int64N(60e9))
		j := newJudge(&c)
		targets := make([]*Target, 1+r.IntN(12))
		for i := range targets {
			targets[i] = &Target{}
			targets[i].standing.down.Store(r.IntN(5) == 0)
		}
		up := func(now int64) (n int) {
			for _, target := range targets {
				if !target.standing.down.Load() && target.conduct.until.Load() <= now {
					n++
				}
			}
			return n
		}
		now := int64(0)
		for range 3000 {
			now += r.Int64N(1e8)
			before := up(now)
			j.saw(targets[r.IntN(len(targets))], r.IntN(10) > 1, targets, now)
			j.sweep(targets, now)
			out := 0
			for _, target := range targets {
				if target.conduct.until.Load() > now {
					out++
				}
			}
			if most := max(1, int(float64(c.MaxEjected)*float64(len(targets))+1e-9)); out > most || out == len(targets) {
				t.Fatalf("seed %d: %d of %d out with max_ejected %s", seed, out, len(targets), c.MaxEjected)
			}
			if before > 0 && up(now) == 0 {
				t.Fatalf("seed %d: the last target that was left is out", seed)
			}
		}
	}
}

func TestOutlierStress(t *testing.T) {
	c := testOutlierConfig()
	c.ErrorRate, c.Eject = 0.5, setting.Duration(time.Second)
	j := newJudge(&c)
	targets := make([]*Target, 6)
	for i := range targets {
		targets[i] = &Target{}
	}
	var all sync.WaitGroup
	for g := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range int64(20000) {
				now := i * 1e6
				j.saw(targets[r.IntN(6)], r.IntN(4) > 0, targets, now)
				if i%100 == 0 {
					j.sweep(targets, now)
					targets[g].conduct.rampUp(int64(time.Second), now)
				}
			}
		})
	}
	all.Wait()
	if j.ejected.Load() == 0 {
		t.Error("expected ejections")
	}
}

func TestOutlierFailure(t *testing.T) {
	f := func(j *judge, bad ...int) {
		t.Helper()
		for status := 100; status < 600; status++ {
			if got, want := j.failure(status), slices.Contains(bad, status); got != want {
				t.Errorf("%d: expected %v, got %v", status, want, got)
			}
		}
	}
	f(nil, 500, 502, 503, 504)
	c := testOutlierConfig()
	f(newJudge(&c), 500, 502, 503, 504)
	c.Statuses = []int{404, 500}
	f(newJudge(&c), 404, 500)
	if newJudge(nil) != nil {
		t.Error("expected no judge without a config")
	}
	var none *judge
	none.saw(&Target{}, true, nil, 0)
	none.sweep(nil, 0)
}

func TestOutlierValidate(t *testing.T) {
	f := func(change func(*OutlierConfig), want string) {
		t.Helper()
		c := testOutlierConfig()
		change(&c)
		p := setting.NewProblems(nil)
		c.Validate(p)
		var got []string
		for _, problem := range p.List() {
			got = append(got, problem.Path+": "+problem.Expected)
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("expected %q, got %q", want, got)
		}
	}
	f(func(*OutlierConfig) {}, "")
	f(func(c *OutlierConfig) { c.SlowFactor = 1 }, "slow_factor: expected 0 or more than 1, got 1")
	f(func(c *OutlierConfig) { c.MaxEject = 1e9 }, "max_eject: expected at least eject, which is 30s, got 1s")
	f(func(c *OutlierConfig) { c.Statuses = []int{500, 42} }, "statuses[1]: expected a status from 100 to 599, got 42")
}

// The share of a target that has come back grows from a tenth to all. The
// bounds are passed by chance once in 1e9 runs.
func TestRampUp(t *testing.T) {
	const slowStart = int64(10e9)
	f := func(since int64, share float64) {
		t.Helper()
		var c conduct
		c.returned.Store(100e9)
		counts := make([]int, 2)
		for range 20_000 {
			if c.rampUp(slowStart, 100e9+since) {
				counts[0]++
			} else {
				counts[1]++
			}
		}
		checkShares(t, counts, []float64{share, 1 - share})
	}
	f(-5e9, 0.1) // taken all the same while it is out
	f(0, 0.1)
	f(5e8, 0.1)
	f(3e9, 0.3)
	f(5e9, 0.5)
	f(9e9, 0.9)

	var c conduct
	always := func(why string, slowStart, now int64) {
		t.Helper()
		for range 1000 {
			if !c.rampUp(slowStart, now) {
				t.Fatalf("%s: expected every request", why)
			}
		}
	}
	always("never away", slowStart, 1)
	c.returned.Store(100e9)
	always("no slow start", 0, 100e9)
	always("over", slowStart, 110e9)
	always("over for good", slowStart, 101e9)
}
