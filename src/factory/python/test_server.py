"""Starts the server as a client would, and lists its tools in both eras of the protocol."""

import json
import os
import subprocess
import sys
import unittest

SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server.py")


def ask(*messages):
    lines = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
    done = subprocess.run([sys.executable, SERVER], input=lines, capture_output=True, text=True, timeout=20, check=True)
    return {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}


class Smoke(unittest.TestCase):
    def test_clients_of_2025_find_the_tools(self):
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "smoke", "version": "1"}}
        answers = ask({"id": 1, "method": "initialize", "params": params}, {"method": "notifications/initialized"}, {"id": 2, "method": "tools/list"})
        self.assertEqual(answers[1]["result"]["protocolVersion"], "2025-11-25")
        self.assertTrue(answers[2]["result"]["tools"])

    def test_clients_of_2026_find_the_tools(self):
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        answers = ask({"id": 1, "method": "server/discover", "params": {"_meta": meta}}, {"id": 2, "method": "tools/list", "params": {"_meta": meta}})
        self.assertEqual(answers[1]["result"]["resultType"], "complete")
        self.assertTrue(answers[2]["result"]["tools"])


if __name__ == "__main__":
    unittest.main()
