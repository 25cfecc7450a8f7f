// Brings a checkout to a runnable state with Node and a C++ compiler alone: dependencies, native kernels, TypeScript. Each step is skipped when it is up
// to date, and nothing but the first installation of dependencies needs the network.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, chmodSync, constants, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { missingPackages } from './installed.mjs';
import { takeLock } from './lock.mjs';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** How native/build.mjs ends where no compiler is new enough: all that it could do is left undone. */
const noCompilerStatus = 3;

/** What a file system answers to somebody who may not write there. */
const refusals = ['EACCES', 'EPERM', 'EROFS'];

function say(message) {
  process.stderr.write(`switchyard setup: ${message}\n`);
}

function fail(message) {
  say(message);
  process.exit(1);
}

/**
 * Runs one step with its output on stderr: stdout belongs to the program that follows. While it runs this process still hears signals, and a step does not
 * outlive it: whoever takes the lock next has the checkout to himself.
 * @returns its exit status, which is 0 or one of `allowed`
 */
async function run(label, command, args, { hint = '', allowed = [] } = {}) {
  say(label);
  const why = hint && `: ${hint}`;
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 2, 2] });
  const stop = () => child.kill();
  process.once('exit', stop);
  const status = await new Promise((resolve) => {
    child.once('error', (error) => fail(`${label}: cannot start ${command} (${error.code ?? error.message})${why}`));
    child.once('close', (status, signal) => (signal ? fail(`${label}: stopped by ${signal}`) : resolve(status)));
  });
  process.off('exit', stop);
  if (status !== 0 && !allowed.includes(status)) fail(`${label}: failed with exit status ${status}${why}`);
  return status;
}

/** What native packages are installed for: a folder that another system shares has those of whoever installed last. */
function platform() {
  const { platform, arch } = process;
  if (platform !== 'linux') return `${platform}-${arch}`;
  process.report.excludeNetwork = true; // Else it asks for the names of all connections.
  return `${platform}-${arch}-${process.report.getReport().header.glibcVersionRuntime ? 'glibc' : 'musl'}`;
}

/** The stamp lives inside node_modules, so that removing or reinstalling that folder removes it too. */
async function installDependencies() {
  const lockText = readFileSync(path.join(root, 'package-lock.json'), 'utf8');
  const lockfile = JSON.parse(lockText);
  const stamp = path.join(root, 'node_modules', '.switchyard', 'lock');
  const wanted = `${createHash('sha256').update(lockText).digest('hex')} ${platform()}`;
  const stamped = existsSync(stamp) ? readFileSync(stamp, 'utf8') : '';
  const madeFor = stamped.split(' ')[1] ?? platform();
  if (madeFor !== platform() || missingPackages(root, lockfile).length > 0) {
    // Compiler and test runner are dev packages; an environment made for production (NODE_ENV, npm_config_omit) would leave them out.
    const args = ['ci', '--include=dev', '--include=optional', '--ignore-scripts', '--no-fund', '--no-audit', '--loglevel=error'];
    const hint = 'the first installation needs npm and its registry; later runs work offline';
    await run('installing dependencies (npm ci)', 'npm', args, { hint });
    const [missing] = missingPackages(root, lockfile);
    if (missing) fail(`npm ci left ${missing} out: look for what npm is told (npm config list), then try again`);
  } else if (stamped === wanted) return;
  mkdirSync(path.dirname(stamp), { recursive: true });
  writeFileSync(stamp, wanted);
}

/** Without a compiler that is new enough, kernels that were brought along prebuilt are used as they are; without those, the build says what to install. */
async function buildNative() {
  const prebuilt = existsSync(path.join(root, 'native', 'build', 'switchyard.node'));
  const allowed = prebuilt ? [noCompilerStatus] : [];
  const status = await run('native kernels', process.execPath, [path.join(root, 'native', 'build.mjs')], { allowed });
  if (status === noCompilerStatus) say('using the kernels in native/build as they are');
}

/** For `npx switchyard`. npm links programs that are there when it installs; this one is compiled afterwards. */
function linkProgram() {
  const program = path.join(root, 'cli', 'dist', 'main.js');
  const link = path.join(root, 'node_modules', '.bin', 'switchyard');
  if (!isExecutable(program)) chmodSync(program, 0o755);
  if (existsSync(link)) return;
  rmSync(link, { force: true }); // One that leads nowhere.
  symlinkSync(path.relative(path.dirname(link), program), link);
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Who may not write here needs no lock: his steps find nothing to do, or fail. */
async function takeLockIfWritable() {
  try {
    return await takeLock(path.join(root, '.cache', 'setup.lock'), () => say('another setup is running here: waiting for it'));
  } catch (error) {
    if (refusals.includes(error.code)) return () => {};
    throw error;
  }
}

export async function setUp() {
  const release = await takeLockIfWritable();
  try {
    await installDependencies();
    await buildNative();
    // Incremental: a few hundred milliseconds when nothing changed.
    await run('TypeScript', process.execPath, [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-b']);
    linkProgram();
  } catch (error) {
    if (!refusals.includes(error.code)) throw error;
    fail(`${error.path} cannot be written (${error.code}), and this checkout is not set up yet: have its owner run \`npm run build\``);
  } finally {
    release();
  }
}
