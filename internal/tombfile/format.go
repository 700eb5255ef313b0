// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// What can be wrong with a file as a whole.
var (
	// ErrBad means that it is no file of ours, or its beginning was damaged.
	ErrBad = errors.New("not a file of tombstones, or a damaged one")
	// ErrVersion means that another release wrote it.
	ErrVersion = errors.New("a format that this release does not know")
	// ErrBoot means that it was written before the host was started last.
	ErrBoot = errors.New("written before the last boot")
)

// The file begins, all numbers little-endian, with
//
//	0  magic     8
//	8  version   4
//	12 crc32c    4 of the rest of the header
//	16 boot id  16
//	32 run       8 the writer's first revision
//
// and goes on with records of
//
//	0  length    4 of what follows the checksum
//	4  crc32c    4 of length and what follows, begun with the record's before (the header's)
//	8  kind      1
//	9  body
const (
	magic      = "pdgtombs"
	version    = 1
	headerSize = 40
	recordHead = 8
	// maxRecord bounds what a length can make a reader allocate.
	maxRecord = 1 << 20
	// maxEntities bounds what a reader holds: several times what a store keeps.
	maxEntities = 400_000
)

// The kinds of records.
const (
	// kindChange: since when the grace period counts (8), and the change as the API streams it.
	kindChange = 1
	// kindTime: all before was so at this instant (8).
	kindTime = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BootID tells the boots of a host apart.
type BootID [16]byte

// ParseBootID reads /proc/sys/kernel/random/boot_id.
func ParseBootID(s string) (id BootID, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is no boot id", s)
	}
	return BootID(b), nil
}

// encoder makes the bytes of a file.
type encoder struct {
	buf []byte
	sum uint32
}

func (e *encoder) header(boot BootID, run workload.Revision) {
	h := make([]byte, headerSize)
	copy(h, magic)
	binary.LittleEndian.PutUint32(h[8:], version)
	copy(h[16:], boot[:])
	binary.LittleEndian.PutUint64(h[32:], uint64(run))
	e.sum = crc32.Checksum(h[16:], castagnoli)
	binary.LittleEndian.PutUint32(h[12:], e.sum)
	e.buf = append(e.buf, h...)
}

// change appends a change; false: it is too large.
func (e *encoder) change(c workload.Change, since workload.KTime) bool {
	start := e.open(kindChange)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, uint64(since))
	e.buf = wire.AppendChange(e.buf, &c)
	return e.close(start)
}

func (e *encoder) time(at workload.KTime) {
	start := e.open(kindTime)
	e.buf = binary.LittleEndian.AppendUint64(e.buf, uint64(at))
	e.close(start)
}

func (e *encoder) open(kind byte) (start int) {
	start = len(e.buf)
	e.buf = append(e.buf, make([]byte, recordHead)...)
	e.buf = append(e.buf, kind)
	return start
}

func (e *encoder) close(start int) bool {
	body := e.buf[start+recordHead:]
	if len(body) > maxRecord {
		e.buf = e.buf[:start]
		return false
	}
	head := e.buf[start:]
	binary.LittleEndian.PutUint32(head, uint32(len(body)))
	e.sum = checksum(e.sum, head[:4], body)
	binary.LittleEndian.PutUint32(head[4:], e.sum)
	return true
}

func checksum(before uint32, length, body []byte) uint32 {
	return crc32.Update(crc32.Update(before, castagnoli, length), castagnoli, body)
}

// Record is what the file says of one entity.
type Record struct {
	workload.Entity
	// Since is from when the grace period of what is gone counts, 0 if that is not known.
	Since workload.KTime
}

// Past is what a file says.
type Past struct {
	// Run is the writer's first revision.
	Run workload.Revision
	// Seen is the last instant at which all of it was so, 0 if there is none.
	Seen       workload.KTime
	Containers map[workload.ContainerID]Record
	Processes  map[workload.ProcessKey]Record
	Pods       map[string]Record
	Tasks      map[string]Record
	// Dropped is how many bytes at the end were not good.
	Dropped int64
}

// Read reads a file of size bytes. Its error wraps ErrBad, ErrVersion, ErrBoot
// or the reader's; a Past comes only without one. Whatever the bytes are, it
// ends and allocates in proportion to them.
func Read(r io.Reader, size int64, boot BootID) (*Past, error) {
	in := bufio.NewReaderSize(io.LimitReader(r, size), 64<<10)
	p := &Past{Containers: map[workload.ContainerID]Record{}, Processes: map[workload.ProcessKey]Record{}, Pods: map[string]Record{}, Tasks: map[string]Record{}}
	sum, err := p.readHeader(in, boot)
	if err != nil {
		return nil, err
	}
	good := int64(headerSize)
	var body []byte
	for {
		n, next, ok := readRecord(in, sum, &body)
		if !ok || !p.take(body) {
			break
		}
		good, sum = good+n, next
	}
	p.Dropped = size - good
	return p, nil
}

func (p *Past) readHeader(in io.Reader, boot BootID) (sum uint32, err error) {
	h := make([]byte, headerSize)
	if _, err := io.ReadFull(in, h); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("%w: it is too short", ErrBad)
	} else if err != nil {
		return 0, err
	}
	if string(h[:8]) != magic {
		return 0, ErrBad
	}
	if v := binary.LittleEndian.Uint32(h[8:]); v != version {
		return 0, fmt.Errorf("%w: %d", ErrVersion, v)
	}
	sum = crc32.Checksum(h[16:], castagnoli)
	switch {
	case sum != binary.LittleEndian.Uint32(h[12:]):
		return 0, fmt.Errorf("%w: its checksum is wrong", ErrBad)
	case BootID(h[16:32]) != boot:
		return 0, ErrBoot
	}
	p.Run = workload.Revision(binary.LittleEndian.Uint64(h[32:]))
	return sum, nil
}

// readRecord reads one record into body and gives its size in the file.
func readRecord(in io.Reader, before uint32, body *[]byte) (n int64, sum uint32, ok bool) {
	var head [recordHead]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, 0, false
	}
	length := binary.LittleEndian.Uint32(head[:])
	if length == 0 || length > maxRecord {
		return 0, 0, false
	}
	if cap(*body) < int(length) {
		*body = make([]byte, length)
	}
	*body = (*body)[:length]
	if _, err := io.ReadFull(in, *body); err != nil {
		return 0, 0, false
	}
	sum = checksum(before, head[:4], *body)
	return recordHead + int64(length), sum, sum == binary.LittleEndian.Uint32(head[4:])
}

// take applies a record whose checksum was right. False: it makes no sense, and
// what follows cannot be trusted either.
func (p *Past) take(body []byte) bool {
	if len(body) < 9 {
		return false
	}
	at := workload.KTime(binary.LittleEndian.Uint64(body[1:]))
	switch {
	case body[0] == kindTime:
		ok := len(body) == 9 && at >= p.Seen
		p.Seen = max(p.Seen, at)
		return ok
	case body[0] != kindChange || len(p.Containers)+len(p.Processes)+len(p.Pods)+len(p.Tasks) >= maxEntities:
		return false
	}
	cs, err := wire.DecodeChanges(wire.NewBytes(body[9:]))
	return err == nil && len(cs) == 1 && p.change(cs[0], at)
}

func (p *Past) change(c workload.Change, since workload.KTime) bool {
	e := c.Entity
	unset := c.Type == workload.ChangeUnset
	if !unset && c.Type != workload.ChangeSet {
		return false
	}
	switch {
	case e.Kind == workload.KindContainer && e.Container != nil && !e.Container.ID.IsZero():
		put(p.Containers, e.Container.ID, Record{e, since}, unset)
	case e.Kind == workload.KindProcess && e.Process != nil && !e.Process.Key.IsZero():
		put(p.Processes, e.Process.Key, Record{e, since}, unset)
	case e.Kind == workload.KindPod && e.Pod != nil && e.Pod.UID != "":
		put(p.Pods, e.Pod.UID, Record{e, since}, unset)
	case e.Kind == workload.KindTask && e.Task != nil && e.Task.ARN != "":
		put(p.Tasks, e.Task.ARN, Record{e, since}, unset)
	default:
		return false
	}
	return true
}

func put[K comparable](m map[K]Record, k K, r Record, unset bool) {
	if unset {
		delete(m, k)
		return
	}
	m[k] = r
}
