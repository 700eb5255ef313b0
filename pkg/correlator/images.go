// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"context"
	"time"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// evImage is what a source says of an image, or that it has it no more.
type evImage struct {
	source int
	image  *workload.Image
	gone   bool
}

// image puts down what a source says. Nothing is joined with it, and nobody's
// identity comes from it: the machine keeps nothing of images.
func (m *machine) image(e evImage) {
	name := m.cfg.sources[e.source].name
	ch := &store.ImageChange{Key: e.image.Key(), Source: name}
	if !e.gone {
		l := *e.image // a shallow copy: its parts stay as the source made them
		l.Sources = []workload.Provenance{{Source: name, At: m.now}}
		ch.Layer = &l
	}
	m.out.changes = append(m.out.changes, store.Change{Image: ch})
}

// imagePatience is how long AwaitImages waits.
const imagePatience = 5 * time.Second

// AwaitImages waits until the sources that are there have listed their images once,
// and not for ever. Nothing else waits for them.
func (c *Correlator) AwaitImages(ctx context.Context) {
	late := time.After(imagePatience)
	for !c.sup.ImagesListed() {
		select {
		case <-ctx.Done():
			return
		case <-late:
			return
		case <-time.After(readyTick):
		}
	}
}
