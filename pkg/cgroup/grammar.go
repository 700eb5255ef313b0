// SPDX-License-Identifier: Apache-2.0

package cgroup

// MaxClaims is how many claims Parse lists for one path.
const MaxClaims = 16

// Kind is what a claim is about.
type Kind string

// The kinds of claims.
const (
	// KindContainer is a container; also an LXC container or an nspawn machine.
	KindContainer Kind = "container"
	// KindPod is a Kubernetes or podman pod. Its ID is the pod's uid (podman: the pod's id).
	KindPod Kind = "pod"
	// KindTask is an ECS task.
	KindTask Kind = "task"
	// KindHelper is a process that serves the container ID and is not in it: conmon, an LXC monitor.
	KindHelper Kind = "helper"
	// KindVM is a virtual machine.
	KindVM Kind = "vm"
)

// Role is what a process at the end of the path is to the claim.
type Role string

// The roles.
const (
	// RoleContainer: the path ends at the claimed container.
	RoleContainer Role = "container"
	// RolePayload: it ends at the sub-cgroup that the engine itself makes for
	// all of the container's processes: crun's "container", nspawn's "payload".
	RolePayload Role = "payload"
	// RoleInitScope: it ends at the init.scope of a systemd inside the container.
	RoleInitScope Role = "init-scope"
	// RoleSub: it goes on below the claim.
	RoleSub Role = "sub"
	// RoleShim: it ends at a pod or task, where only helpers of the engine are.
	RoleShim Role = "shim"
	// RoleConmon and RoleMonitor: it ends at a helper of the container.
	RoleConmon  Role = "conmon"
	RoleMonitor Role = "monitor"
)

// Claim is what one component of a path claims. Strings share the path's memory where they can.
type Claim struct {
	Kind Kind
	// Engine is the engine whose naming this is, one of the Engine constants;
	// empty where several write the same.
	Engine string
	// Namespace is containerd's namespace, or the ECS cluster, where the path says so.
	Namespace string
	// ID is the engine's id as it prints it; empty for a helper that serves several (podman's shared conmon cgroup).
	ID string
	// PodUID is the uid of the pod around it (with dashes) or, for podman, the pod's id.
	PodUID string
	// QoS is guaranteed, burstable or besteffort, for Kubernetes.
	QoS string
	// Machine is the name of the machine, unescaped, for nspawn, LXC, libvirt.
	Machine string
	// Depth is the index of the component, 0 being the first below the root.
	Depth int
	// Path is the path up to and with the component.
	Path string
	Role Role
}

// The engines.
const (
	EngineDocker     = "docker"
	EngineContainerd = "containerd"
	EngineCRIO       = "cri-o"
	EnginePodman     = "podman"
	EngineECS        = "ecs"
	EngineLXC        = "lxc"
	EngineNspawn     = "nspawn"
	EngineGarden     = "garden"
	EngineBuildKit   = "buildkit"
	EngineLibvirt    = "libvirt"
)

// Parsed is what a path says.
type Parsed struct {
	// Claims are outermost first.
	Claims []Claim
	// Unit is the systemd service, scope or mount of the host's system manager, Slice the slice that it is in.
	// What a systemd inside a container makes is not told.
	Unit, Slice string
	// User is the uid in user-UID.slice; UserUnit and UserSlice are those of that user's own manager.
	User, UserUnit, UserSlice string
	// Truncated is set where the path was longer than MaxPath or claimed more than MaxClaims; the outermost are there.
	Truncated bool
}

// Innermost gives the deepest claim of a kind, false if there is none.
func (p Parsed) Innermost(k Kind) (Claim, bool) {
	for i := len(p.Claims) - 1; i >= 0; i-- {
		if p.Claims[i].Kind == k {
			return p.Claims[i], true
		}
	}
	return Claim{}, false
}

// Parse reads what the names in a cgroup path claim. It never fails: a path without claims gives none.
func Parse(path string) Parsed { return Parsed{} }
