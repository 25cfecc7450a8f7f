import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { becomes } from '../../test/becomes.ts';
import { ApiClient, ApiError } from '../src/api/client.ts';
import { preferModel, selectModel } from '../src/api/models.ts';
import { distribution } from '../src/load/distribution.ts';
import { randomIdPrompts, textIdPrompts, textPlaces, textPrompts, tokenizeByServer, vocabOf, windowPlaces } from '../src/load/prompts.ts';
import { serveBench } from '../src/load/serve-bench.ts';
import { timedCompletion } from '../src/load/timed-completion.ts';
import type { Behaviour, CompletionServer } from './completion-server.ts';
import { startCompletionServer } from './completion-server.ts';

let server: CompletionServer;
let client: ApiClient;

async function start(behave: (body: Record<string, unknown>, index: number) => Behaviour, timeoutMs = 10_000): Promise<void> {
  server = await startCompletionServer(behave);
  client = new ApiClient({ url: `${server.url}/v1/`, apiKey: null, timeoutMs });
}

afterEach(async () => {
  client.close();
  await server.close();
});

const request = { model: 'tiny', prompt: [300, 301, 302], maxTokens: 5, temperature: 0, ignoreEos: true, extra: {} };

describe('timed completion', () => {
  it('counts tokens and chunks, in order, from the server it measures', async () => {
    await start(() => 'answer');
    const seen = await timedCompletion(client, request);
    expect(seen).toMatchObject({ error: null, promptTokens: 3, outputTokens: 5, finishReason: 'length' });
    expect(seen.chunkMs).toHaveLength(5);
    expect([seen.startMs, ...seen.chunkMs, seen.endMs]).toEqual([seen.startMs, ...seen.chunkMs, seen.endMs].sort((a, b) => a - b));
    expect(server.requests[0]).toMatchObject({
      path: '/v1/completions',
      body: { prompt: [300, 301, 302], max_tokens: 5, ignore_eos: true, stream: true, stream_options: { include_usage: true } },
    });
  });

  it('sends messages to the chat endpoint', async () => {
    await start(() => 'answer');
    const seen = await timedCompletion(client, { ...request, prompt: [{ role: 'user', content: 'hello' }] });
    expect(seen.error).toBeNull();
    expect(server.requests[0].path).toBe('/v1/chat/completions');
  });

  it.each(['linger', 'cut-late'] as const)('ends with [DONE], whatever a server does with its connection then (%s)', async (behaviour) => {
    await start(() => behaviour);
    expect(await timedCompletion(client, request)).toMatchObject({ error: null, promptTokens: 3, outputTokens: 5 });
    await becomes(() => server.open() === 0);
  });

  it('counts chunks where the server reports no usage', async () => {
    await start(() => 'no-usage');
    expect(await timedCompletion(client, request)).toMatchObject({ error: null, promptTokens: null, outputTokens: 5 });
  });

  it.each<[Behaviour, RegExp]>([
    ['refuse', /queue is full/],
    ['error-event', /n0w1 was lost/],
    ['cut', /closed in the middle|ended without|aborted/],
    ['short', /asked for 5 tokens, got 2/],
  ])('reports %s as an error', async (behaviour, message) => {
    await start(() => behaviour);
    expect((await timedCompletion(client, request)).error).toMatch(message);
  });

  it('gives up on a server that says nothing', async () => {
    await start(() => 'silent', 200);
    expect((await timedCompletion(client, request)).error).toMatch(/within 200 ms/);
  });

  it('reports a server that is not there', async () => {
    await start(() => 'answer');
    await server.close();
    expect((await timedCompletion(client, request)).error).toMatch(/nothing answers at/);
  });
});

describe('an answer that does not end', () => {
  it('is given up on its caller’s wish, with the caller’s reason, however far it has come', async () => {
    await start(() => 'stall');
    const gone = new AbortController();
    const streamed = client.stream('/v1/completions', { max_tokens: 3 }, { onData: () => gone.abort(), signal: gone.signal });
    await expect(streamed).rejects.toMatchObject({ name: 'AbortError' });
    const later = new AbortController();
    const whole = client.post('/v1/completions', { max_tokens: 3 }, later.signal);
    await becomes(() => server.requests.length === 2);
    later.abort(new Error('enough'));
    await expect(whole).rejects.toThrow('enough');
  });

  it('fails in one line when it takes too long', async () => {
    await start(() => 'stall', 300);
    const body = { max_tokens: 3 };
    for (const ask of [() => client.stream('/v1/completions', body, { onData: () => {} }), () => client.post('/v1/completions', body)])
      await expect(ask()).rejects.toMatchObject({
        name: 'CommandFailure',
        message: 'POST /v1/completions: no complete answer within 300 ms',
      });
  });
});

/** What so many calls return. */
const times = <T>(count: number, next: () => T): T[] => Array.from({ length: count }, () => next());

describe('serve bench', () => {
  const bench = (overrides: Partial<Parameters<typeof serveBench>[0]> = {}) =>
    serveBench({
      client,
      model: 'tiny',
      concurrencies: [1, 4],
      requestsAt: (c) => 2 * c,
      warmupAt: () => 1,
      maxTokens: 3,
      temperature: 0,
      ignoreEos: true,
      extra: {},
      promptsFor: (level) => randomIdPrompts(8, 0, 4096, level),
      onProgress: () => {},
      signal: new AbortController().signal,
      ...overrides,
    });

  it('measures each level and leaves the warm-up out', async () => {
    await start(() => 'answer');
    const levels = await bench();
    expect(levels.map((l) => [l.concurrency, l.requests, l.errors, l.promptTokens, l.outputTokens])).toEqual([
      [1, 2, 0, 16, 6],
      [4, 8, 0, 64, 24],
    ]);
    expect(server.requests).toHaveLength(1 + 2 + 1 + 8);
    expect(server.mostOpen()).toBeLessThanOrEqual(4);
    for (const level of levels) {
      expect(level.timeToFirstTokenMs?.count).toBe(level.requests);
      expect(level.interTokenMs?.count).toBe(level.requests * 2);
      expect(level.outputTokensPerSecond * level.seconds).toBeCloseTo(level.outputTokens);
    }
  });

  it('counts failures and says what they were', async () => {
    await start((_, index) => (index % 2 === 0 ? 'answer' : 'refuse'));
    const [level] = await bench({ concurrencies: [2], requestsAt: () => 6, warmupAt: () => 0 });
    expect(level).toMatchObject({ requests: 6, errors: 3, errorMessages: [{ message: 'the queue is full', count: 3 }], outputTokens: 9 });
  });

  it('makes no prompt before its request', async () => {
    await start(() => 'answer');
    const stop = new AbortController();
    let made = 0;
    const promptsFor = () => () => {
      made++;
      return [300];
    };
    const onProgress = (done: number) => done === 4 && stop.abort();
    await bench({ concurrencies: [2], requestsAt: () => 1_000_000, promptsFor, signal: stop.signal, onProgress });
    expect(made).toBe(server.requests.length);
  });

  it('stops when told to', async () => {
    await start(() => 'answer');
    const stop = new AbortController();
    const levels = await bench({ concurrencies: [1, 1, 1], signal: stop.signal, onProgress: (done) => done === 4 && stop.abort() });
    expect(levels).toHaveLength(1);
  });
});

describe('prompts', () => {
  it('have exactly the tokens asked for, share exactly what is asked, and repeat by seed', async () => {
    await start(() => 'answer');
    const prompts = times(6, randomIdPrompts(20, 5, 4096, 7));
    expect(prompts).toEqual(times(6, randomIdPrompts(20, 5, 4096, 7)));
    expect(prompts.every((p) => p.length === 20 && p.every((id) => id >= 256 && id < 4096))).toBe(true);
    expect(new Set(prompts.map((p) => p.slice(0, 5).join())).size).toBe(1);
    expect(new Set(prompts.map((p) => p[5])).size).toBeGreaterThan(1);
    // A small vocabulary has no ids beyond its own.
    const ids = times(6, randomIdPrompts(20, 0, 128, 7)).flat();
    expect(ids.every((id) => id >= 64 && id < 128)).toBe(true);
    expect([vocabOf({ id: 'tiny', meta: { n_vocab: 128 } }), vocabOf({ id: 'tiny' })]).toEqual([128, 4096]);
  });

  it('come from a text by way of the server’s own tokenizer', async () => {
    await start(() => 'answer');
    const ids = await tokenizeByServer(client, 'tiny', 'It was a dark night, and the captain');
    expect(ids).toHaveLength(36);
    for (const prompt of times(4, textIdPrompts(10, ids!, 1, new Set()))) expect(ids!.join()).toContain(prompt.join());
  });

  it.each([
    [[404], null],
    [[405], null],
    [[501], null],
    [[400, 200], [7]],
    [[401, 401], 'refused with 401'],
    [[503, 400], 'refused with 503'],
  ])('are text where the server has no tokenizer, not where it refuses: %j', async (statuses, expected) => {
    await start(() => 'answer');
    const left = [...statuses];
    const post = async () => {
      const status = left.shift()!;
      if (status !== 200) throw new ApiError(status, `refused with ${status}`);
      return { body: { tokens: [7] } };
    };
    const asked = tokenizeByServer({ post } as unknown as ApiClient, 'tiny', 'text');
    if (typeof expected === 'string') await expect(asked).rejects.toThrow(expected);
    else expect(await asked).toEqual(expected);
    expect(left).toEqual([]);
  });
});

describe('windows of a text', () => {
  it('are different in all levels of a run, down to the last one that the text has', async () => {
    await start(() => 'answer');
    const ids = Array.from({ length: 20 }, (_, i) => i);
    const used = new Set<number>();
    const firsts = [1, 2, 3].flatMap((seed) => times(5, textIdPrompts(6, ids, seed, used)).map(([first]) => first));
    expect(firsts.sort((a, b) => a - b)).toEqual(ids.slice(0, windowPlaces(20, 6)));
    expect(textIdPrompts(6, ids, 4, used)).toThrow(/all 15 windows of the text are used/);
    const texts = times(15, textPrompts(6, 'abcdefghijklmnopqrst', 1, new Set()));
    expect(new Set(texts).size).toBe(15);
    expect(texts.every((text) => text.length === 6)).toBe(true);
  });

  it('do not cut in two what JavaScript counts as two characters', async () => {
    await start(() => 'answer');
    const text = 'a🐋b🚢🐋cd🐋';
    for (const chars of [1, 2, 3, 4]) {
      const places = textPlaces(text, chars);
      const texts = times(places, textPrompts(chars, text, 1, new Set()));
      expect(texts.filter((prompt) => !prompt.isWellFormed() || prompt.length < chars)).toEqual([]);
      expect(() => times(places + 1, textPrompts(chars, text, 1, new Set()))).toThrow(/windows of the text are used/);
    }
    expect(textPlaces(text, 3)).toBe([...'a🐋b🚢🐋cd'].length);
  });
});

describe('models', () => {
  it('are chosen by name, or the only one is', async () => {
    await start(() => 'answer');
    expect((await selectModel(client, null)).id).toBe('tiny');
    await expect(selectModel(client, 'huge')).rejects.toThrow(/does not serve huge: it has tiny/);
    expect((await preferModel(client, 'huge')).id).toBe('tiny');
    const both = { get: async () => ({ body: { data: [{ id: 'tiny' }, { id: 'huge' }] } }) } as unknown as ApiClient;
    expect((await preferModel(both, 'huge')).id).toBe('huge');
  });
});

describe('distribution', () => {
  it('takes percentiles by nearest rank', async () => {
    await start(() => 'answer');
    const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
    expect(distribution(hundred)).toEqual({ count: 100, mean: 50.5, p50: 50, p95: 95, p99: 99, max: 100 });
    expect(distribution([])).toBeNull();
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1 }), (values) => {
        const d = distribution(values)!;
        expect(values).toContain(d.p95);
        expect(values.filter((v) => v <= d.p95).length / values.length).toBeGreaterThanOrEqual(0.95);
      }),
    );
  });
});
