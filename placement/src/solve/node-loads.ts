/** Rows that the nodes of one layer serve, each against its fair share: who is fullest, and what a change would make of that. */
export class NodeLoads {
  /** Weighted rows, (nodes). Whoever serves adds to them. */
  readonly rows: Float64Array;
  private readonly share: Float64Array;
  /** The three fullest nodes as of `rank`, -1 where there are fewer: enough to know the fullest of all nodes but two. */
  private readonly fullest = new Int32Array(3);

  /** @param share fair share of each node, (nodes), summing to 1 */
  constructor(share: Float64Array) {
    this.share = share;
    this.rows = new Float64Array(share.length);
  }

  /** Rows over share, with some rows more. */
  pressure(node: number, more = 0): number {
    return (this.rows[node] + more) / this.share[node];
  }

  /** Pressure that a row more puts on a node. */
  pressurePerRow(node: number): number {
    return 1 / this.share[node];
  }

  /** The largest pressure, with some rows more on each node. */
  peak(more: Float64Array | null = null): number {
    let peak = 0;
    for (let n = 0; n < this.rows.length; n++) peak = Math.max(peak, this.pressure(n, more === null ? 0 : more[n]));
    return peak;
  }

  fullestNode(): number {
    let fullest = 0;
    for (let n = 1; n < this.rows.length; n++) if (this.pressure(n) > this.pressure(fullest)) fullest = n;
    return fullest;
  }

  /** Remembers who is fullest, for `exchanged`. Returns the fullest node. */
  rank(): number {
    const { fullest } = this;
    fullest.fill(-1);
    for (let n = 0; n < this.rows.length; n++) {
      let m = n;
      for (let i = 0; i < 3; i++) {
        const held = fullest[i];
        if (held >= 0 && this.pressure(m) <= this.pressure(held)) continue;
        fullest[i] = m;
        if (held < 0) break;
        m = held;
      }
    }
    return fullest[0];
  }

  /** By how much the largest pressure would fall if `fromA` rows went from node a to b and `fromB` rows from b to a; by the loads at the last `rank`. */
  exchanged(a: number, b: number, fromA: number, fromB: number): number {
    const { fullest } = this;
    let others = 0;
    for (let i = 0; i < 3; i++) {
      if (fullest[i] < 0 || fullest[i] === a || fullest[i] === b) continue;
      others = this.pressure(fullest[i]);
      break;
    }
    return this.pressure(fullest[0]) - Math.max(others, this.pressure(a, fromB - fromA), this.pressure(b, fromA - fromB));
  }

  /** The most that `exchanged` answers, whatever goes where. */
  exchangedMax(): number {
    const third = this.fullest[2];
    return this.pressure(this.fullest[0]) - (third < 0 ? 0 : this.pressure(third));
  }
}
