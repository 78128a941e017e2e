//go:build !race

package auth

import "testing"

// A remembered token costs no allocation, with the policy around it.
func TestRecallJWTAllocatesNothing(t *testing.T) {
	a, r := typical(t)
	p := (&Policy{Any: []Group{{{Authenticator: a}}}}).Ready()
	var proof Proof
	if n := testing.AllocsPerRun(1000, func() {
		if p.Recall(r, false, &proof).Outcome != Identified {
			t.Fatal("forgotten")
		}
	}); n != 0 {
		t.Errorf("expected no allocation, got %v", n)
	}
}
