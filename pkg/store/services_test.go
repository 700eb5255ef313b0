// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

func aUnit(name, active string) Change {
	return Change{Service: &ServiceChange{Service: &workload.Service{Unit: name, Cgroup: "/system.slice/" + name, Active: active}}}
}

func unitGone(name string, at workload.KTime) Change {
	c := aUnit(name, "active")
	c.Service.Gone = at
	return c
}

func units(s *Store, all bool) (out []string) {
	for e := range s.All(workload.Selector{Kinds: []workload.Kind{workload.KindService}, All: all}) {
		out = append(out, fmt.Sprintf("%s %s gone=%v", e.Service.Unit, e.Service.Active, e.Gone))
	}
	slices.Sort(out)
	return out
}

func wantUnits(t *testing.T, s *Store, all bool, want ...string) {
	t.Helper()
	if got := units(s, all); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTheLifeOfAUnit(t *testing.T) {
	s := New(Options{Grace: time.Second})
	s.Apply(aUnit("web.service", "activating"), aUnit("db.service", "active"))
	rev := s.Revision()
	s.Apply(aUnit("db.service", "active"))
	if s.Revision() != rev {
		t.Error("the same again is news")
	}
	s.Apply(aUnit("web.service", "active"))
	wantUnits(t, s, false, "db.service active gone=false", "web.service active gone=false")
	s.Apply(unitGone("web.service", 1e9), unitGone("never.service", 1e9))
	wantUnits(t, s, false, "db.service active gone=false")
	wantUnits(t, s, true, "db.service active gone=false", "web.service active gone=true")
	if c := s.Counts(); c.Services != 1 || c.ServiceTombstones != 1 {
		t.Errorf("%+v", c)
	}
	s.Apply(aUnit("web.service", "active")) // started anew
	wantUnits(t, s, false, "db.service active gone=false", "web.service active gone=false")
	s.Apply(unitGone("web.service", 2e9))
	s.Apply(expire(25e8))
	wantUnits(t, s, true, "db.service active gone=false", "web.service active gone=true")
	s.Apply(expire(31e8))
	wantUnits(t, s, true, "db.service active gone=false")
	if _, ok := s.Service("/system.slice/web.service"); ok {
		t.Error("it is still there")
	}
	s.Apply(aUnit("web.service", "active"))
	if u, ok := s.Service("/system.slice/web.service"); !ok || u.Active != "active" {
		t.Error("it does not come back")
	}
}

func TestUnitsAreWatched(t *testing.T) {
	s := New(Options{Grace: time.Second})
	s.Apply(aUnit("web.service", "activating"))
	sel := workload.Selector{Kinds: []workload.Kind{workload.KindService}, All: true}
	var from workload.Revision
	read := func() (out []string) {
		t.Helper()
		sel.From = from
		for b := range s.Watch(t.Context(), sel) {
			for _, c := range b.Changes {
				if c.Type == workload.ChangeBookmark {
					from = c.Revision
					return out
				}
				out = append(out, fmt.Sprintf("%s %s %s gone=%v", c.Type, c.Entity.Service.Unit, c.Entity.Service.Active, c.Entity.Gone))
			}
		}
		return out
	}
	for i, step := range []struct {
		changes []Change
		want    []string
	}{
		{nil, []string{"set web.service activating gone=false"}},
		{[]Change{aUnit("web.service", "active")}, []string{"set web.service active gone=false"}},
		{[]Change{unitGone("web.service", 1e9)}, []string{"set web.service active gone=true"}},
		{[]Change{expire(3e9)}, []string{"unset web.service  gone=true"}},
	} {
		s.Apply(step.changes...)
		if got := read(); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

func TestTooManyEndedUnitsGoBeforeTheirTime(t *testing.T) {
	s := New(Options{MaxServiceTombstones: 2})
	for i := range 5 {
		name := fmt.Sprintf("u%d.service", i)
		s.Apply(aUnit(name, "active"))
		s.Apply(unitGone(name, workload.KTime(i+1)))
	}
	wantUnits(t, s, true, "u3.service active gone=true", "u4.service active gone=true")
	if c := s.Counts(); c.DroppedTombstones != 3 {
		t.Errorf("%+v", c)
	}
}

func TestAUnitWithoutACgroupIsRejected(t *testing.T) {
	s := New(Options{})
	s.Apply(Change{Service: &ServiceChange{Service: &workload.Service{Unit: "web.service"}}}, Change{Service: &ServiceChange{}})
	if c := s.Counts(); c.Rejected != 2 || c.Services != 0 {
		t.Errorf("%+v", c)
	}
}
