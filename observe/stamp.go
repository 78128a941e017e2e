package observe

import (
	"sync/atomic"
	"time"
)

// stampLen is the length of "2006-01-02T15:04:05.000Z" with its quotes.
const stampLen = 26

const secondsPerDay = 24 * 60 * 60

// today is the date's text, which a line a microsecond need not work out anew.
// It is replaced (one allocation) once a day.
var today atomic.Pointer[dateText]

type dateText struct {
	day  int64 // since 1970-01-01, UTC
	text string
}

// twoDigits[2n:2n+2] is n in two decimal digits.
const twoDigits = "0001020304050607080910111213141516171819" +
	"2021222324252627282930313233343536373839" +
	"4041424344454647484950515253545556575859" +
	"6061626364656667686970717273747576777879" +
	"8081828384858687888990919293949596979899"

// appendStamp appends t as a quoted RFC 3339 time in UTC with milliseconds.
// Times before 1970 or after 9999 are written as the nearest of these.
func appendStamp(dst []byte, t time.Time) []byte {
	const lastSecond = 253402300799 // 9999-12-31T23:59:59Z
	unix := min(max(t.Unix(), 0), lastSecond)
	day := unix / secondsPerDay
	date := today.Load()
	if date == nil || date.day != day {
		date = newDate(day, date)
	}
	sec := uint32(unix % secondsPerDay)
	hour, minute := sec/3600, sec/60%60
	sec %= 60
	ms := uint32(t.Nanosecond()) / 1e6
	dst = append(dst, date.text...)
	return append(dst,
		twoDigits[2*hour], twoDigits[2*hour+1], ':',
		twoDigits[2*minute], twoDigits[2*minute+1], ':',
		twoDigits[2*sec], twoDigits[2*sec+1], '.',
		'0'+byte(ms/100), twoDigits[2*(ms%100)], twoDigits[2*(ms%100)+1], 'Z', '"')
}

// newDate makes the text of day, and keeps it for the next line unless it is
// the day before the one kept: requests that began before midnight must not
// drive out the new date. Any other day means that the clock was set.
//
//go:noinline
func newDate(day int64, kept *dateText) *dateText {
	date := &dateText{day: day, text: time.Unix(day*secondsPerDay, 0).UTC().Format(`"2006-01-02T`)}
	if kept == nil || day != kept.day-1 {
		today.CompareAndSwap(kept, date)
	}
	return date
}
