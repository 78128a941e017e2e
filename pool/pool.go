// Package pool holds the upstreams: groups of targets, how one is chosen
// (balance.go, hash.go), and the keep-alive connections to them (target.go,
// conn.go).
//
// A Set is what one configuration names. Its targets have an identity, their
// address with the settings that shape their connections: Build takes over
// from the set before it each target that has not changed, with connections,
// counters and marks, so that a reload disturbs nothing it does not touch.
//
// Who may work is asked in this order: Enter (bulkhead and adaptive limit) once
// for a request; Allow (breaker) and Pick (health, outliers, balance) for every
// try, and Report after it, which feeds all of them.
//
// Choosing a target takes no lock. Idle connections lie in per-core stacks,
// last in first out, under a lock each that is held for a push or a pop.
// Get blocks only when a connection must be dialled or waited for; Send and
// Fill block until the target speaks or a deadline ends the wait. A request on
// a pooled connection allocates nothing; dialling does.
package pool

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"sluice/wire"
)

// Set is the upstreams of one configuration, by name.
type Set struct {
	upstreams map[string]*Upstream
	watch     *wire.Watch
	janitor   *janitor

	mu    sync.Mutex // guards times
	times map[string]*Times
	old   map[string]*Times // of the set before, until Start
}

// Build makes the upstreams of configs. What old, which may be nil, holds with
// the same settings is shared with it: a whole upstream, else its targets,
// breaker, limits and marks one by one. It reads certificate files; an error
// names the upstream and what is wrong. Nothing runs before Start.
func Build(configs map[string]Config, old *Set, watch *wire.Watch) (*Set, error) {
	s := &Set{upstreams: map[string]*Upstream{}, watch: watch, times: map[string]*Times{}}
	if old != nil {
		old.mu.Lock()
		s.old = old.times
		old.mu.Unlock()
	}
	for name, cfg := range configs {
		var before *Upstream
		if old != nil {
			before = old.upstreams[name]
		}
		u, err := newUpstream(name, cfg, before, watch)
		if err != nil {
			return nil, fmt.Errorf("upstreams.%s: %w", name, err)
		}
		s.upstreams[name] = u
	}
	return s, nil
}

// Start begins what works in the background: name look-ups, health checks,
// sweeps. It is called once, before the set is used; old, which may be nil, is
// the set that it takes the place of and that is retired next.
func (s *Set) Start(old *Set) {
	if old != nil {
		old.janitor.stop()
	}
	for _, u := range s.upstreams {
		u.start()
	}
	s.old = nil
	s.janitor = startJanitor(s)
	// Requests should not come before targets that are found at once.
	patience := time.NewTimer(firstLook)
	defer patience.Stop()
	for _, u := range s.upstreams {
		if u.Config.Discover == nil {
			continue
		}
		select {
		case <-u.known:
		case <-patience.C:
			return
		}
	}
}

// firstLook is how long a new set waits for what discovery finds.
const firstLook = time.Second

// Retire ends what of s the newer set next does not share; next may be nil.
// Requests in flight keep their connections until they are done.
func (s *Set) Retire(next *Set) {
	if s.janitor != nil {
		s.janitor.stop()
	}
	kept := map[*Target]bool{}
	if next != nil {
		for _, u := range next.upstreams {
			for _, t := range u.Targets() {
				kept[t] = true
			}
		}
	}
	for name, u := range s.upstreams {
		if next != nil && next.upstreams[name] == u {
			continue
		}
		u.stop()
		for _, t := range u.Targets() {
			if !kept[t] {
				t.retire()
			}
		}
		if next != nil && next.upstreams[name] != nil {
			next.upstreams[name].forgive()
		}
	}
}

// Times returns the answer times kept under name, which go on from the set
// before. It is for the time before Start.
func (s *Set) Times(name string) *Times {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.times[name]
	if t == nil {
		if t = s.old[name]; t == nil {
			t = &Times{}
		}
		s.times[name] = t
	}
	return t
}

// Upstream returns the upstream called name, or nil.
func (s *Set) Upstream(name string) *Upstream { return s.upstreams[name] }

// Upstreams lists the upstreams by name.
func (s *Set) Upstreams() []*Upstream {
	list := make([]*Upstream, 0, len(s.upstreams))
	for _, u := range s.upstreams {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *Upstream) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

// janitor does once a second what need not be done for each request: it closes
// idle connections that are too old, too long idle or dead, works out the
// quantiles of latency, and looks for outliers.
type janitor struct {
	quit chan struct{}
	once sync.Once
	done sync.WaitGroup
}

func startJanitor(s *Set) *janitor {
	upstreams := s.Upstreams()
	j := &janitor{quit: make(chan struct{})}
	j.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-j.quit:
				return
			case <-tick.C:
			}
			now := wire.Nanotime()
			for _, u := range upstreams {
				u.sweep(now)
			}
			s.mu.Lock()
			for _, t := range s.times {
				t.l.sweep(now)
			}
			s.mu.Unlock()
		}
	})
	return j
}

func (j *janitor) stop() {
	j.once.Do(func() { close(j.quit) })
	j.done.Wait()
}
