// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// listImages gives those of a namespace.
func listImages(t *testing.T, c *Collector, ns string) (all []*workload.Image) {
	t.Helper()
	for i, err := range c.ListImages(t.Context(), func(string) *workload.Image { return nil }) {
		if err != nil {
			t.Fatal(err)
		}
		if i.Namespace == ns {
			all = append(all, i)
		}
	}
	return all
}

// printed is what ctr images ls prints of a name: the digest and the size.
type printed struct{ Name, Digest, Size string }

func ctrImages(e *collectortest.Containerd, ns string) (out []printed) {
	for line := range strings.Lines(e.Ctr("--namespace", ns, "images", "ls")) {
		if f := strings.Fields(line); len(f) > 4 && f[0] != "REF" && !strings.HasPrefix(f[0], "sha256:") {
			out = append(out, printed{f[0], f[2], f[3] + " " + f[4]})
		}
	}
	return out
}

// human prints a size as ctr does.
func human(n int64) string {
	size, units := float64(n), []string{"B", "KiB", "MiB", "GiB"}
	for size >= 1024 && len(units) > 1 {
		size, units = size/1024, units[1:]
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
}

// wantTruth fails unless the images of a namespace are those that ctr prints, with
// the ids, layers and platforms that are in the content that it gives.
func wantTruth(t *testing.T, e *collectortest.Containerd, c *Collector, ns string) {
	t.Helper()
	var got []printed
	for _, i := range listImages(t, c, ns) {
		for _, name := range i.Names {
			repository := name[:strings.LastIndexByte(name, ':')]
			for _, d := range i.Digests {
				if r, digest, _ := strings.Cut(d, "@"); r == repository {
					got = append(got, printed{name, digest, human(i.Size)})
				}
			}
		}
		want := e.ImageFromContent(ns, strings.SplitN(i.Digests[0], "@", 2)[1])
		want.Names, want.Digests = i.Names, i.Digests // which ctrImages has
		if d := cmp.Diff(want, i); d != "" {
			t.Errorf("%v (-content +got):\n%s", i.Names, d)
		}
	}
	slices.SortFunc(got, func(a, b printed) int { return strings.Compare(a.Name, b.Name) })
	if d := cmp.Diff(ctrImages(e, ns), got); d != "" {
		t.Errorf("%s (-ctr +got):\n%s", ns, d)
	}
}

func aSmallImage(t *testing.T, name string, labels map[string]string) collectortest.Image {
	t.Helper()
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
	return collectortest.Image{Name: name, Files: map[string]string{"file": file}, Cmd: []string{"/file"}, Labels: labels}
}

func TestImagesAreThoseThatCtrPrints(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	e.ImportBusybox("other")
	reg := collectortest.NewRegistry(t)
	c := newCollector(t, Options{Address: e.Address})
	said := make(chan *workload.Image, 100)
	now := map[string]*workload.Image{}
	s, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{c},
		OnImage: func(_ string, i *workload.Image, gone bool) {
			if gone {
				i = &workload.Image{ID: i.ID, Runtime: i.Runtime, Instance: i.Instance, Namespace: i.Namespace}
			}
			said <- i
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	until := func(what string, fits func() bool) {
		t.Helper()
		for late := time.After(20 * time.Second); !fits(); {
			select {
			case i := <-said:
				now[i.Key()] = i
			case <-late:
				t.Fatalf("%s: not followed: %v", what, now)
			}
		}
		wantTruth(t, e, c, "default")
	}
	in := func(ns, name string) *workload.Image {
		for _, i := range now {
			if i.Namespace == ns && slices.Contains(i.Names, name) {
				return i
			}
		}
		return nil
	}
	until("the start", func() bool {
		return in("default", collectortest.BusyboxImage) != nil && in("other", collectortest.BusyboxImage) != nil
	})
	wantTruth(t, e, c, "other")

	name, digest := reg.Put(aSmallImage(t, "web:1", map[string]string{"v": "1"}))
	e.Ctr("images", "pull", "--plain-http", name)
	until("pull", func() bool { return in("default", name) != nil })
	pulled := in("default", name)
	if !slices.Equal(pulled.Digests, []string{strings.TrimSuffix(name, ":1") + "@" + digest}) || pulled.Labels["v"] != "1" {
		t.Errorf("what was pulled: %+v", pulled)
	}
	e.Ctr("images", "tag", name, "registry.test/other:1")
	until("tag", func() bool { i := in("default", "registry.test/other:1"); return i != nil && i.ID == pulled.ID })
	e.Ctr("images", "rm", name)
	until("untag", func() bool { return in("default", name) == nil })
	reg.Put(aSmallImage(t, "web:1", map[string]string{"v": "2"}))
	e.Ctr("images", "pull", "--plain-http", name)
	until("a pull of another image", func() bool { i := in("default", name); return i != nil && i.Labels["v"] == "2" })
	e.Ctr("images", "rm", name)
	until("delete", func() bool { return in("default", name) == nil })

	// A container leads to its image by the digest.
	e.Run("default", collectortest.BusyboxImage, "linked", "sleep", "3600")
	con, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "linked"})
	if err != nil {
		t.Fatal(err)
	}
	if i := in("default", con.Image.Name); i == nil || !strings.HasSuffix(i.Digests[0], "@"+con.Image.Digest) {
		t.Errorf("the container's image is %+v, listed is %+v", con.Image, i)
	}
}

func TestReferencesOfAnImage(t *testing.T) {
	const digest = "sha256:aa"
	for name, want := range map[string]*workload.Image{
		"docker.io/library/box:1":            {Names: []string{"docker.io/library/box:1"}, Digests: []string{"docker.io/library/box@sha256:aa"}},
		"reg:5000/box":                       {Names: []string{"reg:5000/box"}, Digests: []string{"reg:5000/box@sha256:aa"}},
		"docker.io/library/box@sha256:aa":    {Digests: []string{"docker.io/library/box@sha256:aa"}},
		"docker.io/library/box@sha256:other": {},
		"sha256:cc":                          {},
		"":                                   {Names: []string{""}},
	} {
		got := &workload.Image{}
		if addReference(got, name, digest); cmp.Diff(want, got) != "" {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

func TestOfAnIndexThePlatformOfThisHostIsTaken(t *testing.T) {
	platform := func(n int, os, arch, variant string) descriptor {
		return descriptor{Digest: fmt.Sprintf("sha256:%064x", n), Platform: &struct{ OS, Architecture, Variant string }{os, arch, variant}}
	}
	arch := runtime.GOARCH
	for what, tc := range map[string]struct {
		list []descriptor
		want int
	}{
		"one of several":                {[]descriptor{platform(1, "linux", "s390x", ""), platform(2, "linux", arch, ""), platform(3, "unknown", "unknown", "")}, 2},
		"the plain one of its variants": {[]descriptor{platform(1, "linux", arch, "v3"), platform(2, "linux", arch, "")}, 2},
		"a variant where there is one":  {[]descriptor{platform(1, "linux", arch, "v3")}, 1},
		"two alike":                     {[]descriptor{platform(1, "linux", arch, ""), platform(2, "linux", arch, "")}, 0},
		"none":                          {[]descriptor{platform(1, "windows", arch, ""), {Digest: "sha256:x"}}, 0},
		"no digest":                     {[]descriptor{{Digest: "../x", Platform: platform(1, "linux", arch, "").Platform}}, 0},
	} {
		got, err := ours(tc.list)
		if tc.want == 0 && err == nil || tc.want != 0 && got.Digest != fmt.Sprintf("sha256:%064x", tc.want) {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
	}
}

// What cannot be looked into is known by its target, and hides no other.
func TestAnImageWithoutItsContentIsKnownByItsDigest(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	reg := collectortest.NewRegistry(t)
	name, digest := reg.Put(aSmallImage(t, "broken:1", nil))
	e.Ctr("images", "pull", "--plain-http", name)
	c := newCollector(t, Options{Address: e.Address})
	n, err := c.connect()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := c.lookInto(t.Context(), n, "default", &types.Descriptor{Digest: digest, Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.Ctr("content", "rm", whole.id)
	c = newCollector(t, Options{Address: e.Address})
	var got *workload.Image
	all := listImages(t, c, "default")
	for _, i := range all {
		if slices.Contains(i.Names, name) {
			got = i
		}
	}
	if got == nil || got.ID != digest || got.Size != 0 || got.Layers != nil || got.OS != "" || len(all) != 2 {
		t.Errorf("%+v, %d images", got, len(all))
	}
}
