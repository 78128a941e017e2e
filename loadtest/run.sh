#!/bin/sh
# Loads a deployment of yours and says how it does. See README.md.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

usage() {
	cat <<'EOF'
usage: loadtest/run.sh MODE [options] [URL]

modes
  warmup   send requests and show nothing but failures
  rate     latency at a fixed rate, counted from when each request was due
  step     raise the rate until the latency or the failures say stop
  closed   as fast as it goes with wrk: throughput, not latency

URL is http://127.0.0.1:8080/ unless given.

options
  -r N     requests a second; the first step of step        (500; 1-1000000)
  -d N     seconds of an attack, a step or wrk              (30, step 10; 1-3600)
  -w N     seconds of warm-up before it; 0 for none         (5; 0-600)
  -m N     the rate that step does not go beyond            (64 x the first)
  -g N     percent that each step adds                      (50; 1-1000)
  -l N     p99 in milliseconds that ends step               (100; 1-60000)
  -c N     connections of closed                            (64; 1-10000)
  -t FILE  vegeta targets instead of the URL (rate, step)
  -s NAME  wrk script of closed: percentiles, paths, post   (percentiles)
  -H LINE  a header such as "Authorization: Bearer ..."
  -o DIR   folder for results                               (loadtest/results/TIME-MODE)
  -y       the target is yours; needed when it is not on this machine
EOF
}

die() {
	echo "run.sh: $*" >&2
	exit 2
}

# number NAME VALUE LOW HIGH refuses what is no whole number in the bounds.
number() {
	case $2 in
	'' | *[!0-9]*) die "$1: expected a number from $3 to $4, got \"$2\"" ;;
	esac
	if [ ${#2} -gt 9 ] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
		die "$1: expected a number from $3 to $4, got $2"
	fi
}

[ $# -gt 0 ] || { usage >&2; exit 2; }
mode=$1
shift
case $mode in
warmup | rate | step | closed) ;;
-h | --help | help) usage; exit 0 ;;
*) die "expected warmup, rate, step or closed, got \"$mode\" (run.sh help)" ;;
esac

rate=500 seconds='' warm=5 top='' growth=50 limit=100 connections=64
targets='' script=percentiles header='' out='' mine=no
while getopts r:d:w:m:g:l:c:t:s:H:o:yh opt; do
	case $opt in
	r) rate=$OPTARG ;;
	d) seconds=$OPTARG ;;
	w) warm=$OPTARG ;;
	m) top=$OPTARG ;;
	g) growth=$OPTARG ;;
	l) limit=$OPTARG ;;
	c) connections=$OPTARG ;;
	t) targets=$OPTARG ;;
	s) script=$OPTARG ;;
	H) header=$OPTARG ;;
	o) out=$OPTARG ;;
	y) mine=yes ;;
	h) usage; exit 0 ;;
	*) die "see run.sh help" ;;
	esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || die "expected one URL after the options, got \"$*\""
url=${1:-http://127.0.0.1:8080/}

if [ -z "$seconds" ]; then
	if [ "$mode" = step ]; then seconds=10; else seconds=30; fi
fi
number -r "$rate" 1 1000000
number -d "$seconds" 1 3600
number -w "$warm" 0 600
number -g "$growth" 1 1000
number -l "$limit" 1 60000
number -c "$connections" 1 10000
if [ -z "$top" ]; then
	top=$((rate * 64))
	[ $top -le 1000000 ] || top=1000000
fi
number -m "$top" "$rate" 1000000
if [ "$mode" = rate ] && [ $((rate * seconds)) -gt 5000000 ]; then
	die "-r $rate for -d $seconds is more than 5000000 results: take less of one"
fi

case $url in
http://?* | https://?*) ;;
*) die "expected a URL such as http://127.0.0.1:8080/, got \"$url\"" ;;
esac
case $url in
*[[:space:]]*) die "expected a URL without spaces, got \"$url\"" ;;
esac
# What is before the path, without a port; user:password@ has no place here.
authority=${url#*://}
authority=${authority%%[/?#]*}
case $authority in
*@*) die "expected a URL without credentials; use -H" ;;
'['*) host=${authority%%]*}] ;;
*) host=${authority%%:*} ;;
esac
local_only=yes
case $host in
localhost | 127.0.0.1 | '[::1]') ;;
*) local_only=no ;;
esac
if [ -n "$targets" ]; then
	[ -r "$targets" ] || die "-t: cannot read \"$targets\""
	local_only=no
fi
if [ $local_only = no ] && [ $mine = no ]; then
	die "${targets:-$host} may not be on this machine: load only what is yours, and say so with -y"
fi
case $script in
percentiles | paths | post) ;;
*) die "-s: expected percentiles, paths or post, got \"$script\"" ;;
esac
case $header in
'' | ?*:*) ;;
*) die "-H: expected a line such as \"Name: value\"" ;;
esac

# find_vegeta sets vegeta to a binary; a missing one is built into the cache.
find_vegeta() {
	vegeta=${VEGETA:-$(command -v vegeta || true)}
	[ -z "$vegeta" ] || return 0
	bin=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/sluice-loadtest
	vegeta=$bin/vegeta
	[ -x "$vegeta" ] && return 0
	command -v go >/dev/null || die "needs vegeta (https://github.com/tsenart/vegeta) or Go to build it"
	echo "building vegeta into $bin" >&2
	GOBIN=$bin go install github.com/tsenart/vegeta/v12@v12.13.0
}

# find_planned sets planned to the program that counts latency from the plan.
find_planned() {
	command -v go >/dev/null || die "needs Go to build loadtest/planned"
	planned=$work/planned
	(cd "$here" && go build -o "$planned" ./planned)
}

# attack NAME RATE SECONDS FILE sends at a constant rate. Bodies are not kept.
attack() {
	set -- "$1" "$2" "$3" "$4" -max-body=0 -timeout=10s -workers=64 -max-workers=20000
	[ -z "$header" ] || set -- "$@" "-header=$header"
	if [ -n "$targets" ]; then set -- "$@" "-targets=$targets"; fi
	name=$1 per=$2 long=$3 file=$4
	shift 4
	printf 'GET %s\n' "$url" |
		timeout --foreground -k 5 $((long + 30)) "$vegeta" attack -name="$name" -rate="$per/1s" -duration="${long}s" "$@" |
		"$vegeta" encode -to csv >"$file"
	[ -s "$file" ] || die "vegeta sent nothing to $url"
}

warm_up() {
	[ "$1" -gt 0 ] || return 0
	echo "warm-up: $1 s at $rate/s" >&2
	attack warmup "$rate" "$1" "$work/warmup.csv"
	"$planned" -rate "$rate" -max-failures 0.5 "$work/warmup.csv" >"$work/warmup.txt" || {
		cat "$work/warmup.txt" >&2
		die "$url fails more than half of the warm-up"
	}
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
results() {
	[ -n "$out" ] || out=$here/results/$(date +%Y%m%dT%H%M%S)-$mode
	mkdir -p "$out"
}

case $mode in
warmup)
	find_vegeta
	find_planned
	warm_up "$seconds"
	cat "$work/warmup.txt"
	;;
rate)
	find_vegeta
	find_planned
	results
	warm_up "$warm"
	echo "measuring: $seconds s at $rate/s" >&2
	attack "$rate/s" "$rate" "$seconds" "$work/sent.csv"
	"$planned" -rate "$rate" -o "$work/due.csv" "$work/sent.csv" | tee "$out/summary.txt"
	"$vegeta" plot -title="$url at $rate/s, from plan" -output="$out/latency.html" "$work/due.csv"
	echo "plot: $out/latency.html" >&2
	;;
step)
	find_vegeta
	find_planned
	results
	warm_up "$warm"
	{
		echo "| rate | sent/s | failed | p50 | p90 | p99 | p99.9 | max |"
		echo "|---:|---:|---:|---:|---:|---:|---:|---:|"
	} | tee "$out/summary.md"
	now=$rate good='' knee=no
	while [ "$now" -le "$top" ]; do
		if [ $((now * seconds)) -gt 5000000 ]; then
			echo "stopped: $now/s for $seconds s is more than 5000000 results" >&2
			break
		fi
		attack "$now/s" "$now" "$seconds" "$work/sent.csv"
		status=0
		"$planned" -rate "$now" -row -max-p99 "${limit}ms" -max-failures 0.001 \
			-o "$work/due-$(printf %07d "$now").csv" "$work/sent.csv" >"$work/row" || status=$?
		tee -a "$out/summary.md" <"$work/row"
		if [ $status -eq 3 ]; then
			knee=yes
			break
		fi
		[ $status -eq 0 ] || exit $status
		good=$now
		more=$((now * growth / 100))
		[ $more -gt 0 ] || more=1
		now=$((now + more))
	done
	if [ $knee = yes ]; then
		from='at or below '
		[ -z "$good" ] || from="between $good/s and "
		end="knee $from$now/s: p99 above $limit ms or more than 0.1 % failed"
	else
		end="no knee up to ${good:-0}/s"
	fi
	echo "$end" | tee -a "$out/summary.md"
	"$vegeta" plot -title="$url, rising rate, from plan" -output="$out/latency.html" "$work"/due-*.csv
	echo "plot: $out/latency.html" >&2
	;;
closed)
	command -v wrk >/dev/null || die "needs wrk; on Debian: sudo apt-get install -y wrk"
	LOADTEST_WRK=$here/wrk
	export LOADTEST_WRK
	threads=$(nproc)
	[ "$threads" -le "$connections" ] || threads=$connections
	set -- -t "$threads" -c "$connections" --timeout 10s -s "$here/wrk/$script.lua"
	[ -z "$header" ] || set -- "$@" -H "$header"
	if [ "$warm" -gt 0 ]; then
		echo "warm-up: $warm s with $connections connections" >&2
		timeout --foreground -k 5 $((warm + 30)) wrk "$@" -d "${warm}s" "$url" >/dev/null
	fi
	timeout --foreground -k 5 $((seconds + 30)) wrk "$@" -d "${seconds}s" "$url"
	;;
esac
