package load

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"sluice/bench/faults/backend"
)

func run(t *testing.T, script backend.Script, p Plan) ([]Shot, backend.Counts) {
	t.Helper()
	s, err := backend.Start("127.0.0.1:0", 7)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Set(script); err != nil {
		t.Fatal(err)
	}
	p.Address, p.Path = s.Addr(), "/"
	shots, err := Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return shots, s.Counts()
}

func TestOutcomes(t *testing.T) {
	f := func(script backend.Script, status uint16, broken Broken) {
		t.Helper()
		shots, counts := run(t, script, Plan{Rate: 1000, For: 20 * time.Millisecond, Timeout: time.Second})
		if len(shots) != 20 || counts.Requests != 20 && !script.Refuse {
			t.Errorf("%+v: expected 20 requests, sent %d, seen %d", script, len(shots), counts.Requests)
		}
		for _, s := range shots {
			if s.Status != status || s.Broken != broken {
				t.Errorf("%+v: expected %d %v, got %d %v", script, status, broken, s.Status, s.Broken)
				return
			}
		}
	}
	f(backend.Script{Body: 100}, 200, Whole)
	f(backend.Script{Error: 1}, 503, Whole)
	f(backend.Script{Reset: 1}, 0, Cut)
	f(backend.Script{Garbage: 1}, 0, Malformed)
	f(backend.Script{HangBefore: 1}, 0, TimedOut)
	f(backend.Script{HangAfter: 1}, 0, TimedOut)
	f(backend.Script{Refuse: true}, 0, NoConnect)
}

// Those who wait behind a stall are charged for it: every request is sent at
// its time although the ones before have no answer.
func TestOpenLoop(t *testing.T) {
	shots, counts := run(t, backend.Script{HangBefore: 1}, Plan{Rate: 500, For: 40 * time.Millisecond, Timeout: 2 * time.Second, InFlight: 15})
	if counts.Requests != 15 || counts.Connections != 15 {
		t.Fatalf("expected 15 requests at once on 15 connections, the backend saw %+v", counts)
	}
	sum := Summarise(shots, 0, time.Second)
	if sum.Outcomes["not sent"] != 5 || sum.Failed != 20 {
		t.Fatalf("expected 5 of 20 not sent, got %+v", sum)
	}
}

func TestCancel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	shots, err := Run(ctx, Plan{Address: l.Addr().String(), Path: "/", Rate: 1, For: time.Hour, Timeout: time.Second})
	if !errors.Is(err, context.Canceled) || len(shots) != 0 {
		t.Fatalf("expected an early end, got %d shots, %v", len(shots), err)
	}
	if _, err := Run(t.Context(), Plan{Rate: 0}); err == nil {
		t.Fatal("expected an error for an empty plan")
	}
}

func TestSummarise(t *testing.T) {
	var shots []Shot
	for i := range 1000 {
		s := Shot{Due: time.Duration(i), Took: time.Duration(i) * time.Millisecond, Status: 200}
		switch {
		case i < 10:
			s.Status, s.Broken = 0, Cut
		case i < 30:
			s.Status = 504
		case i < 60:
			s.Fallback = true
		}
		shots = append(shots, s)
	}
	s := Summarise(shots, 0, 1000)
	if s.Requests != 1000 || s.Failed != 30 || s.FailedShare != 0.03 || s.Fallbacks != 30 ||
		s.Outcomes["cut off"] != 10 || s.Outcomes["504"] != 20 || s.Outcomes["200"] != 970 {
		t.Errorf("got %+v", s)
	}
	if s.P50.String() != "499.0" || s.P99.String() != "989.0" || s.Max.String() != "999.0" {
		t.Errorf("expected 499, 989, 999, got %v %v %v", s.P50, s.P99, s.Max)
	}
	if s := Summarise(shots, 10, 30); s.Requests != 20 || s.FailedShare != 1 {
		t.Errorf("expected the 20 shots in between, got %+v", s)
	}
	if s := Summarise(nil, 0, 1); s.Requests != 0 || s.FailedShare != 0 {
		t.Errorf("expected nothing, got %+v", s)
	}
}
