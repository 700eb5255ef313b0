// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	iofs "io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/kernel"
)

// probed is a source whose probe says what it is told to.
type probed struct {
	collectors.Collector
	report collectors.Report
	err    error
}

func (p probed) Probe(context.Context) (collectors.Report, error) { return p.report, p.err }

func TestTheCheckSaysOfEachSourceWhetherAndWhyNot(t *testing.T) {
	source := func(name string) collectors.Collector { return collectortest.Bare(collectortest.NewFake(name)) }
	p := &checkPage{}
	p.kernel(kernel.Capabilities{Kernel: "6.1.0", Problems: []string{"CAP_BPF is missing", "no BTF"}}, false)
	for _, c := range []collectors.Collector{
		probed{source("docker"), collectors.Report{Where: "/none/d.sock", Version: "20.10", Detail: "reads /var/lib/docker"}, nil},
		probed{source("cri@/run/x.sock"), collectors.Report{}, fmt.Errorf("cri: probe: %w: no /run/x.sock", collectors.ErrNotPresent)},
		probed{source("podman"), collectors.Report{Where: "/var/lib/containers"}, fmt.Errorf("podman: probe: %w: %w", collectors.ErrUnavailable, iofs.ErrPermission)},
		probed{source("kubelet"), collectors.Report{}, fmt.Errorf("kubelet:\tprobe: %w: 401\nsecond line", collectors.ErrUnavailable)},
		source("oci"),
	} {
		p.add(checkSource(t.Context(), c))
	}
	var out bytes.Buffer
	if err := p.write(&out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"WHAT STATE WHERE VERSION GIVES DETAIL MISSING",
		"kernel polling - 6.1.0 processes and cgroups, read from /proc at intervals pidfs false CAP_BPF is missing",
		"kernel - - - - - no BTF",
		"docker found /none/d.sock 20.10 name, image, labels, networks, ports, exit status reads /var/lib/docker -",
		"cri@/run/x.sock absent /run/x.sock - pods, names in the pod, labels, attempts, exit reasons no /run/x.sock; found when it appears -",
		"podman failing /var/lib/containers - name, pod, image, labels, exit status permission denied permission: run as root",
		"kubelet failing - - a pod's owners, phase, conditions, QoS, containers, volumes 401 -",
		"oci unknown - - init, cgroups, mounts, limits; registers cgroups cannot be probed -",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A new kind of source has to say what it gives.
func TestEverySourceSaysWhatItGives(t *testing.T) {
	names, _ := sourcePackages(t)
	for _, n := range names {
		if gives[n] == "" {
			t.Errorf("check does not say what %s gives", n)
		}
	}
}
