package task

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nanoclaw/nanoclaw/annotations"
	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/audit"
	"github.com/nanoclaw/nanoclaw/shim/config"
	"github.com/nanoclaw/nanoclaw/shim/intercept"
)

// Where the container finds whom to trust.
const (
	authorityFile = "ca.pem"
	bundleFile    = "ca-bundle.pem"
	filesFolder   = "/dev/nanoclaw"
)

// trustWhole are the variables by which programs are told of all authorities that
// they shall trust, trustMore those of a further one.
var (
	trustWhole = []string{
		"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
	}
	trustMore = []string{"NODE_EXTRA_CA_CERTS", "DENO_CERT"}
)

// interception is what a container has whose connections are looked into. Nil is
// one whose are not.
type interception struct {
	*intercept.Interceptor
	// secrets are variables that are set whatever is there, trust those that are
	// set where nothing is.
	secrets, trust []string
	files          []*agent.File
}

// newInterception makes what a policy asks for; nil where it does not. A secret
// that cannot be read is a refusal: what needs it would only fail later.
func newInterception(cfg config.Config, p *annotations.Policy, rootfs string, post func(audit.Entry)) (*interception, error) {
	if !p.Intercepts() {
		return nil, nil
	}
	o := intercept.Options{Post: post}
	var err error
	if o.Roots, err = cfg.Roots(); err != nil {
		return nil, err
	}
	for _, r := range p.Network.Readonly {
		o.Readonly = append(o.Readonly, intercept.Readonly{EndpointRule: r, Would: !slices.Contains(p.Held().Network.Readonly, r)})
	}
	i := &interception{}
	if len(p.Secrets) > 0 {
		// Of a process that holds secrets no core is dumped, whatever takes it.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("keep secrets out of core dumps: %w", err)
		}
	}
	placeholders := map[string]string{}
	for _, s := range p.Secrets {
		if err := intercept.Available(p, s); err != nil {
			return nil, err
		}
		if placeholders[s.Env] == "" {
			placeholders[s.Env] = intercept.NewPlaceholder()
			i.secrets = append(i.secrets, s.Env+"="+placeholders[s.Env])
		}
		o.Secrets = append(o.Secrets, intercept.Secret{
			Secret: s, Placeholder: placeholders[s.Env], Read: func() (string, error) { return intercept.ReadSource(s) },
		})
	}
	if i.Interceptor, err = intercept.New(o); err != nil {
		return nil, err
	}
	bundle, err := imageBundle(rootfs)
	if err != nil {
		return nil, err
	}
	own := i.Certificate()
	if len(bundle) > 0 {
		bundle = append(bundle, '\n')
	}
	i.files = []*agent.File{{Name: authorityFile, Content: own}, {Name: bundleFile, Content: append(bundle, own...)}}
	for _, v := range trustWhole {
		i.trust = append(i.trust, v+"="+path.Join(filesFolder, bundleFile))
	}
	for _, v := range trustMore {
		i.trust = append(i.trust, v+"="+path.Join(filesFolder, authorityFile))
	}
	return i, nil
}

// interceptor is what the VM's network has to know of.
func (i *interception) interceptor() *intercept.Interceptor {
	if i == nil {
		return nil
	}
	return i.Interceptor
}

// shared are the files that the container shall see.
func (i *interception) shared() []*agent.File {
	if i == nil {
		return nil
	}
	return i.files
}

// environment is a process's environment with what it shall have: in the place of
// secrets what stands for them, and whom to trust.
func (i *interception) environment(env []string) []string {
	if i == nil {
		return env
	}
	named := func(in []string, variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.ContainsFunc(in, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return named(i.secrets, v) })
	for _, v := range i.trust {
		if !named(env, v) {
			env = append(env, v)
		}
	}
	return append(env, i.secrets...)
}

// process is the document of an exec with that environment. What is not its
// environment stays as it is.
func (i *interception) process(document []byte) ([]byte, error) {
	if i == nil {
		return document, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(document, &fields); err != nil {
		return nil, fmt.Errorf("read the exec's process document: %w", err)
	}
	var env []string
	if raw, ok := fields["env"]; ok {
		if err := json.Unmarshal(raw, &env); err != nil {
			return nil, fmt.Errorf("read the environment of the exec: %w", err)
		}
	}
	var err error
	if fields["env"], err = json.Marshal(i.environment(env)); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// granted records which secrets are used for a container.
func granted(p *annotations.Policy) []audit.Entry {
	var all []audit.Entry
	for _, s := range p.Secrets {
		hosts := make([]string, len(s.Hosts))
		for i, h := range s.Hosts {
			hosts[i] = h.String()
		}
		all = append(all, audit.Entry{Event: audit.Secret, Decision: audit.Allow, Rule: "secret " + s.Env, Object: &audit.Object{
			Action: "grant", Name: s.Env, Path: strings.TrimPrefix(s.Source, "file:"), Layer: string(s.Layer), Detail: "for " + strings.Join(hosts, ", "),
		}})
	}
	return all
}
