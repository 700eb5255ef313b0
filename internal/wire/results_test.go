// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// reply sends results through the generated code and gives what it has read.
func reply(t *testing.T, results []workload.Result) (*pb.ResolveResponse, *Bytes) {
	t.Helper()
	b := through(t, []byte(EncodeResults(results).string()), &pb.ResolveResponse{})
	var m pb.ResolveResponse
	if err := proto.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return &m, &Bytes{in: string(b)}
}

func TestEveryFieldOfAnAnswerAndItsExplanationSurvives(t *testing.T) {
	for seed := range uint64(100) {
		f := newFiller(seed)
		f.sparse = seed%2 == 1
		in := make([]workload.Result, 1+seed%3)
		queries := make([]workload.Query, len(in))
		for i := range in {
			f.fillKind(reflect.ValueOf(&in[i].Answer).Elem())
			f.fillKind(reflect.ValueOf(&in[i].Explanation).Elem())
			f.fillKind(reflect.ValueOf(&in[i].Family).Elem())
			in[i].Answer.Containers = slices.DeleteFunc(in[i].Answer.Containers, func(c *workload.Container) bool { return c == nil })
			queries[i].PID = workload.PID(i + 1)
			in[i].Query = queries[i]
		}
		_, msg := reply(t, in)
		out, err := DecodeResults(queries, msg)
		if diff := cmp.Diff(in, out, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("seed %d, %v (-sent +got):\n%s", seed, err, diff)
		}
	}
}

func TestAThousandAnswersAboutTenContainersHoldEachOnce(t *testing.T) {
	results := make([]workload.Result, 1000)
	queries := make([]workload.Query, len(results))
	pod := &workload.Pod{PodRef: workload.PodRef{UID: "u"}}
	for i := range results {
		id := workload.ContainerID{Runtime: "docker", ID: fmt.Sprint(i % 10)}
		queries[i].PID = workload.PID(i + 1)
		results[i].Query = queries[i]
		results[i].Answer = workload.Answer{
			Status: workload.StatusContainer,
			Process: &workload.Process{
				Key: workload.ProcessKey{PID: workload.PID(i + 1), Start: 1}, Container: id,
				Cgroups: []workload.CgroupID{{Hierarchy: 1, ID: uint64(i % 10)}, {ID: 5}},
			},
			Containers: []*workload.Container{{ID: workload.ContainerID{ID: "outer"}}, {ID: id, Name: fmt.Sprint(i % 10)}},
			Pod:        pod,
			Service:    &workload.Service{Unit: "docker.service"},
		}
	}
	m, msg := reply(t, results)
	for what, n := range map[string][2]int{
		"containers":  {len(m.GetContainers()), 11},
		"processes":   {len(m.GetProcesses()), 1000},
		"pods":        {len(m.GetPods()), 1},
		"services":    {len(m.GetServices()), 1},
		"cgroup sets": {len(m.GetCgroupSets()), 10},
	} {
		if n[0] != n[1] {
			t.Errorf("%d %s in the reply, want %d", n[0], what, n[1])
		}
	}
	got, err := DecodeResults(queries, msg)
	if diff := cmp.Diff(results, got, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Fatalf("%v (-sent +got):\n%s", err, diff)
	}
	if got[0].Answer.Container() != got[10].Answer.Container() {
		t.Error("two answers about one container hold two copies")
	}
}

func TestAContainerThatChangedDuringTheBatchIsThereOnceAndInItsLaterForm(t *testing.T) {
	id := workload.ContainerID{ID: "c"}
	old, young := &workload.Container{ID: id, Name: "old"}, &workload.Container{ID: id, Name: "young"}
	answer := func(c *workload.Container) workload.Result {
		return workload.Result{Answer: workload.Answer{Containers: []*workload.Container{c}}}
	}
	m, _ := reply(t, []workload.Result{answer(old), answer(young), answer(young)})
	if n := len(m.GetContainers()); n != 1 || m.GetContainers()[0].GetName() != "young" {
		t.Errorf("%d containers, the first is %q", n, m.GetContainers()[0].GetName())
	}
}

func TestContainersWithoutAnIDAreNotTakenForEachOther(t *testing.T) {
	a, b := &workload.Container{Name: "a"}, &workload.Container{Name: "b"}
	_, msg := reply(t, []workload.Result{{Answer: workload.Answer{Containers: []*workload.Container{a, nil, b, a}}}})
	got, err := DecodeResults(make([]workload.Query, 1), msg)
	if err != nil {
		t.Fatal(err)
	}
	if cs := got[0].Answer.Containers; len(cs) != 3 || cs[0].Name != "a" || cs[1].Name != "b" || cs[2].Name != "a" {
		t.Errorf("chain of %d: %v %v %v", len(cs), cs[0].Name, cs[1].Name, cs[2].Name)
	}
}

func TestAReplyThatContradictsItselfIsRefused(t *testing.T) {
	ok := &pb.Result{Answer: &pb.Answer{}}
	for name, m := range map[string]*pb.ResolveResponse{
		"nothing":                    {},
		"too many results":           {Results: []*pb.Result{ok, ok}},
		"neither answer nor error":   {Results: []*pb.Result{{}}},
		"only an explanation":        {Results: []*pb.Result{{Explanation: []*pb.Hop{{What: "x"}}}}},
		"a container that is absent": {Results: []*pb.Result{{Answer: &pb.Answer{Containers: []uint32{0}}}}},
		"a huge container index":     {Results: []*pb.Result{{Answer: &pb.Answer{Containers: []uint32{0, 1<<32 - 1}}}}, Containers: []*pb.Container{{}}},
		"a huge index":               {Results: []*pb.Result{{Answer: &pb.Answer{Process: new(uint32(1<<32 - 1))}}}, Processes: []*pb.Process{{}}},
		"a pod that is absent":       {Results: []*pb.Result{{Answer: &pb.Answer{Pod: new(uint32(1))}}}, Pods: []*pb.Pod{{}}},
		"a process's absent cgroups": {Results: []*pb.Result{ok}, Processes: []*pb.Process{{CgroupsIndex: new(uint32(0))}}},
		"a process in no container":  {Results: []*pb.Result{ok}, Processes: []*pb.Process{{ContainerIndex: new(uint32(0))}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeResults(make([]workload.Query, 1), &Bytes{in: string(b)}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, err := proto.Marshal(&pb.ResolveResponse{Results: []*pb.Result{{Explanation: []*pb.Hop{{}}, Answer: &pb.Answer{Status: 3}}}})
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < len(b); cut++ {
		if _, err := DecodeResults(make([]workload.Query, 1), &Bytes{in: string(b[:cut])}); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut off after %d bytes: %v", cut, err)
		}
	}
}

func TestAQuestionThatMakesNoSenseIsInvalid(t *testing.T) {
	pid := &pb.Query_Pid{Pid: 1}
	for name, q := range map[string]*pb.Query{
		"no subject":          {},
		"PID 0":               {Subject: &pb.Query_Pid{}},
		"a huge PID":          {Subject: &pb.Query_Pid{Pid: uint32(workload.MaxPID) + 1}},
		"the largest number":  {Subject: &pb.Query_Pid{Pid: 1<<32 - 1}},
		"a key without a PID": {Subject: &pb.Query_Process{Process: &pb.ProcessKey{Inode: 5}}},
		"an empty key":        {Subject: &pb.Query_Process{Process: &pb.ProcessKey{}}},
		"a key's huge PID":    {Subject: &pb.Query_Process{Process: &pb.ProcessKey{Pid: 1 << 31}}},
		"a cgroup without id": {Subject: &pb.Query_Cgroup{Cgroup: &pb.CgroupID{Hierarchy: 3}}},
		"an empty path":       {Subject: &pb.Query_CgroupPath{}},
		"an empty name":       {Subject: &pb.Query_Container{}},
		"a negative wait":     {Subject: pid, Wait: durationpb.New(-1)},
		"an endless wait":     {Subject: pid, Wait: &durationpb.Duration{Seconds: 1 << 62}},
		"the least wait":      {Subject: pid, Wait: &durationpb.Duration{Seconds: -1 << 63}},
		"a time out of range": {Subject: pid, At: &timestamppb.Timestamp{Seconds: 1 << 62}},
		"odd nanoseconds":     {Subject: pid, At: &timestamppb.Timestamp{Nanos: -5}},
	} {
		b, err := proto.Marshal(&pb.ResolveRequest{Queries: []*pb.Query{{Subject: pid}, q}})
		if err != nil {
			t.Fatal(err)
		}
		queries, bad, err := DecodeQuestions(&Bytes{in: string(b)}, 10)
		if err != nil || len(queries) != 2 || bad[0] != nil || !errors.Is(bad[1], workload.ErrInvalid) {
			t.Errorf("%s: %v %v", name, bad, err)
		}
	}
}

// What a client cannot say must not become another question on the way.
func TestAQuestionThatCannotBeSaidIsRefusedByItsOwnSide(t *testing.T) {
	for name, q := range map[string]workload.Query{
		"two things":      {PID: 1, Self: true},
		"bytes as a path": {CgroupPath: "/\xff"},
		"bytes as a name": {Container: "\xff"},
		"a far time":      {PID: 1, At: time.Unix(1<<50, 0)},
		"a negative wait": {PID: 1, Wait: -1},
		"a PID too large": {PID: workload.MaxPID + 1},
		"nothing":         {},
		"a key of no PID": {Key: workload.ProcessKey{Start: 1}},
		"a cgroup's half": {Cgroup: workload.CgroupID{Hierarchy: 4}},
	} {
		queries, bad, err := DecodeQuestions(EncodeQuestions([]workload.Query{q}), 1)
		if err != nil || len(queries) != 1 || !errors.Is(bad[0], workload.ErrInvalid) || subjects(&queries[0]) != 0 {
			t.Errorf("%s arrived as %+v, %v, %v", name, queries, bad, err)
		}
		_, msg := reply(t, []workload.Result{{Err: bad[0]}})
		got, err := DecodeResults([]workload.Query{q}, msg)
		if err != nil || !errors.Is(got[0].Err, workload.ErrInvalid) || got[0].Err.Error() != checkQuery(&q).Error() {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestMoreQuestionsThanAllowedAreRefusedBeforeTheyCostAnything(t *testing.T) {
	flood := strings.Repeat("\x0a\x00", 2<<20) // 4 MiB of empty questions
	for _, apart := range []string{"", "\x10\x01"} {
		var err error
		allocs := testing.AllocsPerRun(1, func() {
			_, _, err = DecodeQuestions(&Bytes{in: "\x0a\x00" + apart + flood}, 10)
		})
		if !errors.Is(err, workload.ErrInvalid) || allocs > 200 {
			t.Errorf("%v after %v allocations", err, allocs)
		}
	}
}

func TestMoreFamiliesThanAllowedAreInvalidQuestions(t *testing.T) {
	queries := make([]workload.Query, MaxFamilies+3)
	for i := range queries {
		queries[i] = workload.Query{PID: 1, Family: i != 0}
	}
	_, bad, err := DecodeQuestions(&Bytes{in: EncodeQuestions(queries).string()}, len(queries))
	if err != nil || len(bad) != 2 || !errors.Is(bad[MaxFamilies+1], workload.ErrInvalid) || !errors.Is(bad[MaxFamilies+2], workload.ErrInvalid) {
		t.Errorf("%v: %v", err, bad)
	}
}

func TestAnErrorKeepsItsMessageAndItsMeaning(t *testing.T) {
	for _, row := range errorTable {
		in := fmt.Errorf("resolve 7: %w", row.err)
		_, msg := reply(t, []workload.Result{{Err: in}})
		got, err := DecodeResults([]workload.Query{{PID: 7}}, msg)
		if err != nil {
			t.Fatal(err)
		}
		if out := got[0].Err; !errors.Is(out, row.err) || out.Error() != in.Error() || Code(out) != row.code {
			t.Errorf("%v came back as %v, code %v", in, out, Code(out))
		}
	}
}

func TestCodesOfOtherErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{errors.New("whatever"), codes.Internal},
		{status.Error(codes.ResourceExhausted, "too much"), codes.ResourceExhausted},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", context.Canceled)), codes.Canceled},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if e := error(&remoteError{code: -3}); e.Error() == "" || errors.Unwrap(e) != nil {
		t.Errorf("a negative code: %v", e)
	}
}

func TestAMessageIsOneBoundedLine(t *testing.T) {
	if got := Message(status.Error(codes.Unavailable, "stopping")); got != "stopping" {
		t.Errorf("%q", got)
	}
	got := Message(errors.New(strings.Repeat("x\r\ny\x00\xff", 10_000)))
	if strings.ContainsAny(got, "\r\n") || len(got) > 2*maxMessage {
		t.Errorf("%d bytes, %.40q", len(got), got)
	}
}

// FuzzDecode: what a hostile peer sends must neither panic nor hang, on either
// side, and what we understand of it must be what the generated code does.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\x02\x10\x07"))
	f.Add([]byte("\x0a\x04\x0a\x02\x32\x00\x12\x00\x1a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		msg := &Bytes{in: string(b)}
		fuzzQuestions(t, msg)
		for n := range 3 {
			_, _ = DecodeResults(make([]workload.Query, n), msg)
		}
		if list, err := DecodeChanges(msg); err == nil {
			for _, c := range list {
				through(t, AppendChange(nil, &c), &pb.StreamEntitiesResponse{})
			}
		}
		fuzzReply(b)
		_, _ = DecodeStreamRequest(msg, 100, nil)
		_, _ = DecodeEntities(msg)
		_, _ = DecodeStatus(msg)
		_, _ = DecodeSelector(msg)
		_, _ = DecodeName(msg)
	})
}

// fuzzReply takes the bytes for a reply in two parts, cut anywhere.
func fuzzReply(b []byte) {
	for n := range 3 {
		r := NewStreamResults(0, make([]workload.Query, n))
		if last, err := r.Add(b[:len(b)/2]); !last && err == nil {
			_, _ = r.Add(b[len(b)/2:])
		}
		_, _ = r.Results()
	}
}

func fuzzQuestions(t *testing.T, msg *Bytes) {
	queries, bad, err := DecodeQuestions(msg, 100)
	if err != nil {
		return
	}
	again, badAgain, err := DecodeQuestions(EncodeQuestions(queries), 100)
	if err != nil || len(again) != len(queries) || len(bad) > len(badAgain) {
		t.Fatalf("%v came back as %v, %v", queries, again, err)
	}
	for i := range queries {
		if badAgain[i] == nil && again[i] != queries[i] {
			t.Errorf("%+v came back as %+v", queries[i], again[i])
		}
	}
}
