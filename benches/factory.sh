#!/usr/bin/env bash
# Measures what the factory makes of API documents, and how soon, beside openapi-mcp-generator and FastMCP in the same run:
# from a document to a server that runs, how parameters of every style arrive, how soon a server answers. Everything listens
# on loopback, works in a temporary folder and is removed at the end. Prints Markdown on standard output and its progress on
# standard error.
#
#   benches/factory.sh PROGRAM            the figures, about five minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/factory.sh PROGRAM    whether it still works, without the others
#
# Needs python3, node, npm, PostgreSQL's programs, and the registries that npm and pip are configured to use.
set -Eeuo pipefail
[[ $# == 1 && -x $1 ]] || { echo "usage: benches/factory.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
chmod 711 "$work"
for name in $(compgen -e FABRIC_) DATABASE_URL ANTHROPIC_API_KEY ANTHROPIC_BASE_URL; do unset "$name"; done
fabric=
say() { printf '%s\n' "$*" >&2; }
finish() {
  local status=$?
  trap - EXIT ERR
  if [[ -n $fabric ]] && kill -TERM "$fabric" 2>/dev/null; then
    for _ in $(seq 200); do kill -0 "$fabric" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$fabric" 2>/dev/null || true
  fi
  if ((status != 0)); then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'say "factory: line $LINENO failed: $BASH_COMMAND"' ERR

say "documents"
mkdir "$work/documents" && cd "$work/documents" && echo '{}' >package.json
npm install --silent --no-audit --no-fund @octokit/openapi@23.0.2 @readme/oas-examples@8.2.2 >"$work/npm.log" 2>&1
if [[ ${QUICK:-0} != 1 ]]; then
  say "the others"
  python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet fastmcp httpx >"$work/pip.log" 2>&1
  mkdir "$work/generator" && cd "$work/generator" && echo '{}' >package.json
  npm install --silent --no-audit --no-fund openapi-mcp-generator@4.0.1 >>"$work/npm.log" 2>&1
fi

say "mcp-fabric"
cd "$work"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 INSTALL_ON_START=off FABRIC_LOG=warn \
  FABRIC_CACHE_DIR="$work/cache" "$program" --listen "127.0.0.1:$port" --data-dir "$work/data" >"$work/fabric.out" 2>"$work/fabric.log" &
fabric=$!
for _ in $(seq 300); do [[ -f $work/data/serve.json ]] && break; kill -0 "$fabric"; sleep 0.1; done
TOKEN=$(<"$work/data/operator.token") QUICK=${QUICK:-0} python3 "$repo/benches/factory.py" "http://127.0.0.1:$port" "$work" "$repo"
