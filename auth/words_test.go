package auth

import "testing"

func TestSettingsInWords(t *testing.T) {
	a := &AddressConfig{Allow: []string{"10.0.0.0/8"}, Deny: []string{"10.1.2.3"}, DenyFile: "blocked.txt"}
	if got, want := a.String(), "deny 10.1.2.3, those in blocked.txt; allow 10.0.0.0/8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r := &RequireConfig{Scope: []string{"read"}, Roles: []string{"a", "b"}, Claims: map[string]string{"t": "x"}, Expr: "claims.age > 3"}
	if got, want := r.String(), "scope read and role a|b and claim t=x and claims.age > 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
