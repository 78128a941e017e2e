package document

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestQuery(t *testing.T) {
	for _, c := range []struct{ query, doc, want string }{
		{"a.b", `{"a":{"b":1.10}}`, `1.10`},
		{"@", `{"b":[1e400,-1e400,123456789012345678901234567890,-0,1.10,0,1E+2,1e-400,true,null,"\u00e9\n"],"a":{}}`,
			`{"a":{},"b":[1e400,-1e400,123456789012345678901234567890,-0,1.10,0,1E+2,1e-400,true,null,"é\n"]}`},
		{"[?id > `5`].id", `[{"id":1234567890123456789},{"id":3},{"id":9.50}]`, `[1234567890123456789,9.50]`},
		{"sort_by(@, &id)[*].id", `[{"id":1234567890123456789},{"id":3},{"id":9.50}]`, `[3,9.50,1234567890123456789]`},
		// Two that are one float64.
		{"@", `[9007199254740993,9007199254740992,9007199254740993]`, `[9007199254740993,9007199254740992,9007199254740993]`},
		{"@", `[123456789012345678901234567890,123456789012345678901234567891]`, `[123456789012345678901234567890,123456789012345678901234567891]`},
		// One value in two ways.
		{"@", `[1,1.0,10e-1]`, `[1,1,1]`},
		{"@", `[1.10,2]`, `[1.10,2]`},
		{"sum(@)", `[1,2.5]`, `3.5`},
		{"`1e30`", `1`, `1e+30`},
		{"nothing", `{"a":1}`, `null`},
		{"*.n", `{"b":{"n":2},"a":{"n":1},"c":{"n":3},"d":4}`, `[1,2,3]`},
		{"keys(@)", `{"b":1,"a":1,"c":1}`, `["a","b","c"]`},
		{"values(@)", `{"b":2,"a":1,"c":3}`, `[1,2,3]`},
		{"items(@)", `{"b":2,"a":1}`, `[["a",1],["b",2]]`},
		{"n.*", `{"n":7}`, `null`},
		{"{z: a, a: b}", `{"a":1,"b":"x\"y"}`, `{"a":"x\"y","z":1}`},
		{"pad_left(@, `5`)", `"x"`, `"    x"`},
		{"join(',', @)", `["a","b"]`, `"a,b"`},
	} {
		for range 5 {
			got, err := mustShape(t, ShapeConfig{Query: c.query}).Apply(nil, []byte(c.doc), Limits{})
			if err != nil || string(got) != c.want {
				t.Errorf("%s of %s: %s, %v; want %s", c.query, c.doc, got, err, c.want)
			}
		}
	}
}

func TestQueryFails(t *testing.T) {
	long := `["` + strings.Repeat("x", 1<<20) + `"]`
	for _, c := range []struct {
		query, doc, want string
		tooLarge         bool
	}{
		{"abs(@)", `"x"`, "the query failed", false},
		{"find_first(@, 'b', `3`, `1`)", `"abcd"`, "the query failed", false}, // the library panics
		{"`1` / `0`", `1`, "expected a number that JSON has", false},
		{"pad_left('x', @)", `1e9`, "expected a query to make texts of at most", true},
		{"replace([0], 'x', [0])", long, "expected a query to make texts of at most", true},
		{"join([0], map(&'y', [1]))", `[` + long[1:len(long)-1] + `,[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18]]`, "expected a query to make texts", true},
		{"[*].[$,$,$]", `[` + strings.Repeat("1,", 5000) + `1]`, "expected at most 1000000 bytes", true},
		{"&a", `1`, "expected a result that JSON has", false},
	} {
		got, err := mustShape(t, ShapeConfig{Query: c.query}).Apply([]byte("kept"), []byte(c.doc), Limits{Bytes: 1_000_000})
		wantError(t, err, c.want)
		var r *Refused
		if string(got) != "kept" || errors.As(err, &r) != c.tooLarge {
			t.Errorf("%s: %.20s, %v", c.query, got, err)
		}
	}
}

// What stands in the expression is shared by all who use it.
func TestQueryIsShared(t *testing.T) {
	s := mustShape(t, ShapeConfig{Query: "sort_by(`[{\"n\":3},{\"n\":1},{\"n\":2}]`, &n)[*].n"})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 50 {
				if got, err := s.Apply(nil, []byte(`{}`), Limits{}); err != nil || string(got) != "[1,2,3]" {
					t.Errorf("%s, %v", got, err)
				}
			}
		})
	}
	wait.Wait()
}
