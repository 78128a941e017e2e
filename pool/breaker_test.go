package pool

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/setting"
)

func init() {
	if flag.Lookup("update") == nil {
		flag.Bool("update", false, "write what the scripts in testdata print as what they expect")
	}
}

// runScript runs a script of testdata: lines "time event -> outcome" and
// "setup ...", with comments after #. run is given the time in nanoseconds and
// the words of the event, and returns the outcome; setup begins a new case.
func runScript(t *testing.T, name string, setup func(args []string), run func(now int64, event []string) string) {
	t.Helper()
	path := "testdata/" + name
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, note, _ := strings.Cut(lines.Text(), "#")
		event, want, _ := strings.Cut(line, "->")
		words := strings.Fields(event)
		switch {
		case len(words) == 0:
			fmt.Fprintln(&out, lines.Text())
			continue
		case words[0] == "setup":
			setup(words[1:])
			fmt.Fprintln(&out, lines.Text())
			continue
		}
		at, err := time.ParseDuration(words[0])
		if err != nil || len(words) < 2 {
			t.Fatalf("%s:%d: expected a time and an event, got %q", path, n, event)
		}
		got := run(int64(at), words[1:])
		if got != strings.TrimSpace(want) {
			t.Logf("%s:%d: %s: expected %s, got %s", path, n, strings.TrimSpace(event), strings.TrimSpace(want), got)
		}
		fmt.Fprintf(&out, "%-26s -> %s", strings.TrimSpace(event), got)
		if note != "" {
			fmt.Fprintf(&out, " #%s", note)
		}
		fmt.Fprintln(&out)
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if squeeze(out.String()) != squeeze(string(text)) {
		t.Errorf("%s: outcomes differ, see above", path)
	}
}

// squeeze makes runs of spaces one, for a script may be aligned by hand.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// scriptSettings reads key=value words.
func scriptSettings(t *testing.T, words []string, set map[string]func(string) error) {
	t.Helper()
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if set[key] == nil {
			t.Fatalf("unknown setting %q", key)
		}
		if err := set[key](value); err != nil {
			t.Fatalf("%s: %v", w, err)
		}
	}
}

func intoInt(p *int) func(string) error {
	return func(s string) (err error) { *p, err = strconv.Atoi(s); return err }
}

func intoPercent(p *setting.Percent) func(string) error {
	return func(s string) (err error) { *p, err = setting.ParsePercent(s); return err }
}

func intoDuration(p *setting.Duration) func(string) error {
	return func(s string) (err error) { *p, err = setting.ParseDuration(s); return err }
}

// runs is how many random runs of n are made: fewer with -short, which the race
// detector is used with, for they are slow under it and run one goroutine.
func runs(n uint64) uint64 {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

func TestBreakerScript(t *testing.T) {
	var b *breaker
	var sent map[string]ticket
	setup := func(args []string) {
		c := BreakerConfig{ErrorRate: 0.5, Slow: setting.Duration(time.Second), Window: setting.Duration(10 * time.Second),
			MinRequests: 4, Open: setting.Duration(5 * time.Second), Probes: 2}
		scriptSettings(t, args, map[string]func(string) error{
			"errors": intoPercent(&c.ErrorRate), "slow": intoPercent(&c.SlowRate), "window": intoDuration(&c.Window),
			"min": intoInt(&c.MinRequests), "open": intoDuration(&c.Open), "probes": intoInt(&c.Probes),
		})
		b, sent = newBreaker(&c), map[string]ticket{}
	}
	results := map[string]breakerResult{"good": resultGood, "slow": resultGood, "fail": resultFailed, "lost": resultUnknown}
	run := func(now int64, event []string) string {
		what, name := event[0], event[1]
		if what == "send" {
			sent[name] = b.allow(now)
			return sending(sent[name]) + ", " + b.condition(now)
		}
		took := int64(time.Millisecond)
		if what == "slow" {
			took = int64(time.Second)
		}
		if n, err := strconv.Atoi(name); err == nil {
			refused := 0
			for range n {
				k := b.allow(now)
				if k.refused() {
					refused++
				}
				b.report(k, results[what], took, now)
			}
			if refused > 0 {
				return fmt.Sprintf("%d refused, %s", refused, b.condition(now))
			}
			return b.condition(now)
		}
		b.report(sent[name], results[what], took, now)
		return b.condition(now)
	}
	runScript(t, "breaker.txt", setup, run)
}

func sending(k ticket) string {
	switch {
	case k.refused():
		return "refused"
	case k.probe():
		return "probe"
	}
	return "sent"
}

func testBreaker(probes int) *breaker {
	return newBreaker(&BreakerConfig{ErrorRate: 0.5, Slow: setting.Duration(time.Second), Window: setting.Duration(10 * time.Second),
		MinRequests: 10, Open: setting.Duration(5 * time.Second), Probes: probes})
}

func tripBreaker(t *testing.T, b *breaker, now int64) {
	t.Helper()
	for range b.cfg.MinRequests {
		b.report(b.allow(now), resultFailed, 1, now)
	}
	if got := b.condition(now); got != "open" {
		t.Fatalf("expected it open, got %s", got)
	}
}

// However many ask at once, a half-open breaker lets exactly its probes
// through, and a probe given up makes room for exactly one more.
func TestBreakerBoundsProbes(t *testing.T) {
	for range 50 {
		const probes = 5
		b := testBreaker(probes)
		tripBreaker(t, b, 1)
		now := 1 + int64(b.cfg.Open)
		var through atomic.Int64
		var tickets [16][]ticket
		var all sync.WaitGroup
		for g := range tickets {
			all.Go(func() {
				for range 100 {
					if k := b.allow(now); !k.refused() {
						through.Add(1)
						tickets[g] = append(tickets[g], k)
					}
				}
			})
		}
		all.Wait()
		if n := through.Load(); n != probes {
			t.Fatalf("expected %d probes, got %d", probes, n)
		}
		for _, ks := range tickets {
			for _, k := range ks {
				b.report(k, resultUnknown, 0, now)
			}
		}
		for i := range probes {
			if b.allow(now).refused() {
				t.Fatalf("expected room again for probe %d after all were given up", i+1)
			}
		}
		if !b.allow(now).refused() {
			t.Fatal("expected no more probes than were given up")
		}
	}
}

// Whatever happens in whatever order, tickets of one half-open spell never
// exceed its probes, and the breaker closes only after that many went well.
func TestBreakerProperty(t *testing.T) {
	for seed := range runs(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		probes := 1 + r.IntN(4)
		b := testBreaker(probes)
		type flight struct {
			k    ticket
			sent int64
		}
		var inFlight []flight
		granted, given, passed := map[*spell]int{}, map[*spell]int{}, map[*spell]int{}
		now := int64(1)
		bad := r.Float64()
		for step := range 3000 {
			if step%500 == 0 {
				bad = r.Float64()
			}
			now += r.Int64N(int64(20 * time.Millisecond))
			if k := b.allow(now); !k.refused() {
				if k.probe() {
					granted[k.of]++
					// Each further length of open allows one more set.
					sets := 1 + int((now-k.of.until)/int64(b.cfg.Open))
					if n := granted[k.of] - given[k.of]; n > probes*sets {
						t.Fatalf("seed %d: %d probes out or done in one spell, expected at most %d", seed, n, probes*sets)
					}
					if now < k.of.until {
						t.Fatalf("seed %d: a probe while open", seed)
					}
				}
				inFlight = append(inFlight, flight{k, now})
			}
			for len(inFlight) > 0 && r.IntN(3) > 0 {
				i := r.IntN(len(inFlight))
				f := inFlight[i]
				inFlight[i] = inFlight[len(inFlight)-1]
				inFlight = inFlight[:len(inFlight)-1]
				was := b.spell.Load()
				result := resultGood
				switch x := r.Float64(); {
				case x < 0.1:
					result = resultUnknown
					given[f.k.of]++
				case x < 0.1+0.9*bad:
					result = resultFailed
				case f.k.probe():
					passed[f.k.of]++
				}
				b.report(f.k, result, now-f.sent, now)
				is := b.spell.Load()
				if is == was {
					continue
				}
				if f.k.of != was {
					t.Fatalf("seed %d: a request of an earlier spell changed the state", seed)
				}
				if is.until == 0 && passed[was] < probes {
					t.Fatalf("seed %d: closed after %d good probes, expected %d", seed, passed[was], probes)
				}
			}
		}
	}
}

func TestBreakerStress(t *testing.T) {
	b := testBreaker(3)
	var clock atomic.Int64
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 20000 {
				now := clock.Add(int64(time.Millisecond))
				k := b.allow(now)
				b.report(k, breakerResult(r.IntN(3)), r.Int64N(int64(2*time.Second)), now)
				b.condition(now)
			}
		})
	}
	all.Wait()
	// Whatever state that left, good answers close it for good.
	now := clock.Load() + int64(b.cfg.Open) + 1
	for range 100 {
		b.report(b.allow(now), resultGood, 1, now)
	}
	if got := b.condition(now); got != "closed" {
		t.Errorf("expected it closed after good probes, got %s", got)
	}
	if b.opened.Load() == 0 || b.refused.Load() == 0 {
		t.Error("expected it to have opened and refused")
	}
}

func TestNilBreaker(t *testing.T) {
	b := newBreaker(nil)
	k := b.allow(1)
	if k.refused() || k.probe() || b.condition(1) != "closed" {
		t.Error("expected a breaker that is not there to be closed")
	}
	b.report(k, resultFailed, 1, 1)
}
