#!/bin/sh
# Run a command with a share of one processor, in percent, as if this machine were so much slower:
# `tools/with_processor_share.sh 25 make test-fast`. Needs root and cgroups (v2, or v1's cpu controller).
set -eu
percent=$1
shift

period_us=100000
quota_us=$((percent * period_us / 100))
fail() { printf 'with_processor_share: %s\n' "$*" >&2; exit 1; }

if grep -qw cpu /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    group=/sys/fs/cgroup/airloom-$$
    echo +cpu >/sys/fs/cgroup/cgroup.subtree_control || fail "the cpu controller cannot be enabled"
    mkdir "$group" || fail "no group can be made in /sys/fs/cgroup: run it as root"
    echo "$quota_us $period_us" >"$group/cpu.max"
elif [ -d /sys/fs/cgroup/cpu ]; then
    group=/sys/fs/cgroup/cpu/airloom-$$
    mkdir "$group" || fail "no group can be made in /sys/fs/cgroup/cpu: run it as root"
    echo "$period_us" >"$group/cpu.cfs_period_us"
    echo "$quota_us" >"$group/cpu.cfs_quota_us"
else
    fail "there are no cgroups with a cpu controller here"
fi
# What the command leaves behind keeps the group: it is removed once that has ended.
trap 'rmdir "$group" 2>/dev/null || true' EXIT
sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" "$@"
