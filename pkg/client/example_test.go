// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// exampleAgent runs a fake agent that the examples ask.
func exampleAgent() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "pidigree")
	if err != nil {
		panic(err)
	}
	socket = filepath.Join(dir, "p.sock")
	end, err := agent{}.serve(socket)
	if err != nil {
		panic(err)
	}
	return socket, func() { end(); _ = os.RemoveAll(dir) }
}

func ExampleClient_Resolve() {
	socket, stop := exampleAgent()
	defer stop()

	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	results, err := c.Resolve(context.Background(), workload.Query{PID: 4242}, workload.Query{PID: 99999999})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		switch {
		case r.Err != nil:
			fmt.Println(r.Query.PID, r.Err)
		case r.Answer.Status == workload.StatusContainer:
			fmt.Println(r.Query.PID, r.Answer.Container().Name, r.Answer.Confidence)
		default:
			fmt.Println(r.Query.PID, r.Answer.Status, r.Answer.Reason)
		}
	}
	// Output:
	// 4242 web confirmed
	// 99999999 invalid question: no process has the id 99999999: the largest is 4194304
}

func ExampleClient_Self() {
	socket, stop := exampleAgent()
	defer stop()

	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	a, err := c.Self(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(a.Status, a.Container().Name, a.Process.Key.PID == workload.PID(os.Getpid()))
	// Output: container web true
}

// A reader keeps a copy of what the agent knows and goes on where it was after
// the agent, or the reader's connection, came back.
func ExampleClient_Watch() {
	socket, stop := exampleAgent()
	defer stop()

	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	sel := workload.Selector{Kinds: []workload.Kind{workload.KindContainer}}
	for change, err := range c.Watch(context.Background(), sel) {
		if err != nil {
			fmt.Println(err) // then Watch again, from sel.From
			return
		}
		sel.From = change.Revision
		switch change.Type {
		case workload.ChangeSet:
			fmt.Println("there is", change.Entity.Container.Name)
		case workload.ChangeUnset:
			fmt.Println("gone is", change.Entity.Container.Name)
		case workload.ChangeResync:
			fmt.Println("forget everything")
		case workload.ChangeBookmark:
			fmt.Println("that was all, up to", change.Revision)
			return
		}
	}
	// Output:
	// there is web
	// that was all, up to 3
}

// A profiler names the container of each sample from a copy of its own: no call, no
// lock and no allocation for a sample, also while the agent is restarted.
func ExampleClient_Mirror() {
	socket, stop := exampleAgent()
	defer stop()

	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	m, err := c.Mirror(context.Background(), client.MirrorOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	if web, ok := m.Container(workload.ContainerID{Runtime: "docker", ID: "4f3a"}); ok {
		fmt.Println(web.Name, web.Image.Name)
	}
	// Output: web nginx:1.27
}

func ExampleNew() {
	_, err := client.New(client.Options{Socket: "/run/no-such-agent.sock"})
	if errors.Is(err, client.ErrNoAgent) {
		fmt.Println(err)
	}
	// Output: connect to /run/no-such-agent.sock: no agent is running there: start one with `pidigree agent`, or name its socket with --socket or PIDIGREE_SOCKET
}
