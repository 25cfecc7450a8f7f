import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  chooseHome,
  chooseMove,
  gainMin,
  type HomeCandidate,
  type HomePreference,
  type HomeRules,
  homeReasons,
} from '../src/requests/home-choice.ts';
import { checkedRouting, checkedTraffic } from '../src/requests/traffic.ts';

const nodes = 4;
const candidates: fc.Arbitrary<HomeCandidate[]> = fc.uniqueArray(
  fc.record({
    worker: fc.nat({ max: 20 }),
    node: fc.nat({ max: nodes - 1 }),
    memory: fc.nat({ max: 2 }),
    local: fc.boolean(),
    load: fc.nat({ max: 10 }),
    promptTokens: fc.nat({ max: 300 }),
    cacheUsed: fc.constantFrom(0, 0.2, 1),
    lastChosen: fc.nat(),
  }),
  { selector: (c) => c.worker, minLength: 1, maxLength: 8 },
);
const share = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: nodes, maxLength: nodes });
const preference: fc.Arbitrary<HomePreference> = fc.oneof(
  fc.record({ kind: fc.constant('worker' as const), worker: fc.nat({ max: 20 }), reason: fc.constant('prefix' as const) }),
  fc.record({ kind: fc.constant('nodes' as const), share, reason: fc.constantFrom('domain' as const, 'tenant' as const) }),
);
const preferences = fc.array(preference, { maxLength: 4 });
const rules: fc.Arbitrary<HomeRules> = fc.record({
  slack: fc.record({ sequences: fc.nat({ max: 5 }), promptTokens: fc.nat({ max: 200 }) }),
  filling: fc.record({
    sequences: fc.integer({ min: 1, max: 8 }),
    promptTokens: fc.nat({ max: 400 }),
    cacheUsed: fc.constantFrom(0, 0.25),
    worth: fc.constantFrom(0, 0.25, 1),
  }),
  promptTokens: fc.nat({ max: 100 }),
  maxTokens: fc.integer({ min: 1, max: 200 }),
});
const still = {
  slack: { sequences: 4, promptTokens: 0 },
  filling: { sequences: 1, promptTokens: 512, cacheUsed: 0.25, worth: 0.25 },
  promptTokens: 16,
  maxTokens: 2 ** 20,
};

const sum = (among: readonly HomeCandidate[], of: (c: HomeCandidate) => number) => among.reduce((total, c) => total + of(c), 0);
const sameMemory = (among: readonly HomeCandidate[], { memory }: HomeCandidate) => among.filter((c) => c.memory === memory);

/** Of candidates, those whose memory has others too. */
function fillsBy({ filling, promptTokens }: HomeRules, among: readonly HomeCandidate[]) {
  return (c: HomeCandidate) =>
    sameMemory(among, c).length > 1 &&
    c.load > 0 &&
    c.load < filling.sequences &&
    c.promptTokens + promptTokens <= filling.promptTokens &&
    c.cacheUsed <= filling.cacheUsed;
}

/** Whether a preferred worker has room. */
function limitsOf(among: readonly HomeCandidate[], given: HomeRules) {
  const fills = fillsBy(given, among);
  const least = (some: readonly HomeCandidate[], of: (c: HomeCandidate) => number) => Math.min(...some.map(of));
  const sequencesOf = (c: HomeCandidate) => sum(sameMemory(among, c), ({ load }) => load);
  const tokensOf = (c: HomeCandidate) => sum(sameMemory(among, c), ({ promptTokens }) => promptTokens);
  return (c: HomeCandidate) => {
    const beside = sameMemory(among, c);
    const memoryHasRoom =
      sequencesOf(c) <= least(among, sequencesOf) + given.slack.sequences &&
      tokensOf(c) <= least(among, tokensOf) + given.slack.promptTokens;
    const workerHasRoom =
      c.load <= least(beside, ({ load }) => load) + given.slack.sequences &&
      c.promptTokens <= least(beside, ({ promptTokens }) => promptTokens) + given.slack.promptTokens;
    return memoryHasRoom && (fills(c) || workerHasRoom);
  };
}

/** Of some: of the least busy memory the fullest that is being filled, or else the least busy. */
function bestOf(some: readonly HomeCandidate[], among: readonly HomeCandidate[], given: HomeRules): HomeCandidate {
  const busy = (c: HomeCandidate) => {
    const all = sameMemory(among, c);
    return [
      sum(all, ({ load }) => load),
      sum(all, ({ promptTokens }) => promptTokens),
      Math.max(...all.map(({ lastChosen }) => lastChosen)),
    ];
  };
  const first = [...some].sort((a, b) => {
    const [atA, atB] = [busy(a), busy(b)];
    return atA[0] - atB[0] || atA[1] - atB[1] || atA[2] - atB[2] || a.memory - b.memory;
  })[0];
  const there = some.filter(({ memory }) => memory === first.memory);
  const filling = there.filter(fillsBy(given, among));
  const sign = filling.length > 0 ? -1 : 1;
  return (filling.length > 0 ? filling : there).sort(
    (a, b) => sign * (a.load - b.load) || a.promptTokens - b.promptTokens || a.lastChosen - b.lastChosen || a.worker - b.worker,
  )[0];
}

describe('home choice', () => {
  it('stays within the slack, whatever is preferred, or takes the best', () => {
    fc.assert(
      fc.property(candidates, preferences, rules, (among, preferred, given) => {
        const { worker, reason } = chooseHome(among, preferred, given);
        const chosen = among.find((c) => c.worker === worker)!;
        const best = bestOf(among, among, given);
        expect(limitsOf(among, given)(chosen) || chosen === best).toBe(true);
        if (among.length === 1) expect(reason).toBe('only');
        if (reason === 'filling') expect(fillsBy(given, among)(chosen)).toBe(true);
        if (reason === 'least-loaded') expect(fillsBy(given, among)(chosen)).toBe(false);
        if (reason === 'least-loaded' || (['filling', 'overload'].includes(reason) && !preferred.some(({ kind }) => kind === 'nodes')))
          expect(chosen).toEqual(best);
      }),
    );
  });

  /** Loads of four workers after so many requests for which nothing speaks, none of which has ended. */
  function loadsAfter(requests: number, given: HomeRules, computed: boolean, memories = [0, 0, 0, 0]): number[] {
    const among = [0, 1, 2, 3].map((worker) => ({
      worker,
      node: worker % 2,
      memory: memories[worker],
      local: false,
      load: 0,
      promptTokens: 0,
      cacheUsed: 0,
      lastChosen: 0,
    }));
    for (let turn = 1; turn <= requests; turn++) {
      const home = among[chooseHome(among, [], given).worker];
      home.load++;
      home.lastChosen = turn;
      if (!computed) home.promptTokens += given.promptTokens;
    }
    return among.map(({ load }) => load);
  }

  it('fills one home after the other, then spreads', () => {
    const eight = { ...still, filling: { ...still.filling, sequences: 8 } };
    expect(loadsAfter(3, eight, false)).toEqual([3, 0, 0, 0]);
    expect(loadsAfter(20, eight, false)).toEqual([8, 8, 4, 0]);
    expect(loadsAfter(36, eight, false)).toEqual([9, 9, 9, 9]);
    expect(loadsAfter(6, still, false)).toEqual([2, 2, 1, 1]);
  });

  it('spreads over memories before it fills a home', () => {
    const eight = { ...still, filling: { ...still.filling, sequences: 8 } };
    expect(loadsAfter(6, eight, false, [0, 1, 2, 3])).toEqual([2, 2, 1, 1]);
    expect(loadsAfter(6, eight, false, [0, 0, 2, 2])).toEqual([3, 0, 3, 0]);
    expect(loadsAfter(20, eight, false, [0, 0, 2, 2])).toEqual([8, 2, 8, 2]);
    expect(loadsAfter(9, eight, false, [0, 0, 0, 3])).toEqual([5, 0, 0, 4]);
  });

  it('lets no home be filled in memory that is much busier than others, whatever it promises', () => {
    const given = { ...still, filling: { ...still.filling, sequences: 8 } };
    const among = [5, 0, 1, 0].map((load, worker) => ({
      ...{ worker, node: worker, memory: worker < 2 ? 0 : 2, local: false, load },
      ...{ promptTokens: 0, cacheUsed: 0, lastChosen: 0 },
    }));
    const homeFor = (...share: number[]) => chooseHome(among, [{ kind: 'nodes', share, reason: 'domain' }], given);
    expect(homeFor(0.7, 0.1, 0.1, 0.1)).toEqual({ worker: 0, reason: 'domain', expectedShare: 0.7 });
    among[0].load = 6;
    expect(homeFor(0.7, 0.1, 0.1, 0.1)).toEqual({ worker: 2, reason: 'overload', expectedShare: 0.1 });
  });

  it('fills no home that has prompts to compute, nor one whose cache is used', () => {
    const long = { ...still, filling: { ...still.filling, sequences: 8 }, promptTokens: 400 };
    expect(loadsAfter(6, long, false)).toEqual([2, 2, 1, 1]);
    expect(loadsAfter(6, long, true)).toEqual([6, 0, 0, 0]);
    const among = [0, 1].map((worker) => ({
      worker,
      node: 0,
      memory: 0,
      local: false,
      load: 2 * worker,
      promptTokens: 0,
      cacheUsed: 0.3 * worker,
      lastChosen: 0,
    }));
    expect(chooseHome(among, [], long)).toMatchObject({ worker: 0, reason: 'least-loaded' });
    among[1].cacheUsed = 0.2;
    expect(chooseHome(among, [], long)).toMatchObject({ worker: 1, reason: 'filling' });
  });

  it('does not depend on the order of the candidates', () => {
    const shuffled = candidates.chain((among) => fc.tuple(fc.constant(among), fc.shuffledSubarray(among, { minLength: among.length })));
    fc.assert(
      fc.property(shuffled, preferences, rules, ([among, other], preferred, given) => {
        expect(chooseHome(other, preferred, given)).toEqual(chooseHome(among, preferred, given));
      }),
    );
  });

  it('takes the first preferred worker that has room', () => {
    const workers = fc.array(fc.nat({ max: 20 }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(candidates, workers, preferences, rules, (among, named, more, given) => {
        const first = named.map((worker) => ({ kind: 'worker' as const, worker, reason: 'prefix' as const }));
        const { worker, reason } = chooseHome(among, [...first, ...more], given);
        const fits = limitsOf(among, given);
        const room = named.find((w) => among.some((c) => c.worker === w && fits(c)));
        if (among.length > 1 && room !== undefined) expect([worker, reason]).toEqual([room, 'prefix']);
      }),
    );
  });

  it('by nodes takes the one that is worth most with room, but for gains that are noise; the first preference decides', () => {
    fc.assert(
      fc.property(candidates, share, preferences, rules, (among, shares, more, given) => {
        const { worker, reason, expectedShare } = chooseHome(among, [{ kind: 'nodes', share: shares, reason: 'domain' }, ...more], given);
        if (among.length === 1) return;
        const fits = limitsOf(among, given);
        const chosen = among.find((c) => c.worker === worker)!;
        expect(expectedShare).toBe(shares[chosen.node]);
        const fills = fillsBy(given, among);
        const worthOfFilling = ({ local }: HomeCandidate) =>
          ((local ? 1 : given.filling.worth) * given.maxTokens) / (given.promptTokens + given.maxTokens);
        const worth = (c: HomeCandidate) => shares[c.node] - (!fills(c) && sameMemory(among, c).some(fills) ? worthOfFilling(c) : 0);
        const named = more.flatMap((p) => (p.kind === 'worker' ? [p.worker] : []));
        // Nobody with room on a node that is better by more than noise; within a node, whoever a later preference names comes first.
        for (const node of new Set(among.map((c) => c.node))) {
          const there = among.filter((c) => c.node === node);
          const [first = bestOf(there, among, given)] = named.flatMap((w) => there.filter((c) => c.worker === w && fits(c)));
          if (fits(first)) expect(worth(first)).toBeLessThan(worth(chosen) + gainMin);
        }
        const best = Math.max(...among.map((c) => shares[c.node]));
        if (reason === 'domain' && fills(chosen)) expect(shares[chosen.node]).toBe(best);
      }),
    );
  });

  it('leaves a home that is being filled for a node that promises much more, and joins the one that promises most', () => {
    const given = { ...still, filling: { ...still.filling, sequences: 8 } };
    const among = [2, 1, 0, 0].map((load, worker) => ({
      worker,
      node: worker,
      memory: 0,
      local: false,
      load,
      promptTokens: 0,
      cacheUsed: 0,
      lastChosen: 0,
    }));
    const homeFor = (...share: number[]) => chooseHome(among, [{ kind: 'nodes', share, reason: 'domain' }], given);
    expect(homeFor(0.2, 0.2, 0.5, 0.1)).toEqual({ worker: 2, reason: 'domain', expectedShare: 0.5 });
    expect(homeFor(0.2, 0.3, 0.4, 0.1)).toEqual({ worker: 1, reason: 'filling', expectedShare: 0.3 });
    expect(homeFor(0.2, 0.4, 0.3, 0.1)).toEqual({ worker: 1, reason: 'domain', expectedShare: 0.4 });
    expect(homeFor(0.26, 0.25, 0.24, 0.25)).toEqual({ worker: 0, reason: 'domain', expectedShare: 0.26 });
    expect(homeFor(0.24, 0.25, 0.26, 0.25)).toEqual({ worker: 0, reason: 'filling', expectedShare: 0.24 });
    // Without a network between them nothing that a node promises is worth weights that are read once more.
    const local = among.map((c) => ({ ...c, local: true }));
    const farBetter: HomePreference[] = [{ kind: 'nodes', share: [0.1, 0.1, 0.9, 0.1], reason: 'domain' }];
    expect(chooseHome(among, farBetter, given)).toMatchObject({ worker: 2, reason: 'domain' });
    expect(chooseHome(local, farBetter, given)).toMatchObject({ worker: 0, reason: 'filling' });
    // Of a prompt whose answer is short nearly all rows gain from the better node, and no decode step from the fuller home.
    expect(chooseHome(among, [{ kind: 'nodes', share: [0.2, 0.3, 0.4, 0.1], reason: 'domain' }], { ...given, maxTokens: 4 })).toMatchObject(
      {
        worker: 2,
        reason: 'domain',
      },
    );
  });

  it('takes turns among equals', () => {
    const among = [0, 1, 2].map((worker) => ({
      worker,
      node: 0,
      memory: worker,
      local: false,
      load: 0,
      promptTokens: 0,
      cacheUsed: 0,
      lastChosen: 0,
    }));
    const chosen: number[] = [];
    for (let turn = 1; turn <= 6; turn++) {
      const { worker } = chooseHome(among, [], still);
      among[worker].lastChosen = turn;
      chosen.push(worker);
    }
    expect(chosen).toEqual([0, 1, 2, 0, 1, 2]);
  });

  it('knows the reasons that it gives', () => {
    fc.assert(
      fc.property(candidates, preferences, rules, (among, preferred, given) => {
        expect(homeReasons).toContain(chooseHome(among, preferred, given).reason);
      }),
    );
  });
});

describe('a move after the first chunk', () => {
  it('gains what it must, goes to a worker with room, and never to the node where it is', () => {
    const gains = fc.double({ min: 0.01, max: 1, noNaN: true });
    fc.assert(
      fc.property(candidates, share, gains, rules, fc.nat(), (among, shares, gain, given, pick) => {
        const here = among[pick % among.length];
        const move = chooseMove(among, here.worker, shares, gain, given);
        const fits = limitsOf(among, given);
        const better = among.filter((c) => shares[c.node] - shares[here.node] >= gain && c.node !== here.node);
        if (move === null) {
          // The best of no better node has room, or there is no better node.
          for (const c of better) {
            const same = among.filter(({ node }) => node === c.node);
            expect(fits(bestOf(same, among, given))).toBe(false);
          }
          return;
        }
        const to = among.find(({ worker }) => worker === move.worker)!;
        expect(better).toContain(to);
        expect(fits(to)).toBe(true);
        expect(move.reason).toBe('first-chunk');
      }),
    );
  });
});

describe('figures of workers that cannot be', () => {
  const good = {
    rows: 10,
    remoteNodes: 5,
    visits: 40,
    homeVisits: 30,
    interNodeBytes: 100.5,
    intraNodeBytes: 0,
    routing: { request: 1, sampled: 40, held: [30, 20] },
  };

  it.each([
    ['more remote nodes than there are', { remoteNodes: 11 }],
    ['more visits at home than in all', { homeVisits: 41 }],
    ['bytes that are negative', { interNodeBytes: -1 }],
    ['bytes that are no number', { intraNodeBytes: Number.NaN }],
    ['bytes without end', { intraNodeBytes: Number.POSITIVE_INFINITY }],
  ])('are no bill: %s', (_, changes) => {
    expect(checkedTraffic(good, 2)).toMatchObject({ rows: 10, interNodeBytes: 100.5 });
    expect(checkedTraffic({ ...good, ...changes }, 2)).toBeNull();
    expect(checkedTraffic(undefined, 2)).toBeNull();
  });

  it.each([
    ['other nodes than the plan has', { held: [30, 20, 1] }],
    ['more held than looked at', { held: [41, 20] }],
    ['nothing looked at', { sampled: 0, held: [0, 0] }],
  ])('are no routing: %s', (_, changes) => {
    expect(checkedRouting(good.routing, 2)).toEqual(good.routing);
    expect(checkedRouting({ ...good.routing, ...changes }, 2)).toBeNull();
  });
});
