package backend

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Script says how a backend behaves until the next one. The zero value answers
// every request at once with 200 and an empty body. In JSON durations are
// nanoseconds.
//
// Each request suffers at most one of the faults, drawn by their shares, whose
// sum is at most 1.
type Script struct {
	// Refuse closes the listener and all connections: a connect is refused.
	Refuse bool `json:"refuse,omitempty"`

	Reset      float64 `json:"reset,omitempty"`       // connection reset (RST) after the request
	HangBefore float64 `json:"hang_before,omitempty"` // no byte of an answer, connection open
	HangAfter  float64 `json:"hang_after,omitempty"`  // a head that promises a body, then nothing
	Trickle    float64 `json:"trickle,omitempty"`     // the body byte by byte, TrickleEvery apart
	Garbage    float64 `json:"garbage,omitempty"`     // bytes that are no HTTP, then the end
	Error      float64 `json:"error,omitempty"`       // an answer of status ErrorStatus

	ErrorStatus  int           `json:"error_status,omitempty"`  // 0: 503
	TrickleEvery time.Duration `json:"trickle_every,omitempty"` // up to a minute

	// The answer to every request comes after (Delay + a part of Jitter drawn
	// evenly) * Factor; a Factor of 0 is 1. At most a minute.
	Delay  time.Duration `json:"delay,omitempty"`
	Jitter time.Duration `json:"jitter,omitempty"`
	Factor float64       `json:"factor,omitempty"`

	// Checks lets GET HealthPath suffer like all the rest. Else it is always
	// answered, at once and with 200.
	Checks bool `json:"checks,omitempty"`

	Body int `json:"body,omitempty"` // bytes of a good answer, up to MaxBody
}

// HealthPath is where health checks ask. They are counted apart.
const HealthPath = "/healthz"

// Bounds of a Script.
const (
	MaxBody  = 1 << 20
	maxDelay = time.Minute
)

// Validate tells what is wrong with a script.
func (s Script) Validate() error {
	sum := 0.0
	for _, share := range []float64{s.Reset, s.HangBefore, s.HangAfter, s.Trickle, s.Garbage, s.Error} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("expected shares from 0 to 1, got %v", share)
		}
		sum += share
	}
	longest := float64(s.Delay+s.Jitter) * s.factor()
	switch {
	case sum > 1+1e-9:
		return fmt.Errorf("expected shares of faults whose sum is at most 1, got %v", sum)
	case s.ErrorStatus != 0 && (s.ErrorStatus < 200 || s.ErrorStatus > 599):
		return fmt.Errorf("error_status: expected 0 or a status from 200 to 599, got %d", s.ErrorStatus)
	case s.Delay < 0 || s.Jitter < 0 || !(s.Factor >= 0) || !(longest <= float64(maxDelay)):
		return fmt.Errorf("expected (delay + jitter) * factor from 0 to %v, got (%v + %v) * %v", maxDelay, s.Delay, s.Jitter, s.Factor)
	case s.TrickleEvery < 0 || s.TrickleEvery > maxDelay:
		return fmt.Errorf("trickle_every: expected a duration from 0 to %v, got %v", maxDelay, s.TrickleEvery)
	case s.Body < 0 || s.Body > MaxBody:
		return fmt.Errorf("body: expected a size from 0 to %d, got %d", MaxBody, s.Body)
	}
	return nil
}

func (s Script) factor() float64 {
	if s.Factor == 0 {
		return 1
	}
	return s.Factor
}

// misdeed is what happens to one request.
type misdeed uint8

const (
	none misdeed = iota
	reset
	hangBefore
	hangAfter
	trickle
	garbage
	failure
)

// draw decides the fate of one request. It takes the same numbers from rng for
// every script, so that a seed means the same requests whatever the shares.
func (s Script) draw(rng *rand.Rand) (misdeed, time.Duration) {
	at, part := rng.Float64(), rng.Float64()
	delay := time.Duration((float64(s.Delay) + part*float64(s.Jitter)) * s.factor())
	for _, f := range []struct {
		share float64
		what  misdeed
	}{{s.Reset, reset}, {s.HangBefore, hangBefore}, {s.HangAfter, hangAfter}, {s.Trickle, trickle}, {s.Garbage, garbage}, {s.Error, failure}} {
		if at < f.share {
			return f.what, delay
		}
		at -= f.share
	}
	return none, delay
}
