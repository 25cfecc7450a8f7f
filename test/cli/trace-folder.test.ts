import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import type { UpReport } from '../../cli/src/cluster/up-report.ts';
import { start, switchyard, until } from './program.ts';

it('up serves where its user can keep no traces, and the reason is told to who wants to record some', async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  const file = path.join(folder, 'file');
  writeFileSync(file, '');
  const flags = ['--json', '--supervised', '--port', '0', '--nodes', '1', '--workers-per-node', '1'];
  const up = start(['up', ...flags], { XDG_STATE_HOME: file });
  await until(() => up.output().stdout.includes('\n') || up.child.exitCode !== null);
  const { url } = JSON.parse(up.output().stdout) as UpReport;
  const { status, stderr } = await switchyard(['trace', 'record', '--url', url, '--out', path.join(folder, 'a.trace')]);
  up.child.kill('SIGTERM');
  await up.finished;
  rmSync(folder, { recursive: true });
  expect(stderr).toMatch(/^error: http.* has nowhere to keep traces: (EEXIST|ENOTDIR).*; start it with --trace-dir\n$/);
  expect(status).toBe(1);
});
