// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// update changes one field of a container's record, as any client of containerd may.
func update(t *testing.T, c *Collector, id, field string, change func(*containersapi.Container)) {
	t.Helper()
	n, err := c.connect()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.get(t.Context(), n, "default", id)
	if err != nil {
		t.Fatal(err)
	}
	change(r.Container)
	changed := &containersapi.Container{ID: id}
	switch field {
	case "labels":
		changed.Labels = r.Labels
	case "spec":
		changed.Spec = r.Spec
	case "extensions":
		changed.Extensions = r.Extensions
	}
	_, err = n.containers.Update(within(t.Context(), "default"), &containersapi.UpdateContainerRequest{
		Container: changed, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{field}},
	})
	if err != nil && status.Code(err) != codes.ResourceExhausted { // the reply repeats the record
		t.Fatal(err)
	}
}

// annotated gives a spec an annotation of that many bytes.
func annotated(t *testing.T, spec *anypb.Any, size int) *anypb.Any {
	t.Helper()
	var s map[string]any
	if err := json.Unmarshal(spec.Value, &s); err != nil {
		t.Fatal(err)
	}
	s["annotations"] = map[string]string{"big": strings.Repeat("x", size)}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: spec.TypeUrl, Value: data}
}

func TestOneMonstrousRecordHidesNoOther(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Address: e.Address})
	// Around the monsters, in the order of a list; the last has no task.
	for _, id := range []string{"a", "many", "ours", "theirs", "z"} {
		e.Run("default", collectortest.BusyboxImage, id, "sleep", "3600")
	}
	e.Ctr("containers", "create", collectortest.BusyboxImage, "zz")
	update(t, c, "many", "labels", func(r *containersapi.Container) {
		r.Labels = map[string]string{"io.kubernetes.pod.name": "web-0"}
		for i := range 100_000 {
			r.Labels[fmt.Sprintf("label-%06d", i)] = "some value of it"
		}
	})
	spec := func(size int) func(*containersapi.Container) {
		return func(r *containersapi.Container) { r.Spec = annotated(t, r.Spec, size) }
	}
	// More than we take in a message, and more than containerd sends in one.
	update(t, c, "theirs", "extensions", func(r *containersapi.Container) {
		r.Extensions = map[string]*anypb.Any{"x": {TypeUrl: "x", Value: make([]byte, 7<<20)}}
	})
	update(t, c, "theirs", "spec", spec(12<<20))
	update(t, c, "ours", "spec", spec(collectors.MaxRecord))

	began := time.Now()
	var ids []string
	for got, err := range c.List(t.Context()) {
		if err != nil {
			t.Errorf("list: %v", err)
			continue
		}
		ids = append(ids, got.ID.ID)
		checkMonster(t, e, "List", got)
	}
	t.Logf("listed in %v", time.Since(began))
	slices.Sort(ids)
	if want := []string{"a", "many", "ours", "theirs", "z", "zz"}; !slices.Equal(ids, want) {
		t.Errorf("listed %q, want %q", ids, want)
	}
	for _, id := range []string{"many", "ours", "theirs", "z"} {
		for _, ns := range []string{"default", ""} {
			got, err := c.Lookup(t.Context(), workload.ContainerID{Namespace: ns, ID: id})
			if err != nil {
				t.Errorf("Lookup %s/%s: %v", ns, id, err)
				continue
			}
			if id == "many" && (len(got.Labels) != 256 || got.Labels["io.kubernetes.pod.name"] != "web-0") {
				t.Errorf("%d labels of %s, pod %q", len(got.Labels), id, got.Labels["io.kubernetes.pod.name"])
			}
		}
		pid := e.InitPID("default", id)
		got, err := c.Locate(t.Context(), workload.Evidence{Init: workload.ProcessKey{PID: workload.PID(pid)}, Cgroups: collectortest.CgroupsOf(t, workload.PID(pid))})
		if err != nil || got.ID != id {
			t.Errorf("Locate %s: %v, %v", id, got, err)
		}
	}
}

// checkMonster: what is too large is known by id, name and task, and says what is missing.
func checkMonster(t *testing.T, e *collectortest.Containerd, how string, got *workload.Container) {
	t.Helper()
	want := map[string][]string{"ours": {"image", "labels", "spec"}, "theirs": {"image", "labels", "spec"}, "many": {"labels"}}[got.ID.ID]
	if !slices.Equal(got.Truncated, want) {
		t.Errorf("%s: %s: truncated %q, want %q", how, got.ID.ID, got.Truncated, want)
	}
	if want == nil {
		return
	}
	if got.Name != got.ID.ID || got.Run == nil || int(got.Run.Init.PID) != e.InitPID("default", got.ID.ID) || got.State != workload.StateRunning {
		t.Errorf("%s: %s: name %q, run %+v, state %q", how, got.ID.ID, got.Name, got.Run, got.State)
	}
}

// A container without a task has no processes, and may hide none that has.
func TestAMonstrousRecordWithoutATaskHidesNoOther(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Address: e.Address})
	const hex = "9f9f9f9f"
	ids := []string{"0", hex, "A", "b", "m_x.y-2", "m_x.y-20", "m_xzy-2", "z", "zz"}
	for _, id := range ids {
		e.Ctr("containers", "create", collectortest.BusyboxImage, id)
	}
	monsters := map[string]bool{hex: true, "m_x.y-2": true, "zz": true}
	for id := range monsters {
		size := collectors.MaxRecord
		if id == hex { // more than containerd sends
			size = 12 << 20
			update(t, c, id, "extensions", func(r *containersapi.Container) {
				r.Extensions = map[string]*anypb.Any{"x": {TypeUrl: "x", Value: make([]byte, 7<<20)}}
			})
		}
		update(t, c, id, "spec", func(r *containersapi.Container) { r.Spec = annotated(t, r.Spec, size) })
	}
	began := time.Now()
	var got []string
	for l, err := range c.List(t.Context()) {
		if err != nil {
			t.Errorf("list: %v", err)
			continue
		}
		got = append(got, l.ID.ID)
		if large := slices.Contains(l.Truncated, "spec"); large != monsters[l.ID.ID] || l.Run != nil {
			t.Errorf("%s: truncated %q, run %+v", l.ID.ID, l.Truncated, l.Run)
		}
	}
	t.Logf("listed in %v", time.Since(began))
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		t.Errorf("listed %q, want %q", got, ids)
	}
}

func TestAListThatIsLeftAmongMonstersEnds(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Address: e.Address})
	for _, id := range []string{"a", "b", "c"} {
		e.Run("default", collectortest.BusyboxImage, id, "sleep", "3600")
	}
	update(t, c, "a", "spec", func(r *containersapi.Container) { r.Spec = annotated(t, r.Spec, collectors.MaxRecord) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for n := 1; n <= 3; n++ {
		count := 0
		for _, err := range c.List(ctx) {
			if err != nil {
				t.Errorf("list: %v", err)
			}
			if count++; count == n {
				break
			}
		}
		if count != n {
			t.Errorf("%d of %d", count, n)
		}
	}
}
