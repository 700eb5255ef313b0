// SPDX-License-Identifier: Apache-2.0

package wire

import "github.com/pidigree/pidigree/pkg/workload"

// What a reply holds a thousand times is written and read here by hand. The
// numbers are those of entities.proto; the tests fill every field of the nouns
// and hold what comes out to the generated code.

var (
	keyMessage          = written(appendKey, parseKey)
	cgroupMessage       = written(appendCgroup, parseCgroup)
	pidNamespaceMessage = written(appendPIDNamespace, parsePIDNamespace)
	processMessage      = written(appendProcess, parseProcess)
)

func written[T any](put func([]byte, *T) []byte, parse func(*T, string) error) *message[T] {
	return &message[T]{byHand: &byHand[T]{put, parse}}
}

func appendKey(b []byte, k *workload.ProcessKey) []byte {
	b = appendNumber(b, 1, uint64(k.PID))
	b = appendNumber(b, 2, k.Inode)
	b = appendNumber(b, 3, k.Start)
	return appendTrue(b, 4, k.Ticks)
}

func parseKey(k *workload.ProcessKey, s string) error {
	for in := (scanner{s: s}); in.more(); {
		if err := in.next(); err != nil {
			return err
		}
		switch in.kind() {
		case 1<<3 | typeVarint:
			k.PID = workload.PID(in.n)
		case 2<<3 | typeVarint:
			k.Inode = in.n
		case 3<<3 | typeVarint:
			k.Start = in.n
		case 4<<3 | typeVarint:
			k.Ticks = in.n != 0
		}
	}
	return nil
}

// appendProcess writes the two parts of a process one after the other: the
// order of fields means nothing.
func appendProcess(b []byte, p *workload.Process) []byte {
	b = appendOwn(b, p)
	for i := range p.Cgroups {
		var start int
		b, start = open(b, 5)
		b = closed(appendCgroup(b, &p.Cgroups[i]), start)
	}
	if p.Container != (workload.ContainerID{}) {
		b = containerIDMessage.nested(b, 10, &p.Container)
	}
	return b
}

// appendOwn writes all but what a process has in common with others.
func appendOwn(b []byte, p *workload.Process) []byte {
	if p.Key != (workload.ProcessKey{}) {
		var start int
		b, start = open(b, 1)
		b = closed(appendKey(b, &p.Key), start)
	}
	b = appendNumber(b, 2, uint64(p.Parent))
	b = appendString(b, 3, p.Comm)
	b = appendString(b, 4, p.Exe)
	for i := range p.PIDNamespaces {
		var start int
		b, start = open(b, 6)
		b = closed(appendPIDNamespace(b, &p.PIDNamespaces[i]), start)
	}
	b = appendNumber(b, 7, uint64(p.MountNS))
	b = appendWord(b, 8, statuses, p.Status)
	b = appendWord(b, 9, confidences, p.Confidence)
	b = appendWord(b, 11, entries, p.Entry)
	b = appendTrue(b, 12, p.ForeignNamespaces)
	b = appendString(b, 13, p.Reason)
	if p.Service != nil {
		b = serviceMessage.nested(b, 14, p.Service)
	}
	b = appendNumber(b, 15, uint64(p.Started))
	b = appendNumber(b, 16, uint64(p.Exec))
	if p.Exit != nil {
		b = exitMessage.nested(b, 17, p.Exit)
	}
	if p.Detail != nil {
		b = processDetailMessage.nested(b, 20, p.Detail)
	}
	b = appendString(b, 21, p.Source)
	return appendTrue(b, 22, p.Stale)
}

func parseProcess(p *workload.Process, s string) error {
	for in := (scanner{s: s}); in.more(); {
		if err := in.next(); err != nil {
			return err
		}
		if err := takeProcess(p, &in); err != nil {
			return err
		}
	}
	return nil
}

// takeProcess reads one field.
func takeProcess(p *workload.Process, in *scanner) error {
	switch in.kind() {
	case 1<<3 | typeBytes:
		return parseKey(&p.Key, in.bytes())
	case 2<<3 | typeVarint:
		p.Parent = workload.PID(in.n)
	case 3<<3 | typeBytes:
		p.Comm = in.bytes()
		return checkText(*in)
	case 4<<3 | typeBytes:
		p.Exe = in.bytes()
		return checkText(*in)
	case 5<<3 | typeBytes:
		p.Cgroups = append(room(p.Cgroups, *in), workload.CgroupID{})
		return parseCgroup(&p.Cgroups[len(p.Cgroups)-1], in.bytes())
	case 6<<3 | typeBytes:
		p.PIDNamespaces = append(room(p.PIDNamespaces, *in), workload.PIDNamespace{})
		return parsePIDNamespace(&p.PIDNamespaces[len(p.PIDNamespaces)-1], in.bytes())
	case 7<<3 | typeVarint:
		p.MountNS = uint32(in.n)
	case 8<<3 | typeVarint:
		p.Status = wordOf(statuses, in.n)
	case 9<<3 | typeVarint:
		p.Confidence = wordOf(confidences, in.n)
	case 15<<3 | typeVarint:
		p.Started = workload.KTime(in.n)
	case 16<<3 | typeVarint:
		p.Exec = workload.KTime(in.n)
	default:
		return takeRest(p, in)
	}
	return nil
}

// takeRest reads the fields that few processes have.
func takeRest(p *workload.Process, in *scanner) error {
	switch in.kind() {
	case 10<<3 | typeBytes:
		return containerIDMessage.parse(&p.Container, in.bytes())
	case 11<<3 | typeVarint:
		p.Entry = wordOf(entries, in.n)
	case 12<<3 | typeVarint:
		p.ForeignNamespaces = in.n != 0
	case 13<<3 | typeBytes:
		p.Reason = in.bytes()
		return checkText(*in)
	case 14<<3 | typeBytes:
		return parseInto(&p.Service, serviceMessage, in.bytes())
	case 17<<3 | typeBytes:
		return parseInto(&p.Exit, exitMessage, in.bytes())
	case 20<<3 | typeBytes:
		return parseInto(&p.Detail, processDetailMessage, in.bytes())
	case 21<<3 | typeBytes:
		p.Source = in.bytes()
		return checkText(*in)
	case 22<<3 | typeVarint:
		p.Stale = in.n != 0
	}
	return nil
}

func appendCgroup(b []byte, c *workload.CgroupID) []byte {
	return appendNumber(appendNumber(b, 1, uint64(c.Hierarchy)), 2, c.ID)
}

func parseCgroup(c *workload.CgroupID, s string) error {
	for in := (scanner{s: s}); in.more(); {
		if err := in.next(); err != nil {
			return err
		}
		switch in.kind() {
		case 1<<3 | typeVarint:
			c.Hierarchy = uint32(in.n)
		case 2<<3 | typeVarint:
			c.ID = in.n
		}
	}
	return nil
}

func appendPIDNamespace(b []byte, n *workload.PIDNamespace) []byte {
	return appendNumber(appendNumber(b, 1, uint64(n.Inum)), 2, uint64(n.PID))
}

func parsePIDNamespace(n *workload.PIDNamespace, s string) error {
	for in := (scanner{s: s}); in.more(); {
		if err := in.next(); err != nil {
			return err
		}
		switch in.kind() {
		case 1<<3 | typeVarint:
			n.Inum = uint32(in.n)
		case 2<<3 | typeVarint:
			n.PID = workload.PID(in.n)
		}
	}
	return nil
}

// parseInto reads a message that may be absent.
func parseInto[M any](p **M, m *message[M], s string) error {
	if *p == nil {
		*p = new(M)
	}
	return m.parse(*p, s)
}

func appendNumber(b []byte, num, n uint64) []byte {
	if n == 0 {
		return b
	}
	return appendUvarint(tag(b, num, typeVarint), n)
}

func appendTrue(b []byte, num uint64, is bool) []byte {
	if !is {
		return b
	}
	return append(tag(b, num, typeVarint), 1)
}

func appendString(b []byte, num uint64, s string) []byte {
	if s == "" {
		return b
	}
	return appendText(b, num, s)
}

func appendWord[W ~string](b []byte, num uint64, words []W, w W) []byte {
	return appendNumber(b, num, uint64(numberOf(words, w)))
}
