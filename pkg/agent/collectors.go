// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/containerd"
	"github.com/pidigree/pidigree/pkg/collectors/docker"
	"github.com/pidigree/pidigree/pkg/collectors/oci"
)

// collectors is the list of what there is. The first engine of a kind has the
// kind's name, any other one its socket after it.
func (a *Agent) collectors() ([]collectors.Collector, error) {
	o := a.opts
	low, err := oci.New(oci.Options{Roots: o.OCIRoots, RunDir: o.RunDir, ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot, EnvAllow: o.EnvAllow, Logger: a.log})
	if err != nil {
		return nil, fmt.Errorf("oci collector: %w", err)
	}
	all := []collectors.Collector{low}
	for i, host := range orDefault(o.DockerHosts) {
		c, err := docker.New(docker.Options{Host: host, Root: o.DockerRoot, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		if i == 0 {
			all = append(all, c)
		} else {
			all = append(all, dockerAt{c, c.Name() + "@" + host})
		}
	}
	for i, address := range orDefault(o.ContainerdAddresses) {
		c, err := containerd.New(containerd.Options{Address: address, ProcRoot: o.Procfs, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		if i == 0 {
			all = append(all, c)
		} else {
			all = append(all, containerdAt{c, c.Name() + "@" + address})
		}
	}
	return all, nil
}

// orDefault: nil stands for the engine's own socket, an empty list for none.
func orDefault(addresses []string) []string {
	if addresses == nil {
		return []string{""}
	}
	return addresses
}

// dockerAt and containerdAt are further engines of a kind, by names of their own.
type dockerAt struct {
	*docker.Collector
	name string
}

// Name implements collectors.Collector.
func (d dockerAt) Name() string { return d.name }

type containerdAt struct {
	*containerd.Collector
	name string
}

// Name implements collectors.Collector.
func (c containerdAt) Name() string { return c.name }
