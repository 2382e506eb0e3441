"""The measuring half of soak.sh: address of the fabric, working folder, its process id, an image or nothing."""

import glob
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from urllib.parse import urlparse

BASE, WORK, FABRIC, IMAGE = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
QUICK = os.environ.get("QUICK") == "1"
ROUNDS, CYCLES, RESTARTS, MANY = (3, 40, 20, 8) if QUICK else (15, 1000, 1000, 50)
PACKAGE = "@modelcontextprotocol/server-everything"
TOKEN = open(f"{WORK}/data/operator.token").read().strip()


def say(text):
    print(text, file=sys.stderr, flush=True)


def ask(method, path, body=None, connection=None):
    own = connection or http.client.HTTPConnection(urlparse(BASE).netloc, timeout=180)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    own.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = own.getresponse()
    text = answer.read()
    return answer.status, json.loads(text) if text else None


def wait(check, seconds=60, pause=0.003):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(pause)
    raise SystemExit("soak: waited too long")


def install(name, server, registry=None):
    order = {"name": name, "serverName": server, "enabled": False}
    if registry:
        order["registry_type"] = registry
    status, begun = ask("POST", "/api/mcp/packages/install", order)
    assert status == 202, begun
    return job(begun["job_id"])


def job(name):
    done = wait(lambda: (lambda job: job if job["status"] not in ("pending", "processing") else None)(ask("GET", f"/api/mcp/jobs/{name}")[1]), 300)
    assert done["status"] == "complete", done
    seconds = lambda key: time.mktime(time.strptime(done[key][:19], "%Y-%m-%dT%H:%M:%S")) + float("0" + done[key][19:-1] if done[key][19] == "." else "0")
    return seconds("completed_at") - seconds("started_at")


def state(instance, *states):
    path = f"/api/mcp/instances/{instance}"
    return wait(lambda: (lambda found: found if found["state"] in states else None)(ask("GET", path)[1]))


def start(server):
    status, begun = ask("POST", f"/api/mcp/servers/{server}/start")
    assert status == 202, begun
    return begun["id"]


def stop(server, instance):
    ask("POST", f"/api/mcp/servers/{server}/stop")
    return state(instance, "STOPPED", "FAILED")


def speak(command):
    """Starts a server as a client would, and lists its tools: seconds."""
    began = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    def tell(message):
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
    def hear(number):
        for line in child.stdout:
            if line.strip().startswith(b"{") and json.loads(line).get("id") == number:
                return
        raise SystemExit("soak: the server ended")
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
    tell({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info})
    hear(1)
    tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
    tell({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}})
    hear(2)
    taken = time.monotonic() - began
    child.stdin.close()
    child.kill()
    child.wait()
    return taken


def resident():
    with open(f"/proc/{FABRIC}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def row(what, ours, beside):
    print(f"| {what} | {ours} | {beside} |", flush=True)


def spread(values, unit="ms", factor=1000):
    return f"{statistics.median(values) * factor:.0f} {unit} ({min(values) * factor:.0f} to {max(values) * factor:.0f})"


def installs():
    say("installs")
    install(PACKAGE, "everything")
    first, again = [], []
    for _ in range(ROUNDS):
        for tree in glob.glob(f"{WORK}/data/trees/*"):
            shutil.rmtree(tree)
        first.append(job(ask("POST", "/api/mcp/packages/everything/upgrade")[1]["job_id"]))
        again.append(job(ask("POST", "/api/mcp/packages/everything/upgrade")[1]["job_id"]))
    project, beside = f"{WORK}/npm", []
    os.mkdir(project)
    quiet = dict(cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "npm_config_cache": f"{WORK}/npm-cache"})
    subprocess.run(["npm", "init", "-y"], check=True, **quiet)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE], check=True, **quiet)
    for _ in range(min(ROUNDS, 5)):
        began = time.monotonic()
        subprocess.run(["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"], check=True, **quiet)
        beside.append(time.monotonic() - began)
    row("install of cached server-everything, first", spread(first), f"`npm ci --prefer-offline`, warm: {spread(beside)}")
    row("the same again", spread(again), "")


def starts():
    say("starts")
    script = f"{WORK}/data/packages/modelcontextprotocol-server-everything/node_modules/{PACKAGE}/dist/index.js"
    ours, beside = [], []
    instance = start("everything")
    state(instance, "RUNNING")
    stop("everything", instance)
    for _ in range(ROUNDS):
        beside.append(speak(["node", script]))
        began = time.monotonic()
        instance = start("everything")
        wait(lambda: ask("GET", f"/api/mcp/instances/{instance}/tools")[0] == 200)
        ours.append(time.monotonic() - began)
        stop("everything", instance)
    row("start of a cached npm server to its first `tools/list`", spread(ours), f"`node` itself: {spread(beside)}")


def kills():
    say("kills")
    instance, times, lies = start("everything"), [], 0
    found = state(instance, "RUNNING")
    for _ in range(ROUNDS):
        # Steady enough that the next start is made at once.
        ask("POST", "/api/mcp/servers/everything/restart")
        found = wait(lambda: (lambda now: now if now["state"] == "RUNNING" and now["pid"] != found["pid"] else None)(ask("GET", f"/api/mcp/instances/{instance}")[1]))
        os.kill(found["pid"], signal.SIGKILL)
        began = time.monotonic()
        def serving():
            nonlocal lies
            now = ask("GET", f"/api/mcp/instances/{instance}")[1]
            if now["state"] == "RUNNING" and now["pid"] == found["pid"] and time.monotonic() - began > 0.1:
                lies += 1
            if now["state"] != "RUNNING" or now["pid"] == found["pid"]:
                return None
            return ask("POST", f"/api/mcp/instances/{instance}/tools/echo/call", {"arguments": {"message": "x"}})[0] == 200
        wait(serving)
        times.append(time.monotonic() - began)
    row("killed child serving again", spread(times), f"state untrue after 100 ms: {lies} of {ROUNDS}")
    stop("everything", instance)


def containers():
    if not IMAGE:
        say("skipped: containers, because docker or docker-registry is not there")
        return
    say("containers")
    install(IMAGE, "boxed", "oci")
    ours, beside = [], []
    instance = start("boxed")
    state(instance, "RUNNING")
    stop("boxed", instance)
    for _ in range(ROUNDS):
        beside.append(speak(["docker", "run", "-i", "--rm", IMAGE]))
        began = time.monotonic()
        instance = start("boxed")
        state(instance, "RUNNING", "FAILED")
        ours.append(time.monotonic() - began)
        stop("boxed", instance)
    row("container created to RUNNING", spread(ours), f"`docker run` to its first `tools/list`: {spread(beside)}")


def memory():
    say("memory")
    idle = resident()
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        install(PACKAGE, name)
    running = []
    for name in names:
        running.append(start(name))
    for instance in running:
        state(instance, "RUNNING")
    time.sleep(2)
    loaded = resident()
    for name, instance in zip(names, running):
        stop(name, instance)
    row(f"resident memory of the fabric with {MANY} running instances, without the children", f"{loaded:.0f} MB", f"idle: {idle:.0f} MB")


def cycles(servers=4):
    say("cycles")
    names = [f"cycle-{number}" for number in range(servers)]
    for name in names:
        install(PACKAGE, name)
    failed, lock, left = [], threading.Lock(), [CYCLES]
    def work(name):
        while True:
            with lock:
                if left[0] <= 0:
                    return
                left[0] -= 1
            instance = start(name)
            first = state(instance, "RUNNING", "FAILED")
            last = stop(name, instance)
            if (first["state"], last["state"]) != ("RUNNING", "STOPPED"):
                with lock:
                    failed.append((first["state"], last["state"], last["reason"]))
    began, threads = time.monotonic(), [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.monotonic() - began
    metrics = http.client.HTTPConnection(urlparse(BASE).netloc)
    metrics.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    lines = [line for line in metrics.getresponse().read().decode().splitlines() if line.startswith("state_transitions_total")]
    count = lambda wanted: sum(int(float(line.split()[-1])) for line in lines if f'outcome="{wanted}"' in line)
    row(f"{CYCLES} starts and stops, {servers} servers at once", f"{CYCLES - len(failed)} went well, {taken:.0f} s", f"steps: {count('ok')} made, {count('refused')} refused")
    for one in failed[:5]:
        say(f"failed: {one}")


def restarts():
    say("restarts")
    instance = start("everything")
    found, before = state(instance, "RUNNING"), None
    for number in range(RESTARTS):
        if number == RESTARTS // 10:
            before = resident()
        ask("POST", "/api/mcp/servers/everything/restart")
        found = wait(lambda: (lambda now: now if now["state"] == "RUNNING" and now["pid"] != found["pid"] else None)(ask("GET", f"/api/mcp/instances/{instance}")[1]))
    after = resident()
    stop("everything", instance)
    row(f"resident memory after {RESTARTS} restarts", f"{after:.0f} MB", f"after {RESTARTS // 10}: {before:.0f} MB")
    descriptors = len(os.listdir(f"/proc/{FABRIC}/fd"))
    row("open files then", str(descriptors), "")


print("| what | mcp-fabric | beside it |\n|---|---|---|")
for part in (installs, starts, kills, containers, memory, cycles, restarts):
    part()
