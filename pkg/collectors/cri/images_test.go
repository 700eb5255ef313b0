// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// What the CRI says of an image is what containerd's content holds, but for the blobs,
// of which the CRI says nothing. An image that was pulled unheard is found with its
// first container.
func TestImagesOfTheCRIAreThoseOfTheEngine(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	reg := collectortest.NewRegistry(t)
	c := newCollector(t, Options{Endpoint: e.Address, Interval: 200 * time.Millisecond})
	busybox := must[collectortest.Image](t)(collectortest.Busybox())
	busybox.Name, busybox.Labels = "web:1", map[string]string{"v": "1"}
	name, digest := reg.Put(busybox)

	said := make(chan *workload.Image, 100)
	s, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{c},
		OnImage:    func(_ string, i *workload.Image, _ bool) { said <- i },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	await := func(name string) *workload.Image {
		t.Helper()
		for late := time.After(20 * time.Second); ; {
			select {
			case i := <-said:
				if slices.Contains(i.Names, name) {
					return i
				}
			case <-late:
				t.Fatalf("%s is not said", name)
			}
		}
	}
	await(collectortest.BusyboxImage)

	// The CRI knows the digest of what it pulled itself; plainly from this very host.
	must[*runtimeapi.PullImageResponse](t)(e.Images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}}))
	p := newPod(false)
	sandbox := must[string](t)(e.RunPod(t.Context(), p))
	id := must[string](t)(e.RunContainer(t.Context(), sandbox, p, collectortest.ContainerConfig{Name: "main", Image: name, Command: []string{"sleep", "3600"}}))
	got := await(name)
	want := e.ImageFromContent("k8s.io", digest)
	want.Names, want.Digests = []string{name}, []string{strings.TrimSuffix(name, ":1") + "@" + digest}
	for n := range want.Layers {
		want.Layers[n].Blob, want.Layers[n].Size = "", 0
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-content +got):\n%s", d)
	}
	f, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "k8s.io", ID: id})
	// containerd 1.6 gives a container its image's digest, and no id.
	if err != nil || f.Image.Digest != digest || f.Image.ID != "" && f.Image.ID != got.ID {
		t.Errorf("its container has the image %+v, %v; want %s", f.Image, err, digest)
	}
}

// What is known of an image is not asked for again.
func TestAnImageIsLookedIntoOnce(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Endpoint: e.Address})
	first := collectortest.Images(t, c, nil)
	if len(first) < 2 {
		t.Fatalf("%d images, there are at least two", len(first))
	}
	known := func(key string) *workload.Image {
		for _, i := range first {
			if i.Key() == key {
				j := *i
				j.OS = "as it was known"
				return &j
			}
		}
		t.Errorf("%s was not there before", key)
		return nil
	}
	for _, i := range collectortest.Images(t, c, known) {
		if i.OS != "as it was known" {
			t.Errorf("%v was looked into again: OS %q", i.Names, i.OS)
		}
	}
}

// CRI-O's ids have no algorithm, and an image without a name is listed with one of none.
func TestAnImageAsCRIOListsIt(t *testing.T) {
	id := strings.Repeat("4f", 32)
	e := engine{name: engineCRIO}
	got := imageListed(e, &runtimeapi.Image{Id: id, RepoTags: []string{"<none>:<none>", "quay.io/web:1"}, RepoDigests: []string{"quay.io/web@sha256:" + id}, Size: 7})
	want := &workload.Image{ID: "sha256:" + id, Runtime: "cri-o", Names: []string{"quay.io/web:1"}, Digests: []string{"quay.io/web@sha256:" + id}, Size: 7}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{"", "../etc", "sha256:4f", strings.Repeat("x", 1<<20)} {
		if i := imageListed(e, &runtimeapi.Image{Id: bad}); i != nil {
			t.Errorf("an id of %.20q is taken", bad)
		}
	}
}
