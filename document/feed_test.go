package document

import "testing"

func TestFeed(t *testing.T) {
	testToJSON(t, RSS, []toJSONCase{
		{`<?xml version="1.0"?><rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom" xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:dc="http://purl.org/dc/elements/1.1/">
		<channel><atom:link href="https://example.com/self" rel="self"/><title>News &amp; more</title><link>https://example.com/</link><description>All of it</description>
		<item><title>One</title><link>https://example.com/1</link><description>first</description><content:encoded><![CDATA[<p>long</p>]]></content:encoded>
			<pubDate>Mon, 06 Sep 2021 00:01:00 +0000</pubDate><guid isPermaLink="false">g1</guid><dc:creator>Ann</dc:creator></item>
		<item><title/><media:title xmlns:media="m">no</media:title></item>
		</channel></rss>`,
			`{"title":"News & more","link":"https://example.com/","description":"All of it","items":[` +
				`{"title":"One","link":"https://example.com/1","description":"first","content":"<p>long</p>","published":"Mon, 06 Sep 2021 00:01:00 +0000","guid":"g1","author":"Ann"},{}]}`, ""},
		{`<rdf:RDF xmlns:rdf="r"><channel><title>T</title></channel><item><title>I</title></item></rdf:RDF>`, `{"title":"T","items":[{"title":"I"}]}`, ""},
		{`<rss><channel/></rss>`, `{"items":[]}`, ""},
		{`<rss/>`, "", "expected an RSS or Atom feed, got <rss>"},
		{`<html/>`, "", "expected an RSS or Atom feed, got <html>"},
		{`<!DOCTYPE rss><rss/>`, "", "without a document type"},
		{`not xml`, "", "expected text within the root element"},
	})
	const atom = `<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title><subtitle>S</subtitle><link rel="self" href="https://e/self"/><link href="https://e/"/>
		<entry><title>E</title><link rel="alternate" href="https://e/1"/><id>urn:1</id><updated>2024-01-02T03:04:05Z</updated><summary>sum</summary>
		<content type="xhtml"><div>a <b>bold</b> word</div></content><author><name>Ann</name><email>a@e</email></author></entry></feed>`
	const want = `{"title":"T","link":"https://e/","description":"S","items":[` +
		`{"title":"E","link":"https://e/1","description":"sum","content":"a  word bold","published":"2024-01-02T03:04:05Z","guid":"urn:1","author":"Ann"}]}`
	testToJSON(t, Atom, []toJSONCase{{atom, want, ""}})
	testToJSON(t, RSS, []toJSONCase{{atom, want, ""}}) // the type is wrong often enough
}
