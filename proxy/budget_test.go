package proxy

import (
	"testing"
	"time"

	"sluice/fault"
	"sluice/wire"
)

func TestGRPCTimeout(t *testing.T) {
	f := func(text string, want time.Duration) {
		t.Helper()
		if got := grpcTimeout([]byte(text)); got != int64(want) {
			t.Errorf("%q is %v, want %v", text, time.Duration(got), want)
		}
	}
	f("1H", time.Hour)
	f("2M", 2*time.Minute)
	f("3S", 3*time.Second)
	f("4m", 4*time.Millisecond)
	f("5u", 5*time.Microsecond)
	f("6n", 6)
	f("0m", 0)
	f("00000007S", 7*time.Second)
	f("99999999H", time.Duration(mostBudget))
	f("99999999M", time.Duration(mostBudget))
	for _, bad := range []string{"", "S", "1", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "123456789S", "0x1S", "1_0S"} {
		f(bad, time.Duration(none))
	}
}

func TestAppendGRPCTimeout(t *testing.T) {
	f := func(d time.Duration, want string) {
		t.Helper()
		if got := string(appendGRPCTimeout(nil, int64(d))); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
	f(250*time.Millisecond, "250m")
	f(250*time.Millisecond+999*time.Microsecond, "250m")
	f(999*time.Microsecond, "0m")
	f(-time.Second, "0m")
	f(99_999_999*time.Millisecond, "99999999m")
	f(100_000*time.Second, "100000S")
	f(time.Duration(1<<63-1), "99999999S")
}

func TestMillis(t *testing.T) {
	f := func(text string, want int64) {
		t.Helper()
		if got := millis([]byte(text)); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
	f("0", 0)
	f("250", 250e6)
	f("9223372036854775807", mostBudget)
	for _, bad := range []string{"", "-1", "+1", "1ms", "1.5", " 1", "9223372036854775808", "0x1", "1_000"} {
		f(bad, none)
	}
}

// FuzzBudget holds for whatever a trusted hop sends: a time that is none, or
// one that can be added to a clock.
func FuzzBudget(f *testing.F) {
	for _, seed := range []string{"", "0", "250", "1H", "99999999H", "9223372036854775807", "-5m", "7n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ns := range []int64{millis(b), grpcTimeout(b)} {
			if ns != none && (ns < 0 || ns > mostBudget) {
				t.Fatalf("%q is %d", b, ns)
			}
			if ns == none {
				continue
			}
			again := grpcTimeout(appendGRPCTimeout(nil, ns))
			if again == none || again > ns {
				t.Fatalf("%q, %d ns, is handed on as %d", b, ns, again)
			}
		}
	})
}

// TestSpent is which failures at the end of the budget are the budget's.
func TestSpent(t *testing.T) {
	now := wire.Nanotime()
	f := func(deadline int64, is, want fault.Kind) {
		t.Helper()
		if got := (&exchange{deadline: deadline}).spent(is); got != want {
			t.Errorf("%s is %s, want %s", is, got, want)
		}
	}
	for _, k := range []fault.Kind{fault.QueueTimeout, fault.ConnectTimeout, fault.AnswerTimeout, fault.AnswerCut} {
		f(now, k, fault.BudgetSpent)
		f(now+1e12, k, k)
		f(0, k, k)
	}
	for _, k := range []fault.Kind{fault.None, fault.ClientGone, fault.ClientSlow, fault.TargetReset, fault.QueueFull, fault.BodyTooLarge} {
		f(now, k, k)
	}
}

// TestLess is the shorter of two budgets.
func TestLess(t *testing.T) {
	for _, c := range [][3]int64{{none, none, none}, {5, none, 5}, {none, 5, 5}, {5, 7, 5}, {7, 5, 5}, {0, 5, 0}, {5, 0, 0}} {
		if got := less(c[0], c[1]); got != c[2] {
			t.Errorf("of %d and %d it is %d", c[0], c[1], got)
		}
	}
}
