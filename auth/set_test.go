package auth

import (
	"strings"
	"testing"

	"sluice/setting"
)

func TestConfigMistakes(t *testing.T) {
	f := func(c Config, want ...string) {
		t.Helper()
		p := setting.NewProblems(nil)
		c.Validate(p)
		var got []string
		for _, m := range p.List() {
			got = append(got, m.Path+": "+m.Expected)
		}
		if len(got) != len(want) {
			t.Errorf("got %q, want %q", got, want)
			return
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("got %q, want %q", got[i], want[i])
			}
		}
	}
	keys := &APIKeyConfig{File: "keys"}
	f(Config{APIKey: keys})
	f(Config{}, "exactly one of")
	f(Config{APIKey: keys, Basic: &BasicConfig{File: "users"}}, "exactly one of")
	f(Config{APIKey: keys, Headers: map[string]string{"X-User": "sub"}})
	f(Config{APIKey: keys, Headers: map[string]string{"X User": "sub"}}, "headers.\"X User\": expected the name of a header")
	f(Config{APIKey: keys, Headers: map[string]string{"X-User": ""}}, "headers.X-User: expected the path of a claim")
	for _, name := range []string{"Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade"} {
		f(Config{APIKey: keys, Headers: map[string]string{name: "sub"}}, "framing or routing")
	}
}
