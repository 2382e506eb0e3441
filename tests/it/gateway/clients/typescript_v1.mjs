// The official TypeScript SDK, version 1: it knows revisions with a handshake alone.
//
// Arguments: where to connect, and what stands before the names of tools and prompts there. It prints what it saw.

import { setTimeout as sleep } from 'node:timers/promises';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const [url, prefix] = process.argv.slice(2);
const requestInit = { headers: { authorization: `Bearer ${process.env.MCP_TOKEN}` } };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
const client = new Client({ name: 'test', version: '1' }, { capabilities: { elicitation: {} } });

const asked = [];
client.setRequestHandler(ElicitRequestSchema, request => {
    asked.push(request.params.message);
    return { action: 'accept', content: { username: 'ada', email: 'ada@example.org' } };
});
// What goes wrong outside of a request, such as the stream of the session.
const faults = [];
client.onerror = error => faults.push(String(error));
// What comes unasked, whether the SDK knows it or not.
const heard = [];
client.fallbackNotificationHandler = async ({ method, params }) => heard.push({ method, params });

const call = (name, args, options) => client.callTool({ name: prefix + name, arguments: args }, undefined, options);
const code = failing => failing.then(() => 'no error', error => error.code);

await client.connect(transport);
const { tools } = await client.listTools();
const echo = await call('echo', { message: 'héllo' });
const progress = [];
await call('test_tool_with_progress', {}, { onprogress: ({ progress: now }) => progress.push(now) });
const elicited = await call('test_elicitation', { message: 'who?' });
const resource = await client.readResource({ uri: 'test://static-text' });
const prompt = await client.getPrompt({ name: `${prefix}test_prompt_with_arguments`, arguments: { arg1: 'one', arg2: 'two' } });
const unknown = await code(call('no_such_tool', {}));
await client.subscribeResource({ uri: 'test://watched-resource' });
await call('test_trigger_resource_change', {});
await call('test_trigger_prompt_change', {});
for (let i = 0; i < 30 && !heard.some(said => said.method.includes('prompts')); i++) await sleep(100);
const revision = transport.protocolVersion;
const server = client.getServerVersion().name;
await transport.terminateSession();
await client.close();

console.log(JSON.stringify({
    revision,
    server,
    tools: tools.map(tool => tool.name),
    echo: { text: echo.content[0].text, structured: echo.structuredContent },
    progress,
    asked,
    elicited: elicited.content[0].text,
    resource: resource.contents[0].text,
    prompt: prompt.messages[0].content.text,
    unknown,
    heard,
    faults,
}));
