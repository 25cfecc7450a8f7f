import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readJsonObject } from '../../src/checkpoint/json-file.ts';
import { readSafetensorsHeader } from '../../src/checkpoint/safetensors-header.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-no-files-'));
afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ['config.json', (file: string) => readJsonObject(file, 1000)],
  ['model.safetensors', readSafetensorsHeader],
])('what is no file is refused by name and not waited for: %s', (name, read) => {
  const pipe = path.join(folder, `pipe-${name}`);
  execFileSync('mkfifo', [pipe]);
  const endless = path.join(folder, `endless-${name}`);
  symlinkSync('/dev/zero', endless);
  for (const file of [pipe, endless, folder])
    expect(() => read(file)).toThrow(
      expect.objectContaining({ code: 'bad_checkpoint', message: expect.stringContaining(`${file}: is not a file`) }),
    );
});
