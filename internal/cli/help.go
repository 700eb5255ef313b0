// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "show what a command does",
		Long:  "Show what pidigree, or one of its commands, does, with its flags and examples.",
		Example: `  pidigree help
  pidigree help who`,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			return found.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var words []string
			for _, c := range cmd.Root().Commands() {
				if !c.Hidden && strings.HasPrefix(c.Name(), prefix) {
					words = append(words, c.Name()+"\t"+c.Short)
				}
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// printHelp is the help of every command, made like a manual page.
func printHelp(cmd *cobra.Command, _ []string) {
	// An error to write help has nobody to go to; a closed pipe ends the process anyway.
	_, _ = io.WriteString(cmd.OutOrStdout(), helpText(cmd))
}

func helpText(cmd *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nUsage:\n  %s\n\n%s\n", cmd.CommandPath(), cmd.Short, usageLine(cmd), cmd.Long)
	if cmd.HasSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, c := range visible(cmd) {
			fmt.Fprintf(&b, "  %-11s %s\n", c.Name(), c.Short)
		}
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	b.WriteString("\nFlags:\n")
	b.WriteString(flagLines(cmd))
	if cmd.HasSubCommands() {
		b.WriteString("\n'pidigree COMMAND --help' says more about each.\n")
	}
	return b.String()
}

func usageLine(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return cmd.CommandPath() + " COMMAND [flags] [arguments]"
	}
	return strings.TrimSpace(cmd.Parent().CommandPath() + " " + cmd.Use)
}

// visible are the commands that help shows.
func visible(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			out = append(out, c)
		}
	}
	return out
}

// flagLine is what help and the reference say of a flag.
type flagLine struct{ names, help string }

// flagsOf gives the flags of a command in the order they were added. The first
// word of a flag's usage, if it is in backquotes, stands for its value.
func flagsOf(cmd *cobra.Command) []flagLine {
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	var out []flagLine
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		l := flagLine{names: "    --" + f.Name, help: f.Usage}
		if f.Shorthand != "" {
			l.names = "-" + f.Shorthand + ", --" + f.Name
		}
		if rest, ok := strings.CutPrefix(f.Usage, "`"); ok {
			arg, help, _ := strings.Cut(rest, "` ")
			l.names, l.help = l.names+" "+arg, help
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" && f.DefValue != "[]" {
			l.help += " (default " + f.DefValue + ")"
		}
		out = append(out, l)
	})
	return out
}

// flagLines is the list of flags in a command's help. Text that has no room
// beside a long name goes below it.
func flagLines(cmd *cobra.Command) string {
	const indent = 28
	var b strings.Builder
	for _, l := range flagsOf(cmd) {
		if len(l.names)+4 > indent {
			fmt.Fprintf(&b, "  %s\n%*s%s\n", l.names, indent, "", l.help)
			continue
		}
		fmt.Fprintf(&b, "  %-*s%s\n", indent-2, l.names, l.help)
	}
	return b.String()
}
