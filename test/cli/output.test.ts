import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { evenNodes } from '../../cli/src/place/even-topology.ts';
import { completionServerOfTests } from '../../cli/test/completion-server.ts';
import { programPath, start, switchyard, until } from './program.ts';

const { serve } = completionServerOfTests();
const slice = fileURLToPath(new URL('../../placement/test/fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url));
const dir = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
afterAll(() => rmSync(dir, { recursive: true }));

const topology = path.join(dir, 'topology.json');
writeFileSync(topology, JSON.stringify(evenNodes(2)));
const placing = ['place', '--trace', slice, '--topology', topology, '--starts', '1', '--sample-tokens', '500'];

/** Runs the built program by way of a shell, whose words stand before it. */
async function inShell(before: string, args: string[], redirected = '') {
  const child = spawn('sh', ['-c', `${before} exec "$@" ${redirected}`, 'sh', process.execPath, programPath, ...args], {
    env: { ...process.env, NO_COLOR: '1' },
  });
  child.stdin.end();
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { status: await ended, stdout, stderr };
}

/** No file may grow beyond 1 KiB: for whoever writes, a disk that is full. */
const fullDisk = 'ulimit -f 2;';

describe('a disk that is full', () => {
  it('leaves the plan in force as it was, and nothing beside it', async () => {
    const folder = path.join(dir, 'plans');
    mkdirSync(folder);
    const [plan, certificate] = [path.join(folder, 'plan.json'), path.join(folder, 'certificate.json')];
    expect((await switchyard([...placing, '--out', plan])).status).toBe(0);
    const before = readFileSync(plan, 'utf8');
    const again = [...placing, '--current', plan, '--out', plan, '--certificate', certificate, '--seed', '2'];
    const { status, stdout, stderr } = await inShell(fullDisk, again);
    expect(status).toBe(1);
    expect(stderr).toContain(`error: --out ${plan}: EFBIG`);
    // What was found is told all the same, but not that it was kept.
    expect(stdout).toMatch(/remote nodes per token/);
    expect(stdout).not.toMatch(/wrote/);
    expect(readFileSync(plan, 'utf8')).toBe(before);
    expect(readdirSync(folder)).toEqual(['plan.json']);
  });

  it('costs no measurement', async () => {
    const out = path.join(dir, 'serve.json');
    const flags = ['--concurrency', '1', '--requests', '2', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3'];
    const { status, stdout, stderr } = await inShell(fullDisk, [
      'bench',
      'serve',
      '--url',
      await serve(),
      ...flags,
      '--out',
      out,
      '--json',
    ]);
    expect(status).toBe(1);
    expect(stderr).toContain(`error: --out ${out}: EFBIG`);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'switchyard-bench-serve', errors: 0 });
    expect(readdirSync(dir).filter((name) => name.startsWith('serve.json'))).toEqual([]);
  });

  it('is named with the file that a trace was converted to', async () => {
    const to = path.join(dir, 'converted.trace');
    const { status, stderr } = await inShell(fullDisk, ['trace', 'convert', slice, to]);
    expect([status, stderr]).toEqual([1, expect.stringContaining(`error: trace convert to ${to}: EFBIG`)]);
    expect(readdirSync(dir).filter((name) => name.startsWith('converted'))).toEqual([]);
  });
});

describe('a result', () => {
  it('keeps the mode and the link of the file that it replaces', async () => {
    const [kept, link] = [path.join(dir, 'kept.json'), path.join(dir, 'link.json')];
    writeFileSync(kept, '{}');
    chmodSync(kept, 0o640); // Whatever the umask is.
    symlinkSync(kept, link);
    expect((await switchyard([...placing, '--out', link])).status).toBe(0);
    expect(JSON.parse(readFileSync(kept, 'utf8')).format).toBe('switchyard-plan');
    expect(statSync(kept).mode & 0o777).toBe(0o640);
  });

  it('goes to what is no file at all, too', async () => {
    const { status, stdout } = await switchyard([...placing, '--json', '--out', '/dev/null']);
    expect(status).toBe(0);
    expect(statSync('/dev/null').isFile()).toBe(false);
    const plan = path.join(dir, 'exported.json');
    writeFileSync(plan, JSON.stringify(JSON.parse(stdout).plan));
    const shown = await inShell('', ['place', 'export', plan, '--format', 'vllm', '--out', '/dev/stdout'], '| cat');
    expect(JSON.parse(shown.stdout)).toBeTypeOf('object');
  });

  it.runIf(existsSync('/dev/full'))('that standard output has no room for is an error in one line', async () => {
    for (const args of [['--help'], ['trace', 'info', slice]]) {
      const { status, stderr } = await inShell('', args, '> /dev/full');
      expect([status, stderr]).toEqual([1, expect.stringMatching(/^error: standard output: ENOSPC[^\n]*\n$/)]);
    }
  });
});

describe('readers that go away', () => {
  it('of what stands beside the result take nothing from it', async () => {
    const plan = path.join(dir, 'unheard.json');
    const { child, finished } = start([...placing, '--out', plan]);
    child.stderr.destroy();
    const { status, stdout } = await finished;
    expect([status, stdout]).toEqual([0, expect.stringContaining(`wrote ${plan}`)]);
  });

  it('of `up` end it in order', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const { child, finished } = start(['up', '--port', '0', '--nodes', '1', '--workers-per-node', '1'], { TMPDIR: folder });
    child.stdout.destroy();
    const { status, stderr } = await finished;
    expect([status, stderr]).toEqual([0, expect.stringMatching(/stopping\n$/)]);
    expect(readdirSync(folder)).toEqual([]);
    rmSync(folder, { recursive: true });
  });

  it('leave no secrets behind where `up` is told to stop twice', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const up = start(['up', '--json', '--port', '0', '--nodes', '1', '--workers-per-node', '1', '--grace', '60'], { TMPDIR: folder });
    await until(() => up.output().stdout.includes('\n'));
    const { url } = JSON.parse(up.output().stdout);
    const body = JSON.stringify({ model: 'shunter-16m', prompt: 'It was', max_tokens: 900, ignore_eos: true, stream: true });
    const running = await Promise.all(
      Array.from({ length: 16 }, () =>
        fetch(`${url}/v1/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body }),
      ),
    );
    up.child.kill('SIGINT');
    // Within a second two are one Ctrl-C, which npm passes on.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    up.child.kill('SIGINT');
    expect((await up.finished).status).toBe(130);
    expect(readdirSync(folder)).toEqual([]);
    await Promise.all(running.map((response) => response.body?.cancel().catch(() => {})));
    rmSync(folder, { recursive: true });
  });
});

describe('a reader of the result that goes away', () => {
  it('makes no success of a failure', async () => {
    const url = await serve(() => 'refuse');
    const flags = ['--concurrency', '1', '--requests', '1', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3'];
    const { child, finished } = start(['bench', 'serve', '--url', url, ...flags]);
    child.stdout.destroy();
    expect((await finished).status).toBe(1);
  });
});

describe('colours', () => {
  it.each([
    ['stdout', 'error: '],
    ['stderr', '\x1b[31merror:\x1b[39m '],
  ])('of what goes to stderr, where %s is a terminal', async (terminal, beginning) => {
    const preload = path.join(dir, `${terminal}.cjs`);
    writeFileSync(preload, `process.${terminal}.isTTY = true;`);
    const env = { NODE_OPTIONS: `--require ${preload}`, NO_COLOR: '', FORCE_COLOR: '', CI: '', TERM: 'xterm' };
    const { stderr } = await start(['chat', '--url', 'ftp://x'], env).finished;
    const [line = ''] = stderr.split('\n').filter((text) => text.includes('--url ftp://x'));
    expect(line.startsWith(beginning)).toBe(true);
  });
});

it('what a server says is shown on a terminal, and not obeyed', async () => {
  const preload = path.join(dir, 'terminal.cjs');
  writeFileSync(preload, 'process.stdout.isTTY = true;');
  const flags = ['--concurrency', '1', '--requests', '1', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3'];
  const args = ['bench', 'serve', '--url', await serve(() => 'escape'), ...flags];
  const { stdout } = await start(args, { NODE_OPTIONS: `--require ${preload}` }).finished;
  expect(stdout).toContain('1 request failed at 1 clients: no ␛]0;renamed␇\n');
  expect((await start(args).finished).stdout).toContain('no \u001b]0;renamed\u0007\n');
});

describe('chat from a terminal into a file', () => {
  it('writes answers there, and nothing else', async () => {
    const preload = path.join(dir, 'stdin.cjs');
    writeFileSync(preload, 'process.stdin.isTTY = true;');
    const { child, finished } = start(['chat', '--url', await serve(), '--max-tokens', '1'], { NODE_OPTIONS: `--require ${preload}` });
    child.stdin.end('one\n');
    const { stdout, stderr } = await finished;
    expect(stdout).toBe('t0 \n');
    expect(stderr).toMatch(/^tiny at http:.*; \/help lists commands\n$/);
  });
});

describe('a check that does not hold', () => {
  it('is said on stderr beside the JSON too', async () => {
    const [plan, certificate] = [path.join(dir, 'own.json'), path.join(dir, 'own-certificate.json')];
    expect((await switchyard([...placing, '--out', plan, '--certificate', certificate])).status).toBe(0);
    const { status, stdout, stderr } = await switchyard([
      'place',
      'verify',
      plan,
      slice,
      certificate,
      '--seed',
      '5',
      '--held-out',
      '0.5',
      '--json',
    ]);
    expect(JSON.parse(stdout).ok).toBe(false);
    expect([status, stderr]).toEqual([1, 'error: the certificate does not hold\n']);
  });

  it('is what the last line on stderr says, of a measurement', async () => {
    const flags = ['--concurrency', '2', '--requests', '4', '--warmup', '0', '--prompt-tokens', '8', '--output-tokens', '3', '--json'];
    const url = await serve((_, index) => (index === 3 ? 'cut' : 'answer'));
    const { status, stdout, stderr } = await switchyard(['bench', 'serve', '--url', url, ...flags]);
    expect(JSON.parse(stdout).errors).toBe(1);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/\nerror: 1 request failed or was answered short\n$/)]);
  });
});
