package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nanoclaw/nanoclaw/annotations/check"
	"github.com/nanoclaw/nanoclaw/cli/doctor"
	"github.com/nanoclaw/nanoclaw/cli/signoff"
	"github.com/nanoclaw/nanoclaw/shim/config"
)

func policySignOffCommand() *cobra.Command {
	var configPath, by string
	c := &cobra.Command{
		Use:   "sign-off [DIGEST]",
		Short: "Records that the policy file, as it is now, was reviewed",
		Long: `sign-off records, beside the policy file and for root alone, that its content was reviewed, by whom and
when. With any change of the file it is void; nanoclaw preflight then says so. A file that "policy
check" finds errors in cannot be signed off.

DIGEST is the SHA-256 of what was reviewed, or its beginning: a file that was changed since is not
signed off. It needs root.`,
		Args: atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			// It is the runtime's own that counts.
			if configPath == "" {
				_, registered, err := doctor.Registered(doctor.ThisHost().DaemonJSON)
				if err != nil {
					return err
				}
				configPath = registered
			}
			cfg, err := config.Load(configPath)
			if err != nil {
				return err
			}
			f, err := config.LoadPolicy(cfg.Policy)
			if err != nil {
				return err
			}
			digest := signoff.Digest(f)
			if len(args) == 1 && (args[0] == "" || !strings.HasPrefix(digest, strings.ToLower(args[0]))) {
				return fmt.Errorf("the digest of %s is %s, and not %s: it is not what was reviewed", cfg.Policy, digest, args[0])
			}
			if f != nil {
				data, err := os.ReadFile(cfg.Policy)
				if err != nil {
					return fmt.Errorf("read the policy file: %w", err)
				}
				if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
					return fmt.Errorf("%s was changed just now: it is not what was reviewed", cfg.Policy)
				}
				if report := check.File(cfg.Policy, data, config.Enforced); !report.OK() {
					return errors.Join(report.Write(c.OutOrStdout()), errors.New("it is not signed off"))
				}
			}
			login := loginName()
			if by == "" {
				by = whoever(os.Getenv("SUDO_USER"), login)
			}
			record := signoff.Record{Policy: cfg.Policy, Digest: digest, By: by, Login: login, At: time.Now().UTC().Round(time.Second)}
			if err := signoff.Write(cfg.SignOff(), record); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s, %s, signed off by %s\n", cfg.Policy, digest, by)
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "who has reviewed it (default: the user of sudo, or of the login)")
	c.Flags().StringVar(&configPath, "config", "", "the runtime's configuration (default: the one that Docker's names, or "+config.DefaultPath+")")
	return c
}

// whoever is the first name that there is.
func whoever(names ...string) string {
	for _, name := range names {
		if name != "" {
			return name
		}
	}
	return "root"
}

// loginName is the user that the session began as. The kernel keeps it over su
// and sudo; it is empty where there was no login.
func loginName() string {
	data, err := os.ReadFile("/proc/self/loginuid")
	id := strings.TrimSpace(string(data))
	if err != nil || id == "4294967295" {
		return ""
	}
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
