package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sluice/bench/faults/backend"
	"sluice/bench/faults/load"
)

// bench is what all runs of one command share.
type bench struct {
	dir    string // for configs and logs
	rate   int
	warmup time.Duration
	length time.Duration
	slack  slack
}

// slack is how far a bound may be missed: what the issue leaves of room in a
// long run, more in a short one, where a single request is a large share.
type slack struct {
	failed float64 // share of requests
	late   float64 // ms
	extra  float64 // share, over the retry budget
	inside float64 // answers that may be late
}

// row is one scenario against one contender.
type row struct {
	Scenario  string `json:"scenario"`
	Title     string `json:"title"`
	Contender string `json:"contender"`

	Before load.Summary `json:"before"`
	During load.Summary `json:"during"`
	After  load.Summary `json:"after"`
	// Outage is During and After together.
	Outage load.Summary `json:"outage"`
	// ExtraLoad is how many more requests reached the backends than clients
	// sent, as a share of the latter, from the strike on. Less than 0: fewer.
	ExtraLoad float64 `json:"extra_load"`
	// BackAfter is when the last request failed after the outage, since its
	// end; -1 when none did.
	BackAfter load.Millis `json:"back_after_ms"`
	Inside    *inside     `json:"inside,omitempty"`
	Bounds    []bound     `json:"bounds,omitempty"`

	budget millis
	slack  slack
}

// inside is what the gateway's own access log says of its answers.
type inside struct {
	Answers int         `json:"answers"`
	P50     load.Millis `json:"p50_ms"`
	P99     load.Millis `json:"p99_ms"`
	P999    load.Millis `json:"p999_ms"`
	Max     load.Millis `json:"max_ms"`
	// Late is how many took longer than the budget and lateness, OwnLate how
	// many of them would have without the gateway's wait for a processor.
	Late    int `json:"late"`
	OwnLate int `json:"own_late"`
	// OwnMost is the longest that an answer came after its budget, without
	// that wait.
	OwnMost load.Millis `json:"own_most_ms"`
}

// lateness is what the gateway itself may add to a budget.
const lateness = 10 * time.Millisecond

// bound is one promise and what came of it.
type bound struct {
	What   string  `json:"what"`
	Got    float64 `json:"got"`
	Limit  float64 `json:"limit"`
	Strict bool    `json:"strict,omitempty"` // less than, not at most
	Kept   bool    `json:"kept"`
}

func atMost(what string, got, limit float64, strict bool) bound {
	return bound{what, got, limit, strict, got < limit || got == limit && !strict}
}

func (b bound) String() string {
	sign, broken := "<=", ""
	if b.Strict {
		sign = "<"
	}
	if !b.Kept {
		broken = " BROKEN"
	}
	return fmt.Sprintf("%s %.4g %s %.4g%s", b.What, b.Got, sign, b.Limit, broken)
}

func ms(m load.Millis) float64 { return float64(m) / 1e6 }

// clientTimeout is when a client gives up. It is far beyond every budget, so
// that a gateway that hangs shows as one.
const clientTimeout = 5 * time.Second

// run puts one contender through one scenario.
func (b *bench) run(ctx context.Context, s scenario, c contender) (_ *row, err error) {
	dir, err := os.MkdirTemp(b.dir, s.name+"-"+c.name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	on, err := b.set(ctx, s)
	defer func() { err = errors.Join(err, on.close()) }()
	if err != nil {
		return nil, err
	}
	place := site{tuning: s.tuning, Dir: dir, Root: os.Geteuid() == 0, MaxFails: max(5, 2*b.rate/s.targets/10)}
	for _, t := range on.targets {
		place.Targets = append(place.Targets, t.Addr())
	}
	if on.names != nil {
		place.Resolver, place.Name = on.names.address, serviceName
		if _, place.Port, err = net.SplitHostPort(place.Targets[0]); err != nil {
			return nil, err
		}
	}
	if place.Listen, err = freePort(); err != nil {
		return nil, err
	}
	gateway, err := c.launch(ctx, place)
	if err != nil {
		return nil, err
	}
	inside := s.inside && c.name == subject
	var h *hunger
	if inside {
		h = watchHunger(gateway.pid)
		defer h.stop()
	}
	r := &row{Scenario: s.name, Title: s.title, Contender: c.name, budget: s.tuning.Budget, slack: b.slack}
	err = errors.Join(b.load(ctx, s, on, place.Listen, r), gateway.stop())
	if err != nil {
		return nil, err
	}
	if c.name != subject {
		return r, nil
	}
	if inside {
		if r.Inside, err = readAccessLog(filepath.Join(dir, "access.log"), time.Duration(s.tuning.Budget)*time.Millisecond, h); err != nil {
			return nil, err
		}
	}
	if s.bounds != nil {
		r.Bounds = s.bounds(r)
	}
	return r, nil
}

// subject is the contender that bounds are promised of.
const subject = "sluice"

// set starts what the scenario needs. What it returns must be closed, also
// with an error.
func (b *bench) set(ctx context.Context, s scenario) (*stage, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	on := &stage{}
	for i := range s.targets {
		addr, err := freePort()
		if err != nil {
			return on, err
		}
		if s.named > 0 {
			// Behind one name all have one port, so each has an address.
			_, port, _ := net.SplitHostPort(addr)
			if i > 0 {
				_, port, _ = net.SplitHostPort(on.targets[0].Addr())
			}
			addr = fmt.Sprintf("127.0.0.%d:%s", 2+i, port)
		}
		t, err := backend.Spawn(ctx, addr, uint64(i+1))
		if err != nil {
			return on, err
		}
		on.targets = append(on.targets, t)
		if err := t.Set(ctx, healthy); err != nil {
			return on, err
		}
	}
	if s.named == 0 {
		return on, nil
	}
	var err error
	on.names, err = startNames(addressesOf(on.targets[:s.named]))
	return on, err
}

func addressesOf(targets []*backend.Child) (list []netip.Addr) {
	for _, t := range targets {
		if a, err := netip.ParseAddrPort(t.Addr()); err == nil {
			list = append(list, a.Addr())
		}
	}
	return list
}

func (on *stage) close() (err error) {
	for _, t := range on.targets {
		err = errors.Join(err, t.Close())
	}
	if on.names != nil {
		err = errors.Join(err, on.names.close())
	}
	return err
}

// load runs the timeline: warm-up, health, outage, health again.
func (b *bench) load(ctx context.Context, s scenario, on *stage, addr string, r *row) error {
	ctx, cancel := context.WithTimeout(ctx, b.warmup+b.length+4*clientTimeout)
	defer cancel()
	struck, healed := b.warmup+time.Duration(strikeAt*float64(b.length)), b.warmup+time.Duration(healAt*float64(b.length))
	end := b.warmup + b.length
	if s.heal == nil {
		healed = end
	}
	var shots []load.Shot
	began := time.Now()
	loaded := make(chan error, 1)
	go func() {
		var err error
		shots, err = load.Run(ctx, load.Plan{Address: addr, Path: "/", Rate: b.rate, For: end, Timeout: clientTimeout})
		loaded <- err
	}()
	reached, err := b.disturb(ctx, s, on, began, &struck, &healed)
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-loaded); err != nil {
		return err
	}
	reachedAfter, err := sum(ctx, on.targets)
	if err != nil {
		return err
	}
	r.Before, r.During = load.Summarise(shots, b.warmup, struck), load.Summarise(shots, struck, healed)
	r.After, r.Outage = load.Summarise(shots, healed, end), load.Summarise(shots, struck, end)
	r.ExtraLoad = float64(reachedAfter-reached)/float64(r.Outage.Requests) - 1
	r.BackAfter = -1
	for _, shot := range shots {
		if shot.Due >= healed && shot.Failed() {
			r.BackAfter = load.Millis(shot.Due - healed)
		}
	}
	return nil
}

// disturb strikes and heals at their times, notes in struck and healed when it
// was done, and returns how many requests had reached the targets before.
func (b *bench) disturb(ctx context.Context, s scenario, on *stage, began time.Time, struck, healed *time.Duration) (uint64, error) {
	if err := waitUntil(ctx, began.Add(*struck)); err != nil {
		return 0, err
	}
	reached, err := sum(ctx, on.targets)
	if err != nil {
		return 0, err
	}
	*struck = time.Since(began)
	if err := s.strike(ctx, on); err != nil || s.heal == nil {
		return reached, err
	}
	if err := waitUntil(ctx, began.Add(*healed)); err != nil {
		return 0, err
	}
	if err := s.heal(ctx, on); err != nil {
		return 0, err
	}
	*healed = time.Since(began)
	return reached, nil
}

func waitUntil(ctx context.Context, at time.Time) error {
	select {
	case <-time.After(time.Until(at)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sum is how many requests have reached the targets.
func sum(ctx context.Context, targets []*backend.Child) (n uint64, err error) {
	for _, t := range targets {
		c, err := t.Counts(ctx)
		if err != nil {
			return 0, err
		}
		n += c.Requests
	}
	return n, nil
}

// readAccessLog takes the durations from the gateway's access log.
func readAccessLog(name string, budget time.Duration, h *hunger) (*inside, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var took []time.Duration
	in := &inside{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct {
			Time   time.Time `json:"time"`
			Micros *int64    `json:"duration_us"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Micros == nil {
			return nil, fmt.Errorf("%s: expected a line with duration_us, got %q: %w", name, lines.Text(), err)
		}
		d := time.Duration(*line.Micros) * time.Microsecond
		took = append(took, d)
		if d <= budget {
			continue
		}
		// The log's time is cut to milliseconds.
		ended := line.Time.Add(d)
		over := d - budget
		own := over - h.between(ended.Add(-over), ended.Add(time.Millisecond))
		in.OwnMost = max(in.OwnMost, load.Millis(own))
		if over > lateness {
			in.Late++
		}
		if own > lateness {
			in.OwnLate++
		}
	}
	if err := lines.Err(); err != nil || len(took) == 0 {
		return nil, fmt.Errorf("%s: expected lines, got none: %w", name, err)
	}
	slices.Sort(took)
	in.Answers = len(took)
	in.P50, in.P99 = load.Millis(load.Percentile(took, 0.5)), load.Millis(load.Percentile(took, 0.99))
	in.P999, in.Max = load.Millis(load.Percentile(took, 0.999)), load.Millis(took[len(took)-1])
	return in, nil
}
