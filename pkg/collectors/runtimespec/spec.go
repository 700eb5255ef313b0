// SPDX-License-Identifier: Apache-2.0

// Package runtimespec turns an OCI runtime-spec into a description of a
// container: a bundle's config.json, or the spec that containerd keeps. It does
// no I/O of its own and keeps nothing; the caller gives the budgets of what is
// read (Read), bounds what comes out (collectors.Bound), and decides whose
// annotations to believe.
package runtimespec

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Spec is the part of a specs.Spec that is used. What is left out is skipped
// while decoding: the seccomp profile is most of a config.json.
type Spec struct {
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Annotations map[string]string `json:"annotations"`
	Linux       *Linux            `json:"linux"`

	// Cut says which lists and objects were too long to be read whole, as boundjson.Reader.Cut does.
	Cut []string `json:"-"`
}

// Linux is the part of a specs.Linux that is used.
type Linux struct {
	CgroupsPath   string                 `json:"cgroupsPath"`
	Namespaces    []specs.LinuxNamespace `json:"namespaces"`
	Resources     *specs.LinuxResources  `json:"resources"`
	Seccomp       *struct{}              `json:"seccomp"`
	MaskedPaths   []string               `json:"maskedPaths"`
	ReadonlyPaths []string               `json:"readonlyPaths"`
}

// Read reads a config.json within limits, which are those of collectors.Reading.
func Read(r io.Reader, limits boundjson.Limits) (*Spec, error) {
	limits.String = max(limits.String, maxAnnotation)
	limits.Only = wanted
	var s Spec
	cut, err := boundjson.Decode(r, limits, &s)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	s.Cut = cut
	return &s, nil
}

// wanted is what Spec has fields for. That there is a seccomp profile is enough: it
// is the greater part of an engine's config.json.
var wanted = map[string][]string{
	"":              {"process", "root", "hostname", "mounts", "annotations", "linux"},
	"linux":         {"cgroupsPath", "namespaces", "resources", "seccomp", "maskedPaths", "readonlyPaths"},
	"linux.seccomp": {},
}

// maxAnnotation is how long an annotation may be: CRI-O keeps all labels in one, as JSON.
const maxAnnotation = 64 << 10

// Fill puts into c what the spec says of the process and its walls, but for what
// annotations say. Of the environment it keeps the variables in envAllow. What
// hangs on a list that was not read whole is left out, and named in Truncated.
func (s *Spec) Fill(c *workload.Container, envAllow map[string]bool) {
	c.Hostname = s.Hostname
	c.Mounts = s.mounts()
	c.Security = s.security()
	if s.Process != nil {
		c.User = userOf(&s.Process.User)
		c.Env = allowedEnv(s.Process.Env, envAllow)
	}
	if s.Linux != nil {
		c.Limits = limitsOf(s.Linux.Resources)
	}
	for _, path := range s.Cut {
		field := fieldOf(path)
		switch {
		case field == "" || field == "env" && len(envAllow) == 0:
			continue
		case field == "security":
			c.Security = nil // one namespace less than there is would be a wall less
		case field == "spec":
			c.Security, c.Limits = nil, nil
		}
		c.Truncated = append(c.Truncated, field)
	}
}

// fieldOf names what suffers from a list or object that was cut; empty for
// nothing. What is not known to be harmless, the whole spec suffers from.
func fieldOf(path string) string {
	under := func(tops ...string) bool {
		return slices.ContainsFunc(tops, func(top string) bool { return path == top || strings.HasPrefix(path, top+".") })
	}
	switch {
	case under("process.args", "process.rlimits", "process.user", "hooks", "linux.seccomp", "linux.maskedPaths", "linux.readonlyPaths",
		"linux.sysctl", "linux.devices", "linux.uidMappings", "linux.gidMappings"):
		return ""
	case under("process.env"):
		return "env"
	case under("mounts"):
		return "mounts"
	case under("annotations"):
		return "annotations"
	case under("process.capabilities", "linux.namespaces", "linux.resources.devices"):
		return "security"
	}
	return "spec"
}

func userOf(u *specs.User) string {
	if u.Username != "" {
		return u.Username
	}
	return strconv.FormatUint(uint64(u.UID), 10) + ":" + strconv.FormatUint(uint64(u.GID), 10)
}

func allowedEnv(env []string, allow map[string]bool) map[string]string {
	var m map[string]string
	for _, e := range env {
		k, v, ok := strings.Cut(e, "=")
		if !ok || !allow[k] {
			continue
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[k] = v
	}
	return m
}

// mounts leaves out what every container has.
func (s *Spec) mounts() []workload.Mount {
	var list []workload.Mount
	for _, m := range s.Mounts {
		if isUsualMount(&m) {
			continue
		}
		typ := m.Type
		if typ == "" || typ == "none" {
			typ = "bind"
		}
		list = append(list, workload.Mount{
			Type: typ, Source: m.Source, Destination: m.Destination,
			ReadOnly: slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro"),
		})
	}
	return list
}

func isUsualMount(m *specs.Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue":
		return true
	case "tmpfs":
		return m.Destination == "/dev" || m.Destination == "/dev/shm" || m.Destination == "/run"
	}
	return false
}

func limitsOf(r *specs.LinuxResources) *workload.Limits {
	if r == nil {
		return nil
	}
	var l workload.Limits
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		l.MemoryBytes = *r.Memory.Limit
	}
	if cpu := r.CPU; cpu != nil {
		if cpu.Shares != nil && *cpu.Shares < 1<<62 {
			l.CPUShares = int64(*cpu.Shares)
		}
		if cpu.Quota != nil && *cpu.Quota > 0 && *cpu.Quota < 1<<32 && cpu.Period != nil && *cpu.Period > 0 {
			l.NanoCPUs = int64(float64(*cpu.Quota) / float64(*cpu.Period) * 1e9)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		l.Pids = *r.Pids.Limit
	}
	return &l
}

// defaultCaps are what Docker, containerd and CRI give a container that asks for nothing.
var defaultCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func (s *Spec) security() *workload.Security {
	sec := &workload.Security{
		HostPID:      s.sharesHost(specs.PIDNamespace),
		HostNetwork:  s.sharesHost(specs.NetworkNamespace),
		HostIPC:      s.sharesHost(specs.IPCNamespace),
		ReadOnlyRoot: s.Root != nil && s.Root.Readonly,
		Privileged:   s.privileged(),
	}
	for _, name := range s.bounding() {
		if !slices.Contains(defaultCaps, name) {
			sec.AddedCaps = append(sec.AddedCaps, name)
		}
	}
	slices.Sort(sec.AddedCaps)
	return sec
}

func (s *Spec) bounding() []string {
	if s.Process == nil || s.Process.Capabilities == nil {
		return nil
	}
	return s.Process.Capabilities.Bounding
}

// sharesHost: a container without a namespace of a type is in the runtime's,
// the host's. One that joins another by path is in a pod's, unless the path is init's.
func (s *Spec) sharesHost(t specs.LinuxNamespaceType) bool {
	if s.Linux == nil {
		return true
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == t {
			return strings.HasPrefix(path.Clean(n.Path), "/proc/1/ns/")
		}
	}
	return true
}

// privileged is what engines make of --privileged, for the spec has no such
// word: CAP_SYS_ADMIN, every device, no seccomp, and nothing of /proc hidden.
func (s *Spec) privileged() bool {
	if s.Linux == nil || s.Linux.Seccomp != nil || len(s.Linux.MaskedPaths) > 0 || len(s.Linux.ReadonlyPaths) > 0 {
		return false
	}
	return slices.Contains(s.bounding(), "CAP_SYS_ADMIN") && allDevices(s.Linux.Resources)
}

// allDevices: the last rule that is about every device allows it.
func allDevices(r *specs.LinuxResources) bool {
	allowed := false
	if r == nil {
		return allowed
	}
	for _, d := range r.Devices {
		if (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil {
			allowed = d.Allow
		}
	}
	return allowed
}

// CgroupPath is where the spec asks for the container's cgroup, as a path inside
// a hierarchy; empty if it leaves that to the runtime.
func (s *Spec) CgroupPath() string {
	if s.Linux == nil {
		return ""
	}
	return CgroupPath(s.Linux.CgroupsPath)
}

// AsksFor reports whether the container of this id asked for one of the cgroups;
// whose spec is nil, or leaves it to the runtime, asked for runc's default. A
// hierarchy may be mounted, or delegated, below its top, so the end decides.
func (s *Spec) AsksFor(id string, cgroups []workload.CgroupPath) bool {
	want := ""
	if s != nil {
		want = s.CgroupPath()
	}
	if want == "" {
		want = "/" + id
	}
	return slices.ContainsFunc(cgroups, func(c workload.CgroupPath) bool { return strings.HasSuffix(c.Path, want) })
}

// CgroupPath turns a cgroupsPath into a path inside a hierarchy. The systemd
// driver's form is slice:prefix:name.
func CgroupPath(p string) string {
	f := strings.Split(p, ":")
	if len(f) != 3 {
		if p == "" {
			return ""
		}
		return "/" + strings.TrimPrefix(p, "/")
	}
	unit := f[2]
	if !strings.HasSuffix(unit, ".slice") {
		if f[1] != "" {
			unit = f[1] + "-" + unit
		}
		unit += ".scope"
	}
	slice := f[0]
	if slice == "" {
		slice = "system.slice"
	}
	return expandSlice(slice) + "/" + unit
}

// expandSlice gives the path of a slice: a-b.slice lies in a.slice.
func expandSlice(slice string) string {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "-" || name == "" {
		return ""
	}
	var b strings.Builder
	for i := range len(name) {
		if name[i] == '-' {
			b.WriteString("/" + name[:i] + ".slice")
		}
	}
	b.WriteString("/" + slice)
	return b.String()
}
