// SPDX-License-Identifier: Apache-2.0

// Package oracle knows the truth about processes, asks pidigree about them in
// every way there is, and scores what it says.
//
// # The truth
//
// Whoever starts a container registers it first and gives it a directory of the
// oracle's: a socket, a nonce that nobody else is given, and a static program
// (tests/e2e/oracle/work). A process that connects and sends the nonce is in
// that container, whatever its cgroup, its name and its PID say; which process
// it is, the kernel says: the oracle takes a pidfd from the socket (SO_PEERPIDFD,
// Linux 6.5; before, the PID of SO_PEERCRED while the process waits to be
// scored). No code and no assumption is shared with the agent: this package
// imports pkg/client to ask with and pkg/workload for the nouns, nothing else of
// ours.
//
//	o := oracle.Start(t, oracle.Options{Work: programs.Work, Socket: agent.Socket, Command: []string{programs.Pidigree}})
//	web := o.Container(oracle.Truth{Name: "web", Image: image, Labels: map[string]string{"a": "b"}})
//	id := docker.Run(append(web.DockerArgs(), image, oracle.Work, "stay", "-threads", "3")...)
//	web.SetID(id)
//	o.WaitKnown(10*time.Second, web)
//	before := o.Score()
//	...                                    // a fault, an attack
//	during := o.Score().Since(before)      // t has failed already if an answer was wrong
//
// # The questions
//
// A process that reports is held until it has been asked about: that is the
// first round, on processes as young as a millisecond. One that stays is asked
// about again and again by the sweeps, in the background, until it ends or the
// oracle does. Ways are the library (an Asker in this process), the socket, and
// the command line; By says what is asked with: PID, thread, key (PID and pidfs
// inode; PID and start, as /proc has it and as pidigree itself gave it), pidfd,
// cgroup id, cgroup path, container id and name. The API takes no PID of a
// namespace; instead the namespace PID that an answer gives is compared with the
// process's own getpid.
//
// # The score
//
// An answer is right, partial (the right container, with its name, image or a
// label not known yet), unknown, conflict, or wrong: another container, host for
// a container's process, a container for a process of the host, another name,
// image or label of the right container, another process instance, an end that
// has not come. Whether the process lived through the question is looked up by
// its pidfd after the answer. If it did not, the question says nothing but what
// is wrong about it: an answer that names an instance that the oracle has met is
// held to that one's truth.
//
// "Ended" is what the kernel says: the pidfd, or the flag that every thread of a
// process carries from its last instruction on. pidigree reports the end at that
// moment, up to some 100 ms before the pidfd does on a busy machine.
//
// A wrong answer fails the test at once, with all evidence. Everything else is
// counted, by way, question, age and party, for the test to judge: Party.Group
// keeps attackers and bystanders apart, Party.Expect replaces the judgement of a
// party's processes.
//
// For as many lookups as one likes, Options.Rounds asks every process again and
// again in its first round, and Options.Linger holds some of them until they are
// older. With attackers and faults beside it, that is
//
//	make torture PARTS=oracle
//
// All methods may be called concurrently. What Start starts has ended when the
// test has; containers are whoever started them's to remove.
package oracle
