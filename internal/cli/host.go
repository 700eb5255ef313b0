// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"io"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
)

// This file is where the commands meet the host: what Env.withDefaults puts in
// for the functions that the caller left out.

// dialHost connects to the agent. Its errors are the client's, one line each.
func dialHost(ctx context.Context, socket string) (Backend, error) {
	timeout := 24 * time.Hour // --timeout 0: as good as for ever
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	c, err := client.New(client.Options{Socket: socket, Timeout: timeout})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// localHost answers in this process.
func localHost(context.Context, LocalOptions) (Backend, error) { return nil, ErrNotBuilt }

// runHost runs the agent until ctx ends.
func runHost(context.Context, AgentConfig) error { return ErrNotBuilt }

// checkHost writes what an agent would collect and what it misses.
func checkHost(context.Context, AgentConfig, io.Writer) error { return ErrNotBuilt }
