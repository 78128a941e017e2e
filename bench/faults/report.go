package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report is what is written of one command.
type report struct {
	Started time.Time `json:"started"`
	Machine machine   `json:"machine"`
	Rate    int       `json:"requests_per_second"`
	Warmup  float64   `json:"warmup_seconds"`
	Length  float64   `json:"seconds"`
	Rows    []*row    `json:"rows"`
}

// machine says where and with what a result was measured.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	Commit   string            `json:"commit"`
	Versions map[string]string `json:"versions"`
}

// table writes the report as markdown.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "%d requests/s in an open loop for %.0f s after %.0f s of warm-up; the outage begins at %.0f %% of it and, where it ends, ends at %.0f %%. "+
		"Figures are from its beginning on. Failed: not 2xx, or broken. Latency: from when the request was due. "+
		"Extra load: requests at the backends over requests of the clients, less one.\n\n",
		r.Rate, r.Length, r.Warmup, 100*strikeAt, 100*healAt)
	fmt.Fprintln(w, "| scenario | gateway | failed | p50 ms | p99 ms | max ms | extra load | stand-ins | last failure after the end | promised |")
	fmt.Fprintln(w, "|---|---|---:|---:|---:|---:|---:|---:|---:|---|")
	before := ""
	for _, c := range r.Rows {
		title := c.Title
		if c.Scenario == before {
			title = ""
		}
		before = c.Scenario
		c.write(w, title)
	}
	for _, c := range r.Rows {
		if in := c.Inside; in != nil {
			fmt.Fprintf(w, "\nInside Sluice (access log), %s, budget %v: %d answers, p50 %v, p99 %v, p99.9 %v, longest %v ms; %d later than budget + %v. "+
				"Without the time that its threads waited for a processor meanwhile: %d, the latest by %v ms.\n",
				c.Scenario, c.budget, in.Answers, in.P50, in.P99, in.P999, in.Max, in.Late, lateness, in.OwnLate, in.OwnMost)
		}
	}
}

func (r *row) write(w io.Writer, title string) {
	o := &r.Outage
	back := "-"
	if r.After.Requests > 0 && r.BackAfter >= 0 {
		back = r.BackAfter.String() + " ms"
	}
	var promised []string
	for _, b := range r.Bounds {
		promised = append(promised, b.String())
	}
	fmt.Fprintf(w, "| %s | %s | %s | %v | %v | %v | %+.1f %% | %s | %s | %s |\n", title, r.Contender,
		share(o.Failed, o.Requests), o.P50, o.P99, o.Max, 100*r.ExtraLoad, share(o.Fallbacks, o.Requests), back, strings.Join(promised, "; "))
}

// share is a part in percent; a single one among many does not vanish.
func share(n, of int) string {
	if n == 0 || of == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f %%", 100*float64(n)/float64(of))
}

// broken lists the promises that were not kept.
func (r *report) broken() (list []string) {
	for _, c := range r.Rows {
		for _, b := range c.Bounds {
			if !b.Kept {
				list = append(list, fmt.Sprintf("%s, %s: %v", c.Scenario, c.Contender, b))
			}
		}
	}
	return list
}

// save writes DATE-faults.json and DATE-faults.md to dir. A second run on the
// same day replaces the first.
func (r *report) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, r.Started.Format("2006-01-02")+"-faults")
	if err := os.WriteFile(name+".json", append(text, '\n'), 0o644); err != nil {
		return "", err
	}
	var b strings.Builder
	r.table(&b)
	return name + ".json", os.WriteFile(name+".md", []byte(b.String()), 0o644)
}
