// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// LXD is a private LXD with a storage pool that is a directory and no network.
type LXD struct {
	// Dir is LXD_DIR, and goes with the test.
	Dir    string
	Socket string

	engine
}

// lxdSetup is what "lxd init" is told.
const lxdSetup = `storage_pools:
- name: default
  driver: dir
profiles:
- name: default
  devices:
    root: {path: /, pool: default, type: disk}
`

// lxdImage is the alias of the image that Launch uses: a busybox that has a child.
const lxdImage = "box"

// StartLXD starts an LXD, waits until it answers, imports an image and stops all of it
// when the test ends.
func StartLXD(tb testing.TB) *LXD {
	tb.Helper()
	needRoot(tb)
	env := tool(tb, "env")
	tool(tb, "lxd")
	tool(tb, "lxc")
	dir := privateDir(tb, "pdx") // a container's command socket has the path in its name
	l := &LXD{Dir: dir + "/lxd", Socket: dir + "/lxd/unix.socket"}
	vars := []string{"LXD_DIR=" + l.Dir, "HOME=" + dir}
	l.engine = engine{tb: tb, cli: env, choose: func() []string { return append(vars, "lxc") }}
	l.d = &daemon{name: "lxd", log: dir + "/log", argv: append(append([]string{env}, vars...), "lxd", "--group", "root")}
	tb.Cleanup(func() {
		l.d.stop()
		sweep(tb, dir)
	})
	// An unprivileged container's root is somebody who has to get there.
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(l.Dir, 0o711)); err != nil {
		tb.Fatal(err)
	}
	if err := l.Start(); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), commandTimeout)
	defer cancel()
	setup := exec.CommandContext(ctx, env, append(vars, "lxd", "init", "--preseed")...)
	setup.Stdin = strings.NewReader(lxdSetup)
	if out, err := setup.CombinedOutput(); err != nil {
		tb.Fatalf("lxd init: %v: %s", err, out)
	}
	l.must("image", "import", l.image(dir+"/image"), "--alias", lxdImage, "--quiet")
	return l
}

// Start starts the server, again after Kill.
func (l *LXD) Start() error {
	return l.d.start(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := l.Exec(ctx, "query", "/1.0")
		return err
	})
}

// Kill ends the server at once. Its containers go on.
func (l *LXD) Kill() { l.kill() }

// image makes the file of an image: a description and a root file system.
func (l *LXD) image(dir string) string {
	l.tb.Helper()
	img, err := Busybox()
	if err != nil {
		l.tb.Fatal(err)
	}
	data, err := os.ReadFile(img.Files["bin/busybox"])
	for _, d := range []string{"bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "run", "root"} {
		err = errors.Join(err, os.MkdirAll(dir+"/rootfs/"+d, 0o755))
	}
	err = errors.Join(err,
		os.WriteFile(dir+"/rootfs/bin/busybox", data, 0o755),
		os.WriteFile(dir+"/rootfs/sbin/init", []byte("#!/bin/busybox sh\n/bin/busybox sleep 601 &\nexec /bin/busybox sleep 602\n"), 0o755),
		os.WriteFile(dir+"/metadata.yaml", []byte("architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: Box\n  description: A busybox that sleeps\n"), 0o644),
	)
	if err != nil {
		l.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.tb.Context(), commandTimeout)
	defer cancel()
	if _, err := run(ctx, tool(l.tb, "tar"), "-C", dir, "-czf", dir+".tgz", "metadata.yaml", "rootfs"); err != nil {
		l.tb.Fatal(err)
	}
	return dir + ".tgz"
}

var instances atomic.Int64

// Name gives a name that no other container of this machine's tests has: cgroups are
// named after them.
func (l *LXD) Name() string { return fmt.Sprintf("pd%d-i%d", os.Getpid(), instances.Add(1)) }

// Launch makes a container, starts it and gives its init, by LXD's own word. args are
// further ones of "lxc launch".
func (l *LXD) Launch(tb testing.TB, name string, args ...string) int {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), commandTimeout)
	defer cancel()
	tb.Cleanup(func() { l.Delete(name, args...) })
	if _, err := l.Exec(ctx, append([]string{"launch", lxdImage, name, "--quiet"}, args...)...); err != nil {
		tb.Fatal(err)
	}
	return l.Init(tb, name, args...)
}

// Create makes a container that sees a directory of the host's at another path, and
// whose init is the command, and starts it. Delete ends it.
func (l *LXD) Create(ctx context.Context, name, dir, at string, init ...string) error {
	for _, args := range [][]string{
		{"init", lxdImage, name, "--quiet", "--config", "raw.lxc=lxc.init.cmd = " + strings.Join(init, " ")},
		{"config", "device", "add", name, "shared", "disk", "source=" + dir, "path=" + at, "readonly=true"},
		{"start", name},
	} {
		if _, err := l.Exec(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// DeleteAll ends all containers of the default project and removes them. One that is
// being stopped may not be told so twice, and is told again.
func (l *LXD) DeleteAll(ctx context.Context) error {
	return poll(ctx, func() error {
		out, err := l.Exec(ctx, "list", "--format", "csv", "--columns", "n")
		for name := range strings.FieldsSeq(out) {
			_, derr := l.Exec(ctx, "delete", "--force", name)
			err = errors.Join(err, derr)
		}
		return err
	})
}

// Init gives the init of a container that runs. Of args, a project is looked at.
func (l *LXD) Init(tb testing.TB, name string, args ...string) int {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), commandTimeout)
	defer cancel()
	out, err := l.Exec(ctx, "query", "/1.0/instances/"+name+"/state?project="+projectOf(args))
	var state struct {
		PID int `json:"pid"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &state)
	}
	if err != nil || state.PID <= 0 {
		tb.Fatalf("the state of %s is %s, %v", name, out, err)
	}
	return state.PID
}

// Delete ends a container and removes it. It may be gone already.
func (l *LXD) Delete(name string, args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	_, _ = l.Exec(ctx, "delete", "--force", name, "--project", projectOf(args))
}

// projectOf finds --project among arguments.
func projectOf(args []string) string {
	for i, a := range args {
		if a == "--project" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "default"
}
