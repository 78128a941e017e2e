// Command planned corrects the results of a vegeta attack at a constant rate
// for coordinated omission.
//
// vegeta counts a request's latency from when it was really sent. When the
// target stalls and the sender falls behind its schedule, the requests that
// should have been sent during the stall are sent late and look fast, although
// the user of an open system would have waited. Here the latency of request n
// is counted from start + n/rate, when it was due. The start is the latest
// moment that is consistent with no request having been sent before it was
// due; a stall that lasts for the whole attack is therefore not seen, the
// achieved rate shows it.
//
// It reads the CSV of "vegeta encode" from a file, twice, prints the
// percentiles by both counts and can write the corrected CSV, which "vegeta
// plot" draws. Memory is 16 bytes a request; more than 20 million are refused.
package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"
)

const maxResults = 20_000_000

// errLimit is why a step of a search is beyond the knee.
var errLimit = errors.New("over the limit")

func main() {
	err := run(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, errLimit):
		os.Exit(3)
	case err != nil && !errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(os.Stderr, "planned:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("planned", flag.ContinueOnError)
	rate := fs.Float64("rate", 0, "requests a second that the attack was told to send")
	out := fs.String("o", "", "file for the corrected CSV; empty for none")
	row := fs.Bool("row", false, "print one row of a markdown table instead of the summary")
	limit := fs.Duration("max-p99", 0, "exit with 3 when p99 from the plan is above this; 0 for no limit")
	failures := fs.Float64("max-failures", 1, "exit with 3 when more than this share of the requests failed")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() != 1:
		return fmt.Errorf("expected one CSV file of vegeta encode, got %d arguments", fs.NArg())
	case !(*rate > 0) || *rate > 1e7:
		return fmt.Errorf("-rate: expected a number above 0 and up to 10000000, got %v", *rate)
	}
	interval := float64(time.Second) / *rate
	start, err := startOf(fs.Arg(0), interval)
	if err != nil {
		return err
	}
	a := attack{rate: *rate, start: start, interval: interval}
	if err := a.read(fs.Arg(0), *out); err != nil {
		return err
	}
	if *row {
		a.printRow(stdout)
	} else {
		a.printSummary(stdout)
	}
	if *limit > 0 && percentile(a.planned, 0.99) > *limit || a.failedShare() > *failures {
		return errLimit
	}
	return nil
}

// hit is what is used of a line of the CSV.
type hit struct {
	sent    int64 // ns since 1970
	latency time.Duration
	seq     int64
	ok      bool
}

// parseHit reads the columns that vegeta documents: time, status, latency,
// bytes out, bytes in, error, body, attack, sequence number, and more.
func parseHit(rec []string) (h hit, err error) {
	if len(rec) < 9 {
		return h, fmt.Errorf("expected at least 9 columns, got %d", len(rec))
	}
	num := func(i int, name string, lo, hi int64) (n int64) {
		n, e := strconv.ParseInt(rec[i], 10, 64)
		if (e != nil || n < lo || n > hi) && err == nil {
			err = fmt.Errorf("column %d (%s): expected a number from %d to %d, got %q", i+1, name, lo, hi, rec[i])
		}
		return n
	}
	// The bounds keep every sum of a time, a latency and a delay within 64 bits.
	h.sent = num(0, "time in ns", 0, math.MaxInt64/4)
	code := num(1, "status", 0, 999)
	h.latency = time.Duration(num(2, "latency in ns", 0, math.MaxInt64/4))
	h.seq = num(8, "sequence number", 0, math.MaxInt32)
	h.ok = code >= 200 && code < 400
	return h, err
}

// eachHit calls f for every line of the CSV.
func eachHit(name string, f func(hit, []string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	r := csv.NewReader(bufio.NewReaderSize(file, 1<<20))
	r.FieldsPerRecord, r.ReuseRecord = -1, true
	for n := 1; ; n++ {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		h, err := parseHit(rec)
		if err == nil && n > maxResults {
			err = fmt.Errorf("expected at most %d results", maxResults)
		}
		if err == nil {
			err = f(h, rec)
		}
		if err != nil {
			return fmt.Errorf("%s: result %d: %w", name, n, err)
		}
	}
}

// startOf is the latest start by which no request was sent before it was due.
func startOf(name string, interval float64) (int64, error) {
	start := int64(math.MaxInt64)
	err := eachHit(name, func(h hit, _ []string) error {
		start = min(start, h.sent-due(h.seq, interval))
		return nil
	})
	if err == nil && start == math.MaxInt64 {
		err = fmt.Errorf("%s: expected results, got none", name)
	}
	return start, err
}

// due is when the request of this number is planned, in ns after the start.
// 2^31 requests at the lowest sensible rate stay far within 64 bits.
func due(seq int64, interval float64) int64 {
	return int64(min(float64(seq)*interval, math.MaxInt64/4))
}

// attack is a whole attack with both counts of latency, sorted.
type attack struct {
	rate     float64
	start    int64   // ns since 1970
	interval float64 // ns
	sent     []time.Duration
	planned  []time.Duration
	failed   int
	lastSent int64
}

// read collects the latencies and writes the corrected CSV to out.
func (a *attack) read(name, out string) (err error) {
	var w *csv.Writer
	if out != "" {
		f, e := os.Create(out)
		if e != nil {
			return e
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = csv.NewWriter(f)
	}
	err = eachHit(name, func(h hit, rec []string) error {
		at := a.start + due(h.seq, a.interval)
		planned := h.latency + time.Duration(h.sent-at)
		a.sent = append(a.sent, h.latency)
		a.planned = append(a.planned, planned)
		a.lastSent = max(a.lastSent, h.sent)
		if !h.ok {
			a.failed++
		}
		if w == nil {
			return nil
		}
		rec[0] = strconv.FormatInt(at, 10)
		rec[2] = strconv.FormatInt(int64(planned), 10)
		return w.Write(rec)
	})
	slices.Sort(a.sent)
	slices.Sort(a.planned)
	if w != nil {
		w.Flush()
		err = errors.Join(err, w.Error())
	}
	return err
}

func (a *attack) failedShare() float64 { return float64(a.failed) / float64(len(a.sent)) }

// achieved is the rate at which requests really left.
func (a *attack) achieved() float64 {
	return float64(len(a.sent)) / ((float64(a.lastSent-a.start) + a.interval) / float64(time.Second))
}

var shares = []float64{0.5, 0.9, 0.99, 0.999, 1}

func (a *attack) printSummary(w io.Writer) {
	fmt.Fprintf(w, "%.0f/s asked, %.1f/s sent, %d requests, %d failed (%.2f %%)\n\n", a.rate, a.achieved(), len(a.sent), a.failed, 100*a.failedShare())
	fmt.Fprintf(w, "%-10s %10s %10s %10s %10s %10s\n", "latency", "p50", "p90", "p99", "p99.9", "max")
	for _, l := range []struct {
		name   string
		values []time.Duration
	}{{"from plan", a.planned}, {"from send", a.sent}} {
		fmt.Fprintf(w, "%-10s", l.name)
		for _, q := range shares {
			fmt.Fprintf(w, " %10s", millis(percentile(l.values, q)))
		}
		fmt.Fprintln(w)
	}
}

func (a *attack) printRow(w io.Writer) {
	fmt.Fprintf(w, "| %.0f | %.0f | %.2f %% |", a.rate, a.achieved(), 100*a.failedShare())
	for _, q := range shares {
		fmt.Fprintf(w, " %s |", millis(percentile(a.planned, q)))
	}
	fmt.Fprintln(w)
}

// percentile is the nearest rank in sorted values: the least value that at
// least this share of all does not exceed.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
}
