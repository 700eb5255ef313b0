// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

const nobody = 65534

func TestAProcessThatAsksAboutItselfIsTheOneThatTheKernelNames(t *testing.T) {
	var alive error
	pidfds := hasPeerPIDFD(t)
	b := &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
		if p.PIDFD == nil {
			if pidfds {
				alive = errors.New("no pidfd")
			}
		} else if raw, err := p.PIDFD.SyscallConn(); err != nil {
			alive = err
		} else if err := raw.Control(func(fd uintptr) { alive = unix.PidfdSendSignal(int(fd), 0, nil, 0) }); err != nil {
			alive = err
		}
		return echo(ctx, p, q)
	}}
	r := start(t, b)
	child := spawn(t, r.socket, "self", nil)
	inode := pidfsInode(t, child.Process.Pid)
	if got, want := child.text(t), fmt.Sprintf("%s %d %[1]s\n", pidOf(child), inode); got != want {
		t.Errorf("the child is %q (PID, pidfs inode, its own idea), want %q", got, want)
	}
	if alive != nil {
		t.Errorf("the peer's pidfd: %v", alive)
	}
}

// hasPeerPIDFD: SO_PEERPIDFD came with Linux 6.5. An older kernel does not know
// the option; any other error would be one of ours.
func hasPeerPIDFD(t *testing.T) bool {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return true
}

func pidfsInode(t *testing.T, pid int) uint64 {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0
	}
	return st.Ino
}

func TestWhoMayAskWhat(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become other users: run the tests as root")
	}
	b := &backend{
		list: func(context.Context, workload.Selector) seqOf[workload.Entity] {
			return slice(workload.Entity{Kind: "pod", Pod: &workload.Pod{PodRef: workload.PodRef{UID: "u"}}})
		},
		watch: func(context.Context, workload.Selector) seqOf[[]workload.Change] {
			return slice([]workload.Change{{Type: workload.ChangeBookmark}})
		},
	}
	r := start(t, b, func(o *server.Options) { o.Group = "4242" })
	// As if the socket had been mounted where everybody can reach it.
	if err := os.Chmod(r.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	questions := []string{
		"self", "pid", "self and pid", "get", "status", "list", "watch", "stream of self", "stream of pid", "stream of self and pid",
	}
	onlySelf := map[string]string{"self": "ok", "stream of self": "ok"}
	everything := map[string]string{}
	for _, q := range questions {
		everything[q] = "ok"
		if onlySelf[q] == "" {
			onlySelf[q] = "denied"
		}
	}
	for _, c := range []struct {
		name string
		cred syscall.Credential
		want map[string]string
	}{
		{"root", syscall.Credential{}, everything},
		{"another user", syscall.Credential{Uid: nobody, Gid: nobody}, onlySelf},
		{"another user with groups that do not count", syscall.Credential{Uid: nobody, Gid: nobody, Groups: manyGroups(300)}, onlySelf},
		{"the group as primary group", syscall.Credential{Uid: nobody, Gid: 4242}, everything},
		{"the group as a supplementary group", syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, 4242}}, everything},
		{"the group as the last of many", syscall.Credential{Uid: nobody, Gid: nobody, Groups: append(manyGroups(300), 4242)}, everything},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := map[string]string{}
			for line := range strings.Lines(spawn(t, r.socket, "everything", &c.cred).text(t)) {
				line = strings.TrimSpace(line)
				i := strings.LastIndexByte(line, ' ')
				got[line[:max(i, 0)]] = line[i+1:]
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// secretive answers with a workload that has a secret wherever there is room for one.
func secretive(_ context.Context, _ server.Peer, q workload.Query) workload.Result {
	pid := max(q.PID, q.Key.PID)
	if pid == 13 {
		return workload.Result{Err: fmt.Errorf("%w: no process 13", workload.ErrNotFound)}
	}
	m := func() map[string]string { return map[string]string{"app": "web", "secret": "hush"} }
	r := workload.Result{Answer: workload.Answer{
		Status:  workload.StatusContainer,
		Process: &workload.Process{Key: workload.ProcessKey{PID: pid, Start: 1}},
		Containers: []*workload.Container{
			{Name: "outer", Labels: m(), Annotations: m(), Env: m()}, {Name: "inner", Labels: m(), Annotations: m(), Env: m()},
		},
		Pod:  &workload.Pod{Labels: m(), Annotations: m()},
		Task: &workload.Task{Tags: m(), InstanceTags: m()},
	}}
	if q.Explain || q.Detail || q.Family {
		r.Explanation = []workload.Hop{{What: "process", Detail: "hush"}}
	}
	return r
}

// A user who may not ask everything may ask about his own processes, where that is
// configured, and sees no secret of theirs; of all others he learns nothing.
func TestOthersMayAskAboutTheirOwnProcessesWhereThatIsConfigured(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become other users: run the tests as root")
	}
	const user, other, unmapped = 4711, 4712, 65534
	owner := func(k workload.ProcessKey) (uint32, bool) {
		return map[workload.PID]uint32{11: user, 12: other}[k.PID], k.PID != 13
	}
	alone := func(pid, uid int) string {
		return fmt.Sprintf("true permission denied: uid %d may ask only about living processes of its own, and PID %d is none: become root, or a member of the group that owns the socket\n", uid, pid)
	}
	const shown = "11 inner map[app:web] map[app:web] map[] map[app:web] map[app:web] map[app:web] map[app:web] [] <nil> <nil>\n"
	byPID := func(uid int) string {
		return strings.Repeat(fmt.Sprintf("true resolve: permission denied: uid %d may ask only about processes of its own, by PID: become root, or a member of the group that owns the socket\n", uid), 3)
	}
	answers := shown + alone(12, user) + alone(13, user) + shown + alone(12, user)
	denied := func(uid int, what string) string {
		return fmt.Sprintf("error: resolve: permission denied: uid %d may ask only about %s: become root, or a member of the group that owns the socket\n", uid, what)
	}
	for name, c := range map[string]struct {
		uid       int
		owner     func(workload.ProcessKey) (uint32, bool)
		contained bool
		want      string
	}{
		"a user":                         {uid: user, owner: owner, want: answers + answers + byPID(user)},
		"not where it is not configured": {uid: user, want: denied(user, "itself")},
		"not from a container":           {uid: user, owner: owner, contained: true, want: denied(user, "processes of its own, by PID")},
		"not one who has no number here": {uid: unmapped, owner: func(workload.ProcessKey) (uint32, bool) { return unmapped, true }, want: denied(unmapped, "processes of its own, by PID")},
		"not about what nobody knows of": {uid: user, owner: func(workload.ProcessKey) (uint32, bool) { return user, false }, want: strings.Repeat(alone(11, user)+alone(12, user)+alone(13, user)+alone(11, user)+alone(12, user), 2) + byPID(user)},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, &backend{resolve: secretive}, func(o *server.Options) {
				o.Group, o.Owner, o.OthersLabel = "4242", c.owner, func(key string) bool { return key == "app" }
				if c.contained {
					o.Standing = func(server.Peer) server.Standing { return server.Contained }
				}
			})
			// As Listen does for others; here also where it is not configured.
			if err := os.Chmod(r.socket, 0o666); err != nil {
				t.Fatal(err)
			}
			got := spawn(t, r.socket, "own", &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}).text(t)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What one asker is not shown stays in the store's own entities.
func TestWhatOthersDoNotSeeIsStillThereForRoot(t *testing.T) {
	kept := secretive(t.Context(), server.Peer{}, workload.Query{PID: 11})
	owner := func(workload.ProcessKey) (uint32, bool) { return 4711, true }
	b := &backend{resolve: func(context.Context, server.Peer, workload.Query) workload.Result { return kept }}
	r := start(t, b, func(o *server.Options) { o.Group, o.Owner = "4242", owner })
	if err := os.Chmod(r.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := spawn(t, r.socket, "own", &syscall.Credential{Uid: 4711, Gid: 4711}).text(t); !strings.HasPrefix(got, "11 inner map[] map[]") {
		t.Fatalf("the user got %q", got)
	}
	if diff := cmp.Diff(secretive(t.Context(), server.Peer{}, workload.Query{PID: 11}), kept); diff != "" {
		t.Errorf("the backend's own answer changed (-want +got):\n%s", diff)
	}
}

func manyGroups(n int) (out []uint32) {
	for i := range n {
		out = append(out, uint32(100_000+i))
	}
	return out
}

func TestAPeerThatDiesIsLetGo(t *testing.T) {
	ended := make(chan struct{})
	b := &backend{watch: func(ctx context.Context, _ workload.Selector) seqOf[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			defer close(ended)
			yield([]workload.Change{{Type: workload.ChangeBookmark}})
			<-ctx.Done()
		}
	}}
	r := start(t, b, func(o *server.Options) { o.MaxConnections = 1 })
	child := spawn(t, r.socket, "hang", nil)
	if line, err := child.out.ReadString('\n'); line != "watching\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	// There is room for one connection, and the dead child's is free again. The
	// stream ends just before the connection does.
	eventually(t, func() error {
		c, err := tryClient(r.socket)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Self(t.Context())
		return err
	})
}

// withCommand answers with a process of the asker's for Self, and else with one whose
// real and effective users are as said.
func withCommand(uid, euid uint32) *backend {
	of := func(uid, euid uint32) *workload.Process {
		return &workload.Process{
			Key:    workload.ProcessKey{PID: 1, Start: 1},
			Detail: &workload.ProcessDetail{Command: []string{"login", "secret"}, UID: uid, EUID: euid, Truncated: []string{"command"}},
		}
	}
	return &backend{
		resolve: func(_ context.Context, p server.Peer, q workload.Query) workload.Result {
			r := workload.Result{Family: &workload.Family{}, Answer: workload.Answer{Status: workload.StatusHost, Process: of(uid, euid)}}
			if q.Self {
				r.Answer.Process = of(p.UID, p.UID)
			}
			return r
		},
		list: func(context.Context, workload.Selector) seqOf[workload.Entity] {
			return slice(workload.Entity{Kind: workload.KindProcess, Process: of(uid, euid)})
		},
	}
}

func TestACommandLineIsForRootAndItsOwnUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become other users: run the tests as root")
	}
	const user, other, group = 4711, 4712, 4242
	for name, c := range map[string]struct {
		peer, uid, euid, gid uint32
		all                  bool
		shown                bool
		denied               bool
	}{
		"root sees everybody's":                      {peer: 0, uid: user, euid: user, gid: group, shown: true},
		"a user sees his own":                        {peer: user, uid: user, euid: user, gid: group, shown: true},
		"a user does not see another's":              {peer: user, uid: other, euid: other, gid: group},
		"nor root's":                                 {peer: user, uid: 0, euid: 0, gid: group},
		"nor what he runs as another":                {peer: user, uid: user, euid: 0, gid: group},
		"nor what another runs as he":                {peer: user, uid: other, euid: user, gid: group},
		"where it is configured he sees everybody's": {peer: user, uid: other, euid: 0, gid: group, all: true, shown: true},
		"but nobody outside of the group does":       {peer: user, gid: 4713, all: true, denied: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, withCommand(c.uid, c.euid), func(o *server.Options) { o.Group, o.CommandLines = strconv.Itoa(group), c.all })
			// As if the socket had been mounted where everybody can reach it.
			if err := os.Chmod(r.socket, 0o666); err != nil {
				t.Fatal(err)
			}
			got := spawn(t, r.socket, "commands", &syscall.Credential{Uid: c.peer, Gid: c.gid}).text(t)
			text := "[] true"
			if c.shown {
				text = "[login secret] false"
			}
			want := fmt.Sprintf("self %d [login secret] false true\nasked %d %s true\nasked %d %s true\nlisted %d %s false\n", c.peer, c.uid, text, c.uid, text, c.uid, text)
			if c.denied { // it learns of itself alone
				want = fmt.Sprintf("self %d [login secret] false false\nerror: ", c.peer)
				got = got[:min(len(got), len(want))]
			}
			if got != want {
				t.Errorf("uid %d got\n%swant\n%s", c.peer, got, want)
			}
		})
	}
}
