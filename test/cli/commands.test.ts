import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { type Behaviour, completionServerOfTests } from '../../cli/test/completion-server.ts';
import { makeCertificates } from '../../proto/test/certificates.ts';
import { programPath, start, switchyard, until } from './program.ts';

const { serve, requests, close } = completionServerOfTests();

describe('wrong usage', () => {
  it.each([
    [['fly'], /unknown command 'fly'/],
    [['chat', '--fly'], /unknown option '--fly'/],
    [['chat', '--temperature', 'hot'], /'--temperature <number>' argument 'hot' is invalid. It must be a number from 0 to 2/],
    [['chat', '--url', 'ftp://x'], /the scheme must be http or https/],
    [['bench', 'serve', '--concurrency', '1,zero'], /'zero'|1,zero/],
    [['up', '--port', '0', '--host', ''], /'--host <address>' argument '' is invalid. It must not be empty/],
    [['bench', 'serve', '--url', 'http://127.0.0.1:9', '--', '--nodes', '2'], /names one that runs/],
    [['trace', 'info'], /missing required argument 'file'/],
    [['model', 'inspect', '/nowhere/model'], /error: \/nowhere\/model: there is no such folder/],
    [['model', 'verify', '/nowhere/model'], /error: \/nowhere\/model: there is no such folder/],
    [['model', 'inspect', 'docs'], /error: docs: it has no config.json; give a folder in Hugging Face layout/],
    [['model', 'verify', 'models/shunter-16m'], /error: models\/shunter-16m: it has no expected.safetensors/],
    [['bench', 'quality', '--held-out', 'README.md'], /error: --held-out README.md: it is no folder/],
    [['bench', 'serve', '--', '--fly'], /unknown option '--fly'/],
    [
      ['bench', 'quality', '--url', 'http://127.0.0.1:9', '--classes', 'f32'],
      /--classes f32 is for servers that are started here, but --url/,
    ],
    [
      ['bench', 'calibrate', '--listen', 'tcp://127.0.0.1:0', '--dial', 'tcp://127.0.0.1:9'],
      /--listen .* and --dial .* are for two machines/,
    ],
    [['bench', 'calibrate', '--listen', 'anywhere'], /--listen anywhere: address "anywhere" is not scheme/],
    [['bench', 'calibrate', '--dial', 'anywhere'], /--dial anywhere: address "anywhere" is not scheme/],
  ])('%j ends with status 2 and says why', async (args, message) => {
    const { status, stderr, stdout } = await switchyard(args);
    expect(stderr).toMatch(message);
    expect(status).toBe(2);
    expect(stdout).toBe('');
  });

  it('shows help on stdout with status 0', async () => {
    const { status, stdout } = await switchyard(['--help']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/Usage: switchyard/);
  });
});

describe('files', () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'files-'));
  const slice = fileURLToPath(new URL('../../placement/test/fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url));
  afterAll(() => rmSync(dir, { recursive: true }));

  it.each([
    [['trace', 'info', '/nowhere/x.trace'], /cannot read the trace \/nowhere\/x.trace: no such file/],
    [['trace', 'info', dir], /cannot read the trace .*: EISDIR/],
    [['up', '--port', '0', '--replay-routing', '/nowhere/x.trace'], /--replay-routing \/nowhere\/x.trace: there is no such file/],
    [['up', '--port', '0', '--plan', '/dev/zero'], /--plan \/dev\/zero: it has more than 67108864 bytes/],
    [['up', '--port', '0', '--api-key-file', '/nowhere/keys'], /--api-key-file \/nowhere\/keys: no such file/],
    [['trace', 'convert', slice, path.join(dir, 'x.trace.gz')], /x.trace.gz: traces are written unpacked; choose a name without .gz/],
    [['trace', 'record', '--out', path.join(dir, 'x.trace.gz')], /--out .*x.trace.gz: traces are written unpacked/],
    [['trace', 'convert', slice, '/nowhere/x.trace'], /trace convert to \/nowhere\/x.trace: ENOENT/],
    [
      ['trace', 'record', '--out', path.join(dir, 'r.trace'), '--admin-token-file', '/nowhere/token'],
      /--admin-token-file \/nowhere\/token: no such file/,
    ],
    [['place', 'diff', '/dev/zero', '/dev/zero'], /cannot read the plan \/dev\/zero: it has more than 67108864 bytes/],
    [['bench', 'serve', '--url', 'http://127.0.0.1:9', '--out', '/nowhere/x.json'], /--out \/nowhere\/x.json: ENOENT/],
    [['bench', 'exact', '--url', 'http://127.0.0.1:9', '--out', dir], /--out .*: it is a folder/],
    [['bench', 'quality', '--url', 'http://127.0.0.1:9', '--out', '/nowhere/x.json'], /--out \/nowhere\/x.json: ENOENT/],
    [['bench', 'calibrate', '--out', '/nowhere/x.json'], /--out \/nowhere\/x.json: ENOENT/],
  ])('%j that cannot be used are named in one line, before anything else is done', async (args, message) => {
    const { status, stderr } = await switchyard(args);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/ at .*\.js:/);
    expect(status).toBe(2);
  });

  it('of an earlier recording are not replaced unasked, whichever of them are left', async () => {
    for (const name of ['kept.trace.1', 'named.trace.sequences.jsonl']) {
      writeFileSync(path.join(dir, name), 'old');
      const out = path.join(dir, name.split('.').slice(0, 2).join('.'));
      const { status, stderr } = await switchyard(['trace', 'record', '--out', out]);
      expect([status, stderr]).toEqual([2, expect.stringContaining(`${name} exists: --force replaces it`)]);
    }
  });

  it('of expert ids alone are converted and summarised by the shape that is given', async () => {
    const dump = path.join(dir, 'bare.experts.u8');
    writeFileSync(dump, Uint8Array.of(0, 1, 2, 3, 1, 2, 0, 3));
    writeFileSync(path.join(dir, 'bare.seq.u16le'), Uint8Array.of(0, 0, 1, 0));
    const out = path.join(dir, 'bare.trace');
    expect((await switchyard(['trace', 'convert', dump, out])).stderr).toContain('an id dump does not say its shape');
    expect((await switchyard(['trace', 'convert', dump, out, '--shape', '2x2x4'])).status).toBe(0);
    for (const args of [[out], [dump, '--shape', '2x2x4']]) {
      const { stdout } = await switchyard(['trace', 'info', '--json', ...args]);
      expect(JSON.parse(stdout)).toMatchObject({ layers: 2, topK: 2, experts: 4, tokens: 2, sequences: 2 });
    }
  });

  it("that are converted are not replaced unasked, and become their owner's alone", async () => {
    const out = path.join(dir, 'converted.trace');
    writeFileSync(out, 'open to all', { mode: 0o644 });
    const { status, stderr } = await switchyard(['trace', 'convert', slice, out]);
    expect([status, stderr]).toEqual([2, expect.stringContaining('exists: --force replaces it')]);
    const forced = await switchyard(['trace', 'convert', slice, out, '--force', '--json']);
    expect(JSON.parse(forced.stdout)).toMatchObject({ format: 'switchyard-trace-conversion', tokens: 2856, sequences: 48 });
    for (const file of [out, `${out}.sequences.jsonl`]) expect(statSync(file).mode & 0o777).toBe(0o600);
    // Not by themselves, of which a sample would be left.
    const itself = await switchyard(['trace', 'convert', out, out, '--force', '--tokens-max', '100']);
    expect([itself.status, itself.stderr]).toEqual([2, expect.stringContaining('it is the trace that is read')]);
  });

  it('of which a sample is read are not passed off as the whole', async () => {
    const out = path.join(dir, 'sample.trace');
    const info = await switchyard(['trace', 'info', slice, '--tokens-max', '1000', '--json']);
    const { tokens, wholeTokens } = JSON.parse(info.stdout);
    expect([tokens <= 1000, wholeTokens]).toEqual([true, 2856]);
    expect((await switchyard(['trace', 'info', slice, '--tokens-max', '1000'])).stdout).toContain(`a sample of ${tokens} of 2856 tokens (`);
    expect((await switchyard(['trace', 'convert', slice, out, '--tokens-max', '1000'])).stdout).toContain(
      `wrote a sample of ${tokens} of 2856 tokens in `,
    );
    expect((await switchyard(['trace', 'info', slice])).stdout).toContain('\n2856 tokens (');
  });
});

describe('up', () => {
  it('says in one line where traces cannot be kept, and starts nothing', async () => {
    const file = fileURLToPath(import.meta.url);
    const { status, stderr } = await switchyard(['up', '--port', '0', '--trace-dir', path.join(file, 'traces')]);
    expect(stderr).toMatch(/^error: --trace-dir .*commands\.test\.ts/m);
    expect(stderr).not.toMatch(/ at .*\.js:/);
    expect(status).toBe(2);
  });

  it.runIf(process.platform === 'linux')('does not wait for a folder that the system will never make', async () => {
    const { status, stderr } = await switchyard(['up', '--port', '0', '--trace-dir', '/proc/switchyard/traces']);
    expect(stderr).toMatch(/^error: .*\/proc\/switchyard/m);
    expect(status).toBe(2);
  });

  it.skipIf(process.getuid?.() === 0)('says what it may not write, and does not take it for the port', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    chmodSync(folder, 0o500);
    const { status, stderr } = await switchyard(['up', '--port', '0', '--trace-dir', path.join(folder, 'traces')]);
    rmSync(folder, { recursive: true });
    expect([status, stderr]).toEqual([2, expect.stringMatching(/^error: --trace-dir .*: EACCES[^\n]*\n$/)]);
  });
});

describe('bench calibrate --listen', () => {
  it('has no result: what it says goes to stderr, and Ctrl-C is how it ends', async () => {
    const { child, finished, output } = start(['bench', 'calibrate', '--listen', 'tcp://127.0.0.1:0']);
    await until(() => /answering probes on tcp:\/\/127\.0\.0\.1:\d/.test(output().stderr));
    child.kill('SIGINT');
    expect(await finished).toMatchObject({ status: 0, stdout: '' });
  });
});

describe('up --supervised', () => {
  it('ends in order where there is no standard input', async () => {
    const args = [programPath, 'up', '--port', '0', '--nodes', '1', '--workers-per-node', '1', '--supervised'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const stderr = text(child.stderr);
    const [status] = await once(child, 'close');
    expect(await stderr).toMatch(/^stopping$/m);
    expect(status).toBe(0);
  });
});

describe("an address that is nobody's", () => {
  it('is named by the flag that was given', async () => {
    const { status, stderr } = await switchyard(['up', '--port', '0', '--host', 'nowhere.invalid']);
    expect(stderr).toMatch(/^error: --host nowhere\.invalid cannot be resolved/m);
    expect(status).toBe(1);
  });
});

describe('a server that is not there', () => {
  it.each([['chat'], ['bench', 'serve'], ['bench', 'exact']])('%s %s says so in one line', async (...args) => {
    const { status, stderr } = await switchyard([...args.filter(Boolean), '--url', 'http://127.0.0.1:9'], 'hello\n');
    expect(status).toBe(1);
    expect(stderr).toMatch(/nothing answers at http:\/\/127\.0\.0\.1:9/);
    expect(stderr).not.toMatch(/ at .*\.js:/);
  });
});

describe('a server that is something else', () => {
  async function against(listening: net.Server, scheme: string): Promise<{ status: number | null; stderr: string; url: string }> {
    listening.listen(0, '127.0.0.1');
    await once(listening, 'listening');
    const url = `${scheme}://127.0.0.1:${(listening.address() as net.AddressInfo).port}`;
    const { status, stderr } = await switchyard(['chat', '--url', url], 'hello\n');
    listening.close();
    return { status, stderr, url };
  }

  it('is named in one line', async () => {
    const ssh = net.createServer((socket) => void socket.on('error', () => {}).write('SSH-2.0-OpenSSH_9.2\r\n'));
    const other = await against(ssh, 'http');
    expect(other).toMatchObject({ status: 1, stderr: expect.stringMatching(/^error: cannot talk to http:.*: Parse Error: .*\n$/) });
    expect(other.stderr).toContain(other.url);
  });

  const certificates = makeCertificates();
  it.runIf(certificates !== null)('is named in one line where nobody vouches for its certificate', async () => {
    const { cert, key } = certificates!.node;
    const other = await against(tls.createServer({ cert: Buffer.from(cert!), key: Buffer.from(key!) }), 'https');
    expect(other).toMatchObject({ status: 1, stderr: expect.stringMatching(/^error: cannot talk to https:.*: .*certificate.*\n$/) });
    expect(other.stderr).toContain(other.url);
  });
});

describe('a server that hangs', () => {
  it.each([
    ['traffic', [], 130],
    ['traffic', ['--watch'], 0],
    ['trace', ['record', '--out', path.join(os.tmpdir(), `hangs-${process.pid}.trace`)], 130],
  ])('does not keep %s %j from ending on Ctrl-C, with %d', async (command, args, expected) => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const token = path.join(folder, 'token');
    writeFileSync(token, 'secret\n');
    const hanging = net.createServer().listen(0, '127.0.0.1');
    await once(hanging, 'listening');
    const url = `http://127.0.0.1:${(hanging.address() as net.AddressInfo).port}`;
    const running = start([command, ...args, '--url', url, '--admin-token-file', token]);
    const [socket] = (await once(hanging, 'connection')) as [net.Socket];
    await once(socket, 'data');
    running.child.kill('SIGINT');
    const { status, stderr, stdout } = await running.finished;
    socket.destroy();
    hanging.close();
    rmSync(folder, { recursive: true });
    expect([status, stdout]).toEqual([expected, '']);
    expect(stderr).toMatch(command === 'trace' ? /^error: interrupted before .* it may record all the same.*\n$/ : /^$/);
  });
});

describe('chat', () => {
  it('sends the first key of a file that `up` takes', async () => {
    const url = await serve();
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const keys = path.join(folder, 'keys');
    writeFileSync(keys, '# ours\n\nfirst-key alice\nsecond-key bob\n');
    const { status, stderr } = await switchyard(['chat', '--url', url, '--max-tokens', '1', '--api-key-file', keys], 'one\n');
    expect([status, stderr]).toEqual([0, '']);
    expect(requests()[0].authorization).toBe('Bearer first-key');
    writeFileSync(keys, '# none\n');
    const none = await switchyard(['chat', '--url', url, '--api-key-file', keys], 'one\n');
    rmSync(folder, { recursive: true });
    expect([none.status, none.stderr]).toEqual([2, `error: --api-key-file ${keys}: has no key\n`]);
  });

  it('answers every line of its input and keeps the conversation', async () => {
    const url = await serve();
    const { status, stdout, stderr } = await switchyard(
      ['chat', '--url', url, '--max-tokens', '2', '--system', 'Be brief.'],
      'one\ntwo\n/reset\nthree\n/quit\nfour\n',
    );
    expect([status, stderr]).toEqual([0, 'conversation forgotten\n']);
    expect(stdout).toBe('t0 t1 \nt0 t1 \nt0 t1 \n');
    expect(requests().map((r) => (r.body.messages as { content: string }[]).map((m) => m.content))).toEqual([
      ['Be brief.', 'one'],
      ['Be brief.', 'one', 't0 t1 ', 'two'],
      ['Be brief.', 'three'],
    ]);
  });

  it('reports a failed answer, leaves it out of the history, and exits with 1', async () => {
    const url = await serve((_, index) => (index === 0 ? 'refuse' : 'answer'));
    const { status, stdout, stderr } = await switchyard(['chat', '--url', url, '--max-tokens', '1'], 'one\ntwo\n');
    expect(status).toBe(1);
    expect(stderr).toMatch(/the queue is full \(try again in 2 s\)/);
    expect(stdout).toBe('t0 \n');
    expect(requests()[1].body.messages).toEqual([{ role: 'user', content: 'two' }]);
  });
});

describe('chat with a server that goes away', () => {
  it('ends and says so, though its input is still open', async () => {
    const url = await serve();
    const chat = start(['chat', '--url', url, '--max-tokens', '1']);
    chat.child.stdin.write('one\n');
    await until(() => chat.output().stdout === 't0 \n');
    await close();
    chat.child.stdin.write('two\n');
    const { status, stdout, stderr } = await chat.finished;
    expect([status, stdout]).toEqual([1, 't0 \n']);
    expect(stderr).toMatch(/^error: nothing answers at .*\n$/);
  });
});

/** Makes stderr a terminal in the eyes of the program: progress is a bar then, with a clock of its own and the cursor hidden. */
function atTerminal(): Record<string, string> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const preload = path.join(folder, 'preload.cjs');
  writeFileSync(preload, 'process.stderr.isTTY = true;');
  return { NODE_OPTIONS: `--require ${preload}` };
}
const hidden = '\x1b[?25l';
const shown = '\x1b[?25h';

describe('at a terminal', () => {
  it('bench exact ends when it is interrupted, and when it fails, with the cursor shown', async () => {
    let behaviour: Behaviour = 'silent';
    const url = await serve(() => behaviour);
    const args = ['bench', 'exact', '--url', url, '--questions', '1', '--others', '1'];
    const interrupted = start(args, atTerminal());
    await until(() => requests().some(({ path: route }) => route === '/v1/completions'));
    interrupted.child.kill('SIGINT');
    const first = await interrupted.finished;
    expect(first.status).toBe(130);
    expect(first.stderr).toContain(hidden);
    expect(first.stderr.split(hidden).at(-1)).toContain(shown);
    expect(first.stderr).not.toMatch(/error| at .*\.js:/);
    behaviour = 'refuse';
    const failed = await start(args, atTerminal()).finished;
    expect(failed.status).toBe(1);
    expect(failed.stderr.split(hidden).at(-1)).toContain(shown);
    expect(failed.stderr).toMatch(/the server says: the queue is full/);
  });

  it('model verify ends with 130 in the midst of its computing', async () => {
    // Seconds of it.
    const dir = fileURLToPath(new URL('../golden/deepseek_v3', import.meta.url));
    const flags = ['--nodes', '8', '--workers-per-node', '2', '--backend', 'cpu-ref', '--threads', '1'];
    const verify = start(['model', 'verify', dir, ...flags], atTerminal());
    await until(() => verify.output().stderr.includes('case'));
    verify.child.kill('SIGINT');
    const { status, stderr, stdout } = await verify.finished;
    expect([status, stdout]).toEqual([130, '']);
    expect(stderr.split(hidden).at(-1)).toContain(shown);
  });
});

describe('model verify', () => {
  it('says what it found, and in one line what cannot be checked', async () => {
    const dir = fileURLToPath(new URL('../golden/mixtral', import.meta.url));
    const { status, stdout } = await switchyard(['model', 'verify', dir, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'switchyard-verify', status: 'pass', split: { nodes: 2, workers: 4 } });
    expect(status).toBe(0);
    const none = await switchyard(['model', 'verify', '/nowhere']);
    expect(none.stderr).toMatch(/^error: .*\/nowhere/m);
    expect(none.stderr).not.toMatch(/ at .*\.js:/);
    expect(none.status).toBe(2);
  });
});

describe('bench serve', () => {
  const flags = ['--concurrency', '1,2', '--requests', '4', '--warmup', '1', '--prompt-tokens', '8', '--output-tokens', '3'];

  it('prints a report whose fields do not depend on the run, and keeps it', async () => {
    const url = await serve();
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const out = path.join(folder, 'report.json');
    const { status, stdout } = await switchyard(['bench', 'serve', '--url', url, ...flags, '--json', '--out', out]);
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(JSON.parse(readFileSync(out, 'utf8'))).toEqual(report);
    rmSync(folder, { recursive: true });
    expect(report).toMatchObject({
      format: 'switchyard-bench-serve',
      version: 1,
      errors: 0,
      target: { model: 'tiny', switchyard: false },
      workload: { promptTokens: 8 },
    });
    expect(report.levels.map((l: { outputTokens: number }) => l.outputTokens)).toEqual([12, 12]);
    expect(Object.keys(report.levels[0]).sort()).toMatchInlineSnapshot(`
      [
        "cachedTokens",
        "concurrency",
        "errorMessages",
        "errors",
        "interTokenMs",
        "outputTokens",
        "outputTokensPerSecond",
        "promptTokens",
        "requestMs",
        "requests",
        "requestsPerSecond",
        "seconds",
        "time",
        "timePerOutputTokenMs",
        "timeToFirstTokenMs",
        "totalTokensPerSecond",
        "wire",
      ]
    `);
  });

  it('exits with 1 when a request failed', async () => {
    const url = await serve((_, index) => (index === 3 ? 'cut' : 'answer'));
    const { status, stdout } = await switchyard(['bench', '--url', url, ...flags]);
    expect(status).toBe(1);
    expect(stdout).toMatch(/1 request failed at 1 clients/);
  });

  it('takes prompts from a text by the server’s tokenizer', async () => {
    const url = await serve();
    const { status, stdout } = await switchyard([
      'bench',
      'serve',
      '--url',
      url,
      ...flags,
      '--text',
      fileURLToPath(import.meta.url),
      '--json',
    ]);
    expect(status).toBe(0);
    expect(JSON.parse(stdout).workload.prompts).toBe('text as ids');
    expect(
      requests()
        .filter((r) => r.path === '/v1/completions')
        .every((r) => (r.body.prompt as number[]).length === 8),
    ).toBe(true);
  });

  it('refuses prompts that the context cannot hold', async () => {
    const url = await serve();
    const { status, stderr } = await switchyard(['bench', 'serve', '--url', url, '--prompt-tokens', '600']);
    expect(status).toBe(2);
    expect(stderr).toMatch(/--prompt-tokens 600 \+ --output-tokens 64 = 664 exceeds the context of tiny: 512/);
  });
});

describe('doctor', () => {
  it('prints its checks as JSON, each with a fix where one is needed', async () => {
    const { stdout } = await switchyard(['doctor', '--json', '--port', '1']);
    const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; fix: string | null }[] };
    expect(checks.map((check) => check.name)).toEqual(
      expect.arrayContaining(['node', 'native kernels', 'GPU', 'cpus', 'memory', 'memory bandwidth', 'port 1']),
    );
    for (const check of checks) if (check.status === 'warning' || check.status === 'failed') expect(check.fix).toBeTruthy();
    const works = checks.filter((check) => check.status === 'ok').map((check) => check.name);
    expect(works).toEqual(expect.arrayContaining(['link memory', 'link uds', 'link tcp', 'link grpc']));
  });

  it('says which address of a peer would be dialled, and why no other', async () => {
    const listening = net.createServer().listen(0, '127.0.0.1');
    await once(listening, 'listening');
    const { port } = listening.address() as net.AddressInfo;
    const { stdout } = await switchyard([
      ...['doctor', '--json', '--link'],
      ...['nats://127.0.0.1:1/w0', `tcp://127.0.0.1:${port}`, 'uds:///nowhere/w0.sock', 'shm://000000000000/run/w0.shm', 'pigeon://roof'],
    ]);
    listening.close();
    const { checks } = JSON.parse(stdout) as { checks: { name: string; status: string; found: string }[] };
    const links = checks.filter((check) => check.name === 'link');
    expect(links.map((check) => [check.status, check.found.replace(/ .*/, '')])).toEqual([
      ['warning', 'uds:///nowhere/w0.sock:'],
      ['ok', `tcp://127.0.0.1:${port}:`],
      ['warning', 'nats://127.0.0.1:1/w0:'],
      ['absent', 'shm://000000000000/run/w0.shm:'],
      ['absent', 'pigeon://roof:'],
    ]);
    expect(links.map((check) => check.found)).toEqual([
      expect.stringMatching(/ENOENT/),
      expect.stringMatching(/chosen/),
      expect.stringMatching(/no NATS server/),
      expect.stringMatching(/another machine/),
      expect.stringMatching(/no transport pigeon/),
    ]);
  });
});
