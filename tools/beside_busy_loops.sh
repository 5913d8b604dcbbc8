#!/bin/sh
# Run a command while so many loops keep processors busy: `tools/beside_busy_loops.sh 2 make test`.
set -eu
count=$1
shift

loops=
trap 'kill $loops 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
while [ "$count" -gt 0 ]; do
    # It ends with this script even where that is killed.
    (while kill -0 $$ 2>/dev/null; do for _ in 1 2 3 4 5 6 7 8 9; do :; done; done) &
    loops="$loops $!"
    count=$((count - 1))
done
"$@"
