import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decideStep, type Schedulable, type StepDecision, type StepLimits } from '../../src/engine/schedule.ts';

const limits: StepLimits = { rows: 16, sequences: 4, logitRows: 8, blockTokens: 4, watermarkBlocks: 1 };

function sequence(length: number, computed: number, overrides: Partial<Schedulable> = {}): Schedulable {
  const blockCount = overrides.blockCount ?? Math.ceil(length / limits.blockTokens);
  return { length, computed, blockCount, exclusiveBlocks: blockCount, everyLogit: false, ...overrides };
}

function decide(running: Schedulable[], waiting: Schedulable[], free: number, using = limits) {
  const out: StepDecision = { rows: new Int32Array(using.sequences), kept: 0, admitted: 0 };
  decideStep(running, waiting, free, using, (s) => ({ blocks: Math.ceil(s.length / using.blockTokens), cached: s.computed }), out);
  return { kept: out.kept, admitted: out.admitted, rows: [...out.rows.slice(0, out.kept + out.admitted)] };
}

describe('decideStep', () => {
  test('decodes go first, prompts share what is left in order', () => {
    expect(decide([sequence(30, 4), sequence(9, 8), sequence(20, 0)], [], 10)).toEqual({ kept: 3, admitted: 0, rows: [15, 1, 0] });
  });

  test('waiting sequences are admitted in order while rows and blocks last', () => {
    expect(decide([sequence(9, 8)], [sequence(8, 0), sequence(12, 0), sequence(4, 0)], 20)).toEqual({
      kept: 1,
      admitted: 2,
      rows: [1, 8, 7],
    });
    expect(decide([sequence(9, 8)], [sequence(8, 0), sequence(12, 0)], 3)).toEqual({ kept: 1, admitted: 1, rows: [1, 8] });
  });

  test('admission leaves the watermark, unless nothing runs', () => {
    expect(decide([sequence(9, 8)], [sequence(8, 0)], 2).admitted).toBe(0);
    expect(decide([], [sequence(8, 0)], 2).admitted).toBe(1);
  });

  test('the youngest is preempted for the oldest, and nobody is admitted then', () => {
    const needy = sequence(9, 8, { blockCount: 2 });
    expect(decide([needy, sequence(5, 4), sequence(5, 4)], [sequence(1, 0)], 0)).toEqual({ kept: 2, admitted: 0, rows: [1, 1] });
  });

  test('one that cannot grow even alone steps back', () => {
    expect(decide([sequence(9, 8, { blockCount: 2 })], [], 0)).toEqual({ kept: 0, admitted: 0, rows: [] });
  });

  test('prompt logprobs take a logit row each, and other prompts stop one row short without one', () => {
    expect(decide([sequence(12, 0, { everyLogit: true }), sequence(6, 0)], [], 9)).toEqual({ kept: 2, admitted: 0, rows: [8, 5] });
  });

  test('never exceeds a limit, and always gives the oldest something when blocks allow', () => {
    const arbitrary = fc
      .record({
        computed: fc.nat({ max: 40 }),
        pending: fc.integer({ min: 1, max: 40 }),
        everyLogit: fc.boolean(),
        missing: fc.nat({ max: 1 }),
      })
      .map(({ computed, pending, everyLogit, missing }) => {
        const blocks = Math.ceil((computed + pending) / limits.blockTokens);
        return sequence(computed + pending, computed, { everyLogit, blockCount: Math.max(0, blocks - missing) });
      });
    fc.assert(
      fc.property(
        fc.array(arbitrary, { maxLength: 4 }),
        fc.array(arbitrary, { maxLength: 6 }),
        fc.nat({ max: 30 }),
        (running, waiting, free) => {
          const { kept, admitted, rows } = decide(running, waiting, free);
          const chosen = [...running.slice(0, kept), ...waiting.slice(0, admitted)];
          expect(chosen.length).toBeLessThanOrEqual(limits.sequences);
          expect(rows.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(limits.rows);
          let logits = 0;
          let blocks = free;
          chosen.forEach((s, i) => {
            const pending = s.length - s.computed;
            expect(rows[i]).toBeLessThanOrEqual(pending);
            logits += s.everyLogit ? rows[i] : Number(rows[i] === pending);
            blocks -= Math.ceil(s.length / limits.blockTokens) - (i < kept ? s.blockCount : 0);
          });
          for (const s of running.slice(kept)) blocks += s.exclusiveBlocks;
          expect(logits).toBeLessThanOrEqual(limits.logitRows);
          expect(blocks).toBeGreaterThanOrEqual(0);
          if (kept > 0) expect(rows.some((r) => r > 0)).toBe(true);
        },
      ),
    );
  });
});
