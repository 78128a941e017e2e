package observe

import (
	"fmt"
	"time"

	"github.com/rs/zerolog"
)

// OpenLog opens the process's own log: JSON lines with time, level, message
// and fields, written as they come. The Output is for Close and, on SIGHUP,
// Reopen. Not for the hot path: a write blocks while the output does.
func OpenLog(cfg LogConfig) (zerolog.Logger, *Output, error) {
	level, err := zerolog.ParseLevel(cfg.Level)
	if err != nil || cfg.Level == "" {
		return zerolog.Nop(), nil, fmt.Errorf("log.level: expected debug, info, warn or error, got %q", cfg.Level)
	}
	f, isFile, err := openOutput(cfg.Output)
	if err != nil {
		return zerolog.Nop(), nil, fmt.Errorf("log.output: %w", err)
	}
	out := &Output{name: cfg.Output, isFile: isFile, file: f}
	return zerolog.New(out).Level(level).Hook(stampHook{}), out, nil
}

// stampHook adds the time in the access log's form. zerolog's own Timestamp
// takes its form from a package variable, which is not this package's to set.
type stampHook struct{}

func (stampHook) Run(e *zerolog.Event, _ zerolog.Level, _ string) {
	var text [stampLen]byte
	e.RawJSON("time", appendStamp(text[:0], time.Now()))
}
