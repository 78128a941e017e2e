package transform

import (
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sluice/setting"
	"sluice/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testBody(t testing.TB, c BodyConfig, request bool) *Body {
	t.Helper()
	b, err := NewBody(&c, request)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testProblems(validate func(*setting.Problems)) (list []string) {
	p := setting.NewProblems(nil)
	validate(p)
	for _, one := range p.List() {
		list = append(list, one.Path+": "+one.Expected)
	}
	return list
}

// testMistakes compares mistakes with parts of those that are wanted.
func testMistakes(t *testing.T, name string, got, want []string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func accepts(lines ...string) (fields []wire.Field) {
	for _, line := range lines {
		fields = append(fields, wire.Field{Name: []byte("Accept"), Value: []byte(line)})
	}
	return fields
}

func refusalIn(t testing.TB, err error) *Refusal {
	t.Helper()
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}

// soapOf is an envelope of SOAP 1.1 with body in it.
func soapOf(body string) string {
	return `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Header><a:Id xmlns:a="urn:a">7</a:Id></s:Header><s:Body>` + body + `</s:Body></s:Envelope>`
}
