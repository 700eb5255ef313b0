// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// imageJSON is one image in the storage's list (containers/storage, images.go).
type imageJSON struct {
	ID      string            `json:"id"`
	Digest  string            `json:"digest"`
	Names   []string          `json:"names"`
	Layer   string            `json:"layer"`
	Sizes   map[string]int64  `json:"big-data-sizes"`
	Digests map[string]string `json:"big-data-digests"`
}

// layerJSON is one layer in its list (containers/storage, layers.go).
type layerJSON struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
	Diff   string `json:"diff-digest"`
	Size   int64  `json:"diff-size"`
	Blob   string `json:"compressed-diff-digest"`
}

// imageConfig is what is read of an image's configuration (OCI image-spec, config.md).
type imageConfig struct {
	OS, Architecture, Variant string

	Created *time.Time
	Config  struct{ Labels map[string]string }
}

// imageDrivers are the storage drivers, whose names the directories begin with.
var imageDrivers = []string{"overlay", "vfs", "btrfs", "zfs"}

// maxLayers bounds the layers of an image that are followed.
const maxLayers = 512

// ListImages implements collectors.ImageCollector, by the storage's files: no call, and
// no lock, for they are replaced as a whole.
func (c *Collector) ListImages(ctx context.Context, known func(string) *workload.Image) iter.Seq2[*workload.Image, error] {
	return func(yield func(*workload.Image, error) bool) {
		c.discover(ctx)
		for _, s := range c.known() {
			err := s.images(ctx, known, func(i *workload.Image) bool { return yield(i, nil) })
			switch {
			case errors.Is(err, errLeft):
				return
			case err != nil && !yield(nil, s.failed(ctx, "list images", err)):
				return
			}
		}
	}
}

// errLeft means that the caller wants no more.
var errLeft = errors.New("left")

// images gives fn the images of a store; none where there is no store.
func (s *store) images(ctx context.Context, known func(string) *workload.Image, fn func(*workload.Image) bool) error {
	dir, err := s.open()
	if errors.Is(err, collectors.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for _, driver := range imageDrivers {
		var list []imageJSON
		err := s.readList(dir, driver+"-images/images.json", &list)
		if errors.Is(err, collectors.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var all []layerJSON // after the images, whose layers are there before them
		if err := s.readList(dir, driver+"-layers/layers.json", &all); err != nil && !errors.Is(err, collectors.ErrNotFound) {
			return err
		}
		layers := make(map[string]*layerJSON, len(all))
		for i := range all {
			layers[all[i].ID] = &all[i]
		}
		if s.user && len(list) > maxUserContainers {
			list = list[:maxUserContainers]
		}
		for i := range list {
			if !runtimespec.IsHex64(list[i].ID) {
				continue
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", collectors.ErrUnavailable, ctx.Err())
			}
			if !fn(s.image(dir, driver, &list[i], layers, known)) {
				return errLeft
			}
		}
	}
	return nil
}

// readList reads one of the storage's lists.
func (s *store) readList(dir int, path string, v any) error {
	_, err := safefile.Read(dir, path, safefile.Trust{Owner: s.owner, Max: collectors.MaxStateFile}, func(r io.Reader) error {
		l := limits()
		l.Raw, l.List = collectors.MaxStateFile, true
		_, err := boundjson.Decode(r, l, v)
		return err
	})
	if err != nil {
		return fileError(err)
	}
	return nil
}

// image describes one, with its size as podman counts it: of all its layers and of
// what is kept beside them.
func (s *store) image(dir int, driver string, from *imageJSON, layers map[string]*layerJSON, known func(string) *workload.Image) *workload.Image {
	out := &workload.Image{ID: "sha256:" + from.ID, Runtime: name, Instance: s.instance}
	imageNames(from, out)
	whole := true
	out.Layers = []workload.ImageLayer{}
	for id := from.Layer; id != ""; {
		l := layers[id]
		if l == nil || len(out.Layers) == maxLayers {
			whole = false
			break
		}
		out.Layers = append(out.Layers, workload.ImageLayer{Digest: l.Diff, Blob: l.Blob, Size: max(0, l.Size)})
		out.Size += max(0, l.Size)
		id = l.Parent
	}
	for _, n := range from.Sizes {
		out.Size += max(0, n)
	}
	slices.Reverse(out.Layers)
	if !whole {
		out.Layers, out.Size = nil, 0
	}
	if was := known(out.Key()); was != nil && was.OS != "" {
		out.OS, out.Architecture, out.Variant, out.Labels, out.Created = was.OS, was.Architecture, was.Variant, was.Labels, was.Created
	} else {
		s.configure(dir, driver, from.ID, out)
	}
	if s.user {
		userBounds.ApplyImage(out)
	} else {
		collectors.BoundImage(out)
	}
	return out
}

// imageNames takes the names apart: tags, and repositories by digest. Podman says
// that each repository has the image by each of its manifests' digests.
func imageNames(from *imageJSON, out *workload.Image) {
	var digests []string
	for key, d := range from.Digests {
		if key == "manifest" || strings.HasPrefix(key, "manifest-") {
			digests = append(digests, d)
		}
	}
	if from.Digest != "" {
		digests = append(digests, from.Digest)
	}
	for _, ref := range from.Names {
		repository, _, byDigest := strings.Cut(ref, "@")
		if at := strings.LastIndexByte(repository, ':'); at > strings.LastIndexByte(repository, '/') {
			repository = repository[:at]
		}
		if !byDigest {
			out.Names = append(out.Names, ref)
		}
		for _, d := range digests {
			out.Digests = append(out.Digests, repository+"@"+d)
		}
	}
}

// configure reads an image's configuration, which is kept by its digest. Without it
// what it would say is left empty.
func (s *store) configure(dir int, driver, hex string, out *workload.Image) {
	var cfg imageConfig
	file := "=" + base64.StdEncoding.EncodeToString([]byte("sha256:"+hex))
	path := driver + "-images/" + hex + "/" + file
	_, err := safefile.Read(dir, path, safefile.Trust{Owner: s.owner, Max: 4 << 20}, func(r io.Reader) error {
		cfg = imageConfig{}
		_, err := boundjson.Decode(r, limits(), &cfg)
		return err
	})
	if err != nil {
		s.c.log.Debug("configuration of an image not read", "image", hex, "err", err)
		return
	}
	out.OS, out.Architecture, out.Variant, out.Labels = cfg.OS, cfg.Architecture, cfg.Variant, cfg.Config.Labels
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if cfg.Created != nil {
		out.Created = utc(*cfg.Created)
	}
}

// imageVersions stats the lists of images, which are replaced when one changes.
func imageVersions(dir int) (v [4]fileVersion) {
	for i, driver := range imageDrivers {
		var st unix.Stat_t
		if unix.Fstatat(dir, driver+"-images/images.json", &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			v[i] = fileVersion{st.Ino, st.Size, st.Ctim}
		}
	}
	return v
}
