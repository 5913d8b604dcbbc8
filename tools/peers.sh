#!/bin/sh
# Build llama.cpp's own llama-server and llama-bench: what the engine is measured and tested against.
#
# From the source that llama-cpp-python carries, so that both run the very same llama.cpp. Kept in
# ~/.cache/airloom; prints the folder that holds the programs.
set -eu
cd "$(dirname "$0")/.."

LLAMA=$(sed -n 's/.*"llama-cpp-python==\([0-9.]*\)".*/\1/p' pyproject.toml)
CACHE=${AIRLOOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/airloom}
python=$PWD/.venv/bin/python

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

processor=$( { uname -m; grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true; } | sha256sum | cut -c1-12)
programs=$CACHE/peers/llama-$LLAMA-$processor
if [ -x "$programs/llama-server" ] && [ -x "$programs/llama-bench" ]; then
    echo "$programs"
    exit 0
fi

# Whoever comes meanwhile waits, and finds it done.
mkdir -p "$CACHE"
exec 9>"$CACHE/peers.lock"
flock 9
if [ -x "$programs/llama-server" ]; then
    echo "$programs"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "fetching llama.cpp's source"
"$python" -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python -d "$work" \
    "llama-cpp-python==$LLAMA" >&2
tar -xzf "$work"/llama_cpp_python-"$LLAMA".tar.gz -C "$work"
source=$work/llama_cpp_python-$LLAMA/vendor/llama.cpp

jobs=$(nproc)
say "compiling llama-server and llama-bench on $jobs cores (once; some 7 minutes on 2 cores)"
log=$CACHE/peers-build.log
mkdir -p "$CACHE"
# Static, so that the programs can be moved; else as llama-cpp-python's wheel is built.
if ! {
    .venv/bin/cmake -S "$source" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF &&
        .venv/bin/cmake --build "$work/build" --target llama-server llama-bench -j "$jobs"
} >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    say "llama.cpp's programs did not compile; see $log"
    exit 1
fi
rm -rf "$programs.partial"
mkdir -p "$programs.partial"
cp "$work/build/bin/llama-server" "$work/build/bin/llama-bench" "$programs.partial"
rm -rf "$programs"
mv "$programs.partial" "$programs"
echo "$programs"
