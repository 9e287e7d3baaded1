package attempts

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	add(FromImage, "only what came with the image runs", map[string]func() error{
		"image-copy":                func() error { return thenCopyOf(Image, "/work/copy") },
		"image-copy-tmpfs":          func() error { return thenCopyOf(Image, Tmp+"/copy") },
		"image-own-program":         func() error { return runOwn("/work/own") },
		"image-overwrite":           func() error { return runOwn(Image) },
		"image-append":              imageAppend,
		"image-truncate":            imageTruncate,
		"image-replace":             imageReplace,
		"image-memfd":               func() error { return runMemory(tiny(Marker + "\n")) },
		"image-tmpfile":             imageTmpfile,
		"image-script":              func() error { return runScript("#!" + Image + "\n") },
		"image-back-date":           imageBackDate,
		"image-clock":               imageClock,
		"image-map":                 imageMap,
		"image-protect":             imageProtect,
		"image-memfd-map":           imageMemfdMap,
		"image-shm":                 imageSharedMemory,
		"image-open-writer":         imageOpenWriter,
		"image-race":                imageRace,
		"image-uring":               imageURing,
		"image-proc-fd":             imageProcFD,
		"image-mmap-write":          imageMmapWrite,
		"image-write-mapped":        func() error { return imageChangeMapped(func() error { return openFor(Image, unix.O_RDWR) }) },
		"image-truncate-mapped":     func() error { return imageChangeMapped(func() error { return unix.Truncate(Image, 1<<16) }) },
		"image-personality":         func() error { return imagePersonality(false) },
		"image-personality-protect": func() error { return imagePersonality(true) },
		"image-remap":               imageRemap,
		"image-interpreter":         imageInterpreter,
		"image-exhausted":           func() error { return exhausting(eatMemory, func() error { return runOwn("/work/own") }) },
	})
	add(Listed, "only what is listed runs, and stays what it is", map[string]func() error{
		"listed-unlisted":  func() error { return runs(Image) },
		"listed-copy":      func() error { return thenCopyOf(Self, "/work/copy") },
		"listed-overwrite": func() error { return openFor(Readonly, unix.O_WRONLY) },
		"listed-replace":   func() error { return listedReplace() },
		"listed-script":    func() error { return runScript("#!" + Self + " as-script\n") },
		"listed-memfd":     func() error { return runMemory(tiny(Marker + "\n")) },
		"listed-exchange":  listedExchange,
		"listed-hard-link": func() error { return linked(Image, "/work/attempt") },
		"listed-map-own":   imageMap,
		"listed-proc-fd":   func() error { return child("execveat", Image) },
		"listed-as-user":   func() error { return ran(as(1000, Image)) },
		"listed-flags":     func() error { return setFlags(Self) },
		"listed-rename":    func() error { return then(os.Rename(Image, "/work/i"), "/work/i") },
	})
}

func writeProgram(path string) error {
	return os.WriteFile(path, tiny(Marker+"\n"), 0o755) //nolint:gosec // a program
}

// runOwn runs a program that this one has written.
func runOwn(path string) error { return then(writeProgram(path), path) }

func imageAppend() error {
	f, err := os.OpenFile(Image, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte("x")); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return runs(Image)
}

// imageTruncate changes the program without opening it.
func imageTruncate() error {
	if err := unix.Truncate(Image, 1<<16); err != nil {
		return err
	}
	return runs(Image)
}

func imageReplace() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return then(os.Rename("/work/own", Image), Image)
}

func imageTmpfile() error {
	fd, err := unix.Open(Work, unix.O_TMPFILE|unix.O_RDWR, 0o755)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, tiny(Marker+"\n")); err != nil {
		return err
	}
	name := "/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(fd)
	// A file that is open for writing is not run by anybody.
	again, err := unix.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	return runs("/proc/" + itoa(os.Getpid()) + "/fd/" + itoa(again))
}

// imageBackDate makes a program look old.
func imageBackDate() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return then(os.Chtimes("/work/own", time.Unix(1, 0), time.Unix(1, 0)), "/work/own")
}

// imageClock writes when the guest's clock stands before the container's time.
func imageClock() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return err
	}
	past := now
	past.Sec -= 86400
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &past); err != nil {
		return err
	}
	defer func() { _ = unix.ClockSettime(unix.CLOCK_REALTIME, &now) }()
	return runOwn("/work/own")
}

func imageMap() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return mapCode("/work/own", unix.PROT_READ|unix.PROT_EXEC)
}

func imageProtect() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return protectCode("/work/own")
}

func imageMemfdMap() error {
	fd, err := unix.MemfdCreate("x", 0)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, 4096); err != nil {
		return err
	}
	_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED)
	return err
}

func imageSharedMemory() error {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o700|unix.IPC_CREAT)
	if err != nil {
		return err
	}
	const shmExec = 0o100000
	_, err = unix.SysvShmAttach(id, 0, shmExec)
	return err
}

// imageOpenWriter keeps the program open for writing in another process while
// it is looked at.
func imageOpenWriter() error {
	f, err := os.OpenFile(Image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("x"), 200); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return mapCode(Image, unix.PROT_READ|unix.PROT_EXEC)
}

func imageRace() error {
	content := tiny(Marker + "\n")
	return race(func() error { return runs("/work/own") },
		func() { _ = os.WriteFile("/work/own", content, 0o755) }) //nolint:gosec // a program
}

func imageURing() error {
	fd, err := uringOpen("/work/own", unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, tiny(Marker+"\n")); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	return runs("/work/own")
}

func imageProcFD() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return child("execveat", "/work/own")
}

// imageMmapWrite changes the program through memory.
func imageMmapWrite() error {
	fd, err := unix.Open(Image, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(fd, 0, 256, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	b[255] ^= 1
	if err := unix.Munmap(b); err != nil {
		return err
	}
	return mapCode(Image, unix.PROT_READ|unix.PROT_EXEC)
}

// imageChangeMapped changes a file whose code is in memory, and with it that code.
func imageChangeMapped(change func() error) error {
	if err := mapCode(Image, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return err
	}
	return change()
}

// imagePersonality has the kernel make code of what is only asked to be read.
func imagePersonality(protect bool) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const readImpliesExec = 0x0400000
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, readImpliesExec, 0, 0); errno != 0 {
		return errno
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_PERSONALITY, 0, 0, 0) }()
	fd, err := ownFile(unix.O_RDONLY)
	if err != nil {
		return err
	}
	prot := unix.PROT_READ
	if protect {
		prot = unix.PROT_NONE
	}
	b, err := unix.Mmap(fd, 0, 4096, prot, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	if protect {
		if err := unix.Mprotect(b, unix.PROT_READ); err != nil {
			return err
		}
	}
	return isCode(b)
}

// imageRemap maps the file to be read and then, with another personality, maps its pages anew.
func imageRemap() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Of a file that may only be read there is no shared mapping.
	fd, err := ownFile(unix.O_RDWR)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	const readImpliesExec = 0x0400000
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, readImpliesExec, 0, 0); errno != 0 {
		return errno
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_PERSONALITY, 0, 0, 0) }()
	if _, _, errno := unix.Syscall6(unix.SYS_REMAP_FILE_PAGES, uintptr(unsafe.Pointer(&b[0])), 4096, 0, 1, 0, 0); errno != 0 {
		return errno
	}
	return isCode(b)
}

// ownFile opens a file that this program has written.
func ownFile(flags int) (int, error) {
	if err := os.WriteFile("/work/own", append(tiny(Marker+"\n"), make([]byte, 8192)...), 0o755); err != nil { //nolint:gosec // a program
		return 0, err
	}
	return unix.Open("/work/own", flags, 0)
}

// isCode is nil where the memory that begins with b may be run.
func isCode(b []byte) error {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(maps), "\n") {
		var from, to uintptr
		var how string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &how); err != nil {
			continue
		}
		if at := uintptr(unsafe.Pointer(&b[0])); from <= at && at < to && len(how) > 2 && how[2] == 'x' {
			return nil
		}
	}
	return errors.New("it may only be read")
}

// imageInterpreter names one of its own as the loader of a program.
func imageInterpreter() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return then(os.WriteFile("/work/p", interpreted("/work/own"), 0o755), "/work/p") //nolint:gosec // a program
}

func listedReplace() error {
	if err := writeProgram("/work/own"); err != nil {
		return err
	}
	return then(os.Rename("/work/own", Readonly), Readonly)
}

func listedExchange() error {
	if err := unix.Renameat2(unix.AT_FDCWD, Readonly, unix.AT_FDCWD, Image, unix.RENAME_EXCHANGE); err != nil {
		return err
	}
	return runs(Readonly)
}
