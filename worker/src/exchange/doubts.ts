import type { Lane } from './row-partition.ts';

/** What frames that came back without sums tell of the workers that could be asked next. */
export interface Doubts {
  /** Not asked again. */
  readonly refused: ReadonlySet<number>;
  /** Asked when nobody else is left. */
  readonly suspected: ReadonlySet<number>;
}

export const noDoubts: Doubts = { refused: new Set(), suspected: new Set() };

/**
 * A gateway may have failed for one of its neighbours' sake: which one stands still, or cannot be reached, it says in words only. Whoever does would cost the rows
 * another deadline; what the gateway has itself it may still compute.
 *
 * @param worker that the lane's frame was sent to
 * @param nodeOf (workers)
 */
export function doubtsAfter(doubts: Doubts, lane: Lane, worker: number, nodeOf: Int32Array): Doubts {
  if (lane.worker !== null) return { ...doubts, refused: new Set([...doubts.refused, worker]) };
  const suspected = new Set(doubts.suspected);
  nodeOf.forEach((node, each) => {
    if (node === lane.node && each !== worker) suspected.add(each);
  });
  return { ...doubts, suspected };
}
