package limiter

import (
	"math"
	"testing"
)

// A table that holds as many keys as it is made for has had room for all.
func TestTableHoldsItsKeys(t *testing.T) {
	const keys = 1 << 18
	table := newTable(keys)
	var without, second int
	for i := range keys {
		key := testKey(i)
		if table.charge(key, 0, 1, 1).verdict != taken {
			without++
		}
		if print, a, _ := table.places(key); a.count(print) == 0 {
			second++
		}
	}
	if without > 0 {
		t.Errorf("%d of %d keys found no room", without, keys)
	}
	// Else half of all look-ups would read two lines.
	if share := float64(second) / keys; share > 0.2 {
		t.Errorf("%.1f%% of the keys are in their second group", 100*share)
	}
}

// Keys whose hashes differ in any bit that print or group is made of have
// budgets of their own.
func TestPrintsAndGroups(t *testing.T) {
	table := newTable(1024)
	base := testKey(1)
	table.charge(base, 0, 5, 10)
	for bit := range 64 {
		key := base ^ 1<<bit
		print, a, b := table.places(key)
		basePrint, baseA, baseB := table.places(base)
		if print == basePrint && (a == baseA || a == baseB || b == baseA || b == baseB) {
			// One print in one group cannot be told apart; that is what the
			// 2^-38 are. With 32 bits of print it takes a bit above them that
			// moves the group by less than one.
			if bit < 32 {
				t.Errorf("bit %d of a key is in neither print nor group", bit)
			}
			continue
		}
		if s := table.charge(key, 0, 0, 10); s.debt != 0 {
			t.Errorf("a key that differs in bit %d has the debt %d", bit, s.debt)
		}
	}
	for _, key := range []uint64{0, 1 << 32, math.MaxUint64, 0xffffffff00000000} {
		print, a, b := table.places(key)
		if print == 0 || a == b {
			t.Errorf("key %#x: print %#x, two groups: %v", key, print, a != b)
		}
	}
}

// Every distance in time at which 32 bits run around, or nearly, is as any
// other: what has passed stays passed, and what lies ahead stays ahead.
func TestTimeRunsAround(t *testing.T) {
	const room = mostBurst * unitsPerRequest
	for _, start := range []uint64{0, 1, epochLen - 1, epochLen, 1<<32 - 1, 1 << 32, 1<<62 - epochLen} {
		for turns := range uint64(4) {
			for _, near := range []int64{-room - 1, -room, -room + 1, -epochLen, -1, 0, 1, epochLen, room} {
				gap := int64(turns<<32) + near
				if gap < 0 || turns == 0 && gap == 0 {
					continue
				}
				table := newTable(8)
				key, other := testKey(1), testKey(2)
				table.charge(key, start, room, room)
				// Its neighbour is seen at another time, so that the group has
				// moved on when the key is.
				table.charge(other, start+uint64(gap)/2, 1, room)
				want := max(room-gap, 0)
				if s := table.charge(key, start+uint64(gap), 0, room); s.debt != want {
					t.Errorf("from %d, %d later: debt %d, want %d", start, gap, s.debt, want)
				}
			}
		}
	}
}

// One who read the clock long before the others is taken to have read it at
// the begin of the group's epoch, and harms nobody's debt.
func TestLateClock(t *testing.T) {
	table := newTable(8)
	const room = 1000
	now := uint64(100 * epochLen)
	key := testKey(1)
	table.charge(key, now+500, 700, room)
	for _, behind := range []uint64{0, 1, 499, epochLen, 4 * epochLen, 8 * epochLen, 9 * epochLen, now} {
		s := table.charge(key, now-behind, 0, 2*room)
		if s.from != now || s.debt != 1200 {
			t.Errorf("%d behind: from %d, debt %d; want %d and 1200", behind, s.from, s.debt, now)
		}
	}
	late := testKey(2)
	if s := table.charge(late, 5, 700, room); s.verdict != taken || s.from != now {
		t.Errorf("a new key of the past: %+v", s)
	}
	if s := table.charge(late, now+100, 0, room); s.debt != 600 {
		t.Errorf("its debt is %d, want 600", s.debt)
	}
}

// What twins are settled by: the one inserted later goes.
func TestTwinIsTakenBack(t *testing.T) {
	table := newTable(8)
	key := testKey(1)
	print, a, b := table.places(key)
	a.slots[3].Store(pack(print, 100))
	if s, done := insert(a, b, print, 0, 50, 1000); done {
		t.Errorf("a second entry stays: %+v", s)
	}
	if a.count(print)+b.count(print) != 1 {
		t.Error("there are two entries")
	}
	if s := table.charge(key, 0, 50, 1000); s.debt != 150 {
		t.Errorf("debt %d, want 150", s.debt)
	}
}
