// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Prefill implements collectors.Prefiller: what the engine's files say, without
// a call. The PID in them is not given on: after a crash of the engine it may be
// anybody's.
func (c *Collector) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := c.mine(id); err != nil {
		return nil, fmt.Errorf("docker: prefill: %w", err)
	}
	f, err := c.readFiles(ctx, id.ID)
	if errors.Is(err, collectors.ErrNotFound) && c.absent() {
		return nil, fmt.Errorf("docker: prefill: %w: no %s and no %s", collectors.ErrNotPresent, c.socket, *c.root.Load())
	}
	if err != nil {
		return nil, fmt.Errorf("docker: prefill %s: %w", id.ID, err)
	}
	return c.fromFiles(f), nil
}

// files are what the engine keeps of one container.
type files struct {
	config configFile
	host   *hostConfigFile // nil if it could not be read
	huge   bool            // what the API says of it is as long
	cut    []string        // the fields of the description that were not read whole
}

// readFiles reads both. The second is worth less than the first.
func (c *Collector) readFiles(ctx context.Context, hex string) (*files, error) {
	var f files
	size, cut, err := c.readJSON(ctx, hex, "config.v2.json", &f.config)
	if err != nil {
		return nil, err
	}
	f.huge = size > maxJSON
	if f.config.ID != hex {
		return nil, fmt.Errorf("%w: config.v2.json is another container's", collectors.ErrUnavailable)
	}
	var host hostConfigFile
	if _, more, err := c.readJSON(ctx, hex, "hostconfig.json", &host); err == nil {
		f.host = &host
		for _, path := range more {
			cut = append(cut, "HostConfig."+path)
		}
	}
	for _, path := range cut {
		if field := c.fieldOf(path); field != "" {
			f.cut = append(f.cut, field)
		}
	}
	return &f, nil
}

// fieldOf names what suffers from a list or object of the files that was cut;
// empty for nothing that is described.
func (c *Collector) fieldOf(path string) string {
	switch top, rest, _ := strings.Cut(path, "."); {
	case path == "Config.Labels":
		return "labels"
	case path == "Config.Env":
		if len(c.env) == 0 {
			return ""
		}
		return "env"
	case path == "Config.ExposedPorts", strings.HasPrefix(path, "NetworkSettings.Ports"), strings.HasPrefix(path, "HostConfig.PortBindings"):
		return "ports"
	case top == "NetworkSettings":
		return "networks"
	case top == "MountPoints":
		return "mounts"
	case top == "HostConfig" && rest == "CapAdd":
		return "security"
	case top == "Config" && rest != "", top == "HostConfig" && rest != "", top == "State":
		return "" // a list that is not described: Cmd, Binds, the log of health checks
	}
	return "config"
}

// readJSON decodes one file of a container and gives its size. hex has been checked.
func (c *Collector) readJSON(ctx context.Context, hex, file string, v any) (size int64, cut []string, err error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	dir, err := openRoot(*c.root.Load())
	if err != nil {
		return 0, nil, err
	}
	defer unix.Close(dir)
	stamp, err := safefile.Read(dir, pathOf(hex, file), trust(), func(r io.Reader) (err error) {
		cut, err = boundjson.Decode(r, collectors.Reading(c.env), v)
		return err
	})
	if err != nil {
		return 0, nil, fileError(err)
	}
	return stamp.Size, cut, nil
}

// exists says whether the engine has files of a container.
func (c *Collector) exists(hex string) error {
	dir, err := openRoot(*c.root.Load())
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if _, err := safefile.Stat(dir, pathOf(hex, "config.v2.json"), trust()); err != nil {
		return fileError(err)
	}
	return nil
}

func pathOf(hex, file string) string { return "containers/" + hex + "/" + file }

// trust: what root wrote, or the user we are, who may run an engine of his own.
func trust() safefile.Trust {
	return safefile.Trust{Owner: uint32(os.Geteuid()), Max: collectors.MaxEngineFile}
}

// ids gives the containers that have a directory, and whether one has a file
// so large that a list by the engine would be, too.
func (c *Collector) ids() (ids []string, huge bool, err error) {
	dir := *c.root.Load() + "/containers/"
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, false, fileError(err)
	}
	for _, e := range names {
		if !isID(e.Name()) || !e.IsDir() {
			continue
		}
		ids = append(ids, e.Name())
		if st, err := os.Lstat(dir + e.Name() + "/config.v2.json"); err == nil && st.Size() > maxJSON {
			huge = true
		}
	}
	return ids, huge, nil
}

// openRoot opens the engine's root. It may be a link: the administrator's.
func openRoot(root string) (fd int, err error) {
	fd, err = unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fileError(&os.PathError{Op: "open", Path: root, Err: err})
	}
	return fd, nil
}

// readable says whether the engine's root can be read.
func readable(root string) error {
	f, err := os.Open(root + "/containers")
	if err != nil {
		return err
	}
	return f.Close()
}

// fileError translates: what is not there is not found, all else cannot be said.
func fileError(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w: no file", collectors.ErrNotFound)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}
