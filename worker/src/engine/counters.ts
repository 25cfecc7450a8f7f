/** What a worker has done since it started; what `Stats` and the metrics are made of. */
export class Counters {
  steps = 0;
  promptTokens = 0;
  generatedTokens = 0;
  /** Prompt tokens looked up in the prefix cache, and found there. */
  prefixQueries = 0;
  prefixHits = 0;
  preemptions = 0;
  /** Guessed tokens that steps checked, and those that were right. */
  draftTokens = 0;
  draftTokensAccepted = 0;
  /** (row, MoE layer) pairs of this home, and the distinct remote nodes they visited. */
  rowsDispatched = 0;
  remoteNodesVisited = 0;
  /** Rows computed here per expert, for any home. (moeLayers * experts); doubles count exactly to 2^53. */
  readonly expertTokens: Float64Array;
  readonly experts: number;

  constructor(moeLayers: number, experts: number) {
    this.experts = experts;
    this.expertTokens = new Float64Array(moeLayers * experts);
  }

  /** Counts chosen experts, `count` ids of MoE layer `layer`; -1 stands where a row could choose none. */
  addExperts(layer: number, ids: Int32Array, count: number): void {
    const base = layer * this.experts;
    for (let i = 0; i < count; i++) if (ids[i] >= 0) this.expertTokens[base + ids[i]]++;
  }
}
