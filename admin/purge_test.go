package admin

import (
	"errors"
	"strings"
	"testing"
)

func TestPurgeOrders(t *testing.T) {
	var got []string
	url := open(t, Options{Purge: func(scope, value string, soft bool) error {
		if value == "bad" {
			return errors.New("expected better")
		}
		word := scope + " " + value
		if soft {
			word += " soft"
		}
		got = append(got, word)
		return nil
	}})
	for _, c := range []struct {
		query  string
		status int
		orders string
		says   string
	}{
		{"?all", 200, "all ", `"scope": "all"`},
		{"?url=http%3A%2F%2Fa%2Fx%3Fq&soft", 200, "url http://a/x?q soft", `"soft": true`},
		{"?tag=a&tag=b&prefix=http://c/&soft=0", 200, "tag a,tag b,prefix http://c/", ""},
		{"?tag=a&tag=bad", 422, "tag a", "tag: expected better"},
		{"", 400, "", "expected url="},
		{"?soft=1", 400, "", "expected url="},
		{"?host=a&all", 400, "", "got host"},
		{"?" + strings.Repeat("tag=a&", 257), 400, "", "at most 256"},
	} {
		got = nil
		res, body := ask(t, "POST", url+"/cache/purge"+c.query)
		if res.StatusCode != c.status || strings.Join(got, ",") != c.orders || !strings.Contains(body, c.says) {
			t.Errorf("%.40s: %d, orders %q, %s", c.query, res.StatusCode, got, body)
		}
	}
	if res, _ := ask(t, "GET", url+"/cache/purge?all"); res.StatusCode != 405 {
		t.Errorf("GET: %d", res.StatusCode)
	}
	if res, _ := ask(t, "POST", url+"/cache/purge?all", "Origin", "https://evil.example"); res.StatusCode != 403 {
		t.Errorf("from a page of another site: %d", res.StatusCode)
	}
}
