// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// realManifest is a static pod of three containers, one of each kind that ends or stays.
const realManifest = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop, labels: {app: web}, annotations: {example.org/a: b}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  volumes: [{name: tmp, emptyDir: {}}, {name: logs, hostPath: {path: /var/log}}]
  initContainers:
  - {name: setup, image: %[2]q, imagePullPolicy: Never, command: [/bin/true]}
  - {name: mesh, image: %[2]q, imagePullPolicy: Never, command: [/bin/sleep, "3600"], restartPolicy: Always}
  containers:
  - {name: main, image: %[2]q, imagePullPolicy: Never, command: [/bin/sleep, "3600"], resources: {requests: {cpu: 10m}}}
`

// bed is a kubelet v1.34 on a containerd.
type bed struct {
	k *collectortest.Kubelet
	n atomic.Int32
}

func (b *bed) secure(tb testing.TB) *Collector {
	return newCollector(tb, Options{Address: b.k.Secure, CA: b.k.ServingCert, ServerName: collectortest.KubeletNode, Certificate: b.k.ClientCert})
}

// start makes a pod and waits until all of it runs.
func (b *bed) start(tb testing.TB) *collectortest.StartedPod {
	tb.Helper()
	name := fmt.Sprintf("web%d", b.n.Add(1))
	b.k.AddPod(name, fmt.Sprintf(realManifest, name, collectortest.BusyboxImage))
	c := newCollector(tb, Options{Address: b.k.ReadOnly})
	c.timing.fresh = 0
	p := until(tb, func() (*workload.Pod, error) {
		for p, err := range c.ListPods(tb.Context()) {
			if p != nil && p.Name == name+"-"+collectortest.KubeletNode && p.Phase == "Running" && !busy(p) {
				return p, nil
			}
			if err != nil && !errors.Is(err, errYoung) {
				return nil, err
			}
		}
		return nil, errors.New(name + " does not run")
	})
	want := &workload.Pod{
		PodRef: workload.PodRef{UID: p.UID, Name: name + "-" + collectortest.KubeletNode, Namespace: "shop"},
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"example.org/a": "b", "kubernetes.io/config.source": "file"},
		Runtime: "containerd", Phase: "Running", QoS: "Burstable", Node: collectortest.KubeletNode, Static: true, ConfigHash: p.UID, HostNetwork: true,
		Volumes: []workload.PodVolume{{Name: "tmp", Kind: "emptyDir"}, {Name: "logs", Kind: "hostPath", Source: "/var/log"}},
	}
	return &collectortest.StartedPod{Want: want, Remove: func() { b.k.RemovePod(name) }}
}

// until asks a real engine until it says what it will say in a moment: nothing tells when.
func until[T any](tb testing.TB, fn func() (T, error)) T {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := fn()
		if err == nil {
			return v
		}
		select {
		case <-ctx.Done():
			tb.Fatal(err)
		case <-tick.C:
		}
	}
}

func TestARealKubelet(t *testing.T) {
	b := &bed{k: collectortest.StartKubelet(t, collectortest.StartCRI(t, collectortest.EngineOptions{}))}
	pod := b.start(t)
	t.Run("conformance by the read-only port", func(t *testing.T) {
		collectortest.RunPods(t, collectortest.PodHarness{
			New:   func(tb testing.TB) collectors.Collector { return b.settledAt(tb, Options{Address: b.k.ReadOnly}) },
			Start: b.start, Unknown: "00000000-0000-0000-0000-000000000000",
		})
	})
	t.Run("conformance by TLS and a client certificate", func(t *testing.T) {
		collectortest.RunPods(t, collectortest.PodHarness{
			New:   func(tb testing.TB) collectors.Collector { return b.secure(tb) },
			Start: func(testing.TB) *collectortest.StartedPod { return &collectortest.StartedPod{Want: pod.Want} }, Unknown: "00000000-0000-0000-0000-000000000000",
		})
	})
	t.Run("what each container is in its pod", func(t *testing.T) { b.roles(t, pod.Want.UID) })
	t.Run("who is not verified and who is not known", b.refused)
	t.Run("it is found by its process, and its read-only port by its configuration", b.found)
}

// settledAt takes the kubelet for one that has run for long.
func (b *bed) settledAt(tb testing.TB, o Options) *Collector {
	c := newCollector(tb, o)
	c.timing.young = 0
	return c
}

func (b *bed) roles(t *testing.T, uid string) {
	p, err := b.secure(t).LookupPod(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range p.Containers {
		if !isContainerID(c.ID.ID) || c.ID.Namespace != "k8s.io" {
			t.Errorf("%s has the id %+v", c.Name, c.ID)
		}
		got = append(got, fmt.Sprintf("%s %s %s %v", c.Name, c.Role, c.State, c.Ready))
	}
	if want := "[setup init exited true mesh sidecar running true main main running true]"; fmt.Sprint(got) != want {
		t.Errorf("containers %v, want %s", got, want)
	}
}

func (b *bed) refused(t *testing.T) {
	other := newAuthority(t)
	stranger := t.TempDir() + "/stranger.pem"
	write(t, stranger, string(other.sign("stranger")))
	for what, tc := range map[string]struct {
		opts Options
		says string
	}{
		"another authority":   {Options{CA: other.file, ServerName: collectortest.KubeletNode}, "signed by none of " + other.file},
		"another node":        {Options{CA: b.k.ServingCert, ServerName: "node-2"}, "for none of node-2"},
		"no credentials":      {Options{CA: b.k.ServingCert, ServerName: collectortest.KubeletNode}, "401: the kubelet does not know who asks (no credentials)"},
		"a stranger's":        {Options{CA: b.k.ServingCert, ServerName: collectortest.KubeletNode, Certificate: stranger}, "401"},
		"a token of nobody's": {Options{CA: b.k.ServingCert, ServerName: collectortest.KubeletNode, Token: other.file + ".token"}, "401"},
	} {
		write(t, other.file+".token", "eyJhbGciOiJub25lIn0.e30.")
		tc.opts.Address = b.k.Secure
		if _, err := newCollector(t, tc.opts).Probe(t.Context()); !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", what, err, tc.says)
		}
	}
}

func (b *bed) found(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Probe(t.Context())
	if err != nil || r.Where != b.k.ReadOnly {
		t.Fatalf("%+v, %v; want %s", r, err, b.k.ReadOnly)
	}
	if p := c.last.process; p.pid != b.k.PID() || p.age() <= 0 || p.age() > time.Hour {
		t.Errorf("process %+v of age %v; want %d", p, p.age(), b.k.PID())
	}
}
