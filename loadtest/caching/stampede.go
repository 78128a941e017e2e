package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/e2e/rig"
)

// crowd is clients that are connected to a gateway.
type crowd struct {
	backend *backend
	gateway *rig.Gateway
	clients []*client
	end     func()
}

func (p plan) crowd(ctx context.Context) (c crowd, err error) {
	if c.backend, err = startBackend(p.takes); err != nil {
		return c, err
	}
	g, err := p.start(ctx, c.backend, "64MiB")
	if err != nil {
		c.backend.close()
		return c, err
	}
	c.gateway = g
	addr := g.Doors[0]
	for range p.clients {
		client, e := connect(addr)
		if e != nil {
			err = e
			break
		}
		// The gateway has taken the connection when it has answered on it.
		if _, e = client.ask("/plain/hello"); e != nil {
			err = e
		}
		c.clients = append(c.clients, client)
	}
	c.end = func() {
		for _, client := range c.clients {
			client.close()
		}
		_ = g.Kill()
		c.backend.close()
	}
	if err != nil {
		c.end()
	}
	return c, err
}

// rush is one time that all asked together.
type rush struct {
	requests int           // that the backend saw
	held     time.Duration // what the slowest request took to the backend
	slowest  time.Duration // what the slowest client took to its answer
	mine     int           // clients whose answer was made for nobody else
}

func (c crowd) rush(path string) (r rush, err error) {
	seen := len(c.backend.arrivals(path))
	began, answers, took, err := together(c.clients, path)
	if err != nil {
		return r, err
	}
	made := map[int64]int{}
	for i, a := range answers {
		made[a.number]++
		r.slowest = max(r.slowest, took[i])
	}
	for _, n := range made {
		if n == 1 {
			r.mine++
		}
	}
	for _, a := range c.backend.arrivals(path)[seen:] {
		r.requests++
		r.held = max(r.held, a.at.Sub(began))
		if made[a.number] == 0 {
			return r, errors.New("an answer of the backend reached nobody")
		}
	}
	return r, nil
}

// beside is the median of some times, which it sorts, beside one backend time.
func (p plan) beside(took []time.Duration) string {
	middle := median(took)
	return fmt.Sprintf("%s, %.2f x (%.2f)", ms(middle), float64(middle)/float64(p.takes), float64(took[len(took)-1])/float64(p.takes))
}

func (p plan) stampede(ctx context.Context) ([]row, error) {
	c, err := p.crowd(ctx)
	if err != nil {
		return nil, err
	}
	defer c.end()
	requests := 0
	var slowest, apart []time.Duration
	for i := range p.rounds {
		r, err := c.rush(fmt.Sprintf("/slow/%d", i))
		if err != nil {
			return nil, err
		}
		requests = max(requests, r.requests)
		slowest = append(slowest, r.slowest)
		if r, err = c.rush(fmt.Sprintf("/plain/slow/%d", i)); err != nil {
			return nil, err
		}
		apart = append(apart, r.slowest)
	}
	all := fmt.Sprintf("%d clients, one key not stored, backend takes %s", p.clients, p.takes)
	return []row{
		{what: all + ": requests at the backend, most of all rounds", got: fmt.Sprint(requests), bound: "1", verdict: held(requests == 1)},
		// Else together had failed.
		{what: "clients with the whole right answer, in each round", got: fmt.Sprint(p.clients), bound: fmt.Sprint(p.clients), verdict: pass},
		{what: "the slowest client, beside one backend time, median of the rounds (most)", got: p.beside(slowest), bound: "1.10 x", verdict: held(median(slowest) <= p.takes*11/10), timed: true},
		{what: "the same on a route without cache", got: p.beside(apart)},
	}, nil
}

func (p plan) refused(ctx context.Context) ([]row, error) {
	c, err := p.crowd(ctx)
	if err != nil {
		return nil, err
	}
	defer c.end()
	profile := make(chan error, 1)
	go func() { profile <- p.profileOf(ctx, c.gateway, "refused", 4*p.takes*time.Duration(p.rounds)) }()
	var first, again, apart, beyond []time.Duration
	requests, mine := p.clients, p.clients
	for i := range p.rounds {
		for _, ask := range []struct {
			path string
			held *[]time.Duration
		}{
			{fmt.Sprintf("/plain/slow/%d", i), &apart}, // first, so that all have connections
			{fmt.Sprintf("/private/%d", i), &first},
			{fmt.Sprintf("/private/%d", i), &again},
		} {
			r, err := c.rush(ask.path)
			if err != nil {
				return nil, err
			}
			*ask.held = append(*ask.held, r.held)
			requests, mine = min(requests, r.requests), min(mine, r.mine)
		}
		beyond = append(beyond, first[i]-apart[i])
	}
	if err := <-profile; err != nil {
		return nil, err
	}
	return []row{
		{what: fmt.Sprintf("%d clients, one key, `private`, backend takes %s: clients with an answer of their own, in each round", p.clients, p.takes),
			got: fmt.Sprint(mine), bound: fmt.Sprint(p.clients), verdict: held(mine == p.clients && requests == p.clients)},
		{what: "the last request is at the backend after, median of the rounds (most)", got: p.beside(first), bound: "1.10 x", verdict: held(median(first) <= p.takes*11/10), timed: true},
		// So many requests take a while to be sent on at all, the longer the busier
		// the machine is.
		{what: "less what the same takes on a route without cache, in each round", got: p.beside(beyond), bound: "1.10 x", verdict: held(median(beyond) <= p.takes*11/10), timed: true},
		{what: "the same again, right after: nobody waits for another", got: p.beside(again), bound: "0.50 x", verdict: held(median(again) <= p.takes/2), timed: true},
		{what: "the same on a route without cache", got: p.beside(apart)},
	}, nil
}
