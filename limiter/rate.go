package limiter

import (
	"math/bits"
	"strconv"
	"strings"
	"time"

	"sluice/setting"
)

// Rate is a number of requests in a stretch of time. The zero value is no rate.
type Rate struct {
	Count int64         // at least 1, at most 1,000,000 for each second of Per
	Per   time.Duration // a second, a minute, an hour or a day
}

// mostPerSecond keeps a 512th of a request above one nanosecond.
const mostPerSecond = 1_000_000

// rateWant is what a rate is expected to be, in a message.
const rateWant = "a rate such as 100/s, 5000/m, 10/h or 1000/d, at most 1000000 a second"

var rateUnits = []struct {
	name string
	per  time.Duration
}{
	{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour},
}

// ParseRate reads 100/s, 5000/m, 10/h or 1000/d. Its error is a
// *setting.Unexpected.
func ParseRate(s string) (Rate, error) {
	unexpected := &setting.Unexpected{Want: rateWant, Got: s}
	digits, unit, _ := strings.Cut(s, "/")
	if digits == "" || digits[0] < '1' || digits[0] > '9' {
		return Rate{}, unexpected // no sign, and no 010 that might be eight
	}
	count, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return Rate{}, unexpected
	}
	for _, u := range rateUnits {
		if u.name == unit && count <= mostPerSecond*int64(u.per/time.Second) {
			return Rate{Count: count, Per: u.per}, nil
		}
	}
	return Rate{}, unexpected
}

// String writes r the way ParseRate reads it.
func (r Rate) String() string {
	for _, u := range rateUnits {
		if u.per == r.Per {
			return strconv.FormatInt(r.Count, 10) + "/" + u.name
		}
	}
	return strconv.FormatInt(r.Count, 10) + "/" + r.Per.String()
}

// perSecond is what r gives in one second, rounded down, but at least 1.
func (r Rate) perSecond() int64 { return max(1, r.Count/int64(r.Per/time.Second)) }

// units is how many steps of 1/unitsPerRequest request r gives in ns
// nanoseconds, rounded down. A time before the start is the start.
func (r Rate) units(ns int64) uint64 {
	hi, lo := bits.Mul64(uint64(max(ns, 0)), uint64(r.Count)*unitsPerRequest)
	u, _ := bits.Div64(hi, lo, uint64(r.Per))
	return u
}

// nanoseconds is the first time at which r has given u units: units(ns) >= u
// from then on. It inverts units without an error that could add up.
func (r Rate) nanoseconds(u uint64) int64 {
	step := uint64(r.Count) * unitsPerRequest
	hi, lo := bits.Mul64(u, uint64(r.Per))
	lo, carry := bits.Add64(lo, step-1, 0)
	ns, _ := bits.Div64(hi+carry, lo, step)
	return int64(ns)
}
