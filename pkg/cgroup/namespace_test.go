// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// childRoles are the parts that the test binary plays in namespaces of its own.
var childRoles = map[string]func() error{
	"v2 view":              v2View,
	"enter a cgroup":       enterNamespace,
	"in a cgroup ns":       agentInCgroupNamespace,
	"in a cgroup ns, only": agentThatSeesOnlyItsNamespace,
}

// What a child finds wrong.
type findings struct{ errs []error }

func (f *findings) check(ok bool, format string, args ...any) {
	if !ok {
		f.errs = append(f.errs, fmt.Errorf(format, args...))
	}
}

func (f *findings) result() error { return errors.Join(f.errs...) }

// TestAPureV2View gives the agent what a pure v2 host has, on whatever host
// this is: a mount namespace with one cgroup2 mount.
func TestAPureV2View(t *testing.T) {
	f := hostFS(t)
	h := v2Hierarchy(t, f)
	path := "/" + testCgroup(t) + "/view"
	makeCgroup(t, h, path)
	c := startChild(t)
	defer c.end()
	enter(t, h, path, c.pid)
	runRole(t, "v2 view", unix.CLONE_NEWNS, "CG_PATH="+path, "CG_PID="+strconv.Itoa(int(c.pid)), "CG_TMP="+t.TempDir())
}

func v2View() error {
	path, tmp := os.Getenv("CG_PATH"), os.Getenv("CG_TMP")
	n, _ := strconv.Atoi(os.Getenv("CG_PID"))
	pid := workload.PID(n)
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH),
		unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""),
	); err != nil {
		return err
	}
	f, err := New(Options{})
	if err != nil {
		return err
	}
	var o findings
	o.check(f.Mode() == ModeV2, "mode %s", f.Mode())
	o.viewOf(f, path, pid)
	h, p, ok := f.StripMount("/sys/fs/cgroup/docker/x")
	o.check(ok && h == 0 && p == "/docker/x", "StripMount: %d %q %v", h, p, ok)
	if err := unix.Mount("tmpfs", "/sys/fs/cgroup"+path, "tmpfs", 0, ""); err != nil {
		return err
	}
	_, err = f.ID(0, path)
	o.check(errors.Is(err, ErrOutside), "ID of what a tmpfs hides: %v", err)
	_, err = f.LineageOfPath(0, path)
	o.check(errors.Is(err, ErrOutside), "lineage of what a tmpfs hides: %v", err)
	if err := unix.Unmount("/sys/fs/cgroup"+path, 0); err != nil {
		return err
	}
	o.lateMount(f, tmp)
	return o.result()
}

// viewOf checks what the agent says of a process, with one hierarchy mounted.
func (o *findings) viewOf(f *FS, path string, pid workload.PID) {
	cgroups, err := f.OfPID(pid)
	o.check(err == nil && len(cgroups) > 0, "OfPID: %v", err)
	for _, g := range cgroups {
		var st unix.Stat_t
		if g.Hierarchy == 0 {
			err := unix.Stat("/sys/fs/cgroup"+path, &st)
			o.check(err == nil && g.Path == path && g.ID == st.Ino, "v2 entry %+v, want %d", g, st.Ino)
		} else {
			o.check(g.ID == 0 && g.Path != "", "a hierarchy that is not mounted: %+v", g)
			_, err := f.ID(g.Hierarchy, "/")
			o.check(errors.Is(err, ErrHierarchy), "ID in a hierarchy that is not mounted: %v", err)
		}
	}
	for _, h := range f.Hierarchies() {
		o.check((h.Mount == "") == (h.ID != 0), "mounted: %+v", h)
	}
}

// lateMount mounts a v1 hierarchy after the agent has started, and hides it.
func (o *findings) lateMount(f *FS, dir string) {
	hs := f.Hierarchies()
	i := slices.IndexFunc(hs, func(h Hierarchy) bool { return h.ID != 0 && len(h.Controllers) > 0 })
	if i < 0 {
		return // a pure v2 host has none to mount
	}
	options := strings.Join(hs[i].Controllers, ",")
	if err := unix.Mount("cgroup", dir, "cgroup", 0, options); err != nil {
		o.check(false, "mount v1 %s: %v", options, err)
		return
	}
	_, err := f.ID(hs[i].ID, "/")
	o.check(errors.Is(err, ErrHierarchy), "before Refresh: %v", err)
	err = f.Refresh()
	id, err2 := f.ID(hs[i].ID, "/")
	o.check(err == nil && err2 == nil && id.ID != 0 && f.Mode() == ModeHybrid, "after Refresh: %v, %v, %v, %s", err, err2, id, f.Mode())
	_, err = New(Options{CgroupRoot: "/proc"})
	o.check(errors.Is(err, ErrHierarchy), "a root with nothing mounted: %v", err)
	only, err := New(Options{CgroupRoot: dir})
	o.check(err == nil && only.Mode() == ModeV1, "a root with one v1 mount: %v", err)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		o.check(false, "mount tmpfs: %v", err)
		return
	}
	err = f.Refresh()
	_, err2 = f.ID(hs[i].ID, "/")
	o.check(err == nil && errors.Is(err2, ErrHierarchy), "a hidden mount: %v, %v", err, err2)
}

// TestAnAgentInACgroupNamespace: an agent in a container that has a cgroup
// namespace of its own sees "/../x" for what is outside. With the host's mounts
// it can tell what that means; with its own it says so and no more.
func TestAnAgentInACgroupNamespace(t *testing.T) {
	f := hostFS(t)
	hs := someHierarchies(t, f)
	base := "/" + testCgroup(t) + "/ns"
	c := startChild(t)
	var mounts []string
	for _, h := range hs {
		makeCgroup(t, h, base+"/agent/deep/own")
		makeCgroup(t, h, base+"/other")
		enter(t, h, base+"/other", c.pid)
		mounts = append(mounts, h.Mount)
	}
	env := []string{"CG_BASE=" + base, "CG_MOUNTS=" + strings.Join(mounts, ","), "CG_PID=" + strconv.Itoa(int(c.pid)), "CG_TMP=" + t.TempDir()}
	t.Run("in a cgroup ns", func(t *testing.T) {
		runRole(t, "enter a cgroup", unix.CLONE_NEWNS, append(env, "CG_NEXT=in a cgroup ns")...)
	})
	for _, mount := range mounts {
		t.Run("in a cgroup ns, only "+filepath.Base(mount), func(t *testing.T) {
			runRole(t, "enter a cgroup", unix.CLONE_NEWNS, append(env, "CG_NEXT=in a cgroup ns, only", "CG_ONLY="+mount)...)
		})
	}
	c.end()
}

// enterNamespace makes a cgroup namespace of base/agent, then goes on in a
// cgroup below. It ends in an exec, so that all threads are in the namespace.
func enterNamespace() error {
	runtime.LockOSThread()
	enter := func(path string) error {
		for mount := range strings.SplitSeq(os.Getenv("CG_MOUNTS"), ",") {
			if err := os.WriteFile(mount+os.Getenv("CG_BASE")+path+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
				return err
			}
		}
		return nil
	}
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), enter("/agent")); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	if err := enter("/agent/deep/own"); err != nil {
		return err
	}
	if err := os.Setenv(roleVar, os.Getenv("CG_NEXT")); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

func agentInCgroupNamespace() error {
	f, err := New(Options{})
	if err != nil {
		return err
	}
	var o findings
	base := os.Getenv("CG_BASE")
	n, _ := strconv.Atoi(os.Getenv("CG_PID"))
	for mount := range strings.SplitSeq(os.Getenv("CG_MOUNTS"), ",") {
		h, p, ok := f.StripMount(mount + base + "/other")
		o.check(ok && p == base+"/other", "StripMount of %s: %d %q %v", mount, h, p, ok)
		o.expect(f, h, workload.PID(os.Getpid()), mount, base+"/agent/deep/own")
		o.expect(f, h, workload.PID(n), mount, base+"/other")
	}
	return o.result()
}

// expect checks all directions for one process.
func (o *findings) expect(f *FS, h uint32, pid workload.PID, mount, path string) {
	var st unix.Stat_t
	if err := unix.Stat(mount+path, &st); err != nil {
		o.check(false, "%v", err)
		return
	}
	want := workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h, ID: st.Ino}, Path: path}
	cgroups, err := f.OfPID(pid)
	o.check(err == nil && slices.Contains(cgroups, want), "OfPID of %d: %v, %v, want %v", pid, cgroups, err, want)
	p, err := f.Path(want.CgroupID)
	o.check(err == nil && p == path, "Path of %v: %q, %v", want, p, err)
	l, err := f.Lineage(want.CgroupID)
	o.check(err == nil && len(l) == depth(path)+1 && l[0] == want && l[len(l)-1].Path == "/", "Lineage of %v: %v, %v", want, l, err)
}

func agentThatSeesOnlyItsNamespace() error {
	tmp := os.Getenv("CG_TMP")
	n, _ := strconv.Atoi(os.Getenv("CG_PID"))
	var outside unix.Stat_t
	mount := os.Getenv("CG_ONLY")
	if err := errors.Join(mountAgain(mount, tmp), unix.Stat(filepath.Join(mount, os.Getenv("CG_BASE"), "other"), &outside)); err != nil {
		return err
	}
	f, err := New(Options{CgroupRoot: tmp})
	if err != nil {
		return err
	}
	var o findings
	i := slices.IndexFunc(f.Hierarchies(), func(h Hierarchy) bool { return h.Mount == tmp })
	if i < 0 {
		return fmt.Errorf("%s is in none of %v", tmp, f.Hierarchies())
	}
	h := f.Hierarchies()[i].ID
	find := func(pid int) (workload.CgroupPath, error) {
		cgroups, err := f.OfPID(workload.PID(pid))
		if i := slices.IndexFunc(cgroups, func(g workload.CgroupPath) bool { return g.Hierarchy == h }); i >= 0 {
			return cgroups[i], err
		}
		return workload.CgroupPath{}, err
	}
	own, err := find(os.Getpid())
	o.check(err == nil && own.Path == "/deep/own" && own.ID != 0, "own: %v, %v", own, err)
	other, err := find(n)
	o.check(err == nil && other.Path == "/../other" && other.ID == 0, "outside: %v, %v", other, err)
	id := workload.CgroupID{Hierarchy: h, ID: outside.Ino}
	p, err := f.Path(id)
	want := ErrOutside
	if !f.table.Load().mounts[h].handles {
		want = ErrGone // what cannot be opened by id is looked for inside
	}
	o.check(errors.Is(err, want), "path of what is outside: %q, %v", p, err)
	l, err := f.Lineage(id)
	o.check(errors.Is(err, want), "lineage of what is outside: %v, %v", l, err)
	l, err = f.LineageOfPath(h, "/deep")
	o.check(err == nil && len(l) == 2 && l[1].Path == "/", "lineage of what is inside: %v, %v", l, err)
	return o.result()
}

// mountAgain mounts the hierarchy that is mounted at a place at another, too: as
// it looks from this cgroup namespace.
func mountAgain(point, at string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer file.Close()
	lines, err := parseMountinfo(file)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(lines, func(l mountLine) bool { return l.point == point })
	switch {
	case i < 0:
		return fmt.Errorf("nothing is mounted at %s", point)
	case lines[i].v2:
		return unix.Mount("cgroup2", at, "cgroup2", 0, "")
	}
	options := slices.DeleteFunc(slices.Clone(lines[i].options), func(o string) bool { return o == "rw" || o == "ro" })
	return unix.Mount("cgroup", at, "cgroup", 0, strings.Join(options, ","))
}
