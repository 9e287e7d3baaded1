# Names and helpers that the engine's scripts share. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # used by those who source it

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
kind=engine
say() { echo "engine: $*" >&2; }
# shellcheck source=test/lib.sh
. "$repo/test/lib.sh"

# One machine can run several engines that share nothing but the unpacked root: NANOCLAW_ENGINE names them apart.
name=${NANOCLAW_ENGINE:-nanoclaw-engine}
run=/run/$name              # socket, logs, shared folder; the same path inside and outside
state=$cache/engine/state/$name # what outlives a stop: Docker's and containerd's data
docker_host=unix://$run/docker.sock
# What test/host makes of the engine: another root, and a configuration without NanoClaw in it.
given_root=${NANOCLAW_ENGINE_ROOT:-}
etc=${NANOCLAW_ENGINE_ETC:-$here/etc}

[[ $name =~ ^[a-z][a-z0-9-]{1,39}$ ]] || die "NANOCLAW_ENGINE must be a short name of a-z, 0-9 and -, not '$name'"
[[ $(id -u) -eq 0 ]] || die "only root can use the engine: it makes namespaces and mounts"

# engine_pid prints the engine's pid 1 as the machine numbers it, and fails where no engine runs.
engine_pid() { running_pid; }

# remove_cgroups removes the engine's empty cgroups, in every hierarchy. The kernel takes a moment to empty those of
# processes that were just killed.
remove_cgroups() {
	local _ left
	for _ in {1..50}; do
		left=$(find /sys/fs/cgroup -depth -type d -regex "/sys/fs/cgroup\(/[^/]*\)?/$name\(/.*\)?" 2>/dev/null)
		[[ -n $left ]] || return 0
		xargs -r rmdir 2>/dev/null <<<"$left" || sleep 0.1
	done
	say "cgroups that still hold processes: $left"
	return 1
}

# stop_engine ends the engine, if it runs, and removes all that it left outside the cache. A shutdown in order takes two
# seconds; killing pid 1 takes its whole pid namespace, and with that its mounts and network, along.
stop_engine() {
	local pid _
	if pid=$(engine_pid); then
		say "stopping $name"
		kill -TERM "$pid"
		for _ in {1..200}; do
			engine_pid >/dev/null || break
			sleep 0.1
		done
		if engine_pid >/dev/null; then
			say "it does not stop by itself, killing it"
			kill -KILL "$pid"
			for _ in {1..100}; do
				engine_pid >/dev/null || break
				sleep 0.1
			done
			! engine_pid >/dev/null || die "pid $pid cannot be killed: $(tr '\n' ' ' <"/proc/$pid/stack" 2>/dev/null)"
		fi
	fi
	remove_cgroups
	rm -rf --one-file-system "$run"
}

# prune_roots removes old roots, but those that an engine has below it.
prune_roots() { prune "an old root" "$(grep -ho 'lowerdir=[^,]*' /proc/[0-9]*/mounts 2>/dev/null | sort -u)"; }
