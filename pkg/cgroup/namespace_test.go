// SPDX-License-Identifier: Apache-2.0

package cgroup

var childRoles = map[string]func() error{}
