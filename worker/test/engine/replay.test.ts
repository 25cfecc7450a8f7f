import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { MemoryNetwork, type Plan } from '@switchyard/proto';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { type ReplayTrace, readReplayTrace } from '../../src/engine/replay-trace.ts';
import { RoutingReplay } from '../../src/engine/routing-replay.ts';
import { type Answer, InProcessCluster, submitOf } from '../in-process-cluster.ts';
import { type ToyShape, toyModel, toyNative } from './toy-model.ts';

const bytesMax = 4096;
vi.mock('@switchyard/proto', async (original) => {
  const proto = await original<typeof import('@switchyard/proto')>();
  return { ...proto, limits: { ...proto.limits, replayTraceBytesMax: 4096 } };
});

const shape: ToyShape = {
  experts: 6,
  topK: 3,
  moeLayers: 3,
  kvBlocks: 200,
  maxRows: 16,
  maxSequences: 8,
  maxLogitRows: 8,
  maxContext: 256,
  draftMax: 8,
  habits: true,
};
const choices = shape.moeLayers * shape.topK;
/** Tokens of sequence 0, 1, 2; the second is in a domain of its own. */
const lengths = [7, 5, 11];
const domains = ['prose', 'code', 'prose'];
const folder = mkdtempSync(path.join(tmpdir(), 'switchyard-replay-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

/** Expert ids of one token: different ones in each layer, and other ones for each (sequence, position). */
function idsOf(sequence: number, position: number): number[] {
  return Array.from(
    { length: choices },
    (_, i) => (sequence + position * 5 + Math.floor(i / shape.topK) + (i % shape.topK) * 2) % shape.experts,
  );
}

/** A file in which the sequences take turns, as they do in a recording. */
function writeTrace(name: string, change: Record<string, unknown> = {}): string {
  const header = {
    format: 'switchyard-trace',
    version: 1,
    model: 'toy',
    moeLayers: [1, 2, 3],
    experts: 6,
    topK: 3,
    createdAt: '',
    ...change,
  };
  const records: Buffer[] = [];
  for (let position = 0; position < Math.max(...lengths); position++) {
    lengths.forEach((length, sequence) => {
      if (position >= length) return;
      const record = Buffer.alloc(9 + choices);
      record.writeUInt32LE(sequence, 0);
      record.writeUInt32LE(position, 4);
      record.set(idsOf(sequence, position), 9);
      records.push(record);
    });
  }
  const file = path.join(folder, name);
  const bytes = Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...records]);
  writeFileSync(file, name.endsWith('.gz') ? gzipSync(bytes) : bytes);
  const lines = lengths.map((tokens, sequence) => JSON.stringify({ sequence, domain: domains[sequence], tokens }));
  writeFileSync(`${file.replace(/\.gz$/, '')}.sequences.jsonl`, `${lines.join('\n')}\n`);
  return file;
}

/** Expert e of every layer lives on the workers of `holders[e]`. */
function planOf(workers: number, holders: number[][]): Plan {
  return {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 2, 3], experts: shape.experts },
    workers: Array.from({ length: workers }, (_, w) => ({ name: `w${w}`, node: w })),
    replicas: Array.from({ length: shape.moeLayers }, () => holders),
    provenance: null,
  };
}

const plans = [
  planOf(1, [[0], [0], [0], [0], [0], [0]]),
  planOf(2, [[0], [0], [0], [1], [1], [1]]),
  planOf(3, [[0, 2], [1], [2], [0], [0, 1], [2]]),
];

async function withCluster<T>(
  plan: Plan,
  trace: ReplayTrace | null,
  use: (cluster: InProcessCluster) => Promise<T>,
  draftMax = 0,
): Promise<T> {
  const cluster = await InProcessCluster.start({
    native: toyNative,
    models: plan.workers.map((_, w) => {
      const hosted = plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders.includes(w) ? [e] : [])));
      return toyModel(shape, plan.workers.length === 1 ? null : hosted);
    }),
    plan,
    transport: new MemoryNetwork(),
    addressOf: (w) => `memory://w${w}`,
    maxBatchRows: shape.maxRows,
    maxSequences: shape.maxSequences,
    maxLogitRows: shape.maxLogitRows,
    prefixCache: true,
    draftMax,
    rowDeadlineMs: 20_000,
    ...(trace === null ? {} : { replayOf: (model) => new RoutingReplay(trace, model.shape) }),
  });
  try {
    return await use(cluster);
  } finally {
    await cluster.close();
  }
}

const prompt = Array.from({ length: 40 }, (_, i) => (i * 7) % 90);
const requests = [0, 1, 2].map((sequence) => ({ maxTokens: 12, replaySequence: sequence + 1, wantLogprob: true }));

describe('replayed routing', () => {
  const trace = readReplayTrace(writeTrace('toy.trace'));

  test('gives the same bits on 1, 2 and 3 workers, and others than the routers give', async () => {
    const answersOn = (plan: Plan, replayed: ReplayTrace | null) =>
      withCluster(plan, replayed, (cluster) =>
        Promise.all(requests.map((request, i) => cluster.run(i % plan.workers.length, submitOf(prompt, request)))),
      );
    const [alone, ...others] = await Promise.all(plans.map((plan) => answersOn(plan, trace)));
    for (const answers of others) expect(answers).toEqual(alone);
    // The same prompt under other sequences is another computation, which the prefix cache must not mix up.
    expect(new Set(alone.map(({ tokens }) => tokens.join())).size).toBe(3);
    expect((await answersOn(plans[0], null))[0].tokens).not.toEqual(alone[0].tokens);
  });

  test('is that of each position, guessed or not', async () => {
    // How much is guessed hangs on what steps take: here all take the same.
    let nowMs = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => ++nowMs);
    const repeating = Array.from({ length: 30 }, (_, i) => [0, 1, 6, 7][i % 4]);
    const run = (plan: Plan, draftMax: number) =>
      withCluster(
        plan,
        trace,
        async (cluster) => {
          const answers: Answer[] = [];
          for (const request of requests) answers.push(await cluster.run(0, submitOf(repeating, { ...request, maxTokens: 60 })));
          return { answers, accepted: cluster.workers[0].counters.draftTokensAccepted };
        },
        draftMax,
      );
    const { answers, accepted } = await run(plans[0], 0);
    expect(accepted).toBe(0);
    for (const plan of plans) {
      const guessing = await run(plan, 8);
      expect(guessing.answers).toEqual(answers);
      expect(guessing.accepted).toBeGreaterThan(0);
    }
  });

  test('is what the trace says, token by token, from the beginning again after its end', async () => {
    const traced = await withCluster(plans[1], trace, async (cluster) => {
      cluster.workers[1].engine.tracing = true;
      await cluster.run(1, submitOf(prompt, requests[1]));
      return cluster.workers[1].traced;
    });
    const seen = traced.flatMap(({ position, experts }) => {
      const ids = new Uint16Array(experts.buffer, experts.byteOffset, experts.length / 2);
      return Array.from(position, (p, i) => ({ position: p, ids: [...ids.subarray(i * choices, (i + 1) * choices)] }));
    });
    expect(seen.length).toBeGreaterThan(prompt.length);
    for (const { position, ids } of seen) expect(ids).toEqual(idsOf(1, position % lengths[1]));
  });

  test('follows the domain and the number of a request that names no sequence', () => {
    const replay = new RoutingReplay(trace, toyModel(shape, null).shape);
    const sequencesOf = (domain: string) => [6, 7, 8].map((request) => replay.sequenceOf(submitOf([1], { request, domain })));
    expect(sequencesOf('code')).toEqual([1, 1, 1]);
    expect(sequencesOf('prose')).toEqual([0, 2, 0]);
    expect(sequencesOf('unheard of')).toEqual([0, 1, 2]);
    expect(replay.sequenceOf(submitOf([1], { domain: 'code', replaySequence: 3 }))).toBe(2);
  });

  test('of a sequence that the trace does not have is refused', async () => {
    const { error } = await withCluster(plans[0], trace, (cluster) => cluster.run(0, submitOf(prompt, { replaySequence: 4 })));
    expect(error).toMatchObject({ code: 'invalid_request', message: expect.stringContaining('replay_sequence is 3') });
  });

  test('is refused when the trace is of a model of another shape', () => {
    const model = toyModel(shape, null);
    const refusal = (other: Partial<ReplayTrace>) => () => new RoutingReplay({ ...trace, ...other }, model.shape);
    expect(refusal({ layers: 4 })).toThrow('has 4 MoE layers; the model has 3');
    expect(refusal({ experts: 8 })).toThrow('has 8 experts; the model has 6');
    expect(refusal({ topK: 2 })).toThrow('has 2 topK; the model has 3');
  });
});

describe('trace files', () => {
  test('are read packed or not', () => {
    const { file: _, ...plain } = readReplayTrace(writeTrace('same.trace'));
    const { file: __, ...packed } = readReplayTrace(writeTrace('packed.trace.gz'));
    expect(packed).toEqual(plain);
    expect(plain.sequences.map(({ domain, tokens }) => [domain, tokens.length])).toEqual(domains.map((d, i) => [d, lengths[i]]));
  });

  test.each([
    { experts: 256, Ids: Uint8Array },
    { experts: 257, Ids: Uint16Array },
  ])('name $experts experts in $Ids.BYTES_PER_ELEMENT bytes each', ({ experts, Ids }) => {
    const file = path.join(folder, `of-${experts}.trace`);
    const header = { format: 'switchyard-trace', version: 1, model: 'toy', moeLayers: [1], experts, topK: 2, createdAt: '' };
    const write = (tokens: number[][]) => {
      const records = tokens.flatMap((ids) => [Buffer.alloc(9), Buffer.from(Ids.from(ids).buffer)]);
      writeFileSync(file, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...records]));
    };
    const tokens = [
      [experts - 1, 0],
      [1, experts - 2],
    ];
    write(tokens);
    const sequences = [{ domain: '', tokens: [0, 1] }];
    expect(readReplayTrace(file)).toEqual({ file, layers: 1, experts, topK: 2, ids: Ids.from(tokens.flat()), sequences });
    if (experts === 256) return;
    write([...tokens, [0, 257]]);
    expect(() => readReplayTrace(file)).toThrow('names expert 257 in record 2; the limit is 256');
  });

  test.each([
    ['another format', { format: 'other' }, 'is no switchyard-trace'],
    ['an expert that does not exist', { experts: 4 }, 'names expert'],
    ['half a record', { topK: 2 }, 'all whole'],
    ['no layers', { moeLayers: [] }, 'moeLayers'],
    ['layers that are no list', { moeLayers: 'abc' }, 'moeLayers'],
    ['more layers than any model', { moeLayers: Array(1025).fill(1) }, 'moeLayers'],
    ['no experts', { experts: 0 }, 'experts 0'],
    ['more experts than any model', { experts: 4097 }, 'experts 4097'],
    ['half an expert', { experts: 6.5 }, 'experts 6.5'],
    ['no choices', { topK: 0 }, 'topK 0'],
    ['more choices than any model', { topK: 33 }, 'topK 33'],
  ])('with %s are refused by name', (name, change, message) => {
    const file = writeTrace(`${name.replaceAll(' ', '-')}.trace`, change);
    expect(() => readReplayTrace(file)).toThrow(message);
    expect(() => readReplayTrace(file)).toThrow(file);
  });

  test.each([
    ['more than the limit are refused', 'large.trace', bytesMax + 1, `it has more than ${bytesMax} bytes`],
    ['more than the limit once unpacked are refused', 'large.trace.gz', bytesMax + 1, `larger than ${bytesMax} bytes`],
    ['as much as the limit are read', 'fitting.trace', bytesMax, 'is no switchyard-trace'],
    ['as much as the limit once unpacked are read', 'fitting.trace.gz', bytesMax, 'is no switchyard-trace'],
  ])('of %s', (_, name, bytes, message) => {
    const file = path.join(folder, name);
    writeFileSync(file, name.endsWith('.gz') ? gzipSync(Buffer.alloc(bytes, '\n')) : Buffer.alloc(bytes, '\n'));
    expect(() => readReplayTrace(file)).toThrow(message);
  });

  test('with more than the limit of domains beside them are refused', () => {
    const file = writeTrace('domains.trace');
    writeFileSync(`${file}.sequences.jsonl`, Buffer.alloc(bytesMax + 1, '\n'));
    expect(() => readReplayTrace(file)).toThrow(`sequences.jsonl cannot be read: it has more than ${bytesMax} bytes`);
  });

  test('that do not exist are refused', () => {
    expect(() => readReplayTrace(path.join(folder, 'none'))).toThrow('cannot be read');
  });
});
