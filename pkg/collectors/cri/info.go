// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// verbose is what containerd and CRI-O say beyond the CRI, where they are asked to
// be verbose: one entry "info" of JSON. cri-dockerd says nothing.
type verbose struct {
	PID int64 `json:"pid"`
	// Image is a sandbox's, of containerd's.
	Image  string `json:"image"`
	Config struct {
		Image struct {
			Image         string `json:"image"`
			UserSpecified string `json:"user_specified_image"`
		} `json:"image"`
		Linux struct {
			SecurityContext struct {
				NamespaceOptions namespaceOptions `json:"namespace_options"`
			} `json:"security_context"`
		} `json:"linux"`
	} `json:"config"`
	Spec *runtimespec.Spec `json:"runtimeSpec"`
}

// namespaceOptions are a container's as the kubelet asked for them, each a number
// or a word of NamespaceMode.
type namespaceOptions struct {
	Network json.RawMessage `json:"network"`
	PID     json.RawMessage `json:"pid"`
	IPC     json.RawMessage `json:"ipc"`
}

// isNode reports whether a namespace is the host's.
func isNode(mode json.RawMessage) bool {
	return string(mode) == strconv.Itoa(int(runtimeapi.NamespaceMode_NODE)) || string(mode) == strconv.Quote(runtimeapi.NamespaceMode_NODE.String())
}

// specKey is where the runtime-spec is in it.
const specKey = "runtimeSpec."

// readInfo reads it within the budgets of one container, which are those of a
// spec, a level further in.
func readInfo(info map[string]string, env map[string]bool) (verbose, error) {
	var v verbose
	text := info["info"]
	if text == "" {
		return v, nil
	}
	cut, err := boundjson.Decode(strings.NewReader(text), infoLimits(env), &v)
	if err != nil {
		return verbose{}, fmt.Errorf("verbose status: %w", err)
	}
	if v.Spec != nil {
		for _, path := range cut {
			if inner, ok := strings.CutPrefix(path, specKey); ok {
				v.Spec.Cut = append(v.Spec.Cut, inner)
			}
		}
	}
	return v, nil
}

// infoLimits are the budgets of one verbose text, a level further in.
func infoLimits(env map[string]bool) boundjson.Limits {
	limits := collectors.Reading(env)
	limits.Bytes = append([]int{collectors.MaxDocument}, limits.Bytes...)
	return limits
}

// fill adds what the spec says of the process and its walls, and who it is.
func (v *verbose) fill(out *workload.Container, env map[string]bool) {
	if v.Spec == nil {
		return
	}
	labels, truncated := out.Labels, out.Truncated
	if v.Spec.Annotations["io.container.manager"] == engineCRIO {
		runtimespec.CRIO(out, v.Spec.Annotations)
	} else {
		runtimespec.CRI(out, v.Spec.Annotations)
	}
	out.Labels, out.Truncated = labels, truncated // the engine's word comes before its own annotation
	v.Spec.Fill(out, env)
	v.share(out.Security)
}

// share says which namespaces are the host's where containerd's spec cannot: in
// it a container joins those of its sandbox, whosever they are.
func (v *verbose) share(s *workload.Security) {
	if s == nil {
		return
	}
	o := v.Config.Linux.SecurityContext.NamespaceOptions
	s.HostNetwork = s.HostNetwork || isNode(o.Network)
	s.HostPID = s.HostPID || isNode(o.PID)
	s.HostIPC = s.HostIPC || isNode(o.IPC)
}

// run is the container's run, while it has one.
func (v *verbose) run(state workload.State) *workload.Run {
	if v.PID <= 0 || v.PID > int64(workload.MaxPID) || state != workload.StateRunning && state != workload.StateCreated {
		return nil
	}
	r := &workload.Run{Init: workload.ProcessKey{PID: workload.PID(v.PID)}, Registers: true}
	if v.Spec != nil && v.Spec.CgroupPath() != "" {
		r.ClaimedPaths = []string{v.Spec.CgroupPath()}
	}
	return r
}
