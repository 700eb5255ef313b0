// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

const shopUID = "5b0a3c1e-8d52-4f0e-9a53-0d5a3c1e8d52"

// shop is a pod of a user's labels with one container that waits.
func shop(t *testing.T, e *collectortest.CRI, uid, name string) (sandbox, container string) {
	t.Helper()
	p := collectortest.PodConfig{Name: name, Namespace: "prod", UID: uid, Labels: map[string]string{"app": "shop"}, Network: true}
	sandbox, err := e.RunPod(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	container, err = e.RunContainer(t.Context(), sandbox, p, collectortest.ContainerConfig{Name: "front", Command: []string{"/bin/sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	return sandbox, container
}

// eventually asks until what is wanted is so.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The life of a pod on a real engine, as those see it who list, watch and ask.
func TestAPodIsListedWatchedAnsweredForAndRemembered(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{CRI: e})
	c := connect(t, agent)

	// Two who watch from before: of pods, and of containers by a label that is the pod's.
	seen := make(chan string, 1000)
	watch := func(what string, sel workload.Selector) {
		go func() {
			for ch, err := range c.Watch(t.Context(), sel) {
				if err != nil {
					return
				}
				switch e := ch.Entity; {
				case e.Pod != nil:
					seen <- fmt.Sprintf("%s %s %s %t", what, ch.Type, e.Pod.Name, e.Gone)
				case e.Container != nil:
					seen <- fmt.Sprintf("%s %s %s %t", what, ch.Type, e.Container.Name, e.Gone)
				}
			}
		}()
	}
	watch("pod", workload.Selector{Kinds: []workload.Kind{workload.KindPod}, All: true})
	watch("container", workload.Selector{Include: workload.Filter{Labels: []string{"app=sh*"}}, NoSandboxes: true})
	heard := func(want string) {
		t.Helper()
		timeout := time.After(patience)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-timeout:
				t.Fatalf("nobody heard %q", want)
			}
		}
	}

	sandbox, id := shop(t, e, shopUID, "shop-0")
	heard("pod set shop-0 false")
	heard("container set front false")

	eventually(t, "the answer", func() error {
		a := agent.Who(fmt.Sprint(e.InitOf(id)))[0]
		if a.Status != "container" || a.Pod == nil || a.Pod.Name != "shop-0" || a.Pod.Namespace != "prod" || a.Pod.UID != shopUID {
			return fmt.Errorf("%+v, pod %+v", a, a.Pod)
		}
		return nil
	})
	eventually(t, "the pod", func() error {
		got, err := c.Get(t.Context(), workload.KindPod, "prod/shop-0")
		if err != nil {
			return err
		}
		p := got.Pod
		if p.UID != shopUID || p.Labels["app"] != "shop" || len(p.IPs) == 0 || !strings.HasPrefix(p.IPs[0], e.Subnet) || len(p.Missing) > 0 {
			return fmt.Errorf("%+v", p)
		}
		if !slices.ContainsFunc(p.Sandboxes, func(s workload.ContainerID) bool { return s.ID == sandbox }) {
			return fmt.Errorf("sandboxes %v, want %s", p.Sandboxes, sandbox)
		}
		return nil
	})
	for args, want := range map[string][]string{
		"": {"front"}, "--sandboxes": {"front", "shop-0"}, "pods": {"prod/shop-0"}, "--label app=shop --image *busybox*": {"front"},
		"--exclude-namespace pr*": nil, "--name nginx": nil,
	} {
		if got := ours(agent, t, strings.Fields(args)...); !slices.Equal(got, want) {
			t.Errorf("list %s: %q, want %q", args, got, want)
		}
	}

	if err := e.RemovePod(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	heard("pod set shop-0 true")
	agent.Stop()
	agent.Start()
	c = connect(t, agent)
	got, err := c.Get(t.Context(), workload.KindPod, shopUID)
	if err != nil || !got.Gone || got.Pod.Labels["app"] != "shop" {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if _, err := c.Get(t.Context(), workload.KindPod, "prod/other"); !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("a pod that never was: %v", err)
	}
}

// ours is what a list has of the shop: whoever else runs containers on this host
// may have some in it.
func ours(agent *harness.Agent, t *testing.T, args ...string) (names []string) {
	t.Helper()
	out := agent.Command(t.Context(), append([]string{"list", "-o", "name"}, args...)...)
	if out.Code != 0 {
		t.Errorf("list %q: %+v", args, out)
	}
	for name := range strings.FieldsSeq(out.Stdout) {
		if name == "front" || strings.HasSuffix(name, "shop-0") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestAHiddenPodsProcessIsNotTheHosts(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{CRI: e, Args: []string{"--exclude-namespace", "pro?"}})
	_, id := shop(t, e, shopUID, "shop-0")
	pid := fmt.Sprint(e.InitOf(id))
	eventually(t, "the answer", func() error {
		a := agent.Who(pid)[0]
		if a.Status != "container" || len(a.Containers) != 1 || a.Containers[0].ID != id || a.Containers[0].Name != "" || a.Pod == nil || a.Pod.Name != "" {
			return fmt.Errorf("%+v, pod %+v", a, a.Pod)
		}
		return nil
	})
	for _, kind := range []string{"containers", "pods"} {
		if got := ours(agent, t, kind, "--all", "--sandboxes"); got != nil {
			t.Errorf("list %s: %q", kind, got)
		}
	}
}
