// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The bounds of what users who are not root can make of it.
const (
	// maxStores is how many stores of users are known.
	maxStores = 64
	// maxUserContainers is how many containers of one user's store are listed.
	maxUserContainers = 512
	// maxAncestors is how far up from a process a conmon is looked for.
	maxAncestors = 64
	// discoverEvery is the least time between two searches of /proc.
	discoverEvery = time.Second
)

// homeStore is where podman keeps a user's containers, below the home.
const homeStore = ".local/share/containers/storage"

// discover finds the stores of users: of each conmon that runs, and of each home.
func (c *Collector) discover(ctx context.Context) {
	c.mu.Lock()
	if c.noUsers || time.Since(c.discovered) < discoverEvery {
		c.mu.Unlock()
		return
	}
	c.discovered = time.Now()
	c.mu.Unlock()
	dirs, _ := os.ReadDir(c.proc)
	for _, d := range dirs {
		pid, err := strconv.ParseInt(d.Name(), 10, 32)
		if err != nil || !c.isConmon(d.Name()) {
			continue
		}
		if m, err := c.monitor(pid); err == nil {
			c.learn(m)
		}
		if ctx.Err() != nil {
			return
		}
	}
	homes, _ := filepath.Glob(filepath.Join(c.host, "home/*", homeStore))
	for _, home := range homes[:min(len(homes), maxStores)] {
		var st unix.Stat_t
		if unix.Lstat(home, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			root, _ := filepath.Rel(c.host, home)
			c.add(st.Uid, "/"+root)
		}
	}
}

// isConmon reads the name alone, which is cheap.
func (c *Collector) isConmon(pid string) bool {
	comm, err := os.ReadFile(c.proc + "/" + pid + "/comm")
	return err == nil && string(bytes.TrimSpace(comm)) == "conmon"
}

// learn adds the store that a user's conmon works on, and gives it.
func (c *Collector) learn(m monitor) *store {
	// <root>/<driver>-containers/<id>/userdata
	dir, ok := strings.CutSuffix(filepath.Clean(m.bundle), "/"+m.id+"/userdata")
	if m.uid == 0 || !ok || !filepath.IsAbs(dir) || !strings.HasSuffix(dir, "-containers") {
		return nil
	}
	return c.add(m.uid, filepath.Dir(dir))
}

// add gives the store of a user, a new one where it is not known yet. That it is the
// user's is checked whenever it is opened.
func (c *Collector) add(uid uint32, root string) *store {
	if uid == 0 || c.noUsers {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	users, same := 0, false
	for _, s := range c.stores {
		if s.owner == uid && s.root == root {
			return s
		}
		if s.user {
			users++
		}
		same = same || s.user && s.owner == uid
	}
	if users >= maxStores {
		return nil
	}
	s := &store{c: c, root: root, owner: uid, user: true, instance: workload.UserInstance(uid)}
	if same {
		s.instance += root
	}
	if fd, err := s.open(); err != nil {
		return nil
	} else {
		_ = unix.Close(fd)
	}
	c.stores = append(slices.Clip(c.stores), s)
	return s
}

// locateProcess finds the container that a process descends from: the conmon above
// it says whose, and the user's store must agree. What shares all namespaces with
// its conmon is no container's: conmon starts podman itself when a container ends. A
// store that cannot say just now, because podman writes to it, denies nothing.
func (c *Collector) locateProcess(ctx context.Context, key workload.ProcessKey) (workload.ContainerID, error) {
	if key.PID == 0 || c.noUsers {
		return workload.ContainerID{}, collectors.ErrNotFound
	}
	pid := int64(key.PID)
	for range maxAncestors {
		m, err := c.monitor(pid)
		if err == nil {
			s := c.learn(m)
			if s == nil || !c.apart(int64(key.PID), m.pid) {
				return workload.ContainerID{}, collectors.ErrNotFound
			}
			if err := s.exists(ctx, m.id); err != nil {
				return workload.ContainerID{}, err
			}
			return s.id(m.id), nil
		}
		if pid = m.parent; pid <= 1 || ctx.Err() != nil {
			break
		}
	}
	return workload.ContainerID{}, collectors.ErrNotFound
}

// apart says whether two processes differ in their PID or mount namespaces.
func (c *Collector) apart(pid, other int64) bool {
	for _, ns := range []string{"pid", "mnt"} {
		a, b := c.namespace(pid, ns), c.namespace(other, ns)
		if a != 0 && b != 0 && a != b {
			return true
		}
	}
	return false
}

func (c *Collector) namespace(pid int64, ns string) uint64 {
	var st unix.Stat_t
	if unix.Stat(c.proc+"/"+strconv.FormatInt(pid, 10)+"/ns/"+ns, &st) != nil {
		return 0
	}
	return st.Ino
}

// place says where the init's own cgroups are, as paths inside the hierarchies: the
// element that has the container's id, and above; only those that were made over to
// the user are his to name. none means that it has none of its own: it stays in
// those of its conmon.
func (c *Collector) place(hex string, init, conmon int64, owner uint32) (paths []string, none bool) {
	own, err := c.cgroups(init)
	if err != nil {
		return nil, false
	}
	named := false
	for _, path := range own {
		if i := strings.Index(path, hex); i >= 0 {
			end := len(path)
			if j := strings.IndexByte(path[i:], '/'); j >= 0 {
				end = i + j
			}
			named = true
			if len(paths) < 16 && c.delegated(path[:end], owner) {
				paths = append(paths, path[:end])
			}
		}
	}
	if named {
		return paths, false
	}
	its, err := c.cgroups(conmon)
	if err != nil || len(its) != len(own) {
		return nil, false
	}
	for i := range its {
		if its[i] != own[i] {
			return nil, false
		}
	}
	return nil, true
}

// delegated says whether a cgroup of v2 is the user's: the only hierarchy in which
// one can be.
func (c *Collector) delegated(path string, owner uint32) bool {
	for _, top := range []string{c.cgroupRoot, c.cgroupRoot + "/unified"} {
		var fs unix.Statfs_t
		var st unix.Stat_t
		if unix.Statfs(top, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return unix.Lstat(filepath.Join(top, path), &st) == nil && st.Uid == owner
		}
	}
	return false
}

// cgroups reads /proc/PID/cgroup: the path of each line.
func (c *Collector) cgroups(pid int64) (paths []string, _ error) {
	p, err := c.process(pid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	data, err := p.Read("cgroup", 64<<10)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 {
			paths = append(paths, f[2])
		}
	}
	return paths, nil
}

// isID says whether a text can be the id of one of podman's containers.
func isID(s string) bool { return runtimespec.IsHex64(s) }
