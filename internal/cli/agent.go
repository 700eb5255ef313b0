// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/internal/plain"
)

func (a *app) agentCmd() *cobra.Command {
	var check, show bool
	cmd := &cobra.Command{
		Use:   "agent [flags]",
		Short: "run the agent",
		Long: `Run the agent in the foreground, until SIGINT or SIGTERM. It learns from the
kernel what starts and ends, from the container runtimes what that is, and
answers the other commands, and any client of its API, over its socket.

It needs CAP_BPF and CAP_PERFMON for the kernel's events, CAP_DAC_READ_SEARCH and
CAP_SYS_PTRACE for the runtimes' files and for /proc, and CAP_SYS_NICE for its
priority; root has them all. Whatever is missing costs time, never truth: without
BPF it polls /proc, without a runtime's API it reads the runtime's files. 'pidigree
status' names the mode and the reason. An engine that is not on the host is no
error; it is found when it appears.

Every setting can be said in three ways, and the first one that says it wins: a
flag (--docker-host), a variable (PIDIGREE_DOCKER_HOST), a key in the file that
--config or PIDIGREE_CONFIG names (docker: {host: ...}). Lists take commas, or the
flag several times. An empty variable counts as unset.

Under systemd use Type=notify: it is ready once it knows what is running.`,
		Example: `  pidigree agent
  pidigree agent --check                  # what would be collected, what is missing?
  pidigree agent --print-config > /etc/pidigree/config.yaml
  pidigree agent --config /etc/pidigree/config.yaml --log-level debug`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd.Flags(), a.env.Getenv)
			switch {
			case err != nil:
				return err
			case show:
				return l.printConfig(a.env.Stdout)
			case check:
				return a.check(cmd.Context(), l.config)
			}
			return a.runAgent(cmd.Context(), l.config)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&check, "check", false, "print what would be collected and what is missing, and exit")
	flags.BoolVar(&show, "print-config", false, "print the settings in effect, as a configuration file, and exit")
	addFlags(flags, nil)
	return cmd
}

// check writes through a screen's escapes line by line: a report quotes what
// engines say.
func (a *app) check(ctx context.Context, c AgentConfig) error {
	w := &plain.Writer{Out: a.env.Stdout}
	return a.env.CheckAgent(ctx, c, w)
}

// runAgent runs until it is told to stop, which is no failure.
func (a *app) runAgent(ctx context.Context, c AgentConfig) error {
	if onAnotherHost(c.Socket) {
		return usagef("--socket %s is for asking an agent: this one makes a unix socket, and serves other hosts at tls.listen", c.Socket)
	}
	err := a.env.RunAgent(ctx, c)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
