import { Finish, MemoryNetwork, PredictedText, type Submit } from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Answer, type InProcessWorker, submitOf } from '../in-process-cluster.ts';
import { alone, runAlone, startToys, toyPlan, toyShape } from './toy-cluster.ts';

/** Request, position, whether it was generated, and the experts of each row, in the order in which they were told. */
function tracedBy({ traced }: InProcessWorker): string[] {
  return traced.flatMap(({ request, position, generated, experts }) => {
    const perRow = experts.length / request.length;
    const expertsOf = (i: number) => Buffer.from(experts.subarray(i * perRow, (i + 1) * perRow)).toString('hex');
    return Array.from(request, (r, i) => [r, position[i], generated[i], expertsOf(i)].join(' '));
  });
}

// That guesses change no bit whatever else happens is part of the properties in engine.test.ts and test/exact.
describe('guessing next tokens', () => {
  // How much is guessed hangs on what steps take: here all take the same.
  beforeEach(() => {
    let nowMs = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => ++nowMs);
  });
  afterEach(() => vi.restoreAllMocks());

  test('is right and wrong, and changes nothing but the number of steps', async () => {
    const submits = Array.from({ length: 4 }, (_, i) =>
      submitOf([i, 1, 2], { maxTokens: 80, wantLogprob: true, stopTokens: i === 3 ? [7] : [] }),
    );
    const runs = await Promise.all(
      [0, 8].map(async (draftMax) => {
        const cluster = await startToys({ plan: alone, shape: { habits: true }, draftMax });
        const [worker] = cluster.workers;
        worker.engine.tracing = true;
        const answers: Answer[] = [];
        for (const submit of submits) answers.push(await cluster.run(0, submit));
        await cluster.close();
        return { answers, traced: tracedBy(worker), counters: worker.counters };
      }),
    );
    const [plain, guessing] = runs;
    expect(guessing.answers).toEqual(plain.answers);
    expect(guessing.answers).toEqual(await runAlone(submits, true));
    // What a trace says is what the text chose, not what was guessed.
    expect(guessing.traced).toEqual(plain.traced);
    expect(plain.counters.draftTokens).toBe(0);
    expect(guessing.counters.draftTokensAccepted).toBeGreaterThan(20);
    expect(guessing.counters.draftTokens).toBeGreaterThan(guessing.counters.draftTokensAccepted);
    expect(guessing.counters.generatedTokens).toBe(plain.counters.generatedTokens);
    expect(guessing.counters.steps).toBe(plain.counters.steps - guessing.counters.draftTokensAccepted);
  });

  test('ends where a guessed token is a stop token, or the last that was asked for', async () => {
    const cluster = await startToys({ plan: alone, shape: { habits: true }, draftMax: 8 });
    const submits = Array.from({ length: 12 }, (_, i) =>
      submitOf([20 + i, 0, 1, 6, 7, 0, 1], { maxTokens: 3 + (i % 4), stopTokens: i % 2 === 0 ? [7] : [] }),
    );
    const answers: Answer[] = [];
    for (const submit of submits) answers.push(await cluster.run(0, submit));
    const { draftTokensAccepted, generatedTokens, steps } = cluster.workers[0].counters;
    // A right guess brings a token without a step of its own, unless the one that it is right about is the end.
    expect(draftTokensAccepted).toBeGreaterThan(generatedTokens - steps);
    await cluster.close();
    expect(answers).toEqual(await runAlone(submits, true));
  });

  test('a stream begins with what guesses of earlier ones have come to, and those find out when they are right again', async () => {
    const cluster = await startToys({ plan: alone, shape: { habits: true }, draftMax: 8 });
    const { counters } = cluster.workers[0];
    const { sampling } = submitOf([]);
    const biasToken = Array.from({ length: 97 }, (_, i) => i);
    // Of 32 tokens any may follow, whatever followed before.
    const chatter = (seed: number) =>
      submitOf(
        Array.from({ length: 150 }, (_, i) => (i * i * 7 + i + (i >> 3)) % 32),
        {
          maxTokens: 60,
          sampling: { ...sampling, temperature: 1e6, seed: BigInt(seed), biasToken, biasValue: biasToken.map((i) => (i < 32 ? 0 : -1e9)) },
        },
      );
    const checkedFor = async (submit: Submit) => {
      const { draftTokens } = counters;
      await cluster.run(0, submit);
      return counters.draftTokens - draftTokens;
    };
    const counts: number[] = [];
    for (let i = 0; i < 30; i++) counts.push(await checkedFor(chatter(i)));
    // Each of them would try three times, if it knew nothing of the others.
    expect(counts[0]).toBeGreaterThan(0);
    expect(counts.filter((count) => count === 0).length).toBeGreaterThan(10);
    const steady = () => submitOf([20, 0, 1, 6, 7, 0, 1], { maxTokens: 60, sampling: { ...sampling, biasToken: [4], biasValue: [1e6] } });
    expect(await checkedFor(steady())).toBeGreaterThan(40);
    await cluster.close();
  });

  test('what a client expects is guessed from its first token on, and where it is wrong costs only rows', async () => {
    const cluster = await startToys({ plan: alone, draftMax: 8 });
    const { counters } = cluster.workers[0];
    const { sampling } = submitOf([]);
    // Hot, so that the text repeats nothing that could be guessed from it.
    const spoken = { maxTokens: 60, wantLogprob: true, sampling: { ...sampling, temperature: 1e6, seed: 11n } };
    const plain = submitOf([5, 6], spoken);
    const [answer] = await runAlone([plain]);
    const run = async (prediction: readonly number[]) => {
      const before = { ...counters };
      expect(await cluster.run(0, submitOf([5, 6], { ...spoken, prediction }))).toEqual(answer);
      return { steps: counters.steps - before.steps, accepted: counters.draftTokensAccepted - before.draftTokensAccepted };
    };
    expect(await run([])).toEqual({ steps: 60, accepted: 0 });
    const right = await run(answer.tokens);
    expect(right.accepted).toBeGreaterThan(45);
    expect(right.steps).toBe(60 - right.accepted);
    // A passage of it is another: found again behind.
    expect((await run(answer.tokens.toSpliced(20, 10, 1, 2, 3))).accepted).toBeGreaterThan(30);
    expect((await run(answer.tokens.map((token) => (token + 1) % 97))).accepted).toBe(0);
    await cluster.close();
  });

  test.each([
    [8, 12],
    [0, 0],
  ])(
    'an answer is followed through what its client expects only where somebody guesses: with %i guesses at most, %i tokens',
    async (draftMax, followed) => {
      const push = vi.spyOn(PredictedText.prototype, 'push');
      const cluster = await startToys({ plan: alone, draftMax });
      await cluster.run(0, submitOf([5, 6], { maxTokens: 12, prediction: [7, 8, 9] }));
      await cluster.close();
      expect(push).toHaveBeenCalledTimes(followed);
    },
  );

  test('a prediction that is no text of this model is refused', async () => {
    const cluster = await startToys({ plan: alone, draftMax: 8 });
    for (const [prediction, message] of [
      [[1, 97], 'prediction token 1 is 97; the vocabulary has 97'],
      [Array(5000).fill(1), 'prediction has 5000 tokens; the limit is '],
    ] as const)
      expect((await cluster.run(0, submitOf([1], { prediction }))).error).toMatchObject({
        code: 'invalid_request',
        message: expect.stringContaining(message),
      });
    await cluster.close();
  });

  test('leaves logprobs of prompts alone, also where a last chunk has one token', async () => {
    const cluster = await startToys({ plan: alone, shape: { habits: true }, maxBatchRows: 5, draftMax: 4 });
    const submits = [6, 11].map((length) =>
      submitOf(
        Array.from({ length }, (_, i) => [0, 1, 6, 7][i % 4]),
        { maxTokens: 9, wantLogprob: true, promptLogprobs: true, logprobs: 2 },
      ),
    );
    const answers: Answer[] = [];
    for (const submit of submits) answers.push(await cluster.run(0, submit));
    await cluster.close();
    expect(answers).toEqual(await runAlone(submits, true));
  });

  test('goes no further than the context and max_tokens', async () => {
    const cluster = await startToys({ plan: alone, shape: { habits: true, kvBlocks: 4 }, draftMax: 8 });
    const prompt = Array.from({ length: 40 }, (_, i) => i % 3);
    const full = await cluster.run(0, submitOf(prompt, { maxTokens: 100 }));
    expect([full.finish, full.tokens.length]).toEqual([Finish.length, 24]);
    const { counters } = cluster.workers[0];
    const before = counters.draftTokens;
    expect(before).toBeGreaterThan(0);
    const short = await cluster.run(0, submitOf(prompt, { maxTokens: 2 }));
    expect([short.finish, short.tokens.length]).toEqual([Finish.length, 2]);
    // Nothing that would not be told is guessed.
    expect(counters.draftTokens).toBe(before);
    await cluster.close();
  });

  test('gives cancelled requests the beginning of their text, and traces each position once, with preemption and shared prefixes', async () => {
    const turns = async (count: number) => {
      for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
    };
    const total = { accepted: 0, preemptions: 0, cancelled: 0 };
    for (let round = 0; round < 12; round++) {
      const submits = Array.from({ length: 8 }, (_, i) =>
        submitOf(Array.from({ length: 20 + ((i * 7 + round) % 25) }, (_unused, t) => [0, 1, 6, 7][t % 4]).concat(i % 3), {
          maxTokens: 90,
          wantLogprob: true,
          stopTokens: i % 3 === 0 ? [7] : [],
          minTokens: 3 * i,
        }),
      );
      const cluster = await startToys({ plan: alone, shape: { habits: true, kvBlocks: 12 }, draftMax: 1 + (round % 3) * 15 });
      const [worker] = cluster.workers;
      worker.engine.tracing = true;
      const running = submits.map((submit) => cluster.run(0, submit));
      for (const { request } of submits.slice(0, 3)) {
        await turns(5 + 3 * round);
        worker.engine.cancel(request);
      }
      const answers = await Promise.all(running);
      expect(worker.engine.residency.pool.used).toBe(0);
      await cluster.close();
      const expected = await runAlone(submits, true);
      answers.forEach((answer, i) => {
        if (answer.finish !== Finish.cancelled) expect(answer).toEqual(expected[i]);
        else expect(answer.logprobs).toEqual(expected[i].logprobs.slice(0, answer.logprobs.length));
      });
      const positions = tracedBy(worker).map((row) => row.split(' ', 2).join());
      expect(new Set(positions).size).toBe(positions.length);
      total.accepted += worker.counters.draftTokensAccepted;
      total.preemptions += worker.counters.preemptions;
      total.cancelled += answers.filter(({ finish }) => finish === Finish.cancelled).length;
    }
    for (const count of Object.values(total)) expect(count).toBeGreaterThan(0);
  });

  test('keeps no block for guesses between steps', async () => {
    const cluster = await startToys({ plan: alone, shape: { habits: true }, draftMax: 8 });
    const [{ counters, engine }] = cluster.workers;
    for (let i = 0; i < 4; i++) {
      const submit = submitOf([i, 1, 2], { maxTokens: 150 });
      const before = counters.generatedTokens;
      let answered = false;
      void cluster.run(0, submit).then(() => {
        answered = true;
      });
      while (!answered) {
        await new Promise((resolve) => setImmediate(resolve));
        const known = submit.prompt.length + counters.generatedTokens - before;
        expect(engine.residency.pool.used).toBeLessThanOrEqual(Math.ceil(known / 16));
      }
    }
    expect(counters.draftTokens).toBeGreaterThan(counters.draftTokensAccepted);
    await cluster.close();
  });

  test('fails nobody for a guess that needed it', async () => {
    // One row in eight needs expert 5 of the last layer, which is on w1 alone.
    const experts = 24;
    const replicas = Array.from({ length: toyShape.moeLayers }, (_, layer) =>
      Array.from({ length: experts }, (_unused, e) => [layer === toyShape.moeLayers - 1 && e === 5 ? 1 : 0]),
    );
    const few = toyPlan(replicas, [0, 1]);
    const plan = { ...few, model: { ...few.model, experts } };
    // After 0, 1 the toy's habit is 6, 7, and 0, 1 again.
    const submits = Array.from({ length: 40 }, (_, i) => submitOf([20 + i, 0, 1, 6, 7, 0, 1], { maxTokens: 12, wantLogprob: true }));
    const runs = await Promise.all(
      [0, 8].map(async (draftMax) => {
        const network = new MemoryNetwork();
        const cluster = await startToys({ plan, network, shape: { experts, habits: true }, prefixCache: false, draftMax });
        await cluster.kill(1);
        network.sever('memory://w1');
        const answers: Answer[] = [];
        for (const submit of submits) answers.push(await cluster.run(0, submit));
        const { counters } = cluster.workers[0];
        await cluster.close();
        return { answers: answers.map((answer) => ({ ...answer, error: answer.error?.code })), counters };
      }),
    );
    const failed = runs[0].answers.filter(({ error }) => error === 'worker_lost' || error === 'expert_unavailable');
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.length).toBeLessThan(submits.length);
    expect(runs[1].counters.draftTokensAccepted).toBeGreaterThan(0);
    expect(runs[1].answers).toEqual(runs[0].answers);
  });
});
