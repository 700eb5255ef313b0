// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// brief writes a claim on one line: kind, engine, id (64 digits cut to 8; the
// invariants check the rest), depth, role, and what else is set.
func brief(c Claim) string {
	id := c.ID
	if isHex64(id) {
		id = id[:8]
	}
	s := fmt.Sprintf("%s %s %s @%d %s", c.Kind, orDash(c.Engine), orDash(id), c.Depth, c.Role)
	for _, f := range []struct{ name, v string }{{"ns", c.Namespace}, {"pod", c.PodUID}, {"qos", c.QoS}, {"machine", c.Machine}} {
		if f.v != "" && !(f.name == "pod" && f.v == c.ID) && !(f.name == "machine" && f.v == c.ID) {
			s += " " + f.name + "=" + shortHex(f.v)
		}
	}
	return s
}

func shortHex(s string) string {
	if isHex64(s) {
		return s[:8]
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// briefUnits writes what systemd's tree says.
func briefUnits(p Parsed) string {
	var out []string
	for _, f := range []string{p.Slice, p.Unit, p.User, p.UserSlice, p.UserUnit} {
		out = append(out, shortUnit(f))
	}
	return strings.TrimRight(strings.Join(out, " "), " -")
}

func shortUnit(s string) string {
	if len(s) > 48 {
		s = s[:20] + "~" + s[len(s)-8:]
	}
	return orDash(s)
}

const (
	idA = "0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0" // stands for an id that the record left out
	own = "Debian 12, hybrid, kernel 6.18, recorded for this test: "
)

// recordedPath is a path that somebody saw on a machine. Where the record had a
// placeholder for the id, from says so and idA stands for it.
type recordedPath struct {
	name, from string
	path       string
	want       []string // claims, by brief
	units      string   // slice, unit, user, user's slice, user's unit
}

func TestParseOfRecordedPaths(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range recordedPaths() {
		t.Run(r.name, func(t *testing.T) {
			if r.from == "" || seen[r.path+r.name] {
				t.Fatal("a row needs a source and a path of its own")
			}
			seen[r.path+r.name] = true
			p := Parse(r.path)
			checkInvariants(t, r.path, p)
			var got []string
			for _, c := range p.Claims {
				got = append(got, brief(c))
			}
			if d := cmp.Diff(r.want, got); d != "" {
				t.Errorf("claims of %s (-want +got):\n%s", r.path, d)
			}
			if d := cmp.Diff(r.units, briefUnits(p)); d != "" {
				t.Errorf("units of %s (-want +got):\n%s", r.path, d)
			}
		})
	}
	if len(seen) < 60 {
		t.Errorf("%d recorded paths, want 60 or more", len(seen))
	}
}

// checkInvariants holds for every path there is.
func checkInvariants(t *testing.T, path string, p Parsed) {
	t.Helper()
	if len(p.Claims) > MaxClaims {
		t.Fatalf("%d claims", len(p.Claims))
	}
	last := -1
	for _, c := range p.Claims {
		if c.Depth <= last {
			t.Fatalf("claims not outermost first, or two at one depth: %v", p.Claims)
		}
		last = c.Depth
		checkClaim(t, path, c)
	}
	if !p.Truncated {
		checkPrefixes(t, p)
	}
}

func checkClaim(t *testing.T, path string, c Claim) {
	t.Helper()
	if !strings.HasPrefix(path, c.Path) {
		t.Fatalf("%q is no prefix of %q", c.Path, path)
	}
	component := c.Path[strings.LastIndexByte(c.Path, '/')+1:]
	if got := strings.Count(strings.Trim(squeeze(c.Path), "/"), "/"); got != c.Depth {
		t.Fatalf("depth %d of %q", c.Depth, c.Path)
	}
	plain := strings.ReplaceAll(unescapeUnit(component), "_", "-")
	if !strings.Contains(plain, strings.ReplaceAll(c.ID, "_", "-")) {
		t.Fatalf("id %q is not in %q", c.ID, component)
	}
	if c.ID == "" && c.Kind != KindHelper {
		t.Fatalf("claim without id: %+v", c)
	}
	if c.Kind == "" || c.Role == "" {
		t.Fatalf("claim without kind or role: %+v", c)
	}
	for i := range len(c.ID) {
		if c.ID[i] <= ' ' || c.ID[i] > '~' {
			t.Fatalf("id %q has unprintable bytes", c.ID)
		}
	}
}

// checkPrefixes: what the path above a claim claims does not depend on what is
// below it. Only the engine of a machine may, because its children tell it, and
// the roles do.
func checkPrefixes(t *testing.T, p Parsed) {
	t.Helper()
	for i, c := range p.Claims {
		up := Parse(c.Path)
		if len(up.Claims) != i+1 {
			t.Fatalf("%q alone has %d claims, in its path %d", c.Path, len(up.Claims), i+1)
		}
		for j := range up.Claims {
			a, b := up.Claims[j], p.Claims[j]
			a.Role, b.Role = "", ""
			if a.Engine == "" && b.Engine == EngineNspawn {
				a.Engine = b.Engine
			}
			if a != b {
				t.Fatalf("%q alone claims %+v, in its path %+v", c.Path, a, b)
			}
		}
	}
}

func squeeze(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

func TestNamesThatLookLikeContainersAndAreNot(t *testing.T) {
	id := idA
	for name, path := range map[string]string{
		"the root":                                "/",
		"nothing":                                 "",
		"63 digits":                               "/docker/" + id[1:],
		"65 digits":                               "/docker/" + id + "0",
		"upper case":                              "/docker/" + strings.ToUpper(id),
		"one digit in upper case":                 "/docker/A" + id[1:],
		"not hexadecimal":                         "/docker/g" + id[1:],
		"docker-<id> without .scope":              "/system.slice/docker-" + id,
		"docker-<id>.service":                     "/system.slice/docker-" + id + ".service",
		"docker-<id>.mount":                       "/system.slice/docker-" + id + ".mount",
		"docker-<id>.scope.d":                     "/system.slice/docker-" + id + ".scope.d",
		"docker-<id>-x.scope":                     "/system.slice/docker-" + id + "-x.scope",
		"upper case in a scope":                   "/system.slice/docker-" + strings.ToUpper(id) + ".scope",
		"63 digits in a scope":                    "/system.slice/docker-" + id[1:] + ".scope",
		"65 digits in a scope":                    "/system.slice/docker-" + id + "0.scope",
		"an unknown prefix":                       "/system.slice/web-" + id + ".scope",
		"<id> (deleted)":                          "/docker/" + id + " (deleted)",
		"an id cut in two":                        "/docker/" + id[:32] + "/" + id[32:],
		"a short id":                              "/docker/" + id[:12],
		"a pod outside kubepods":                  "/x/pod11111111-2222-3333-4444-555555555555",
		"a pod that is not directly below":        "/kubepods/x/pod11111111-2222-3333-4444-555555555555",
		"a pod with underscores in cgroupfs":      "/kubepods/burstable/pod11111111_2222_3333_4444_555555555555",
		"a pod slice with dashes":                 "/kubepods-pod11111111-2222-3333-4444-555555555555.slice",
		"a pod slice with a short uid":            "/kubepods-pod1111.slice",
		"a pod slice with another QoS":            "/kubepods-gold-pod11111111_2222_3333_4444_555555555555.slice",
		"three colons":                            "/a.slice:cri-containerd:x:" + id,
		"a service before the colons":             "/a.service:cri-containerd:" + id,
		"an unknown engine between the colons":    "/a.slice:rkt:" + id,
		"conmon between the colons":               "/a.slice:crio-conmon:" + id,
		"ecs without a task":                      "/ecs/cluster/" + id[:31],
		"ecs two levels too deep":                 "/ecs/a/b/" + id[:32],
		"a build step of 24 digits":               "/docker/buildkit/pxyf0fthgewg5h6xaqvo463c",
		"a build step in upper case":              "/docker/buildkit/PXYF0FTHGEWG5H6XAQVO463C0",
		"a build step elsewhere":                  "/docker/pxyf0fthgewg5h6xaqvo463c0",
		"a libpod pod with another prefix":        "/machine.slice/xlibpod_pod_" + id + ".slice",
		"a machine outside machine.slice":         "/system.slice/machine-foo.scope",
		"a machine with a slash in its name":      `/machine.slice/machine-a\x2fb.scope`,
		"a machine with a control character":      `/machine.slice/machine-a\x1bb.scope`,
		"a machine without a name":                "/machine.slice/machine-.scope",
		"an LXC container without a name":         "/lxc.payload.",
		"an LXC name with a space":                "/lxc.payload.a b",
		"an LXC name with an escape sequence":     "/lxc.payload.a\x1b[31m",
		"an LXC name that is no UTF-8":            "/lxc/\xff\xfe",
		"a systemd unit in a directory named lxc": "/foo.service/lxc/init.scope",
		"lxc itself":                              "/lxc",
		"lxc.pivot":                               "/lxc.pivot",
		"garden without a handle":                 "/garden/good",
		"a garden handle of another shape":        "/garden/70eb4ce5-a065-4401-6990",
		"a newline":                               "/docker/" + id[:63] + "\n",
		"a NUL":                                   "/docker/" + id[:63] + "\x00",
		"dots":                                    "/../..",
	} {
		t.Run(name, func(t *testing.T) {
			if p := Parse(path); len(p.Claims) != 0 {
				t.Errorf("%q claims %+v", path, p.Claims)
			}
		})
	}
}

func TestRolesBelowAClaim(t *testing.T) {
	task := idA[:32]
	for _, c := range []struct {
		path string
		want string // of the last claim
	}{
		{"/machine.slice/systemd-nspawn@web.service", "container nspawn web @1 container"},
		{"/machine.slice/systemd-nspawn@web.service/supervisor", "container nspawn web @1 monitor"},
		{"/machine.slice/systemd-nspawn@web.service/payload", "container nspawn web @1 payload"},
		{"/machine.slice/systemd-nspawn@web.service/payload/init.scope", "container nspawn web @1 init-scope"},
		{"/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service", "container nspawn web @1 sub"},
		{"/machine.slice/machine-web.scope", "container - web @1 container"},
		{"/machine.slice/machine-web.scope/supervisor", "container nspawn web @1 monitor"},
		{"/machine.slice/machine-lxc\\x2d12\\x2dweb.scope", "container libvirt lxc-12-web @1 container"},
		{"/machine.slice/machine-lxc\\x2dweb.scope", "container - lxc-web @1 container"},
		{"/system.slice/docker-" + idA + ".scope/container", "container docker 0ba8ac17 @1 payload"},
		{"/system.slice/docker-" + idA + ".scope/container/x", "container docker 0ba8ac17 @1 sub"},
		{"/system.slice/docker-" + idA + ".scope/container/init.scope", "container docker 0ba8ac17 @1 init-scope"},
		{"/docker/" + idA + "/container", "container docker 0ba8ac17 @1 sub"},
		{"/docker/" + idA + "/init.scope/x", "container docker 0ba8ac17 @1 sub"},
		{"/lxc/100/ns", "container lxc 100 @1 payload"},
		{"/lxc.monitor.c1/x", "helper lxc c1 @0 monitor"},
		{"/machine.slice/libpod-conmon-" + idA + ".scope/x", "helper podman 0ba8ac17 @1 conmon"},
		{"/ecs/" + task + "/" + idA + "/x", "container docker 0ba8ac17 @2 sub"},
		{"/ecs/" + task + "/x/" + idA, "container - 0ba8ac17 @3 container"},
		{"/ecs/" + task + "/x/" + task + "-1", "task ecs " + task + " @1 sub"},
		{"/ecs/" + task + "/" + strings.Repeat("1", 32) + "-1", "task ecs " + task + " @1 sub"},
		{"/garden/good/70eb4ce5-a065-4401-6990-88ed", "container garden 70eb4ce5-a065-4401-6990-88ed @2 container"},
		{"/system.slice/docker-pxyf0fthgewg5h6xaqvo463c0.scope", "container buildkit pxyf0fthgewg5h6xaqvo463c0 @1 container"},
		{"/system.slice/nerdctl-" + idA + ".scope", "container containerd 0ba8ac17 @1 container"},
		{"/system.slice:docker:" + idA, "container docker 0ba8ac17 @0 container"},
		{"/:crio:" + idA, "container cri-o 0ba8ac17 @0 container"},
	} {
		t.Run(c.path, func(t *testing.T) {
			p := Parse(c.path)
			checkInvariants(t, c.path, p)
			if len(p.Claims) == 0 {
				t.Fatal("no claim")
			}
			if got := brief(p.Claims[len(p.Claims)-1]); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestParseIsBounded(t *testing.T) {
	deep := strings.Repeat("/"+idA, 40)
	if p := Parse(deep); len(p.Claims) != MaxClaims || !p.Truncated || p.Claims[15].Depth != 15 {
		t.Errorf("40 claims in a path: %d listed, truncated %v", len(p.Claims), p.Truncated)
	}
	long := "/docker/" + idA + strings.Repeat("/x", 4096)
	if p := Parse(long); len(p.Claims) != 1 || !p.Truncated || p.Claims[0].Role != RoleSub {
		t.Errorf("a path of %d bytes: %+v", len(long), p)
	}
	// A path of PATH_MAX-1 bytes may have been cut by the kernel, and its last
	// component may have become a claim by that.
	exact := "/" + idA
	for len(exact) < MaxPath-2 {
		exact = "/x" + exact
	}
	exact = strings.Replace(exact, "/x", "/xx"[:2+MaxPath-2-len(exact)], 1)
	if p := Parse(exact); len(exact) != MaxPath-2 || len(p.Claims) != 1 || p.Truncated {
		t.Errorf("a path of %d bytes: %+v", len(exact), p)
	}
	if p := Parse("/y" + exact[1:]); len(p.Claims) != 0 || !p.Truncated {
		t.Errorf("a path of %d bytes: %+v", len(exact)+1, p)
	}
}

func TestInnermost(t *testing.T) {
	p := Parse("/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/" + idA + "/docker/" + "f" + idA[1:])
	if c, ok := p.Innermost(KindContainer); !ok || c.Engine != EngineDocker || c.PodUID != "11111111-2222-3333-4444-555555555555" {
		t.Errorf("innermost container: %+v, %v", c, ok)
	}
	if c, ok := p.Innermost(KindPod); !ok || c.Depth != 2 {
		t.Errorf("innermost pod: %+v, %v", c, ok)
	}
	if _, ok := p.Innermost(KindVM); ok {
		t.Error("a virtual machine out of nowhere")
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range recordedPaths() {
		f.Add(r.path)
	}
	f.Add("//docker//" + idA + "//")
	f.Add("/a.slice:cri-containerd:" + idA)
	f.Add(strings.Repeat("/"+idA, 70))
	f.Add("/lxc/\x00/\xff:\n/../.")
	f.Fuzz(func(t *testing.T, path string) {
		checkInvariants(t, path, Parse(path))
	})
}

func BenchmarkParse(b *testing.B) {
	for name, path := range map[string]string{
		"host":    "/system.slice/nginx.service",
		"docker":  "/docker/" + idA,
		"systemd": "/system.slice/docker-" + idA + ".scope",
		"pod":     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-" + idA + ".scope",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(path)
			}
		})
	}
}
