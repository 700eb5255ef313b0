// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/pkg/workload"
)

// errorTable pairs what can go wrong with its gRPC code; the first match counts.
var errorTable = [...]struct {
	err  error
	code codes.Code
}{
	{workload.ErrInvalid, codes.InvalidArgument},
	{workload.ErrNotFound, codes.NotFound},
	{workload.ErrAmbiguous, codes.FailedPrecondition},
	{workload.ErrDenied, codes.PermissionDenied},
	{workload.ErrUnavailable, codes.Unavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// Code maps an error to its gRPC code. It is the only such map.
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	for _, row := range errorTable {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	return codes.Internal
}

// Sentinel gives the error that a code stands for, nil if for none.
func Sentinel(code codes.Code) error {
	for _, row := range errorTable {
		if row.code == code {
			return row.err
		}
	}
	return nil
}

// maxMessage bounds the text of an error in a reply. It may quote a hostile
// name, and a batch may hold thousands.
const maxMessage = 1024

// Message gives the text of an error as one bounded line.
func Message(err error) string {
	s := err.Error()
	if st, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		s = st.GRPCStatus().Message() // without "rpc error: code = ..."
	}
	if len(s) > maxMessage {
		s = s[:maxMessage] + "..."
	}
	return strings.Map(oneLine, valid(s))
}

func oneLine(r rune) rune {
	if r == '\n' || r == '\r' {
		return ' '
	}
	return r
}

// NewError makes an error that came over the wire: it has the message, and
// matches the sentinel that the code stands for.
func NewError(code codes.Code, message string) error {
	return &remoteError{code: int32(code), message: message}
}

// remoteError is an error that the other side said.
type remoteError struct {
	code    int32
	message string
}

var errorMessage = table(
	number(1, func(e *remoteError) *int32 { return &e.code }),
	text(2, func(e *remoteError) *string { return &e.message }),
)

// Error gives the message alone, which names the operation already.
func (e *remoteError) Error() string {
	if e.message == "" {
		return codes.Code(uint32(e.code)).String()
	}
	return e.message
}

// Unwrap gives the sentinel, nil if the code stands for none.
func (e *remoteError) Unwrap() error { return Sentinel(codes.Code(uint32(e.code))) }
