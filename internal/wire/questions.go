// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Query and ResolveRequest.
var queryMessage = table(
	present(1, func(q *workload.Query) *bool { return &q.Self }),
	number(2, func(q *workload.Query) *workload.PID { return &q.PID }),
	value(3, keyMessage, func(q *workload.Query) *workload.ProcessKey { return &q.Key }),
	value(4, cgroupMessage, func(q *workload.Query) *workload.CgroupID { return &q.Cgroup }),
	text(5, func(q *workload.Query) *string { return &q.CgroupPath }),
	text(6, func(q *workload.Query) *string { return &q.Container }),
	instant(7, func(q *workload.Query) *time.Time { return &q.At }),
	span(8, func(q *workload.Query) *time.Duration { return &q.Wait }),
	boolean(9, func(q *workload.Query) *bool { return &q.Explain }),
	boolean(10, func(q *workload.Query) *bool { return &q.Detail }),
	boolean(11, func(q *workload.Query) *bool { return &q.Family }),
)

// EncodeQuestions makes a ResolveRequest. In the place of a question that makes
// no sense goes an empty one; DecodeResults says what is wrong with it.
func EncodeQuestions(queries []workload.Query) *Bytes {
	return &Bytes{out: appendQuestions(make([]byte, 0, 16+8*len(queries)), queries)}
}

func appendQuestions(b []byte, queries []workload.Query) []byte {
	for i := range queries {
		q := &queries[i]
		if checkQuery(q) != nil {
			q = &workload.Query{}
		}
		b = queryMessage.nested(b, 1, q)
	}
	return b
}

// DecodeQuestions is the way back. A question that makes no sense is empty and
// has an error that wraps workload.ErrInvalid, at its index; so does the error about the
// whole, which has more than max questions or is malformed.
func DecodeQuestions(msg *Bytes, most int) ([]workload.Query, map[int]error, error) {
	return decodeQuestions(msg.string(), most, nil, func(scanner) error { return nil })
}

// MaxFamilies bounds the questions of one call that ask for a family: each looks
// through all processes.
const MaxFamilies = 64

// decodeQuestions gives the fields that are not questions to other.
func decodeQuestions(s string, most int, room []workload.Query, other func(scanner) error) ([]workload.Query, map[int]error, error) {
	queries := room[:0]
	var bad map[int]error
	families := 0
	for in := (scanner{s: s}); in.more(); {
		err := in.next()
		if err == nil && in.num != 1 {
			err = other(in)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", workload.ErrInvalid, err)
		}
		if in.num != 1 || in.typ != typeBytes {
			continue
		}
		if len(queries) == 0 {
			queries = slices.Grow(queries, min(in.alike(), most))
		}
		if len(queries) == most {
			return nil, nil, fmt.Errorf("%w: too many questions in one call: ask %d at most", workload.ErrInvalid, most)
		}
		queries = append(queries, workload.Query{})
		q := &queries[len(queries)-1]
		err = decodeQuery(q, in.bytes())
		if q.Family && err == nil {
			if families++; families > MaxFamilies {
				err = fmt.Errorf("%w: too many families in one call: ask for %d at most", workload.ErrInvalid, MaxFamilies)
			}
		}
		if err != nil {
			if bad == nil {
				bad = make(map[int]error)
			}
			*q, bad[len(queries)-1] = workload.Query{}, err
		}
	}
	return queries, bad, nil
}

func decodeQuery(q *workload.Query, s string) error {
	if err := queryMessage.parse(q, s); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrInvalid, err)
	}
	return checkQuery(q)
}

// checkQuery is for both sides: what is wrong with a question is found before
// it goes out, and again where it comes in.
func checkQuery(q *workload.Query) error {
	switch {
	case subjects(q) != 1:
		return fmt.Errorf("%w: exactly one of self, a PID, a process, a cgroup, a cgroup path and a container must be set", workload.ErrInvalid)
	case q.PID > workload.MaxPID || q.Key.PID > workload.MaxPID:
		return fmt.Errorf("%w: no process has the id %d: the largest is %d", workload.ErrInvalid, max(q.PID, q.Key.PID), workload.MaxPID)
	case q.Key != (workload.ProcessKey{}) && q.Key.PID == 0:
		return fmt.Errorf("%w: a process key needs a PID", workload.ErrInvalid)
	case q.Cgroup != (workload.CgroupID{}) && q.Cgroup.ID == 0:
		return fmt.Errorf("%w: a cgroup needs an id", workload.ErrInvalid)
	case !utf8.ValidString(q.CgroupPath) || !utf8.ValidString(q.Container):
		return fmt.Errorf("%w: a name that is not valid UTF-8 cannot be asked for: ask for the id", workload.ErrInvalid)
	case !q.At.IsZero() && !sayable(q.At):
		return fmt.Errorf("%w: the time asked about is out of range", workload.ErrInvalid)
	case q.Wait < 0:
		return fmt.Errorf("%w: the time to wait is negative", workload.ErrInvalid)
	}
	return nil
}

// subjects counts the things that a question is about.
func subjects(q *workload.Query) (n int) {
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
