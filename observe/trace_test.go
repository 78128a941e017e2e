package observe

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseTraceparent(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	good := func(header string, flags byte) {
		t.Helper()
		got, ok := ParseTraceparent([]byte(header))
		if !ok || string(got.TraceID[:]) != id || string(got.ParentID[:]) != parent || got.Flags != flags {
			t.Errorf("%q: expected its ids and flags %d, got %+v, %v", header, flags, got, ok)
		}
	}
	bad := func(header string) {
		t.Helper()
		if got, ok := ParseTraceparent([]byte(header)); ok {
			t.Errorf("%q: expected it to be refused, got %+v", header, got)
		}
	}
	good("00-"+id+"-"+parent+"-01", FlagSampled)
	good("00-"+id+"-"+parent+"-00", 0)
	good("00-"+id+"-"+parent+"-03", FlagSampled|FlagRandom)
	good("00-"+id+"-"+parent+"-ff", FlagSampled|FlagRandom) // unknown flags are not passed on
	good("01-"+id+"-"+parent+"-01", FlagSampled)            // a later version
	good("cc-"+id+"-"+parent+"-01-what-the-future-will-be-like", FlagSampled)
	good("cc-"+id+"-"+parent+"-01-", FlagSampled)

	bad("")
	bad("00-" + id + "-" + parent)                // no flags
	bad("00-" + id + "-" + parent + "-1")         // short flags
	bad("00-" + id + "-" + parent + "-01-")       // version 00 has nothing behind
	bad("00-" + id + "-" + parent + "-01-what")   // the same
	bad("00-" + id + "-" + parent + "-01 ")       // blanks are not part of it
	bad(" 00-" + id + "-" + parent + "-01")       //
	bad("ff-" + id + "-" + parent + "-01")        // forbidden version
	bad("cc-" + id + "-" + parent + "-01.future") // a later version needs a dash
	bad("0-" + id + "-" + parent + "-011")        // short version
	bad("0x-" + id + "-" + parent + "-01")        //
	bad("00-" + id + "-" + parent + "-0x")        //
	bad("00-" + id + "-" + parent + "-.0")        //
	bad("00_" + id + "_" + parent + "_01")        //
	bad("0A-" + id + "-" + parent + "-01")        // uppercase
	bad("00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01")
	bad("00-" + id + "-00F067AA0BA902B7-01")
	bad("00-" + strings.Repeat("0", 32) + "-" + parent + "-01")
	bad("00-" + id + "-" + strings.Repeat("0", 16) + "-01")
	bad("00-" + id[:31] + ".-" + parent + "-01")
	bad("00-" + id + "-" + parent[:15] + ".-01")
	bad("00-" + id + "0-" + parent[1:] + "-01")
}

func TestAppendTraceparent(t *testing.T) {
	var id [32]byte
	var span [16]byte
	copy(id[:], "4bf92f3577b34da6a3ce929d0e0e4736")
	copy(span[:], "00f067aa0ba902b7")
	want := "x00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"
	if got := string(AppendTraceparent([]byte("x"), &id, &span, 0xff)); got != want {
		t.Errorf("expected %s, got %s", want, got)
	}
}

func TestNewID(t *testing.T) {
	seen := make(map[[32]byte]bool)
	for range 1000 {
		var id [32]byte
		var span [16]byte
		NewID(&id)
		NewSpanID(&span)
		if !isID(id[:]) || !isID(span[:]) || seen[id] {
			t.Fatalf("expected a new id in hex, got %s and %s", id, span)
		}
		seen[id] = true
	}
}

func TestPutHex(t *testing.T) {
	for shift := range 64 {
		for _, n := range []uint64{1 << shift, ^uint64(0) << shift, 0x0123456789abcdef >> shift} {
			var got [16]byte
			putHex(&got, n)
			if want := fmt.Sprintf("%016x", n); string(got[:]) != want {
				t.Errorf("expected %s, got %s", want, got)
			}
		}
	}
}

func TestCapTracestate(t *testing.T) {
	f := func(line string, used int, want string, total int) {
		t.Helper()
		kept, n := CapTracestate([]byte(line), used)
		if string(kept) != want || n != total {
			t.Errorf("%q after %d: expected %q and %d, got %q and %d", line, used, want, total, kept, n)
		}
	}
	f("", 0, "", 0)
	f("a=1", 0, "a=1", 1)
	f("a=1, b=2", 3, "a=1, b=2", 5)
	f("a=1,, ,b=2,", 30, "a=1,, ,b=2,", 32)
	f("a=1, b=2 c , d=3", 30, "a=1, b=2 c", 32)
	f("a=1", 32, "", 32)
	f(" , ", 32, " , ", 32)
	f(strings.Repeat("k=v,", 32)+"x=y", 0, strings.Repeat("k=v,", 31)+"k=v", 32)
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	f.Add([]byte("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"))
	f.Fuzz(func(t *testing.T, header []byte) {
		parsed, ok := ParseTraceparent(header)
		if !ok {
			return
		}
		again, ok := ParseTraceparent(AppendTraceparent(nil, &parsed.TraceID, &parsed.ParentID, parsed.Flags))
		if !ok || again != parsed {
			t.Fatalf("%q: expected %+v to survive, got %+v, %v", header, parsed, again, ok)
		}
	})
}

func FuzzCapTracestate(f *testing.F) {
	f.Add([]byte("a=1, b=2"), 31)
	f.Fuzz(func(t *testing.T, line []byte, used int) {
		kept, total := CapTracestate(line, used)
		if total > max(used, maxTracestate) || len(kept) > len(line) || string(kept) != string(line[:len(kept)]) {
			t.Fatalf("%q after %d: got %q and %d", line, used, kept, total)
		}
		members := 0
		for _, m := range strings.Split(string(kept), ",") {
			if strings.Trim(m, " \t") != "" {
				members++
			}
		}
		if members != total-used {
			t.Fatalf("%q after %d: %d members kept but %d counted", line, used, members, total-used)
		}
	})
}
