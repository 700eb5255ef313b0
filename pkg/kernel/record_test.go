// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/pkg/workload"
)

// encode puts C structs one after the other, as the programs do.
func encode[T any](b []byte, v T) []byte {
	return append(b, unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))...)
}

func processRecord(typ Type, cgroups ...bpf.TracerRecordCgroupId) []byte {
	r := bpf.TracerRecordProcess{
		Header: bpf.TracerRecordHeader{Type: uint32(typ), Cpu: 3, Time: 99},
		Start:  11, Inode: 12, ParentStart: 13, ExeInode: 14, ExeDev: 15,
		Tgid: 16, Parent: 17, MountNs: 18, ExitStatus: 3 << 8,
		Flags: processKthread | processExeInMountNS, PidNsLevel: 2, Cgroups: uint32(len(cgroups)),
		Comm:  [16]int8{'c', 'a', 't', -1, 0, 'o', 'l', 'd'},
		PidNs: [4]bpf.TracerRecordPidNamespace{{Inum: 21, Pid: 22}, {Inum: 23, Pid: 24}, {Inum: 25, Pid: 26}},
	}
	b := encode(nil, r)
	for _, c := range cgroups {
		b = encode(b, c)
	}
	return b
}

func cgroupPart(path string) []byte {
	b := encode(nil, bpf.TracerRecordCgroup{Id: 31, Parent: 32, Hierarchy: 4, Level: 5, PathLen: uint32(len(path))})
	return append(b, path...)
}

func TestDecodeProcess(t *testing.T) {
	b := processRecord(Exit,
		bpf.TracerRecordCgroupId{Id: 41, Hierarchy: 0},
		bpf.TracerRecordCgroupId{Id: 43, Hierarchy: 7},
		bpf.TracerRecordCgroupId{Id: 42, Hierarchy: 2},
		bpf.TracerRecordCgroupId{Id: 44, Hierarchy: 0}, // a controller that moved to v2
		bpf.TracerRecordCgroupId{Id: 0, Hierarchy: 9},  // not found in the links
	)
	var got Event
	n, err := decode(append(b, "the next record"...), &got)
	if err != nil || n != len(b) {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	want := Event{Type: Exit, CPU: 3, Time: 99, Exit: workload.Exit{Known: true, Code: 3, At: 99}}
	want.Process = Process{
		Key:    workload.ProcessKey{PID: 16, Inode: 12, Start: 11},
		Parent: 17, ParentStart: 13, PIDNSLevel: 2, MountNS: 18, Comm: Comm{'c', 'a', 't', 255},
		ExeInMountNS: true, ExeInode: 14, ExeDev: 15, KernelThread: true,
	}
	want.Process.PIDNS[0] = workload.PIDNamespace{Inum: 21, PID: 22}
	want.Process.PIDNS[1] = workload.PIDNamespace{Inum: 23, PID: 24}
	want.Process.Cgroups.N = 3
	copy(want.Process.Cgroups.IDs[:], []workload.CgroupID{{Hierarchy: 0, ID: 41}, {Hierarchy: 2, ID: 42}, {Hierarchy: 7, ID: 43}})
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDecodeCgroup(t *testing.T) {
	header := encode(nil, bpf.TracerRecordHeader{Type: uint32(CgroupMkdir), Time: 5})
	long := "/" + strings.Repeat("a", pathLimit-1)
	for path, cut := range map[string]bool{"/a b": false, "": false, long: true, long[:pathLimit-1]: false} {
		var e Event
		if _, err := decode(append(slices.Clip(header), cgroupPart(path)...), &e); err != nil {
			t.Fatal(err)
		}
		want := Cgroup{ID: workload.CgroupID{Hierarchy: 4, ID: 31}, Parent: 32, Level: 5, Path: path, PathCut: cut}
		if d := cmp.Diff(want, e.Cgroup); d != "" {
			t.Error(d)
		}
	}
	var e Event
	both := append(processRecord(CgroupAttach, bpf.TracerRecordCgroupId{Id: 41}), cgroupPart("/x")...)
	if n, err := decode(both, &e); err != nil || n != len(both) || e.Cgroup.Path != "/x" || e.Process.Key.PID != 16 {
		t.Errorf("attach: read %d of %d bytes, %+v, %v", n, len(both), e, err)
	}
}

func TestDecodeRefusesEveryTruncation(t *testing.T) {
	for _, whole := range [][]byte{
		processRecord(Fork, bpf.TracerRecordCgroupId{Id: 41}),
		append(processRecord(CgroupAttach, bpf.TracerRecordCgroupId{Id: 41}), cgroupPart("/x")...),
		append(encode(nil, bpf.TracerRecordHeader{Type: uint32(CgroupRmdir)}), cgroupPart("/x")...),
	} {
		for n := range whole {
			var e Event
			if _, err := decode(whole[:n], &e); !errors.Is(err, errRecord) {
				t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
			}
		}
	}
}

func TestExitFromStatus(t *testing.T) {
	for status, want := range map[uint32]workload.Exit{
		0:        {Known: true},
		3 << 8:   {Known: true, Code: 3},
		255 << 8: {Known: true, Code: 255},
		9:        {Known: true, Code: 137, Signal: 9, OOM: true},
		11:       {Known: true, Code: 139, Signal: 11},
		11 | 128: {Known: true, Code: 139, Signal: 11}, // with a core file
	} {
		if got := exitFromStatus(status, true); got != want {
			t.Errorf("status %#x: %+v, want %+v", status, got, want)
		}
	}
}

func TestCgroupSetKeepsOrderAndBound(t *testing.T) {
	var s CgroupSet
	for h := uint32(40); h > 0; h-- {
		s.add(workload.CgroupID{Hierarchy: h, ID: uint64(h)})
		s.add(workload.CgroupID{Hierarchy: h, ID: uint64(h) + 1})
	}
	ids := s.Slice()
	if len(ids) != MaxHierarchies {
		t.Fatalf("%d ids", len(ids))
	}
	for i, id := range ids {
		if id.ID != uint64(id.Hierarchy)+1 || i > 0 && ids[i-1].Hierarchy >= id.Hierarchy {
			t.Errorf("id %d is %s", i, id)
		}
	}
}

// FuzzDecode: whatever bytes, decode ends, stays within them and says no more
// cgroups and path than they hold.
func FuzzDecode(f *testing.F) {
	f.Add(processRecord(Task, bpf.TracerRecordCgroupId{Id: 41}))
	f.Add(append(processRecord(CgroupAttach), cgroupPart("/x")...))
	f.Add(append(encode(nil, bpf.TracerRecordHeader{Type: uint32(CgroupMkdir)}), cgroupPart("/\x00\xff")...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var e Event
			n, err := decode(b, &e)
			if err != nil {
				if n != 0 || !errors.Is(err, errRecord) {
					t.Fatalf("%d, %v", n, err)
				}
				return
			}
			if n < int(unsafe.Sizeof(bpf.TracerRecordHeader{})) || n > len(b) {
				t.Fatalf("read %d of %d bytes", n, len(b))
			}
			if len(e.Process.Cgroups.Slice())*16+len(e.Cgroup.Path) > n {
				t.Fatalf("%d bytes made %d cgroups and a path of %d", n, e.Process.Cgroups.N, len(e.Cgroup.Path))
			}
			_ = e.Process.Comm.String() + e.Type.String()
			b = b[n:]
		}
	})
}
