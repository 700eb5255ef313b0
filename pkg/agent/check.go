// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
)

// probeTimeout bounds the look at one source.
const probeTimeout = 3 * time.Second

// Check writes what an agent with these options would collect here, and what is
// missing, and starts nothing. The error is one of looking; what is missing is text.
func Check(ctx context.Context, o Options, w io.Writer) error {
	o.Procfs, o.Sysfs, o.RunDir = cmp.Or(o.Procfs, "/proc"), cmp.Or(o.Sysfs, "/sys"), cmp.Or(o.RunDir, "/run")
	caps, err := kernel.Probe(kernel.ProbeOptions{Procfs: o.Procfs, Sysfs: o.Sysfs})
	if err != nil {
		return fmt.Errorf("check kernel: %w", err)
	}
	fs, err := pcgroup.New(pcgroup.Options{Procfs: o.Procfs, CgroupRoot: o.CgroupRoot})
	if err != nil {
		return fmt.Errorf("check cgroups: %w", err)
	}
	defer fs.Close()
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "WHAT\tSTATE\tWHERE\tDETAIL\n")
	mode := ModeBPF
	if len(caps.Problems) > 0 || o.NoBPF {
		mode = ModePolling
	}
	fmt.Fprintf(t, "kernel\t%s\t%s\tpidfs %v\n", mode, caps.Kernel, caps.Pidfs)
	fmt.Fprintf(t, "cgroups\t%s\t%s\t%d hierarchies\n", fs.Mode(), cmp.Or(o.CgroupRoot, "every mount"), len(fs.Hierarchies()))
	a := &Agent{opts: o, log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler))}
	cols, err := a.collectors()
	if err != nil {
		return err
	}
	for _, c := range cols {
		checkSource(ctx, t, c)
	}
	for _, p := range caps.Problems {
		fmt.Fprintf(t, "missing\t\t\t%s\n", p)
	}
	return t.Flush()
}

// Unseen says what this process may not read of the host and what to do about
// it, in one line; it is empty where it may read everything.
func Unseen() string {
	missing, err := kernel.MissingCapabilities()
	reading := []string{"CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"}
	missing = slices.DeleteFunc(missing, func(c string) bool { return !slices.Contains(reading, c) })
	if err != nil || len(missing) == 0 || os.Geteuid() == 0 {
		return ""
	}
	return fmt.Sprintf("user %d does not see all of them (missing %s): run this as root", os.Geteuid(), strings.Join(missing, ", "))
}

func checkSource(ctx context.Context, w io.Writer, c collectors.Collector) {
	p, ok := c.(collectors.Prober)
	if !ok {
		fmt.Fprintf(w, "%s\tunknown\t\tcannot be probed\n", c.Name())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	r, err := p.Probe(ctx)
	switch {
	case errors.Is(err, collectors.ErrNotPresent):
		fmt.Fprintf(w, "%s\tabsent\t%s\tfound when it appears\n", c.Name(), r.Where)
	case err != nil:
		fmt.Fprintf(w, "%s\tfailing\t%s\t%s\n", c.Name(), r.Where, oneLine(err))
	default:
		fmt.Fprintf(w, "%s\tfound\t%s\t%s %s\n", c.Name(), r.Where, r.Version, r.Detail)
	}
}
