// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// row is a table of this package with the Go type it is for, the generated
// message that it must agree with, and the trip there and back.
type row struct {
	goType reflect.Type
	pb     proto.Message
	encode func(v reflect.Value) []byte
	decode func(b []byte) (reflect.Value, error)
	// but are fields of the protobuf that only a ResolveResponse has.
	but []protoreflect.Name
}

func rowOf[T any](m *message[T], msg proto.Message, but ...protoreflect.Name) row {
	return row{
		goType: reflect.TypeFor[T](), pb: msg, but: but,
		encode: func(v reflect.Value) []byte {
			t := v.Interface().(T)
			return m.append(nil, &t)
		},
		decode: func(b []byte) (reflect.Value, error) {
			t := new(T)
			err := m.parse(t, string(b))
			return reflect.ValueOf(t).Elem(), err
		},
	}
}

func rows() []row {
	return []row{
		rowOf(keyMessage, &pb.ProcessKey{}),
		rowOf(cgroupMessage, &pb.CgroupID{}),
		rowOf(cgroupPathMessage, &pb.CgroupPath{}),
		rowOf(containerIDMessage, &pb.ContainerID{}),
		rowOf(exitMessage, &pb.Exit{}),
		rowOf(imageRefMessage, &pb.ImageRef{}),
		rowOf(runMessage, &pb.Run{}),
		rowOf(networkMessage, &pb.Network{}),
		rowOf(portMessage, &pb.Port{}),
		rowOf(mountMessage, &pb.Mount{}),
		rowOf(limitsMessage, &pb.Limits{}),
		rowOf(securityMessage, &pb.Security{}),
		rowOf(podRefMessage, &pb.PodRef{}),
		rowOf(provenanceMessage, &pb.Provenance{}),
		rowOf(markMessage, &pb.Mark{}),
		rowOf(containerMessage, &pb.Container{}),
		rowOf(pidNamespaceMessage, &pb.PIDNamespace{}),
		rowOf(serviceMessage, &pb.Service{}),
		rowOf(processMessage, &pb.Process{}, "container_index", "cgroups_index"),
		rowOf(processDetailMessage, &pb.ProcessDetail{}),
		rowOf(familyMessage, &pb.Family{}, "container_index", "cgroups_index"),
		rowOf(podMessage, &pb.Pod{}),
		rowOf(podOwnerMessage, &pb.PodOwner{}),
		rowOf(podConditionMessage, &pb.PodCondition{}),
		rowOf(podContainerMessage, &pb.PodContainer{}),
		rowOf(podVolumeMessage, &pb.PodVolume{}),
		rowOf(taskMessage, &pb.Task{}),
		rowOf(taskRefMessage, &pb.TaskRef{}),
		rowOf(taskLimitsMessage, &pb.TaskLimits{}),
		rowOf(taskContainerMessage, &pb.TaskContainer{}),
		rowOf(imageMessage, &pb.Image{}),
		rowOf(imageLayerMessage, &pb.ImageLayer{}),
		rowOf(hopMessage, &pb.Hop{}),
		rowOf(filterMessage, &pb.Filter{}),
		rowOf(kernelMessage, &pb.KernelStatus{}),
		rowOf(sourceMessage, &pb.SourceStatus{}),
		rowOf(statusMessage, &pb.AgentStatus{}),
	}
}

func (r row) name() string { return string(r.pb.ProtoReflect().Descriptor().Name()) }

// trip encodes a value, lets the generated code read it and write it again, and
// decodes that: both sides of the socket may be in another language.
func (r row) trip(t *testing.T, v reflect.Value) reflect.Value {
	t.Helper()
	out, err := r.decode(through(t, r.encode(v), r.pb))
	if err != nil {
		t.Fatalf("decode %s: %v", r.name(), err)
	}
	return out
}

// through is what the generated code makes of a message. It must know every field.
func through(t *testing.T, b []byte, msg proto.Message) []byte {
	t.Helper()
	m := msg.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatalf("the generated code refuses %T: %v", msg, err)
	}
	noneUnknown(t, m.ProtoReflect())
	out, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// noneUnknown fails for a field that is there under a number or with a type
// that the protobuf does not have.
func noneUnknown(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if len(m.GetUnknown()) > 0 {
		t.Fatalf("%s has fields that its protobuf does not: %x", m.Descriptor().FullName(), m.GetUnknown())
	}
	for fd, v := range m.Range {
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				noneUnknown(t, v.List().Get(i).Message())
			}
		default:
			noneUnknown(t, v.Message())
		}
	}
}

func TestEveryValueSurvivesTheWireInBothDirections(t *testing.T) {
	for _, r := range rows() {
		t.Run(r.name(), func(t *testing.T) {
			for seed := range uint64(100) {
				f := newFiller(seed)
				f.sparse = seed%2 == 1
				in := reflect.New(r.goType).Elem()
				f.fillKind(in)
				if diff := cmp.Diff(in.Interface(), r.trip(t, in).Interface(), cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("seed %d changed on its way (-sent +got):\n%s", seed, diff)
				}
			}
		})
	}
}

// Two numbers that are swapped survive the trip, so each field is sent alone
// and the protobuf asked for its name.
func TestEveryFieldHasItsOwnNameInTheProtobuf(t *testing.T) {
	other := map[string]string{
		"ProcessKey.Start": "starttime", "CgroupPath.CgroupID": "cgroup", "Process.Parent": "parentpid", "Pod.PodRef": "ref",
	}
	for _, r := range rows() {
		for i := range r.goType.NumField() {
			name := r.name() + "." + r.goType.Field(i).Name
			v := reflect.New(r.goType).Elem()
			newFiller(0).fill(v.Field(i))
			m := r.pb.ProtoReflect().New()
			if err := proto.Unmarshal(r.encode(v), m.Interface()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for fd := range m.Range {
				if fd.Name() != "kernel" || name == "AgentStatus.Kernel" { // which is always there
					got = append(got, strings.TrimSuffix(strings.ReplaceAll(strings.TrimSuffix(string(fd.Name()), "_ns"), "_", ""), "_"))
				}
			}
			want := strings.ToLower(r.goType.Field(i).Name)
			if o, ok := other[name]; ok {
				want = o
			}
			if name == "Process.MountNS" {
				got, want = []string{string(m.Descriptor().Fields().ByNumber(7).Name())}, "mount_ns"
			}
			if !slices.Equal(got, []string{want}) {
				t.Errorf("%s is the field %v of the protobuf, want %s", name, got, want)
			}
		}
	}
}

func TestEveryFieldOfTheProtobufIsUsed(t *testing.T) {
	for _, r := range rows() {
		v := reflect.New(r.goType).Elem()
		newFiller(0).fillKind(v)
		m := r.pb.ProtoReflect().New()
		if err := proto.Unmarshal(r.encode(v), m.Interface()); err != nil {
			t.Fatal(err)
		}
		for i := range m.Descriptor().Fields().Len() {
			if fd := m.Descriptor().Fields().Get(i); !m.Has(fd) && !slices.Contains(r.but, fd.Name()) {
				t.Errorf("nothing is ever said in %s", fd.FullName())
			}
		}
	}
}

func TestEveryWordOfAnEnumerationHasItsNumber(t *testing.T) {
	for _, c := range []struct {
		words []string
		of    protoreflect.Enum
	}{
		{asStrings(states), pb.ContainerState(0)},
		{asStrings(healths), pb.ContainerHealth(0)},
		{asStrings(roles), pb.ContainerRole(0)},
		{asStrings(statuses), pb.Status(0)},
		{asStrings(confidences), pb.Confidence(0)},
		{asStrings(entries), pb.Entry(0)},
		{asStrings(kinds), pb.EntityKind(0)},
		{asStrings(changeTypes), pb.ChangeType(0)},
	} {
		values := c.of.Descriptor().Values()
		if values.Len() != len(c.words)+1 {
			t.Errorf("%s has %d values and we know %d", c.of.Descriptor().Name(), values.Len(), len(c.words)+1)
			continue
		}
		for i, w := range c.words {
			if v := values.Get(i + 1); int(v.Number()) != i+1 || !strings.HasSuffix(string(v.Name()), "_"+strings.ToUpper(w)) {
				t.Errorf("%q goes out as %d, which is %s", w, i+1, v.Name())
			}
		}
	}
}

func TestAnUnknownWordOrNumberBecomesNothing(t *testing.T) {
	if n := numberOf(statuses, "maybe"); n != 0 {
		t.Errorf("a word that nobody knows has the number %d", n)
	}
	for _, n := range []uint64{0, 5, 99, 1<<64 - 1} {
		if w := wordOf(statuses, n); w != "" {
			t.Errorf("number %d is the word %q", n, w)
		}
	}
}

func TestAnEntityAndAChangeOfEachKindSurvive(t *testing.T) {
	for field := range reflect.TypeFor[workload.Entity]().Fields() {
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		for seed := range uint64(50) {
			var c workload.Change
			newFiller(seed).fillKind(reflect.ValueOf(&c).Elem())
			keepOnly(&c.Entity, field.Name)
			b := AppendChange(AppendChange(nil, &c), &workload.Change{Type: workload.ChangeBookmark, Revision: 7})
			changes, err := DecodeChanges(&Bytes{in: string(through(t, b, &pb.StreamEntitiesResponse{}))})
			want := []workload.Change{c, {Type: workload.ChangeBookmark, Revision: 7}}
			if diff := cmp.Diff(want, changes, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Fatalf("%s, %v (-sent +got):\n%s", field.Name, err, diff)
			}
			b = AppendEntity(AppendEntity(nil, c.Entity), workload.Entity{Gone: true})
			entities, err := DecodeEntities(&Bytes{in: string(through(t, b, &pb.ListResponse{}))})
			if diff := cmp.Diff([]workload.Entity{c.Entity, {Gone: true}}, entities, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Fatalf("%s, %v (-sent +got):\n%s", field.Name, err, diff)
			}
			through(t, AppendEntity(nil, c.Entity), &pb.GetResponse{})
		}
	}
}

// keepOnly leaves an entity one of its values: it never has two.
func keepOnly(e *workload.Entity, name string) {
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && v.Type().Field(i).Name != name {
			f.SetZero()
		}
	}
}

func TestTheStatusSurvives(t *testing.T) {
	var s workload.AgentStatus
	newFiller(1).fillKind(reflect.ValueOf(&s).Elem())
	for _, want := range []workload.AgentStatus{s, {}} {
		b := through(t, []byte(EncodeStatus(want).string()), &pb.StatusResponse{})
		got, err := DecodeStatus(&Bytes{in: string(b)})
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v (-sent +got):\n%s", err, diff)
		}
	}
}

func TestEveryFieldOfAQuerySurvives(t *testing.T) {
	subjects := map[string]workload.Query{
		"Self":       {Self: true},
		"PID":        {PID: workload.MaxPID},
		"Key":        {Key: workload.ProcessKey{PID: 7, Ticks: true, Inode: 1 << 63, Start: 1<<64 - 1}},
		"Cgroup":     {Cgroup: workload.CgroupID{Hierarchy: 9, ID: 1 << 63}},
		"CgroupPath": {CgroupPath: "/docker/4f3a"},
		"Container":  {Container: "web"},
	}
	modifiers := map[string]func(*workload.Query){
		"At":      func(q *workload.Query) { q.At = time.Unix(1e9, 5).UTC() },
		"Wait":    func(q *workload.Query) { q.Wait = 1500 * time.Millisecond },
		"Explain": func(q *workload.Query) { q.Explain = true },
		"Detail":  func(q *workload.Query) { q.Detail = true },
		"Family":  func(q *workload.Query) { q.Family = true },
	}
	for f := range reflect.TypeFor[workload.Query]().Fields() {
		if _, subject := subjects[f.Name]; !subject && modifiers[f.Name] == nil {
			t.Errorf("this test does not know Query.%s", f.Name)
		}
	}
	for name, q := range subjects {
		for _, modify := range modifiers {
			modify(&q)
			b := through(t, []byte(EncodeQuestions([]workload.Query{q, q}).string()), &pb.ResolveRequest{})
			got, bad, err := DecodeQuestions(&Bytes{in: string(b)}, 2)
			if diff := cmp.Diff([]workload.Query{q, q}, got); err != nil || len(bad) > 0 || diff != "" {
				t.Errorf("%s: %v %v (-sent +got):\n%s", name, err, bad, diff)
			}
		}
	}
}

func TestASelectorSurvives(t *testing.T) {
	if n := reflect.TypeFor[workload.Selector]().NumField(); n != 7 {
		t.Errorf("Selector has %d fields: the requests of List and StreamEntities carry kinds, all, from, include, exclude, noSandboxes and, List alone, detail", n)
	}
	some := workload.Filter{Names: []string{"web-*", "db"}, Images: []string{"*/nginx:*"}, Namespaces: []string{"prod"}, Labels: []string{"app=shop", "tier"}}
	for _, want := range []workload.Selector{
		{}, {All: true}, {Kinds: kinds[1:], All: true, From: 1<<64 - 1}, {Include: some}, {Exclude: some, NoSandboxes: true},
		{Include: workload.Filter{Labels: []string{"a"}}, Exclude: some},
	} {
		req, err := EncodeSelector(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeSelector(&Bytes{in: string(through(t, req.out, &pb.StreamEntitiesRequest{}))})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-sent +got):\n%s", err, diff)
		}
	}
	if _, err := EncodeSelector(workload.Selector{Kinds: []workload.Kind{"teapot"}}); err == nil {
		t.Error("a kind that does not exist goes out as something")
	}
	b, err := proto.Marshal(&pb.ListRequest{Kinds: []pb.EntityKind{0, 1, 0, 2}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeSelector(&Bytes{in: string(b)})
	if diff := cmp.Diff(workload.Selector{Kinds: []workload.Kind{"container", "process"}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := DecodeSelector(&Bytes{in: "\x08\x63"}); err == nil {
		t.Error("kind 99 is accepted")
	}
	for name, bad := range map[string]workload.Filter{"an open class": {Names: []string{"[a"}}, "no key": {Labels: []string{"=x"}}} {
		if _, err := EncodeSelector(workload.Selector{Exclude: bad}); !errors.Is(err, workload.ErrInvalid) {
			t.Errorf("%s goes out: %v", name, err)
		}
		s := selector{include: &bad}
		if _, err := DecodeSelector(&Bytes{out: selectorMessage.append(nil, &s)}); !errors.Is(err, workload.ErrInvalid) {
			t.Errorf("%s comes in: %v", name, err)
		}
	}
}

func TestANameOfEachKindSurvives(t *testing.T) {
	for _, k := range kinds[1:] {
		want := Name{Kind: k, Name: "x"}
		if k == workload.KindProcess {
			want = Name{Kind: k, Key: workload.ProcessKey{PID: 1, Start: 2}, Detail: true}
		}
		req, err := EncodeName(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeName(&Bytes{in: string(through(t, req.out, &pb.GetRequest{}))})
		if err != nil || got != want {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
	for _, n := range []Name{{}, {Kind: "teapot", Name: "x"}, {Kind: workload.KindPod}, {Kind: workload.KindProcess, Name: "7"}} {
		if _, err := EncodeName(n); err == nil {
			t.Errorf("%+v goes out as something", n)
		}
	}
	if _, err := DecodeName(&Bytes{in: "\x0a\x01a\x1a\x01b"}); err == nil {
		t.Error("two names are accepted")
	}
}

// A container may put any bytes into its labels; whoever reads protobuf refuses
// the whole message for one of them.
func TestBytesThatAreNoTextDoNotStopAReply(t *testing.T) {
	for _, r := range rows() {
		v := reflect.New(r.goType).Elem()
		newFiller(1).fillKind(v)
		spoil(v, "a\xff\xfeb")
		through(t, r.encode(v), r.pb)
	}
	var a workload.Answer
	newFiller(1).fillKind(reflect.ValueOf(&a).Elem())
	spoil(reflect.ValueOf(&a).Elem(), "a\xff\xfeb")
	b := through(t, []byte(EncodeResults([]workload.Result{{Answer: a}}).string()), &pb.ResolveResponse{})
	got, err := DecodeResults(make([]workload.Query, 1), &Bytes{in: string(b)})
	if err != nil || got[0].Answer.Reason != "a\uFFFDb" {
		t.Errorf("reason %q, %v", got[0].Answer.Reason, err)
	}
}

func TestTimesAtTheEdgeDoNotStopAReply(t *testing.T) {
	for _, at := range []time.Time{time.Unix(1<<62, 0), time.Unix(-1<<62, 0), time.Unix(maxTime+1, 0), time.Unix(minTime-1, 0)} {
		c := workload.Container{Name: "x", Created: at}
		var got workload.Container
		if err := containerMessage.parse(&got, string(containerMessage.append(nil, &c))); err != nil || !got.Created.IsZero() {
			t.Errorf("%v came back as %v, %v", at, got.Created, err)
		}
	}
	for _, d := range []time.Duration{-1, 1, 1<<63 - 1, -1 << 62, -time.Second - 1} {
		k := workload.KernelStatus{Lag: d}
		var got workload.KernelStatus
		if err := kernelMessage.parse(&got, string(kernelMessage.append(nil, &k))); err != nil || got.Lag != d {
			t.Errorf("%v came back as %v, %v", d, got.Lag, err)
		}
	}
}

func TestEncodingDoesNotChangeWhatItIsGiven(t *testing.T) {
	for _, r := range rows() {
		v, before := reflect.New(r.goType).Elem(), reflect.New(r.goType).Elem()
		newFiller(3).fillKind(v)
		newFiller(3).fillKind(before)
		spoil(v, "\xff")
		spoil(before, "\xff")
		r.encode(v)
		if diff := cmp.Diff(before.Interface(), v.Interface()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", r.name(), diff)
		}
	}
}

// A side that is older than the other one skips what it does not know.
func TestFieldsOfANewerSideAreSkipped(t *testing.T) {
	b := cgroupMessage.append(nil, &workload.CgroupID{Hierarchy: 3, ID: 4})
	b = append(b, "\xfa\x7f\x02hi"...)                           // field 2047, bytes
	b = append(b, "\xf8\x7f\x05"...)                             // varint
	b = append(b, "\xfd\x7f\x01\x02\x03\x04"...)                 // 4 bytes
	b = append(b, "\xf9\x7f\x01\x02\x03\x04\x05\x06\x07\x08"...) // 8 bytes
	b = append(b, "\x12\x01x"...)                                // field 2 with another type
	var c workload.CgroupID
	if err := cgroupMessage.parse(&c, string(b)); err != nil || c != (workload.CgroupID{Hierarchy: 3, ID: 4}) {
		t.Errorf("%v, %v", c, err)
	}
}
