package verify

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
	"github.com/nanoclaw/nanoclaw/shim/audit"
)

// look is run by root in a container: it shows every token that it finds, in its
// files, in a second mount of the share, in devices, and in other processes.
const look = `
mkdir -p ` + memoryAt + `/share
mount -t virtiofs ` + agent.ShareTag + ` ` + memoryAt + `/share
for d in /*; do
	case $d in
	/proc | /sys | /dev) ;;
	*) find "$d" -type f -size -64 -exec grep -sho '` + prefix + `[A-Z]*-[0-9a-f]*' {} + ;;
	esac
done
find /dev/shm -type f -exec grep -sho '` + prefix + `[A-Z]*-[0-9a-f]*' {} +
grep -sho '` + prefix + `[A-Z]*-[0-9a-f]*' /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/cmdline /dev/console
for d in /dev/vd* /dev/sd*; do [ -b "$d" ] && grep -sho '` + prefix + `[A-Z]*-[0-9a-f]*' "$d"; done
true`

// checkFiles has A look for the files of B.
func (r *run) checkFiles(ctx context.Context) {
	shown, err := r.exec(ctx, r.a, look)
	if err != nil {
		r.unjudged(Files, err)
		return
	}
	if !has(shown, r.a.own) || !has(shown, r.a.secret) {
		r.add(Files, "could not be judged: A did not even find its own files; it wrote:\n%s", tail(shown))
	}
	for what, t := range map[string]token{"file": r.b.own, "secret": r.b.secret} {
		if has(shown, t) {
			r.add(Files, "A read the %s of B", what)
		}
	}
	// The same from the host's side, where A's VM gets its files: what a guest
	// that was taken over could ask for.
	daemon, err := r.virtiofsd(r.a)
	if err != nil {
		r.unjudged(Files, err)
		return
	}
	roots, err := r.visible(daemon)
	if err != nil {
		r.unjudged(Files, err)
		return
	}
	found, err := search(roots, nil, time.Time{}, r.a.own, r.b.own, r.b.secret, r.canary)
	r.unjudged(Files, err)
	if !slices.ContainsFunc(found, func(w where) bool { return w.token == r.a.own }) {
		r.add(Files, "could not be judged: A's own file is not in what the host shares with A")
	}
	for _, w := range found {
		if w.token != r.a.own {
			r.add(Files, "the host shares with A what is not its own: %s", w.place)
		}
	}
}

// visible are the roots of all mounts that a process sees, each to be searched by
// itself.
func (r *run) visible(p process) ([]string, error) {
	mounts, err := mountsOf(p)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, m := range mounts {
		root := p.file("root") + m.Mountpoint
		if m.Mountpoint == "/" {
			// By itself it is a link.
			root += "."
		}
		roots = append(roots, root)
	}
	return roots, nil
}

// use is run by root in a container: every way to what the tool does that needs
// no other program.
const use = `
` + tool + `
sh ` + tool + `
. ` + tool + `
cat ` + tool + `
cp ` + tool + ` /nanoclaw-verify-copied && sh /nanoclaw-verify-copied
ln ` + tool + ` /nanoclaw-verify-linked && sh /nanoclaw-verify-linked
ln -s ` + tool + ` /nanoclaw-verify-named && sh /nanoclaw-verify-named
true`

// checkTools has both call the tool that is reserved for A.
func (r *run) checkTools(ctx context.Context) {
	byA, err := r.exec(ctx, r.a, tool)
	r.unjudged(Tools, err)
	if err == nil && !has(byA, r.toolToken) {
		r.add(Tools, "could not be judged: the tool does not run in A, for which it is reserved; there it says:\n%s", tail(byA))
	}
	byB := ""
	// Each way by itself: a shell may end with one that fails.
	for way := range strings.Lines(use) {
		out, err := r.exec(ctx, r.b, way)
		if err != nil {
			r.unjudged(Tools, err)
			return
		}
		byB += out
		if has(out, r.toolToken) {
			r.add(Tools, "B ran it or read it: %s", strings.TrimSpace(way))
		}
	}
	denied := false
	err = audit.Each(r.config.Audit.Dir, func(rec *audit.Record) error {
		denied = denied || rec.Container == r.b.id && rec.Event == audit.Exec && rec.Decision == audit.Deny
		return nil
	})
	r.unjudged(Tools, err)
	if err == nil && !denied {
		r.add(Tools, "the audit log has no record of B being denied the tool; B wrote:\n%s", tail(byB))
	}
}

// checkMounts compares, for both, what the VM can see of the host with what was
// asked for.
func (r *run) checkMounts() {
	for _, c := range []*container{r.a, r.b} {
		r.unjudged(Mounts, r.compareMounts(c))
		r.unjudged(Mounts, r.compareDisks(c))
	}
}

func (r *run) compareMounts(c *container) error {
	daemon, err := r.virtiofsd(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), engineStart)
	defer cancel()
	root, err := r.must(ctx, "inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", c.name)
	if err != nil {
		return err
	}
	// The container's root, what was asked for, and the three files that Docker
	// makes for every container.
	writable := map[string]bool{root: true}
	for path, rw := range c.asked {
		writable[path] = rw
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		writable[r.path("docker", "containers", c.id, name)] = true
	}
	asked := map[identity]string{}
	for path := range writable {
		id, err := identify(path)
		if err != nil {
			return err
		}
		asked[id] = path
	}
	mounts, err := mountsOf(daemon)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range mounts {
		// The tree is an empty folder with what is mounted in it; its own root is
		// the daemon's.
		if m.Mountpoint == "/" {
			if m.FSType != "tmpfs" {
				r.add(Mounts, "the VM of %s has as its tree %s of the file system %s, which is no tree of ours", c.name, m.Root, m.FSType)
			}
			continue
		}
		id, err := identify(filepath.Join(daemon.file("root"), m.Mountpoint))
		if err != nil {
			return err
		}
		path, ok := asked[id]
		if !ok {
			r.add(Mounts, "the VM of %s sees %s of the file system %s (%s), at %s, and nobody asked for it", c.name, m.Root, m.Source, m.FSType, m.Mountpoint)
			continue
		}
		seen[path] = true
		if readonly := slices.Contains(strings.Split(m.Options, ","), "ro"); !readonly && !writable[path] {
			r.add(Mounts, "the VM of %s can write to %s, which was to be read-only", c.name, path)
		}
	}
	for path := range writable {
		if !seen[path] {
			return fmt.Errorf("%s, which was asked for, is not among the mounts that the VM of %s sees", path, c.name)
		}
	}
	return nil
}

// compareDisks looks for files and devices of the host that a VM has open as
// something to write to.
func (r *run) compareDisks(c *container) error {
	ctx, cancel := context.WithTimeout(context.Background(), engineStart)
	defer cancel()
	vmm, err := r.vmm(ctx, c)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(vmm.file("fd"))
	if err != nil {
		return fmt.Errorf("look at what %s has open: %w", vmm, err)
	}
	for _, e := range entries {
		link := filepath.Join(vmm.file("fd"), e.Name())
		target, err := os.Readlink(link)
		if err != nil {
			continue // it was closed
		}
		var st unix.Stat_t
		if err := unix.Stat(link, &st); err != nil {
			continue
		}
		own := strings.HasPrefix(target, r.vmDir(c.id)+"/") || strings.HasPrefix(target, "/memfd:")
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFBLK:
			r.add(Mounts, "the VM of %s has the device %s of this host", c.name, target)
		case kind == unix.S_IFREG && !own && writableFD(vmm, e.Name()):
			r.add(Mounts, "the VM of %s has the file %s of this host open for writing", c.name, target)
		}
	}
	return nil
}

// writableFD reports whether a descriptor of a process can be written to.
func writableFD(p process, fd string) bool {
	data, err := os.ReadFile(filepath.Join(p.file("fdinfo"), fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			var flags int
			_, err := fmt.Sscanf(strings.TrimSpace(value), "%o", &flags)
			return err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

// exitTime bounds how long a container may take to end when it is to.
const exitTime = 2 * time.Minute

// checkSecrets has A, which has used its secret, exit, and looks for the secret on
// the host, before A is removed and after it.
func (r *run) checkSecrets(ctx context.Context) {
	layer, err := r.must(ctx, "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", r.a.name)
	if err != nil {
		r.unjudged(Secrets, err)
		return
	}
	used, err := r.exec(ctx, r.a, "cat "+memoryAt+"/used; echo >"+memoryAt+"/end")
	if err == nil && !has(used, r.a.secret) {
		err = fmt.Errorf("the secret was not used by A, which wrote %q", tail(used))
	}
	if err == nil {
		err = r.wait(ctx, r.a)
	}
	if err != nil {
		r.unjudged(Secrets, err)
		return
	}
	inspected, said, err := r.output(ctx, "inspect", r.a.name)
	r.unjudged(Secrets, err)
	logs, err := r.attempt(ctx, "logs", r.a.name)
	r.unjudged(Secrets, err)
	if has(inspected+said+logs, r.a.secret) {
		r.add(Secrets, "docker shows it")
	}
	r.searchHost(Secrets, r.a, []string{layer}, r.a.secret)
	// Its file's name stands in what Docker keeps; in a mount or a process it does
	// not any more.
	mounts, err := namespacesWith(r.a.secretFile)
	r.unjudged(Secrets, err)
	for _, m := range mounts {
		r.add(Secrets, "%s", m)
	}
	r.remove(ctx, Secrets, r.a)
}

// wait waits for a container's end.
func (r *run) wait(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, exitTime)
	defer cancel()
	if _, err := r.must(ctx, "wait", c.name); err != nil {
		return fmt.Errorf("wait for the end of %s: %w", c.name, err)
	}
	return nil
}

// searchHost looks for tokens wherever this host could have kept them.
func (r *run) searchHost(check Check, c *container, more []string, tokens ...token) {
	kept := append([]string{
		r.config.RunDir, r.config.Audit.Dir, r.path("dockerd.log"), r.path("exec"),
		r.path("docker", "containers"), r.path("docker", "volumes"), r.path("docker", "tmp"),
	}, more...)
	found, err := search(append(kept, r.bundles(c.id)...), nil, time.Time{}, tokens...)
	r.unjudged(check, err)
	recent, err := search(append(scraps(), dumps()...), []string{r.files, r.dir}, r.began, tokens...)
	r.unjudged(check, err)
	for _, w := range append(found, recent...) {
		r.add(check, "%s is in %s", describe(w.token), w.place)
	}
}

// describe says what a token stands for.
func describe(t token) string {
	switch {
	case strings.HasPrefix(string(t), prefix+"HOST"):
		return "a credential of the host"
	case strings.HasPrefix(string(t), prefix+"SECRET"):
		return "the mounted secret"
	}
	return "a file of the container's"
}

// patience is how long a VM's traces may outlive its container.
const patience = 15 * time.Second

// remove removes a container, of which nothing may be left then.
func (r *run) remove(ctx context.Context, check Check, c *container) {
	if _, err := r.must(ctx, "rm", "--force", "--volumes", c.name); err != nil {
		r.unjudged(check, err)
		return
	}
	for limit := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		left, err := r.left(c.id)
		if err == nil && len(left) == 0 {
			return
		}
		if time.Now().Before(limit) && ctx.Err() == nil {
			continue
		}
		r.unjudged(check, err)
		for _, what := range left {
			r.add(check, "of the container %s this is left: %s", c.name, what)
		}
		return
	}
}
