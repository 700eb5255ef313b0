// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

func setImage(source string, l *workload.Image) Change {
	return Change{Image: &ImageChange{Key: l.Key(), Source: source, Layer: l}}
}

func imageGone(source string, l *workload.Image) Change {
	return Change{Image: &ImageChange{Key: l.Key(), Source: source}}
}

func imageNames(s *Store, all bool) (out []string) {
	for e := range s.All(workload.Selector{Kinds: []workload.Kind{workload.KindImage}, All: all}) {
		out = append(out, fmt.Sprintf("%s %v gone=%v", e.Image.Key(), e.Image.Names, e.Gone))
	}
	slices.Sort(out)
	return out
}

func TestTheLifeOfAnImage(t *testing.T) {
	s := New(Options{Grace: 100})
	s.SetAsOf(10)
	a := &workload.Image{Runtime: "docker", ID: "sha256:aa", Names: []string{"a:1"}, Size: 7}
	// The same id in another engine's store is another image.
	b := &workload.Image{Runtime: "podman", ID: "sha256:aa", Names: []string{"localhost/a:1"}, Size: 9}
	s.Apply(setImage("docker", a), setImage("podman", b))
	want := []string{"docker://sha256:aa [a:1] gone=false", "podman://sha256:aa [localhost/a:1] gone=false"}
	if d := cmp.Diff(want, imageNames(s, false)); d != "" {
		t.Error(d)
	}
	rev := s.Revision()
	s.Apply(setImage("docker", &workload.Image{Runtime: "docker", ID: "sha256:aa", Names: []string{"a:1"}, Size: 7}))
	if s.Revision() != rev {
		t.Error("the same again is news")
	}
	s.Apply(imageGone("docker", a))
	if d := cmp.Diff([]string{"docker://sha256:aa [a:1] gone=true", want[1]}, imageNames(s, true)); d != "" {
		t.Error(d)
	}
	if c := s.Counts(); c.Images != 1 || c.ImageTombstones != 1 {
		t.Errorf("%+v", c)
	}
	tagged := *a
	tagged.Names = []string{"a:2"}
	s.Apply(setImage("docker", &tagged)) // pulled again
	if d := cmp.Diff([]string{"docker://sha256:aa [a:2] gone=false", want[1]}, imageNames(s, false)); d != "" {
		t.Error(d)
	}
	s.Apply(imageGone("docker", a), expire(109))
	if _, ok := s.Image(a.Key()); !ok {
		t.Error("gone before its time")
	}
	s.Apply(expire(111))
	if _, ok := s.Image(a.Key()); ok || s.Counts().ImageTombstones != 0 {
		t.Errorf("kept beyond its time: %+v", s.Counts())
	}
}

func TestTheCRIAndContainerdDescribeOneImage(t *testing.T) {
	s := New(Options{})
	said := workload.Image{Runtime: "containerd", Namespace: "k8s.io", ID: "sha256:aa"}
	cri, low := said, said
	cri.Names, cri.Size = []string{"docker.io/library/a:1"}, 7
	low.Names, low.Size, low.OS, low.Truncated = []string{"docker.io/library/a:1", "other"}, 8, "linux", []string{"names"}
	low.Layers = []workload.ImageLayer{{Digest: "sha256:l", Size: 5}}
	s.Apply(setImage("containerd", &low), setImage("cri", &cri))
	want := cri
	want.OS, want.Layers, want.Truncated = low.OS, low.Layers, low.Truncated
	want.Sources = []workload.Provenance{{Source: "containerd"}, {Source: "cri"}}
	if got, _ := s.Image(said.Key()); cmp.Diff(&want, got) != "" {
		t.Error(cmp.Diff(&want, got))
	}
	s.Apply(imageGone("cri", &said))
	if got, _ := s.Image(said.Key()); got.Size != 8 || s.Counts().Images != 1 {
		t.Errorf("%+v", got)
	}
}

func TestImagesWithoutAKeyAreRejected(t *testing.T) {
	s := New(Options{})
	s.Apply(Change{Image: &ImageChange{Source: "docker", Layer: &workload.Image{}}}, imageGone("docker", &workload.Image{ID: "sha256:never"}))
	if c := s.Counts(); c.Images != 0 || c.Rejected != 2 {
		t.Errorf("%+v", c)
	}
}

// A reader who is behind is told of an end whose tombstone was dropped since, of
// every kind.
func TestADroppedEndHasItsName(t *testing.T) {
	s := New(Options{Grace: 1})
	s.SetAsOf(1)
	i := &workload.Image{Runtime: "docker", Instance: "/run/d.sock", ID: "sha256:aa", Names: []string{"a:1"}}
	s.Apply(setImage("docker", i), aUnit("web.service", "active"))
	w := newWalker(s, workload.Selector{Kinds: []workload.Kind{workload.KindImage, workload.KindService}, From: s.Revision()})
	s.Apply(imageGone("docker", i), unitGone("web.service", 1))
	to := s.Revision()
	s.Apply(expire(100))
	if _, _, ok := w.pin(context.Background()); !ok {
		t.Fatal("no window")
	}
	var windows [maxLogs]*logWindow
	for n, l := range w.logs {
		windows[n] = l.window.Load()
	}
	hits, _ := w.walk(windows, to, maxBatch)
	var got []workload.Entity
	for _, h := range hits {
		e := h.st.entity
		e.Revision = 0
		got = append(got, e)
	}
	want := []workload.Entity{
		{Kind: workload.KindImage, Gone: true, Image: &workload.Image{Runtime: "docker", Instance: "/run/d.sock", ID: "sha256:aa"}},
		{Kind: workload.KindService, Gone: true, Service: &workload.Service{Unit: "web.service", Cgroup: "/system.slice/web.service"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
