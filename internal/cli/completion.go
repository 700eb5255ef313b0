// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/internal/plain"
	"github.com/pidigree/pidigree/pkg/workload"
)

func shells() []string { return []string{"bash", "zsh", "fish", "powershell"} }

func (a *app) completionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells(), "|"),
		Short: "print a completion script for a shell",
		Long: `Print a script that teaches a shell to complete pidigree's commands, flags and,
where an agent runs, the names of containers.

Load it for this session, or put it where the shell looks at its start:

  bash        pidigree completion bash > /etc/bash_completion.d/pidigree
  zsh         pidigree completion zsh > "${fpath[1]}/_pidigree"
  fish        pidigree completion fish > ~/.config/fish/completions/pidigree.fish
  powershell  pidigree completion powershell >> $PROFILE`,
		Example:   `  source <(pidigree completion bash)`,
		Args:      oneShell,
		ValidArgs: shells(),
		RunE:      a.completion,
	}
}

func oneShell(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("needs one shell: %s", strings.Join(shells(), ", "))
	}
	return nil
}

func (a *app) completion(cmd *cobra.Command, args []string) error {
	root, out := cmd.Root(), a.env.Stdout
	switch args[0] {
	case "bash":
		return root.GenBashCompletionV2(out, true)
	case "zsh":
		return root.GenZshCompletion(out)
	case "fish":
		return root.GenFishCompletion(out, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(out)
	}
	return usagef("unknown shell %q%s; the shells are %s", args[0], didYouMean("", args[0], shells()), strings.Join(shells(), ", "))
}

// completeTimeout bounds a completion: somebody's prompt hangs for as long.
const completeTimeout = 500 * time.Millisecond

// maxCompletions bounds what a shell is offered.
const maxCompletions = 1000

// completeContainers offers the names of containers that the agent knows. It
// says nothing where it cannot ask: an error in the middle of a prompt helps nobody.
func (a *app) completeContainers(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	c, err := a.settings(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	b, err := a.askAgent(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer b.Close()
	words := []string{}
	for e, err := range b.List(ctx, workload.Selector{Kinds: []workload.Kind{workload.KindContainer}, All: true}) {
		if err != nil || len(words) >= maxCompletions {
			break
		}
		if e.Container != nil {
			words = appendCompletion(words, e.Container, prefix)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// appendCompletion adds a container's name, if a shell can take it unquoted.
func appendCompletion(words []string, c *workload.Container, prefix string) []string {
	name := containerLabel(c)
	if !strings.HasPrefix(name, prefix) || !containerName.MatchString(name) || len(name) > 128 {
		return words
	}
	return append(words, name+"\t"+plain.Cut(c.Runtime+" "+shortImage(c), 60))
}
