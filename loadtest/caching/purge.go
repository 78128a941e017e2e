package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"sluice/e2e/rig"
)

const (
	largeStore = "512MiB"
	sampled    = 200 // objects that are asked for before and after a purge, and as many after it alone
	// Keys that share a counter of the store's admission can push each other out:
	// a few in a hundred thousand, in the place of which one in so many more are
	// stored.
	spare = 100
)

func taggedPage(n int) string { return fmt.Sprintf("/tagged/%d", n) }

// order is a purge, or none, and what its rounds came to.
type order struct {
	what, query string
	before      []time.Duration // p99
	during      []time.Duration
	most        []time.Duration
	ratios      []float64
	calls       []time.Duration
	misses      int // of the hot object
	still       int // objects of the samples that were hits after the purge
	gone        int
	stored      int // objects before the purge, least of all rounds
}

func (p plan) purge(ctx context.Context) ([]row, error) {
	b, err := startBackend(p.takes)
	if err != nil {
		return nil, err
	}
	defer b.close()
	g, err := p.start(ctx, b, largeStore)
	if err != nil {
		return nil, err
	}
	defer func() { _ = g.Kill() }()
	if err := heat(g); err != nil {
		return nil, err
	}
	orders := []*order{
		{what: "no purge"},
		{what: "by surrogate key", query: "tag=many"},
		{what: "by prefix", query: "prefix=http://caching.test/tagged/"},
	}
	for i := range p.rounds {
		for k := range orders {
			if err := p.purged(ctx, g, b, orders[(i+k)%len(orders)]); err != nil {
				return nil, err
			}
		}
	}
	var rows []row
	for _, o := range orders {
		ratio := median(o.ratios)
		got := fmt.Sprintf("%s, then %s: %.2f x (%.2f, %.2f)", ms(median(o.before)), ms(median(o.during)), ratio, o.ratios[0], o.ratios[len(o.ratios)-1])
		if o.query == "" {
			rows = append(rows, row{what: fmt.Sprintf("%s: p99 of %d hits a second, then in one second more, median of %d rounds (least, most)", o.what, hotRate, p.rounds), got: got})
			continue
		}
		rows = append(rows,
			row{what: fmt.Sprintf("%d objects of %d bytes %s: p99 before, then in the second of the purge", p.objects, pageSize, o.what), got: got, bound: "2.00 x", verdict: held(ratio <= 2), timed: true},
			row{what: "the longest hit in that second", got: ms(median(o.most))},
			row{what: "the call took (longest of all rounds)", got: fmt.Sprintf("%s (%s)", ms(median(o.calls)), ms(o.calls[len(o.calls)-1]))},
			row{what: "objects stored before, least of all rounds (" + largeStore + ")", got: fmt.Sprint(o.stored), bound: fmt.Sprint(p.objects), verdict: held(o.stored > p.objects)},
			row{what: fmt.Sprintf("of %d a round asked for afterwards: fetched anew, still hits", 2*sampled), got: fmt.Sprintf("%d, %d", o.gone, o.still),
				bound: fmt.Sprintf("%d, 0", 2*sampled*p.rounds), verdict: held(o.still == 0 && o.gone == 2*sampled*p.rounds)},
			row{what: "requests for the hot object that were not hits", got: fmt.Sprint(o.misses), bound: "0", verdict: held(o.misses == 0)},
		)
	}
	return rows, nil
}

// purged is one round of o.
func (p plan) purged(ctx context.Context, g *rig.Gateway, b *backend, o *order) error {
	if o.query != "" {
		missed, err := fill(ctx, g.Doors[0], 0, p.objects+p.objects/spare, taggedPage)
		if err != nil {
			return err
		}
		if missed > 0 {
			return fmt.Errorf("%s: of %d objects %d were not stored", o.what, p.objects, missed)
		}
	}
	// All keys have been stored anew by now, so none of these was purged before.
	objects, _, err := stored(ctx, g)
	if err != nil {
		return err
	}
	if o.stored == 0 || objects < o.stored {
		o.stored = objects
	}
	c, err := connect(g.Doors[0])
	if err != nil {
		return err
	}
	defer c.close()
	step := p.objects / (2 * sampled)
	if o.query != "" {
		// Half of the sample is asked for before too, which brings it into the hot
		// tier; the other half is purged where it lies.
		for n := range sampled {
			path, last := taggedPage(2*n*step), answer{}
			for range 3 {
				if last, err = c.ask(path); err != nil {
					return err
				}
			}
			if !last.hit {
				return fmt.Errorf("%s: expected a hit before the purge", path)
			}
		}
	}

	const settles = time.Second
	calm := settles + time.Duration(p.seconds)*time.Second
	type call struct {
		at, took time.Duration
		err      error
	}
	called := make(chan call, 1)
	began := time.Now()
	go func() {
		time.Sleep(calm)
		at := time.Since(began)
		if o.query == "" {
			called <- call{at: at}
			return
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		status, body, err := g.Ask(ctx, http.MethodPost, "/cache/purge?"+o.query)
		took := time.Since(began) - at
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("purge: expected 200, got %d %.200s", status, strings.TrimSpace(body))
		}
		called <- call{at, took, err}
	}()
	samples, err := steady{g.Doors[0], hotClients, hotRate, hotPage}.run(ctx, began, calm+1200*time.Millisecond)
	done := <-called
	if err = errors.Join(err, done.err); err != nil {
		return err
	}
	// Who asked just before may have been held up by it.
	from := done.at - 5*time.Millisecond
	calmly, during := spreadOf(samples, settles, from), spreadOf(samples, from, from+time.Second)
	o.before, o.during, o.most = append(o.before, calmly.p99), append(o.during, during.p99), append(o.most, during.most)
	o.ratios = append(o.ratios, float64(during.p99)/float64(calmly.p99))
	o.calls = append(o.calls, done.took)
	o.misses += spreadOf(samples, 0, calm+2*time.Second).misses
	if o.query == "" {
		return nil
	}
	fetched := b.count("tagged")
	for n := range 2 * sampled {
		a, err := c.ask(taggedPage(n * step))
		if err != nil {
			return err
		}
		if a.hit {
			o.still++
		}
	}
	o.gone += b.count("tagged") - fetched
	return nil
}
