// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// get finds one entity: what can be resolved by resolving, the rest, of which
// there are few, by looking through the list.
func (s *Server) get(ctx context.Context, req *wire.Bytes) (*wire.Bytes, error) {
	n, err := wire.DecodeName(req)
	if err != nil {
		return nil, err
	}
	find := s.getListed
	if n.Kind == workload.KindContainer || n.Kind == workload.KindProcess {
		find = s.getResolved
	}
	e, err := find(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("get %s %s: %w", n.Kind, n.Name, err)
	}
	return wire.NewBytes(wire.AppendEntity(nil, e)), nil
}

func (s *Server) getResolved(ctx context.Context, n wire.Name) (workload.Entity, error) {
	q := []workload.Query{{Container: n.Name, Key: n.Key, Detail: n.Detail}}
	var results [1]workload.Result
	s.ask(ctx, peerOf(ctx), false, q, nil, results[:])
	r := results[0]
	e := workload.Entity{Kind: n.Kind, Gone: r.Answer.Exited, Revision: r.Answer.Revision}
	if n.Kind == workload.KindProcess {
		e.Process = r.Answer.Process
	} else {
		e.Container = r.Answer.Container()
	}
	if r.Err == nil && e.Process == nil && e.Container == nil {
		return e, workload.ErrNotFound
	}
	return e, r.Err
}

// getListed takes the one that has the name; one that is gone counts only
// where none is there.
func (s *Server) getListed(ctx context.Context, n wire.Name) (workload.Entity, error) {
	var live, gone []workload.Entity
	best := notNamed
	for e := range s.opt.Backend.List(ctx, workload.Selector{Kinds: []workload.Kind{n.Kind}, All: true}) {
		how := named(e, n.Name)
		if how != notNamed && !e.OnlyRemote() {
			how += namedWhole // who is known here comes before who is not
		}
		if how > best {
			best, live, gone = how, nil, nil
		}
		switch {
		case how == notNamed || how < best:
		case e.Gone:
			gone = append(gone, e)
		default:
			live = append(live, e)
		}
	}
	if len(live) == 0 {
		live = gone
	}
	switch {
	case ctx.Err() != nil:
		return workload.Entity{}, ctx.Err()
	case len(live) == 0:
		return workload.Entity{}, workload.ErrNotFound
	case len(live) > 1:
		return workload.Entity{}, fmt.Errorf("%w: it fits %d", workload.ErrAmbiguous, len(live))
	}
	return live[0], nil
}

// The ways in which a name can mean an entity, the surest last.
const (
	notNamed = iota
	namedInPart
	namedWhole
)

func named(e workload.Entity, name string) int {
	whole := false
	switch {
	case e.Pod != nil:
		return podNamed(e.Pod, name)
	case e.Image != nil:
		whole = imageNamed(e.Image, name)
	case e.Task != nil:
		whole = e.Task.ARN == name
	case e.Service != nil:
		whole = e.Service.Unit == name || e.Service.Cgroup == name
	}
	if whole {
		return namedWhole
	}
	return notNamed
}

// imageNamed: the id that its containers have, the digest that they have, or a name.
func imageNamed(i *workload.Image, name string) bool {
	return i.ID == name || i.Key() == name || slices.Contains(i.Names, name) || slices.ContainsFunc(i.Digests, func(d string) bool {
		_, digest, _ := strings.Cut(d, "@")
		return d == name || digest == name
	})
}

// podNamed: a uid, also the one in a static pod's cgroup, or NAMESPACE/NAME; in
// part the name alone, which another namespace may have too.
func podNamed(p *workload.Pod, name string) int {
	switch {
	case p.UID == name, p.Static && p.ConfigHash == name, p.Namespace != "" && p.Namespace+"/"+p.Name == name:
		return namedWhole
	case p.Name != "" && p.Name == name:
		return namedInPart
	}
	return notNamed
}
