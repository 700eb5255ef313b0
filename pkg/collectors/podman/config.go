// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"io"
	"path/filepath"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/safefile"
)

// storageConfigs are the files that say where root's podman keeps its containers, the
// first that is there alone (containers-storage.conf(5)).
var storageConfigs = []string{"/etc/containers/storage.conf", "/usr/share/containers/storage.conf"}

// maxConfig bounds such a file, in bytes.
const maxConfig = 1 << 20

// configuredRoot is the store of root's podman by the host's configuration, "" where
// that says nothing. What is no file of root's, or no TOML, says nothing.
func configuredRoot(host string) string {
	for _, path := range storageConfigs {
		dir, err := safefile.OpenTop(host, filepath.Dir(path), safefile.Trust{})
		if err != nil {
			continue
		}
		var conf struct {
			Storage struct {
				GraphRoot string `toml:"graphroot"`
			} `toml:"storage"`
		}
		_, err = safefile.Read(dir, filepath.Base(path), safefile.Trust{Max: maxConfig}, func(r io.Reader) error {
			conf.Storage.GraphRoot = ""
			_, err := toml.NewDecoder(r).Decode(&conf)
			return err
		})
		_ = unix.Close(dir)
		if err != nil {
			continue
		}
		if root := filepath.Clean(conf.Storage.GraphRoot); filepath.IsAbs(root) {
			return root
		}
		return ""
	}
	return ""
}
