// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strconv"
	"strings"
)

// PID is a process id (the kernel's tgid) as the host's initial PID namespace
// numbers it, unless a field says otherwise. Valid PIDs are 1 to 4194304.
type PID uint32

// MaxPID is the kernel's PID_MAX_LIMIT on 64-bit (include/linux/threads.h): no
// process has a larger id.
const MaxPID PID = 4 << 20

// KTime is an instant in nanoseconds since boot, CLOCK_BOOTTIME. Zero means
// unknown. All kernel events and all timelines use it, because it cannot be
// set back and counts time spent suspended.
type KTime int64

// TickNS is one clock tick of /proc/PID/stat in nanoseconds. USER_HZ is 100 on
// every architecture that we build for.
const TickNS = 10_000_000

// ProcessKey names one process for ever. A PID is reused; a key is not.
//
// Inode is the pidfs inode of the process (6.9 and later; zero before), Start
// is task_struct.start_boottime of the thread group leader in nanoseconds. A
// key made from /proc/PID/stat alone has Ticks set: its Start is rounded down
// to TickNS.
type ProcessKey struct {
	PID   PID
	Ticks bool
	Inode uint64
	Start uint64
}

// IsZero reports whether the key names nothing.
func (k ProcessKey) IsZero() bool { return k.PID == 0 }

// OfInstance reports whether the key can name one process, and not only a PID.
func (k ProcessKey) OfInstance() bool {
	return k.PID != 0 && k.PID <= MaxPID && (k.Start != 0 || k.Inode != 0)
}

// Same reports whether both keys can only mean the same process as far as they
// say: equal PIDs, then equal inodes where both have one, else equal starts,
// rounded down to a tick where one of them is. Two keys with nothing to compare
// beyond the PID are not the same.
func (k ProcessKey) Same(o ProcessKey) bool {
	if k.PID != o.PID || k.PID == 0 {
		return false
	}
	if k.Inode != 0 && o.Inode != 0 {
		return k.Inode == o.Inode
	}
	if k.Start == 0 || o.Start == 0 {
		return false
	}
	if k.Ticks || o.Ticks {
		return k.Start/TickNS == o.Start/TickNS
	}
	return k.Start == o.Start
}

// String gives PID@start, with the inode where there is one.
func (k ProcessKey) String() string {
	s := strconv.FormatUint(uint64(k.PID), 10) + "@" + strconv.FormatUint(k.Start, 10)
	if k.Ticks {
		s += "~"
	}
	if k.Inode != 0 {
		s += "#" + strconv.FormatUint(k.Inode, 10)
	}
	return s
}

// CgroupID names one cgroup: the hierarchy's number as in /proc/PID/cgroup (0
// is cgroup v2) and the kernfs id, which is the directory's inode. Ids of
// different v1 hierarchies collide, so neither half is a key by itself.
type CgroupID struct {
	Hierarchy uint32
	ID        uint64
}

// IsZero reports whether the id names nothing.
func (c CgroupID) IsZero() bool { return c.ID == 0 }

// String gives hierarchy:id.
func (c CgroupID) String() string { return fmt.Sprintf("%d:%d", c.Hierarchy, c.ID) }

// CgroupPath is a cgroup with its absolute path inside its hierarchy ("/docker/4f3a").
type CgroupPath struct {
	CgroupID
	Path string
}

// ContainerID names a container. Ids of containerd are per namespace and of
// runc per state directory, so the bare id is not enough.
type ContainerID struct {
	// Runtime is the engine in lower case: docker, containerd, runc, crun, youki, podman, cri-o.
	Runtime string
	// Instance tells several engines of a kind apart: the socket or state
	// directory, empty for the engine's default one; "user/" and the uid, and more
	// where he has several, for a user's own; "nested/" and the socket for one in a container;
	// "remote/", a host and more for one of another host's.
	Instance string
	// Namespace is containerd's namespace, or the last element of the state directory of runc below it.
	Namespace string
	// ID is the engine's own id, as it prints it, whole.
	ID string
}

// userInstance begins the Instance of an engine that a user runs for himself.
const userInstance = "user/"

// UserInstance is the Instance of a user's own engine, a rootless one.
func UserInstance(uid uint32) string { return userInstance + strconv.FormatUint(uint64(uid), 10) }

// OfUser reports whether the container is of a user's own engine. Such an id is the
// user's word: it may be that of anybody's container, and is joined with no other.
func (c ContainerID) OfUser() bool { return strings.HasPrefix(c.Instance, userInstance) }

// nestedInstance begins the Instance of an engine that runs in a container.
const nestedInstance = "nested/"

// NestedInstance is the Instance of an engine that runs in a container, by its socket.
func NestedInstance(socket string) string { return nestedInstance + socket }

// Nested gives the Instance of an id that is the word of an engine in a container,
// and "" of any other. It is joined with no other id, as a user's is not.
func (c ContainerID) Nested() string {
	if strings.HasPrefix(c.Instance, nestedInstance) {
		return c.Instance
	}
	return ""
}

// remoteInstance begins the Instance of an id that another host's pidigree has given.
const remoteInstance = "remote/"

// RemoteInstance is the Instance, on this host, of an id of another one, by that one's
// name and the Instance that the id has there.
func RemoteInstance(host, instance string) string {
	return strings.TrimSuffix(remoteInstance+host+"/"+instance, "/")
}

// Everywhere reports whether the same id is the same container wherever it turns up on
// this host: 64 hexadecimal digits, which an engine of the host's has drawn. A person
// may choose any other one, and a user, an engine in a container or another host may
// have any that there is.
func (c ContainerID) Everywhere() bool {
	return len(c.ID) == 64 && strings.Trim(c.ID, "0123456789abcdef") == "" && !c.OfUser() && c.Nested() == "" && !strings.HasPrefix(c.Instance, remoteInstance)
}

// IsZero reports whether the id names nothing.
func (c ContainerID) IsZero() bool { return c.ID == "" }

// String gives runtime://namespace/id, without the namespace where there is none.
func (c ContainerID) String() string {
	var b strings.Builder
	b.WriteString(c.Runtime)
	b.WriteString("://")
	if c.Namespace != "" {
		b.WriteString(c.Namespace)
		b.WriteByte('/')
	}
	b.WriteString(c.ID)
	return b.String()
}
