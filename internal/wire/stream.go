// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/workload"
)

// NewBytes takes over a message that AppendEntity or AppendChange has made.
func NewBytes(b []byte) *Bytes { return &Bytes{out: b} }

// ReceivedBytes copies a message that came without gRPC.
func ReceivedBytes(b []byte) *Bytes { return &Bytes{in: string(b)} }

// AppendEntity adds an entity to a ListResponse. One call alone makes a
// GetResponse.
func AppendEntity(b []byte, e workload.Entity) []byte {
	return entityMessage.nested(b, 1, &e)
}

// DecodeEntities reads a ListResponse or a GetResponse.
func DecodeEntities(msg *Bytes) ([]workload.Entity, error) {
	return decodeList(msg, entityMessage)
}

// AppendChange adds a change to a StreamEntitiesResponse.
func AppendChange(b []byte, c *workload.Change) []byte {
	return changeMessage.nested(b, 1, c)
}

// DecodeChanges reads a StreamEntitiesResponse.
func DecodeChanges(msg *Bytes) ([]workload.Change, error) {
	return decodeList(msg, changeMessage)
}

// decodeList reads field 1 of a message that has no other.
func decodeList[T any](msg *Bytes, m *message[T]) (list []T, err error) {
	for in := (scanner{s: msg.string()}); in.more(); {
		if err := in.next(); err != nil {
			return nil, err
		}
		if in.num != 1 || in.typ != typeBytes {
			continue
		}
		list = append(room(list, in), *new(T))
		if err := m.parse(&list[len(list)-1], strings.Clone(in.bytes())); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// selector is a ListRequest and a StreamEntitiesRequest, which has one field more.
type selector struct {
	kinds            []uint32
	all              bool
	from             workload.Revision
	include, exclude *workload.Filter
	noSandboxes      bool
	detail           bool
}

var filterMessage = table(
	texts(1, func(f *workload.Filter) *[]string { return &f.Names }),
	texts(2, func(f *workload.Filter) *[]string { return &f.Images }),
	texts(3, func(f *workload.Filter) *[]string { return &f.Namespaces }),
	texts(4, func(f *workload.Filter) *[]string { return &f.Labels }),
)

var selectorMessage = table(
	indexes(1, func(s *selector) *[]uint32 { return &s.kinds }),
	boolean(2, func(s *selector) *bool { return &s.all }),
	number(3, func(s *selector) *workload.Revision { return &s.from }),
	pointer(4, filterMessage, func(s *selector) **workload.Filter { return &s.include }),
	pointer(5, filterMessage, func(s *selector) **workload.Filter { return &s.exclude }),
	boolean(6, func(s *selector) *bool { return &s.noSandboxes }),
	boolean(7, func(s *selector) *bool { return &s.detail }),
)

// EncodeSelector makes a ListRequest or a StreamEntitiesRequest. Its error
// wraps workload.ErrInvalid.
func EncodeSelector(sel workload.Selector) (*Bytes, error) {
	if err := filter.Check(sel); err != nil {
		return nil, err
	}
	s := selector{all: sel.All, from: sel.From, noSandboxes: sel.NoSandboxes, detail: sel.Detail}
	if !sel.Include.IsZero() {
		s.include = &sel.Include
	}
	if !sel.Exclude.IsZero() {
		s.exclude = &sel.Exclude
	}
	for _, k := range sel.Kinds {
		n := numberOf(kinds, k)
		if n == 0 {
			return nil, fmt.Errorf("%w: there is no kind %q", workload.ErrInvalid, k)
		}
		s.kinds = append(s.kinds, uint32(n))
	}
	return &Bytes{out: selectorMessage.append([]byte{}, &s)}, nil
}

// DecodeSelector is the way back. Each kind is there once, and kind 0 means
// containers. Its error wraps workload.ErrInvalid.
func DecodeSelector(msg *Bytes) (workload.Selector, error) {
	var s selector
	if err := selectorMessage.parse(&s, msg.string()); err != nil {
		return workload.Selector{}, fmt.Errorf("%w: %w", workload.ErrInvalid, err)
	}
	sel := workload.Selector{All: s.all, From: s.from, NoSandboxes: s.noSandboxes, Detail: s.detail}
	if s.include != nil {
		sel.Include = *s.include
	}
	if s.exclude != nil {
		sel.Exclude = *s.exclude
	}
	if err := filter.Check(sel); err != nil {
		return sel, err
	}
	for _, n := range s.kinds {
		k := wordOf(kinds, uint64(max(n, 1))) // 0 means containers, which are 1
		if k == "" {
			return sel, fmt.Errorf("%w: there is no kind of entities number %d", workload.ErrInvalid, n)
		}
		if !slices.Contains(sel.Kinds, k) {
			sel.Kinds = append(sel.Kinds, k)
		}
	}
	return sel, nil
}

// Name names one entity; a process has a Key, the other kinds a Name.
type Name struct {
	Kind workload.Kind
	Name string
	Key  workload.ProcessKey
	// Detail reads of a process what events do not say.
	Detail bool
}

// name is a GetRequest.
type name struct {
	container, pod, image, task, service string
	process                              workload.ProcessKey
	detail                               bool
}

var nameMessage = table(
	text(1, func(n *name) *string { return &n.container }),
	value(2, keyMessage, func(n *name) *workload.ProcessKey { return &n.process }),
	text(3, func(n *name) *string { return &n.pod }),
	text(4, func(n *name) *string { return &n.image }),
	text(5, func(n *name) *string { return &n.task }),
	text(6, func(n *name) *string { return &n.service }),
	boolean(7, func(n *name) *bool { return &n.detail }),
)

// of gives where the name of a kind is, nil for a process and an unknown kind.
func (n *name) of(kind workload.Kind) *string {
	switch kind {
	case workload.KindContainer:
		return &n.container
	case workload.KindPod:
		return &n.pod
	case workload.KindImage:
		return &n.image
	case workload.KindTask:
		return &n.task
	case workload.KindService:
		return &n.service
	}
	return nil
}

// EncodeName makes a GetRequest. Its error wraps workload.ErrInvalid.
func EncodeName(n Name) (*Bytes, error) {
	var raw name
	if p := raw.of(n.Kind); p != nil {
		*p = n.Name
	} else if n.Kind == workload.KindProcess {
		raw.process = n.Key
	}
	if raw == (name{}) {
		return nil, fmt.Errorf("%w: %s %q names nothing", workload.ErrInvalid, n.Kind, n.Name)
	}
	raw.detail = n.Detail
	return &Bytes{out: nameMessage.append(nil, &raw)}, nil
}

// DecodeName is the way back. Its error wraps workload.ErrInvalid.
func DecodeName(msg *Bytes) (Name, error) {
	var raw name
	if err := nameMessage.parse(&raw, msg.string()); err != nil {
		return Name{}, fmt.Errorf("%w: %w", workload.ErrInvalid, err)
	}
	var set []Name
	for _, k := range kinds {
		if p := raw.of(k); p != nil && *p != "" {
			set = append(set, Name{Kind: k, Name: *p})
		}
	}
	if raw.process != (workload.ProcessKey{}) {
		set = append(set, Name{Kind: workload.KindProcess, Key: raw.process})
	}
	if len(set) != 1 {
		return Name{}, fmt.Errorf("%w: exactly one name must be set", workload.ErrInvalid)
	}
	set[0].Detail = raw.detail
	return set[0], nil
}
