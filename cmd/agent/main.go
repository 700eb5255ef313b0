// SPDX-License-Identifier: Apache-2.0

// The runtime would look each second, with a thread of its own to wake, whether
// the agent may use another number of CPUs than when it started.
//go:debug updatemaxprocs=0

// Command agent is pidigree: one binary for the agent and for the commands that
// ask it. It owns the signals and the exit code; all else is package cli. It is
// built as bin/pidigree.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/cli"
)

// version is the release; the linker sets it.
var version string

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The second signal ends the process the hard way, if the first one takes too long.
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, cli.Env{
		Args:     os.Args[1:],
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Getenv:   os.Getenv,
		Terminal: terminal(os.Stdout),
		Version:  version,
	})
}

// terminal reports whether f is one.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
