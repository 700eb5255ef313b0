// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// cgroup gives one of the cgroups that a process is in, to ask about: the answer
// has to be the process's party. It is a question, never a truth; a party that
// may have moved its processes is not asked about so.
func (p *process) cgroup() (cgroupQuestion, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.groups == nil {
		p.groups = []cgroupQuestion{}
		if b, err := os.ReadFile(procPath(p.pid, "cgroup")); err == nil && p.alive() && !p.party.strangeCgroups() {
			p.groups = cgroupQuestions(string(b))
		}
	}
	if len(p.groups) == 0 {
		return cgroupQuestion{}, false
	}
	p.turn++
	return p.groups[p.turn%len(p.groups)], true
}

// cgroupQuestions reads the lines of /proc/PID/cgroup, "hierarchy:controllers:path".
// The root of a hierarchy is everybody's and says nothing.
func cgroupQuestions(text string) (qs []cgroupQuestion) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		var st unix.Stat_t
		if err != nil || unix.Stat(filepath.Join(mountOf(f[1]), f[2]), &st) != nil {
			continue
		}
		qs = append(qs, cgroupQuestion{id: workload.CgroupID{Hierarchy: uint32(n), ID: st.Ino}, path: f[2]})
	}
	return qs
}

// mounts is read once: the hierarchies stay where they are.
var mounts = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("/proc/self/mountinfo") })

// mountOf gives the mount point of a hierarchy by its controllers, none for
// cgroup v2; "/nowhere" if there is none.
func mountOf(controllers string) string {
	if known, ok := mountsOf.Load(controllers); ok {
		return known.(string)
	}
	dir := findMount(controllers)
	mountsOf.Store(controllers, dir)
	return dir
}

var mountsOf sync.Map // what mountOf has found

func findMount(controllers string) string {
	b, err := mounts()
	if err != nil {
		return "/nowhere"
	}
	for line := range strings.Lines(string(b)) {
		front, back, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(front), strings.Fields(back)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		options := strings.Split(g[2], ",")
		switch {
		case g[0] == "cgroup2" && controllers == "":
			return f[4]
		case g[0] != "cgroup" || controllers == "":
		case !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(options, c) }):
			return f[4]
		}
	}
	return "/nowhere"
}

// strangeCgroups reports whether a cgroup of the party's processes may be another's.
func (p *Party) strangeCgroups() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.noCgroups || p.doubt || p.judge != nil
}
