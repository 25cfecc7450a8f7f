// How much of the gpt-oss-20b trace could be served at home on 4 nodes with +25% replicas, if nothing else mattered, and what balance costs. On counts alone
// (sequence x expert) a placement for given homes is a choice per expert under prices, homes for a given placement an assignment; both in turn, from many starts.
//   node bench/placement/home-share.mjs [starts] [splits]   -> bench/results/placement-home-share.md
import { writeFileSync } from 'node:fs';
import { assignHomes, evenCluster, holdOut, openTrace, scoreFanOut, seededRandom } from '@switchyard/placement';

const [starts, splits] = [process.argv[2] ?? 6, process.argv[3] ?? 2].map(Number);
const { trace } = await openTrace(new URL('./data/gpt-oss-20b.experts.u8.gz', import.meta.url).pathname);
const [nodes, layers, experts, topK] = [4, trace.moeLayers.length, trace.experts, trace.topK];
const width = layers * experts;
const perNode = (1.25 * width) / nodes;
const share = new Float64Array(nodes).fill(1 / nodes);
const holders = Array.from({ length: 1 << nodes }, (_, mask) => Array.from({ length: nodes }, (_, n) => n).filter((n) => (mask >>> n) & 1));

/** Choices of each sequence, (sequences, layers x experts). */
function countsOf(of) {
  const counts = of.sequences.map(() => new Float64Array(width));
  for (let t = 0; t < of.tokens; t++)
    for (let l = 0; l < layers; l++)
      for (let k = 0; k < topK; k++) counts[of.sequenceOf[t]][l * experts + of.ids[(t * layers + l) * topK + k]]++;
  return counts;
}

/** Rows at home, rows of each node, and experts held. Rows of others go to an expert's holders in equal parts. */
function serve(demand, masks) {
  const load = new Float64Array(layers * nodes);
  const held = new Int32Array(nodes);
  let atHome = 0;
  masks.forEach((mask, i) => {
    const l = Math.floor(i / experts);
    let away = 0;
    for (let h = 0; h < nodes; h++) if (((mask >>> h) & 1) === 0) away += demand[h][i];
    for (const h of holders[mask]) {
      atHome += demand[h][i];
      held[h]++;
      load[l * nodes + h] += demand[h][i] + away / holders[mask].length;
    }
  });
  return { atHome, load, held };
}

/** Alternates placement and homes; `peakPrice` is what a row on a node that stands out in its layer costs, in rows at home. */
function coCluster(of, counts, peakPrice, random) {
  const tokens = of.sequences.map((s) => s.tokens);
  const mean = (topK * of.tokens) / nodes;
  let homeOf = Int32Array.from(tokens, () => random.below(nodes));
  const rowPrice = new Float64Array(layers * nodes).fill(peakPrice / nodes);
  const slotPrice = new Float64Array(nodes);
  let best = { value: -Infinity };
  for (let round = 0; round < 40; round++) {
    const demand = Array.from({ length: nodes }, () => new Float64Array(width));
    for (const [s, own] of counts.entries()) for (let i = 0; i < width; i++) demand[homeOf[s]][i] += own[i];
    let masks;
    for (let step = 0, size = round < 2 ? 0.02 : 0.004; step < (round < 2 ? 200 : 60); step++, size *= 0.97) {
      masks = Int32Array.from({ length: width }, (_, i) => {
        const l = Math.floor(i / experts);
        let chosen = { value: -Infinity, mask: 1 };
        for (let mask = 1; mask < 1 << nodes; mask++) {
          let value = 0;
          let away = 0;
          let price = 0;
          for (let h = 0; h < nodes; h++)
            if ((mask >>> h) & 1) {
              value += demand[h][i] * (1 - rowPrice[l * nodes + h]) - slotPrice[h];
              price += rowPrice[l * nodes + h];
            } else away += demand[h][i];
          value -= (away * price) / holders[mask].length;
          if (value > chosen.value) chosen = { value, mask };
        }
        return chosen.mask;
      });
      const { load, held } = serve(demand, masks);
      for (let h = 0; h < nodes; h++) slotPrice[h] += (size * of.tokens * (held[h] - perNode)) / perNode;
      for (let l = 0; l < layers && peakPrice > 0; l++) {
        const own = rowPrice.subarray(l * nodes, (l + 1) * nodes);
        for (let h = 0; h < nodes; h++) own[h] = Math.max(1e-6, own[h]) * Math.exp(40 * size * (load[l * nodes + h] / mean - 1));
        const sum = own.reduce((a, b) => a + b, 0);
        for (let h = 0; h < nodes; h++) own[h] *= peakPrice / sum;
      }
    }
    const cost = new Float64Array(tokens.length * nodes);
    counts.forEach((own, s) => {
      for (let i = 0; i < width; i++) {
        if (own[i] === 0) continue;
        const l = Math.floor(i / experts);
        const away = holders[masks[i]].reduce((sum, h) => sum + rowPrice[l * nodes + h], 0) / holders[masks[i]].length;
        for (let h = 0; h < nodes; h++) cost[s * nodes + h] += own[i] * ((masks[i] >>> h) & 1 ? rowPrice[l * nodes + h] - 1 : away);
      }
    });
    homeOf = assignHomes(cost, tokens, { share, tolerance: 0.045 });
    const value = homeOf.reduce((sum, h, s) => sum - cost[s * nodes + h], 0);
    if (round > 8 && value <= best.value * (1 + 1e-6)) break;
    best = { value, masks };
    const fitted = counts.reduce(
      (sum, own, s) => sum + own.reduce((rows, c, i) => rows + (((masks[i] >>> homeOf[s]) & 1) === 1 ? c : 0), 0),
      0,
    );
    best.fitted = fitted / (of.tokens * layers * topK);
  }
  return best;
}

const lines = [];
for (let split = 1; split <= splits; split++) {
  const { train, test } = holdOut(trace, 0.25, split);
  const [counts, testCounts] = [countsOf(train), countsOf(test)];
  for (const peakPrice of [0, 0.1]) {
    const found = Array.from({ length: starts }, (_, start) => coCluster(train, counts, peakPrice, seededRandom(100 * split + start)));
    const best = found.reduce((a, b) => (b.fitted > a.fitted ? b : a));
    const cost = new Float64Array(test.sequences.length * nodes);
    for (const [s, own] of testCounts.entries())
      for (let i = 0; i < width; i++) for (const h of holders[best.masks[i]]) cost[s * nodes + h] -= own[i];
    const homes = assignHomes(
      cost,
      test.sequences.map((s) => s.tokens),
      { share, tolerance: 0.05 },
    );
    const replicas = Array.from({ length: layers }, (_, l) =>
      Array.from({ length: experts }, (_, e) => holders[best.masks[l * experts + e]]),
    );
    const score = scoreFanOut(test, replicas, evenCluster(nodes, 1, 1.25 * width), homes);
    const spread = [Math.min(...found.map((f) => f.fitted)), best.fitted].map((f) => `${(100 * f).toFixed(2)}%`).join(' to ');
    lines.push(
      `| ${split} | ${peakPrice} | ${spread} | ${(100 * score.homeShare).toFixed(2)}% | ${score.peakMean.toFixed(3)} | ${score.remoteNodes.toFixed(3)} |`,
    );
    console.log(lines.at(-1));
  }
}
writeFileSync(
  new URL('../results/placement-home-share.md', import.meta.url),
  `# What home share alone could be: gpt-oss-20b, 4 nodes, +25% replicas

Command: \`node bench/placement/home-share.mjs ${starts} ${splits}\`. Alternating exact steps on counts, ${starts} random starts each; nothing but home share counts, and the price of peaks.
The best by fit is measured on the held-out quarter, homes chosen by whole sequences within 5% of equal load.

| split | price of peaks | fitted home share, all starts | held out | peak/mean | r |
| --- | --- | --- | --- | --- | --- |
${lines.join('\n')}
`,
);
