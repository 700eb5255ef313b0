// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// errNoState means that the container's directory has no state file yet.
var errNoState = errors.New("no state yet")

// The files of a state directory.
const (
	fileState       = "state.json" // runc, youki
	fileStatus      = "status"     // crun
	fileYoukiConfig = "youki_config.json"
	// fileFIFO is there from the create to the start (runc, crun): the init waits on it.
	fileFIFO = "exec.fifo"
)

// reading is what one look at a container's directory gave.
type reading struct {
	root root
	id   string
	// stamp is the state file's version, ino the directory's inode.
	stamp stamp
	ino   uint64
	// state is nil where only a bundle is there yet; bundle and runtime are then set.
	state   *state
	bundle  string
	runtime string
	life    workload.State
	// optioned: the bundle has an options.json that names the state directory.
	optioned bool
}

// openOf opens the directory of one container; the caller closes it.
func (r root) openOf(id string) (int, error) {
	top, err := openTop("/", r.path)
	if err != nil {
		return -1, err
	}
	defer closeFD(top)
	return openDir(top, id)
}

// read reads the state of one container.
func (c *Collector) read(r root, id string) (*reading, error) {
	dir, err := r.openOf(id)
	if err != nil {
		return nil, err
	}
	defer closeFD(dir)
	return c.readDir(r, id, dir)
}

func (c *Collector) readDir(r root, id string, dir int) (*reading, error) {
	s := &reading{root: r, id: id}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	s.ino = st.Ino
	var err error
	if s.state, s.stamp, err = readState(dir, id); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(r.path, id), err)
	}
	if s.state.runtime == runtimeYouki {
		c.completeYouki(s.state, dir)
	}
	s.runtime, s.bundle = s.state.runtime, s.state.bundle
	s.life = c.lifeOf(s.state, exists(dir, fileFIFO))
	return s, nil
}

// readState tells the runtimes apart by their files: an engine's directory
// named runc holds crun's state where crun is configured.
func readState(dir int, id string) (*state, stamp, error) {
	data, v, err := readFile(dir, fileState)
	if err == nil {
		s, perr := parseStateJSON(data, id)
		return s, v, perr
	}
	if !missing(err) {
		return nil, stamp{}, err
	}
	data, v, err = readFile(dir, fileStatus)
	if missing(err) {
		return nil, stamp{}, fmt.Errorf("%w: %w", errNoState, collectors.ErrNotFound)
	}
	if err != nil {
		return nil, stamp{}, err
	}
	s, err := parseStatus(data)
	return s, v, err
}

// completeYouki adds what youki keeps elsewhere or not at all: the cgroup, and
// the start of the init process.
func (c *Collector) completeYouki(s *state, dir int) {
	if data, _, err := readFile(dir, fileYoukiConfig); err == nil {
		if path, err := parseYoukiConfig(data); err == nil && path != "" {
			s.cgroups = []cgroup{{controller: anyController, path: path}}
		}
	}
	if s.pid != 0 && s.status != workload.StateExited {
		s.ticks = c.startBefore(s.pid, s.created)
	}
}

// readBundle reads where a shim's bundle is and which state directory its options name.
func (c *Collector) readBundle(r root, id string) (*reading, error) {
	if !validID(id) {
		return nil, fmt.Errorf("bundle %q: %w", cut(id), unix.ENOENT)
	}
	dir, err := r.openOf(id)
	if err != nil {
		return nil, err
	}
	defer closeFD(dir)
	b := &reading{id: id, bundle: filepath.Join(r.path, id), life: workload.StateCreated}
	b.root, b.runtime, b.optioned = c.stateRootOf(r, dir)
	return b, nil
}

// containerID is the id as this collector names it.
func (s *reading) containerID() workload.ContainerID {
	id := workload.ContainerID{Runtime: s.runtime, Instance: s.root.path, Namespace: s.root.namespace, ID: s.id}
	if s.root.owner == s.runtime {
		id.Instance = ""
	}
	return id
}

// describe joins the state and the bundle.
func (c *Collector) describe(s *reading) *workload.Container {
	out := &workload.Container{ID: s.containerID(), Bundle: s.bundle, State: s.life}
	var annotations map[string]string
	if s.state != nil {
		out.Created = s.state.created
		out.Run = c.runOf(s.state)
		if id := c.shimAlias(s); !id.IsZero() {
			out.Aliases = []workload.ContainerID{id}
		}
		annotations = s.state.annotations
	}
	if spec, err := c.specOf(s); err != nil {
		out.Truncated = []string{"bundle (" + refusedFor(err) + ")"}
		c.log.Debug("bundle not read", "container", s.id, "err", err)
	} else {
		spec.Fill(out, c.envAllow)
		annotations = spec.Annotations
	}
	annotate(out, s.root, annotations)
	collectors.Bound(out)
	return out
}

// refusedFor says why a bundle was not read, in words that nobody but us has chosen.
func refusedFor(err error) string {
	for _, r := range []error{
		safefile.ErrTooLarge, boundjson.ErrTooLarge, boundjson.ErrTooDeep, boundjson.ErrMalformed, safefile.ErrChanging, safefile.ErrUntrusted,
	} {
		if errors.Is(err, r) {
			text, _, _ := strings.Cut(r.Error(), ":")
			return text
		}
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax), errors.As(err, &kind), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return boundjson.ErrMalformed.Error()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNoBundle):
		return "not there"
	}
	return "unreadable"
}

func (c *Collector) runOf(s *state) *workload.Run {
	start := s.ticks * workload.TickNS
	return &workload.Run{
		Init:         workload.ProcessKey{PID: s.pid, Ticks: true, Start: start},
		ClaimedPaths: c.claimedPaths(s),
		// Without a start time a PID names whoever has it now.
		Registers: s.pid != 0 && s.ticks != 0,
		Started:   workload.KTime(start),
	}
}

// sameRun says whether two readings are of one run of one container.
func sameRun(a, b *reading) bool {
	return a != nil && b != nil && a.ino == b.ino && a.state.pid == b.state.pid && a.state.ticks == b.state.ticks
}

// small is what a watch keeps of a reading.
func (s *reading) small() *reading {
	n := *s
	n.state = &state{pid: s.state.pid, ticks: s.state.ticks}
	return &n
}
