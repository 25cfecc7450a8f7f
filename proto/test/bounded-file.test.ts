import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { readBoundedFile } from '../src/bounded-file.ts';

const dir = mkdtempSync(path.join(os.tmpdir(), 'bounded-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const bytes = (count: number) => Buffer.from(Array.from({ length: count }, (_, i) => (i * 7) % 251));

/** A file that does not say how long it is. */
function pipeOf(name: string, count: number): string {
  const [file, pipe] = [path.join(dir, `${name}.bin`), path.join(dir, name)];
  writeFileSync(file, bytes(count));
  execFileSync('mkfifo', [pipe]);
  spawn('sh', ['-c', 'exec cat "$0" > "$1"', file, pipe]).on('error', () => {});
  return pipe;
}

it.each([0, 1, 65_536, 65_537, 300_000])('reads a file of %i bytes, and a pipe', (count) => {
  const file = path.join(dir, `file-${count}`);
  writeFileSync(file, bytes(count));
  expect(readBoundedFile(file, 300_000).equals(bytes(count))).toBe(true);
  expect(readBoundedFile(pipeOf(`pipe-${count}`, count), 300_000).equals(bytes(count))).toBe(true);
});

it.each([10, 100_000])('refuses what has more than %i bytes, or no end', (bytesMax) => {
  const file = path.join(dir, `long-${bytesMax}`);
  writeFileSync(file, bytes(bytesMax + 1));
  const message = `it has more than ${bytesMax} bytes`;
  expect(() => readBoundedFile(file, bytesMax)).toThrow(message);
  expect(() => readBoundedFile(pipeOf(`long-pipe-${bytesMax}`, bytesMax + 1), bytesMax)).toThrow(message);
  expect(() => readBoundedFile('/dev/zero', bytesMax)).toThrow(message);
});

it('says what the system says of a folder, and of what is not there', () => {
  expect(() => readBoundedFile(dir, 10)).toThrow('EISDIR');
  expect(() => readBoundedFile(path.join(dir, 'none'), 10)).toThrow('ENOENT');
});
