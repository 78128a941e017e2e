package setting

import (
	"errors"
	"testing"
	"time"
)

func TestParseAndString(t *testing.T) {
	duration := func(in string, want Duration, text string) {
		t.Helper()
		got, err := ParseDuration(in)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParseDuration(%q) = %v (%d), %v; want %v", in, got, got, err, text)
		}
	}
	duration("0", 0, "0")
	duration("250ms", Duration(250*time.Millisecond), "250ms")
	duration("90s", Duration(90*time.Second), "1m30s")
	duration("60s", Duration(time.Minute), "1m")
	duration("1h", Duration(time.Hour), "1h")
	duration("1h30m", Duration(90*time.Minute), "1h30m")
	duration("1h0m5s", Duration(time.Hour+5*time.Second), "1h0m5s")

	size := func(in string, want Size, text string) {
		t.Helper()
		got, err := ParseSize(in)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParseSize(%q) = %v (%d), %v; want %v", in, got, int64(got), err, text)
		}
	}
	size("0", 0, "0")
	size("512", 512, "512")
	size("64KiB", 64<<10, "64KiB")
	size("1.5MiB", 3<<19, "1536KiB")
	size("10MB", 10e6, "10000000")
	size("2 GiB", 2<<30, "2GiB")
	size("7B", 7, "7")

	percent := func(in string, want Percent, text string) {
		t.Helper()
		got, err := ParsePercent(in)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParsePercent(%q) = %v (%g), %v; want %v", in, got, float64(got), err, text)
		}
	}
	percent("50%", 0.5, "50%")
	percent("0.5", 0.5, "50%")
	percent("7%", 0.07, "7%")
	percent("1", 1, "100%")
	percent("0.1%", 0.001, "0.1%")
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "10", "-1s", "1 s", "s", "1d", "9999999h"} {
		if d, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", in, d)
		}
	}
	for _, in := range []string{"", "-1", "KiB", "1kib", "NaN", "Inf", "9e30GiB"} {
		if z, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %v, want an error", in, z)
		}
	}
	for _, in := range []string{"", "-1%", "101%", "1.5", "NaN", "%"} {
		if p, err := ParsePercent(in); err == nil {
			t.Errorf("ParsePercent(%q) = %v, want an error", in, p)
		}
	}
	_, err := ParseSize("big")
	var unexpected *Unexpected
	if !errors.As(err, &unexpected) || unexpected.Got != "big" {
		t.Errorf("error %v does not keep what it got apart", err)
	}
	if want := `expected a size such as 512, 64KiB or 1MiB, got "big"`; err.Error() != want {
		t.Errorf("got %s, want %s", err, want)
	}
}

func TestProblems(t *testing.T) {
	p := NewProblems(func(path string) bool { return path == "a.b[0].key" })
	at := p.At("a").At("b")
	at.Add("[0].key", "expected up to %d, got %q", 3, "hunter2")
	at.Add("[1].key", "expected up to %d, got %q", 3, "shown")
	want := []Problem{
		{"a.b[0].key", `expected up to 3, got "***"`},
		{"a.b[1].key", `expected up to 3, got "shown"`},
	}
	got := at.List()
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKey(t *testing.T) {
	for in, want := range map[string]string{
		"users": "users", "X-Foo.bar": "X-Foo.bar", "": `""`, "a b": `"a b"`, "a\nb": `"a\nb"`, "a[0]": `"a[0]"`,
	} {
		if got := Key(in); got != want {
			t.Errorf("Key(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"upstream", "upstreams", "timeouts", "tls", "name", "max_header"}
	for in, want := range map[string]string{
		"upsteam":    "upstream",
		"pustream":   "upstream",
		"UPSTREAM":   "upstream",
		"time_outs":  "timeouts",
		"tsl":        "tls",
		"maxheader":  "max_header",
		"max-header": "max_header",
		"quux":       "",
		"":           "",
	} {
		if got := Nearest(in, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}
