/** `ForwardMode` of SGLang, as far as it tells what tokens of one pass belong together. */
export type PassMode = 'extend' | 'decode' | 'other';

/** What a record says of one forward pass of one rank, tokens apart. */
export interface Pass {
  rank: number;
  /** null: not said. */
  mode: PassMode | null;
  /** Tokens of each request of an extending pass, in their order; null: not said. */
  extendLengths: readonly number[] | null;
}

/** SGLang numbers its modes, and writes their names where it writes text. */
export function passMode(value: number | string): PassMode {
  if (value === 1 || value === 'EXTEND') return 'extend';
  return value === 2 || value === 'DECODE' ? 'decode' : 'other';
}

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

/**
 * Tells which sequence each token belongs to. A dump names no requests: in a decoding pass every token is another request's, in an extending one `extendLengths` says
 * where each ends. A request goes on in a later pass of the same rank where a sequence had ended one position before.
 */
export class RequestLinks {
  private sequences = 0;
  /** By rank and last position. */
  private readonly open = new Map<string, Open[]>();
  private readonly passes = new Map<number, number>();

  /**
   * @param refuse makes the error of what is wrong with the pass
   * @returns number of each token's sequence, from 1, (tokens)
   */
  link(pass: Pass, positions: readonly number[], refuse: (problem: string) => Error): Uint32Array {
    const { rank, mode } = pass;
    const seen = 1 + (this.passes.get(rank) ?? 0);
    this.passes.set(rank, seen);
    const sequenceOf = new Uint32Array(positions.length);
    const ended: Open[] = [];
    let from = 0;
    for (let slot = 0; from < positions.length; slot++) {
      const to = this.endOf(from, slot, pass, positions, refuse);
      const before = this.take(rank, positions[from] - 1, slot, mode);
      const sequence = before?.sequence ?? ++this.sequences;
      sequenceOf.fill(sequence, from, to);
      ended.push({ sequence, position: positions[to - 1], slot, seen, decoding: mode === 'decode' });
      from = to;
    }
    for (const end of ended) {
      const key = `${rank} ${end.position}`;
      const list = this.open.get(key);
      if (list === undefined) this.open.set(key, [end]);
      else list.push(end);
    }
    return sequenceOf;
  }

  /** Where the request ends whose tokens begin at `from`. */
  private endOf(
    from: number,
    slot: number,
    { rank, mode, extendLengths }: Pass,
    positions: readonly number[],
    refuse: (problem: string) => Error,
  ): number {
    if (mode === 'decode') return from + 1;
    if (extendLengths !== null && slot < extendLengths.length) {
      const length = extendLengths[slot];
      if (!Number.isInteger(length) || length < 1 || from + length > positions.length)
        throw refuse(
          `extend_seq_lens[${slot}] is ${length}, must be an integer from 1 to the ${positions.length - from} tokens that are left`,
        );
      return from + length;
    }
    // What is left in a mixed pass decodes.
    if (extendLengths !== null) return from + 1;
    let to = from + 1;
    // Where nothing says what kind of pass it is, a token that a sequence of an earlier pass waits for is that one's.
    while (to < positions.length && positions[to] === positions[to - 1] + 1 && !this.open.has(`${rank} ${positions[to] - 1}`)) to++;
    return to;
  }

  /** The sequence that goes on at the position after this one: in the same slot if there is one, else the last that was seen. */
  private take(rank: number, position: number, slot: number, mode: PassMode | null): Open | null {
    const key = `${rank} ${position}`;
    const list = this.open.get(key);
    if (list === undefined) return null;
    // A prompt that begins in the middle continues a prompt, or has its beginning from a cache: never an answer.
    const fits = (one: Open) => mode !== 'extend' || !one.decoding;
    const rankOf = (one: Open) => (one.slot === slot ? Infinity : one.seen);
    const best = list.filter(fits).reduce<Open | null>((most, one) => (most === null || rankOf(one) > rankOf(most) ? one : most), null);
    if (best === null) return null;
    list.splice(list.indexOf(best), 1);
    if (list.length === 0) this.open.delete(key);
    return best;
  }
}
