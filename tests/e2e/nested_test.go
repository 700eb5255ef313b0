// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// innerContainerd is the containerd of a Docker in a container, used as that of a
// node of kind's is: containers in the namespace k8s.io, named by a label.
type innerContainerd struct {
	t      *testing.T
	docker *collectortest.Dockerd
	node   string
}

// innerSocket is where containerd listens, as its own container sees it.
const innerSocket = "/run/docker/containerd/containerd.sock"

// ctr runs in the container, for it mounts what the container's processes are to see.
func (n *innerContainerd) ctr(args ...string) {
	n.t.Helper()
	n.docker.Docker(append([]string{"exec", n.node, "ctr", "--address", innerSocket, "--namespace", "k8s.io"}, args...)...)
}

// start starts a container of an init, a child and an exec'd process.
func (n *innerContainerd) start(name, id string) {
	n.t.Helper()
	n.ctr("run", "--detach", "--null-io", "--label", "io.kubernetes.container.name="+name, collectortest.BusyboxImage, id,
		"/bin/busybox", "sh", "-c", "sleep 7321 & sleep 7322")
	n.ctr("tasks", "exec", "--detach", "--exec-id", "e", id, "/bin/busybox", "sleep", "7323")
}

// inCgroupsOf lists who has an id in the name of a cgroup.
func inCgroupsOf(id string) (pids []workload.PID) {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup") // the pattern is well formed
	for _, file := range files {
		b, _ := os.ReadFile(file) // it may have ended
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && strings.Contains(string(b), id) {
			pids = append(pids, workload.PID(pid))
		}
	}
	return pids
}

// resolved asks about one PID.
func resolved(t *testing.T, c *client.Client, pid workload.PID) (workload.Answer, error) {
	t.Helper()
	results, err := c.Resolve(t.Context(), workload.Query{PID: pid})
	if err != nil {
		return workload.Answer{}, err
	}
	return results[0].Answer, results[0].Err
}

// isInside gives what is said of a process, and what is wrong with it if it is not in
// containers of these names, outermost first; of none, on the host.
func isInside(t *testing.T, c *client.Client, pid workload.PID, names ...string) (workload.Answer, error) {
	t.Helper()
	a, err := resolved(t, c, pid)
	if err != nil {
		return a, err
	}
	var got []string
	for _, link := range a.Containers {
		got = append(got, link.Name)
	}
	if !slices.Equal(got, names) || len(names) > 0 && (a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed) {
		return a, fmt.Errorf("PID %d is %s, %s, in %q (%s), want %q", pid, a.Status, a.Confidence, got, a.Reason, names)
	}
	return a, nil
}

// awaitInside waits until so many processes in cgroups of an id's are in containers of
// these names, outermost first, and gives their answers.
func awaitInside(t *testing.T, c *client.Client, id string, n int, names ...string) (answers []workload.Answer) {
	t.Helper()
	err := harness.Within(patience, func() error {
		answers = nil
		for _, pid := range inCgroupsOf(id) {
			a, err := isInside(t, c, pid, names...)
			if err != nil {
				return err
			}
			answers = append(answers, a)
		}
		if len(answers) != n {
			return fmt.Errorf("%d processes, want %d", len(answers), n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return answers
}

// An agent that is told of the socket of a containerd in a container has what that
// one runs inside of that container, by its names: what it found and what starts
// later. It can give nothing of the host's another name.
func TestTheContainersOfAContainerdInAContainerAreInside(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	inner := docker.StartInner("--name", "node")
	victim := docker.Run("--name", "victim", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7320")
	n := &innerContainerd{t: t, docker: docker, node: inner.ID}
	inner.Docker("save", "--output", inner.Dir+"/image.tar", collectortest.BusyboxImage)
	n.ctr("images", "import", "/inner/image.tar")
	ids := map[string]string{}
	for _, name := range []string{"early", "later"} {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails
		ids[name] = hex.EncodeToString(b)
	}
	n.start("early", ids["early"])
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--containerd-nested", fmt.Sprintf("/proc/%d/root%s", docker.InitPID(inner.ID), innerSocket)}})
	c := connect(t, agent)
	n.start("later", ids["later"])
	for name, id := range ids {
		for _, a := range awaitInside(t, c, id, 3, "node", name) {
			in := a.Container()
			if in.ID.ID != id || in.ID.Namespace != "k8s.io" || in.Image.Name != collectortest.BusyboxImage || in.Parent.ID != inner.ID || in.Labels["io.kubernetes.container.name"] != name {
				t.Errorf("%s: it is %s of %q inside of %s, with labels %v", name, in.ID, in.Image.Name, in.Parent, in.Labels)
			}
		}
	}
	n.start("victim", victim) // in there, with the id and the name of one of the host's
	awaitProcesses(t, c, victim, map[string]int{"victim": 1, "node": 3})
	n.ctr("tasks", "kill", "--signal", "KILL", "--all", ids["early"])
	n.ctr("tasks", "delete", "--force", ids["early"])
	n.ctr("containers", "delete", ids["early"])
	err := harness.Within(patience, func() error {
		for e, err := range c.List(t.Context(), workload.Selector{}) {
			if err != nil {
				return err
			}
			if e.Container.ID.ID == ids["early"] {
				return fmt.Errorf("it is deleted, and %s", e.Container.State)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// awaitProcesses waits until the processes in cgroups of an id's are in that many
// containers of one link each.
func awaitProcesses(t *testing.T, c *client.Client, id string, want map[string]int) {
	t.Helper()
	err := harness.Within(patience, func() error {
		got := map[string]int{}
		for _, pid := range inCgroupsOf(id) {
			a, err := resolved(t, c, pid)
			if err != nil {
				return err
			}
			if len(a.Containers) != 1 || a.Confidence != workload.Confirmed {
				return fmt.Errorf("PID %d is %s, %s, in %d containers (%s)", pid, a.Status, a.Confidence, len(a.Containers), a.Reason)
			}
			got[a.Container().Name]++
		}
		for name, n := range want {
			if got[name] != n {
				return fmt.Errorf("they are in %v, want %v", got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
