package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sluice/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// decoded is doc as the standard library reads it.
func decoded(t testing.TB, doc []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s is no JSON: %v", doc, err)
	}
	return v
}

func encoded(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func same(t testing.TB, a, b []byte) bool {
	t.Helper()
	return reflect.DeepEqual(decoded(t, a), decoded(t, b))
}

// oddNumbers are those that come out otherwise from whoever decodes them.
var oddNumbers = []string{"1e400", "123456789012345678901234567890", "-0", "1.10", "1E+2", "0.1e-7", "9007199254740993", "1.0"}

// randomDocument writes a document with few names, so that paths meet it.
func randomDocument(r *rand.Rand, depth int) []byte {
	var b []byte
	var value func(depth int)
	blank := func() {
		if r.Intn(6) == 0 {
			b = append(b, " \n\t\r"[r.Intn(4)])
		}
	}
	value = func(depth int) {
		blank()
		defer blank()
		kind := r.Intn(8)
		if depth <= 0 {
			kind = r.Intn(5)
		}
		switch kind {
		case 0:
			b = append(b, []string{"true", "false", "null"}[r.Intn(3)]...)
		case 1:
			b = append(b, oddNumbers[r.Intn(len(oddNumbers))]...)
		case 2:
			b = append(b, []string{`"x"`, `"\u00e9\n"`, `"é\"\\"`, `"\ud83d\ude00 ]}"`, `""`}[r.Intn(5)]...)
		case 3, 4:
			b = fmt.Appendf(b, "%d", r.Intn(100))
		case 5:
			b = append(b, '[')
			for i := range r.Intn(4) {
				if i > 0 {
					b = append(b, ',')
				}
				value(depth - 1)
			}
			b = append(b, ']')
		default:
			names := []string{`"a"`, `"b"`, `"c"`, `"\u0064"`, `"x.y"`}
			r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			b = append(b, '{')
			blank()
			for i, name := range names[:r.Intn(len(names))] {
				if i > 0 {
					b = append(b, ',')
					blank()
				}
				b = append(append(b, name...), ':')
				value(depth - 1)
			}
			b = append(b, '}')
		}
	}
	value(depth)
	return b
}

func problemsOf(c *ShapeConfig) (list []string) {
	p := setting.NewProblems(nil)
	c.Validate(p)
	for _, one := range p.List() {
		list = append(list, one.Path+": "+one.Expected)
	}
	return list
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}
