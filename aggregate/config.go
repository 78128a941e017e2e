package aggregate

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/document"
	"sluice/setting"
	"sluice/wire"
)

// BranchConfig is what a branch asks for and contributes. Texts may hold
// {NAME.path}: a value of another branch's answer, which is then asked first, a
// parameter of the route's path, or query.NAME, header.NAME, cookie.NAME,
// claim.PATH, client_ip, host, method or body.path of the client's request.
type BranchConfig struct {
	Path     string            `yaml:"path" doc:"Path, and query, of the branch's request."`
	Method   string            `yaml:"method" default:"GET" doc:"Its method."`
	Headers  map[string]string `yaml:"headers" doc:"Header lines that it has besides, or in place of, the client's."`
	Body     string            `yaml:"body" doc:"Its body, as JSON: a {path} that stands alone keeps its type. {body} is the client's."`
	Pass     []string          `yaml:"pass" one:"true" doc:"Header lines of the client that it gets. None: all but those of content, conditions and ranges."`
	OK       []int             `yaml:"ok" one:"true" doc:"Statuses that count as an answer. None: 200 to 299."`
	Optional bool              `yaml:"optional" default:"false" doc:"The whole can do without it."`
	Default  string            `yaml:"default" doc:"JSON that stands in for an optional branch that failed."`
	Format   string            `yaml:"format" default:"auto" enum:"auto,json,ndjson,xml,rss,atom,yaml,text" doc:"What it answers in; auto goes by Content-Type."`
	Flat     bool              `yaml:"flat" default:"false" doc:"Its members become members of the whole, instead of one member under the branch's name."`
	Max      setting.Size      `yaml:"max" default:"4MiB" min:"1KiB" max:"1GiB" doc:"The largest body that is read of its answer."`
}

// Config is how the whole is made of the branches.
type Config struct {
	Order      []string              `yaml:"order" doc:"Names of branches: later ones win where members have one name. Those that are not named come first, by the alphabet."`
	Deep       bool                  `yaml:"deep" default:"false" doc:"Merge objects of one name, instead of letting the later one win."`
	Static     []Static              `yaml:"static" one:"true" doc:"Data that is added, after all branches."`
	Status     map[string]int        `yaml:"status" doc:"Status of the whole, by what came about: BRANCH:404, BRANCH:4xx, BRANCH:timeout or BRANCH (whatever it failed with), incomplete, complete; the first of these that holds."`
	Errors     string                `yaml:"errors" default:"errors" doc:"Member of an incomplete whole that tells what is missing, as problems (RFC 9457); empty for none."`
	Formats    []string              `yaml:"formats" one:"true" doc:"What clients may have it in by Accept, the first being preferred: json, xml, yaml. None: json."`
	Shape      *document.ShapeConfig `yaml:"shape" doc:"Changes of the whole."`
	Completion string                `yaml:"completion" default:"Sluice-Complete" doc:"The header that says true or false; empty for none."`
}

// Static is data that is added to the whole.
type Static struct {
	When  string `yaml:"when" default:"always" enum:"always,success,error,complete,incomplete" doc:"Added always; when some branch answered (success) or none did (error); when all did (complete) or one did not (incomplete)."`
	Value string `yaml:"value" doc:"A JSON object, whose members are added."`
}

const mostBranches = 32

var facts = []string{"query", "header", "cookie", "claim", "client_ip", "host", "method", "body", "request_id"}

// Validate reports what the tags cannot say, and can be said of one branch alone.
func (c *BranchConfig) Validate(p *setting.Problems) {
	if !strings.HasPrefix(c.Path, "/") {
		p.Add("path", "expected a path that begins with /, got %q", c.Path)
	}
	if !wire.IsToken([]byte(c.Method)) {
		p.Add("method", "expected a method, got %q", c.Method)
	}
	for i, s := range c.OK {
		if s < 200 || s > 599 {
			p.Add(at("ok", i), "expected a status from 200 to 599, got %d", s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if !wire.IsToken([]byte(name)) {
			p.Add("headers."+setting.Key(name), "expected the name of a header")
		} else if k := wire.KindOf([]byte(name)); k.HopByHop() || k == wire.ContentLength || k == wire.Host {
			p.Add("headers."+setting.Key(name), "expected a header that is not the gateway's to write")
		}
	}
	for i, name := range c.Pass {
		if !wire.IsToken([]byte(name)) {
			p.Add(at("pass", i), "expected the name of a header, got %q", name)
		}
	}
	if c.Default != "" {
		if !c.Optional {
			p.Add("default", "expected optional beside it: a required branch that fails fails the whole")
		}
		if err := document.Check([]byte(c.Default), document.Limits{}, false); err != nil {
			p.Add("default", "expected JSON: %v", err)
		}
	}
	for key, text := range c.texts() {
		if _, err := document.ParseTemplate(text.text, text.mode); err != nil {
			p.Add(key, "%v", err)
		}
	}
}

type text struct {
	text string
	mode document.Mode
}

// texts are the templates of c by their key.
func (c *BranchConfig) texts() map[string]text {
	list := map[string]text{"path": {c.Path, document.URL}}
	for name, value := range c.Headers {
		list["headers."+setting.Key(name)] = text{value, document.Header}
	}
	if c.Body != "" {
		list["body"] = text{c.Body, document.BodyJSON}
	}
	return list
}

// Validate reports what the tags cannot say, and needs no branches.
func (c *Config) Validate(p *setting.Problems) {
	for i, s := range c.Static {
		if err := document.Check([]byte(s.Value), document.Limits{}, false); err != nil || !isObject([]byte(s.Value)) {
			p.Add(at("static", i)+".value", "expected a JSON object, got %.60q", s.Value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Status)) {
		if s := c.Status[key]; s < 200 || s > 599 || s == 204 || s == 205 || s == 304 {
			p.Add("status."+setting.Key(key), "expected a status from 200 to 599 whose answer has a body, got %d", s)
		}
	}
	known := []string{"json", "xml", "yaml"}
	for i, f := range c.Formats {
		if !slices.Contains(known, f) {
			p.Add(at("formats", i), "expected json, xml or yaml, got %q", f)
		}
	}
	if c.Completion != "" && !wire.IsToken([]byte(c.Completion)) {
		p.Add("completion", "expected the name of a header, got %q", c.Completion)
	}
}

// statusKey reads a key of Config.Status. branch is empty for complete and
// incomplete.
func statusKey(key string) (branch, what string, ok bool) {
	if key == "complete" || key == "incomplete" {
		return "", key, true
	}
	branch, what, _ = strings.Cut(key, ":")
	switch {
	case what == "", slices.Contains(reasonNames[1:], what):
		return branch, what, true
	case len(what) == 3 && what[1:] == "xx" && what[0] >= '2' && what[0] <= '5':
		return branch, what, true
	}
	n, err := strconv.Atoi(what)
	return branch, what, err == nil && n >= 100 && n <= 599
}
