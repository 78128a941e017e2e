package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/rs/zerolog"

	"sluice/setting"
	"sluice/wire"
)

// The keys of RFC 9421 B.1.
const rfcKeys = `
- id: test-key-rsa
  algorithm: rsa-v1_5-sha256
  key: |
    -----BEGIN RSA PUBLIC KEY-----
    MIIBCgKCAQEAhAKYdtoeoy8zcAcR874L8cnZxKzAGwd7v36APp7Pv6Q2jdsPBRrw
    WEBnez6d0UDKDwGbc6nxfEXAy5mbhgajzrw3MOEt8uA5txSKobBpKDeBLOsdJKFq
    MGmXCQvEG7YemcxDTRPxAleIAgYYRjTSd/QBwVW9OwNFhekro3RtlinV0a75jfZg
    kne/YiktSvLG34lw2zqXBDTC5NHROUqGTlML4PlNZS5Ri2U4aCNx2rUPRcKIlE0P
    uKxI4T+HIaFpv8+rdV6eUgOrB2xeI1dSFFn/nnv5OoZJEIB+VmuKn3DCUcCZSFlQ
    PSXSfBDiUGhwOw76WuSSsf1D4b/vLoJ10wIDAQAB
    -----END RSA PUBLIC KEY-----
- id: test-key-rsa-pss
  algorithm: rsa-pss-sha512
  key: |
    -----BEGIN PUBLIC KEY-----
    MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
    +QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
    oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
    gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
    Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
    aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
    2wIDAQAB
    -----END PUBLIC KEY-----
- id: test-key-ecc-p256
  algorithm: ecdsa-p256-sha256
  key: |
    -----BEGIN PUBLIC KEY-----
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
    w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
    -----END PUBLIC KEY-----
- id: test-key-ed25519
  algorithm: ed25519
  subject: Ed
  scopes: [read, write]
  metadata: { plan: gold, seats: 7, tags: [a, b] }
  key: |
    -----BEGIN PUBLIC KEY-----
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
    -----END PUBLIC KEY-----
- id: test-shared-secret
  algorithm: hmac-sha256
  key: uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==
`

const rfcCreated = 1618884473

// The test-request of RFC 9421 B.2.
const rfcRequest = `POST /foo?param=Value&Pet=dog HTTP/1.1
Host: example.com
Date: Tue, 20 Apr 2021 02:07:55 GMT
Content-Type: application/json
Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
Content-Length: 18`

func writeKeys(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "signers.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func signatureConfig(file string) *SignatureConfig {
	return &SignatureConfig{File: file, MaxAge: setting.Duration(5 * time.Minute), Skew: setting.Duration(30 * time.Second), Nonce: "optional", Nonces: 1024}
}

func testSignature(t testing.TB, c *SignatureConfig) *signature {
	t.Helper()
	var p setting.Problems
	if c.Validate(&p); len(p.List()) > 0 {
		t.Fatal(p.List())
	}
	a, err := newSignature("partners", c, Env{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.(Starter).Stop)
	return a.(*signature)
}

// covering is an authenticator that asks for nothing to be covered, so that an
// example's own choice shows.
func covering(t testing.TB, c *SignatureConfig, must ...component) *signature {
	a := testSignature(t, c)
	a.must = must
	return a
}

func signedRequest(t testing.TB, head string, created int64) *Request {
	r := serviceRequest(t, head)
	r.Now = time.Unix(created+10, 0)
	return r
}

func TestSignatureRFCVectors(t *testing.T) {
	a := covering(t, signatureConfig(writeKeys(t, rfcKeys)))
	const clientCert = `:MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:`
	const proxied = "POST /foo?param=Value&Pet=dog HTTP/1.1\nHost: service.internal.example\nDate: Tue, 20 Apr 2021 02:07:55 GMT\nContent-Type: application/json\nContent-Length: 18\nClient-Cert: " + clientCert
	vectors := []struct{ name, head, input, signature, subject string }{
		{"B.2.1", rfcRequest, `sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"`,
			`sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==:`, "test-key-rsa-pss"},
		{"B.2.2", rfcRequest, `sig-b22=("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example"`,
			`sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==:`, "test-key-rsa-pss"},
		{"B.2.3", rfcRequest, `sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"`,
			`sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==:`, "test-key-rsa-pss"},
		{"B.2.5", rfcRequest, `sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`,
			`sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:`, "test-shared-secret"},
		{"B.2.6", rfcRequest, `sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"`,
			`sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:`, "Ed"},
		{"B.3", proxied, `ttrp=("@path" "@query" "@method" "@authority" "client-cert");created=1618884473;keyid="test-key-ecc-p256"`,
			`ttrp=:xVMHVpawaAC/0SbHrKRs9i8I3eOs5RtTMGCWXm/9nvZzoHsIg6Mce9315T6xoklyy0yzhD9ah4JHRwMLOgmizw==:`, "test-key-ecc-p256"},
	}
	for _, v := range vectors {
		head := v.head + "\nSignature-Input: " + v.input + "\nSignature: " + v.signature
		r := signedRequest(t, head, rfcCreated)
		if res := a.Recall(r); res.Outcome != Unknown {
			t.Errorf("%s: Recall says %d", v.name, res.Outcome)
		}
		if res := a.Verify(r); res.Outcome != Identified || res.Identity.Subject != v.subject {
			t.Errorf("%s: %+v", v.name, res)
		}
		// Not one bit of the signature may differ.
		label, value, _ := strings.Cut(v.signature, "=:")
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(value, ":"))
		if err != nil {
			t.Fatal(err)
		}
		for _, forged := range [][]byte{append([]byte{raw[0] ^ 1}, raw[1:]...), append(bytes.Clone(raw[:len(raw)-1]), raw[len(raw)-1]^0x80), raw[1:], append(bytes.Clone(raw), 0), append([]byte{0}, raw...), make([]byte, len(raw))} {
			r := signedRequest(t, v.head+"\nSignature-Input: "+v.input+"\nSignature: "+label+"=:"+base64.StdEncoding.EncodeToString(forged)+":", rfcCreated)
			if res := a.Verify(r); res.Outcome != Refused || res.Reason != sigWrong {
				t.Errorf("%s forged: %+v", v.name, res)
			}
		}
	}

	// B.4: what may happen to a request on its way, and what may not.
	const signed = "\nSignature-Input: transform=(\"@method\" \"@path\" \"@authority\" \"accept\");created=1618884473;keyid=\"test-key-ed25519\"\nSignature: transform=:ZT1kooQsEHpZ0I1IjCqtQppOmIqlJPeo7DHR3SoMn0s5JZ1eRGS0A+vyYP9t/LXlh5QMFFQ6cpLt2m0pmj3NDA==:"
	f := func(head string, want Outcome) {
		t.Helper()
		if res := a.Verify(signedRequest(t, head+signed, rfcCreated)); res.Outcome != want {
			t.Errorf("%q: %+v", head, res)
		}
	}
	f("GET /demo?name1=Value1&Name2=value2 HTTP/1.1\nHost: example.org\nDate: Fri, 15 Jul 2022 14:24:55 GMT\nAccept: application/json\nAccept: */*", Identified)
	f("GET /demo?name1=Value1&Name2=value2&param=added HTTP/1.1\nHost: example.org\nAccept: application/json\nAccept: */*\nAccept-Language: en-US,en;q=0.5", Identified)
	f("GET /demo?name1=Value1&Name2=value2 HTTP/1.1\nHost: example.org\nReferer: https://developer.example.org/demo\nAccept: application/json, */*", Identified)
	f("GET /demo?name1=Value1&Name2=value2 HTTP/1.1\nAccept: application/json\nHost: EXAMPLE.org:443\nAccept:   */*  ", Identified)
	f("POST /demo?name1=Value1&Name2=value2 HTTP/1.1\nHost: example.com\nAccept: application/json\nAccept: */*", Refused)
	f("GET /demo?name1=Value1&Name2=value2 HTTP/1.1\nHost: example.org\nAccept: */*\nAccept: application/json", Refused)
	f("GET /demo HTTP/1.1\nHost: example.org:8443\nAccept: application/json\nAccept: */*", Refused)
	f("GET /demo HTTP/1.1\nHost: example.org", Refused)
}

// TestSignatureBase holds the values that RFC 9421 2.1 and 2.2 give.
func TestSignatureBase(t *testing.T) {
	f := func(head, items, want string) {
		t.Helper()
		r := serviceRequest(t, head+"\nSignature-Input: s="+"("+items+`);created=1;keyid="k"`+"\nSignature: s=:AA==:")
		got := baseOf(r)
		want += "\n" + `"@signature-params": (` + items + `);created=1;keyid="k"`
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	const www = "\nHost: www.example.com"
	const fields = "GET / HTTP/1.1" + www + "\nDate: Tue, 20 Apr 2021 02:07:56 GMT\nX-OWS-Header:   Leading and trailing whitespace.   \nX-Empty-Header: \nCache-Control: max-age=60\nCache-Control:    must-revalidate\nExample-Dict:  a=1,    b=2;x=1;y=2,   c=(a   b   c), d\nExample-Header: value, with, lots\nExample-Header: of, commas"
	f(fields, `"cache-control"`, `"cache-control": max-age=60, must-revalidate`)
	f(fields, `"x-ows-header"`, `"x-ows-header": Leading and trailing whitespace.`)
	f(fields, `"x-empty-header"`, `"x-empty-header": `)
	f(fields, `"example-dict"`, `"example-dict": a=1,    b=2;x=1;y=2,   c=(a   b   c), d`)
	f(fields, `"example-dict";sf`, `"example-dict";sf: a=1, b=2;x=1;y=2, c=(a b c), d`)
	f(fields, `"example-dict";key="a" "example-dict";key="d" "example-dict";key="b" "example-dict";key="c"`,
		`"example-dict";key="a": 1`+"\n"+`"example-dict";key="d": ?1`+"\n"+`"example-dict";key="b": 2;x=1;y=2`+"\n"+`"example-dict";key="c": (a b c)`)
	f(fields, `"example-header";bs`, `"example-header";bs: :dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:`)
	f(fields, `"example-header" "example-header";bs`, `"example-header": value, with, lots, of, commas`+"\n"+`"example-header";bs: :dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:`)

	const post = "POST /path?param=value HTTP/1.1" + www
	f(post, `"@method" "@target-uri" "@authority" "@scheme" "@request-target" "@path" "@query"`,
		`"@method": POST`+"\n"+`"@target-uri": https://www.example.com/path?param=value`+"\n"+`"@authority": www.example.com`+"\n"+`"@scheme": https`+"\n"+
			`"@request-target": /path?param=value`+"\n"+`"@path": /path`+"\n"+`"@query": ?param=value`)
	f("GET https://www.example.com/path?param=value HTTP/1.1"+www, `"@request-target" "@target-uri"`, `"@request-target": https://www.example.com/path?param=value`+"\n"+`"@target-uri": https://www.example.com/path?param=value`)
	f("OPTIONS * HTTP/1.1"+www, `"@request-target" "@target-uri" "@path"`, `"@request-target": *`+"\n"+`"@target-uri": https://www.example.com`+"\n"+`"@path": /`)
	f("HEAD /path?queryString HTTP/1.1"+www, `"@query"`, `"@query": ?queryString`)
	f("GET /path HTTP/1.1"+www, `"@query" "@target-uri"`, `"@query": ?`+"\n"+`"@target-uri": https://www.example.com/path`)
	f("GET /path? HTTP/1.1"+www, `"@query" "@target-uri"`, `"@query": ?`+"\n"+`"@target-uri": https://www.example.com/path?`)
	f("GET / HTTP/1.1\nHost: WWW.Example.com:443", `"@authority"`, `"@authority": www.example.com`)
	f("GET / HTTP/1.1\nHost: www.example.com:80", `"@authority"`, `"@authority": www.example.com:80`)
	f("GET /path?param=value&foo=bar&baz=batman&qux= HTTP/1.1"+www, `"@query-param";name="baz" "@query-param";name="qux" "@query-param";name="param"`,
		`"@query-param";name="baz": batman`+"\n"+`"@query-param";name="qux": `+"\n"+`"@query-param";name="param": value`)
	f("GET /parameters?var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something HTTP/1.1"+www,
		`"@query-param";name="var" "@query-param";name="bar" "@query-param";name="fa%C3%A7ade%22%3A%20"`,
		`"@query-param";name="var": this%20is%20a%20big%0Amultiline%20value`+"\n"+`"@query-param";name="bar": with%20plus%20whitespace`+"\n"+`"@query-param";name="fa%C3%A7ade%22%3A%20": something`)

	refuse := func(head, items, want string) {
		t.Helper()
		r := serviceRequest(t, head+"\nSignature-Input: s="+"("+items+`);created=1;keyid="k"`+"\nSignature: s=:AA==:")
		if got := baseOf(r); !strings.HasPrefix(got, "error: ") || !strings.Contains(got, want) {
			t.Errorf("%s gives %s, want an error with %q", items, got, want)
		}
	}
	refuse(fields, `"date" "date"`, sigMalformed)
	refuse(fields, `"example-dict";sf;key="a" "example-dict";key="a";sf`, sigMalformed)
	refuse(fields, `"Date"`, sigMalformed)
	refuse(fields, `""`, sigMalformed)
	refuse(fields, `date`, sigMalformed)
	refuse(fields, `"da te"`, sigMalformed)
	refuse(fields, `"x-none"`, "missing: x-none")
	refuse(fields, `"date";tr`, sigUnsupported+"date;tr")
	refuse(fields, `"date";req`, sigUnsupported+"date;req")
	refuse(fields, `"date";sf=?0`, sigUnsupported)
	refuse(fields, `"date";sf`, "type that is not known")
	refuse(fields, `"example-dict";bs;sf`, sigMalformed)
	refuse(fields, `"example-dict";bs;key="a"`, sigMalformed)
	refuse(fields, `"example-dict";key=a`, sigMalformed)
	refuse(fields, `"example-dict";key="zz"`, "lacks the key")
	refuse(fields, `"date";key="a"`, "no dictionary")
	refuse(fields, `"@status"`, sigUnsupported+"@status")
	refuse(fields, `"@signature-params"`, sigUnsupported)
	refuse(fields, `"@query-params"`, sigUnsupported)
	refuse(fields, `"@method";sf`, sigUnsupported)
	refuse(fields, `"@query-param"`, sigMalformed)
	refuse(fields, `"@query-param";name="a"`, "lacks")
	refuse("GET /?a=1&a=2 HTTP/1.1"+www, `"@query-param";name="a"`, sigMalformed)
	refuse("GET /?a=1&%61=2 HTTP/1.1"+www, `"@query-param";name="a"`, sigMalformed)
	refuse("GET /?a=%FF HTTP/1.1"+www, `"@query-param";name="a"`, "not UTF-8")
	refuse("GET / HTTP/1.1\nHost: h\nConnection: x-signed\nX-Signed: 1", `"x-signed"`, sigConnection)
	many := make([]string, 0, 20)
	for i := range 20 {
		many = append(many, fmt.Sprintf(`"x-big";key="k%d"`, i))
	}
	big := ""
	for i := range 20 {
		big += fmt.Sprintf("k%d=\"%s\", ", i, strings.Repeat("x", 2000))
	}
	refuse("GET / HTTP/1.1\nHost: h\nX-Big: "+big+"z\nX-Big2: "+strings.Repeat("y", 19000), strings.Join(many, " ")+` "x-big" "x-big2" "x-big2";bs`, sigTooLarge)
}

// baseOf is the signature base of r's only signature.
func baseOf(r *Request) string {
	inputs, _, reason := parseSignatures(r.Head)
	if reason != "" {
		return "error: " + reason
	}
	member, _ := inputs.Get(inputs.Names()[0])
	list, ok := member.(httpsfv.InnerList)
	if !ok {
		return "error: no list"
	}
	covered, err := componentsOf(list.Items)
	if err != nil {
		return "error: " + err.Error()
	}
	base, err := signatureBase(r, covered, list, map[string]string{"example-dict": "dictionary", "d": "dictionary"})
	if err != nil {
		return "error: " + err.Error()
	}
	return string(base)
}

func itemsOf(member httpsfv.Member) int {
	list, _ := member.(httpsfv.InnerList)
	return len(list.Items)
}

func fuzzRequest(head string) *Request {
	h := &wire.Request{}
	if _, err := h.Parse([]byte(head), wire.Limits{Bytes: 64 << 10, Fields: 100}); err != nil {
		return nil
	}
	return &Request{Head: h, Path: h.Path, Scheme: "https", ID: []byte("r"), Now: time.Now()}
}

// signer makes a signature as a client would.
type signer struct {
	id, algorithm, public string
	sign                  func(base []byte) []byte
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func publicPEM(key any) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))}))
}

func rawECDSA(key *ecdsa.PrivateKey, sum []byte, half int) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, key, sum)
	if err != nil {
		panic(err)
	}
	out := make([]byte, 2*half)
	r.FillBytes(out[:half])
	s.FillBytes(out[half:])
	return out
}

var testSigners = sync.OnceValue(func() []signer {
	secret := bytes.Repeat([]byte{7}, 32)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	pss := must(rsa.GenerateKey(rand.Reader, 2048))
	v15 := must(rsa.GenerateKey(rand.Reader, 2048))
	pssInfo := must(asn1.Marshal(struct {
		A pkix.AlgorithmIdentifier
		K asn1.BitString
	}{pkix.AlgorithmIdentifier{Algorithm: oidRSAPSS}, asn1.BitString{Bytes: x509.MarshalPKCS1PublicKey(&pss.PublicKey), BitLength: 8 * len(x509.MarshalPKCS1PublicKey(&pss.PublicKey))}}))
	return []signer{
		{"hmac", algHMAC, base64.StdEncoding.EncodeToString(secret), func(b []byte) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write(b)
			return mac.Sum(nil)
		}},
		{"ed", algEd25519, publicPEM(ed.Public()), func(b []byte) []byte { return ed25519.Sign(ed, b) }},
		{"p256", algP256, publicPEM(&p256.PublicKey), func(b []byte) []byte { s := sha256.Sum256(b); return rawECDSA(p256, s[:], 32) }},
		{"p384", algP384, publicPEM(&p384.PublicKey), func(b []byte) []byte { s := sha512.Sum384(b); return rawECDSA(p384, s[:], 48) }},
		{"pss", algRSAPSS, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pssInfo})), func(b []byte) []byte {
			s := sha512.Sum512(b)
			return must(rsa.SignPSS(rand.Reader, pss, crypto.SHA512, s[:], &rsa.PSSOptions{SaltLength: 64}))
		}},
		{"v15", algRSAv15, publicPEM(&v15.PublicKey), func(b []byte) []byte {
			s := sha256.Sum256(b)
			return must(rsa.SignPKCS1v15(rand.Reader, v15, crypto.SHA256, s[:]))
		}},
	}
})

func signerKeys() string {
	var b strings.Builder
	for _, s := range testSigners() {
		fmt.Fprintf(&b, "- id: %s\n  algorithm: %s\n  key: |\n    %s\n", s.id, s.algorithm, strings.ReplaceAll(strings.TrimSpace(s.public), "\n", "\n    "))
	}
	return b.String()
}

// signed adds a signature over items, with more parameters, to a head.
func signed(t testing.TB, s signer, head, label, items, params string) string {
	t.Helper()
	input := fmt.Sprintf(`%s=(%s)%s;keyid="%s"`, label, items, params, s.id)
	base := baseOf(serviceRequest(t, head+"\nSignature-Input: "+input+"\nSignature: x=:AA==:"))
	if strings.HasPrefix(base, "error") {
		t.Fatal(base)
	}
	return head + "\nSignature-Input: " + input + "\nSignature: " + label + "=:" + base64.StdEncoding.EncodeToString(s.sign([]byte(base))) + ":"
}

const signedItems = `"@method" "@target-uri"`

func TestSignatureAlgorithms(t *testing.T) {
	a := testSignature(t, signatureConfig(writeKeys(t, signerKeys())))
	const head = "PUT /x?y=1 HTTP/1.1\nHost: h"
	for _, s := range testSigners() {
		good := signed(t, s, head, "sig1", signedItems, `;created=1000;alg="`+s.algorithm+`"`)
		if res := a.Verify(signedRequest(t, good, 1000)); res.Outcome != Identified || res.Identity.Subject != s.id {
			t.Errorf("%s: %+v", s.id, res)
		}
		for _, changed := range []string{strings.Replace(good, "PUT", "GET", 1), strings.Replace(good, "/x", "/z", 1), strings.Replace(good, "y=1", "y=2", 1), strings.Replace(good, "Host: h", "Host: i", 1), strings.Replace(good, "created=1000", "created=1001", 1)} {
			if res := a.Verify(signedRequest(t, changed, 1000)); res.Outcome != Refused || res.Reason != sigWrong {
				t.Errorf("%s, %q: %+v", s.id, changed, res)
			}
		}
		// Every other key, under every name of an algorithm.
		for _, other := range testSigners() {
			if other.id == s.id {
				continue
			}
			forged := strings.Replace(good, `keyid="`+s.id, `keyid="`+other.id, 1)
			if res := a.Verify(signedRequest(t, forged, 1000)); res.Outcome != Refused || res.Reason != sigAlgorithm {
				t.Errorf("%s with the key %s: %+v", s.id, other.id, res)
			}
			quiet := signed(t, signer{other.id, other.algorithm, "", s.sign}, head, "sig1", signedItems, `;created=1000`)
			if res := a.Verify(signedRequest(t, quiet, 1000)); res.Outcome != Refused || res.Reason != sigWrong {
				t.Errorf("%s signs for %s: %+v", s.id, other.id, res)
			}
		}
	}
	// The public key as an HMAC secret: the oldest confusion of all.
	for _, s := range testSigners()[1:] {
		confused := signer{s.id, "", "", func(b []byte) []byte {
			mac := hmac.New(sha256.New, []byte(s.public))
			mac.Write(b)
			return mac.Sum(nil)
		}}
		for _, alg := range []string{"", `;alg="hmac-sha256"`} {
			if res := a.Verify(signedRequest(t, signed(t, confused, head, "s", signedItems, ";created=1000"+alg), 1000)); res.Outcome != Refused {
				t.Errorf("%s as a secret: %+v", s.id, res)
			}
		}
	}
}

func TestSignatureParameters(t *testing.T) {
	file := writeKeys(t, signerKeys())
	s := testSigners()[0]
	f := func(change func(*SignatureConfig), params string, want Outcome, reason string) {
		t.Helper()
		c := signatureConfig(file)
		if change != nil {
			change(c)
		}
		r := signedRequest(t, signed(t, s, "GET / HTTP/1.1\nHost: h", "sig1", signedItems, params), 0)
		r.Now = time.Unix(100000, 0)
		if res := testSignature(t, c).Verify(r); res.Outcome != want || res.Reason != reason {
			t.Errorf("%s: %+v, want %d %q", params, res, want, reason)
		}
	}
	f(nil, ";created=100000", Identified, "")
	f(nil, ";created=100030", Identified, "")
	f(nil, ";created=100031", Refused, sigFuture)
	f(nil, ";created=99670", Identified, "")
	f(nil, ";created=99669", Refused, sigOld)
	f(nil, ";created=-999999999999999", Refused, sigOld)
	f(nil, ";created=999999999999999", Refused, sigFuture)
	f(nil, "", Refused, sigNoCreated)
	f(nil, ";created=100000.0", Refused, sigMalformed)
	f(nil, `;created="100000"`, Refused, sigMalformed)
	f(nil, ";created=@100000", Refused, sigMalformed)
	f(nil, ";created=100000;expires=99971", Identified, "")
	f(nil, ";created=100000;expires=99970", Refused, sigExpired)
	f(nil, ";created=100000;expires", Refused, sigMalformed)
	f(func(c *SignatureConfig) { c.Expires = true }, ";created=100000", Refused, sigNoExpires)
	f(func(c *SignatureConfig) { c.Expires = true }, ";created=100000;expires=100001", Identified, "")
	f(nil, `;created=100000;alg="ed25519"`, Refused, sigAlgorithm)
	f(nil, `;created=100000;alg=""`, Refused, sigAlgorithm)
	f(nil, `;created=100000;alg=hmac-sha256`, Refused, sigMalformed)
	f(nil, `;created=100000;nonce=""`, Refused, sigMalformed)
	f(nil, `;created=100000;nonce="`+strings.Repeat("n", mostNonce+1)+`"`, Refused, sigMalformed)
	f(nil, `;created=100000;more="x";yes`, Identified, "")
	f(func(c *SignatureConfig) { c.Nonce = "required" }, ";created=100000", Refused, sigNoNonce)
	f(func(c *SignatureConfig) { c.Nonce = "required" }, `;created=100000;nonce="n"`, Identified, "")
	f(func(c *SignatureConfig) { c.Tag = "app" }, ";created=100000", Absent, "")
	f(func(c *SignatureConfig) { c.Tag = "app" }, `;created=100000;tag="other"`, Absent, "")
	f(func(c *SignatureConfig) { c.Tag = "app" }, `;created=100000;tag="app"`, Identified, "")
	f(func(c *SignatureConfig) { c.Label = "sig1" }, `;created=100000`, Identified, "")
	f(func(c *SignatureConfig) { c.Label = "sig2" }, `;created=100000`, Absent, "")
	f(func(c *SignatureConfig) { c.Components = []string{"Date"} }, `;created=100000`, Refused, sigUncovered+"date")
	f(func(c *SignatureConfig) { c.IfPresent = []string{"Date"} }, `;created=100000`, Identified, "")
	f(func(c *SignatureConfig) { c.IfPresent = []string{"host"} }, `;created=100000`, Refused, sigUncovered+"host")
}

func TestSignatureMalformed(t *testing.T) {
	a := testSignature(t, signatureConfig(writeKeys(t, signerKeys())))
	f := func(lines string, want Outcome, reason string) {
		t.Helper()
		r := signedRequest(t, "GET / HTTP/1.1\nHost: h"+lines, 1000)
		if res := a.Verify(r); res.Outcome != want || res.Reason != reason {
			t.Errorf("%q: %+v, want %d %q", lines, res, want, reason)
		}
	}
	const in = "\nSignature-Input: "
	const sig = "\nSignature: s=:AAAA:"
	f("", Absent, "")
	f(sig, Refused, sigMalformed)
	f(in+`s=();created=1000;keyid="hmac"`, Refused, sigMalformed)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: keyId=\"hmac\",headers=\"date\"", Refused, sigMalformed)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: t=:AAAA:", Refused, sigMissing)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: s=AAAA", Refused, sigMissing)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: s=::", Refused, sigMissing)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: s=(:AAAA:)", Refused, sigMissing)
	f(in+`s=();created=1000;keyid="hmac"`+"\nSignature: s=:"+strings.Repeat("AAAA", 400)+":", Refused, sigMissing)
	f(in+`s="x";created=1000;keyid="hmac"`+sig, Refused, sigMalformed)
	f(in+`s=();created=1000;keyid="hmac";more=(`+sig, Refused, sigMalformed)
	f(in+`s=();created=1000`+sig, Refused, sigNoKey)
	f(in+`s=();created=1000;keyid=""`+sig, Refused, sigNoKey)
	f(in+`s=();created=1000;keyid=hmac`+sig, Refused, sigMalformed)
	f(in+`s=();created=1000;keyid="../../etc/passwd"`+sig, Refused, sigUnknownKey)
	f(in+`s=();created=1000;keyid="hmac"`+sig, Refused, sigUncovered+"@method")
	f(in+`s=(`+strings.Repeat(`"date" `, 100)+`);created=1000;keyid="hmac"`+sig, Refused, sigTooMany)
	f(in+``+sig, Refused, sigTooMany)
	var labels, values []string
	for i := range mostSignatures + 1 {
		labels = append(labels, fmt.Sprintf(`s%d=();created=1000;keyid="hmac"`, i))
		values = append(values, fmt.Sprintf("s%d=:AAAA:", i))
	}
	f(in+strings.Join(labels, ", ")+"\nSignature: "+strings.Join(values, ", "), Refused, sigTooMany)
	f(in+strings.Join(labels, in)+"\nSignature: "+strings.Join(values, "\nSignature: "), Refused, sigTooMany)
	f(in+`s=("`+strings.Repeat("x", mostSignatureField)+`");created=1000;keyid="hmac"`+sig, Refused, sigTooLarge)
}

func TestSignatureCoverage(t *testing.T) {
	f := func(must []string, items string, want string) {
		t.Helper()
		c := signatureConfig(writeKeys(t, signerKeys()))
		c.Components = must
		a := testSignature(t, c)
		r := signedRequest(t, signed(t, testSigners()[0], "GET /p?q=1 HTTP/1.1\nHost: h\nDate: x\nD: a=1", "s", items, ";created=1000"), 1000)
		res := a.Verify(r)
		if want == "" && res.Outcome != Identified || want != "" && res.Reason != sigUncovered+want {
			t.Errorf("%v by %s: %+v, want %q", must, items, res, want)
		}
	}
	f(nil, `"@method" "@target-uri"`, "")
	f(nil, `"@authority" "@path" "@query" "@method"`, "")
	f(nil, `"@authority" "@request-target" "@method"`, "")
	f(nil, `"@target-uri"`, "@method")
	f(nil, `"@method" "@authority" "@path"`, "@target-uri")
	f(nil, `"@method" "@path" "@query"`, "@target-uri")
	f(nil, `"@method" "host" "@path" "@query"`, "@target-uri")
	f([]string{"@path", "@authority"}, `"@target-uri"`, "")
	f([]string{"@scheme"}, `"@authority"`, "@scheme")
	f([]string{`@query-param;name="q"`}, `"@query-param";name="q"`, "")
	f([]string{`@query-param;name="q"`}, `"@query"`, "")
	f([]string{`@query-param;name="q"`}, `"@path"`, `@query-param;name="q"`)
	f([]string{"d"}, `"d"`, "")
	f([]string{"d"}, `"d";bs`, "")
	f([]string{"d"}, `"d";key="a"`, "d")
}

func TestSignatureSeveral(t *testing.T) {
	c := signatureConfig(writeKeys(t, signerKeys()))
	two := func(t *testing.T) *Request {
		const head = "GET / HTTP/1.1\nHost: h"
		const other = "GET /other HTTP/1.1\nHost: h"
		first := signed(t, testSigners()[0], other, "a", signedItems, `;created=1000;tag="one"`)
		second := signed(t, testSigners()[1], head, "b", signedItems, `;created=1000;tag="two"`)
		// The first is good for another request only.
		return signedRequest(t, head+strings.TrimPrefix(first, other)+strings.TrimPrefix(second, head), 1000)
	}
	f := func(change func(*SignatureConfig), want Outcome, subject string) {
		t.Helper()
		own := *c
		change(&own)
		res := testSignature(t, &own).Verify(two(t))
		if res.Outcome != want || want == Identified && res.Identity.Subject != subject {
			t.Errorf("%+v, want %d %s", res, want, subject)
		}
	}
	f(func(*SignatureConfig) {}, Identified, "ed")
	f(func(c *SignatureConfig) { c.Label = "b" }, Identified, "ed")
	f(func(c *SignatureConfig) { c.Label = "a" }, Refused, "")
	f(func(c *SignatureConfig) { c.Tag = "two" }, Identified, "ed")
	f(func(c *SignatureConfig) { c.Tag = "one" }, Refused, "")
}

func TestSignatureReplay(t *testing.T) {
	file := writeKeys(t, signerKeys())
	head := func(id int, nonce string) string {
		return signed(t, testSigners()[id], "GET / HTTP/1.1\nHost: h", "s", signedItems, `;created=1000`+nonce)
	}
	a := testSignature(t, signatureConfig(file))
	request := func(head, id string) *Request {
		r := signedRequest(t, head, 1000)
		r.ID = []byte(id)
		return r
	}
	f := func(a *signature, r *Request, want Outcome, reason string) {
		t.Helper()
		if res := a.Verify(r); res.Outcome != want || res.Reason != reason {
			t.Errorf("%+v, want %d %q", res, want, reason)
		}
	}
	first := request(head(0, `;nonce="n"`), "1")
	f(a, first, Identified, "")
	f(a, first, Identified, "") // a policy may ask twice about one request
	f(a, request(head(0, `;nonce="n"`), "2"), Refused, sigReplay)
	f(a, request(head(0, `;nonce="n"`), "1"), Refused, sigReplay) // with the id of the first
	f(a, request(head(1, `;nonce="n"`), "3"), Identified, "")     // another caller's nonce
	f(a, request(head(0, `;nonce="m"`), "4"), Identified, "")
	f(a, request(head(0, ``), "5"), Identified, "")
	f(a, request(head(0, ``), "6"), Identified, "")
	// A forged signature spends nothing.
	forged := strings.Replace(head(0, `;nonce="o"`), "Signature: s=:", "Signature: s=:AAAA", 1)
	f(a, request(forged, "7"), Refused, sigWrong)
	f(a, request(head(0, `;nonce="o"`), "8"), Identified, "")

	c := signatureConfig(file)
	c.Nonce = "off"
	off := testSignature(t, c)
	f(off, request(head(0, `;nonce="n"`), "1"), Identified, "")
	f(off, request(head(0, `;nonce="n"`), "2"), Identified, "")

	// Of many at one time, one passes.
	var passed atomic.Int32
	var all sync.WaitGroup
	same := head(2, `;nonce="race"`)
	for i := range 32 {
		r := request(same, fmt.Sprint("race", i))
		all.Go(func() {
			if a.Verify(r).Outcome == Identified {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if passed.Load() != 1 {
		t.Errorf("%d passed with one nonce", passed.Load())
	}
}

func TestReplayMemory(t *testing.T) {
	const window = time.Minute
	m := newReplayMemory(window, replayShards*4)
	start := time.Unix(1000, 0)
	key := func(n byte) [16]byte { return [16]byte{0, n} } // all in one shard
	f := func(n byte, at time.Duration, want nonceState) {
		t.Helper()
		if got := m.spend(key(n), uint64(at), start.Add(at)); got != want {
			t.Errorf("%d at %v: %d, want %d", n, at, got, want)
		}
	}
	f(1, 0, nonceFresh)
	f(1, 1, nonceSpent)
	f(2, window-1, nonceFresh)
	f(2, window, nonceSpent)     // the elder generation still knows it
	f(1, window, nonceSpent)     // known for longer than it must be
	f(3, window, nonceFresh)     // goes into the younger
	f(2, 2*window-2, nonceSpent) // 2 was spent at window-1
	f(3, 2*window, nonceSpent)   // 3 has become the elder's
	f(1, 2*window, nonceFresh)   // 1 is forgotten
	f(4, 5*window, nonceFresh)   // after a pause nothing is known
	f(3, 5*window, nonceFresh)
	for n := byte(10); n < 13; n++ {
		f(n, 5*window, nonceFresh)
	}
	f(99, 5*window, nonceNoRoom)
	f(10, 5*window+1, nonceSpent) // what is full still refuses
	f(99, 6*window, nonceFresh)
	if m.len() != 6 {
		t.Errorf("%d remembered", m.len())
	}
}

func TestSignatureDigest(t *testing.T) {
	c := signatureConfig(writeKeys(t, signerKeys()))
	c.Digest = true
	a := testSignature(t, c)
	const body = `{"hello": "world"}`
	const good = "Content-Digest: sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
	f := func(head, items string, want Outcome, reason string) (*Request, *Identity) {
		t.Helper()
		r := signedRequest(t, signed(t, testSigners()[0], head, "s", items, ";created=1000"), 1000)
		res := a.Verify(r)
		if res.Outcome != want || res.Reason != reason {
			t.Errorf("%q: %+v", head, res)
		}
		return r, res.Identity
	}
	const post = "POST / HTTP/1.1\nHost: h\nContent-Length: 18\n"
	r, id := f(post+good, signedItems+` "content-digest"`, Identified, "")
	proof := Proof{By: [MostProven]*Identity{id}, N: 1}
	if !proof.SignedDigest() {
		t.Error("the digest is signed")
	}
	d, err := NewBodyDigest(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = d.Write([]byte(body[:5]))
	if d.Matches() {
		t.Error("half a body matches")
	}
	if _, _ = d.Write([]byte(body[5:])); !d.Matches() {
		t.Error("the body does not match")
	}
	if _, _ = d.Write([]byte(" ")); d.Matches() {
		t.Error("a longer body matches")
	}

	_, id = f("GET / HTTP/1.1\nHost: h", signedItems, Identified, "")
	if proof = (Proof{By: [MostProven]*Identity{id}, N: 1}); proof.SignedDigest() {
		t.Error("no digest is signed")
	}
	f(post+good, signedItems, Refused, sigUncovered+"content-digest")
	f("POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n"+good, signedItems, Refused, sigUncovered+"content-digest")
	f(post+good, signedItems+` "content-digest";key="sha-512"`, Refused, sigUncovered+"content-digest")
	for _, bad := range []string{"sha-512=:AAAA:", "md5=:AAAA:", "sha-256=1", "x y", "sha-256"} {
		f(post+"Content-Digest: "+bad, signedItems+` "content-digest"`, Refused, sigNoDigest)
	}
}

func TestSigningKeyMistakes(t *testing.T) {
	const secretText = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24tZXZlcg=="
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	indent := func(pem string) string {
		return "|\n    " + strings.ReplaceAll(strings.TrimSpace(pem), "\n", "\n    ")
	}
	p256 := testSigners()[2].public
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))}))
	f := func(text string, want ...string) {
		t.Helper()
		_, err := parseSigningKeys("x", []byte(text))
		if err == nil {
			t.Errorf("%s: taken", text)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, want %q", err, w)
			}
		}
		if strings.Contains(err.Error(), "c2Vjc") || strings.Contains(err.Error(), "MFkw") {
			t.Errorf("the key is shown: %v", err)
		}
	}
	f("id: a", "1:", "list of keys")
	f("- a", "1:3: expected a key")
	f("[", "expected YAML")
	f("- id: a\n  algorithm: hmac-sha256\n  kye: "+secretText, "3:3: expected one of id", "did you mean key?", "expected key in this key")
	f("- algorithm: hmac-sha256\n  key: "+secretText, "expected id")
	f("- id: a\n  algorithm: hmac\n  key: "+secretText, "2:14: expected one of ed25519")
	f("- id: a\n  algorithm: hmac-sha256\n  key: c2VjcmV0", "3:8: expected a secret of at least 32 bytes, got 6")
	f("- id: a\n  algorithm: hmac-sha256\n  key: c2Vjc!", "3:8: expected a secret in base64")
	f("- id: a\n  algorithm: hmac-sha256\n  key: "+indent(p256), "got PEM")
	f("- id: a\n  algorithm: ed25519\n  key: "+secretText, "one public key in PEM")
	f("- id: a\n  algorithm: ed25519\n  key: "+indent(p256), "another type or curve")
	f("- id: a\n  algorithm: ecdsa-p384-sha384\n  key: "+indent(p256), "another type or curve")
	f("- id: a\n  algorithm: ecdsa-p256-sha256\n  key: "+indent(p256+p256), "one public key in PEM")
	f("- id: a\n  algorithm: ecdsa-p256-sha256\n  key: "+indent(private), "got a private one")
	f("- id: a\n  algorithm: rsa-pss-sha512\n  key: "+indent(publicPEM(&small.PublicKey)), "2048 to 8192 bits, got 1024")
	const ok = "- id: a\n  algorithm: hmac-sha256\n  key: " + secretText + "\n"
	f(ok+ok, "4:7: expected an id that no other key has")
	f(ok+"  id: b\n", "expected")
	f(ok+"  metadata: [x]\n", "expected metadata as a mapping")
	f(ok+"  metadata: { a: { b: 1 } }\n", "expected a text, a number")
	f(ok+"  scopes: { a: 1 }\n", "expected scopes as a list")
	f(ok+"---\n"+ok, "one list")
	keys, err := parseSigningKeys("x", []byte(rfcKeys))
	if err != nil || len(keys) != 5 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	id := keys["test-key-ed25519"].identity
	plan, _ := id.Claim("plan")
	seats, _ := id.Claim("seats")
	tags, _ := id.Claim("tags")
	used, _ := id.Claim("signature.key")
	if id.Subject != "Ed" || !id.HasScope("write") || plan != "gold" || seats != "7" || tags != "a,b" || used != "test-key-ed25519" {
		t.Errorf("%+v", id)
	}
	if keys, err := parseSigningKeys("x", nil); err != nil || len(keys) != 0 {
		t.Errorf("an empty file: %v, %v", keys, err)
	}
}

func TestSigningKeyFileReload(t *testing.T) {
	leaks(t)
	path := writeKeys(t, signerKeys())
	a := testSignature(t, signatureConfig(path))
	head := signed(t, testSigners()[0], "GET / HTTP/1.1\nHost: h", "s", signedItems, ";created=1000")
	f := func(want Outcome, reason string) {
		t.Helper()
		if res := a.Verify(signedRequest(t, head, 1000)); res.Outcome != want || res.Reason != reason {
			t.Errorf("%+v", res)
		}
	}
	f(Identified, "")
	write := func(text string) {
		t.Helper()
		// As editors do: a new file under the old name.
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		a.keys.look(true)
	}
	write("- nonsense")
	f(Identified, "") // the last good keys stay
	if a.Counts()["file_refused"] != 1 || !strings.Contains(a.State().Detail["mistakes"], "1:3: expected a key") {
		t.Errorf("%v %v", a.Counts(), a.State())
	}
	a.keys.look(true)
	if a.Counts()["file_refused"] != 1 {
		t.Error("a file that has not changed was read again")
	}
	write(strings.Replace(signerKeys(), "id: hmac", "id: other", 1))
	f(Refused, sigUnknownKey)
	if a.State().Detail["mistakes"] != "" {
		t.Errorf("%v", a.State())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.keys.look(true)
	a.keys.look(true)
	if a.Counts()["file_refused"] != 2 {
		t.Errorf("%v", a.Counts())
	}
	write(signerKeys())
	f(Identified, "")

	a.Start()
	a.Stop()
	a.Stop()

	c := signatureConfig(filepath.Join(t.TempDir(), "none.yaml"))
	if _, err := newSignature("x", c, Env{}); err == nil || !strings.HasPrefix(err.Error(), "file: ") {
		t.Errorf("%v", err)
	}
}

func TestSignatureConfigMistakes(t *testing.T) {
	f := func(change func(*SignatureConfig), path, want string) {
		t.Helper()
		c := signatureConfig("keys.yaml")
		change(c)
		var p setting.Problems
		c.Validate(&p)
		if got := p.List(); len(got) != 1 || got[0].Path != path || !strings.Contains(got[0].Expected, want) {
			t.Errorf("%s: %v, want %q", path, got, want)
		}
	}
	f(func(c *SignatureConfig) { c.File = "" }, "file", "file of keys")
	f(func(c *SignatureConfig) { c.Components = []string{"@method", "@metod"} }, "components[1]", "did you mean @method?")
	f(func(c *SignatureConfig) { c.Components = []string{"a b"} }, "components[0]", "name of a header")
	f(func(c *SignatureConfig) { c.Components = []string{"date;sf"} }, "components[0]", "name of a header")
	f(func(c *SignatureConfig) { c.Components = []string{"@method;sf"} }, "components[0]", "without parameters")
	f(func(c *SignatureConfig) { c.Components = []string{"@query-param"} }, "components[0]", `name="NAME"`)
	f(func(c *SignatureConfig) { c.Components = []string{`@query-param;name=x`} }, "components[0]", `name="NAME"`)
	f(func(c *SignatureConfig) { c.IfPresent = []string{"@method"} }, "if_present[0]", "name of a header")
	f(func(c *SignatureConfig) { c.Label = "Sig 1" }, "label", "lower-case")
	f(func(c *SignatureConfig) { c.Structured = map[string]string{"x": "dict"} }, "structured.x", "dictionary, list or item")
}

func FuzzSignature(f *testing.F) {
	f.Add(`s=("@method" "@target-uri" "date";bs "d";key="a" "@query-param";name="q");created=1000;keyid="hmac";nonce="n"`, `s=:AAAA:`, "GET /p?q=1")
	f.Add(`s=("@authority" "@path" "@query" "@method" "d";sf);created=1000;keyid="ed";alg="ed25519"`, `s=:AAAA:, t=:AA==:`, "OPTIONS *")
	file := writeKeys(f, signerKeys())
	c := signatureConfig(file)
	c.Structured = map[string]string{"d": "dictionary"}
	a := covering(f, c)
	f.Fuzz(func(t *testing.T, input, sig, line string) {
		if strings.ContainsAny(input+sig+line, "\r\n") {
			return
		}
		r := fuzzRequest(line + " HTTP/1.1\r\nHost: h\r\nDate: x\r\nD: a=1, b\r\nSignature-Input: " + input + "\r\nSignature: " + sig + "\r\n\r\n")
		if r == nil {
			return
		}
		r.Now = time.Unix(1000, 0)
		res := a.Verify(r)
		if res.Outcome != Refused && res.Outcome != Absent {
			t.Fatalf("%+v", res)
		}
		if strings.ContainsAny(res.Reason, "\r\n\x00") {
			t.Fatalf("reason %q", res.Reason)
		}
		base := baseOf(r)
		if strings.HasPrefix(base, "error") {
			return
		}
		// One line for each component and one for the parameters: nothing from
		// outside can add one.
		inputs, _, _ := parseSignatures(r.Head)
		member, _ := inputs.Get(inputs.Names()[0])
		if n := itemsOf(member); strings.Count(base, "\n") != n {
			t.Fatalf("%d components, base %q", n, base)
		}
	})
}

func FuzzSigningKeys(f *testing.F) {
	f.Add(rfcKeys)
	f.Add("- {id: a, algorithm: hmac-sha256, key: !!binary xx, metadata: {a: [1, [2]]}}")
	f.Add("- &a {id: x}\n- *a")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parseSigningKeys("x", []byte(text))
		if err != nil {
			return
		}
		for id, k := range keys {
			if k.id != id || id == "" || (k.public == nil) != (k.algorithm == algHMAC) || k.public == nil && len(k.secret) < leastSigningSecret || k.identity == nil {
				t.Fatalf("%q: %+v", text, k)
			}
		}
	})
}
