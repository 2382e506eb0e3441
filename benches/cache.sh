#!/usr/bin/env bash
# Measures the package cache of mcp-fabric beside other programs that do the same work: answers from the
# cache, misses that come all at once, first fetches, whole closures, and memory. Everything listens on
# loopback, works in a temporary folder, and is stopped and removed at the end. Prints Markdown on standard
# output and its progress on standard error.
#
#   benches/cache.sh PROGRAM            the figures, about ten minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/cache.sh PROGRAM    whether it still works, about three minutes
#
# Needs curl, jq, npm, pgrep, pip, python3, taskset, wrk, two cores, PostgreSQL's programs, and the registries that
# npm and pip are configured to use; FABRIC_ALLOWED_HOSTS is passed on. Compares with nginx, uv and
# docker-registry (with skopeo) where they are installed, and with verdaccio, pnpr and proxpi, which npm and
# pip put into the temporary folder; what is not to be had is named as skipped.
set -Eeuo pipefail

# Rounds of load for each figure and the seconds of each; first fetches and closures of which the median
# counts; the megabytes of the large file; seconds of rest.
if [[ ${QUICK:-0} == 1 ]]; then figures="1 2 5 1 256 3"; else figures="3 4 15 3 2048 10"; fi
read -r ROUNDS ROUND_SECONDS FETCHES CLOSURES LARGE REST <<<"$figures"
CONNECTIONS=16
# What is asked for. The tarball is of the version that the fabric's own list of servers names.
SERVER=everything PACKAGE=@modelcontextprotocol/server-everything
DOCUMENT=zod PROJECTS=(mcp-server-time pydantic)
WHEEL=mcp/1.19.0/mcp-1.19.0-py3-none-any.whl

[[ $# == 1 && -x $1 ]] || { echo "usage: benches/cache.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
# PostgreSQL and the workers of nginx do not run as root: they have to get through to their folders.
chmod 711 "$work"
cores=0-$(($(nproc) - 1)) ticks=$(getconf CLK_TCK) load_before=$(cut -d ' ' -f 1 /proc/loadavg)
allowed=${FABRIC_ALLOWED_HOSTS:-}
# Nothing else of the caller's settings reaches the program: DATABASE_URL, for one, would name another database.
for name in $(compgen -e FABRIC_) DATABASE_URL; do unset "$name"; done
export FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0
npm_install=(npm install --no-audit --no-fund --no-update-notifier) pids=()
# Of every server: its address and process, or why it is not there.
declare -A url_of=() pid_of=() why=()

say() { printf '%s\n' "$*" >&2; }
fail() { say "cache: $*"; exit 1; }
calc() { awk "BEGIN { printf \"%.${2:-3}f\", $1 }"; }
median() { printf '%s\n' "$@" | sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
has() { command -v "$1" >/dev/null; }
# Runs something; gives `seconds`.
timed() { local from=$EPOCHREALTIME && "$@" && seconds=$(calc "$EPOCHREALTIME - $from"); }

stop() {
  local pid=$1 tries=0
  kill -TERM "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null && ((tries++ < 300)); do sleep 0.1; done
  { kill -KILL "$pid"; wait "$pid"; } 2>/dev/null || true
}

finish() {
  local status=$? pid file
  trap - EXIT ERR
  for pid in "${pids[@]}"; do stop "$pid"; done
  # Only there when its mcp-fabric did not get to stop it.
  for file in "$work"/*/data/postgres/cluster/postmaster.pid; do [[ ! -f $file ]] || kill -INT "$(head -n 1 "$file")" || true; done
  if ((status != 0)); then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
  exit "$status"
}
trap 'say "cache: line $LINENO failed: $BASH_COMMAND"' ERR && trap finish EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# serve NAME PORT PROGRAM…: starts a server in the folder of that name; gives its `url_of` and `pid_of`, or `why`.
serve() {
  local name=$1 tries=0
  [[ -z ${why[$1]:-} ]] || return 0
  (cd "$work/$name" && exec taskset -c "$cores" "${@:3}") >"$work/$name.log" 2>&1 &
  pid_of[$name]=$! url_of[$name]=http://127.0.0.1:$2 pids+=("$!")
  until curl -s -o "$work/hello" "${url_of[$name]}/"; do
    if ! kill -0 "${pid_of[$name]}" 2>/dev/null || ((tries++ > 300)); then why[$name]="it did not start" && return; fi
    sleep 0.1
  done
}

# start_fabric NAME SETTING=VALUE…: with data and cache in the folder of that name.
start_fabric() {
  mkdir -m 711 "$work/$1"
  port=$(free_port)
  serve "$1" "$port" env FABRIC_LISTEN="127.0.0.1:$port" FABRIC_ALLOWED_HOSTS="$allowed" "${@:2}" "$program" serve
  [[ -z ${why[$1]:-} ]] || fail "mcp-fabric did not start"
  until curl -sf -o "$work/hello" "${url_of[$1]}/health/ready"; do sleep 0.05; done
}

# A process and those that it started; PostgreSQL, which mcp-fabric starts, stands on its own.
tree() { local child && echo "$1" && for child in $(pgrep -P "$1" || true); do tree "$child"; done; }
# The CPU seconds of all of them so far.
cpu_of() { local pid && for pid in $(tree "$1"); do sed 's/.*) //' "/proc/$pid/stat"; done | awk -v t="$ticks" '{ sum += $12 + $13 } END { print sum / t }'; }
# A line of /proc/<pid>/status in megabytes: VmRSS (resident now) or VmHWM (the most since `forget_most`).
megabytes() { awk -v key="$2:" '$1 == key { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }
forget_most() { echo 5 >"/proc/$1/clear_refs"; }

# row FIGURE TARGET LIMIT MEASURED UNIT OTHERS: there is no verdict without a LIMIT.
row() {
  local verdict
  verdict=$(awk -v limit="$3" -v measured="$4" 'BEGIN {
    print limit == "" ? "–" : measured + 0 <= limit + 0 ? "met" : sprintf("missed, %.2f times the target", measured / limit) }')
  printf '| %s | %s | %s | %s | %s |\n' "$1" "$2" "$4$5" "$6" "$verdict" >>"$work/table"
  say "  $1: $4$5 | $6 | $verdict"
}

# contest EXACT NAME PATH…: who takes part in the next rounds, mcp-fabric first, asked with `headers`: those
# that are there and answer, with EXACT=1 the same bytes.
contest() {
  local exact=$1 said name reason
  entered=() left_out=""
  declare -gA path_of=()
  while (($# > 2)); do
    name=$2 path_of[$2]=$3 reason=${why[$2]:-}
    shift 2
    if [[ -z $reason ]]; then
      said=$(curl -s -o "$work/$name.body" -w '%{http_code}' "${headers[@]}" "${url_of[$name]}${path_of[$name]}" || true)
      [[ $said == 200 ]] || reason="it answered $said"
      ((!exact)) || cmp -s "$work/warm.body" "$work/$name.body" || reason=${reason:-it gave other bytes}
    fi
    if [[ -z $reason ]]; then entered+=("$name"); else left_out+=", $name skipped: $reason"; fi
  done
  [[ ${entered[0]:-} == warm ]] || fail "mcp-fabric at ${path_of[warm]}: ${left_out#*: }"
  size=$(stat -c %s "$work/warm.body")
}

# rounds PAUSE: lets them all be asked in turns, with a pause in milliseconds before each request (why, stands in
# docs/performance.md); gives the medians `cpu` (microseconds of one request) and `p99` (milliseconds) of each. They
# have had one core since they were started: threads that share one would wait for each other, not for requests.
rounds() {
  local name said before
  local -A cpus=() p99s=() && declare -gA cpu=() p99=()
  for _ in $(seq "$ROUNDS"); do
    for name in "${entered[@]}"; do
      printf '%s\n' "${path_of[$name]}" >"$work/paths"
      before=$(cpu_of "${pid_of[$name]}")
      said=$(taskset -c 1 wrk -t 1 -c "$CONNECTIONS" -d "${ROUND_SECONDS}s" --timeout 20s "${headers[@]}" \
        -s "$repo/benches/load.lua" "${url_of[$name]}" -- "$work/paths" "$1" | grep '^requests=')
      [[ $said =~ requests=([0-9]+).*p99_ms=([0-9.]+)\ failed=0$ && ${BASH_REMATCH[1]} != 0 ]] || fail "$name: $said"
      p99s[$name]+=" ${BASH_REMATCH[2]}"
      cpus[$name]+=" $(calc "1000000 * ($(cpu_of "${pid_of[$name]}") - $before) / ${BASH_REMATCH[1]}" 1)"
    done
  done
  # shellcheck disable=SC2086 # several numbers each
  for name in "${entered[@]}"; do cpu[$name]=$(median ${cpus[$name]}) p99[$name]=$(median ${p99s[$name]}); done
}
# take_part NAME…: who of these is there.
take_part() {
  local name && entered=() left_out=""
  for name; do if [[ -z ${why[$name]:-} ]]; then entered+=("$name"); else left_out+=", $name skipped: ${why[$name]}"; fi; done
}
# others VALUES UNIT: what they are of everybody but mcp-fabric.
others() {
  local -n values=$1 && local name text=""
  for name in "${entered[@]:1}"; do text+=", $name ${values[$name]}$2"; done
  text+=$left_out
  echo "${text#, }"
}
# measure FIGURE TARGET LIMIT EXACT NAME PATH…: the CPU of a request, with a pause between them.
measure() {
  contest "${@:4}"
  rounds 1
  cpu_row "$1" "$2" "$3"
}
cpu_row() { row "$1 ($size bytes), CPU per request" "$2" "$3" "${cpu[warm]}" " µs" "$(others cpu " µs")"; }

# A registry that has every npm package: `large` weighs LARGE megabytes, all others 57,000 bytes. It takes its
# time, and tells what it was asked for.
start_upstream() {
  mkdir "$work/upstream"
  cat >"$work/upstream/upstream.py" <<'PYTHON'
import base64, collections, functools, hashlib, http.server, json, sys, time

port, asked = int(sys.argv[1]), []
sizes = collections.defaultdict(lambda: 57_000, large=int(sys.argv[2]) << 20)

def pieces(size):
    return ((at.to_bytes(8, "big") * (1 << 17))[:size - at] for at in range(0, size, 1 << 20))

@functools.cache
def integrity(size):
    hasher = hashlib.sha512()
    for piece in pieces(size):
        hasher.update(piece)
    return "sha512-" + base64.b64encode(hasher.digest()).decode()

class Registry(http.server.BaseHTTPRequestHandler):
    log_message = lambda *_: None

    def do_GET(self):
        name, asks_file = self.path.split("/")[1], self.path.endswith(".tgz")
        dist = {"tarball": f"http://127.0.0.1:{port}/{name}/-/{name}-1.0.0.tgz", "integrity": integrity(sizes[name])}
        package = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": name, "version": "1.0.0", "dist": dist}}}
        text = json.dumps(asked if name == "asked" else package).encode()
        asked.append(self.path)
        time.sleep(0 if name == "asked" else 0.3)
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream" if asks_file else "application/json")
        self.send_header("content-length", str(sizes[name] if asks_file else len(text)))
        self.end_headers()
        self.wfile.writelines(pieces(sizes[name]) if asks_file else [text])

integrity(sizes["large"])
http.server.ThreadingHTTPServer.request_queue_size = 512
http.server.ThreadingHTTPServer(("127.0.0.1", port), Registry).serve_forever()
PYTHON
  port=$(free_port)
  serve upstream "$port" python3 upstream.py "$port" "$LARGE"
}

start_nginx() {
  mkdir -m 755 "$work/nginx"
  has nginx || { why[nginx]="it is not installed"; return 0; }
  port=$(free_port)
  printf '%s\n' "daemon off; worker_processes 1; pid pid; error_log errors; events { worker_connections 1024; }" \
    "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;" \
    "client_body_temp_path 1; proxy_temp_path 2; fastcgi_temp_path 3; uwsgi_temp_path 4; scgi_temp_path 5;" \
    "server { listen 127.0.0.1:$port; root $work/nginx; } }" >"$work/nginx/conf"
  serve nginx "$port" nginx -p "$work/nginx/" -e errors -c "$work/nginx/conf"
}

# install NAME PROGRAM…: runs it in the folder of that name; gives `port`, or `why`.
install() {
  port=$(free_port)
  (cd "$work/$1" && "${@:2}") >"$work/install.log" 2>&1 || why[$1]="it could not be installed"
}

# They keep what they were told for an hour; `rush-…` comes from the counting registry.
start_npm_proxies() {
  local registry slow=${url_of[upstream]}
  registry=$(npm config get registry 2>/dev/null)
  mkdir "$work/verdaccio" "$work/pnpr"
  # verdaccio wants node-fetch by a tag that not every mirror of the registry knows.
  echo '{ "private": true, "overrides": { "node-fetch": "2" } }' >"$work/verdaccio/package.json"
  printf '%s\n' "storage: ./storage" "web: { enable: false }" "log: { type: stdout, format: pretty, level: fatal }" \
    "uplinks: { up: { url: '$registry', maxage: 1h }, slow: { url: '$slow', maxage: 1h } }" \
    "packages: { 'rush-*': { access: \$all, proxy: slow }, '**': { access: \$all, proxy: up } }" >"$work/verdaccio/conf.yaml"
  install verdaccio "${npm_install[@]}" verdaccio
  serve verdaccio "$port" node node_modules/verdaccio/bin/verdaccio --config conf.yaml --listen "127.0.0.1:$port"
  printf '%s\n' "storage: ./storage" "log: { type: stdout, format: pretty, level: error }" "defaultRegistry: up" "registries:" \
    "  up: { type: upstream, url: '$registry', public: true }" "  slow: { type: upstream, url: '$slow', public: true }" >"$work/pnpr/conf"
  install pnpr "${npm_install[@]}" @pnpm/pnpr
  # The program itself, without the script that looks for it.
  serve pnpr "$port" "$(find "$work/pnpr" -name pnpr -type f -size +1M | head -n 1)" -c conf --listen "127.0.0.1:$port" --packument-ttl-secs 3600
}

start_proxpi() {
  local index
  mkdir "$work/proxpi"
  index=$(printenv PIP_INDEX_URL || pip config get global.index-url 2>/dev/null ||
    python3 -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)')
  install proxpi sh -c 'python3 -m venv venv && venv/bin/pip install proxpi gunicorn'
  HOME=$work/proxpi PROXPI_INDEX_URL=${index%/}/ PROXPI_CACHE_DIR=$work/proxpi/files PROXPI_DOWNLOAD_TIMEOUT=60 PROXPI_LOGGING_LEVEL=ERROR \
    serve proxpi "$port" venv/bin/gunicorn --worker-class gthread --threads 4 --bind "127.0.0.1:$port" proxpi.server:app
}

# blob FILE KIND: moves a file into the image; gives its `descriptor`.
blob() {
  local digest && digest=$(sha256sum <"$1" | cut -d ' ' -f 1)
  descriptor="{\"mediaType\":\"application/vnd.oci.image.$2\",\"digest\":\"sha256:$digest\",\"size\":$(stat -c %s "$1")}"
  mv "$1" "image/blobs/sha256/$digest"
}

# With an image of one layer of 100,000 random bytes; gives the descriptor of that, `layer`.
start_docker_registry() {
  mkdir -p "$work/docker-registry/image/blobs/sha256" && cd "$work/docker-registry"
  if ! has docker-registry || ! has skopeo; then why[docker-registry]="it or skopeo is not installed" && return; fi
  port=$(free_port)
  head -c 100000 /dev/urandom >random && tar -czf layer random
  blob layer layer.v1.tar+gzip && layer=$descriptor
  echo '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >config
  blob config config.v1+json
  echo "{\"schemaVersion\":2,\"config\":$descriptor,\"layers\":[$layer]}" >manifest
  blob manifest manifest.v1+json
  echo "{\"schemaVersion\":2,\"manifests\":[$descriptor]}" >image/index.json && echo '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
  printf '%s\n' "version: 0.1" "log: { level: error, accesslog: { disabled: true } }" "http: { addr: '127.0.0.1:$port' }" \
    "storage: { filesystem: { rootdirectory: ./files }, cache: { blobdescriptor: inmemory } }" >conf
  serve docker-registry "$port" docker-registry serve conf
  skopeo --insecure-policy copy -q --dest-tls-verify=false oci:image "docker://127.0.0.1:$port/bench:latest" >"$work/skopeo.log" 2>&1 ||
    why[docker-registry]="skopeo could not push to it"
  allowed+=${allowed:+,}127.0.0.1:$port
}

sum_of() { curl -sf "$1" | sha512sum >"$work/sum"; }
# An answer that takes too long is to be asked for again.
until_there() { until curl -sf -o "$work/hello" -I "$1"; do sleep 0.2; done; }
# Each installs into a fresh `site`, and keeps what it fetched until its folder is removed.
with_fabric() { (cd "$work/closure" && "$program" cache add "$1"); }
with_npm() { (cd "$work/site" && "${npm_install[@]}" --cache "$work/kept" "${1#*:}"); }
with_uv() { uv pip install --target "$work/site" --cache-dir "$work/kept" "${1#*:}"; }
with_pip() { pip --cache-dir "$work/kept" download -d "$work/site" "${1#*:}"; }

measure_tarball() {
  local path=/$PACKAGE/-/${PACKAGE#*/}-$version.tgz pause
  headers=()
  curl -sf -o "$work/nginx/tarball" "${url_of[warm]}/npm$path"
  forget_most "${pid_of[warm]}"
  contest 1 warm "/npm$path" nginx /tarball pnpr "$path" verdaccio "$path"
  for pause in 1 0; do
    rounds "$pause"
    cpu_row "tarball, $CONNECTIONS connections, pause of $pause ms" "≤ 2 × nginx" "${cpu[nginx]:+$(calc "2 * ${cpu[nginx]}")}"
    row "its p99, pause of $pause ms" "≤ pnpr" "${p99[pnpr]:-}" "${p99[warm]}" " ms" "$(others p99 " ms")"
  done
  row "resident under that load, at most" "≤ 120 MB" 120 "$(megabytes "${pid_of[warm]}" VmHWM)" " MB" –
}

measure_documents() {
  local encoding project type
  for encoding in identity gzip; do
    headers=(-H "Accept: application/vnd.npm.install-v1+json" -H "Accept-Encoding: $encoding")
    measure "\`$DOCUMENT\`, abbreviated, $encoding" "≤ 1 ms" 1000 0 warm "/npm/$DOCUMENT" pnpr "/$DOCUMENT" verdaccio "/$DOCUMENT"
  done
  for project in "${PROJECTS[@]}"; do
    for type in application/vnd.pypi.simple.v1+json text/html; do
      headers=(-H "Accept: $type")
      measure "simple page of \`$project\`, ${type##*[+/]}" "≤ 100 µs" 100 0 warm "/pypi/simple/$project/" proxpi "/index/$project/"
    done
  done
}

measure_files() {
  local image=${url_of[docker-registry]:-} digest
  headers=()
  measure "wheel" "≤ 60 µs" 60 1 warm "/pypi/files/$WHEEL" proxpi "/index/${WHEEL%%/*}/${WHEEL##*/}"
  if [[ -n ${why[docker-registry]:-} || $(curl -s -o "$work/hello" -w '%{http_code}' "${url_of[warm]}/v2/") != 200 ]]; then
    row "OCI blob" "≤ 100 µs" "" "skipped: ${why[docker-registry]:-this build has no /v2}" "" –
    return
  fi
  headers=(-H "Accept: application/vnd.oci.image.manifest.v1+json")
  image=${image#http://} digest=$(jq -r .digest <<<"$layer")
  image=/v2/${image/:/_}/bench
  contest 1 warm "$image/manifests/latest" docker-registry /v2/bench/manifests/latest
  measure "OCI blob" "≤ 100 µs" 100 1 warm "$image/blobs/$digest" docker-registry "/v2/bench/blobs/$digest"
}

# rush COUNT BASE: asks for a tarball that is not there that many times at once; gives `fetches`.
rush() {
  local name=rush-$RANDOM$RANDOM$RANDOM said
  for _ in $(seq "$1"); do printf 'url = "%s/%s/-/%s-1.0.0.tgz"\noutput = "/dev/null"\n' "$2" "$name" "$name"; done >"$work/curl"
  said=$(curl -Z --parallel-immediate --parallel-max "$1" -K "$work/curl" -w '%{http_code} %{size_download}\n' 2>"$work/hello" | sort | uniq -c)
  fetches=$(curl -s "${url_of[upstream]}/asked" | jq --arg path "/$name/-/$name-1.0.0.tgz" 'map(select(. == $path)) | length')
  [[ $(tr -s ' ' <<<"$said") == " $1 200 57000" ]] || fetches+=" (answers: $(tr -s ' \n' ' ' <<<"$said"))"
}

measure_misses() {
  local count name
  local -A bases=() fetched=()
  start_fabric counted FABRIC_NPM_REGISTRY="${url_of[upstream]}"
  bases=([counted]=${url_of[counted]}/npm [pnpr]=${url_of[pnpr]:-}/~slow [verdaccio]=${url_of[verdaccio]:-})
  take_part counted pnpr verdaccio
  for count in 20 200; do
    for name in "${entered[@]}"; do rush "$count" "${bases[$name]}" && fetched[$name]=$fetches; done
    [[ ${fetched[counted]} =~ ^[0-9]+$ ]] || fail "$count misses: ${fetched[counted]}"
    row "$count misses of one file at once, requests to its registry" "1" 1 "${fetched[counted]}" "" "$(others fetched "")"
  done
  stop "${pid_of[counted]}"
}

measure_first_fetch() {
  local base upstream operator before mine=() theirs=()
  start_fabric fetch && base=${url_of[fetch]}
  upstream=$(npm view "$PACKAGE@$version" dist.tarball 2>/dev/null)
  operator=(-H "Authorization: Bearer $(<"$work/fetch/data/operator.token")")
  misses() { curl -sf "${operator[@]}" "$base/api/mcp/cache/stats" | jq .by_type.npm.misses; }
  before=$(misses)
  for _ in $(seq "$FETCHES"); do
    curl -sf -o "$work/hello" "${operator[@]}" -X DELETE "$base/api/mcp/servers/$SERVER/cache"
    curl -sf -o "$work/hello" "$base/npm/$PACKAGE"
    timed sum_of "$base/npm/$PACKAGE/-/${PACKAGE#*/}-$version.tgz"
    mv "$work/sum" "$work/first"
    mine+=("$(calc "1000 * $seconds" 1)")
    timed sum_of "$upstream"
    cmp -s "$work/sum" "$work/first" || fail "a first fetch gave other bytes"
    theirs+=("$(calc "1000 * $seconds" 1)")
  done
  (($(misses) - before == FETCHES)) || fail "not every first fetch was one"
  row "first fetch of the tarball, its document known, median of $FETCHES" "≤ curl + 15 ms" "$(calc "$(median "${theirs[@]}") + 15")" \
    "$(median "${mine[@]}")" " ms" "\`curl \\| sha512sum\` $(median "${theirs[@]}") ms"
  stop "${pid_of[fetch]}"
}

# measure_closure TYPE:NAME CLIENT…: the cold time of the first client is the target.
measure_closure() {
  local what=$1 name state target="≤ $2" limit=""
  local -A all=() times=()
  take_part fabric "${@:2}"
  for _ in $(seq "$CLOSURES"); do
    # Wheels for one version of Python, as the others take them.
    start_fabric closure FABRIC_CACHE_PYTHON="$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    for name in "${entered[@]}"; do
      for state in cold again; do
        mkdir "$work/site"
        timed "with_$name" "$what" >"$work/closure-$name.log" 2>&1
        all[$name $state]+=" $seconds"
        rm -rf "$work/site"
      done
      rm -rf "$work/kept"
    done
    stop "${pid_of[closure]}"
    rm -rf "$work/closure"
  done
  for state in cold again; do
    # shellcheck disable=SC2086 # several numbers each
    for name in "${entered[@]}"; do times[$name]=$(calc "$(median ${all[$name $state]})" 2); done
    if [[ $state == cold ]]; then limit=${times[$2]:-}; else limit=0.2 target="≤ 0.2 s"; fi
    row "closure of \`$what\`, $state, median of $CLOSURES" "$target" "$limit" "${times[fabric]}" " s" "$(others times " s")"
  done
}

measure_large() {
  local pid part quarters=""
  start_fabric large FABRIC_NPM_REGISTRY="${url_of[upstream]}" FABRIC_CACHE_MAX_FILE_MB="$LARGE"
  pid=${pid_of[large]}
  forget_most "$pid"
  (while sleep 0.1; do megabytes "$pid" VmRSS && echo; done) >"$work/samples" &
  pids+=("$!")
  timed until_there "${url_of[large]}/npm/large/-/large-1.0.0.tgz"
  stop "${pids[-1]}"
  for part in 1 2 3 4; do quarters+=" $(split -n "l/$part/4" "$work/samples" | sort -g | tail -n 1)"; done
  row "resident while a file of $LARGE MB comes in, at most" "≤ 120 MB" 120 "$(megabytes "$pid" VmHWM | sort -g - "$work/samples" | tail -n 1)" " MB" \
    "in each quarter of the $(calc "$seconds" 1) s:$quarters MB"
  stop "$pid"
}

for name in curl jq npm pgrep pip python3 taskset wrk; do has "$name" || fail "$name is not installed"; done
has uv || why[uv]="it is not installed"
say "starting what it is compared with"
start_upstream
for name in nginx npm_proxies proxpi docker_registry; do cores=0 "start_$name"; done
cores=0 start_fabric warm
sleep "$REST"
row "resident after a start, idle" "≤ 60 MB" 60 "$(megabytes "${pid_of[warm]}" VmRSS)" " MB" –
version=$(curl -sf "${url_of[warm]}/api/mcp/servers/$SERVER" | jq -r '.packages[0].version')
for name in tarball documents files; do "measure_$name"; done
stop "${pid_of[warm]}"
for name in first_fetch misses; do "measure_$name"; done
measure_closure "npm:$PACKAGE" npm
measure_closure pypi:mcp-server-time uv pip
measure_large
echo "Machine: $(nproc) cores of $(lscpu | sed -n 's/^Model name: *//p'), $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)," \
  "Linux $(uname -r). $(date -u +%Y-%m-%d). Load before the run: $load_before."
versions=$("$program" --version; if has nginx; then nginx -v 2>&1 | sed 's/.*: //'; fi
  jq -r '"\(.name) \(.version)"' "$work"/{verdaccio/node_modules/verdaccio,pnpr/node_modules/@pnpm/pnpr}/package.json 2>/dev/null || true)
echo "${versions//$'\n'/, }."
echo "The CPU of a request is that of the server and of what it started; PostgreSQL's, beside mcp-fabric, is not in it."
printf '\n| Figure | Target | mcp-fabric | Others | |\n|---|---|---|---|---|\n'
cat "$work/table"
