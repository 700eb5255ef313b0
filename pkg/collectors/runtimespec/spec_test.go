// SPDX-License-Identifier: Apache-2.0

package runtimespec

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/workload"
)

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func parse(tb testing.TB, data []byte) *Spec {
	tb.Helper()
	s, err := Read(bytes.NewReader(data), boundjson.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// specOf makes a spec with the types that engines make theirs with.
func specOf(tb testing.TB, edit func(*specs.Spec)) *Spec {
	tb.Helper()
	s := &specs.Spec{
		Version: specs.Version, Hostname: "h",
		Process: &specs.Process{User: specs.User{UID: 7, GID: 8}, Env: []string{"A=1", "B=2=3", "SECRET=x", "NOVALUE"}, Capabilities: &specs.LinuxCapabilities{}},
		Root:    &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.MountNamespace}},
			Resources:  &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Seccomp:    &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
		},
	}
	edit(s)
	data, err := json.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	return parse(tb, data)
}

func filled(s *Spec, env ...string) *workload.Container {
	allow := make(map[string]bool)
	for _, e := range env {
		allow[e] = true
	}
	var c workload.Container
	s.Fill(&c, allow)
	return &c
}

func TestCRIOsContainerAndSandboxAsRecorded(t *testing.T) {
	pod := &workload.PodRef{UID: "11111111-2222-3333-4444-555555555555", Name: "web", Namespace: "shop"}
	for _, tc := range []struct {
		file, name, image string
		sandbox           bool
	}{
		{"crio-1.34-container.json", "main", "docker.io/library/busybox:feas", false},
		{"crio-1.34-sandbox.json", "web", "registry.local/pause:3.9", true},
	} {
		s := parse(t, read(t, tc.file))
		c := filled(s)
		CRIO(c, s.Annotations)
		if c.Name != tc.name || c.Sandbox != tc.sandbox || c.Image.Name != tc.image || !cmp.Equal(c.Pod, pod) {
			t.Errorf("%s: %+v %+v", tc.file, c, c.Pod)
		}
		if c.Labels["io.kubernetes.pod.uid"] != pod.UID || len(c.Labels) != 4 {
			t.Errorf("%s: labels %v", tc.file, c.Labels)
		}
		// The sandbox joins a network namespace by path, which could be anyone's; the container has none of its own.
		if c.Security.HostNetwork == tc.sandbox || c.Security.HostPID || len(c.Mounts) == 0 || c.User != "0:0" {
			t.Errorf("%s: %+v, mounts %v, user %q", tc.file, c.Security, c.Mounts, c.User)
		}
	}
}

func TestTheEnvironmentIsKeptByAllowListOnly(t *testing.T) {
	s := specOf(t, func(*specs.Spec) {})
	if c := filled(s); c.Env != nil {
		t.Errorf("nothing is allowed, kept %v", c.Env)
	}
	if d := cmp.Diff(map[string]string{"A": "1", "B": "2=3"}, filled(s, "A", "B", "NOVALUE", "ABSENT").Env); d != "" {
		t.Error(d)
	}
}

func TestSecurity(t *testing.T) {
	allow := []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	bare := func(s *specs.Spec) {
		s.Linux.Seccomp, s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil, nil
		s.Linux.Resources.Devices = allow
		s.Process.Capabilities.Bounding = []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}
	}
	for _, tc := range []struct {
		name string
		edit func(*specs.Spec)
		want workload.Security
	}{
		{"nothing special", func(*specs.Spec) {}, workload.Security{}},
		{"the default capabilities are not added", func(s *specs.Spec) { s.Process.Capabilities.Bounding = defaultCaps }, workload.Security{}},
		{"added capabilities", func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = []string{"CAP_SYS_PTRACE", "CAP_CHOWN", "CAP_BPF"}
		},
			workload.Security{AddedCaps: []string{"CAP_BPF", "CAP_SYS_PTRACE"}}},
		{"privileged", bare, workload.Security{Privileged: true, AddedCaps: []string{"CAP_SYS_ADMIN"}}},
		{"every device, but seccomp", func(s *specs.Spec) { bare(s); s.Linux.Seccomp = &specs.LinuxSeccomp{} }, workload.Security{AddedCaps: []string{"CAP_SYS_ADMIN"}}},
		{"no seccomp, but devices denied", func(s *specs.Spec) { bare(s); s.Linux.Resources.Devices = nil }, workload.Security{AddedCaps: []string{"CAP_SYS_ADMIN"}}},
		{"host PID and network", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[2:] }, workload.Security{HostPID: true, HostNetwork: true}},
		{"init's namespace by path", func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/ipc" }, workload.Security{HostIPC: true}},
		{"a pod's namespace by path", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/var/run/netns/cni-1" }, workload.Security{}},
		{"read-only root", func(s *specs.Spec) { s.Root.Readonly = true }, workload.Security{ReadOnlyRoot: true}},
	} {
		if d := cmp.Diff(&tc.want, filled(specOf(t, tc.edit)).Security); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

func TestLimits(t *testing.T) {
	ptr := func(v int64) *int64 { return &v }
	uptr := func(v uint64) *uint64 { return &v }
	got := filled(specOf(t, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(64 << 20)}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(150000), Period: uptr(100000), Shares: uptr(512)}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(99)}
	})).Limits
	if d := cmp.Diff(&workload.Limits{MemoryBytes: 64 << 20, NanoCPUs: 1_500_000_000, CPUShares: 512, Pids: 99}, got); d != "" {
		t.Error(d)
	}
	got = filled(specOf(t, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(-1)}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(-1), Period: uptr(0)}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(-1)}
	})).Limits
	if d := cmp.Diff(&workload.Limits{}, got); d != "" {
		t.Errorf("no limit: %s", d)
	}
}

func TestMountsLeaveOutWhatEveryContainerHas(t *testing.T) {
	c := filled(specOf(t, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Type: "proc", Destination: "/proc"}, {Type: "tmpfs", Destination: "/dev"}, {Type: "cgroup", Destination: "/sys/fs/cgroup"},
			{Type: "bind", Source: "/srv/data", Destination: "/data", Options: []string{"rbind", "ro"}},
			{Source: "/srv/x", Destination: "/x", Options: []string{"bind"}}, {Type: "tmpfs", Source: "tmpfs", Destination: "/tmp"},
		}
	}))
	want := []workload.Mount{
		{Type: "bind", Source: "/srv/data", Destination: "/data", ReadOnly: true},
		{Type: "bind", Source: "/srv/x", Destination: "/x"}, {Type: "tmpfs", Source: "tmpfs", Destination: "/tmp"},
	}
	if d := cmp.Diff(want, c.Mounts); d != "" {
		t.Error(d)
	}
}

func TestCgroupPath(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"/docker/4f3a":               "/docker/4f3a",
		"relative/4f3a":              "/relative/4f3a",
		"system.slice:docker:4f3a":   "/system.slice/docker-4f3a.scope",
		":docker:4f3a":               "/system.slice/docker-4f3a.scope",
		"a-b-c.slice:crio:4f3a":      "/a.slice/a-b.slice/a-b-c.slice/crio-4f3a.scope",
		"-.slice:x:y":                "/x-y.scope",
		"user.slice:x:pod.slice":     "/user.slice/pod.slice",
		"two:parts":                  "/two:parts",
		"not-a-slice:x:y":            "/x-y.scope",
		"kubepods-pod1_2.slice:c:id": "/kubepods.slice/kubepods-pod1_2.slice/c-id.scope",
	} {
		if got := CgroupPath(in); got != want {
			t.Errorf("CgroupPath(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestImageRef(t *testing.T) {
	for in, want := range map[string]workload.ImageRef{
		"":                                {},
		"busybox":                         {Name: "busybox"},
		"docker.io/library/busybox:1.36":  {Name: "docker.io/library/busybox:1.36", Tag: "1.36"},
		"host:5000/busybox":               {Name: "host:5000/busybox"},
		"host:5000/busybox:1@sha256:4f3a": {Name: "host:5000/busybox:1@sha256:4f3a", Tag: "1", Digest: "sha256:4f3a"},
	} {
		if got := ImageRef(in); got != want {
			t.Errorf("ImageRef(%q) = %+v, want %+v", in, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(read(f, "crio-1.34-container.json"))
	f.Add([]byte(`{"process":null,"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}],"resources":{"cpu":{"quota":1,"period":0}}}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		s, err := Read(bytes.NewReader(data), boundjson.Limits{})
		if err != nil {
			return
		}
		c := filled(s, "A")
		CRI(c, s.Annotations)
		CRIO(c, s.Annotations)
		s.CgroupPath()
	})
}
