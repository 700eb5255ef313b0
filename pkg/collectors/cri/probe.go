// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// Probe asks for the version. A socket without a CRI, as containerd's is where
// its plugin is off, is as good as none.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	report := collectors.Report{Where: c.socket}
	n, err := c.connect()
	if err != nil {
		return report, err
	}
	e, err := c.version(ctx, n)
	if err != nil {
		return report, err
	}
	report.Version = cut(e.version)
	report.Detail = "pods and containers of " + e.name
	return report, nil
}

// version asks who is there, and remembers it for as long as the socket is this one.
func (c *Collector) version(ctx context.Context, n *conn) (engine, error) {
	v, err := n.api.Version(ctx, &runtimeapi.VersionRequest{})
	if status.Code(err) == codes.Unimplemented {
		return engine{}, c.noCRI(ctx, n)
	}
	if err != nil {
		return engine{}, unavailable(translate("version of the CRI", err))
	}
	e, err := c.engineOf(v.RuntimeName, v.RuntimeVersion)
	if err != nil {
		return engine{}, fmt.Errorf("version of the CRI: %w", err)
	}
	n.mu.Lock()
	n.engine = &e
	n.mu.Unlock()
	return e, nil
}

// alphaVersion is the method of the CRI before 1.0, which had the same messages.
const alphaVersion = "/runtime.v1alpha2.RuntimeService/Version"

// noCRI says what is there in place of runtime.v1, and remembers it: the services
// of a socket do not change, and it is probed twice a second.
func (c *Collector) noCRI(ctx context.Context, n *conn) error {
	var old runtimeapi.VersionResponse
	var is error
	switch err := n.cc.Invoke(ctx, alphaVersion, &runtimeapi.VersionRequest{}, &old); status.Code(err) {
	case codes.OK:
		is = fmt.Errorf("%w: %s %s has only v1alpha2 of the CRI; pidigree needs v1, which containerd has from 1.6 and CRI-O from 1.23 on",
			collectors.ErrUnavailable, cut(old.RuntimeName), cut(old.RuntimeVersion))
	case codes.Unimplemented:
		is = fmt.Errorf("%s: %w: it has no CRI", c.socket, collectors.ErrNotPresent)
	default:
		return unavailable(translate("version of the CRI", err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.without, c.withoutIs = n.incarnation, is
	return is
}

// unavailable is for a call that is about no container: whatever went wrong, the
// engine cannot say now.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}
