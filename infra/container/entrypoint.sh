#!/bin/sh
# exec: the process itself must get SIGTERM to drain.
set -eu
role="${1:-}"
[ $# -gt 0 ] && shift
case "$role" in
  api) exec deno run -A api/main.ts --host 0.0.0.0 --port 8400 --data /data "$@" ;;
  host) exec deno run -A gpu-host/main.ts --data /data --models /models "$@" ;;
  *) echo "first argument must be api or host, is \"$role\"" >&2; exit 2 ;;
esac
