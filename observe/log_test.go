package observe

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.log")
	log, out, err := OpenLog(LogConfig{Level: "warn", Output: path})
	if err != nil {
		t.Fatal(err)
	}
	log.Info().Msg("not this")
	log.Warn().Str("route", "user").Msg("this")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := out.Reopen(); err != nil {
		t.Fatal(err)
	}
	log.Error().Msg("and this")
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	f := func(path, level, message string) {
		t.Helper()
		lines := readLines(t, path)
		var line struct{ Time, Level, Message string }
		if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &line) != nil {
			t.Fatalf("expected one line of JSON, got %q", lines)
		}
		if _, err := time.Parse(time.RFC3339, line.Time); err != nil || line.Level != level || line.Message != message {
			t.Errorf("expected %s %q with a time, got %s", level, message, lines[0])
		}
	}
	f(path+".1", "warn", "this")
	f(path, "error", "and this")
}

func TestOpenLogMistakes(t *testing.T) {
	f := func(cfg LogConfig, want string) {
		t.Helper()
		if _, _, err := OpenLog(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	f(LogConfig{Output: "stderr"}, `log.level: expected debug, info, warn or error, got ""`)
	f(LogConfig{Level: "loud", Output: "stderr"}, `got "loud"`)
	f(LogConfig{Level: "info", Output: t.TempDir()}, "log.output: cannot open")
}
