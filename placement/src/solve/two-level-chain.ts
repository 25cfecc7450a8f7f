import { type Cluster, nodeSlots } from '../cluster/cluster.ts';
import { type Transitions, transitionsOf } from '../score/transitions.ts';
import type { RoutingTrace } from '../trace/routing-trace.ts';
import { chainSteps } from './solve-chain.ts';

export interface TwoLevelChainOptions {
  seed: number;
  peakMeanMax: number;
  starts: number;
  onProgress: (progress: { stage: string; incumbent: number }) => void;
  stop: () => boolean;
  /** Awaited between steps, so that whoever shares the thread can run (and abort). */
  pause: () => Promise<void>;
}

/** Small instances are solved long before. */
const kicksMax = 1000;

/** The chain model on nodes, then on the workers of each node: transitions that stay inside a node matter most, then those that stay on a worker. One copy each. */
export async function placeChain(trace: RoutingTrace, cluster: Cluster, options: TwoLevelChainOptions): Promise<number[][][]> {
  const layers = trace.moeLayers.length;
  const { experts } = trace;
  const transitions = transitionsOf(trace, 'top1');
  const chain = async (w: Transitions, sizes: Int32Array[], parts: number, seed: number) => {
    const steps = chainSteps(w, parts, {
      seed,
      sizes,
      peakMeanMax: options.peakMeanMax,
      starts: options.starts,
      kicks: Math.min(kicksMax, Math.ceil(4_000_000 / (layers * experts * experts))),
      stop: options.stop,
      onImproved: (local) => options.onProgress({ stage: w === transitions ? 'nodes' : 'workers', incumbent: 1 - local }),
    });
    for (;;) {
      const { done, value } = steps.next();
      if (done) return value.partOf;
      await options.pause();
    }
  };
  const nodeOf =
    cluster.nodes === 1
      ? new Int32Array(layers * experts)
      : await chain(transitions, partSizes(layers, experts, nodeSlots(cluster)), cluster.nodes, options.seed);
  const replicas: number[][][] = Array.from({ length: layers }, () => Array.from({ length: experts }, () => []));
  for (let n = 0; n < cluster.nodes; n++) {
    const workers = cluster.workers.map((_, w) => w).filter((w) => cluster.nodeOf[w] === n);
    const members = Array.from({ length: layers }, (_, l) =>
      Array.from({ length: experts }, (_, e) => e).filter((e) => nodeOf[l * experts + e] === n),
    );
    const inside = restrict(transitions, members);
    const slots = Int32Array.from(workers, (w) => cluster.slotsOf[w]);
    const sizes = members.map((list, l) =>
      partSizesOf(
        list.length,
        slots,
        members.slice(0, l).reduce((sum, m) => sum + m.length, 0),
        members.reduce((sum, m) => sum + m.length, 0),
      ),
    );
    const workerOf =
      workers.length === 1 ? new Int32Array(layers * inside.experts) : await chain(inside, sizes, workers.length, options.seed + n + 1);
    members.forEach((list, l) => {
      list.forEach((e, i) => {
        replicas[l][e].push(workers[workerOf[l * inside.experts + i]]);
      });
    });
  }
  fitMemory(replicas, cluster, transitions);
  return replicas;
}

/** Rounding of uneven layers may overfill a worker by an expert or two: those with fewest rows move to workers with room, of the same node if there is one. */
function fitMemory(replicas: number[][][], cluster: Cluster, transitions: Transitions): void {
  const held = new Int32Array(cluster.workers.length);
  for (const [w] of replicas.flat()) held[w]++;
  for (let w = 0; w < held.length; w++)
    while (held[w] > cluster.slotsOf[w]) {
      let best = { rows: Infinity, l: -1, e: -1 };
      replicas.forEach((layer, l) => {
        layer.forEach(([own], e) => {
          const rows = transitions.loads[l * transitions.experts + e];
          if (own === w && rows < best.rows) best = { rows, l, e };
        });
      });
      const roomy = cluster.workers.map((_, v) => v).filter((v) => held[v] < cluster.slotsOf[v]);
      const to = roomy.find((v) => cluster.nodeOf[v] === cluster.nodeOf[w]) ?? roomy[0];
      replicas[best.l][best.e] = [to];
      held[w]--;
      held[to]++;
    }
}

/** Experts per part and layer, in proportion to memory; the fractions carry over from layer to layer. */
function partSizes(layers: number, experts: number, slots: Int32Array): Int32Array[] {
  return Array.from({ length: layers }, (_, l) => partSizesOf(experts, slots, l * experts, layers * experts));
}

function partSizesOf(count: number, slots: Int32Array, before: number, all: number): Int32Array {
  const room = slots.reduce((a, b) => a + b, 0);
  const upTo = (placed: number) => {
    let cumulative = 0;
    return Array.from(slots, (s) => {
      const from = Math.floor((cumulative * placed) / room + 1e-9);
      cumulative += s;
      return Math.floor((cumulative * placed) / room + 1e-9) - from;
    });
  };
  if (before + count > all) throw new RangeError(`partSizes: layer ends at ${before + count} of ${all} experts`);
  const a = upTo(before);
  const b = upTo(before + count);
  const sizes = Int32Array.from(b, (value, p) => value - a[p]);
  // A part may have got ahead by rounding: what it would give back is taken from the largest share instead.
  for (let p = 0; p < sizes.length; p++)
    while (sizes[p] < 0) {
      sizes[sizes.indexOf(sizes.reduce((x, y) => Math.max(x, y), 0))]--;
      sizes[p]++;
    }
  return sizes;
}

/** The transitions among some experts of each layer, padded to equal widths with experts that nobody uses. */
function restrict(w: Transitions, members: number[][]): Transitions {
  const experts = members.reduce((most, list) => Math.max(most, list.length), 0);
  const counts = w.counts.map((full, l) => {
    const part = new Float64Array(experts * experts);
    members[l].forEach((e, i) => {
      members[l + 1].forEach((f, j) => {
        part[i * experts + j] = full[e * w.experts + f];
      });
    });
    return part;
  });
  const loads = new Float64Array(w.layers * experts);
  members.forEach((list, l) => {
    list.forEach((e, i) => {
      loads[l * experts + i] = w.loads[l * w.experts + e];
    });
  });
  return { layers: w.layers, experts, counts, loads };
}
