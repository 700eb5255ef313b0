// SPDX-License-Identifier: Apache-2.0

package collectors

import "github.com/pidigree/pidigree/pkg/workload"

// HealthOf is what an engine's check says of a container that runs: nothing for one
// that does not, and for any other word, such as Docker's "none" of one without a check.
func HealthOf(s workload.State, said string) workload.Health {
	switch h := workload.Health(said); {
	case s != workload.StateRunning && s != workload.StatePaused:
	case h == workload.HealthStarting, h == workload.HealthHealthy, h == workload.HealthUnhealthy:
		return h
	}
	return ""
}
