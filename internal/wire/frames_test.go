// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// inParts sends results through the generated code, so many at a time.
func inParts(t *testing.T, results []workload.Result, size int) (parts [][]byte) {
	t.Helper()
	r := NewStreamReply(7, len(results))
	for from := 0; from < len(results); from += size {
		to := min(from+size, len(results))
		parts = append(parts, through(t, r.Append(nil, results[from:to], to == len(results)), &pb.ResolveStreamResponse{}))
	}
	return parts
}

// gathered is the way back. The bytes of a part are used again at once.
func gathered(t *testing.T, queries []workload.Query, parts [][]byte) ([]workload.Result, error) {
	t.Helper()
	r := NewStreamResults(7, queries)
	for i, p := range parts {
		last, err := r.Add(p)
		clear(p)
		if err != nil {
			return nil, err
		}
		if last != (i == len(parts)-1) {
			t.Fatalf("part %d of %d is the last: %v", i, len(parts), last)
		}
	}
	return r.Results()
}

func TestAReplyInPartsIsTheReply(t *testing.T) {
	queries, results := thousand()
	for i := range results {
		results[i].Query = queries[i]
		if i%7 == 0 {
			results[i].Answer, results[i].Err = workload.Answer{}, NewError(Code(workload.ErrNotFound), "gone")
		}
		if i%11 == 0 && results[i].Err == nil { // a process that is there twice, as others are
			results[i] = results[(i+1)/2]
			results[i].Query = queries[i]
		}
	}
	for _, size := range []int{1, 3, 256, 1000} {
		got, err := gathered(t, queries, inParts(t, results, size))
		if diff := cmp.Diff(results, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); err != nil || diff != "" {
			t.Fatalf("parts of %d: %v (-sent +got):\n%s", size, err, diff)
		}
	}
}

func TestAnEntityThatChangedAfterItWasSentIsThereInBothForms(t *testing.T) {
	id := workload.ContainerID{ID: "c"}
	key := workload.ProcessKey{PID: 4, Inode: 5}
	forms := make([]workload.Result, 2)
	for i, name := range []string{"old", "young"} {
		forms[i].Answer = workload.Answer{
			Containers: []*workload.Container{{ID: id, Name: name}},
			Process:    &workload.Process{Key: key, Comm: name, Container: id},
		}
	}
	// Old, then both in one part, then old again: of four parts three say something new.
	sent := []workload.Result{forms[0], forms[0], forms[1], forms[1]}
	parts := inParts(t, sent, 1)
	var whole pb.ResolveResponse
	for _, p := range parts {
		var m pb.ResolveStreamResponse
		if err := proto.Unmarshal(p, &m); err != nil {
			t.Fatal(err)
		}
		proto.Merge(&whole, m.GetPart())
	}
	if c, p := len(whole.GetContainers()), len(whole.GetProcesses()); c != 2 || p != 2 {
		t.Errorf("%d containers and %d processes, want each in 2 forms", c, p)
	}
	got, err := gathered(t, make([]workload.Query, 4), parts)
	if diff := cmp.Diff(sent, got); err != nil || diff != "" {
		t.Errorf("%v (-sent +got):\n%s", err, diff)
	}
}

func TestAStreamRequestSurvives(t *testing.T) {
	in := StreamRequest{ID: 1 << 40, Timeout: time.Second + 1, Queries: []workload.Query{{PID: 1}, {Container: "web"}}}
	msg := through(t, AppendStreamRequest(nil, in), &pb.ResolveStreamRequest{})
	out, err := DecodeStreamRequest(ReceivedBytes(msg), 2, nil)
	if diff := cmp.Diff(in, out); err != nil || diff != "" {
		t.Errorf("%v (-sent +got):\n%s", err, diff)
	}
	if out, err := DecodeStreamRequest(ReceivedBytes(msg), 1, nil); !errors.Is(err, workload.ErrInvalid) || out.ID != in.ID {
		t.Errorf("%v, %v", out, err)
	}
}

func TestAReplyThatIsNotToTheRequestIsRefused(t *testing.T) {
	ok := NewStreamReply(7, 1).Append(nil, make([]workload.Result, 1), true)
	for name, parts := range map[string][][]byte{
		"another request's": {NewStreamReply(8, 1).Append(nil, make([]workload.Result, 1), true)},
		"after its end":     {ok, ok},
		"too much":          {NewStreamReply(7, 2).Append(nil, make([]workload.Result, 2), true)},
		"too little":        {NewStreamReply(7, 0).Append(nil, nil, true)},
		"cut off":           {ok[:len(ok)-1]},
	} {
		r := NewStreamResults(7, make([]workload.Query, 1))
		var err error
		for _, p := range parts {
			if _, err = r.Add(p); err != nil {
				break
			}
		}
		if err == nil {
			_, err = r.Results()
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []uint64{7, 0} { // 0 is of a request that could not be read
		r := NewStreamResults(7, nil)
		if last, err := r.Add(NewStreamReply(id, 0).AppendError(nil, workload.ErrDenied)); !last || !errors.Is(err, workload.ErrDenied) {
			t.Errorf("%v, %v", last, err)
		}
	}
}

func TestThePrefaceIsAsLongAsThatOfHTTP2(t *testing.T) {
	if n := len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); len(FramesPreface) != n {
		t.Errorf("%d bytes, want %d: servers of gRPC wait for that many", len(FramesPreface), n)
	}
}
