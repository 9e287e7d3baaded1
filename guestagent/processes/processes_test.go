package processes

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	agent "github.com/nanoclaw/nanoclaw/api/agent/v1"
)

func TestListOfThisProcess(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	own := os.Getpid()
	list, more := List([]int{own, child.Process.Pid, 1 << 30}, map[int]string{child.Process.Pid: "e1"})
	if len(list) != 2 || more != 0 {
		t.Fatalf("%v and %d more", list, more)
	}
	if list[0].GetPid() > list[1].GetPid() {
		t.Errorf("not in the order of PIDs: %v", list)
	}
	for _, p := range list {
		switch p.GetExec() {
		case "":
			if p.GetPpid() != 0 || !strings.Contains(p.GetCommand(), "processes.test") {
				t.Errorf("this process is %v", p)
			}
		case "e1":
			if int(p.GetPpid()) != own || p.GetCommand() != "sleep 60" || int(p.GetUid()) != os.Geteuid() {
				t.Errorf("its child is %v", p)
			}
		}
	}
}

func TestParseStat(t *testing.T) {
	rest := " S 7 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 5 6 7"
	for in, want := range map[string]string{
		"12 (sh)" + rest:           "sh",
		"12 (a) R 1 (b) c)" + rest: "a) R 1 (b) c",
		"12 (\xff\n)" + rest:       "\xff\n",
		"12 ()" + rest:             "",
	} {
		name, parent, used, ok := parseStat([]byte(in))
		if !ok || name != want || parent != 7 || used != 200 {
			t.Errorf("%q: %q, %d, %d, %v", in, name, parent, used, ok)
		}
	}
	for _, in := range []string{"", "12", "12 (sh", ")(", "12 (sh) S 1", "12 (sh) S x 1 1 0 -1 4194560 1 2 3 4 150 50", "12 (sh) S 1 1 1 0 -1 4194560 1 2 3 4 -1 50"} {
		if _, _, _, ok := parseStat([]byte(in)); ok {
			t.Errorf("%q was read", in)
		}
	}
}

func TestParseStatus(t *testing.T) {
	in := "Name:\tsh\nUid:\t1000\t1001\t0\t0\nNSpid:\t300\t20\t3\n"
	if pid, uid, ok := parseStatus([]byte(in)); !ok || pid != 3 || uid != 1001 {
		t.Errorf("%d, %d, %v", pid, uid, ok)
	}
	for _, in := range []string{"", "Uid:\t1\t1\t1\t1\n", "NSpid:\t3\n", "Uid:\t1\tx\t1\t1\nNSpid:\t3\n"} {
		if _, _, ok := parseStatus([]byte(in)); ok {
			t.Errorf("%q was read", in)
		}
	}
}

func TestCommand(t *testing.T) {
	for in, want := range map[string]string{
		"sh\x00-c\x00sleep 1\x00": "sh -c sleep 1",
		"":                        "[name]",
		"\x00\x00":                "[name]",
		"a\xffb\x00":              "a?b",
	} {
		if got := command([]byte(in), "name"); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("12 (a) b) S 7 1 1 0 -1 4194560 1 2 3 4 150 50 0"))
	f.Add([]byte("Uid:\t1\t1\t1\t1\nNSpid:\t3\t4\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		name, _, _, _ := parseStat(data)
		parseStatus(data)
		if text := command(data, name); !utf8.ValidString(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
		if len(command(data[:min(len(data), agent.MaxCommand)], "")) > agent.MaxCommand+2 {
			t.Fatal("it grows")
		}
	})
}
