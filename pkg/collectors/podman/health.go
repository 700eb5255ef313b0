// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// healthFile has what a container's check says, beside its run directory; the
	// database has nothing of it (podman, libpod/healthcheck.go).
	healthFile = "healthcheck.log"
	// maxHealthFile bounds it: it has the output of the last five checks.
	maxHealthFile = 1 << 20
)

// checks reports whether podman checks the container.
func (c *configJSON) checks() bool {
	return c.Health != nil && len(c.Health.Test) > 0 && c.Health.Test[0] != "NONE"
}

// health adds what the check says of a container that runs.
func (s *store) health(d *described) {
	if d.checked {
		d.Health, d.checkedAt = s.readHealth(d.state.RunDir, d.State)
	}
}

// healthDir opens the directory of the file. The database names it, so it must be the
// store's owner's.
func (s *store) healthDir(runDir string) (int, bool) {
	if !filepath.IsAbs(runDir) {
		return -1, false
	}
	fd, err := safefile.OpenTop(s.c.host, filepath.Dir(filepath.Clean(runDir)), s.healthTrust())
	if err != nil {
		return -1, false
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Uid != s.owner {
		_ = unix.Close(fd)
		return -1, false
	}
	return fd, true
}

func (s *store) healthTrust() safefile.Trust {
	return safefile.Trust{Owner: s.owner, Max: maxHealthFile}
}

// readHealth gives nothing where nothing was checked yet, or nothing can be read. The
// stamp is the version of the file that says so.
func (s *store) readHealth(runDir string, state workload.State) (workload.Health, safefile.Stamp) {
	dir, ok := s.healthDir(runDir)
	if !ok {
		return "", safefile.Stamp{}
	}
	defer unix.Close(dir)
	var said struct{ Status string }
	stamp, err := safefile.Read(dir, healthFile, s.healthTrust(), func(r io.Reader) error {
		said.Status = ""
		_, err := boundjson.Decode(r, boundjson.Limits{String: 256, Only: map[string][]string{"": {"Status"}}}, &said)
		return err
	})
	if err != nil {
		return "", stamp
	}
	return collectors.HealthOf(state, said.Status), stamp
}

// healthStamp tells two versions of the file apart; zero where it is not there.
func (s *store) healthStamp(runDir string) (stamp safefile.Stamp) {
	dir, ok := s.healthDir(runDir)
	if !ok {
		return stamp
	}
	defer unix.Close(dir)
	stamp, _ = safefile.Stat(dir, healthFile, s.healthTrust())
	return stamp
}

// lookAtHealth says what checks have said since. Nothing is written to the database
// for one, so every look asks.
func (w *watcher) lookAtHealth(s *store, now *watched) {
	for id, was := range now.containers {
		if was.runDir == "" || was.state != workload.StateRunning && was.state != workload.StatePaused {
			continue
		}
		stamp := s.healthStamp(was.runDir)
		if stamp == was.checkedAt {
			continue
		}
		was.checkedAt = stamp // not what is read: a file that cannot be read is not tried again
		h, _ := s.readHealth(was.runDir, was.state)
		if h != was.health {
			was.health = h
			whole := s.id(id)
			w.fn(collectors.Hint{Kind: collectors.HintChanged, ID: whole, Layer: &workload.Container{ID: whole, Runtime: name, State: was.state, Health: h}})
		}
		now.containers[id] = was
	}
}
