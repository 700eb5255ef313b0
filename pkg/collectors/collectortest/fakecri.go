// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"cmp"
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FakeCRI is an engine that answers as one was recorded: for engines that cannot
// be run where the tests are, and for what no good engine says. The statuses are
// given; its lists are made of them. What it does not know is NotFound, and what
// it has no answer for Unimplemented. All methods may be called from any goroutine.
type FakeCRI struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	// Socket is where it listens.
	Socket string

	mu         sync.Mutex // guards all below
	version    *runtimeapi.VersionResponse
	containers map[string]fakeContainer
	sandboxes  map[string]*runtimeapi.PodSandboxStatusResponse
	spoil      func(method string, reply any) error
}

// fakeContainer is a container's status, and the sandbox that it is in.
type fakeContainer struct {
	sandbox string
	r       *runtimeapi.ContainerStatusResponse
}

// NewFakeCRI starts an empty engine that calls itself that.
func NewFakeCRI(tb testing.TB, name, version string) *FakeCRI {
	tb.Helper()
	dir := privateDir(tb, "pdf")
	f := &FakeCRI{
		Socket:     dir + "/cri.sock",
		version:    &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: name, RuntimeVersion: version, RuntimeApiVersion: "v1"},
		containers: map[string]fakeContainer{},
		sandboxes:  map[string]*runtimeapi.PodSandboxStatusResponse{},
	}
	l, err := net.Listen("unix", f.Socket)
	if err != nil {
		tb.Fatal(err)
	}
	srv := grpc.NewServer(grpc.MaxSendMsgSize(1<<30), grpc.UnaryInterceptor(f.intercept))
	runtimeapi.RegisterRuntimeServiceServer(srv, f)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() {
		srv.Stop()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	return f
}

// Spoil has every reply go through fn, which may change it, or fail the call.
func (f *FakeCRI) Spoil(fn func(method string, reply any) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spoil = fn
}

func (f *FakeCRI) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	f.mu.Lock()
	spoil := f.spoil
	f.mu.Unlock()
	if spoil != nil && err == nil {
		err = spoil(info.FullMethod[len("/runtime.v1.RuntimeService/"):], reply)
	}
	return reply, err
}

// PutContainer adds a container of a sandbox, or replaces its status.
func (f *FakeCRI) PutContainer(sandbox string, r *runtimeapi.ContainerStatusResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[r.Status.Id] = fakeContainer{sandbox, r}
}

// PutSandbox adds a sandbox, or replaces its status.
func (f *FakeCRI) PutSandbox(r *runtimeapi.PodSandboxStatusResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes[r.Status.Id] = r
}

// Remove removes a container or a sandbox.
func (f *FakeCRI) Remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	delete(f.sandboxes, id)
}

// Version implements the service.
func (f *FakeCRI) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return f.version, nil
}

// ContainerStatus implements the service.
func (f *FakeCRI) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.containers[req.ContainerId]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "could not find container %q", req.ContainerId)
	}
	if !req.Verbose {
		return &runtimeapi.ContainerStatusResponse{Status: c.r.Status}, nil
	}
	return &runtimeapi.ContainerStatusResponse{Status: c.r.Status, Info: c.r.Info}, nil
}

// PodSandboxStatus implements the service.
func (f *FakeCRI) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sandboxes[req.PodSandboxId]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "could not find pod %q", req.PodSandboxId)
	}
	out := &runtimeapi.PodSandboxStatusResponse{Status: s.Status, ContainersStatuses: s.ContainersStatuses, Timestamp: s.Timestamp}
	if req.Verbose {
		out.Info = s.Info
	}
	return out, nil
}

// ListContainers implements the service.
func (f *FakeCRI) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range f.containers {
		s := c.r.Status
		if want := req.Filter.GetPodSandboxId(); want != "" && want != c.sandbox || req.Filter.GetId() != "" && req.Filter.GetId() != s.Id {
			continue
		}
		out.Containers = append(out.Containers, &runtimeapi.Container{
			Id: s.Id, PodSandboxId: c.sandbox, Metadata: s.Metadata, Image: s.Image, ImageRef: s.ImageRef, ImageId: s.ImageId,
			State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations,
		})
	}
	slices.SortFunc(out.Containers, func(a, b *runtimeapi.Container) int { return cmp.Compare(a.Id, b.Id) })
	return out, nil
}

// ListPodSandbox implements the service.
func (f *FakeCRI) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, r := range f.sandboxes {
		s := r.Status
		fits := true
		for k, v := range req.Filter.GetLabelSelector() {
			fits = fits && s.Labels[k] == v
		}
		if fits {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{
				Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations, RuntimeHandler: s.RuntimeHandler,
			})
		}
	}
	slices.SortFunc(out.Items, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(a.Id, b.Id) })
	return out, nil
}
