// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxBlob bounds a manifest, an index or a configuration, as registries do.
const maxBlob = 4 << 20

// ListImages implements collectors.ImageCollector. For containerd an image is a name
// and the digest of an index or a manifest; here, as for the CRI and nerdctl, it is
// the configuration that this host's platform has in there, with all its names: one
// call for each namespace, and up to three for each digest that was not looked into.
func (c *Collector) ListImages(ctx context.Context, _ func(string) *workload.Image) iter.Seq2[*workload.Image, error] {
	return func(yield func(*workload.Image, error) bool) {
		c.eachNamespace(ctx, func(err error) bool { return yield(nil, err) }, func(n *conn, ns string) bool {
			images, err := c.imagesOf(ctx, n, ns)
			if err != nil && !yield(nil, err) {
				return false
			}
			for _, i := range images {
				if !yield(i, nil) {
					return false
				}
			}
			return true
		})
	}
}

// imagesOf lists the images of one namespace.
func (c *Collector) imagesOf(ctx context.Context, n *conn, ns string) ([]*workload.Image, error) {
	resp, err := n.images.List(within(ctx, ns), &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, translate("list images of "+ns, err)
	}
	slices.SortFunc(resp.Images, func(a, b *imagesapi.Image) int { return strings.Compare(a.Name, b.Name) })
	var all []*workload.Image
	byID := map[string]*workload.Image{}
	targets := map[string]bool{}
	for _, record := range resp.Images {
		target := record.GetTarget()
		if !isDigest(target.GetDigest()) {
			continue
		}
		targets[target.Digest] = true
		what, err := c.lookInto(ctx, n, ns, target)
		if err != nil {
			return nil, err
		}
		i := byID[what.id]
		if i == nil {
			i = &workload.Image{
				ID: what.id, Runtime: runtimeName, Instance: c.instance, Namespace: ns, Size: what.size, Layers: what.layers,
				OS: what.os, Architecture: what.architecture, Variant: what.variant, Labels: what.labels, Created: what.created,
			}
			byID[what.id] = i
			all = append(all, i)
		}
		addReference(i, record.Name, target.Digest)
	}
	c.contents.keep(ns, targets)
	for _, i := range all {
		collectors.BoundImage(i)
	}
	return all, nil
}

// addReference notes a name of an image. The CRI gives names to digests and ids, too.
func addReference(i *workload.Image, name, digest string) {
	repository, of, byDigest := strings.Cut(name, "@")
	switch {
	case strings.HasPrefix(name, sha256Prefix):
		return
	case byDigest && of != digest:
		return // not what it says
	case !byDigest:
		i.Names = append(i.Names, name)
		if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
			repository = name[:at]
		}
	}
	if repository != "" {
		i.Digests = append(i.Digests, repository+"@"+digest)
	}
}

// insight is what an image of a digest is made of. It is the same for ever.
type insight struct {
	id                        string
	size                      int64
	layers                    []workload.ImageLayer
	os, architecture, variant string
	labels                    map[string]string
	created                   time.Time
}

type insightKey struct{ namespace, target string }

// insights remembers what was looked into, for what a digest stands for does not
// change. What a list does not have any more is dropped.
type insights struct {
	mu   sync.Mutex // guards all below
	seen map[insightKey]*insight
}

func (x *insights) get(k insightKey) *insight {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen[k]
}

func (x *insights) put(k insightKey, i *insight) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen == nil {
		x.seen = map[insightKey]*insight{}
	}
	x.seen[k] = i
}

// keep drops those of a namespace that are not among the targets.
func (x *insights) keep(namespace string, targets map[string]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k := range x.seen {
		if k.namespace == namespace && !targets[k.target] {
			delete(x.seen, k)
		}
	}
}

// errNoInsight means that an image cannot be looked into: its content is not all
// here, it is for other platforms, or it is no image of containers.
var errNoInsight = errors.New("not to be looked into")

// lookInto says what an image is made of. One that cannot be looked into is known
// by its target alone.
func (c *Collector) lookInto(ctx context.Context, n *conn, ns string, target *types.Descriptor) (*insight, error) {
	k := insightKey{ns, target.Digest}
	if i := c.contents.get(k); i != nil {
		return i, nil
	}
	i, err := c.open(within(ctx, ns), n, target)
	switch {
	case err == nil:
		c.contents.put(k, i)
		return i, nil
	case ctx.Err() != nil || errors.Is(err, collectors.ErrUnavailable):
		return nil, fmt.Errorf("image %s: %w: %w", target.Digest, collectors.ErrUnavailable, err)
	}
	return &insight{id: target.Digest}, nil
}

// descriptor is that of the OCI's image-spec, as far as it is read.
type descriptor struct {
	Digest   string
	Size     int64
	Platform *struct{ OS, Architecture, Variant string }
}

// manifest is an index or a manifest.
type manifest struct {
	Manifests []descriptor
	Config    *descriptor
	Layers    []descriptor
}

// configuration is an image's.
type configuration struct {
	OS, Architecture, Variant string

	Created *time.Time
	Config  struct{ Labels map[string]string }
	RootFS  struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

// open reads the manifest for this platform and its configuration. The size is what
// ctr counts: of all that it came by, index and manifest among it.
func (c *Collector) open(ctx context.Context, n *conn, target *types.Descriptor) (*insight, error) {
	var m manifest
	if err := read(ctx, n, target.Digest, &m); err != nil {
		return nil, err
	}
	size := target.Size
	if m.Config == nil {
		one, err := ours(m.Manifests)
		if err != nil {
			return nil, err
		}
		m, size = manifest{}, size+one.Size
		if err := read(ctx, n, one.Digest, &m); err != nil {
			return nil, err
		}
	}
	if m.Config == nil || !isDigest(m.Config.Digest) {
		return nil, errNoInsight
	}
	var cfg configuration
	if err := read(ctx, n, m.Config.Digest, &cfg); err != nil {
		return nil, err
	}
	i := &insight{
		id: m.Config.Digest, size: size + m.Config.Size, os: cfg.OS, architecture: cfg.Architecture, variant: cfg.Variant,
		labels: cfg.Config.Labels, layers: []workload.ImageLayer{},
	}
	if i.labels == nil {
		i.labels = map[string]string{}
	}
	if cfg.Created != nil {
		i.created = cfg.Created.UTC()
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) || len(m.Layers) == 0 || cfg.OS == "" {
		return nil, errNoInsight // a chart, or whatever else registries keep
	}
	for at, l := range m.Layers {
		i.size += l.Size
		i.layers = append(i.layers, workload.ImageLayer{Digest: cfg.RootFS.DiffIDs[at], Blob: l.Digest, Size: l.Size})
	}
	return i, nil
}

// ours gives the manifest for the platform of this host, if it is certain which one
// that is: of several variants the plain one.
func ours(list []descriptor) (descriptor, error) {
	var found []descriptor
	for _, d := range list {
		if p := d.Platform; isDigest(d.Digest) && p != nil && p.OS == runtime.GOOS && p.Architecture == runtime.GOARCH {
			found = append(found, d)
		}
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(d descriptor) bool { return d.Platform.Variant != "" && d.Platform.Variant != "v8" })
	}
	if len(found) != 1 {
		return descriptor{}, errNoInsight
	}
	return found[0], nil
}

// read decodes a blob of the namespace of ctx, once it is known to be the one with
// this digest.
func read(ctx context.Context, n *conn, digest string, v any) error {
	stream, err := n.content.Read(ctx, &contentapi.ReadContentRequest{Digest: digest})
	if err != nil {
		return translate("read content", err)
	}
	var data bytes.Buffer
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return translate("read content", err)
		}
		if data.Len()+len(part.Data) > maxBlob {
			return fmt.Errorf("%w: %s is over %d MiB", errNoInsight, digest, maxBlob>>20)
		}
		data.Write(part.Data)
	}
	if sum := sha256.Sum256(data.Bytes()); fmt.Sprintf("%s%x", sha256Prefix, sum) != digest {
		return fmt.Errorf("%w: %s is other content", errNoInsight, digest)
	}
	limits := collectors.Reading(nil)
	if _, err := boundjson.Decode(&data, limits, v); err != nil {
		return fmt.Errorf("%w: %w", errNoInsight, err)
	}
	return nil
}

const sha256Prefix = "sha256:"

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, sha256Prefix)
	return ok && isHex64(hex)
}
