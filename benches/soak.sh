#!/usr/bin/env bash
# Measures how servers run on mcp-fabric, beside node, npm and docker in the same run: installs, starts, kills,
# containers, memory, and a thousand starts and stops. Everything works in a temporary folder and is removed at the
# end. Prints Markdown on standard output and its progress on standard error.
#
#   benches/soak.sh PROGRAM            the figures, about fifteen minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/soak.sh PROGRAM    whether it still works, about two minutes
#
# Needs node, npm, python3, rustc, PostgreSQL's programs and the registry that npm is configured to use; for containers
# docker and docker-registry, and is told as skipped without them.
set -Eeuo pipefail
[[ $# == 1 && -x $1 ]] || { echo "usage: benches/soak.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
chmod 711 "$work"
for name in $(compgen -e FABRIC_) DATABASE_URL; do unset "$name"; done
pids=()
finish() {
  local status=$? pid
  trap - EXIT ERR
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || continue
    for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'echo "soak: line $LINENO failed" >&2' ERR

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
image=
if docker version >/dev/null 2>&1 && command -v docker-registry >/dev/null; then
  port=$(free_port)
  printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s"}\n' "$work/registry" "$port" >"$work/registry.yml"
  docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
  pids+=($!)
  mkdir -p "$work/image/tmp"
  rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$work/image/server" "$repo/tests/it/support/container_subject.rs"
  image=localhost:$port/bench/static:1
  for _ in $(seq 50); do curl -sf "localhost:$port/v2/" >/dev/null && break; sleep 0.1; done
  tar -C "$work/image" -c . | docker import --change 'ENTRYPOINT ["/server"]' - "$image" >/dev/null
  docker push -q "$image" >/dev/null
  export FABRIC_OCI_PLAIN_HTTP=localhost:$port FABRIC_ALLOWED_HOSTS=localhost
fi

listen=127.0.0.1:$(free_port)
FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 INSTALL_ON_START=off FABRIC_LOG=warn \
  FABRIC_MAX_INSTANCES_PER_USER=200 FABRIC_CACHE_DIR="$work/cache" "$program" --listen "$listen" --data-dir "$work/data" >"$work/out" 2>"$work/err" &
fabric=$!
pids+=("$fabric")
for _ in $(seq 200); do [[ -f $work/data/serve.json ]] && break; kill -0 "$fabric" || { cat "$work/err" >&2; exit 1; }; sleep 0.1; done
python3 "$repo/benches/soak.py" "http://$listen" "$work" "$fabric" "$image"
[[ -z $image ]] || docker image rm -f "$image" >/dev/null 2>&1 || true
