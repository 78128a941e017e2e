package encode

import (
	"slices"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	const wantType = ", without parameters, got "
	for name, c := range map[string]struct {
		config Config
		want   []string // parts of the mistakes, in order
	}{
		"nothing":   {Config{}, nil},
		"all":       {Config{Codings: []string{"br", "gzip", "zstd"}, Types: []string{"text/html", "text/*", "*+json", "application/*+xml", "TEXT/CSS"}, Min: 1}, nil},
		"near":      {Config{Codings: []string{"gizp"}}, []string{`codings[0]: expected one of zstd, br and gzip, got "gizp"; did you mean gzip?`}},
		"far":       {Config{Codings: []string{"br", "deflate"}}, []string{`codings[1]: expected one of zstd, br and gzip, got "deflate"`}},
		"alias":     {Config{Codings: []string{"x-gzip"}}, []string{"codings[0]"}},
		"case":      {Config{Codings: []string{"BR"}}, []string{"did you mean br?"}},
		"identity":  {Config{Codings: []string{"identity"}}, []string{"codings[0]"}},
		"twice":     {Config{Codings: []string{"br", "br"}}, []string{"codings[1]: expected each coding once"}},
		"types":     {Config{Types: []string{"json", "text/", "/json", "*/*", "*", "*/json", "text/*+", "*+", "text/html; charset=utf-8", "a/b/c", "", "te*t/x", "text/a*", "**+json", "*+j*n"}}, slices.Repeat([]string{wantType}, 15)},
		"long":      {Config{Types: []string{"text/" + strings.Repeat("a", mostType)}}, []string{"types[0]"}},
		"many":      {Config{Types: slices.Repeat([]string{"text/html"}, mostTypes+1)}, []string{"types: expected at most 64"}},
		"shorthand": {Config{Min: -1}, []string{": expected on, or a block"}},
	} {
		got := testProblems(&c.config)
		ok := len(got) == len(c.want)
		for i := range min(len(got), len(c.want)) {
			ok = ok && strings.Contains(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestShorthand(t *testing.T) {
	c := Config{Min: 1 << 10, Level: "balanced"}
	c.Shorthand("on")
	if got := testProblems(&c); got != nil || c.Min != 1<<10 {
		t.Errorf("on: %+v, %q", c, got)
	}
	c.Shorthand("off")
	if got := testProblems(&c); len(got) != 1 {
		t.Errorf("off: got %q, want one mistake", got)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	if got := testProblems(&Config{Codings: defaultCodings, Types: defaultTypes}); got != nil {
		t.Error(got)
	}
}
