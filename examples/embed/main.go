// SPDX-License-Identifier: Apache-2.0

// Command embed runs pidigree inside another program, without a socket, and asks
// it about one PID: go run ./examples/embed 4242 (as root).
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/workload"
)

func main() {
	pid, err := strconv.ParseUint(os.Args[len(os.Args)-1], 10, 32)
	if err != nil {
		log.Fatal("usage: embed PID")
	}
	a, err := agent.New(agent.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { log.Println(a.Run(ctx)) }() // a longer program waits for it
	<-a.Ready()
	r := a.Resolve(ctx, workload.Query{PID: workload.PID(pid)})
	if c := r.Answer.Container(); c != nil {
		fmt.Println(r.Answer.Status, c.Name, c.Image.Name, c.Labels)
		return
	}
	fmt.Println(r.Answer.Status, r.Answer.Reason, r.Err)
}
