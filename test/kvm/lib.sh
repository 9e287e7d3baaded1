# Names and helpers that the scripts of the machine share. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # used by those who source it

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
cache=${NANOCLAW_CACHE:-/var/cache/nanoclaw}

# Several machines can run at once: NANOCLAW_KVM names them apart.
name=${NANOCLAW_KVM:-nanoclaw-kvm}
run=/run/$name               # sockets and process numbers of the running machine
console=$repo/out/kvm/console.log
command_port=1024            # of the machine's command server, in a network namespace of its own

say() { echo "kvm: $*" >&2; }
die() { say "$*"; exit 1; }

[[ $name =~ ^[a-z][a-z0-9-]{1,39}$ ]] || die "NANOCLAW_KVM must be a short name of a-z, 0-9 and -, not '$name'"
[[ $(id -u) -eq 0 ]] || die "only root can use the machine: it has a network namespace"

# lock serialises up and down of one machine.
lock() {
	mkdir -p "$cache/kvm"
	exec 8>"$cache/kvm/$name.lock"
	flock -n 8 && return
	say "waiting for another up or down of $name"
	flock 8
}

# from runs a program of the engine's root with the libraries of that root, since this machine's may be too old.
from() {
	local root=$1 program=$2
	shift 2
	exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/$program" "$@"
}

# start_time prints when a process began, in ticks since boot: with it a number that was used again is told apart.
start_time() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	stat=${stat##*) }
	cut -d' ' -f20 <<<"$stat"
}

# machine_pid prints the number of the emulator's process, and fails where no machine runs.
machine_pid() {
	local pid began
	read -r pid began 2>/dev/null <"$run/pid" || return 1
	[[ $(start_time "$pid") == "$began" ]] || return 1
	echo "$pid"
}

# stop_machine ends the machine, if it runs. It is asked first, and killed where that does not help; the daemon of its
# shared folder ends with it.
stop_machine() {
	local pid _
	if pid=$(machine_pid); then
		say "stopping $name"
		timeout 20 "$here/enter" kill -TERM 1 2>/dev/null || true
		for _ in {1..200}; do
			machine_pid >/dev/null || break
			sleep 0.1
		done
		if machine_pid >/dev/null; then
			say "it does not stop by itself, killing it"
			kill -KILL "$pid"
			while machine_pid >/dev/null; do sleep 0.1; done
		fi
	fi
	rm -rf "$run"
}

# prune_disks removes disks that no longer are made: those that no machine uses, that were not asked for within the hour,
# and that are not the newest two of the rest.
prune_disks() {
	local used old kept=0
	used=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -o "$cache/kvm/[0-9a-f]*" | sort -u) || true
	while read -r old; do
		[[ $used != *"$old"* ]] || continue
		((++kept > 2)) || continue
		[[ -n $(find "$old" -maxdepth 0 -mmin +60) ]] || continue
		say "removing old disks, $old"
		# First out of the way, so that nobody takes half of them for all.
		mv "$old" "$cache/kvm/.old.$$" && rm -rf --one-file-system "$cache/kvm/.old.$$"
	done < <(find "$cache/kvm" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9a-f]+' -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2-)
}
