package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sample is one contender in one round. Fields that a workload does not
// measure are zero and left out.
type sample struct {
	Round        int      `json:"round"`
	Order        int      `json:"order"` // its turn within the round, from 0
	CPUMicros    float64  `json:"cpu_us_per_request,omitempty"`
	Requests     int64    `json:"requests,omitempty"`
	PerSecond    float64  `json:"requests_per_second,omitempty"`
	P50Micros    int64    `json:"p50_us,omitempty"`
	P99Micros    int64    `json:"p99_us,omitempty"`
	Failed       int64    `json:"failed,omitempty"`
	CoreShare    float64  `json:"core_share,omitempty"` // of the gateway's core that the contender used
	Foreign      float64  `json:"foreign_share,omitempty"`
	Steal        float64  `json:"steal_share,omitempty"`
	Logged       *float64 `json:"logged_share,omitempty"` // access-log lines over answers; nil without a log
	BytesMoved   int64    `json:"body_bytes,omitempty"`
	BytesPerConn float64  `json:"bytes_per_connection,omitempty"`
	Resident     int64    `json:"resident_bytes,omitempty"`
	Error        string   `json:"error,omitempty"`
}

// cost is what the ratios compare: less is better.
func (s sample) cost() float64 {
	if s.Error != "" {
		return 0
	}
	return cmp.Or(s.BytesPerConn, s.CPUMicros)
}

// result is all rounds of one contender.
type result struct {
	Name    string   `json:"name"`
	Samples []sample `json:"samples"`
	Cost    float64  `json:"median_cost"` // CPU us a request, or bytes a connection
	// OverSluice is the median over rounds of this contender's cost over
	// Sluice's in the same round; SluiceOver is the other way round. Zero
	// when there is no round with both.
	OverSluice float64 `json:"median_over_sluice,omitempty"`
	SluiceOver float64 `json:"median_sluice_over,omitempty"`
}

// report is what is written for one workload.
type report struct {
	Workload    string    `json:"workload"`
	Started     time.Time `json:"started"`
	Rounds      int       `json:"rounds"`
	Seconds     int       `json:"seconds"`
	Warmup      int       `json:"warmup_seconds"`
	Connections int       `json:"connections"`
	Unit        string    `json:"cost_unit"`
	AccessLog   bool      `json:"access_log"`
	Machine     machine   `json:"machine"`
	Results     []result  `json:"results"`
}

// summarise fills the medians. A ratio is taken within a round, where both
// sides saw the same weather, before the median.
func (r *report) summarise() {
	ours := map[int]float64{}
	for _, c := range r.Results {
		for _, s := range c.Samples {
			if c.Name == "sluice" && s.cost() > 0 {
				ours[s.Round] = s.cost()
			}
		}
	}
	for i := range r.Results {
		c := &r.Results[i]
		var costs, over, under []float64
		for _, s := range c.Samples {
			if s.cost() <= 0 {
				continue
			}
			costs = append(costs, s.cost())
			if o := ours[s.Round]; o > 0 {
				over = append(over, s.cost()/o)
				under = append(under, o/s.cost())
			}
		}
		c.Cost, c.OverSluice, c.SluiceOver = median(costs), median(over), median(under)
	}
}

// median is 0 for nothing, else the middle or the mean of the two middles.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// over is the median of one field of the good samples.
func (c result) over(f func(sample) float64) float64 {
	var v []float64
	for _, s := range c.Samples {
		if s.Error == "" {
			v = append(v, f(s))
		}
	}
	return median(v)
}

// table writes the report as markdown.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "\n### %s\n\n", r.Workload)
	switch {
	case r.Workload == "idle":
		fmt.Fprintf(w, "Resident growth of the process tree for each of %d idle keep-alive connections that were served once; median of %d rounds. Kernel memory is not in it.\n\n", r.Connections, r.Rounds)
		fmt.Fprintln(w, "| contender | KiB a connection | min-max | resident MiB | contender / Sluice | Sluice / contender |")
		fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|")
	default:
		log := "access log off"
		if r.AccessLog {
			log = "access log on"
		}
		fmt.Fprintf(w, "CPU of the gateway's process tree over the requests that wrk saw answered; %d connections, %s; median of %d rounds of %d s. The latencies are wrk's in a closed loop: compare them, do not quote them.\n\n",
			r.Connections, log, r.Rounds, r.Seconds)
		fmt.Fprintf(w, "| contender | %s | min-max | contender / Sluice | Sluice / contender | requests/s |%s p50 | p99 | core used | logged | failed |\n", r.Unit, either(r.moved(), " MiB/s |", ""))
		fmt.Fprintf(w, "|---|---:|---:|---:|---:|---:|%s---:|---:|---:|---:|---:|\n", either(r.moved(), "---:|", ""))
	}
	for _, c := range r.Results {
		r.row(w, c)
	}
	r.notes(w)
}

// moved reports whether the bodies are large enough for MiB/s to say something.
func (r *report) moved() bool { return strings.HasSuffix(r.Workload, "1m") }

func (r *report) row(w io.Writer, c result) {
	lo, hi := c.bounds()
	ratio := fmt.Sprintf("%s | %s", optional("%.2f", c.OverSluice), optional("%.2f", c.SluiceOver))
	if c.Cost == 0 {
		fmt.Fprintf(w, "| %s | failed | | | |\n", c.Name)
		return
	}
	if r.Workload == "idle" {
		fmt.Fprintf(w, "| %s | %.2f | %.2f-%.2f | %.0f | %s |\n", c.Name, c.Cost/1024, lo/1024, hi/1024,
			c.over(func(s sample) float64 { return float64(s.Resident) })/(1<<20), ratio)
		return
	}
	rate := c.over(func(s sample) float64 { return s.PerSecond })
	mib := ""
	if r.moved() {
		mib = fmt.Sprintf(" %.0f |", rate) // one request is one MiB
	}
	logged := "-"
	if slices.ContainsFunc(c.Samples, func(s sample) bool { return s.Logged != nil }) {
		logged = fmt.Sprintf("%.0f%%", 100*c.over(func(s sample) float64 {
			if s.Logged == nil {
				return 0
			}
			return *s.Logged
		}))
	}
	var failed int64
	for _, s := range c.Samples {
		failed += s.Failed
	}
	fmt.Fprintf(w, "| %s | %.1f | %.1f-%.1f | %s | %.0f |%s %s | %s | %.0f%% | %s | %d |\n", c.Name, c.Cost, lo, hi, ratio, rate, mib,
		micros(c.over(func(s sample) float64 { return float64(s.P50Micros) })),
		micros(c.over(func(s sample) float64 { return float64(s.P99Micros) })),
		100*c.over(func(s sample) float64 { return s.CoreShare }), logged, failed)
}

func (c result) bounds() (lo, hi float64) {
	for _, s := range c.Samples {
		if v := s.cost(); v > 0 {
			if lo == 0 || v < lo {
				lo = v
			}
			hi = max(hi, v)
		}
	}
	return lo, hi
}

// notes says what makes a reading doubtful.
func (r *report) notes(w io.Writer) {
	var lines []string
	for _, c := range r.Results {
		for _, s := range c.Samples {
			where := fmt.Sprintf("%s, round %d: ", c.Name, s.Round+1)
			if s.Error != "" {
				lines = append(lines, where+s.Error)
			}
			if s.Foreign > 0.05 {
				lines = append(lines, fmt.Sprintf("%sother processes used %.0f %% of the gateway's core", where, 100*s.Foreign))
			}
			if s.Steal > 0.02 {
				lines = append(lines, fmt.Sprintf("%sthe hypervisor took %.0f %% of the gateway's core", where, 100*s.Steal))
			}
			if s.Logged != nil && *s.Logged < 0.99 {
				lines = append(lines, fmt.Sprintf("%sonly %.0f %% of the requests were logged", where, 100**s.Logged))
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w, "\nDoubts:")
	for _, l := range lines {
		fmt.Fprintln(w, "- "+strings.ReplaceAll(l, "\n", "\n  "))
	}
}

// save writes the report as JSON to dir/<date>-<workload>.json. A second run
// on the same day replaces the first.
func (r *report) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, r.Started.Format("2006-01-02")+"-"+r.Workload+".json")
	return name, os.WriteFile(name, append(text, '\n'), 0o644)
}

func optional(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func micros(v float64) string {
	if v < 10000 {
		return fmt.Sprintf("%.2f ms", v/1e3)
	}
	return fmt.Sprintf("%.0f ms", v/1e3)
}

func either(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}
