# Helpers of those who run something in the background on this machine: the embedded engine and the machine with a KVM.
# Sourced by their lib.sh, never run. They set name (what runs), run (its folder in /run), kind (its folder in the cache)
# and say.
# shellcheck shell=bash disable=SC2154 # set by those who source it

cache=${NANOCLAW_CACHE:-/var/cache/nanoclaw}

die() { say "$*"; exit 1; }

# lock serialises up and down of one of them. The file is never removed: two holders of two files would both go on.
lock() {
	mkdir -p "$cache/$kind"
	exec 8>"$cache/$kind/$name.lock"
	flock -n 8 && return
	say "waiting for another up or down of $name"
	flock 8
}

# start_time prints when a process began, in ticks since boot: with it a number that was used again is told apart. It fails
# where none runs; one that has ended, and that nobody has waited for, does not.
start_time() {
	local stat
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	stat=${stat##*) }
	[[ $stat != [ZX]* ]] || return 1
	cut -d' ' -f20 <<<"$stat"
}

# running_pid prints the number of the process that $run/pid names, and fails where it does not run.
running_pid() {
	local pid began
	read -r pid began 2>/dev/null <"$run/pid" || return 1
	[[ $(start_time "$pid") == "$began" ]] || return 1
	echo "$pid"
}

# prune WHAT USED removes folders that no longer are made: those whose path is not in USED, that were not asked for within
# the hour (somebody may be about to start), and that are not the newest two of the rest.
prune() {
	local what=$1 used=$2 old kept=0
	while read -r old; do
		[[ $used != *"$old"* ]] || continue
		((++kept > 2)) || continue
		[[ -n $(find "$old" -maxdepth 0 -mmin +60) ]] || continue
		say "removing $what, $old"
		# First out of the way, so that nobody takes half of one for a whole.
		mv "$old" "$cache/$kind/.old.$$" && rm -rf --one-file-system "$cache/$kind/.old.$$"
	done < <(find "$cache/$kind" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9a-f]+' -printf '%T@ %p\n' | sort -rn | cut -d' ' -f2-)
}
