// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// imageEvery is how often images are listed where no hint says that they may be
	// others: a build without a tag makes no event.
	imageEvery = 5 * time.Minute
	// maxImagePause bounds the pause after a list that failed.
	maxImagePause = 30 * time.Second
)

// followImages lists the images once the containers have been listed, some time
// after each hint, and at intervals, until ctx ends. A list that fails is no
// reason to end the session: containers do not need it.
func (m *member) followImages(ctx context.Context, ic ImageCollector) {
	pause := time.Duration(0) // the first list is due
	for {
		due := time.NewTimer(beat.Until(imageEvery))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-m.images:
		case <-due.C:
		}
		due.Stop()
		sleep(ctx, pause)
		select {
		case <-m.images: // of the burst that this list is for
		default:
		}
		if ctx.Err() != nil {
			signal(m.images) // the next session's
			return
		}
		err := m.listImages(ctx, ic)
		m.triedImages()
		if err == nil || ctx.Err() != nil {
			pause = m.opts.ImageDelay
			continue
		}
		m.failed(fmt.Errorf("list images: %w", err))
		pause = min(max(2*pause, time.Second), maxImagePause)
		signal(m.images)
	}
}

func (m *member) triedImages() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.imagesListed = true
}

func (m *member) owesImages() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return (m.status.State == stateRunning || m.begun) && !m.imagesListed
}

// listImages hands out what a list says that is news. An error about one image
// hides no other; without the whole list nothing follows from an absence.
func (m *member) listImages(ctx context.Context, ic ImageCollector) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.ListTimeout)
	defer cancel()
	m.count(countListImages)
	listed := map[string]bool{}
	complete := true
	var broken error
	err := m.contain("list images", func() error {
		for i, err := range ic.ListImages(ctx, func(key string) *workload.Image { return m.stored[key] }) {
			if err != nil || i == nil || i.ID == "" {
				complete = false
				broken = errors.Join(broken, m.listError(err))
				continue
			}
			listed[i.Key()] = true
			m.imageListed(i)
		}
		return nil
	})
	if err = errors.Join(broken, err, ctx.Err()); err != nil {
		return err
	}
	m.contact()
	if !complete {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(m.stored)) {
		if !listed[key] {
			gone := m.stored[key]
			delete(m.stored, key)
			m.opts.OnImage(m.name, gone, true)
		}
	}
	return nil
}

// imageListed hands on an image that is not as it was, and counts it, once, where
// it had to be cut.
func (m *member) imageListed(i *workload.Image) {
	was := m.stored[i.Key()]
	if was != nil && reflect.DeepEqual(was, i) {
		return
	}
	m.stored[i.Key()] = i
	if len(i.Truncated) > 0 && (was == nil || !slices.Equal(was.Truncated, i.Truncated)) {
		m.failed(fmt.Errorf("image %.80q has more than is kept, cut: %s", i.ID, strings.Join(i.Truncated, ", ")))
	}
	m.opts.OnImage(m.name, i, false)
}

// BoundImage cuts an image's description to the default Bounds.
func BoundImage(i *workload.Image) { Bounds{}.ApplyImage(i) }

// ApplyImage does for an image what Apply does for a container. Its id and its
// store are left alone: a collector takes no image without a valid id. Names and
// digests are sorted first, so that what stays is always the same.
func (b Bounds) ApplyImage(i *workload.Image) {
	if i == nil {
		return
	}
	b = b.withDefaults()
	t := trimmer{left: b.Total}
	i.Names = b.references(&t, "names", i.Names)
	i.Digests = b.references(&t, "digests", i.Digests)
	layers := each(&t, "layers", i.Layers, b.Mounts, func(l *workload.ImageLayer) {
		t.text("layers", &l.Digest, b.Name)
		t.text("layers", &l.Blob, b.Name)
	})
	i.Layers = within(&t, "layers", layers, b.Bytes, func(l workload.ImageLayer) int { return len(l.Digest) + len(l.Blob) })
	t.text("os", &i.OS, b.Name)
	t.text("architecture", &i.Architecture, b.Name)
	t.text("variant", &i.Variant, b.Name)
	i.Labels = b.dict(&t, "labels", i.Labels)
	i.Truncated = t.truncated(i.Truncated)
}

// references bounds names of an image. One that is too long is left out: cut, it
// would be another's.
func (b Bounds) references(t *trimmer, field string, in []string) []string {
	in = slices.Compact(slices.Sorted(slices.Values(in)))
	kept := in[:0]
	for _, ref := range in {
		if !fits(b.Image, ref) {
			t.mark(field)
			continue
		}
		kept = append(kept, ref)
	}
	if len(kept) == 0 {
		return nil
	}
	return within(t, field, head(t, field, kept, b.Entries), b.Bytes, func(s string) int { return len(s) })
}
