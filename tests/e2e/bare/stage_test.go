// SPDX-License-Identifier: Apache-2.0

package bare

import (
	"bufio"
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
		err := harness.Within(patience, func() error {
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

// container is a running container whose init is a servant.
type container struct {
	id string
	// pid is the host's PID of its init.
	pid int

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
	spec := harness.RuncSpec(t, "/servant")
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
	harness.WriteSpec(t, bundle, spec)
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
	return sitter{c, harness.Child(c.t, c.pid, inside), inside}
}

func (p sitter) end() {
	p.c.t.Helper()
	p.c.order("end", strconv.Itoa(p.inside))
}

// inside is where the containers see a cgroup of ours.
func inside(dir string) string { return "/cg" + strings.TrimPrefix(dir, harness.CgroupRoot) }

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
