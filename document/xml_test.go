package document

import (
	"encoding/xml"
	"math/rand"
	"strings"
	"testing"
)

func TestXMLToJSON(t *testing.T) {
	testToJSON(t, XML, []toJSONCase{
		{`<a>text</a>`, `{"a":"text"}`, ""},
		{`<a/>`, `{"a":""}`, ""},
		{`<a> <!-- c --> </a>`, `{"a":""}`, ""},
		{`<a x="1"/>`, `{"a":{"-x":"1"}}`, ""},
		{`<a x="1"> text </a>`, `{"a":{"-x":"1","#text":"text"}}`, ""},
		{`<a><b>1</b><c/></a>`, `{"a":{"b":"1","c":""}}`, ""},
		{`<a><b>1</b><c/><b x="2"/></a>`, `{"a":{"b":["1",{"-x":"2"}],"c":""}}`, ""},
		{`<a>x<b/>y</a>`, `{"a":{"b":"","#text":"xy"}}`, ""},
		{`<x:a xmlns:x="urn:u"><x:b/><b/></x:a>`, `{"x:a":{"-xmlns:x":"urn:u","x:b":"","b":""}}`, ""},
		{"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<?pi x?><a>&lt;&amp;&gt;&quot;&apos;&#233;&#x1F600;<![CDATA[<b>&]]></a>\n<!-- end -->", `{"a":"<&>\"'é😀<b>&"}`, ""},
		{"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>caf\xe9</a>", `{"a":"café"}`, ""},
		{`<a>007</a>`, `{"a":"007"}`, ""},
		{"<a>" + manyChildren(20) + "</a>", `{"a":` + manyMembers(20) + `}`, ""},

		{``, "", "expected an element, got the end"},
		{`text`, "", "expected text within the root element"},
		{`<a>`, "", "expected </a>, got the end"},
		{`<a></b>`, "", "expected the end of an element that is open, got </b>"},
		{`</a>`, "", "expected the end of an element that is open"},
		{`<a/><b/>`, "", "expected one element at the root"},
		{`<a/>x`, "", "expected text within the root element"},
		{`<a x="1" x="2"/>`, "", `expected each attribute once, got "x" again`},
		{`<a a="" b="" c="" d="" e="" f="" g="" h="" i="" b=""/>`, "", `expected each attribute once, got "b" again`},
		{`<a x=1/>`, "", "expected XML"},
		{`<a>&nbsp;</a>`, "", "expected XML: invalid character entity &nbsp;"},
		{"<a>\xff</a>", "", "expected XML: invalid UTF-8"},
		{"<a>\x01</a>", "", "expected XML: illegal character code U+0001"},
		{`{"a":1}`, "", "expected text within the root element"},
		{`<!DOCTYPE a><a/>`, "", "expected XML without a document type"},
		{`<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`, "", "expected XML without a document type"},
		{`<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>`, "", "expected XML without a document type"},
		{`<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]><lolz>&lol2;</lolz>`, "", "expected XML without a document type"},
		{`<a><!ENTITY b "c">&b;</a>`, "", "expected XML without a document type"},
		{`<?xml version="1.0" encoding="UTF-16"?><a/>`, "", `got the encoding "UTF-16"`},
		{`<?xml version="1.1"?><a/>`, "", "expected XML"},
		{`<a/><?xml version="1.0"?>`, "", "expected the XML declaration at the start"},
	})
}

func manyChildren(n int) (s string) {
	for i := range n {
		s += "<c" + strings.Repeat("x", i) + "/>"
	}
	return s + "<c/>"
}

func manyMembers(n int) (s string) {
	s = `{"c":["",""]`
	for i := 1; i < n; i++ {
		s += `,"c` + strings.Repeat("x", i) + `":""`
	}
	return s + "}"
}

func TestJSONToXML(t *testing.T) {
	const head = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	for doc, want := range map[string]string{
		`{"a":"text"}`: `<a>text</a>`,
		`{"a":1e400}`:  `<a>1e400</a>`,
		`{"a":null}`:   `<a/>`,
		`{"a":""}`:     `<a/>`,
		`{"a":{"-x":"1\"<\n","#text":"t","b":[1,{"c":true},null,[2,3]]}}`: `<a x="1&#34;&lt;&#10;">t<b>1</b><b><c>true</c></b><b/><b><item>2</item><item>3</item></b></a>`,
		`{"a":{"-x":"1","-y":null}}`:                                      `<a x="1" y=""/>`,
		`{"a":{"-x":{"b":1},"-1":2}}`:                                     `<a><_-x><b>1</b></_-x><_-1>2</_-1></a>`,
		`{"a":1,"b":2}`:                                                   `<root><a>1</a><b>2</b></root>`,
		`{"a":[1,2]}`:                                                     `<root><a>1</a><a>2</a></root>`,
		`[1,[2]]`:                                                         `<root><item>1</item><item><item>2</item></item></root>`,
		`{}`:                                                              `<root/>`,
		`[]`:                                                              `<root></root>`,
		`7`:                                                               `<root>7</root>`,
		`"a<b>&\"c\"\r"`:                                                  `<root>a&lt;b&gt;&amp;"c"&#13;</root>`,
		`{"a b":1}`:                                                       `<root><a_b>1</a_b></root>`,
		`{"r":{"1st":1,"":2,"x:y":3,"é":4,"<":5}}`: `<r><_1st>1</_1st><_>2</_><x:y>3</x:y><é>4</é><_>5</_></r>`,
		`{"a":"\u0001\ufffe\u0000"}`:               "<a>\ufffd\ufffd\ufffd</a>",
		`{"#text":"x"}`:                            `<root>x</root>`,
		`{"-x":1}`:                                 `<root x="1"/>`,
	} {
		got, err := FromJSON(nil, []byte(doc), XML, Limits{})
		if err != nil || string(got) != head+want+"\n" {
			t.Errorf("%s:\n%s, %v\nwant %s", doc, got, err, want)
		}
	}
}

// Whatever document there is, it becomes XML that can be read; and XML comes back as
// it was.
func TestXMLThereAndBack(t *testing.T) {
	r := rand.New(rand.NewSource(17))
	for range 3000 {
		doc := randomDocument(r, 4)
		out, err := FromJSON(nil, doc, XML, Limits{})
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		if err := xml.Unmarshal(out, new(struct{})); err != nil {
			t.Fatalf("%s: %s: %v", doc, out, err)
		}
		once, err := ToJSON(nil, out, XML, Limits{})
		if err != nil {
			t.Fatalf("%s: %s: %v", doc, out, err)
		}
		again, err := FromJSON(nil, once, XML, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		twice, err := ToJSON(nil, again, XML, Limits{})
		if err != nil || !same(t, once, twice) {
			t.Fatalf("%s\n%s\n%s\n%s, %v", once, again, twice, out, err)
		}
	}
}
