// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// maxPasswd bounds what is read of the host's list of users; a user beyond has no name.
	maxPasswd = 1 << 20
	// maxUserName is what useradd allows, eight times over.
	maxUserName = 256
)

// users are the names of the host's users, from /etc/passwd beneath the root of its
// first process (openHostRoot), read again when that has changed. Users of other databases (LDAP)
// have no name here: asking those means calling somebody.
type users struct {
	mu    sync.Mutex // guards all below
	stamp passwdStamp
	names map[uint32]string
}

// passwdStamp tells two versions of the file apart.
type passwdStamp struct {
	dev, ino    uint64
	size        int64
	mtim, ctime unix.Timespec
}

// name gives "" for a user whose name is not known. It may be called concurrently.
func (u *users) name(procfs string, uid uint32) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, err := openPasswd(procfs)
	if err != nil {
		return ""
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	now := passwdStamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	if now != u.stamp || u.names == nil {
		b, err := io.ReadAll(io.LimitReader(f, maxPasswd))
		if err != nil {
			return ""
		}
		u.stamp, u.names = now, parsePasswd(b)
	}
	return u.names[uid]
}

// openPasswd opens it as the host's first process would: links in it lead beneath
// that one's root. It does not wait for a file that is none.
func openPasswd(procfs string) (*os.File, error) {
	root, err := openHostRoot(procfs)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "passwd"), nil
}

// openHostRoot opens the root of the host's first process, or, where that one cannot
// be looked at, of the kernel's threads, which never leave the first mount namespace.
func openHostRoot(procfs string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	root, err := unix.Open(filepath.Join(procfs, "1/root"), flags, 0)
	if err == nil || !isKernelThread(procfs, 2) {
		return root, err
	}
	return unix.Open(filepath.Join(procfs, "2/root"), flags, 0)
}

// isKernelThread: in a PID namespace of its own, PID 2 may be anybody.
func isKernelThread(procfs string, pid workload.PID) bool {
	dir, err := openProc(procfs, pid)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	b, err := readBeneath(dir, "stat")
	if err != nil {
		return false
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= 9-3 {
		return false
	}
	flags, err := strconv.ParseUint(string(f[9-3]), 10, 64)
	return err == nil && flags&0x00200000 != 0 // PF_KTHREAD
}

// parsePasswd reads NAME:x:UID:... lines. The first name of a number counts, as it
// does to getpwuid(3).
func parsePasswd(b []byte) map[uint32]string {
	names := map[uint32]string{}
	for line := range bytes.Lines(b) {
		f := bytes.SplitN(line, []byte{':'}, 4)
		if len(f) < 4 || len(f[0]) == 0 || len(f[0]) > maxUserName {
			continue
		}
		uid, err := strconv.ParseUint(string(f[2]), 10, 32)
		if err != nil {
			continue
		}
		if _, there := names[uint32(uid)]; !there {
			names[uint32(uid)] = strings.ToValidUTF8(string(f[0]), "\uFFFD")
		}
	}
	return names
}
