package limiter

import (
	"errors"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"sluice/setting"
)

func TestParseRate(t *testing.T) {
	f := func(in string, want Rate, perSecond int64) {
		t.Helper()
		got, err := ParseRate(in)
		if err != nil || got != want || got.String() != in || got.perSecond() != perSecond {
			t.Errorf("ParseRate(%q) = %+v (%v, %d/s), %v; want %+v", in, got, got, got.perSecond(), err, want)
		}
	}
	f("1/s", Rate{1, time.Second}, 1)
	f("100/s", Rate{100, time.Second}, 100)
	f("1000000/s", Rate{1000000, time.Second}, 1000000)
	f("5000/m", Rate{5000, time.Minute}, 83)
	f("10/h", Rate{10, time.Hour}, 1)
	f("1/d", Rate{1, 24 * time.Hour}, 1)
	f("86400000000/d", Rate{86400000000, 24 * time.Hour}, 1000000)
}

var badRates = []string{
	"", "/", "100", "100/", "/s", "0/s", "-1/s", "+1/s", "010/s", "1.5/s", "1e3/s", " 1/s", "1 /s", "1/ s", "1/s ",
	"1/S", "1/ms", "1/sec", "1/1s", "1/s/s", "1000001/s", "60000001/m", "86400000001/d", "99999999999999999999/s", "١/s",
}

func TestParseRateRefuses(t *testing.T) {
	for _, in := range badRates {
		r, err := ParseRate(in)
		var unexpected *setting.Unexpected
		if !errors.As(err, &unexpected) || unexpected.Got != in {
			t.Errorf("ParseRate(%q) = %v, %v; want *setting.Unexpected with the text", in, r, err)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range append(badRates, "100/s", "5000/m", "10/h", "1/d") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			return
		}
		if r.String() != s {
			t.Fatalf("%q is read as %v", s, r)
		}
		if r.Count < 1 || r.Count > mostPerSecond*int64(r.Per/time.Second) {
			t.Fatalf("%q is out of bounds", s)
		}
	})
}

// Units and nanoseconds are held to exact arithmetic.
func TestUnits(t *testing.T) {
	for _, text := range []string{"1/s", "7/s", "1000000/s", "999983/s", "5000/m", "7/h", "1/d", "86400000000/d"} {
		r, err := ParseRate(text)
		if err != nil {
			t.Fatal(err)
		}
		step, per := big.NewInt(r.Count*unitsPerRequest), big.NewInt(int64(r.Per))
		for range 2000 {
			ns := rand.Int64() >> rand.IntN(63)
			u := r.units(ns)
			want := new(big.Int).Mul(big.NewInt(ns), step)
			if want.Div(want, per); want.Uint64() != u {
				t.Fatalf("%v: units(%d) = %d, want %v", r, ns, u, want)
			}
			first := r.nanoseconds(u)
			if first > ns || r.units(first) != u || first > 0 && r.units(first-1) >= u {
				t.Fatalf("%v: nanoseconds(%d) = %d, which is not the first of them", r, u, first)
			}
		}
	}
	if u := (Rate{1, time.Second}).units(-5); u != 0 {
		t.Errorf("a time before the start is %d units", u)
	}
}
