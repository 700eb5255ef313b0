// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Env is everything that Main takes from outside.
type Env struct {
	// Args are the arguments without the program's name.
	Args   []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Getenv reads a variable; nil means that none is set.
	Getenv func(string) string
	// Terminal says that Stdout is a terminal; only then are there colours.
	Terminal bool
	// Version is the release that the linker put into the binary; empty for a development build.
	Version string

	// Now and SinceBoot are the clocks; nil means the host's.
	Now       func() time.Time
	SinceBoot func() workload.KTime

	// The rest is what the commands do to the host; nil means the real thing (host.go).

	// Dial connects to the agent. Its errors match those of package client.
	Dial func(ctx context.Context, c AgentConfig) (Backend, error)
	// Local answers without an agent.
	Local func(ctx context.Context, o LocalOptions) (Backend, error)
	// RunAgent runs until the context ends, CheckAgent prints what would be collected and what is missing.
	RunAgent   func(ctx context.Context, c AgentConfig) error
	CheckAgent func(ctx context.Context, c AgentConfig, w io.Writer) error
}

// withDefaults fills what the caller left out, so that the rest need not ask.
func (e Env) withDefaults() Env {
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	if e.Stdin == nil {
		e.Stdin = strings.NewReader("")
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.SinceBoot == nil {
		e.SinceBoot = sinceBoot
	}
	if e.Dial == nil {
		e.Dial = dialHost
	}
	if e.Local == nil {
		e.Local = localHost
	}
	if e.RunAgent == nil {
		release := releaseOf(e.Version)
		e.RunAgent = func(ctx context.Context, c AgentConfig) error { return runHost(ctx, release, c) }
	}
	if e.CheckAgent == nil {
		e.CheckAgent = checkHost
	}
	return e
}

func sinceBoot() workload.KTime {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // unknown; the clock exists since 2.6.39
	}
	return workload.KTime(ts.Nano())
}

// app is one run of the command line.
type app struct {
	env     Env
	noAgent bool
	timeout time.Duration
	format  string
	// asked names who was asked, for errors.
	asked string
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, env Env) int {
	a := &app{env: env.withDefaults()}
	root := a.root()
	root.SetArgs(slices.Clone(a.env.Args))
	if a.env.Args == nil {
		root.SetArgs([]string{})
	}
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	a.report(cmd, err)
	return exitCode(err)
}

// report prints an error in one line: what failed, what to do.
func (a *app) report(cmd *cobra.Command, err error) {
	var said silence
	if err == nil || errors.As(err, &said) {
		return
	}
	s := newScreen(a.env.Stderr, false)
	name := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "pidigree"), " ")
	if name != "" {
		name += ": "
	}
	// The client names its call first, which may be what the command is called.
	text := strings.TrimPrefix(err.Error(), cmd.Name()+": ")
	s.printf("pidigree: %s%s%s\n", name, text, hint(cmd, err))
	_ = s.close() // nowhere is left to complain
}

// hint says where to read on after a mistake on the command line.
func hint(cmd *cobra.Command, err error) string {
	switch {
	case exitCode(err) != ExitUsage:
		return ""
	case strings.HasSuffix(err.Error(), "?"):
		return fmt.Sprintf(" See '%s --help'", cmd.CommandPath())
	}
	return fmt.Sprintf("; see '%s --help'", cmd.CommandPath())
}

// note says something in passing on standard error.
func (a *app) note(format string, values ...any) {
	s := newScreen(a.env.Stderr, false)
	s.printf("pidigree: "+format+"\n", values...)
	_ = s.close() // as in report
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pidigree",
		Short: "name the workload behind any process of this host",
		Long: `pidigree names the workload behind any process of this host: its container and
the containers around that one, pod, task, system service and image.

An agent learns from the kernel the instant that something starts, and from the
container runtimes what that something is. The other commands ask the agent over
its socket; where none runs, who, explain and list find out by themselves, which
is slower and knows nothing of what has ended.

An answer is right, or it says unknown or conflict. It never guesses.`,
		Example: `  pidigree who 4242              # which container is PID 4242?
  pidigree list                  # what runs on this host?
  pidigree explain 4242          # how does pidigree know?
  pidigree agent                 # run the agent (as root)`,
		Args:          cobra.ArbitraryArgs,
		RunE:          a.noCommand,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       a.version().Version,
	}
	// So that a command after it is not taken for its value.
	root.Flags().Bool("no-agent", false, "")
	_ = root.Flags().MarkHidden("no-agent") // it exists, since the line before
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetVersionTemplate("pidigree {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(a.whoCmd(), a.explainCmd(), a.listCmd(), a.watchCmd(), a.statusCmd(),
		a.agentCmd(), a.versionCmd(), a.completionCmd())
	root.SetHelpCommand(a.helpCmd())
	root.SetHelpFunc(printHelp)
	for _, c := range append(root.Commands(), root) {
		c.Flags().SortFlags = false
		c.DisableFlagsInUseLine = true
	}
	return root
}

// noCommand is pidigree without a command, or with one that does not exist.
func (a *app) noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	return unknownCommand(cmd, args[0])
}

func unknownCommand(root *cobra.Command, word string) error {
	var names []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	if looksNumeric(word) {
		return usagef("unknown command %q: did you mean 'pidigree who %s'?", word, word)
	}
	return usagef("unknown command %q%s", word, didYouMean("", word, names))
}

// flagError turns pflag's errors into ours.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownCommand(cmd, cmd.Flags().Arg(0))
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &exitError{ExitUsage, err}
	}
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		if looksNumeric(short) {
			return usagef("%q is not a PID: PIDs are 1 to %d", "-"+short, workload.MaxPID)
		}
		return usagef("unknown flag %q", "-"+short)
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	name := unknown.GetSpecifiedName()
	return usagef("unknown flag %q%s", "--"+name, didYouMean("--", name, names))
}

// defaultTimeout is how long a command waits for whom it asks: a lookup takes
// microseconds, and a stopped agent accepts connections and says nothing.
const defaultTimeout = 5 * time.Second

// askSettings say whom a command asks.
var askSettings = []string{"socket", "tls.cert", "tls.key", "tls.ca"}

// askFlags adds what every asking command has.
func (a *app) askFlags(cmd *cobra.Command, local bool) {
	flags := cmd.Flags()
	addFlags(flags, func(s setting) bool { return slices.Contains(askSettings, s.key) })
	if local {
		flags.BoolVar(&a.noAgent, "no-agent", false, "answer from /proc, cgroups and runtimes even if an agent runs")
	}
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "`DURATION` how long to wait for an answer; 0 for ever")
}

// settings loads what the flags, the variables and the file say.
func (a *app) settings(cmd *cobra.Command) (AgentConfig, error) {
	if a.timeout < 0 {
		return AgentConfig{}, usagef("--timeout %s is negative", a.timeout)
	}
	l, err := loadConfig(cmd.Flags(), a.env.Getenv)
	return l.config, err
}

// limit bounds a command's time; extra is what the user asked to wait for.
func (a *app) limit(ctx context.Context, extra time.Duration) (context.Context, context.CancelFunc) {
	if a.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, a.timeout+extra)
}

// screen is the standard output of a person.
func (a *app) screen() *screen { return newScreen(a.env.Stdout, a.colour()) }

func (a *app) colour() bool {
	return a.env.Terminal && a.env.Getenv("NO_COLOR") == "" && a.env.Getenv("TERM") != "dumb"
}

// buildInfo is what Go knows of the binary; tests of other binaries have none.
func buildInfo() *debug.BuildInfo {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info
	}
	return &debug.BuildInfo{}
}
