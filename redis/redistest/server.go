// Package redistest starts real Redis servers for tests: Debian's
// redis-server, or valkey-server, on a free port of the loopback, with its own
// directory, gone when the test is. Tests skip where neither is installed.
package redistest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is one running server.
type Server struct {
	Addr string // host:port
	CA   string // file with the CA of its certificate, when it speaks TLS
	PID  int    // its process

	tb    testing.TB
	dir   string
	args  []string
	tls   *tls.Config
	pass  string
	cmd   *exec.Cmd
	ended chan struct{}
}

// Options are of a server.
type Options struct {
	Password string
	TLS      bool
	Cluster  bool
	Sentinel string   // host:port of a master to watch, as group "main"
	Args     []string // more, as on the command line
}

// Start starts a server and waits until it answers. It ends with the test.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), pass: o.Password}
	s.args = append([]string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir, "--daemonize", "no"}, o.Args...)
	if o.Sentinel != "" {
		host, port, err := net.SplitHostPort(o.Sentinel)
		if err != nil {
			tb.Fatal(err)
		}
		conf := filepath.Join(s.dir, "sentinel.conf") // it writes what it learns there
		if err := os.WriteFile(conf, []byte("sentinel monitor main "+host+" "+port+" 1\n"), 0o600); err != nil {
			tb.Fatal(err)
		}
		s.args = append([]string{conf, "--sentinel", "--bind", "127.0.0.1", "--dir", s.dir}, o.Args...)
	}
	if o.Password != "" {
		s.args = append(s.args, "--requirepass", o.Password)
	}
	if o.Cluster {
		s.args = append(s.args, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
	}
	port := freePort(tb, o.Cluster)
	s.Addr = "127.0.0.1:" + port
	if o.TLS {
		s.CA = filepath.Join(s.dir, "cert.pem")
		key := filepath.Join(s.dir, "key.pem")
		s.tls = certificate(tb, s.CA, key)
		s.args = append(s.args, "--port", "0", "--tls-port", port, "--tls-cert-file", s.CA, "--tls-key-file", key, "--tls-ca-cert-file", s.CA, "--tls-auth-clients", "no")
	} else {
		s.args = append(s.args, "--port", port)
	}
	tb.Cleanup(s.Kill)
	s.Restart()
	return s
}

func freePort(tb testing.TB, withBus bool) string {
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if !withBus || port < 55000 { // a cluster's bus is 10000 above
			return fmt.Sprint(port)
		}
	}
	tb.Fatal("no free port below 55000")
	return ""
}

func binary(tb testing.TB) string {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	tb.Skip("redis-server is not installed; on Debian: sudo apt-get install redis-server")
	return ""
}

// Restart starts a server that was killed, on the same port, empty.
func (s *Server) Restart() {
	s.tb.Helper()
	path := binary(s.tb)
	var complaints bytes.Buffer
	s.cmd = exec.Command(path, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &complaints, &complaints
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.PID = s.cmd.Process.Pid
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // for a process that says nothing when it is ready
		if got, err := s.try("PING"); err == nil && strings.HasPrefix(got, "+PONG") {
			return
		}
		select {
		case <-s.ended:
			s.tb.Fatalf("redis-server ended: %s", complaints.String())
		default:
		}
		if time.Now().After(end) {
			s.tb.Fatal("redis-server did not answer within 10 s")
		}
	}
}

// Stop has the server do nothing until Continue: it accepts and never answers.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue ends what Stop began.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// Kill ends the server at once and waits for its end.
func (s *Server) Kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Do sends one command and returns the first 64 KiB of the answer as it came
// (RESP2).
func (s *Server) Do(args ...string) string {
	s.tb.Helper()
	got, err := s.try(args...)
	if err != nil {
		s.tb.Fatalf("%v: %v", args, err)
	}
	return got
}

func (s *Server) try(args ...string) (string, error) {
	d := &net.Dialer{Timeout: time.Second}
	var c net.Conn
	var err error
	if s.tls != nil {
		c, err = tls.DialWithDialer(d, "tcp", s.Addr, s.tls)
	} else {
		c, err = d.Dial("tcp", s.Addr)
	}
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	var b bytes.Buffer
	buf := make([]byte, 64<<10)
	write := func(args []string) (string, error) {
		b.Reset()
		fmt.Fprintf(&b, "*%d\r\n", len(args))
		for _, a := range args {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
		}
		if _, err := c.Write(b.Bytes()); err != nil {
			return "", err
		}
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	if s.pass != "" {
		if _, err := write([]string{"AUTH", s.pass}); err != nil {
			return "", err
		}
	}
	return write(args)
}

// StartCluster starts a cluster of n masters, which share all slots, and waits
// until it is of one mind.
func StartCluster(tb testing.TB, n int) []*Server {
	tb.Helper()
	const slots = 16384
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = Start(tb, Options{Cluster: true})
		servers[i].Do("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*slots/n), fmt.Sprint((i+1)*slots/n-1))
		if i > 0 {
			_, port, _ := net.SplitHostPort(servers[0].Addr)
			servers[i].Do("CLUSTER", "MEET", "127.0.0.1", port)
		}
	}
	want := fmt.Sprintf("cluster_known_nodes:%d\r\n", n)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // gossip has no end to wait for
		ready := true
		for _, s := range servers {
			info := s.Do("CLUSTER", "INFO")
			ready = ready && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, want)
		}
		if ready {
			return servers
		}
		if time.Now().After(end) {
			tb.Fatal("the cluster did not form within 20 s")
		}
	}
}

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(tb testing.TB, cert, key string) *tls.Config {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redistest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.example"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{RootCAs: pool}
}
