// SPDX-License-Identifier: Apache-2.0

package incus

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/lxcmonitor"
	"github.com/pidigree/pidigree/pkg/workload"
)

// instance is one as the API has it (shared/api/instance.go), as far as it is used.
type instance struct {
	Name         string `json:"name"`
	Project      string `json:"project"`
	Type         string `json:"type"`
	Status       string `json:"status"`
	Description  string `json:"description"`
	Location     string `json:"location"`
	Architecture string `json:"architecture"`
	Ephemeral    bool   `json:"ephemeral"`
	Created      string `json:"created_at"`
	// Profiles are in the order in which they are applied; Config has their settings, too.
	Profiles []string                     `json:"profiles"`
	Config   map[string]string            `json:"expanded_config"`
	Devices  map[string]map[string]string `json:"expanded_devices"`
}

func (i *instance) key() key { return key{cmp.Or(i.Project, projectDefault), i.Name} }

func (i *instance) isContainer() bool { return i.Type == "container" }

// cloudInit are the user's keys that are a machine's first configuration: passwords and
// keys are in there.
var cloudInit = []string{"user.user-data", "user.vendor-data", "user.network-config", "user.meta-data"}

// shown are the settings that are kept as annotations beside the image's.
var shown = []string{"security.privileged", "security.nesting"}

// describe says what is known of a container: what runs is seen and not asked for.
func (c *Collector) describe(i *instance, r lxcmonitor.Running) *workload.Container {
	out := c.layer(i.key(), r)
	i.fill(out)
	return out
}

// fill adds what the server says to what is seen.
func (i *instance) fill(out *workload.Container) {
	out.Image = workload.ImageRef{ID: i.Config["volatile.base_image"]}
	if t, err := time.Parse(time.RFC3339Nano, i.Created); err == nil && t.Unix() > 0 {
		out.Created = t.UTC()
	}
	out.Labels, out.Annotations = map[string]string{}, map[string]string{}
	for k, v := range i.Config {
		switch {
		case strings.HasPrefix(k, "user.") && !slices.Contains(cloudInit, k):
			out.Labels[k] = v
		case strings.HasPrefix(k, "image."), slices.Contains(shown, k):
			out.Annotations[k] = v
		}
	}
	for k, v := range map[string]string{"architecture": i.Architecture, "description": i.Description, "profiles": strings.Join(i.Profiles, ","), "project": i.key().project} {
		if v != "" {
			out.Annotations[k] = v
		}
	}
	if i.Location != "" && i.Location != "none" { // a cluster's member
		out.Annotations["location"] = i.Location
	}
	if i.Ephemeral {
		out.Annotations["ephemeral"] = "true"
	}
	for _, name := range slices.Sorted(maps.Keys(i.Devices)) {
		if d := i.Devices[name]; d["type"] == "disk" && d["source"] != "" && d["path"] != "" {
			out.Mounts = append(out.Mounts, workload.Mount{Type: "bind", Source: d["source"], Destination: d["path"], ReadOnly: d["readonly"] == "true"})
		}
	}
	if out.Run == nil {
		out.State = i.state()
	}
}

// state is that of a container of which nothing is seen to run.
func (i *instance) state() workload.State {
	switch i.Status {
	case "Running":
		return workload.StateRunning // it has just begun or ended, or what it is cannot be seen
	case "Frozen":
		return workload.StatePaused
	case "Stopped":
		if i.Config["volatile.last_state.power"] == "" { // set once it has been started
			return workload.StateCreated
		}
		return workload.StateExited
	}
	return workload.StateUnknown
}

// layer is what is seen of a container without asking the server.
func (c *Collector) layer(k key, r lxcmonitor.Running) *workload.Container {
	out := &workload.Container{
		ID: c.id(k), Name: k.name, Runtime: c.name, Hostname: k.name,
		Aliases: []workload.ContainerID{{Runtime: "lxc", Instance: c.path, ID: k.lxcName()}},
	}
	if !r.Init.IsZero() {
		out.State = workload.StateRunning
		if r.Frozen {
			out.State = workload.StatePaused
		}
		out.Run = &workload.Run{Init: r.Init, ClaimedPaths: []string{r.Payload}, Registers: true}
	}
	return out
}
