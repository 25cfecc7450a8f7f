import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';

const scripts = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'scripts');

/** A checkout whose compilers do nothing, with an npm that installs what it is asked for: a package for running and TypeScript, which is a dev package. */
let checkout: string;
beforeEach(() => {
  checkout = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  chmodSync(checkout, 0o755);
  cpSync(scripts, path.join(checkout, 'scripts'), { recursive: true });
  write('package-lock.json', JSON.stringify({ packages }));
  write('native/build.mjs', '');
  write('bin/npm', `#!${process.execPath}\n${npm}`, 0o755);
});
afterEach(() => {
  spawnSync('chmod', ['-R', 'u+w', checkout]);
  rmSync(checkout, { recursive: true });
});

const packages = { 'node_modules/run': { version: '1.0.0' }, 'node_modules/typescript': { version: '1.0.0', dev: true } };
const tsc = `const { existsSync, mkdirSync, writeFileSync } = require('node:fs');
  if (!existsSync('cli/dist')) { mkdirSync('cli/dist', { recursive: true }); writeFileSync('cli/dist/main.js', ''); }`;
const npm = `const { appendFileSync, mkdirSync, writeFileSync } = require('node:fs');
  appendFileSync('asked', process.argv.slice(2).join(' ') + '\\n');
  const omits = (process.env.NODE_ENV === 'production' && !process.argv.includes('--include=dev')) || process.env.BROKEN;
  const installed = Object.fromEntries(Object.entries(${JSON.stringify(packages)}).filter(([, one]) => !(omits && one.dev)));
  for (const where of Object.keys(installed)) { mkdirSync(where, { recursive: true }); writeFileSync(where + '/package.json', '{}'); }
  mkdirSync('node_modules/.bin', { recursive: true });
  writeFileSync('node_modules/.package-lock.json', JSON.stringify({ packages: installed }));
  if (omits) return;
  mkdirSync('node_modules/typescript/bin', { recursive: true });
  writeFileSync('node_modules/typescript/bin/tsc', ${JSON.stringify(tsc)});`;

function write(name: string, text: string, mode = 0o644): void {
  mkdirSync(path.dirname(path.join(checkout, name)), { recursive: true });
  writeFileSync(path.join(checkout, name), text, { mode });
}

const command: [string, string[]] = [process.execPath, ['scripts/setup.mjs']];
const surroundings = (env: Record<string, string> = {}) => ({
  cwd: checkout,
  env: { ...process.env, PATH: `${checkout}/bin:${process.env.PATH}`, ...env },
});

function setUp(env: Record<string, string> = {}, as: { uid?: number; gid?: number } = {}): { status: number | null; said: string } {
  const done = spawnSync(...command, { ...surroundings(env), ...as, encoding: 'utf8', timeout: 30_000 });
  return { status: done.status, said: done.stderr };
}

const asked = () => readFileSync(path.join(checkout, 'asked'), 'utf8').trim().split('\n').length;
const stamp = () => path.join(checkout, 'node_modules/.switchyard/lock');

it('is installed once', () => {
  expect(setUp()).toMatchObject({ status: 0 });
  expect(setUp()).toMatchObject({ status: 0, said: 'switchyard setup: native kernels\nswitchyard setup: TypeScript\n' });
  expect(asked()).toBe(1);
  expect(readdirSync(path.join(checkout, '.cache'))).toEqual([]);
});

it('has its compiler and test runner in an environment made for production too', () => {
  expect(setUp({ NODE_ENV: 'production', npm_config_omit: 'dev' })).toMatchObject({ status: 0 });
});

it('is not stamped as installed where npm left something out, which is said', () => {
  const { status, said } = setUp({ BROKEN: '1' });
  expect([status, said]).toEqual([1, expect.stringContaining('npm ci left node_modules/typescript out')]);
  expect(existsSync(stamp())).toBe(false);
  expect(setUp()).toMatchObject({ status: 0 });
});

it('is installed again where a package was removed or is another version, or the packages are of another system', () => {
  setUp();
  rmSync(path.join(checkout, 'node_modules/run'), { recursive: true });
  expect([setUp().status, asked()]).toEqual([0, 2]);
  write('node_modules/.package-lock.json', JSON.stringify({ packages: { ...packages, 'node_modules/run': { version: '1.0.1' } } }));
  expect([setUp().status, asked()]).toEqual([0, 3]);
  writeFileSync(stamp(), `${readFileSync(stamp(), 'utf8').split(' ')[0]} other-x64`);
  expect([setUp().status, asked()]).toEqual([0, 4]);
});

it('uses the kernels that are there where no compiler is new enough, and has none without them', () => {
  write('native/build.mjs', 'process.exit(3)');
  expect(setUp().status).toBe(1);
  write('native/build/switchyard.node', '');
  expect(setUp()).toMatchObject({ status: 0, said: expect.stringContaining('using the kernels in native/build as they are') });
  write('native/build.mjs', 'process.exit(1)');
  expect(setUp().status).toBe(1);
});

/** Root may write anywhere: somebody else must try, who may be unable to run this very Node. */
const other = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
const cannotTry = spawnSync(process.execPath, ['-e', ''], { cwd: os.tmpdir(), ...other }).status !== 0;
it.skipIf(cannotTry)(
  `is of use to somebody who may not write there, and where it is not set up one line says so${cannotTry ? ' (nobody else can run this Node)' : ''}`,
  () => {
    const unset = () => spawnSync('chmod', ['-R', 'a-w', checkout]);
    rmSync(path.join(checkout, 'bin'), { recursive: true });
    write('node_modules/.package-lock.json', JSON.stringify({ packages }));
    for (const where of Object.keys(packages)) write(`${where}/package.json`, '{}');
    write('node_modules/typescript/bin/tsc', tsc);
    unset();
    const refused = setUp({}, other);
    expect([refused.status, refused.said]).toEqual([
      1,
      expect.stringMatching(/^switchyard setup: \S+ cannot be written \(EACCES\)[^\n]*\n$/),
    ]);
    spawnSync('chmod', ['-R', 'u+w', checkout]);
    write('node_modules/.bin/x', '');
    expect(setUp().status).toBe(0);
    unset();
    expect(setUp({}, other)).toMatchObject({ status: 0, said: 'switchyard setup: native kernels\nswitchyard setup: TypeScript\n' });
  },
);

it('ends, and its step with it, when it is told to', async () => {
  write('native/build.mjs', 'process.stderr.write("a step runs"); setInterval(() => {}, 1000);');
  const setup = spawn(...command, { ...surroundings(), stdio: ['ignore', 'ignore', 'pipe'] });
  await new Promise<void>((resolve) => {
    let said = '';
    setup.stderr.setEncoding('utf8').on('data', (text) => {
      said += text;
      if (said.endsWith('a step runs')) resolve();
    });
  });
  const ended = new Promise((resolve) => setup.once('close', resolve)); // Only when the step, which has its stderr, has ended too.
  setup.kill('SIGTERM');
  expect(await ended).toBe(143);
  expect(existsSync(path.join(checkout, '.cache/setup.lock'))).toBe(false);
});
