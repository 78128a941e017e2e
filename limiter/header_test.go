package limiter

import (
	"bytes"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func TestAppendHeaders(t *testing.T) {
	f := func(c Config, d Decision, want string) {
		t.Helper()
		if got := string(New("default", c, nil).AppendHeaders(nil, d)); got != want {
			t.Errorf("%+v:\n got %q\nwant %q", d, got, want)
		}
	}
	const s = int64(time.Second)
	c := testConfig("100/s", 100)
	policy := "RateLimit-Policy: \"default\";q=100;w=1\r\n"
	f(c, Decision{OK: true, Remaining: 99}, policy+"RateLimit: \"default\";r=99;t=1\r\n")
	f(c, Decision{OK: true, Remaining: 0}, policy+"RateLimit: \"default\";r=0;t=1\r\n")
	f(c, Decision{RetryAfter: 1}, policy+"RateLimit: \"default\";r=0;t=1\r\nRetry-After: 1\r\n")
	f(c, Decision{RetryAfter: s}, policy+"RateLimit: \"default\";r=0;t=1\r\nRetry-After: 1\r\n")
	f(c, Decision{RetryAfter: s + 1, Remaining: 3}, policy+"RateLimit: \"default\";r=3;t=2\r\nRetry-After: 2\r\n")

	c = testConfig("10/h", 1)
	policy = "RateLimit-Policy: \"default\";q=10;w=3600\r\n"
	f(c, Decision{OK: true}, policy+"RateLimit: \"default\";r=0;t=360\r\n")
	f(c, Decision{RetryAfter: 300 * s}, policy+"RateLimit: \"default\";r=0;t=300\r\nRetry-After: 300\r\n")

	c = testConfig("10/s", 100)
	policy = "RateLimit-Policy: \"default\";q=100;w=10\r\n"
	f(c, Decision{OK: true, Remaining: 42}, policy+"RateLimit: \"default\";r=42;t=5\r\n")
	c = testConfig("7/s", 100)
	policy = "RateLimit-Policy: \"default\";q=100;w=15\r\n"
	f(c, Decision{OK: true, Remaining: 100}, policy+"RateLimit: \"default\";r=100;t=15\r\n")

	c = testConfig("100/s", 100)
	c.Headers = false
	f(c, Decision{OK: true, Remaining: 99}, "")
	f(c, Decision{RetryAfter: s}, "Retry-After: 1\r\n")
	c.DryRun, c.Headers = true, true
	f(c, Decision{OK: true, DryRun: true, RetryAfter: s}, "")
}

var headerLines = regexp.MustCompile(`\A` +
	`RateLimit-Policy: ("(?:[ !#-\[\]-~]|\\["\\])*");q=([0-9]{1,15});w=([1-9][0-9]{0,14})\r\n` +
	`RateLimit: ("(?:[ !#-\[\]-~]|\\["\\])*");r=([0-9]{1,15});t=([1-9][0-9]{0,14})\r\n` +
	`(?:Retry-After: ([1-9][0-9]{0,14})\r\n)?\z`)

// Whatever the name, the rate and the answer, the lines are structured fields,
// nobody has more left than the quota, and t and Retry-After agree.
func FuzzAppendHeaders(f *testing.F) {
	f.Add("default", "100/s", 50, int64(1), int64(1))
	f.Add("a\"b\\c\r\nSet-Cookie: x\x00\xff", "10/h", 1, int64(9), int64(1<<40))
	f.Add("", "1/d", 366, int64(400), int64(1<<62))
	f.Add("burst", "1000000/s", 1000000, int64(1000000), int64(12345))
	f.Fuzz(func(t *testing.T, name, rate string, burst int, cost, now int64) {
		r, err := ParseRate(rate)
		if err != nil || burst < 0 || burst > mostBurst || int64(burst) > int64(longestRefill/r.Per)*r.Count || now < 0 {
			return
		}
		// Beyond 100 years the times of a decision would pass 63 bits.
		now %= int64(100 * 365 * 24 * time.Hour)
		l := New(name, testConfig(rate, burst), nil)
		for _, cost := range []int64{cost, 1, l.burst, l.burst} {
			d := l.Allow(1, cost, now)
			got := l.AppendHeaders([]byte("X"), d)
			m := headerLines.FindSubmatch(bytes.TrimPrefix(got, []byte("X")))
			if m == nil {
				t.Fatalf("%+v gives %q", d, got)
			}
			number := func(i int) int64 {
				n, err := strconv.ParseInt(string(m[i]), 10, 64)
				if err != nil {
					t.Fatalf("%q: %v", got, err)
				}
				return n
			}
			switch {
			case !bytes.Equal(m[1], m[4]):
				t.Fatalf("two names: %q", got)
			case number(5) > number(2):
				t.Fatalf("more left than the quota: %q", got)
			case d.OK != (len(m[7]) == 0):
				t.Fatalf("Retry-After with %+v: %q", d, got)
			case !d.OK && number(6) != number(7):
				t.Fatalf("t and Retry-After differ: %q", got)
			case !d.OK && number(7)*int64(time.Second) < d.RetryAfter:
				t.Fatalf("comes back too soon for %+v: %q", d, got)
			case number(2)*int64(r.Per/time.Second) > number(3)*r.Count:
				t.Fatalf("the policy gives more than %v: %q", r, got)
			}
		}
	})
}
