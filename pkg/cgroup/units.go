// SPDX-License-Identifier: Apache-2.0

package cgroup

import "strings"

// unitPhase is how far down the path systemd's own tree goes: slices, one unit,
// and below that what the unit was delegated. A user's manager is such a unit
// and has a tree of its own.
type unitPhase uint8

const (
	systemSlices unitPhase = iota
	userSlices
	belowUnit
)

// unit reads the component as systemd does (cg_path_get_unit): the first one
// that is no slice is the unit, whatever it contains.
func (p *parser) unit() {
	if p.units == belowUnit {
		return
	}
	name := strings.TrimPrefix(p.name, "_") // systemd's escape for names that the kernel could take for its own
	slice, unit := &p.out.Slice, &p.out.Unit
	if p.units == userSlices {
		slice, unit = &p.out.UserSlice, &p.out.UserUnit
	}
	switch {
	case !isUnit(name):
		p.units = belowUnit
	case strings.HasSuffix(name, ".slice"):
		*slice = name
		if uid, ok := cutBoth(name, "user-", ".slice"); ok && isDigits(uid) && p.units == systemSlices {
			p.out.User = uid
		}
	default:
		*unit = name
		if p.units == systemSlices {
			p.out.UnitPath = p.path[:p.end]
		}
		uid, ok := cutBoth(name, "user@", ".service")
		if ok && isDigits(uid) && p.units == systemSlices {
			p.units = userSlices
		} else {
			p.units = belowUnit
		}
	}
}

// unitTypes are the types of units that can have a cgroup.
var unitTypes = [...]string{".service", ".scope", ".slice", ".mount", ".socket", ".swap"}

// isUnit reports whether s is a valid name of a unit (unit_name_is_valid).
func isUnit(s string) bool {
	if len(s) > 255 {
		return false
	}
	for _, t := range unitTypes {
		if base, ok := strings.CutSuffix(s, t); ok {
			return allIn(base, func(c byte) bool {
				return letter(c) || digit(c) || strings.IndexByte(`:-_.\@`, c) >= 0
			})
		}
	}
	return false
}
