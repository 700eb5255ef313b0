// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"slices"
	"strings"
)

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
	// RoleConmon and RoleMonitor: it ends at a helper of the container, or below.
	RoleConmon  Role = "conmon"
	RoleMonitor Role = "monitor"
)

// The engines whose naming Parse knows.
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

// Claim is what one component of a path claims. Strings share the path's memory
// where they can.
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

// Parsed is what a path says.
type Parsed struct {
	// Claims are outermost first.
	Claims []Claim
	// Unit is the systemd service, scope or mount of the host's system manager, Slice the slice that it is in.
	// What a systemd inside a container makes is not told.
	Unit, Slice string
	// UnitPath is the path of that unit's own cgroup, empty without a unit.
	UnitPath string
	// User is the uid in user-UID.slice; UserUnit and UserSlice are those of that user's own manager.
	User, UserUnit, UserSlice string
	// Truncated is set where the path claimed more than MaxClaims, or was so long that the kernel may have cut it (the
	// last component is not read then); the outermost claims are there.
	Truncated bool
}

// Innermost gives the deepest claim of a kind, false if there is none.
func (p Parsed) Innermost(k Kind) (Claim, bool) {
	for _, c := range slices.Backward(p.Claims) {
		if c.Kind == k {
			return c, true
		}
	}
	return Claim{}, false
}

// Parse reads what the names in a cgroup path claim. It never fails: a path
// without claims gives none.
//
// What is no claim, because ordinary directories look the same: containerd's
// /NAMESPACE/NAME unless NAME is 64 hexadecimal digits, a name that a user chose
// (runc, crun, ctr --cgroup), anything in a .mount, .socket or .service unit
// (var-lib-docker-containers-<id>-mounts-shm.mount is the host's), and ids in
// upper case or of another length.
func Parse(path string) Parsed {
	var p parser
	if cut(path) {
		path = path[:strings.LastIndexByte(path[:MaxPath-1], '/')+1]
		p.out.Truncated = true
	}
	p.path = path
	for p.next() {
		p.unit()
		p.claim()
	}
	for i := range p.out.Claims {
		p.out.Claims[i].Role = p.role(&p.out.Claims[i])
	}
	return p.out
}

// parser is where Parse is in a path.
type parser struct {
	path string
	out  Parsed

	name        string // the component
	up, upup    string // the names above it
	depth       int    // its index
	start, end  int    // where it is in path
	rest        string // what follows it, without the slash
	units       unitPhase
	kubernetes  bool // below a kubepods cgroup
	qos, podUID string
	taskDepth   int // depth of the last ECS task claim, plus 1
	taskID      string
	started     bool
}

// next moves on to the next component. The kernel writes no empty ones.
func (p *parser) next() bool {
	for p.end < len(p.path) && p.path[p.end] == '/' {
		p.end++
	}
	if p.end == len(p.path) {
		return false
	}
	if p.started {
		p.depth++
	}
	p.started = true
	p.upup, p.up = p.up, p.name
	p.start = p.end
	if i := strings.IndexByte(p.path[p.start:], '/'); i >= 0 {
		p.end = p.start + i
	} else {
		p.end = len(p.path)
	}
	p.name = p.path[p.start:p.end]
	p.rest = strings.TrimPrefix(p.path[p.end:], "/")
	return true
}

// add lists a claim for the component.
func (p *parser) add(c Claim) bool {
	if len(p.out.Claims) == MaxClaims {
		p.out.Truncated = true
		return true
	}
	c.Depth, c.Path = p.depth, p.path[:p.end]
	c.PodUID, c.QoS = p.podUID, p.qos
	p.out.Claims = append(p.out.Claims, c)
	return true
}

// claim tries the rules, the most telling names first. A component claims one
// thing at most.
func (p *parser) claim() {
	switch {
	case p.kubepods(), p.podSlice(), p.podmanPod(), p.task():
	case p.scope(), p.colons(), p.conmon(), p.machine(), p.lxc():
	case p.taskContainer(), p.buildkit(), p.garden(), p.bare():
	}
}

// role says what a process at the end of the path is to a claim.
func (p *parser) role(c *Claim) Role {
	tail := strings.Trim(p.path[len(c.Path):], "/")
	if c.Kind == KindHelper {
		return c.Role
	}
	if tail == "" {
		if c.Kind == KindPod || c.Kind == KindTask {
			return RoleShim
		}
		return RoleContainer
	}
	if c.Kind != KindContainer {
		return RoleSub
	}
	own, below, _ := strings.Cut(tail, "/")
	switch {
	case c.Engine == EngineNspawn && own == "supervisor":
		return RoleMonitor
	case own == "init.scope" && below == "":
		return RoleInitScope
	case !c.hasPayload(own):
		return RoleSub
	case below == "":
		return RolePayload
	case below == "init.scope":
		return RoleInitScope
	}
	return RoleSub
}

// hasPayload reports whether the engine makes a sub-cgroup of this name for
// the container's processes, so that the container may have that one and not
// the limits of its own: nspawn always, Proxmox below /lxc/<number>
// (lxc.cgroup.dir.container.inner), crun below a scope.
func (c *Claim) hasPayload(name string) bool {
	switch c.Engine {
	case EngineNspawn:
		return name == "payload"
	case EngineLXC:
		return name == "ns"
	}
	return name == "container" && strings.HasSuffix(c.Path, ".scope")
}
