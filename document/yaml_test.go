package document

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestYAMLToJSON(t *testing.T) {
	testToJSON(t, YAML, []toJSONCase{
		{"", "null", ""},
		{"# nothing\n", "null", ""},
		{"a: 1\nb:\n  - x\n  - {c: [true, ~]}\n", `{"a":1,"b":["x",{"c":[true,null]}]}`, ""},
		{"---\na: 1.10\n...\n", `{"a":1.10}`, ""},
		{"a: yes\nb: no\nc: on\nd: 2001-01-01\ne: '1'\nf: \"\\u00e9\\n\"\ng: ~\nh:\n", `{"a":"yes","b":"no","c":"on","d":"2001-01-01","e":"1","f":"é\n","g":null,"h":null}`, ""},
		{"404: a\ntrue: b\n1.5: c\n", `{"404":"a","true":"b","1.5":"c"}`, ""},
		{"a: |\n  x\n  y\nb: >\n  x\n  y\n", `{"a":"x\ny\n","b":"x y\n"}`, ""},
		{"a: &x {b: 1}\nc: *x\nd: [*x, *x]\n", `{"a":{"b":1},"c":{"b":1},"d":[{"b":1},{"b":1}]}`, ""},
		{"a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", `{"a":{"b":1,"c":2},"d":{"c":3,"b":1}}`, ""},
		{"a: !!str 1\nb: !!int 2\n", `{"a":"1","b":2}`, ""},
		{"a: 1\r\nb: 2\r\n", `{"a":1,"b":2}`, ""},
		{"\ufeffa: 1", `{"a":1}`, ""},
		{`{"a": [1, 2.50, "x"]}`, `{"a":[1,2.50,"x"]}`, ""},
		{"text", `"text"`, ""},

		{"a: 1\na: 2\n", "", `in line 2: expected each key once, got "a" again`},
		{"a: *x\n", "", "in line 1: expected an anchor &x above this alias"},
		{"a: &a [*a]\n", "", "expected an anchor &a above this alias"},
		{"a: .inf\n", "", "expected a number that JSON has"},
		{"a: .nan\n", "", "expected a number that JSON has"},
		{"a: !foo 1\n", "", `expected a tag of the core schema, got "!foo"`},
		{"? [a, b]\n: 1\n", "", "expected"},
		{"a: 1\n---\nb: 2\n", "", "expected one document, got another one here"},
		{"a: [1\n", "", "expected YAML"},
		{"a: b: c\n", "", "expected YAML"},
		{"\ta: 1\n", "", "expected YAML"},
		{"a: \x01\n", "", "at byte 3: expected UTF-8 without control bytes, got byte 0x01"},
		{"a: \xff\n", "", "at byte 3: expected UTF-8 without control bytes"},
		{"a\rb", "", "expected UTF-8 without control bytes"},
	})
}

func TestYAMLNumbers(t *testing.T) {
	for in, want := range map[string]string{
		"123456789012345678901234567890": "123456789012345678901234567890", "1.10": "1.10", "-0": "-0", "0x1F": "31", "0o17": "15", "+5": "5", ".5": "0.5", "0b11": "3", "1e3": "1e3", "1e400": "1e400", "'1e400'": `"1e400"`, "\"12\"": `"12"`, "1.2.3": `"1.2.3"`,
	} {
		got, err := ToJSON(nil, []byte("- "+in), YAML, Limits{})
		if err != nil || string(got) != "["+want+"]" {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
}

// Few lines that would become a billion values.
func TestYAMLBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for i := 1; i < 12; i++ {
		n := string(rune('a' + i - 1))
		if i == 1 {
			n = "a0"
		}
		b.WriteString(string(rune('a'+i)) + ": &" + string(rune('a'+i)) + " [" + strings.Repeat("*"+n+",", 9) + "*" + n + "]\n")
	}
	merges := "a: &a {x: 1}\nb: &b {<<: [" + strings.Repeat("*a,", 2000) + "*a]}\nc: {<<: [" + strings.Repeat("*b,", 2000) + "*b]}\n"
	chain := "a0: &a0 [1]\n"
	for i := range 999 {
		chain += "a" + strconv.Itoa(i+1) + ": &a" + strconv.Itoa(i+1) + " [*a" + strconv.Itoa(i) + "]\n"
	}
	for _, bomb := range []string{b.String(), merges, chain} {
		before, start := allocated(), time.Now()
		got, err := ToJSON([]byte("kept"), []byte(bomb), YAML, Limits{})
		var r *Refused
		if !errors.As(err, &r) || !r.TooLarge || string(got) != "kept" {
			t.Errorf("%.40q: %.40q, %v", bomb, got, err)
		}
		t.Logf("%.20q: %d MiB, %v", bomb, (allocated()-before)>>20, time.Since(start))
	}
}

func TestJSONToYAML(t *testing.T) {
	for doc, want := range map[string]string{
		`{"a":1,"b":{"c":[1,{"d":true,"e":null},[2,[3]],{},[]]},"f":"x y"}`: "a: 1\nb:\n  c:\n    - 1\n    - d: true\n      e: null\n    - - 2\n      - - 3\n    - {}\n    - []\nf: x y\n",
		`[]`:    "[]\n",
		`{}`:    "{}\n",
		`"x"`:   "x\n",
		`1e400`: "1e400\n",
		`[{"a":{}},"true","no","1","2001-01-01","","a: b","a #b","-","~","x\ny","é","\u0085\u2028\ufeff😀","null","a\\\"b\t"," x","x "]`: "- a: {}\n- \"true\"\n- \"no\"\n- \"1\"\n- \"2001-01-01\"\n- \"\"\n- \"a: b\"\n- \"a #b\"\n- \"-\"\n- \"~\"\n- \"x\\ny\"\n- \"é\"\n- \"\\u0085\\u2028\\ufeff😀\"\n- \"null\"\n- \"a\\\\\\\"b\\t\"\n- \" x\"\n- \"x \"\n",
		`{"a b":1,"":2,"true":3,"` + strings.Repeat("k", 1100) + `":{"x":1}}`:                                                           "a b: 1\n\"\": 2\n\"true\": 3\n? \"" + strings.Repeat("k", 1100) + "\"\n:\n  x: 1\n",
	} {
		got, err := FromJSON(nil, []byte(doc), YAML, Limits{})
		if err != nil || string(got) != want {
			t.Errorf("%s:\n%s, %v\nwant\n%s", doc, got, err, want)
		}
		back, err := ToJSON(nil, got, YAML, Limits{})
		if err != nil || !same(t, back, []byte(doc)) {
			t.Errorf("%s comes back as %s, %v", doc, back, err)
		}
	}
}
