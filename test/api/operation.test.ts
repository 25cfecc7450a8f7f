import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { adminToken, type Cluster, events, model, post, startCluster, status, until, untilReady } from './cluster.ts';

const chat = '/v1/chat/completions';
const ask = { model, messages: [{ role: 'user', content: 'Continue: It was a dark night' }], temperature: 0, max_tokens: 8 };
const long = { ...ask, max_tokens: 900, ignore_eos: true };
const admin = { authorization: `Bearer ${adminToken}` };
const alice = { authorization: 'Bearer key-a' };

async function metric(of: Cluster, name: string): Promise<number> {
  const text = await (await fetch(`${of.url}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

describe('workers that come and go', () => {
  let cluster: Cluster;
  beforeAll(async () => {
    cluster = await startCluster({ nodes: 2, workersPerNode: 1, withWorkers: false, flags: ['--home-fill', '1'] });
  });
  afterAll(() => cluster?.stop());

  it('without them the API is not ready, and what is asked meanwhile may be asked again', async () => {
    const ready = await fetch(`${cluster.url}/health/ready`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toEqual({ status: 'not ready', uncovered_experts: 192, missing_workers: 2 });
    expect((await fetch(`${cluster.url}/health/live`)).status).toBe(200);
    const refused = await post(cluster, chat, ask);
    expect(refused.status).toBe(503);
    expect(refused.headers.get('retry-after')).toBe('2');
    expect(refused.json().error).toMatchObject({ code: 'not_ready', message: expect.stringContaining('n0w0, n1w0') });
    // A client of OpenAI tries again by itself, and gets its answer once the workers are there.
    const client = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'none', maxRetries: 20 });
    const asking = client.chat.completions.create(ask as OpenAI.ChatCompletionCreateParamsNonStreaming);
    cluster.startWorker('n0w0');
    cluster.startWorker('n1w0');
    expect((await asking).choices).toHaveLength(1);
  });

  it('one that dies fails what needs it, and all is well when it is back', async () => {
    const before = (await post(cluster, chat, ask)).json();
    // On both homes; more than a client is about to wait for.
    const asked = Array.from({ length: 8 }, (_, i) => post(cluster, chat, { ...long, stream: i % 2 === 0 }));
    await until(async () => (await status(cluster)).workers.every(({ load }) => load >= 3));
    cluster.workers.get('n1w0')!.kill('SIGKILL');
    // Experts are not replicated here, so that every sequence needed the dead worker.
    for (const reply of await Promise.all(asked)) {
      // A stream that had begun ends with an error event, any other answer is a plain 503.
      const begun = reply.status === 200;
      if (begun) expect(reply.text.endsWith('data: [DONE]\n\n')).toBe(true);
      else expect([reply.status, reply.headers.get('retry-after')]).toEqual([503, '2']);
      const { error } = JSON.parse(begun ? reply.text.split('\n\n').at(-3)!.slice('data: '.length) : reply.text);
      expect(['worker_lost', 'expert_unavailable', 'link_closed']).toContain(error.code);
    }
    await untilReady(cluster, false);
    expect((await post(cluster, chat, ask)).json().error.code).toBe('not_ready');
    expect((await fetch(`${cluster.url}/health/live`)).status).toBe(200);
    expect(await metric(cluster, 'switchyard_uncovered_experts')).toBe(96);
    cluster.startWorker('n1w0');
    await untilReady(cluster, true);
    expect((await post(cluster, chat, ask)).json().choices).toEqual(before.choices);
    expect(await metric(cluster, 'switchyard_uncovered_experts')).toBe(0);
    expect(await metric(cluster, 'switchyard_worker_losses_total')).toBe(1);
  });

  it('they find a coordinator that starts again', async () => {
    const before = (await post(cluster, chat, ask)).json();
    await cluster.restartCoordinator();
    await untilReady(cluster, true);
    expect((await post(cluster, chat, ask)).json().choices).toEqual(before.choices);
  });
});

describe('a cluster with keys', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-keys-'));
  const socket = path.join(folder, 'admin.sock');
  let cluster: Cluster;
  beforeAll(async () => {
    const keys = path.join(folder, 'keys');
    writeFileSync(keys, '# keys\nkey-a alice\nkey-b bob\n', { mode: 0o600 });
    cluster = await startCluster({
      workersPerNode: 2,
      flags: ['--api-key-file', keys, '--admin-socket', socket, '--health-port', '0', '--metrics-compat', 'vllm'],
    });
  });
  afterAll(async () => {
    await cluster?.stop();
    rmSync(folder, { recursive: true });
  });

  /** Through the owner's socket. */
  function ofOperator(route: string): Promise<string> {
    return new Promise((resolve, reject) => {
      http
        .get({ socketPath: socket, path: route }, (response) => {
          let body = '';
          response.on('data', (chunk) => {
            body += chunk;
          });
          response.on('end', () => resolve(body));
        })
        .on('error', reject);
    });
  }

  it('has all series of its metrics from the start', async () => {
    const text = await (await fetch(`${cluster.url}/metrics`)).text();
    for (const series of [
      'switchyard_request_success_total{model_name="shunter-16m",finished_reason="stop"} 0',
      'switchyard_request_errors_total{model_name="shunter-16m",code="worker_lost"} 0',
      'switchyard_time_to_first_token_seconds_count{model_name="shunter-16m"} 0',
      'switchyard_dispatch_bytes_total{model_name="shunter-16m",src="n0w0",dst="n0w1",locality="node"}',
      'vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="shunter-16m"} 0',
      'vllm:num_requests_running{model_name="shunter-16m",worker="n0w0"} 0',
    ])
      expect(text).toContain(series);
    // Which experts were used is the operator's to know.
    expect(text).not.toContain('switchyard_expert_tokens_total');
    expect(await ofOperator('/metrics')).toContain('switchyard_expert_tokens_total{model_name="shunter-16m",layer="5",expert="31"} 0');
    // As a linter has it: every family is announced once, names are legal, counters and only they end in _total.
    const families = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, kind]) => [name, kind]);
    expect(new Set(families.map(([name]) => name)).size).toBe(families.length);
    for (const [name, kind] of families) {
      expect(name).toMatch(/^(switchyard_|vllm:)[a-z0-9_]+$/);
      expect(name.endsWith('_total')).toBe(kind === 'counter');
    }
  });

  it('counts what happened', async () => {
    const reply = (await post(cluster, chat, { ...ask, n: 2 }, alice)).json();
    expect(await metric(cluster, 'switchyard_request_success_total')).toBe(2);
    expect(await metric(cluster, 'switchyard_time_to_first_token_seconds_count')).toBe(2);
    expect(await metric(cluster, 'switchyard_inter_token_latency_seconds_count')).toBe(reply.usage.completion_tokens - 2);
    await post(cluster, chat, { ...ask, n: 0 }, alice);
    expect(await metric(cluster, 'switchyard_request_errors_total')).toBe(1);
    await until(async () => (await metric(cluster, 'switchyard_generation_tokens_total')) >= reply.usage.completion_tokens);
    await until(async () => /^switchyard_expert_tokens_total\{.* [1-9]/m.test(await ofOperator('/metrics')));
  });

  it('lets in who has one, and separates tenants', async () => {
    const client = (apiKey: string) => new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey, maxRetries: 0 });
    await expect(client('key-c').models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    for (const [path, body] of [
      [chat, ask],
      ['/v1/switchyard/trace', { on: false }],
    ] as const) {
      const refused = await post(cluster, path, body);
      expect([refused.status, refused.headers.get('www-authenticate')]).toEqual([401, 'Bearer']);
    }
    expect((await post(cluster, '/tokenize', { prompt: 'x' })).status).toBe(401);
    expect((await fetch(`${cluster.url}/health/ready`)).status).toBe(200);
    const request = { model, messages: [{ role: 'user' as const, content: 'The whale. '.repeat(60) }], max_tokens: 1 };
    const cached = async (key: string) => (await client(key).chat.completions.create(request)).usage!.prompt_tokens_details!.cached_tokens;
    expect(await cached('key-a')).toBe(0);
    // What one tenant asked is not to be seen in another's timing.
    expect(await cached('key-b')).toBe(0);
    expect(await cached('key-a')).toBeGreaterThan(100);
  });

  it('shows its status to the operator alone', async () => {
    expect((await fetch(`${cluster.url}/v1/switchyard/status`)).status).toBe(401);
    expect((await fetch(`${cluster.url}/v1/switchyard/status`, { headers: alice })).status).toBe(401);
    const seen = await status(cluster);
    expect(seen).toMatchObject({ ready: true, numericClass: 'bf16' });
    expect(seen.workers.map(({ name, node, state }) => [name, node, state])).toEqual([
      ['n0w0', 'n0', 'ready'],
      ['n0w1', 'n0', 'ready'],
    ]);
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    const bySocket = await new Promise<string>((resolve, reject) => {
      http
        .get({ socketPath: socket, path: '/v1/switchyard/status' }, (response) => {
          let text = '';
          response.on('data', (chunk) => {
            text += chunk;
          });
          response.on('end', () => resolve(text));
        })
        .on('error', reject);
    });
    expect(JSON.parse(bySocket)).toMatchObject({ format: 'switchyard-status', ready: true });
  });

  it('records which experts requests chose, with their domains, in private files, of the tenants named', async () => {
    const route = '/v1/switchyard/trace';
    expect((await post(cluster, route, { on: true, file: 'x' }, alice)).status).toBe(401);
    for (const file of ['../x', '/tmp/x', '', null]) expect((await post(cluster, route, { on: true, file }, admin)).status).toBe(400);
    expect((await post(cluster, route, { on: true, file: 'requests', tenants: ['alice'] }, admin)).status).toBe(200);
    const asked = [
      await post(
        cluster,
        chat,
        { ...ask, messages: [{ role: 'user', content: 'Call me Ishmael.' }], metadata: { domain: 'novels' } },
        alice,
      ),
      await post(
        cluster,
        '/v1/completions',
        { prompt: 'def f(x):', max_tokens: 5, ignore_eos: true },
        { ...alice, 'x-switchyard-domain': 'code' },
      ),
    ];
    await post(cluster, chat, ask, { authorization: 'Bearer key-b' });
    const ended = (await post(cluster, route, { on: false }, admin)).json();
    await post(cluster, chat, ask, alice);
    // The last token is sampled and never computed.
    const tokens = asked.map((reply) => reply.json().usage.total_tokens - 1);
    const file = path.join(cluster.traceDir, 'requests-0000.trace');
    expect(ended).toMatchObject({ on: false, sequences: 2, droppedRows: 0, rows: tokens[0] + tokens[1], files: [file] });
    expect(readdirSync(cluster.traceDir).filter((name) => name.endsWith('.trace'))).toHaveLength(1);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const bytes = readFileSync(file);
    const headerEnd = bytes.indexOf(10);
    const header = JSON.parse(bytes.subarray(0, headerEnd).toString());
    expect(header).toMatchObject({ format: 'switchyard-trace', model, experts: 32, topK: 4, moeLayers: [0, 1, 2, 3, 4, 5] });
    const recordBytes = 9 + 6 * 4;
    expect(bytes.length - headerEnd - 1).toBe((tokens[0] + tokens[1]) * recordBytes);
    const lines = readFileSync(`${file}.sequences.jsonl`, 'utf8').trim().split('\n');
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { sequence: 0, domain: 'novels', tokens: tokens[0] },
      { sequence: 1, domain: 'code', tokens: tokens[1] },
    ]);
  });

  it('answers for its health from a thread of its own too', async () => {
    const of = async (base: string) =>
      (await (await fetch(`${base}/health/progress`)).json()) as { status: string; running: number; last_step_age_ms: number };
    expect(await of(cluster.url)).toMatchObject({ status: 'idle', running: 0, last_step_age_ms: null, last_rebalance: null });
    const running = post(cluster, chat, long, alice);
    await until(async () => (await of(cluster.healthUrl!)).running === 1);
    const busy = await of(cluster.healthUrl!);
    expect(busy.status).toBe('ok');
    expect(busy.last_step_age_ms).toBeLessThan(5_000);
    for (const question of ['', '/live', '/ready', '/progress'])
      expect((await fetch(`${cluster.healthUrl}/health${question}`)).status).toBe(200);
    expect((await fetch(`${cluster.healthUrl}/metrics`)).status).toBe(404);
    await running;
  });
});

describe('a small cluster', () => {
  let cluster: Cluster | null = null;
  afterEach(async () => {
    await cluster?.stop();
    cluster = null;
  });

  it('runs so many, lets so many wait, and refuses the rest at once', async () => {
    cluster = await startCluster({ flags: ['--requests-running-max', '2', '--requests-waiting-max', '3'] });
    const running = [1, 2, 3, 4, 5].map(() => post(cluster!, chat, { ...long, max_tokens: 400 }));
    await until(async () => (await status(cluster!)).requests.waiting === 3);
    const refused = await post(cluster, chat, ask);
    expect(refused.status).toBe(503);
    expect(refused.headers.get('retry-after')).toBe('1');
    expect(refused.json().error).toMatchObject({ code: 'queue_full', message: expect.stringContaining('limits of 2 and 3') });
    // All or none: two choices do not fit where one might.
    expect((await post(cluster, chat, { ...ask, n: 2 })).status).toBe(503);
    for (const reply of await Promise.all(running)) expect(reply.status).toBe(200);
    expect((await status(cluster)).requests).toMatchObject({ running: 0, waiting: 0 });
  });

  it('tells a worker that stands still, and on SIGTERM lets running requests end', async () => {
    cluster = await startCluster({ flags: ['--health-port', '0', '--stall-ms', '300', '--live-ms', '60000', '--ping-ms', '100'] });
    const stalled = post(cluster, chat, { ...long, stream: true });
    await until(async () => (await status(cluster!)).requests.running === 1);
    cluster.workers.get('n0w0')!.kill('SIGSTOP');
    await until(async () => (await fetch(`${cluster!.healthUrl}/health/progress`)).status === 503);
    expect(await (await fetch(`${cluster.url}/health/progress`)).json()).toMatchObject({ status: 'stalled' });
    expect((await fetch(`${cluster.healthUrl}/health/live`)).status).toBe(200);
    cluster.workers.get('n0w0')!.kill('SIGCONT');
    const { text } = await stalled;
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true);
    expect(text).toContain('\n\n: ping\n\n');
    await until(async () => (await fetch(`${cluster!.healthUrl}/health/progress`)).status === 200);

    const running = post(cluster, chat, { ...long, max_tokens: 400 });
    await until(async () => (await status(cluster!)).requests.running === 1);
    const exited = new Promise((resolve) => cluster!.coordinator.once('exit', resolve));
    cluster.coordinator.kill('SIGTERM');
    await until(async () => (await fetch(`${cluster!.url}/health/ready`)).status === 503);
    const refused = await post(cluster, chat, ask);
    expect([refused.status, refused.json().error.code]).toEqual([503, 'shutting_down']);
    const reply = await running;
    expect([reply.status, reply.json().usage.completion_tokens]).toEqual([200, 400]);
    expect(await exited).toBe(0);
  });

  it('ends streams with an error when the grace is over', async () => {
    cluster = await startCluster({ flags: ['--grace-ms', '100'] });
    const running = events(cluster, chat, long);
    await until(async () => (await status(cluster!)).workers[0].load === 1);
    // The stream has begun once anything was generated.
    await until(async () => (await metric(cluster!, 'switchyard_time_to_first_token_seconds_count')) === 1);
    // A terminal that was closed.
    cluster.coordinator.kill('SIGHUP');
    const seen = await running;
    expect(seen.at(-1)).toBe('[DONE]');
    expect(JSON.parse(seen.at(-2)!).error.code).toBe('shutting_down');
  });
});
