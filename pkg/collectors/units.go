// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"fmt"

	"github.com/pidigree/pidigree/pkg/workload"
)

// lookupUnit asks about one unit and refuses an answer about another.
func (m *member) lookupUnit(ctx context.Context, unit, cgroup string) (*workload.Service, error) {
	uc, ok := m.c.(UnitCollector)
	if !ok {
		return nil, fmt.Errorf("%s: look up unit: %w: it knows of none", m.name, ErrNotMine)
	}
	var s *workload.Service
	err := m.call(ctx, methodLookupUnit, func(ctx context.Context) (err error) {
		if s, err = uc.LookupUnit(ctx, unit, cgroup); err == nil && (s == nil || s.Unit != unit || s.Cgroup != cgroup) {
			return fmt.Errorf("%w: the answer is not about the unit asked for", ErrUnavailable)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: look up unit %.80q: %w", m.name, unit, err)
	}
	return s, nil
}

// BoundUnit cuts a unit's description to the default Bounds. Its name and its
// cgroup are the asker's.
func BoundUnit(s *workload.Service) {
	b := Bounds{}.withDefaults()
	t := trimmer{left: b.Total}
	for field, text := range map[string]*string{"description": &s.Description, "active": &s.Active, "sub": &s.Sub} {
		t.text(field, text, b.Name)
	}
}
