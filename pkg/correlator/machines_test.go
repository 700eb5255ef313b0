// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// newMachineRig is a rig whose only source has machined's files.
func newMachineRig(t *testing.T) *rig {
	r := newRig(t)
	r.m = newMachine(config{sources: []sourceInfo{{name: "nspawn", prefill: true, files: true}}, strip: r.m.cfg.strip, hostMountNS: 1})
	r.reqs = nil
	r.mkdir(2, 1, "/machine.slice")
	r.task(10, 1, 1, nil)
	return r
}

// machine is what the source says of a machine.
func (r *rig) machine(name string, leader workload.PID, unit string) *workload.Container {
	l := r.state(name, leader, unit+"/payload")
	l.ID = workload.ContainerID{Runtime: "nspawn", ID: name}
	return l
}

// startMachine starts machine "web" in cgroup 3: its supervisor is 90, its leader 100.
func (r *rig) startMachine(unit string) {
	r.mkdir(3, 2, unit)
	r.fork(90, 10, 3)
	r.fork(100, 90, 3, ns(500, 1))
	l := r.machine("web", 100, unit)
	r.feed(evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	r.mkdir(4, 3, unit+"/supervisor")
	r.mkdir(5, 3, unit+"/payload")
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(90, 10, 4), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(100, 90, 5, ns(500, 1)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 5}}})
	r.after(3000)
}

// nspawn and its container are in one unit, side by side. The one is the host's, and
// the other is the machine, registered before it was where it is now.
func TestAMachineIsItsPayloadAndNspawnIsTheHosts(t *testing.T) {
	for _, unit := range []string{"/machine.slice/machine-web.scope", "/machine.slice/systemd-nspawn@web.service"} {
		t.Run(unit, func(t *testing.T) {
			r := newMachineRig(t)
			r.startMachine(unit)
			r.want(100, workload.StatusContainer, "web")
			r.want(90, workload.StatusHost, "")
			r.fork(101, 100, 5, ns(500, 2))
			r.want(101, workload.StatusContainer, "web")
			r.fork(91, 90, 4)
			r.want(91, workload.StatusHost, "")
		})
	}
}

// Who gives his own cgroups the names of a machine's, in a slice of his or in another
// container, gets neither the machine's name nor its supervisor's place.
func TestTheNamesOfAMachinesCgroupsAreNobodys(t *testing.T) {
	r := newMachineRig(t)
	r.startMachine("/machine.slice/machine-web.scope")
	r.mkdir(20, 1, "/user.slice")
	r.mkdir(21, 20, "/user.slice/machine.slice")
	r.mkdir(22, 21, "/user.slice/machine.slice/machine-web.scope")
	r.mkdir(23, 22, "/user.slice/machine.slice/machine-web.scope/payload")
	r.task(200, 10, 23, nil)
	r.after(3000)
	r.want(200, workload.StatusUnknown, "")
	r.task(201, 10, 22, []workload.PIDNamespace{ns(700, 1)})
	r.after(3000)
	r.want(201, workload.StatusUnknown, "")

	r.mkdir(30, 5, "/machine.slice/machine-web.scope/payload/machine.slice")
	r.mkdir(31, 30, "/machine.slice/machine-web.scope/payload/machine.slice/machine-db.scope")
	r.mkdir(32, 31, "/machine.slice/machine-web.scope/payload/machine.slice/machine-db.scope/supervisor")
	r.fork(102, 100, 5, ns(500, 3))
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(102, 100, 32, ns(500, 3)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 32}}})
	r.after(3000)
	r.want(102, workload.StatusContainer, "web")
}

// machined takes a machine's file away, which is heard of before its leader's end.
func TestAMachineThatIsDeletedBeforeItsEndIsSeenIsGoneAfterIt(t *testing.T) {
	r := newMachineRig(t)
	r.startMachine("/machine.slice/machine-web.scope")
	id := workload.ContainerID{Runtime: "nspawn", ID: "web"}
	r.feed(evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: id}})
	r.after(5000)
	c := r.m.find(id)
	if c.goneAt != 0 {
		t.Error("it is gone, and its leader lives")
	}
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 90, 5, ns(500, 1))})
	r.after(5000)
	if c.goneAt == 0 {
		t.Error("it is not gone")
	}
}
