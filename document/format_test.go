package document

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"testing"
)

func TestFormatOf(t *testing.T) {
	for typ, want := range map[string]Format{
		"application/json": JSON, "Application/JSON; charset=utf-8": JSON, " text/json ": JSON, "application/problem+json": JSON, "application/vnd.api+json;v=1": JSON,
		"application/x-ndjson": NDJSON, "application/jsonl": NDJSON, "application/xml": XML, "text/xml;charset=utf-8": XML, "image/svg+xml": XML,
		"application/rss+xml": RSS, "application/atom+xml; type=feed": Atom, "application/yaml": YAML, "text/x-yaml": YAML, "application/openapi+yaml": YAML,
		"text/plain": Text, "text/html": Unknown, "": Unknown, "+json": Unknown, "application/octet-stream": Unknown, strings.Repeat("a", 200) + "/x+json": Unknown,
	} {
		if got := FormatOf([]byte(typ)); got != want {
			t.Errorf("%q: %v, want %v", typ, got, want)
		}
	}
	for f := Unknown; f <= formats; f++ {
		typ := ContentType(f)
		if f == Unknown || f == formats {
			if typ != "" {
				t.Errorf("%v: %q", f, typ)
			}
			continue
		}
		if got := FormatOf([]byte(typ)); got != f {
			t.Errorf("%v: %q is %v", f, typ, got)
		}
		if got, ok := FormatNamed(f.String()); got != f || !ok {
			t.Errorf("%v: its name is %v's", f, got)
		}
	}
	if f, ok := FormatNamed("unknown"); f != Unknown || ok {
		t.Errorf("unknown is %v, %v", f, ok)
	}
}

// toJSONCase is a body and its JSON, or the error that it has.
type toJSONCase struct{ body, want, err string }

func testToJSON(t *testing.T, f Format, cases []toJSONCase) {
	t.Helper()
	for _, c := range cases {
		got, err := ToJSON([]byte("before"), []byte(c.body), f, Limits{})
		if c.err != "" {
			wantError(t, err, c.err)
			var r *Refused
			if !errors.As(err, &r) || string(got) != "before" {
				t.Errorf("%v %.60q: %.60q, %#v", f, c.body, got, err)
			}
			continue
		}
		if err != nil || string(got) != "before"+c.want {
			t.Errorf("%v %.60q:\n\t%s, %v\n\twant %s", f, c.body, bytes.TrimPrefix(got, []byte("before")), err, c.want)
			continue
		}
		if err := Check(got[6:], Limits{}, false); err != nil {
			t.Errorf("%v %.60q: %v", f, c.body, err)
		}
	}
}

func TestToJSON(t *testing.T) {
	testToJSON(t, JSON, []toJSONCase{
		{" {\"a\" : 1.10}\n", `{"a" : 1.10}`, ""},
		{"\ufeff[]", `[]`, ""},
		{`{"a":1,"a":2}`, "", "expected each name once"},
		{`<html>`, "", "expected a value, got '<'"},
		{"", "", "expected a value, got the end"},
	})
	testToJSON(t, NDJSON, []toJSONCase{
		{"", `[]`, ""},
		{"{\"a\":1}\n\n [2] \r\n1e400", `[{"a":1},[2],1e400]`, ""},
		{"1\n{\"a\":tru}\n", "", "at byte 10, [1]: expected true"},
		{"{\"a\":\n1}", "", "[0].a: expected a value"},
	})
	testToJSON(t, Text, []toJSONCase{
		{"", `{"content":""}`, ""},
		{"a \"b\"\n\x01é", `{"content":"a \"b\"\n\u0001é"}`, ""},
		{"a\xffb", "", "at byte 1: expected UTF-8, got byte 0xff"},
	})
	testToJSON(t, Unknown, []toJSONCase{{"x", "", "expected a body in a format that can be read, got unknown"}})
	testToJSON(t, Format(99), []toJSONCase{{"x", "", "expected a body in a format that can be read"}})
}

func TestLimitsOfFormats(t *testing.T) {
	deepXML := strings.Repeat("<a>", 100_000)
	for _, c := range []struct {
		f    Format
		body string
		lim  Limits
		want string
	}{
		{NDJSON, "[1]\n[1]\n[1]", Limits{Nodes: 7}, ""},
		{NDJSON, "[1]\n[1]\n[1]", Limits{Nodes: 6}, "expected at most"},
		{NDJSON, "1\n1\n1", Limits{Nodes: 3}, "expected at most 3 values"},
		{NDJSON, "[[1]]", Limits{Depth: 3}, ""},
		{NDJSON, "[[1]]", Limits{Depth: 2}, "expected at most 1 arrays and objects inside each other"},
		{XML, deepXML, Limits{}, "expected at most 199 elements inside each other"},
		{XML, strings.Repeat("<a>", 3) + strings.Repeat("</a>", 3), Limits{Depth: 4}, ""},
		{XML, strings.Repeat("<a>", 3) + strings.Repeat("</a>", 3), Limits{Depth: 3}, "expected at most 2 elements"},
		{XML, `<a b="1"><c/><c/></a>`, Limits{Nodes: 4}, ""},
		{XML, `<a b="1"><c/><c/></a>`, Limits{Nodes: 3}, "expected at most 3 elements and attributes"},
		{YAML, strings.Repeat("[", 100_000), Limits{}, "expected at most 64 levels of nesting"},
		{YAML, strings.Repeat("- ", 100_000), Limits{}, "expected at most 64 levels of nesting"},
		{YAML, strings.Repeat("{a: ", 100_000), Limits{}, "expected at most 64 levels of nesting"},
		{YAML, "a: [1,2]", Limits{Nodes: 4}, ""},
		{YAML, "a: [1,2]", Limits{Nodes: 3}, "expected at most 3 values"},
		{YAML, strings.Repeat("a\n", 2<<20), Limits{}, "expected at most 2097152 bytes of YAML"},
		{YAML, strings.Repeat("- a\n", 200_000), Limits{}, "expected at most 131072 words of YAML"},
		{YAML, strings.Repeat("\n", 200), Limits{}, "expected at most 100 blank lines in a row"},
		{Text, `""""`, Limits{Bytes: 20}, "expected at most 20 bytes"},
	} {
		got, err := ToJSON([]byte("kept"), []byte(c.body), c.f, c.lim)
		if c.want == "" {
			if err != nil {
				t.Errorf("%v %.40q: %v", c.f, c.body, err)
			}
			continue
		}
		wantError(t, err, c.want)
		var r *Refused
		if !errors.As(err, &r) || !r.TooLarge || string(got) != "kept" {
			t.Errorf("%v %.40q: %q, %#v", c.f, c.body, got, err)
		}
	}
	huge := make([]byte, 100<<20)
	for f := JSON; f < formats; f++ {
		before := allocated()
		_, err := ToJSON(nil, huge, f, Limits{})
		var r *Refused
		if !errors.As(err, &r) || !r.TooLarge {
			t.Errorf("%v: 100 MiB: %v", f, err)
		}
		if n := allocated() - before; n > 1<<20 {
			t.Errorf("%v: 100 MiB took %d bytes", f, n)
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestFromJSON(t *testing.T) {
	for _, c := range []struct {
		f         Format
		doc, want string
	}{
		{JSON, ` {"a" : 1} `, `{"a" : 1}`},
		{NDJSON, `[{"a" : "x y"},` + "\n" + `[1 , 2], 3]`, "{\"a\":\"x y\"}\n[1,2]\n3\n"},
		{NDJSON, `[]`, ""},
		{NDJSON, "{\"a\":\n1}", "{\"a\":1}\n"},
		{Text, `"a\nb"`, "a\nb"},
		{Text, `1e400`, "1e400"},
		{Text, `{"a":1}`, `{"a":1}`},
	} {
		got, err := FromJSON([]byte("before"), []byte(c.doc), c.f, Limits{})
		if err != nil || string(got) != "before"+c.want {
			t.Errorf("%v %s: %q, %v; want %q", c.f, c.doc, got, err, c.want)
		}
	}
	for _, f := range []Format{Unknown, RSS, Atom} {
		got, err := FromJSON([]byte("kept"), []byte(`{}`), f, Limits{})
		wantError(t, err, "expected a format that can be written, got "+f.String())
		if string(got) != "kept" {
			t.Errorf("%v: %s", f, got)
		}
	}
	// A long name for each of many elements would be much more than the document.
	bomb := []byte(`{"` + strings.Repeat("n", 1<<20) + `":[` + strings.Repeat("1,", 1<<20) + `1]}`)
	for _, f := range []Format{XML, NDJSON, YAML} {
		before := allocated()
		got, err := FromJSON([]byte("kept"), bomb, f, Limits{Bytes: 3 << 20})
		if n := allocated() - before; n > 64<<20 {
			t.Errorf("%v: %d MiB allocated", f, n>>20)
		}
		var r *Refused
		if f == XML && (!errors.As(err, &r) || !r.TooLarge || string(got) != "kept") {
			t.Errorf("%v: %d bytes, %v", f, len(got), err)
		}
	}
}

// What FromJSON writes as YAML and NDJSON, ToJSON reads as it was.
func TestThereAndBack(t *testing.T) {
	r := rand.New(rand.NewSource(13))
	for i := range 5000 {
		doc := randomDocument(r, 4)
		for _, f := range []Format{YAML, NDJSON} {
			if f == NDJSON {
				doc = fmt.Appendf(nil, "[%s,%d]", bytes.TrimSpace(doc), i)
			}
			out, err := FromJSON(nil, doc, f, Limits{})
			if err != nil {
				t.Fatalf("%v %s: %v", f, doc, err)
			}
			back, err := ToJSON(nil, out, f, Limits{})
			if err != nil || !same(t, back, doc) {
				t.Fatalf("%v %s:\n%s\n%s, %v", f, doc, out, back, err)
			}
		}
	}
}
