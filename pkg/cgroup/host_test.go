// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

func TestHierarchiesAreThoseOfTheKernel(t *testing.T) {
	f := hostFS(t)
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, h := range f.Hierarchies() {
		names := slices.Clone(h.Controllers)
		if h.ID == 0 {
			names = nil
		}
		if h.Name != "" {
			names = append(names, "name="+h.Name)
		}
		got[fmt.Sprintf("%d:%s", h.ID, strings.Join(names, ","))] = true
		if h.Mount != "" && inode(t, h.Mount) == 0 {
			t.Errorf("%+v", h)
		}
	}
	for line := range strings.Lines(string(data)) {
		if want := strings.Join(strings.SplitN(line, ":", 3)[:2], ":"); !got[want] {
			t.Errorf("hierarchy %q is missing in %v", want, got)
		}
	}
}

// oddNames are names that a container could give to a cgroup below its own.
var oddNames = []string{
	"plain",
	"two:colons:and spaces",
	"ends so (deleted)",
	`a\012b\040c`,
	"..foo",
	"esc\x1b[31m\r\t",
	"\xff\xfe not UTF-8",
	"bidi \u202e",
	"docker-0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0.scope",
	strings.Repeat("n", 255),
}

func TestEveryNameIsFoundInEveryDirection(t *testing.T) {
	f := hostFS(t)
	for _, h := range someHierarchies(t, f) {
		for i, name := range oddNames {
			t.Run(fmt.Sprintf("%d/%d", h.ID, i), func(t *testing.T) {
				path := "/" + testCgroup(t) + "/" + name
				makeCgroup(t, h, path)
				c := startChild(t)
				enter(t, h, path, c.pid)
				want := workload.CgroupPath{
					CgroupID: workload.CgroupID{Hierarchy: h.ID, ID: inode(t, h.Mount+path)},
					Path:     path,
				}
				checkDirections(t, f, h, want, c.pid)
				c.end()
			})
		}
	}
}

func checkDirections(t *testing.T, f *FS, h Hierarchy, want workload.CgroupPath, pid workload.PID) {
	t.Helper()
	cgroups, err := f.OfPID(pid)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, in(t, cgroups, h.ID)); d != "" {
		t.Errorf("OfPID (-want +got):\n%s", d)
	}
	if id, err := f.ID(h.ID, want.Path); err != nil || id != want.CgroupID {
		t.Errorf("ID: %v, %v, want %v", id, err, want.CgroupID)
	}
	if path, err := f.Path(want.CgroupID); err != nil || path != want.Path {
		t.Errorf("Path: %q, %v, want %q", path, err, want.Path)
	}
	if pids, err := f.Processes(want.CgroupID); err != nil || !slices.Equal(pids, []workload.PID{pid}) {
		t.Errorf("Processes: %v, %v, want %d", pids, err, pid)
	}
	if hierarchy, path, ok := f.StripMount(h.Mount + want.Path); !ok || hierarchy != h.ID || path != want.Path {
		t.Errorf("StripMount: %d, %q, %v", hierarchy, path, ok)
	}
	wantLineage := Lineage{
		want,
		{CgroupID: workload.CgroupID{Hierarchy: h.ID, ID: inode(t, filepath.Dir(h.Mount+want.Path))}, Path: parent(want.Path)},
		{CgroupID: workload.CgroupID{Hierarchy: h.ID, ID: inode(t, h.Mount)}, Path: "/"},
	}
	l, err := f.Lineage(want.CgroupID)
	if d := cmp.Diff(wantLineage, l); d != "" || err != nil {
		t.Errorf("Lineage: %v (-want +got):\n%s", err, d)
	}
	l, err = f.LineageOfPath(h.ID, want.Path)
	if d := cmp.Diff(wantLineage, l); d != "" || err != nil {
		t.Errorf("LineageOfPath: %v (-want +got):\n%s", err, d)
	}
}

func TestACgroupThatIsRemovedAndMadeAgainIsAnother(t *testing.T) {
	f := hostFS(t)
	for _, h := range someHierarchies(t, f) {
		t.Run(h.Mount, func(t *testing.T) {
			path := "/" + testCgroup(t) + "/again"
			makeCgroup(t, h, path)
			old, err := f.ID(h.ID, path)
			if err != nil {
				t.Fatal(err)
			}
			removeCgroup(t, h.Mount+path)
			_, err = f.ID(h.ID, path)
			isErr(t, err, ErrGone, "ID of a removed path")
			for round := range 2 { // removed; then made again
				_, err = f.Path(old)
				isErr(t, err, ErrGone, "Path")
				_, err = f.Lineage(old)
				isErr(t, err, ErrGone, "Lineage")
				_, err = f.Processes(old)
				isErr(t, err, ErrGone, "Processes")
				if round == 0 {
					makeCgroup(t, h, path)
				}
			}
			if id, err := f.ID(h.ID, path); err != nil || id == old {
				t.Errorf("made again: %v, %v, was %v", id, err, old)
			}
		})
	}
}

func TestAProcessDirectorySpeaksOfOneProcessOnly(t *testing.T) {
	f := hostFS(t)
	c := startChild(t)
	fd, err := unix.Open("/proc/"+strconv.Itoa(int(c.pid)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	byDir, err := f.OfProc(fd)
	byPID, err2 := f.OfPID(c.pid)
	if d := cmp.Diff(byPID, byDir); err != nil || err2 != nil || d != "" {
		t.Errorf("OfProc %v, OfPID %v (-OfPID +OfProc):\n%s", err, err2, d)
	}
	for _, h := range f.Hierarchies() {
		if g := in(t, byDir, h.ID); (g.ID == 0) != (h.Mount == "") {
			t.Errorf("mounted at %q, and resolved to %+v", h.Mount, g)
		}
	}
	c.end()
	_, err = f.OfProc(fd)
	isErr(t, err, ErrGone, "OfProc of a reaped process")
	_, err = f.OfPID(c.pid)
	isErr(t, err, ErrGone, "OfPID of a reaped process")
	for _, pid := range []workload.PID{0, workload.MaxPID, workload.MaxPID + 1, 1<<32 - 1} {
		_, err = f.OfPID(pid)
		isErr(t, err, ErrGone, fmt.Sprint("OfPID of ", pid))
	}
}

func TestAThreadHasCgroupsOfItsOwn(t *testing.T) {
	f := hostFS(t)
	got, err := f.OfPID(workload.PID(unix.Gettid()))
	if err != nil || len(got) == 0 {
		t.Fatalf("OfPID of a thread: %v, %v", got, err)
	}
}

func TestADeadProcessIsNotInTheRoot(t *testing.T) {
	f := hostFS(t)
	h1 := v1Hierarchy(t, f)
	path := "/" + testCgroup(t) + "/zombie"
	makeCgroup(t, h1, path)
	c := startChild(t)
	enter(t, h1, path, c.pid)
	c.zombie(t)
	cgroups, err := f.OfPID(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range cgroups {
		if g.Hierarchy != 0 && g.ID != 0 {
			t.Errorf("a dead process has left its v1 cgroups, and is said to be in %+v", g)
		}
	}
}

func TestTheDeletedMarkAndANameThatEndsSo(t *testing.T) {
	f := hostFS(t)
	h := v2Hierarchy(t, f)
	path := "/" + testCgroup(t) + "/a"
	makeCgroup(t, h, path)
	id := inode(t, h.Mount+path)
	c := startChild(t)
	enter(t, h, path, c.pid)
	expect := func(what string, want workload.CgroupPath) {
		t.Helper()
		got, err := f.OfPID(c.pid)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, in(t, got, 0)); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	expect("alive", workload.CgroupPath{CgroupID: workload.CgroupID{ID: id}, Path: path})
	c.zombie(t)
	expect("dead, in a cgroup that is there", workload.CgroupPath{CgroupID: workload.CgroupID{ID: id}, Path: path})
	removeCgroup(t, h.Mount+path)
	expect("dead, in a removed cgroup", workload.CgroupPath{Path: path})
	makeCgroup(t, h, path)
	expect("dead, in a removed cgroup whose name is used again", workload.CgroupPath{Path: path})
	makeCgroup(t, h, path+deletedMark)
	expect("dead, and a cgroup is there whose name ends so: either", workload.CgroupPath{Path: path + deletedMark})
}

func TestAPathThatTheKernelCannotPrintStillHasALineage(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[len(someHierarchies(t, f))-1]
	top := "/" + testCgroup(t)
	makeCgroup(t, h, top)
	const levels = 20 // of 256 bytes: 5 KiB
	inos := makeDeep(t, h.Mount+top, strings.Repeat("n", 255), levels)
	leaf := workload.CgroupID{Hierarchy: h.ID, ID: inos[levels-1]}
	c := startChild(t)
	deep := openDeep(t, h.Mount+top, strings.Repeat("n", 255), levels)
	enterFD(t, deep, c.pid)
	unix.Close(deep)

	// Some kernels refuse to print the path, and newer ones cut it without a
	// word: what is cut is the path of no cgroup, or worse, of another one.
	if cgroups, err := f.OfPID(c.pid); err == nil {
		if g := in(t, cgroups, h.ID); g.ID != 0 || !cut(g.Path) {
			t.Errorf("OfPID: %d %d bytes", g.ID, len(g.Path))
		}
	} else {
		isErr(t, err, ErrBounds, "OfPID")
	}
	_, err := f.Path(leaf)
	isErr(t, err, ErrBounds, "Path")
	l, err := f.Lineage(leaf)
	if !f.table.Load().mounts[h.ID].handles {
		isErr(t, err, ErrBounds, "Lineage where the kernel opens nothing by id")
		c.end()
		return
	}
	if err != nil || len(l) != levels+2 {
		t.Fatalf("lineage of %d, %v", len(l), err)
	}
	for i := range levels {
		if l[i].ID != inos[levels-1-i] {
			t.Errorf("level %d: %+v, want %d", i, l[i].CgroupID, inos[levels-1-i])
		}
	}
	if l[0].Path != "" || l[levels-1].Path != top+"/"+strings.Repeat("n", 255) || l[levels+1].Path != "/" {
		t.Errorf("paths: %q ... %q, %q", l[0].Path, l[levels].Path, l[levels+1].Path)
	}
	if pids, err := f.Processes(leaf); err != nil || !slices.Equal(pids, []workload.PID{c.pid}) {
		t.Errorf("Processes: %v, %v", pids, err)
	}
	isErr(t, f.Walk(h.ID, func(workload.CgroupPath) error { return nil }), ErrBounds, "Walk")
	c.end()
}

// A container can choose where the kernel cuts: here the end of what is left is
// the path of the victim, a cgroup that the process is not in.
func TestAPathThatIsCutIsNotTakenForAnother(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[0]
	top := "/" + testCgroup(t)
	makeCgroup(t, h, top)
	name := strings.Repeat("n", 127)
	levels := (MaxPath - 1 - len(top)) / 128
	left := MaxPath - 1 - len(top) - 128*levels // for "/" and the victim's name
	if left < 2 {
		levels, left = levels-1, left+128
	}
	makeDeep(t, h.Mount+top, name, levels)
	fd := openDeep(t, h.Mount+top, name, levels)
	defer unix.Close(fd)
	victim, own := strings.Repeat("v", left-1), strings.Repeat("v", left-1)+"-own"
	for _, n := range []string{victim, own} {
		if err := unix.Mkdirat(fd, n, 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := removeAt(fd, n); err != nil {
				t.Error(err)
			}
		}()
	}
	c := startChild(t)
	defer c.end()
	ownFD := openDir(t, fd, own)
	enterFD(t, ownFD, c.pid)
	unix.Close(ownFD)
	cgroups, err := f.OfPID(c.pid)
	if err != nil {
		isErr(t, err, ErrBounds, "OfPID")
		return
	}
	if g := in(t, cgroups, h.ID); g.ID != 0 {
		t.Errorf("the process is said to be in %s..., which is not its own cgroup", victim)
	}
}

func TestAVeryDeepCgroupIsFoundOrRefused(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[len(someHierarchies(t, f))-1]
	top := "/" + testCgroup(t)
	makeCgroup(t, h, top)
	inos := makeDeep(t, h.Mount+top, "d", MaxDepth+3)
	for _, n := range []int{1, hop - 2, hop - 1, hop, hop + 1, 3 * hop, MaxDepth - 1} {
		l, err := f.Lineage(workload.CgroupID{Hierarchy: h.ID, ID: inos[n-1]})
		if err != nil || len(l) != n+2 {
			t.Fatalf("%d levels: lineage of %d, %v", n, len(l), err)
		}
		if l[0].Path != top+strings.Repeat("/d", n) || l[n].Path != top || l[n-1].ID != inos[0] {
			t.Errorf("%d levels: %+v", n, l)
		}
	}
	_, err := f.Lineage(workload.CgroupID{Hierarchy: h.ID, ID: inos[MaxDepth+2]})
	isErr(t, err, ErrBounds, "Lineage")
}

// makeDeep makes cgroups of one name in one another, whose path may be longer than any call takes.
func makeDeep(t *testing.T, top, name string, levels int) []uint64 {
	t.Helper()
	fds := []int{openDir(t, unix.AT_FDCWD, top)}
	var inos []uint64
	t.Cleanup(func() {
		for i, fd := range slices.Backward(fds) {
			if i < len(fds)-1 {
				if err := removeAt(fd, name); err != nil {
					t.Errorf("remove level %d: %v", i, err)
				}
			}
			unix.Close(fd)
		}
	})
	for range levels {
		up := fds[len(fds)-1]
		if err := unix.Mkdirat(up, name, 0o755); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, openDir(t, up, name))
		var st unix.Stat_t
		if err := unix.Fstat(fds[len(fds)-1], &st); err != nil {
			t.Fatal(err)
		}
		inos = append(inos, st.Ino)
	}
	return inos
}

// removeAt waits for the last dead process, as removeCgroup does.
func removeAt(fd int, name string) error {
	var err error
	for range 2000 {
		if err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.EBUSY) {
			return err
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
	return err
}

func openDeep(t *testing.T, top, name string, levels int) int {
	t.Helper()
	fd := openDir(t, unix.AT_FDCWD, top)
	for range levels {
		next := openDir(t, fd, name)
		unix.Close(fd)
		fd = next
	}
	return fd
}

func enterFD(t *testing.T, fd int, pid workload.PID) {
	t.Helper()
	file, err := unix.Openat(fd, "cgroup.procs", unix.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, []byte(strconv.Itoa(int(pid)))); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T, at int, name string) int {
	t.Helper()
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestWalkVisitsParentsFirstAndSkips(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[0]
	top := "/" + testCgroup(t)
	for _, p := range []string{"/b:c", "/a/y", "/a/q", "/a/x", "/a/m", "/b"} {
		makeCgroup(t, h, top+p)
	}
	walk := func(fn func(string) error) ([]string, error) {
		var seen []string
		err := f.Walk(h.ID, func(c workload.CgroupPath) error {
			if rest, ok := below(c.Path, top); ok {
				if c.ID != inode(t, h.Mount+c.Path) {
					t.Errorf("%+v is not that", c)
				}
				seen = append(seen, rest)
				return fn(rest)
			}
			return nil
		})
		return seen, err
	}
	all, err := walk(func(string) error { return nil })
	if d := cmp.Diff([]string{"", "a", "a/m", "a/q", "a/x", "a/y", "b", "b:c"}, all); d != "" || err != nil {
		t.Errorf("all: %v (-want +got):\n%s", err, d)
	}
	skipped, err := walk(func(p string) error {
		if p == "a" {
			return fs.SkipDir
		}
		return nil
	})
	if d := cmp.Diff([]string{"", "a", "b", "b:c"}, skipped); d != "" || err != nil {
		t.Errorf("without what is below a: %v (-want +got):\n%s", err, d)
	}
	if some, err := walk(func(string) error { return fs.SkipAll }); len(some) != 1 || err != nil {
		t.Errorf("ended at once: %v, %v", some, err)
	}
	broken := errors.New("broken")
	_, err = walk(func(string) error { return broken })
	isErr(t, err, broken, "an error of fn")
	isErr(t, f.Walk(4711, nil), ErrHierarchy, "an unknown hierarchy")
}

func TestManyLineagesAreThoseOfEach(t *testing.T) {
	f := hostFS(t)
	for _, h := range someHierarchies(t, f) {
		top := "/" + testCgroup(t)
		var ids []workload.CgroupID
		id := func(path string) workload.CgroupID {
			makeCgroup(t, h, top+path)
			return workload.CgroupID{Hierarchy: h.ID, ID: inode(t, h.Mount+top+path)}
		}
		for i := range fewLineages {
			ids = append(ids, id(fmt.Sprintf("/a/%d", i)), id(fmt.Sprintf("/ab/%d/x/y", i)), id(fmt.Sprintf("/ab/%d", i)))
		}
		gone := id("/gone")
		removeCgroup(t, h.Mount+top+"/gone")
		few := workload.CgroupID{Hierarchy: h.ID + 1000, ID: 1}
		got := map[workload.CgroupID]Lineage{}
		rest := f.Lineages(append(ids, gone, few), func(id workload.CgroupID, l Lineage) { got[id] = l })
		if d := cmp.Diff([]workload.CgroupID{gone, few}, rest); d != "" {
			t.Errorf("left out (-want +got):\n%s", d)
		}
		want := map[workload.CgroupID]Lineage{}
		for _, id := range ids {
			l, err := f.Lineage(id)
			if err != nil {
				t.Fatal(err)
			}
			want[id] = l
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("hierarchy %d (-each +many):\n%s", h.ID, d)
		}
		none := func(id workload.CgroupID, l Lineage) { t.Errorf("%v was read by a walk: %v", id, l) }
		if rest := f.Lineages(ids[:fewLineages-1], none); len(rest) != fewLineages-1 {
			t.Errorf("of few, %d are left out", len(rest))
		}
	}
}

func TestPathsThatAreNone(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[0].ID
	for _, path := range []string{"", "x", "/../x", "/x/..", "/./x", "//", "/x/", "/x\x00y", "/.."} {
		_, err := f.ID(h, path)
		isErr(t, err, ErrOutside, fmt.Sprintf("ID of %q", path))
		_, err = f.LineageOfPath(h, path)
		isErr(t, err, ErrOutside, fmt.Sprintf("LineageOfPath of %q", path))
	}
	long := strings.Repeat("/x", MaxPath/2+1)
	_, err := f.ID(h, long)
	isErr(t, err, ErrOutside, "a path that is too long")
	_, err = f.ID(h, "/"+strings.Repeat("x", 256))
	isErr(t, err, ErrGone, "a name that is too long")
	_, err = f.ID(h, "/cgroup.procs")
	isErr(t, err, ErrGone, "a file")
	_, err = f.ID(h, "/cgroup.procs/x")
	isErr(t, err, ErrGone, "below a file")
	_, err = f.LineageOfPath(h, "/cgroup.procs")
	isErr(t, err, ErrGone, "the lineage of a file")
	_, err = f.ID(4711, "/")
	isErr(t, err, ErrHierarchy, "an unknown hierarchy")
	_, err = f.Path(workload.CgroupID{Hierarchy: h})
	isErr(t, err, ErrGone, "the id 0")
	if id, err := f.ID(h, "/"); err != nil || id.ID != inode(t, f.Hierarchies()[0].Mount) {
		t.Errorf("the root: %v, %v", id, err)
	}
}

func TestWithoutHandlesAndOpenat2TheAnswersAreTheSame(t *testing.T) {
	f := hostFS(t)
	h := someHierarchies(t, f)[0]
	path := "/" + testCgroup(t) + "/a/b"
	makeCgroup(t, h, path)
	m := f.table.Load().mounts[h.ID]
	if _, err := m.openHandle(m.rootIno); !m.real || m.handles != (err == nil) {
		t.Fatalf("real %v, handles %v, and opening one: %v", m.real, m.handles, err)
	}
	slow := *m
	slow.handles, slow.real = false, false
	ino := inode(t, h.Mount+path)
	if p, err := slow.pathOfID(ino); err != nil || p != path {
		t.Errorf("path without handles: %q, %v", p, err)
	}
	if l, err := slow.lineageOfID(ino); err != nil || len(l) != 4 {
		t.Errorf("lineage without handles: %v, %v", l, err)
	}
	if i, err := slow.inode(path); err != nil || i != ino {
		t.Errorf("inode by openat2: %d, %v", i, err)
	}
	rel, _ := m.rel(path)
	fd, err := m.openStepwise(rel, unix.O_PATH)
	if hd, err := m.adopt(fd, err); err != nil || hd.ino != ino {
		t.Errorf("step by step: %+v, %v", hd, err)
	} else {
		hd.close()
	}
	for _, rel := range []string{".", ""} {
		fd, err := m.openStepwise(rel, unix.O_PATH)
		if hd, err := m.adopt(fd, err); err != nil || hd.ino != m.rootIno {
			t.Errorf("the root step by step: %+v, %v", hd, err)
		} else {
			hd.close()
		}
	}
	removeCgroup(t, h.Mount+path)
	_, err = slow.pathOfID(ino)
	isErr(t, err, ErrGone, "a removed cgroup without handles")
}

func TestAThreadedCgroupHasNoProcesses(t *testing.T) {
	f := hostFS(t)
	h := v2Hierarchy(t, f)
	path := "/" + testCgroup(t) + "/threaded"
	makeCgroup(t, h, path)
	if err := os.WriteFile(h.Mount+path+"/cgroup.type", []byte("threaded"), 0); err != nil {
		t.Fatal(err)
	}
	_, err := f.Processes(workload.CgroupID{ID: inode(t, h.Mount+path)})
	isErr(t, err, unix.EOPNOTSUPP, "Processes")
}

func TestRefreshDisturbsNobody(t *testing.T) {
	f := hostFS(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := f.OfPID(workload.PID(os.Getpid())); err != nil {
					t.Error(err)
				}
				for _, h := range f.Hierarchies() {
					if _, err := f.ID(h.ID, "/"); h.Mount != "" && err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 20 {
		before := f.table.Load().mounts
		if err := f.Refresh(); err != nil {
			t.Error(err)
		}
		for h, m := range f.table.Load().mounts {
			if before[h] != m {
				t.Errorf("hierarchy %d was opened again for nothing", h)
			}
		}
	}
	wg.Wait()
}

func BenchmarkOfPID(b *testing.B) {
	f := hostFS(b)
	b.ReportAllocs()
	pid := workload.PID(os.Getpid())
	for b.Loop() {
		if _, err := f.OfPID(pid); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadProcCgroup is the floor for OfPID: what the kernel takes to print the file.
func BenchmarkReadProcCgroup(b *testing.B) {
	for b.Loop() {
		if _, err := os.ReadFile("/proc/self/cgroup"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkByID(b *testing.B) {
	f := hostFS(b)
	h := someHierarchies(b, f)[0]
	path := "/" + testCgroup(b) + "/a/b/c"
	makeCgroup(b, h, path)
	id, err := f.ID(h.ID, path)
	if err != nil {
		b.Fatal(err)
	}
	for name, fn := range map[string]func() error{
		"ID":      func() error { _, err := f.ID(h.ID, path); return err },
		"Path":    func() error { _, err := f.Path(id); return err },
		"Lineage": func() error { _, err := f.Lineage(id); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := fn(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
