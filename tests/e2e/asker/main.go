// SPDX-License-Identifier: Apache-2.0

// Command asker is the program of the containers that ask about themselves: as
// its first act it asks the agent on the mounted socket who it is, without
// waiting for anything, and prints a Report as one line of JSON. Then it sleeps
// and exits as its flags say, for tests that need a container to last or to fail.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Report is what is printed. The tests have a copy of it, for main cannot be imported.
type Report struct {
	// Before and After enclose the question, in nanoseconds since boot.
	Before, After workload.KTime
	Answer        workload.Answer
	Err           string
}

func main() {
	before := sinceBoot() // first of all: what is known now was known before the question
	socket := flag.String("socket", "/run/pidigree/pidigree.sock", "the agent's socket; empty asks nothing")
	sleep := flag.Duration("sleep", 0, "how long to live on")
	exit := flag.Int("exit", 0, "exit status")
	flag.Parse()
	if *socket != "" {
		report := ask(*socket, before)
		if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
			fmt.Fprintln(os.Stderr, "asker:", err)
			os.Exit(1)
		}
	}
	time.Sleep(*sleep)
	os.Exit(*exit)
}

func ask(socket string, before workload.KTime) Report {
	r := Report{Before: before}
	c, err := client.New(client.Options{Socket: socket})
	if err == nil {
		defer c.Close()
		r.Answer, err = c.Self(context.Background())
	}
	r.After = sinceBoot()
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

func sinceBoot() workload.KTime {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return workload.KTime(ts.Nano())
}
