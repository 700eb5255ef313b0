// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// BusyboxImage is the image that every engine here has from the start: a static
// busybox at /bin/busybox, with links for the applets that tests use.
const BusyboxImage = "registry.test/busybox:1"

// BusyboxLabel is a label of BusyboxImage itself, with the value "image".
const BusyboxLabel = "test.pidigree.from"

// busyboxApplets are the links in BusyboxImage.
var busyboxApplets = []string{
	"sh", "sleep", "cat", "true", "false", "echo", "id", "kill", "ls", "mkdir",
	"mount", "nc", "ps", "sed", "top", "wget", "env", "hostname", "mkfifo", "tail", "test", "touch", "usleep",
}

// Image is an image to be made from files of the host.
type Image struct {
	// Name with its tag, as "registry.test/probe:1".
	Name string
	// Files maps paths in the image to paths of the host. They get mode 0755.
	Files map[string]string
	// Links maps paths in the image to what they point at.
	Links map[string]string
	// Cmd is the default command.
	Cmd []string
	// Labels are the image's own; an engine gives them to its containers.
	Labels map[string]string
}

// Busybox describes BusyboxImage, for tests that add files to it.
func Busybox() (Image, error) {
	bin, err := busyboxPath()
	if err != nil {
		return Image{}, err
	}
	img := Image{
		Name:   BusyboxImage,
		Files:  map[string]string{"bin/busybox": bin},
		Links:  map[string]string{},
		Cmd:    []string{"/bin/sleep", "3600"},
		Labels: map[string]string{BusyboxLabel: "image"},
	}
	for _, a := range busyboxApplets {
		img.Links["bin/"+a] = "busybox"
	}
	return img, nil
}

func busyboxPath() (string, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox", "/bin/busybox-static"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("find a static busybox: %w (install busybox-static)", os.ErrNotExist)
}

// WriteTar writes the image as one archive that docker load, podman load and
// ctr images import all take: an OCI layout with Docker's manifest.json beside it.
func (img Image) WriteTar(w io.Writer) error {
	layer, config, manifest, err := img.parts()
	if err != nil {
		return err
	}
	return img.writeArchive(w, layer, config, manifest)
}

// parts makes the one layer of the image, its configuration and its manifest.
func (img Image) parts() (layer, config, manifest []byte, err error) {
	if layer, err = img.layer(); err != nil {
		return nil, nil, nil, fmt.Errorf("make the layer of %s: %w", img.Name, err)
	}
	config = mustJSON(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Cmd":    img.Cmd,
			"Env":    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"Labels": img.Labels,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	manifest = mustJSON(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers":        []any{descriptor("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	return layer, config, manifest, nil
}

func (img Image) writeArchive(w io.Writer, layer, config, manifest []byte) error {
	top := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	_, tag, _ := strings.Cut(path.Base(img.Name), ":")
	top["annotations"] = map[string]string{
		"io.containerd.image.name":          img.Name,
		"org.opencontainers.image.ref.name": tag,
	}
	files := []struct {
		name string
		data []byte
	}{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", mustJSON(map[string]any{"schemaVersion": 2, "manifests": []any{top}})},
		{"manifest.json", mustJSON([]any{map[string]any{
			"Config": blobPath(config), "RepoTags": []string{img.Name}, "Layers": []string{blobPath(layer)},
		}})},
		{blobPath(layer), layer},
		{blobPath(config), config},
		{blobPath(manifest), manifest},
	}
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// layer makes the one layer. Names are in order, so that equal images have equal digests.
func (img Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, d := range img.directories() {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(img.Files) {
		data, err := os.ReadFile(img.Files[name])
		if err != nil {
			return nil, err
		}
		if err := tw.WriteHeader(&tar.Header{Name: strings.Trim(name, "/"), Mode: 0o755, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(data); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(img.Links) {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: strings.Trim(name, "/"), Linkname: img.Links[name], Mode: 0o777}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), tw.Close()
}

// directories gives every directory that the files need, parents first.
func (img Image) directories() []string {
	set := map[string]string{"dev": "", "etc": "", "proc": "", "sys": "", "tmp": ""}
	for _, names := range []map[string]string{img.Files, img.Links} {
		for name := range names {
			for d := path.Dir(strings.Trim(name, "/")); d != "."; d = path.Dir(d) {
				set[d] = ""
			}
		}
	}
	return sortedKeys(set)
}

func descriptor(mediaType string, data []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + sum(data), "size": len(data)}
}

func blobPath(data []byte) string { return "blobs/sha256/" + sum(data) }

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// mustJSON is for values made of strings, numbers and maps, which always encode.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
