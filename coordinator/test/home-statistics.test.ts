import { contiguousPlan } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { bounds } from '../src/bounds.ts';
import type { HomePreference } from '../src/requests/home-choice.ts';
import { HomeStatistics, type RequestKind } from '../src/requests/home-statistics.ts';
import { readPlanHomes, readPrediction } from '../src/requests/plan-homes.ts';
import { PrefixMemory, PrefixPoints } from '../src/requests/prefix-memory.ts';

const names = new PrefixPoints();
const prefixPoints = (tenant: string, prompt: number[]) => names.of(tenant, prompt);
const kind = (fields: Partial<RequestKind>): RequestKind => ({ tenant: '', domain: '', points: [], promptTokens: 100, ...fields });
const routing = (held: number[], sampled = 1000) => ({ request: 1, sampled, held });
const shares = (found: HomePreference[]) =>
  found.map((p) => [p.reason, ...Array.from(p.kind === 'nodes' ? p.share : [], (part) => Math.round(part * 100) / 100)]);

describe('home statistics', () => {
  it('learn kinds by what ran, the most particular first', () => {
    const statistics = new HomeStatistics(2, null);
    const points = prefixPoints(
      'a',
      Array.from({ length: 128 }, (_, i) => i),
    );
    statistics.learn(kind({ tenant: 'a', domain: 'code', points }), routing([900, 100]));
    statistics.learn(kind({ tenant: 'b', domain: 'code' }), routing([100, 900]));
    const found = statistics.preferences(kind({ tenant: 'a', domain: 'code', points, promptTokens: 128 }));
    expect(shares(found)).toEqual([
      ['prefix-routing', 0.9, 0.1],
      ['tenant-domain', 0.9, 0.1],
      // 0.9 x 900 + 100 of 0.9 x 1000 + 1000.
      ['domain', 0.48, 0.52],
      ['tenant', 0.9, 0.1],
    ]);
    // A short beginning of a long prompt speaks last.
    const long = statistics.preferences(kind({ tenant: 'a', domain: 'code', points: points.slice(0, 1), promptTokens: 1000 }));
    expect(long.map(({ reason }) => reason)).toEqual(['tenant-domain', 'domain', 'tenant', 'prefix-routing']);
    expect(statistics.preferences(kind({ tenant: 'c', domain: 'verse' }))).toEqual([]);
    expect(statistics.preferences(kind({}))).toEqual([]);
  });

  it('say nothing before enough was seen, and follow what changes', () => {
    const statistics = new HomeStatistics(2, null);
    statistics.learn(kind({ domain: 'code' }), routing([100, 0], 100));
    expect(statistics.preferences(kind({ domain: 'code' }))).toEqual([]);
    for (let i = 0; i < 5; i++) statistics.learn(kind({ domain: 'code' }), routing([100, 0], 100));
    expect(shares(statistics.preferences(kind({ domain: 'code' })))).toEqual([['domain', 1, 0]]);
    for (let i = 0; i < 60; i++) statistics.learn(kind({ domain: 'code' }), routing([0, 100], 100));
    expect(shares(statistics.preferences(kind({ domain: 'code' })))).toEqual([['domain', 0, 1]]);
  });

  it('begin with the 256th pair that was looked at', () => {
    const known = (pairs: number) => {
      const statistics = new HomeStatistics(2, null);
      statistics.learn(kind({ domain: 'code' }), routing([pairs, 0], pairs));
      return statistics.preferences(kind({ domain: 'code' })).length;
    };
    expect([known(255), known(256)]).toEqual([0, 1]);
  });

  it('count a long request as one', () => {
    const statistics = new HomeStatistics(2, null);
    statistics.learn(kind({ domain: 'code' }), routing([1_000_000, 0], 1_000_000));
    for (let i = 0; i < 7; i++) statistics.learn(kind({ domain: 'code' }), routing([0, 4096], 4096));
    // 0.9 to the power of 7, of the sum of its powers from 0 to 7.
    expect(shares(statistics.preferences(kind({ domain: 'code' })))).toEqual([['domain', 0.08, 0.92]]);
  });

  it('are of the names that a request has, and of no others', () => {
    const sizes = (fields: Partial<RequestKind>) => {
      const statistics = new HomeStatistics(2, null);
      statistics.learn(kind(fields), routing([1000, 0]));
      const found = statistics.preferences(kind(fields)).map(({ reason }) => reason);
      return [...Object.values(statistics.sizes), ...found];
    };
    expect(sizes({})).toEqual([0, 0, 0, 0]);
    expect(sizes({ tenant: 'a' })).toEqual([0, 0, 0, 1, 'tenant']);
    expect(sizes({ domain: 'code' })).toEqual([0, 0, 1, 0, 'domain']);
    expect(sizes({ tenant: 'a', domain: 'code' })).toEqual([0, 1, 1, 1, 'tenant-domain', 'domain', 'tenant']);
    expect(sizes({ points: [1, 2], promptTokens: 128 })).toEqual([2, 0, 0, 0, 'prefix-routing']);
  });

  it('speak first for a beginning that is a quarter of the prompt, and last for a shorter one', () => {
    const statistics = new HomeStatistics(2, null);
    statistics.learn(kind({ domain: 'code', points: [1] }), routing([1000, 0]));
    const reasons = (promptTokens: number) =>
      statistics.preferences(kind({ domain: 'code', points: [1, 2], promptTokens })).map(({ reason }) => reason);
    expect(reasons(4 * bounds.prefixStrideTokens)).toEqual(['prefix-routing', 'domain']);
    expect(reasons(4 * bounds.prefixStrideTokens + 1)).toEqual(['domain', 'prefix-routing']);
  });

  it('look at so many points of a prompt', () => {
    const points = Array.from({ length: bounds.prefixStatisticsPointsMax + 1 }, (_, i) => i);
    const statistics = new HomeStatistics(2, null);
    statistics.learn(kind({ points }), routing([1000, 0]));
    expect(statistics.sizes.prefixes).toBe(bounds.prefixStatisticsPointsMax);
    const found = (known: number[]) => statistics.preferences(kind({ points: known })).length;
    expect(found(points.slice(-2, -1))).toBe(1);
    expect(found(points.slice(-1))).toBe(0);
  });

  it('begin with what the plan says', () => {
    const plan = { domains: new Map([['code', [0.2, 0.8]]]), tenants: new Map([['a', [0.7, 0.3]]]) };
    const statistics = new HomeStatistics(2, plan);
    expect(shares(statistics.preferences(kind({ tenant: 'a', domain: 'code' })))).toEqual([
      ['domain', 0.2, 0.8],
      ['tenant', 0.7, 0.3],
    ]);
  });

  it('forget the least recently used, and keep to their bounds', () => {
    const statistics = new HomeStatistics(2, null);
    for (let i = 0; i <= bounds.homeStatisticsMax; i++) {
      statistics.learn(kind({ tenant: `t${i}`, domain: 'code' }), routing([1000, 0]));
      statistics.preferences(kind({ tenant: 't0' }));
    }
    for (let i = 0; i < bounds.prefixStatisticsMax + 10; i++) statistics.learn(kind({ points: [i] }), routing([1000, 0]));
    expect(statistics.sizes).toEqual({
      prefixes: bounds.prefixStatisticsMax,
      tenantDomains: bounds.homeStatisticsMax,
      domains: 1,
      tenants: bounds.homeStatisticsMax,
    });
    expect(statistics.preferences(kind({ tenant: 't0' }))).toHaveLength(1);
    expect(statistics.preferences(kind({ tenant: 't1' }))).toHaveLength(0);
  });

  it('are nothing on one node', () => {
    const statistics = new HomeStatistics(1, null);
    statistics.learn(kind({ domain: 'code' }), routing([1000]));
    expect(statistics.preferences(kind({ domain: 'code' }))).toEqual([]);
    expect(statistics.sizes.domains).toBe(0);
  });
});

describe('what a plan says about homes', () => {
  const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: 4 }, [
    { name: 'a', node: 0 },
    { name: 'b', node: 1 },
  ]);
  const read = (homes: unknown) => {
    const problems: string[] = [];
    const found = readPlanHomes({ ...plan, provenance: { homes } }, (problem) => problems.push(problem));
    return { domains: [...(found?.domains ?? [])], tenants: [...(found?.tenants ?? [])], problems };
  };

  it('is read', () => {
    const homes = { domains: { code: { tokens: 5, homeShare: [0.25, 0.75] } }, tenants: { a: { homeShare: [1, 0] } } };
    expect(read(homes)).toEqual({ domains: [['code', [0.25, 0.75]]], tenants: [['a', [1, 0]]], problems: [] });
    expect(read(undefined)).toEqual({ domains: [], tenants: [], problems: [] });
  });

  it.each([
    ['homes that are no object', [1], 'provenance.homes is not an object'],
    ['domains that are no object', { domains: 'code' }, 'provenance.homes.domains is not an object'],
    ['tenants that are a list', { tenants: [] }, 'provenance.homes.tenants is not an object'],
    ['too few nodes', { domains: { code: { homeShare: [1] } } }, 'domains: 1 entries are not used'],
    ['a share above 1', { domains: { code: { homeShare: [0, 1.5] } } }, 'domains: 1 entries are not used'],
    ['a share below 0', { domains: { code: { homeShare: [-0.1, 1] } } }, 'domains: 1 entries are not used'],
    ['no number', { domains: { code: { homeShare: [0, null] } } }, 'domains: 1 entries are not used'],
    ['names that no request can have', { domains: { ['x'.repeat(129)]: { homeShare: [0, 1] } } }, 'domains: 1 entries are not used'],
    ['entries that are null', { tenants: { a: null, b: null } }, 'tenants: 2 entries are not used'],
  ])('is left out and told: %s', (_, homes, problem) => {
    const found = read(homes);
    expect([...found.domains, ...found.tenants]).toEqual([]);
    expect(found.problems).toEqual([expect.stringContaining(problem)]);
  });

  it('is used up to the bound of names, each of as many characters as a request may have', () => {
    const name = (i: number) => String(i).padStart(bounds.nameCharsMax, '_');
    const most = Array.from({ length: bounds.homeStatisticsMax + 1 }, (_, i) => [name(i), { homeShare: [0, 1] }]);
    const { domains, problems } = read({ domains: Object.fromEntries(most) });
    expect(domains).toHaveLength(bounds.homeStatisticsMax);
    expect(problems).toEqual(['provenance.homes.domains has 4097 names; the first 4096 are used']);
    expect(read({ domains: Object.fromEntries(most.slice(1)) }).problems).toEqual([]);
  });

  it('may be a promise', () => {
    expect(readPrediction({ ...plan, provenance: { remoteNodes: 0.4, homeShare: 0.7 } })).toEqual({ remoteNodes: 0.4, homeShare: 0.7 });
    expect(readPrediction({ ...plan, provenance: { remoteNodes: 'few', homeShare: 0.7 } })).toBeNull();
    expect(readPrediction({ ...plan, provenance: { remoteNodes: 0.4, homeShare: 1.1 } })).toBeNull();
    expect(readPrediction({ ...plan, provenance: { remoteNodes: -1, homeShare: 0.7 } })).toBeNull();
    expect(readPrediction(plan)).toBeNull();
  });
});

describe('prefix memory', () => {
  const prompt = (start: number, length: number) => Array.from({ length }, (_, i) => start + i);

  it('finds the longest known beginning, for its tenant alone, until the worker is gone', () => {
    const memory = new PrefixMemory();
    memory.remember(prefixPoints('a', prompt(0, 128)), 1);
    memory.remember(prefixPoints('a', prompt(0, 640)), 2);
    const find = (tenant: string, tokens: number[]) => memory.find(prefixPoints(tenant, tokens));
    expect(find('a', [...prompt(0, 640), 9, 9])).toEqual({ worker: 2, tokens: 640 });
    expect(find('a', [...prompt(0, 400), ...prompt(7, 400)])).toEqual({ worker: 2, tokens: 384 });
    expect(find('b', prompt(0, 640))).toBeNull();
    expect(find('a', prompt(0, 63))).toBeNull();
    expect(find('a', prompt(1, 640))).toBeNull();
    memory.forget(2);
    expect(find('a', prompt(0, 640))).toBeNull();
  });

  it('has a point at every 64th token, up to its bound', () => {
    for (const [tokens, points] of [
      [0, 0],
      [63, 0],
      [64, 1],
      [127, 1],
      [128, 2],
      [64 * 256, 256],
      [64 * 257, 256],
    ])
      expect(prefixPoints('a', prompt(0, tokens))).toHaveLength(points);
  });

  it('names points by numbers whose halves come of every token, and of the process', () => {
    const halves = (points: PrefixPoints, tokens: number[]) => {
      const [point] = points.of('a', tokens);
      expect(Number.isSafeInteger(point)).toBe(true);
      return [Math.floor(point / 2 ** 8), point % 2 ** 8];
    };
    const tokens = prompt(0, 64);
    const points = new PrefixPoints([1, 2]);
    expect(halves(new PrefixPoints([1, 2]), tokens)).toEqual(halves(points, tokens));
    const [high, low] = halves(points, tokens);
    for (const [otherHigh, otherLow] of [
      halves(new PrefixPoints([3, 4]), tokens),
      ...[0, 31, 63].map((changed) =>
        halves(
          points,
          tokens.map((token, i) => (i === changed ? 7777 : token)),
        ),
      ),
    ]) {
      expect(otherHigh).not.toBe(high);
      expect(otherLow).not.toBe(low);
    }
    expect(halves(new PrefixPoints(), tokens)).not.toEqual(halves(new PrefixPoints(), tokens));
  });

  it('shares nothing between tenants, however their prompts collide', () => {
    const colliding = new PrefixPoints([1, 2], () => 0xffff_ffff);
    const memory = new PrefixMemory();
    const statistics = new HomeStatistics(2, null);
    const tokens = prompt(0, 64);
    memory.remember(colliding.of('a', tokens), 1);
    statistics.learn(kind({ points: colliding.of('a', tokens) }), routing([900, 100]));
    expect(memory.find(colliding.of('a', prompt(7, 64)))).toEqual({ worker: 1, tokens: 64 });
    expect(statistics.preferences(kind({ points: colliding.of('a', tokens) }))).toHaveLength(1);
    for (const other of ['', 'b', 'A', 'a '].map((tenant) => colliding.of(tenant, tokens))) {
      expect(memory.find(other)).toBeNull();
      expect(statistics.preferences(kind({ points: other }))).toEqual([]);
    }
  });

  it('has names for as many tenants as there may be keys', () => {
    const points = Array.from({ length: bounds.apiKeysMax + 1 }, (_, i) => names.of(`tenant ${i}`, prompt(0, 64))[0]);
    expect(new Set(points).size).toBe(points.length);
    expect(points.every(Number.isSafeInteger)).toBe(true);
  });
});
