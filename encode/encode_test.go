package encode

import "testing"

func TestCodingOf(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Coding
		ok   bool
	}{
		{"gzip", Gzip, true},
		{"GZip", Gzip, true},
		{"x-gzip", Gzip, true},
		{"X-GZIP", Gzip, true},
		{" br\t", Brotli, true},
		{"zstd", Zstd, true},
		{"identity", Identity, true},
		{"", Identity, false},
		{"deflate", Identity, false},
		{"gzip, br", Identity, false},
		{"gzip,", Identity, false},
		{"gzip;q=1", Identity, false},
		{"*", Identity, false},
		{"gzi", Identity, false},
		{"dcb", Identity, false},
	} {
		if got, ok := CodingOf([]byte(c.in)); got != c.want || ok != c.ok {
			t.Errorf("CodingOf(%q) = %v, %v; want %v, %v", c.in, got, ok, c.want, c.ok)
		}
	}
	for _, c := range everyCoding {
		if got, ok := CodingOf([]byte(c.String())); got != c || !ok {
			t.Errorf("CodingOf(%q) = %v, %v", c, got, ok)
		}
	}
	if got := Coding(200).String(); got != "unknown" {
		t.Errorf("Coding(200) is called %q", got)
	}
}
