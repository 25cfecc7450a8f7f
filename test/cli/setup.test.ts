import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { nodeSuffices as nodeSufficesForDoctor } from '../../cli/src/doctor/software.ts';

const scripts = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'scripts');
const moduleUrl = (name: string) => JSON.stringify(pathToFileURL(path.join(scripts, name)).href);

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

describe('closing line of a test run', () => {
  function summary(report: object | null, runStatus = 0): { line: string; status: number | null } {
    const file = path.join(folder, 'report.json');
    rmSync(file, { force: true });
    if (report) writeFileSync(file, JSON.stringify(report));
    const done = spawnSync(process.execPath, [path.join(scripts, 'test-summary.mjs'), file, String(runStatus)], { encoding: 'utf8' });
    return { line: done.stdout.trimEnd().split('\n').at(-1) ?? '', status: done.status };
  }
  const passing = { numPassedTests: 7, numFailedTests: 0, numPendingTests: 0, numTodoTests: 0, testResults: [] };

  it('is plain', () => {
    expect(summary(passing)).toEqual({ line: '7 passed, 0 failed', status: 0 });
    expect(summary({ ...passing, numPendingTests: 2, numTodoTests: 1 })).toEqual({ line: '7 passed, 0 failed, 3 skipped', status: 0 });
    expect(summary({ ...passing, numFailedTests: 2 }, 1)).toEqual({ line: '7 passed, 2 failed', status: 1 });
  });

  it('counts a file that could not be loaded', () => {
    const broken = { name: 'a.test.ts', status: 'failed', message: 'SyntaxError\nat x', assertionResults: [] };
    expect(summary({ ...passing, testResults: [broken] }, 1)).toEqual({ line: '7 passed, 1 failed', status: 1 });
  });

  it('is never green when the run was not', () => {
    expect(summary(passing, 1)).toEqual({ line: '7 passed, 1 failed', status: 1 });
    expect(summary(null).status).toBe(1);
  });
});

describe('version of Node', () => {
  it('that setup asks for is the one that every package names', async () => {
    const { nodeNeeded, nodeSuffices } = await import(pathToFileURL(path.join(scripts, 'node-version.mjs')).href);
    for (const part of ['.', 'proto', 'placement', 'native', 'worker', 'coordinator', 'cli']) {
      const { engines } = JSON.parse(readFileSync(path.join(scripts, '..', part, 'package.json'), 'utf8'));
      expect(engines.node, part).toBe(nodeNeeded);
    }
    const versions = ['18.20.0', '20.18.3', '20.19.0', '21.7.0', '22.11.0', '22.12.0', '24.0.0'];
    // `doctor` says the same.
    for (const rule of [nodeSuffices, nodeSufficesForDoctor])
      expect(versions.filter((version) => rule(version))).toEqual(['20.19.0', '22.12.0', '24.0.0']);
  });
});

describe('lockfile', () => {
  it('has the digest of every package that it would fetch, and names no registry', () => {
    const text = readFileSync(path.join(scripts, '..', 'package-lock.json'), 'utf8');
    const { packages } = JSON.parse(text) as { packages: Record<string, { link?: boolean; integrity?: string }> };
    const fetched = Object.entries(packages).filter(([where, { link }]) => where.includes('node_modules/') && !link);
    expect(fetched.filter(([, { integrity }]) => integrity === undefined).map(([where]) => where)).toEqual([]);
    expect(text).not.toMatch(/"resolved": "https?:/);
  });
});

describe('setup lock', () => {
  const holder = (seconds: number) =>
    `import { takeLock } from ${moduleUrl('lock.mjs')}; takeLock(${JSON.stringify(path.join(folder, 'lock'))}, () => console.log('waiting')); console.log('taken'); setTimeout(() => {}, ${seconds * 1000});`;

  it('makes a second setup wait until the first has ended', async () => {
    const run = () => spawn(process.execPath, ['--input-type=module', '-e', holder(60)], { stdio: ['ignore', 'pipe', 'inherit'] });
    const nextLine = (child: ReturnType<typeof run>) =>
      new Promise<string>((resolve) => child.stdout.once('data', (chunk) => resolve(String(chunk).trim())));
    const first = run();
    expect(await nextLine(first)).toBe('taken');
    const second = run();
    expect(await nextLine(second)).toBe('waiting');
    const taken = nextLine(second);
    first.kill('SIGTERM');
    expect(await taken).toBe('taken');
    second.kill('SIGTERM');
    await new Promise((resolve) => second.once('close', resolve));
    expect(existsSync(path.join(folder, 'lock'))).toBe(false);
  });

  it('is taken over from a process that was killed', () => {
    const file = path.join(folder, 'lock');
    writeFileSync(file, '999999999');
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', holder(0)], { encoding: 'utf8' });
    expect(done.stdout.trim()).toBe('taken');
  });
});

describe('installed dependencies', () => {
  function installed(record: object | null): boolean {
    rmSync(path.join(folder, 'node_modules'), { recursive: true, force: true });
    if (record) {
      for (const where of ['node_modules/a', 'node_modules/a/node_modules/b']) {
        mkdirSync(path.join(folder, where), { recursive: true });
        writeFileSync(path.join(folder, where, 'package.json'), '{}');
      }
      writeFileSync(path.join(folder, 'node_modules', '.package-lock.json'), JSON.stringify({ packages: record }));
    }
    const lockfile = {
      packages: {
        '': {},
        worker: { version: '0.1.0' },
        'node_modules/a': { version: '1.0.0' },
        'node_modules/a/node_modules/b': { version: '2.0.0' },
        'node_modules/other-platform': { version: '1.0.0', optional: true },
        'node_modules/@switchyard/worker': { link: true },
      },
    };
    const code = `import { installedMatches } from ${moduleUrl('installed.mjs')}; console.log(installedMatches(${JSON.stringify(folder)}, ${JSON.stringify(lockfile)}))`;
    return spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }).stdout.trim() === 'true';
  }

  it('are accepted without the network when they are what the lockfile says', () => {
    expect(installed({ 'node_modules/a': { version: '1.0.0' }, 'node_modules/a/node_modules/b': { version: '2.0.0' } })).toBe(true);
  });

  it('are not when a version differs, a package is missing or nothing is installed', () => {
    expect(installed({ 'node_modules/a': { version: '1.0.1' }, 'node_modules/a/node_modules/b': { version: '2.0.0' } })).toBe(false);
    expect(installed({ 'node_modules/a': { version: '1.0.0' } })).toBe(false);
    expect(installed(null)).toBe(false);
  });
});

describe('a checkout that is set up', () => {
  it('has the program where npx looks for it', () => {
    const done = spawnSync('npx', ['switchyard', '--version'], {
      cwd: path.join(scripts, '..'),
      encoding: 'utf8',
      env: { ...process.env, npm_config_offline: 'true' },
    });
    const { version } = JSON.parse(readFileSync(path.join(scripts, '..', 'cli', 'package.json'), 'utf8'));
    expect([done.stdout.trim(), done.status]).toEqual([version, 0]);
  });
});
