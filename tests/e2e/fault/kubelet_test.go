// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// staticPod is a manifest of a pod whose main container stays.
const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: side-%[1]s, image: %[2]q, imagePullPolicy: Never, command: [/bin/sleep, "3600"], restartPolicy: Always}
  containers:
  - {name: main-%[1]s, image: %[2]q, imagePullPolicy: Never, command: [/bin/sleep, "3600"]}
`

// node is a kubelet on its engine, with an agent beside them.
type node struct {
	*testing.T
	k      *collectortest.Kubelet
	e      *collectortest.CRI
	client *client.Client
	// pids are the inits of the main containers, by pod.
	pids map[string]int
}

// A kubelet that is installed late, killed, restarted and stopped: whose process
// it is needs no kubelet, no pod ends because of it, and what it adds is there
// again soon after.
func TestTheKubeletFails(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	n := &node{T: t, e: e, k: collectortest.NewKubelet(t, e), pids: map[string]int{}}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{CRI: e, Kubelet: n.k})
	var err error
	if n.client, err = client.New(client.Options{Socket: agent.Socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.client.Close() })

	n.within("before it is installed", 10*time.Second, n.failing)
	if err := n.k.Start(); err != nil {
		t.Fatal(err)
	}
	n.within("once it is installed", 10*time.Second, n.runs)
	n.make("a")
	n.make("b")
	n.whole("a", "b")

	n.k.Kill()
	n.during("killed")
	n.within("killed", 40*time.Second, n.failing)
	n.during("known to be killed")
	if err := n.k.Start(); err != nil {
		t.Fatal(err)
	}
	n.within("started again", 10*time.Second, n.runs)
	n.whole("a", "b")

	if err := n.k.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.during("stopped")
	if err := n.k.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.within("after it was stopped", 10*time.Second, n.runs)
	n.make("c")
	n.whole("a", "b", "c")

	n.k.RemovePod("a")
	// The kubelet has its dead sandboxes removed once a minute, and the engine has the pod until then.
	n.within("a is removed", 3*time.Minute, func() error { return n.pod("a", true) })
	n.whole("b", "c")
	n.within("its process after its end", 10*time.Second, func() error { return n.who("a", true) })
}

// make makes a pod and waits until its main container runs, as the engine has it.
func (n *node) make(name string) {
	n.Helper()
	n.k.AddPod(name, fmt.Sprintf(staticPod, name, collectortest.BusyboxImage))
	n.within(name+" starts", time.Minute, func() error {
		list, err := n.e.Containers(n.Context())
		for _, c := range list {
			if c.Name == "main-"+name && c.PID != 0 {
				n.pids[name] = c.PID
				return nil
			}
		}
		return errors.Join(err, errors.New("no container runs"))
	})
}

// whole waits until everything is known of the pods.
func (n *node) whole(names ...string) {
	n.Helper()
	for _, name := range names {
		n.within(name, 40*time.Second, func() error { return errors.Join(n.who(name, false), n.role(name), n.pod(name, false)) })
	}
}

// during asks again and again while the kubelet gives nothing: all answers are as
// before, each at once, and no pod has ended.
func (n *node) during(what string) {
	n.Helper()
	for range 20 {
		for name := range n.pids {
			began := time.Now()
			if err := errors.Join(n.who(name, false), n.role(name), n.pod(name, false)); err != nil {
				n.Errorf("%s: %s: %v", what, name, err)
			}
			if d := time.Since(began); d > time.Second {
				n.Errorf("%s: %s took %v", what, name, d)
			}
		}
	}
}

func (n *node) container(name string) (workload.Answer, *workload.Container, error) {
	rs, err := n.client.Resolve(n.Context(), workload.Query{PID: workload.PID(n.pids[name])})
	if err != nil {
		return workload.Answer{}, nil, err
	}
	a := rs[0].Answer
	if rs[0].Err != nil || len(a.Containers) != 1 {
		return a, nil, fmt.Errorf("process %d is %s of %d containers, %w", n.pids[name], a.Status, len(a.Containers), rs[0].Err)
	}
	return a, a.Containers[0], nil
}

// who: the process is of the pod's main container.
func (n *node) who(name string, exited bool) error {
	a, c, err := n.container(name)
	if err != nil {
		return err
	}
	if c.Name != "main-"+name || c.Pod == nil || c.Pod.Name != name+"-"+collectortest.KubeletNode || c.Pod.Namespace != "shop" || c.Pod.UID == "" || a.Exited != exited {
		return fmt.Errorf("%q of pod %+v, exited %v", c.Name, c.Pod, a.Exited)
	}
	return nil
}

// role: what only the kubelet knows.
func (n *node) role(name string) error {
	_, c, err := n.container(name)
	if err == nil && c.Role != workload.RoleMain {
		err = fmt.Errorf("its role is %q", c.Role)
	}
	return err
}

// pod: the pod is there as the kubelet has it, or is a tombstone.
func (n *node) pod(name string, gone bool) error {
	_, c, err := n.container(name)
	if err != nil {
		return err
	}
	e, err := n.client.Get(n.Context(), workload.KindPod, c.Pod.UID)
	if err != nil {
		return err
	}
	p := e.Pod
	if p == nil || e.Gone != gone || p.QoS != "BestEffort" || !p.Static || p.Node != collectortest.KubeletNode || len(p.Containers) != 2 {
		return fmt.Errorf("gone %v, %+v", e.Gone, p)
	}
	if s := p.Containers[0]; s.Role != workload.RoleSidecar {
		return fmt.Errorf("%s is %s", s.Name, s.Role)
	}
	return nil
}

func (n *node) runs() error    { return n.state("running") }
func (n *node) failing() error { return n.state("failing") }

func (n *node) state(want string) error {
	st, err := n.client.Status(n.Context())
	if err != nil {
		return err
	}
	for _, s := range st.Sources {
		if s.Name == "kubelet" && s.State == want {
			return nil
		}
		if s.Name == "kubelet" {
			return fmt.Errorf("the source is %s: %s", s.State, s.LastError)
		}
	}
	return errors.New("there is no such source")
}

// within waits for what nobody announces, and says how long it took.
func (n *node) within(what string, patience time.Duration, fn func() error) {
	n.Helper()
	began := time.Now()
	if err := harness.Within(patience, fn); err != nil {
		n.Fatalf("%s: after %v: %v", what, time.Since(began).Round(time.Millisecond), err)
	}
	n.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
}
