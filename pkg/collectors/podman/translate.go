// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// configJSON is what is read of a container's config (podman, libpod/container_config.go).
type configJSON struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Pod        string            `json:"pod"`
	Infra      bool              `json:"pause"`
	Labels     map[string]string `json:"labels"`
	Image      string            `json:"rootfsImageName"`
	RawImage   string            `json:"RawImageName"`
	ImageID    string            `json:"rootfsImageID"`
	User       string            `json:"user"`
	Created    time.Time         `json:"createdTime"`
	Privileged bool              `json:"privileged"`
	Ports      []portJSON        `json:"newPortMappings"`
	Spec       *runtimespec.Spec `json:"spec"`
	Health     *struct {
		Test []string `json:"Test"`
	} `json:"healthcheck"`
}

type portJSON struct {
	HostIP    string `json:"host_ip"`
	Container uint16 `json:"container_port"`
	Host      uint16 `json:"host_port"`
	// Range is how many ports follow each other; 0 and 1 are one.
	Range    uint16 `json:"range"`
	Protocol string `json:"protocol"`
}

// stateJSON is what is read of a container's state (libpod/container.go).
type stateJSON struct {
	State     int                    `json:"state"`
	Started   time.Time              `json:"startedTime"`
	Finished  time.Time              `json:"finishedTime"`
	ExitCode  int64                  `json:"exitCode"`
	OOMKilled bool                   `json:"oomKilled"`
	PID       int64                  `json:"pid"`
	RunDir    string                 `json:"runDir"`
	ConmonPID int64                  `json:"conmonPid"`
	Networks  map[string]networkJSON `json:"networkStatus"`
}

type networkJSON struct {
	Interfaces map[string]struct {
		MAC     string `json:"mac_address"`
		Subnets []struct {
			Net string `json:"ipnet"`
		} `json:"subnets"`
	} `json:"interfaces"`
}

// The states of libpod (libpod/define/containerstate.go).
var states = map[int]workload.State{
	1: workload.StateCreated, // configured
	2: workload.StateCreated,
	3: workload.StateRunning,
	4: workload.StateExited, // stopped, and not cleaned up yet
	5: workload.StatePaused,
	6: workload.StateExited,
	7: workload.StateExited,  // removing
	8: workload.StateRunning, // stopping
}

// described is a container's description and what else its record says.
type described struct {
	*workload.Container
	state  stateJSON
	tmpDir string
	// checked: podman has a check for it, as of the version of its file that was read.
	checked   bool
	checkedAt safefile.Stamp
}

// translate describes a container as its record does.
func (s *store) translate(r *record) (described, error) {
	var c configJSON
	d := described{Container: &workload.Container{ID: s.id(r.id), Runtime: name}, tmpDir: r.tmpDir}
	if err := decode(r.config, &c); err != nil {
		return d, fmt.Errorf("%w: config of %s: %w", collectors.ErrUnavailable, r.id, err)
	}
	if err := decode(r.state, &d.state); err != nil {
		return d, fmt.Errorf("%w: state of %s: %w", collectors.ErrUnavailable, r.id, err)
	}
	if c.ID != r.id {
		return d, fmt.Errorf("%w: the record of %s is another container's", collectors.ErrUnavailable, r.id)
	}
	d.Name, d.Created = c.Name, utc(c.Created)
	d.Image = runtimespec.ImageRef(cmp.Or(c.Image, c.RawImage))
	if runtimespec.IsHex64(c.ImageID) {
		d.Image.ID = "sha256:" + c.ImageID
	}
	d.Labels = maps.Clone(c.Labels)
	if d.Labels == nil && !slices.Contains(r.cut, "labels") {
		d.Labels = map[string]string{}
	}
	d.Sandbox = c.Infra
	if c.Pod != "" {
		d.Pod = &workload.PodRef{UID: c.Pod, Name: r.podName}
		if s.user {
			d.Pod.UID = "" // he may give his pod the id of another's
		}
	}
	if c.Spec != nil {
		c.Spec.Fill(d.Container, s.c.env)
		d.Mounts = nil // podman adds its own when it writes the bundle
		d.Annotations = c.Spec.Annotations
	}
	d.User = cmp.Or(c.User, d.User)
	if d.Security != nil {
		d.Security.Privileged = c.Privileged
	}
	d.Ports = ports(c.Ports)
	d.checked = c.checks()
	d.Truncated = append(d.Truncated, cutFields(r.cut, s.c.env)...)
	d.apply()
	if s.user {
		userBounds.Apply(d.Container)
	}
	return d, nil
}

// userBounds keep what one user can make of the agent's memory small: his containers
// are as many as he likes, up to maxUserContainers.
var userBounds = collectors.Bounds{Image: 256, Path: 256, Value: 512, Entries: 64, Bytes: 8 << 10, Total: 16 << 10, Mounts: 32, Networks: 8, Ports: 32}

// decode reads a JSON text that has been cut.
func decode(data []byte, v any) error {
	if len(data) == 0 {
		return fmt.Errorf("it is over its budget or not there")
	}
	return json.Unmarshal(data, v)
}

// cutFields names what suffers from the lists and objects that were cut.
func cutFields(cut []string, env map[string]bool) (fields []string) {
	for _, path := range cut {
		switch top, rest, _ := strings.Cut(path, "."); {
		case top == "labels":
			fields = append(fields, "labels")
		case top == "newPortMappings":
			fields = append(fields, "ports")
		case top == "spec" && strings.HasPrefix(rest, "process.env"):
			if len(env) > 0 {
				fields = append(fields, "env")
			}
		case top == "spec" && strings.HasPrefix(rest, "annotations"):
			fields = append(fields, "annotations")
		case top == "spec" && (strings.HasPrefix(rest, "process.capabilities") || strings.HasPrefix(rest, "linux.namespaces")):
			fields = append(fields, "security")
		case path == "":
			fields = append(fields, "config")
		}
	}
	return fields
}

// apply puts in what the state says.
func (d *described) apply() {
	d.State = states[d.state.State]
	d.Started, d.Finished = utc(d.state.Started), utc(d.state.Finished)
	if d.State == workload.StateExited && !d.Finished.IsZero() {
		d.Exit = exitOf(d.state.ExitCode, d.state.OOMKilled)
	}
	for _, net := range slices.Sorted(maps.Keys(d.state.Networks)) {
		d.Networks = append(d.Networks, networkOf(net, d.state.Networks[net]))
	}
}

// exitOf gives nil for what is no exit code; podman has -1 for one that it lost.
func exitOf(code int64, oom bool) *workload.Exit {
	if code < 0 || code > math.MaxInt32 {
		return nil
	}
	return &workload.Exit{Known: true, Code: int32(code), OOM: oom}
}

func networkOf(net string, n networkJSON) workload.Network {
	out := workload.Network{Name: net}
	for _, i := range slices.Sorted(maps.Keys(n.Interfaces)) {
		one := n.Interfaces[i]
		out.MAC = cmp.Or(out.MAC, one.MAC)
		for _, sub := range one.Subnets {
			ip, _, _ := strings.Cut(sub.Net, "/")
			out.IPs = append(out.IPs, ip)
		}
	}
	return out
}

// maxRange bounds the ports of one mapping: a range is not listed beyond.
const maxRange = 256

func ports(in []portJSON) (out []workload.Port) {
	for _, p := range in {
		for i := range min(max(p.Range, 1), maxRange) {
			for proto := range strings.SplitSeq(cmp.Or(p.Protocol, "tcp"), ",") {
				one := workload.Port{Container: p.Container + i, Protocol: proto, HostIP: p.HostIP}
				if p.Host != 0 {
					one.HostPort = p.Host + i
				}
				if out = append(out, one); len(out) > 4*maxRange {
					return out
				}
			}
		}
	}
	return out
}

// finish brings a description within the budgets and into one order.
func finish(c *workload.Container) *workload.Container {
	slices.SortFunc(c.Mounts, func(a, b workload.Mount) int { return cmp.Compare(a.Destination, b.Destination) })
	if c.State != workload.StateExited {
		c.Exit, c.Finished = nil, time.Time{} // of the life before
	}
	slices.Sort(c.Truncated)
	c.Truncated = slices.Compact(c.Truncated)
	collectors.Bound(c)
	return c
}

// utc makes times comparable. Go's zero time stands for never.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}
