// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

var imagesOnly = workload.Selector{Kinds: []workload.Kind{workload.KindImage}}

func imageSource() *collectortest.FakeImages {
	f := collectortest.NewFakeImages("docker")
	f.PutImage(&workload.Image{Runtime: "docker", ID: "sha256:aa", Names: []string{"web:1"}})
	f.PutImage(&workload.Image{Runtime: "docker", ID: "sha256:bb", Names: []string{"db:1"}, Labels: map[string]string{"team": "blue"}})
	return f
}

func TestImagesAreListedAndWatched(t *testing.T) {
	f := imageSource()
	a := start(t, Options{Collectors: []collectors.Collector{f}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	want := "image docker://sha256:cc"
	put := false
	hints := make(chan struct{})
	go func() { // hints are lossy: until one is heard
		defer close(hints)
		for ctx.Err() == nil {
			f.Emit(collectors.Hint{Kind: collectors.HintImages})
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	defer func() { cancel(); <-hints }()
	for batch := range a.Watch(ctx, imagesOnly) {
		for _, c := range batch {
			if c.Type == workload.ChangeSet && c.Entity.Key() == want {
				want = ""
			}
		}
		if want == "" {
			break
		}
		if !put && len(keys(a.List(ctx, imagesOnly))) == 2 {
			f.PutImage(&workload.Image{Runtime: "docker", ID: "sha256:cc"})
			put = true
		}
	}
	if want != "" {
		t.Fatal("the image that came is not said")
	}
	if s := a.Status(); s.Images != 3 || s.Sources[0].Entities != 3 {
		t.Errorf("%d images, %d entities of the source", s.Images, s.Sources[0].Entities)
	}
}

func TestOneLookAtTheHostHasItsImages(t *testing.T) {
	f := imageSource()
	f.Set(collectortest.Behaviour{Delay: 200 * time.Millisecond, Only: []string{"list-images"}})
	a := start(t, Options{OneShot: true, Collectors: []collectors.Collector{f}})
	if got := keys(a.List(t.Context(), imagesOnly)); len(got) != 2 {
		t.Errorf("%q", got)
	}
	off := start(t, Options{OneShot: true, NoImages: true, Collectors: []collectors.Collector{imageSource()}})
	if got := keys(off.List(t.Context(), imagesOnly)); len(got) != 0 {
		t.Errorf("%q, though images are off", got)
	}
}

func TestFiltersMeanImages(t *testing.T) {
	s := store.New(store.Options{})
	for _, i := range []*workload.Image{
		{Runtime: "docker", ID: "sha256:aa", Names: []string{"registry.test/web:1", "web:2"}, Digests: []string{"web@sha256:d1"}},
		{Runtime: "containerd", Namespace: "k8s.io", ID: "sha256:bb", Names: []string{"docker.io/library/nginx:1"}, Labels: map[string]string{"team": "blue"}},
	} {
		s.Apply(store.Change{Image: &store.ImageChange{Key: i.Key(), Source: "x", Layer: i}})
	}
	all := []string{"image containerd://k8s.io/sha256:bb", "image docker://sha256:aa"}
	for what, tc := range map[string]struct {
		include, exclude, hide workload.Filter
		want                   []string
	}{
		"nothing asked":                {want: all},
		"a name":                       {include: workload.Filter{Images: []string{"web:2"}}, want: all[1:]},
		"a name without its tag":       {include: workload.Filter{Images: []string{"nginx"}}, want: all[:1]},
		"an id":                        {include: workload.Filter{Images: []string{"sha256:aa"}}, want: all[1:]},
		"a digest":                     {include: workload.Filter{Images: []string{"web@sha256:d1"}}, want: all[1:]},
		"a label":                      {include: workload.Filter{Labels: []string{"team=blue"}}, want: all[:1]},
		"a namespace":                  {exclude: workload.Filter{Namespaces: []string{"k8s.io"}}, want: all[1:]},
		"the name of a container":      {include: workload.Filter{Names: []string{"web*"}}},
		"hidden by the configuration":  {hide: workload.Filter{Images: []string{"*/web"}}, want: all[:1]},
		"hidden, and asked for anyway": {include: workload.Filter{Images: []string{"web:2"}}, hide: workload.Filter{Images: []string{"*/web"}}},
	} {
		m, err := filter.New(workload.Filter{}, tc.hide)
		if err != nil {
			t.Fatal(err)
		}
		sel := imagesOnly
		sel.Include, sel.Exclude = tc.include, tc.exclude
		if got := keys(sight{s, m}.list(sel)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", what, got, tc.want)
		}
	}
}
