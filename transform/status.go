package transform

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"sluice/setting"
)

// StatusConfig is what becomes of the statuses of answers: 404: 200, or 5xx: 502 for
// all of a class that are not named themselves.
type StatusConfig map[string]int

// Validate reports what the tags cannot say.
func (c *StatusConfig) Validate(p *setting.Problems) {
	if len(*c) > mostStatuses {
		p.Add("", "expected at most %d statuses, got %d", mostStatuses, len(*c))
	}
	for _, key := range slices.Sorted(maps.Keys(*c)) {
		if _, _, ok := statusRange(key); !ok {
			p.Add(setting.Key(key), "expected a status from 200 to 599 but 206 and 304, or a class such as 5xx")
		}
		if to := (*c)[key]; to < 200 || to > 599 || !hasBody(to) || to == 206 {
			p.Add(setting.Key(key), "expected a status from 200 to 599 that comes with a whole body, got %d", to)
		}
	}
}

// statusRange is the statuses that a key is for.
func statusRange(key string) (first, last int, ok bool) {
	if len(key) == 3 && key[1:] == "xx" && key[0] >= '2' && key[0] <= '5' {
		first = 100 * int(key[0]-'0')
		return first, first + 99, true
	}
	n, err := strconv.Atoi(key)
	return n, n, err == nil && len(key) == 3 && isChangeable(n)
}

// isChangeable tells whether a status may become another: an answer to a range or a
// condition is nothing without it.
func isChangeable(status int) bool {
	return status >= 200 && status <= 599 && status != 206 && status != 304
}

// Status is a StatusConfig made ready. It never changes and may be used by any
// number of goroutines.
type Status struct{ to [600]uint16 }

// NewStatus compiles c. It fails with the first of what Validate finds.
func NewStatus(c *StatusConfig) (*Status, error) {
	if err := firstProblem(c.Validate); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	s := new(Status)
	for i := range s.to {
		s.to[i] = uint16(i)
	}
	for _, class := range []bool{true, false} {
		for key, to := range *c {
			first, last, _ := statusRange(key)
			if class != (last > first) {
				continue
			}
			for i := first; i <= last; i++ {
				if isChangeable(i) {
					s.to[i] = uint16(to)
				}
			}
		}
	}
	return s, nil
}

// Of is what status becomes. An answer without a body (204) that gets a status with
// one has an empty body then.
func (s *Status) Of(status int) int {
	if status < 0 || status >= len(s.to) {
		return status
	}
	return int(s.to[status])
}
