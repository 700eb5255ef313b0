// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestAThousandAnswersAboutTenContainersHoldEachOnce(t *testing.T) {
	results := make([]workload.Result, 1000)
	queries := make([]workload.Query, len(results))
	pod := &workload.Pod{PodRef: workload.PodRef{UID: "u"}}
	for i := range results {
		id := workload.ContainerID{Runtime: "docker", ID: fmt.Sprint(i % 10)}
		queries[i].PID = workload.PID(i + 1)
		results[i].Answer = workload.Answer{
			Status:     workload.StatusContainer,
			Process:    &workload.Process{Key: workload.ProcessKey{PID: workload.PID(i + 1), Start: 1}},
			Containers: []*workload.Container{{ID: workload.ContainerID{ID: "outer"}}, {ID: id, Name: fmt.Sprint(i % 10)}},
			Pod:        pod,
			Service:    &workload.Service{Unit: "docker.service"},
		}
	}
	resp := over(t, EncodeResults(results))
	if n := len(resp.GetContainers()); n != 11 {
		t.Errorf("%d containers in the reply, want 11", n)
	}
	if n := len(resp.GetPods()) + len(resp.GetServices()); n != 2 {
		t.Errorf("%d pods and services in the reply, want 2", n)
	}
	if n := len(resp.GetProcesses()); n != 1000 {
		t.Errorf("%d processes in the reply, want 1000", n)
	}
	got, err := DecodeResults(queries, resp)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if c := r.Answer.Container(); r.Query != queries[i] || c.Name != fmt.Sprint(i%10) || r.Answer.Process.Key.PID != workload.PID(i+1) {
			t.Fatalf("result %d is about %v in %q", i, r.Answer.Process.Key, c.Name)
		}
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
	resp := EncodeResults([]workload.Result{answer(old), answer(young), answer(young)})
	if n := len(resp.GetContainers()); n != 1 || resp.GetContainers()[0].GetName() != "young" {
		t.Errorf("%d containers, the first is %q", n, resp.GetContainers()[0].GetName())
	}
}

func TestContainersWithoutAnIDAreNotTakenForEachOther(t *testing.T) {
	a, b := &workload.Container{Name: "a"}, &workload.Container{Name: "b"}
	resp := EncodeResults([]workload.Result{{Answer: workload.Answer{Containers: []*workload.Container{a, b, a}}}})
	got, err := DecodeResults(make([]workload.Query, 1), resp)
	if err != nil {
		t.Fatal(err)
	}
	if cs := got[0].Answer.Containers; cs[0].Name != "a" || cs[1].Name != "b" || cs[2] != cs[0] {
		t.Errorf("chain %v %v %v", cs[0].Name, cs[1].Name, cs[2].Name)
	}
}

func TestAReplyThatContradictsItselfIsRefused(t *testing.T) {
	ok := &pb.Result{Answer: &pb.Answer{}}
	for name, resp := range map[string]*pb.ResolveResponse{
		"nothing":                    nil,
		"too few results":            {},
		"too many results":           {Results: []*pb.Result{ok, ok}},
		"neither answer nor error":   {Results: []*pb.Result{{}}},
		"a container that is absent": {Results: []*pb.Result{{Answer: &pb.Answer{Containers: []uint32{0}}}}},
		"a huge index":               {Results: []*pb.Result{{Answer: &pb.Answer{Process: new(uint32(1<<32 - 1))}}}, Processes: []*pb.Process{{}}},
		"a pod that is absent":       {Results: []*pb.Result{{Answer: &pb.Answer{Pod: new(uint32(1))}}}, Pods: []*pb.Pod{{}}},
	} {
		if _, err := DecodeResults(make([]workload.Query, 1), resp); !errors.Is(err, ErrBadReply) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAQuestionThatMakesNoSenseIsInvalid(t *testing.T) {
	pid := &pb.Query_Pid{Pid: 1}
	for name, q := range map[string]*pb.Query{
		"nothing":             nil,
		"no subject":          {},
		"PID 0":               {Subject: &pb.Query_Pid{}},
		"a huge PID":          {Subject: &pb.Query_Pid{Pid: uint32(workload.MaxPID) + 1}},
		"the largest number":  {Subject: &pb.Query_Pid{Pid: 1<<32 - 1}},
		"a key without a PID": {Subject: &pb.Query_Process{Process: &pb.ProcessKey{Inode: 5}}},
		"an empty key":        {Subject: &pb.Query_Process{}},
		"a key's huge PID":    {Subject: &pb.Query_Process{Process: &pb.ProcessKey{Pid: 1 << 31}}},
		"a cgroup without id": {Subject: &pb.Query_Cgroup{Cgroup: &pb.CgroupID{Hierarchy: 3}}},
		"an empty path":       {Subject: &pb.Query_CgroupPath{}},
		"an empty name":       {Subject: &pb.Query_Container{}},
		"a negative wait":     {Subject: pid, Wait: durationpb.New(-1)},
		"an endless wait":     {Subject: pid, Wait: &durationpb.Duration{Seconds: 1 << 62}},
		"a time out of range": {Subject: pid, At: &timestamppb.Timestamp{Seconds: 1 << 62}},
		"odd nanoseconds":     {Subject: pid, At: &timestamppb.Timestamp{Nanos: -5}},
	} {
		if _, err := DecodeQuery(q); !errors.Is(err, workload.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	two := workload.Query{PID: 1, Self: true}
	if _, err := DecodeQuery(EncodeQuery(two)); !errors.Is(err, workload.ErrInvalid) {
		t.Errorf("a question about two things: %v", err)
	}
}

func TestAnErrorKeepsItsMessageAndItsMeaning(t *testing.T) {
	for _, row := range errorTable {
		in := fmt.Errorf("resolve 7: %w", row.err)
		out := DecodeError(over(t, EncodeError(in)))
		if !errors.Is(out, row.err) || out.Error() != in.Error() {
			t.Errorf("%v came back as %v", in, out)
		}
		if Code(out) != row.code {
			t.Errorf("%v has the code %v here and %v there", in, row.code, Code(out))
		}
	}
	if DecodeError(EncodeError(nil)) != nil {
		t.Error("no error came back as one")
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
	if e := DecodeError(&pb.Error{Code: -3, Message: ""}); e == nil || e.Error() == "" {
		t.Errorf("a negative code: %v", e)
	}
}

func TestAMessageIsOneBoundedLine(t *testing.T) {
	got := Message(errors.New(strings.Repeat("x\r\ny\x00\xff", 10_000)))
	if strings.ContainsAny(got, "\r\n") || len(got) > 2*maxMessage {
		t.Errorf("%d bytes, %.40q", len(got), got)
	}
}

// FuzzDecode: what a hostile peer sends must neither panic nor hang, on either side.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x02, 0x10, 0x07})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q pb.Query
		if unmarshal(b, &q) {
			if out, err := DecodeQuery(&q); err == nil {
				if again, err := DecodeQuery(EncodeQuery(out)); err != nil || again != out {
					t.Errorf("%+v came back as %+v, %v", out, again, err)
				}
			}
		}
		var r pb.ResolveResponse
		if unmarshal(b, &r) {
			_, _ = DecodeResults(make([]workload.Query, len(r.GetResults())), &r)
		}
		var e pb.Entity
		if unmarshal(b, &e) {
			DecodeEntity(&e)
		}
		var s pb.AgentStatus
		if unmarshal(b, &s) {
			DecodeStatus(&s)
		}
	})
}

func unmarshal(b []byte, m proto.Message) bool { return proto.Unmarshal(b, m) == nil }
