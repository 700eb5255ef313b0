// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileIDKernfs is the kernel's FILEID_KERNFS (5.5 and later): the handle is the
// 64-bit kernfs id.
const fileIDKernfs = 0xfe

// handle is an open cgroup directory (O_PATH) and its id.
type handle struct {
	fd  int
	ino uint64
}

func (h handle) close() { unix.Close(h.fd) }

// adopt takes over a descriptor that open returned.
func (m *mount) adopt(fd int, err error) (handle, error) {
	if err != nil {
		return handle{}, gone(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return handle{}, err
	}
	ino, err := m.checked(&st)
	if err != nil {
		unix.Close(fd)
		return handle{}, err
	}
	return handle{fd, ino}, nil
}

// openHandle opens a cgroup by id, wherever it is. A removed cgroup is stale at
// once, even while something still holds it.
func (m *mount) openHandle(ino uint64) (handle, error) {
	var buf [8]byte
	binary.NativeEndian.PutUint64(buf[:], ino)
	h := unix.NewFileHandle(fileIDKernfs, buf[:])
	var fd int
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.OpenByHandleAt(int(m.dir.Fd()), h, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
		return err
	})
	return m.adopt(fd, err)
}

// openID opens a cgroup by id: by handle, or by looking for it.
func (m *mount) openID(ino uint64) (handle, error) {
	if ino == 0 {
		return handle{}, ErrGone
	}
	if m.handles {
		h, err := m.openHandle(ino)
		if err == nil && h.ino == ino || errors.Is(err, ErrGone) {
			return h, err
		}
		if err == nil {
			h.close()
		}
	}
	return m.searchID(ino)
}

// searchID walks the hierarchy for an id. What is not found in a walk that was
// cut short may still be there.
func (m *mount) searchID(ino uint64) (handle, error) {
	found := ""
	err := m.walk(func(rel string, i uint64) error {
		if i == ino {
			found = rel
			return errFound
		}
		return nil
	})
	switch {
	case err == nil:
		return handle{}, ErrGone
	case !errors.Is(err, errFound):
		return handle{}, err
	}
	h, err := m.open(found)
	if err == nil && h.ino != ino {
		h.close()
		return handle{}, ErrGone
	}
	return h, err
}

// errFound ends a search; it never leaves this package.
var errFound = errors.New("found")

// open opens the cgroup at rel, beneath the mount and through no link.
func (m *mount) open(rel string) (handle, error) {
	return m.adopt(m.openFD(rel, unix.O_PATH))
}

func (m *mount) openFD(rel string, flags uint64) (fd int, err error) {
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	err = ignoringEINTR(func() (err error) {
		fd, err = unix.Openat2(int(m.dir.Fd()), rel, &how)
		return err
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before 5.6, or a seccomp filter that does not know it
		return m.openStepwise(rel, int(flags))
	}
	return fd, err
}

// openStepwise does what openat2 does, a component at a time.
func (m *mount) openStepwise(rel string, flags int) (int, error) {
	const dir = unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := unix.Openat(int(m.dir.Fd()), ".", unix.O_PATH|dir, 0)
	for err == nil && rel != "" {
		var name string
		name, rel, _ = strings.Cut(rel, "/")
		step := unix.O_PATH
		if rel == "" {
			step = flags
		}
		next, e := unix.Openat(fd, name, step|dir, 0)
		unix.Close(fd)
		fd, err = next, e
	}
	return fd, err
}

// relOf gives where an open cgroup is below the mount. The kernel prints the
// path through the mount point; " (deleted)" needs no care here, because the
// caller compares the id of what it finds at that path.
func (m *mount) relOf(fd int) (string, error) {
	link, err := readFDLink(fd)
	if err != nil {
		return "", gone(err)
	}
	if rel, ok := below(link, m.point); ok {
		return rel, nil
	}
	// The mount was moved since it was found, or the cgroup is above its root.
	point, err := readFDLink(int(m.dir.Fd()))
	if err != nil {
		return "", err
	}
	if rel, ok := below(link, point); ok {
		return rel, nil
	}
	return "", ErrOutside
}

func readFDLink(fd int) (string, error) {
	var buf [MaxPath + 64]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// pathOfID is FS.Path. The path is checked: at the end of the call, the cgroup
// with this id was there.
func (m *mount) pathOfID(ino uint64) (string, error) {
	h, err := m.openID(ino)
	if err != nil {
		return "", err
	}
	defer h.close()
	rel, err := m.relOf(h.fd)
	if err != nil {
		return "", err
	}
	path := m.path(rel)
	if got, err := m.inode(path); err != nil {
		return "", err
	} else if got != ino {
		return "", ErrGone
	}
	return path, nil
}
