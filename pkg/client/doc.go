// SPDX-License-Identifier: Apache-2.0

// Package client asks a pidigree agent over its unix socket.
//
//	c, err := client.New(client.Options{})
//	if err != nil {
//		return err // one line that says what to do; errors.Is(err, client.ErrNoAgent)
//	}
//	defer c.Close()
//	results, err := c.Resolve(ctx, workload.Query{PID: 4242})
//
// It speaks the nouns of package workload, as the agent that is embedded in
// process does, and never shows protobuf. What is wrong with one question is in
// its Result; a call's error says that nothing was answered, matches one of the
// sentinels of this package or of package workload, and is one line.
//
// A Client may be used from many goroutines. Resolve keeps up to eight
// connections of its own, on which the messages of ResolveStream go without
// gRPC: one question at a time on each, so that nobody is behind anybody. What
// waits, what is asked when all are in use, and what an agent from before them
// is asked, goes by gRPC over one more. Connections are made when they are
// needed and again when the agent was restarted; a question that met the end of
// one is asked once more. No call waits longer than Options.Timeout for an agent
// that hangs, beyond what the questions themselves ask to wait. Close ends all
// calls.
//
// Follow streams what changes and goes on by itself after an agent's restart; a
// Mirror is a copy that is kept up by it, for those who ask too often for a call.
//
// An agent on another host, Options.Address, is asked over TLS with a certificate on
// both sides, by gRPC alone, and about anybody but the caller.
//
// PIDs are those of the host's initial PID namespace. A process in a container
// does not know its own: it asks Self. That speaks of the process that made the
// connection, so a Client must not be shared with a forked child.
package client
