// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// kube is an engine as the kubelet uses it. All containers are in one pod, but for
// the giants.
type kube struct {
	*collectortest.CRI
	pod     collectortest.PodConfig
	sandbox string
	// ofGiants are the giants' sandboxes, by container.
	ofGiants map[string]string
}

func startKube(t *testing.T) *kube {
	t.Helper()
	k := &kube{
		CRI:      collectortest.StartCRI(t, collectortest.EngineOptions{}),
		pod:      collectortest.PodConfig{Name: "web-0", Namespace: "shop", UID: "11111111-2222-3333-4444-555555555555"},
		ofGiants: map[string]string{},
	}
	var err error
	if k.sandbox, err = k.RunPod(t.Context(), k.pod); err != nil {
		t.Fatal(err)
	}
	return k
}

func (*kube) String() string { return "cri" }

// Start waits for the CRI plugin too, which finds its containers again after the
// socket answers.
func (k *kube) Start() error {
	if err := k.CRI.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := k.Containers(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		<-tick.C
	}
}

func (k *kube) agent() harness.AgentOptions { return harness.AgentOptions{CRI: k.CRI} }

// proxied puts the proxy where the shims say that containerd is: one socket has
// its services and the CRI.
func (k *kube) proxied(tb testing.TB) (*collectortest.Proxy, harness.AgentOptions) {
	tb.Helper()
	p, opts := containerd{k.Containerd}.proxied(tb)
	return p, harness.AgentOptions{CRI: k.CRI, CRIEndpoint: opts.ContainerdAddress, ContainerdAddress: opts.ContainerdAddress}
}

func (k *kube) run(ctx context.Context, p *oracle.Party, work ...string) (string, error) {
	t := p.Truth()
	id, err := k.RunContainer(ctx, k.sandbox, k.pod, collectortest.ContainerConfig{
		Name: t.Name, Command: append([]string{oracle.Work}, work...), Labels: t.Labels, Mounts: map[string]string{report.Dir: p.Dir},
	})
	if err == nil {
		p.SetID(id)
	}
	return id, err
}

func (k *kube) remove(ctx context.Context, id string) error {
	if sandbox, ok := k.ofGiants[id]; ok {
		return k.RemovePod(ctx, sandbox)
	}
	return k.RemoveContainer(ctx, id)
}

func (k *kube) truth(ctx context.Context) (map[string]fact, error) {
	list, err := k.Containers(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]fact{}
	for _, c := range list {
		all[c.ID] = fact{c.Name, c.Image, c.State, c.Labels, c.PID}
	}
	return all, nil
}

func (k *kube) giants(ctx context.Context) (ids []string, err error) {
	for i := range giantCount {
		p := collectortest.PodConfig{Name: giantPrefix + strconv.Itoa(i), Namespace: "shop", UID: fmt.Sprintf("99999999-2222-3333-4444-%012d", i)}
		sandbox, err := k.RunPod(ctx, p)
		if err != nil {
			return ids, err
		}
		c := collectortest.ContainerConfig{Name: p.Name, Command: []string{"true"}, Annotations: map[string]string{"giant": strings.Repeat("x", giantSize)}}
		id, err := k.CreateContainer(ctx, sandbox, p, c)
		if err != nil {
			return ids, err
		}
		k.ofGiants[id] = sandbox
		ids = append(ids, id)
	}
	return ids, nil
}
