import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { bundledModel } from '../cluster/bundled-model.ts';
import { socketsFit } from '../cluster/run-folder.ts';
import type { Check } from './check.ts';
import { failed, ok, warning } from './check.ts';

export function checkNode(): Check {
  return nodeSuffices(process.versions.node)
    ? ok('node', process.version)
    : failed('node', process.version, 'install Node 20.19, 22.12 or newer from https://nodejs.org');
}

/** As `engines` in package.json, and as setup has it before anything is built (scripts/node-version.mjs). */
export function nodeSuffices(version: string): boolean {
  const [major, minor] = version.split('.').map(Number);
  return (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22;
}

/** The first line that a program prints for its version, or null where it is not installed. */
function versionOf(program: string, args: string[]): string | null {
  const done = spawnSync(program, args, { encoding: 'utf8', timeout: 10_000 });
  if (done.error || done.status !== 0) return null;
  return (done.stdout || done.stderr).trim().split('\n')[0];
}

export function checkCompiler(): Check {
  for (const name of [process.env.CXX, 'c++', 'g++', 'clang++']) {
    const version = name ? versionOf(name, ['--version']) : null;
    if (version) return ok('c++ compiler', version);
  }
  const fix = 'needed only to build the kernels: apt-get install g++, dnf install gcc-c++ or xcode-select --install; or set CXX';
  return warning('c++ compiler', 'none found', fix);
}

export function checkModel(): Check {
  const dir = bundledModel();
  return existsSync(path.join(dir, 'config.json'))
    ? ok('bundled model', dir)
    : warning('bundled model', `not in ${dir}`, 'give `switchyard up` a folder with --model');
}

export async function checkPort(port: number): Promise<Check> {
  const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
    const server = net.createServer();
    server.once('error', resolve);
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(null)));
  });
  if (error === null) return ok(`port ${port}`, 'free');
  return warning(
    `port ${port}`,
    error.code === 'EADDRINUSE' ? 'in use' : String(error.code),
    'give `switchyard up` another with --port, or 0 for any',
  );
}

export function checkTemporaryFolder(): Check {
  const folder = os.tmpdir();
  try {
    rmSync(mkdtempSync(path.join(folder, 'switchyard-doctor-')), { recursive: true });
  } catch (error) {
    return failed('temporary folder', (error as Error).message, 'make it, or set TMPDIR to a folder that you may write to');
  }
  return socketsFit(path.join(folder, 'switchyard-run-4194304-abcdef'))
    ? ok('temporary folder', folder)
    : failed('temporary folder', folder, 'its name is too long for Unix sockets: set TMPDIR to a shorter one');
}

/** Tools that some features use and none needs. */
const optionalTools = [
  { program: 'nvidia-smi', args: ['--query-gpu=name,driver_version', '--format=csv,noheader'], use: 'a CUDA device' },
  { program: 'nats-server', args: ['--version'], use: 'links through a broker, and their tests' },
];

export function checkOptionalTools(): Check[] {
  return optionalTools.map(({ program, args, use }) => {
    const version = versionOf(program, args);
    return version ? ok(program, version) : { name: program, status: 'absent', found: `not installed (only for ${use})`, fix: null };
  });
}
