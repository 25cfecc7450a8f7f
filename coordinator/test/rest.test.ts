import { errorCatalogue } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bounds } from '../src/bounds.ts';
import { Refusals } from '../src/requests/refusals.ts';
import { restMs } from '../src/requests/rest.ts';

const { failureRestMs, failureRestMsMax, refusalRestMs } = bounds;

describe('the rest of a worker', () => {
  it('is none for what is the fault of a request, and has a bound but for one that shuts down', () => {
    const codes = fc.oneof(fc.constantFrom(...Object.keys(errorCatalogue)), fc.string());
    fc.assert(
      fc.property(codes, fc.integer({ min: 1, max: 10_000 }), (code, failures) => {
        const rest = restMs(code, failures);
        if (code === 'shutting_down') expect(rest).toBe(Number.POSITIVE_INFINITY);
        else if (['invalid_request', 'context_length_exceeded', 'cancelled'].includes(code)) expect(rest).toBe(0);
        else {
          expect(rest).toBeGreaterThanOrEqual(Math.min(refusalRestMs, failureRestMs));
          expect(rest).toBeLessThanOrEqual(failureRestMsMax);
        }
      }),
    );
  });

  it('doubles while it fails, once for all that fails together, and begins anew once it answers', () => {
    const refusals = new Refusals(1);
    let now = 0;
    const restOf = (code: string) => {
      for (let burst = 0; burst < 50; burst++) expect(refusals.note(0, code, now)).toBe(false);
      const began = now;
      while (refusals.isResting(0, now)) now += failureRestMs / 2;
      return (now - began) / failureRestMs;
    };
    expect(Array.from({ length: 7 }, () => restOf('expert_unavailable'))).toEqual([1, 2, 4, 8, 16, 16, 16]);
    refusals.answers(0);
    expect(restOf('deadline_exceeded')).toBe(1);
    refusals.forget(0);
    expect(restOf('internal')).toBe(1);
    expect(refusals.isLeaving(0)).toBe(false);
  });

  it('after a failure does not hide that it shuts down', () => {
    const refusals = new Refusals(1);
    refusals.note(0, 'worker_lost', 0);
    expect(refusals.note(0, 'shutting_down', 1)).toBe(true);
    expect(refusals.isLeaving(0)).toBe(true);
  });
});
