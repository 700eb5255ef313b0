// SPDX-License-Identifier: Apache-2.0

// Package ecs asks the Amazon ECS agent of this instance about its tasks. What it
// adds to what Docker's labels say is a task's service, launch type, zone, statuses,
// limits and tags, and which containers it is made of.
//
// There are two questions. /v1/tasks of the agent's introspection gives all tasks
// and is asked when a container or task is asked for that was not in the last
// answer, every 30 s, a few times after something changed, and once when the kernel
// showed that something ended; lookups that wait share one call. What it does not
// say of a task is asked once for each, at the task's metadata endpoint (v4, else
// v3), and again after three minutes or when one of its containers is another one or
// has been started anew. Where there is no introspection, on Fargate and for a
// daemon in a network of its own, the agent's own metadata endpoint is asked
// instead, for its own task or, where it tells, all of the instance.
//
// The path of a task's endpoint is in the environment of its containers, from which
// nothing else is read. A container may write there what it likes, so of that text
// only a token of letters and digits is used, never a host, and an answer about
// another task, or without the container that named the path, is refused.
//
// Every call is paid for from one token bucket (35 a second, 60 at once): the agent
// lets through 40 and 60 and serves every container of the instance. Only this host
// and link-local addresses are asked; no redirect is followed and no proxy used. Answers are
// read in a stream, one task at a time, each cut to a budget.
//
// Identity never waits for ECS: who a container is comes from the engine, and with
// its labels also the task's ARN, family and cluster.
//
// A Collector keeps the last answer, so that a task that went while the agent was
// away is noticed, and what metadata endpoints said of the tasks in it. All methods
// may be called concurrently.
package ecs
