import { describe, expect, it } from 'vitest';
import { type Certificate, explain, place, prove, proveStars, proveWindows, transitionsOf, verifyCertificate } from '../src/index.ts';
import { gptOssSlice, testTopology, toyTrace } from './slice.ts';

const quick = { starts: 1, sampleTokens: 1500 };

describe('certificates', () => {
  it('hold for the plan that they were made for, and fail when anything is touched', async () => {
    const trace = await gptOssSlice();
    const { plan, cluster, homes } = await place(trace, testTopology(4, 1, 192), { ...quick, replicas: 0 });
    const certificate: Certificate = JSON.parse(
      JSON.stringify(await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load', 'chain'], rounds: 6 })),
    );
    const verdict = verifyCertificate(plan, trace, certificate);
    expect(verdict.checks.filter((c) => !c.ok)).toEqual([]);
    const tampered = (change: (c: Certificate) => void) => {
      const copy: Certificate = JSON.parse(JSON.stringify(certificate));
      change(copy);
      return verifyCertificate(plan, trace, copy).ok;
    };
    expect(tampered(() => {})).toBe(true);
    expect(
      tampered((c) => {
        c.claims[0].bound += 0.01;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        c.claims[0].score -= 0.01;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        c.claims[1].bound += 0.1;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        if (c.claims[1].kind === 'load') c.claims[1].time[3] *= 1.05;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        c.claims[2].bound -= 0.01;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        if (c.claims[2].kind === 'chain' && c.claims[2].proofs[0].kind === 'star') c.claims[2].proofs[0].before[0] = -5;
      }),
    ).toBe(false);
    expect(
      tampered((c) => {
        if (c.claims[0].kind === 'fan-out') c.claims[0].nodeExperts[2][0]--;
      }),
    ).toBe(false);
    const apart: Certificate = JSON.parse(JSON.stringify(certificate));
    if (apart.claims[1].kind === 'load') apart.claims[1].homes[0] = (apart.claims[1].homes[0] + 1) % 4;
    expect(verifyCertificate(plan, trace, apart).checks).toContainEqual({ ok: false, text: 'the claims are for the same homes' });
    expect(verdict.checks.map(({ text }) => text).join('\n')).toMatch(
      /homes: the node with most has 1\.0\d\d of the mean's tokens; replicas of each node: 192, 192, 192, 192/,
    );
    const other = { ...plan, replicas: plan.replicas.map((l) => l.map((own) => [...own])) };
    other.replicas[0][0] = [(other.replicas[0][0][0] + 1) % 4];
    expect(verifyCertificate(other, trace, certificate).ok).toBe(false);
  });

  it('claim nothing about transitions where there are none', async () => {
    const trace = toyTrace({ layers: 1, experts: 8, topK: 2, sequences: 6, tokensEach: 10 });
    const { plan, cluster, homes } = await place(trace, testTopology(2, 1, 8), { ...quick, model: 'chain', replicas: 0 });
    const certificate = await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load', 'chain'] });
    expect(certificate.claims.map((claim) => claim.kind)).toEqual(['fan-out', 'load']);
    expect(verifyCertificate(plan, trace, certificate).checks.filter((check) => !check.ok)).toEqual([]);
  });

  it('claim nothing about transitions between replicas, and name no link where no row leaves', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 6, tokensEach: 10 });
    const placed = await place(trace, testTopology(2, 1, 16), { ...quick, replicas: 1 });
    const certificate = await prove(placed.plan, placed.cluster, trace, { homes: placed.homes, claims: ['fan-out', 'load', 'chain'] });
    expect(verifyCertificate(placed.plan, trace, certificate).checks.filter((check) => !check.ok)).toEqual([]);
    expect(explain(placed, trace).nodes.map(({ busiestLink }) => busiestLink)).toEqual([null, null]);
  });

  it('windows prove more than stars, and the checker agrees', async () => {
    const full = await gptOssSlice();
    // Four layers and eight experts: small enough for a second.
    const ids = new Uint16Array(full.tokens * 4).map((_, i) => full.ids[(Math.floor(i / 4) * 24 + (i % 4)) * 4] % 8);
    const trace = { ...full, ids, topK: 1, experts: 8, moeLayers: [0, 1, 2, 3] };
    const { plan, cluster, homes } = await place(trace, testTopology(1, 4, 8), {
      ...quick,
      model: 'chain',
      replicas: 0,
      peakMeanMax: Infinity,
    });
    const certificate = await prove(plan, cluster, trace, { homes, claims: ['chain'] });
    const [claim] = certificate.claims;
    if (claim.kind !== 'chain') throw new Error('expected a chain claim');
    const stars = proveStars(transitionsOf(trace, 'top1'), 2);
    const windows = await proveWindows(transitionsOf(trace, 'top1'), stars, {
      parts: 4,
      partExpertsMax: 2,
      width: 4,
      rounds: 8,
      timeLimitMs: 60_000,
    });
    expect(windows.bound).toBeLessThan(stars.bound);
    expect(windows.bound).toBeGreaterThanOrEqual(claim.score);
    expect(verifyCertificate(plan, trace, { ...certificate, claims: [{ ...claim, ...windows }] }).checks.filter((c) => !c.ok)).toEqual([]);
    expect(verifyCertificate(plan, trace, { ...certificate, claims: [{ ...claim, ...windows, bound: windows.bound - 0.001 }] }).ok).toBe(
      false,
    );
  });
});
