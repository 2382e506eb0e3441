'use strict';

const path = require('node:path');

const root = path.resolve(__dirname, '..');
const env = process.env;

module.exports = {
  apps: [
    {
      name: env.MCP_FABRIC_NAME || 'mcp-fabric',
      script: path.resolve(env.MCP_FABRIC_BIN || path.join(root, 'target', 'release', 'mcp-fabric')),
      args: 'serve',
      interpreter: 'none',
      // One process serves a data folder, so there is nothing to cluster.
      exec_mode: 'fork',
      instances: 1,
      // Where .env, ./config and ./data are looked for.
      cwd: path.resolve(env.MCP_FABRIC_CWD || root),

      // Up to 8 s for requests, jobs and connections, and up to 30 s for the database's last checkpoint.
      kill_timeout: 45000,
      // The signal is for the program alone: it stops its own PostgreSQL, in order and at the end.
      treekill: false,

      autorestart: true,
      // A wrong configuration: starting again will not mend it.
      stop_exit_codes: [78],
      // Anything else may pass (a database that is away): the wait grows from 0.2 s to 15 s, and
      // PM2 does not give up, as it would after 16 quick failures.
      exp_backoff_restart_delay: 200,
      watch: false,

      // Log lines are JSON with their own time, so PM2 adds none.
      merge_logs: true,
      // PM2 would look for the Git commit of `cwd`.
      vizion: false,
    },
  ],
};
