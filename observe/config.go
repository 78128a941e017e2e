package observe

// LogConfig says what is logged, how much of it, and where to.
type LogConfig struct {
	Level  string       `yaml:"level" default:"info" enum:"debug,info,warn,error" doc:"The least level of the process's own log."`
	Output string       `yaml:"output" default:"stderr" doc:"Where the process's own log goes: stderr, stdout or a file."`
	Access AccessConfig `yaml:"access" doc:"One JSON line for each request."`
	Audit  AuditConfig  `yaml:"audit" doc:"One JSON line for each caller that may not pass, with the reason."`
}

// AuditConfig describes the audit log.
type AuditConfig struct {
	Enabled bool   `yaml:"enabled" default:"true" doc:"Whether refusals are logged."`
	Output  string `yaml:"output" default:"stderr" doc:"Where the lines go: stdout, stderr or a file (opened again on SIGHUP)."`
	Buffer  int    `yaml:"buffer" default:"1" min:"1" max:"1024" doc:"MiB that may wait for a slow output before lines are dropped and counted."`
}

// AccessConfig describes the access log.
type AccessConfig struct {
	Enabled bool   `yaml:"enabled" default:"true" doc:"Whether requests are logged."`
	Output  string `yaml:"output" default:"stdout" doc:"Where the lines go: stdout, stderr or a file (opened again on SIGHUP)."`
	Sample  int    `yaml:"sample" default:"1" min:"1" doc:"Log one request of so many. Answers of 500 and above are always logged."`
	Buffer  int    `yaml:"buffer" default:"4" min:"1" max:"1024" doc:"MiB that may wait for a slow output before lines are dropped and counted."`
}
