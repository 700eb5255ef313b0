// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

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
}

// readFiles reads both. The second is worth less than the first.
func (c *Collector) readFiles(ctx context.Context, hex string) (*files, error) {
	var f files
	size, err := c.readJSON(ctx, hex, "config.v2.json", &f.config)
	if err != nil {
		return nil, err
	}
	f.huge = size > maxJSON
	if f.config.ID != hex {
		return nil, fmt.Errorf("%w: config.v2.json is another container's", collectors.ErrUnavailable)
	}
	var host hostConfigFile
	if _, err := c.readJSON(ctx, hex, "hostconfig.json", &host); err == nil {
		f.host = &host
	}
	return &f, nil
}

// readJSON decodes one file of a container and gives its size. hex has been checked.
func (c *Collector) readJSON(ctx context.Context, hex, file string, v any) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	f, size, err := openBeneath(*c.root.Load(), "containers/"+hex+"/"+file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	data, err := io.ReadAll(shorten(f, maxString, maxJSON))
	if err != nil {
		return 0, fmt.Errorf("%w: read %s: %w", collectors.ErrUnavailable, file, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return 0, fmt.Errorf("%w: parse %s: %w", collectors.ErrUnavailable, file, err)
	}
	return size, nil
}

// exists says whether the engine has files of a container.
func (c *Collector) exists(hex string) error {
	f, _, err := openBeneath(*c.root.Load(), "containers/"+hex+"/config.v2.json")
	if err != nil {
		return err
	}
	return f.Close()
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

// openBeneath opens a regular file that root, or the user we are, owns and
// nobody else may write, beneath a directory that no link in path leads out of,
// and gives its size.
// The directory itself may be a link: the administrator's. Opening a FIFO or a
// device does not block.
func openBeneath(root, path string) (f *os.File, size int64, err error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fileError(&os.PathError{Op: "open", Path: root, Err: err})
	}
	defer unix.Close(dir)
	fd, err := openat2(dir, path)
	if err != nil {
		return nil, 0, fileError(&os.PathError{Op: "open", Path: root + "/" + path, Err: err})
	}
	size, err = trusted(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, 0, fmt.Errorf("%w: %s %w", collectors.ErrUnavailable, path, err)
	}
	return os.NewFile(uintptr(fd), root+"/"+path), size, nil
}

// openat2 tries again when a rename elsewhere kept the kernel from telling
// whether the path stayed beneath dir.
func openat2(dir int, path string) (fd int, err error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 8 {
		fd, err = unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// trusted says whether an open file can only be the engine's, and its size.
func trusted(fd int) (size int64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, errors.New("is not a regular file")
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return 0, fmt.Errorf("belongs to uid %d, not to root", st.Uid)
	case st.Mode&0o022 != 0:
		return 0, errors.New("may be written by others")
	}
	return st.Size, nil
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
