// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"

	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	// ErrGone means that the process or the cgroup no longer exists.
	ErrGone = errors.New("gone")
	// ErrHierarchy means that the hierarchy does not exist or is not mounted where the agent could see it.
	ErrHierarchy = errors.New("hierarchy not mounted")
	// ErrOutside means that the cgroup exists outside what the agent's mount or cgroup namespace shows, or that the path is not one.
	ErrOutside = errors.New("outside the visible hierarchy")
	// ErrBounds means that there is more than the bounds of this package let through.
	ErrBounds = errors.New("too deep or too many")
)

// The bounds on what is read. What lies beyond is said, never dropped in silence.
const (
	// MaxPath is the longest path in bytes: the kernel prints none longer (PATH_MAX).
	MaxPath = 4096
	// MaxDepth is how many levels below the root are looked at.
	MaxDepth = 1024
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
type Lineage []workload.CgroupPath

// FS reads cgroup file systems. See New.
type FS struct{}

// New finds the hierarchies. It fails only where no cgroup file system is mounted at all.
func New(o Options) (*FS, error) { return nil, errors.ErrUnsupported }

// Close releases the mounts. No call may be under way or follow.
func (f *FS) Close() error { return nil }

// Refresh finds the hierarchies again: one may have been mounted since.
func (f *FS) Refresh() error { return nil }

// Mode says how the host uses cgroups, going by what is mounted.
func (f *FS) Mode() Mode { return "" }

// Hierarchies lists the hierarchies, by ID.
func (f *FS) Hierarchies() []Hierarchy { return nil }

// OfPID gives the cgroups of a process (or of a thread, by its id), one for each hierarchy, ordered by hierarchy.
// An entry that could not be resolved to a directory has an ID of 0 and the path as the kernel wrote it.
func (f *FS) OfPID(pid workload.PID) ([]workload.CgroupPath, error) {
	return nil, errors.ErrUnsupported
}

// OfProc is OfPID for a descriptor of the directory /proc/PID: the answer is about that process or ErrGone.
func (f *FS) OfProc(dirfd int) ([]workload.CgroupPath, error) { return nil, errors.ErrUnsupported }

// ID gives the id of the cgroup at a path.
func (f *FS) ID(hierarchy uint32, path string) (workload.CgroupID, error) {
	return workload.CgroupID{}, errors.ErrUnsupported
}

// Path gives the path of a cgroup.
func (f *FS) Path(id workload.CgroupID) (string, error) { return "", errors.ErrUnsupported }

// Lineage gives a cgroup and its ancestors.
func (f *FS) Lineage(id workload.CgroupID) (Lineage, error) { return nil, errors.ErrUnsupported }

// LineageOfPath is Lineage for the cgroup at a path.
func (f *FS) LineageOfPath(hierarchy uint32, path string) (Lineage, error) {
	return nil, errors.ErrUnsupported
}

// Processes lists the processes in a cgroup itself, not in those below it.
func (f *FS) Processes(id workload.CgroupID) ([]workload.PID, error) {
	return nil, errors.ErrUnsupported
}

// Walk visits every cgroup of a hierarchy, parents first. fn may return
// fs.SkipDir to leave out what is below, or fs.SkipAll to end.
func (f *FS) Walk(hierarchy uint32, fn func(workload.CgroupPath) error) error {
	return errors.ErrUnsupported
}

// StripMount turns an absolute path on the host ("/sys/fs/cgroup/pids/docker/4f3a")
// into a hierarchy and the path in it. It goes by names alone: the cgroup need not exist.
func (f *FS) StripMount(abs string) (hierarchy uint32, path string, ok bool) { return 0, "", false }
