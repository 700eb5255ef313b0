// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/oci"
)

// collectors is the list of what there is.
func (a *Agent) collectors() ([]collectors.Collector, error) {
	o := a.opts
	low, err := oci.New(oci.Options{Roots: o.OCIRoots, RunDir: o.RunDir, ProcRoot: o.Procfs, CgroupRoot: o.CgroupRoot, EnvAllow: o.EnvAllow, Logger: a.log})
	if err != nil {
		return nil, fmt.Errorf("oci collector: %w", err)
	}
	return []collectors.Collector{low}, nil
}
