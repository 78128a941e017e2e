#!/bin/sh
# Gets the real servers that some tests and `make peers` run against: nginx,
# HAProxy, wrk, Redis and a browser, from Debian. Tests that need one that is missing skip
# themselves, so this never fails a build: it installs what it may, within
# bounded time, and says in one line what is left out.
set -u

missing() {
	for name in nginx haproxy wrk redis-server chromium; do
		# nginx and haproxy live in /usr/sbin, which is not on everybody's PATH.
		PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$name" >/dev/null 2>&1 || printf '%s ' "$name"
	done
}

left=$(missing)
[ -n "$left" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	# RUNLEVEL=1 keeps Debian from starting the services that it installs.
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	echo "test-servers: installing $left" >&2
	# shellcheck disable=SC2086 # the names are words
	{
		timeout 60 apt-get -qq update &&
			timeout 240 apt-get -qq install -y --no-install-recommends $left
	} >/dev/null 2>&1 </dev/null
	left=$(missing)
	[ -n "$left" ] || exit 0
fi
echo "test-servers: tests against ${left% } are skipped; on Debian: sudo apt-get install ${left% }" >&2
exit 0
