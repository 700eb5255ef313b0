// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/remote"
	"github.com/pidigree/pidigree/pkg/kernel"
)

// probeTimeout bounds the look at one source.
const probeTimeout = 3 * time.Second

// Check writes what an agent with these options would collect here, and what is
// missing, and starts nothing. The error is one of looking; what is missing is text.
func Check(ctx context.Context, o Options, w io.Writer) error {
	o.Procfs, o.Sysfs, o.RunDir = cmp.Or(o.Procfs, "/proc"), cmp.Or(o.Sysfs, "/sys"), cmp.Or(o.RunDir, "/run")
	a := &Agent{opts: o, log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler))}
	p := &checkPage{}
	if o.Remote.Copy {
		p.add(a.checkRemote(ctx))
		return p.write(w)
	}
	caps, err := kernel.Probe(kernel.ProbeOptions{Procfs: o.Procfs, Sysfs: o.Sysfs})
	if err != nil {
		return fmt.Errorf("check kernel: %w", err)
	}
	fs, err := pcgroup.New(pcgroup.Options{Procfs: o.Procfs, CgroupRoot: o.CgroupRoot})
	if err != nil {
		return fmt.Errorf("check cgroups: %w", err)
	}
	defer fs.Close()
	p.kernel(caps, o.NoBPF)
	p.add(checkRow{"cgroups", string(fs.Mode()), cmp.Or(o.CgroupRoot, "every mount"), "", "which process is in which cgroup", fmt.Sprintf("%d hierarchies", len(fs.Hierarchies())), ""})
	cols, err := a.collectors()
	if err != nil {
		return err
	}
	defer closeAll(cols)
	for _, c := range cols {
		p.add(checkSource(ctx, c))
	}
	if o.Remote.Address != "" {
		p.add(a.checkRemote(ctx))
	}
	return p.write(w)
}

// checkRow is one line of the page.
type checkRow struct {
	what, state, where, version, gives, detail, missing string
}

type checkPage struct{ rows []checkRow }

func (p *checkPage) add(r checkRow) { p.rows = append(p.rows, r) }

// kernel has a line for what BPF would need and does not find, each.
func (p *checkPage) kernel(caps kernel.Capabilities, noBPF bool) {
	r := checkRow{
		what: "kernel", state: ModeBPF, version: caps.Kernel, gives: "starts, ends and moves of processes, as they happen",
		detail: fmt.Sprintf("pidfs %v", caps.Pidfs),
	}
	if len(caps.Problems) > 0 || noBPF {
		r.state, r.gives = ModePolling, "processes and cgroups, read from /proc at intervals"
	}
	for i, problem := range caps.Problems {
		if i > 0 {
			p.add(r)
			r = checkRow{what: "kernel"}
		}
		r.missing = problem
	}
	p.add(r)
}

func (p *checkPage) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "WHAT\tSTATE\tWHERE\tVERSION\tGIVES\tDETAIL\tMISSING\n")
	for _, r := range p.rows {
		cells := []string{r.what, r.state, r.where, r.version, r.gives, r.detail, r.missing}
		for i := range cells {
			cells[i] = cmp.Or(strings.ReplaceAll(cells[i], "\t", " "), "-")
		}
		fmt.Fprintf(t, "%s\n", strings.Join(cells, "\t"))
	}
	return t.Flush()
}

func closeAll(cols []collectors.Collector) {
	for _, c := range cols {
		if c, ok := c.(io.Closer); ok {
			_ = c.Close() // an idle connection: there is nobody to tell
		}
	}
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

// gives is what each kind of source adds, in a few words; docs/fields.md has all of it.
var gives = map[string]string{
	"oci":        "init, cgroups, mounts, limits; registers cgroups",
	"docker":     "name, image, labels, networks, ports, exit status",
	"containerd": "name, image, labels, tasks of every namespace; registers cgroups",
	"cri":        "pods, names in the pod, labels, attempts, exit reasons",
	"podman":     "name, pod, image, labels, exit status",
	"ecs":        "a task's service, launch type, zone, statuses, limits, tags, containers",
	"incus":      "Incus' containers: name, project, labels, image, mounts, state; registers cgroups",
	"lxd":        "LXD's containers: name, project, labels, image, mounts, state; registers cgroups",
	"lxc":        "LXC's running containers: name, host name, root file system; registers cgroups",
	"nspawn":     "systemd-nspawn's containers: name, unit, root directory; registers cgroups",
	"systemd":    "a unit's description, state, invocation id, main process",
	"kubelet":    "a pod's owners, phase, conditions, QoS, containers, volumes",
}

// checkRemote looks at the other pidigree.
func (a *Agent) checkRemote(ctx context.Context) checkRow {
	r := checkRow{what: remote.Name, state: "found", where: a.opts.Remote.Address, gives: "what another pidigree knows, and nobody here"}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	st, detail, err := remote.New(a.remoteOptions()).Probe(ctx)
	switch r.version, r.detail = st.Version, detail; {
	case errors.Is(err, client.ErrNoAgent):
		r.state, r.detail = "absent", reason(err)+"; found when it appears"
	case err != nil:
		r.state, r.detail = "failing", reason(err)
	}
	r.missing = lacks(r.where, err)
	return r
}

// checkSource looks at one source as the supervisor does before it starts it.
func checkSource(ctx context.Context, c collectors.Collector) checkRow {
	kind, at, _ := strings.Cut(c.Name(), "@")
	r := checkRow{what: c.Name(), state: "unknown", where: at, gives: gives[kind], detail: "cannot be probed"}
	p, ok := c.(collectors.Prober)
	if !ok {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found, err := p.Probe(ctx)
	r.where, r.version, r.detail = cmp.Or(found.Where, at), found.Version, found.Detail
	r.missing = lacks(found.Where, err)
	switch {
	case errors.Is(err, collectors.ErrNotPresent):
		r.state, r.detail = "absent", reason(err)+"; found when it appears"
	case err != nil:
		r.state, r.detail = "failing", reason(err)
	default:
		r.state = "found"
	}
	return r
}

// reason is an error without what the table says already.
func reason(err error) string {
	text := oneLine(err)
	for _, sentinel := range []error{collectors.ErrNotPresent, collectors.ErrUnavailable} {
		if _, rest, ok := strings.Cut(text, sentinel.Error()+": "); ok {
			text = rest
		}
	}
	return text
}

// lacks says which privilege is missing: what may not be opened where the source is.
func lacks(where string, err error) string {
	for path := range strings.FieldsSeq(where) {
		path = strings.TrimPrefix(path, "unix://")
		var st unix.Stat_t
		mode := uint32(unix.R_OK)
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			mode |= unix.W_OK
		}
		if strings.HasPrefix(path, "/") && errors.Is(unix.Access(path, mode), unix.EACCES) {
			return "may not open " + path + ": run as root, or in its group"
		}
	}
	if errors.Is(err, iofs.ErrPermission) {
		return "permission: run as root"
	}
	return ""
}
