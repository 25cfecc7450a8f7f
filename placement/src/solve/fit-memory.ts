import { popcount } from '../cluster/node-set.ts';

/** A search over layers, as far as memory is concerned. */
interface Holders {
  readonly layers: readonly LayerHolders[];
  /** Experts that each node could still hold, (nodes); below 0 where it holds too many. */
  readonly free: Int32Array;
  /** Copies that may be added yet; below 0 where there are too many. */
  readonly spare: number;
}

interface LayerHolders {
  /** Nodes that hold each expert, as bits, (experts). */
  readonly maskOf: Int32Array;
  /** Rows that each expert is served on each node, (experts, nodes). */
  readonly served: Float64Array;
  apply(e: number, mask: number, f: number, maskF: number): void;
}

/** Where holders need more memory than there is, or are too many: drops the replicas with fewest rows, then moves such experts to where more replicas make room. */
export function fitMemory(search: Holders): void {
  const { layers, free } = search;
  const nodes = free.length;
  const replicas = new FewestRows(layers, nodes, 2);
  const experts = new FewestRows(layers, nodes, 1);
  const change = (l: number, e: number, mask: number) => {
    layers[l].apply(e, mask, -1, 0);
    replicas.changed(l);
    experts.changed(l);
  };
  const dropReplica = (n: number) => {
    const { l, e } = replicas.on(n);
    if (l < 0) return false;
    change(l, e, layers[l].maskOf[e] & ~(1 << n));
    free[n]++;
    return true;
  };
  for (let n = 0; n < nodes; n++) while (free[n] < 0 && dropReplica(n));
  for (let more = -search.spare; more > 0; more--) {
    const least = Array.from(free, (_, n) => ({ n, rows: replicas.on(n).rows })).reduce((a, b) => (b.rows < a.rows ? b : a));
    if (!dropReplica(least.n)) break;
  }
  for (let n = 0; n < nodes; n++)
    while (free[n] < 0) {
      let to = free.findIndex((f) => f > 0);
      for (let m = 0; to < 0 && m < nodes; m++) if (free[m] >= 0 && dropReplica(m)) to = m;
      if (to < 0) return;
      const { l, e } = experts.on(n);
      change(l, e, 1 << to);
      free[to]--;
      free[n]++;
    }
}

interface Held {
  /** -1: there is none. */
  l: number;
  e: number;
  rows: number;
}

const nothing: Held = { l: -1, e: -1, rows: Infinity };

/** Of the experts with at least so many copies, those that serve fewest rows on each node. Holders change layer by layer, and only layers that changed are looked at again. */
class FewestRows {
  private readonly layers: readonly LayerHolders[];
  private readonly nodes: number;
  private readonly copies: number;
  /** Of each layer on each node, (layers) of (nodes); null: not looked at since the layer changed. */
  private readonly known: (Held[] | null)[];

  constructor(layers: readonly LayerHolders[], nodes: number, copies: number) {
    this.layers = layers;
    this.nodes = nodes;
    this.copies = copies;
    this.known = layers.map(() => null);
  }

  on(node: number): Held {
    let least = nothing;
    for (let l = 0; l < this.layers.length; l++) {
      this.known[l] ??= this.lookAt(l);
      const own = this.known[l]![node];
      if (own.rows < least.rows) least = own;
    }
    return least;
  }

  changed(l: number): void {
    this.known[l] = null;
  }

  private lookAt(l: number): Held[] {
    const { maskOf, served } = this.layers[l];
    const least = new Array<Held>(this.nodes).fill(nothing);
    maskOf.forEach((mask, e) => {
      if (popcount(mask) < this.copies) return;
      for (let bits = mask; bits !== 0; bits &= bits - 1) {
        const n = 31 - Math.clz32(bits & -bits);
        const rows = served[e * this.nodes + n];
        if (rows < least[n].rows) least[n] = { l, e, rows };
      }
    });
    return least;
  }
}
