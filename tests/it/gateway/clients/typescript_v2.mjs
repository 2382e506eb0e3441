// The official TypeScript SDK, version 2: it knows both eras, and takes revisions with a handshake unless told otherwise.
//
// Arguments: where to connect, what stands before the names of tools and prompts there, and how to agree on a revision:
// `default`, `auto` or a revision. It prints what it saw.

import { setTimeout as sleep } from 'node:timers/promises';

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const [url, prefix, mode] = process.argv.slice(2);
const requestInit = { headers: { authorization: `Bearer ${process.env.MCP_TOKEN}` } };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
const negotiation = mode === 'default' ? {} : { versionNegotiation: { mode: mode === 'auto' ? mode : { pin: mode } } };
const client = new Client({ name: 'test', version: '1' }, { capabilities: { elicitation: {} }, ...negotiation });

const asked = [];
client.setRequestHandler('elicitation/create', request => {
    asked.push(request.params.message);
    return { action: 'accept', content: { username: 'ada', email: 'ada@example.org' } };
});
// What goes wrong outside of a request, such as the stream of the session.
const faults = [];
client.onerror = error => faults.push(String(error));
// What comes unasked, whether the SDK knows it or not.
const heard = [];
client.fallbackNotificationHandler = async ({ method, params }) => heard.push({ method, params });

const call = (name, args, options) => client.callTool({ name: prefix + name, arguments: args }, options);
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
const watched = 'test://watched-resource';
if (client.getProtocolEra() === 'modern') {
    await client.listen({ promptsListChanged: true, resourceSubscriptions: [watched] });
} else {
    await client.subscribeResource({ uri: watched });
}
await call('test_trigger_resource_change', {});
await call('test_trigger_prompt_change', {});
for (let i = 0; i < 30 && !heard.some(said => said.method.includes('prompts')); i++) await sleep(100);
const revision = client.getNegotiatedProtocolVersion();
const server = client.getServerVersion()?.name;
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
