import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';

const lockModule = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'scripts', 'lock.mjs');
const lockUrl = JSON.stringify(pathToFileURL(lockModule).href);

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  file = path.join(folder, 'lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A program that says when it waits for the lock, takes it, says so, and goes on with `then`. */
const program = (then: string, before = '') =>
  `import { takeLock } from ${lockUrl}; import { writeFileSync } from 'node:fs'; ${before}
   await takeLock(${JSON.stringify('FILE')}, () => console.log('waiting')); console.log('taken'); ${then}`.replace('FILE', file);
const args = (code: string) => ['--input-type=module', '-e', code];

/** What a process says that is to take a lock of this text. */
function saidBefore(text: string): string {
  writeFileSync(file, text);
  const done = spawnSync(process.execPath, args(program('')), { encoding: 'utf8', timeout: 20_000 });
  return done.stdout.trim() || done.stderr;
}

const run = (code = program('setInterval(() => {}, 1000);')) =>
  spawn(process.execPath, args(code), { stdio: ['ignore', 'pipe', 'inherit'] });
const nextLine = (child: ReturnType<typeof run>) =>
  new Promise<string>((resolve) => child.stdout.once('data', (chunk) => resolve(String(chunk).trim())));
const ended = (child: ReturnType<typeof run>) => new Promise((resolve) => child.once('close', resolve));

it('makes a second setup wait until the first has ended', async () => {
  const first = run();
  expect(await nextLine(first)).toBe('taken');
  const second = run();
  expect(await nextLine(second)).toBe('waiting');
  const taken = nextLine(second);
  first.kill('SIGTERM');
  expect(await taken).toBe('taken');
  const over = ended(second);
  second.kill('SIGTERM');
  await over;
  expect(readdirSync(folder)).toEqual([]);
});

it('is not waited for by who is told to end', async () => {
  const holder = run();
  await nextLine(holder);
  const waiting = run();
  expect(await nextLine(waiting)).toBe('waiting');
  const over = ended(waiting);
  waiting.kill('SIGTERM');
  await over;
  expect(existsSync(file)).toBe(true);
  holder.kill('SIGTERM');
});

it('is taken over from a process that was killed', () => {
  expect(saidBefore('999999999')).toBe('taken');
  expect(readdirSync(folder)).toEqual([]);
});

it('is taken over from an earlier process of the same number, as containers have them', () => {
  const own = program('', 'writeFileSync(FILE, String(process.pid));'.replace('FILE', JSON.stringify(file)));
  const done = spawnSync(process.execPath, args(own), { encoding: 'utf8', timeout: 20_000 });
  expect(done.stdout.trim()).toBe('taken');
});

it.runIf(existsSync('/proc/self/stat'))('is taken over from one that started at another time than who has its number now', async () => {
  const holder = run();
  await nextLine(holder);
  const [pid, birth] = readFileSync(file, 'utf8').split(' ');
  expect(Number(pid)).toBe(holder.pid);
  expect(saidBefore(`${pid} ${birth}1`)).toBe('taken');
  holder.kill('SIGKILL');
});

it('is taken over from a process that ended before it wrote its name, but not from one that is about to', async () => {
  writeFileSync(file, '');
  const waiting = run();
  expect(await nextLine(waiting)).toBe('waiting');
  const taken = nextLine(waiting);
  const minuteAgo = Date.now() / 1000 - 60;
  utimesSync(file, minuteAgo, minuteAgo);
  expect(await taken).toBe('taken');
  waiting.kill('SIGTERM');
});

it('is left to whoever took it over a moment earlier', async () => {
  const { removeLeftover } = await import(pathToFileURL(lockModule).href);
  writeFileSync(file, 'of somebody else');
  removeLeftover(file, 'of one who is gone');
  expect(readFileSync(file, 'utf8')).toBe('of somebody else');
  removeLeftover(file, 'of somebody else');
  expect(readdirSync(folder)).toEqual([]);
  removeLeftover(file, 'of one who is gone');
});
