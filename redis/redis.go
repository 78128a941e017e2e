// Package redis opens connections to a Redis or Valkey server, cluster, or
// sentinel group, for what several gateways share. It holds the settings and
// the life of a connection; what is kept there is its users' business.
//
// Open never waits: a keeper goroutine connects, asks the server each second
// whether it is there, and tells (Up, Conn) what it found. So a gateway starts,
// serves and reloads without its Redis, and a request never pays for a dial:
// while the server is known to be down Conn fails at once. Changes between up
// and down are logged once each, with the server's addresses, never with a
// credential.
//
// Commands go through rueidis: one connection for each node, pipelined. The
// bound of every wait is that a connection which leaves a command unanswered is
// closed within about a second more than Config.Timeout, which fails all that
// wait on it. Users that need an answer sooner wait for it themselves.
package redis

import (
	"net"
	"strconv"
	"strings"

	"sluice/setting"
)

// Config says where a Redis is. Its short form is the address of a single
// server.
type Config struct {
	Addresses      []string         `yaml:"addresses" one:"true" doc:"host:port of the server; in mode cluster of some of its nodes, in mode sentinel of the sentinels."`
	Mode           string           `yaml:"mode" default:"single" enum:"single,cluster,sentinel" doc:"What answers at the addresses."`
	Master         string           `yaml:"master" doc:"In mode sentinel the name of the group whose master is used."`
	Username       string           `yaml:"username" doc:"User of the access control list. Empty is the default user."`
	Password       string           `yaml:"password" secret:"true" doc:"Password of the user."`
	SentinelUser   string           `yaml:"sentinel_username" doc:"In mode sentinel the user at the sentinels."`
	SentinelPass   string           `yaml:"sentinel_password" secret:"true" doc:"In mode sentinel the password at the sentinels."`
	DB             int              `yaml:"db" default:"0" min:"0" max:"65535" doc:"Number of the database. A cluster has only 0."`
	TLS            *TLS             `yaml:"tls" doc:"Speak TLS."`
	Prefix         string           `yaml:"prefix" default:"sluice:" doc:"What all keys begin with. Gateways share what they keep under the same prefix."`
	KeySecret      string           `yaml:"key_secret" secret:"true" doc:"Text that the keys of limits are hashed with, the same on all gateways. Without it, who reads the keys can find an address in them by trying all addresses."`
	ConnectTimeout setting.Duration `yaml:"connect_timeout" default:"1s" min:"10ms" max:"30s" doc:"How long connecting to one node may take, with TLS and log-in."`
	Timeout        setting.Duration `yaml:"timeout" default:"1s" min:"10ms" max:"30s" doc:"A connection that leaves a command unanswered for so long is closed. What a request waits is set where Redis is used."`
}

// TLS is how a connection to Redis speaks TLS: 1.2 or 1.3, the server always
// verified.
type TLS struct {
	CA         string `yaml:"ca" doc:"File with the CAs of the server's certificate (PEM). Empty takes the system's."`
	Cert       string `yaml:"cert" doc:"File with a client certificate (PEM)."`
	Key        string `yaml:"key" doc:"File with its key (PEM)."`
	ServerName string `yaml:"server_name" doc:"Name that the server's certificate must have. Empty is the host of the address."`
}

// Shorthand reads the short form: one address.
func (c *Config) Shorthand(s string) { c.Addresses = []string{s} }

const (
	mostAddresses = 64
	longestPrefix = 128 // bytes
)

// Validate reports what the tags cannot say.
func (c *Config) Validate(p *setting.Problems) {
	if len(c.Addresses) == 0 {
		p.Add("addresses", "expected host:port, at least once")
	}
	if len(c.Addresses) > mostAddresses {
		p.Add("addresses", "expected at most %d, got %d", mostAddresses, len(c.Addresses))
	}
	for i, a := range c.Addresses {
		if !isHostPort(a) {
			p.Add("addresses["+strconv.Itoa(i)+"]", "expected host:port such as 10.0.0.5:6379, got %q", a)
		}
	}
	if c.Mode == "single" && len(c.Addresses) > 1 {
		p.Add("addresses", "expected one address in mode single, got %d; several are of mode cluster or sentinel", len(c.Addresses))
	}
	if c.Mode == "cluster" && c.DB != 0 {
		p.Add("db", "expected 0, the only one a cluster has, got %d", c.DB)
	}
	if (c.Mode == "sentinel") != (c.Master != "") {
		p.Add("master", "expected the name of a group in mode sentinel, and only there")
	}
	if c.Mode != "sentinel" && (c.SentinelUser != "" || c.SentinelPass != "") {
		p.Add("sentinel_username", "expected sentinel_username and sentinel_password in mode sentinel only")
	}
	if c.Username != "" && c.Password == "" {
		p.Add("password", "expected the password of username")
	}
	if c.SentinelUser != "" && c.SentinelPass == "" {
		p.Add("sentinel_password", "expected the password of sentinel_username")
	}
	if len(c.Prefix) > longestPrefix || strings.ContainsAny(c.Prefix, "{}") || !printable(c.Prefix) {
		p.Add("prefix", "expected up to %d printable characters without spaces, { and }, got %q", longestPrefix, c.Prefix)
	}
	if c.TLS != nil && (c.TLS.Cert == "") != (c.TLS.Key == "") {
		p.Add("tls", "expected cert and key together")
	}
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || len(host) > 253 || !printable(host) || strings.ContainsAny(host, "/@?#") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
