package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml/ast"

	"sluice/pool"
	"sluice/setting"
)

// defaultListen is where clients are served when nothing says where.
const defaultListen = ":8080"

// Load reads the configuration that src describes. The error, if any, is a
// *Mistakes with everything that is wrong; the Config is then nil. Load does
// not change src: a reload calls it again.
func Load(src *Sources) (*Config, error) {
	path := src.Path()
	if path == "" {
		return load("", nil, src)
	}
	text, err := readFile(path)
	if err != nil {
		r := &report{origin: newOrigin(path)}
		r.add(place{}, "", "expected a readable file: %v", reason(err))
		src.overlay(&Config{}, r)
		return nil, r.err()
	}
	return load(path, text, src)
}

// Parse reads a configuration from text; name stands for the file in mistakes.
// A nil src is an empty environment and no flags.
func Parse(name string, text []byte, src *Sources) (*Config, error) {
	if src == nil {
		src = &Sources{}
	}
	return load(name, text, src)
}

// openRegular opens a file for reading. It refuses a pipe, a device or a
// terminal, which would hang the reload.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = syscall.EISDIR
	} else if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// readFile reads one byte more than is allowed, so that parseYAML can refuse.
func readFile(path string) ([]byte, error) {
	file, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFileSize+1))
}

// hideHeaders takes the values of headers that hold credentials for secrets,
// when they are written out.
func (c *Config) hideHeaders(r *Route, path string) {
	hide := func(path string, lines map[string]string) {
		for name, value := range lines {
			key := setting.Join(path, setting.Key(name))
			if _, known := c.origin.secrets[key]; !known && value != "" && holdsSecret(name) {
				c.origin.hide(key, setting.Hidden)
			}
		}
	}
	hide(path+"request.headers.set", r.Request.Headers.Set)
	hide(path+"request.headers.add", r.Request.Headers.Add)
	hide(path+"response.headers.set", r.Response.Headers.Set)
	hide(path+"response.headers.add", r.Response.Headers.Add)
	if r.Respond != nil {
		hide(path+"respond.headers", r.Respond.Headers)
	}
	for i := range r.Fallback {
		hide(path+"fallback["+strconv.Itoa(i)+"].headers", r.Fallback[i].Headers)
	}
}

// holdsSecret tells by the name of a header whether its values are secrets.
func holdsSecret(name string) bool {
	switch name = strings.ToLower(name); name {
	case "authorization", "proxy-authorization", "cookie", "set-cookie":
		return true
	}
	return strings.HasSuffix(name, "key") || strings.HasSuffix(name, "token") || strings.HasSuffix(name, "secret")
}

func load(name string, text []byte, src *Sources) (*Config, error) {
	cfg := &Config{origin: newOrigin(name)}
	setDefaults(reflect.ValueOf(cfg).Elem())
	r := &report{origin: cfg.origin}
	d := newDecoder(r, src.lookup)

	root, readable := ast.Node(nil), true
	if len(bytes.TrimSpace(text)) > 0 {
		root, readable = parseYAML(text, r)
	}
	upstreams, isMapping := d.file(cfg, root)
	readable = readable && isMapping
	src.overlay(cfg, r)
	// Only now, because defaults.* may come from the environment or a flag.
	d.upstreams(cfg, upstreams)
	src.shortcuts(cfg)
	if len(cfg.Listen) == 0 {
		cfg.Listen = []Listener{{Address: defaultListen}}
	}
	for i := range cfg.Routes {
		cfg.hideHeaders(&cfg.Routes[i], "routes["+strconv.Itoa(i)+"].")
	}
	cfg.origin.settle()
	if readable {
		src.unknown(r, d.asked)
		p := cfg.Problems()
		cfg.validate(p)
		r.problems(p.List())
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// file reads everything but the upstreams and returns where they stand. ok is
// false when root is not a mapping at all.
func (d *decoder) file(cfg *Config, root ast.Node) (upstreams *entry, ok bool) {
	if root == nil {
		return nil, true
	}
	d.link(root, map[string]ast.Node{})
	if root = d.plain(root, ""); root == nil {
		return nil, false
	}
	entries, ok := d.entries(root, "")
	if !ok {
		d.add(nodePlace(root), "", "expected a mapping of keys such as listen, upstreams and routes, got %s", describe(root))
		return nil, false
	}
	v := reflect.ValueOf(cfg).Elem()
	fields := fieldsOf(v.Type())
	for _, e := range entries {
		path := setting.Key(e.key)
		f := fieldByKey(fields, e.key)
		if f == nil {
			d.unknown(e, path, "", fields)
			continue
		}
		d.origin.places[path] = at(e.token)
		if e.key == "upstreams" {
			upstreams = &e
			continue
		}
		d.value(f, v.FieldByIndex(f.index), e.value, path)
	}
	return upstreams, true
}

func (d *decoder) upstreams(cfg *Config, e *entry) {
	if e == nil {
		return
	}
	d.defaults = &cfg.Defaults
	f := fieldByKey(fieldsOf(reflect.TypeFor[Config]()), e.key)
	d.value(f, reflect.ValueOf(&cfg.Upstreams).Elem(), e.value, e.key)
}

// shortcuts applies --listen and --upstream, or their variables.
func (s *Sources) shortcuts(cfg *Config) {
	o := cfg.origin
	if addresses, name := s.convenient(flagListen, envListen); name != "" {
		o.forget("listen")
		o.places["listen"] = place{name: name}
		cfg.Listen = nil
		for _, a := range addresses {
			cfg.Listen = append(cfg.Listen, Listener{Address: a})
		}
	}
	urls, name := s.convenient(flagUpstream, envUpstream)
	if name == "" {
		return
	}
	const upstream = "default"
	c, ok := cfg.Upstreams[upstream]
	if !ok {
		setDefaults(reflect.ValueOf(&c).Elem())
		cfg.Defaults.begin(&c)
		o.inherit("defaults", "upstreams."+upstream)
	}
	delete(o.secrets, "upstreams."+upstream) // a short form that is no more
	o.forget("upstreams." + upstream + ".targets")
	o.places["upstreams."+upstream+".targets"] = place{name: name}
	c.Targets = nil
	for _, u := range urls {
		c.Targets = append(c.Targets, pool.TargetConfig{URL: u, Weight: 1})
	}
	if cfg.Upstreams == nil {
		cfg.Upstreams = map[string]pool.Config{}
	}
	cfg.Upstreams[upstream] = c
	if len(cfg.Routes) == 0 {
		var route Route
		setDefaults(reflect.ValueOf(&route).Elem())
		route.Name, route.Upstream = upstream, upstream
		cfg.Routes = []Route{route}
		o.places["routes"] = place{name: name}
	}
}

// inherit makes secrets under to of those under from, whose values it copies.
func (o *origin) inherit(from, to string) {
	for path, expression := range o.secrets {
		if path != from && within(path, from) {
			o.secrets[to+path[len(from):]] = expression
		}
	}
}

// forget drops what is known of path and everything under it.
func (o *origin) forget(path string) {
	for p := range o.places {
		if within(p, path) {
			delete(o.places, p)
		}
	}
	for p := range o.secrets {
		if within(p, path) {
			delete(o.secrets, p)
		}
	}
}

// Locate says where the value at a key path, or the block around it, was
// written: sluice.yaml:12:7, SLUICE_ADMIN_ADDRESS, --listen. For a default that
// is the name of the file, or "" without one.
func (c *Config) Locate(path string) string {
	if c.origin == nil {
		return ""
	}
	return c.origin.where(c.origin.place(path))
}

// Problems returns a collector for mistakes that show only when the
// configuration is put to use; paths begin at its root. Secrets in its
// arguments are hidden.
func (c *Config) Problems() *setting.Problems {
	if c.origin == nil {
		return &setting.Problems{}
	}
	return setting.NewProblems(c.origin.isSecret)
}

// Err returns what p has collected as a *Mistakes with positions, or nil.
func (c *Config) Err(p *setting.Problems) error {
	r := &report{origin: c.origin}
	if r.origin == nil {
		r.origin = newOrigin("")
	}
	for _, problem := range p.List() {
		r.add(r.origin.place(problem.Path), problem.Path, "%s", problem.Expected)
	}
	return r.err()
}

// Files lists what the configuration was read from: the file itself, and those
// that ${file:...} names.
func (c *Config) Files() []string {
	if c.origin == nil {
		return nil
	}
	var files []string
	if c.origin.file != "" {
		files = append(files, c.origin.file)
	}
	return append(files, c.origin.reads...)
}

// Hash returns 16 hex digits that differ when any effective value differs,
// secrets included. Comments and the order of keys do not count.
func (c *Config) Hash() string {
	sum := sha256.Sum256(documentOf(c, false))
	return hex.EncodeToString(sum[:8])
}
