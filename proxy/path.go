package proxy

import "sluice/wire"

// NormalPath is the form in which requests for path are matched and forwarded. ok
// is false for what no request may ask for. An empty path is "/".
func NormalPath(path string) (normal string, ok bool) {
	if path == "" {
		path = "/"
	}
	var r wire.Request
	head := []byte("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
	n, err := r.Parse(head, wire.Limits{Bytes: len(head), Fields: 1})
	if err != nil || n != len(head) || r.Form != wire.OriginForm || r.HasQuery {
		return "", false
	}
	b, ok := normalPath(r.Path, nil)
	return string(b), ok
}

// normalPath brings the path of a request target into the one form that is
// matched and forwarded, so that no policy is passed by under another spelling.
// It returns path itself when that is normal already, else the normal form
// appended to buf. It is false for a path that climbs above its root or holds
// an encoded NUL. path must have passed wire.Request.Parse.
//
// The rules, in one pass, once:
//
//	%41           an escape of an unreserved character is decoded (RFC 3986 6.2.2.2)
//	%2f %5c %3b   any other escape stays, in upper case: %2F is never a separator
//	%252e         decoded once only: %25 stays, so this stays
//	//            becomes /
//	/./  /../     are resolved (RFC 3986 5.2.4), after decoding: %2e%2e is ..
//	/..           above the root is refused, as is %00
//	;             is an ordinary character: /a;x/../b is /b, /..;/ stays
func normalPath(path, buf []byte) (normal []byte, ok bool) {
	i := plainUpTo(path)
	if i == len(path) {
		return path, true
	}
	out := append(buf[:0], path[:i]...)
	// lastSegment is where the segment being written begins, after its slash.
	lastSegment := 0
	for j, c := range out {
		if c == '/' {
			lastSegment = j + 1
		}
	}
	end := func() bool { // of a segment: drop "." and resolve ".."
		switch string(out[lastSegment:]) {
		case ".":
			out = out[:lastSegment]
		case "..":
			if lastSegment <= 1 {
				return false
			}
			k := lastSegment - 1
			for k > 0 && out[k-1] != '/' {
				k--
			}
			out = out[:k]
			lastSegment = k
		}
		return true
	}
	for ; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
			i += 2
			if c == 0 {
				return nil, false
			}
			if !unreserved[c] {
				out = append(out, '%', upperHex[c>>4], upperHex[c&15])
				continue
			}
		}
		if c != '/' {
			out = append(out, c)
			continue
		}
		if !end() {
			return nil, false
		}
		if len(out) == 0 || out[len(out)-1] != '/' {
			out = append(out, '/')
		}
		lastSegment = len(out)
	}
	return out, end()
}

// plainUpTo is how much of path is certainly normal: up to the first escape,
// double slash, or segment that begins with a dot.
func plainUpTo(path []byte) int {
	for i, c := range path {
		if c == '%' {
			return i
		}
		if c == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return i
		}
	}
	return len(path)
}

const upperHex = "0123456789ABCDEF"

var unreserved = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~" {
		t[c] = true
	}
	return t
}()

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
