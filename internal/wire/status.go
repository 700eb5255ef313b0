// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The tables of api/pidigree/v1/status.proto.

var kernelMessage = table(
	countMap(1, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Events }),
	countMap(2, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Lost }),
	countMap(3, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Skipped }),
	textMap(4, func(k *workload.KernelStatus) *map[string]string { return &k.Programs }),
	number(5, func(k *workload.KernelStatus) *uint64 { return &k.Repairs }),
	span(6, func(k *workload.KernelStatus) *time.Duration { return &k.Lag }),
	countMap(7, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Seen }),
	countMap(8, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Filtered }),
	countMap(9, func(k *workload.KernelStatus) *map[string]uint64 { return &k.Detached }),
	number(10, func(k *workload.KernelStatus) *uint64 { return &k.Stolen }),
)

var sourceMessage = table(
	text(1, func(s *workload.SourceStatus) *string { return &s.Name }),
	text(2, func(s *workload.SourceStatus) *string { return &s.State }),
	text(3, func(s *workload.SourceStatus) *string { return &s.Where }),
	text(4, func(s *workload.SourceStatus) *string { return &s.Version }),
	instant(5, func(s *workload.SourceStatus) *time.Time { return &s.LastContact }),
	text(6, func(s *workload.SourceStatus) *string { return &s.LastError }),
	instant(7, func(s *workload.SourceStatus) *time.Time { return &s.LastErrorAt }),
	number(8, func(s *workload.SourceStatus) *uint64 { return &s.Restarts }),
	countMap(9, func(s *workload.SourceStatus) *map[string]uint64 { return &s.Calls }),
	number(10, func(s *workload.SourceStatus) *uint64 { return &s.Errors }),
	number(11, func(s *workload.SourceStatus) *int { return &s.Entities }),
	text(12, func(s *workload.SourceStatus) *string { return &s.Detail }),
)

var statusMessage = table(
	text(1, func(s *workload.AgentStatus) *string { return &s.Version }),
	number(2, func(s *workload.AgentStatus) *workload.PID { return &s.PID }),
	instant(3, func(s *workload.AgentStatus) *time.Time { return &s.Started }),
	text(4, func(s *workload.AgentStatus) *string { return &s.Mode }),
	text(5, func(s *workload.AgentStatus) *string { return &s.ModeReason }),
	text(6, func(s *workload.AgentStatus) *string { return &s.CgroupMode }),
	boolean(7, func(s *workload.AgentStatus) *bool { return &s.Ready }),
	number(8, func(s *workload.AgentStatus) *workload.Revision { return &s.Revision }),
	number(9, func(s *workload.AgentStatus) *int { return &s.Containers }),
	number(10, func(s *workload.AgentStatus) *int { return &s.Processes }),
	number(11, func(s *workload.AgentStatus) *int { return &s.Watchers }),
	list(12, sourceMessage, func(s *workload.AgentStatus) *[]workload.SourceStatus { return &s.Sources }),
	always(13, kernelMessage, func(s *workload.AgentStatus) *workload.KernelStatus { return &s.Kernel }),
	number(14, func(s *workload.AgentStatus) *int { return &s.Pods }),
	number(15, func(s *workload.AgentStatus) *int { return &s.Tasks }),
	number(16, func(s *workload.AgentStatus) *int { return &s.Images }),
	text(17, func(s *workload.AgentStatus) *string { return &s.Host }),
	text(18, func(s *workload.AgentStatus) *string { return &s.BootID }),
	number(19, func(s *workload.AgentStatus) *uint32 { return &s.PIDNamespace }),
)

var statusResponse = table(
	always(1, statusMessage, func(s *workload.AgentStatus) *workload.AgentStatus { return s }),
)

// EncodeStatus makes a StatusResponse.
func EncodeStatus(s workload.AgentStatus) *Bytes {
	return &Bytes{out: statusResponse.append(nil, &s)}
}

// DecodeStatus is the way back.
func DecodeStatus(b *Bytes) (s workload.AgentStatus, err error) {
	err = statusResponse.parse(&s, b.string())
	return s, err
}
