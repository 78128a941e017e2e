package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// results writes a CSV such as vegeta encodes: one line for each pair of
// milliseconds sent after the start and milliseconds of latency.
func results(t *testing.T, hits ...[2]int) string {
	t.Helper()
	var b strings.Builder
	for seq, h := range hits {
		fmt.Fprintf(&b, "%d,200,%d,0,1024,,,name,%d,GET,http://127.0.0.1/,\n", 1_700_000_000_000_000_000+h[0]*1_000_000, h[1]*1_000_000, seq)
	}
	name := filepath.Join(t.TempDir(), "in.csv")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestStallIsCharged(t *testing.T) {
	// 100/s; the target stalls for 40 ms after the second request, so that
	// three are sent late, at once, and look fast.
	in := results(t, [2]int{0, 1}, [2]int{10, 40}, [2]int{50, 1}, [2]int{50, 1}, [2]int{50, 1})
	var out strings.Builder
	if err := run([]string{"-rate", "100", "-o", in + ".out", in}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"5 requests, 0 failed", "from plan 21.00 ms 40.00 ms", "from send 1.00 ms 40.00 ms"} {
		if got := words(&out); !strings.Contains(got, want) {
			t.Errorf("expected %q in\n%s", want, got)
		}
	}
	// The corrected file is its own correction: sent when due.
	again, err := startOf(in+".out", 1e7)
	if err != nil || again != 1_700_000_000_000_000_000 {
		t.Errorf("start of the corrected file: %d, %v", again, err)
	}
	var second strings.Builder
	if err := run([]string{"-rate", "100", in + ".out"}, &second); err != nil || !strings.Contains(words(&second), "from send 21.00 ms 40.00 ms") {
		t.Errorf("%v\n%s", err, second.String())
	}
}

// words is the output with single spaces.
func words(b *strings.Builder) string { return strings.Join(strings.Fields(b.String()), " ") }

// Results arrive in the order of completion, not of sending.
func TestOrderDoesNotMatter(t *testing.T) {
	name := filepath.Join(t.TempDir(), "in.csv")
	text := "1700000000010000000,200,1000000,0,0,,,,1,GET,u,\n1700000000000000000,500,30000000,0,0,,,,0,GET,u,\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run([]string{"-rate", "100", "-row", name}, &out); err != nil {
		t.Fatal(err)
	}
	if want := "| 100 | 100 | 50.00 % | 1.00 ms | 30.00 ms |"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want it to begin with %q", out.String(), want)
	}
}

func TestLimits(t *testing.T) {
	in := results(t, [2]int{0, 1}, [2]int{10, 40})
	f := func(want error, args ...string) {
		t.Helper()
		if err := run(append(args, "-rate", "100", in), &strings.Builder{}); !errors.Is(err, want) {
			t.Errorf("%v: got %v, want %v", args, err, want)
		}
	}
	f(nil)
	f(nil, "-max-p99", "40ms", "-max-failures", "0")
	f(errLimit, "-max-p99", "39ms")
}

func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	f := func(want, text string, args ...string) {
		t.Helper()
		name := filepath.Join(dir, "in.csv")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(append(args, name), &strings.Builder{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q %v: got %v, want it to say %q", text, args, err, want)
		}
	}
	f("-rate", "")
	f("got none", "", "-rate", "1")
	f("at least 9 columns", "1,2,3\n", "-rate", "1")
	f("result 1: column 1 (time in ns)", "x,200,1,0,0,,,,0,GET,u,\n", "-rate", "1")
	f("column 9 (sequence number)", "1,200,1,0,0,,,,-1,GET,u,\n", "-rate", "1")
	if err := run([]string{"-rate", "1", filepath.Join(dir, "none.csv")}, &strings.Builder{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
}

func TestPercentile(t *testing.T) {
	f := func(want time.Duration, share float64, v ...time.Duration) {
		t.Helper()
		if got := percentile(v, share); got != want {
			t.Errorf("percentile(%v, %v) = %v, want %v", v, share, got, want)
		}
	}
	f(0, 0.5)
	f(7, 0.999, 7)
	f(2, 0.5, 1, 2, 3, 4)
	f(3, 0.51, 1, 2, 3, 4)
	f(4, 1, 1, 2, 3, 4)
}

func FuzzParseHit(f *testing.F) {
	f.Add("1700000000000000000", "200", "1000", "5")
	f.Add("-1", "", "1e9", "99999999999999999999")
	f.Fuzz(func(t *testing.T, sent, code, latency, seq string) {
		h, err := parseHit([]string{sent, code, latency, "", "", "", "", "", seq})
		if err == nil && (h.sent < 0 || h.latency < 0 || h.seq < 0) {
			t.Errorf("accepted %+v", h)
		}
	})
}
