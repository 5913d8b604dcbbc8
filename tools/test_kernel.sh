#!/bin/sh
# Build the kernel that tests/netem boots as a process: sch_netem, and a clock that it owns.
#
# Distributions' own user-mode kernel lives by this machine's clock, so that a busy machine looks like
# a bad link. With CONFIG_UML_TIME_TRAVEL_SUPPORT computing takes none of its time and waiting none of
# ours. Built from the distribution's kernel source; kept in ~/.cache/airloom; prints its path.
set -eu
cd "$(dirname "$0")/.."

CACHE=${AIRLOOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/airloom}
config=$PWD/tools/test_kernel.config
kernel=$CACHE/test-kernel/linux-$(sha256sum <"$config" | cut -c1-12)

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

if [ -x "$kernel" ]; then
    echo "$kernel"
    exit 0
fi

# Whoever comes meanwhile waits, and finds it done.
mkdir -p "$CACHE"
exec 9>"$CACHE/test-kernel.lock"
flock 9
if [ -x "$kernel" ]; then
    echo "$kernel"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As root apt would download as its own user, who may not write here.
chmod 755 "$work"
say "fetching the kernel's source"
source_package() { apt-cache depends linux-source 2>/dev/null | sed -n 's/.*Depends: \(linux-source-[0-9.]*\)$/\1/p' | head -n 1; }
package=$(source_package)
if [ -z "$package" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi
    $as_root apt-get update -qq >&2 || true
    package=$(source_package)
fi
[ -n "$package" ] || { say "apt knows no package linux-source: is its main section enabled?"; exit 1; }
(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$package" >&2)
dpkg-deb -x "$work/$package"_*.deb "$work/package"
mkdir "$work/source"
tar -xf "$(find "$work/package/usr/src" -type f -name 'linux-source-*.tar.*' | head -n 1)" -C "$work/source" --strip-components=1

jobs=$(nproc)
say "compiling a user-mode kernel on $jobs cores (once; some 5 minutes on 2 cores)"
log=$CACHE/test-kernel-build.log
mkdir -p "$CACHE/test-kernel"
if ! {
    cd "$work/source" &&
        make ARCH=um allnoconfig KCONFIG_ALLCONFIG="$config" &&
        make ARCH=um -j "$jobs" linux
} >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    say "the kernel did not compile; see $log"
    exit 1
fi
grep '=y$' "$config" | while read -r option; do
    grep -qx "$option" "$work/source/.config" || say "this kernel's source has no $option"
done
strip -o "$kernel.partial" "$work/source/linux"
mv "$kernel.partial" "$kernel"
echo "$kernel"
