// Brings a checkout to a runnable state with Node and a C++ compiler alone: dependencies, native kernels, TypeScript. Each step is skipped when it is up to date.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync, mkdirSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const stampDir = path.join(root, 'node_modules', '.switchyard');

function fail(message) {
  process.stderr.write(`switchyard setup: ${message}\n`);
  process.exit(1);
}

function run(label, command, args) {
  process.stderr.write(`switchyard setup: ${label}\n`);
  const done = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], shell: false });
  if (done.error) fail(`${label}: cannot start ${command}: ${done.error.message}`);
  if (done.status !== 0) fail(`${label} failed (exit status ${done.status})`);
}

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 12)) fail(`Node 20.12 or newer is needed, this is ${process.versions.node}: install it from https://nodejs.org`);

const lockHash = createHash('sha256').update(readFileSync(path.join(root, 'package-lock.json'))).digest('hex');
const lockStamp = path.join(stampDir, 'lock');
if (!existsSync(lockStamp) || readFileSync(lockStamp, 'utf8') !== lockHash) {
  run('installing dependencies (npm ci)', 'npm', ['ci', '--ignore-scripts', '--no-fund', '--no-audit', '--loglevel=error']);
  mkdirSync(stampDir, { recursive: true });
  writeFileSync(lockStamp, lockHash);
}

// Compiles native/cpp when its sources changed since the last build.
run('native kernels', process.execPath, [path.join(root, 'native', 'build.mjs')]);
// Incremental: a few hundred milliseconds when nothing changed.
run('TypeScript', process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-b']);
