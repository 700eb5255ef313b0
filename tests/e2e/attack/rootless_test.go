// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// rootless: a container of another user's podman, whose state we do not read.
// On v1 its processes stay in the cgroups of whoever started it. It may be the
// host's, or unknown; it is nobody else's, and no conflict. The guest has no podman.
func (s *stage) rootless(t *testing.T) {
	podman, err := exec.LookPath("podman")
	if err != nil {
		t.Fatalf("%v: scripts/packages.sh test installs it", err)
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	rootfs := dir + "/rootfs"
	for _, d := range []string{dir + "/home/.config/containers", dir + "/xdg", rootfs + "/proc", rootfs + "/dev", rootfs + "/sys", rootfs + "/etc", rootfs + "/run", rootfs + "/tmp"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	harness.BusyboxRoot(t, rootfs)
	conf := "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"runc\"\n[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n"
	if err := os.WriteFile(dir+"/home/.config/containers/containers.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return os.Chown(path, uid, gid)
	})
	if err != nil {
		t.Fatal(err)
	}
	as := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "setpriv", append([]string{"--reuid", u.Uid, "--regid", u.Gid, "--clear-groups", podman}, args...)...)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir + "/home", "XDG_RUNTIME_DIR=" + dir + "/xdg", "PATH=/usr/sbin:/sbin:" + os.Getenv("PATH"), "USER=nobody"}
		return cmd
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cid := dir + "/xdg/cid"
	log, err := os.Create(dir + "/log") // conmon keeps the output open
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := as(ctx, "run", "--detach", "--cidfile", cid, "--network", "none", "--rootfs", rootfs, "/bin/busybox", "sleep", "7302")
	cmd.Stdout, cmd.Stderr = log, log
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		_ = as(ctx, "rm", "--force", "--time", "0", "--all").Run()
		_ = as(ctx, "system", "migrate").Run() // ends the pause process that holds the user namespace
	})
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(dir + "/log")
		t.Fatalf("podman run as %s: %v\n%s", u.Username, err, text)
	}
	out, err := as(ctx, "inspect", "--format", "{{.State.Pid}}", "--latest").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid == 0 {
		t.Fatalf("podman inspect: %q: %v", out, err)
	}
	id, _ := os.ReadFile(cid)
	var a workload.Answer
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); { // what is just made may be on its way
		a = s.ask(t, pid)
		if a.Status == workload.StatusConflict {
			t.Fatalf("it is a conflict: %s", a.Reason)
		}
		if c := a.Container(); c != nil && c.ID.ID != string(id) {
			t.Fatalf("WRONG: it is said to be of %s", c.ID)
		}
	}
	t.Logf("%s %q in %q", a.Status, a.Reason, plain(harness.ProcFile(t, pid, "cgroup")))
}
