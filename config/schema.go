package config

import (
	"encoding/json"
	"math"
	"reflect"
	"strconv"
)

type object = map[string]any

// Schema returns the JSON Schema (draft 2020-12) of the configuration file for
// editors. It says what the tags say; validation knows more.
func Schema() []byte {
	root := schemaBlock(reflect.TypeFor[Config]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Sluice configuration"
	root["$defs"] = object{"expression": object{
		"type": "string", "pattern": `\$\{[^}]+\}`,
		"description": "A value from the environment, ${NAME} or ${NAME:-default}, or from a file, ${file:/path}.",
	}}
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("BUG: config: cannot print the schema: " + err.Error())
	}
	return append(text, '\n')
}

func schemaBlock(t reflect.Type) object {
	properties := object{}
	for _, f := range fieldsOf(t) {
		s := schemaValue(&f, f.typ)
		s["description"] = f.doc
		if f.hasDefault {
			s["default"] = defaultValue(&f)
		}
		if f.secret {
			s["writeOnly"] = true
		}
		properties[f.key] = s
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

// schemaValue describes a value of type t, which is f's or that of its entries.
func schemaValue(f *field, t reflect.Type) object {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var s object
	switch kindOf(t) {
	case kindStruct:
		s = schemaBlock(t)
	case kindList:
		items := schemaValue(f, t.Elem())
		if s = (object{"type": "array", "items": items}); f.one {
			return object{"anyOf": []any{s, items}}
		}
	case kindMap:
		return object{"type": "object", "additionalProperties": schemaValue(f, t.Elem())}
	default:
		return schemaScalar(f, kindOf(t))
	}
	text := object{"type": []string{"string", "number"}}
	if hasListForm(t) {
		return object{"anyOf": []any{s, text, object{"type": "array", "items": text}}}
	}
	if hasShorthand(t) {
		return object{"anyOf": []any{s, text}}
	}
	return s
}

const (
	durationPattern = `^(0|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$`
	sizePattern     = `^[0-9]+(\.[0-9]+)? ?([KMGT]i?B|B)?$`
	percentPattern  = `^[0-9]+(\.[0-9]+)?%?$`
)

func schemaScalar(f *field, k kind) object {
	var s object
	switch {
	case len(f.enum) > 0:
		s = object{"enum": enumValues(f)}
	case k == kindText:
		// Booleans and numbers are read as they are written.
		return object{"type": []string{"string", "number", "boolean"}}
	case k == kindBool:
		s = object{"type": "boolean"}
	case k == kindInt || k == kindFloat:
		s = object{"type": map[kind]string{kindInt: "integer", kindFloat: "number"}[k]}
		if f.min != "" {
			s["minimum"] = f.bound(f.min)
		}
		if f.max != "" {
			s["maximum"] = f.bound(f.max)
		}
	case k == kindDuration:
		s = object{"type": []string{"string", "integer"}, "pattern": durationPattern, "maximum": 0, "minimum": 0}
	case k == kindSize:
		s = object{"type": []string{"string", "integer"}, "pattern": sizePattern, "minimum": 0}
		if f.min != "" {
			s["minimum"] = f.bound(f.min)
		}
		if f.max != "" {
			s["maximum"] = f.bound(f.max)
		}
	case k == kindPercent:
		s = object{"type": []string{"string", "number"}, "pattern": percentPattern, "minimum": 0, "maximum": 1}
	}
	return object{"anyOf": []any{s, object{"$ref": "#/$defs/expression"}}}
}

// enumValues lists the words of f, and those that look like numbers to YAML
// also as numbers.
func enumValues(f *field) []any {
	var values []any
	for _, word := range f.enum {
		if f.kind() == kindText {
			values = append(values, word)
		}
		if n, err := strconv.ParseFloat(word, 64); err == nil {
			values = append(values, n)
		}
	}
	return values
}

// defaultValue writes the default the way a person would.
func defaultValue(f *field) any {
	v := reflect.New(f.typ).Elem()
	n, err := parseScalar(v, f.def)
	switch {
	case err != nil:
		panic("BUG: config: default of " + f.key + ": " + err.Error())
	case f.kind() == kindBool:
		return f.def == "true"
	case f.kind() == kindInt && n == math.Trunc(n):
		return int64(n)
	case f.kind() == kindFloat, n == 0 && f.kind() != kindText && f.kind() != kindPercent:
		return n
	}
	return f.def
}
