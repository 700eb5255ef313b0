// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// A container that no source knows has a PID namespace and cgroups of its own; no
// answer about it is founded. A sandbox of the host's (a browser's, bubblewrap,
// unshare) shares its cgroups with whoever made it, a service's are named by the
// system manager. Other namespaces are no sign of a container: services have them.

// keepsToItself reports whether a process is in a PID namespace and in cgroups that
// nobody of the host's, who was there before, is in.
func (m *machine) keepsToItself(p *proc) bool {
	s := p.set
	if p.kp.PIDNSLevel == 0 || p.hostIn == s || s.inRoots() || s.ofService() {
		return false
	}
	if m.madeBeside(p) {
		return false
	}
	s.alone = true
	return true
}

// countOuter keeps the count of those in a set who live in the host's PID namespace.
func (p *proc) countOuter() {
	var in *cgset
	if p.kp.PIDNSLevel == 0 && p.exit == nil {
		in = p.set
	}
	if in == p.outerIn {
		return
	}
	if p.outerIn != nil {
		p.outerIn.outer--
	}
	if in != nil {
		in.outer++
	}
	p.outerIn = in
}

// madeBeside reports whether a process of the host's PID namespace, from before the
// given one's, is in the same cgroups: whoever made that namespace, or whose it
// is. It must have been seen after a runtime would have ended that makes a
// container there; the oldest is read for that.
func (m *machine) madeBeside(p *proc) bool {
	if p.set.outer == 0 {
		return false
	}
	first := p
	if init := m.initOf(p.kp.PIDNS[0].Inum); init != nil && init.set == p.set {
		first = init
	}
	var oldest *proc
	for q := range p.set.procs {
		if q.kp.PIDNSLevel > 0 || q.exit != nil || !startedBefore(startOf(q), startOf(first)) {
			continue
		}
		if q.seenAt >= p.since()+youngFor {
			return true
		}
		if oldest == nil || compareProcs(q, oldest) < 0 {
			oldest = q
		}
	}
	if oldest != nil && !oldest.read {
		oldest.read = true
		m.request(request{kind: reqProcess, pid: oldest.kp.Key.PID})
	}
	return false
}

// wakeAlone judges those anew who found nobody in their cgroups to be the host's by,
// now that somebody there was seen or has ended.
func (m *machine) wakeAlone(by *proc) {
	s := by.set
	if s == nil || !s.alone || by.kp.PIDNSLevel > 0 {
		return
	}
	s.alone = false
	for _, p := range sortedSet(s.procs) {
		if p.kp.PIDNSLevel > 0 && p.exit == nil && p.status == workload.StatusUnknown {
			m.settle(p)
		}
	}
}

// ofService reports whether the cgroups are, in some hierarchy, those that the
// system manager made for a service, and in no other anything but its slices: a
// service may have a PID namespace. What a service made below is not.
func (s *cgset) ofService() bool {
	service := false
	for _, g := range s.cgroups {
		if g.root {
			continue
		}
		unit, ok := unitOf(g.path)
		if !ok {
			return false
		}
		service = service || strings.HasSuffix(unit, ".service")
	}
	return service
}

// unitOf gives the last component of a path that consists of the system's and its
// users' units alone.
func unitOf(path string) (string, bool) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	unit := parts[len(parts)-1]
	foreign := slices.ContainsFunc(parts[:len(parts)-1], func(s string) bool {
		return !strings.HasSuffix(s, ".slice") && !(strings.HasPrefix(s, "user@") && strings.HasSuffix(s, ".service"))
	})
	return unit, !foreign && (strings.HasSuffix(unit, ".service") || strings.HasSuffix(unit, ".slice"))
}
