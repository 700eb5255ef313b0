// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// podmansTruth is what podman images and podman image inspect print.
func podmansTruth(t *testing.T, e *collectortest.Podman) map[string]*workload.Image {
	t.Helper()
	want := map[string]*workload.Image{}
	ids := strings.Fields(e.Podman("images", "--no-trunc", "--quiet"))
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) == 0 {
		return want
	}
	var inspected []struct {
		ID                    string `json:"Id"`
		RepoTags, RepoDigests []string
		Size                  int64
		Os, Architecture      string
		Created               time.Time
		Labels                map[string]string
		RootFS                struct{ Layers []string }
	}
	if err := json.Unmarshal([]byte(e.Podman(append([]string{"image", "inspect"}, ids...)...)), &inspected); err != nil {
		t.Fatal(err)
	}
	for _, i := range inspected {
		out := &workload.Image{
			ID: "sha256:" + i.ID, Runtime: "podman", Instance: e.Root, Size: i.Size, OS: i.Os, Architecture: i.Architecture,
			Labels: i.Labels, Created: utc(i.Created), Names: i.RepoTags, Digests: i.RepoDigests, Layers: []workload.ImageLayer{},
		}
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		for _, d := range i.RootFS.Layers {
			out.Layers = append(out.Layers, workload.ImageLayer{Digest: d})
		}
		collectors.BoundImage(out) // in order, and without doubles
		want[out.ID] = out
	}
	return want
}

func wantPodmansTruth(t *testing.T, e *collectortest.Podman, c *Collector) map[string]*workload.Image {
	t.Helper()
	got := collectortest.Images(t, c, nil)
	bare := map[string]*workload.Image{}
	for id, i := range got {
		b := *i
		b.Layers = []workload.ImageLayer{}
		for _, l := range i.Layers {
			b.Layers = append(b.Layers, workload.ImageLayer{Digest: l.Digest})
		}
		bare[id] = &b
	}
	if d := cmp.Diff(podmansTruth(t, e), bare); d != "" {
		t.Errorf("(-podman +got):\n%s", d)
	}
	return got
}

func testImages(t *testing.T, e *collectortest.Podman) {
	c := on(t, e)
	reg := collectortest.NewRegistry(t)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	name, digest := reg.Put(collectortest.Image{Name: "web:1", Files: map[string]string{"file": file}, Cmd: []string{"/file"}, Labels: map[string]string{"v": "1"}})
	hints := make(chan collectors.Hint, 1000)
	go func() { _ = c.Watch(t.Context(), func(h collectors.Hint) { hints <- h }) }()
	collectortest.AwaitHint(t, hints, "the first look", func(h collectors.Hint) bool { return h.Kind == collectors.HintAlive })
	heard := func(what string) {
		t.Helper()
		collectortest.AwaitHint(t, hints, what, func(h collectors.Hint) bool { return h.Kind == collectors.HintImages })
	}
	before := len(wantPodmansTruth(t, e, c))
	e.Podman("pull", "--quiet", "--tls-verify=false", name)
	heard("pull")
	got := wantPodmansTruth(t, e, c)
	var pulled *workload.Image
	for _, i := range got {
		if slices.Contains(i.Names, name) {
			pulled = i
		}
	}
	if pulled == nil || !slices.Contains(pulled.Digests, strings.TrimSuffix(name, ":1")+"@"+digest) || len(got) != before+1 {
		t.Fatalf("what was pulled: %+v", pulled)
	}
	e.Podman("tag", name, "localhost/other:2")
	heard("tag")
	wantPodmansTruth(t, e, c)
	e.Podman("untag", name, name)
	heard("untag")
	wantPodmansTruth(t, e, c)
	id := e.Podman("create", "localhost/other:2")
	con, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "podman", Instance: e.Root, ID: strings.TrimSpace(id)})
	if err != nil {
		t.Fatal(err)
	}
	if con.Image.ID != pulled.ID {
		t.Errorf("the container's image is %+v", con.Image)
	}
	e.Podman("rm", strings.TrimSpace(id))
	e.Podman("rmi", "localhost/other:2")
	heard("delete")
	if got := wantPodmansTruth(t, e, c); len(got) != before {
		t.Errorf("%d images, want %d", len(got), before)
	}
}
