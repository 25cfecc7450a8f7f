import { popcount } from '../cluster/node-set.ts';
import type { PatternEntries, PatternHistogram } from '../trace/pattern-histogram.ts';

/** Nodes up to which every set of nodes has a bit in a lane of 16: four homes' lanes fill two integers. */
export const fewNodesMax = 4;

const sets = 1 << fewNodesMax;

/** All sets of nodes in the order in which the router's rule prefers them as covers: fewest nodes first, then the one with the lowest numbers. */
const preferred = Array.from({ length: sets }, (_, set) => set).sort((a, b) => popcount(a) - popcount(b) || lowestFirst(a, b));

function lowestFirst(a: number, b: number): number {
  const differ = a ^ b;
  return (a & (differ & -differ)) !== 0 ? -1 : 1;
}

/** Of each lane (bit i: the i-th preferred set will do), the set that is taken. */
const chosenOf = Uint8Array.from({ length: 1 << sets }, (_, lane) => (lane === 0 ? 0 : preferred[31 - Math.clz32(lane & -lane)]));
const sizeOf = Uint8Array.from({ length: sets }, (_, set) => popcount(set));

/** Per mask of holders: which sets serve such an expert from each home; any, if the home itself holds it. Homes 0 and 1 in `low`, 2 and 3 in `high`. */
const low = new Int32Array(sets);
const high = new Int32Array(sets);
/** The node that serves an expert, by (chosen set, holders, home). */
const serverOf = new Uint8Array(sets * sets * fewNodesMax);
for (let mask = 0; mask < sets; mask++) {
  const meets = preferred.reduce((lane, set, i) => ((set & mask) === 0 ? lane : lane | (1 << i)), 0);
  for (let home = 0; home < fewNodesMax; home++) {
    const lane = (mask >>> home) & 1 ? 0xffff : meets;
    (home < 2 ? low : high)[mask] |= lane << (16 * (home & 1));
    for (let set = 0; set < sets; set++) {
      const remote = mask & set;
      serverOf[(set << 6) | (mask << 2) | home] = (mask >>> home) & 1 ? home : 31 - Math.clz32(remote & -remote);
    }
  }
}

/**
 * What a change of one or two experts' holders would do in a layer of at most four nodes, all homes at once: a token's cover is the first set left after an AND over
 * its experts, and the lanes of four homes are combined together. The same answers as serving every token anew, several times faster.
 */
export class FewNodeTrials {
  private readonly histogram: PatternHistogram;
  private readonly topK: number;
  private readonly nodes: number;
  /** Patterns with each expert: lists[start[e]..start[e+1]). */
  private readonly start: Int32Array;
  private readonly lists: Int32Array;
  /** Weighted tokens of each pattern and home, (patterns, 4). */
  private readonly weightOf: Float64Array;
  /** Of the last trial: rows more on each node, (nodes). */
  readonly load = new Float64Array(fewNodesMax);

  constructor(histogram: PatternHistogram, topK: number, experts: number, nodes: number) {
    this.histogram = histogram;
    this.topK = topK;
    this.nodes = nodes;
    this.weightOf = new Float64Array(histogram.patterns * fewNodesMax);
    const { ids, countOf, patterns } = histogram;
    this.start = new Int32Array(experts + 1);
    for (let p = 0; p < patterns; p++) for (let k = 0; k < countOf[p]; k++) this.start[ids[p * topK + k] + 1]++;
    for (let e = 0; e < experts; e++) this.start[e + 1] += this.start[e];
    this.lists = new Int32Array(this.start[experts]);
    const at = this.start.slice();
    for (let p = 0; p < patterns; p++) for (let k = 0; k < countOf[p]; k++) this.lists[at[ids[p * topK + k]]++] = p;
  }

  setEntries(entries: PatternEntries): void {
    this.weightOf.fill(0);
    for (let i = 0; i < entries.count; i++) this.weightOf[entries.patternOf[i] * fewNodesMax + entries.homeOf[i]] = entries.weightOf[i];
  }

  /** Remote nodes more (weighted) if e, and f unless it is below 0, had these holders; `load` says what each node would serve more. */
  trial(maskOf: Int32Array, e: number, maskE: number, f: number, maskF: number): number {
    const { start, lists, load, weightOf, topK, nodes } = this;
    const { ids, countOf } = this.histogram;
    load.fill(0);
    let remoteNodes = 0;
    for (let which = 0; which < (f < 0 ? 1 : 2); which++) {
      const own = which === 0 ? e : f;
      for (let at = start[own]; at < start[own + 1]; at++) {
        const p = lists[at];
        const base = p * topK;
        const count = countOf[p];
        let lowBefore = -1;
        let highBefore = -1;
        let lowAfter = -1;
        let highAfter = -1;
        let counted = false;
        for (let k = 0; k < count; k++) {
          const id = ids[base + k];
          const held = maskOf[id];
          let next = held;
          if (id === e) {
            next = maskE;
            counted = which === 1;
          } else if (id === f) next = maskF;
          lowBefore &= low[held];
          highBefore &= high[held];
          lowAfter &= low[next];
          highAfter &= high[next];
        }
        if (counted) continue;
        for (let h = 0; h < nodes; h++) {
          const weight = weightOf[p * fewNodesMax + h];
          if (weight === 0) continue;
          const shift = (h & 1) << 4;
          const before = chosenOf[((h < 2 ? lowBefore : highBefore) >>> shift) & 0xffff];
          const after = chosenOf[((h < 2 ? lowAfter : highAfter) >>> shift) & 0xffff];
          remoteNodes += weight * (sizeOf[after] - sizeOf[before]);
          for (let k = 0; k < count; k++) {
            const id = ids[base + k];
            const held = maskOf[id];
            const next = id === e ? maskE : id === f ? maskF : held;
            if (before === after && held === next) continue;
            load[serverOf[(before << 6) | (held << 2) | h]] -= weight;
            load[serverOf[(after << 6) | (next << 2) | h]] += weight;
          }
        }
      }
    }
    return remoteNodes;
  }
}
