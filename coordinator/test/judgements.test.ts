import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { contiguousPlan } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ApiKeys } from '../src/api/api-keys.ts';
import { readJsonBody } from '../src/api/body.ts';
import { jsonErrorPosition } from '../src/api/json-position.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';
import { type HealthReading, healthQuestion, judgeHealth } from '../src/health/health-counters.ts';
import { uncoveredExperts } from '../src/membership/coverage.ts';

describe('coverage', () => {
  it('counts pairs without a serving worker', () => {
    const plan = contiguousPlan(
      { type: 'x', moeLayers: [0, 1, 2], experts: 8 },
      [0, 1, 2, 3].map((w) => ({ name: `w${w}`, node: 0 })),
    );
    expect(uncoveredExperts(plan, new Set())).toBe(24);
    expect(uncoveredExperts(plan, new Set([0, 2]))).toBe(12);
    plan.replicas[1][7] = [2, 3];
    expect(uncoveredExperts(plan, new Set([0, 1, 2]))).toBe(5);
    expect(uncoveredExperts(plan, new Set([0, 1, 2, 3]))).toBe(0);
  });
});

describe('health', () => {
  const reading: HealthReading = {
    beatMs: 1_000_000,
    ready: 1,
    draining: 0,
    uncoveredExperts: 0,
    missingWorkers: 0,
    running: 0,
    waiting: 0,
    stepAgeMs: -1,
  };
  const thresholds = { stallMs: 1_000, liveMs: 10_000 };
  const judge = (question: 'live' | 'ready' | 'progress', changes: Partial<HealthReading>, laterMs = 0) =>
    judgeHealth(question, { ...reading, ...changes }, reading.beatMs + laterMs, thresholds);

  it.each([
    ['idle is healthy', 'progress', {}, 0, 200, 'idle'],
    ['busy and stepping', 'progress', { stepAgeMs: 20, running: 3 }, 0, 200, 'ok'],
    ['busy, its step just made', 'progress', { stepAgeMs: 0, running: 3 }, 0, 200, 'ok'],
    ['no step for too long', 'progress', { stepAgeMs: 1_000, running: 3 }, 0, 503, 'stalled'],
    ['no beat for too long', 'progress', {}, 1_000, 503, 'stalled'],
    ['a stall is not death', 'live', { stepAgeMs: 5_000 }, 0, 200, 'ok'],
    ['a long stall is', 'live', { stepAgeMs: 10_000 }, 0, 503, 'stuck'],
    ['a main loop that is stuck', 'live', {}, 10_000, 503, 'stuck'],
    ['a main loop that is busy', 'live', {}, 9_000, 200, 'ok'],
    ['covered', 'ready', {}, 0, 200, 'ok'],
    ['experts missing', 'ready', { ready: 0, uncoveredExperts: 4 }, 0, 503, 'not ready'],
    ['going down', 'ready', { draining: 1 }, 0, 503, 'draining'],
    ['covered, as a main loop said that is busy', 'ready', {}, 9_000, 200, 'ok'],
    ['covered, as a main loop said that is stuck', 'ready', {}, 10_000, 503, 'stuck'],
  ] as const)('%s', (_, question, changes, laterMs, status, word) => {
    const answer = judge(question, changes, laterMs);
    expect([answer.status, answer.body.status]).toEqual([status, word]);
  });

  it('tells ages as of now, and nothing of steps where none is awaited', () => {
    expect(judge('live', { stepAgeMs: 20.4 }, 500).body).toEqual({ status: 'ok', loop_age_ms: 500, last_step_age_ms: 520 });
    expect(judge('live', {}, 500).body).toEqual({ status: 'ok', loop_age_ms: 500, last_step_age_ms: null });
    expect(judge('live', {}, -500).body.loop_age_ms).toBe(0);
  });

  it.each([
    ['/health', 'ready'],
    ['/health/ready', 'ready'],
    ['/health/live', 'live'],
    ['/health/progress', 'progress'],
    ['/health/', null],
    ['/', null],
  ])('is asked for by %s', (path, question) => {
    expect(healthQuestion(path)).toBe(question);
  });
});

describe('where JSON breaks', () => {
  it('is where a byte was spoilt, or later, and never before what precedes it stops being valid', () => {
    fc.assert(
      fc.property(fc.json(), fc.nat(), fc.constantFrom('}', '"', 'x', ',', '\\', '\n', ':'), (text, at, char) => {
        const place = at % (text.length + 1);
        const spoilt = text.slice(0, place) + char + text.slice(place);
        let broken = false;
        try {
          JSON.parse(spoilt);
        } catch {
          broken = true;
        }
        if (!broken) return;
        const position = jsonErrorPosition(spoilt);
        expect(position).toBeGreaterThanOrEqual(0);
        expect(position).toBeLessThanOrEqual(spoilt.length);
        // What stands before the place could still have become JSON: cutting there ends too early, nothing else.
        expect(jsonErrorPosition(spoilt.slice(0, position))).toBe(position);
      }),
      { numRuns: 2_000 },
    );
  });

  it('is where a character stands that no JSON has, however it is laid out', () => {
    const { json } = fc.letrec((tie) => ({
      json: fc.oneof(
        { depthSize: 'small' },
        fc.nat({ max: 999 }),
        fc.boolean(),
        fc.constant(null),
        fc.string({ unit: fc.constantFrom('a', ' ', 'é', '🙂') }),
        fc.array(tie('json'), { maxLength: 3 }),
        fc.dictionary(fc.constantFrom('a', 'b c', ''), tie('json')),
      ),
    }));
    fc.assert(
      fc.property(json, fc.constantFrom(0, 1, '\t', '\r\n '), fc.nat(), (value, space, at) => {
        const text = `\n ${JSON.stringify(value, null, space)} `;
        const place = at % (text.length + 1);
        expect(jsonErrorPosition(`${text.slice(0, place)}\0${text.slice(place)}`)).toBe(place);
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    ['', 0],
    ['[', 1],
    ['[1,]', 3],
    ['[,1]', 1],
    ['[1 2]', 3],
    ['[1}', 2],
    ['{"a":1]', 6],
    ['{"a":1,}', 7],
    ['{"a" 1}', 5],
    ['{a:1}', 1],
    ['{"a"}', 4],
    ['{"a":}', 5],
    ['{} {}', 3],
    ['[01]', 1],
    ['nul', 3],
    ['nulL', 3],
    ['[tru]', 4],
    ['["\\x"]', 2],
    ['["\\u12g4"]', 2],
    ['"a', 2],
  ])('in %j is at %i', (text, position) => {
    expect(jsonErrorPosition(text)).toBe(position);
  });

  it('is found behind a string of any length', () => {
    const text = `{"a":"${'x'.repeat(16_000_000)}","b":}`;
    expect(jsonErrorPosition(text)).toBe(text.length - 1);
    expect(jsonErrorPosition(text.slice(0, -8))).toBe(text.length - 8);
  });
});

describe('a byte that is no UTF-8', () => {
  it('is found behind any number of characters that stand for one', async () => {
    const count = 200_000;
    const body = Buffer.concat([Buffer.from(`"é${'\ufffd'.repeat(count)}`), Buffer.from([0xe2, 0x82])]);
    const request = Object.assign(Readable.from([body], { objectMode: false }), { headers: { 'content-type': 'application/json' } });
    const started = performance.now();
    await expect(
      readJsonBody({ request: request as unknown as IncomingMessage, body: LeasedMemory.ofBodies(body.length).lease() }, body.length),
    ).rejects.toThrow(`byte ${3 + 3 * count} cannot`);
    // Looking at all that precedes each of them would take many times as long.
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});

describe('keys', () => {
  it('name tenants', () => {
    const keys = new ApiKeys(['# a comment', '', 'k1 alice', ' k2 ', 'k3\talice', 'k1 alice'], 'keys');
    expect(keys.tenantOf('Bearer k1')).toBe('alice');
    expect(keys.tenantOf('bearer  k3')).toBe('alice');
    expect(keys.tenantOf('Bearer k2')).toMatch(/^key-[0-9a-f]{12}$/);
    for (const header of [undefined, '', 'k1', 'Bearer', 'Bearer k4', 'Basic k1', 'Bearer # ', 'Bearer k1 k1'])
      expect(keys.tenantOf(header)).toBeNull();
  });

  it.each([
    [['k1 alice', 'k2 alice smith'], 'keys: line 2 has 3 words; a key and the name of its tenant are needed'],
    [['', 'k1 alice # hers'], 'keys: line 2 has 4 words; a key and the name of its tenant are needed'],
    [['k1 alice', '# his', 'k1 bob'], 'keys: line 3 gives the tenant bob a key that is of alice'],
    [[`k1 ${'x'.repeat(129)}`], 'keys: line 1 names a tenant of 129 characters; the limit is 128'],
    [[`k1 ${'x'.repeat(128)}`], 'taken'],
  ])('whose tenant is not plain are refused, and not shown', (lines, told) => {
    const read = () => {
      new ApiKeys(lines, 'keys');
      throw new Error('taken');
    };
    expect(read).toThrow(told);
  });
});
