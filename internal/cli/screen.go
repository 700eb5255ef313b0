// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/pidigree/pidigree/internal/plain"
)

// screen is the one way to a person's eyes. Whatever is handed to it as a value
// is escaped; only constant formats and headers, which this package wrote, pass
// as they are. It remembers the first write error; close returns it.
type screen struct {
	out    *bufio.Writer
	colour bool
}

func newScreen(w io.Writer, colour bool) *screen {
	return &screen{out: bufio.NewWriter(w), colour: colour}
}

// close flushes and returns the first error of any write.
func (s *screen) close() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// A paint is the SGR parameter of a colour; none is the terminal's own.
type paint string

const (
	none   paint = ""
	bold   paint = "1"
	dim    paint = "2"
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
)

// painted is a value with a colour, for printf and for table cells.
type painted struct {
	text  string
	paint paint
}

func (s *screen) wrap(text string, p paint) string {
	if !s.colour || p == none || text == "" {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// printf is fmt.Fprintf with every string among the values escaped. The format
// is ours and must be a constant.
func (s *screen) printf(format string, values ...any) {
	for i, v := range values {
		values[i] = s.safe(v)
	}
	// The error stays in the bufio.Writer and comes out of close.
	_, _ = fmt.Fprintf(s.out, format, values...)
}

func (s *screen) safe(v any) any {
	switch v := v.(type) {
	case string:
		return plain.Text(v)
	case painted:
		return s.wrap(plain.Text(v.text), v.paint)
	case error:
		return plain.Text(v.Error())
	case fmt.Stringer:
		return plain.Text(v.String())
	case int, int32, int64, uint32, uint64, float64, bool:
		return v
	default:
		return plain.Text(fmt.Sprint(v))
	}
}

// A column is one column of a table. Max is its widest, in terminal columns; 0
// is as wide as it takes. Right aligns numbers.
type column struct {
	head  string
	max   int
	right bool
}

// table prints rows under the columns' heads, two spaces between. A row may be
// shorter than the columns.
func (s *screen) table(cols []column, rows [][]painted) {
	grid := make([][]painted, 0, len(rows)+1)
	head := make([]painted, len(cols))
	for i, c := range cols {
		head[i] = painted{c.head, bold}
	}
	grid = append(grid, head)
	for _, row := range rows {
		grid = append(grid, fitRow(cols, row))
	}
	widths := make([]int, len(cols))
	for _, row := range grid {
		for i, c := range row {
			widths[i] = max(widths[i], plain.Columns(c.text))
		}
	}
	for _, row := range grid {
		s.row(cols, widths, row)
	}
}

// fitRow escapes and cuts the cells of a row.
func fitRow(cols []column, row []painted) []painted {
	fit := make([]painted, min(len(row), len(cols)))
	for i := range fit {
		width := cols[i].max
		if width == 0 {
			width = plain.MaxText
		}
		text := plain.Cut(row[i].text, width)
		if text == "" {
			text = "-"
		}
		fit[i] = painted{text, row[i].paint}
	}
	return fit
}

func (s *screen) row(cols []column, widths []int, row []painted) {
	var line strings.Builder
	gap := 0
	for i, c := range row {
		pad := widths[i] - plain.Columns(c.text)
		if cols[i].right {
			gap, pad = gap+pad, 0
		}
		line.WriteString(strings.Repeat(" ", gap))
		line.WriteString(s.wrap(c.text, c.paint))
		gap = pad + 2
	}
	_, _ = fmt.Fprintln(s.out, line.String())
}

// cell makes an uncoloured cell.
func cell(text string) painted { return painted{text: text} }
