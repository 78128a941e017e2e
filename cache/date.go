package cache

// noDate stands for a date that is absent or cannot be read.
const noDate = int64(-1) << 62

// parseDate reads an HTTP-date in any of its three forms (RFC 9110 5.6.7) and
// returns Unix seconds. Names are matched without regard to case, and a zone
// other than GMT is no date (RFC 9111 4.2). now, in Unix seconds, settles the
// century of a two-digit year: one that appears to be more than 50 years ahead
// is in the past. The name of the day is read but not checked against the date.
func parseDate(b []byte, now int64) (int64, bool) {
	switch {
	case len(b) == 29 && b[3] == ',': // Sun, 06 Nov 1994 08:49:37 GMT
		if dayName(b[:3]) < 0 || b[4] != ' ' || b[7] != ' ' || b[11] != ' ' || b[16] != ' ' || !gmt(b[25:]) {
			return 0, false
		}
		return join(number(b[12:16]), monthName(b[8:11]), number(b[5:7]), b[17:25])
	case len(b) == 24 && b[3] == ' ': // Sun Nov  6 08:49:37 1994
		if dayName(b[:3]) < 0 || b[7] != ' ' || b[10] != ' ' || b[19] != ' ' {
			return 0, false
		}
		day := b[8:10]
		if day[0] == ' ' {
			day = day[1:]
		}
		return join(number(b[20:24]), monthName(b[4:7]), number(day), b[11:19])
	}
	// Sunday, 06-Nov-94 08:49:37 GMT
	for i, c := range b {
		if c != ',' {
			continue
		}
		rest := b[i+1:]
		if longDayName(b[:i]) < 0 || len(rest) != 23 || rest[0] != ' ' || rest[3] != '-' || rest[7] != '-' || rest[10] != ' ' || !gmt(rest[19:]) {
			return 0, false
		}
		yy := number(rest[8:10])
		if yy < 0 {
			return 0, false
		}
		year, _, _ := civil(now / 86400)
		y := year - year%100 + yy
		if y > year+50 {
			y -= 100
		} else if y <= year-50 {
			y += 100
		}
		return join(y, monthName(rest[4:7]), number(rest[1:3]), rest[11:19])
	}
	return 0, false
}

func join(year, month, day int, clock []byte) (int64, bool) {
	if clock[2] != ':' || clock[5] != ':' {
		return 0, false
	}
	h, m, s := number(clock[:2]), number(clock[3:5]), number(clock[6:8])
	if year < 1 || month < 1 || day < 1 || day > monthDays(year, month) || h < 0 || h > 23 || m < 0 || m > 59 || s < 0 || s > 60 {
		return 0, false
	}
	return days(year, month, day)*86400 + int64(h*3600+m*60+s), true
}

// number reads digits, all of b, or returns -1.
func number(b []byte) int {
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func gmt(b []byte) bool { return foldEqual(b, " gmt") }

const (
	dayNames   = "sunmontuewedthufrisat"
	monthNames = "janfebmaraprmayjunjulaugsepoctnovdec"
)

var longDays = [...]string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func dayName(b []byte) int { return nameAt(b, dayNames) }

func monthName(b []byte) int { return nameAt(b, monthNames) + 1 }

func nameAt(b []byte, names string) int {
	for i := 0; i < len(names); i += 3 {
		if foldEqual(b, names[i:i+3]) {
			return i / 3
		}
	}
	return -1
}

func longDayName(b []byte) int {
	for i, name := range longDays {
		if foldEqual(b, name) {
			return i
		}
	}
	return -1
}

// foldEqual compares b with lower, which has lower-case letters, without
// regard to the case of letters.
func foldEqual(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func leap(y int) bool { return y%4 == 0 && (y%100 != 0 || y%400 == 0) }

func monthDays(y, m int) int {
	switch m {
	case 2:
		if leap(y) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// days counts the days from 1970 to a date of the Gregorian calendar. Years
// begin in March here, so that the leap day is their last.
func days(y, m, d int) int64 {
	if m <= 2 {
		y, m = y-1, m+12
	}
	return int64(365*y+y/4-y/100+y/400+(153*(m-3)+2)/5+d-1) - 719468
}

// civil is the reverse of days, for years after 0.
func civil(day int64) (y, m, d int) {
	z := day + 719468
	era := z / 146097
	doe := z % 146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	y, m, d = int(yoe+era*400), int(mp)+3, int(doy-(153*mp+2)/5)+1
	if m > 12 {
		y, m = y+1, m-12
	}
	return y, m, d
}

// isDate tells whether t is within the years that HTTP-dates can say.
func isDate(t int64) bool { return t >= -62135596800 && t <= 253402300799 }

// appendDate writes Unix seconds as an IMF-fixdate.
func appendDate(dst []byte, t int64) []byte {
	day, clock := t/86400, t%86400
	if clock < 0 {
		day, clock = day-1, clock+86400
	}
	y, m, d := civil(day)
	weekday := (day%7 + 7 + 4) % 7
	dst = appendName(dst, dayNames[3*weekday:3*weekday+3])
	dst = append(dst, ", "...)
	dst = append(appendTwo(dst, d), ' ')
	dst = append(appendName(dst, monthNames[3*(m-1):3*m]), ' ')
	dst = append(appendTwo(appendTwo(dst, y/100), y%100), ' ')
	dst = append(appendTwo(dst, int(clock/3600)), ':')
	dst = append(appendTwo(dst, int(clock/60%60)), ':')
	return append(appendTwo(dst, int(clock%60)), " GMT"...)
}

func appendName(dst []byte, lower string) []byte {
	return append(dst, lower[0]&^0x20, lower[1], lower[2])
}

func appendTwo(dst []byte, n int) []byte { return append(dst, byte('0'+n/10%10), byte('0'+n%10)) }
