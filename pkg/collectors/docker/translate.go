// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// configFile is what we read of config.v2.json (moby, container/container.go).
type configFile struct {
	ID            string
	Name          string
	Created       time.Time
	State         stateFile
	Config        *configPart
	Image         string
	ImageManifest *struct {
		Digest string `json:"digest"`
	}
	NetworkSettings *struct {
		Networks map[string]*network.EndpointSettings
		Ports    nat.PortMap
	}
	MountPoints map[string]*mountPart
}

// stateFile is the state in it (moby, container/state.go).
type stateFile struct {
	Running, Paused, Restarting, OOMKilled, Dead, RemovalInProgress bool

	Pid                   int
	ExitCode              int
	StartedAt, FinishedAt time.Time
	// Health is of who has a check (moby, container/health.go). Its log is left alone.
	Health struct{ Status string }
}

// up: no start is going on, nor is one about to. While the engine restarts a
// container it says that it runs, with no PID.
func (s stateFile) up() bool { return s.Running && !s.Restarting && s.Pid > 0 }

// configPart is the portable half of a container's configuration.
type configPart struct {
	Hostname, User, Image string

	Env          []string
	Labels       map[string]string
	ExposedPorts nat.PortSet
}

type mountPart struct {
	Type, Source, Destination, Name string

	RW bool
}

// hostConfigFile is what we read of hostconfig.json.
type hostConfigFile struct {
	Privileged     bool
	ReadonlyRootfs bool
	PidMode        string
	NetworkMode    string
	IpcMode        string
	CapAdd         []string
	PortBindings   nat.PortMap
	Memory         int64
	NanoCpus       int64
	CPUPeriod      int64 `json:"CpuPeriod"`
	CPUQuota       int64 `json:"CpuQuota"`
	CPUShares      int64 `json:"CpuShares"`
	PidsLimit      *int64
}

// base starts a description.
func (c *Collector) base(hex string) *workload.Container {
	return &workload.Container{
		ID:      c.id(hex),
		Runtime: name,
		// The engine runs its containers in this namespace of a containerd.
		Aliases: []workload.ContainerID{{Runtime: "containerd", Namespace: "moby", ID: hex}},
	}
}

// fromFiles describes a container as its files do.
func (c *Collector) fromFiles(f *files) *workload.Container {
	cf := f.config
	out := c.base(cf.ID)
	out.Name = trimName(cf.Name)
	out.Created = utc(cf.Created)
	out.Image.ID = cf.Image
	if cf.ImageManifest != nil {
		out.Image.Digest = cf.ImageManifest.Digest
	}
	c.applyConfig(out, cf.Config)
	applyState(out, cf.State)
	for _, m := range cf.MountPoints {
		if m != nil {
			out.Mounts = append(out.Mounts, mount(m.Type, m.Source, m.Destination, m.RW))
		}
	}
	var exposed nat.PortSet
	if cf.Config != nil {
		exposed = cf.Config.ExposedPorts
	}
	if n := cf.NetworkSettings; n != nil {
		out.Networks = networks(n.Networks)
		out.Ports = ports(n.Ports, nil)
	}
	if f.host != nil {
		if len(out.Ports) == 0 {
			out.Ports = ports(f.host.PortBindings, exposed)
		}
		out.Security, out.Limits = f.host.security(), f.host.limits()
	}
	out.Truncated = slices.Clone(f.cut)
	return finish(out)
}

// fromInspect describes a container as inspect does.
func (c *Collector) fromInspect(r *container.InspectResponse) *workload.Container {
	out := c.base(r.ID)
	out.Name = trimName(r.Name)
	out.Created = parseTime(r.Created)
	out.Image.ID = r.Image
	if r.ImageManifestDescriptor != nil {
		out.Image.Digest = r.ImageManifestDescriptor.Digest.String()
	}
	var exposed nat.PortSet
	if cfg := r.Config; cfg != nil {
		exposed = cfg.ExposedPorts
		c.applyConfig(out, &configPart{
			Hostname: cfg.Hostname, User: cfg.User, Image: cfg.Image, Env: cfg.Env, Labels: cfg.Labels,
		})
	}
	if s := r.State; s != nil {
		state := stateFile{
			Running: s.Running, Paused: s.Paused, Restarting: s.Restarting, OOMKilled: s.OOMKilled, Dead: s.Dead,
			ExitCode: s.ExitCode, StartedAt: parseTime(s.StartedAt), FinishedAt: parseTime(s.FinishedAt),
		}
		if s.Health != nil {
			state.Health.Status = s.Health.Status
		}
		applyState(out, state)
		out.Run = run(s)
	}
	out.Mounts = mounts(r.Mounts)
	if n := r.NetworkSettings; n != nil {
		out.Networks = networks(n.Networks)
		out.Ports = ports(n.Ports, exposed)
	}
	if h := r.HostConfig; h != nil {
		hc := hostConfigFile{
			Privileged: h.Privileged, ReadonlyRootfs: h.ReadonlyRootfs, PidMode: string(h.PidMode),
			NetworkMode: string(h.NetworkMode), IpcMode: string(h.IpcMode), CapAdd: h.CapAdd,
			Memory: h.Memory, NanoCpus: h.NanoCPUs, CPUPeriod: h.CPUPeriod, CPUQuota: h.CPUQuota,
			CPUShares: h.CPUShares, PidsLimit: h.PidsLimit,
		}
		out.Security, out.Limits = hc.security(), hc.limits()
	}
	return finish(out)
}

// run is the word of the API for the init: a PID without its start time, for
// the caller to check.
func run(s *container.State) *workload.Run {
	if !s.Running || s.Pid <= 0 || s.Pid > int(workload.MaxPID) {
		return nil
	}
	return &workload.Run{Init: workload.ProcessKey{PID: workload.PID(s.Pid)}, Registers: true}
}

// fromSummary describes a container as a list does. Its image may be an id
// where the name has moved on; then the name is left to the files.
func (c *Collector) fromSummary(s *container.Summary) *workload.Container {
	out := c.base(s.ID)
	for _, n := range s.Names {
		// A legacy link gives further names, below the linking container's.
		if n = trimName(n); n != "" && !strings.Contains(n, "/") {
			out.Name = n
			break
		}
	}
	if s.Created > 0 {
		out.Created = time.Unix(s.Created, 0).UTC()
	}
	out.Image.ID = s.ImageID
	if !strings.HasPrefix(s.Image, "sha256:") && s.Image != "" {
		out.Image.Name, out.Image.Tag, out.Image.Digest = splitImage(s.Image)
	}
	if s.ImageManifestDescriptor != nil {
		out.Image.Digest = s.ImageManifestDescriptor.Digest.String()
	}
	out.Labels = s.Labels
	out.State = stateOf(s.State)
	out.Health = healthIn(out.State, s.Status)
	out.Mounts = mounts(s.Mounts)
	if s.NetworkSettings != nil {
		out.Networks = networks(s.NetworkSettings.Networks)
	}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, workload.Port{Container: p.PrivatePort, Protocol: p.Type, HostIP: p.IP, HostPort: p.PublicPort})
	}
	return finish(out)
}

func (c *Collector) applyConfig(out *workload.Container, cfg *configPart) {
	if cfg == nil {
		return
	}
	out.Hostname, out.User, out.Labels = cfg.Hostname, cfg.User, cfg.Labels
	digest := out.Image.Digest
	out.Image.Name, out.Image.Tag, out.Image.Digest = splitImage(cfg.Image)
	out.Image.Digest = cmp.Or(out.Image.Digest, digest)
	for _, kv := range cfg.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && c.env[k] {
			if out.Env == nil {
				out.Env = map[string]string{}
			}
			out.Env[k] = v
		}
	}
}

func applyState(out *workload.Container, s stateFile) {
	out.State = stateFrom(s)
	out.Health = collectors.HealthOf(out.State, s.Health.Status)
	out.Started, out.Finished = utc(s.StartedAt), utc(s.FinishedAt)
	if out.State == workload.StateExited && !out.Finished.IsZero() && s.ExitCode >= 0 && s.ExitCode <= math.MaxInt32 {
		out.Exit = &workload.Exit{Known: true, Code: int32(s.ExitCode), OOM: s.OOMKilled}
	}
}

// healthIn finds it in the line that a list has instead: "Up 3 seconds (healthy)", or
// "(health: starting)" (moby, container/state.go).
func healthIn(s workload.State, line string) workload.Health {
	_, said, _ := strings.Cut(strings.TrimSuffix(line, ")"), "(")
	return collectors.HealthOf(s, strings.TrimPrefix(said, "health: "))
}

func stateFrom(s stateFile) workload.State {
	switch {
	case s.Paused:
		return workload.StatePaused
	case s.Restarting:
		return workload.StateRestarting
	case s.Running:
		return workload.StateRunning
	case s.StartedAt.IsZero() && !s.Dead && !s.RemovalInProgress:
		return workload.StateCreated
	}
	return workload.StateExited
}

func stateOf(s container.ContainerState) workload.State {
	switch s {
	case container.StateCreated:
		return workload.StateCreated
	case container.StateRunning:
		return workload.StateRunning
	case container.StatePaused:
		return workload.StatePaused
	case container.StateRestarting:
		return workload.StateRestarting
	case container.StateExited, container.StateDead, container.StateRemoving:
		return workload.StateExited
	}
	return workload.StateUnknown
}

func (h *hostConfigFile) security() *workload.Security {
	s := &workload.Security{
		Privileged:   h.Privileged,
		HostPID:      h.PidMode == "host",
		HostNetwork:  h.NetworkMode == "host",
		HostIPC:      h.IpcMode == "host",
		ReadOnlyRoot: h.ReadonlyRootfs,
	}
	for _, capability := range h.CapAdd {
		if capability = strings.ToUpper(capability); !strings.HasPrefix(capability, "CAP_") {
			capability = "CAP_" + capability
		}
		s.AddedCaps = append(s.AddedCaps, capability)
	}
	slices.Sort(s.AddedCaps)
	return s
}

func (h *hostConfigFile) limits() *workload.Limits {
	l := &workload.Limits{MemoryBytes: max(0, h.Memory), NanoCPUs: max(0, h.NanoCpus), CPUShares: max(0, h.CPUShares)}
	if l.NanoCPUs == 0 && h.CPUQuota > 0 {
		// The kernel's default period is 100 ms.
		period := cmp.Or(max(0, h.CPUPeriod), 100_000)
		l.NanoCPUs = int64(float64(h.CPUQuota) / float64(period) * 1e9)
	}
	if h.PidsLimit != nil {
		l.Pids = max(0, *h.PidsLimit)
	}
	return l
}

// splitImage takes the tag and the digest out of what the user asked for.
func splitImage(ref string) (whole, tag, digest string) {
	rest, digest, _ := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		tag = rest[i+1:]
	}
	if strings.HasPrefix(ref, "sha256:") {
		tag = "" // asked for by id
	}
	return ref, tag, digest
}

func mounts(in []container.MountPoint) []workload.Mount {
	var out []workload.Mount
	for _, m := range in {
		out = append(out, mount(string(m.Type), m.Source, m.Destination, m.RW))
	}
	return out
}

// mount describes one. The type is missing in the files of old engines.
func mount(kind, source, destination string, rw bool) workload.Mount {
	return workload.Mount{Type: kind, Source: source, Destination: destination, ReadOnly: !rw}
}

func networks(in map[string]*network.EndpointSettings) []workload.Network {
	var out []workload.Network
	for _, n := range slices.Sorted(maps.Keys(in)) {
		e := in[n]
		if e == nil {
			continue
		}
		nw := workload.Network{Name: n, MAC: e.MacAddress}
		for _, ip := range []string{e.IPAddress, e.GlobalIPv6Address} {
			if ip != "" {
				nw.IPs = append(nw.IPs, ip)
			}
		}
		out = append(out, nw)
	}
	return out
}

// ports joins what is published and what is only exposed.
func ports(published nat.PortMap, exposed nat.PortSet) []workload.Port {
	var out []workload.Port
	for p, bindings := range published {
		base := workload.Port{Container: number(p.Port()), Protocol: p.Proto()}
		if len(bindings) == 0 {
			out = append(out, base)
		}
		for _, b := range bindings {
			one := base
			one.HostIP, one.HostPort = b.HostIP, number(b.HostPort)
			out = append(out, one)
		}
	}
	for p := range exposed {
		if _, ok := published[p]; !ok {
			out = append(out, workload.Port{Container: number(p.Port()), Protocol: p.Proto()})
		}
	}
	return out
}

// number gives 0 for what is no port, a range among it.
func number(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func trimName(s string) string { return strings.TrimPrefix(s, "/") }

func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return utc(t)
}

// utc makes times comparable. Docker's for never is the zero time.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}
