// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// everyMethod calls all that a collector has, and gives the errors.
func everyMethod(ctx context.Context, c *Collector) map[string]error {
	errs := map[string]error{}
	_, errs["Probe"] = c.Probe(ctx)
	_, errs["Lookup"] = c.Lookup(ctx, workload.ContainerID{ID: crioContainer})
	_, errs["LookupPod"] = c.LookupPod(ctx, crioPod)
	_, errs["Locate"] = c.Locate(ctx, workload.Evidence{Claims: []workload.ContainerID{{ID: crioContainer}}})
	for _, err := range c.List(ctx) {
		errs["List"] = errors.Join(errs["List"], err)
	}
	for _, err := range c.ListPods(ctx) {
		errs["ListPods"] = errors.Join(errs["ListPods"], err)
	}
	return errs
}

func TestAnEngineThatAnswersNonsenseIsUnavailable(t *testing.T) {
	unset := func(reply any) { proto.Reset(reply.(proto.Message)) }
	for name, spoil := range map[string]func(method string, reply any) error{
		"empty answers":           func(_ string, reply any) error { unset(reply); return nil },
		"no name":                 func(_ string, reply any) error { return rename(reply, "") },
		"a name with a newline":   func(_ string, reply any) error { return rename(reply, "cri-o\nok") },
		"a name of a megabyte":    func(_ string, reply any) error { return rename(reply, strings.Repeat("x", 1<<20)) },
		"not a service of CRI's":  func(string, any) error { return status.Error(codes.Unknown, "what?") },
		"refused":                 func(string, any) error { return status.Error(codes.PermissionDenied, "no") },
		"a reply over the budget": func(_ string, reply any) error { return rename(reply, strings.Repeat("x", collectors.MaxRecord+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newCRIO(t)
			f.Spoil(spoil)
			c := newCollector(t, Options{Endpoint: f.Socket})
			for method, err := range everyMethod(t.Context(), c) {
				if !errors.Is(err, collectors.ErrUnavailable) || len(err.Error()) > 1000 {
					t.Errorf("%s: %.300v", method, err)
				}
			}
			if err := c.Watch(t.Context(), func(collectors.Hint) {}); !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("Watch: %v", err)
			}
		})
	}
}

func rename(reply any, name string) error {
	if v, ok := reply.(*runtimeapi.VersionResponse); ok {
		v.RuntimeName = name
	}
	return nil
}

func TestAnAnswerAboutAnotherContainerIsNone(t *testing.T) {
	f := newCRIO(t)
	f.Spoil(func(_ string, reply any) error {
		switch r := reply.(type) {
		case *runtimeapi.ContainerStatusResponse:
			r.Status = proto.Clone(r.Status).(*runtimeapi.ContainerStatus)
			r.Status.Id = strings.Repeat("b", 64)
		case *runtimeapi.PodSandboxStatusResponse:
			r.Status = nil
		case *runtimeapi.ListPodSandboxResponse:
			for _, s := range r.Items {
				s.Metadata = nil
			}
		}
		return nil
	})
	c := newCollector(t, Options{Endpoint: f.Socket})
	for _, id := range []string{crioContainer, crioSandbox} {
		if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: id}); err == nil {
			t.Errorf("Lookup %s: %+v", id, got)
		}
	}
	if got, err := c.LookupPod(t.Context(), crioPod); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("LookupPod: %+v, %v", got, err)
	}
	for got, err := range c.ListPods(t.Context()) {
		t.Errorf("ListPods: %+v, %v", got, err)
	}
}

func TestWildValuesAreBoundedOrLeftOut(t *testing.T) {
	f := newCRIO(t)
	wild := &runtimeapi.ContainerStatus{
		Id: strings.Repeat("a", 64), State: 99, CreatedAt: math.MinInt64, StartedAt: math.MaxInt64, FinishedAt: -1, ExitCode: math.MinInt32,
		Metadata: &runtimeapi.ContainerMetadata{Name: strings.Repeat("n", 1<<20)},
		Image:    &runtimeapi.ImageSpec{Image: "sha256:" + strings.Repeat("f", 64)}, ImageRef: "@@@", ImageId: "..",
		Reason: strings.Repeat("r", 1<<20), Labels: map[string]string{}, Mounts: []*runtimeapi.Mount{nil, {}},
	}
	for i := range 1000 {
		wild.Labels[fmt.Sprint("label-", i)] = strings.Repeat("v", 100)
	}
	for name, info := range map[string]string{
		"no JSON": "{", "another kind": `[1]`, "deep": strings.Repeat(`{"runtimeSpec":`, 10_000), "a PID of someone's": `{"pid":4294967297}`,
		"a negative PID": `{"pid":-1}`, "a PID of text": `{"pid":"1"}`, "a spec of text": `{"runtimeSpec":"x"}`, "nothing": "",
	} {
		for _, state := range []runtimeapi.ContainerState{99, 0, 1, 2, 3} {
			wild.State = state
			f.PutContainer(crioSandbox, &runtimeapi.ContainerStatusResponse{Status: proto.Clone(wild).(*runtimeapi.ContainerStatus), Info: map[string]string{"info": info}})
			c := newCollector(t, Options{Endpoint: f.Socket})
			got, err := c.Lookup(t.Context(), workload.ContainerID{ID: wild.Id})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(got.Name) > 256 || len(got.Reason) > 256 || len(got.Labels) > 256 || got.Run != nil || got.Exit != nil && got.Exit.Known || !got.Finished.IsZero() || !got.Created.IsZero() {
				t.Errorf("%s, state %d: %+v", name, state, got)
			}
			if got.Image.Name != "" || got.Image.Digest != "" || got.Image.ID != wild.Image.Image {
				t.Errorf("image: %+v", got.Image)
			}
		}
	}
}

// big is a pod with as many bytes of annotations in its container.
func big(t *testing.T, f *collectortest.FakeCRI, n, size int) (sandbox, container string) {
	t.Helper()
	sandbox, container = fmt.Sprintf("%064x", 0xb00+n), fmt.Sprintf("%064x", 0xc00+n)
	putRecorded(t, f, crioContainer, container, crioSandbox, sandbox, crioPod, fmt.Sprintf("big-%d", n))
	var c runtimeapi.ContainerStatusResponse
	recorded(t, "crio-1.34-container-status.json", &c, crioContainer, container)
	c.Status.Annotations = map[string]string{"big": strings.Repeat("x", size)}
	f.PutContainer(sandbox, &c)
	return sandbox, container
}

func TestOneHugePodHidesNoOther(t *testing.T) {
	f := newCRIO(t)
	_, monster := big(t, f, 1, collectors.MaxPodList+1)
	_, half := big(t, f, 2, collectors.MaxRecord-100_000)
	c := newCollector(t, Options{Endpoint: f.Socket})
	ids, errs := map[string]bool{}, 0
	for got, err := range c.List(t.Context()) {
		if err != nil {
			errs++
			if errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("the list ends the session: %v", err)
			}
			continue
		}
		ids[got.ID.ID] = true
	}
	if errs != 1 || ids[monster] || !ids[half] || !ids[crioContainer] || len(ids) != 5 { // three sandboxes
		t.Errorf("%d errors, listed %v", errs, ids)
	}
	got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: monster}))
	if len(got.Truncated) == 0 || got.Name != "" {
		t.Errorf("the monster: %+v", got)
	}
	if got = must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: half})); got.Name != "main" || len(got.Annotations["big"]) > 4096 {
		t.Errorf("half a monster: name %q, truncated %q", got.Name, got.Truncated)
	}
	n := 0
	for pod, err := range c.ListPods(t.Context()) {
		if err == nil {
			n++
			if pod.Name != "web" {
				t.Errorf("pod %+v", pod)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d pods", n)
	}
	hints := watching(t, c) // which goes on without a whole list
	_ = hints
}

func TestAStringThatIsNoUTF8HidesNoOther(t *testing.T) {
	f := newCRIO(t)
	_, bad := big(t, f, 1, 10)
	raw := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "\x0a\x02\xff\xfe") // Container.metadata.name
	status := protowire.AppendString(protowire.AppendTag(nil, 10, protowire.BytesType), "\xff\xfe")     // ContainerStatus.reason
	f.Spoil(func(_ string, reply any) error {
		switch r := reply.(type) {
		case *runtimeapi.ListContainersResponse:
			for _, l := range r.Containers {
				if l.Id == bad {
					l.ProtoReflect().SetUnknown(raw)
				}
			}
		case *runtimeapi.ContainerStatusResponse:
			if r.Status.Id == bad {
				r.Status = proto.Clone(r.Status).(*runtimeapi.ContainerStatus)
				r.Status.ProtoReflect().SetUnknown(status)
			}
		}
		return nil
	})
	c := newCollector(t, Options{Endpoint: f.Socket})
	ids := map[string]bool{}
	for got, err := range c.List(t.Context()) {
		if err == nil {
			ids[got.ID.ID] = true
		}
	}
	if ids[bad] || !ids[crioContainer] {
		t.Errorf("listed %v", ids)
	}
	if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: bad}); err != nil || len(got.Truncated) == 0 {
		t.Errorf("Lookup: %+v, %v", got, err)
	}
}

// oldCRI serves v1alpha2 alone.
func oldCRI(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pdo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		if m, _ := grpc.MethodFromServerStream(s); m != alphaVersion {
			return status.Errorf(codes.Unimplemented, "unknown method %s", m)
		}
		var req runtimeapi.VersionRequest
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		return s.SendMsg(&runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "1.5.18", RuntimeApiVersion: "v1alpha2"})
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return dir + "/s"
}

func TestAnEngineOfV1alpha2SaysWhatIsNeeded(t *testing.T) {
	c := newCollector(t, Options{Endpoint: oldCRI(t)})
	for range 2 {
		for method, err := range everyMethod(t.Context(), c) {
			if !errors.Is(err, collectors.ErrUnavailable) || !strings.Contains(err.Error(), "v1alpha2") || !strings.Contains(err.Error(), "1.6") {
				t.Errorf("%s: %v", method, err)
			}
		}
	}
}

func TestAMethodThatIsNotThereEndsNothingElse(t *testing.T) {
	f := newCRIO(t)
	f.Spoil(func(method string, _ any) error {
		if method == "ListPodSandbox" {
			return status.Error(codes.Unimplemented, "unknown method")
		}
		return nil
	})
	c := newCollector(t, Options{Endpoint: f.Socket})
	errs := everyMethod(t.Context(), c)
	for method, want := range map[string]bool{"Probe": true, "Lookup": true, "List": false, "ListPods": false, "LookupPod": false} {
		if ok := errs[method] == nil; ok != want || !ok && !errors.Is(errs[method], collectors.ErrUnavailable) {
			t.Errorf("%s: %v", method, errs[method])
		}
	}
}

func TestEnginesAreToldApartByTheirNames(t *testing.T) {
	for name, tc := range map[string]struct {
		want workload.ContainerID
		mine []workload.ContainerID
		not  []workload.ContainerID
	}{
		"containerd": {
			want: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: crioContainer},
			mine: []workload.ContainerID{{}, {Runtime: "kubernetes"}, {Runtime: "containerd"}, {Runtime: "runc", Instance: "/run/containerd/runc/k8s.io", Namespace: "k8s.io"}},
			not:  []workload.ContainerID{{Runtime: "cri-o"}, {Runtime: "docker"}, {Runtime: "containerd", Namespace: "moby"}, {Runtime: "containerd", Instance: "/run/other.sock"}, {Runtime: "runc", Namespace: "moby"}},
		},
		"cri-o": {
			want: workload.ContainerID{Runtime: "cri-o", ID: crioContainer},
			mine: []workload.ContainerID{{}, {Runtime: "kubernetes"}, {Runtime: "crun"}, {Runtime: "runc"}, {Runtime: "cri-o"}},
			not:  []workload.ContainerID{{Runtime: "containerd"}, {Runtime: "podman"}, {Runtime: "runc", Namespace: "k8s.io"}},
		},
		"docker": {
			want: workload.ContainerID{Runtime: "docker", ID: crioContainer},
			mine: []workload.ContainerID{{}, {Runtime: "docker"}, {Runtime: "containerd", Namespace: "moby"}, {Runtime: "runc", Namespace: "moby"}},
			not:  []workload.ContainerID{{Runtime: "cri-o"}, {Runtime: "containerd", Namespace: "k8s.io"}, {Runtime: "docker", Instance: "/run/other.sock"}},
		},
	} {
		f := collectortest.NewFakeCRI(t, name, "1")
		putRecorded(t, f)
		c := newCollector(t, Options{Endpoint: f.Socket})
		for _, id := range tc.mine {
			id.ID = crioContainer
			got, err := c.Lookup(t.Context(), id)
			if err != nil {
				t.Errorf("%s: %+v: %v", name, id, err)
				continue
			}
			if got.ID.Instance != "" {
				tc.want.Instance = f.Socket
			}
			if got.ID != tc.want || got.Runtime != name {
				t.Errorf("%s: %+v is %+v", name, id, got.ID)
			}
		}
		for _, id := range tc.not {
			id.ID = crioContainer
			if got, err := c.Lookup(t.Context(), id); !errors.Is(err, collectors.ErrNotMine) {
				t.Errorf("%s: %+v is %+v, %v", name, id, got, err)
			}
		}
	}
	// At their own sockets ids need no instance: they are those of the other collectors.
	for socket, name := range map[string]string{DefaultEndpoint: "containerd", "/run/crio/crio.sock": "cri-o", "/run/cri-dockerd.sock": "docker"} {
		e, err := newCollector(t, Options{Endpoint: socket}).engineOf(name, "1")
		if err != nil || e.instance != "" {
			t.Errorf("%s: %+v, %v", socket, e, err)
		}
	}
}

func TestASlowListDoesNotDelayALookup(t *testing.T) {
	f := newCRIO(t)
	held := make(chan struct{})
	f.Spoil(func(method string, _ any) error {
		if strings.HasPrefix(method, "List") {
			<-held
		}
		return nil
	})
	defer close(held)
	c := newCollector(t, Options{Endpoint: f.Socket, CallTimeout: 200 * time.Millisecond})
	ended := make(chan error, 1)
	go func() { ended <- c.Watch(t.Context(), func(collectors.Hint) {}) }()
	must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: crioContainer}))
	if err := <-ended; !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Watch of a hung list: %v", err)
	}
}
