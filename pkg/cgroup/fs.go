// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	// ErrGone means that the process or the cgroup no longer exists.
	ErrGone = errors.New("gone")
	// ErrHierarchy means that the hierarchy does not exist or is not mounted where the agent could see it.
	ErrHierarchy = errors.New("hierarchy not mounted")
	// ErrOutside means that the cgroup lies outside what the agent's mount or cgroup namespace shows, or that the path is not one.
	ErrOutside = errors.New("outside the visible hierarchy")
	// ErrBounds means that there is more than the bounds of this package let through.
	ErrBounds = errors.New("too deep or too many")
)

// The bounds on what is read. What lies beyond is said, never dropped in silence.
const (
	// MaxPath is the kernel's PATH_MAX, the final NUL included: it prints no longer path, and may cut one to fit.
	MaxPath = 4096
	// MaxDepth is how many levels below the root are looked at. The kernel itself sets no limit.
	MaxDepth = 512
	// MaxWalk is how many cgroups one Walk visits.
	MaxWalk = 1 << 18
)

// Mode is how the host uses cgroups.
type Mode string

// The modes: only v1 hierarchies mounted, both, only v2.
const (
	ModeV1     Mode = "v1"
	ModeHybrid Mode = "hybrid"
	ModeV2     Mode = "v2"
)

// Options configures an FS. The zero value is the host itself.
type Options struct {
	// Procfs is where procfs is mounted. Default: /proc.
	Procfs string
	// CgroupRoot limits the mounts used to those at or below this directory.
	// Default: every cgroup mount, those below /sys/fs/cgroup first.
	CgroupRoot string
}

// Hierarchy is one cgroup hierarchy of the running kernel.
type Hierarchy struct {
	// ID is the number in /proc/PID/cgroup, 0 for v2.
	ID uint32
	// Name is set for a named v1 hierarchy ("systemd").
	Name string
	// Controllers are those bound to it.
	Controllers []string
	// Mount is where it is mounted; empty if it is not mounted where the agent sees it.
	Mount string
}

// Lineage is a cgroup and its ancestors, leaf first, the root of the mount last.
// Where a path is too long for the kernel to print, Path is empty; ids are always there.
type Lineage []workload.CgroupPath

// FS reads cgroup file systems. See New.
type FS struct {
	procfs string
	root   string

	table   atomic.Pointer[table]
	refresh sync.Mutex // serialises Refresh and Close
}

// New finds the hierarchies. It fails only where no cgroup file system is
// mounted that the options allow.
func New(o Options) (*FS, error) {
	f := &FS{procfs: o.Procfs, root: o.CgroupRoot}
	if f.procfs == "" {
		f.procfs = "/proc"
	}
	f.table.Store(&table{})
	if err := f.Refresh(); err != nil {
		return nil, err
	}
	return f, nil
}

// Close releases the mounts. No other call may be under way or follow.
func (f *FS) Close() error {
	f.refresh.Lock()
	defer f.refresh.Unlock()
	return f.table.Swap(&table{}).close()
}

// Refresh finds the hierarchies again: one may have been mounted since. On
// error the former ones stay.
func (f *FS) Refresh() error {
	f.refresh.Lock()
	defer f.refresh.Unlock()
	t, err := discover(f.procfs, f.root, f.table.Load())
	if err != nil {
		return fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	// Mounts that are no longer used close when their last reader has let go
	// of the old table: os.File has a finalizer.
	f.table.Store(t)
	return nil
}

// Mode says how the host uses cgroups, going by what is mounted.
func (f *FS) Mode() Mode {
	var v1, v2 bool
	for _, m := range f.table.Load().mounts {
		v1, v2 = v1 || m.hierarchy != 0, v2 || m.hierarchy == 0
	}
	switch {
	case v1 && v2:
		return ModeHybrid
	case v1:
		return ModeV1
	default:
		return ModeV2
	}
}

// Hierarchies lists the hierarchies, by ID.
func (f *FS) Hierarchies() []Hierarchy {
	hs := slices.Clone(f.table.Load().hierarchies)
	for i := range hs {
		hs[i].Controllers = slices.Clone(hs[i].Controllers)
	}
	return hs
}

// mount gives the mount that a hierarchy is read through. Callers keep it alive
// to the end of their last system call: after a Refresh nobody else may hold
// it, and then its descriptor closes.
func (f *FS) mount(hierarchy uint32) (*mount, error) {
	if m := f.table.Load().mounts[hierarchy]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("hierarchy %d: %w", hierarchy, ErrHierarchy)
}

// ID gives the id of the cgroup at a path.
func (f *FS) ID(hierarchy uint32, path string) (workload.CgroupID, error) {
	m, err := f.mount(hierarchy)
	if err != nil {
		return workload.CgroupID{}, fmt.Errorf("id of cgroup %q: %w", path, err)
	}
	ino, err := m.inode(path)
	runtime.KeepAlive(m)
	if err != nil {
		return workload.CgroupID{}, fmt.Errorf("id of cgroup %q in hierarchy %d: %w", path, hierarchy, err)
	}
	return workload.CgroupID{Hierarchy: hierarchy, ID: ino}, nil
}

// Path gives the path of a cgroup.
func (f *FS) Path(id workload.CgroupID) (string, error) {
	m, err := f.mount(id.Hierarchy)
	if err != nil {
		return "", fmt.Errorf("path of cgroup %v: %w", id, err)
	}
	path, err := m.pathOfID(id.ID)
	runtime.KeepAlive(m)
	if err != nil {
		return "", fmt.Errorf("path of cgroup %v: %w", id, err)
	}
	return path, nil
}

// Lineage gives a cgroup and its ancestors.
func (f *FS) Lineage(id workload.CgroupID) (Lineage, error) {
	m, err := f.mount(id.Hierarchy)
	if err != nil {
		return nil, fmt.Errorf("lineage of cgroup %v: %w", id, err)
	}
	l, err := m.lineageOfID(id.ID)
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("lineage of cgroup %v: %w", id, err)
	}
	return l, nil
}

// fewLineages is how many lineages of one hierarchy are not worth a walk.
const fewLineages = 32

// Lineages gives fn the lineages of many cgroups, at a tenth of the cost of one
// after the other, and gives back those that it left out: they are gone, or the
// only ones wanted of their hierarchy, or Lineage finds them.
func (f *FS) Lineages(ids []workload.CgroupID, fn func(workload.CgroupID, Lineage)) (rest []workload.CgroupID) {
	wanted := map[uint32]map[uint64]bool{}
	for _, id := range ids {
		if wanted[id.Hierarchy] == nil {
			wanted[id.Hierarchy] = map[uint64]bool{}
		}
		wanted[id.Hierarchy][id.ID] = true
	}
	for h, inos := range wanted {
		m, err := f.mount(h)
		if err != nil || len(inos) < fewLineages {
			continue
		}
		// What a walk could not reach, one lineage may: its error is not the caller's.
		_ = m.lineages(inos, func(ino uint64, l Lineage) {
			delete(inos, ino)
			fn(workload.CgroupID{Hierarchy: h, ID: ino}, l)
		})
		runtime.KeepAlive(m)
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id workload.CgroupID) bool { return !wanted[id.Hierarchy][id.ID] })
}

// LineageOfPath is Lineage for the cgroup at a path.
func (f *FS) LineageOfPath(hierarchy uint32, path string) (Lineage, error) {
	m, err := f.mount(hierarchy)
	if err != nil {
		return nil, fmt.Errorf("lineage of cgroup %q: %w", path, err)
	}
	l, err := m.lineageOfPath(path)
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("lineage of cgroup %q in hierarchy %d: %w", path, hierarchy, err)
	}
	return l, nil
}

// Processes lists the processes in a cgroup itself, not in those below it, as
// the agent's PID namespace numbers them; those that it cannot number are left
// out. A threaded cgroup has threads and no processes: EOPNOTSUPP.
func (f *FS) Processes(id workload.CgroupID) ([]workload.PID, error) {
	m, err := f.mount(id.Hierarchy)
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %v: %w", id, err)
	}
	pids, err := m.processes(id.ID)
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %v: %w", id, err)
	}
	return pids, nil
}

// HasChildren reports whether there are cgroups in a cgroup; not where it is gone.
func (f *FS) HasChildren(id workload.CgroupID) bool {
	m, err := f.mount(id.Hierarchy)
	if err != nil {
		return false
	}
	has := m.hasChildren(id.ID)
	runtime.KeepAlive(m)
	return has
}

// Walk visits every cgroup of a hierarchy, parents first, siblings by name. fn
// may return fs.SkipDir to leave out what is below, or fs.SkipAll to end; any
// other error ends the walk and is returned. ErrBounds: all was visited but
// what lies beyond MaxDepth, MaxPath or MaxWalk.
func (f *FS) Walk(hierarchy uint32, fn func(workload.CgroupPath) error) error {
	m, err := f.mount(hierarchy)
	if err != nil {
		return fmt.Errorf("walk cgroups: %w", err)
	}
	err = m.walk(func(rel string, ino uint64) error {
		return fn(workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: hierarchy, ID: ino}, Path: m.path(rel)})
	})
	runtime.KeepAlive(m)
	if err != nil {
		return fmt.Errorf("walk cgroups of hierarchy %d: %w", hierarchy, err)
	}
	return nil
}
