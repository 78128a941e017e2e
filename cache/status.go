package cache

import "strconv"

// Fwd says why a request went towards the origin (RFC 9211 2.2).
type Fwd uint8

// The values of fwd. Hit is none: the answer came from the cache.
const (
	Hit Fwd = iota
	FwdBypass
	FwdMethod
	FwdURIMiss
	FwdVaryMiss
	FwdMiss
	FwdRequest
	FwdStale
	FwdPartial
)

var fwdNames = [...]string{
	FwdBypass: "bypass", FwdMethod: "method", FwdURIMiss: "uri-miss", FwdVaryMiss: "vary-miss", FwdMiss: "miss",
	FwdRequest: "request", FwdStale: "stale", FwdPartial: "partial",
}

// FwdOf is the fwd of a request that is forwarded for this reason. variants says
// that other variants of its key are stored.
func FwdOf(why Reason, variants bool) Fwd {
	switch why {
	case ByMethod:
		return FwdMethod
	case ByBody, ByHeader, ByCondition, ByPrecondition, ByQuery, ByUpgrade, Unknown:
		return FwdBypass
	case NoCacheAsked, TooOld, NotFreshLong:
		return FwdRequest
	case Expired, NoCacheStored, SoftPurged:
		return FwdStale
	}
	if variants {
		return FwdVaryMiss
	}
	return FwdURIMiss
}

// Status is what Cache-Status says of one answer.
type Status struct {
	Fwd       Fwd
	FwdStatus int // what the origin answered, where it is not what is sent; 0 to leave out
	Stored    bool
	Collapsed bool  // it waited for another request's answer
	Timed     bool  // TTL is known
	TTL       int64 // seconds, negative when stale
	Detail    Reason
}

// AppendStatus writes the Cache-Status field line of this cache (RFC 9211). It
// goes behind those that came with the answer. Without a name nothing is
// written. It allocates nothing.
func AppendStatus(dst []byte, name string, s Status) []byte {
	if name == "" {
		return dst
	}
	dst = appendWord(append(dst, "Cache-Status: "...), name)
	if s.Fwd == Hit {
		dst = append(dst, "; hit"...)
	} else {
		dst = append(append(dst, "; fwd="...), fwdNames[s.Fwd]...)
		if s.FwdStatus > 0 {
			dst = appendInt(append(dst, "; fwd-status="...), int64(s.FwdStatus))
		}
		if s.Stored {
			dst = append(dst, "; stored"...)
		}
		if s.Collapsed {
			dst = append(dst, "; collapsed"...)
		}
	}
	if s.Timed {
		dst = appendInt(append(dst, "; ttl="...), s.TTL)
	}
	if s.Detail != OK {
		dst = append(append(dst, "; detail="...), s.Detail.String()...)
	}
	return append(dst, "\r\n"...)
}

// appendWord writes name as a token of Structured Fields where it is one, else
// as a string.
func appendWord(dst []byte, name string) []byte {
	token := name[0]|0x20 >= 'a' && name[0]|0x20 <= 'z'
	for i := 0; token && i < len(name); i++ {
		c := name[i]
		token = c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '-' || c == '_'
	}
	if token {
		return append(dst, name...)
	}
	dst = append(dst, '"')
	for i := 0; i < len(name); i++ {
		if name[i] == '"' || name[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, name[i])
	}
	return append(dst, '"')
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }
