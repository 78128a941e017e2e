package document

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, doc := range []string{
		`{}`, `[]`, ` null `, `true`, `false`, `0`, `-0`, `1.10`, `1e400`, `-1.5E-7`, `""`, `"é\u00e9\ud83d\ude00\/"`, "\t\r\n [1 , 2]\n",
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}]}`, `"` + strings.Repeat("x", 100) + `\n` + strings.Repeat("é", 9) + `"`, `"` + "\u007f\u0080" + `"`,
	} {
		if err := Check([]byte(doc), Limits{}, false); err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
	for doc, want := range map[string]string{
		``:                            "at byte 0: expected a value, got the end",
		` `:                           "at byte 1: expected a value, got the end",
		`{"a":`:                       "at byte 5, a: expected a value, got the end",
		`{"a" 1}`:                     "at byte 5: expected :, got '1'",
		`{"a":1,}`:                    "at byte 7: expected a name in quotes, got '}'",
		`{a:1}`:                       "at byte 1: expected a name in quotes, got 'a'",
		`[1,]`:                        "at byte 3: expected a value, got ']'",
		`[1 2]`:                       "at byte 3, [1]: expected , or ], got '2'",
		`{"a":[1,{"b":tru}]}`:         "at byte 16, a[1]: expected true, got '}'",
		`{"a":1 "b":2}`:               "at byte 7, b: expected , or }, got '\"'",
		`01`:                          "at byte 1: expected nothing after the document, got '1'",
		`1.`:                          "at byte 2: expected a digit, got the end",
		`-`:                           "at byte 1: expected a digit, got the end",
		`+1`:                          "at byte 0: expected a value, got '+'",
		`.5`:                          "at byte 0: expected a value, got '.'",
		`1e`:                          "at byte 2: expected a digit, got the end",
		`NaN`:                         "at byte 0: expected a value, got 'N'",
		`'a'`:                         `at byte 0: expected a value, got '\''`,
		"\"a\nb\"":                    `expected control characters to be escaped, got '\n'`,
		`"\x"`:                        `at byte 2: expected an escape such as \n or \u00e9, got 'x'`,
		`"\u12g4"`:                    `at byte 1: expected an escape`,
		`"\ud800"`:                    "at byte 1: expected both halves of a surrogate pair",
		`"\ud800\u0041"`:              "expected both halves",
		`"\udc00\ud800"`:              "expected both halves",
		`"\ud800\ud800"`:              "expected both halves",
		"\"a\xff\"":                   "at byte 2: expected UTF-8, got byte 0xff",
		"\"\xed\xa0\x80\"":            "at byte 1: expected UTF-8", // a surrogate
		"\"\xc0\xaf\"":                "at byte 1: expected UTF-8", // too long a form
		"\ufeff{}":                    `at byte 0: expected a value, got '\ufeff'`,
		`"abc`:                        "at byte 4: expected a quote at the end of the text, got the end",
		`{} {}`:                       "at byte 3: expected nothing after the document",
		`// x`:                        "at byte 0: expected a value",
		`{"a":1,"a":2}`:               "at byte 7, a: expected each name once in an object",
		`{"a":1,"\u0061":2}`:          "at byte 7, a: expected each name once in an object",
		`[{"a":{"b":1,"c":1,"b":2}}]`: "at byte 19, [0].a.b: expected each name once",
	} {
		err := Check([]byte(doc), Limits{}, false)
		var r *Refused
		if !errors.As(err, &r) || r.TooLarge {
			t.Errorf("%q: %v", doc, err)
			continue
		}
		wantError(t, err, want)
	}
	if err := Check([]byte(`{"a":1,"a":2}`), Limits{}, true); err != nil {
		t.Error(err)
	}
}

func TestCheckLimits(t *testing.T) {
	deep := func(n int) []byte { return []byte(strings.Repeat(`[`, n) + strings.Repeat(`]`, n)) }
	for _, c := range []struct {
		doc  []byte
		lim  Limits
		want string
	}{
		{deep(200), Limits{}, ""},
		{deep(201), Limits{}, "at byte 200, [0][0][0]"},
		{deep(1000), Limits{Depth: 5000}, ""},
		{deep(1001), Limits{Depth: 5000}, "expected at most 1000 arrays and objects inside each other"},
		{deep(5_000_000), Limits{}, "inside each other"},
		{[]byte(strings.Repeat(`{"a":`, 2_000_000)), Limits{Bytes: 1 << 30}, "inside each other"},
		{[]byte(`[1,2,3]`), Limits{Nodes: 4}, ""},
		{[]byte(`[1,2,3]`), Limits{Nodes: 3}, "at byte 5, [2]: expected at most 3 values"},
		{[]byte(`"12345678"`), Limits{Bytes: 10}, ""},
		{[]byte(`"123456789"`), Limits{Bytes: 10}, "expected at most 10 bytes"},
		{make([]byte, 100<<20), Limits{}, "expected at most 10485760 bytes"},
	} {
		err := Check(c.doc, c.lim, false)
		if c.want == "" {
			if err != nil {
				t.Errorf("%.20s: %v", c.doc, err)
			}
			continue
		}
		wantError(t, err, c.want)
		var r *Refused
		if !errors.As(err, &r) || !r.TooLarge {
			t.Errorf("%.20s: %v is not said to be too large", c.doc, err)
		}
	}
}

// Objects with many names, and with names that a careless hash would put together.
func TestCheckManyNames(t *testing.T) {
	var b strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&b, `,"n%d":%d`, i, i)
	}
	good := "{" + b.String()[1:] + "}"
	if err := Check([]byte(good), Limits{}, false); err != nil {
		t.Error(err)
	}
	wantError(t, Check([]byte("{"+b.String()[1:]+`,"n77":1}`), Limits{}, false), "n77: expected each name once")
}

// Check agrees with encoding/json, which is laxer in UTF-8 and surrogates alone.
func TestCheckAgainstTheStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewSource(3))
	good := 0
	for range 30_000 {
		doc := randomDocument(r, 4)
		for range r.Intn(3) {
			if len(doc) > 0 {
				doc[r.Intn(len(doc))] = ` {}[]",:0e.-tn\u1`[r.Intn(17)]
			}
		}
		ours, theirs := Check(doc, Limits{}, true), json.Valid(doc)
		if ours == nil {
			good++
		}
		lax := strings.Contains(fmt.Sprint(ours), "surrogate") || strings.Contains(fmt.Sprint(ours), "UTF-8")
		if (ours == nil) != theirs && !lax {
			t.Fatalf("%s: %v, encoding/json says %v", doc, ours, theirs)
		}
	}
	if good < 1000 {
		t.Errorf("only %d documents were good", good)
	}
}
