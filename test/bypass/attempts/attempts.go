// Package attempts holds what people try against a policy: each a small program
// with the property that it must not break.
//
// An attempt is started as root with every capability, in a container whose
// files are those of [World]. It reports success or what stopped it; it never
// decides whether it should have been stopped, which is its test's business.
// Only tests run it.
package attempts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// The programs of an attempt's container. Each prints [Marker] when its code
// runs. Those that are this program do what their first argument says.
const (
	// Self is this program.
	Self = "/bin/attempt"
	// Image came with the image, and no rule is about it.
	Image = "/usr/bin/image"
	// Denied, Hidden, Asked: as the rule about them says.
	Denied = "/usr/bin/denied"
	Hidden = "/usr/bin/hidden"
	Asked  = "/usr/bin/asked"
	// Readonly is this program, and a read-only tool.
	Readonly = "/usr/bin/readonly"
	// Args is this program, and denied where one of its arguments is Push, or
	// where First comes before Second.
	Args   = "/usr/bin/args"
	Push   = "push"
	First  = "remote"
	Second = "add"
	// Tmp is another file system, in memory.
	Tmp = "/tmp"
	// Work is a folder of the root file system.
	Work = "/work"
	// File is a file that is not a program.
	File = "/work/file"
)

// Marker is what a program prints that was not stopped.
const Marker = "THE PROGRAM RAN"

// Policy is what the container of an attempt is held to.
type Policy string

// The policies.
const (
	// Any: mode any, with the rules that are named above.
	Any Policy = "any"
	// Mounts is Any, and the container may mount.
	Mounts Policy = "mounts"
	// Traces is Any, and the container may trace any process.
	Traces Policy = "traces"
	// Beside: the gate is another container's.
	Beside Policy = "beside"
	// FromImage: mode image.
	FromImage Policy = "image"
	// Audit is Any, where every rule only records.
	Audit Policy = "audit"
	// Listed: mode allowlist, with Self and Readonly on the list.
	Listed Policy = "allowlist"
)

// Attempt is one.
type Attempt struct {
	Name string
	// Property is what must hold.
	Property string
	Policy   Policy
	// Kernel: what stops it is how the guest's kernel is built, or the
	// container's namespaces, and cannot be switched off in a test.
	Kernel bool
	// Allowed: it must succeed, as no rule is about it.
	Allowed bool
	run     func() error
}

var all []Attempt

func add(policy Policy, property string, list map[string]func() error) {
	for name, run := range list {
		all = append(all, Attempt{Name: name, Property: property, Policy: policy, run: run})
	}
}

func addKernel(policy Policy, property string, list map[string]func() error) {
	n := len(all)
	add(policy, property, list)
	for i := range all[n:] {
		all[n+i].Kernel = true
	}
}

func addAllowed(policy Policy, list map[string]func() error) {
	n := len(all)
	add(policy, "what no rule forbids works", list)
	for i := range all[n:] {
		all[n+i].Allowed = true
	}
}

// All returns the attempts, by policy and name.
func All() []Attempt {
	list := slices.Clone(all)
	slices.SortFunc(list, func(a, b Attempt) int {
		if c := strings.Compare(string(a.Policy), string(b.Policy)); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// What an attempt prints when it is done.
const (
	Succeeded = "SUCCEEDED"
	Stopped   = "STOPPED"
)

// Main is the attempt program: it tries what its first argument names, or is
// one of the container's programs, and does not return.
func Main(args []string) {
	if len(args) > 1 {
		if role, known := roles[args[1]]; known {
			os.Exit(role(args[2:]))
		}
	}
	for _, a := range all {
		if len(args) == 2 && a.Name == args[1] {
			if err := a.run(); err != nil {
				fmt.Println(Stopped, err)
				os.Exit(1)
			}
			fmt.Println(Succeeded)
			os.Exit(0)
		}
	}
	// As a tool of the container, with any arguments.
	if slices.Contains(args[min(1, len(args)):], Push) {
		fmt.Println(gotPush)
	}
	fmt.Println(Marker)
	os.Exit(0)
}

// roles are what this program does as a child of an attempt.
var roles = map[string]func(args []string) int{}

func role(name string, f func(args []string) error) {
	roles[name] = func(args []string) int {
		if err := f(args); err != nil {
			fmt.Println(Stopped, err)
			return 1
		}
		fmt.Println(Marker)
		return 0
	}
}

var errSilent = errors.New("it did not run")

// runs starts a program and wants to see the marker.
func runs(path string, args ...string) error {
	return ran(exec.Command(path, args...))
}

func ran(cmd *exec.Cmd) error {
	// Not every root that programs are tried in has a /dev/null.
	cmd.Stdin = os.Stdin
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), Marker) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %.200q", err, out)
	}
	return errSilent
}
