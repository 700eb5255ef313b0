// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/pkg/workload"
)

// tracepoints names the program and tracepoint of each type.
var tracepoints = [...]struct {
	typ        Type
	program    string
	tracepoint string
}{
	{Fork, bpf.TracerProgProcessFork, "sched_process_fork"},
	{Exec, bpf.TracerProgProcessExec, "sched_process_exec"},
	{Exit, bpf.TracerProgProcessExit, "sched_process_exit"},
	{CgroupMkdir, bpf.TracerProgCgroupMkdir, "cgroup_mkdir"},
	{CgroupRmdir, bpf.TracerProgCgroupRmdir, "cgroup_rmdir"},
	{CgroupAttach, bpf.TracerProgCgroupAttach, "cgroup_attach_task"},
	{Task, bpf.TracerProgProcessSnapshot, "iter/task"},
}

// program is one loaded program, or why it is not there.
type program struct {
	typ        Type
	name       string
	tracepoint string
	prog       *ebpf.Program
	iter       *link.Iter
	// twin is the same program once more, on the same tracepoint; nil where one is
	// enough, see preemptible. Each of the two goes for both as long as it is there.
	twin *program

	mu sync.Mutex // guards all below: Run writes them, others look
	// link is held: a link that nothing refers to is closed by the garbage
	// collector, and the program detaches in silence.
	link     link.Link
	linkID   link.ID
	reason   error
	detached uint64
	brokenAt workload.KTime
}

// both gives a program with its twin.
func (p *program) both() []*program {
	if p.twin != nil {
		return []*program{p, p.twin}
	}
	return []*program{p}
}

func (p *program) whyNot() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// working reports whether the program is attached, as far as is known.
func (p *program) working() bool { return p.whyNot() == nil }

// currentLink gives the link, nil where there is none, and its id.
func (p *program) currentLink() (link.Link, link.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link, p.linkID
}

func (p *program) setLink(l link.Link, id link.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link, p.linkID = l, id
}

// linked asks the kernel whether the link is there and still ours.
func (p *program) linked() bool {
	l, id := p.currentLink()
	if l == nil {
		return false
	}
	now, err := linkID(l)
	return err == nil && now == id
}

func linkID(l link.Link) (link.ID, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	return info.ID, nil
}

// reattach gives the program a new link and notes why, cause being nil where
// that has been noted before.
func (p *program) reattach(cause error) error {
	p.unlink()
	err := p.attach()
	p.mu.Lock()
	defer p.mu.Unlock()
	if cause != nil {
		p.detached++
		p.brokenAt = bootTime()
		p.reason = cause
	}
	if err == nil {
		p.reason = nil
		return nil
	}
	p.reason = fmt.Errorf("%w, and attaching it again fails: %w", cmp.Or(cause, errDetached), err)
	return err
}

// unlink closes the link, but not one that is no longer ours: its number may be
// another file's by now. That one is kept, so that no garbage collector closes it.
func (p *program) unlink() {
	l, _ := p.currentLink()
	switch {
	case l == nil:
	case p.linked():
		_ = l.Close()
	default:
		goneLinks.Lock()
		defer goneLinks.Unlock()
		goneLinks.links = append(goneLinks.links, l)
	}
	p.setLink(nil, 0)
}

// goneLinks holds links that somebody else closed.
var goneLinks struct {
	sync.Mutex
	links []link.Link
}

func (p *program) close() {
	if p.twin != nil {
		p.twin.close()
	}
	p.unlink()
	if p.iter != nil {
		_ = p.iter.Close()
	}
	if p.prog != nil {
		_ = p.prog.Close()
	}
}

// objects is everything of ours in the kernel.
type objects struct {
	maps     map[string]*ebpf.Map
	programs []*program
}

func (o *objects) close() {
	for _, p := range o.programs {
		p.close()
	}
	for _, m := range o.maps {
		_ = m.Close()
	}
}

// lacking reports whether events of a type are not reported at present, or might
// not be, for want of a twin.
func (o *objects) lacking() bool {
	for _, p := range o.programs {
		if p.typ != Task && slices.ContainsFunc(p.both(), func(p *program) bool { return !p.working() }) {
			return true
		}
	}
	return false
}

// attached reports how many tracepoints have a program.
func (o *objects) attached() (n int) {
	for _, p := range o.programs {
		if l, _ := p.currentLink(); l != nil {
			n++
		}
	}
	return n
}

// firstReason gives why a program is missing, the first that is not switched off.
func (o *objects) firstReason() error {
	for _, p := range o.programs {
		if why := p.whyNot(); why != nil && !errors.Is(why, errDisabled) {
			return why
		}
	}
	return errDisabled
}

var errDisabled = errors.New("switched off by configuration")

// loadOptions is what load needs to know of TracerOptions and of the host.
type loadOptions struct {
	config bpf.TracerTracerConfig
	// types is the kernel's BTF, decoded once for all programs; garbage afterwards.
	types        *btf.Cache
	processBytes uint32
	cgroupBytes  uint32
	disable      []Type
	// twins: each tracepoint gets its program twice.
	twins bool
	log   *slog.Logger
}

// preemptible reports whether the kernel can preempt a program of a tracepoint
// in its body, and then skips what happens on that CPU meanwhile. It is so from
// 7.0 on, which guards tracepoints by SRCU-fast where it switched preemption off.
func preemptible() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.", &major)
	return err == nil && major >= 7
}

// load makes the maps and then loads and attaches each program by itself, so
// that one which a kernel does not take costs only its own events.
func load(o loadOptions) (*objects, error) {
	spec, err := bpf.LoadTracer()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	spec.Maps[bpf.TracerMapProcessRing].MaxEntries = o.processBytes
	spec.Maps[bpf.TracerMapCgroupRing].MaxEntries = o.cgroupBytes
	objs := &objects{maps: make(map[string]*ebpf.Map)}
	if err := objs.loadMaps(spec); err != nil {
		objs.close()
		return nil, err
	}
	objs.loadPrograms(spec, o)
	return objs, nil
}

// loadPrograms loads the programs side by side: the verifier takes 20 to 80 ms for
// each, and the kernel may wait while it attaches one.
func (o *objects) loadPrograms(spec *ebpf.CollectionSpec, opts loadOptions) {
	var all sync.WaitGroup
	var twins [len(tracepoints)]*program
	for i, tp := range tracepoints {
		p := &program{typ: tp.typ, name: tp.program, tracepoint: tp.tracepoint, reason: errDisabled}
		o.programs = append(o.programs, p)
		if slices.Contains(opts.disable, tp.typ) {
			continue
		}
		config := opts.config
		if opts.twins && tp.typ != Task {
			twin := &program{typ: tp.typ, name: tp.program, tracepoint: tp.tracepoint}
			twins[i] = twin
			second := config
			second.Twin = uint8(bpf.TracerTwinTWIN_SECOND)
			all.Go(func() { twin.reason = twin.load(spec, o.maps, opts.types, second) })
			config.Twin = uint8(bpf.TracerTwinTWIN_FIRST)
		}
		all.Go(func() { p.reason = p.load(spec, o.maps, opts.types, config) })
	}
	all.Wait()
	for i, p := range o.programs {
		if p.reason != nil && !errors.Is(p.reason, errDisabled) {
			opts.log.Warn("BPF program is not attached", "program", p.name, "err", p.reason)
		}
		switch twin := twins[i]; {
		case twin == nil:
		case twin.reason != nil:
			opts.log.Warn("BPF program is attached once: the kernel may skip events", "program", p.name, "err", twin.reason)
		case p.reason != nil:
			twin.close() // as what has no program here reports nothing, by its status
		default:
			p.twin = twin
		}
	}
}

// loadMaps makes the maps that the programs share; each program has its own
// copy of the constants.
func (o *objects) loadMaps(spec *ebpf.CollectionSpec) error {
	for name, ms := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		m, err := ebpf.NewMap(ms)
		if err != nil {
			return fmt.Errorf("make BPF map %s: %w", name, err)
		}
		o.maps[name] = m
	}
	return nil
}

func (p *program) load(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, types *btf.Cache, config bpf.TracerTracerConfig) error {
	one := spec.Copy()
	if err := one.Variables[bpf.TracerVarConfig].Set(config); err != nil {
		return fmt.Errorf("set constants of %s: %w", p.name, err)
	}
	for name := range one.Programs {
		if name != p.name {
			delete(one.Programs, name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: maps, Cache: types})
	if err != nil {
		return fmt.Errorf("load %s: %w", p.name, briefly(err))
	}
	p.prog = coll.DetachProgram(p.name)
	coll.Close()
	if err := p.attach(); err != nil {
		p.close()
		p.prog = nil
		return fmt.Errorf("attach %s: %w", p.name, err)
	}
	return nil
}

func (p *program) attach() (err error) {
	if p.typ == Task {
		p.iter, err = link.AttachIter(link.IterOptions{Program: p.prog})
		return err
	}
	// Not under the lock: the kernel may wait here, and Stats need not.
	l, err := link.AttachTracing(link.TracingOptions{Program: p.prog})
	if err != nil {
		return err
	}
	id, err := linkID(l)
	if err != nil {
		_ = l.Close()
		return err
	}
	p.setLink(l, id)
	return nil
}

// briefly cuts a verifier's log of thousands of lines to its last one.
func briefly(err error) error {
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) || len(ve.Log) == 0 {
		return err
	}
	ve.Log = ve.Log[max(0, len(ve.Log)-2):]
	return err
}

// kernelConfig works out the constants of the programs.
func kernelConfig(types *btf.Spec, hs []Hierarchy) (bpf.TracerTracerConfig, error) {
	var c bpf.TracerTracerConfig
	if hasGroupDead(types) {
		c.HasGroupDead = 1
	}
	var subsystems *btf.Enum
	if err := types.TypeByName("cgroup_subsys_id", &subsystems); err != nil {
		return c, fmt.Errorf("find cgroup controllers in BTF: %w", err)
	}
	for i, h := range hs {
		// v2 is slot 0; together they may not exceed MAX_HIERARCHIES.
		full := 1+int(c.V1Count)+int(c.NamedCount) >= MaxHierarchies
		switch {
		case h.ID == 0 || full:
		case len(h.Controllers) > 0:
			if i, ok := subsystemIndex(subsystems, h.Controllers); ok {
				c.V1Subsys[c.V1Count] = i
				c.V1Count++
			}
		case int(c.NamedCount) < len(c.Named):
			c.Named[c.NamedCount] = h.ID
			// /proc/PID/cgroup has the newest hierarchy first, a css_set the oldest.
			if newer, older := i, len(hs)-1-i; newer < older {
				c.NamedHops[c.NamedCount], c.NamedBack[c.NamedCount] = uint8(newer), 1
			} else {
				c.NamedHops[c.NamedCount] = uint8(older)
			}
			c.NamedCount++
		}
	}
	return c, nil
}

// subsystemIndex gives the place in css_set.subsys of the first controller
// known to BTF; all of a hierarchy have the same cgroup.
func subsystemIndex(e *btf.Enum, controllers []string) (uint8, bool) {
	for _, c := range controllers {
		if c == "blkio" {
			c = "io" // SUBSYS(io) has the legacy name blkio
		}
		for _, v := range e.Values {
			// The program masks with 31; there have never been more than 14.
			if v.Name == c+"_cgrp_id" && v.Value < 32 {
				return uint8(v.Value), true
			}
		}
	}
	return 0, false
}

// hasGroupDead reports whether sched_process_exit says which thread is the
// last: (void *, struct task_struct *, bool) against one parameter less.
func hasGroupDead(types *btf.Spec) bool {
	var t *btf.Typedef
	if types.TypeByName("btf_trace_sched_process_exit", &t) != nil {
		return false
	}
	ptr, ok := t.Type.(*btf.Pointer)
	if !ok {
		return false
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	return ok && len(proto.Params) >= 3
}
