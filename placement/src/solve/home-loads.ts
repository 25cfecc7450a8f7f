import type { HomeBalance } from './balanced-homes.ts';

/** Swaps are tried among so many sequences at most: they are quadratic, and among more there is hardly ever none that can move alone. */
const SWAPPED_MAX = 3000;
/** Candidates of one pair of homes that are looked at before each move, unless none of them helps: the cheapest per token may be too long for what is left to mend. */
const LOOKED_AT = 16;
const EPSILON = 1e-9;

/** Sequences of one home by what a token of theirs costs more at another, least first. */
interface Queue {
  from: number;
  to: number;
  sequences: Int32Array;
  /** Those before have gone. */
  next: number;
}

interface Step {
  /** Cost of each token by which loads come nearer to their limits. */
  rate: number;
  sequence: number;
  to: number;
  /** The sequence that goes the other way, or -1. */
  swap: number;
}

/** Which sequence is at which home, and how much homes may have of them. Costs are (sequences, homes), loads are in tokens. */
export class HomeLoads {
  readonly homeOf: Int32Array;
  readonly load: Float64Array;
  readonly total: number;
  private readonly high: Float64Array;
  private readonly low: Float64Array;
  private readonly homes: number;
  private readonly cost: Float64Array;
  private readonly tokens: ArrayLike<number>;

  constructor(cost: Float64Array, tokens: ArrayLike<number>, { share, tolerance }: HomeBalance) {
    this.cost = cost;
    this.tokens = tokens;
    this.homes = share.length;
    this.homeOf = new Int32Array(tokens.length);
    this.load = new Float64Array(share.length);
    let total = 0;
    for (let s = 0; s < tokens.length; s++) total += tokens[s];
    this.total = total;
    this.high = share.map((part) => part * total * (1 + tolerance));
    this.low = share.map((part) => part * total * (1 - tolerance));
  }

  get within(): boolean {
    return this.load.every((load, h) => load >= this.low[h] && load <= this.high[h]);
  }

  /** Takes the cheapest step that brings loads nearer to their limits until there is none: a sequence moves, or where none can, two of different lengths swap. */
  moveIntoLimits(): void {
    for (;;) {
      if (this.moveAll()) continue;
      const swap = this.tokens.length > SWAPPED_MAX ? null : this.bestSwap();
      if (swap === null) return;
      this.apply(swap);
    }
  }

  /** Moves and swaps that lower the cost and leave loads as near to their limits. */
  improve(): void {
    for (let improved = true, round = 0; improved && round < 20; round++) {
      improved = this.improveByMoves();
      if (this.tokens.length <= SWAPPED_MAX) improved = this.improveBySwaps() || improved;
    }
  }

  /** True if any sequence moved. */
  private moveAll(): boolean {
    const queues = this.queues();
    let moved = false;
    for (;;) {
      const step = this.bestMove(queues, LOOKED_AT) ?? this.bestMove(queues, Number.POSITIVE_INFINITY);
      if (step === null) return moved;
      this.apply(step);
      moved = true;
    }
  }

  /** Of each pair of homes one of which is beyond its limits. */
  private queues(): Queue[] {
    const { homes, homeOf, cost, tokens } = this;
    const members: number[][] = Array.from({ length: homes }, () => []);
    // Those without tokens mend nothing.
    for (let s = 0; s < homeOf.length; s++) if (tokens[s] > 0) members[homeOf[s]].push(s);
    const queues: Queue[] = [];
    const rate = new Float64Array(homeOf.length);
    for (let from = 0; from < homes; from++)
      for (let to = 0; to < homes; to++) {
        if (to === from || (this.beyond(from, 0) === 0 && this.beyond(to, 0) === 0)) continue;
        for (const s of members[from]) rate[s] = (cost[s * homes + to] - cost[s * homes + from]) / tokens[s];
        const sequences = Int32Array.from(members[from]).sort((s, r) => rate[s] - rate[r] || s - r);
        queues.push({ from, to, sequences, next: 0 });
      }
    return queues;
  }

  private bestMove(queues: readonly Queue[], lookedAt: number): Step | null {
    const { homes, homeOf, cost, tokens } = this;
    let best: Step | null = null;
    for (const queue of queues) {
      const { from, to, sequences } = queue;
      if (this.beyond(from, 0) === 0 && this.beyond(to, 0) === 0) continue;
      while (queue.next < sequences.length && homeOf[sequences[queue.next]] !== from) queue.next++;
      for (let at = queue.next, end = Math.min(sequences.length, at + lookedAt); at < end; at++) {
        const s = sequences[at];
        if (homeOf[s] !== from) continue;
        const mended = this.mended(from, to, tokens[s]);
        if (mended <= EPSILON) continue;
        const rate = (cost[s * homes + to] - cost[s * homes + from]) / mended;
        if (best === null || rate < best.rate) best = { rate, sequence: s, to, swap: -1 };
      }
    }
    return best;
  }

  private bestSwap(): Step | null {
    const { homes, homeOf, cost, tokens } = this;
    let best: Step | null = null;
    for (let s = 0; s < homeOf.length; s++)
      for (let r = s + 1; r < homeOf.length; r++) {
        const a = homeOf[s];
        const b = homeOf[r];
        if (a === b || (this.beyond(a, 0) === 0 && this.beyond(b, 0) === 0)) continue;
        const mended = this.mended(a, b, tokens[s] - tokens[r]);
        if (mended <= EPSILON) continue;
        const rate = (cost[s * homes + b] + cost[r * homes + a] - cost[s * homes + a] - cost[r * homes + b]) / mended;
        if (best === null || rate < best.rate) best = { rate, sequence: s, to: b, swap: r };
      }
    return best;
  }

  private improveByMoves(): boolean {
    const { homes, homeOf, cost, tokens } = this;
    let improved = false;
    for (let s = 0; s < homeOf.length; s++)
      for (let to = 0; to < homes; to++) {
        const from = homeOf[s];
        if (to === from || cost[s * homes + to] >= cost[s * homes + from] - EPSILON || this.worsens(from, to, tokens[s])) continue;
        this.move(s, to);
        improved = true;
      }
    return improved;
  }

  private improveBySwaps(): boolean {
    const { homes, homeOf, cost, tokens } = this;
    let improved = false;
    for (let s = 0; s < homeOf.length; s++)
      for (let r = s + 1; r < homeOf.length; r++) {
        const a = homeOf[s];
        const b = homeOf[r];
        if (a === b) continue;
        const gain = cost[s * homes + a] + cost[r * homes + b] - cost[s * homes + b] - cost[r * homes + a];
        if (gain <= EPSILON || this.worsens(a, b, tokens[s] - tokens[r])) continue;
        this.move(s, b);
        this.move(r, a);
        improved = true;
      }
    return improved;
  }

  /** Tokens by which a home with so many more would be beyond its limits. */
  private beyond(home: number, more: number): number {
    const load = this.load[home] + more;
    return Math.max(0, load - this.high[home], this.low[home] - load);
  }

  /** Tokens by which two homes come nearer to their limits if so many go from one to the other. */
  private mended(from: number, to: number, tokens: number): number {
    return this.beyond(from, 0) + this.beyond(to, 0) - this.beyond(from, -tokens) - this.beyond(to, tokens);
  }

  private worsens(from: number, to: number, tokens: number): boolean {
    return this.beyond(from, -tokens) > this.beyond(from, 0) || this.beyond(to, tokens) > this.beyond(to, 0);
  }

  private apply({ sequence, to, swap }: Step): void {
    const from = this.homeOf[sequence];
    this.move(sequence, to);
    if (swap >= 0) this.move(swap, from);
  }

  private move(sequence: number, to: number): void {
    this.load[this.homeOf[sequence]] -= this.tokens[sequence];
    this.load[to] += this.tokens[sequence];
    this.homeOf[sequence] = to;
  }
}
