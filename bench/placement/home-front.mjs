// The trade-off between home share and remote nodes on the trace of gpt-oss-20b: 4 nodes, +25% replica memory, annealed plans, held-out sequences. One run takes a
// minute or two of one core, so runs are kept: each adds its rows to those in the results, by what it was asked.
//   node bench/placement/home-front.mjs [held out] [split] [annealing] [limit of r]...   -> bench/results/placement-home-front.{json,md}
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { chooseHomes, holdOut, openTrace, place, scoreFanOut } from '@switchyard/placement';
import { evenTopology } from './topologies.mjs';

const [heldOut, split, annealing] = [process.argv[2] ?? 0.25, process.argv[3] ?? 1, process.argv[4] ?? 3000].map(Number);
const limits = process.argv.length > 5 ? process.argv.slice(5).map(Number) : [1.075];
/** Fitted; sequences that were not seen have higher peaks. */
const peakMeanMax = 1.135;
const { trace } = await openTrace(new URL('./data/gpt-oss-20b.experts.u8.gz', import.meta.url).pathname);
const topology = evenTopology({ nodes: 4, workersPerNode: 1, expertsPerWorker: 24 * 32 });
const kept = new URL('../results/placement-home-front.json', import.meta.url);
let rows = existsSync(kept) ? JSON.parse(readFileSync(kept, 'utf8')) : [];
const { train, test } = holdOut(trace, heldOut, split);
for (const limit of limits) {
  const cpu = process.cpuUsage();
  const { plan, masks, cluster, score } = await place(train, topology, {
    replicas: 0.25,
    peakMeanMax,
    remoteRowPrice: 4,
    remoteNodesMax: limit,
    annealing,
    starts: 1,
    seed: split,
  });
  const seconds = process.cpuUsage(cpu).user / 1e6;
  const homes = chooseHomes(test, masks, cluster, { kind: 'whole-sequence' }, 0.05);
  const held = scoreFanOut(test, plan.replicas, cluster, homes);
  const figures = (s) => ({ r: s.remoteNodes, home: s.homeShare, peakMean: s.peakMean, homePeakMean: s.homePeakMean });
  const row = { heldOut, split, annealing, limit, seconds, fitted: figures(score), measured: figures(held) };
  const key = (r) => JSON.stringify([r.heldOut, r.annealing, r.limit, r.split]);
  rows = [...rows.filter((r) => key(r) !== key(row)), row].sort(
    (a, b) => b.heldOut - a.heldOut || a.annealing - b.annealing || a.limit - b.limit || a.split - b.split,
  );
  writeFileSync(kept, `${JSON.stringify(rows, null, 1)}\n`);
  console.log(JSON.stringify(row));
}
const groups = rows.reduce((map, r) => {
  const name = `${r.heldOut} ${r.annealing} ${r.limit}`;
  return map.set(name, [...(map.get(name) ?? []), r]);
}, new Map());
const mean = (own, part, field) => own.reduce((sum, r) => sum + r[part][field], 0) / own.length;
const spread = (own, field, show) => {
  const values = own.map((r) => r.measured[field]);
  return own.length === 1 ? '' : ` (${show(Math.min(...values))} to ${show(Math.max(...values))})`;
};
const percent = (share) => (100 * share).toFixed(2);
const thousandth = (value) => value.toFixed(3);
const table = [...groups.values()].map((own) => {
  const [{ heldOut: share, annealing: effort, limit }] = own;
  return `| ${100 * share}% | ${own.length} | ${effort} | ${limit} | ${percent(mean(own, 'fitted', 'home'))}% at ${thousandth(mean(own, 'fitted', 'r'))} | ${thousandth(mean(own, 'measured', 'r'))}${spread(own, 'r', thousandth)} | ${percent(mean(own, 'measured', 'home'))}%${spread(own, 'home', percent)} | ${thousandth(mean(own, 'measured', 'peakMean'))}${spread(own, 'peakMean', thousandth)} | ${(own.reduce((sum, r) => sum + r.seconds, 0) / own.length).toFixed(0)} |`;
});
writeFileSync(
  new URL('../results/placement-home-front.md', import.meta.url),
  `# Home share against remote nodes: gpt-oss-20b, 4 nodes, +25% replicas, annealed plans

Command: \`node bench/placement/home-front.mjs [held out] [split] [annealing] [limit of r]...\`; runs add up. The limits are of the fit: r <= as given, peak/mean <= ${peakMeanMax}. Measured on
sequences that were held out, homes chosen by whole sequences within 5% of equal load. Means over random splits, in parentheses the least and the most.

| held out | splits | proposals per expert held | limit of r | fitted | r | on home node | peak/mean | seconds of one core |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
${table.join('\n')}
`,
);
