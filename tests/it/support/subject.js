// A server for tests: MCP over standard input and output, with tools that misbehave on demand.
const fs = require('fs');
const net = require('net');
const { spawn } = require('child_process');

const mode = process.env.MODE || '';
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');
const text = (value) => ({ content: [{ type: 'text', text: typeof value === 'string' ? value : JSON.stringify(value) }] });

if (mode === 'crash') {
  console.error('subject: cannot start without a moon');
  process.exit(7);
}
if (mode === 'garbage') console.log('Welcome to the subject!\n{ not json');
if (mode === 'stubborn') process.on('SIGTERM', () => {});
console.error('subject: here');

const tools = {
  echo: (args) => text(args.message ?? ''),
  env: () => text(process.env),
  self: () => text({ uid: process.getuid(), pid: process.pid, cwd: process.cwd(), argv: process.argv.slice(2) }),
  say: (args) => (console.error(args.message), text('said')),
  die: () => process.exit(3),
  hang: () => new Promise(() => {}),
  busy: (args) => new Promise((done) => setTimeout(() => done(text('done')), args.ms)),
  read: (args) => text(fs.readFileSync(args.path, 'utf8')),
  write: (args) => (fs.writeFileSync(args.path, 'x'.repeat(args.bytes ?? 1)), text('written')),
  fork: () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    return text(String(child.pid));
  },
  detach: () => text(String(spawn('sleep', ['60'], { stdio: 'ignore', detached: true }).pid)),
  forks: (args) => {
    const done = [];
    for (let n = 0; n < args.count; n += 1) {
      const child = spawn('sleep', ['60'], { stdio: 'ignore' });
      done.push(new Promise((tell) => { child.on('spawn', () => tell(true)); child.on('error', () => tell(false)); }));
    }
    return Promise.all(done).then((all) => text(String(all.filter((one) => one).length)));
  },
  leak: () => {
    const kept = [];
    setInterval(() => kept.push(Buffer.alloc(16 << 20, 1)), 5);
    return new Promise(() => {});
  },
  flood: () => {
    for (let n = 0; n < 40; n += 1) process.stdout.write('x'.repeat(1 << 20));
    process.stdout.write('\n');
    return text('flooded');
  },
  connect: (args) => new Promise((done) => {
    const socket = net.connect(args.port, '127.0.0.1', () => (socket.destroy(), done(text('connected'))));
    socket.on('error', (error) => done(text(error.code)));
  }),
};

async function answer(request) {
  const { id, method, params } = request;
  const modern = mode === 'modern';
  if (id === undefined || mode === 'mute') return;
  if (mode === 'late') await new Promise((done) => setTimeout(done, 1500));
  const reply = (result) => say({ jsonrpc: '2.0', id, result: modern ? { resultType: 'complete', ttlMs: 0, cacheScope: 'private', ...result } : result });
  const refuse = (code, message) => say({ jsonrpc: '2.0', id, error: { code, message } });
  if (method === 'server/discover' && modern) {
    return reply({ supportedVersions: ['2026-07-28'], capabilities: { tools: {} }, _meta: { 'io.modelcontextprotocol/serverInfo': { name: 'subject', version: '1' } } });
  }
  if (method === 'initialize' && !modern) {
    return reply({ protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'subject', version: '1' } });
  }
  if (method === 'ping' && !modern) return reply({});
  if (method === 'tools/list') {
    return reply({ tools: Object.keys(tools).map((name) => ({ name, description: `does ${name}`, inputSchema: { type: 'object' } })) });
  }
  if (method === 'tools/call') {
    const tool = tools[params.name];
    if (!tool) return refuse(-32602, `no tool ${params.name}`);
    try {
      return reply(await tool(params.arguments || {}));
    } catch (error) {
      return reply({ ...text(error.code || error.message), isError: true });
    }
  }
  return refuse(-32601, 'Method not found');
}

let rest = '';
process.stdin.on('data', (chunk) => {
  rest += chunk;
  const lines = rest.split('\n');
  rest = lines.pop();
  lines.filter((line) => line.trim()).forEach((line) => answer(JSON.parse(line)));
});
process.stdin.on('end', () => { if (mode !== 'stubborn') process.exit(0); });
if (mode === 'stubborn') setInterval(() => {}, 1000);
