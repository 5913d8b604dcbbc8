#!/bin/sh
# Set up everything in .venv: `tools/setup.sh EXTRA[,EXTRA…] [PROGRAM…]`.
#
# Repeatable and resumable: what is done already is skipped. llama.cpp is compiled for this very
# processor once; the wheel is kept in ~/.cache/airloom, so that any later set-up is quick.
# PROGRAMs are system programs that the caller needs besides the usual ones.
set -eu
cd "$(dirname "$0")/.."
extras=$1
shift

LLAMA=$(sed -n 's/.*"llama-cpp-python==\([0-9.]*\)".*/\1/p' pyproject.toml)
CACHE=${AIRLOOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/airloom}

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

package_of() {
    case $1 in
        python3) echo python3 ;;
        cc) echo gcc ;;
        c++) echo g++ ;;
        ip | tc) echo iproute2 ;;
        nsenter) echo util-linux ;;
        xz) echo xz-utils ;;
        *) echo "$1" ;;
    esac
}

PATH=$PATH:/usr/sbin:/sbin
missing=
need() { case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac; }
for program in python3 cc c++ ip tc nsenter "$@"; do
    command -v "$program" >/dev/null 2>&1 || need "$(package_of "$program")"
done
if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import ensurepip' 2>/dev/null || need python3-venv
    python3 -c 'import os, sysconfig; os.stat(sysconfig.get_paths()["include"] + "/Python.h")' 2>/dev/null ||
        need python3-dev
else
    need python3-venv
    need python3-dev
fi
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi
    if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
        say "installing system packages:$missing"
        $as_root apt-get update -qq
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        fail "these system packages are missing:$missing
    install them with: sudo apt-get install$missing"
    fi
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or newer is needed; this is $(python3 --version)"
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    say "making .venv"
    rm -rf .venv
    python3 -m venv .venv
fi
python=$PWD/.venv/bin/python

tag=$($python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
processor=$( { uname -m; grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true; } | sha256sum | cut -c1-12)
wheels=$CACHE/wheels/llama-$LLAMA-$tag-$processor

stamp=.venv/.set-up-$( { cat pyproject.toml tools/constraints.txt; echo "$extras $processor $tag"; } | sha256sum | cut -c1-16)
[ -e "$stamp" ] && exit 0

if ! ls "$wheels"/*.whl >/dev/null 2>&1; then
    jobs=$(nproc)
    say "compiling llama.cpp for this processor on $jobs cores (once; some 5 minutes on 2 cores)"
    rm -rf "$wheels.partial"
    mkdir -p "$wheels.partial"
    log=$CACHE/llama-build.log
    status=$CACHE/llama-build.status
    rm -f "$status"
    {
        CMAKE_ARGS="-DGGML_NATIVE=ON ${CMAKE_ARGS:-}" CMAKE_BUILD_PARALLEL_LEVEL=$jobs \
            "$python" -m pip wheel -v --no-deps --no-cache-dir -w "$wheels.partial" "llama-cpp-python==$LLAMA" 2>&1 ||
            echo failed >"$status"
    } | tee "$log" | awk -v tty="$(test -t 2 && echo 1 || echo 0)" '
        match($0, /\[[0-9]+\/[0-9]+\]/) {
            split(substr($0, RSTART + 1, RLENGTH - 2), n, "/")
            percent = int(100 * n[1] / n[2])
            if (tty) { printf "\r    %3d %% (%d of %d files)", percent, n[1], n[2] > "/dev/stderr"; shown = 1 }
            else if (percent >= next_percent) { printf "    %3d %%\n", percent > "/dev/stderr"; next_percent = percent + 10 }
        }
        END { if (shown) print "" > "/dev/stderr" }'
    [ ! -e "$status" ] || fail "llama.cpp did not compile; the end of $log:
$(tail -n 5 "$log")"
    rm -rf "$wheels"
    mv "$wheels.partial" "$wheels"
fi

say "installing airloom[$extras] into .venv"
"$python" -m pip install -q --disable-pip-version-check "$wheels"/*.whl -c tools/constraints.txt -e ".[$extras]" >&2 ||
    fail "pip could not install airloom[$extras]; see above"
"$python" -c 'import llama_cpp, grpc, pydantic' || fail "the installation is not complete; see above"
touch "$stamp"
