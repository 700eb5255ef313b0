// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/internal/wire"
)

const (
	// FullService is the name under which the health service says SERVING only
	// while nothing is degraded. Under wire.ServiceName and "" it says SERVING
	// also then, because the answers are the same, only later.
	FullService = wire.ServiceName + ".Full"
	// DegradedHeader is the header of a health check's reply with the line of
	// Options.Degraded, for peers that may ask everything.
	DegradedHeader = "pidigree-degraded"
	// healthPause bounds how often Options.Degraded is asked, whoever asks us.
	healthPause = 500 * time.Millisecond
	// watchPause is between two looks for a watcher.
	watchPause = time.Second
	// maxHeader bounds DegradedHeader's value in bytes.
	maxHeader = 1024
)

// healthService is the standard health service. What is degraded is not told to
// it: it looks when somebody asks.
type healthService struct {
	*health.Server
	auth     authorizer
	degraded func() string

	mu    sync.Mutex // guards all below
	ready bool
	line  string
	asked time.Time
}

func newHealth(auth authorizer, degraded func() string) *healthService {
	return &healthService{Server: health.NewServer(), auth: auth, degraded: degraded}
}

// Check implements healthpb.HealthServer.
func (h *healthService) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	line := h.look()
	if line != "" && h.auth.mayAll(peerOf(ctx)) {
		if err := grpc.SetHeader(ctx, metadata.Pairs(DegradedHeader, printable(line))); err != nil {
			return nil, err
		}
	}
	return h.Server.Check(ctx, req)
}

// Watch implements healthpb.HealthServer: it looks each second for a watcher,
// when the agent is awake anyway.
func (h *healthService) Watch(req *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	h.look()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		due := time.NewTimer(beat.Until(watchPause))
		defer due.Stop()
		for {
			select {
			case <-done:
				return
			case <-due.C:
				h.look()
				due.Reset(beat.Until(watchPause))
			}
		}
	})
	defer wg.Wait()
	defer close(done)
	return h.Server.Watch(req, stream)
}

// setReady says whether the store holds what runs.
func (h *healthService) setReady(ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = ready
	h.asked = time.Time{}
	h.publish()
}

// look finds out what is degraded, at most every healthPause.
func (h *healthService) look() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.asked) >= healthPause {
		h.asked = time.Now()
		h.line = h.degraded()
		h.publish()
	}
	return h.line
}

// publish needs mu.
func (h *healthService) publish() {
	serving := func(ok bool) healthpb.HealthCheckResponse_ServingStatus {
		if ok {
			return healthpb.HealthCheckResponse_SERVING
		}
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	h.SetServingStatus("", serving(h.ready))
	h.SetServingStatus(wire.ServiceName, serving(h.ready))
	h.SetServingStatus(FullService, serving(h.ready && h.line == ""))
}

// printable makes a header's value, which is printable ASCII.
func printable(line string) string {
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, line)
	return line[:min(len(line), maxHeader)]
}
