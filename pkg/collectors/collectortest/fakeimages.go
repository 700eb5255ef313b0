// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// FakeImages is a Fake that knows images too. It fails as its Behaviour says, by
// the method list-images.
type FakeImages struct {
	*Fake

	mu     sync.Mutex // guards all below
	images map[string]*workload.Image
	broken map[string]error
	asked  int
}

var _ collectors.ImageCollector = (*FakeImages)(nil)

// NewFakeImages makes an empty source that works.
func NewFakeImages(name string) *FakeImages {
	return &FakeImages{Fake: NewFake(name), images: map[string]*workload.Image{}, broken: map[string]error{}}
}

// PutImage adds or replaces an image, without a hint.
func (f *FakeImages) PutImage(i *workload.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[i.Key()] = i
}

// DropImage removes an image, without a hint.
func (f *FakeImages) DropImage(i *workload.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.images, i.Key())
}

// BreakImage has lists give an error for an image; nil ends that.
func (f *FakeImages) BreakImage(i *workload.Image, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[i.Key()] = err
}

// Asked is how many images it was asked about beyond the list: those not known.
func (f *FakeImages) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// ListImages implements collectors.ImageCollector, in the order of the keys.
func (f *FakeImages) ListImages(ctx context.Context, known func(string) *workload.Image) iter.Seq2[*workload.Image, error] {
	return func(yield func(*workload.Image, error) bool) {
		if _, err := f.enter(ctx, "list-images"); err != nil {
			yield(nil, err)
			return
		}
		f.mu.Lock()
		images, broken := maps.Clone(f.images), maps.Clone(f.broken)
		f.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(images)) {
			i := *images[key]
			if known(key) == nil {
				f.mu.Lock()
				f.asked++
				f.mu.Unlock()
			}
			if err := broken[key]; err != nil {
				if !yield(nil, err) {
					return
				}
				continue
			}
			collectors.BoundImage(&i)
			if !yield(&i, nil) {
				return
			}
		}
	}
}

// Images gives what a collector lists, by id. known is what it is told to know, nil
// for nothing.
func Images(t testing.TB, c collectors.ImageCollector, known func(key string) *workload.Image) map[string]*workload.Image {
	t.Helper()
	if known == nil {
		known = func(string) *workload.Image { return nil }
	}
	got := map[string]*workload.Image{}
	for i, err := range c.ListImages(t.Context(), known) {
		if err != nil {
			t.Fatal(err)
		}
		got[i.ID] = i
	}
	return got
}

// ImageFromContent describes an image by what ctr content get gives of a manifest,
// without the names by which it is known.
func (e *Containerd) ImageFromContent(namespace, manifest string) *workload.Image {
	e.tb.Helper()
	get := func(digest string, v any) int64 {
		text := e.Ctr("--namespace", namespace, "content", "get", digest)
		if err := json.Unmarshal([]byte(text), v); err != nil {
			e.tb.Fatalf("%s: %v", digest, err)
		}
		return int64(len(text))
	}
	var m struct {
		Config struct{ Digest string }
		Layers []struct {
			Digest string
			Size   int64
		}
	}
	var cfg struct {
		OS, Architecture string
		Config           struct{ Labels map[string]string }
		Rootfs           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	out := &workload.Image{Runtime: "containerd", Instance: e.Address, Namespace: namespace, Size: get(manifest, &m)}
	out.Size += get(m.Config.Digest, &cfg)
	out.ID, out.OS, out.Architecture, out.Labels = m.Config.Digest, cfg.OS, cfg.Architecture, cfg.Config.Labels
	for n, l := range m.Layers {
		out.Layers = append(out.Layers, workload.ImageLayer{Digest: cfg.Rootfs.DiffIDs[n], Blob: l.Digest, Size: l.Size})
		out.Size += l.Size
	}
	return out
}
