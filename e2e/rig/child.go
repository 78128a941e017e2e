package rig

import (
	"os/exec"
	"runtime"
)

// starts is where children are started: the kernel counts a thread, not a
// process, as the parent whose death Pdeathsig tells of, and Go ends threads
// whose goroutine returns while locked to them. This one never returns.
var starts = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for start := range starts {
			start()
		}
	}()
}

// Launch starts cmd, whose Pdeathsig then means this process.
func Launch(cmd *exec.Cmd) error {
	result := make(chan error)
	starts <- func() { result <- cmd.Start() }
	return <-result
}
