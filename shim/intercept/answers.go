package intercept

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// smallBody is up to where an answer's length is corrected for what was replaced
// in it. In a longer one, and in one of no HTTP, nothing moves.
const smallBody = 256 << 10

// scrub takes values out of an answer.
func (c *Conversation) scrub(r *http.Response) error {
	if len(c.values) == 0 {
		return nil
	}
	scrubFields(r.Header, c.values)
	if r.StatusCode == http.StatusSwitchingProtocols {
		// In other answers the server's words for the status are not passed on.
		r.Status = fmt.Sprintf("%d %s", r.StatusCode, http.StatusText(r.StatusCode))
		if both, ok := r.Body.(io.ReadWriteCloser); ok {
			r.Body = upgraded{&scrubber{from: both, pairs: pairs(c.values, true)}, both}
		}
		return nil
	}
	switch encoding := r.Header.Get("Content-Encoding"); {
	case encoding != "" && !strings.EqualFold(encoding, "identity"), r.ContentLength == 0, r.Request.Method == http.MethodHead,
		r.StatusCode == http.StatusNoContent, r.StatusCode == http.StatusNotModified:
		return nil
	}
	switch n := r.ContentLength; {
	case n < 0:
		r.Body = &scrubber{from: r.Body, pairs: pairs(c.values, false)}
	case n > smallBody:
		r.Body = &scrubber{from: r.Body, pairs: pairs(c.values, true)}
	default:
		s := &scrubber{from: r.Body, pairs: pairs(c.values, false)}
		all, err := io.ReadAll(s)
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		r.Body = struct {
			io.Reader
			io.Closer
		}{bytes.NewReader(all), s}
		r.ContentLength = int64(len(all))
		r.Header.Set("Content-Length", strconv.Itoa(len(all)))
	}
	return nil
}

// upgraded is a connection after its upgrade to another protocol.
type upgraded struct {
	*scrubber
	io.Writer
}

// scrubbedHeads takes values out of the heads of answers, also of those that come
// before the answer proper.
type scrubbedHeads struct {
	http.ResponseWriter
	values []value
}

func (w *scrubbedHeads) WriteHeader(status int) {
	scrubFields(w.Header(), w.values)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *scrubbedHeads) Unwrap() http.ResponseWriter { return w.ResponseWriter }
