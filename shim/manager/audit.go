package manager

import (
	"time"

	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/sandbox"
)

// deathPatience leaves most of the engine's five seconds to the cleaning up.
const deathPatience = time.Second

// recordDeath records that a shim ended before its container did. It could say
// so itself only where it was not killed.
func recordDeath(cfg config.Audit, left *sandbox.Info) error {
	l := audit.NewLog(audit.Options{Dir: cfg.Dir, MaxSize: int64(cfg.MaxSize), Keep: cfg.Keep, Patience: deathPatience})
	defer l.Close()
	of := func(e audit.Entry) audit.Record {
		return audit.NewRecord(time.Now(), audit.Identity{Container: left.ID, Agent: left.Agent, Policy: left.Policy}, e)
	}
	return l.Append(
		of(audit.Entry{Event: audit.Boundary, Object: &audit.Object{
			Action: "shim-died",
			Detail: "the container was killed with it; what the guest reported in its last moments may be missing",
		}}),
		of(audit.Entry{Event: audit.Lifecycle, Object: &audit.Object{Action: "delete"}}),
	)
}
