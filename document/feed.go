package document

import (
	"encoding/xml"
	"strings"
)

// RSS 2.0, RSS 1.0 and Atom (RFC 4287) become one object:
//
//	{"title", "link", "description", "items": [
//	    {"title", "link", "description", "content", "published", "guid", "author"}, ...]}
//
// Members that the feed does not have are left out, items never. All are texts as the
// feed has them, dates too. Of an Atom feed description is the subtitle or summary,
// published is updated where nothing else is there, and a text with elements in it is
// the text of those. Elements are told by their local names and by content:encoded
// and dc:creator.

// fromFeed takes any of the three, whichever the type says: they are mixed up often.
func fromFeed(dst, body []byte, lim Limits) ([]byte, error) {
	root, err := readXML(body, lim)
	if err != nil {
		return nil, err
	}
	var feed *element
	var items []*element
	switch local(root.name) {
	case "rss":
		if feed = root.child("channel"); feed != nil {
			items = feed.named("item")
		}
	case "RDF":
		feed, items = root.child("channel"), root.named("item")
	case "feed":
		feed, items = root, root.named("entry")
	}
	if feed == nil {
		return nil, refused(0, "expected an RSS or Atom feed, got <%s>", short(root.name))
	}
	w := feedWriter{dst: append(dst, '{')}
	w.member("title", feed.textOf("title"))
	w.member("link", feed.link())
	w.member("description", feed.textOf("description", "subtitle"))
	w.begin("items")
	w.dst = append(w.dst, '[')
	for i, item := range items {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.dst, w.some = append(w.dst, '{'), false
		w.member("title", item.textOf("title"))
		w.member("link", item.link())
		w.member("description", item.textOf("description", "summary"))
		w.member("content", item.textOf("content:encoded", "content"))
		w.member("published", item.textOf("pubDate", "published", "dc:date", "updated"))
		w.member("guid", item.textOf("guid", "id"))
		w.member("author", item.author())
		w.dst = append(w.dst, '}')
		if len(w.dst)-len(dst) > lim.Bytes {
			return nil, tooLong(lim.Bytes)
		}
	}
	return append(w.dst, "]}"...), nil
}

type feedWriter struct {
	dst  []byte
	some bool
}

func (w *feedWriter) begin(name string) {
	if w.some {
		w.dst = append(w.dst, ',')
	}
	w.some = true
	w.dst = append(AppendString(w.dst, name), ':')
}

func (w *feedWriter) member(name, text string) {
	if text != "" {
		w.begin(name)
		w.dst = AppendString(w.dst, text)
	}
}

// local is a name without its prefix.
func local(name string) string { return name[strings.IndexByte(name, ':')+1:] }

// child is the first called name, with this prefix or with none; Atom and RSS 1.0 may
// have one of their own.
func (e *element) child(name string) *element {
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (e *element) named(name string) (list []*element) {
	for _, c := range e.children {
		if local(c.name) == name && !foreign(c.name) {
			list = append(list, c)
		}
	}
	return list
}

// foreign tells whether a prefix is that of an extension which has elements called
// like those of a feed.
func foreign(name string) bool {
	prefix, _, ok := strings.Cut(name, ":")
	if !ok {
		return false
	}
	switch prefix {
	case "media", "itunes", "atom", "content", "dc", "podcast", "slash", "georss":
		return true
	}
	return false
}

// textOf is the text of the first of names that has any.
func (e *element) textOf(names ...string) string {
	for _, name := range names {
		c := e.child(name)
		if c == nil && !strings.Contains(name, ":") {
			if list := e.named(name); len(list) > 0 {
				c = list[0]
			}
		}
		if c != nil {
			if text := c.allText(); text != "" {
				return text
			}
		}
	}
	return ""
}

// allText is the text of an element and of those in it.
func (e *element) allText() string {
	if len(e.children) == 0 {
		return string(e.text)
	}
	return string(e.appendText(nil))
}

func (e *element) appendText(dst []byte) []byte {
	if len(e.text) > 0 {
		if len(dst) > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, e.text...)
	}
	for _, c := range e.children {
		dst = c.appendText(dst)
	}
	return dst
}

// link is the text of a link, or where Atom's points to: the alternate one.
func (e *element) link() string {
	other := ""
	for _, c := range e.named("link") {
		if len(c.text) > 0 {
			return string(c.text)
		}
		href, rel := attr(c.attrs, "href"), attr(c.attrs, "rel")
		if href != "" && (rel == "" || rel == "alternate") {
			return href
		}
		if other == "" {
			other = href
		}
	}
	return other
}

func attr(attrs []xml.Attr, name string) string {
	for _, a := range attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// author is a name: RSS has it as a text, Atom in an element.
func (e *element) author() string {
	for _, c := range e.named("author") {
		if name := c.textOf("name", "email"); name != "" {
			return name
		}
		if len(c.children) == 0 && len(c.text) > 0 {
			return string(c.text)
		}
	}
	return e.textOf("dc:creator")
}
