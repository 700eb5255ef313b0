// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// borrowed are the names that engines would give the victim's cgroup.
func borrowed(id string) map[string]string {
	return map[string]string{
		"docker":              "docker-" + id + ".scope",
		"podman":              "libpod-" + id + ".scope",
		"podman, cgroupfs":    "libpod-" + id,
		"containerd's CRI":    "cri-containerd-" + id + ".scope",
		"CRI-O":               "crio-" + id + ".scope",
		"containerd, systemd": "kubepods-besteffort.slice:cri-containerd:" + id,
		"bare":                id,
		"ECS":                 id[:32] + "-1234567890",
		"Garden":              fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:32]),
		"upper case":          "docker-" + strings.ToUpper(id) + ".scope",
		"63 digits":           "docker-" + id[:63] + ".scope",
		"65 digits":           "docker-" + id + "0.scope",
	}
}

// A container may make what cgroups it likes below its own, and call them what it likes.
func namesOfChildCgroups(t *testing.T, s *stage) {
	attacker := s.attacker(t)
	attacker.inheritCpusets(t)
	for kind, name := range borrowed(s.victim.id) {
		t.Run(kind, func(t *testing.T) {
			for depth := 1; depth <= 5; depth++ {
				s.named(t, attacker, s.victim, strings.Repeat("docker/", depth-1), name)
			}
		})
	}
	if s.podded == nil {
		return
	}
	for kind, name := range borrowed(s.podded.id) {
		t.Run("of a pod's container, "+kind, func(t *testing.T) {
			s.named(t, attacker, s.podded, "kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/", name)
		})
	}
	for kind, name := range borrowed(s.podmans.id) {
		t.Run("of podman's container, "+kind, func(t *testing.T) { s.named(t, attacker, s.podmans, "libpod_parent/", name) })
	}
}

// named has a process enter cgroups of this name, below those of its container.
func (s *stage) named(t *testing.T, attacker, victim *member, above, name string) {
	t.Helper()
	order := []string{"enter"}
	for _, h := range harness.Hierarchies(t) {
		order = append(order, filepath.Join(inside(h.Of(t, attacker.pid)), above, name))
	}
	p := attacker.sitter(t, order...)
	fools(t, p.pid, victim)
	for _, a := range s.askAll(t, p.pid) {
		attacker.isNoVictim(t, a)
	}
	s.is(t, p.pid, attacker)
	for _, a := range s.askAll(t, p.pid) {
		attacker.isNoVictim(t, a)
	}
	p.end(t)
	for _, dir := range order[1:] {
		removeCgroups(t, outside(dir), 1+strings.Count(above, "/"))
	}
}

// inheritCpusets lets the container make cpusets that processes may enter: v1's
// begin with no CPU, unless they are told to be as their parent.
func (m *member) inheritCpusets(t *testing.T) {
	t.Helper()
	for _, h := range harness.Hierarchies(t) {
		if h.Name != "cpuset" {
			continue
		}
		if err := os.WriteFile(outside(inside(h.Of(t, m.pid)))+"/cgroup.clone_children", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// hostile are names that break a parser, a terminal or a log.
func hostile(id string) map[string]string {
	return map[string]string{
		"ESC":             "\x1b[2J\x1b]0;" + id + "\a",
		"return":          "x\r0::docker-" + id,
		"colons":          "0::" + id + ":1:cpu:",
		"deleted":         id + " (deleted)",
		"dots":            "..foo-" + id,
		"255 bytes":       id + strings.Repeat("x", 191),
		"invalid UTF-8":   "\xff\xfe" + id + "\xc0\x80",
		"bidi marks":      "\u202e\u2066" + id + "\u200b",
		"a space and tab": " \t" + id + " ",
		"a quote":         `"` + id + `'\` + "`",
	}
}

// hostileNames are those of cgroups, programs, arguments and images. Labels and
// files have a test in tests/e2e.
func hostileNames(t *testing.T, s *stage) {
	attacker := s.attacker(t)
	attacker.inheritCpusets(t)
	for kind, name := range hostile(s.victim.id) {
		t.Run("cgroup with "+kind, func(t *testing.T) { s.hostileCgroup(t, attacker, name) })
		t.Run("program with "+kind, func(t *testing.T) {
			comm := strings.ReplaceAll(name, s.victim.id, "docker")
			p := attacker.sitter(t, "called", comm[:min(15, len(comm))], name, "--pid=1", s.victim.id, "docker-"+s.victim.id+".scope")
			defer p.end(t)
			s.is(t, p.pid, attacker)
			s.printsPlain(t, p.pid)
		})
	}
	if !s.guest { // ctr cannot run a container without the controllers of cgroup v2
		t.Run("image", func(t *testing.T) { s.hostileImage(t) })
	}
}

func (s *stage) hostileCgroup(t *testing.T, attacker *member, name string) {
	order := []string{"enter"}
	for _, h := range harness.Hierarchies(t) {
		order = append(order, filepath.Join(inside(h.Of(t, attacker.pid)), name))
	}
	p := attacker.sitter(t, order...)
	fools(t, p.pid, s.victim)
	s.is(t, p.pid, attacker)
	s.printsPlain(t, p.pid)
	for _, h := range harness.Hierarchies(t) {
		// A path that somebody passes on is a question like any other.
		dir := outside(inside(h.Of(t, p.pid)))
		results, err := s.client.Resolve(t.Context(), workload.Query{CgroupPath: strings.TrimPrefix(dir, h.Dir)})
		if err == nil && results[0].Err == nil {
			attacker.isNoVictim(t, results[0].Answer)
		}
	}
	p.end(t)
	for _, dir := range order[1:] {
		removeCgroups(t, outside(dir), 1)
	}
}

// printsPlain holds every human output about a process to what a terminal may see.
func (s *stage) printsPlain(t *testing.T, pid int) {
	t.Helper()
	for _, args := range [][]string{{"who"}, {"who", "-o", "wide"}, {"explain"}, {"who", "-o", "json"}} {
		out := s.agent.Command(t.Context(), append(args, strconv.Itoa(pid))...)
		text := out.Stdout + out.Stderr
		if out.Code != 0 || !utf8.ValidString(text) {
			t.Errorf("%q: exit code %d, %q", args, out.Code, text)
		}
		for _, r := range text {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
				t.Errorf("%q printed %U: %q", args, r, text)
				break
			}
		}
	}
}

// hostileImage: containerd lets an image be called anything.
func (s *stage) hostileImage(t *testing.T) {
	image := "evil\x1b[2J/\u202e" + s.victim.name + ":latest"
	s.containerd.Ctr("--namespace", "default", "images", "tag", collectortest.BusyboxImage, image)
	id := s.name("image")
	p := s.o.Container(oracle.Truth{ID: id, Name: id, Image: image}).Group("bystander")
	args := append(p.CtrArgs(), image, id, oracle.Work, "stay")
	s.containerd.Run("default", args...)
	s.o.WaitReports(patience, p, 1)
	s.o.WaitKnown(patience, p)
	pid := s.containerd.InitPID("default", id)
	s.printsPlain(t, pid)
	s.containerd.Ctr("--namespace", "default", "tasks", "rm", "--force", id)
	s.containerd.Ctr("--namespace", "default", "containers", "rm", id)
	s.containerd.Ctr("--namespace", "default", "images", "rm", image)
}
