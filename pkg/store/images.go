// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

type image = workload.Image

var imageKind = groupKind[image]{
	kind: workload.KindImage,
	merge: func(_ string, layers []layerOf[image], gone bool) *image {
		return mergeBy(imagePrecedence, mergingOf[image]{arrived: layers, gone: gone})
	},
	ids:     func(key string, _ []layerOf[image]) []string { return []string{key} },
	put:     func(e *workload.Entity, i *image) { e.Image = i },
	keyOf:   func(i *image) string { return i.Key() },
	sources: func(i *image) *[]workload.Provenance { return &i.Sources },
	named: func(_ string, i *image) *image {
		return &image{ID: i.ID, Runtime: i.Runtime, Instance: i.Instance, Namespace: i.Namespace}
	},
}

// stored: each store is an engine's own; only the CRI describes one of another's.
var stored = []string{srcDocker, srcPodman, srcCRI, srcContainerd, srcOCI, KernelSource}

// low down, containerd's own content says more than the CRI does.
var content = []string{srcDocker, srcPodman, srcContainerd, srcCRI, srcOCI, KernelSource}

const partOfKey = "part of the entity's key"

// imagePrecedence is the table of rule 7 for images.
var imagePrecedence = []ruleOf[image]{
	{"ID", stored, false, partOfKey, pick(func(i *image) *string { return &i.ID }, notZero)},
	{"Runtime", stored, false, partOfKey, pick(func(i *image) *string { return &i.Runtime }, notZero)},
	{"Instance", stored, false, partOfKey, pick(func(i *image) *string { return &i.Instance }, notZero)},
	{"Namespace", stored, false, partOfKey, pick(func(i *image) *string { return &i.Namespace }, notZero)},
	{"Names", stored, false, firstWhole, pick(func(i *image) *[]string { return &i.Names }, listSaid)},
	{"Digests", stored, false, firstWhole, pick(func(i *image) *[]string { return &i.Digests }, listSaid)},
	{"Layers", content, false, firstWhole, pick(func(i *image) *[]workload.ImageLayer { return &i.Layers }, listSaid)},
	{"Size", stored, false, firstSays, pick(func(i *image) *int64 { return &i.Size }, notZero)},
	{"OS", content, false, firstSays, pick(func(i *image) *string { return &i.OS }, notZero)},
	{"Architecture", content, false, firstSays, pick(func(i *image) *string { return &i.Architecture }, notZero)},
	{"Variant", content, false, firstSays, pick(func(i *image) *string { return &i.Variant }, notZero)},
	{"Labels", content, false, firstWhole, pick(func(i *image) *map[string]string { return &i.Labels }, mapSaid)},
	{"Created", content, false, firstSays, pick(func(i *image) *time.Time { return &i.Created }, notZero)},
	{"Sources", nil, false, "every layer with the time of its arrival, in the order of their first arrival", mergeSources(func(i *image) *[]workload.Provenance { return &i.Sources })},
	{"Truncated", stored, false, "what any layer had to cut", mergeTruncated(func(i *image) *[]string { return &i.Truncated })},
}

// Image gives an image, in a store or a tombstone, by its Key.
func (s *Store) Image(key string) (*workload.Image, bool) { return s.images.get(key) }

func (ch *ImageChange) group() groupChange[image] {
	return groupChange[image]{key: ch.Key, source: ch.Source, layer: ch.Layer}
}
