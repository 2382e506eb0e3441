// Starts the server as a client would, and lists its tools in both eras of the protocol.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import * as readline from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const SERVER = fileURLToPath(new URL("../dist/server.mjs", import.meta.url));

async function ask(...messages) {
  const child = spawn(process.execPath, [SERVER], { stdio: ["pipe", "pipe", "inherit"] });
  for (const message of messages) child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  child.stdin.end();
  const answers = new Map();
  for await (const line of readline.createInterface({ input: child.stdout })) {
    const answer = JSON.parse(line);
    answers.set(answer.id, answer);
  }
  return answers;
}

test("clients of 2025 find the tools", async () => {
  const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "smoke", version: "1" } };
  const answers = await ask({ id: 1, method: "initialize", params }, { method: "notifications/initialized" }, { id: 2, method: "tools/list" });
  assert.equal(answers.get(1).result.protocolVersion, "2025-11-25");
  assert.ok(answers.get(2).result.tools.length > 0);
});

test("clients of 2026 find the tools", async () => {
  const _meta = { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} };
  const answers = await ask({ id: 1, method: "server/discover", params: { _meta } }, { id: 2, method: "tools/list", params: { _meta } });
  assert.equal(answers.get(1).result.resultType, "complete");
  assert.ok(answers.get(2).result.tools.length > 0);
});
