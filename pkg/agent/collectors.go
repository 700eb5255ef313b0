// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/containerd"
	"github.com/pidigree/pidigree/pkg/collectors/cri"
	"github.com/pidigree/pidigree/pkg/collectors/docker"
	"github.com/pidigree/pidigree/pkg/collectors/ecs"
	"github.com/pidigree/pidigree/pkg/collectors/incus"
	"github.com/pidigree/pidigree/pkg/collectors/kubelet"
	"github.com/pidigree/pidigree/pkg/collectors/lxc"
	"github.com/pidigree/pidigree/pkg/collectors/nested"
	"github.com/pidigree/pidigree/pkg/collectors/nspawn"
	"github.com/pidigree/pidigree/pkg/collectors/oci"
	"github.com/pidigree/pidigree/pkg/collectors/podman"
	"github.com/pidigree/pidigree/pkg/collectors/systemd"
	"github.com/pidigree/pidigree/pkg/workload"
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
	for _, host := range o.NestedDockerHosts {
		server := nested.NewServer(o.Procfs)
		c, err := docker.New(docker.Options{Host: host, NoFiles: true, Dialed: server.Dialed, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		all = append(all, nested.New(c, server, strings.TrimPrefix(host, "unix://")))
	}
	for i, address := range orDefault(o.ContainerdAddresses) {
		c, err := containerd.New(containerd.Options{Address: strings.TrimPrefix(address, "unix://"), ProcRoot: o.Procfs, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		if i == 0 {
			all = append(all, c)
		} else {
			all = append(all, containerdAt{c, c.Name() + "@" + address})
		}
	}
	for _, address := range o.NestedContainerdAddresses {
		server := nested.NewServer(o.Procfs)
		path := strings.TrimPrefix(address, "unix://")
		c, err := containerd.New(containerd.Options{Address: path, Dialed: server.Dialed, ProcRoot: o.Procfs, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		all = append(all, nested.New(c, server, path))
	}
	for i, endpoint := range orElse(o.CRIEndpoints, cri.Endpoints()) {
		c, err := cri.New(cri.Options{Endpoint: endpoint, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		if i == 0 {
			all = append(all, c)
		} else {
			all = append(all, criAt{c, c.Name() + "@" + endpoint})
		}
	}
	if o.PodmanRoots == nil || len(o.PodmanRoots) > 0 {
		c, err := podman.New(podman.Options{Roots: o.PodmanRoots, NoUsers: o.PodmanNoUsers, ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot, EnvAllow: o.EnvAllow, Logger: a.log})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if o.Kubelet.Address != NoKubelet {
		k := o.Kubelet
		c, err := kubelet.New(kubelet.Options{
			Address: k.Address, ServerName: k.ServerName, CA: k.CA, Certificate: k.Certificate, Key: k.Key, Token: k.Token,
			Procfs: o.Procfs, Logger: a.log,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if o.ECS.Address != NoECS {
		c, err := ecs.New(ecs.Options{Address: o.ECS.Address, Metadata: o.ECS.Metadata, Tags: o.ECS.Tags, Init: a.initOf, Procfs: o.Procfs, Logger: a.log})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if o.LXCPaths == nil || len(o.LXCPaths) > 0 {
		all = append(all, lxc.New(lxc.Options{Paths: o.LXCPaths, ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot}))
	}
	named := map[string]bool{}
	for _, socket := range orElse(o.IncusSockets, incus.Sockets()) {
		c := incus.New(incus.Options{Socket: strings.TrimPrefix(socket, "unix://"), ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot})
		if !named[c.Name()] {
			all = append(all, c)
		} else {
			all = append(all, incusAt{c, c.Name() + "@" + socket})
		}
		named[c.Name()] = true
	}
	if o.MachinesDir != NoMachines {
		all = append(all, nspawn.New(nspawn.Options{Dir: o.MachinesDir, RunDir: o.RunDir, ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot}))
	}
	if o.SystemdSocket != NoSystemd {
		all = append(all, systemd.New(systemd.Options{Socket: o.SystemdSocket, RunDir: o.RunDir}))
	}
	return all, nil
}

// NoMachines in Options.MachinesDir turns systemd-nspawn's containers off as a source.
const NoMachines = "none"

// NoSystemd in Options.SystemdSocket turns the system manager off as a source.
const NoSystemd = "none"

// initOf gives the first process of a container that runs, by an id of its engine's.
func (a *Agent) initOf(id workload.ContainerID) (workload.PID, bool) {
	if a.store == nil { // --check
		return 0, false
	}
	c, ok := a.store.Container(id)
	if !ok {
		// An engine at another socket has its place in the id.
		if found := a.store.FindContainers(id.ID); len(found) == 1 {
			c, ok = found[0], true
		}
	}
	if !ok || workload.FromRemote(c.Sources) || c.Run == nil || c.Run.Exit != nil || c.Run.Init.PID == 0 {
		return 0, false
	}
	return c.Run.Init.PID, true
}

// orElse: nil stands for the default, an empty list for none.
func orElse(list, byDefault []string) []string {
	if list == nil {
		return byDefault
	}
	return list
}

// orDefault: nil stands for the engine's own socket, an empty list for none.
func orDefault(addresses []string) []string {
	return orElse(addresses, []string{""})
}

// dockerAt, containerdAt, criAt and incusAt are further engines of a kind, by names of their own.
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

type criAt struct {
	*cri.Collector
	name string
}

// Name implements collectors.Collector.
func (c criAt) Name() string { return c.name }

type incusAt struct {
	*incus.Collector
	name string
}

// Name implements collectors.Collector.
func (i incusAt) Name() string { return i.name }
