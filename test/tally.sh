# Counting the outcomes of "go test -v". Sourced by those who print "N passed, N failed, N skipped", from the clone's root;
# results is the folder for logs.
# shellcheck shell=bash disable=SC2154 # set by those who source it

passed=0 skipped=0
failures=() # what has failed, with the name of its step

# mark prints where the count stands, and back returns to it: what was counted meanwhile is as if it had not been run.
mark() { echo "$passed $skipped ${#failures[@]}"; }
back() {
	local failed
	read -r passed skipped failed <<<"$1"
	failures=("${failures[@]:0:failed}")
}

# tally LOG counts the outcomes in the output of "go test -v". A package that
# did not compile, or ended outside a test, counts as one failure.
tally() {
	local log=$1 names
	passed=$((passed + $(grep -cE '^ *--- PASS' "$log")))
	skipped=$((skipped + $(grep -cE '^ *--- SKIP' "$log")))
	mapfile -t names < <(sed -nE -e 's/^ *--- FAIL: ([^ ]+).*/\1/p' -e 's/^(FAIL	.*(build failed|setup failed).*|panic: .*)/\1/p' "$log")
	[[ ${#names[@]} -eq 0 ]] || {
		fails "$(basename "$log" .log)" "${names[@]}"
		grep -vE '^ *(=== |--- PASS)|^(ok|PASS|\?)' "$log" | tail -n 200
	}
}

# fails STEP WHAT… counts failures.
fails() {
	local step=$1
	shift
	failures+=("${@/#/$step: }")
}

# step NAME COMMAND… runs a part of the suite and counts it.
step() {
	local name=$1
	shift
	echo "test: $name" >&2
	"$@" >"$results/$name.log" 2>&1
	local status=$?
	local before=${#failures[@]}
	tally "$results/$name.log"
	if [ "$status" -ne 0 ] && [ "${#failures[@]}" -eq "$before" ]; then
		fails "$name" "exit status $status"
		tail -n 50 "$results/$name.log"
	fi
	grep -E '^ *--- SKIP' -A1 "$results/$name.log" | grep -vE '^--$' || true
}

# summary prints what has failed, and at the end the line that counts: a log that is cut to its end still names what to look at.
summary() {
	[[ ${#failures[@]} -eq 0 ]] || printf 'failed: %s\n' "${failures[@]}"
	echo "$passed passed, ${#failures[@]} failed, $skipped skipped"
	[[ ${#failures[@]} -eq 0 ]]
}

# add LOG counts what a script that ends with a summary has counted.
add() {
	if [[ $(tail -n 1 "$1") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		local failed=${BASH_REMATCH[2]}
		passed=$((passed + BASH_REMATCH[1]))
		skipped=$((skipped + BASH_REMATCH[3]))
		mapfile -t -O "${#failures[@]}" failures < <(tail -n $((failed + 1)) "$1" | sed -e '$d' -e 's/^failed: //')
		head -n $((-failed - 1)) "$1"
	else
		fails "$(basename "$1" .log)" 'did not end with a summary'
		cat "$1"
	fi
}
