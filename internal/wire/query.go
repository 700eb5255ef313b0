// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// EncodeQuery translates a question. One that is about nothing or about
// several things goes out without a subject, and the other side refuses it.
func EncodeQuery(q workload.Query) *pb.Query {
	out := &pb.Query{At: timestamp(q.At), Wait: duration(q.Wait), Explain: q.Explain}
	if Subjects(q) != 1 {
		return out
	}
	switch {
	case q.Self:
		out.Subject = &pb.Query_Self{Self: &pb.Self{}}
	case q.PID != 0:
		out.Subject = &pb.Query_Pid{Pid: uint32(q.PID)}
	case q.Key != (workload.ProcessKey{}):
		out.Subject = &pb.Query_Process{Process: EncodeKey(q.Key)}
	case q.Cgroup != (workload.CgroupID{}):
		out.Subject = &pb.Query_Cgroup{Cgroup: encodeCgroup(q.Cgroup)}
	case q.CgroupPath != "":
		out.Subject = &pb.Query_CgroupPath{CgroupPath: text(q.CgroupPath)}
	case q.Container != "":
		out.Subject = &pb.Query_Container{Container: text(q.Container)}
	}
	return out
}

// Subjects counts the things that a question is about.
func Subjects(q workload.Query) int {
	n := 0
	for _, set := range [...]bool{
		q.Self, q.PID != 0, q.Key != (workload.ProcessKey{}), q.Cgroup != (workload.CgroupID{}),
		q.CgroupPath != "", q.Container != "",
	} {
		if set {
			n++
		}
	}
	return n
}

// DecodeQuery is the way back, and checks the question: its error wraps
// workload.ErrInvalid.
func DecodeQuery(q *pb.Query) (workload.Query, error) {
	out := workload.Query{At: wallClock(q.GetAt()), Wait: q.GetWait().AsDuration(), Explain: q.GetExplain()}
	switch s := q.GetSubject().(type) {
	case *pb.Query_Self:
		out.Self = true
	case *pb.Query_Pid:
		out.PID = workload.PID(s.Pid)
	case *pb.Query_Process:
		out.Key = DecodeKey(s.Process)
	case *pb.Query_Cgroup:
		out.Cgroup = decodeCgroup(s.Cgroup)
	case *pb.Query_CgroupPath:
		out.CgroupPath = s.CgroupPath
	case *pb.Query_Container:
		out.Container = s.Container
	}
	return out, checkQuery(q, out)
}

func checkQuery(q *pb.Query, out workload.Query) error {
	switch {
	case Subjects(out) != 1:
		return fmt.Errorf("%w: exactly one of self, a PID, a process, a cgroup, a cgroup path and a container must be set", workload.ErrInvalid)
	case out.PID > workload.MaxPID || out.Key.PID > workload.MaxPID:
		return fmt.Errorf("%w: no process has the id %d: the largest is %d", workload.ErrInvalid, max(out.PID, out.Key.PID), workload.MaxPID)
	case out.Key != (workload.ProcessKey{}) && out.Key.PID == 0:
		return fmt.Errorf("%w: a process key needs a PID", workload.ErrInvalid)
	case out.Cgroup != (workload.CgroupID{}) && out.Cgroup.ID == 0:
		return fmt.Errorf("%w: a cgroup needs an id", workload.ErrInvalid)
	case q.GetAt() != nil && !q.GetAt().IsValid():
		return fmt.Errorf("%w: the time asked about is out of range", workload.ErrInvalid)
	case out.Wait < 0 || q.GetWait() != nil && !q.GetWait().IsValid():
		return fmt.Errorf("%w: the time to wait is negative or out of range", workload.ErrInvalid)
	}
	return nil
}
