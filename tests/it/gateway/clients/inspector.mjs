// The inspector's command line: one connection for each thing that it is asked to do.
//
// Arguments: where to connect, what stands before the names of tools and prompts there, and the era: `legacy`
// or `modern`. It prints what the inspector saw.

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const [url, prefix, era] = process.argv.slice(2);
const program = resolve('node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js');
// A home of its own: whose machine this is has one, too. And a file, since arguments are seen by everybody.
const home = mkdtempSync(join(tmpdir(), 'inspector-'));
const config = join(home, 'mcp.json');
const headers = { Authorization: `Bearer ${process.env.MCP_TOKEN}` };
writeFileSync(config, JSON.stringify({ mcpServers: { it: { type: 'streamable-http', url, headers } } }), { mode: 0o600 });
const env = { PATH: process.env.PATH, HOME: home, MCP_INSPECTOR_SECRET_STORE: 'memory' };
const usual = [program, '--cli', '--config', config, '--server', 'it', '--protocol-era', era, '--format', 'json', '--quiet'];

// What it says on standard output, with the error that it says on the other.
async function ask(method, ...options) {
    const asked = promisify(execFile)(process.execPath, [...usual, '--method', method, ...options], { env });
    const { stdout, stderr } = await asked.catch(failed => failed);
    const said = stdout ? JSON.parse(stdout).result : {};
    return stderr ? { ...said, error: JSON.parse(stderr).error } : said;
}

const call = (name, ...options) => ask('tools/call', '--tool-name', prefix + name, ...options);

try {
    const greeting = await ask('initialize');
    const { tools } = await ask('tools/list');
    const echo = await call('echo', '--tool-arg', 'message=héllo');
    const progress = await call('test_tool_with_progress');
    const elicited = await call('test_elicitation', '--tool-arg', 'message=who?');
    const resource = await ask('resources/read', '--uri', 'test://static-text');
    const name = `${prefix}test_prompt_with_arguments`;
    const prompt = await ask('prompts/get', '--prompt-name', name, '--prompt-args', 'arg1=one', 'arg2=two');
    const unknown = await call('no_such_tool');
    console.log(JSON.stringify({
        revision: greeting.protocolVersion,
        server: greeting.serverInfo?.name,
        tools: tools.map(tool => tool.name),
        echo: { text: echo.content[0].text, structured: echo.structuredContent },
        progress: progress.content[0].text,
        elicited: elicited.content?.[0].text ?? elicited.error.message,
        resource: resource.contents[0].text,
        prompt: prompt.messages[0].content.text,
        unknown: unknown.error.code,
    }));
} finally {
    rmSync(home, { recursive: true });
}
