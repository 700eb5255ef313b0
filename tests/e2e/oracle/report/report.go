// SPDX-License-Identifier: Apache-2.0

// Package report is what a process says to the oracle: one message of fixed
// size with the nonce that only its container was given. The oracle learns who
// speaks from the kernel, by the socket, and from nothing in the message.
//
// A process that has reported is scored while it waits: Hold keeps it there
// until the oracle has asked, Stay for as long as it lives.
package report

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The files of the directory that a container is given.
const (
	// Dir is where a container finds it.
	Dir = "/oracle"
	// NonceFile holds the nonce: NonceSize bytes.
	NonceFile = "nonce"
	// SocketFile is the oracle's socket.
	SocketFile = "sock"
	// WorkFile is the workload program, OtherFile another name of it, to be executed in turn.
	WorkFile  = "work"
	OtherFile = "other"
)

// NonceSize is the length of a nonce in bytes.
const NonceSize = 32

// Size is the length of a message, and these are its fields.
const (
	Size       = 64
	magicAt    = 0  // 4 bytes
	FlagsAt    = 4  // uint32, little endian, like all
	NSPIDAt    = 8  // uint32: the sender's PID in its own PID namespace
	spareAt    = 12 // uint32
	BornAt     = 16 // uint64: when the process was made, in ns since boot
	nonceAt    = 32
	magicWords = "pdo1"
)

// Flags of a message.
const (
	// Stay is set by a process that lives on and keeps the connection open; the
	// others end once they have read one byte.
	Stay = 1 << iota
	// Reused is set where the PID had belonged to another process just before.
	Reused
	// Exact is set where Born is not later than the process's true beginning.
	Exact
)

// Message is one report.
type Message struct {
	Flags uint32
	// NSPID is the sender's PID in its own PID namespace.
	NSPID uint32
	// Born is when the process was made, in nanoseconds since boot; with Exact, never too late.
	Born  uint64
	Nonce [NonceSize]byte
}

// ErrMalformed means that what came is no message.
var ErrMalformed = errors.New("malformed report")

// Encode gives the message as it is sent.
func (m Message) Encode() (b [Size]byte) {
	copy(b[magicAt:], magicWords)
	binary.LittleEndian.PutUint32(b[FlagsAt:], m.Flags)
	binary.LittleEndian.PutUint32(b[NSPIDAt:], m.NSPID)
	binary.LittleEndian.PutUint32(b[spareAt:], 0)
	binary.LittleEndian.PutUint64(b[BornAt:], m.Born)
	copy(b[nonceAt:], m.Nonce[:])
	return b
}

// Decode reads a message.
func Decode(b [Size]byte) (m Message, err error) {
	if string(b[magicAt:magicAt+len(magicWords)]) != magicWords {
		return m, ErrMalformed
	}
	m.Flags = binary.LittleEndian.Uint32(b[FlagsAt:])
	m.NSPID = binary.LittleEndian.Uint32(b[NSPIDAt:])
	m.Born = binary.LittleEndian.Uint64(b[BornAt:])
	copy(m.Nonce[:], b[nonceAt:])
	return m, nil
}

// Prepare reads the nonce of a directory into a message about the caller.
func Prepare(dir string) (Message, error) {
	m := Message{NSPID: uint32(os.Getpid()), Born: SinceBoot()}
	b, err := os.ReadFile(filepath.Join(dir, NonceFile))
	if err != nil {
		return m, err
	}
	if len(b) != NonceSize {
		return m, fmt.Errorf("the nonce in %s has %d bytes, not %d", dir, len(b), NonceSize)
	}
	copy(m.Nonce[:], b)
	return m, nil
}

// Send reports the caller to the oracle of a directory. Closing the connection
// says that the caller can be scored no longer.
func Send(dir string, flags uint32) (net.Conn, error) {
	m, err := Prepare(dir)
	if err != nil {
		return nil, err
	}
	m.Flags |= flags
	conn, err := net.Dial("unix", filepath.Join(dir, SocketFile))
	if err != nil {
		return nil, err
	}
	b := m.Encode()
	if _, err := conn.Write(b[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Hold reports the caller and returns once the oracle has asked about it.
func Hold(dir string, flags uint32) error {
	conn, err := Send(dir, flags)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = io.ReadFull(conn, b[:])
	return errors.Join(err, conn.Close())
}

// SinceBoot is the kernel's clock, in nanoseconds.
func SinceBoot() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return uint64(ts.Nano())
}
