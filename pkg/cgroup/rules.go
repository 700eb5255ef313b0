// SPDX-License-Identifier: Apache-2.0

package cgroup

import "strings"

// naming is a name that an engine makes: prefix, 64 hexadecimal digits, and
// with systemd's driver ".scope".
type naming struct {
	prefix string
	engine string
	role   Role // of a helper, else empty
	// plain: the engine writes it without ".scope" too, with the cgroupfs driver.
	plain bool
}

// namings are tried in order: a longer prefix stands before its beginning.
var namings = [...]naming{
	{"docker-", EngineDocker, "", false},
	{"cri-containerd-", EngineContainerd, "", false},
	{"nerdctl-", EngineContainerd, "", false},
	{"crio-conmon-", EngineCRIO, RoleConmon, true},
	{"crio-", EngineCRIO, "", true},
	{"libpod-conmon-", EnginePodman, RoleConmon, true},
	{"libpod-payload-", EnginePodman, "", true}, // --cgroups=split
	{"libpod-", EnginePodman, "", true},
}

// scope: docker-<64hex>.scope, crio-<64hex>, libpod-conmon-<64hex>.scope.
func (p *parser) scope() bool {
	base, scoped := strings.CutSuffix(p.name, ".scope")
	for _, n := range namings {
		id, ok := strings.CutPrefix(base, n.prefix)
		if !ok || !scoped && !n.plain {
			continue
		}
		switch {
		case isHex64(id) && n.role != "":
			return p.add(Claim{Kind: KindHelper, Engine: n.engine, ID: id, Role: n.role})
		case isHex64(id):
			return p.add(Claim{Kind: KindContainer, Engine: n.engine, ID: id})
		case n.engine == EngineDocker && isBuildID(id): // a step of docker build
			return p.add(Claim{Kind: KindContainer, Engine: EngineBuildKit, ID: id})
		}
	}
	return false
}

// colons: <slice>:cri-containerd:<64hex>, a path meant for systemd's driver that
// reached one that does not speak with systemd and made a directory of it.
func (p *parser) colons() bool {
	slice, rest, ok1 := strings.Cut(p.name, ":")
	prefix, id, ok2 := strings.Cut(rest, ":")
	if !ok1 || !ok2 || !isHex64(id) || slice != "" && !strings.HasSuffix(slice, ".slice") {
		return false
	}
	for _, n := range namings {
		if n.role != "" || prefix != strings.TrimSuffix(n.prefix, "-") {
			continue
		}
		if uid, qos, ok := parsePodSlice(slice); ok && uid != "" {
			p.podUID, p.qos = uid, qos
		}
		return p.add(Claim{Kind: KindContainer, Engine: n.engine, ID: id})
	}
	return false
}

// kubepods: the cgroupfs driver's /kubepods[/besteffort|/burstable]/pod<uid>.
func (p *parser) kubepods() bool {
	switch {
	case p.name == "kubepods":
		p.kubernetes, p.qos, p.podUID = true, "", ""
		return true
	case !p.kubernetes:
		return false
	case p.up == "kubepods" && (p.name == "besteffort" || p.name == "burstable"):
		p.qos = p.name
		return true
	case p.up != "kubepods" && p.up != p.qos:
		return false
	}
	uid, ok := strings.CutPrefix(p.name, "pod")
	if !ok || !isPodUID(uid, '-') {
		return false
	}
	if p.up == "kubepods" {
		p.qos = "guaranteed"
	}
	p.podUID = uid
	return p.add(Claim{Kind: KindPod, ID: uid})
}

// podSlice: systemd's driver, [<root>-]kubepods[-<qos>][-pod<uid>].slice.
func (p *parser) podSlice() bool {
	uid, qos, ok := parsePodSlice(p.name)
	if !ok {
		return false
	}
	p.kubernetes, p.qos, p.podUID = true, qos, uid
	if uid == "" {
		return true
	}
	return p.add(Claim{Kind: KindPod, ID: uid})
}

// parsePodSlice reads the name of a slice of the kubelet's. Without a pod in it
// uid is empty.
func parsePodSlice(name string) (uid, qos string, ok bool) {
	base, ok := strings.CutSuffix(name, ".slice")
	if !ok {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(base, "kubepods")
	if !ok { // below --cgroup-root
		if _, rest, ok = strings.Cut(base, "-kubepods"); !ok {
			return "", "", false
		}
	}
	for _, q := range [...]string{"-besteffort", "-burstable"} {
		if r, ok := strings.CutPrefix(rest, q); ok {
			rest, qos = r, q[1:]
			break
		}
	}
	if rest == "" {
		return "", qos, true
	}
	escaped, ok := strings.CutPrefix(rest, "-pod")
	if !ok || !isPodUID(escaped, '_') { // "-" in a slice's name is a level, so the kubelet writes "_"
		return "", "", false
	}
	if qos == "" {
		qos = "guaranteed"
	}
	return strings.ReplaceAll(escaped, "_", "-"), qos, true
}

// podmanPod: [machine-|user-]libpod_pod_<64hex>.slice, and /libpod_parent/<64hex>.
func (p *parser) podmanPod() bool {
	id := p.name
	if base, ok := strings.CutSuffix(p.name, ".slice"); ok {
		var parent string
		if parent, id, ok = strings.Cut(base, "libpod_pod_"); !ok || parent != "" && !strings.HasSuffix(parent, "-") {
			return false
		}
	} else if p.up != "libpod_parent" {
		return false
	}
	if !isHex64(id) {
		return false
	}
	p.podUID = id
	return p.add(Claim{Kind: KindPod, Engine: EnginePodman, ID: id})
}

// conmon: podman's /libpod_parent/conmon, shared by all containers, and
// /libpod_parent/<pod>/conmon, by those of a pod. Only pids has it on v1.
func (p *parser) conmon() bool {
	pod := p.upup == "libpod_parent" && isHex64(p.up)
	if p.name != "conmon" || p.up != "libpod_parent" && !pod {
		return false
	}
	return p.add(Claim{Kind: KindHelper, Engine: EnginePodman, Role: RoleConmon})
}

// task: /ecs/<task>, /ecs/<cluster>/<task>, ecstasks-<task>.slice.
func (p *parser) task() bool {
	id, cluster := p.name, ""
	if base, ok := strings.CutSuffix(p.name, ".slice"); ok {
		if id, ok = strings.CutPrefix(base, "ecstasks-"); !ok {
			return false
		}
	} else if p.upup == "ecs" && !isTaskID(p.up) && isWord(p.up) {
		cluster = p.up
	} else if p.up != "ecs" {
		return false
	}
	if !isTaskID(id) {
		return false
	}
	p.taskDepth, p.taskID = p.depth+1, id
	return p.add(Claim{Kind: KindTask, Engine: EngineECS, Namespace: cluster, ID: id})
}

// taskContainer: directly in a task, <64hex> on EC2, where the agent drives
// Docker, or <task>-<digits> on Fargate.
func (p *parser) taskContainer() bool {
	if p.taskDepth == 0 || p.taskDepth != p.depth {
		return false
	}
	if isHex64(p.name) {
		return p.add(Claim{Kind: KindContainer, Engine: EngineDocker, ID: p.name})
	}
	n, ok := strings.CutPrefix(p.name, p.taskID+"-")
	if !ok || !isDigits(n) {
		return false
	}
	return p.add(Claim{Kind: KindContainer, Engine: EngineECS, ID: p.name})
}

// machine: systemd-nspawn@<name>.service; machine-<name>.scope in machine.slice
// by whoever registered it with machined, of which libvirt and nspawn can be told.
func (p *parser) machine() bool {
	if escaped, ok := cutBoth(p.name, "systemd-nspawn@", ".service"); ok {
		name := unescapeUnit(escaped)
		return isMachine(name) && p.add(Claim{Kind: KindContainer, Engine: EngineNspawn, ID: name, Machine: name})
	}
	escaped, ok := cutBoth(p.name, "machine-", ".scope")
	name := unescapeUnit(escaped)
	if !ok || p.up != "machine.slice" || !isMachine(name) {
		return false
	}
	c := Claim{Kind: KindContainer, ID: name, Machine: name}
	driver, rest, _ := strings.Cut(name, "-")
	number, _, _ := strings.Cut(rest, "-")
	first, _, _ := strings.Cut(p.rest, "/")
	switch {
	case driver == "qemu" && isDigits(number):
		c.Kind, c.Engine = KindVM, EngineLibvirt
	case driver == "lxc" && isDigits(number):
		c.Engine = EngineLibvirt
	case first == "payload" || first == "supervisor":
		c.Engine = EngineNspawn
	}
	return p.add(c)
}

// lxc: lxc.payload.<name> and lxc.monitor.<name> since LXC 4; before that, and
// on Proxmox, /lxc/<name>, /lxc.payload/<name>, /lxc.monitor/<name>.
func (p *parser) lxc() bool {
	name, ok := strings.CutPrefix(p.name, "lxc.payload.")
	monitor := false
	if !ok {
		name, monitor = strings.CutPrefix(p.name, "lxc.monitor.")
	}
	if !ok && !monitor {
		name, monitor = p.name, p.up == "lxc.monitor"
		if !monitor && p.up != "lxc" && p.up != "lxc.payload" || isUnit(name) {
			return false
		}
	}
	if !isPrintable(name) {
		return false
	}
	c := Claim{Kind: KindContainer, Engine: EngineLXC, ID: name, Machine: name}
	if monitor {
		c.Kind, c.Role = KindHelper, RoleMonitor
	}
	return p.add(c)
}

// buildkit: <parent>/buildkit/<id>, a build step.
func (p *parser) buildkit() bool {
	if p.up != "buildkit" || !isBuildID(p.name) {
		return false
	}
	return p.add(Claim{Kind: KindContainer, Engine: EngineBuildKit, ID: p.name})
}

// garden: Cloud Foundry's /garden/<handle>, or one level deeper in good or bad.
func (p *parser) garden() bool {
	in := p.up == "garden" || p.upup == "garden" && (p.up == "good" || p.up == "bad")
	if !in || !isGardenHandle(p.name) {
		return false
	}
	return p.add(Claim{Kind: KindContainer, Engine: EngineGarden, ID: p.name})
}

// bare: <64hex>. Docker's cgroupfs driver writes it, below /docker or any
// --cgroup-parent; so do the kubelet's runtimes, containerd's clients and others.
func (p *parser) bare() bool {
	if !isHex64(p.name) {
		return false
	}
	c := Claim{Kind: KindContainer, ID: p.name}
	switch p.up {
	case "docker":
		c.Engine = EngineDocker
	case "k8s.io":
		c.Engine, c.Namespace = EngineContainerd, "k8s.io"
	}
	return p.add(c)
}
