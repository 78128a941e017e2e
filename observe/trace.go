package observe

// Traceparent is the caller's place in a trace, from the header of that name
// (W3C Trace Context, level 2). The ids are lowercase hex.
type Traceparent struct {
	TraceID  [32]byte
	ParentID [16]byte
	Flags    byte // FlagSampled and FlagRandom; others are cleared
}

// The flags of level 2. All others are reserved and are not passed on.
const (
	FlagSampled byte = 1 << 0 // the caller may have recorded this request
	FlagRandom  byte = 1 << 1 // the trace id's right half is random
	knownFlags       = FlagSampled | FlagRandom
)

// traceparentLen is the length of version 00: version, ids and flags.
const traceparentLen = 2 + 1 + 32 + 1 + 16 + 1 + 2

// ParseTraceparent reads a traceparent header. Version 00 must be exactly
// right; a later version may have more behind a dash, as the recommendation
// asks; version ff, ids of only zeros and uppercase hex are refused.
func ParseTraceparent(b []byte) (t Traceparent, ok bool) {
	if len(b) < traceparentLen || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return t, false
	}
	version, ok := hexByte(b[0], b[1])
	switch {
	case !ok, version == 0xff:
		return t, false
	case len(b) > traceparentLen && (version == 0 || b[traceparentLen] != '-'):
		return t, false
	}
	flags, ok := hexByte(b[53], b[54])
	if !ok || !isID(b[3:35]) || !isID(b[36:52]) {
		return t, false
	}
	copy(t.TraceID[:], b[3:35])
	copy(t.ParentID[:], b[36:52])
	t.Flags = flags & knownFlags
	return t, true
}

// AppendTraceparent appends a traceparent of version 00. The ids are lowercase
// hex, as NewID and NewSpanID make them; unknown flags are cleared.
func AppendTraceparent(dst []byte, traceID *[32]byte, spanID *[16]byte, flags byte) []byte {
	flags &= knownFlags
	dst = append(dst, "00-"...)
	dst = append(dst, traceID[:]...)
	dst = append(dst, '-')
	dst = append(dst, spanID[:]...)
	return append(dst, '-', '0', '0'+flags)
}

// maxTracestate is how many members a tracestate may have in all.
const maxTracestate = 32

// CapTracestate returns the start of one tracestate line that keeps the members
// of all lines together within 32, and how many that makes with the used ones
// of earlier lines. Empty members are not counted. kept is part of line.
func CapTracestate(line []byte, used int) (kept []byte, total int) {
	total = used
	within := false // a member that is not only blanks
	last := 0       // where the last member kept ends
	for i, c := range line {
		switch {
		case c == ',':
			within = false
		case c == ' ' || c == '\t':
			continue
		case !within:
			if total >= maxTracestate {
				return line[:last], total
			}
			within = true
			total++
		}
		if within {
			last = i + 1
		}
	}
	return line, total
}

// notHex in a digit's value says that it is none.
const notHex = 0x80

// hexValue is the value of a lowercase hex digit, or notHex.
var hexValue = func() (v [256]byte) {
	for c := range v {
		switch {
		case '0' <= c && c <= '9':
			v[c] = byte(c - '0')
		case 'a' <= c && c <= 'f':
			v[c] = byte(c - 'a' + 10)
		default:
			v[c] = notHex
		}
	}
	return v
}()

// isID reports whether b is lowercase hex and not only zeros.
func isID(b []byte) bool {
	var all byte
	for _, c := range b {
		all |= hexValue[c]
	}
	return all != 0 && all&notHex == 0
}

func hexByte(high, low byte) (value byte, ok bool) {
	h, l := hexValue[high], hexValue[low]
	return h<<4 | l, (h|l)&notHex == 0
}
