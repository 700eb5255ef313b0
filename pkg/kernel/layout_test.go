// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/pidigree/pidigree/bpf"
)

// The Go mirrors are generated; this holds them, and what the decoder makes of
// them, to the object that is loaded.
func TestGoMirrorsHaveTheLayoutOfTheObject(t *testing.T) {
	spec, err := bpf.LoadTracer()
	if err != nil {
		t.Fatal(err)
	}
	for name, mirror := range map[string]any{
		"record_header":        bpf.TracerRecordHeader{},
		"record_process":       bpf.TracerRecordProcess{},
		"record_pid_namespace": bpf.TracerRecordPidNamespace{},
		"record_cgroup_id":     bpf.TracerRecordCgroupId{},
		"record_cgroup":        bpf.TracerRecordCgroup{},
		"record_counts":        bpf.TracerRecordCounts{},
		"tracer_config":        bpf.TracerTracerConfig{},
	} {
		t.Run(name, func(t *testing.T) {
			var c *btf.Struct
			if err := spec.Types.TypeByName(name, &c); err != nil {
				t.Fatal(err)
			}
			compareLayout(t, c, reflect.TypeOf(mirror))
		})
	}
}

func compareLayout(t *testing.T, c *btf.Struct, g reflect.Type) {
	t.Helper()
	if uintptr(c.Size) != g.Size() {
		t.Errorf("%d bytes in the object, %d in Go", c.Size, g.Size())
	}
	var fields []reflect.StructField
	for f := range g.Fields() {
		if f.Name != "_" {
			fields = append(fields, f)
		}
	}
	if len(fields) != len(c.Members) {
		t.Fatalf("%d members in the object, %d in Go", len(c.Members), len(fields))
	}
	for i, m := range c.Members {
		f := fields[i]
		if want := strings.ReplaceAll(m.Name, "_", ""); !strings.EqualFold(f.Name, want) {
			t.Errorf("member %d is %s in the object, %s in Go", i, m.Name, f.Name)
		}
		if uintptr(m.Offset.Bytes()) != f.Offset {
			t.Errorf("%s is at %d in the object, at %d in Go", m.Name, m.Offset.Bytes(), f.Offset)
		}
		size, err := btf.Sizeof(m.Type)
		if err != nil || uintptr(size) != f.Type.Size() {
			t.Errorf("%s has %d bytes in the object, %d in Go (%v)", m.Name, size, f.Type.Size(), err)
		}
	}
}

func TestRecordTypesAreEventTypes(t *testing.T) {
	for record, typ := range map[bpf.TracerRecordType]Type{
		bpf.TracerRecordTypeRECORD_FORK:          Fork,
		bpf.TracerRecordTypeRECORD_EXEC:          Exec,
		bpf.TracerRecordTypeRECORD_EXIT:          Exit,
		bpf.TracerRecordTypeRECORD_CGROUP_MKDIR:  CgroupMkdir,
		bpf.TracerRecordTypeRECORD_CGROUP_RMDIR:  CgroupRmdir,
		bpf.TracerRecordTypeRECORD_CGROUP_ATTACH: CgroupAttach,
		bpf.TracerRecordTypeRECORD_TASK:          Task,
	} {
		if Type(record) != typ {
			t.Errorf("record type %d is not event type %s", record, typ)
		}
	}
	if len(bpf.TracerTracerConfig{}.V1Subsys) != MaxHierarchies || len(bpf.TracerRecordProcess{}.PidNs) != MaxPIDNamespaces {
		t.Error("limits of records.h and event.go differ")
	}
}
