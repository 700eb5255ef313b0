// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Podman is a private podman of root's: it has no daemon, so it is its directories.
type Podman struct {
	// Dir holds all of it, and goes with the test.
	Dir string
	// Root is the storage (podman --root), RunRoot its run directory.
	Root    string
	RunRoot string
	// RuncRoot is where runc keeps the state of its containers: <RuncRoot>/<id>/state.json.
	RuncRoot string
	// UID is the user whose it is, 0 for root.
	UID uint32

	engine
}

// podmanConfig keeps what podman writes below dir, and asks the test machine for
// nothing that it may not have: runc, for crun refuses hybrid cgroups; locks in
// files, for those in shared memory are every podman's; no limits to raise.
func podmanConfig(dir string) string {
	return fmt.Sprintf(`[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
lock_type = "file"
tmp_dir = %[1]q
volume_path = %[2]q
infra_image = %[4]q
[network]
network_config_dir = %[3]q
[containers]
default_sysctls = []
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
`, dir+"/tmp", dir+"/volumes", dir+"/net", BusyboxImage)
}

// PodmanPodCommand is what a pod's infra container runs here: BusyboxImage's
// own command, for there is no pause in it.
const PodmanPodCommand = "/bin/sleep 3600"

// StartPodman makes a podman of this machine's with its own storage, loads the
// images and ends all of its containers with the test.
func StartPodman(tb testing.TB, opts EngineOptions) *Podman {
	tb.Helper()
	needRoot(tb)
	bin := tool(tb, "podman")
	tool(tb, "conmon")
	e := newPodman(tb)
	e.cli = tool(tb, "env")
	e.choose = func() []string { return e.command(bin) }
	e.begin(opts)
	return e
}

// newPodman makes the directories.
func newPodman(tb testing.TB) *Podman {
	tb.Helper()
	tool(tb, "runc")
	dir := privateDir(tb, "pdp")
	e := &Podman{Dir: dir, Root: dir + "/root", RunRoot: dir + "/run", RuncRoot: dir + "/runc", engine: engine{tb: tb}}
	// A program with its flag, for the podman that conmon runs when a container ends
	// is not given podman's --runtime-flag, and would leave runc's state behind.
	runc := fmt.Sprintf("#!/bin/sh\nexec /usr/sbin/runc --root %s \"$@\"\n", e.RuncRoot)
	err := errors.Join(
		os.WriteFile(dir+"/containers.conf", []byte(podmanConfig(dir)), 0o600),
		os.Mkdir(dir+"/bin", 0o700),
		os.WriteFile(dir+"/bin/runc", []byte(runc), 0o700),
	)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// command is a podman with what makes it this one, to be run by env.
func (e *Podman) command(bin string) []string {
	return []string{
		"CONTAINERS_CONF=" + e.Dir + "/containers.conf", "PODMAN_IGNORE_CGROUPSV1_WARNING=1", bin,
		"--root", e.Root, "--runroot", e.RunRoot, "--tmpdir", e.Dir + "/tmp", "--storage-driver", "overlay",
		"--cgroup-manager", "cgroupfs", "--runtime", e.Dir + "/bin/runc",
		"--network-config-dir", e.Dir + "/net",
	}
}

func (e *Podman) begin(opts EngineOptions) {
	e.tb.Helper()
	e.tb.Cleanup(e.cleanup)
	e.Load(opts)
}

// Load loads BusyboxImage and the images of opts, for a podman that was started
// with NoImages: until then nothing of it is there, as before it is installed.
func (e *Podman) Load(opts EngineOptions) {
	e.tb.Helper()
	loadImages(e.tb, e.Dir, opts, func(ctx context.Context, tar string) error {
		if err := os.Chown(tar, int(e.UID), int(e.UID)); err != nil {
			return err
		}
		_, err := e.Exec(ctx, "load", "--quiet", "--input", tar)
		return err
	})
}

// StartPodmanIn is StartPodman with the podman of another root directory: a newer
// release of the distribution. Its storage has the same path there and here.
func StartPodmanIn(tb testing.TB, rootfs string, opts EngineOptions) *Podman {
	tb.Helper()
	needRoot(tb)
	e := newPodman(tb)
	// One mount namespace for all commands: what the first one mounts, the next expects.
	script := `set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/run"
mount -t tmpfs tmpfs "$0/tmp"
mkdir -p "$0$1" "$0/run/lock"
mount --bind "$1" "$0$1"
mount --make-rprivate "$0"
touch "$1/mounted"
exec sleep 86400`
	e.d = &daemon{name: "the other root's holder", log: e.Dir + "/holder.log", argv: []string{
		tool(tb, "unshare"), "--mount", "--propagation", "private", "/bin/sh", "-c", script, rootfs, e.Dir,
	}}
	if err := e.d.start(func(context.Context) error { _, err := os.Stat(e.Dir + "/mounted"); return err }); err != nil {
		tb.Fatal(err)
	}
	e.cli = tool(tb, "nsenter")
	chroot := tool(tb, "chroot")
	e.choose = func() []string {
		return append([]string{"--mount=/proc/" + strconv.Itoa(e.PID()) + "/ns/mnt", chroot, rootfs, "/usr/bin/env"}, e.command("podman")...)
	}
	e.begin(opts)
	return e
}

// Podman runs a podman command, gives its output, and ends the test if it fails.
func (e *Podman) Podman(args ...string) string {
	e.tb.Helper()
	return e.must(args...)
}

// Run is podman run --detach --network none ARGS; it gives the container's id.
func (e *Podman) Run(args ...string) string {
	e.tb.Helper()
	return e.Podman(append([]string{"run", "--detach", "--network", "none"}, args...)...)
}

// Pod makes a pod without a network and gives its id. The infra container starts
// with the pod's first container.
func (e *Podman) Pod(name string, args ...string) string {
	e.tb.Helper()
	return e.Podman(append([]string{"pod", "create", "--name", name, "--network", "none", "--infra-command", PodmanPodCommand}, args...)...)
}

// InitPID gives the host's PID of a running container's init.
func (e *Podman) InitPID(id string) int {
	e.tb.Helper()
	pid, err := strconv.Atoi(e.Podman("inspect", "--format", "{{.State.Pid}}", id))
	if err != nil || pid == 0 {
		e.tb.Fatalf("podman inspect %s: PID %d, %v", id, pid, err)
	}
	return pid
}

// Inspect gives one field of a container by a Go template.
func (e *Podman) Inspect(id, template string) string {
	e.tb.Helper()
	return e.Podman("inspect", "--format", template, id)
}

// cleanup ends every container, removes what is left and unmounts it.
func (e *Podman) cleanup() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, _ = e.Exec(ctx, "pod", "rm", "--all", "--force", "--time", "0")
	if _, err := e.Exec(ctx, "rm", "--all", "--force", "--time", "0"); err != nil {
		e.tb.Logf("podman rm: %v", err)
	}
	if e.UID != 0 {
		// The process that holds the user namespace is ended by this alone.
		if _, err := e.Exec(ctx, "system", "migrate"); err != nil {
			e.tb.Logf("podman system migrate: %v", err)
		}
	}
	if e.d != nil {
		e.d.stop()
	}
	e.deleteRest(ctx)
	sweep(e.tb, e.Dir)
}

// deleteRest ends what podman no longer knows.
func (e *Podman) deleteRest(ctx context.Context) {
	states, _ := filepath.Glob(e.RuncRoot + "/*/state.json")
	for _, s := range states {
		_ = exec.CommandContext(ctx, "/usr/sbin/runc", "--root", e.RuncRoot, "delete", "--force", filepath.Base(filepath.Dir(s))).Run()
	}
}

// Conmon gives the PID of a container's monitor.
func (e *Podman) Conmon(id string) int {
	e.tb.Helper()
	b, err := os.ReadFile(e.RunRoot + "/overlay-containers/" + id + "/userdata/conmon.pid")
	if err != nil {
		e.tb.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		e.tb.Fatal(err)
	}
	return pid
}

// StartRootlessPodman makes a podman of another user's with a home of its own, and
// loads the images. On cgroup v1 its containers stay in the cgroups of the caller.
func StartRootlessPodman(tb testing.TB, opts EngineOptions) *Podman {
	tb.Helper()
	needRoot(tb)
	bin, setpriv := tool(tb, "podman"), tool(tb, "setpriv")
	tool(tb, "conmon")
	e := newPodman(tb)
	e.UID = rootlessUID
	e.Root, e.RunRoot = e.Dir+"/home/.local/share/containers/storage", e.Dir+"/xdg/containers"
	for _, d := range []string{"/home", "/xdg"} {
		if err := os.Mkdir(e.Dir+d, 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	err := filepath.WalkDir(e.Dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, rootlessUID, rootlessUID))
	})
	if err != nil {
		tb.Fatal(err)
	}
	e.cli = setpriv
	uid := strconv.Itoa(rootlessUID)
	e.choose = func() []string {
		return []string{
			"--reuid", uid, "--regid", uid, "--clear-groups", "/usr/bin/env", "--chdir=" + e.Dir, "-u", "CONTAINERS_STORAGE_CONF",
			"CONTAINERS_CONF=" + e.Dir + "/containers.conf", "HOME=" + e.Dir + "/home", "XDG_RUNTIME_DIR=" + e.Dir + "/xdg",
			bin, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "/usr/sbin/runc",
		}
	}
	e.begin(opts)
	return e
}

// rootlessUID is the user of rootless podmans: one whom no distribution has.
const rootlessUID = 24242
