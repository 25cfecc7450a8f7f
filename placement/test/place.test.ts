import type { Plan, Topology } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import {
  baselineNames,
  baselinePlan,
  changedTopology,
  chooseHomes,
  clusterOf,
  defaultPlaceOptions,
  describe as describePlan,
  expertLoads,
  explain,
  exportPlan,
  homesOf,
  NO_EXPERT,
  paretoFront,
  paretoPage,
  place,
  placeLoads,
  predictDecode,
  predictPrefill,
  prove,
  relabelToMatch,
  reweight,
  robustValue,
  scoreFanOut,
  selectSequences,
  slotMap,
  solveChain,
  stageMove,
  thinTokens,
  transitionsOf,
  uncalibratedHost,
  verifyCertificate,
  worthIt,
} from '../src/index.ts';
import { domainsApart, expectValid, gptOssSlice, testTopology, toyTrace, worstDomain } from './slice.ts';

const quick = { starts: 1, sampleTokens: 1500 };

describe('place', () => {
  it('is valid on uneven shapes, in every model, and far better than contiguous', async () => {
    const trace = await gptOssSlice();
    const uneven = testTopology(3, 2, 150);
    uneven.nodes[0].workers.pop();
    uneven.nodes[2].workers[1].expertMemoryBytes = 333_000;
    for (const model of ['fan-out', 'home-rank', 'chain'] as const) {
      const { plan, cluster, score } = await place(trace, uneven, { ...quick, model, replicas: 0.2 });
      expectValid(plan, cluster.slotsOf);
      const contiguous = await baselinePlan('contiguous', trace, uneven);
      if (model !== 'chain')
        expect(score.remoteNodes).toBeLessThan(
          0.75 *
            scoreFanOut(
              trace,
              contiguous.replicas,
              cluster,
              chooseHomes(
                trace,
                plan.replicas.map((l) => Int32Array.from(l, () => 7)),
                cluster,
                { kind: 'whole-sequence' },
                0.1,
              ),
            ).remoteNodes,
        );
    }
  });

  it('gives the same plan for the same seed, and its incumbent when stopped', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(4, 1, 300);
    const [a, b] = [await place(trace, topology, quick), await place(trace, topology, quick)];
    expect(b.plan).toEqual(a.plan);
    const stopped = await place(trace, topology, { ...quick, signal: AbortSignal.abort() });
    expect(stopped.stopped).toBe(true);
    expectValid(stopped.plan, stopped.cluster.slotsOf);
    let calls = 0;
    const late = await place(trace, topology, { ...quick, now: () => calls++, deadlineMs: 40 });
    expect(late.stopped).toBe(true);
    expectValid(late.plan, late.cluster.slotsOf);
  });

  it.each([
    ['all tokens', true],
    ['score', false],
  ])('hears an interrupt in the stage "%s", and says whether it cut the search short', async (interrupted, stopped) => {
    // Longer than what may be looked at after an interrupt, and searched on a few of its tokens.
    const trace = toyTrace({ layers: 8, experts: 8, topK: 2, sequences: 80, tokensEach: 500 });
    const abort = new AbortController();
    const onProgress = ({ stage }: { stage: string }) => {
      if (stage === interrupted) abort.abort();
    };
    const options = { ...quick, sampleTokens: 20, programColumns: 0, signal: abort.signal, onProgress };
    const placed = await place(trace, testTopology(3, 1, 32), options);
    expect(placed.stopped).toBe(stopped);
    expectValid(placed.plan, placed.cluster.slotsOf);
    expect(placed.score.tokens).toBeLessThan(trace.tokens);
    expect(placed.homes.length).toBe(trace.sequences.length);
    // Homes are as even as by the whole trace.
    const tokens = [0, 0, 0];
    for (const home of placed.homes) tokens[home] += 500;
    expect(Math.max(...tokens) / (trace.tokens / 3)).toBeLessThan(1.06);
  });

  it('scores a plan under the names that it is given', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 12, tokensEach: 10 });
    const turned = (plan: Plan): Plan => ({ ...plan, replicas: plan.replicas.map((layer) => layer.map((own) => own.map((w) => 1 - w))) });
    const options = { ...quick, replicas: 0 };
    const own = await place(trace, testTopology(2, 1, 8), options);
    const { plan, cluster, score, affinity, homes } = await place(trace, testTopology(2, 1, 8), { ...options, rename: turned });
    expect(plan.replicas).toEqual(turned(own.plan).replicas);
    expect(describePlan(plan, cluster, trace, defaultPlaceOptions.homeTolerance)).toMatchObject({ plan, score, affinity, homes });
  });

  it('keeps rows on fast links where links are not alike', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(4, 1, 300);
    // Two racks of two nodes; between racks a row takes ten times as long.
    const links = [0, 1, 2, 3].flatMap((from) =>
      [0, 1, 2, 3]
        .filter((to) => to !== from)
        .map((to) => ({ from, to, latency: 1e-5, bandwidth: from >> 1 === to >> 1 ? 1.25e9 : 1.25e8 })),
    );
    const secondsOf = (rows: Float64Array) => rows.reduce((sum, r, i) => sum + r * (Math.floor(i / 4) >> 1 === (i % 4) >> 1 ? 1 : 10), 0);
    const [alike, racks] = [await place(trace, topology, quick), await place(trace, { ...topology, links }, quick)];
    expectValid(racks.plan, racks.cluster.slotsOf);
    expect(secondsOf(racks.score.linkRows)).toBeLessThan(0.95 * secondsOf(alike.score.linkRows));
  });

  it('plans for many nodes, by groups where they are more than 32', async () => {
    const trace = thinTokens(await gptOssSlice(), 250);
    let calls = 0;
    const topology = testTopology(34, 1, 34);
    const { plan, cluster, homes, score, masks } = await place(trace, topology, {
      ...quick,
      replicas: 0.5,
      now: () => calls++,
      deadlineMs: 200,
    });
    expectValid(plan, cluster.slotsOf);
    expect(new Set(plan.replicas.flat(2)).size).toBe(34);
    const contiguous = await baselinePlan('contiguous', trace, topology);
    expect(score.remoteNodes).toBeLessThan(0.95 * scoreFanOut(trace, contiguous.replicas, cluster, homes).remoteNodes);
    const certificate = await prove(plan, cluster, trace, { homes, claims: ['fan-out', 'load'], rounds: 1 });
    expect(verifyCertificate(plan, trace, certificate).checks.filter((check) => !check.ok)).toEqual([]);
    const again = chooseHomes(trace, masks, cluster, { kind: 'whole-sequence' }, 0.1);
    expect(Math.max(...again)).toBeLessThan(34);
    const placement = { plan, cluster, homes, score, masks, affinity: { otherwise: [], domains: {} }, peakPrice: null, stopped: false };
    expect(explain(placement, trace).nodes.map((n) => n.name)[16]).toBe('n32+n33');
    const { plan: moved } = relabelToMatch(plan, contiguous, cluster);
    const staged = await stageMove(contiguous, moved, cluster, trace, homes, {
      expertBytes: topology.expertBytes,
      bytesMax: 40 * topology.expertBytes,
    });
    expect(staged.remoteNodesAfter).toBeLessThanOrEqual(staged.remoteNodesBefore);
  });

  it('starts from a plan that no longer fits', async () => {
    const trace = thinTokens(await gptOssSlice(), 600);
    const { plan } = await place(trace, testTopology(3, 1, 400), { ...quick, replicas: 0.5 });
    const smaller = testTopology(3, 1, 400);
    smaller.nodes[1].workers[0].expertMemoryBytes = 150_000;
    const { plan: next, cluster } = await place(trace, smaller, { ...quick, replicas: 0.2, warmStart: plan, warmRounds: 1 });
    expectValid(next, cluster.slotsOf);
  });

  it('keeps the balance of homes from a warm start, and on tokens that it did not search, however much one node holds', async () => {
    const trace = toyTrace({ layers: 4, experts: 16, topK: 2, sequences: 12, tokensEach: 20 });
    // All at home on the large node would be cheapest.
    const topology = testTopology(2, 1, 60);
    topology.nodes[1].workers[0].expertMemoryBytes = 8000;
    const cold = await place(trace, topology, { ...quick, replicas: 0 });
    const warm = await place(trace, topology, { ...quick, replicas: 0, warmStart: cold.plan });
    const sampled = await place(trace, topology, { ...quick, replicas: 0, sampleTokens: 20 });
    for (const { score } of [cold, warm, sampled]) expect(score.homePeakMean).toBeLessThan(1.05);
  });

  it('says what does not fit', async () => {
    const trace = await gptOssSlice();
    await expect(place(trace, testTopology(2, 1, 300), quick)).rejects.toThrow(
      /memory holds 600 experts, the model has 768 \(24 layers x 32\)/,
    );
    expect(() => clusterOf({ ...testTopology(1, 1, 1), expertBytes: 0 })).toThrow(/expertBytes is 0/);
  });

  it.each<[Parameters<typeof place>[2], string]>([
    [{ starts: 0 }, 'starts is 0, must be in 1..Infinity'],
    [{ replicas: -0.2 }, 'replicas is -0.2, must be in 0..Infinity'],
    [{ replicas: Number.NaN }, 'replicas is NaN'],
    [{ peakMeanMax: Number.NaN }, 'peakMeanMax is NaN, must be in 1..Infinity'],
    [{ homeTolerance: -1 }, 'homeTolerance is -1'],
    [{ remoteRowPrice: Number.NaN }, 'remoteRowPrice is NaN'],
    [{ annealing: 20, remoteNodesMax: 0, replicas: Infinity }, 'remoteNodesMax is 0'],
    [{ remoteNodesMax: 2 }, 'remoteNodesMax is 2, must be Infinity without annealing'],
    [{ model: 'home-rank', annealing: 5, remoteNodesMax: 2 }, 'must be Infinity with the traffic model home-rank'],
    [{ model: 'chain', annealing: 5 }, 'annealing is 5, must be 0 with the traffic model chain'],
    [{ model: 'chain', robust: { kind: 'worst' } }, 'robust is worst, must be mean with the traffic model chain'],
    [{ robust: { kind: 'cvar', share: 2 } }, 'robust.share is 2, must be in 0.000001..1'],
  ])('refuses %o by field', async (options, message) => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
    await expect(place(trace, testTopology(3, 1, 16), { ...quick, ...options })).rejects.toThrow(message);
  });

  it('refuses a trace without tokens, and scores one without choices', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
    const empty = selectSequences(trace, () => false);
    await expect(place(empty, testTopology(3, 1, 16), quick)).rejects.toThrow('the trace has 0 tokens, must be at least 1');
    const none = { ...trace, ids: new Uint16Array(trace.ids.length).fill(NO_EXPERT) };
    const placed = await place(none, testTopology(3, 1, 16), quick);
    expect(placed.score.homeShare).toBe(1);
    expect(explain(placed, none).nodes.map(({ rowShare }) => rowShare)).toEqual([0, 0, 0]);
  });

  it('names the memory that a plan of whole groups may use', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
    const { plan, cluster } = await place(trace, testTopology(3, 1, 16), { ...quick, replicas: 0.2, wholeGroups: 1 });
    expectValid(plan, cluster.slotsOf);
  });

  it('lowers the worst domain when asked to', async () => {
    const trace = domainsApart();
    const topology = testTopology(4, 1, 16);
    const [mean, robust] = [await place(trace, topology, quick), await place(trace, topology, { ...quick, robust: { kind: 'worst' } })];
    expect(worstDomain(robust)).toBeLessThan(0.9 * worstDomain(mean));
    expect(robust.score.remoteNodes).toBeGreaterThan(mean.score.remoteNodes);
    expect(robustValue([1, 2, 3], [1, 1, 2], { kind: 'cvar', share: 0.75 })).toBeCloseTo((2 * 3 + 2) / 3);
  });

  it('weighs a domain that is tiny and far worse than all others by numbers', () => {
    const [common, rare] = reweight([1, 1], [0, 1], [1e4, 1], 1);
    expect(rare).toBeGreaterThan(common);
    expect(1e4 * common + rare).toBeCloseTo(10_001, 6);
  });

  it('lowers the worst domain in rows where only rows count', async () => {
    const trace = toyTrace({ layers: 4, experts: 8, topK: 3, sequences: 12, tokensEach: 10 });
    let told = Number.NaN;
    const { masks, homes } = await place(trace, testTopology(3, 1, 32), {
      model: 'home-rank',
      replicas: 0.25,
      robust: { kind: 'worst' },
      onProgress: ({ stage, incumbent }) => {
        if (stage.startsWith('worst')) told = incumbent;
      },
    });
    const away = { rare: 0, common: 0 };
    const all = { rare: 0, common: 0 };
    for (let t = 0; t < trace.tokens; t++) {
      const domain = trace.sequences[trace.sequenceOf[t]].domain as 'rare' | 'common';
      all[domain] += 4;
      for (let i = 0; i < 12; i++)
        if (((masks[Math.floor(i / 3)][trace.ids[t * 12 + i]] >>> homes[trace.sequenceOf[t]]) & 1) === 0) away[domain]++;
    }
    expect(told).toBeCloseTo(Math.max(away.rare / all.rare, away.common / all.common), 9);
  });

  it('ends the chain model when asked to, by signal and by deadline, and gives the flattest plan', async () => {
    const trace = await gptOssSlice();
    // No placement is perfectly flat, so the search would go on for long.
    const ask = { ...quick, model: 'chain' as const, replicas: 0, peakMeanMax: 1 };
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), 100);
    const interrupted = await place(trace, testTopology(1, 8, 96), { ...ask, signal: abort.signal });
    clearTimeout(timer);
    expect(interrupted.stopped).toBe(true);
    expectValid(interrupted.plan, new Int32Array(8).fill(96));
    let asked = 0;
    const late = await place(trace, testTopology(2, 4, 96), { ...ask, now: () => asked++, deadlineMs: 200 });
    expectValid(late.plan, new Int32Array(8).fill(96));
    expect(asked).toBeLessThan(1000);
  });

  it('gives the same chain plan whether others may run meanwhile or not', async () => {
    const trace = toyTrace({ layers: 4, experts: 8, topK: 1, sequences: 6, tokensEach: 20 });
    const { plan } = await place(trace, testTopology(1, 4, 8), { ...quick, model: 'chain', replicas: 0, peakMeanMax: 1.3 });
    const { partOf } = solveChain(transitionsOf(trace, 'top1'), 4, {
      seed: 2, // of the first node's workers
      sizes: Array.from({ length: 4 }, () => new Int32Array(4).fill(2)),
      peakMeanMax: 1.3,
      starts: 1,
      kicks: 1000,
      stop: () => false,
      onImproved: () => {},
    });
    expect(plan.replicas.flat(2)).toEqual([...partOf]);
  });

  it('balances loads alone', async () => {
    const loads = expertLoads(await gptOssSlice());
    const plan = await placeLoads(loads, testTopology(1, 5, 200), { replicas: 0.25, seed: 1, effort: 200 });
    expectValid(plan, new Int32Array(5).fill(192));
    await expect(placeLoads(loads, testTopology(1, 5, 200), { replicas: -0.2, seed: 1 })).rejects.toThrow(
      'replicas is -0.2, must be in 0..Infinity',
    );
    await expect(placeLoads(loads, testTopology(1, 5, 100), { replicas: 0.25, seed: 1 })).rejects.toThrow(
      /memory holds 500 experts, the model has 768/,
    );
    let asked = 0;
    const stopped = await placeLoads(loads, testTopology(1, 5, 200), { replicas: 0.25, seed: 1, stop: () => asked++ >= 0 });
    expectValid(stopped, new Int32Array(5).fill(192));
    expect(asked).toBeLessThan(100);
  });
});

describe('around a plan', () => {
  it('all baselines are valid plans', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(2, 2, 400);
    for (const name of baselineNames) {
      const plan = await baselinePlan(name, trace, topology, { timeLimitMs: 1000 });
      expectValid(plan, new Int32Array(4).fill(400));
    }
  });

  it('baselines that know equal nodes only refuse others', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 8, tokensEach: 10 });
    const uneven = testTopology(2, 2, 16);
    uneven.nodes[0].workers.push(uneven.nodes[1].workers.pop()!);
    for (const name of ['eplb-hierarchical', 'exflow'] as const)
      await expect(baselinePlan(name, trace, uneven, { timeLimitMs: 500 })).rejects.toThrow(
        'worker 2 is on node 0, must be on 1: nodes of 2 workers each',
      );
  });

  it('prices steps, explains, exports and draws', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(4, 1, 300);
    const placed = await place(trace, topology, quick);
    const { plan, cluster, score } = placed;
    const workload = { trace, replicas: plan.replicas, homes: placed.homes, cluster, topology, host: uncalibratedHost(topology), seed: 1 };
    const faster = { ...workload, topology: changedTopology(topology, { kind: 'link-speed', factor: 10 }) };
    for (const predict of [
      (w: typeof workload) => predictDecode(w, 64).secondsPerStep,
      (w: typeof workload) => predictPrefill(w, 512).seconds,
    ]) {
      expect(predict(faster)).toBeLessThan(predict(workload));
      expect(predict(workload)).toBe(predict(workload));
    }
    const why = explain(placed, trace);
    expect(why.layers.reduce((sum, l) => sum + l.remoteNodes, 0) / 24).toBeCloseTo(score.remoteNodes, 9);
    expect(why.nodes.reduce((sum, n) => sum + n.rowShare, 0)).toBeCloseTo(1, 9);
    // Of a worker twice as fast, as scores are.
    cluster.speedOf[1] = 2;
    const uneven = { ...placed, score: scoreFanOut(trace, plan.replicas, cluster, placed.homes) };
    expect(explain(uneven, trace).layers.reduce((sum, l) => sum + l.peakMean, 0) / 24).toBeCloseTo(uneven.score.peakMean, 9);
    cluster.speedOf[1] = 1;
    const map = slotMap(plan);
    map.forEach((layer, l) => {
      const perWorker = layer.length / 4;
      plan.replicas[l].forEach((own, e) => {
        for (let w = 0; w < 4; w++) expect(layer.slice(w * perWorker, (w + 1) * perWorker).includes(e)).toBe(own.includes(w));
      });
    });
    expect(JSON.parse(exportPlan(plan, 'sglang')).physical_to_logical_map).toEqual(map);
    expect(() => exportPlan(plan, 'sglang', 20)).toThrow('places experts of layer 23; a model of 20 layers');
    expect(exportPlan(plan, 'trtllm')).toMatch(/^num_slots: \d+\n.*\ninitial_global_assignments:\n {2}0: \[/);
    const points = [
      { label: 'a', remoteNodes: 1, peakMean: 1.1, replicas: 0.25, bytesMoved: 5, stopped: false },
      { label: 'b <&>', remoteNodes: 1.2, peakMean: 1.2, replicas: 0.25, bytesMoved: 6, stopped: true },
      { label: 'c', remoteNodes: 1.2, peakMean: 1.0, replicas: 0.25, bytesMoved: 6, stopped: false },
    ];
    expect(paretoFront(points).map((p) => p.label)).toEqual(['a', 'c']);
    expect(paretoPage(points, 'plans')).toContain('<td>b &#60;&#38;&#62; (stopped early)</td>');
    expect(paretoPage(points, 'plans')).toContain('<td>a</td>');
    expect(changedTopology(topology, { kind: 'lose-node', node: 'n1' }).nodes.map((n) => n.name)).toEqual(['n0', 'n2', 'n3']);
    expect(() => changedTopology(topology, { kind: 'lose-node', node: 'x' })).toThrow(/no node is named x/);
  });
});

describe('a cluster that does not exist yet', () => {
  it('has other names for what is added after what was lost', () => {
    const changes = [{ kind: 'add-node' }, { kind: 'lose-node', node: 'n0' }, { kind: 'add-node' }] as const;
    const { nodes } = changes.reduce<Topology>(changedTopology, testTopology(3, 1, 16));
    expect(nodes.map(({ name }) => name)).toEqual(['n1', 'n2', 'added-3', 'added-4']);
  });

  it('has the links of the last node for its copy', () => {
    const link = { bandwidth: 1e8, latency: 1e-3 };
    const slow = { ...testTopology(2, 1, 16), links: [{ from: 0, to: 1, ...link }] };
    expect(changedTopology(slow, { kind: 'add-node' }).links).toEqual([
      { from: 0, to: 1, ...link },
      { from: 0, to: 2, ...link },
    ]);
  });

  it('has links of some speed', () => {
    expect(() => changedTopology(testTopology(2, 1, 16), { kind: 'link-speed', factor: Infinity })).toThrow(
      'link speed factor is Infinity, must be a number above 0',
    );
  });
});

describe('maps of other engines', () => {
  const plan: Plan = {
    format: 'switchyard-plan',
    version: 1,
    model: { type: 'toy', moeLayers: [1, 3], experts: 4 },
    workers: ['a', 'b'].map((name, node) => ({ name, node })),
    replicas: [
      [[0, 1], [0], [1], [1]],
      [[0], [0], [1], [1]],
    ],
    provenance: null,
  };

  it('fill slots with experts that nobody else holds, so that no rows move', () => {
    expect(slotMap(plan)).toEqual([
      [0, 1, 1, 0, 2, 3],
      [0, 1, 0, 2, 3, 2],
    ]);
  });

  it('count as their engine does: all hidden layers, or those of experts', () => {
    const rows = (hiddenLayers?: number) => JSON.parse(exportPlan(plan, 'sglang', hiddenLayers)).physical_to_logical_map;
    const dense = [0, 1, 2, 3, 0, 1];
    expect(rows()).toEqual([dense, slotMap(plan)[0], dense, slotMap(plan)[1]]);
    expect(rows(5)).toEqual([...rows(), dense]);
    expect(JSON.parse(exportPlan(plan, 'vllm')).physical_to_logical_map).toEqual(slotMap(plan));
  });
});

describe('what it is worth', () => {
  it('is measured on the whole trace where no sequence can be held out', async () => {
    const trace = toyTrace({ layers: 2, experts: 8, topK: 2, sequences: 1, tokensEach: 30 });
    const report = await worthIt(trace, testTopology(2, 1, 16), quick, [0]);
    expect(report.heldOutSequences).toBe(0);
    expect(report.levels[0].heldOut.remoteNodes).toBe(report.levels[0].fitted.remoteNodes);
    expect(Object.values(report.now).every(Number.isFinite)).toBe(true);
  });

  it('names no level that there was no time to search, and marks the one that was cut short', async () => {
    const trace = toyTrace({ layers: 4, experts: 8, topK: 2, sequences: 8, tokensEach: 20 });
    let asked = 0;
    const report = await worthIt(trace, testTopology(2, 1, 64), { ...quick, now: () => asked++, deadlineMs: 10 }, [0, 0.5, 1]);
    expect(report.levels.map(({ replicas, stopped }) => ({ replicas, stopped }))).toEqual([{ replicas: 0, stopped: true }]);
    const whole = await worthIt(trace, testTopology(2, 1, 64), quick, [0, 0.5]);
    expect(whole.levels.map((level) => level.stopped)).toEqual([false, false]);
  });
});

describe('homes of a plan', () => {
  it('are, for each domain, what a home on each node would serve there', async () => {
    const trace = await gptOssSlice();
    const topology = testTopology(3, 1, 400);
    const { plan, cluster } = await place(trace, topology, { ...quick, replicas: 0.2 });
    const { domains } = homesOf(trace, plan, cluster);
    expect(plan.provenance?.homes).toEqual({ domains });
    expect(Object.keys(domains).sort()).toEqual([...new Set(trace.sequences.flatMap(({ domain }) => domain ?? []))].sort());
    const layers = trace.moeLayers.length;
    for (const [name, { tokens, homeShare }] of Object.entries(domains)) {
      // The same from the plan's own lists.
      const sequences = trace.sequences.map(({ domain }) => domain === name);
      let counted = 0;
      const held = [0, 0, 0];
      for (let t = 0; t < trace.tokens; t++) {
        if (!sequences[trace.sequenceOf[t]]) continue;
        counted++;
        for (let l = 0; l < layers; l++)
          for (let k = 0; k < trace.topK; k++) {
            const holders = plan.replicas[l][trace.ids[(t * layers + l) * trace.topK + k]];
            for (const node of [0, 1, 2]) if (holders.some((w) => plan.workers[w].node === node)) held[node]++;
          }
      }
      expect(tokens).toBe(counted);
      homeShare.forEach((share, node) => {
        expect(share).toBeCloseTo(held[node] / (counted * layers * trace.topK), 3);
      });
    }
    const best = Object.values(domains).map(({ homeShare }) => Math.max(...homeShare));
    expect(Math.min(...best)).toBeGreaterThan(1 / 3);
  });
});
