/**
 * Sets of nodes as 32-bit masks, and the two questions the fan-out model asks of them. A token's experts that its home node does not hold must be covered by
 * other nodes; each such expert is a mask of the nodes that hold it, and a cover is a set of nodes that meets every mask.
 */

/** Nodes that one mask can name; larger clusters are solved as groups of nodes first. */
export const maskNodesMax = 32;

export function popcount(x: number): number {
  let v = x - ((x >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Nodes of every expert as bits, (experts). @param replicas workers of each expert @param nodeOf node of each worker, below `maskNodesMax` */
export function holderMasks(replicas: readonly (readonly number[])[], nodeOf: ArrayLike<number>): Int32Array {
  const masks = new Int32Array(replicas.length);
  for (let e = 0; e < masks.length; e++) for (const w of replicas[e]) masks[e] |= 1 << nodeOf[w];
  return masks;
}

/** What visiting a set of nodes costs from a home: their number, or the sum of their links' prices. @param linkPrice (nodes, nodes) */
export function visitsPrice(set: number, home: number, nodes: number, linkPrice: Float64Array | null): number {
  if (linkPrice === null) return popcount(set);
  let price = 0;
  for (let bits = set; bits !== 0; bits &= bits - 1) price += linkPrice[home * nodes + 31 - Math.clz32(bits & -bits)];
  return price;
}

/**
 * Answers for one list of masks at a time, without allocating. Put the masks in `masks[0..count)`, none zero.
 */
export class NodeCover {
  readonly masks = new Int32Array(32);
  /** Of the last `solveUnion`: nodes that are in at least one smallest cover. */
  union = 0;
  private readonly rest = new Int32Array(32 * 33);

  /** Removes from the list what forced nodes (holders of an expert nobody else holds) already meet. Returns the number left in `rest`. */
  private force(count: number): { forced: number; left: number } {
    let forced = 0;
    for (let i = 0; i < count; i++) {
      const m = this.masks[i];
      if ((m & (m - 1)) === 0) forced |= m;
    }
    let left = 0;
    for (let i = 0; i < count; i++) if ((this.masks[i] & forced) === 0) this.rest[left++] = this.masks[i];
    return { forced, left };
  }

  /** Size of the smallest cover; `union` becomes the set of nodes that appear in any smallest cover. */
  solveUnion(count: number): number {
    const { forced, left } = this.force(count);
    const size = popcount(forced);
    if (left === 0) {
      this.union = forced;
      return size;
    }
    let common = this.rest[0];
    for (let i = 1; i < left; i++) common &= this.rest[i];
    if (common !== 0) {
      this.union = forced | common;
      return size + 1;
    }
    for (let extra = 2; ; extra++) {
      const found = this.unionOfSize(0, left, extra);
      if (found === 0) continue;
      this.union = forced | found;
      return size + extra;
    }
  }

  /** Union of all covers of rest[from..from+left) with exactly `size` nodes, where no smaller one exists; 0 if there is none. */
  private unionOfSize(from: number, left: number, size: number): number {
    if (left === 0) return 0;
    if (size === 1) {
      let common = this.rest[from];
      for (let i = 1; i < left; i++) common &= this.rest[from + i];
      return common;
    }
    let found = 0;
    const next = from + left;
    for (let choices = this.rest[from]; choices !== 0; choices &= choices - 1) {
      const node = choices & -choices;
      let kept = 0;
      for (let i = 0; i < left; i++) if ((this.rest[from + i] & node) === 0) this.rest[next + kept++] = this.rest[from + i];
      const deeper = this.unionOfSize(next, kept, size - 1);
      if (deeper !== 0) found |= node | deeper;
    }
    return found;
  }

  /** The lexicographically smallest of the smallest covers: the one that `chooseReplicas` takes. */
  solveFirst(count: number): number {
    const { forced, left } = this.force(count);
    if (left === 0) return forced;
    let common = this.rest[0];
    let any = this.rest[0];
    for (let i = 1; i < left; i++) {
      common &= this.rest[i];
      any |= this.rest[i];
    }
    if (common !== 0) return forced | (common & -common);
    for (let extra = 2; ; extra++) {
      const found = this.firstOfSize(0, left, any, extra);
      if (found !== 0) return forced | found;
    }
  }

  /** Tries nodes in ascending order, as the rule does. Only nodes after the last one taken are allowed. */
  private firstOfSize(from: number, left: number, allowed: number, size: number): number {
    if (size === 1) {
      let common = allowed;
      for (let i = 0; i < left; i++) common &= this.rest[from + i];
      return common & -common;
    }
    const next = from + left;
    for (let choices = allowed; choices !== 0; ) {
      const node = choices & -choices;
      choices ^= node;
      let kept = 0;
      let dead = false;
      for (let i = 0; i < left; i++) {
        const m = this.rest[from + i];
        if ((m & node) !== 0) continue;
        if ((m & choices) === 0) dead = true;
        this.rest[next + kept++] = m;
      }
      if (dead || kept === left) continue;
      const deeper = this.firstOfSize(next, kept, choices, size - 1);
      if (deeper !== 0) return node | deeper;
    }
    return 0;
  }
}

/**
 * The first smallest covers of one token from every home at once. An expert that one node alone holds forces that node wherever home is, unless home is it, so that
 * little is left to solve for each home. Put the masks of the token's experts in `masks[0..count)`.
 */
export class HomeCovers {
  readonly masks = new Int32Array(32);
  /** Nodes that a token of each home visits, as bits, (nodes). */
  readonly visited: Int32Array;
  /** Experts that each home does not hold, (nodes). */
  readonly rows: Int32Array;
  private readonly cover = new NodeCover();

  constructor(nodes: number) {
    this.visited = new Int32Array(nodes);
    this.rows = new Int32Array(nodes);
  }

  solve(count: number): void {
    const { masks, visited, rows, cover } = this;
    let forced = 0;
    rows.fill(count);
    for (let i = 0; i < count; i++) {
      const m = masks[i];
      if ((m & (m - 1)) === 0) forced |= m;
      for (let bits = m; bits !== 0; bits &= bits - 1) rows[31 - Math.clz32(bits & -bits)]--;
    }
    let open = 0;
    for (let i = 0; i < count; i++) if ((masks[i] & forced) === 0) masks[open++] = masks[i];
    for (let h = 0; h < visited.length; h++) {
      const home = 1 << h;
      let left = 0;
      for (let i = 0; i < open; i++) if ((masks[i] & home) === 0) cover.masks[left++] = masks[i];
      visited[h] = (forced & ~home) | (left === 0 ? 0 : cover.solveFirst(left));
    }
  }
}
