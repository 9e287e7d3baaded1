// Package early has a test binary be the attempt program before the rest of it
// is initialised, which an emulator takes long for and no attempt needs. It is
// imported for that alone, by the tests of package bypass.
package early

import (
	"os"

	"github.com/nanoclaw/nanoclaw/test/bypass/attempts"
)

// Variable tells the binary, in its environment, that it is that program.
const Variable = "NANOCLAW_BYPASS_ATTEMPT"

// Packages are initialised in the order of their names, once those that they
// import are: so this comes before most of the others.
func init() {
	if os.Getenv(Variable) != "" {
		attempts.Main(os.Args)
	}
}
