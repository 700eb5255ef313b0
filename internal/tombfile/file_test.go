// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestTheNextAgentAnswersForTheDeadOfTheLast(t *testing.T) {
	dir := t.TempDir()
	first := world(20)
	f := open(t, dir, first, nil)
	f.flush(t.Context())
	first.Apply(dead(2)...) // appended, not written anew
	first.Apply(live(30)...)
	f.flush(t.Context())
	if st := f.Status(); st.Rewrites != 1 || st.Err != nil || st.Skipped != 0 || st.Bytes == 0 {
		t.Fatalf("status %+v", st)
	}
	f.Close() // as if killed: Run has not ended in order

	second := store.New(store.Options{Base: 1 << 41, Grace: time.Hour})
	second.SetAsOf(60 * 1e9)
	f = open(t, dir, second, nil)
	past := f.Load()
	if past == nil || past.Dropped != 0 || past.Seen != 30*1e9 {
		t.Fatalf("%+v", past)
	}
	// Of those that lived, 4 does still, with its process.
	second.Apply(live(4)...)
	if n := second.Restore(past.Ended(host(key(4)))); n != 2*20 {
		t.Errorf("%d restored, want all 21 containers and processes but one of each", n)
	}
	for _, n := range []int{1, 2, 19} {
		a := second.Resolve(key(n))
		c := a.Container()
		if !a.Exited || a.Process.Exit.Code != 7 || c == nil || c.Name != container(n).Name || c.Exit == nil || c.Exit.Code != 7 {
			t.Errorf("process %d: %+v, container %+v", n, a, c)
		}
		if a.Reason != "" || !restored(c) {
			t.Errorf("process %d: reason %q, sources %v", n, a.Reason, c.Sources)
		}
	}
	a, _ := second.ContainerAnswer(id(30))
	if c := a.Container(); c == nil || !a.Exited || c.Exit == nil || c.Exit.Known {
		t.Errorf("a container that ended unseen: %+v", c)
	}
	if a := second.Resolve(key(30)); !a.Exited || a.Process.Exit.Known || !strings.Contains(a.Reason, "between 2001-09-09T01:46:10Z and 2001-09-09T01:46:40Z") {
		t.Errorf("a process that ended unseen: %+v", a)
	}
	if a := second.Resolve(key(4)); a.Exited || restored(a.Container()) {
		t.Errorf("a process that lives: %+v", a)
	}
}

// inPod puts container n into pod p.
func inPod(n, p int) store.Change {
	c := container(n)
	c.Pod = &pod(p).PodRef
	return store.Change{Container: &store.ContainerChange{ID: id(n), Source: "cri", Layer: c}}
}

func podLayer(n int) store.Change {
	return store.Change{Pod: &store.PodChange{UID: pod(n).UID, Source: "cri", Layer: pod(n)}}
}

func TestPodsOutliveTheAgentWithTheirContainers(t *testing.T) {
	dir := t.TempDir()
	first := store.New(store.Options{Base: 1 << 40, Grace: time.Hour})
	first.SetAsOf(20 * second)
	for n := 1; n <= 3; n++ { // 1 ends before the agent, 2 unseen, 3 lives on with one of its two
		first.Apply(slices.Concat(live(n), live(10+n), []store.Change{inPod(n, n), inPod(10+n, n), podLayer(n)})...)
	}
	first.Apply(podLayer(4)) // of which no container is known
	first.Apply(slices.Concat(dead(1), dead(11))...)
	first.Apply(store.Change{Pod: &store.PodChange{UID: pod(1).UID, Gone: 12 * second}})
	f := open(t, dir, first, nil)
	f.flush(t.Context())
	f.Close()

	next := store.New(store.Options{Base: 1 << 41, Grace: time.Hour})
	next.SetAsOf(60 * second)
	f = open(t, dir, next, nil)
	past := f.Load()
	next.Apply(live(13)...)
	next.Apply(inPod(13, 3))
	next.Restore(past.Ended(host(key(13))))
	for n, since := range map[int]workload.KTime{1: 12 * second, 2: 60 * second} {
		p, ok := next.Pod(pod(n).UID)
		if !ok || p.Name != "web" || p.Phase != "" || next.GoneSince(workload.Entity{Pod: p}) != since {
			t.Errorf("pod %d: %t, %+v, since %d", n, ok, p, next.GoneSince(workload.Entity{Pod: p}))
		}
		if a, _ := next.ContainerAnswer(id(n)); a.Pod == nil || a.Pod.Labels["a"] != "b" {
			t.Errorf("the pod of container %d: %+v", n, a.Pod)
		}
	}
	for _, n := range []int{3, 4} {
		if p, ok := next.Pod(pod(n).UID); ok {
			t.Errorf("pod %d, of which nobody knows an end: %+v", n, p)
		}
	}
	if a, _ := next.ContainerAnswer(id(13)); a.Pod == nil || a.Pod.Labels != nil {
		t.Errorf("a container that lives is answered from the past: %+v", a.Pod)
	}
}

func TestTasksOutliveTheAgentWithTheirContainers(t *testing.T) {
	dir := t.TempDir()
	first := store.New(store.Options{Base: 1 << 40, Grace: time.Hour})
	first.SetAsOf(20 * second)
	for n := 1; n <= 3; n++ { // 1 ends before the agent, 2 unseen, 3 lives on
		c := container(n)
		c.Task = &workload.TaskRef{ARN: task(n).ARN, Cluster: "prod", Family: "shop"}
		first.Apply(slices.Concat(live(n), []store.Change{
			{Container: &store.ContainerChange{ID: id(n), Source: "ecs", Layer: c}},
			{Task: &store.TaskChange{ARN: task(n).ARN, Source: "ecs", Layer: task(n)}},
		})...)
	}
	first.Apply(dead(1)...)
	first.Apply(store.Change{Task: &store.TaskChange{ARN: task(1).ARN, Gone: 12 * second}})
	f := open(t, dir, first, nil)
	f.flush(t.Context())
	f.Close()

	next := store.New(store.Options{Base: 1 << 41, Grace: time.Hour})
	next.SetAsOf(60 * second)
	f = open(t, dir, next, nil)
	past := f.Load()
	next.Restore(past.Ended(host(key(3))))
	for n, since := range map[int]workload.KTime{1: 12 * second, 2: 60 * second} {
		got, ok := next.Task(task(n).ARN)
		if !ok || got.Family != "shop" || got.Known != "" || next.GoneSince(workload.Entity{Task: got}) != since {
			t.Errorf("task %d: %t, %+v, since %d", n, ok, got, next.GoneSince(workload.Entity{Task: got}))
		}
		if a, _ := next.ContainerAnswer(id(n)); a.Task == nil || a.Task.Tags["a"] != "b" {
			t.Errorf("the task of container %d: %+v", n, a.Task)
		}
	}
	if got, ok := next.Task(task(3).ARN); ok {
		t.Errorf("a task whose container lives is gone: %+v", got)
	}
}

func restored(c *workload.Container) bool {
	for _, s := range c.Sources {
		if s.Source == Source {
			return true
		}
	}
	return false
}

func TestARestartOfARestartKeepsTheFirstOnesDead(t *testing.T) {
	dir := t.TempDir()
	s := world(3)
	for range 5 {
		f := open(t, dir, s, nil)
		f.flush(t.Context())
		f.Close()
		next := store.New(store.Options{Base: s.Revision() + 1000, Grace: time.Hour})
		next.SetAsOf(60 * 1e9)
		f = open(t, dir, next, nil)
		next.Restore(f.Load().Ended(host()))
		f.Close()
		s = next
	}
	a := s.Resolve(key(1))
	if !a.Exited || a.Process.Exit.Code != 7 || a.Container() == nil || len(a.Container().Sources) != 2 {
		t.Errorf("%+v, %+v", a, a.Container())
	}
	if at := s.GoneSince(workload.Entity{Container: &workload.Container{ID: id(1)}}); at != 11*second {
		t.Errorf("its grace counts from %d, want from its end", at)
	}
}

func TestAFileThatGrowsIsMadeAnew(t *testing.T) {
	s := world(1)
	f := open(t, t.TempDir(), s, func(o *Options) { o.MaxBytes = 64 << 10 })
	for i := range 400 {
		p := process(2, -1)
		p.Exec = workload.KTime(i + 1)
		p.Comm = strings.Repeat("x", 1000)
		s.Apply(store.Change{Process: p})
		f.flush(t.Context())
		if st := f.Status(); st.Bytes > 80<<10 || st.Err != nil {
			t.Fatalf("status %+v", st)
		}
	}
	if st := f.Status(); st.Rewrites < 3 || st.Skipped > 0 {
		t.Errorf("status %+v", st)
	}
	if p := f.Load(); p == nil || p.Processes[key(2)].Process.Exec != 400 || p.Dropped != 0 {
		t.Errorf("%+v", p)
	}
}

func TestWhatHasNoRoomIsCounted(t *testing.T) {
	f := open(t, t.TempDir(), world(500), func(o *Options) { o.MaxBytes = 32 << 10 })
	f.flush(t.Context())
	if st := f.Status(); st.Skipped == 0 || st.Bytes > 17<<10 || st.Err != nil {
		t.Errorf("status %+v", st)
	}
	big := container(1)
	big.Labels = map[string]string{"big": strings.Repeat("x", maxRecord)}
	s := store.New(store.Options{})
	s.Apply(store.Change{Container: &store.ContainerChange{ID: id(1), Source: "docker", Layer: big}})
	f = open(t, t.TempDir(), s, nil)
	f.flush(t.Context())
	if p := f.Load(); p == nil || p.Containers[id(1)].Container == nil || p.Containers[id(1)].Container.Labels != nil || p.Containers[id(1)].Container.Name != big.Name {
		t.Errorf("a container with a giant label: %+v", p)
	}
}

func TestADiskWithoutRoomIsSaidOnceAndGotOver(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k,mode=0750"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	var log bytes.Buffer
	f := open(t, dir, world(500), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 3 {
		f.retry = time.Time{}
		f.flush(t.Context())
	}
	if st := f.Status(); !errors.Is(st.Err, unix.ENOSPC) || st.Errors != 3 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("status %+v, log %s", st, &log)
	}
	if _, err := os.Stat(filepath.Join(dir, newName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a file was left: %v", err)
	}
	f.flush(t.Context()) // not yet
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	f.retry = time.Time{}
	f.flush(t.Context())
	if st := f.Status(); st.Err != nil || st.Errors != 3 {
		t.Errorf("with room: %+v", st)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err == nil {
		t.Error("a file was open for writing, and the disk could be made read-only")
	}
	f.Close()
	f.drop()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(t, dir, world(1), nil); !errors.Is(err, unix.EROFS) {
		t.Errorf("on a read-only disk: %v", err)
	}
}

func TestTwoAgentsDoNotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, world(1), nil)
	if _, err := tryOpen(t, dir, world(1), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	f.Close()
	open(t, dir, world(1), nil)
}

func TestAFileThatSomebodyElseCouldHaveMadeIsIgnored(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"readable by others": func(p string) error { return os.Chmod(p, 0o644) },
		"another owner":      func(p string) error { return os.Chown(p, 1234, 0) },
		"two links":          func(p string) error { return os.Link(p, p+".too") },
		"a link":             func(p string) error { return errors.Join(os.Rename(p, p+".x"), os.Symlink(p+".x", p)) },
		"a FIFO":             func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"a directory":        func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"too large":          func(p string) error { return os.Truncate(p, 1<<40) },
		"damaged":            func(p string) error { return os.WriteFile(p, []byte("pdgtombs, not"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var log bytes.Buffer
			f := open(t, dir, world(3), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			f.flush(t.Context())
			if p := f.Load(); p == nil || log.Len() > 0 {
				t.Fatalf("before: %v, %s", p, &log)
			}
			if err := spoil(filepath.Join(dir, fileName)); err != nil {
				t.Fatal(err)
			}
			if p := f.Load(); p != nil || strings.Count(log.String(), "level=WARN") != 1 || f.Status().Errors != 1 {
				t.Errorf("it was read: %v, log %q", p, &log)
			}
		})
	}
	for name, spoil := range map[string]func(dir string) error{
		"anybody's to write to": func(d string) error { return os.Chmod(d, 0o777) },
		"another owner's":       func(d string) error { return os.Chown(d, 1234, 0) },
	} {
		dir := t.TempDir()
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := tryOpen(t, dir, world(1), nil); err == nil {
			t.Errorf("a directory that is %s was taken", name)
		}
	}
}

func TestWhatCannotHaveBeenIsLeftOut(t *testing.T) {
	late := process(1, 3)
	late.Exit.At = 99 * second
	early := process(2, 3)
	early.Key.Start = uint64(50 * second)
	old := process(3, 3)
	h := host()
	h.Grace = 5 * time.Second
	past := &Past{Seen: 30 * second, Processes: map[workload.ProcessKey]Record{}}
	for _, p := range []*workload.Process{late, early, old} {
		past.Processes[p.Key] = Record{Entity: workload.Entity{Process: p, Gone: true}}
	}
	if got := past.Ended(h).Processes; len(got) != 0 {
		t.Errorf("%+v", got[0])
	}
	past.Seen = 61 * second
	h.Grace = time.Hour
	if got := past.Ended(h); len(got.Processes) != 0 {
		t.Error("a file from the future was believed")
	}
	past.Seen = 30 * second
	if got := past.Ended(h); len(got.Processes) != 1 {
		t.Errorf("%d processes, want the old one, within its grace", len(got.Processes))
	}
}

// TestRunEndsWithWhatIsNew: what ended in the last half second before an orderly
// stop is in the file.
func TestRunEndsWithWhatIsNew(t *testing.T) {
	s := world(2)
	f := open(t, t.TempDir(), s, func(o *Options) { o.Interval = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for f.Status().Written.IsZero() {
		<-look.C
	}
	s.Apply(dead(2)...)
	cancel()
	<-done
	if p := f.Load(); p == nil || !p.Processes[key(2)].Gone {
		t.Errorf("%+v", p)
	}
}
