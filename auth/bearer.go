package auth

import "sluice/wire"

// bearerPlaces is where a client may put a token (RFC 6750 2): Authorization with
// the scheme Bearer or another header with the bare token, a cookie, a query
// parameter. An empty name is not looked at.
type bearerPlaces struct {
	header string
	cookie string
	query  string
	most   int // bytes of a token
}

// Why a token is refused before anybody looks at what it says.
const (
	bearerTwice     = "more than one token"
	bearerTooLong   = "token longer than max_token"
	bearerMalformed = "token is empty or has bytes that no token has"
)

func (b *bearerPlaces) authorization() bool { return wire.EqualFold([]byte(b.header), "authorization") }

func (b *bearerPlaces) places() (at Places) {
	switch {
	case b.authorization():
		at.Schemes = []string{"bearer"}
	case b.header != "":
		at.Headers = []string{b.header}
	}
	if b.cookie != "" {
		at.Cookies = []string{b.cookie}
	}
	if b.query != "" {
		at.Query = []string{b.query}
	}
	return at
}

// token finds the one token of r: a client sends it in one way only. Without a
// token the reason is ""; with a reason it is no good. Which bytes it has is not
// looked at: those of a remembered token have been.
func (b *bearerPlaces) token(r *Request) (token []byte, reason string) {
	found := 0
	take := func(value []byte, count int) {
		if found += count; count > 0 && token == nil {
			token = value
		}
	}
	switch {
	case b.authorization():
		value, count := r.Authorization()
		if count > 1 {
			return nil, bearerTwice
		}
		if credential, ok := Scheme(value, "bearer"); ok {
			take(credential, 1)
		} else if wire.EqualFold(value, "bearer") {
			return nil, bearerMalformed
		}
	case b.header != "":
		take(r.Header(b.header))
	}
	if b.cookie != "" {
		take(r.Cookie(b.cookie))
	}
	if b.query != "" {
		take(r.Query(b.query))
	}
	switch {
	case found == 0:
		return nil, ""
	case found > 1:
		return nil, bearerTwice
	case len(token) > b.most:
		return nil, bearerTooLong
	case len(token) == 0:
		return nil, bearerMalformed
	}
	return token, ""
}
