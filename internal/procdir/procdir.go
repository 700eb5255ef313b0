// SPDX-License-Identifier: Apache-2.0

// Package procdir reads one process beneath its open directory in procfs: all that
// is read is of that process, or fails (ESRCH) once it has been reaped, whoever has
// its PID by then.
//
// What is read is bounded. A Dir is for one goroutine.
package procdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// maxFile is the most that is read of one file: a process may be in that many
// cgroups of long names, and have that many children.
const maxFile = 1 << 20

// errMalformed means that the kernel's text is not what it should be.
var errMalformed = errors.New("malformed")

// Dir is the directory of one process.
type Dir struct {
	// PID is the process's, as the procfs numbers it.
	PID workload.PID

	fd  int
	own bool // the procfs is that of this process, so its PIDs are ours
}

// Open opens the directory of whoever has the PID now. The caller closes it.
func Open(procfs string, pid workload.PID) (*Dir, error) {
	path := procfs + "/" + strconv.FormatUint(uint64(pid), 10)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &Dir{PID: pid, fd: fd, own: procfs == "/proc"}, nil
}

// Close closes the directory.
func (d *Dir) Close() { _ = unix.Close(d.fd) }

// Stat is what /proc/PID/stat says.
type Stat struct {
	// Comm is the program's name, which may hold any byte.
	Comm string
	// Parent is 0 where it is in no PID namespace that the procfs shows.
	Parent workload.PID
	// Ticks is the start in clock ticks since boot.
	Ticks uint64
	// Ended: it is a zombie.
	Ended bool
}

// Key names the process for ever.
func (d *Dir) Key(s Stat) workload.ProcessKey {
	return workload.ProcessKey{PID: d.PID, Ticks: true, Start: s.Ticks * workload.TickNS}
}

// Stat reads the process's state, parent and start.
func (d *Dir) Stat() (Stat, error) {
	data, err := d.read("stat")
	if err != nil {
		return Stat{}, err
	}
	// The second field is the name in parentheses, of which it may hold some itself.
	from, to := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if from < 0 || to < from {
		return Stat{}, d.malformed("stat")
	}
	f := bytes.Fields(data[to+1:])
	if len(f) < 20 {
		return Stat{}, d.malformed("stat")
	}
	parent, perr := strconv.ParseUint(string(f[1]), 10, 32)
	ticks, terr := strconv.ParseUint(string(f[19]), 10, 64)
	if perr != nil || terr != nil {
		return Stat{}, d.malformed("stat")
	}
	return Stat{Comm: string(data[from+1 : to]), Parent: workload.PID(parent), Ticks: ticks, Ended: f[0][0] == 'Z' || f[0][0] == 'X'}, nil
}

// Status is what of /proc/PID/status tells whose a process is.
type Status struct {
	// PIDs are its PIDs from the procfs's PID namespace inwards.
	PIDs []workload.PID
	// UIDs are the real, effective, saved and file system user ids, in this process's
	// user namespace.
	UIDs [4]uint32
}

// FirstOfNamespace reports whether the process is the first of a PID namespace below
// that of the procfs.
func (s Status) FirstOfNamespace() bool { return len(s.PIDs) > 1 && s.PIDs[len(s.PIDs)-1] == 1 }

// Status reads the process's PIDs and user.
func (d *Dir) Status() (Status, error) {
	data, err := d.read("status")
	if err != nil {
		return Status{}, err
	}
	var s Status
	user := false
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		switch {
		case key == "Uid" && len(f) == len(s.UIDs):
			for i := range f {
				uid, err := strconv.ParseUint(f[i], 10, 32)
				if err != nil {
					return Status{}, d.malformed("status")
				}
				s.UIDs[i] = uint32(uid)
			}
			user = true
		case key == "NSpid":
			for _, pid := range f {
				n, err := strconv.ParseUint(pid, 10, 32)
				if err != nil {
					return Status{}, d.malformed("status")
				}
				s.PIDs = append(s.PIDs, workload.PID(n))
			}
		}
	}
	if !user || len(s.PIDs) == 0 {
		return Status{}, d.malformed("status")
	}
	return s, nil
}

// Cgroups reads the process's cgroup in each hierarchy, without their ids.
func (d *Dir) Cgroups() ([]workload.CgroupPath, error) {
	data, err := d.read("cgroup")
	if err != nil {
		return nil, err
	}
	var list []workload.CgroupPath
	for line := range strings.Lines(string(data)) {
		number, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, ok2 := strings.Cut(rest, ":")
		h, err := strconv.ParseUint(number, 10, 32)
		if !ok || !ok2 || err != nil {
			return nil, d.malformed("cgroup") // a newline in a cgroup's name, for one
		}
		list = append(list, workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: uint32(h)}, Path: path})
	}
	return list, nil
}

// Namespace gives the inode of one of its namespaces: "pid", "mnt", "user". It is read
// of the link: to look behind it takes privileges over the process that this need not.
func (d *Dir) Namespace(name string) (uint64, error) {
	buf := make([]byte, 64)
	n, err := unix.Readlinkat(d.fd, "ns/"+name, buf)
	if err != nil {
		return 0, d.failed("ns/"+name, err)
	}
	text, ok := strings.CutPrefix(string(buf[:n]), name+":[")
	inode, perr := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	if !ok || perr != nil {
		return 0, d.malformed("ns/" + name)
	}
	return inode, nil
}

// UserNamespaceOwner gives the user who made the user namespace that the process is in,
// in this process's user namespace.
func (d *Dir) UserNamespaceOwner() (uint32, error) {
	fd, err := unix.Openat(d.fd, "ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, d.failed("ns/user", err)
	}
	defer unix.Close(fd)
	owner, err := unix.IoctlGetUint32(fd, nsGetOwnerUID)
	if err != nil {
		return 0, d.failed("ns/user", err)
	}
	return owner, nil
}

// nsGetOwnerUID is NS_GET_OWNER_UID, _IO(0xb7, 0x4) (include/uapi/linux/nsfs.h), Linux 4.11.
const nsGetOwnerUID = 0xb704

// Children are those of its main thread (CONFIG_PROC_CHILDREN).
func (d *Dir) Children() ([]workload.PID, error) {
	data, err := d.read("task/" + strconv.FormatUint(uint64(d.PID), 10) + "/children")
	if err != nil {
		return nil, err
	}
	var pids []workload.PID
	for f := range strings.FieldsSeq(string(data)) {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return nil, d.malformed("children")
		}
		pids = append(pids, workload.PID(n))
	}
	return pids, nil
}

// HoldsSocket reports whether one of its first descriptors is the socket of this inode.
func (d *Dir) HoldsSocket(inode uint64) (bool, error) {
	fd, err := unix.Openat(d.fd, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, d.failed("fd", err)
	}
	f := os.NewFile(uintptr(fd), "fd")
	defer f.Close()
	names, err := f.Readdirnames(maxDescriptors)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, d.failed("fd", err)
	}
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	buf := make([]byte, 64)
	for _, name := range names {
		if n, err := unix.Readlinkat(fd, name, buf); err == nil && string(buf[:n]) == want {
			return true, nil
		}
	}
	return false, nil
}

// maxDescriptors bounds how many of a process's descriptors are looked at.
const maxDescriptors = 1024

// Inode gives the process's pidfs inode (Linux 6.9), 0 where there is none or the
// procfs is not this process's own.
func (d *Dir) Inode() (uint64, error) {
	if !d.own {
		return 0, nil
	}
	fd, err := unix.PidfdOpen(int(d.PID), 0)
	if err != nil {
		return 0, d.failed("pidfd", err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, d.failed("pidfd", err)
	}
	if fs.Type != pidfsMagic {
		return 0, nil
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, d.failed("pidfd", err)
	}
	if _, err := d.Stat(); err != nil { // it had the PID when the pidfd was opened, if it has it still
		return 0, err
	}
	return st.Ino, nil
}

// pidfsMagic is PID_FS_MAGIC (include/uapi/linux/magic.h).
const pidfsMagic = 0x50494446

// read reads a whole file, which is an error where it is larger than maxFile.
func (d *Dir) read(name string) ([]byte, error) {
	data, err := d.Read(name, maxFile+1)
	if err == nil && len(data) > maxFile {
		err = d.malformed(name)
	}
	return data, err
}

// Read reads a file of the process, at most limit bytes of it.
func (d *Dir) Read(name string, limit int) ([]byte, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.failed(name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)))
	if err != nil {
		return nil, d.failed(name, err)
	}
	return data, nil
}

func (d *Dir) failed(name string, err error) error {
	return fmt.Errorf("read %s of process %d: %w", name, d.PID, err)
}

func (d *Dir) malformed(name string) error { return d.failed(name, errMalformed) }

// Gone reports whether an error says that the process has ended.
func Gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }
