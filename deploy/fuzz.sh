#!/bin/sh
# Runs every fuzz target of every package for FUZZTIME, one after another, and
# stops at the first finding. A finding is kept by go test under
# testdata/fuzz/, where it is a test from then on: commit it with the fix.
#
# On a busy machine go test -fuzz now and then ends with nothing but "context
# deadline exceeded": its time was over while a worker was in the middle of an
# input (golang/go#75804). Such a target is asked once more. Every real finding
# names the input that it was found with, and is never asked about again.
#
# usage: deploy/fuzz.sh [FUZZTIME]     such as 3s, 10s (the default), 5m
set -eu

time=${1:-10s}
go=${GO:-go}
count=0
targets=$(mktemp)
trap 'rm -f "$targets" "$targets.list" "$targets.run"' EXIT

# A line for each target, "package Name". go test -list prints the names of a
# package before the line that names it.
if ! "$go" test -list '^Fuzz' ./... >"$targets.list"; then
	cat "$targets.list" >&2
	echo "fuzz: the tests do not build" >&2
	exit 1
fi
awk '/^Fuzz/ { name[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }' "$targets.list" >"$targets"

run() {
	"$go" test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" </dev/null >"$targets.run" 2>&1
	status=$?
	cat "$targets.run"
	return $status
}

# out_of_time tells whether the last run failed, but found nothing.
out_of_time() {
	grep -q '^ *context deadline exceeded$' "$targets.run" &&
		! grep -Eq 'Failing input|panic|_test\.go:|DATA RACE|fuzzing process' "$targets.run"
}

while read -r package name; do
	echo "fuzz: $package $name for $time"
	if ! run "$package" "$name" && ! { out_of_time && run "$package" "$name"; }; then
		echo "fuzz: $name in $package failed; a new input is kept under its testdata/fuzz/$name" >&2
		exit 1
	fi
	count=$((count + 1))
done <"$targets"
echo "fuzz: $count targets, no finding"
