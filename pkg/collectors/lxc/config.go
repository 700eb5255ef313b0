// SPDX-License-Identifier: Apache-2.0

package lxc

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pidigree/pidigree/internal/lxcmonitor"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// maxConfig is the size of the largest configuration that is read.
const maxConfig = 256 << 10

// trust is what is believed: what root alone can write.
var trust = safefile.Trust{Max: maxConfig}

// errNonsense means that a file is no configuration of LXC's.
var errNonsense = errors.New("not a configuration of LXC's")

// config is what of a configuration is used (lxc.container.conf(5)).
type config struct {
	hostname, rootfs string
	// dir, container and monitor are lxc.cgroup.dir and its two parts, without slashes
	// around them.
	dir, container, monitor string
	// relative: the cgroups are below those of whoever started the container.
	relative bool
}

// readConfig reads one version of the configuration in an open directory.
func readConfig(dir int) (c config, err error) {
	_, err = safefile.Read(dir, "config", trust, func(r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		c, err = parse(string(data))
		return err
	})
	if errors.Is(err, safefile.ErrChanging) {
		err = fmt.Errorf("%w: %w", err, collectors.ErrUnavailable)
	}
	return c, err
}

// parse reads a configuration. Files that it includes are not read: a distribution's
// say nothing of where one container's cgroups are.
func parse(data string) (c config, err error) {
	for line := range strings.Lines(data) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || !strings.HasPrefix(key, "lxc.") {
			return config{}, fmt.Errorf("%w: the line %.40q", errNonsense, line)
		}
		if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		switch key {
		case "lxc.uts.name":
			c.hostname = value
		case "lxc.rootfs.path":
			c.rootfs = value
		case "lxc.cgroup.dir":
			c.dir = strings.Trim(value, "/")
		case "lxc.cgroup.dir.container":
			c.container = strings.Trim(value, "/")
		case "lxc.cgroup.dir.monitor":
			c.monitor = strings.Trim(value, "/")
		case "lxc.cgroup.relative":
			c.relative = value == "1"
		}
	}
	for _, dir := range []string{c.dir, c.container, c.monitor} {
		for name := range strings.SplitSeq(dir, "/") {
			if name == "." || name == ".." {
				return config{}, fmt.Errorf("%w: the cgroup %.80q", errNonsense, dir)
			}
		}
	}
	return c, nil
}

// places gives the pairs of cgroups in the order in which LXC tries them.
func (c config) places(name string) []lxcmonitor.Place {
	if c.relative {
		return nil
	}
	if c.monitor != "" && c.container != "" {
		return []lxcmonitor.Place{{Monitor: "/" + c.monitor, Payload: "/" + c.container}}
	}
	top := "/"
	if c.dir != "" {
		top += c.dir + "/"
	}
	return lxcmonitor.Places(top, name)
}

// isName reports whether a container may be called that, as far as it is looked for:
// printable ASCII, and no path.
func isName(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '/' {
			return false
		}
	}
	return true
}
