package e2e

import (
	"testing"

	"sluice/e2e/rig"
)

// TestMemoryIsBounded moves bodies that together are many times larger than
// what the process may hold, both ways at once. loadtest/soak does the same
// with 64 clients, 256 MiB and a stream of 20 GiB.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const clients, size = 8, 32 << 20
	bound := int64(100 << 20)
	if underRace() {
		bound = 8 * bound // the detector's shadow memory
	}
	b := backend(t, "b")
	g := serve(t, "--upstream", b.URL, "--listen", "127.0.0.1:0", "--admin-address", "")
	must(t, rig.Transfer{Addr: g.Doors[0], Clients: clients, Bytes: size, Idle: patience, Down: true, Up: true}.Run(bounded(t)))
	peak, now, err := g.Resident()
	must(t, err)
	t.Logf("peak %d MiB, now %d MiB", peak>>20, now>>20)
	if peak > bound {
		t.Errorf("expected at most %d MiB resident while %d MiB went through, got %d", bound>>20, 2*clients*size>>20, peak>>20)
	}
}
