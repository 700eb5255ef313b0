// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// ListImages implements collectors.ImageCollector: those that crictl images shows,
// with one call, and one more for each that is not known yet. An engine whose images
// are served at another socket has none here.
func (c *Collector) ListImages(ctx context.Context, known func(string) *workload.Image) iter.Seq2[*workload.Image, error] {
	return func(yield func(*workload.Image, error) bool) {
		n, e, err := c.ask(ctx)
		if err != nil {
			yield(nil, fmt.Errorf("cri: list images: %w", err))
			return
		}
		r, err := n.images.ListImages(ctx, &runtimeapi.ListImagesRequest{}, grpc.MaxCallRecvMsgSize(collectors.MaxPodList))
		if status.Code(err) == codes.Unimplemented {
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("cri: %w", notOne(translate("list images", err))))
			return
		}
		for _, l := range r.Images {
			out := imageListed(e, l)
			if out == nil {
				continue
			}
			err := c.imageDetail(ctx, n, l.Id, out, known(out.Key()))
			switch {
			case errors.Is(err, collectors.ErrNotFound):
				continue // removed meanwhile
			case ctx.Err() != nil:
				yield(nil, fmt.Errorf("cri: list images: %w: %w", collectors.ErrUnavailable, ctx.Err()))
				return
			case err != nil:
				// The text without the sentinel, which would mean that the whole source is down.
				if !yield(nil, errors.New("cri: image "+out.ID+": "+err.Error())) {
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

// imageListed is an image as the list has it; nil where its id is none. CRI-O leaves
// the algorithm out.
func imageListed(e engine, l *runtimeapi.Image) *workload.Image {
	id := l.GetId()
	if runtimespec.IsHex64(id) {
		id = "sha256:" + id
	}
	if !isDigest(id) {
		return nil
	}
	return &workload.Image{
		ID: id, Runtime: e.name, Instance: e.instance, Namespace: e.namespace,
		Names: references(l.RepoTags), Digests: references(l.RepoDigests), Size: int64(min(l.Size, 1<<62)),
	}
}

// references leaves out what the CRI's list has instead of a name: CRI-O's of an image
// without one.
func references(list []string) []string {
	out := []string{}
	for _, s := range list {
		if s != "" && !strings.HasPrefix(s, "<none>") {
			out = append(out, s)
		}
	}
	return out
}

// imageInfo is what containerd and CRI-O say of an image beyond the CRI, where they
// are asked to be verbose: its OCI configuration.
type imageInfo struct {
	Spec struct {
		Created      string `json:"created"`
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
		Config       struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	} `json:"imageSpec"`
}

// imageDetail adds what an id stands for, which never changes: it is asked for once.
func (c *Collector) imageDetail(ctx context.Context, n *conn, id string, out, known *workload.Image) error {
	if known != nil {
		out.Layers, out.Created, out.Labels = known.Layers, known.Created, known.Labels
		out.OS, out.Architecture, out.Variant = known.OS, known.Architecture, known.Variant
		out.Truncated = known.Truncated
		return nil
	}
	r, err := n.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}, Verbose: true})
	if err != nil {
		return translate("image status", err)
	}
	if r.Image == nil { // how the CRI says that there is none
		return collectors.ErrNotFound
	}
	if said := r.Image.Id; said != id {
		return fmt.Errorf("%w: its status is another's, %q", collectors.ErrUnavailable, cut(said))
	}
	var info imageInfo
	if text := r.Info["info"]; text != "" { // cri-dockerd says nothing
		if _, err := boundjson.Decode(strings.NewReader(text), infoLimits(nil), &info); err != nil {
			return fmt.Errorf("verbose status: %w", err)
		}
	}
	s := &info.Spec
	out.OS, out.Architecture, out.Variant, out.Labels = s.OS, s.Architecture, s.Variant, s.Config.Labels
	out.Created, _ = time.Parse(time.RFC3339Nano, s.Created) // zero where it is none
	for _, diff := range s.RootFS.DiffIDs {
		if isDigest(diff) {
			out.Layers = append(out.Layers, workload.ImageLayer{Digest: diff})
		}
	}
	return nil
}
