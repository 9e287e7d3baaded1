# Names and helpers that the scripts of the machine share. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # used by those who source it

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
kind=kvm
say() { echo "kvm: $*" >&2; }
# shellcheck source=test/lib.sh
. "$repo/test/lib.sh"

# Several machines can run at once: NANOCLAW_KVM names them apart.
name=${NANOCLAW_KVM:-nanoclaw-kvm}
run=/run/$name               # sockets and process numbers of the running machine
console=$repo/out/kvm/console.log
command_port=1024            # of the machine's command server, in a network namespace of its own

[[ $name =~ ^[a-z][a-z0-9-]{1,39}$ ]] || die "NANOCLAW_KVM must be a short name of a-z, 0-9 and -, not '$name'"
[[ $(id -u) -eq 0 ]] || die "only root can use the machine: it has a network namespace"

# from runs a program of the engine's root with the libraries of that root, since this machine's may be too old.
from() {
	local root=$1 program=$2
	shift 2
	exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/$program" "$@"
}

# machine_pid prints the number of the emulator's process, and fails where no machine runs.
machine_pid() { running_pid; }

# kill_machine PID ends the emulator's process and waits for it.
kill_machine() {
	kill -KILL "$1"
	while machine_pid >/dev/null; do sleep 0.1; done
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
			kill_machine "$pid"
		fi
	fi
	rm -rf "$run"
}

# cloud_hypervisor prints the path of this machine's Cloud Hypervisor; where there is none it says so and fails.
cloud_hypervisor() {
	command -v "${CLOUD_HYPERVISOR:-cloud-hypervisor}" && return
	echo "--- SKIP: cloud-hypervisor: ${CLOUD_HYPERVISOR:-none on PATH}; name one with CLOUD_HYPERVISOR=PATH: version 52 or later," \
		"from a distribution, from the releases of cloud-hypervisor.org, or built from its source"
	return 1
}

# put_cloud_hypervisor FILE puts that Cloud Hypervisor into the machine.
put_cloud_hypervisor() {
	"$here/enter" sh -c 'cat >/usr/local/bin/cloud-hypervisor && chmod 755 /usr/local/bin/cloud-hypervisor' <"$1"
}

# prune_disks removes old disks, but those that a machine uses.
prune_disks() {
	prune "old disks" "$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -o "$cache/kvm/[0-9a-f]*" | sort -u)"
}
