// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// maxImages bounds the cache; it starts anew when it is full.
const maxImages = 4096

// imageKey names an image of one namespace.
type imageKey struct{ namespace, name string }

// image is what one look at an image said. Without a digest there was none.
type image struct {
	digest string
	// updated is when the name was last given a target, read when we looked.
	updated, read time.Time
}

// holds says whether the image is the one that a container was made of: the
// name was given before, and is still the same at or after the creation. live:
// a Watch would have heard of a change since the look.
func (i image) holds(created time.Time, live bool) bool {
	return !i.updated.After(created) && (live || i.read.After(created))
}

// imageCache remembers looks at images. Watch drops what an event is about, and
// fetches it again; without a Watch an entry is good for containers older than it.
type imageCache struct {
	mu     sync.Mutex // guards all below
	images map[imageKey]image
	// changed are names that a running Watch is to fetch.
	changed map[imageKey]bool
	more    chan struct{} // holds one token if changed is not empty
}

func newImageCache() *imageCache {
	return &imageCache{images: map[imageKey]image{}, changed: map[imageKey]bool{}, more: make(chan struct{}, 1)}
}

func (x *imageCache) get(k imageKey) (image, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i, ok := x.images[k]
	return i, ok
}

// put remembers a look, unless an event made it old meanwhile.
func (x *imageCache) put(k imageKey, i image) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.changed[k] {
		return
	}
	if len(x.images) >= maxImages {
		clear(x.images)
	}
	x.images[k] = i
}

// invalidate drops an image that an event is about, to be fetched.
func (x *imageCache) invalidate(k imageKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.images, k)
	if len(x.changed) >= maxImages {
		return
	}
	x.changed[k] = true
	select {
	case x.more <- struct{}{}:
	default:
	}
}

// take gives one name to fetch.
func (x *imageCache) take() (imageKey, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k := range x.changed {
		delete(x.changed, k)
		return k, true
	}
	return imageKey{}, false
}

func (x *imageCache) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.images)
	clear(x.changed)
}

// digest gives the digest of a container's image, empty if it cannot be known.
// While a Watch runs it makes no call: the image is in the cache, or will be.
func (c *Collector) digest(ctx context.Context, n *conn, r record) string {
	if !r.CreatedAt.IsValid() {
		return ""
	}
	k, created, live := imageKey{r.namespace, r.Image}, r.CreatedAt.AsTime(), c.memory.isLive()
	i, ok := c.images.get(k)
	if (!ok || !i.holds(created, live)) && !live {
		var err error
		if i, err = c.fetchImage(ctx, n, k); err != nil {
			return ""
		}
	}
	if !i.holds(created, live) {
		return ""
	}
	return i.digest
}

// fetchImage asks for one image and remembers the answer.
func (c *Collector) fetchImage(ctx context.Context, n *conn, k imageKey) (image, error) {
	i := image{read: time.Now()}
	resp, err := n.images.Get(within(ctx, k.namespace), &imagesapi.GetImageRequest{Name: k.name})
	if err = translate("get image", err); err != nil && !errors.Is(err, collectors.ErrNotFound) {
		return image{}, err
	}
	if err == nil {
		i = imageOf(resp.Image, i.read)
	}
	c.images.put(k, i)
	return i, nil
}

func imageOf(from *imagesapi.Image, read time.Time) image {
	i := image{read: read}
	if d := from.GetTarget().GetDigest(); strings.HasPrefix(d, "sha256:") && len(d) == len("sha256:")+64 && from.GetUpdatedAt().IsValid() {
		i.digest, i.updated = d, from.UpdatedAt.AsTime()
	}
	return i
}

// warmImages lists the images once, so that starts need no call for them.
func (c *Collector) warmImages(ctx context.Context, n *conn) {
	namespaces, err := c.namespaces(ctx, n)
	if err != nil {
		return
	}
	for _, ns := range namespaces[:min(len(namespaces), maxNamespaces)] {
		read := time.Now()
		resp, err := n.images.List(within(ctx, ns), &imagesapi.ListImagesRequest{})
		if err != nil {
			c.log.Debug("images not listed", "namespace", ns, "err", err)
			continue
		}
		for _, i := range resp.Images[:min(len(resp.Images), maxImages/2)] {
			c.images.put(imageKey{ns, i.Name}, imageOf(i, read))
		}
	}
}

// followImages fetches what events name, until ctx ends.
func (c *Collector) followImages(ctx context.Context, n *conn) {
	c.warmImages(ctx, n)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.images.more:
		}
		for k, ok := c.images.take(); ok && ctx.Err() == nil; k, ok = c.images.take() {
			if _, err := c.fetchImage(ctx, n, k); err != nil {
				c.log.Debug("image not read", "image", cut(k.name), "err", err)
			}
		}
	}
}
