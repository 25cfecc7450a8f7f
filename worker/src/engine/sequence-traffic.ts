/**
 * What the rows of one sequence cost the network, summed over its MoE layers: the bill of a request. Counted at its home as rows leave and sums return; a row that
 * is computed again after a preemption is counted again, for it travels again.
 */
export class SequenceTraffic {
  /** (row, MoE layer) pairs that were routed. */
  rows = 0;
  /** Distinct remote nodes that those rows visited: `remoteNodes / rows` is the sequence's `r`. */
  remoteNodes = 0;
  /** (row, expert) pairs, and how many of them were computed on the home's own node. */
  visits = 0;
  homeVisits = 0;
  /** Bytes of frames, dispatched and returned, over links to other nodes and to workers of the home's node. A frame's bytes are shared equally by its rows. */
  interNodeBytes = 0;
  intraNodeBytes = 0;
  /** Of `sampled` (row, expert) pairs, those whose expert each node holds, (nodes); null until one was looked at. Filled by `NodeVisits`. */
  held: Float64Array | null = null;
  sampled = 0;
  /** Rows looked at, all at positions below this one. */
  lookedRows = 0;
  lookedBelow = 0;
}
