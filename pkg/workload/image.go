// SPDX-License-Identifier: Apache-2.0

package workload

import "time"

// Image is an image that an engine of this host stores. The same image in the
// stores of two engines is two: each has names and a size of its own for it.
type Image struct {
	// ID is what the engine calls it, "sha256:...": the digest of its configuration;
	// that of its index or manifest with Docker's containerd store, and where containerd
	// has not all of it. A container's Image.ID.
	ID string
	// Runtime, Instance and Namespace say in whose store it is, as those of a ContainerID.
	Runtime, Instance, Namespace string
	// Names are its tags, "busybox:1.36", as the engine writes them; none for one that has lost them.
	Names []string
	// Digests are the manifest digests by which it was pulled, "busybox@sha256:...". A
	// container's Image.Digest is the part after the @ of one of them.
	Digests []string
	// Layers are what it is made of, the lowest first.
	Layers []ImageLayer
	// Size is in bytes, as the engine counts it: unpacked with Docker and podman, packed
	// with containerd; 0 where it is not known.
	Size int64
	// OS and Architecture are what it is made for, in Go's words: linux, amd64; Variant
	// is that of the architecture: v7.
	OS, Architecture, Variant string
	// Labels are its own, which its containers begin with.
	Labels map[string]string
	// Created is when it was built, as it says itself; zero where it does not.
	Created time.Time
	// Sources are those that said something about it, in order of arrival.
	Sources []Provenance
	// Truncated names the fields that a budget cut.
	Truncated []string
}

// ImageLayer is one layer of an image.
type ImageLayer struct {
	// Digest is that of the unpacked layer (its diff id), which is the same in every engine.
	Digest string
	// Blob is the digest under which a registry has it, packed; empty where the engine does not say.
	Blob string
	// Size is in bytes, counted as the image's is; 0 also where the engine does not say.
	Size int64
}

// Key tells images apart: the store that it is in, and its id.
func (i *Image) Key() string {
	key := ContainerID{Runtime: i.Runtime, Namespace: i.Namespace, ID: i.ID}.String()
	if i.Instance != "" {
		key = i.Instance + " " + key
	}
	return key
}
