package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"sluice/setting"
)

// Sources are what a configuration is read from: a file, the environment and
// flags; later wins. Load only reads it, so a reload can use it again.
type Sources struct {
	File    string   // --config; "" leaves it to SLUICE_CONFIG, which may name none
	Environ []string // "NAME=value", as os.Environ returns it

	flags map[string][]string // by name, every value in the order given
}

// The settings that are no key of the file but a short way to several.
const (
	flagConfig, envConfig     = "config", "SLUICE_CONFIG"
	flagListen, envListen     = "listen", "SLUICE_LISTEN"
	flagUpstream, envUpstream = "upstream", "SLUICE_UPSTREAM"
)

// knob is a key that has a flag and a variable of its own: a scalar, or a list
// of texts, that is not inside a list or map.
type knob struct {
	path  string
	field field
	index []int // of the field, from Config down
	list  bool
}

func (k *knob) flag() string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(k.path)
}

func (k *knob) env() string {
	return "SLUICE_" + strings.ToUpper(strings.ReplaceAll(k.path, ".", "_"))
}

// knobs lists them in the order of the schema.
func knobs() []knob { return knobsOf(reflect.TypeFor[Config](), "", nil) }

func knobsOf(t reflect.Type, path string, index []int) (list []knob) {
	for _, f := range fieldsOf(t) {
		k := knob{path: setting.Join(path, f.key), field: f, index: append(index[:len(index):len(index)], f.index...)}
		switch kind := f.kind(); {
		case kind.scalar():
			list = append(list, k)
		case kind == kindStruct:
			block := f.typ
			if block.Kind() == reflect.Pointer {
				block = block.Elem()
			}
			list = append(list, knobsOf(block, k.path, k.index)...)
		case kind == kindList && f.typ.Elem().Kind() == reflect.String:
			k.list = true
			list = append(list, k)
		}
	}
	return list
}

// value returns the field of k in cfg and makes the blocks on the way to it.
func (k *knob) value(cfg *Config) reflect.Value {
	v := reflect.ValueOf(cfg).Elem()
	for _, i := range k.index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
				setDefaults(v.Elem())
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}

// Register adds a flag for every setting to fs. Values are only noted there;
// Load checks them together with everything else.
func (s *Sources) Register(fs *pflag.FlagSet) {
	if s.flags == nil {
		s.flags = map[string][]string{}
	}
	fs.StringVarP(&s.File, flagConfig, "c", s.File, "The configuration `file` (YAML or JSON).")
	add := func(name, noun, def, doc string) *pflag.Flag {
		return fs.VarPF(&noted{flags: s.flags, name: name, noun: noun, def: def}, name, "", doc)
	}
	add(flagListen, "address", "", "Listen on this address instead of the file's. Repeatable.")
	add(flagUpstream, "url", "", "Forward to this target: a server of the upstream \"default\", which gets every request when there are no routes. Repeatable.")
	for _, k := range knobs() {
		noun, doc := k.field.kind().noun(), k.field.doc
		if len(k.field.enum) > 0 {
			noun, doc = "word", doc+" One of "+strings.Join(k.field.enum, ", ")+"."
		}
		if k.list {
			doc += " Repeatable, or separated by commas."
		}
		if f := add(k.flag(), noun, k.field.def, doc); k.field.kind() == kindBool {
			f.NoOptDefVal = "true"
		}
	}
}

// noted is the pflag.Value of a flag that keeps what was given.
type noted struct {
	flags           map[string][]string
	name, noun, def string
}

func (n *noted) String() string { return n.def }
func (n *noted) Type() string   { return n.noun }
func (n *noted) Set(text string) error {
	n.flags[n.name] = append(n.flags[n.name], text)
	return nil
}

// ExplainFlag adds the nearest known flag to the error of parsing the command
// line when that error is about a flag that fs does not have.
func ExplainFlag(fs *pflag.FlagSet, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return err
	}
	var known []string
	fs.VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	if near := setting.Nearest(unknown.GetSpecifiedName(), known); near != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, near)
	}
	return err
}

// Path returns the file that Load reads, or "" for none.
func (s *Sources) Path() string {
	if s.File != "" {
		return s.File
	}
	path, _ := s.lookup(envConfig)
	return path
}

// lookup reads one variable. The last of several wins, as in a shell.
func (s *Sources) lookup(name string) (string, bool) {
	for i := len(s.Environ) - 1; i >= 0; i-- {
		if key, value, ok := strings.Cut(s.Environ[i], "="); ok && key == name {
			return value, true
		}
	}
	return "", false
}

// overlay puts the environment and then the flags over what the file said.
func (s *Sources) overlay(cfg *Config, r *report) {
	for _, k := range knobs() {
		if text, ok := s.lookup(k.env()); ok {
			r.knob(&k, cfg, k.env(), []string{text})
		}
		if given := s.flags[k.flag()]; len(given) > 0 {
			r.knob(&k, cfg, "--"+k.flag(), given)
		}
	}
}

// unknown reports variables that look like settings and are none. asked are
// those that the file names itself.
func (s *Sources) unknown(r *report, asked map[string]bool) {
	known := []string{envConfig, envListen, envUpstream}
	for _, k := range knobs() {
		known = append(known, k.env())
	}
	for _, line := range s.Environ {
		name, value, _ := strings.Cut(line, "=")
		if !strings.HasPrefix(name, "SLUICE_") || contains(known, name) || asked[name] || fromKubernetes(name, value) {
			continue
		}
		why := "unknown variable"
		if near := setting.Nearest(name, known); near != "" {
			why += "; did you mean " + near + "?"
		}
		r.add(place{name: name}, "", "%s", why)
	}
}

// fromKubernetes tells whether this is a variable that Kubernetes gives every
// pod for a Service named sluice or sluice-ANYTHING.
func fromKubernetes(name, value string) bool {
	return kubernetesVariable.MatchString(name) || kubernetesPort.MatchString(name) && strings.Contains(value, "://")
}

var kubernetesPort = regexp.MustCompile(`^SLUICE_\w+_PORT$`)

var kubernetesVariable = regexp.MustCompile(`^SLUICE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?))$|^SLUICE_PORT$`)

// knob sets one key from a variable or flag.
func (r *report) knob(k *knob, cfg *Config, name string, given []string) {
	r.origin.places[k.path] = place{name: name}
	delete(r.origin.secrets, k.path)
	v := k.value(cfg)
	if k.list {
		for path := range r.origin.places {
			if path != k.path && within(path, k.path) {
				delete(r.origin.places, path)
				delete(r.origin.secrets, path)
			}
		}
		v.Set(reflect.ValueOf(commaList(given)).Convert(v.Type()))
		return
	}
	text := given[len(given)-1]
	if k.field.secret && text != "" {
		r.origin.hide(k.path, setting.Hidden, text)
	}
	before := reflect.New(v.Type()).Elem()
	before.Set(v)
	if err := k.field.parse(v, text); err != nil {
		v.Set(before)
		r.cover(k.path)
		var u *setting.Unexpected
		if k.field.secret && errors.As(err, &u) {
			err = &setting.Unexpected{Want: u.Want, Got: setting.Hidden}
		}
		r.add(place{name: name}, "", "%v", err)
	}
}

// commaList splits every text at its commas.
func commaList(texts []string) []string {
	list := []string{}
	for _, text := range texts {
		for _, part := range strings.Split(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	}
	return list
}

// convenient returns the values of a flag or else of a variable that stand for
// a part of the file, and the name of the one that was used.
func (s *Sources) convenient(flag, env string) (values []string, name string) {
	if given := s.flags[flag]; len(given) > 0 {
		return commaList(given), "--" + flag
	}
	if text, ok := s.lookup(env); ok {
		return commaList([]string{text}), env
	}
	return nil, ""
}
