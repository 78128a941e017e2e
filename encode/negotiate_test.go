package encode

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sluice/wire"
)

func acceptLines(lines ...string) (fields []wire.Field) {
	fields = append(fields, wire.Field{Name: []byte("Accept"), Value: []byte("gzip;q=0")})
	for _, line := range lines {
		fields = append(fields, wire.Field{Name: []byte("Accept-Encoding"), Value: []byte(line)})
	}
	return append(fields, wire.Field{Name: []byte("X-Accept-Encoding"), Value: []byte("gzip;q=0")})
}

func TestChoose(t *testing.T) {
	all, gzip, brFirst := []string(nil), []string{"gzip"}, []string{"br", "zstd", "gzip"}
	for _, c := range []struct {
		order []string
		lines []string
		want  Coding
	}{
		// The examples of RFC 9110 12.5.3.
		{all, []string{"compress, gzip"}, Gzip},
		{all, []string{""}, Identity},
		{all, []string{"*"}, Zstd},
		{all, []string{"compress;q=0.5, gzip;q=1.0"}, Gzip},
		{all, []string{"gzip;q=1.0, identity; q=0.5, *;q=0"}, Gzip},

		{all, nil, Identity},
		{all, []string{"gzip, deflate, br, zstd"}, Zstd}, // a browser's
		{brFirst, []string{"gzip, deflate, br, zstd"}, Brotli},
		{gzip, []string{"gzip, deflate, br, zstd"}, Gzip},
		{gzip, []string{"br, zstd"}, Identity},
		{gzip, []string{"deflate"}, Identity},

		// Weights.
		{all, []string{"zstd;q=0.1, br;q=0.2, gzip;q=0.3"}, Gzip},
		{all, []string{"zstd;q=0.1, br;q=0.3, gzip;q=0.3"}, Brotli},
		{all, []string{"gzip;q=0.001"}, Gzip},
		{all, []string{"gzip;q=0.999, br;q=0.998"}, Gzip},
		{all, []string{"gzip;q=1.000, br;q=0.999"}, Gzip},
		{all, []string{"gzip;q=0"}, Identity},
		{all, []string{"gzip;q=0.0"}, Identity},
		{all, []string{"gzip;q=0.000"}, Identity},
		{all, []string{"gzip;q=0."}, Identity},
		{all, []string{"gzip;q=1."}, Gzip},
		{all, []string{"gzip;Q=0.5"}, Gzip},
		{all, []string{"gzip \t; \t q=0.5"}, Gzip},

		// "*" speaks for those that are not named.
		{all, []string{"*;q=0"}, Identity},
		{all, []string{"gzip, *;q=0"}, Gzip},
		{all, []string{"zstd;q=0, *"}, Brotli},
		{all, []string{"zstd;q=0, br;q=0, *;q=0.1"}, Gzip},
		{all, []string{"gzip;q=0.5, *;q=0.4"}, Gzip},
		{all, []string{"gzip;q=0.5, *;q=0.6"}, Zstd},
		{gzip, []string{"gzip;q=0.5, *;q=0.6"}, Identity}, // Identity is among the rest
		{all, []string{"*;q=0.5, *;q=0"}, Identity},

		// Identity.
		{all, []string{"identity"}, Identity},
		{all, []string{"identity, gzip"}, Gzip},
		{all, []string{"identity, gzip;q=0.9"}, Identity},
		{all, []string{"identity;q=0.5, gzip;q=0.9"}, Gzip},
		{all, []string{"identity;q=0.5, gzip;q=0.4, br;q=0.5"}, Brotli},
		{all, []string{"identity;q=0"}, Identity}, // nothing is acceptable
		{all, []string{"identity;q=0, gzip;q=0.1"}, Gzip},
		{all, []string{"identity;q=0, *"}, Zstd},
		{all, []string{"identity;q=0.2, *;q=0.1"}, Identity},
		{all, []string{"identity;q=0, *;q=0"}, Identity},

		// Names.
		{all, []string{"x-gzip"}, Gzip},
		{all, []string{"X-GZip;q=0.3"}, Gzip},
		{all, []string{"BR"}, Brotli},
		{all, []string{"brotli, gzipped, xgzip, x-br, zstandard"}, Identity},
		{all, []string{"gzip;q=1, x-gzip;q=0"}, Identity},

		// Several lines, empty members.
		{all, []string{"gzip", "br"}, Brotli},
		{all, []string{"gzip;q=0.5", "br;q=0.4", "", "zstd;q=0"}, Gzip},
		{all, []string{", ,gzip,,"}, Gzip},
		{all, []string{"gzip", "gzip;q=0"}, Identity},
		{all, []string{"gzip;q=0", "gzip"}, Identity},

		// What cannot be read counts for nothing.
		{all, []string{"gzip;q=1.001"}, Identity},
		{all, []string{"gzip;q=1.5"}, Identity},
		{all, []string{"gzip;q=2"}, Identity},
		{all, []string{"gzip;q=-1"}, Identity},
		{all, []string{"gzip;q=0.0001"}, Identity},
		{all, []string{"gzip;q=0,5"}, Identity},
		{all, []string{"gzip;q=.5"}, Identity},
		{all, []string{"gzip;q=00.5"}, Identity},
		{all, []string{"gzip;q=1e0"}, Identity},
		{all, []string{"gzip;q="}, Identity},
		{all, []string{"gzip;q"}, Identity},
		{all, []string{"gzip;"}, Identity},
		{all, []string{"gzip;q =1"}, Identity},
		{all, []string{"gzip;q= 1"}, Identity},
		{all, []string{`gzip;q="1"`}, Identity},
		{all, []string{"gzip;q=1;level=9"}, Identity},
		{all, []string{"gzip;level=9;q=1"}, Identity},
		{all, []string{"gzip br"}, Identity},
		{all, []string{"gzip/1.0"}, Identity},
		{all, []string{";q=1"}, Identity},
		{all, []string{"zstd;q=x, br;q=0.1"}, Brotli},
		{all, []string{"*;q=x, br;q=0.1"}, Brotli},
		{all, []string{"gzip;q=0.0000, *"}, Zstd},
	} {
		p := testPolicy("", c.order...)
		if got := p.Choose(acceptLines(c.lines...)); got != c.want {
			t.Errorf("%v, %q: got %v, want %v", c.order, c.lines, got, c.want)
		}
	}
}

func TestChooseDroppedLines(t *testing.T) {
	fields := acceptLines("gzip", "br")
	fields[2].Drop = true
	if got := testPolicy("").Choose(fields); got != Gzip {
		t.Errorf("with br named by Connection: got %v", got)
	}
	fields[1].Drop = true
	if got := testPolicy("").Choose(fields); got != Identity {
		t.Errorf("with both: got %v", got)
	}
	if got := testPolicy("").Choose([]wire.Field{{Name: []byte("aCCEPT-eNCODING"), Value: []byte("br")}}); got != Brotli {
		t.Errorf("name in another case: got %v", got)
	}
}

// refMember is written from the grammar and shares nothing with the parser.
var refMember = regexp.MustCompile(`^([!#$%&'*+\-.^_` + "`" + `|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?$`)

// refChoose is Choose, slow and plain.
func refChoose(order []string, value string) string {
	said := map[string]float64{}
	for member := range strings.SplitSeq(value, ",") {
		m := refMember.FindStringSubmatch(strings.Trim(member, " \t"))
		if m == nil {
			continue
		}
		name, q := strings.ToLower(m[1]), 1.0
		if name == "x-gzip" {
			name = "gzip"
		}
		if m[2] != "" {
			q, _ = strconv.ParseFloat(m[2], 64)
		}
		if before, ok := said[name]; !ok || q < before {
			said[name] = q
		}
	}
	weigh := func(name string) float64 {
		if q, ok := said[name]; ok {
			return q
		}
		if q, ok := said["*"]; ok {
			return q
		}
		return 0
	}
	best := ""
	for _, name := range order {
		if q := weigh(name); q > 0 && (best == "" || q > weigh(best)) {
			best = name
		}
	}
	if best == "" || weigh("identity") > weigh(best) {
		return "identity"
	}
	return best
}

func FuzzChoose(f *testing.F) {
	for _, s := range []string{
		"", "*", "gzip, deflate, br, zstd", "gzip;q=1.0, identity; q=0.5, *;q=0", "gzip;q=0.0001", "x-gzip;Q=0.3,,br ;\tq=1.",
		"identity;q=0, *;q=0.001", "gzip;q=0.5, *;q=0.6", "br;q=1;x=y", "zstd;q=2, gzip;q=",
	} {
		f.Add(s)
	}
	orders := [][]string{{"zstd", "br", "gzip"}, {"gzip"}, {"br", "gzip"}}
	f.Fuzz(func(t *testing.T, value string) {
		if !wire.IsFieldValue([]byte(value)) {
			t.Skip("no head has it")
		}
		for _, order := range orders {
			p := testPolicy("", order...)
			want := refChoose(order, value)
			if got := p.Choose(acceptLines(value)); got.String() != want {
				t.Errorf("%v, %q: got %v, want %v", order, value, got, want)
			}
			// One list on many lines is the same list.
			if got := p.Choose(acceptLines(strings.Split(value, ",")...)); got.String() != want {
				t.Errorf("%v, %q, on many lines: got %v, want %v", order, value, got, want)
			}
		}
	})
}
