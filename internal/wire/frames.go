// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"google.golang.org/grpc/codes"

	"github.com/pidigree/pidigree/pkg/workload"
)

// FramesPreface begins a connection on which the messages of ResolveStream go
// without gRPC, each after its length. It is as long as HTTP/2's preface, so
// that a server that expects that one sees at once that this is another.
const FramesPreface = "pidigree frames v1\r\n\r\n\r\n"

// FrameHeader is the size of a frame's length, a big-endian uint32.
const FrameHeader = 4

// PutFrameLength completes a frame whose first FrameHeader bytes were left free.
func PutFrameLength(frame []byte) {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-FrameHeader))
}

// FrameLength gives the length of the message after a header.
func FrameLength(header []byte) uint32 { return binary.BigEndian.Uint32(header) }

// StreamRequest is a ResolveStreamRequest.
type StreamRequest struct {
	ID      uint64
	Timeout time.Duration // 0: none
	Queries []workload.Query
	// Bad says what is wrong with a question that makes no sense, by its index.
	Bad map[int]error
}

// requestRest is the fields of a ResolveStreamRequest beside the questions.
var requestRest = table(
	number(2, func(r *StreamRequest) *uint64 { return &r.ID }),
	span(3, func(r *StreamRequest) *time.Duration { return &r.Timeout }),
)

// AppendStreamRequest writes a ResolveStreamRequest; see EncodeQuestions.
func AppendStreamRequest(b []byte, r StreamRequest) []byte {
	return requestRest.append(appendQuestions(b, r.Queries), &r)
}

// DecodeStreamRequest is the way back; see DecodeQuestions. The request has its
// id also where there is an error. Its questions are put into room, as far as
// there is any.
func DecodeStreamRequest(msg *Bytes, most int, room []workload.Query) (r StreamRequest, err error) {
	r.Queries, r.Bad, err = decodeQuestions(msg.string(), most, room, func(in scanner) error { return requestRest.take(&r, in) })
	switch {
	case err != nil:
		r.ID = requestID(msg.string())
	case r.Timeout < 0:
		err = fmt.Errorf("%w: the timeout is negative", workload.ErrInvalid)
	}
	return r, err
}

// requestID reads no more than the id, which stands behind the questions, as
// far as there is one.
func requestID(s string) (id uint64) {
	for in := (scanner{s: s}); in.more() && in.next() == nil; {
		if in.num == 2 && in.typ == typeVarint {
			id = in.n
		}
	}
	return id
}

// StreamReply makes the ResolveStreamResponses to one request.
type StreamReply struct {
	head replyHead
	enc  encoder
}

// NewStreamReply begins the reply to a request with so many questions.
func NewStreamReply(id uint64, questions int) *StreamReply {
	return &StreamReply{head: replyHead{id: id}, enc: encoder{total: questions}}
}

// replyHead is a ResolveStreamResponse but for its part.
type replyHead struct {
	id   uint64
	last bool
	err  *remoteError
}

var replyHeadMessage = table(
	number(1, func(h *replyHead) *uint64 { return &h.id }),
	boolean(2, func(h *replyHead) *bool { return &h.last }),
	pointer(3, errorMessage, func(h *replyHead) **remoteError { return &h.err }),
)

const fieldPart = 4

// Append writes the response with the next results. Each entity is in one of
// the reply's responses, once, but for one that changed in between.
func (r *StreamReply) Append(b []byte, results []workload.Result, last bool) []byte {
	r.head.last = last
	b, start := open(replyHeadMessage.append(b, &r.head), fieldPart)
	return closed(r.enc.append(b, results), start)
}

// AppendError writes the response that ends the reply with an error.
func (r *StreamReply) AppendError(b []byte, err error) []byte {
	h := replyHead{id: r.head.id, last: true, err: &remoteError{int32(Code(err)), Message(err)}}
	return replyHeadMessage.append(b, &h)
}

// StreamResults gathers the reply to one request.
type StreamResults struct {
	id   uint64
	dec  *decoder
	last bool
}

// NewStreamResults expects the reply to a request.
func NewStreamResults(id uint64, queries []workload.Query) *StreamResults {
	return &StreamResults{id: id, dec: newDecoder(queries)}
}

// Add reads the next ResolveStreamResponse and reports whether it was the last.
// The bytes stay the caller's. The error is what the other side says of the
// request as a whole, or wraps ErrMalformed.
func (r *StreamResults) Add(b []byte) (last bool, err error) {
	if r.last {
		return true, fmt.Errorf("%w: the reply goes on after its end", ErrMalformed)
	}
	var h replyHead
	var part string
	for in := (scanner{s: r.text(b)}); in.more(); {
		if err := in.next(); err != nil {
			return false, err
		}
		if in.num == fieldPart && in.typ == typeBytes {
			part = in.bytes()
		} else if err := replyHeadMessage.take(&h, in); err != nil {
			return false, err
		}
	}
	switch {
	case h.id != r.id && (h.id != 0 || h.err == nil): // 0: the request could not be read
		return false, fmt.Errorf("%w: a reply to request %d instead of %d", ErrMalformed, h.id, r.id)
	case h.err != nil:
		r.last = true
		return true, NewError(codes.Code(uint32(h.err.code)), strings.Clone(h.err.message))
	}
	r.last = h.last
	return h.last, r.dec.part(part)
}

// text copies the bytes only where the decoder does not copy what it keeps.
func (r *StreamResults) text(b []byte) string {
	if len(r.dec.queries) == 1 {
		return string(b)
	}
	return unsafe.String(unsafe.SliceData(b), len(b)) // of no use to anybody when Add has returned
}

// Results gives the results after the last response. Its error wraps ErrMalformed.
func (r *StreamResults) Results() ([]workload.Result, error) { return r.dec.end() }
