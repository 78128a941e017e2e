package encode

import (
	"strings"
	"testing"
)

func TestSuits(t *testing.T) {
	standard := testPolicy("")
	listed := NewPolicy(&Config{Types: []string{"text/*", "Text/Event-Stream", "application/*+json", "Image/PNG"}})
	suffix := NewPolicy(&Config{Types: []string{"*+json"}})
	for _, c := range []struct {
		policy *Policy
		typ    string
		length int64
		want   bool
	}{
		{standard, "text/html", 1024, true},
		{standard, "text/html", 1023, false},
		{standard, "text/html", 0, false},
		{standard, "text/html", -1, true},
		{standard, "text/html", 1 << 40, true},
		{standard, "TEXT/HTML; Charset=UTF-8", -1, true},
		{standard, " text/plain\t; charset=utf-8", -1, true},
		{standard, "text/html;a=b;c=d", -1, true},
		{standard, "application/json", -1, true},
		{standard, "application/JSON;charset=utf-8", -1, true},
		{standard, "application/problem+json", -1, true},
		{standard, "application/vnd.example.v1+json; version=1", -1, true},
		{standard, "image/svg+xml", -1, true},
		{standard, "application/manifest+json", -1, true},
		{standard, "application/javascript", -1, true},
		{standard, "text/javascript", -1, true},
		{standard, "application/wasm", -1, true},
		{standard, "application/xml", -1, true},
		{standard, "font/ttf", -1, true},
		{standard, "font/otf", -1, true},
		{standard, "font/woff2", -1, false},
		{standard, "application/vnd.ms-fontobject", -1, true},
		{standard, "image/png", -1, false},
		{standard, "video/mp4", -1, false},
		{standard, "application/octet-stream", -1, false},
		{standard, "application/zip", -1, false},
		{standard, "application/grpc", -1, false},
		{standard, "multipart/byteranges; boundary=text/html", -1, false},
		{standard, "text/event-stream", -1, false},
		{standard, "text/Event-Stream;charset=utf-8", -1, false},
		{standard, "text/event-streams", -1, true},
		{standard, "", -1, false},
		{standard, ";", -1, false},
		{standard, "text", -1, false},
		{standard, "text/", -1, false},
		{standard, "text/*", -1, true}, // nobody sends it; it is in text/
		{standard, "text/a/b", -1, false},
		{standard, "+json", -1, false},
		{standard, "foo+json", -1, false},
		{standard, "textual/html", -1, false},
		{standard, "application/json, text/html", -1, false},
		{standard, "text/" + strings.Repeat("a", mostType-5), -1, true},
		{standard, "text/" + strings.Repeat("a", mostType-4), -1, false},
		{listed, "text/event-stream", -1, true},
		{listed, "text/html", 1, true},
		{listed, "text/html", 0, false},
		{listed, "application/ld+json", -1, true},
		{listed, "image/ld+json", -1, false},
		{listed, "application/json", -1, false},
		{listed, "application/+json", -1, false},
		{listed, "image/png", -1, true},
		{suffix, "application/json", -1, false},
		{suffix, "model/gltf+json", -1, true},
		{suffix, "text/html", -1, false},
	} {
		if got := c.policy.Suits([]byte(c.typ), c.length); got != c.want {
			t.Errorf("Suits(%q, %d) = %v", c.typ, c.length, got)
		}
	}
}
