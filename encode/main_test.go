package encode

import (
	"bytes"
	"fmt"
	"math/rand"
	"testing"

	"go.uber.org/goleak"

	"sluice/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var everyCoding = []Coding{Identity, Gzip, Brotli, Zstd}

func testPolicy(level string, codings ...string) *Policy {
	return NewPolicy(&Config{Codings: codings, Min: 1 << 10, Level: level})
}

// testJSON is n bytes that look like an API's answer, the same each time.
func testJSON(n int) []byte {
	r := rand.New(rand.NewSource(1))
	var b bytes.Buffer
	b.WriteByte('[')
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"id":%d,"name":"user %d","email":"u%x@example.com","active":%v,"balance":%.2f,"tags":["a%d","b"],"created":"2024-%02d-%02dT10:00:00Z"},`,
			i, r.Intn(10000), r.Int63(), r.Intn(2) == 0, r.Float64()*1000, r.Intn(50), 1+r.Intn(12), 1+r.Intn(28))
	}
	return b.Bytes()[:n]
}

// testNoise is n bytes that nothing can make shorter.
func testNoise(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(2)).Read(b)
	return b
}

func testProblems(c *Config) (list []string) {
	p := setting.NewProblems(nil)
	c.Validate(p)
	for _, one := range p.List() {
		list = append(list, one.Path+": "+one.Expected)
	}
	return list
}
