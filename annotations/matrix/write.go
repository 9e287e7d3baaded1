package matrix

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Format is how a table is written.
type Format string

// The formats.
const (
	Text     Format = "text"
	Markdown Format = "markdown"
	CSV      Format = "csv"
	JSON     Format = "json"
)

// Formats are all of them.
var Formats = []Format{Text, Markdown, CSV, JSON}

// Write writes the table.
func (m *Matrix) Write(w io.Writer, format Format) error {
	if format == JSON {
		return writeJSON(w, m)
	}
	rows := [][]string{append([]string{"", ""}, m.Agents...)}
	rows[0][0], rows[0][1] = "kind", "name"
	for _, r := range m.Rows {
		line := []string{string(r.Kind), r.Name}
		for _, c := range r.Cells {
			line = append(line, c.Value)
		}
		rows = append(rows, line)
	}
	return table(w, format, rows)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table writes rows of which the first is the heading.
func table(w io.Writer, format Format, rows [][]string) error {
	switch format {
	case CSV:
		c := csv.NewWriter(w)
		if err := c.WriteAll(rows); err != nil {
			return err
		}
		return c.Error()
	case Markdown:
		return aligned(w, rows, true)
	case Text:
		return aligned(w, rows, false)
	}
	return fmt.Errorf("unknown format %q; known are text, markdown, csv and json", format)
}

func aligned(w io.Writer, rows [][]string, markdown bool) error {
	widths := make([]int, len(rows[0]))
	for i := range rows {
		for j, s := range rows[i] {
			if markdown {
				s = strings.NewReplacer("|", `\|`, "*", `\*`).Replace(s)
				rows[i][j] = s
			}
			widths[j] = max(widths[j], utf8.RuneCountInString(s), 3)
		}
	}
	for i, row := range rows {
		var line strings.Builder
		for j, s := range row {
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(s))
			if markdown {
				line.WriteString("| " + s + pad + " ")
			} else {
				line.WriteString(s + pad + "  ")
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if markdown {
			text += " |"
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
		if i == 0 && markdown {
			rule := ""
			for _, width := range widths {
				rule += "|" + strings.Repeat("-", width+2)
			}
			if _, err := fmt.Fprintln(w, rule+"|"); err != nil {
				return err
			}
		}
	}
	return nil
}
