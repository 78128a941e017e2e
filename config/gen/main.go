// Command gen writes docs/configuration.md from the structs of package config.
//
//	go run ./config/gen [FILE]
package main

import (
	"fmt"
	"os"

	"sluice/config"
)

func main() {
	path := "docs/configuration.md"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if err := os.WriteFile(path, config.Markdown(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
