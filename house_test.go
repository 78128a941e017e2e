package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// floors is the house: a package imports packages of lower floors only, and
// never one of its own floor. A package whose path ends in /... stands for all
// below it. See docs/architecture.md.
var floors = map[string]int{
	"fault": 0, "observe": 0, "wire": 0, "setting": 0, "redis": 0, "document": 0,
	"auth": 1, "limiter": 1, "cache": 1, "encode": 1, "transform": 1, "aggregate": 1, "transcode": 1,
	"pool":  2,
	"proxy": 3, "config": 3,
	"gateway": 4,
	"listen":  5, "admin": 5,
	// What is not part of the gateway but shows, measures or tests it.
	"examples": 6, "docs": 6, "e2e/rig": 6, "e2e/openid": 6, "redis/redistest": 6, "config/gen": 6, "bench/...": 6, "loadtest/...": 6, "e2e": 6,
	"": 6, // main.go
}

// neighbours are the imports within one floor that are allowed, for each with
// its reason.
var neighbours = map[[2]string]string{
	{"", "examples"}:                         "sluice demo serves them",
	{"redis", "setting"}:                     "its settings are written in these words",
	{"document", "setting"}:                  "the same",
	{"document", "wire"}:                     "formats are agreed on by the fields of a request",
	{"e2e", "e2e/rig"}:                       "the rig is what these tests are written with",
	{"e2e", "examples"}:                      "the tests run them",
	{"bench/faults", "bench/faults/backend"}: "the backend that breaks on purpose",
	{"bench/faults", "bench/faults/load"}:    "the load that measures",
	{"loadtest/caching", "e2e/rig"}:          "the long figures are the tests' own, taken longer",
	{"loadtest/limits", "e2e/rig"}:           "the same",
	{"loadtest/soak", "e2e/rig"}:             "the long figures are the tests' own, taken longer",
}

// badNames say nothing of what lives in a package.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "shared"}

func floorOf(pkg string) (floor int, ok bool) {
	if floor, ok = floors[pkg]; ok {
		return floor, true
	}
	for p := pkg; strings.Contains(p, "/"); {
		p = p[:strings.LastIndexByte(p, '/')]
		if floor, ok = floors[p+"/..."]; ok {
			return floor, true
		}
	}
	return 0, false
}

// TestHouse holds every package of the module to its floor. Tests are free: one
// that drives real parts stands beside the lowest of them.
func TestHouse(t *testing.T) {
	const module = "sluice"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Imports", "./...")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaints.Bytes())
	}
	count := 0
	for d := json.NewDecoder(bytes.NewReader(out)); ; count++ {
		var p struct {
			ImportPath, Name string
			Imports          []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkg := inside(module, p.ImportPath)
		floor, ok := floorOf(pkg)
		if !ok {
			t.Errorf("%s has no floor; give it one in floors, and in docs/architecture.md", p.ImportPath)
			continue
		}
		for _, word := range strings.Split(pkg+"/"+p.Name, "/") {
			if slices.Contains(badNames, word) {
				t.Errorf("%s: %q says nothing of what lives there; name it for that", p.ImportPath, word)
			}
		}
		for _, path := range p.Imports {
			if path != module && !strings.HasPrefix(path, module+"/") {
				continue
			}
			imported := inside(module, path)
			under, ok := floorOf(imported)
			switch {
			case imported == "":
				t.Errorf("%s imports package main", p.ImportPath)
			case !ok:
				t.Errorf("%s imports %s, which has no floor", p.ImportPath, path)
			case under > floor:
				t.Errorf("upward: %s (floor %d) imports %s (floor %d)", p.ImportPath, floor, path, under)
			case under == floor && neighbours[[2]string{pkg, imported}] == "":
				t.Errorf("sideways: %s imports %s, both on floor %d", p.ImportPath, path, floor)
			}
		}
	}
	if count < 10 {
		t.Errorf("expected the packages of the house, go list has %d", count)
	}
}

// inside is a package's path within the module, "" for the module's root.
func inside(module, path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}
