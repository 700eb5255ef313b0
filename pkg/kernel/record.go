// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/pkg/workload"
)

// errRecord means that bytes from a ring are no record. The kernel wrote them,
// so it can only be a mismatch of object and decoder; nothing is trusted all the
// same.
var errRecord = errors.New("malformed record")

// The flags of bpf.TracerRecordProcess; PROCESS_* in bpf/records.h.
const (
	processKthread      = 1 << 0
	processOOM          = 1 << 1
	processExeInMountNS = 1 << 2
)

// pathLimit is where TRACE_CGROUP_PATH_LEN (kernel/cgroup/cgroup-internal.h)
// cuts a path, without the NUL; a path of exactly that length counts as cut.
const pathLimit = 1023

// cursor reads C structs off a record, front to back.
type cursor struct {
	b   []byte
	bad bool
}

// take copies the next sizeof(T) bytes. T is a generated mirror: no pointers in
// it, so any bytes make a valid value. The copy makes alignment irrelevant.
func take[T any](c *cursor) (v T) {
	size := int(unsafe.Sizeof(v))
	if len(c.b) < size {
		c.bad = true
		return v
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v)), size), c.b)
	c.b = c.b[size:]
	return v
}

// bytes gives the next n bytes, shared with the record.
func (c *cursor) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

// decode reads one record off the front of b into e, replacing all of e, and
// gives its length, so that records can follow each other.
func decode(b []byte, e *Event) (int, error) {
	*e = Event{}
	peek := cursor{b: b}
	h := take[bpf.TracerRecordHeader](&peek)
	if peek.bad {
		return 0, fmt.Errorf("%w: %d bytes are no header", errRecord, len(b))
	}
	if h.Type == 0 || h.Type > uint32(Task) {
		return 0, fmt.Errorf("%w: type %d", errRecord, h.Type)
	}
	e.Type = Type(h.Type)
	e.CPU = h.Cpu
	e.Time = workload.KTime(h.Time)
	c := cursor{b: b}
	switch e.Type {
	case CgroupMkdir, CgroupRmdir:
		take[bpf.TracerRecordHeader](&c)
		decodeCgroup(&c, &e.Cgroup)
	case CgroupAttach:
		decodeProcess(&c, e)
		decodeCgroup(&c, &e.Cgroup)
	default:
		decodeProcess(&c, e)
	}
	if c.bad {
		return 0, fmt.Errorf("%w: %d bytes are too few for a %s", errRecord, len(b), e.Type)
	}
	return len(b) - len(c.b), nil
}

func decodeProcess(c *cursor, e *Event) {
	r := take[bpf.TracerRecordProcess](c)
	p := &e.Process
	p.Key = workload.ProcessKey{PID: workload.PID(r.Tgid), Inode: r.Inode, Start: r.Start}
	p.Parent = workload.PID(r.Parent)
	p.ParentStart = r.ParentStart
	p.MountNS = r.MountNs
	p.ExeInode = r.ExeInode
	p.ExeDev = r.ExeDev
	p.KernelThread = r.Flags&processKthread != 0
	p.ExeInMountNS = r.Flags&processExeInMountNS != 0
	// Some kernels (5.10 does) leave the old name's end behind the new one's NUL.
	for i, b := range r.Comm {
		if b == 0 {
			break
		}
		p.Comm[i] = byte(b)
	}
	decodePIDNS(&r, p)
	decodeCgroups(c, r.Cgroups, &p.Cgroups)
	if e.Type == Exit {
		e.Exit = exitFromStatus(r.ExitStatus, r.Flags&processOOM != 0)
		e.Exit.At = e.Time
	}
}

func decodePIDNS(r *bpf.TracerRecordProcess, p *Process) {
	p.PIDNSLevel = uint8(min(r.PidNsLevel, 255))
	for i := range r.PidNs[:min(r.PidNsLevel, MaxPIDNamespaces)] {
		p.PIDNS[i] = workload.PIDNamespace{Inum: r.PidNs[i].Inum, PID: workload.PID(r.PidNs[i].Pid)}
	}
}

// decodeCgroups reads n ids. A v1 slot that says hierarchy 0 is a controller
// that has moved to v2 since it was loaded: its id is only of the nearest
// ancestor with that controller, so it is dropped.
func decodeCgroups(c *cursor, n uint32, to *CgroupSet) {
	if n > MaxHierarchies {
		c.bad = true
		return
	}
	for i := range n {
		id := take[bpf.TracerRecordCgroupId](c)
		if id.Id == 0 || (i > 0 && id.Hierarchy == 0) {
			continue
		}
		to.add(workload.CgroupID{Hierarchy: id.Hierarchy, ID: id.Id})
	}
}

// add inserts id, keeping the order by hierarchy. A second id for a hierarchy
// replaces the first; one too many is dropped.
func (s *CgroupSet) add(id workload.CgroupID) {
	at := 0
	for at < int(s.N) && s.IDs[at].Hierarchy < id.Hierarchy {
		at++
	}
	if at < int(s.N) && s.IDs[at].Hierarchy == id.Hierarchy {
		s.IDs[at] = id
		return
	}
	if int(s.N) == len(s.IDs) {
		return
	}
	copy(s.IDs[at+1:], s.IDs[at:s.N])
	s.IDs[at] = id
	s.N++
}

func decodeCgroup(c *cursor, to *Cgroup) {
	r := take[bpf.TracerRecordCgroup](c)
	path := c.bytes(r.PathLen)
	if c.bad {
		return
	}
	to.ID = workload.CgroupID{Hierarchy: r.Hierarchy, ID: r.Id}
	to.Parent = r.Parent
	to.Level = r.Level
	to.Path = string(path)
	to.PathCut = len(path) >= pathLimit
}

// exitFromStatus reads a wait(2) status. oom says that the killer had chosen
// the process, which it also does to one that is already on its way out: only
// a death by SIGKILL counts.
func exitFromStatus(status uint32, oom bool) workload.Exit {
	x := workload.Exit{Known: true}
	if sig := int32(status & 0x7f); sig != 0 {
		x.Signal = sig
		x.Code = 128 + sig
		x.OOM = oom && sig == 9
		return x
	}
	x.Code = int32(status >> 8 & 0xff)
	return x
}
