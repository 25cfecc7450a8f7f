import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkOutput, writeOutputs } from '../src/terminal/output-file.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('a result', () => {
  it.each(['x'.repeat(255), '\u6728'.repeat(85)])('is written to a name that is just short enough: %s', (name) => {
    const file = path.join(folder, name);
    checkOutput(file, '--out');
    writeOutputs([{ option: '--out', file, text: 'kept' }]);
    expect(readFileSync(file, 'utf8')).toBe('kept');
    expect(readdirSync(folder)).toEqual([name]);
  });

  it('of a name that is too long is refused before there is one', () => {
    const file = path.join(folder, 'x'.repeat(256));
    expect(() => checkOutput(file, '--out')).toThrow(
      expect.objectContaining({ status: 2, message: expect.stringMatching(/ENAMETOOLONG/) }),
    );
  });

  it('that cannot take its place names the option, and leaves nothing', () => {
    const file = path.join(folder, 'taken');
    // Made in the meantime.
    const text = { toString: () => mkdirSync(file) ?? 'text' };
    const first = { option: '--out', file, text: 'kept' };
    const second = {
      option: '--certificate',
      file: path.join(folder, 'other'),
      get text() {
        return String(text);
      },
    };
    expect(() => writeOutputs([first, second])).toThrow(
      expect.objectContaining({ name: 'CommandFailure', message: expect.stringContaining(`--out ${file}: `) }),
    );
    expect(readdirSync(folder)).toEqual(['taken']);
  });
});
