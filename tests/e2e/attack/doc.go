// SPDX-License-Identifier: Apache-2.0

// Package attack holds pidigree to its first promise while containers attack
// each other: nobody is ever given the victim's name.
//
// Every attack is made by a real container, with what it needs to succeed (root,
// SYS_ADMIN, the host's cgroups writable), and is first shown to fool a plain
// name parser, which names a container as tools do that read the last component
// of /proc/PID/cgroup; so no attack can pass by not happening. The oracle of
// tests/e2e/oracle knows the truth about every process that plays a part, and
// asks in the background, in every way, all the while.
//
// An attacker must be named as itself, or be unknown, or in conflict. The victim
// and the bystanders must be known all along: under 0.1 % of the answers about
// those that are older than 100 ms may be unknown, none may be conflict. What
// only looks like an attack must be answered.
//
// The suite runs twice: on the host, whatever its cgroups are, and in a
// systemd-nspawn guest, with systemd as PID 1 and cgroup v2 alone. The lines:
//
//	 1  names of child cgroups              TestAttacks/names_of_child_cgroups
//	 2  split hierarchies, the whole move   TestAttacks/split_and_whole_moves
//	 3  CLONE_INTO_CGROUP, moves, loops     TestAttacks/entries_and_moves
//	 4  PID reuse                           TestAttacks/reused_PIDs
//	 5  honest look-alikes                  TestAttacks/honest_look-alikes
//	 6  hostile names                       TestAttacks/hostile_names; content: tests/e2e TestNothingOfAContainersReachesAMetricOrALogRaw
//	 7  monstrous labels                    tests/e2e TestAMonstrousContainerCostsTheOthersNothing
//	 8  hostile bundles                     pkg/collectors/oci TestAHostileBundle..., TestAHostileStateFile...; internal/safefile
//	 9  a runtime that lies                 TestAttacks/lying_runtimes
//	10  a peer on the socket                TestAttacks/peers; pkg/server hostile_test.go
//	11  floods that hide a start            TestAttacks/floods
//
// Lines 1 to 4 are made a second time with runc alone in tests/e2e/bare, which
// runs in the virtual machines of scripts/vm.sh too.
package attack
