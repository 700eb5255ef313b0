// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/image"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// ListImages implements collectors.ImageCollector: those that docker images shows,
// with one call, and one more for each that is not known yet.
func (c *Collector) ListImages(ctx context.Context, known func(string) *workload.Image) iter.Seq2[*workload.Image, error] {
	return func(yield func(*workload.Image, error) bool) {
		list, err := c.client().ImageList(ctx, image.ListOptions{})
		if err != nil {
			yield(nil, fmt.Errorf("docker: list images: %w", c.fail(err)))
			return
		}
		for i := range list {
			s := &list[i]
			if !isDigest(s.ID) {
				continue
			}
			out := &workload.Image{
				ID: s.ID, Runtime: name, Instance: c.instance, Names: references(s.RepoTags), Digests: references(s.RepoDigests),
				Size: s.Size, Labels: s.Labels,
			}
			err := c.detail(ctx, out, known(out.Key()))
			switch {
			case errors.Is(err, collectors.ErrNotFound):
				continue // removed meanwhile
			case ctx.Err() != nil:
				yield(nil, fmt.Errorf("docker: list images: %w: %w", collectors.ErrUnavailable, ctx.Err()))
				return
			case err != nil:
				// The text without the sentinel, which would mean that the whole source is down.
				if !yield(nil, errors.New("docker: image "+s.ID+": "+err.Error())) {
					return
				}
				continue
			}
			collectors.BoundImage(out)
			if !yield(out, nil) {
				return
			}
		}
	}
}

// detail adds what an id stands for. It is asked for once: of another size, an
// image has got parts that it had not (Docker's containerd store).
func (c *Collector) detail(ctx context.Context, out, known *workload.Image) error {
	if known != nil && known.Size == out.Size {
		out.Layers, out.Created = known.Layers, known.Created
		out.OS, out.Architecture, out.Variant = known.OS, known.Architecture, known.Variant
		return nil
	}
	r, err := c.client().ImageInspect(ctx, out.ID)
	if err != nil {
		return c.fail(err)
	}
	if r.ID != out.ID {
		return fmt.Errorf("%w: inspect answered for another image", collectors.ErrUnavailable)
	}
	out.OS, out.Architecture, out.Variant, out.Created = r.Os, r.Architecture, r.Variant, parseTime(r.Created)
	out.Layers = []workload.ImageLayer{}
	for _, d := range r.RootFS.Layers {
		out.Layers = append(out.Layers, workload.ImageLayer{Digest: d})
	}
	c.layerSizes(r.GraphDriver.Name, out)
	return nil
}

// layerSizes reads the sizes of the layers from the engine's files: its API gives
// them by the steps of a build, of which some made no layer. They count only where
// they come to the size of the image.
func (c *Collector) layerSizes(driver string, out *workload.Image) {
	dir, err := openRoot(*c.root.Load())
	if err != nil || !isWord(driver) {
		return
	}
	defer unix.Close(dir)
	sizes, sum, chain := make([]int64, len(out.Layers)), int64(0), ""
	for i, l := range out.Layers {
		if !isDigest(l.Digest) {
			return
		}
		if chain = chainID(chain, l.Digest); !readSize(dir, "image/"+driver+"/layerdb/sha256/"+strings.TrimPrefix(chain, sha256Prefix)+"/size", &sizes[i]) {
			return
		}
		sum += sizes[i]
	}
	if sum != out.Size {
		return
	}
	for i := range out.Layers {
		out.Layers[i].Size = sizes[i]
	}
}

// chainID names a layer on top of others (OCI image-spec, config.md).
func chainID(below, diff string) string {
	if below == "" {
		return diff
	}
	return fmt.Sprintf("%s%x", sha256Prefix, sha256.Sum256([]byte(below+" "+diff)))
}

// readSize reads a number in a file.
func readSize(dir int, path string, size *int64) bool {
	_, err := safefile.Read(dir, path, trust(), func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, 32))
		if err != nil {
			return err
		}
		*size, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return err
	})
	return err == nil && *size >= 0
}

const sha256Prefix = "sha256:"

// isDigest says whether a text is an image's id, or a layer's. Nothing else reaches
// a path or a query.
func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, sha256Prefix)
	return ok && isID(hex)
}

// isWord says whether a text is fit to be a storage driver's name, and a directory.
func isWord(s string) bool {
	for _, b := range []byte(s) {
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return s != "" && len(s) < 64
}

// references leaves out what stands for none: <none>:<none>, <none>@<none>.
func references(in []string) (out []string) {
	for _, r := range in {
		if !strings.HasPrefix(r, "<none>") {
			out = append(out, r)
		}
	}
	return out
}
