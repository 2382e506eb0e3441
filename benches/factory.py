"""The measuring half of factory.sh."""

import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BASE, WORK, REPO = sys.argv[1:4]
TOKEN, QUICK = os.environ["TOKEN"], os.environ["QUICK"] == "1"
ROUNDS = 1 if QUICK else 5
COLORS = ["blue", "black", "brown"]
RGB = {"B": 150, "G": 200, "R": 100}
# Place, style, explode, value, and what has to arrive (OpenAPI 3.1, "Style Values").
STYLES = [
    ("path", "simple", False, "blue", "/blue"),
    ("path", "simple", False, COLORS, "/blue,black,brown"),
    ("path", "simple", False, RGB, "/B,150,G,200,R,100"),
    ("path", "simple", True, RGB, "/B=150,G=200,R=100"),
    ("path", "label", False, "blue", "/.blue"),
    ("path", "label", False, COLORS, "/.blue,black,brown"),
    ("path", "label", True, COLORS, "/.blue.black.brown"),
    ("path", "label", True, RGB, "/.B=150.G=200.R=100"),
    ("path", "matrix", False, "blue", "/;color=blue"),
    ("path", "matrix", False, COLORS, "/;color=blue,black,brown"),
    ("path", "matrix", True, COLORS, "/;color=blue;color=black;color=brown"),
    ("path", "matrix", True, RGB, "/;B=150;G=200;R=100"),
    ("query", "form", True, "blue & green/é", "?color=blue%20%26%20green%2F%C3%A9"),
    ("query", "form", True, COLORS, "?color=blue&color=black&color=brown"),
    ("query", "form", False, COLORS, "?color=blue,black,brown"),
    ("query", "form", True, RGB, "?B=150&G=200&R=100"),
    ("query", "form", False, RGB, "?color=B,150,G,200,R,100"),
    ("query", "spaceDelimited", False, COLORS, "?color=blue%20black%20brown"),
    ("query", "pipeDelimited", False, COLORS, "?color=blue%7Cblack%7Cbrown"),
    ("query", "deepObject", True, RGB, "?color%5BB%5D=150&color%5BG%5D=200&color%5BR%5D=100"),
    ("query", "content", True, {"B": [1, 2]}, "?color=%7B%22B%22%3A%5B1%2C2%5D%7D"),
    ("header", "simple", False, COLORS, "blue,black,brown"),
    ("header", "simple", True, RGB, "B=150,G=200,R=100"),
    ("cookie", "form", False, "blue", "color=blue"),
    ("cookie", "form", False, ["blue", "black"], "color=blue,black"),
]


def say(text):
    print(text, file=sys.stderr, flush=True)


def row(what, target, ours, others, is_met):
    print(f"| {what} | {target} | {ours} | {others} | {is_met} |", flush=True)


def ask(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"null")


def job(begun):
    while True:
        found = ask("GET", f"/api/mcp/jobs/{begun['job_id']}")
        if found["status"] not in ("pending", "processing"):
            return found
        time.sleep(0.005)


def generated(order):
    found = job(ask("POST", "/api/mcp/generate", order))
    assert found["status"] == "complete", (found["error"], found["result"])
    return found["result"]


def running(name):
    installed = job(ask("POST", "/api/mcp/packages/install", {"name": name, "enabled": False}))
    assert installed["status"] == "complete", installed["error"]
    instance = ask("POST", f"/api/mcp/servers/{name}/start")
    while instance["state"] != "RUNNING":
        assert instance["state"] != "FAILED", instance
        time.sleep(0.005)
        instance = ask("GET", f"/api/mcp/instances/{instance['id']}")
    return instance["id"]


class Echo(BaseHTTPRequestHandler):
    """An API that keeps what it is asked."""

    asked = []

    def do_GET(self):
        Echo.asked.append((self.path, dict(self.headers)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class Server:
    """A server that speaks MCP over its pipes."""

    def __init__(self, command, cwd=None, env=None):
        began = time.perf_counter()
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd, env={**os.environ, **(env or {})})
        self.number = 0
        self.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}})
        self.first_answer = time.perf_counter() - began
        self.child.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    def ask(self, method, params):
        self.number += 1
        self.child.stdin.write(json.dumps({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}).encode() + b"\n")
        self.child.stdin.flush()
        while True:
            line = self.child.stdout.readline()
            if not line:
                raise RuntimeError("it ended")
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if said.get("id") == self.number:
                return said

    def close(self):
        self.child.stdin.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def styles_document(address):
    paths = {}
    for at, (place, style, explode, value, _) in enumerate(STYLES):
        kind = {"type": "array", "items": {"type": "string"}} if isinstance(value, list) else {"type": "object", "additionalProperties": True} if isinstance(value, dict) else {"type": "string"}
        parameter = {"name": "color", "in": place, "required": True, "style": style, "explode": explode, "schema": kind}
        if style == "content":
            parameter = {"name": "color", "in": place, "required": True, "content": {"application/json": {"schema": kind}}}
        paths[f"/op{at}" + ("/{color}" if place == "path" else "")] = {
            "get": {"operationId": f"op{at}", "parameters": [parameter], "responses": {"200": {"description": "x"}}}
        }
    return {"openapi": "3.0.3", "info": {"title": "Styles", "version": "1.0.0"}, "servers": [{"url": address}], "paths": paths}


def right(server):
    """How many of the styles arrive as the document demands."""
    count = 0
    for at, (place, _, _, value, wanted) in enumerate(STYLES):
        Echo.asked.clear()
        try:
            server.ask("tools/call", {"name": f"op{at}", "arguments": {"color": value}})
        except RuntimeError:
            return count
        if len(Echo.asked) != 1:
            continue
        target, headers = Echo.asked[0]
        headers = {name.lower(): text for name, text in headers.items()}
        came = {"path": target.split(f"/op{at}", 1)[-1], "query": "?" + target.partition("?")[2]}.get(place, headers.get("color" if place == "header" else "cookie"))
        count += came == wanted
    return count


def unpacked(result, folder):
    os.makedirs(folder)
    subprocess.run(["tar", "xzf", result["package"], "-C", folder], check=True)
    return ["node", f"{folder}/package/dist/server.mjs"]


FAST = """
import json, sys, httpx
from fastmcp import FastMCP
document = json.load(open(sys.argv[1]))
FastMCP.from_openapi(document, client=httpx.AsyncClient(base_url=sys.argv[2])).run(transport="stdio", show_banner=False)
"""


def other_generator(document, folder, cache):
    """From a document to the first answer: written, installed, compiled, started."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    env = {"npm_config_cache": cache}
    run = lambda *command, cwd: subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **env})
    run("node_modules/.bin/openapi-mcp-generator", "--input", document, "--output", folder, "--force", cwd=f"{WORK}/generator")
    run("npm", "install", "--no-audit", "--no-fund", cwd=folder)
    run("npm", "run", "build", cwd=folder)
    server = Server(["node", "build/index.js"], cwd=folder)
    server.ask("tools/list", {})
    return time.perf_counter() - began, server


def petstore():
    say("petstore")
    # YAML is read by the factory itself; the others are given the same as JSON.
    text = open(f"{REPO}/tests/it/factory/data/petstore.yaml").read()
    times = []
    generated({"openapi": text, "name": "pets-warm"})
    for number in range(ROUNDS):
        began = time.perf_counter()
        generated({"openapi": text, "name": f"pets-{number}"})
        running(f"pets-{number}")
        times.append(time.perf_counter() - began)
    took, others = statistics.median(times), "–"
    if not QUICK:
        echo = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        document = f"{WORK}/petstore.json"
        spec = ask("GET", "/api/mcp/generated/pets-warm")["spec"]
        json.dump(plain_document(spec), open(document, "w"))
        echo.server_close()
        cold, server = other_generator(document, f"{WORK}/other", f"{WORK}/npm-cold")
        server.close()
        warm, server = other_generator(document, f"{WORK}/other", f"{WORK}/npm-cold")
        server.close()
        others = f"openapi-mcp-generator {warm:.1f} s warm, {cold:.1f} s cold (it installs its packages each time, and checks nothing but types)"
    row("a document of six operations, to a server that was checked, packed, registered and runs", "≤ 2 s", f"{took:.2f} s", others, "met" if took <= 2 else "missed")


def plain_document(spec):
    """The same operations in the plainest of documents, which every generator reads."""
    paths = {}
    for tool in spec["tools"]:
        action = tool["action"]
        parameters = [{"name": p["name"], "in": p["in"], "required": p["in"] == "path", "schema": {"type": "string"}} for p in action["params"]]
        operation = {"operationId": tool["name"], "summary": tool["title"], "parameters": parameters, "responses": {"200": {"description": "x"}}}
        if "body" in action:
            operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
        paths.setdefault(action["path"], {})[action["method"].lower()] = operation
    return {"openapi": "3.0.3", "info": {"title": "Pets", "version": "1.0.0"}, "servers": [{"url": "https://pets.example"}], "paths": paths}


def styles():
    say("styles")
    echo = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{echo.server_address[1]}"
    document = styles_document(address)
    json.dump(document, open(f"{WORK}/styles.json", "w"))
    result = generated({"openapi": document})
    command = unpacked(result, f"{WORK}/styles")
    server = Server(command)
    ours = right(server)
    server.close()
    starts = []
    for _ in range(5 * ROUNDS):
        server = Server(command)
        starts.append(server.first_answer)
        server.close()
    python = generated({"openapi": document, "runtime": "python", "name": "styles-python"})
    subprocess.run(["tar", "xzf", python["package"], "-C", f"{WORK}/styles", "--transform", "s/package/python/"], check=True)
    server = Server(["python3", f"{WORK}/styles/python/server.py"])
    in_python, python_start = right(server), server.first_answer
    server.close()
    others, other_starts = "–", "–"
    if not QUICK:
        _, server = other_generator(f"{WORK}/styles.json", f"{WORK}/other-styles", f"{WORK}/npm-cold")
        generator = (right(server), server.first_answer)
        server.close()
        open(f"{WORK}/fast.py", "w").write(FAST)
        server = Server([f"{WORK}/venv/bin/python", f"{WORK}/fast.py", f"{WORK}/styles.json", address])
        fast = (right(server), server.first_answer)
        server.close()
        others = f"openapi-mcp-generator {generator[0]}, FastMCP {fast[0]}"
        other_starts = f"openapi-mcp-generator {generator[1] * 1000:.0f} ms, FastMCP {fast[1] * 1000:.0f} ms (once each)"
    count = len(STYLES)
    row("parameters that arrive as the document demands, one operation for each style", f"{count} of {count}", f"{ours} (Python: {in_python})", others, "met" if ours == in_python == count else "missed")
    start = statistics.median(starts) * 1000
    row("start of a generated server to its first answer", "≤ 150 ms", f"{start:.0f} ms (Python: {python_start * 1000:.0f} ms)", other_starts, "met" if start <= 150 else "missed")
    echo.shutdown()


def github():
    say("GitHub")
    document = open(f"{WORK}/documents/node_modules/@octokit/openapi/generated/api.github.com.json").read()
    times = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        result = generated({"openapi": document, "name": f"github-{number}"})
        times.append(time.perf_counter() - began)
    server = Server(unpacked(result, f"{WORK}/github"))
    listed = len(json.dumps(server.ask("tools/list", {})["result"], ensure_ascii=False, separators=(",", ":")).encode())
    server.close()
    took = statistics.median(times)
    row(f"GitHub's {result['operations']} operations, to a server that was checked, packed and registered", "≤ 10 s", f"{took:.1f} s", "–", "met" if took <= 10 else "missed")
    row("its list of tools", "≤ 50 KB", f"{listed / 1000:.1f} KB ({result['tools']} tools)", "–", "met" if listed <= 50_000 else "missed")


def exactness():
    say("real documents")
    places = glob.glob(f"{WORK}/documents/node_modules/@octokit/openapi/generated/*.json") + glob.glob(f"{WORK}/documents/node_modules/@readme/oas-examples/3.*/json/*.json")
    places = [place for place in sorted(places) if "deref" not in place]
    read = exact = compared = left_out = 0
    unread = {}
    for place in places[: 8 if QUICK else None]:
        text = open(place).read()
        if not re.search(r'"(openapi|swagger)"\s*:', text):
            continue
        found = job(ask("POST", "/api/mcp/generate", {"openapi": text, "name": f"real-{read}-{len(unread)}"}))
        notes = [line["message"] for line in found["log"] if line["message"].startswith("L4 calls")]
        numbers = re.search(r"(\d+) of (\d+) requests as the document demands, (\d+) operations", notes[0]) if notes else None
        if numbers is None:
            code = (found["error"] or {}).get("message", found["status"])
            unread[os.path.basename(place)] = code[:160]
            continue
        read += 1
        exact, compared, left_out = exact + int(numbers[1]), compared + int(numbers[2]), left_out + int(numbers[3])
        if numbers[1] != numbers[2]:
            say(f"  {place}: {notes[0]}: {found['error']}")
    share = exact / max(1, compared)
    row(f"calls sampled over {read} real documents whose request is exactly right", "≥ 99 %", f"{share * 100:.2f} % ({exact} of {compared}; {left_out} operations had no arguments that could be made up)", "–", "met" if share >= 0.99 else "missed")
    for name, why in unread.items():
        say(f"  not called: {name}: {why}")
    print(f"\nDocuments in which nothing was called: {len(unread)}", flush=True)


print("| what | target | mcp-fabric | others | |\n|---|---|---|---|---|")
for part in (petstore, styles, github, exactness):
    part()
