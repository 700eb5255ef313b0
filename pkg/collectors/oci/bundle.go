// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
)

var errNoBundle = errors.New("the state names no bundle")

// specOf reads the bundle of a container.
func (c *Collector) specOf(s *reading) (*runtimespec.Spec, error) {
	switch {
	case !filepath.IsAbs(s.bundle):
		return nil, errNoBundle
	case s.state == nil:
		return c.readSpec("/", s.bundle) // found here, not named by a runtime
	}
	return c.readSpec(c.opts.HostRoot, s.bundle)
}

// readSpec reads the config.json of a bundle. host is where the path begins.
func (c *Collector) readSpec(host, bundle string) (*runtimespec.Spec, error) {
	dir, err := openTop(host, bundle)
	if err != nil {
		return nil, err
	}
	defer closeFD(dir)
	spec, err := readConfig(dir, c.envAllow)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", bundle, err)
	}
	return spec, nil
}
