import type { MoveState, Way } from './move-state.ts';

/** Trials that may follow the end: a fraction of a second, so that what was looked at until then is not lost. */
const trialsAfterEnd = 256;

/** What a stage that copies must gain, in visits of all tokens: less is rounding. */
export const gainMin = 1e-6;

/** What a move allows its stages, and makes of them. */
interface Move {
  /** Before each trial: lets others have their turn. */
  turn: () => Promise<void>;
  /** Time is up. */
  ended: () => boolean;
  /** The bytes suffice. */
  fits: (way: Way) => boolean;
  commit: (way: Way) => void;
}

/** Takes the stage that gains most per byte until none gains. What a commit changes is the gains of the layers that it touched: those are looked at anew. */
export async function takeBestStages(state: MoveState, { turn, ended, fits, commit }: Move): Promise<void> {
  const { replicas } = state;
  const changes = state.wanted();
  const gain = new Float64Array(changes.length);
  const look = (i: number): Way | null => {
    const { layer, expert, worker } = changes[i];
    const way = replicas[layer][expert].includes(worker) ? null : state.chainFrom(changes[i]);
    const all = way === null || !fits(way) ? null : state.gainOf(way);
    gain[i] = way === null || all === null || all < gainMin ? 0 : all / way.adds.length;
    return gain[i] > 0 ? way : null;
  };
  const lookAt = async (list: Iterable<number>) => {
    for (const i of list) {
      await turn();
      if (ended()) return;
      look(i);
    }
  };
  const inLayer: number[][] = replicas.map(() => []);
  for (const [i, { layer }] of changes.entries()) inLayer[layer].push(i);
  await lookAt(changes.keys());
  if (ended()) {
    const byGain = [...changes.keys()].filter((i) => gain[i] > 0).sort((a, b) => gain[b] - gain[a]);
    for (const i of byGain.slice(0, trialsAfterEnd)) {
      const way = look(i);
      if (way !== null) commit(way);
    }
    return;
  }
  const bestOf = (l: number) => inLayer[l].reduce((best, i) => (best < 0 || gain[i] > gain[best] ? i : best), -1);
  const best = Int32Array.from(inLayer, (_, l) => bestOf(l));
  for (let committed = false; ; ) {
    const top = best.reduce((most, i) => (i >= 0 && (most < 0 || gain[i] > gain[most]) ? i : most), -1);
    if (top < 0 || ended()) return;
    if (gain[top] === 0) {
      // A commit in another layer may have made the room that a stage lacked.
      if (!committed) return;
      committed = false;
      await lookAt(inLayer.flat());
      for (let l = 0; l < best.length; l++) best[l] = bestOf(l);
      continue;
    }
    // Room and what can be displaced are shared by all layers, so that a gain may no longer be what it was.
    const stale = gain[top];
    const way = look(top);
    const touched = new Set([changes[top].layer]);
    if (way !== null && gain[top] >= stale - gainMin) {
      commit(way);
      committed = true;
      for (const { layer } of [...way.adds, ...way.drops]) touched.add(layer);
      for (const l of touched) {
        inLayer[l] = inLayer[l].filter((i) => !replicas[l][changes[i].expert].includes(changes[i].worker));
        await lookAt(inLayer[l]);
        if (ended()) return;
      }
    }
    for (const l of touched) best[l] = bestOf(l);
  }
}
