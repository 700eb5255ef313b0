// SPDX-License-Identifier: Apache-2.0

package bare

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// stage is where the containers of one test live: a state directory of runc, a
// cgroup of the test's own in each hierarchy, and an agent to ask.
type stage struct {
	t *testing.T
	// root is runc's state directory.
	root string
	// parent is the cgroup that holds the containers', as a path inside its hierarchy.
	parent string
	next   int

	agent  *harness.Agent
	client *client.Client
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, root: filepath.Join(t.TempDir(), "runc"), parent: fmt.Sprintf("/pidigree-bare-%d", os.Getpid())}
	t.Cleanup(s.removeCgroups)
	return s
}

// removeCgroups removes what is left below every hierarchy, deepest first.
func (s *stage) removeCgroups() {
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, s.parent) {
			dirs = append(dirs, path)
		}
		return nil // what is gone is gone
	})
	for _, dir := range slices.Backward(dirs) {
		err := eventually(func() error {
			if err := os.Remove(dir); !os.IsNotExist(err) {
				return err
			}
			return nil
		})
		if err != nil {
			s.t.Error(err)
		}
	}
}

// eventually tries until it works or patience ends.
func eventually(try func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// container is a running container whose init is a servant.
type container struct {
	id string
	// pid is the host's PID of its init, pidns what its PID namespace is called.
	pid   int
	pidns string

	t       *testing.T
	orders  io.Writer
	answers *bufio.Reader
}

// start runs a container of that id. The host's cgroups are in it at /cg, and
// dirs at their own paths: an attacker's dream.
func (s *stage) start(id string, dirs ...string) *container {
	t := s.t
	t.Helper()
	s.next++
	bundle := filepath.Join(t.TempDir(), fmt.Sprintf("bundle%d", s.next))
	writeBundle(t, bundle, s.parent+"/"+id, dirs)
	in, orders := pipe(t)
	answers, out := pipe(t)
	log := filepath.Join(bundle, "log")
	cmd := exec.Command("runc", "--root", s.root, "--log", log, "run", "--detach", "--bundle", bundle, "--pid-file", bundle+"/pid", id)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	t.Cleanup(func() {
		if msg, err := exec.Command("runc", "--root", s.root, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("runc delete: %v: %s", err, msg)
		}
	})
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log)
		t.Fatalf("runc run: %v: %s", err, said)
	}
	in.Close()
	out.Close()
	b, err := os.ReadFile(bundle + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	c := &container{id: id, t: t, orders: orders, answers: bufio.NewReader(answers)}
	if c.pid, err = strconv.Atoi(string(b)); err != nil {
		t.Fatal(err)
	}
	if c.pidns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.pid)); err != nil {
		t.Fatal(err)
	}
	return c
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// writeBundle makes a container of the servant and pidigree alone, bound into an empty root.
func writeBundle(t *testing.T, bundle, cgroup string, dirs []string) {
	t.Helper()
	if err := os.MkdirAll(bundle+"/rootfs", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("runc", "spec")
	cmd.Dir = bundle
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v: %s", err, out)
	}
	b, err := os.ReadFile(bundle + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	bind := func(from, to string) map[string]any {
		return map[string]any{"destination": to, "type": "bind", "source": from, "options": []string{"rbind", "rw"}}
	}
	mounts := []any{bind(programs.Servant, "/servant"), bind(programs.Pidigree, "/pidigree"), bind("/sys/fs/cgroup", "/cg")}
	for _, dir := range dirs {
		mounts = append(mounts, bind(dir, dir))
	}
	spec["mounts"] = append(spec["mounts"].([]any), mounts...)
	spec["linux"].(map[string]any)["cgroupsPath"] = cgroup
	spec["root"] = map[string]any{"path": "rootfs"} // runc makes the mount points in it
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/servant"}
	if b, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle+"/config.json", b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// order gives the servant one line and returns its answer.
func (c *container) order(words ...string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.orders, strings.Join(words, " ")); err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.answers.ReadString('\n')
	if err != nil {
		c.t.Fatal("the servant is gone:", err)
	}
	answer = strings.TrimSpace(answer)
	if strings.HasPrefix(answer, "error") {
		c.t.Fatalf("%s: %s", strings.Join(words, " "), answer)
	}
	return answer
}

// sitter is a process that a container's init has started.
type sitter struct {
	c *container
	// pid is the host's number of it, inside the container's own.
	pid, inside int
}

// sitter starts one, by an order for the servant.
func (c *container) sitter(words ...string) sitter {
	c.t.Helper()
	var inside int
	if _, err := fmt.Sscanf(c.order(words...), "pid %d", &inside); err != nil {
		c.t.Fatal(err)
	}
	return sitter{c, c.hostPID(inside), inside}
}

func (p sitter) end() {
	p.c.t.Helper()
	p.c.order("end", strconv.Itoa(p.inside))
}

// hostPID finds a process of the container's PID namespace by its PID there.
func (c *container) hostPID(inside int) int {
	c.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != c.pidns {
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "NSpid:" && f[2] == strconv.Itoa(inside) {
				pid, _ := strconv.Atoi(f[1])
				return pid
			}
		}
	}
	c.t.Fatalf("no process %d in %s", inside, c.pidns)
	return 0
}

// cgroup gives the directory of a process in one hierarchy, as the containers see it below /cg.
func cgroup(t *testing.T, pid int, mount hierarchy) string {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "cgroup")) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[1] == mount.name {
			return filepath.Join(mount.dir, f[2])
		}
	}
	t.Fatalf("process %d has no cgroup in %q", pid, mount.name)
	return ""
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hierarchy is a mounted one: its controllers as /proc/PID/cgroup lists them
// (empty for v2) and its directory below the cgroup root.
type hierarchy struct{ name, dir string }

// hierarchies gives those mounted whole below /sys/fs/cgroup, v2 first.
func hierarchies(t *testing.T) []hierarchy {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounted := make(map[string]string) // by the last element, as "cpu,cpuacct"
	var list []hierarchy
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		tail := strings.Fields(line[strings.Index(line, " - ")+3:])
		dir, ok := strings.CutPrefix(f[4], "/sys/fs/cgroup")
		switch {
		case !ok || f[3] != "/":
		case tail[0] == "cgroup2":
			list = append(list, hierarchy{"", "/cg" + dir})
		case tail[0] == "cgroup":
			mounted[tail[2]] = "/cg" + dir
		}
	}
	for line := range strings.Lines(procFile(t, os.Getpid(), "cgroup")) {
		name := strings.SplitN(line, ":", 3)[1]
		for options, dir := range mounted {
			if name != "" && strings.HasSuffix(options, ","+name) {
				list = append(list, hierarchy{name, dir})
			}
		}
	}
	if len(list) == 0 {
		t.Fatal("no cgroup hierarchy is mounted whole below /sys/fs/cgroup")
	}
	return list
}

// output runs a program and gives what it printed.
func output(t *testing.T, argv ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s%s", strings.Join(argv, " "), err, out, stderr.String())
	}
	return string(out)
}
