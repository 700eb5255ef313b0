// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// InnerDockerd is a Docker engine in a container of another one: its own dockerd,
// containerd and runc, from the files of this machine. It sees the cgroups of the
// container that it is in as its root, in the v1 hierarchies or in v2 alone.
type InnerDockerd struct {
	// ID is the container that it is in.
	ID string
	// Dir is /inner in there, Socket the engine's as the host sees it.
	Dir    string
	Socket string

	tb    testing.TB
	outer *Dockerd
	cli   string
}

// innerScript makes the cgroups writable, which Docker mounts read-only without
// --privileged, and becomes the engine. --privileged itself needs every capability
// that there is, which not every machine's root has.
const innerScript = `for d in /sys/fs/cgroup /sys/fs/cgroup/*; do /bin/busybox mount -o remount,rw,bind "$d" 2>/dev/null; done
exec dockerd --config-file /inner/daemon.json --host unix:///inner/d.sock --data-root /inner/root --exec-root /run/docker \
	--pidfile /run/d.pid --bridge=none --iptables=false --ip6tables=false --userland-proxy=false --shutdown-timeout=1 `

// StartInner starts a container with an engine in it, waits until that answers and
// gives it BusyboxImage. args are further ones of docker run, --name among them.
func (e *Dockerd) StartInner(args ...string) *InnerDockerd {
	e.tb.Helper()
	dir := privateDir(e.tb, "pdi")
	n := &InnerDockerd{Dir: dir, Socket: dir + "/d.sock", tb: e.tb, outer: e, cli: e.cli}
	e.tb.Cleanup(n.cleanup)
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}\n"), 0o600); err != nil {
		e.tb.Fatal(err)
	}
	script := innerScript
	score := func(arg string) bool { return strings.HasPrefix(arg, "--oom-score-adjust") } // until Docker 25; see StartDockerd
	if i := slices.IndexFunc(e.d.argv, score); i >= 0 {
		script += e.d.argv[i]
	}
	flags := []string{"--volume", dir + ":/inner", "--tmpfs", "/run:exec", "--tmpfs", "/tmp", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"}
	for _, c := range []string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"} {
		flags = append(flags, "--cap-add", c)
	}
	for _, d := range []string{"/usr", "/lib", "/lib64", "/etc/alternatives"} {
		if _, err := os.Stat(d); err == nil {
			flags = append(flags, "--volume", d+":"+d+":ro")
		}
	}
	n.ID = e.Run(append(append(flags, args...), BusyboxImage, "/bin/busybox", "sh", "-c", script)...)
	n.await()
	busybox, err := Busybox()
	if err != nil {
		e.tb.Fatal(err)
	}
	tar := writeImage(e.tb, dir, busybox)
	n.Docker("load", "--quiet", "--input", tar)
	_ = os.Remove(tar)
	return n
}

func (n *InnerDockerd) await() {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(n.tb.Context(), startTimeout)
	defer cancel()
	err := poll(ctx, func() error {
		if err := socketAnswers(n.Socket); err != nil {
			return err
		}
		_, err := n.Exec(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
	if err != nil {
		log, _ := n.outer.Exec(context.WithoutCancel(ctx), "logs", "--tail", "20", n.ID)
		n.tb.Fatal(fmt.Errorf("the inner dockerd does not answer: %w; its log ends:\n%s", err, log))
	}
}

// Exec runs the docker client, of this machine, and gives its output.
func (n *InnerDockerd) Exec(ctx context.Context, args ...string) (string, error) {
	return run(ctx, n.cli, append([]string{"--host", "unix://" + n.Socket}, args...)...)
}

// Docker runs the docker client, gives its output, and ends the test if it fails.
func (n *InnerDockerd) Docker(args ...string) string {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(n.tb.Context(), commandTimeout)
	defer cancel()
	out, err := n.Exec(ctx, args...)
	if err != nil {
		n.tb.Fatal(err)
	}
	return out
}

// Run is docker run --detach --network none ARGS; it gives the container's id.
func (n *InnerDockerd) Run(args ...string) string {
	n.tb.Helper()
	return n.Docker(append([]string{"run", "--detach", "--network", "none"}, args...)...)
}

// cleanup removes the container; what is in it ends with its PID namespace.
func (n *InnerDockerd) cleanup() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if n.ID != "" {
		if _, err := n.outer.Exec(ctx, "rm", "--force", "--volumes", n.ID); err != nil {
			n.tb.Log(err)
		}
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.tb.Errorf("remove %s: %v", n.Dir, err)
	}
}
