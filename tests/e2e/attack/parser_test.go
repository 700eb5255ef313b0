// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// The forms of an id in a cgroup's name, as the tools of the field look for
// them: a run of hexadecimal digits, with whatever prefix and suffix the engine
// gives it, or a GUID.
var (
	hexID = regexp.MustCompile(`(?i)[0-9a-f]{12,}`)
	guid  = regexp.MustCompile(`(?i)^[0-9a-f]{8}(-[0-9a-f]{4}){2}`)
)

// plain names a process's containers as a plain name parser does: the id in the
// last component of each line that has one, cut to the twelve digits that
// `docker ps` shows. Each attack has to work on it, or it was none.
func plain(cgroupFile string) (ids []string) {
	for line := range strings.Lines(cgroupFile) {
		path := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), " (deleted)")
		last := path[strings.LastIndexByte(path, '/')+1:]
		id := hexID.FindString(last)
		if guid.MatchString(last) {
			id = strings.ReplaceAll(last, "-", "")
		}
		if len(id) >= 12 {
			ids = append(ids, strings.ToLower(id[:12]))
		}
	}
	return ids
}

// fools fails the test unless the parser takes the process for the victim's.
func fools(t *testing.T, pid int, victim *member) {
	t.Helper()
	if text := harness.ProcFile(t, pid, "cgroup"); !slices.Contains(plain(text), victim.id[:12]) {
		t.Fatalf("the attack did not happen: a plain parser reads %q, not %s, in\n%s", plain(text), victim.id[:12], text)
	}
}

func TestThePlainParserReadsWhatEnginesWrite(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, path := range []string{
		"/docker/" + id, "/system.slice/docker-" + id + ".scope", "/machine.slice/libpod-" + id + ".scope", "/kubepods/besteffort/pod1/crio-" + id,
		"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + id, "/ecs/0123456789abcdef/" + id[:32] + "-1",
		"/garden/01234567-89ab-cdef-0123-456789abcdef",
	} {
		if got := plain(fmt.Sprintf("4:memory:/\n0::%s\n", path)); !slices.Equal(got, []string{id[:12]}) {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got := plain("0::/user.slice/user-1000.slice\n"); len(got) > 0 {
		t.Errorf("a user's slice: %q", got)
	}
}
