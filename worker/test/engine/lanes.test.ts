import { Finish, MemoryNetwork, type Plan, parseFrame, promptLanes, type Transport } from '@switchyard/proto';
import { expect, onTestFinished, test, vi } from 'vitest';
import { laneRows } from '../../src/engine/lanes.ts';
import { type Answer, InProcessCluster, submitOf } from '../in-process-cluster.ts';
import { toyModel, toyNative } from './toy-model.ts';

const shape = { experts: 4, topK: 2, moeLayers: 2, kvBlocks: 200, maxRows: 256, maxSequences: 8, maxLogitRows: 8, maxContext: 512 };
/** Experts 0 and 1 at the home, the others on another node: rows of every chunk leave. */
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [1, 2], experts: shape.experts },
  workers: [0, 1].map((node) => ({ name: `w${node}`, node })),
  replicas: Array.from({ length: shape.moeLayers }, () => [[0], [0], [1], [1]]),
  provenance: null,
};

/** Frames of more rows than a decode step has do not leave while the gate is shut. */
class Gate {
  shut = false;
  private held: (() => void)[] = [];

  through(transport: Transport): Transport {
    return {
      scheme: transport.scheme,
      listen: (address, options, accept) => transport.listen(address, options, accept),
      dial: async (address, options) => {
        const link = await transport.dial(address, options);
        const send = link.send.bind(link);
        link.send = (bytes) => {
          if (!this.shut || parseFrame(bytes).rows <= shape.maxSequences) return send(bytes);
          this.held.push(() => send(bytes));
          return true;
        };
        return link;
      },
    };
  }

  /** What leaves from now on goes through, and what waited but for the first `kept` frames. */
  open(kept = 0): void {
    this.shut = false;
    for (const send of this.held.splice(kept)) send();
  }
}

async function start(gate: Gate, size = shape, prefixCache = false) {
  const models = [0, 1].map((w) =>
    toyModel(
      size,
      plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders[0] === w ? [e] : []))),
    ),
  );
  /** Segments of the home's lanes in the order in which they ran. */
  const ran: { lane: number; segment: number }[] = [];
  models[0].lanes.forEach((lane, index) => {
    const run = lane.runSegment.bind(lane);
    lane.runSegment = (segment, batch) => {
      ran.push({ lane: index, segment });
      run(segment, batch);
    };
  });
  const cluster = await InProcessCluster.start({
    native: toyNative,
    models,
    plan,
    transport: gate.through(new MemoryNetwork()),
    addressOf: (w) => `memory://w${w}`,
    maxBatchRows: size.maxRows,
    maxSequences: shape.maxSequences,
    maxLogitRows: shape.maxLogitRows,
    prefixCache,
    draftMax: 0,
    rowDeadlineMs: 20_000,
  });
  return { cluster, ran };
}

const long = submitOf(
  Array.from({ length: 250 }, (_, i) => (i * 7) % 97),
  { maxTokens: 3, wantLogprob: true },
);

test('a stream goes on while the rows of a prompt are away', async () => {
  const gate = new Gate();
  const { cluster } = await start(gate);
  const stream = cluster.run(0, submitOf([5], { maxTokens: 200 }));
  while (cluster.workers[0].counters.generatedTokens === 0) await new Promise((resolve) => setImmediate(resolve));
  gate.shut = true;
  const prompt = cluster.run(0, long);
  expect((await stream).tokens).toHaveLength(200);
  gate.open();
  expect((await prompt).error).toBeNull();
  await cluster.close();
});

test("the next chunk's attention runs while the rows of a chunk are away, and each chunk keeps behind the one before", async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate);
  await cluster.run(0, submitOf([1], { maxTokens: 1 }));
  const straight = await cluster.run(0, long);
  ran.length = 0;
  gate.shut = true;
  const prompt = cluster.run(0, { ...long, request: long.request + 100_000 });
  const chunks = () => ran.filter(({ lane }) => lane > 0);
  while (chunks().length < 2) await new Promise((resolve) => setImmediate(resolve));
  expect(chunks()).toEqual([
    { lane: 1, segment: 0 },
    { lane: 2, segment: 0 },
  ]);
  gate.open();
  expect(await prompt).toEqual(straight);
  for (let segment = 0; segment <= shape.moeLayers; segment++) {
    const order = chunks().filter((run) => run.segment === segment);
    expect(order.map(({ lane }) => lane)).toEqual([1, 2]);
  }
  await cluster.close();
});

test.each([
  ['as it is', 0],
  ['behind a beginning that is cached', 480],
])('a prompt that is alone is on its way in every lane: %s', async (_, known) => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate, { ...shape, maxRows: 512, kvBlocks: 400, maxContext: 1024 }, true);
  await cluster.run(0, submitOf(Array(known + 1).fill(1), { maxTokens: 1 }));
  ran.length = 0;
  gate.shut = true;
  const prompt = cluster.run(0, submitOf([...Array(known).fill(1), ...Array(500).fill(3)], { maxTokens: 1 }));
  const chunks = () => ran.filter(({ lane }) => lane > 0);
  while (chunks().length < promptLanes) await new Promise((resolve) => setImmediate(resolve));
  expect(chunks().map(({ lane }) => lane)).toEqual(Array.from({ length: promptLanes }, (_, i) => i + 1));
  gate.open();
  expect((await prompt).error).toBeNull();
  await cluster.close();
});

test('lanes of prompts begin one after another, and what comes back for a decode meanwhile goes on between them', async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate, { ...shape, maxRows: 512, kvBlocks: 400, maxContext: 1024 });
  const stream = cluster.run(0, submitOf([5], { maxTokens: 300 }));
  while (cluster.workers[0].counters.generatedTokens === 0) await new Promise((resolve) => setImmediate(resolve));
  ran.length = 0;
  gate.shut = true;
  const prompt = cluster.run(0, submitOf(Array(500).fill(3), { maxTokens: 1 }));
  while (!ran.some(({ lane }) => lane === promptLanes)) await new Promise((resolve) => setImmediate(resolve));
  const begun = ran.filter(({ lane, segment }) => lane > 0 && segment === 0);
  expect(begun.map(({ lane }) => lane)).toEqual(Array.from({ length: promptLanes }, (_, i) => i + 1));
  const between = ran.slice(ran.indexOf(begun[0]), ran.indexOf(begun[2]));
  expect(between.some(({ lane }) => lane === 0)).toBe(true);
  gate.open();
  expect((await prompt).error).toBeNull();
  expect((await stream).tokens).toHaveLength(300);
  await cluster.close();
});

test('a prompt whose first chunk has no logits ends once, when none of its chunks runs any longer', async () => {
  const { cluster, ran } = await start(new Gate());
  const { engine } = cluster.workers[0];
  const { lanes, logits } = (engine as unknown as { model: ReturnType<typeof toyModel> }).model;
  for (const lane of lanes) {
    const run = lane.runSegment.bind(lane);
    lane.runSegment = (segment, batch) => {
      run(segment, batch);
      if (segment === shape.moeLayers && batch.seqPos[0] === 0) logits.f32.fill(Number.NaN);
    };
  }
  const answer = await cluster.run(0, submitOf(long.prompt, { maxTokens: 1, promptLogprobs: true }));
  expect(answer.error).toMatchObject({ code: 'internal', message: expect.stringContaining('sampling failed') });
  const before = ran.length;
  while (engine.workPending) await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(ran.length).toBe(before);
  expect(engine.residency.pool.used).toBe(0);
  await cluster.close();
});

test('steps behind one that failed keep behind those before it', async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate);
  const [{ engine }] = cluster.workers;
  const { lanes } = (engine as unknown as { model: ReturnType<typeof toyModel> }).model;
  const prompts = [0, 1, 2].map((first) =>
    submitOf([first, ...Array.from(long.prompt).slice(0, 127)], { maxTokens: 1, wantLogprob: true }),
  );
  const alone: Answer[] = [];
  for (const prompt of prompts) alone.push(await cluster.run(0, { ...prompt, request: prompt.request + 200_000 }));
  ran.length = 0;
  gate.shut = true;
  const run = lanes[2].runSegment.bind(lanes[2]);
  lanes[2].runSegment = () => {
    lanes[2].runSegment = run;
    throw new Error('out of memory');
  };
  const answers = Promise.all(prompts.map((prompt) => cluster.run(0, prompt)));
  const turns = async () => {
    for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
  };
  await turns();
  // The rows of the first step stay away, whoever else's come back.
  gate.open(1);
  await turns();
  gate.open();
  const [first, second, third] = await answers;
  expect([first, third]).toEqual([alone[0], alone[2]]);
  expect(second.error).toEqual({ code: 'internal', message: 'the step failed: out of memory' });
  for (let segment = 0; segment <= shape.moeLayers; segment++)
    expect(ran.filter((each) => each.segment === segment).map(({ lane }) => lane)).toEqual([1, 3]);
  await cluster.close();
});

test('what ends while a step waits for rows is told at once: a refusal, and a cancelled request that no step has begun', async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate);
  const { engine } = cluster.workers[0];
  await cluster.run(0, submitOf([1], { maxTokens: 1 }));
  ran.length = 0;
  gate.shut = true;
  const prompts = Array.from({ length: shape.maxSequences }, () =>
    cluster.run(0, submitOf(Array.from(long.prompt).slice(0, 128), { maxTokens: 1 })),
  );
  while (ran.length < promptLanes) await new Promise((resolve) => setImmediate(resolve));
  expect((await cluster.run(0, submitOf([97], { maxTokens: 1 }))).error).toMatchObject({ code: 'invalid_request' });
  const waiting = submitOf([1], { maxTokens: 1 });
  const answer = cluster.run(0, waiting);
  engine.cancel(waiting.request);
  expect(await answer).toMatchObject({ finish: Finish.cancelled, tokens: [] });
  gate.open();
  for (const prompt of prompts) expect((await prompt).error).toBeNull();
  await cluster.close();
});

test('a cancelled prompt with a chunk on its way takes no lane from the others', async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate, { ...shape, maxRows: 512, kvBlocks: 400, maxContext: 1024 });
  const [{ engine }] = cluster.workers;
  await cluster.run(0, submitOf([1], { maxTokens: 1 }));
  ran.length = 0;
  gate.shut = true;
  const cancelled = submitOf(Array(500).fill(3), { maxTokens: 1 });
  const end = cluster.run(0, cancelled);
  while (ran.length === 0) await new Promise((resolve) => setImmediate(resolve));
  engine.cancel(cancelled.request);
  const begun = ran.length;
  const answer = cluster.run(0, long);
  for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(ran.length).toBeGreaterThan(begun);
  gate.open();
  expect((await answer).error).toBeNull();
  expect(await end).toMatchObject({ finish: Finish.cancelled });
  await cluster.close();
});

test('what an abandoned request still has in a step is not traced: its number may be that of another by now', async () => {
  const gate = new Gate();
  const { cluster, ran } = await start(gate);
  const [{ engine, open, traced }] = cluster.workers;
  engine.tracing = true;
  await cluster.run(0, submitOf([1], { maxTokens: 1 }));
  const before = traced.length;
  ran.length = 0;
  gate.shut = true;
  void cluster.run(0, long);
  while (ran.length === 0) await new Promise((resolve) => setImmediate(resolve));
  engine.abandonAll();
  open.clear();
  gate.open();
  while (engine.workPending) await new Promise((resolve) => setImmediate(resolve));
  expect([before, traced.length]).toEqual([1, 1]);
  expect(engine.residency.pool.used).toBe(0);
  await cluster.close();
});

test('with fewer rows a step than sequences, whoever has begun to stream goes on', async () => {
  const { cluster } = await start(new Gate(), { ...shape, maxRows: shape.maxSequences / 2 });
  const [{ counters, open }] = cluster.workers;
  const submits = Array.from({ length: shape.maxSequences }, (_, i) => submitOf([i, 1], { maxTokens: 50 }));
  const answers = submits.map((submit) => cluster.run(0, submit));
  /** Of each request, how many tokens it had, and how many steps there had been when the last one came. */
  const last = new Map<number, { tokens: number; step: number }>();
  let stoodStill = 0;
  while (open.size > 0) {
    await new Promise((resolve) => setImmediate(resolve));
    for (const [request, { answer }] of open) {
      const tokens = answer.tokens.length;
      const before = last.get(request);
      if (tokens > 0 && before?.tokens === tokens) stoodStill = Math.max(stoodStill, counters.steps - before.step);
      else last.set(request, { tokens, step: counters.steps });
    }
  }
  for (const answer of answers) expect((await answer).tokens).toHaveLength(50);
  // There are no more steps over prompts than sequences, and a few of decodes may be over before a token is seen here.
  expect(stoodStill).toBeLessThan(2 * shape.maxSequences);
  await cluster.close();
});

test('a mistake in what completes a step ends the process, and does not complete the step again', async () => {
  const { cluster } = await start(new Gate());
  const [{ engine, traced, counters }] = cluster.workers;
  await cluster.run(0, submitOf([1], { maxTokens: 1 }));
  const { steps } = counters;
  engine.tracing = true;
  const mistake = new Error('a trace that nobody can take');
  vi.spyOn(traced, 'push').mockImplementationOnce(() => {
    throw mistake;
  });
  // What would end the process is heard here instead.
  const others = process.listeners('unhandledRejection');
  process.removeAllListeners('unhandledRejection');
  onTestFinished(() => {
    for (const listener of others) process.on('unhandledRejection', listener);
  });
  const ending = new Promise((resolve) => process.once('unhandledRejection', resolve));
  void cluster.run(0, submitOf([1], { maxTokens: 1 }));
  expect(await ending).toBe(mistake);
  expect(counters.steps).toBe(steps);
});

test('the lane of decodes has a row for every sequence, and those of one that guesses', () => {
  const [decodes, prompts] = laneRows({ maxBatchRows: 512, maxSequences: 4, draftMax: 8 });
  expect([decodes, prompts]).toEqual([12, 256]);
  expect(laneRows({ maxBatchRows: 6, maxSequences: 4, draftMax: 8 })[0]).toBe(6);
});
