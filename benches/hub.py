"""The measuring half of hub.sh."""

import http.client
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

BASE, WORK, FABRIC, DATABASE, CALLS = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
FOLLOWERS, EVENTS, READS, SERVERS, CONFIGURATIONS = (int(word) for word in sys.argv[6:11])
TOKEN = os.environ["TOKEN"]
CONNECTION = http.client.HTTPConnection(urlparse(BASE).netloc, timeout=180)


def say(text):
    print(text, file=sys.stderr, flush=True)


def ask(method, path, body=None):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    CONNECTION.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = CONNECTION.getresponse()
    text = answer.read()
    assert answer.status < 300, (method, path, answer.status, text[:300])
    return json.loads(text) if text else None


def sql(text):
    subprocess.run(["psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", DATABASE, "-U", "postgres", "fabric", "-c", text], check=True)


def resident():
    with open(f"/proc/{FABRIC}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def row(what, target, ours, is_met):
    print(f"| {what} | {target} | {ours} | {'met' if is_met else 'missed'} |", flush=True)


def times_of(count, work):
    times = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


def install(name):
    # Any small package will do: another program is run in its place.
    order = {"name": "is-number", "serverName": name, "command": "/usr/bin/python3", "args": [f"{WORK}/server.py"], "enabled": False}
    begun = ask("POST", "/api/mcp/packages/install", order)
    while (job := ask("GET", f"/api/mcp/jobs/{begun['job_id']}"))["status"] in ("pending", "processing"):
        time.sleep(0.05)
    assert job["status"] == "complete", job


def reads():
    server = ask("GET", "/api/mcp/servers?origin=predefined&limit=1")["servers"][0]["id"].replace("/", "%2F")
    ask("POST", "/api/mcp/users/me/servers", {"server_id": server, "enabled": False})
    read = lambda: ask("GET", f"/api/mcp/users/me/servers/{server}")
    times_of(200, read)
    p50, p99 = times_of(READS, read)
    row("one configuration read", "p99 ≤ 5 ms", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", p99 <= 5)
    sql(f"""INSERT INTO mcp_fabric.configurations (id, owner, server_id, incarnation, revision, created_at, updated_at)
            SELECT gen_random_uuid(), 'user:' || md5((n / 10)::text)::uuid, s.id, s.incarnation, 1, now(), now()
            FROM generate_series(0, {CONFIGURATIONS} - 1) n
            JOIN LATERAL (SELECT id, incarnation FROM mcp_fabric.servers ORDER BY id OFFSET n % 10 LIMIT 1) s ON true
            ON CONFLICT DO NOTHING; ANALYZE mcp_fabric.configurations""")
    times_of(200, read)
    p50_many, p99_many = times_of(READS, read)
    row(f"the same with {CONFIGURATIONS} configurations of {CONFIGURATIONS // 10} users", "no slower",
        f"p50 {p50_many:.2f} ms, p99 {p99_many:.2f} ms", p50_many <= p50 * 1.2)


def warm():
    connection = http.client.HTTPConnection(urlparse(BASE).netloc, timeout=60)
    connection.request("GET", "/api/mcp/users/me/servers", headers={"Authorization": f"Bearer {TOKEN}"})
    connection.getresponse().read()
    connection.close()


def followers():
    server = ask("GET", "/api/mcp/servers?origin=predefined&limit=1")["servers"][0]["id"]
    # What many requests at once need once, such as connections to the database, is no matter of the followers.
    with ThreadPoolExecutor(32) as many_at_once:
        list(many_at_once.map(lambda _: warm(), range(640)))
    before = resident()
    follower = subprocess.Popen([CALLS, "follow", BASE, str(FOLLOWERS), "configurations", str(EVENTS // 5 + 3)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert follower.stderr.readline().strip() == "ready"
    for number in range(EVENTS):
        ask("POST", "/api/mcp/users/me/servers", {"server_id": server, "enabled": False, "limits": {"processes": 10 + number}})
        time.sleep(0.2)
    after = resident()
    out, errors = follower.communicate()
    heard = json.loads(out)
    assert heard["heard"] == FOLLOWERS * EVENTS, (heard, errors[:300])
    row(f"an event written, to each of {FOLLOWERS} followers (half SSE, half WebSocket)", "p99 ≤ 20 ms",
        f"p50 {heard['p50_us'] / 1000:.1f} ms, p99 {heard['p99_us'] / 1000:.1f} ms, most {heard['max_us'] / 1000:.1f} ms", heard["p99_us"] <= 20000)
    row(f"memory for {FOLLOWERS} followers", "≤ 50 MB", f"{after - before:.0f} MB", after - before <= 50)


def bulk(action, servers):
    began = time.perf_counter()
    begun = ask("POST", "/api/mcp/bulk", {"action": action, "server_ids": servers})
    while True:
        now = ask("GET", f"/api/mcp/bulk/{begun['bulk_id']}")
        if now["status"] not in ("pending", "running"):
            assert now["status"] == "complete", now["counts"]
            return time.perf_counter() - began
        # An answer has every server, and takes its part of the processor.
        time.sleep(0.1)


def alone(count):
    """The same programs, as many at once, without anything around them."""
    greeting = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}) + "\n"
    running, waiting, began = [], [], time.perf_counter()
    for _ in range(count):
        child = subprocess.Popen(["/usr/bin/python3", f"{WORK}/server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child.stdin.write(greeting)
        child.stdin.flush()
        running.append(child)
        waiting.append(child)
        if len(waiting) == 8:
            waiting.pop(0).stdout.readline()
    for child in waiting:
        child.stdout.readline()
    took = time.perf_counter() - began
    for child in running:
        child.kill()
        child.wait()
    return took


def many():
    names = [f"bench-{number}" for number in range(SERVERS)]
    for name in names:
        install(name)
    ten = names[:10]
    took = bulk("start", ten)
    row("10 servers started by one action", "≤ 5 s (required < 30 s)", f"{took:.2f} s", took <= 5)
    bulk("stop", ten)
    by_hand, took = alone(SERVERS), bulk("start", names)
    each = (took - by_hand) / SERVERS * 1000
    row(f"{SERVERS} servers started by one action, beyond what the programs take by themselves", "≤ 10 ms each",
        f"{each:.1f} ms each ({took:.1f} s beside {by_hand:.1f} s)", each <= 10)
    took = bulk("stop", names)
    row(f"{SERVERS} servers stopped by one action", "–", f"{took:.1f} s", True)


print("| what | reach | mcp-fabric | |\n|---|---|---|---|")
for part in (reads, followers, many):
    if part.__name__ in os.environ.get("PARTS", "reads followers many").split():
        say(part.__name__)
        part()
