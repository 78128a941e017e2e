// Package setting holds the words that every configuration is written in:
// durations, sizes and percentages with their units, and the list of mistakes
// that a reader of a configuration is owed.
//
// A machine (pool, listen, observe, ...) declares its own Config struct from
// these types and tags each field:
//
//	yaml:"idle"      the key in the file
//	default:"90s"    the value when nothing is written
//	doc:"..."        one sentence for docs/configuration.md and the JSON Schema
//	min:"1" max:"…"  inclusive bounds, in the field's own notation
//	enum:"a,b,c"     the words allowed
//	secret:"true"    never printed back
//	one:"true"       a list whose only entry may stand without a list
//
// Package config reads, checks, documents and prints all of them by these tags
// alone. What tags cannot say goes into one method Validate(*Problems). A type
// with a method Shorthand(string) on its pointer has a short form: one string
// where the whole mapping or list would stand.
//
// Nothing in this package blocks; only parsing and printing allocate.
package setting

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time written as Go writes it: 250ms, 10s, 1h30m.
// Zero is written 0. Negative values are refused.
type Duration time.Duration

// Size is a number of bytes written 512, 64KiB, 1MiB, 2GiB (binary) or 10KB,
// 5MB (decimal).
type Size int64

// Percent is a share between 0 and 1, written 50% or 0.5.
type Percent float64

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d the way ParseDuration reads it, without zero parts.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if s == "0s" {
		return "0"
	}
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParseDuration reads 250ms, 10s, 1h30m or 0.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, &Unexpected{Want: "a duration such as 250ms, 10s or 1h30m", Got: s}
	}
	return Duration(d), nil
}

var sizeUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1},
}

// ParseSize reads 512, 64KiB, 1MiB or 10MB.
func ParseSize(s string) (Size, error) {
	num, factor := s, 1.0
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			num, factor = rest, u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || v < 0 || math.IsNaN(v) || v*factor > math.MaxInt64/2 {
		return 0, &Unexpected{Want: "a size such as 512, 64KiB or 1MiB", Got: s}
	}
	return Size(v * factor), nil
}

// String writes z in the largest binary unit that divides it.
func (z Size) String() string {
	for i := 3; i >= 0; i-- {
		if f := Size(sizeUnits[i].factor); z != 0 && z%f == 0 {
			return strconv.FormatInt(int64(z/f), 10) + sizeUnits[i].suffix
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// ParsePercent reads 50% or 0.5.
func ParsePercent(s string) (Percent, error) {
	num, cut := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(num, 64)
	if cut {
		v /= 100
	}
	if err != nil || v < 0 || v > 1 || math.IsNaN(v) {
		return 0, &Unexpected{Want: "a share such as 50% or 0.5, between 0 and 1", Got: s}
	}
	return Percent(v), nil
}

// String writes p with a percent sign.
func (p Percent) String() string {
	// Rounded, because 0.07*100 is 7.000000000000001.
	return strconv.FormatFloat(math.Round(float64(p)*1e12)/1e10, 'f', -1, 64) + "%"
}
