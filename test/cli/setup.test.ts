import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { nodeSuffices as nodeSufficesForDoctor } from '../../cli/src/doctor/software.ts';

const scripts = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'scripts');

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
    expect(summary(null)).toEqual({ line: '0 passed, 1 failed', status: 1 });
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

describe('an old Node', () => {
  it('can parse what tells it so', () => {
    for (const name of ['setup.mjs', 'node-version.mjs']) {
      const text = readFileSync(path.join(scripts, name), 'utf8');
      // Where there is something that 2018 did not know, it is rewritten.
      const written = (target: ts.ScriptTarget) =>
        ts.transpileModule(text, { compilerOptions: { target, module: ts.ModuleKind.ESNext } }).outputText;
      expect(written(ts.ScriptTarget.ES2018), name).toBe(written(ts.ScriptTarget.ESNext));
      expect(text, name).not.toMatch(/from 'node:|^(const .* = )?await /m);
    }
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
