package main

import (
	"context"
	"testing"
	"time"

	"sluice/e2e/rig"
)

// TestSmall runs what can be run in a moment. What depends on the machine is not
// asserted here.
func TestSmall(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := plan{seconds: 1, rounds: 1, clients: 50, takes: 100 * time.Millisecond, dir: t.TempDir()}
	var err error
	if p.binary, err = rig.Build(ctx, p.dir, false); err != nil {
		t.Fatal(err)
	}
	for name, measure := range map[string]func(context.Context) ([]row, error){"stampede": p.stampede, "refused": p.refused} {
		rows, err := measure(ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, r := range rows {
			if t.Logf("%s: %s: %s, bound %s %s", name, r.what, r.got, r.bound, r.verdict); r.verdict == fail && !r.timed {
				t.Errorf("%s: %s: expected %s, got %s", name, r.what, r.bound, r.got)
			}
		}
	}
}

func TestOnly(t *testing.T) {
	for _, args := range [][]string{{"-only", "latency,nothing"}, {"-rounds", "0"}, {"-clients", "1"}, {"more"}} {
		if code := run(args, t.Output(), t.Output()); code != 2 {
			t.Errorf("%q: expected 2, got %d", args, code)
		}
	}
}
