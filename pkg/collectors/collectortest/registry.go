// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
)

// Registry is an image registry on loopback, without TLS, from which engines pull.
type Registry struct {
	// Address is host:port, which begins the names of its images.
	Address string

	tb testing.TB
	mu sync.Mutex // guards all below
	// blobs are by digest, manifests by repository and by tag or digest.
	blobs, manifests map[string][]byte
}

// NewRegistry starts an empty one that ends with the test.
func NewRegistry(tb testing.TB) *Registry {
	r := &Registry{tb: tb, blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	srv := httptest.NewServer(http.HandlerFunc(r.serve))
	tb.Cleanup(srv.Close)
	r.Address = srv.Listener.Addr().String()
	return r
}

// Put adds an image, or replaces what its tag means, and gives the name by which
// it is pulled and the digest of its manifest. Of the image's own name the last
// part counts: "web:1".
func (r *Registry) Put(img Image) (name, digest string) {
	r.tb.Helper()
	layer, config, manifest, err := img.parts()
	if err != nil {
		r.tb.Fatal(err)
	}
	repository, tag, _ := strings.Cut(path.Base(img.Name), ":")
	digest = "sha256:" + sum(manifest)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs["sha256:"+sum(layer)], r.blobs["sha256:"+sum(config)] = layer, config
	r.manifests[repository+" "+tag], r.manifests[repository+" "+digest] = manifest, manifest
	return r.Address + "/" + repository + ":" + tag, digest
}

// serve is what a pull needs of the distribution API: /v2/, /v2/NAME/manifests/REF
// and /v2/NAME/blobs/DIGEST.
func (r *Registry) serve(w http.ResponseWriter, q *http.Request) {
	parts := strings.Split(strings.TrimPrefix(q.URL.Path, "/v2/"), "/")
	if len(parts) == 1 && parts[0] == "" {
		return
	}
	if len(parts) != 3 {
		http.NotFound(w, q)
		return
	}
	r.mu.Lock()
	data, kind := r.blobs[parts[2]], "application/octet-stream"
	if parts[1] == "manifests" {
		data, kind = r.manifests[parts[0]+" "+parts[2]], "application/vnd.oci.image.manifest.v1+json"
	}
	r.mu.Unlock()
	if data == nil {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", "sha256:"+sum(data))
	_, _ = w.Write(data)
}
