// Brings a checkout to a runnable state with Node and a C++ compiler alone: dependencies, native kernels, TypeScript. Each step is skipped when it is up
// to date, and nothing but the first installation of dependencies needs the network.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { installedMatches } from './installed.mjs';
import { takeLock } from './lock.mjs';
import { nodeNeeded, nodeSuffices } from './node-version.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

function say(message) {
  process.stderr.write(`switchyard setup: ${message}\n`);
}

function fail(message) {
  say(message);
  process.exit(1);
}

/** Runs one step with its output on stderr: stdout belongs to the program that follows. */
function run(label, command, args, hint) {
  say(label);
  const done = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (done.error) fail(`${label}: cannot start ${command} (${done.error.code ?? done.error.message})${hint ? `: ${hint}` : ''}`);
  if (done.signal) fail(`${label}: stopped by ${done.signal}`);
  if (done.status !== 0) fail(`${label}: failed with exit status ${done.status}${hint ? `: ${hint}` : ''}`);
}

function checkNode() {
  const { node } = process.versions;
  if (!nodeSuffices(node)) fail(`Node ${nodeNeeded} is needed, this is ${node}: install it from https://nodejs.org`);
}

/** The stamp lives inside node_modules, so that removing or reinstalling that folder removes it too. */
function installDependencies() {
  const lockText = readFileSync(path.join(root, 'package-lock.json'), 'utf8');
  const hash = createHash('sha256').update(lockText).digest('hex');
  const stamp = path.join(root, 'node_modules', '.switchyard', 'lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  if (!installedMatches(root, JSON.parse(lockText))) {
    run(
      'installing dependencies (npm ci)',
      'npm',
      ['ci', '--ignore-scripts', '--no-fund', '--no-audit', '--loglevel=error'],
      'the first installation needs npm and its registry; later runs work offline',
    );
  }
  mkdirSync(path.dirname(stamp), { recursive: true });
  writeFileSync(stamp, hash);
}

function hasCompiler() {
  return [process.env.CXX, 'c++', 'g++', 'clang++'].some(
    (name) => name && spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
  );
}

/** Without a compiler, kernels that were brought along prebuilt are used as they are; without those, the build says what to install. */
function buildNative() {
  const addon = path.join(root, 'native', 'build', 'switchyard.node');
  if (existsSync(addon) && !hasCompiler()) say('no C++ compiler: using the kernels in native/build as they are');
  else run('native kernels', process.execPath, [path.join(root, 'native', 'build.mjs')]);
}

/** For `npx switchyard`. npm links programs that are there when it installs; this one is compiled afterwards. */
function linkProgram() {
  const program = path.join(root, 'cli', 'dist', 'main.js');
  const link = path.join(root, 'node_modules', '.bin', 'switchyard');
  chmodSync(program, 0o755);
  if (existsSync(link)) return;
  rmSync(link, { force: true }); // One that leads nowhere.
  symlinkSync(path.relative(path.dirname(link), program), link);
}

checkNode();
const release = takeLock(path.join(root, '.cache', 'setup.lock'), () => say('another setup is running here: waiting for it'));
try {
  installDependencies();
  buildNative();
  // Incremental: a few hundred milliseconds when nothing changed.
  run('TypeScript', process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-b']);
  linkProgram();
} finally {
  release();
}
