// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// storedJSON is one container in the storage's list (containers/storage, containers.go).
// It is there before libpod's record, and has no labels.
type storedJSON struct {
	ID       string    `json:"id"`
	Names    []string  `json:"names"`
	Image    string    `json:"image"`
	Metadata string    `json:"metadata"`
	Created  time.Time `json:"created"`
}

// storedMetadata is libpod's note in it.
type storedMetadata struct {
	Image string `json:"image-name"`
	Name  string `json:"name"`
}

// storageLists are the files that list containers, for each storage driver. The
// volatile ones are of containers that go with their end.
var storageLists = []string{
	"overlay-containers/containers.json", "overlay-containers/volatile-containers.json",
	"vfs-containers/containers.json", "vfs-containers/volatile-containers.json",
	"btrfs-containers/containers.json", "zfs-containers/containers.json",
}

// storage says whether the store has such a list at all.
func (s *store) storage() error {
	_, err := s.listStored(func([]storedJSON) bool { return true })
	return err
}

// stored finds a container in the storage's lists.
func (s *store) stored(hex string) (*storedJSON, error) {
	var one *storedJSON
	some, err := s.listStored(func(list []storedJSON) bool {
		for i := range list {
			if list[i].ID == hex {
				one = &list[i]
			}
		}
		return one != nil
	})
	switch {
	case one != nil:
		return one, nil
	case err != nil && !some:
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s", collectors.ErrNotFound, hex)
}

// listStored gives fn each list that can be read, until it is content, and says
// whether there was any.
func (s *store) listStored(fn func([]storedJSON) bool) (some bool, _ error) {
	dir, err := s.open()
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	err = fmt.Errorf("%w: no list of containers in %s", collectors.ErrNotFound, s.root)
	for _, path := range storageLists {
		var list []storedJSON
		_, lerr := safefile.Read(dir, path, safefile.Trust{Owner: s.owner, Max: collectors.MaxStateFile}, func(r io.Reader) error {
			list = nil
			l := limits()
			l.Raw, l.List = collectors.MaxStateFile, true
			_, err := boundjson.Decode(r, l, &list)
			return err
		})
		if lerr == nil {
			if some = true; fn(list) {
				return true, nil
			}
		} else if lerr = fileError(lerr); !errors.Is(lerr, collectors.ErrNotFound) {
			err = lerr
		}
	}
	if some {
		return true, nil
	}
	return false, err
}

// describeStored describes a container by the storage alone.
func (s *store) describeStored(one *storedJSON) described {
	out := &workload.Container{ID: s.id(one.ID), Runtime: name, Created: utc(one.Created), Truncated: []string{"config", "labels"}}
	var m storedMetadata
	_ = json.Unmarshal([]byte(one.Metadata), &m) // an empty one is as good as a damaged one
	if out.Name = m.Name; out.Name == "" && len(one.Names) > 0 {
		out.Name = one.Names[0]
	}
	out.Image = runtimespec.ImageRef(m.Image)
	if runtimespec.IsHex64(one.Image) {
		out.Image.ID = "sha256:" + one.Image
	}
	return described{Container: out}
}
