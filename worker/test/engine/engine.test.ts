import type { Batch } from '@switchyard/native';
import { Finish, MemoryNetwork, type Submit } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { becomes } from '../../../test/becomes.ts';
import { OVERTAKEN_MAX } from '../../src/engine/schedule.ts';
import type { Sequence } from '../../src/engine/sequence.ts';
import { type Answer, InProcessCluster, submitOf } from '../in-process-cluster.ts';
import { alone, runAlone, startToys, toyPlan, toyShape } from './toy-cluster.ts';
import { toyModel, toyNative } from './toy-model.ts';

const promptArbitrary = fc.oneof(
  fc.array(fc.integer({ min: 0, max: 96 }), { minLength: 1, maxLength: 70 }),
  // Shared beginnings, so that the prefix cache has something to find.
  fc.tuple(fc.integer({ min: 1, max: 60 }), fc.nat({ max: 96 })).map(([n, last]) => [...Array.from({ length: n }, (_, i) => i % 5), last]),
);

const requestArbitrary = fc
  .record({
    prompt: promptArbitrary,
    maxTokens: fc.integer({ min: 0, max: 40 }),
    temperature: fc.constantFrom(0, 1, 1.5),
    topK: fc.constantFrom(0, 5),
    topP: fc.constantFrom(1, 0.8),
    frequencyPenalty: fc.constantFrom(0, 0.7),
    seed: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    stopTokens: fc.constantFrom([], [3, 50, 51, 52]),
    minTokens: fc.constantFrom(0, 5),
    wantLogprob: fc.boolean(),
    logprobs: fc.constantFrom(0, 3),
    promptLogprobs: fc.boolean(),
    tenant: fc.constantFrom('a', 'b'),
    prediction: fc.oneof(
      fc.constant([]),
      fc.array(fc.nat({ max: 96 }), { maxLength: 50 }),
      fc.constant(Array.from({ length: 40 }, (_, i) => i % 8)),
    ),
  })
  .map(({ prompt, temperature, topK, topP, frequencyPenalty, seed, ...rest }) =>
    submitOf(prompt, { ...rest, sampling: { ...submitOf([]).sampling, temperature, topK, topP, frequencyPenalty, seed } }),
  );

const planArbitrary = fc.integer({ min: 1, max: 4 }).chain((workers) =>
  fc
    .record({
      nodes: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: workers, maxLength: workers }),
      replicas: fc.array(
        fc.array(fc.uniqueArray(fc.integer({ min: 0, max: workers - 1 }), { minLength: 1, maxLength: workers }), {
          minLength: toyShape.experts,
          maxLength: toyShape.experts,
        }),
        { minLength: toyShape.moeLayers, maxLength: toyShape.moeLayers },
      ),
    })
    .map(({ nodes, replicas }) =>
      toyPlan(
        replicas.map((layer) => layer.map((holders) => [...holders].sort((a, b) => a - b))),
        nodes,
      ),
    ),
);

describe('Engine', () => {
  test('every request gets what it gets alone: any plan, replicas, batch, chunk size, cache size, order of frames', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(requestArbitrary, fc.nat({ max: 3 }), fc.nat({ max: 3 })), { minLength: 1, maxLength: 8 }),
        planArbitrary,
        fc.record({
          maxBatchRows: fc.integer({ min: 1, max: 64 }),
          kvBlocks: fc.integer({ min: 8, max: 60 }),
          prefixCache: fc.boolean(),
          draftMax: fc.constantFrom(0, 1, 8),
          habits: fc.boolean(),
          seed: fc.nat(),
        }),
        async (requests, plan, { maxBatchRows, kvBlocks, prefixCache, draftMax, habits, seed }) => {
          const network = new MemoryNetwork({ seed, delayMs: [0, seed % 2] });
          const cluster = await startToys({ plan, shape: { kvBlocks, habits }, maxBatchRows, prefixCache, draftMax, network });
          const running: Promise<Answer>[] = [];
          for (const [submit, home, pause] of requests) {
            running.push(cluster.run(home % plan.workers.length, submit));
            for (let i = 0; i < pause; i++) await new Promise((resolve) => setImmediate(resolve));
          }
          const answers = await Promise.all(running);
          for (const { engine } of cluster.workers) expect(engine.residency.pool.used).toBe(0);
          await cluster.close();
          expect(answers).toEqual(
            await runAlone(
              requests.map(([submit]) => submit),
              habits,
            ),
          );
        },
      ),
      { numRuns: 120, seed: 20261123 },
    );
  });

  test('preemption happens, and changes nothing', async () => {
    const submits = Array.from({ length: 8 }, (_, i) => submitOf([i, 1, 2], { maxTokens: 60, wantLogprob: true }));
    const cluster = await startToys({ plan: alone, shape: { kvBlocks: 10 } });
    const [{ engine, counters }] = cluster.workers;
    const running = Promise.all(submits.map((submit) => cluster.run(0, submit)));
    await becomes(() => counters.preemptions > 0, { everyMs: 0 });
    // Whoever waits again, after its client had a token, comes before those that have not begun.
    const { waiting } = engine as unknown as { waiting: Sequence[] };
    expect(waiting[0]).toMatchObject({ admittedBefore: true, overtaken: OVERTAKEN_MAX });
    const answers = await running;
    await cluster.close();
    expect(answers).toEqual(await runAlone(submits));
  });

  test('says with the first token how long it waited for a step', async () => {
    // Every look at the clock takes a millisecond: this process may stand still between two submits.
    let nowMs = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => ++nowMs);
    const cluster = await startToys({ plan: alone, shape: { maxSequences: 1 } });
    const submits = [1, 2].map((i) => submitOf([i, 1, 2], { maxTokens: 40 }));
    await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    const [first, second] = submits.map(({ request }) => cluster.workers[0].queuedUs.get(request)!);
    expect([first.length, second.length]).toEqual([40, 40]);
    // The second began after the first had ended.
    expect(second[0]).toBeGreaterThan(first[0]);
    expect(new Set([...first.slice(1), ...second.slice(1)])).toEqual(new Set([0]));
    await cluster.close();
    clock.mockRestore();
  });

  test('no finished token waits for a step over a prompt', async () => {
    // Steps of no time at all: tokens of streams are handed over together.
    const clock = vi.spyOn(performance, 'now').mockReturnValue(1000);
    const cluster = await startToys({ plan: alone, shape: { maxRows: 16 }, prefixCache: false });
    const [{ engine }] = cluster.workers;
    const { model, output } = engine as unknown as {
      model: { lanes: { runWhole(batch: Batch): void }[] };
      output: { empty: boolean };
    };
    const held = { streams: 0, prompts: 0 };
    const [lane] = model.lanes;
    const run = lane.runWhole.bind(lane);
    lane.runWhole = (batch) => {
      if (!output.empty) held[batch.rows > 1 ? 'prompts' : 'streams']++;
      run(batch);
    };
    const stream = cluster.run(0, submitOf([1, 2], { maxTokens: 200 }));
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    const prompts = [3, 4, 5].map((first) =>
      cluster.run(0, submitOf([first, ...Array.from({ length: 60 }, (_, i) => i)], { maxTokens: 1 })),
    );
    await Promise.all([stream, ...prompts]);
    expect(held.prompts).toBe(0);
    expect(held.streams).toBeGreaterThan(20);
    await cluster.close();
    clock.mockRestore();
  });

  test('a prompt that was seen before is found in the cache, but not by another tenant', async () => {
    const cluster = await startToys({ plan: alone });
    const prompt = Array.from({ length: 64 }, (_, i) => i);
    const [worker] = cluster.workers;
    const first = await cluster.run(0, submitOf(prompt, { tenant: 'a', wantLogprob: true }));
    expect(worker.cachedTokens).toBe(0);
    const again = await cluster.run(0, submitOf(prompt, { tenant: 'a', wantLogprob: true }));
    // The block of the last prompt token is always computed.
    expect(worker.cachedTokens).toBe(48);
    await cluster.run(0, submitOf(prompt, { tenant: 'b' }));
    expect(worker.cachedTokens).toBe(48);
    expect(again).toEqual(first);
    expect(worker.counters).toMatchObject({ promptTokens: 3 * 64, prefixQueries: 3 * 64, prefixHits: 48 });
    // Logprobs of a prompt are computed, not looked up.
    await cluster.run(0, submitOf(prompt, { tenant: 'a', promptLogprobs: true }));
    expect(worker.counters).toMatchObject({ promptTokens: 4 * 64, prefixQueries: 3 * 64, prefixHits: 48 });
    await cluster.close();
  });

  test.each([
    ['at once', 0],
    ['while the first is under way', 3],
  ])('choices of one prompt that come %s are computed once, but for what each has for itself', async (_, turns) => {
    const cluster = await startToys({ plan: alone, shape: { maxRows: 16 } });
    const [{ engine, counters }] = cluster.workers;
    const prompt = Array.from({ length: 60 }, (_unused, i) => i);
    const submits = Array.from({ length: 8 }, (_unused, i) => {
      const { sampling } = submitOf([]);
      return submitOf(prompt, { maxTokens: 1, wantLogprob: true, sampling: { ...sampling, temperature: 1, seed: BigInt(i) } });
    });
    const answers = [cluster.run(0, submits[0])];
    for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
    for (const submit of submits.slice(1)) answers.push(cluster.run(0, submit));
    // Another goes on meanwhile.
    const other = cluster.run(0, submitOf([9, 9, 9], { maxTokens: 1 }));
    await new Promise((resolve) => setImmediate(resolve));
    expect([engine.waitingCount, engine.waitingForPrefixCount]).toEqual([0, 7]);
    expect(await Promise.all(answers)).toEqual(await runAlone(submits));
    await other;
    expect(counters.rowsDispatched / toyShape.moeLayers).toBe(60 + 7 * 12 + 3);
    expect(engine.residency.pool.used).toBe(0);
    await cluster.close();
  });

  test('a short request with the beginning of a long one comes before it, whatever is older', async () => {
    const cluster = await startToys({ plan: alone, shape: { maxRows: 16 } });
    const beginning = Array.from({ length: 48 }, (_unused, i) => i % 9);
    const [unrelated, long, short] = [
      submitOf(Array(240).fill(7), { maxTokens: 1 }),
      submitOf([...beginning, ...Array(150).fill(8)], { maxTokens: 1 }),
      submitOf([...beginning, 1, 2, 3], { maxTokens: 1 }),
    ];
    const ended: Submit[] = [];
    await Promise.all(
      [unrelated, long, short].map(async (submit) => {
        await cluster.run(0, submit);
        ended.push(submit);
      }),
    );
    expect(ended).toEqual([short, unrelated, long]);
    await cluster.close();
  });

  test('a long prompt has its turn beside a longer one, however many short ones come after it', async () => {
    const cluster = await startToys({ plan: alone, shape: { maxRows: 16, maxSequences: 4, maxContext: 2000 }, prefixCache: false });
    const ended: string[] = [];
    const run = async (name: string, prompt: number[]) => {
      await cluster.run(0, submitOf(prompt, { maxTokens: 1 }));
      ended.push(name);
    };
    const comeAgain = async () => {
      while (!ended.includes('longer')) await run('short', [1, 2, 3]);
    };
    const all = [run('longer', Array(1500).fill(6)), run('long', Array(120).fill(7)), ...Array.from({ length: 12 }, comeAgain)];
    await Promise.all(all);
    expect(ended.filter((name) => name !== 'short')).toEqual(['long', 'longer']);
    expect(ended.indexOf('long')).toBeLessThan(ended.indexOf('longer') / 2);
    await cluster.close();
  });

  test('a prompt whose beginning is cached comes before one of which more is left', async () => {
    const cluster = await startToys({ plan: alone, shape: { maxRows: 16 } });
    const known = Array.from({ length: 96 }, (_unused, i) => i % 9);
    await cluster.run(0, submitOf(known, { maxTokens: 1 }));
    const ended: string[] = [];
    const run = async (name: string, prompt: number[]) => {
      await cluster.run(0, submitOf(prompt, { maxTokens: 1 }));
      ended.push(name);
    };
    await Promise.all([run('oldest', Array(240).fill(7)), run('new', Array(60).fill(8)), run('known', [...known, 1, 2, 3])]);
    expect(ended).toEqual(['known', 'new', 'oldest']);
    await cluster.close();
  });

  test('without a prefix cache nothing is found, nor looked for', async () => {
    const cluster = await startToys({ plan: alone, prefixCache: false });
    const [{ counters }] = cluster.workers;
    for (let i = 0; i < 2; i++) await cluster.run(0, submitOf(Array(64).fill(1), { maxTokens: 1 }));
    expect(cluster.workers[0].cachedTokens).toBe(0);
    expect(counters).toMatchObject({ promptTokens: 2 * 64, prefixQueries: 0, prefixHits: 0 });
    await cluster.close();
  });

  test('text chosen while decoding has the same logprobs as when it is given as a prompt', async () => {
    const cluster = await startToys({ plan: alone, maxBatchRows: 7 });
    const prompt = [5, 6, 7];
    const spoken = await cluster.run(0, submitOf(prompt, { maxTokens: 30, wantLogprob: true, logprobs: 5 }));
    const given = await cluster.run(0, submitOf([...prompt, ...spoken.tokens], { maxTokens: 0, promptLogprobs: true, logprobs: 5 }));
    expect(given.finish).toBe(Finish.stopWithoutToken);
    expect(given.prompt!.logprob.slice(2)).toEqual(spoken.logprobs);
    expect(given.prompt!.top.slice(2)).toEqual(spoken.top);
    await cluster.close();
  });

  test('a cancelled request ends at once, frees its blocks, and the rest goes on', async () => {
    const cluster = await startToys({ plan: alone });
    const [worker] = cluster.workers;
    const endless = submitOf([1, 2, 3], { maxTokens: 250 });
    const other = submitOf([4, 5], { maxTokens: 50, wantLogprob: true });
    const [ending, staying] = [cluster.run(0, endless), cluster.run(0, other)];
    while (worker.counters.steps < 3) await new Promise((resolve) => setImmediate(resolve));
    const stepsBefore = worker.counters.steps;
    worker.engine.cancel(endless.request);
    const ended = await ending;
    expect(ended.finish).toBe(Finish.cancelled);
    expect(worker.counters.steps - stepsBefore).toBeLessThanOrEqual(1);
    expect([await staying]).toEqual(await runAlone([other]));
    expect(worker.engine.residency.pool.used).toBe(0);
    await cluster.close();
  });

  test('of abandoned requests nothing more is said, not even what waited to be said', async () => {
    const cluster = await startToys({ plan: alone });
    const [worker] = cluster.workers;
    const clock = vi.spyOn(performance, 'now').mockReturnValue(performance.now());
    const running = submitOf([1, 2, 3], { maxTokens: 250 });
    void cluster.run(0, running);
    // The clock stands, so tokens after the first wait for those of later steps.
    while (worker.counters.generatedTokens < 5) await new Promise((resolve) => setImmediate(resolve));
    clock.mockRestore();
    worker.engine.abandonAll();
    worker.open.clear();
    const next = submitOf([4, 5], { maxTokens: 1, request: running.request });
    expect((await cluster.run(0, next)).tokens).toHaveLength(1);
    await cluster.close();
  });

  test('a request that cannot be served is refused with the numbers', async () => {
    const cluster = await startToys({ plan: alone, shape: { kvBlocks: 4 } });
    const long = await cluster.run(0, submitOf(new Array(64).fill(1)));
    expect(long.error).toEqual({
      code: 'context_length_exceeded',
      message: 'the prompt has 64 tokens; with room for one more the limit is 64',
    });
    const strange = await cluster.run(0, submitOf([1, 97]));
    expect(strange.error).toEqual({ code: 'invalid_request', message: 'prompt token 1 is 97; the vocabulary has 97' });
    const full = await cluster.run(0, submitOf(new Array(60).fill(1), { maxTokens: 100 }));
    expect([full.finish, full.tokens.length]).toEqual([Finish.length, 4]);
    await cluster.close();
  });

  test('the waiting queue is bounded', async () => {
    const cluster = await startToys({ plan: alone });
    const answers = await Promise.all(Array.from({ length: 600 }, () => cluster.run(0, submitOf([1], { maxTokens: 1 }))));
    expect(answers.filter(({ error }) => error?.code === 'queue_full')).toHaveLength(600 - 512);
    expect(answers.filter(({ finish }) => finish === Finish.length)).toHaveLength(512);
    await cluster.close();
  });

  test('every second is booked once', async () => {
    const cluster = await startToys({ plan: alone });
    const [{ times }] = cluster.workers;
    times.settle(performance.now());
    const beforeMs = performance.now();
    const before = times.seconds.reduce((a, b) => a + b);
    await Promise.all([1, 2, 3].map((token) => cluster.run(0, submitOf([token], { maxTokens: 60 }))));
    await new Promise((resolve) => setTimeout(resolve, 20));
    times.settle(performance.now());
    const booked = times.seconds.reduce((a, b) => a + b) - before;
    const passed = (performance.now() - beforeMs) / 1000;
    // The turn that wakes the loop and reading the clock itself are all that may be missing.
    expect(booked).toBeLessThanOrEqual(passed + 1e-4);
    expect(booked).toBeGreaterThan(passed * 0.95);
    await cluster.close();
  });

  test('a bill tells what each node holds of what its sequence chose, and the first chunk tells it on the way', async () => {
    const plan = toyPlan(
      Array.from({ length: toyShape.moeLayers }, () => Array.from({ length: toyShape.experts }, (_, e) => (e === 0 ? [0, 1] : [e % 2]))),
      [0, 1],
    );
    const cluster = await startToys({ plan, maxBatchRows: 16 });
    const [worker] = cluster.workers;
    worker.engine.tracing = true;
    const prompt = Array.from({ length: 40 }, (_, i) => i);
    await cluster.run(0, submitOf(prompt, { maxTokens: 60, reportRouting: true }));
    await cluster.run(0, submitOf([7, 8], { maxTokens: 1, reportRouting: true }));
    const [long, short] = worker.bills;
    const [request] = worker.traced.map((rows) => rows.request[0]);
    const held = [0, 0];
    let looked = 0;
    const firstChunk = [0, 0];
    for (const rows of worker.traced) {
      const ids = new Uint16Array(rows.experts.buffer);
      for (let row = 0; row < rows.request.length; row++) {
        const at = rows.position[row];
        if (rows.request[row] !== request || (looked >= 64 && at % 16 !== 0)) continue;
        looked++;
        for (let i = 0; i < toyShape.moeLayers * toyShape.topK; i++) {
          const expert = ids[row * toyShape.moeLayers * toyShape.topK + i];
          for (const node of [0, 1])
            if (expert === 0 || expert % 2 === node) {
              held[node]++;
              if (at < 16) firstChunk[node]++;
            }
        }
      }
    }
    expect(looked).toBe(64 + Math.floor((98 - 64) / 16) + 1);
    expect(long.routing).toEqual({ request, sampled: looked * toyShape.moeLayers * toyShape.topK, held });
    // The second prompt fits into one chunk: there is nothing left to move.
    expect(worker.routing).toEqual([{ request, sampled: 16 * toyShape.moeLayers * toyShape.topK, held: firstChunk }]);
    expect(short.routing.sampled).toBe(2 * toyShape.moeLayers * toyShape.topK);
    await cluster.close();
  });

  test('tracing reports the experts of each token once, whatever was recomputed', async () => {
    const cluster = await startToys({ plan: alone, shape: { kvBlocks: 6 }, maxBatchRows: 5 });
    const [worker] = cluster.workers;
    worker.engine.tracing = true;
    const submits = [
      submitOf([1, 2, 3, 4, 5, 6, 7], { maxTokens: 40 }),
      submitOf([9], { maxTokens: 40 }),
      submitOf([9, 9], { maxTokens: 40 }),
    ];
    await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    expect(worker.counters.preemptions).toBeGreaterThan(0);
    const seen = worker.traced.flatMap(({ request, position, generated }) =>
      Array.from(request, (id, i) => `${id}:${position[i]}:${generated[i]}`),
    );
    const expected = submits.flatMap(({ request, prompt }) =>
      // The last token is never an input.
      Array.from({ length: prompt.length + 39 }, (_, position) => `${request}:${position}:${position >= prompt.length}`),
    );
    expect(seen.sort()).toEqual(expected.sort());
    expect(worker.traced.reduce((bytes, { experts }) => bytes + experts.length, 0)).toBe(
      seen.length * toyShape.moeLayers * toyShape.topK * 2,
    );
    await cluster.close();
  });
});

describe('kernels that refuse a batch', () => {
  test('fail the requests in it with the reason, and the engine goes on', async () => {
    const model = toyModel(toyShape, null);
    const { runWhole } = model;
    const poisoned: typeof model = {
      ...model,
      runWhole: (batch) => {
        if (batch.token.subarray(0, batch.rows).includes(96)) throw new Error('row 0 of layer 1: a router score is NaN');
        runWhole!(batch);
      },
      runSegment: (index, batch) => {
        if (batch.token.subarray(0, batch.rows).includes(96)) throw new Error('row 0 of layer 1: a router score is NaN');
        model.runSegment(index, batch);
      },
    };
    const cluster = await InProcessCluster.start({
      native: toyNative,
      models: [{ ...poisoned, lanes: [poisoned] }],
      plan: alone,
      transport: new MemoryNetwork(),
      addressOf: () => 'memory://w0',
      maxBatchRows: 64,
      maxSequences: 16,
      maxLogitRows: 32,
      prefixCache: true,
      draftMax: 0,
      rowDeadlineMs: 20_000,
    });
    const bad = await cluster.run(0, submitOf([96]));
    expect(bad.error).toEqual({ code: 'internal', message: 'the step failed: row 0 of layer 1: a router score is NaN' });
    const good = submitOf([1, 2], { maxTokens: 3 });
    expect([await cluster.run(0, good)]).toEqual(await runAlone([good]));
    await cluster.close();
  });
});

describe('a worker that dies', () => {
  // Expert 5 of every layer lives on w1 alone; the rest on w0.
  const halves = toyPlan(
    Array.from({ length: toyShape.moeLayers }, () => Array.from({ length: toyShape.experts }, (_, e) => [e === 5 ? 1 : 0])),
    [0, 1],
  );

  test('fails the requests that need it with its name and the layer, and no others; they work again once it is back', async () => {
    const network = new MemoryNetwork();
    const cluster = await startToys({ plan: halves, network, prefixCache: false });
    // One token in eight is routed past expert 5 in all three layers.
    const submits = Array.from({ length: 40 }, (_, i) => submitOf([i], { maxTokens: i % 2 === 0 ? 1 : 12 }));
    const expected = await runAlone(submits);
    const first = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    expect(first).toEqual(expected);

    await cluster.kill(1);
    network.sever('memory://w1');
    const second = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    const failed = second.filter(({ error }) => error !== null);
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(submits.length);
    for (const { error } of failed) {
      expect(error!.code).toBe('expert_unavailable');
      expect(error!.message).toMatch(/w1/);
      expect(error!.message).toMatch(/layer [123]/);
    }
    second.forEach((answer, i) => {
      if (answer.error === null) expect(answer).toEqual(expected[i]);
    });
    expect(cluster.workers[0].engine.residency.pool.used).toBe(0);

    await cluster.revive(1);
    const third = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    expect(third).toEqual(expected);
    await cluster.close();
  });

  test('a worker that does not answer fails its rows at the deadline', async () => {
    const network = new MemoryNetwork();
    const cluster = await startToys({ plan: halves, network, prefixCache: false, rowDeadlineMs: 60 });
    const submits = Array.from({ length: 40 }, (_, i) => submitOf([i], { maxTokens: 1 }));
    const expected = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    network.stall('memory://w1', true);
    const answers = await Promise.all(submits.map((submit) => cluster.run(0, submit)));
    expect(answers.some(({ error }) => error?.code === 'deadline_exceeded' && /w1, layer [123]/.test(error.message))).toBe(true);
    answers.forEach((answer, i) => {
      if (answer.error === null) expect(answer).toEqual(expected[i]);
    });
    await cluster.close();
  });
});
