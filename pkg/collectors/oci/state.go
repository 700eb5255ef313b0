// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The runtimes, as ContainerID.Runtime names them.
const (
	runtimeRunc  = "runc"
	runtimeCrun  = "crun"
	runtimeYouki = "youki"
)

// state is what one runtime's file says of one container, in the same words for all three.
type state struct {
	runtime string
	bundle  string
	created time.Time
	pid     workload.PID
	// ticks is the start of pid in clock ticks since boot; 0 where the runtime does not say (youki).
	ticks uint64
	// status is what the file itself says (youki), empty for the others.
	status workload.State
	// cgroups are where the runtime put the container.
	cgroups []cgroup
	// annotations are the bundle's as runc repeats them, for a bundle that cannot be read.
	annotations map[string]string
}

// cgroup is one place that a state names.
type cgroup struct {
	// controller is runc's key: empty for v2, "*" for all hierarchies (crun, youki).
	controller string
	// path is absolute on the host for runc ("/sys/fs/cgroup/pids/c1"), and inside the hierarchy for "*".
	path string
}

// anyController marks a path inside every hierarchy.
const anyController = "*"

// runcState mirrors runc's libcontainer.State, and what youki writes into a
// file of the same name (libcontainer/src/container/state.rs).
type runcState struct {
	ID      string            `json:"id"`
	PID     *int64            `json:"init_process_pid"`
	Start   uint64            `json:"init_process_start"`
	Created time.Time         `json:"created"`
	Cgroups map[string]string `json:"cgroup_paths"`
	Config  struct {
		// Labels are "key=value": the bundle's directory, and its annotations.
		Labels []string `json:"labels"`
	} `json:"config"`

	OCIVersion  string            `json:"ociVersion"`
	Status      string            `json:"status"`
	YoukiPID    *int64            `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

// parseStateJSON reads the state.json of runc or youki. id is the directory's name.
func parseStateJSON(data []byte, id string) (*state, error) {
	var f runcState
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("parse state.json: %w", err)
	}
	if f.ID != id {
		return nil, fmt.Errorf("state.json of %q is in the directory of %q: %w", cut(f.ID), id, errUntrusted)
	}
	if f.PID == nil && f.OCIVersion != "" {
		return f.youki()
	}
	return f.runc()
}

func (f *runcState) runc() (*state, error) {
	pid, err := pidOf(f.PID)
	if err != nil {
		return nil, err
	}
	s := &state{runtime: runtimeRunc, created: f.Created, pid: pid, ticks: f.Start}
	for key, path := range f.Cgroups {
		s.cgroups = append(s.cgroups, cgroup{controller: key, path: path})
	}
	slices.SortFunc(s.cgroups, func(a, b cgroup) int { return strings.Compare(a.path, b.path) })
	s.annotations = make(map[string]string, len(f.Config.Labels))
	for _, l := range f.Config.Labels {
		k, v, _ := strings.Cut(l, "=")
		if k != "bundle" {
			s.annotations[k] = v
			continue
		}
		s.bundle = v // runc's own comes last, after an annotation of that name
	}
	return s, nil
}

func (f *runcState) youki() (*state, error) {
	s := &state{runtime: runtimeYouki, created: f.Created, bundle: f.Bundle, annotations: f.Annotations}
	switch strings.ToLower(f.Status) {
	case "creating", "created":
		s.status = workload.StateCreated
	case "running":
		s.status = workload.StateRunning
	case "paused":
		s.status = workload.StatePaused
	case "stopped":
		s.status = workload.StateExited
	}
	if f.YoukiPID == nil {
		return s, nil // being created
	}
	var err error
	s.pid, err = pidOf(f.YoukiPID)
	return s, err
}

// parseYoukiConfig gives the cgroup from youki_config.json, empty if it does not say.
func parseYoukiConfig(data []byte) (string, error) {
	var f struct {
		CgroupPath string `json:"cgroup_path"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return "", fmt.Errorf("parse youki_config.json: %w", err)
	}
	return runtimespec.CgroupPath(f.CgroupPath), nil
}

// parseStatus reads crun's status.
func parseStatus(data []byte) (*state, error) {
	var f struct {
		PID     *int64    `json:"pid"`
		Start   uint64    `json:"process-start-time"`
		Cgroup  string    `json:"cgroup-path"`
		Bundle  string    `json:"bundle"`
		Created time.Time `json:"created"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("parse status: %w", err)
	}
	pid, err := pidOf(f.PID)
	if err != nil {
		return nil, err
	}
	s := &state{runtime: runtimeCrun, created: f.Created, bundle: f.Bundle, pid: pid, ticks: f.Start}
	if f.Cgroup != "" {
		s.cgroups = []cgroup{{controller: anyController, path: "/" + strings.TrimPrefix(f.Cgroup, "/")}}
	}
	return s, nil
}

// errNoInit means that the file names no init process, so that it registers nothing.
var errNoInit = errors.New("no init process")

func pidOf(p *int64) (workload.PID, error) {
	if p == nil || *p <= 0 || *p > int64(workload.MaxPID) {
		return 0, errNoInit
	}
	return workload.PID(*p), nil
}

// cut shortens a hostile string for an error.
func cut(s string) string {
	const limit = 80
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}

// maxID is the longest id: NAME_MAX, for an id is the name of a directory.
const maxID = 255

// validID says whether an id may become part of a path. It is runc's own rule,
// but for a leading dot, which containerd puts before the name of what it deletes.
func validID(id string) bool {
	if id == "" || len(id) > maxID || id[0] == '.' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_+-.", c) >= 0) {
			return false
		}
	}
	return true
}
