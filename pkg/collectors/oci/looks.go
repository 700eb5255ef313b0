// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// looks is what a List and the first look of a Watch, which begin together, read
// for each other: an agent that starts beside a thousand containers reads each
// once. Nothing is kept when one is alone, or when both have ended.
type looks struct {
	mu    sync.Mutex // guards all below
	users int
	made  map[place]*look
}

// look is a reading and what was said of it. Neither is changed.
type look struct {
	reading   *reading
	container *workload.Container
}

// share begins a look; the function that it gives ends it.
func (l *looks) share() (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.users--; l.users == 0 {
			l.made = nil
		}
	}
}

func (l *looks) at(p place) *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made[p]
}

func (l *looks) put(s *reading, out *workload.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users < 2 {
		return
	}
	if l.made == nil {
		l.made = make(map[place]*look)
	}
	l.made[place{root: s.root, id: s.id}] = &look{reading: s, container: out}
}

// look reads and describes one container, or takes what the other has read of it,
// if that is what would be read now: the same file, by its change time, in the
// same directory. The bundle is as old as the state, as in a Watch; whether the
// init lives is looked at again.
func (c *Collector) look(r root, id string) (*reading, *workload.Container, error) {
	if l := c.looks.at(place{root: r, id: id}); l != nil && l.reading.current() {
		s, out := *l.reading, *l.container
		s.life = c.lifeOf(s.state, has(filepath.Join(r.path, id), fileFIFO))
		out.State = s.life
		return &s, &out, nil
	}
	s, err := c.read(r, id)
	if err != nil {
		return nil, nil, err
	}
	out := c.describe(s)
	c.looks.put(s, out)
	return s, out, nil
}

// current reports whether the files are the ones that were read.
func (s *reading) current() bool {
	dir := filepath.Join(s.root.path, s.id)
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil || st.Ino != s.ino {
		return false
	}
	now, err := stateStamp(dir)
	return err == nil && now == s.stamp
}

// stateStamp gives the version of the state file in a container's directory.
func stateStamp(dir string) (stamp, error) {
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(dir, fileState), &st)
	if missing(err) {
		err = unix.Lstat(filepath.Join(dir, fileStatus), &st)
	}
	return stampOf(&st), err
}
