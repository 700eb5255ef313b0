// SPDX-License-Identifier: Apache-2.0

// Package agent wires pidigree together, and is the way to embed it:
//
//	a, err := agent.New(agent.Options{})
//	go a.Run(ctx)
//	<-a.Ready()
//	res := a.Resolve(ctx, workload.Query{PID: 4242})
//
// It is the one place that knows every concrete type: which collectors there
// are, what stands in where BPF cannot load, who serves the socket. It owns
// nothing else. Whatever it starts has ended when Run returns.
package agent
