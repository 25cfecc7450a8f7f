/** `ForwardMode` of SGLang, as far as it tells what tokens of one pass belong together. */
type PassMode = 'extend' | 'decode' | 'other';

/** What a record says of one forward pass of one rank, tokens apart. */
export interface Pass {
  rank: number;
  /** null: not said. */
  mode: PassMode | null;
  /** Tokens of each request of an extending pass, in their order; null: not said. */
  extendLengths: readonly number[] | null;
}

/** SGLang numbers its modes, and writes their names where it writes text, with the name of the type before them or without. */
export function passMode(value: number | string): PassMode {
  const name = typeof value === 'number' ? value : value.slice(value.lastIndexOf('.') + 1);
  if (name === 1 || name === 'EXTEND') return 'extend';
  return name === 2 || name === 'DECODE' ? 'decode' : 'other';
}

/** Passes of its rank that a sequence may wait to go on. Nothing says that a request has ended. */
const waitMax = 256;

/** A sequence that may go on. */
interface Open {
  sequence: number;
  position: number;
  /** Place of its request in the last pass: requests that go on mostly keep it. */
  slot: number;
  /** Passes of the rank until then. */
  seen: number;
  decoding: boolean;
}

/** What is told of the tokens of a pass. */
interface Linked {
  /** Number of each token's sequence, from 1, (tokens). */
  sequenceOf: Uint32Array;
  /** 1: the token was generated, (tokens). */
  decoding: Uint8Array;
}

/**
 * Tells which sequence each token belongs to. A dump names no requests: in a decoding pass every token is another request's, in an extending one `extendLengths` says
 * where each ends. A request goes on in a later pass of the same rank where a sequence had ended one position before.
 */
export class RequestLinks {
  private sequences = 0;
  /** By rank, and then by last position. */
  private readonly open = new Map<number, Map<number, Open[]>>();
  private readonly passes = new Map<number, number>();

  /**
   * @param positions null: not said. Then nothing tells what goes on, and every request is a sequence of its own
   * @param refuse makes the error of what is wrong with the pass
   */
  link(pass: Pass, positions: readonly number[] | null, tokens: number, refuse: (problem: string) => Error): Linked {
    const { rank, mode, extendLengths } = pass;
    const seen = this.begin(rank);
    const sequenceOf = new Uint32Array(tokens);
    const decodingOf = new Uint8Array(tokens);
    const ended: Open[] = [];
    let from = 0;
    for (let slot = 0; from < tokens; slot++) {
      const decoding = mode === 'decode' || (extendLengths !== null && slot >= extendLengths.length);
      const prompt = !decoding && (mode === 'extend' || extendLengths !== null);
      const before = positions === null ? null : this.take(rank, positions[from] - 1, slot, prompt);
      const to = decoding ? from + 1 : this.endOf(from, slot, pass, positions, tokens, before !== null, refuse);
      const sequence = before?.sequence ?? ++this.sequences;
      sequenceOf.fill(sequence, from, to);
      decodingOf.fill(decoding ? 1 : 0, from, to);
      if (positions !== null) ended.push({ sequence, position: positions[to - 1], slot, seen, decoding });
      from = to;
    }
    for (const end of ended) {
      const list = this.waitingAt(rank, end.position);
      if (list === undefined) this.open.get(rank)!.set(end.position, [end]);
      else list.push(end);
    }
    return { sequenceOf, decoding: decodingOf };
  }

  /** Counts the pass, and forgets now and then who has waited too long. */
  private begin(rank: number): number {
    const seen = 1 + (this.passes.get(rank) ?? 0);
    this.passes.set(rank, seen);
    if (seen === 1) this.open.set(rank, new Map());
    if (seen % waitMax > 0) return seen;
    const open = this.open.get(rank)!;
    for (const [position, list] of open) {
      const waiting = list.filter((one) => this.waits(rank, one));
      if (waiting.length === 0) open.delete(position);
      else open.set(position, waiting);
    }
    return seen;
  }

  private waits(rank: number, { seen }: Open): boolean {
    return this.passes.get(rank)! - seen <= waitMax;
  }

  private waitingAt(rank: number, position: number): Open[] | undefined {
    return this.open.get(rank)!.get(position);
  }

  /** Where the request ends whose tokens begin at `from`. */
  private endOf(
    from: number,
    slot: number,
    { rank, extendLengths }: Pass,
    positions: readonly number[] | null,
    tokens: number,
    goesOn: boolean,
    refuse: (problem: string) => Error,
  ): number {
    if (extendLengths !== null) {
      const length = extendLengths[slot];
      if (!Number.isInteger(length) || length < 1 || from + length > tokens)
        throw refuse(`extend_seq_lens[${slot}] is ${length}, must be an integer from 1 to the ${tokens - from} tokens that are left`);
      return from + length;
    }
    if (positions === null) return tokens;
    let to = from + 1;
    // Where nothing says what kind of pass it is, a token behind one that went on is that of the sequence that waits for it. A new prompt is passed over as one.
    const waitedFor = (position: number) => goesOn && this.waitingAt(rank, position - 1)?.some((one) => this.waits(rank, one)) === true;
    while (to < tokens && positions[to] === positions[to - 1] + 1 && !waitedFor(positions[to])) to++;
    return to;
  }

  /** The sequence that goes on at the position after this one: the last that was seen, and of those of one pass the one in the same slot. */
  private take(rank: number, position: number, slot: number, prompt: boolean): Open | null {
    const list = this.waitingAt(rank, position);
    if (list === undefined) return null;
    // A prompt that begins in the middle continues a prompt, or has its beginning from a cache: never an answer.
    const fits = (one: Open) => this.waits(rank, one) && !(prompt && one.decoding);
    const later = (one: Open, most: Open) => one.seen > most.seen || (one.seen === most.seen && one.slot === slot && most.slot !== slot);
    const best = list.filter(fits).reduce<Open | null>((most, one) => (most === null || later(one, most) ? one : most), null);
    if (best === null) return null;
    list.splice(list.indexOf(best), 1);
    if (list.length === 0) this.open.get(rank)!.delete(position);
    return best;
  }
}
