package main

import (
	"context"
	"fmt"
	"time"

	"sluice/bench/faults/backend"
)

// tuning is what a scenario asks of a gateway's configuration. Every contender
// gets the same, as far as it has a setting for it.
type tuning struct {
	Budget       millis // for all tries together
	PerTry       millis
	Connect      millis
	Attempts     int
	Connections  int // to one target
	Queue        int // requests that may wait for one
	QueueTimeout millis
	Hedge        bool
	Fallback     bool // a fixed answer of 200 when all else fails
}

// Retries is how often a request is tried again.
func (t tuning) Retries() int { return t.Attempts - 1 }

// millis is a number of milliseconds, in the notation that all contenders read.
type millis int

func (m millis) String() string { return fmt.Sprintf("%dms", int(m)) }

// usual is the tuning that scenarios start from.
var usual = tuning{
	Budget: 250, PerTry: 100, Connect: 100, Attempts: 3,
	Connections: 256, Queue: 1024, QueueTimeout: 100, Hedge: true,
}

func (t tuning) with(change func(*tuning)) tuning {
	change(&t)
	return t
}

// healthy is how a backend answers when nothing is wrong.
var healthy = backend.Script{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Body: 1024}

func sick(change func(*backend.Script)) backend.Script {
	s := healthy
	change(&s)
	return s
}

// scenario is one outage.
type scenario struct {
	name    string // for flags and files
	title   string // for the table
	targets int
	named   int // how many of them DNS tells of at the start; 0: all are written down by address
	tuning  tuning
	strike  act
	heal    act                  // nil: it lasts to the end
	inside  bool                 // measure in the access log, too
	bounds  func(r *row) []bound // what is promised of Sluice
}

// stage is what an outage happens to.
type stage struct {
	targets []*backend.Child
	names   *names // nil where scenario.named is 0
}

// act changes a stage. When it returns the change is in force.
type act func(ctx context.Context, on *stage) error

// Shares of the load at which the outage begins and ends.
const (
	strikeAt = 0.1
	healAt   = 0.6
)

// script is a strike or a heal that gives the first n targets a script.
func script(n int, s backend.Script) act {
	return func(ctx context.Context, on *stage) error {
		for _, t := range on.targets[:n] {
			if err := t.Set(ctx, s); err != nil {
				return err
			}
		}
		return nil
	}
}

func kill(n int) act {
	return func(ctx context.Context, on *stage) error {
		for _, t := range on.targets[:n] {
			if err := t.Kill(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

func revive(n int) act {
	return func(ctx context.Context, on *stage) error {
		for _, t := range on.targets[:n] {
			if err := t.Revive(ctx); err != nil {
				return err
			}
			if err := t.Set(ctx, healthy); err != nil {
				return err
			}
		}
		return nil
	}
}

// unnoticed promises that clients see next to nothing of the outage.
func unnoticed(r *row) []bound {
	return []bound{
		atMost("failed share", r.Outage.FailedShare, r.slack.failed, true),
		atMost("p99 ms", ms(r.Outage.P99), float64(r.budget)+r.slack.late, false),
	}
}

// rename lets DNS tell of the targets from the one with this index on.
func rename(from int) act {
	return func(_ context.Context, on *stage) error {
		on.names.set(addressesOf(on.targets[from:]))
		return nil
	}
}

var scenarios = []scenario{
	{
		name: "kill", title: "1 of 3 killed with -9, and back", targets: 3, tuning: usual,
		strike: kill(1), heal: revive(1),
	},
	{
		name: "hang", title: "1 of 3 hangs, health checks too, and back", targets: 3, tuning: usual,
		strike: script(1, sick(func(s *backend.Script) { s.HangBefore, s.Checks = 1, true })), heal: script(1, healthy),
		bounds: unnoticed,
	},
	{
		name: "stuck", title: "1 of 3 hangs, but its health checks pass, and back", targets: 3, tuning: usual,
		strike: script(1, sick(func(s *backend.Script) { s.HangBefore = 1 })), heal: script(1, healthy),
	},
	{
		name: "slow", title: "1 of 3 ten times slower, and back", targets: 3, tuning: usual,
		strike: script(1, sick(func(s *backend.Script) { s.Factor, s.Checks = 10, true })), heal: script(1, healthy),
	},
	{
		name: "errors", title: "1 of 3 answers every second request with 503, health checks pass, and back", targets: 3, tuning: usual,
		strike: script(1, sick(func(s *backend.Script) { s.Error = 0.5 })), heal: script(1, healthy),
	},
	{
		name: "down", title: "all 3 killed with -9, and back; a fixed answer stands in", targets: 3,
		tuning: usual.with(func(t *tuning) { t.Fallback = true }),
		strike: kill(3), heal: revive(3),
	},
	{
		name: "dns", title: "the DNS answer (TTL 1 s) changes from 2 targets to 2 others; in the end the old ones are killed with -9", targets: 4, named: 2, tuning: usual,
		strike: rename(2), heal: kill(2),
	},
	{
		name: "queue", title: "all 3 twenty times slower, 10 connections each, queue full, and back", targets: 3,
		tuning: usual.with(func(t *tuning) {
			t.PerTry, t.Attempts, t.Connections, t.Queue, t.QueueTimeout, t.Hedge = 240, 1, 10, 20, 50, false
		}),
		strike: script(3, sick(func(s *backend.Script) { s.Factor = 20 })), heal: script(3, healthy),
	},
	{
		name: "storm", title: "all 3 answer 503, health checks pass", targets: 3, tuning: usual,
		strike: script(3, sick(func(s *backend.Script) { s.Error = 1 })),
		bounds: func(r *row) []bound {
			return []bound{atMost("extra load", r.ExtraLoad, 0.20+r.slack.extra, false)}
		},
	},
	{
		name: "mixed", title: "all 3: of 100 requests 1 is reset, 1 hangs, 1 gets garbage, 1 gets 503", targets: 3, tuning: usual,
		strike: script(3, sick(func(s *backend.Script) { s.Reset, s.HangBefore, s.Garbage, s.Error = 0.01, 0.01, 0.01, 0.01 })),
	},
	{
		name: "budget", title: "a single target hangs at random: 3 % before the head, 1 % after, 1 % trickle", targets: 1,
		tuning: usual.with(func(t *tuning) { t.Hedge, t.PerTry, t.Attempts = false, t.Budget, 1 }),
		strike: script(1, sick(func(s *backend.Script) {
			s.HangBefore, s.HangAfter, s.Trickle, s.TrickleEvery = 0.03, 0.01, 0.01, time.Millisecond
		})),
		inside: true,
		bounds: func(r *row) []bound {
			return []bound{atMost("answers later than budget + 10 ms by its own doing", float64(r.Inside.OwnLate), r.slack.inside, false)}
		},
	},
}
