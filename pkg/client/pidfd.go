// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// ResolvePIDFD asks about the process that a pidfd holds, so that a PID that is
// reused meanwhile cannot mislead. The caller must be in the host's initial PID
// namespace. From Linux 6.9 on the question names the pidfs inode; before, it
// names the PID, and the answer counts only if the process still lives
// afterwards. The descriptor stays the caller's. The error matches
// workload.ErrNotFound if the process is gone and was reaped.
func (c *Client) ResolvePIDFD(ctx context.Context, fd int) (workload.Answer, error) {
	key, err := keyOf(fd)
	if err != nil {
		return workload.Answer{}, fmt.Errorf("resolve pidfd %d: %w", fd, err)
	}
	if key.Inode != 0 {
		return c.one(ctx, workload.Query{Key: key})
	}
	a, err := c.one(ctx, workload.Query{PID: key.PID})
	if err != nil {
		return a, err
	}
	if after, err := keyOf(fd); err != nil || after != key {
		return workload.Answer{}, fmt.Errorf("resolve pidfd %d: %w: the process ended meanwhile", fd, workload.ErrNotFound)
	}
	return a, nil
}

// keyOf reads what a pidfd holds. PIDs come from fdinfo, which every kernel
// with pidfds has; it says -1 once the process was reaped.
func keyOf(fd int) (workload.ProcessKey, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return workload.ProcessKey{}, fmt.Errorf("%w: %w", workload.ErrInvalid, err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\nPid:\t"))
	if !ok {
		return workload.ProcessKey{}, fmt.Errorf("%w: it is no pidfd", workload.ErrInvalid)
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	pid, err := strconv.ParseInt(string(line), 10, 32)
	if err != nil || pid <= 0 {
		return workload.ProcessKey{}, fmt.Errorf("%w: the process has ended, or is in a PID namespace that cannot be seen from here", workload.ErrNotFound)
	}
	inode, err := pidfsInode(fd)
	return workload.ProcessKey{PID: workload.PID(pid), Inode: inode}, err
}

// pidfsInode gives 0 on kernels before 6.9, whose pidfds all share one inode.
func pidfsInode(fd int) (uint64, error) {
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &fs) }); err != nil || fs.Type != unix.PID_FS_MAGIC {
		return 0, err
	}
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &st) })
	return st.Ino, err
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
