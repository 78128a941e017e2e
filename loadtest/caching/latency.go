package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"sluice/e2e/rig"
)

const (
	hotRate    = 2000 // requests a second for one object
	hotClients = 32
	// Of the load beside it one request in five is for a page that was asked for a
	// moment ago, so that both queues of the store push out all the time.
	besideRate    = 1250
	besideClients = 16
	besideAgain   = 5
	smallStore    = "8MiB"
)

func hotPage(int) string { return "/page/hot" }

// stored is what a gateway holds, and what it has pushed out so far.
func stored(ctx context.Context, g *rig.Gateway) (objects, evicted int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := g.Scrape(ctx)
	return int(m["sluice_cache_objects"]), int(m["sluice_cache_evictions_total"]), err
}

// heat makes the hot page hot.
func heat(g *rig.Gateway) error {
	c, err := connect(g.Doors[0])
	if err != nil {
		return err
	}
	defer c.close()
	for range 8 {
		if _, err := c.ask(hotPage(0)); err != nil {
			return err
		}
	}
	return nil
}

// fillUp fills a store until it holds no more than before.
func fillUp(ctx context.Context, g *rig.Gateway, path func(int) string) (objects int, err error) {
	const batch = 1000
	for n := 0; n < 100*batch; n += batch {
		if _, err := fill(ctx, g.Doors[0], n, batch, path); err != nil {
			return 0, err
		}
		now, _, err := stored(ctx, g)
		if err != nil {
			return 0, err
		}
		if now < objects+batch/20 {
			return now, nil
		}
		objects = now
	}
	return 0, errors.New("the store does not get full")
}

// phase is what is measured of one case of latency.
type phase struct {
	what         string
	gateway      *rig.Gateway
	beside       func(int) string
	p50, p99     []time.Duration
	most         []time.Duration
	misses       int
	evictions    []float64 // a second
	profileNamed string
}

func (p plan) latency(ctx context.Context) ([]row, error) {
	b, err := startBackend(p.takes)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var gateways [2]*rig.Gateway
	for i := range gateways {
		if gateways[i], err = p.start(ctx, b, smallStore); err != nil {
			return nil, err
		}
		defer func() { _ = gateways[i].Kill() }()
	}
	half, full := gateways[0], gateways[1]
	filler := func(n int) string { return fmt.Sprintf("/page/filler-%d", n) }
	if err := errors.Join(heat(half), heat(full)); err != nil {
		return nil, err
	}
	most, err := fillUp(ctx, full, filler)
	if err != nil {
		return nil, err
	}
	if _, err := fill(ctx, half.Doors[0], 0, most/2, filler); err != nil {
		return nil, err
	}
	var serial atomic.Int64
	fresh := func(route string) func(int) string {
		return func(n int) string {
			if n%besideAgain == besideAgain-1 {
				if route == "/plain" {
					return filler(n % (most / 4))
				}
				// The one before may still be under way.
				return fmt.Sprintf("%s/new-%d", route, max(serial.Load()-besideClients, 1))
			}
			return fmt.Sprintf("%s/new-%d", route, serial.Add(1))
		}
	}
	phases := []*phase{
		{what: "half full, quiet", gateway: half, beside: fresh("/plain"), profileNamed: "half"},
		{what: "full, evicting", gateway: full, beside: fresh("/page"), profileNamed: "full"},
	}
	var ratios []float64
	for i := range p.rounds {
		for k := range phases {
			// Who goes first changes, so that a machine that gets busier favours none.
			if err := p.phase(ctx, phases[(i+k)%2]); err != nil {
				return nil, err
			}
		}
		ratios = append(ratios, float64(phases[1].p99[i])/float64(phases[0].p99[i]))
	}
	objects, _, err := stored(ctx, half)
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, f := range phases {
		what := fmt.Sprintf("%s: p50, p99, longest of %d hits a second beside %d other requests a second", f.what, hotRate, besideRate)
		rows = append(rows, row{what: what, got: fmt.Sprintf("%s, %s, %s", ms(median(f.p50)), ms(median(f.p99)), ms(median(f.most)))})
	}
	evicts, quiet := median(phases[1].evictions), median(phases[0].evictions)
	ratio := median(ratios) // sorts
	return append(rows,
		row{what: "objects in the half full store and in the full one (" + smallStore + ")", got: fmt.Sprintf("%d, %d", objects, most)},
		row{what: "objects pushed out a second, half full and full", got: fmt.Sprintf("%.0f, %.0f", quiet, evicts), bound: "0, at least 500", verdict: held(quiet == 0 && evicts >= 500)},
		row{what: "requests for the hot object that were not hits", got: fmt.Sprint(phases[0].misses + phases[1].misses), bound: "0", verdict: held(phases[0].misses+phases[1].misses == 0)},
		row{what: fmt.Sprintf("p99 full beside half full, median of %d rounds (least, most)", p.rounds), got: fmt.Sprintf("%.2f x (%.2f, %.2f)", ratio, ratios[0], ratios[len(ratios)-1]),
			bound: "2.00 x", verdict: held(ratio <= 2), timed: true},
	), nil
}

func (p plan) phase(ctx context.Context, f *phase) error {
	const settles = time.Second // connections are new, and so are the gateway's to the backend
	total := settles + time.Duration(p.seconds)*time.Second
	_, before, err := stored(ctx, f.gateway)
	if err != nil {
		return err
	}
	began := time.Now()
	beside := make(chan error, 1)
	go func() {
		_, err := steady{f.gateway.Doors[0], besideClients, besideRate, f.beside}.run(ctx, began, total)
		beside <- err
	}()
	profile := make(chan error, 1)
	go func() { profile <- p.profileOf(ctx, f.gateway, f.profileNamed, total) }()
	samples, err := steady{f.gateway.Doors[0], hotClients, hotRate, hotPage}.run(ctx, began, total)
	if err = errors.Join(err, <-beside, <-profile); err != nil {
		return err
	}
	_, after, err := stored(ctx, f.gateway)
	if err != nil {
		return err
	}
	s := spreadOf(samples, settles, total)
	f.p50, f.p99, f.most = append(f.p50, s.p50), append(f.p99, s.p99), append(f.most, s.most)
	f.misses += s.misses
	f.evictions = append(f.evictions, float64(after-before)/total.Seconds())
	return nil
}

// profileOf writes what the gateway spends its time on for that long, if that is
// asked for.
func (p plan) profileOf(ctx context.Context, g *rig.Gateway, name string, long time.Duration) error {
	if p.profile == "" {
		return nil
	}
	status, body, err := g.Ask(ctx, "GET", fmt.Sprintf("/debug/pprof/profile?seconds=%d", min(max(int(long.Seconds()), 1), 30)))
	if err != nil || status != 200 {
		return fmt.Errorf("profile: %d, %w", status, err)
	}
	return os.WriteFile(filepath.Join(p.profile, name+".pprof"), []byte(body), 0o600)
}
