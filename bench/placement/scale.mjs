// 58 layers x 256 experts x 64 workers on 8 nodes + 64 replicas: time cold and incremental, memory, gap.
import { place, prove } from '@switchyard/placement';
import { syntheticTrace } from './synthetic.mjs';
import { evenTopology } from './topologies.mjs';

const shape = { layers: 58, experts: 256, topK: 8 };
const tokens = Number(process.argv[2] ?? 3000);
const made = performance.now();
const trace = syntheticTrace({ ...shape, tokens });
const topology = evenTopology({ nodes: 8, workersPerNode: 8, expertsPerWorker: Math.ceil((58 * 256 + 58 * 64) / 64) });
console.log(`trace of ${tokens} tokens made in ${((performance.now() - made) / 1000).toFixed(1)} s`);
const replicas = 64 / 256; // 64 replicas in each layer
const timed = async (name, options) => {
  const start = performance.now();
  const cpu = process.cpuUsage();
  const result = await place(trace, topology, {
    replicas, starts: 1, sampleTokens: Number(process.argv[3] ?? 1500), now: () => performance.now(), deadlineMs: start + 8000, ...options,
    onProgress: (p) => console.log(`  ${((performance.now() - start) / 1000).toFixed(2)} s  ${p.stage}  ${p.incumbent.toFixed(4)}`),
  });
  const { score } = result;
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  console.log(`${name}: ${seconds.toFixed(2)} s (cpu ${((user + system) / 1e6).toFixed(2)} s), r ${score.remoteNodes.toFixed(3)}, home ${(100 * score.homeShare).toFixed(1)}%, node peak/mean ${score.nodePeakMean.toFixed(3)}, worker ${score.peakMean.toFixed(3)}, rss ${Math.round(process.resourceUsage().maxRSS / 1024)} MB`);
  return result;
};
const cold = await timed('cold', {});
await timed('incremental', { warmStart: cold.plan, warmRounds: 1 });
if (process.argv[4] === 'no-proof') process.exit(0);
const start = performance.now();
const certificate = prove(cold.plan, cold.cluster, trace, { homes: cold.homes, claims: ['fan-out', 'load'], rounds: 6 });
for (const c of certificate.claims) console.log(`${c.kind}: score ${c.score.toFixed(4)}, bound ${c.bound.toFixed(4)}, gap ${(100 * (c.score / c.bound - 1)).toFixed(1)}%`);
console.log(`proof ${((performance.now() - start) / 1000).toFixed(2)} s`);
