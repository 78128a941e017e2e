package gateway

import (
	"fmt"
	"strings"

	"sluice/config"
	"sluice/setting"
)

// shown is a value of the configuration as others than the gateway may see it:
// one that came from ${...} is hidden.
func shown(cfg *config.Config, path, value string) string {
	p := cfg.Problems()
	p.Add(path, "%s", value)
	return p.List()[0].Expected
}

// shownAll is shown for the values of a mapping at path.
func shownAll(cfg *config.Config, path string, values map[string]string) map[string]string {
	if len(values) == 0 {
		return nil
	}
	all := make(map[string]string, len(values))
	for name, value := range values {
		all[name] = shown(cfg, setting.Join(path, setting.Key(name)), value)
	}
	return all
}

// shortest is the length from which a text can be a secret; shorter ones guard
// nothing and would tear holes into every word.
const shortest = 4

// hideTexts takes out of text what it got from the hidden templates of the
// route at index i of cfg.
func hideTexts(cfg *config.Config, i int, text string) string {
	r := &cfg.Routes[i]
	hide := func(key, template string) {
		if template == "" || shown(cfg, setting.Join(fmt.Sprintf("routes[%d]", i), key), template) == template {
			return
		}
		for rest, more := template, true; more; {
			var literal string
			literal, rest, more = strings.Cut(rest, "{")
			if more {
				_, rest, _ = strings.Cut(rest, "}")
			}
			if literal = strings.TrimSpace(literal); len(literal) >= shortest {
				text = strings.ReplaceAll(text, literal, setting.Hidden)
			}
		}
	}
	for key, ops := range map[string]config.HeaderOps{"request.headers.": r.Request.Headers, "response.headers.": r.Response.Headers} {
		for name, value := range ops.Set {
			hide(key+"set."+setting.Key(name), value)
		}
		for name, value := range ops.Add {
			hide(key+"add."+setting.Key(name), value)
		}
	}
	if w := r.Rewrite; w != nil {
		hide("rewrite.path", w.Path)
		hide("rewrite.add_prefix", w.AddPrefix)
		hide("rewrite.host", w.Host)
	}
	if d := r.Redirect; d != nil {
		hide("redirect.to", d.To)
	}
	return text
}
