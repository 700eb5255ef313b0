// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
)

var (
	// ErrUnsupported means that the Tracer cannot work here; a Poller can.
	// Every reason below wraps it.
	ErrUnsupported = errors.New("BPF tracing unavailable")
	// ErrNoBTF means that the kernel has no type information (CONFIG_DEBUG_INFO_BTF).
	ErrNoBTF = fmt.Errorf("%w: the kernel has no BTF (/sys/kernel/btf/vmlinux)", ErrUnsupported)
	// ErrNotPermitted means that a capability is missing, or that a seccomp filter forbids bpf(2).
	ErrNotPermitted = fmt.Errorf("%w: not permitted", ErrUnsupported)
	// ErrLockedDown means that kernel lockdown in confidentiality mode forbids reading kernel memory.
	ErrLockedDown = fmt.Errorf("%w: kernel lockdown is in confidentiality mode", ErrUnsupported)
	// ErrClosed means that the source was closed.
	ErrClosed = errors.New("kernel source closed")
	// ErrRunning means that Run is under way already.
	ErrRunning = errors.New("kernel source is already running")
)
