// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/safefile"
)

// host is where somebody's files are: the directory that is its root.
type host string

// maxFile bounds a configuration, certificate, key or token.
const maxFile = 1 << 20

// read reads a file by a path that an administrator or the kubelet chose. What is
// rotated is a link to what is beside it: such links are followed, within the
// root, and the file at the end is root's, or our own, and nobody else's to write.
func (h host) read(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not an absolute path")}
	}
	at := path
	for range 8 {
		target, err := h.link(at)
		if err == nil && target == "" {
			var data []byte
			data, err = h.file(at)
			if err == nil {
				return data, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, cause(err)) // safefile's errors name the last element alone
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		at = target
	}
	return nil, fmt.Errorf("read %s: %w", path, unix.ELOOP)
}

func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// link gives the target of a link, empty where path is none.
func (h host) link(path string) (string, error) {
	root, err := unix.Open(string(h), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target) // ENOENT, and not EINVAL, where fd is no link
	if err != nil {
		return "", nil
	}
	return string(target[:n]), nil
}

// file reads what is no link.
func (h host) file(path string) (data []byte, err error) {
	trust := safefile.Trust{Owner: uint32(os.Geteuid()), Max: maxFile}
	dir, err := safefile.OpenTop(string(h), filepath.Dir(path), trust)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	_, err = safefile.Read(dir, filepath.Base(path), trust, func(r io.Reader) (err error) {
		data, err = io.ReadAll(r)
		return err
	})
	return data, err
}
