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
	if r, ok := parseRate(s); ok {
		return r, nil
	}
	return Rate{}, &setting.Unexpected{Want: rateWant, Got: s}
}

// parseRate is ParseRate without an error to allocate.
func parseRate(s string) (Rate, bool) {
	digits, unit, _ := strings.Cut(s, "/")
	count, ok := parseCount(digits)
	if !ok {
		return Rate{}, false
	}
	for _, u := range rateUnits {
		if u.name == unit && count <= mostPerSecond*int64(u.per/time.Second) {
			return Rate{Count: count, Per: u.per}, true
		}
	}
	return Rate{}, false
}

// parseCount reads a number from 1 to mostCount in its one form: no sign, and
// no 010 that might be eight. It allocates nothing.
func parseCount(s string) (n int64, ok bool) {
	if s == "" || len(s) > 13 || s[0] == '0' {
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, n <= mostCount
}

const mostCount = 1_000_000_000_000

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

// seconds is the stretch of r.
func (r Rate) seconds() int64 { return int64(r.Per / time.Second) }

// faster tells whether r gives more than o.
func (r Rate) faster(o Rate) bool { return r.Count*o.seconds() > o.Count*r.seconds() }

// unitsAt is how many units of the rate clock, its 512ths, one request takes
// at the rate r, rounded up. All products fit: clock is at most 1,000,000 a
// second and r at least 1 a day.
func (r Rate) unitsAt(clock Rate) int64 {
	a, b := clock.Count*unitsPerRequest*r.seconds(), r.Count*clock.seconds()
	return (a + b - 1) / b
}

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
